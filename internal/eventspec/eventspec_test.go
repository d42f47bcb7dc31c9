package eventspec

import (
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
)

func TestBodyName(t *testing.T) {
	for _, test := range []struct{ model, id, event, want string }{
		{"site", "14", "created", `^site-14-created-[0-9a-f]{20}$`},
		{
			"device", "56a46ee7-2f04-454b-8bef-4771e053f94a", "updated",
			`^device-56a46ee7-2f04-454b-8bef-4771e053f94a-updated-[0-9a-f]{20}$`,
		},
		{"script", "", "job_ended", `^script-job-ended-[0-9a-f]{20}$`},
		{"東京", "-", "", `^[0-9a-f]{20}$`},
	} {
		got := ChangeName(&v1alpha1.NetBoxEventSpec{Model: test.model, ObjectID: test.id, Event: test.event}, "uid")
		if !regexp.MustCompile(test.want).MatchString(got) {
			t.Errorf("%s, want %s", got, test.want)
		}
	}
	event := &v1alpha1.NetBoxEventSpec{Model: "site"}
	other := &v1alpha1.NetBoxEventSpec{Model: "site", Delivery: v1alpha1.Delivery{BodySHA256: "01"}}
	if ChangeName(event, "a") == ChangeName(event, "b") || ChangeName(event, "a") == ChangeName(other, "a") {
		t.Error("two sources or two bodies share a name")
	}
}

// TestChangeName checks that the name of a change is of its source, request and object, and not of the body.
func TestChangeName(t *testing.T) {
	source := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: "netbox", Name: "netbox", UID: "a"}}
	decode := func(body string) *netbox.Event {
		event, err := netbox.Decode([]byte(body), nil)
		if err != nil {
			t.Fatal(err)
		}
		return event
	}
	webhook := New(decode(`{"event": "updated", "timestamp": "2026-11-27T08:00:01Z", "object_type": "dcim.site",
		"data": {"id": 14, "name": "ams1"}, "request": {"id": "r1", "user": "admin"}}`), Delivery{Source: source, Origin: v1alpha1.OriginWebhook})
	logged := New(decode(`{"event": "updated", "timestamp": "2026-11-27T08:00:00Z", "object_type": "dcim.site",
		"data": {"id": 14, "name": "ams2"}, "request": {"id": "r1", "user": "admin"}}`),
		Delivery{Source: source, Origin: v1alpha1.OriginChangeLog, DataReadAt: time.Unix(1, 0)})
	if webhook.Name != logged.Name || !IsSame(logged, webhook, source) {
		t.Errorf("the webhook of a change is %s, its rows are %s", webhook.Name, logged.Name)
	}
	if logged.Spec.Delivery.Signature != "" || webhook.Spec.Delivery.Signature != v1alpha1.SignatureUnsigned {
		t.Errorf("signatures: %q and %q", logged.Spec.Delivery.Signature, webhook.Spec.Delivery.Signature)
	}
	for name, change := range map[string]func(*v1alpha1.NetBoxEventSpec) types.UID{
		"source":  func(*v1alpha1.NetBoxEventSpec) types.UID { return "b" },
		"request": func(spec *v1alpha1.NetBoxEventSpec) types.UID { spec.RequestID = "r2"; return source.UID },
		"type":    func(spec *v1alpha1.NetBoxEventSpec) types.UID { spec.ObjectType = "other.site"; return source.UID },
		"object":  func(spec *v1alpha1.NetBoxEventSpec) types.UID { spec.ObjectID = "1-4"; return source.UID },
	} {
		other := webhook.DeepCopy()
		if uid := change(&other.Spec); ChangeName(&other.Spec, uid) == webhook.Name {
			t.Errorf("another %s has the same name", name)
		}
	}
}

// TestSameChange: two event rules of NetBox send one change twice. An old NetBox sends several changes of an object in one request.
func TestSameChange(t *testing.T) {
	event := func(sha, status string) *v1alpha1.NetBoxEvent {
		return &v1alpha1.NetBoxEvent{Spec: v1alpha1.NetBoxEventSpec{
			Data:     v1alpha1.JSONObject{"status": {Raw: []byte(status)}, "n": {Raw: []byte(`1.0`)}},
			Delivery: v1alpha1.Delivery{BodySHA256: sha},
		}}
	}
	stored := event("a", `{"value": "active", "label": "Active"}`)
	stored.Spec.Data["n"] = v1alpha1.JSON{Raw: []byte(`1`)} // as the API server stores it
	without, with := &v1alpha1.NetBoxSource{}, &v1alpha1.NetBoxSource{}
	with.Spec.NetBox = &v1alpha1.NetBoxAPI{Backfill: &v1alpha1.Backfill{}}
	got := map[string]bool{
		"same body":                      IsSame(stored, event("a", `"other"`), without),
		"other timestamp, webhooks only": IsSame(stored, event("b", `{"label": "Active", "value": "active"}`), without),
		"other timestamp":                IsSame(stored, event("b", `{"label": "Active", "value": "active"}`), with),
		"other data":                     IsSame(stored, event("b", `"planned"`), with),
	}
	want := map[string]bool{"same body": true, "other timestamp, webhooks only": false, "other timestamp": true, "other data": false}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// FuzzName checks that the API server takes the name of any event.
func FuzzName(f *testing.F) {
	f.Add("site", "14", "created", "uid", "")
	f.Add("A.b/ü\x00", "--", "\n", "", "r")
	f.Fuzz(func(t *testing.T, model, id, event, uid, request string) {
		spec := &v1alpha1.NetBoxEventSpec{Model: model, ObjectType: model, ObjectID: id, Event: event, RequestID: request}
		name := ChangeName(spec, types.UID(uid))
		if faults := validation.IsDNS1123Subdomain(name); len(faults) > 0 {
			t.Fatalf("%q: %v", name, faults)
		}
	})
}
