package v1alpha1_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// policies installs the policies once for all tests: they share the control plane.
var policies sync.Once

// installPolicies creates the policies and bindings of config/default under their installed names.
func installPolicies(t *testing.T) {
	t.Helper()
	policies.Do(func() { createPolicies(t) })
}

func createPolicies(t *testing.T) {
	t.Helper()
	kubectl := exec.CommandContext(t.Context(), filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl"), "kustomize", "../../config/default")
	kubectl.Stderr = t.Output()
	manifests, err := kubectl.Output()
	if err != nil {
		t.Fatal(err)
	}
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096)
	for {
		var found unstructured.Unstructured
		if err := decoder.Decode(&found); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		if found.GroupVersionKind().Group == "admissionregistration.k8s.io" {
			plane.Create(t, &found)
		}
	}
}

// person returns the client of a user who may write sources, rules and their status in the namespace, with further permissions, each a verb
// and a resource name or *.
func person(t *testing.T, namespace, name string, rights ...string) client.Client {
	t.Helper()
	role := &rbacv1.Role{Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{v1alpha1.SchemeGroupVersion.Group},
		Resources: []string{"netboxsources", "netboxeventrules", "netboxeventrules/status"},
		Verbs:     []string{"create", "update", "patch"},
	}}}
	for _, right := range rights {
		verb, about, _ := strings.Cut(right, " ")
		resource := map[string]string{"get": "secrets", "list": "secrets", "impersonate": "serviceaccounts", "create": "serviceaccounts/token", "read": "configmaps"}[verb]
		if verb == "read" {
			verb = "get"
		}
		rule := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{resource}, Verbs: []string{verb}}
		if about != "*" {
			rule.ResourceNames = []string{about}
		}
		role.Rules = append(role.Rules, rule)
	}
	role.Namespace, role.Name = namespace, name
	binding := &rbacv1.RoleBinding{
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
	}
	binding.Namespace, binding.Name = namespace, name
	plane.Create(t, role, binding)

	config := rest.CopyConfig(plane.Config)
	config.Impersonate.UserName = name
	made, err := client.New(config, client.Options{Scheme: plane.Client.Scheme(), Mapper: plane.Client.RESTMapper()})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// signing returns a rule with an action for each Secret.
func signing(secrets ...string) string {
	return naming(`"signingSecretRef":{"name":%q,"key":"k"}`, secrets)
}

// trusting returns a rule with an action for each ConfigMap.
func trusting(configMaps ...string) string {
	return naming(`"tls":{"caConfigMapRef":{"name":%q,"key":"k"}}`, configMaps)
}

func naming(format string, names []string) string {
	actions := make([]string, len(names))
	for i, name := range names {
		actions[i] = fmt.Sprintf(`{"name":"a%d","http":{"url":"https://a",`+format+`}}`, i, name)
	}
	return `{"actions":[` + strings.Join(actions, ",") + `]}`
}

// largest returns a rule with the maximum of references, 144, to Secrets with names of the maximum length.
func largest(secrets int) string {
	var made int
	reference := func() string {
		made++
		return fmt.Sprintf(`{"name":"%0253d","key":"k"}`, made%secrets)
	}
	actions := make([]string, 32)
	for i := range actions {
		actions[i] = fmt.Sprintf(`{"name":"%063d","http":{"url":"https://a","signingSecretRef":%s,`+
			`"auth":{"oauth2":{"tokenURL":"https://a","clientID":"a","clientSecretRef":%s}},"tls":{"caSecretRef":%s,"clientCertSecretRef":%s}}}`,
			i, reference(), reference(), reference(), strings.Replace(reference(), `,"key":"k"`, "", 1))
	}
	named := make([]string, 16)
	for i := range named {
		named[i] = fmt.Sprintf(`{"name":"n%062d","secretKeyRef":%s}`, i, reference())
	}
	return `{"secrets":[` + strings.Join(named, ",") + `],"actions":[` + strings.Join(actions[:16], ",") +
		`],"onFailure":[` + strings.Join(actions[16:], ",") + `]}`
}

// TestNobodyGainsRights writes sources and rules as users who lack a permission that these would lend them.
func TestNobodyGainsRights(t *testing.T) {
	installPolicies(t)
	namespace := plane.Namespace(t)
	sending := func(what string) string {
		return `{"actions":[{"name":"announce","http":{"url":"https://a",` + what + `}}]}`
	}
	const (
		plain  = `{"actions":[{"name":"say","log":{"message":"m"}},{"name":"send","http":{"url":"https://a","headers":[{"name":"a","value":"b"}]}}]}`
		acting = `{"serviceAccountName":"provisioner","actions":[{"name":"make","apply":{"template":{"a":[1,2.5,{"b":null}]}}}]}`
		signed = `{"secretRef":{"name":"sink"}}`
	)
	var (
		named     = `{"secrets":[{"name":"a","secretKeyRef":{"name":"sink","key":"k"}}],` + strings.TrimPrefix(plain, "{")
		signature = sending(`"signingSecretRef":{"name":"sink","key":"k"}`)
		ca        = sending(`"tls":{"caSecretRef":{"name":"sink","key":"k"}}`)
		cert      = sending(`"tls":{"clientCertSecretRef":{"name":"sink"}}`)
		basic     = sending(`"auth":{"basic":{"secretRef":{"name":"sink"}}}`)
		oauth2    = sending(`"auth":{"oauth2":{"tokenURL":"https://a","clientID":"a","clientSecretRef":{"name":"sink","key":"k"}}}`)
		token     = `{"serviceAccountName":"provisioner",` + strings.TrimPrefix(sending(`"auth":{"serviceAccountToken":{"audience":"a"}}`), "{")
		bundle    = sending(`"tls":{"caConfigMapRef":{"name":"sink","key":"k"}}`)
		eight     = signing("a", "b", "a", "c", "d", "e", "f", "g", "h", "h", "b")
		nine      = signing("a", "b", "c", "d", "e", "f", "g", "h", "i")
	)
	calling := func(token, more string) string {
		return `{"unsigned":"Accept","netbox":{"url":"https://a","tokenSecretRef":{"name":"` + token + `","key":"k"},` + more + `}}`
	}
	failing := func(spec string) string { // as an action of onFailure
		return `{"serviceAccountName":"provisioner","actions":[{"name":"say","log":{"message":"m"}}],"onFailure":` + strings.TrimPrefix(spec, `{"actions":`)
	}
	const (
		noAccount = `may not impersonate service account "provisioner" in namespace "` // the namespace's name differs from run to run
		noToken   = `may not create tokens of service account "provisioner" in namespace "`
		noMap     = `may not get ConfigMap "sink" in namespace "`
		tooManyCM = "a rule may name at most 4 different ConfigMaps"
		noSecret  = `may not get Secret "sink" in namespace "`
		tooMany   = "a rule may name at most 8 different Secrets"
	)
	may := func(rights ...string) []string { return rights }

	probe := person(t, namespace, "probe")
	for kind, spec := range map[string]string{"NetBoxEventRule": signature, "NetBoxSource": signed} {
		eventually(t, "the policy about "+kind, func() error {
			made := object(t, kind, namespace, "", spec)
			made.SetGenerateName("probe-")
			if err := probe.Create(t.Context(), made, client.DryRunAll); !strings.Contains(fmt.Sprint(err), noSecret) {
				return fmt.Errorf("a probe is answered with %q", fmt.Sprint(err))
			}
			return nil
		})
	}

	for i, test := range []struct {
		reason  string
		kind    string // NetBoxEventRule where it is empty
		rights  []string
		before  string // where it is set: the spec that an administrator made
		spec    string // the spec that is created, or what an object from before is patched with
		message string // empty where it is taken
	}{
		{reason: "no references", spec: plain},
		{reason: "service account", spec: acting, rights: may("impersonate provisioner")},
		{reason: "service account, no right", spec: acting, message: noAccount},
		{reason: "service account, another's right", spec: acting, rights: may("impersonate other", "get *"), message: noAccount},
		{reason: "named", spec: named, rights: may("get sink")},
		{reason: "named, no right", spec: named, message: noSecret},
		{reason: "named, another Secret's right", spec: named, rights: may("get other", "list *", "impersonate *"), message: noSecret},
		{reason: "signature", spec: signature, rights: may("get *")},
		{reason: "signature, no right", spec: signature, message: noSecret},
		{reason: "authority", spec: ca, rights: may("get sink")},
		{reason: "authority, no right", spec: ca, message: noSecret},
		{reason: "certificate", spec: cert, rights: may("get sink")},
		{reason: "certificate, no right", spec: cert, message: noSecret},
		{reason: "basic authentication", spec: basic, rights: may("get sink")},
		{reason: "basic authentication, no right", spec: basic, message: noSecret},
		{reason: "client secret", spec: oauth2, rights: may("get sink")},
		{reason: "client secret, no right", spec: oauth2, message: noSecret},
		{reason: "ConfigMap", spec: bundle, rights: may("read sink")},
		{reason: "ConfigMap, no right", spec: bundle, rights: may("get sink", "read other"), message: noMap},
		{reason: "ConfigMap on failure, no right", spec: failing(bundle), rights: may("impersonate provisioner"), message: noMap},
		{reason: "4 ConfigMaps", spec: trusting("a", "b", "a", "c", "d"), rights: may("read *")},
		{
			reason: "4 ConfigMaps, the last missing", spec: trusting("a", "b", "a", "c", "d"), rights: may("read a", "read b", "read c"),
			message: `may not get ConfigMap "d" in namespace "` + namespace + `", which spec.actions[a4] names`,
		},
		{reason: "5 ConfigMaps", spec: trusting("a", "b", "c", "d", "e"), rights: may("read *"), message: tooManyCM},
		{reason: "token", spec: token, rights: may("impersonate provisioner", "create provisioner")},
		{reason: "token, no impersonation", spec: token, rights: may("create provisioner"), message: noAccount},
		{reason: "token, no right", spec: token, rights: may("impersonate provisioner", "create other"), message: noToken},
		{reason: "signature on failure, no right", spec: failing(signature), rights: may("impersonate provisioner"), message: noSecret},
		{reason: "authority on failure, no right", spec: failing(ca), rights: may("impersonate provisioner"), message: noSecret},
		{reason: "certificate on failure, no right", spec: failing(cert), rights: may("impersonate provisioner"), message: noSecret},
		{reason: "basic authentication on failure, no right", spec: failing(basic), rights: may("impersonate provisioner"), message: noSecret},
		{
			reason: "client secret on failure, no right", spec: failing(oauth2), rights: may("impersonate provisioner"),
			message: `which spec.onFailure[announce] names`,
		},
		{reason: "all on failure", spec: failing(oauth2), rights: may("impersonate provisioner", "get sink")},
		{reason: "service account on failure, no right", spec: failing(signature), rights: may("get sink"), message: noAccount},
		{
			reason: "token on failure, no right", message: noToken, rights: may("impersonate provisioner"),
			spec: failing(sending(`"auth":{"serviceAccountToken":{"audience":"a"}}`)),
		},

		{reason: "8 Secrets", spec: eight, rights: may("get *")},
		{
			reason: "8 Secrets, the first missing", spec: eight, message: `may not get Secret "a"`,
			rights: may("get b", "get c", "get d", "get e", "get f", "get g", "get h"),
		},
		{
			reason: "8 Secrets, one missing", spec: eight, message: `may not get Secret "d" in namespace "` + namespace + `", which spec.actions[a4] names`,
			rights: may("get a", "get b", "get c", "get e", "get f", "get g", "get h"),
		},
		{
			reason: "8 Secrets, the last missing", spec: eight, message: `may not get Secret "h"`,
			rights: may("get a", "get b", "get c", "get d", "get e", "get f", "get g"),
		},
		{reason: "9 Secrets", spec: nine, rights: may("get *"), message: tooMany},
		{reason: "as large as can be", spec: largest(8), rights: may("get *")},
		{reason: "as many Secrets as can be", spec: largest(64), rights: may("get *"), message: tooMany},

		{reason: "a label", before: named, spec: `{"metadata":{"labels":{"a":"b"},"finalizers":["a/b"]}}`},
		{reason: "a label of a rule with a template", before: acting, spec: `{"metadata":{"labels":{"a":"b"}}}`},
		{reason: "the spec as it was", before: named, spec: `{"spec":{"actions":` + strings.TrimPrefix(plain, `{"actions":`) + `}`},
		{reason: "a status", before: named, spec: `{"status":{"matched":1}}`},
		{
			reason: "a URL", before: named, message: noSecret,
			spec: `{"spec":{"actions":` + strings.ReplaceAll(strings.TrimPrefix(plain, `{"actions":`), "https://a", "https://b") + `}`,
		},
		{reason: "another field", before: named, spec: `{"spec":{"order":"None"}}`, message: noSecret},
		{reason: "another field, with the right", before: named, spec: `{"spec":{"order":"None"}}`, rights: may("get sink")},
		{reason: "a Secret taken out", before: named, spec: `{"spec":{"secrets":null}}`},
		{
			reason: "an action more of a service account", before: acting, message: noAccount,
			spec: `{"spec":{"actions":[{"name":"make","apply":{"template":{"a":2}}}]}}`,
		},

		{reason: "source, unsigned", kind: "NetBoxSource", spec: `{"unsigned":"Accept"}`},
		{reason: "source", kind: "NetBoxSource", spec: signed, rights: may("get sink")},
		{reason: "source, no right", kind: "NetBoxSource", spec: signed, rights: may("get other"), message: noSecret},
		{
			reason: "source, a token and a CA", kind: "NetBoxSource", spec: calling("sink", `"tls":{"caSecretRef":{"name":"ca","key":"k"}}`),
			rights: may("get sink", "get ca"),
		},
		{reason: "source, no right to its token", kind: "NetBoxSource", spec: calling("sink", `"lookups":"Allow"`), message: noSecret},
		{
			reason: "source, no right to its CA", kind: "NetBoxSource", spec: calling("token", `"tls":{"caSecretRef":{"name":"sink","key":"k"}}`),
			rights: may("get token"), message: noSecret,
		},
		{
			reason: "source, no right to its certificate", kind: "NetBoxSource", spec: calling("token", `"tls":{"clientCertSecretRef":{"name":"sink"}}`),
			rights: may("get token"), message: noSecret,
		},
		{
			reason: "source, no right to its ConfigMap", kind: "NetBoxSource", spec: calling("token", `"tls":{"caConfigMapRef":{"name":"sink","key":"k"}}`),
			rights: may("get token"), message: noMap,
		},
		{
			reason: "source, its token sent elsewhere", kind: "NetBoxSource", before: calling("sink", `"lookups":"Allow"`),
			spec: `{"spec":{"netbox":{"url":"https://b"}}}`, message: noSecret,
		},
		{reason: "source, its own default path", kind: "NetBoxSource", spec: `{"unsigned":"Accept","path":"/webhook/` + namespace + `/x"}`},
		{reason: "source, a path that is no default", kind: "NetBoxSource", spec: `{"unsigned":"Accept","path":"/webhook/other/x/y"}`},
		{
			reason: "source, another's default path", kind: "NetBoxSource", spec: `{"unsigned":"Accept","path":"/webhook/other/netbox/"}`,
			message: `may not create sources in namespace "other", and path`,
		},
		{
			reason: "source, patched to another's default path", kind: "NetBoxSource", before: `{"unsigned":"Accept"}`,
			spec: `{"spec":{"path":"/webhook/other/netbox"}}`, message: `may not create sources in namespace "other", and path`,
		},
		{reason: "source, a label", kind: "NetBoxSource", before: signed, spec: `{"metadata":{"labels":{"a":"b"}}}`},
		{reason: "source, another path", kind: "NetBoxSource", before: signed, spec: `{"spec":{"path":"/mine"}}`, message: noSecret},
	} {
		if test.kind == "" {
			test.kind = "NetBoxEventRule"
		}
		name := fmt.Sprintf("person-%d", i)
		somebody := person(t, namespace, name, test.rights...)
		if test.before != "" {
			plane.Create(t, object(t, test.kind, namespace, name, test.before))
		}
		// A Role takes effect after a moment.
		eventually(t, test.reason, func() (err error) {
			patch := client.RawPatch(types.MergePatchType, []byte(test.spec))
			switch {
			case test.before == "":
				err = somebody.Create(t.Context(), object(t, test.kind, namespace, name, test.spec))
			case strings.HasPrefix(test.spec, `{"status"`):
				err = somebody.Status().Patch(t.Context(), object(t, test.kind, namespace, name, `{}`), patch)
			default:
				err = somebody.Patch(t.Context(), object(t, test.kind, namespace, name, `{}`), patch)
			}
			if test.message == "" {
				return err
			}
			if err == nil {
				t.Fatalf("%s: admitted", test.reason)
			}
			if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), test.message) ||
				test.message != tooMany && test.message != tooManyCM && !strings.Contains(err.Error(), `"`+name+`" may not`) {
				return fmt.Errorf("refused with %w, want %q", err, test.message)
			}
			return nil
		})
	}
}

// TestEventNeverChanges tries to change the spec of an event as an administrator, and checks that other writes do not evaluate the policy.
func TestEventNeverChanges(t *testing.T) {
	installPolicies(t)
	namespace := plane.Namespace(t)
	plane.Create(t, object(t, "NetBoxEvent", namespace, "e", event))
	patch := func(text string, options ...client.PatchOption) error {
		return plane.Client.Patch(t.Context(), object(t, "NetBoxEvent", namespace, "e", `{}`), client.RawPatch(types.MergePatchType, []byte(text)), options...)
	}
	const message = "to process the event again, set annotation " + v1alpha1.AnnotationReplay
	eventually(t, "the policy about events", func() error {
		if err := patch(`{"spec":{"event":"deleted"}}`, client.DryRunAll); !refused(err, message) {
			return fmt.Errorf("a probe is answered with %q", fmt.Sprint(err))
		}
		return nil
	})
	for reason, text := range map[string]string{
		"a field":                            `{"spec":{"event":"deleted"}}`,
		"a new field":                        `{"spec":{"objectName":"x"}}`,
		"a value of the data":                `{"spec":{"data":{"a":2}}}`,
		"a key more":                         `{"spec":{"data":{"z":2}}}`,
		"a key less":                         `{"spec":{"data":{"b":null}}}`,
		"a key of another name":              `{"spec":{"data":{"a":null,"z":1}}}`,
		"a key of another name further down": `{"spec":{"data":{"c":{"d":null,"e":1}}}}`,
		"no data":                            `{"spec":{"data":null}}`,
		"extra data":                         `{"spec":{"extra":{"a":1}}}`,
		"the snapshots":                      `{"spec":{"snapshots":{"prechange":{}}}}`,
		"how it came":                        `{"spec":{"delivery":{"key":"x"}}}`,
		"a field beside an annotation":       `{"spec":{"event":"deleted"},"metadata":{"annotations":{"netbox-events.io/replay":"1"}}}`,
	} {
		if err := patch(text); !refused(err, message) {
			t.Errorf("%s: %v", reason, err)
		}
	}
	before := evaluations(t)
	if err := patch(`{"metadata":{"labels":{"a":"b"},"annotations":{"netbox-events.io/replay":"1"}}}`); err != nil {
		t.Errorf("a replay: %v", err)
	}
	if got := evaluations(t) - before; got != 1 {
		t.Errorf("%v evaluations at a change of the metadata, want 1", got)
	}
	finished := client.RawPatch(types.MergePatchType, []byte(`{"status":{"phase":"Succeeded"}}`))
	if err := plane.Client.Status().Patch(t.Context(), object(t, "NetBoxEvent", namespace, "e", `{}`), finished); err != nil {
		t.Errorf("a status: %v", err)
	}
	plane.Create(t, object(t, "NetBoxEvent", namespace, "another", event))
	if got := evaluations(t) - before; got != 1 {
		t.Errorf("%v evaluations more at a creation and a status write, want none", got-1)
	}
}

// evaluations returns how often the API server has evaluated the policy of event specs.
func evaluations(t *testing.T) (count float64) {
	t.Helper()
	metrics, err := discovery.NewDiscoveryClientForConfigOrDie(plane.Config).RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(metrics)) {
		if strings.HasPrefix(line, "apiserver_admission_match_condition_evaluation_seconds_count") && strings.Contains(line, "event-specs") {
			number, err := strconv.ParseFloat(strings.Fields(line)[1], 64)
			if err != nil {
				t.Fatal(err)
			}
			count += number
		}
	}
	return count
}

// eventually retries a check until it succeeds.
func eventually(t *testing.T, what string, done func() error) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := done()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s: %v", what, err)
			return
		}
	}
}

// warnings collects the warnings of the API server.
type warnings struct {
	mu   sync.Mutex
	seen []string
}

// HandleWarningHeader collects a warning.
func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, text)
}

// TestWarnings writes rules and sources that can match nothing, which the API server takes.
func TestWarnings(t *testing.T) {
	installPolicies(t)
	namespace := plane.Namespace(t)
	for i, test := range []struct {
		kind, spec string
		want       []string // parts of the warnings
	}{
		{"NetBoxEventRule", `{"match":{"events":["object_updated","Updated"],"objectTypes":["DCIM.Device"]},"actions":[{"name":"a","log":{"message":"m"}}]}`, []string{`"object_updated"`}},
		{"NetBoxEventRule", `{"match":{"events":["Update"],"objectTypes":["DCIM.Devices"]},"actions":[{"name":"a","log":{"message":"m"}}]}`, []string{`"Update"`, `"DCIM.Devices"`}},
		{"NetBoxEventRule", `{"match":{"events":["branch_merged","Created"],"objectTypes":["plugin.zones","ipam.ipaddress","dcim.*"]},"actions":[{"name":"a","log":{"message":"m"}}]}`, nil},
		{"NetBoxEventRule", `{"actions":[{"name":"a","log":{"message":"m"}}]}`, nil},
		{"NetBoxSource", `{"unsigned":"Accept","accept":{"events":["job_failed"],"objectTypes":["ipam.ip-addresses"]}}`, []string{`"job_failed"`, `"ipam.ip-addresses"`}},
		{"NetBoxSource", `{"unsigned":"Accept"}`, nil},
	} {
		eventually(t, test.spec, func() error {
			var got warnings
			config := rest.CopyConfig(plane.Config)
			config.WarningHandler = &got
			writer, err := client.New(config, client.Options{Scheme: plane.Client.Scheme(), Mapper: plane.Client.RESTMapper()})
			if err != nil {
				return err
			}
			if err := writer.Create(t.Context(), object(t, test.kind, namespace, fmt.Sprintf("warned-%d", i), test.spec), client.DryRunAll); err != nil {
				return err
			}
			if len(got.seen) != len(test.want) {
				return fmt.Errorf("warnings: %q, want %q", got.seen, test.want)
			}
			slices.Sort(got.seen) // of events first
			for i, part := range test.want {
				if !strings.Contains(got.seen[i], part) {
					return fmt.Errorf("warnings: %q, want %q", got.seen, test.want)
				}
			}
			return nil
		})
	}
}
