package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/test/fleet"
	"github.com/netbox-events/netbox-event-operator/test/netbox"
)

// leastRights are the permissions that docs/netbox.md lists: to read the change log, to keep the webhook, and to read the objects of events.
func leastRights() []netbox.Permission {
	named := map[string]string{"name__startswith": objectPrefix}
	return []netbox.Permission{
		{Actions: []string{"view"}, ObjectTypes: []string{"core.objectchange"}},
		{
			Actions: []string{"view", "add", "change", "delete"}, ObjectTypes: []string{"extras.webhook", "extras.eventrule"},
			Constraints: named,
		},
		{Actions: []string{"view"}, ObjectTypes: []string{
			"dcim.site", "dcim.manufacturer", "dcim.devicetype", "dcim.interfacetemplate", "dcim.devicerole", "dcim.device", "dcim.interface",
			"dcim.cable", "dcim.cabletermination", "ipam.ipaddress", "ipam.vlan", "ipam.prefix", "extras.tag", "extras.journalentry",
		}},
	}
}

// setUp goes from an empty NetBox to Receiving=True.
func (s *scene) setUp(ctx context.Context) error {
	if err := s.operate(ctx); err != nil {
		return err
	}
	if _, err := s.leader(ctx); err != nil {
		return err
	}
	if err := s.learnTypes(ctx); err != nil {
		return err
	}
	if err := s.makePeoples(ctx); err != nil {
		return err
	}
	_, token, err := s.netbox.TokenWith(ctx, leastRights()...)
	if err != nil {
		return err
	}
	s.from = time.Now().Truncate(time.Second).Add(time.Second) // Kubernetes has no fractions of it
	fleet.Pause(ctx, time.Until(s.from))
	began := time.Now()
	if err := errors.Join(
		s.createSecret(ctx, "live-token", "token", token), s.createSecret(ctx, "live-webhook", "secret", "the first key"),
		s.createRules(ctx), s.createSource(ctx),
	); err != nil {
		return err
	}
	configured, err := s.condition(ctx, v1alpha1.ConditionWebhookConfigured, metav1.ConditionTrue)
	if err != nil {
		return err
	}
	fleet.Say("after %.1f s: %s", time.Since(began).Seconds(), configured.Message)
	if err := s.changes.Run(ctx, 1); err != nil {
		return err
	}
	receiving, err := s.condition(ctx, v1alpha1.ConditionReceiving, metav1.ConditionTrue)
	if err != nil {
		return err
	}
	s.result.SetUpSeconds = time.Since(began).Seconds()
	fleet.Say("after %.1f s: %s", s.result.SetUpSeconds, receiving.Message)
	return nil
}

// learnTypes reads the object types that have event rules.
func (s *scene) learnTypes(ctx context.Context) error {
	var page struct {
		Results []struct {
			AppLabel string `json:"app_label"`
			Model    string
		}
	}
	if err := s.netbox.Do(ctx, http.MethodGet, "core/object-types/?features=event_rules&limit=1000", nil, &page); err != nil {
		return err
	}
	s.types = map[string]bool{}
	for _, t := range page.Results {
		s.types[t.AppLabel+"."+t.Model] = true
	}
	return nil
}

// makePeoples makes a webhook and an event rule that the operator must leave alone.
func (s *scene) makePeoples(ctx context.Context) error {
	body := map[string]any{"name": "a person's", "payload_url": "http://127.0.0.1:9/", "secret": "a person's"}
	if err := s.netbox.Do(ctx, http.MethodPost, webhooks, body, &s.people[0]); err != nil {
		return err
	}
	return s.netbox.Do(ctx, http.MethodPost, eventRules, map[string]any{
		"name": "a person's", "object_types": []string{"circuits.provider"}, "event_types": []string{"object_created"},
		"action_type": "webhook", "action_object_type": "extras.webhook", "action_object_id": s.people[0].id(),
	}, &s.people[1])
}

// peoples checks that what a person made is as it was.
func (s *scene) peoples(ctx context.Context) error {
	for i, path := range []string{webhooks, eventRules} {
		now, err := s.get(ctx, path, s.people[i].id())
		if err != nil {
			return err
		}
		s.promises.Holds(reflect.DeepEqual(now, s.people[i]), "%s of a person was changed: it is %v, and was %v", path, now, s.people[i])
	}
	return nil
}

// drift changes each field of the webhook and its event rule, renames them, and deletes them.
func (s *scene) drift(ctx context.Context) error {
	want, err := s.own(ctx)
	if err != nil {
		return err
	}
	webhook := map[string]any{
		"description": "mine", "payload_url": "http://127.0.0.1:9/", "http_method": "PUT", "http_content_type": "text/plain",
		"additional_headers": "X-Drift: yes", "body_template": "{}", "secret": "another",
	}
	rule := map[string]any{
		"description": "mine", "enabled": false, "object_types": []string{"dcim.site"}, "event_types": []string{"object_created"},
		"conditions": map[string]any{"attr": "name", "value": "x"}, "action_object_id": s.people[0].id(),
	}
	name := map[string]any{"name": objectPrefix + "renamed"}
	for _, step := range []struct {
		what          string
		webhook, rule map[string]any
		fields        int
	}{
		{"all fields of the webhook", webhook, nil, len(webhook)},
		{"all fields of the event rule", nil, rule, len(rule)},
		{"the names of both", name, name, 2},
	} {
		if err := s.put(ctx, want, step.webhook, step.rule); err != nil {
			return err
		}
		if err := s.putRight(ctx, step.what, want); err != nil {
			return err
		}
		s.result.Drift += step.fields
	}
	fields := map[string]any{"ssl_verification": false}
	if err := s.put(ctx, want, fields, nil); err != nil {
		return err
	}
	want[0]["ssl_verification"] = false // a person's decision
	for _, step := range []struct {
		what, path string
		object     int
	}{{"the event rule, which was deleted", eventRules, 1}, {"the webhook, which was deleted", webhooks, 0}} {
		own, err := s.own(ctx)
		if err != nil {
			return err
		}
		if err := s.netbox.Do(ctx, http.MethodDelete, fmt.Sprintf("%s%d/", step.path, own[step.object].id()), nil, nil); err != nil {
			return err
		}
		if step.path == webhooks {
			want[0]["ssl_verification"] = true // a new one
		}
		if err := s.putRight(ctx, step.what, want); err != nil {
			return err
		}
		s.result.Drift++
	}
	leader, err := s.leader(ctx)
	if err != nil {
		return err
	}
	metrics, err := leader.Metrics(ctx)
	if err != nil {
		return err
	}
	counted := int(metrics["netbox_events_netbox_drift_total"])
	s.promises.Holds(counted >= s.result.Drift, "the metric counts %d fields that were put right, want %d", counted, s.result.Drift)
	return s.peoples(ctx)
}

// put changes the webhook and the event rule, as an administrator who knows no better.
func (s *scene) put(ctx context.Context, own [2]object, webhook, rule map[string]any) error {
	for i, fields := range []map[string]any{webhook, rule} {
		if fields == nil {
			continue
		}
		path := []string{webhooks, eventRules}[i]
		if err := s.netbox.Do(ctx, http.MethodPatch, fmt.Sprintf("%s%d/", path, own[i].id()), fields, nil); err != nil {
			return err
		}
	}
	return nil
}

// putRight makes the operator check, and waits until the webhook and the event rule are as they should be.
func (s *scene) putRight(ctx context.Context, what string, want [2]object) error {
	if err := s.check(ctx); err != nil {
		return err
	}
	began := time.Now()
	err := fleet.Wait(ctx, patience, what+" is put right", func(ctx context.Context) (bool, error) {
		have, err := s.own(ctx)
		if err != nil {
			return false, err
		}
		webhookFields := []string{
			"name", "description", "payload_url", "http_method", "http_content_type", "additional_headers", "body_template", "secret", "ssl_verification",
		}
		ruleFields := []string{"name", "description", "enabled", "object_types", "event_types", "conditions", "action_type"}
		differ := append(differing(have[0], want[0], webhookFields), differing(have[1], want[1], ruleFields)...)
		if rule := have[1]; rule["action_object_id"] != have[0]["id"] {
			differ = append(differ, "action_object_id")
		}
		if len(differ) > 0 {
			return false, fmt.Errorf("%s are not", strings.Join(differ, ", "))
		}
		return true, nil
	})
	if err == nil {
		fleet.Say("%s: put right after %.1f s", what, time.Since(began).Seconds())
	}
	return err
}

func differing(have, want object, fields []string) (names []string) {
	for _, field := range fields {
		if !reflect.DeepEqual(have[field], want[field]) {
			names = append(names, fmt.Sprintf("%s (%.60v, want %.60v)", field, have[field], want[field]))
		}
	}
	return names
}

// underFaults makes changes while the fault injection goes on.
func (s *scene) underFaults(ctx context.Context) error {
	faults := make(chan error, 1)
	go func() { faults <- s.fail(ctx) }()
	const atOnce = 5
	before := len(s.changes.Requests)
	var failed error
	for isFailing := true; isFailing || len(s.changes.Requests)-before < s.options.changes; {
		if err := s.changes.Run(ctx, atOnce); err != nil {
			return errors.Join(err, <-faults)
		}
		select {
		case failed = <-faults:
			isFailing = false
		default:
		}
		if failed != nil {
			return failed
		}
	}
	fleet.Say("%d requests made", len(s.changes.Requests)-before)
	return s.stored(ctx, s.changes.Requests[before:])
}

// fail kills the leader, stops the API server, and kills NetBox's worker and empties its queue, in random order.
func (s *scene) fail(ctx context.Context) error {
	faults := []func(context.Context) error{s.killLeader, s.stopAPIServer, s.loseWebhooks, s.killLeader}
	s.random.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	for _, fault := range faults {
		fleet.Pause(ctx, s.between(3*time.Second, 8*time.Second))
		if err := fault(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (s *scene) between(least, most time.Duration) time.Duration {
	return least + time.Duration(s.random.Int64N(int64(most-least)))
}

func (s *scene) killLeader(ctx context.Context) error {
	leader, err := s.leader(ctx)
	if err != nil {
		return err
	}
	fleet.Say("the leader is killed")
	return leader.Kill()
}

func (s *scene) stopAPIServer(ctx context.Context) error {
	length := s.between(3*time.Second, 12*time.Second)
	fleet.Say("the API server stops for %.1f s", length.Seconds())
	if err := s.fleet.APIServer().Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	fleet.Pause(ctx, length)
	return s.fleet.APIServer().Signal(syscall.SIGCONT)
}

// loseWebhooks kills NetBox's worker, empties its queue after a while, and starts it again.
func (s *scene) loseWebhooks(ctx context.Context) error {
	pid, err := s.netbox.WorkerPID()
	if err != nil {
		return err
	}
	fleet.Say("NetBox's worker is killed")
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	fleet.Pause(ctx, s.between(3*time.Second, 6*time.Second))
	queue, err := s.netbox.Queue(ctx)
	if err != nil {
		return err
	}
	if err := s.netbox.FlushQueue(ctx); err != nil {
		return err
	}
	fleet.Say("NetBox loses %d jobs, and its worker starts", queue.Waiting)
	return s.netbox.StartWorker(ctx)
}

// withoutWebhooks makes changes while NetBox sends nothing, and loses what it would have sent.
func (s *scene) withoutWebhooks(ctx context.Context) error {
	if err := s.check(ctx); err != nil { // the next one is in 5 minutes
		return err
	}
	if _, err := s.condition(ctx, v1alpha1.ConditionWebhookConfigured, metav1.ConditionTrue); err != nil {
		return err
	}
	if err := s.drained(ctx); err != nil {
		return err
	}
	if err := s.netbox.StopWorker(ctx); err != nil {
		return err
	}
	s.changes.Background = false // NetBox refuses it without a worker
	own, err := s.own(ctx)
	if err != nil {
		return err
	}
	if err := s.put(ctx, own, nil, map[string]any{"enabled": false}); err != nil {
		return err
	}
	before, came := len(s.changes.Requests), s.ingress.count()
	if err := s.changes.Run(ctx, s.options.changes/2); err != nil {
		return err
	}
	if err := s.stored(ctx, s.changes.Requests[before:]); err != nil {
		return err
	}
	if err := s.silent(ctx, "disabled"); err != nil {
		return err
	}
	s.promises.None(s.ingress.count()-came, "webhooks came although the worker was down")
	if err := errors.Join(s.netbox.FlushQueue(ctx), s.check(ctx)); err != nil {
		return err
	}
	if _, err := s.condition(ctx, v1alpha1.ConditionWebhookConfigured, metav1.ConditionTrue); err != nil {
		return err
	}
	if err := s.netbox.StartWorker(ctx); err != nil {
		return err
	}
	if err := s.changes.Run(ctx, 1); err != nil {
		return err
	}
	_, err = s.condition(ctx, v1alpha1.ConditionReceiving, metav1.ConditionTrue)
	return err
}

// silent waits until Receiving is False, and checks that its message has a text.
func (s *scene) silent(ctx context.Context, text string) error {
	receiving, err := s.condition(ctx, v1alpha1.ConditionReceiving, metav1.ConditionFalse)
	if err != nil {
		return err
	}
	fleet.Say("%s", receiving.Message)
	s.promises.Holds(strings.Contains(receiving.Message, text) && strings.Contains(receiving.Message, "the first is "),
		"the message of Receiving names no %s, or no change: %s", text, receiving.Message)
	return nil
}

// lateWebhooks makes changes whose webhooks come when their events were made from the change log.
func (s *scene) lateWebhooks(ctx context.Context) error {
	if err := s.drained(ctx); err != nil {
		return err
	}
	if err := s.netbox.StopWorker(ctx); err != nil {
		return err
	}
	began := time.Now()
	before, came := len(s.changes.Requests), s.ingress.count()
	if err := s.changes.Run(ctx, s.options.changes/2); err != nil {
		return err
	}
	requests := s.changes.Requests[before:]
	if err := s.stored(ctx, requests); err != nil {
		return err
	}
	if err := s.silent(ctx, "RQ worker"); err != nil {
		return err
	}
	fleet.Pause(ctx, s.options.late-time.Since(began))
	events, err := s.events(ctx)
	if err != nil {
		return err
	}
	if err := s.netbox.StartWorker(ctx); err != nil {
		return err
	}
	s.changes.Background = true
	if err := s.drained(ctx); err != nil {
		return err
	}
	s.compareLate(requests, events, s.ingress.since(came))
	return nil
}

// rotation replaces the signing key twice under a stream of changes.
func (s *scene) rotation(ctx context.Context) error {
	if err := s.drained(ctx); err != nil {
		return err
	}
	before, came := len(s.changes.Requests), s.ingress.count()
	for _, key := range []string{"the second key", "the third key"} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: fleet.Namespace, Name: "live-webhook"}}
		patch := fmt.Appendf(nil, `{"stringData":{"secret":%q}}`, key)
		if err := s.changes.Run(ctx, 5); err != nil {
			return err
		}
		if err := s.api().Patch(ctx, secret, client.RawPatch(types.MergePatchType, patch)); err != nil {
			return err
		}
		began, isNew := time.Now(), false
		for !isNew && time.Since(began) < patience {
			if err := s.changes.Run(ctx, 5); err != nil {
				return err
			}
			own, err := s.own(ctx)
			if err != nil {
				return err
			}
			isNew = own[0]["secret"] == key
		}
		s.promises.Holds(isNew, "a new key is not in NetBox after %s", patience)
		fleet.Say("NetBox signs with a new key after %.1f s", time.Since(began).Seconds())
		if err := s.changes.Run(ctx, 5); err != nil {
			return err
		}
	}
	if err := s.drained(ctx); err != nil {
		return err
	}
	for _, webhook := range s.ingress.since(came) {
		s.result.Rotation++
		if webhook.status == http.StatusUnauthorized {
			s.result.Refused++
		}
	}
	s.promises.Holds(s.result.Rotation > 0, "no webhook came during the rotation")
	s.promises.None(s.result.Refused, "webhooks were refused during the rotation of the key")
	return s.stored(ctx, s.changes.Requests[before:])
}

// whileDown makes changes while the operator is down and their webhooks are lost, and measures how long it takes to process them.
func (s *scene) whileDown(ctx context.Context) error {
	if s.options.missed == 0 {
		fleet.Say("skipped: -missed is 0")
		return nil
	}
	if err := s.drained(ctx); err != nil {
		return err
	}
	if err := errors.Join(s.cease(), s.netbox.StopWorker(ctx)); err != nil {
		return err
	}
	const atOnce = 200
	for made := 0; made < s.options.missed; made += atOnce {
		tags := make([]map[string]any, min(atOnce, s.options.missed-made))
		for i := range tags {
			name := fmt.Sprintf("missed-%d", made+i)
			tags[i] = map[string]any{"name": name, "slug": name}
		}
		if err := s.netbox.Do(ctx, http.MethodPost, "extras/tags/", tags, nil); err != nil {
			return err
		}
	}
	if err := errors.Join(s.netbox.FlushQueue(ctx), s.netbox.StartWorker(ctx)); err != nil {
		return err
	}
	source, err := s.source(ctx)
	if err != nil {
		return err
	}
	acted := len(s.sink.of("every"))
	began := time.Now()
	if err := s.operate(ctx); err != nil {
		return err
	}
	limit := 10*time.Minute + time.Duration(s.options.missed)*time.Second/4
	s.result.WhileDown = s.options.missed
	err = fleet.Wait(ctx, limit, "all missed changes are stored", func(ctx context.Context) (bool, error) {
		now, err := s.source(ctx)
		if err != nil {
			return false, err
		}
		fleet.Pause(ctx, time.Second)
		missed := now.Status.NetBox.Missed - source.Status.NetBox.Missed
		return missed >= int64(s.options.missed), nil
	})
	s.result.StoredSeconds = time.Since(began).Seconds()
	if err != nil {
		return err
	}
	err = fleet.Wait(ctx, limit, "all missed changes are acted on", func(context.Context) (bool, error) {
		return len(s.sink.of("every"))-acted >= s.options.missed, nil
	})
	s.result.ActedSeconds = time.Since(began).Seconds()
	return err
}

// settle waits until NetBox has sent everything, every change has an event, and every event is finished; and then for the search for phantoms.
func (s *scene) settle(ctx context.Context) error {
	if err := s.drained(ctx); err != nil {
		return err
	}
	if err := s.stored(ctx, nil); err != nil {
		return err
	}
	if err := s.fleet.Finished(ctx, 2*patience); err != nil {
		return err
	}
	fleet.Pause(ctx, lag+3*interval)
	return nil
}

// atRest counts the requests to NetBox with the default intervals while nothing changes.
func (s *scene) atRest(ctx context.Context) error {
	if err := s.change(ctx, `{"spec":{"netbox":{"backfill":{"interval":"1m","lag":"2m"}}}}`); err != nil {
		return err
	}
	for _, name := range []string{v1alpha1.ConditionWebhookConfigured, v1alpha1.ConditionChangeLogRead} {
		if _, err := s.condition(ctx, name, metav1.ConditionTrue); err != nil {
			return err
		}
	}
	fleet.Pause(ctx, time.Second)
	s.gate.reset()
	fleet.Pause(ctx, s.options.rest+time.Second) // the next reading begins a minute after the end of this one
	counts := s.gate.reset()
	s.result.RequestsPerHour, s.result.RequestKinds = perHour(counts, s.options.rest)
	const most = 600
	s.promises.Holds(s.result.RequestsPerHour <= most, "%.0f requests to NetBox an hour at rest, want at most %d", s.result.RequestsPerHour, most)
	return nil
}

// deletion deletes the source, and checks what is left in NetBox.
func (s *scene) deletion(ctx context.Context) error {
	own, err := s.own(ctx)
	if err != nil {
		return err
	}
	source, err := s.source(ctx)
	if err != nil {
		return err
	}
	if err := s.api().Delete(ctx, source); err != nil {
		return err
	}
	err = fleet.Wait(ctx, patience, "the source is deleted", func(ctx context.Context) (bool, error) {
		_, err := s.source(ctx)
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
	if err != nil {
		return err
	}
	for i, path := range []string{webhooks, eventRules} {
		_, err := s.get(ctx, path, own[i].id())
		var refused *netbox.StatusError
		s.promises.Holds(errors.As(err, &refused) && refused.Status == http.StatusNotFound, "%s is still in NetBox: %v", path, err)
	}
	return s.peoples(ctx)
}

// decoded decodes JSON whose form is known.
func decoded(text []byte) (value any) {
	_ = json.Unmarshal(text, &value) // it was decoded before
	return value
}
