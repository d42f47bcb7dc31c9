package cli

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

func TestKeyProblem(t *testing.T) {
	long := strings.Repeat("é", maxKeyCharacters+1)
	for key, want := range map[string]checkResult{
		"k3y with spaces, and an ü": "", "\u00a0k3y after a no-break space": resultProblem, "two lines\nof a k3y, as of base64": resultWarning,
		"short": resultWarning, long: resultProblem, long[2:]: "", "no text \xff, but long enough": resultProblem, "with a \x00 in it, and so on": resultProblem,
	} {
		if got, problem, next := keyProblem(key); got != want || (problem == "") != (want == "") || (next == "") != (want == "") {
			t.Errorf("%q: %s %q %q, want %q", key, got, problem, next, want)
		}
	}
}

// TestCheckLarge expects that a refusal for which the operator does not read the body says nothing about the way of the body.
func TestCheckLarge(t *testing.T) {
	for status, want := range map[int]checkResult{
		http.StatusUnauthorized: resultOK, http.StatusBadRequest: resultOK, http.StatusRequestEntityTooLarge: resultProblem,
		http.StatusTooManyRequests: resultUnknown, http.StatusServiceUnavailable: resultUnknown, http.StatusNotFound: resultUnknown,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(`{"result":"refused"}`))
		}))
		t.Cleanup(server.Close)
		to, err := url.Parse(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		d := &doctor{plugin: newPlugin(genericiooptions.NewTestIOStreamsDiscard()), reach: &reach{now: time.Now}}
		d.checkLarge(t.Context(), &v1alpha1.NetBoxSource{Spec: v1alpha1.NetBoxSourceSpec{MaxBodyBytes: 1000}}, "URL", to)
		if len(d.Checks) != 1 || d.Checks[0].Result != want {
			t.Errorf("%d: %+v, want %s", status, d.Checks, want)
		}
	}
}

func TestRewrite(t *testing.T) {
	const path = "/webhook/netbox/netbox"
	for pattern, test := range map[string]struct{ target, want string }{
		"/":                 {"/", "/"},
		"/webhook(/|$)(.*)": {"/$2", "/netbox/netbox"},
		"/(.*)":             {"/$1", path},
		"/(webhook/.*)":     {"/$1", path},
		"/other":            {"/", path},
		"/(":                {"/", path},
	} {
		if got := rewrite(pattern, test.target, path); got != test.want {
			t.Errorf("%s to %s: %s, want %s", pattern, test.target, got, test.want)
		}
	}
}

func TestCovers(t *testing.T) {
	const path = "/webhook/netbox/netbox"
	for reason, test := range map[string]struct {
		route     route
		is, known bool
	}{
		"the path":                   {route{path: path, isExact: true}, true, true},
		"a prefix":                   {route{path: "/webhook/"}, true, true},
		"a part of a segment":        {route{path: "/web"}, false, true},
		"a prefix, exactly":          {route{path: "/webhook", isExact: true}, false, true},
		"all, with an asterisk":      {route{path: "/*", hasWildcard: true}, true, true},
		"others, with an asterisk":   {route{path: "/hooks/*", hasWildcard: true}, false, true},
		"an asterisk in between":     {route{path: "/webhook/*/netbox", hasWildcard: true}, true, false},
		"no asterisk":                {route{path: "/webhook", hasWildcard: true}, true, true},
		"a regular expression":       {route{path: "/webhook/.*", hasRegex: true}, true, true},
		"another regular expression": {route{path: "/hooks/.*", hasRegex: true}, false, true},
		"none":                       {route{path: "/(", hasRegex: true}, false, false},
	} {
		if is, known := test.route.covers(path); is != test.is || known != test.known {
			t.Errorf("%s: %t, %t", reason, is, known)
		}
	}
}

func TestIngressTLS(t *testing.T) {
	for host, want := range map[string]bool{"a.example.com": true, "a.b.example.com": false, "example.com": false, "other.example.org": true, "": false} {
		ingress := &networkingv1.Ingress{Spec: networkingv1.IngressSpec{TLS: []networkingv1.IngressTLS{
			{Hosts: []string{"*.example.com"}}, {Hosts: []string{"other.example.org"}},
		}}}
		if got, _ := tlsOf(ingress, host); got != want {
			t.Errorf("%q: %t, want %t", host, got, want)
		}
	}
}

func TestSizes(t *testing.T) {
	for value, want := range map[string]int64{"500k": 512_000, "1m": 1 << 20, "2G": 2 << 30, "1000": 1000, "0": 1<<63 - 1, "x": 1<<63 - 1} {
		if got := parseSize(value); got != want {
			t.Errorf("%s: %d, want %d", value, got, want)
		}
	}
}

// TestCertificates looks at certificates of a host that are well, or not.
func TestCertificates(t *testing.T) {
	now := time.Now()
	_, well := certificate(t, testHost, now.Add(90*24*time.Hour))
	_, ending := certificate(t, testHost, now.Add(10*24*time.Hour))
	_, ended := certificate(t, testHost, now.Add(-time.Hour))
	for reason, test := range map[string]struct {
		text, host string
		result     checkResult
		want       string
	}{
		"well":         {string(readFile(t, well)), testHost, "", ""},
		"any host":     {string(readFile(t, well)), "", "", ""},
		"ends soon":    {string(readFile(t, ending)), testHost, resultWarning, "ends soon, at "},
		"is over":      {string(readFile(t, ended)), testHost, resultProblem, "is over since "},
		"another host": {string(readFile(t, well)), "other.example.com", resultProblem, "is not for other.example.com: certificate \"CN=Example CA\" for " + testHost},
		"none":         {"x", testHost, resultProblem, "has no certificate"},
		"malformed":    {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", testHost, resultProblem, "is malformed"},
	} {
		t.Run(reason, func(t *testing.T) {
			d := &doctor{plugin: newPlugin(genericiooptions.NewTestIOStreamsDiscard())}
			d.checkCertificate("Ingress", []byte(test.text), test.host)
			switch {
			case test.result == "" && len(d.Checks) > 0:
				t.Errorf("%+v", d.Checks)
			case test.result != "" && (len(d.Checks) != 1 || d.Checks[0].Result != test.result || d.Checks[0].Next == ""):
				t.Errorf("%+v, want one %s", d.Checks, test.result)
			case test.result != "":
				contains(t, d.Checks[0].Text, test.want)
			}
		})
	}
}

// newKinds makes CRDs of the kinds of others, as far as doctor reads them.
func newKinds(t *testing.T, kinds map[string][3]string) {
	t.Helper()
	var crds []*apiextensionsv1.CustomResourceDefinition
	for kind, names := range kinds {
		group, version, plural := names[0], names[1], names[2]
		crds = append(crds, &apiextensionsv1.CustomResourceDefinition{
			ObjectMeta: metav1.ObjectMeta{
				Name: plural + "." + group, Annotations: map[string]string{"api-approved.kubernetes.io": "unapproved, for a test"},
			},
			Spec: apiextensionsv1.CustomResourceDefinitionSpec{
				Group: group, Scope: apiextensionsv1.NamespaceScoped, Names: apiextensionsv1.CustomResourceDefinitionNames{Kind: kind, Plural: plural},
				Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
					Name: version, Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{
						OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: new(true)},
					},
				}},
			},
		})
	}
	if _, err := envtest.InstallCRDs(plane().Config, envtest.CRDInstallOptions{CRDs: crds}); err != nil {
		t.Fatal(err)
	}
}

// newObject makes an object of YAML.
func newObject(t *testing.T, namespace, text string) {
	t.Helper()
	object := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &object.Object); err != nil {
		t.Fatal(err)
	}
	object.SetNamespace(namespace)
	plane().Create(t, object)
}

// TestDoctorRoutes looks at Ingresses and HTTPRoutes with settings that NetBox's deliveries do not survive.
func TestDoctorRoutes(t *testing.T) {
	newKinds(t, map[string][3]string{
		"HTTPRoute":        {"gateway.networking.k8s.io", "v1", "httproutes"},
		"Middleware":       {traefikGroup, "v1alpha1", "middlewares"},
		"ServersTransport": {traefikGroup, "v1alpha1", "serverstransports"},
	})
	const httpRoute = `{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: route}, `
	withTLS := networkingv1.IngressTLS{Hosts: []string{testHost}, SecretName: "missing"}
	for reason, test := range map[string]struct {
		make func(t *testing.T, namespace string)
		code int
		want []string
	}{
		"nothing leads to it": {func(*testing.T, string) {}, exitWell, []string{"no Ingress or HTTPRoute leads to Service netbox-event-operator"}},
		"another path": {func(t *testing.T, namespace string) {
			t.Helper()
			newIngress(t, namespace, "/hooks", nil)
		}, exitFound, []string{
			"nothing leads to its path /webhook/", "but Ingress", "with /hooks",
		}},
		"a part of a segment": {func(t *testing.T, namespace string) {
			t.Helper()
			newIngress(t, namespace, "/web", nil)
		}, exitFound, []string{"nothing leads to its path"}},
		"a password": {func(t *testing.T, namespace string) {
			t.Helper()
			newIngress(t, namespace, "/webhook/", map[string]string{nginx + "auth-type": "basic"})
		}, exitFound, []string{"auth-type asks for what NetBox does not send: basic"}},
		"a redirect": {func(t *testing.T, namespace string) {
			t.Helper()
			newIngress(t, namespace, "/", map[string]string{nginx + "permanent-redirect": "https://other.example.com"})
		}, exitFound, []string{"permanent-redirect redirects to https://other.example.com"}},
		"two operators": {func(t *testing.T, namespace string) {
			t.Helper()
			installOperator(t, plane().Namespace(t), namespace, time.Now())
		}, exitFound, []string{"2 operators watch namespace"}},
		"no Service": {func(t *testing.T, namespace string) {
			t.Helper()
			if err := plane().Client.DeleteAllOf(t.Context(), &corev1.Service{}, client.InNamespace(namespace)); err != nil {
				t.Fatal(err)
			}
		}, exitFound, []string{"selects its pods: no delivery reaches them"}},
		"a load balancer": {func(t *testing.T, namespace string) {
			t.Helper()
			var service corev1.Service
			if err := plane().Client.Get(t.Context(), keyOf(namespace, operatorName), &service); err != nil {
				t.Fatal(err)
			}
			service.Spec.Type = corev1.ServiceTypeLoadBalancer
			if err := plane().Client.Update(t.Context(), &service); err != nil {
				t.Fatal(err)
			}
		}, exitWell, []string{"is of type LoadBalancer, without Ingress or HTTPRoute"}},
		"HAProxy": {func(t *testing.T, namespace string) {
			t.Helper()
			newIngress(t, namespace, "/", map[string]string{haproxy + "timeout-server": "5s", haproxy + "path-rewrite": "/"})
		}, exitFound, []string{"timeout-server is 5s", "path-rewrite changes the path"}},
		"AWS": {func(t *testing.T, namespace string) {
			t.Helper()
			newIngress(t, namespace, "/", map[string]string{alb + "load-balancer-attributes": "a=b,idle_timeout.timeout_seconds=20,c=d"})
		}, exitFound, []string{"idle_timeout.timeout_seconds is 20s"}},
		"no time": {func(t *testing.T, namespace string) {
			t.Helper()
			newIngress(t, namespace, "/", map[string]string{nginx + "proxy-read-timeout": "long"})
		}, exitWell, []string{`unknown   nginx.ingress.kubernetes.io/proxy-read-timeout: "long" is no time`}},
		"no certificate": {func(t *testing.T, namespace string) {
			t.Helper()
			newIngress(t, namespace, "/", nil, withTLS)
		}, exitFound, []string{
			"Secret missing of its certificate does not exist",
		}},
		"Middlewares": {func(t *testing.T, namespace string) {
			t.Helper()
			newObject(t, namespace, `{apiVersion: traefik.io/v1alpha1, kind: Middleware, metadata: {name: strip}, spec: {stripPrefix: {prefixes: [/webhook]}}}`)
			newObject(t, namespace, `{apiVersion: traefik.io/v1alpha1, kind: Middleware, metadata: {name: https}, spec: {redirectScheme: {scheme: https}}}`)
			newObject(t, namespace, `{apiVersion: traefik.io/v1alpha1, kind: Middleware, metadata: {name: small}, spec: {buffering: {maxRequestBodyBytes: 1000}}}`)
			newObject(t, namespace, `{apiVersion: traefik.io/v1alpha1, kind: Middleware, metadata: {name: login}, spec: {forwardAuth: {address: "http://a"}}}`)
			names := ""
			for _, name := range []string{"strip", "https", "small", "login", "none"} {
				names += namespace + "-" + name + "@kubernetescrd, "
			}
			newIngress(t, namespace, "/", map[string]string{"traefik.ingress.kubernetes.io/router.middlewares": names + "other@file"})
		}, exitFound, []string{
			"-strip@kubernetescrd (stripPrefix) changes the path", "-https@kubernetescrd (redirectScheme) redirects requests",
			"-small@kubernetescrd lets 1000 bytes through", "-login@kubernetescrd (forwardAuth) asks for", "there is no such Middleware",
			`it is of Traefik's provider "file"`,
		}},
		"a ServersTransport": {func(t *testing.T, namespace string) {
			t.Helper()
			newObject(t, namespace, `{apiVersion: traefik.io/v1alpha1, kind: ServersTransport, metadata: {name: slow},
				spec: {forwardingTimeouts: {responseHeaderTimeout: 10s}}}`)
			var service corev1.Service
			if err := plane().Client.Get(t.Context(), keyOf(namespace, operatorName), &service); err != nil {
				t.Fatal(err)
			}
			service.Annotations = map[string]string{"traefik.ingress.kubernetes.io/service.serverstransport": namespace + "-slow@kubernetescrd"}
			if err := plane().Client.Update(t.Context(), &service); err != nil {
				t.Fatal(err)
			}
		}, exitFound, []string{"responseHeaderTimeout of ServersTransport"}},
		"an HTTPRoute": {func(t *testing.T, namespace string) {
			t.Helper()
			newObject(t, namespace, httpRoute+`spec: {hostnames: [`+testHost+`], rules: [
				{matches: [{path: {type: PathPrefix, value: /webhook}}], backendRefs: [{name: netbox-event-operator}], timeouts: {request: 10s},
				 filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]},
				{backendRefs: [{name: other}]}]}, status: {parents: [{conditions: [
				{type: Accepted, status: "False", reason: NotAllowedByListeners, message: "not allowed"}, {type: ResolvedRefs, status: "True"}]}]}}`)
		}, exitFound, []string{"Accepted is False (NotAllowedByListeners): not allowed", "timeouts.request is 10s", "it changes the path"}},
		"an HTTPRoute without Gateway": {func(t *testing.T, namespace string) {
			t.Helper()
			newObject(t, namespace, httpRoute+`spec: {rules: [{backendRefs: [{name: netbox-event-operator}]}]}}`)
		}, exitFound, []string{"no Gateway has taken it", "leads from any host/ to source netbox"}},
		"an HTTPRoute for another path": {func(t *testing.T, namespace string) {
			t.Helper()
			newObject(t, namespace, httpRoute+`spec: {rules: [{matches: [{path: {type: Exact, value: /webhook}}], backendRefs: [{name: netbox-event-operator}]}]},
				status: {parents: [{conditions: [{type: Accepted, status: "True"}]}]}}`)
		}, exitFound, []string{"nothing leads to its path"}},
	} {
		t.Run(reason, func(t *testing.T) {
			space := plane().Namespace(t)
			installOperator(t, space, space, time.Now())
			newService(t, space)
			newSource(t, space, "netbox", v1alpha1.NetBoxSourceSpec{}, serving)
			test.make(t, space)
			user := newSession(t, space)
			user.later(0)
			got := user.run(t, "doctor")
			if got.code != test.code {
				t.Errorf("exit code %d, want %d", got.code, test.code)
			}
			contains(t, got.out+got.err, test.want...)
			if t.Failed() {
				t.Log(got.out)
			}
		})
	}
}
