package v1alpha1_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

var plane *controlplane.ControlPlane

func TestMain(m *testing.M) { controlplane.Main(m, &plane) }

func object(t *testing.T, kind, namespace, name, spec string) *unstructured.Unstructured {
	t.Helper()
	made := &unstructured.Unstructured{Object: map[string]any{}}
	var content any
	if err := json.Unmarshal([]byte(spec), &content); err != nil {
		t.Fatal(err)
	}
	made.Object["spec"] = content
	made.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind(kind))
	made.SetNamespace(namespace)
	made.SetName(name)
	return made
}

// refused reports whether the API server refused an object with a message that contains the text; "" means that it was accepted.
func refused(err error, message string) bool {
	if message == "" {
		return err == nil
	}
	return apierrors.IsInvalid(err) && strings.Contains(err.Error(), message)
}

func TestSourceRules(t *testing.T) {
	namespace := plane.Namespace(t)
	for reason, test := range map[string]struct{ spec, message string }{
		"signed":                       {`{"secretRef":{"name":"s"}}`, ""},
		"unsigned on purpose":          {`{"unsigned":"Accept"}`, ""},
		"unsigned by mistake":          {`{}`, "a source without secretRef must set unsigned: Accept"},
		"unsigned, and yet rejecting":  {`{"unsigned":"Reject"}`, "a source without secretRef must set unsigned: Accept"},
		"another policy":               {`{"unsigned":"Maybe"}`, "Unsupported value"},
		"a Secret without name":        {`{"secretRef":{"name":""}}`, "spec.secretRef.name"},
		"a path":                       {`{"unsigned":"Accept","path":"/a/b.c~d_e-f/"}`, ""},
		"a path without slash":         {`{"unsigned":"Accept","path":"a"}`, "spec.path"},
		"a path with a query":          {`{"unsigned":"Accept","path":"/a?b"}`, "spec.path"},
		"a path with an empty part":    {`{"unsigned":"Accept","path":"/a//b"}`, "spec.path"},
		"the path of the docs":         {`{"unsigned":"Accept","path":"/docs/"}`, "are reserved for the receiver"},
		"the path of the document":     {`{"unsigned":"Accept","path":"/openapi.json/"}`, "are reserved for the receiver"},
		"a path that clients resolve":  {`{"unsigned":"Accept","path":"/a/../b"}`, "spec.path"},
		"a Secret that cannot be":      {`{"secretRef":{"name":"a/b"}}`, "spec.secretRef.name"},
		"an entry that cannot be":      {`{"secretRef":{"name":"a","key":"b/c"}}`, "spec.secretRef.key"},
		"no body":                      {`{"unsigned":"Accept","maxBodyBytes":0}`, "spec.maxBodyBytes"},
		"an age":                       {`{"unsigned":"Accept","maxAge":"24h"}`, ""},
		"an age as long as retention":  {`{"unsigned":"Accept","maxAge":"1h","retention":{"succeededTTL":"1h","failedTTL":"2h"}}`, ""},
		"an age beyond retention":      {`{"unsigned":"Accept","maxAge":"73h"}`, "maxAge must not be longer"},
		"an age beyond a failed one's": {`{"unsigned":"Accept","maxAge":"2h","retention":{"failedTTL":"1h"}}`, "maxAge must not be longer"},
		"an age in days":               {`{"unsigned":"Accept","maxAge":"1d"}`, "must be longer than 0s, for example 90s; the largest unit is h"},
		"an age of nothing":            {`{"unsigned":"Accept","maxAge":"0s"}`, "must be longer than 0s"},
		"a rate":                       {`{"unsigned":"Accept","rateLimit":{"requestsPerSecond":1,"burst":1}}`, ""},
		"a rate of nothing":            {`{"unsigned":"Accept","rateLimit":{"requestsPerSecond":0,"burst":1}}`, "requestsPerSecond"},
		"a NetBox":                     {netbox(``), ""},
		"a NetBox with a base path":    {netbox(`"url":"https://example.com/netbox/"`), ""},
		"a NetBox of another scheme":   {netbox(`"url":"ftp://netbox"`), "must be an http or https URL"},
		"a NetBox with a password":     {netbox(`"url":"https://u:p@netbox"`), "must be an http or https URL"},
		"a webhook":                    {netbox(`"webhook":{"url":"https://n/webhook/a","objectTypes":["dcim.site","ipam.*"],"events":["created"]}`), ""},
		"a webhook of all and one":     {netbox(`"webhook":{"url":"https://n/a","objectTypes":["*","dcim.site"]}`), "remove the others"},
		"a webhook of an odd type":     {netbox(`"webhook":{"url":"https://n/a","objectTypes":["Sites"]}`), "spec.netbox.webhook.objectTypes"},
		"a webhook with a template":    {netbox(`"webhook":{"url":"https://n/{{ a }}"}`), "must be an http or https URL"},
		"a backfill":                   {netbox(`"backfill":{}`), ""},
		"a backfill beyond retention":  {netbox(`"backfill":{"maxAge":"73h"}`), "netbox.backfill.maxAge must not be longer"},
		"a retention that never ends":  {`{"unsigned":"Accept","retention":{"succeededTTL":"forever"}}`, "succeededTTL"},
	} {
		made := object(t, "NetBoxSource", namespace, "", test.spec)
		made.SetGenerateName("s-")
		err := plane.Client.Create(t.Context(), made)
		if !refused(err, test.message) {
			t.Errorf("%s: %v, want %q", reason, err, test.message)
		}
	}
}

// netbox returns a source with spec.netbox.
func netbox(more string) string {
	if !strings.Contains(more, `"url":"`) || strings.HasPrefix(more, `"webhook"`) {
		more = strings.Trim(`"url":"https://netbox",`+more, ",")
	}
	return `{"unsigned":"Accept","netbox":{"tokenSecretRef":{"name":"a","key":"b"},` + more + `}}`
}

func TestSourceDefaults(t *testing.T) {
	namespace := plane.Namespace(t)
	for name, test := range map[string]struct {
		spec   string
		redact int
	}{"absent": {`{"unsigned":"Accept"}`, 5}, "empty": {`{"unsigned":"Accept","redact":[]}`, 0}} {
		plane.Create(t, object(t, "NetBoxSource", namespace, name, test.spec))
		var stored v1alpha1.NetBoxSource
		key := types.NamespacedName{Namespace: namespace, Name: name}
		if err := plane.Client.Get(t.Context(), key, &stored); err != nil {
			t.Fatal(err)
		}
		// A client of this package must not turn an empty list into the default.
		stored.Spec.Suspend = true
		if err := plane.Client.Update(t.Context(), &stored); err != nil {
			t.Fatal(err)
		}
		if len(stored.Spec.Redact) != test.redact || stored.Spec.MaxBodyBytes != 1_000_000 ||
			stored.Spec.Retention != v1alpha1.DefaultRetention() {
			t.Errorf("%s: %+v", name, stored.Spec)
		}
	}
}

const event = `{
	"sourceRef": {"name": "netbox"}, "event": "updated", "objectType": "dcim.site", "objectID": "14", "username": "admin", "requestID": "r",
	"timestamp": "2026-11-23T10:00:00.000000Z", "data": {"a": 1, "b": null, "c": {"d": null}}, "snapshots": {"prechange": null}, "context": {},
	"delivery": {"receivedAt": "2026-11-23T10:00:00.000000Z", "signature": "Verified", "bodyBytes": 10,
		"bodySHA256": "0000000000000000000000000000000000000000000000000000000000000000"}
}`

func TestEventRules(t *testing.T) {
	namespace := plane.Namespace(t)
	for reason, test := range map[string]struct{ old, new, message string }{
		"as the receiver makes it":            {"", "", ""},
		"no source":                           {`"name": "netbox"`, `"name": ""`, "spec.sourceRef.name"},
		"an empty event":                      {`"updated"`, `""`, "spec.event"},
		"a timestamp that Go would not parse": {"10:00:00.000000Z", "10:00:00Z", "spec.timestamp"},
		"a digest of another kind":            {`"bodySHA256": "0`, `"bodySHA256": "g`, "spec.delivery.bodySHA256"},
		"a signature that nobody checked":     {"Verified", "Perhaps", "spec.delivery.signature"},
		"from the change log":                 {`"signature": "Verified"`, `"origin": "ChangeLog", "dataReadAt": "2026-11-23T10:00:00.000000Z"`, ""},
		"from elsewhere":                      {`"bodyBytes"`, `"origin": "Rumour", "bodyBytes"`, "spec.delivery.origin"},
		"a trace":                             {`"bodyBytes"`, `"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "bodyBytes"`, ""},
		"no trace":                            {`"bodyBytes"`, `"traceparent": "00-0af7", "bodyBytes"`, "spec.delivery.traceparent"},
	} {
		spec := strings.ReplaceAll(event, test.old, test.new)
		if test.old == "" {
			spec = event
		}
		made := object(t, "NetBoxEvent", namespace, "", spec)
		made.SetGenerateName("e-")
		if err := plane.Client.Create(t.Context(), made); !refused(err, test.message) {
			t.Errorf("%s: %v, want %q", reason, err, test.message)
		}
	}
}

// TestEventKeepsNulls stores nulls, empty and missing objects, which Kubernetes often does not distinguish.
func TestEventKeepsNulls(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, object(t, "NetBoxEvent", namespace, "e", event))
	var stored v1alpha1.NetBoxEvent
	if err := plane.Client.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: "e"}, &stored); err != nil {
		t.Fatal(err)
	}
	if got := string(stored.Spec.Data["b"].Raw) + string(stored.Spec.Data["c"].Raw) + string(stored.Spec.Snapshots["prechange"].Raw); got != `null{"d":null}null` {
		t.Errorf("nulls are stored as %s", got)
	}
	if stored.Spec.Context == nil || stored.Spec.Extra != nil {
		t.Errorf("an empty object is stored as %v, a missing one as %v", stored.Spec.Context, stored.Spec.Extra)
	}
	late := client.RawPatch(types.MergePatchType, []byte(`{"status":{"startTime":"2026-11-23t10:00:00z"}}`))
	if err := plane.Client.Status().Patch(t.Context(), object(t, "NetBoxEvent", namespace, "e", `{}`), late); !refused(err, "status.startTime") {
		t.Errorf("a time that Go would not parse: %v", err)
	}
}

// TestEventFields selects by every selectable field, and checks that spec and status are atomic in managedFields.
func TestEventFields(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, object(t, "NetBoxEvent", namespace, "e", event))
	replayed := client.RawPatch(types.MergePatchType, []byte(`{"status":{"replay":"1"}}`))
	if err := plane.Client.Status().Patch(t.Context(), object(t, "NetBoxEvent", namespace, "e", `{}`), replayed); err != nil {
		t.Fatal(err)
	}
	for field, value := range map[string]string{
		"spec.objectType": "dcim.site", "spec.objectID": "14", "spec.event": "updated", "spec.username": "admin", "spec.requestID": "r",
		"spec.sourceRef.name": "netbox", "status.phase": "Pending",
	} {
		for want, value := range []string{"other", value} {
			var found v1alpha1.NetBoxEventList
			err := plane.Client.List(t.Context(), &found, client.InNamespace(namespace), client.MatchingFields{field: value})
			if err != nil || len(found.Items) != want {
				t.Errorf("%s=%s selects %d events: %v", field, value, len(found.Items), err)
			}
			if want == 1 && found.Items[0].Status.Phase != v1alpha1.PhasePending {
				t.Errorf("the phase of a new event is %q", found.Items[0].Status.Phase)
			}
			for _, item := range found.Items {
				if fields := string(managed(item.ManagedFields)); fields != `{"f:spec":{}}{"f:status":{}}` {
					t.Errorf("fields are tracked one by one: %s", fields)
				}
			}
		}
	}
}

func managed(entries []metav1.ManagedFieldsEntry) (fields []byte) {
	for _, entry := range entries {
		fields = append(fields, entry.FieldsV1.GetRawBytes()...)
	}
	return fields
}

// TestFluxSubstitution checks that Flux does not replace ${…} in the CRDs, whose descriptions have templates.
func TestFluxSubstitution(t *testing.T) {
	files, err := filepath.Glob("../../config/crd/bases/*.yaml")
	if err != nil || len(files) != 3 {
		t.Fatalf("%d CRDs, %v; want 3", len(files), err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var crd metav1.PartialObjectMetadata
		if err := yaml.Unmarshal(content, &crd); err != nil {
			t.Fatal(err)
		}
		if got := crd.Annotations["kustomize.toolkit.fluxcd.io/substitute"]; got != "disabled" {
			t.Errorf("the annotation of %s is %q", crd.Name, got)
		}
	}
}
