package netbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Changes makes random changes in NetBox: of sites, devices, interfaces, cables, addresses, VLANs, prefixes, tags and journal entries, one
// or several objects in a request, with cascades, many-to-many relations, updates that change nothing, and requests that NetBox refuses and
// rolls back. The changes of a seed are the same in every empty NetBox. It is for one goroutine; several in one NetBox need seeds that
// differ modulo 200, because names and addresses are made from it.
type Changes struct {
	// Interval is the least time between two requests.
	Interval time.Duration
	// Background also makes bulk updates with ?background=true, which the worker does at a later time.
	Background bool
	// Requests are all requests that made changes or tried to.
	Requests []Request

	client  Client
	seed    uint64
	random  *rand.Rand
	objects map[string][]*object // by object type, by age
	number  int                  // of the last name or address
	kinds   map[string]int64     // ids of the device type and role
}

// Request is a request that made changes or tried to.
type Request struct {
	// ID is the request id in webhooks and the change log.
	ID string
	// Kind is as in "create dcim.site", "bulk update ipam.vlan" and "failing bulk create dcim.device".
	Kind    string
	Outcome Outcome
}

// Outcome tells what NetBox did with a request.
type Outcome int

// NetBox made the changes, or rolled all of them back, or leaves them to the worker.
const (
	Committed Outcome = iota
	RolledBack
	Background
)

// object is an object in NetBox.
type object struct {
	kind string
	id   int64
	// within are the objects that this one is deleted with.
	within []*object
	text   string
	// cabled is set for an interface with a cable; ends are the interfaces of a cable.
	cabled bool
	ends   []*object
}

var paths = map[string]string{
	"dcim.site":           "dcim/sites/",
	"dcim.device":         "dcim/devices/",
	"dcim.interface":      "dcim/interfaces/",
	"dcim.cable":          "dcim/cables/",
	"ipam.ipaddress":      "ipam/ip-addresses/",
	"ipam.vlan":           "ipam/vlans/",
	"ipam.prefix":         "ipam/prefixes/",
	"extras.tag":          "extras/tags/",
	"extras.journalentry": "extras/journal-entries/",
}

var (
	creatable = []string{
		"dcim.site", "dcim.device", "dcim.device", "dcim.interface", "ipam.ipaddress", "ipam.ipaddress", "ipam.vlan", "ipam.prefix", "extras.tag",
		"extras.journalentry",
	}
	described = []string{
		"dcim.site", "dcim.device", "dcim.interface", "dcim.interface", "dcim.cable", "ipam.ipaddress", "ipam.vlan", "ipam.prefix", "extras.tag",
	}
	taggable  = []string{"dcim.site", "dcim.device", "dcim.interface", "dcim.cable", "ipam.ipaddress", "ipam.vlan", "ipam.prefix"}
	deletable = []string{
		"dcim.site", "dcim.device", "dcim.interface", "ipam.ipaddress", "ipam.vlan", "ipam.prefix", "extras.tag", "extras.journalentry",
	}
)

// errNone means that a change is not possible yet, because there are too few objects.
var errNone = errors.New("too few objects")

// NewChanges returns the changes of a seed. It makes none.
func NewChanges(client Client, seed uint64) *Changes {
	return &Changes{client: client, seed: seed, random: rand.New(rand.NewPCG(seed, 0)), objects: map[string][]*object{}}
}

// Run makes n requests. It may be called again to continue. After an error the objects of this Changes may differ from NetBox's.
func (c *Changes) Run(ctx context.Context, n int) error {
	for end := len(c.Requests) + n; len(c.Requests) < end; {
		before := len(c.Requests)
		if err := c.step(ctx); err != nil && !errors.Is(err, errNone) {
			return fmt.Errorf("change %d of seed %d: %w", len(c.Requests), c.seed, err)
		}
		if len(c.Requests) == before {
			continue
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(c.Interval):
		}
	}
	return nil
}

// Counts returns the number of requests of each kind.
func (c *Changes) Counts() map[string]int {
	counts := map[string]int{}
	for _, request := range c.Requests {
		counts[request.Kind]++
	}
	return counts
}

// step makes a random change; the first call makes the objects that others need.
func (c *Changes) step(ctx context.Context) error {
	if c.kinds == nil {
		return c.prepare(ctx)
	}
	steps := []struct {
		weight int
		change func(context.Context) error
	}{
		{26, c.create},
		{8, c.createSeveral},
		{14, c.update},
		{6, c.updateSeveral},
		{4, c.updateNothing},
		{8, c.connect},
		{3, c.disconnect},
		{6, c.tag},
		{4, c.tagVLANs},
		{3, c.setPrimaryAddress},
		{8, c.delete},
		{4, c.deleteSeveral},
		{2, c.failCreating},
		{2, c.failUpdating},
		{2, c.updateInBackground},
	}
	var total int
	for _, step := range steps {
		total += step.weight
	}
	choice := c.random.IntN(total)
	for _, step := range steps {
		if choice -= step.weight; choice < 0 {
			return step.change(ctx)
		}
	}
	return nil
}

// prepare makes a device type with two interfaces, and what it needs.
func (c *Changes) prepare(ctx context.Context) error {
	c.kinds = map[string]int64{}
	var manufacturer, deviceType, role struct{ ID int64 }
	name := c.name("base")
	_, err := c.request(ctx, "create dcim.manufacturer", http.MethodPost, "dcim/manufacturers/", slugged(name), &manufacturer)
	if err != nil {
		return err
	}
	body := map[string]any{"manufacturer": manufacturer.ID, "model": name, "slug": name}
	if _, err := c.request(ctx, "create dcim.devicetype", http.MethodPost, "dcim/device-types/", body, &deviceType); err != nil {
		return err
	}
	templates := []map[string]any{
		{"device_type": deviceType.ID, "name": "eth0", "type": "1000base-t"},
		{"device_type": deviceType.ID, "name": "eth1", "type": "1000base-t"},
	}
	_, err = c.request(ctx, "bulk create dcim.interfacetemplate", http.MethodPost, "dcim/interface-templates/", templates, nil)
	if err != nil {
		return err
	}
	if _, err := c.request(ctx, "create dcim.devicerole", http.MethodPost, "dcim/device-roles/", slugged(name), &role); err != nil {
		return err
	}
	c.kinds["device_type"], c.kinds["role"] = deviceType.ID, role.ID
	return nil
}

func (c *Changes) create(ctx context.Context) error {
	kind := pick(c, creatable)
	body, created, err := c.make(kind)
	if err != nil {
		return err
	}
	var answer struct{ ID int64 }
	if _, err := c.request(ctx, "create "+kind, http.MethodPost, paths[kind], body, &answer); err != nil {
		return err
	}
	created.id = answer.ID
	return c.add(ctx, created)
}

func (c *Changes) createSeveral(ctx context.Context) error {
	kind := pick(c, creatable)
	bodies, created, err := c.makeSeveral(kind)
	if err != nil {
		return err
	}
	var answers []struct{ ID int64 }
	if _, err := c.request(ctx, "bulk create "+kind, http.MethodPost, paths[kind], bodies, &answers); err != nil {
		return err
	}
	for i, answer := range answers {
		created[i].id = answer.ID
	}
	return c.add(ctx, created...)
}

// failCreating makes a bulk request whose last object is invalid.
func (c *Changes) failCreating(ctx context.Context) error {
	kind := pick(c, creatable)
	bodies, _, err := c.makeSeveral(kind)
	if err != nil {
		return err
	}
	return c.fail(ctx, "failing bulk create "+kind, http.MethodPost, paths[kind], append(bodies, map[string]any{}))
}

func (c *Changes) update(ctx context.Context) error {
	objects, err := c.some(pick(c, described), 1)
	if err != nil {
		return err
	}
	objects[0].text = c.name("text")
	return c.describe(ctx, "update ", objects[0])
}

func (c *Changes) updateNothing(ctx context.Context) error {
	objects, err := c.some(pick(c, described), 1)
	if err != nil {
		return err
	}
	return c.describe(ctx, "empty update ", objects[0])
}

func (c *Changes) updateSeveral(ctx context.Context) error {
	return c.describeSeveral(ctx, "bulk update ", "")
}

func (c *Changes) updateInBackground(ctx context.Context) error {
	if !c.Background {
		return errNone
	}
	return c.describeSeveral(ctx, "background bulk update ", "?background=true")
}

// failUpdating makes a bulk request whose last object is invalid: a description is of at most 200 characters.
func (c *Changes) failUpdating(ctx context.Context) error {
	objects, err := c.some(pick(c, described), 2)
	if err != nil {
		return err
	}
	body := []map[string]any{
		{"id": objects[0].id, "description": c.name("text")},
		{"id": objects[1].id, "description": strings.Repeat("x", 201)},
	}
	return c.fail(ctx, "failing bulk update "+objects[0].kind, http.MethodPatch, paths[objects[0].kind], body)
}

func (c *Changes) describe(ctx context.Context, kind string, o *object) error {
	_, err := c.request(ctx, kind+o.kind, http.MethodPatch, o.path(), map[string]any{"description": o.text}, nil)
	return err
}

func (c *Changes) describeSeveral(ctx context.Context, kind, query string) error {
	objects, err := c.some(pick(c, described), 2+c.random.IntN(3))
	if err != nil {
		return err
	}
	body := make([]map[string]any, len(objects))
	for i, o := range objects {
		o.text = c.name("text")
		body[i] = map[string]any{"id": o.id, "description": o.text}
	}
	_, err = c.request(ctx, kind+objects[0].kind, http.MethodPatch, paths[objects[0].kind]+query, body, nil)
	return err
}

func (c *Changes) connect(ctx context.Context) error {
	var free []*object
	for _, o := range c.objects["dcim.interface"] {
		if !o.cabled {
			free = append(free, o)
		}
	}
	if len(free) < 2 {
		return errNone
	}
	c.random.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	end := func(o *object) []map[string]any { return []map[string]any{{"object_type": o.kind, "object_id": o.id}} }
	cable := &object{kind: "dcim.cable", ends: free[:2], text: c.name("text")}
	body := map[string]any{"a_terminations": end(free[0]), "b_terminations": end(free[1]), "description": cable.text}
	var answer struct{ ID int64 }
	if _, err := c.request(ctx, "connect dcim.cable", http.MethodPost, paths[cable.kind], body, &answer); err != nil {
		return err
	}
	cable.id = answer.ID
	free[0].cabled, free[1].cabled = true, true
	return c.add(ctx, cable)
}

func (c *Changes) disconnect(ctx context.Context) error {
	cables, err := c.some("dcim.cable", 1)
	if err != nil {
		return err
	}
	if _, err := c.request(ctx, "disconnect dcim.cable", http.MethodDelete, cables[0].path(), nil, nil); err != nil {
		return err
	}
	for _, end := range cables[0].ends {
		end.cabled = false
	}
	c.remove(cables[0])
	return nil
}

// tag replaces the tags of an object.
func (c *Changes) tag(ctx context.Context) error {
	return c.relate(ctx, "tag ", pick(c, taggable), "extras.tag", func(tags []int64) map[string]any {
		bodies := make([]map[string]any, len(tags))
		for i, id := range tags {
			bodies[i] = map[string]any{"id": id}
		}
		return map[string]any{"tags": bodies}
	})
}

// tagVLANs replaces the tagged VLANs of an interface.
func (c *Changes) tagVLANs(ctx context.Context) error {
	return c.relate(ctx, "tag VLANs of ", "dcim.interface", "ipam.vlan", func(vlans []int64) map[string]any {
		return map[string]any{"mode": "tagged", "tagged_vlans": vlans}
	})
}

// relate gives an object up to three related objects.
func (c *Changes) relate(ctx context.Context, change, kind, related string, body func(related []int64) map[string]any) error {
	objects, err := c.some(kind, 1)
	if err != nil {
		return err
	}
	others, err := c.some(related, c.random.IntN(4))
	if err != nil {
		return err
	}
	ids := make([]int64, len(others))
	for i, other := range others {
		ids[i] = other.id
	}
	_, err = c.request(ctx, change+kind, http.MethodPatch, objects[0].path(), body(ids), nil)
	return err
}

// setPrimaryAddress makes an address of one of a device's interfaces its primary address. Its deletion updates the device.
func (c *Changes) setPrimaryAddress(ctx context.Context) error {
	addresses, err := c.some("ipam.ipaddress", 1)
	if err != nil || len(addresses[0].within) == 0 {
		return errNone
	}
	device := addresses[0].within[0].within[0]
	_, err = c.request(ctx, "set address of dcim.device", http.MethodPatch, device.path(), map[string]any{"primary_ip4": addresses[0].id}, nil)
	return err
}

func (c *Changes) delete(ctx context.Context) error {
	objects, err := c.some(pick(c, deletable), 1)
	if err != nil {
		return err
	}
	deleted, err := c.request(ctx, "delete "+objects[0].kind, http.MethodDelete, objects[0].path(), nil, nil)
	if deleted {
		c.remove(objects...)
	}
	return err
}

func (c *Changes) deleteSeveral(ctx context.Context) error {
	kind := pick(c, deletable)
	objects, err := c.some(kind, 2+c.random.IntN(2))
	if err != nil {
		return err
	}
	body := make([]map[string]any, len(objects))
	for i, o := range objects {
		body[i] = map[string]any{"id": o.id}
	}
	deleted, err := c.request(ctx, "bulk delete "+kind, http.MethodDelete, paths[kind], body, nil)
	if deleted {
		c.remove(objects...)
	}
	return err
}

// make returns a new object's body for the API, and the object without its id.
func (c *Changes) make(kind string) (map[string]any, *object, error) {
	name := c.name(strings.ToLower(kind[strings.Index(kind, ".")+1:]))
	created := &object{kind: kind, text: name}
	body := map[string]any{"description": name}
	var on []*object
	var err error
	switch kind {
	case "dcim.site", "extras.tag":
		body["name"], body["slug"] = name, name
	case "dcim.device":
		if on, err = c.some("dcim.site", 1); err == nil {
			body["name"], body["site"], body["device_type"], body["role"] = name, on[0].id, c.kinds["device_type"], c.kinds["role"]
		}
	case "dcim.interface":
		if on, err = c.some("dcim.device", 1); err == nil {
			body["name"], body["device"], body["type"] = name, on[0].id, "1000base-t"
			created.within = on
		}
	case "ipam.ipaddress":
		body["address"] = c.address(30)
		if on, err = c.some("dcim.interface", c.random.IntN(2)); err == nil && len(on) > 0 {
			body["assigned_object_type"], body["assigned_object_id"] = on[0].kind, on[0].id
			created.within = on
		}
	case "ipam.vlan":
		body["name"], body["vid"] = name, 1+c.number%4094
	case "ipam.prefix":
		body["prefix"] = c.address(32)
		if on, err = c.some("ipam.vlan", c.random.IntN(2)); err == nil && len(on) > 0 {
			body["vlan"] = on[0].id
		}
	case "extras.journalentry":
		if on, err = c.some(pick(c, taggable), 1); err == nil {
			body = map[string]any{"assigned_object_type": on[0].kind, "assigned_object_id": on[0].id, "comments": name}
			created.within = on
		}
	}
	return body, created, err
}

// makeSeveral is make for two to four objects.
func (c *Changes) makeSeveral(kind string) (bodies []map[string]any, created []*object, err error) {
	for range 2 + c.random.IntN(3) {
		body, o, err := c.make(kind)
		if err != nil {
			return nil, nil, err
		}
		bodies, created = append(bodies, body), append(created, o)
	}
	return bodies, created, nil
}

// add records created objects, and the interfaces that NetBox made for devices.
func (c *Changes) add(ctx context.Context, created ...*object) error {
	for _, o := range created {
		c.objects[o.kind] = append(c.objects[o.kind], o)
		if o.kind != "dcim.device" {
			continue
		}
		interfaces, err := list[struct{ ID int64 }](ctx, c.client, "dcim/interfaces/", map[string][]string{"device_id": {fmt.Sprint(o.id)}})
		if err != nil {
			return err
		}
		for _, i := range interfaces {
			added := &object{kind: "dcim.interface", id: i.ID, within: []*object{o}}
			c.objects[added.kind] = append(c.objects[added.kind], added)
		}
	}
	return nil
}

// remove forgets deleted objects and all that NetBox deleted with them. A cable stays, with one end.
func (c *Changes) remove(deleted ...*object) {
	for _, kind := range []string{
		"dcim.site", "dcim.device", "dcim.interface", "dcim.cable", "ipam.ipaddress", "ipam.vlan", "ipam.prefix",
		"extras.tag", "extras.journalentry",
	} { // owners first
		c.objects[kind] = slices.DeleteFunc(c.objects[kind], func(o *object) bool {
			gone := slices.Contains(deleted, o) || slices.ContainsFunc(o.within, func(owner *object) bool { return slices.Contains(deleted, owner) })
			if gone && !slices.Contains(deleted, o) {
				deleted = append(deleted, o)
			}
			return gone
		})
	}
}

// request makes a request and records it. NetBox refuses to delete objects that others need: then it returns false.
func (c *Changes) request(ctx context.Context, kind, method, path string, body, out any) (bool, error) {
	id, err := c.client.send(ctx, method, path, body, out)
	outcome := Committed
	switch {
	case strings.HasSuffix(path, "?background=true"):
		outcome = Background
	case method == http.MethodDelete && isStatus(err, http.StatusConflict):
		outcome, kind, err = RolledBack, "refused "+kind, nil
	}
	if err == nil {
		c.Requests = append(c.Requests, Request{ID: id, Kind: kind, Outcome: outcome})
	}
	return outcome == Committed, err
}

// fail makes a request that NetBox must refuse.
func (c *Changes) fail(ctx context.Context, kind, method, path string, body any) error {
	id, err := c.client.send(ctx, method, path, body, nil)
	if err == nil {
		return fmt.Errorf("%s: NetBox accepted it", kind)
	}
	if !isStatus(err, http.StatusBadRequest) {
		return err
	}
	c.Requests = append(c.Requests, Request{ID: id, Kind: kind, Outcome: RolledBack})
	return nil
}

func isStatus(err error, status int) bool {
	refused, ok := errors.AsType[*StatusError](err)
	return ok && refused.Status == status
}

// some returns n random objects of a type, or errNone.
func (c *Changes) some(kind string, n int) ([]*object, error) {
	all := c.objects[kind]
	if len(all) < n {
		return nil, errNone
	}
	some := make([]*object, n)
	for i, at := range c.random.Perm(len(all))[:n] {
		some[i] = all[at]
	}
	return some, nil
}

// name returns a new name, which may be a slug.
func (c *Changes) name(prefix string) string {
	c.number++
	return fmt.Sprintf("%s-%d-%d", prefix, c.seed, c.number)
}

// address returns an address in a network of four addresses that no other object of this Changes has.
func (c *Changes) address(bits int) string {
	n := c.number*4 + 1
	return fmt.Sprintf("10.%d.%d.%d/%d", int(c.seed%200)+n>>16, n>>8&255, n&255, bits)
}

func (o *object) path() string { return fmt.Sprintf("%s%d/", paths[o.kind], o.id) }

func slugged(name string) map[string]any { return map[string]any{"name": name, "slug": name} }

// pick returns a random element.
func pick[T any](c *Changes, from []T) T { return from[c.random.IntN(len(from))] }
