package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/test/fleet"
	"github.com/netbox-events/netbox-event-operator/test/fleet/figures"
	"github.com/netbox-events/netbox-event-operator/test/netbox"
)

const (
	replicas = 2
	// sourceName is the name of the source, its webhook's Secret and its token's.
	sourceName = "live"
	// interval and lag are the source's: short, so that the test is.
	interval, lag = 2 * time.Second, 10 * time.Second
	// patience is the time allowed for what takes seconds on an idle machine.
	patience = 3 * time.Minute
	// objectPrefix begins the names of what the operator makes in NetBox.
	objectPrefix = "netbox-event-operator/"
)

// scene is NetBox, the operator, what is between them, and what is behind.
type scene struct {
	fleet   *fleet.Fleet
	netbox  *netbox.NetBox
	changes *netbox.Changes
	ingress *ingress
	gate    *gate
	sink    *sink
	random  *rand.Rand
	options options

	// from is spec.netbox.backfill.from: changes since then are wanted.
	from time.Time
	// types are the object types that have event rules.
	types map[string]bool
	// people are the webhook and the event rule that a person made.
	people [2]object

	promises fleet.Promises
	result   figures.NetBox

	keeping    context.CancelFunc // ends Keep
	kept       sync.WaitGroup
	keepErrors [replicas]error
}

// object is an object in NetBox's API.
type object map[string]any

func (o object) id() int64 {
	id, _ := o["id"].(float64)
	return int64(id)
}

// start starts everything but the operator.
func start(ctx context.Context, options options) (s *scene, err error) {
	s = &scene{options: options, random: rand.New(rand.NewPCG(options.seed, 1))}
	defer func() {
		if err != nil {
			err = s.end(err)
		}
	}()
	fleet.Say("starting NetBox and a Kubernetes API server; seed %d", options.seed)
	if s.netbox, err = netbox.Start(ctx); err != nil {
		return nil, err
	}
	if s.fleet, err = fleet.Start(ctx, fleet.Options{Replicas: replicas, MaxEvents: 1}); err != nil {
		return nil, err
	}
	s.changes = netbox.NewChanges(s.netbox.Client, options.seed)
	s.changes.Background = true
	s.ingress, s.sink = newIngress(s.fleet.Replicas), newSink()
	s.gate, err = newGate(s.netbox.URL)
	return s, err
}

// end stops everything, and returns err joined with errors of stopping.
func (s *scene) end(err error) error {
	if s.keeping != nil {
		s.keeping()
	}
	if s.fleet != nil {
		err = s.fleet.End(err)
	}
	s.kept.Wait()
	if s.netbox != nil {
		err = errors.Join(err, s.netbox.Stop())
	}
	if s.ingress != nil {
		s.ingress.server.Close()
		s.sink.server.Close()
	}
	if s.gate != nil {
		s.gate.server.Close()
	}
	return err
}

// operate starts the replicas, and restarts those that end.
func (s *scene) operate(ctx context.Context) error {
	keeping, stop := context.WithCancel(ctx)
	s.keeping = stop
	for i, replica := range s.fleet.Replicas {
		s.kept.Go(func() { s.keepErrors[i] = replica.Keep(keeping) })
	}
	for _, replica := range s.fleet.Replicas {
		if err := replica.Ready(ctx); err != nil {
			return errors.Join(append(s.keepErrors[:], err)...)
		}
	}
	return nil
}

// cease stops the replicas.
func (s *scene) cease() error {
	s.keeping()
	var errs []error
	for _, replica := range s.fleet.Replicas {
		errs = append(errs, replica.Terminate())
	}
	s.kept.Wait()
	return errors.Join(errs...)
}

// leader waits for the replica that leads.
func (s *scene) leader(ctx context.Context) (leader *fleet.Replica, err error) {
	err = fleet.Wait(ctx, patience, "a replica leads", func(ctx context.Context) (bool, error) {
		leader = s.fleet.Leader(ctx)
		return leader != nil, nil
	})
	return leader, err
}

func (s *scene) api() client.Client { return s.fleet.Plane.Client }

// create creates a Secret.
func (s *scene) createSecret(ctx context.Context, name, key, value string) error {
	return s.api().Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: fleet.Namespace, Name: name}, StringData: map[string]string{key: value},
	})
}

// webhookURL is the URL that NetBox posts to.
func (s *scene) webhookURL() string {
	return s.ingress.server.URL + "/webhook/" + fleet.Namespace + "/" + sourceName
}

// createSource creates the source, whose Secrets exist.
func (s *scene) createSource(ctx context.Context) error {
	source := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: fleet.Namespace, Name: sourceName}}
	source.Spec.SecretRef = &v1alpha1.SecretKeysReference{Name: "live-webhook", Key: "secret"}
	source.Spec.Retention.MaxEvents = 1_000_000
	source.Spec.NetBox = &v1alpha1.NetBoxAPI{
		URL:            s.gate.server.URL,
		TokenSecretRef: v1alpha1.SecretKeyReference{Name: "live-token", Key: "token"},
		Webhook:        &v1alpha1.ManagedWebhook{URL: s.webhookURL(), ObjectTypes: []string{v1alpha1.AllObjectTypes}},
		Backfill: &v1alpha1.Backfill{
			Interval: metav1.Duration{Duration: interval}, Lag: metav1.Duration{Duration: lag}, From: new(metav1.NewTime(s.from)),
		},
		Lookups: v1alpha1.LookupsAllowed,
	}
	return s.api().Create(ctx, source)
}

// createRules creates three rules that send events to the sink: every event, confirmed ones, and interfaces with a lookup of their device.
func (s *scene) createRules(ctx context.Context) error {
	every := s.rule("every")
	confirmed := s.rule("confirmed")
	confirmed.Spec.Confirm = true
	lookup := s.rule("lookup")
	lookup.Spec.Match.ObjectTypes = []string{"dcim.interface"}
	lookup.Spec.Match.Events = []string{"created", "updated"}
	lookup.Spec.Lookups = []v1alpha1.Lookup{{Name: "device", Path: "/api/dcim/devices/${postchange.device}/"}}
	lookup.Spec.Actions[0].HTTP.Body = &v1alpha1.HTTPBody{JSON: &v1alpha1.JSON{Raw: []byte(`{
		"id": "${event.name}", "requestid": "${event.requestID}", "objecttype": "${event.objectType}", "objectid": "${event.objectID}",
		"device": "${postchange.device}", "lookup": "${lookups.device}"
	}`)}}
	for _, rule := range []*v1alpha1.NetBoxEventRule{every, confirmed, lookup} {
		if err := s.api().Create(ctx, rule); err != nil {
			return err
		}
	}
	return nil
}

func (s *scene) rule(name string) *v1alpha1.NetBoxEventRule {
	rule := &v1alpha1.NetBoxEventRule{ObjectMeta: metav1.ObjectMeta{Namespace: fleet.Namespace, Name: name}}
	rule.Spec.Match.Sources = []string{sourceName}
	rule.Spec.Order = v1alpha1.OrderPerObject
	rule.Spec.Retry = v1alpha1.Retry{
		MaxAttempts: 100, Backoff: metav1.Duration{Duration: time.Second}, MaxBackoff: metav1.Duration{Duration: 5 * time.Second},
		Timeout: metav1.Duration{Duration: 30 * time.Second},
	}
	rule.Spec.Actions = []v1alpha1.Action{{Name: "send", HTTP: &v1alpha1.HTTPAction{URL: s.sink.server.URL + "/" + name}}}
	return rule
}

func (s *scene) source(ctx context.Context) (*v1alpha1.NetBoxSource, error) {
	source := &v1alpha1.NetBoxSource{}
	err := s.api().Get(ctx, types.NamespacedName{Namespace: fleet.Namespace, Name: sourceName}, source)
	return source, err
}

// condition waits until a condition of the source has a status, and returns it.
func (s *scene) condition(ctx context.Context, name string, status metav1.ConditionStatus) (found metav1.Condition, err error) {
	err = fleet.Wait(ctx, patience, fmt.Sprintf("%s=%s", name, status), func(ctx context.Context) (bool, error) {
		source, err := s.source(ctx)
		if err != nil {
			return false, err
		}
		condition := meta.FindStatusCondition(source.Status.Conditions, name)
		if condition == nil {
			return false, fmt.Errorf("no condition %s in %v", name, source.Status.Conditions)
		}
		found = *condition
		if condition.Status != status || condition.ObservedGeneration != source.Generation {
			return false, fmt.Errorf("it is %s: %s", condition.Status, condition.Message)
		}
		return true, nil
	})
	return found, err
}

// change patches the source's spec, which makes the operator check its webhook.
func (s *scene) change(ctx context.Context, patch string) error {
	source := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: fleet.Namespace, Name: sourceName}}
	return s.api().Patch(ctx, source, client.RawPatch(types.MergePatchType, []byte(patch)))
}

// check makes the operator check its webhook.
func (s *scene) check(ctx context.Context) error {
	source, err := s.source(ctx)
	if err != nil {
		return err
	}
	return s.change(ctx, fmt.Sprintf(`{"spec":{"retention":{"maxEvents":%d}}}`, source.Spec.Retention.MaxEvents-1))
}

// events returns the stored events of the source.
func (s *scene) events(ctx context.Context) (all []v1alpha1.NetBoxEvent, err error) {
	for next := ""; ; {
		var page v1alpha1.NetBoxEventList
		err := s.api().List(ctx, &page, client.InNamespace(fleet.Namespace), client.Limit(500), client.Continue(next),
			client.MatchingFields{"spec.sourceRef.name": sourceName})
		if err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if next = page.Continue; next == "" {
			return all, nil
		}
	}
}

// logged returns the changes in NetBox's change log since the source began, of some requests, or of all for nil.
func (s *scene) logged(ctx context.Context, requests []netbox.Request) (rows int, changes map[netbox.Key]netbox.Change, err error) {
	all, err := s.netbox.Rows(ctx)
	if err != nil {
		return 0, nil, err
	}
	ids := map[string]bool{}
	for _, request := range requests {
		ids[request.ID] = true
	}
	all = slices.DeleteFunc(all, func(row netbox.Row) bool { return row.Time.Before(s.from) || requests != nil && !ids[row.RequestID] })
	return len(all), netbox.Fold(all), nil
}

// wants reports whether changes of an object type should become events. The operator leaves out webhooks, whose events would hold their
// secrets.
func (s *scene) wants(objectType string) bool {
	return s.types[objectType] && objectType != "extras.webhook"
}

// stored waits until every wanted change of some requests, or of all for nil, has an event.
func (s *scene) stored(ctx context.Context, requests []netbox.Request) error {
	_, changes, err := s.logged(ctx, requests)
	if err != nil {
		return err
	}
	maps.DeleteFunc(changes, func(key netbox.Key, _ netbox.Change) bool { return !s.wants(key.ObjectType) })
	began := time.Now()
	err = fleet.Wait(ctx, 2*patience, "every change has an event", func(ctx context.Context) (bool, error) {
		events, err := s.events(ctx)
		if err != nil {
			return false, err
		}
		for i := range events {
			delete(changes, keyOf(&events[i]))
		}
		if len(changes) > 0 {
			fleet.Pause(ctx, time.Second)
			return false, fmt.Errorf("%d have none, such as %v", len(changes), first(changes))
		}
		return true, nil
	})
	if err == nil {
		fleet.Say("all have events, after %.1f s", time.Since(began).Seconds())
	}
	return err
}

func first(changes map[netbox.Key]netbox.Change) (key netbox.Key) {
	for key = range changes {
		break
	}
	return key
}

// get returns an object of NetBox as the administrator sees it.
func (s *scene) get(ctx context.Context, path string, id int64) (found object, err error) {
	err = s.netbox.Do(ctx, http.MethodGet, fmt.Sprintf("%s%d/", path, id), nil, &found)
	return found, err
}

// own returns the webhook and the event rule that the operator made, according to the status.
func (s *scene) own(ctx context.Context) (own [2]object, err error) {
	source, err := s.source(ctx)
	if err != nil {
		return own, err
	}
	if source.Status.NetBox == nil {
		return own, errors.New("the source has no status.netbox")
	}
	webhook, err := s.get(ctx, webhooks, source.Status.NetBox.WebhookID)
	if err != nil {
		return own, err
	}
	rule, err := s.get(ctx, eventRules, source.Status.NetBox.EventRuleID)
	return [2]object{webhook, rule}, err
}

// Paths in NetBox's API.
const webhooks, eventRules = "extras/webhooks/", "extras/event-rules/"

// drained waits until NetBox's worker has nothing to do.
func (s *scene) drained(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	return s.netbox.Drain(ctx)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// phase runs a part of the test.
func phase(ctx context.Context, name string, run func(context.Context) error) error {
	began := time.Now()
	fleet.Say("── %s", name)
	if err := run(ctx); err != nil {
		return fmt.Errorf("%s: %w", strings.ToLower(name[:1])+name[1:], err)
	}
	fleet.Say("   done in %.1f s", time.Since(began).Seconds())
	return nil
}
