package docs_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	gocmp "github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/yaml"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
	"github.com/netbox-events/netbox-event-operator/internal/outbound"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

// product checks what the rule of a recipe does, against the documentation of the product.
type product struct {
	// deliveries are the recordings in which the rule must match events.
	deliveries []string
	// edit, if not nil, changes the recorded bodies in a second run, where none has a value that the recipe acts on.
	edit *strings.Replacer
	// server is the scheme and host that the rule names. It is empty for a rule without a request. tokens is that of its tokenURL.
	server, tokens string
	// answer checks a request as the product does, and returns its answer.
	answer func(request *http.Request, body []byte, event *v1alpha1.NetBoxEvent) (answer, error)
	// answerGroup is the same for a rule with groups, and has the events of a group.
	answerGroup func(request *http.Request, body []byte, events []*v1alpha1.NetBoxEvent) (answer, error)
	// sizes are those of the groups on which the rule acts.
	sizes []int
	// resource and kind are of the objects that the rule applies. Those that Kubernetes does not have are installed.
	resource schema.GroupVersionResource
	kind     string
	// namespace of the objects, if it is not that of the rule.
	namespace string
	// name returns the name of the object for an event. Without it, the response has the name.
	name func(event *v1alpha1.NetBoxEvent) string
	// isMade means that another program makes the object before the rule acts on an event.
	isMade bool
	// status is what the product writes to the object, which the rule waits for.
	status map[string]any
	// object checks the object that the rule wrote. After a deletion in NetBox there must be none.
	object func(object *unstructured.Unstructured, event *v1alpha1.NetBoxEvent) error
}

const (
	// perRecording limits the events of a kind that a recipe processes in each recording.
	perRecording = 4
	// editedFrom is added to the numbers of edited deliveries.
	editedFrom = 10_000
	// hostileName is a name of an object that products would interpret.
	hostileName = `<!channel> & $CI_JOB_TOKEN $${A} $$(params.a) {{{{workflow.uid}}}} {{{a}}} "q" 'q' [a](https://example.org) \n` + "\n%41=+🚀"
)

// answer is the answer of a product, which the page shows.
type answer struct {
	status int
	body   string
}

// recipe is a section of the page, or a part of one, that ends with a rule.
type recipe struct {
	rule     v1alpha1.NetBoxEventRule
	commands []string // before the rule
	text     string   // of the section
}

// readRecipes returns the recipes by the names of their rules, and the commands that all need.
func readRecipes(t *testing.T) (recipes map[string]*recipe, commands []string) {
	t.Helper()
	content, err := os.ReadFile("recipes.md")
	if err != nil {
		t.Fatal(err)
	}
	recipes = map[string]*recipe{}
	for section := range strings.SplitSeq(string(content), "\n## ") {
		var pending []string
		for _, block := range blocksOf(section) {
			switch text := block.text; block.language {
			case "sh":
				pending = append(pending, text)
			case "yaml":
				parsed := &recipe{commands: pending, text: section}
				if err := yaml.UnmarshalStrict([]byte(text), &parsed.rule); err != nil {
					t.Fatalf("%v in\n%s", err, text)
				}
				if recipes[parsed.rule.Name] != nil {
					t.Errorf("two rules have the name %s", parsed.rule.Name)
				}
				recipes[parsed.rule.Name], pending = parsed, nil
			}
		}
		commands = append(commands, pending...) // of a section without a rule
	}
	return recipes, commands
}

// shell runs commands of the page, in another namespace than netbox.
func shell(t *testing.T, namespace, commands string) {
	t.Helper()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, plane.Kubeconfig(), 0o600); err != nil {
		t.Fatal(err)
	}
	commands = strings.NewReplacer("-n netbox", "-n "+namespace, "=netbox:", "="+namespace+":").Replace(commands)
	command := exec.CommandContext(t.Context(), "sh", "-ec", commands)
	command.Env = []string{"PATH=" + os.Getenv("KUBEBUILDER_ASSETS") + ":/usr/bin:/bin", "HOME=" + t.TempDir(), "KUBECONFIG=" + kubeconfig}
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s in\n%s", err, output, commands)
	}
}

// TestRecipes runs each recipe of the page on recorded deliveries: its commands, its rule, and the requests or objects that the rule makes.
func TestRecipes(t *testing.T) {
	recipes, commands := readRecipes(t)
	if diff := gocmp.Diff(slices.Sorted(maps.Keys(products)), slices.Sorted(maps.Keys(recipes))); diff != "" {
		t.Fatalf("the recipes of the page and the products of the test differ (-test +page):\n%s", diff)
	}
	all, err := deliveries.All()
	if err != nil {
		t.Fatal(err)
	}
	for name, product := range products {
		t.Run(name, func(t *testing.T) {
			run := &recipeRun{recipe: recipes[name], product: product, namespace: plane.Namespace(t)}
			run.install(t, commands)
			if product.server != "" {
				run.serve(t)
			}
			compiled, err := rule.Compile(&run.rule.Spec)
			if err != nil {
				t.Fatal(err)
			}
			runner := newRunner(t)
			recorded := all
			if compiled.Group != nil {
				edit, err := deliveries.BulkEdit(int(compiled.Group.MaxEvents))
				if err != nil {
					t.Fatal(err)
				}
				recorded = append(slices.Clone(all), edit...)
			}
			if product.edit != nil {
				recorded = edited(recorded, product.edit)
			}
			var matched []string
			if compiled.Group != nil {
				matched = run.doGroups(t, runner, compiled, recorded)
			} else {
				matched = run.doEvents(t, runner, compiled, recorded)
			}
			if diff := gocmp.Diff(product.deliveries, matched); diff != "" {
				t.Errorf("recordings in which events match (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAWXLimit checks for which names of devices AWX is to run: those that are a pattern for that host alone.
func TestAWXLimit(t *testing.T) {
	recipes, _ := readRecipes(t)
	compiled, err := rule.Compile(&recipes["awx-device"].rule.Spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		objectType, data string
		want             bool
	}{
		{"dcim.device", `{"id": 1, "name": "leaf-1.example.com"}`, true},
		{"dcim.interface", `{"id": 1, "name": "Ethernet1/1", "device": {"id": 1, "name": "leaf-1"}}`, true},
		{"dcim.device", `{"id": 1, "name": null}`, false},
		{"dcim.device", `{"id": 1, "name": "all"}`, false},
		{"dcim.device", `{"id": 1, "name": "leaf-*"}`, false},
		{"dcim.device", `{"id": 1, "name": "~leaf.*"}`, false},
		{"dcim.device", `{"id": 1, "name": "leaf-1:leaf-2"}`, false},
		{"dcim.device", `{"id": 1, "name": "leaf-1\nleaf-2"}`, false},
		{"dcim.interface", `{"id": 1, "name": "Ethernet1/1", "device": {"id": 1, "name": "leaf-1,!leaf-2"}}`, false},
	} {
		event := &v1alpha1.NetBoxEvent{Spec: v1alpha1.NetBoxEventSpec{Event: "updated", ObjectType: test.objectType, ObjectID: "1"}}
		if err := json.Unmarshal([]byte(test.data), &event.Spec.Data); err != nil {
			t.Fatal(err)
		}
		input, _ := rule.NewGroupInput([]*v1alpha1.NetBoxEvent{event}, "3f9c2a7be1d04c55a1b2", true, time.Now())
		if runs, err := compiled.Actions[0].When.Holds(t.Context(), input); err != nil || runs != test.want {
			t.Errorf("%s: runs %t, %v, want %t", test.data, runs, err, test.want)
		}
	}
}

// edited returns the deliveries, and edited copies of them.
func edited(all []deliveries.Delivery, edit *strings.Replacer) []deliveries.Delivery {
	copies := slices.Clone(all)
	for i := range copies {
		copies[i].N += editedFrom
		copies[i].Body = edit.Replace(copies[i].Body)
	}
	return append(slices.Clone(all), copies...)
}

// recipeRun is the test of one recipe.
type recipeRun struct {
	*recipe
	product   product
	namespace string

	event    *v1alpha1.NetBoxEvent   // that is processed, or the last of the group
	group    []*v1alpha1.NetBoxEvent // nil for a single event
	requests []answer
	problem  error
}

// install runs the commands, creates the rule as it is on the page, and checks that it uses the Secrets that the commands create.
func (r *recipeRun) install(t *testing.T, commands []string) {
	t.Helper()
	if r.isInstalled() {
		installCRD(t, r.product.resource, r.product.kind)
	}
	if r.product.namespace != "" {
		shell(t, r.namespace, "kubectl create namespace "+r.product.namespace)
	}
	if r.rule.Spec.ServiceAccountName != "" {
		r.commands = append(slices.Clone(commands), r.commands...)
	}
	for _, command := range r.commands {
		shell(t, r.namespace, command)
	}
	if r.rule.Spec.ServiceAccountName != "" {
		r.awaitRights(t)
	}
	r.rule.Namespace = r.namespace
	if err := plane.Client.Create(t.Context(), &r.rule, client.FieldValidation("Strict")); err != nil {
		t.Fatal(err)
	}
	var secrets corev1.SecretList
	if err := plane.Client.List(t.Context(), &secrets, client.InNamespace(r.namespace)); err != nil {
		t.Fatal(err)
	}
	var made, used []string
	for _, secret := range secrets.Items {
		for key := range secret.Data {
			made = append(made, secret.Name+"/"+key)
		}
	}
	for _, secret := range r.rule.Spec.Secrets {
		used = append(used, secret.SecretKeyRef.Name+"/"+secret.SecretKeyRef.Key)
	}
	for _, spec := range r.rule.Spec.Actions {
		if spec.HTTP != nil && spec.HTTP.Auth != nil {
			used = append(used, authenticatedBy(spec.HTTP.Auth)...)
		}
	}
	slices.Sort(made)
	slices.Sort(used)
	used = slices.Compact(used)
	if diff := gocmp.Diff(made, used); diff != "" {
		t.Errorf("Secrets (-commands +rule):\n%s", diff)
	}
}

// authenticatedBy returns the entries of Secrets that an authentication needs.
func authenticatedBy(auth *v1alpha1.HTTPAuth) []string {
	if auth.Basic != nil {
		return []string{auth.Basic.SecretRef.Name + "/username", auth.Basic.SecretRef.Name + "/password"}
	}
	return []string{auth.OAuth2.ClientSecretRef.Name + "/" + auth.OAuth2.ClientSecretRef.Key}
}

// awaitRights waits until the API server has taken note of the rights of the rule's service account, which may last a moment.
func (r *recipeRun) awaitRights(t *testing.T) {
	t.Helper()
	verb := "patch"
	if r.rule.Spec.Actions[0].Apply.Operation == v1alpha1.OperationDelete {
		verb = "delete"
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: "system:serviceaccount:" + r.namespace + ":" + r.rule.Spec.ServiceAccountName,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: cmp.Or(r.product.namespace, r.namespace), Group: r.product.resource.Group, Resource: r.product.resource.Resource, Verb: verb,
			},
		}}
		if plane.Create(t, review); review.Status.Allowed {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the commands do not permit %s to %s %s", r.rule.Spec.ServiceAccountName, verb, r.product.resource.Resource)
		}
	}
}

// serve starts the product's server, and has the rule send its requests to it: nothing but the scheme and host of URLs changes, in the rule
// or in the Secret that holds one.
func (r *recipeRun) serve(t *testing.T) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		given := answer{status: http.StatusBadRequest}
		switch {
		case err != nil:
		case r.group != nil:
			given, err = r.product.answerGroup(request, body, r.group)
		default:
			given, err = r.product.answer(request, body, r.event)
		}
		if err != nil {
			r.problem = errors.Join(r.problem, fmt.Errorf("%w in %s %s %v\n%s", err, request.Method, request.URL, request.Header, body))
			given.status = http.StatusBadRequest
		}
		r.requests = append(r.requests, given)
		if strings.HasPrefix(given.body, "{") {
			writer.Header().Set("Content-Type", "application/json")
		}
		writer.WriteHeader(given.status)
		_, _ = io.WriteString(writer, given.body)
	}))
	t.Cleanup(server.Close)
	replaced := 0
	replace := func(text, from string) string {
		rest, found := strings.CutPrefix(text, from+"/")
		if found {
			replaced++
			return server.URL + "/" + rest
		}
		return text
	}
	for _, spec := range r.rule.Spec.Actions {
		spec.HTTP.URL = replace(spec.HTTP.URL, r.product.server)
		if auth := spec.HTTP.Auth; auth != nil && auth.OAuth2 != nil {
			auth.OAuth2.TokenURL = replace(auth.OAuth2.TokenURL, r.product.tokens)
		}
	}
	var secrets corev1.SecretList
	if err := plane.Client.List(t.Context(), &secrets, client.InNamespace(r.namespace)); err != nil {
		t.Fatal(err)
	}
	for _, secret := range secrets.Items {
		for key, value := range secret.Data {
			secret.Data[key] = []byte(replace(string(value), r.product.server))
		}
		if err := plane.Client.Update(t.Context(), &secret); err != nil {
			t.Fatal(err)
		}
	}
	if replaced == 0 {
		t.Fatalf("the rule sends nothing to %s", r.product.server)
	}
}

func (r *recipeRun) isMirror() bool {
	apply := r.rule.Spec.Actions[0].Apply
	return apply != nil && apply.Operation == v1alpha1.OperationMirror
}

// forget deletes the objects of a recording: those of the next one have the same names.
func (r *recipeRun) forget(t *testing.T) {
	t.Helper()
	object := r.newObject(r.product.kind, "")
	if err := plane.Client.DeleteAllOf(t.Context(), object, client.InNamespace(object.GetNamespace())); err != nil {
		t.Fatal(err)
	}
}

// doEvents executes the rule for some recorded events, and returns the recordings in which events match.
func (r *recipeRun) doEvents(t *testing.T, runner *action.Runner, compiled *rule.Rule, recorded []deliveries.Delivery) (matched []string) {
	t.Helper()
	done := map[string]int{}
	for i, delivery := range recorded {
		if r.isMirror() && i > 0 && delivery.File != recorded[i-1].File {
			r.forget(t)
		}
		event := r.eventOf(delivery)
		if event == nil {
			continue
		}
		input := rule.NewInput(event, event.Spec.Timestamp.Time)
		if ok, err := compiled.Match(t.Context(), event, input); err != nil || !ok {
			if err == nil && r.isMirror() && slices.Contains(r.rule.Spec.Match.ObjectTypes, event.Spec.ObjectType) {
				r.do(t, runner, compiled, action.Task{Event: event, Input: input, IsRemoval: true})
			}
			continue
		}
		if !slices.Contains(matched, delivery.File) {
			matched = append(matched, delivery.File)
		}
		if r.rule.Spec.Limit.Key != "" && compiled.LimitKey(t.Context(), input) == "" {
			t.Errorf("%s has no key of the limit", event.Name)
		}
		if key := delivery.File + event.Spec.Event; done[key] < perRecording {
			done[key]++
			r.do(t, runner, compiled, action.Task{Event: event, Input: input})
		}
		if len(matched) == 1 && done["hostile"] == 0 {
			done["hostile"]++
			hostile := hostileEvent(event)
			r.do(t, runner, compiled, action.Task{Event: hostile, Input: rule.NewInput(hostile, event.Spec.Timestamp.Time)})
		}
	}
	slices.Sort(matched)
	return matched
}

// eventOf returns the event of a delivery, nil for one that is not stored.
func (r *recipeRun) eventOf(delivery deliveries.Delivery) *v1alpha1.NetBoxEvent {
	event, err := delivery.Event(r.namespace, deliveries.Redact)
	if err != nil {
		return nil
	}
	event.UID = types.UID(event.Name)
	event.Spec.SourceRef.Name = delivery.File // ids are of one recording
	return event
}

func hostileEvent(event *v1alpha1.NetBoxEvent) *v1alpha1.NetBoxEvent {
	hostile := event.DeepCopy()
	hostile.Name += "-hostile"
	hostile.UID, hostile.Spec.ObjectName = types.UID(hostile.Name), hostileName
	return hostile
}

// doGroups executes the rule for the groups of recorded events, and returns the recordings in which it acts.
func (r *recipeRun) doGroups(t *testing.T, runner *action.Runner, compiled *rule.Rule, recorded []deliveries.Delivery) (acted []string) {
	t.Helper()
	sizes := map[int]bool{}
	for _, events := range r.groups(t, compiled, recorded) {
		if !r.doGroup(t, runner, compiled, events) {
			continue
		}
		acted = append(acted, events[0].Spec.SourceRef.Name)
		if !sizes[len(events)] {
			sizes[len(events)] = true
			hostile := make([]*v1alpha1.NetBoxEvent, len(events))
			for i := range events {
				hostile[i] = hostileEvent(events[i])
				hostile[i].Spec.Username = hostileName
			}
			r.doGroup(t, runner, compiled, hostile)
		}
	}
	if diff := gocmp.Diff(r.product.sizes, slices.Sorted(maps.Keys(sizes))); diff != "" {
		t.Errorf("sizes of the groups (-want +got):\n%s", diff)
	}
	slices.Sort(acted)
	return slices.Compact(acted)
}

// groups returns the groups of recorded events, as if NetBox's timestamps were the times of their receipt.
func (r *recipeRun) groups(t *testing.T, compiled *rule.Rule, recorded []deliveries.Delivery) (groups [][]*v1alpha1.NetBoxEvent) {
	t.Helper()
	var keys []string
	byKey := map[string][]*v1alpha1.NetBoxEvent{}
	for _, delivery := range recorded {
		event := r.eventOf(delivery)
		if event == nil {
			continue
		}
		input := rule.NewInput(event, event.Spec.Timestamp.Time)
		if ok, err := compiled.Match(t.Context(), event, input); err != nil || !ok {
			continue
		}
		key := fmt.Sprint(delivery.N >= editedFrom, delivery.File, compiled.GroupKey(t.Context(), event, input))
		if byKey[key] == nil {
			keys = append(keys, key)
		}
		byKey[key] = append(byKey[key], event)
	}
	for _, key := range keys {
		events := byKey[key]
		slices.SortStableFunc(events, func(a, b *v1alpha1.NetBoxEvent) int { return a.Spec.Timestamp.Compare(b.Spec.Timestamp.Time) })
		for len(events) > 0 {
			received := func(i int) time.Time { return events[i].Spec.Timestamp.Time }
			size, _ := delivery.FirstGroup(received, len(events), compiled.Group, received(len(events)-1))
			groups, events = append(groups, events[:size]), events[size:]
		}
	}
	return groups
}

// doGroup executes the rule for a group. It reports whether an action was executed.
func (r *recipeRun) doGroup(t *testing.T, runner *action.Runner, compiled *rule.Rule, events []*v1alpha1.NetBoxEvent) (acted bool) {
	t.Helper()
	id := delivery.GroupID(r.namespace, r.rule.Name, "", string(events[0].UID), delivery.Replay{})
	input, isLeft := rule.NewGroupInput(events, id, compiled.Group.Net, events[0].Spec.Timestamp.Time)
	if !isLeft {
		return false
	}
	left := input.Events()
	return r.do(t, runner, compiled, action.Task{Event: left[len(left)-1], Group: &action.Group{ID: id, Events: left}, Input: input})
}

// do executes the actions of the rule for an event or a group, and checks what they did. It reports whether an action was executed. A removal
// is an event that does not match a rule that mirrors.
func (r *recipeRun) do(t *testing.T, runner *action.Runner, compiled *rule.Rule, task action.Task) (acted bool) {
	t.Helper()
	event := task.Event
	r.event, r.group, r.requests, r.problem = event, nil, nil, nil
	if task.Group != nil {
		r.group = task.Group.Events
	}
	if r.product.isMade {
		plane.Create(t, r.newObject(r.product.kind, r.product.name(event)))
	}
	for i := range compiled.Actions {
		if when := compiled.Actions[i].When; when != nil {
			if holds, err := when.Holds(t.Context(), task.Input); err != nil {
				t.Errorf("%s: %v", event.Name, err)
			} else if !holds {
				continue
			}
		}
		acted = true
		task.Rule, task.Action = &r.rule, &compiled.Actions[i]
		result, err := r.execute(t, runner, task)
		switch {
		case r.problem != nil || err != nil:
			t.Errorf("%s: %v", event.Name, errors.Join(r.problem, err))
		case r.product.server == "":
			r.checkObject(t, result.Response, task.IsRemoval)
		default:
			r.checkAnswer(t, result.Response)
		}
	}
	return acted
}

// execute executes an action. If it waits for its object, the product completes that.
func (r *recipeRun) execute(t *testing.T, runner *action.Runner, task action.Task) (action.Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), r.rule.Spec.Retry.Timeout.Duration)
	defer cancel()
	result, err := runner.Do(ctx, task)
	if result.Wait == 0 || err != nil {
		return result, err
	}
	_, name, _ := strings.Cut(result.Response, r.namespace+"/")
	object := r.newObject(r.product.kind, name)
	if err := plane.Client.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
		return result, err
	}
	object.Object["status"] = r.product.status
	if r.isInstalled() { // without the subresource status
		err = plane.Client.Update(ctx, object)
	} else {
		err = plane.Client.Status().Update(ctx, object)
	}
	if err != nil {
		return result, err
	}
	task.WaitingSince = time.Now()
	return runner.Do(ctx, task)
}

// checkAnswer checks that the response of an action is the product's answer, and on the page.
func (r *recipeRun) checkAnswer(t *testing.T, response string) {
	t.Helper()
	given := r.requests[len(r.requests)-1]
	shown := fmt.Sprintf("%d %s", given.status, http.StatusText(given.status))
	if given.body != "" && !strings.HasPrefix(given.body, "{") {
		shown += ": " + given.body
	}
	if !strings.HasPrefix(response, shown) || !strings.Contains(r.text, "`"+shown+"`") {
		t.Errorf("%s: the response is %q; the page must show `%s`", r.event.Name, response, shown)
	}
}

// checkObject has the product check the object that an action wrote or deleted, and that the page shows the response.
func (r *recipeRun) checkObject(t *testing.T, response string, isRemoval bool) {
	t.Helper()
	var name string
	if r.product.name != nil {
		name = r.product.name(r.event)
	} else {
		name = response[strings.LastIndex(response, "/")+1:]
	}
	object := r.newObject(r.product.kind, name)
	if err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(object), object); apierrors.IsNotFound(err) {
		object = nil
	} else if err != nil {
		t.Fatalf("%v of %q", err, response)
	}
	var err error
	switch isGone := isRemoval || r.event.Spec.Event == "deleted"; {
	case isGone != (object == nil):
		err = errors.New("it exists, or does not exist, against the last event")
	case object != nil:
		err = r.product.object(object, r.event)
	}
	if err != nil {
		t.Errorf("%s: %v; response %q, object %v", r.event.Name, err, response, object)
	}
	if r.isMirror() && response == "nothing to delete" {
		return
	}
	response = strings.Replace(response, r.namespace+"/", "netbox/", 1)
	for _, shown := range regexp.MustCompile("`([^`…]*)…`").FindAllStringSubmatch(r.text, -1) {
		if strings.HasPrefix(response, shown[1]) && strings.Contains(shown[1], r.product.kind) {
			return
		}
	}
	t.Errorf("%s: the page does not show the response %q", r.event.Name, response)
}

func (r *recipeRun) newObject(kind, name string) *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(r.product.resource.GroupVersion().WithKind(kind))
	object.SetNamespace(cmp.Or(r.product.namespace, r.namespace))
	object.SetName(name)
	return object
}

// isInstalled reports whether Kubernetes does not have the kind of the product's objects.
func (r *recipeRun) isInstalled() bool {
	return strings.Contains(r.product.resource.Group, ".") && !strings.HasSuffix(r.product.resource.Group, ".k8s.io")
}

// installCRD installs a kind whose fields the API server does not check.
func installCRD(t *testing.T, resource schema.GroupVersionResource, kind string) {
	t.Helper()
	name := resource.GroupResource().String()
	crd := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": name},
		"spec": map[string]any{
			"group": resource.Group, "scope": "Namespaced",
			"names": map[string]any{"plural": resource.Resource, "singular": strings.ToLower(kind), "kind": kind, "listKind": kind + "List"},
			"versions": []any{map[string]any{
				"name": resource.Version, "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
			}},
		},
	}}
	if err := plane.Client.Create(t.Context(), crd); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(resource.GroupVersion().WithKind(kind + "List"))
		err := plane.Client.List(t.Context(), list)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not served: %v", name, err)
		}
	}
}

// newRunner returns a Runner that may connect to loopback.
func newRunner(t *testing.T) *action.Runner {
	t.Helper()
	http, err := rest.HTTPClientFor(plane.Config)
	if err != nil {
		t.Fatal(err)
	}
	mapper, err := apiutil.NewDynamicRESTMapper(plane.Config, http)
	if err != nil {
		t.Fatal(err)
	}
	secrets := outbound.NewSecrets(plane.Client, clock.RealClock{})
	transports := outbound.NewTransports(outbound.Options{
		Secrets:    secrets,
		AllowCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		Clock:      clock.RealClock{},
	})
	return action.NewRunner(action.Options{
		Config: plane.Config, Mapper: mapper, Secrets: secrets, Transports: transports, Accounts: plane.Client, Events: plane.Client,
		Clock: clock.RealClock{}, Log: logr.Discard(),
	})
}
