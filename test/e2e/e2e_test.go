//go:build e2e

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
)

var target *cluster

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if target, err = connect(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer target.deleteCRDs(context.Background()) // leave the cluster clean for the next run, also after a failure
		return m.Run()
	}())
}

const (
	host   = "netbox-events.example.com"
	source = "netbox"
)

// TestRelease goes through the life of a release: install, upgrade, roll, delete a pod, rotate the key, act, uninstall.
func TestRelease(t *testing.T) {
	const namespace = "netbox-e2e"
	target.namespace(t, namespace)
	path := "/webhook/" + namespace + "/" + source
	older, fromDir := target.previousChart, false
	if older == "" {
		older, fromDir = otherChart(t, "0.0.1"), true
	}

	values := []string{
		"--set", "ingress.enabled=true", "--set", "ingress.className=" + target.ingressClass, "--set", "ingress.host=" + host,
		"--set", "sources[0].name=" + source, "--set", "sources[0].generateSecret=true",
	}
	install := slices.Concat([]string{"install", release, older, "--wait", "--timeout=3m"}, values, helmImage(target.previousImage))
	notes := target.runHelm(t, namespace, install...)
	t.Logf("the notes of the installation:\n%s", notes)
	for _, wanted := range []string{
		"http://" + host + path,
		"kubectl get secret netbox-webhook -n " + namespace,
		"kubectl get netboxevents -n " + namespace,
	} {
		if !strings.Contains(notes, wanted) {
			t.Errorf("the notes do not contain %q", wanted)
		}
	}

	ingress := way{name: "Ingress", url: target.url, host: host, client: &http.Client{}}
	key := secretKey(t, namespace, "secret")
	first := unique(recorded(t)[0])
	target.served(t, ingress, path)
	stored, err := ingress.send(t.Context(), path, key, first)
	if err != nil || stored.Result != "ok" {
		t.Fatalf("the first delivery: %+v, %v", stored, err)
	}
	again, err := ingress.send(t.Context(), path, key, first)
	if err != nil || again.Result != "duplicate" || again.Event != stored.Event {
		t.Errorf("the first delivery again: %+v, %v", again, err)
	}
	refused, err := ingress.send(t.Context(), path, "another key", unique(recorded(t)[0]))
	if err != nil || refused.status != http.StatusUnauthorized {
		t.Errorf("a delivery with another key: %+v, %v", refused, err)
	}
	eventually(t, "the first event does not succeed", func() bool {
		return target.event(t, stored.Event).Status.Phase == v1alpha1.PhaseSucceeded
	})

	t.Run("both pods serve", func(t *testing.T) { bothPodsServe(t, namespace, path, key) })
	t.Run("rights", func(t *testing.T) { rights(t, namespace) })
	t.Run("Pod Security", func(t *testing.T) { podSecurity(t, namespace) })
	t.Run("authors", func(t *testing.T) { authors(t, namespace) })

	ways := []way{ingress}
	if target.gatewayClass != "" {
		gateway(t, namespace)
		values = append(values, "--set", "httpRoute.enabled=true", "--set", "httpRoute.parentRefs[0].name=e2e",
			"--set", "httpRoute.hostnames[0]=gateway."+host)
	} else {
		t.Log("E2E_GATEWAY_CLASS is not set: skipping the HTTPRoute")
	}

	stream := startStream(t, ways, path, key, 20)
	time.Sleep(3 * time.Second)
	values = append(values,
		"--set-json", `impersonation.serviceAccounts=[{"name":"provisioner","permissions":[`+
			`{"apiGroups":[""],"resources":["configmaps"],"verbs":["create","patch"]}]}]`,
		"--set-json", `rules=[{"name":"announce","actions":[{"name":"line","log":{"message":"${event.event} ${event.objectName}"}}]}]`)
	upgrade := slices.Concat([]string{"upgrade", release, chartDir, "--wait", "--timeout=3m"}, values, helmImage(target.image))
	target.runHelm(t, namespace, upgrade...)
	target.settled(t, namespace)
	stream.check(t, "during the upgrade")
	if kept := secretKey(t, namespace, "secret"); kept != key {
		t.Error("the upgrade changed the generated key")
	}
	if fromDir {
		upgradedCRD(t)
	}
	if target.gatewayClass != "" {
		route := way{name: "HTTPRoute", url: target.url, host: "gateway." + host, client: &http.Client{}}
		target.served(t, route, path)
		ways = append(ways, route)
	}
	sent, events := stream.stop()

	stream = startStream(t, ways, path, key, 20)
	time.Sleep(2 * time.Second)
	rollout(t, namespace)
	stream.check(t, "during the rollout")
	deletePod(t, namespace)
	stream.check(t, "while a pod was deleted")
	rotate(t, namespace, stream)
	stream.check(t, "while the key was rotated")
	more, moreEvents := stream.stop()
	stream.check(t, "until the end")
	maps.Copy(events, moreEvents)
	if len(events) != sent+more {
		t.Errorf("%d deliveries were accepted, with %d different events in the answers", sent+more, len(events))
	}

	var list v1alpha1.NetBoxEventList
	eventually(t, "not all events succeed", func() bool {
		if err := target.List(t.Context(), &list, client.InNamespace(namespace)); err != nil {
			t.Fatal(err)
		}
		return !slices.ContainsFunc(list.Items, func(event v1alpha1.NetBoxEvent) bool { return event.Status.Phase != v1alpha1.PhaseSucceeded })
	})
	for _, event := range list.Items {
		delete(events, event.Namespace+"/"+event.Name)
	}
	if len(events) != 0 {
		t.Errorf("%d events were answered with 200 and do not exist: %v", len(events), slices.Collect(maps.Keys(events)))
	}
	t.Logf("%d deliveries accepted, %d events stored", sent+more, len(list.Items))

	t.Run("apply", func(t *testing.T) { apply(t, namespace, ingress, path) })

	target.runHelm(t, namespace, "uninstall", release, "--wait", "--timeout=2m")
	var kept v1alpha1.NetBoxEventList
	if err := target.List(t.Context(), &kept, client.InNamespace(namespace)); err != nil || len(kept.Items) < len(list.Items) {
		t.Errorf("uninstalling left %d events of %d: %v", len(kept.Items), len(list.Items), err)
	}
	remains(t, namespace)

	// Another version, with other CRDs, continues with NetBox's key; with crds.keep=false uninstalling deletes everything.
	key = secretKey(t, namespace, "second")
	reinstall := slices.Concat([]string{"install", release, otherChart(t, "99.0.0"), "--wait", "--timeout=3m", "--set", "crds.keep=false"},
		values, helmImage(target.image))
	target.runHelm(t, namespace, reinstall...)
	target.served(t, ingress, path)
	if got, err := ingress.send(t.Context(), path, key, unique(recorded(t)[0])); err != nil || got.Result != "ok" {
		t.Errorf("after installing again: %+v, %v", got, err)
	}
	target.runHelm(t, namespace, "uninstall", release, "--wait", "--timeout=2m")
	eventually(t, "crds.keep=false leaves the CRDs", func() bool {
		return apierrors.IsNotFound(target.Get(t.Context(), client.ObjectKey{Name: "netboxevents.netbox-events.io"}, definition()))
	})
}

// TestTLS lets the pods receive by HTTPS, and the operator see all namespaces.
func TestTLS(t *testing.T) {
	const namespace, team = "netbox-e2e-tls", "netbox-e2e-team"
	target.namespace(t, namespace)
	target.namespace(t, team)
	ca, certificate, key := certificate(t, release+"."+namespace+".svc")
	target.create(t,
		&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "webhook-tls"}, Type: corev1.SecretTypeTLS,
			Data: map[string][]byte{corev1.TLSCertKey: certificate, corev1.TLSPrivateKeyKey: key},
		},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "ca"}, Data: map[string]string{"ca.crt": string(ca)}})
	arguments := slices.Concat([]string{
		"install", release, chartDir, "--wait", "--timeout=3m", "--set", "watchNamespaces={*}", "--set", "crds.keep=false",
		"--set", "tls.enabled=true", "--set", "tls.secretName=webhook-tls",
		"--set", "sources[0].name=" + source, "--set", "sources[0].namespace=" + team, "--set", "sources[0].generateSecret=true",
	}, helmImage(target.image))
	if target.gatewayClass != "" {
		gateway(t, namespace)
		arguments = append(arguments, "--set", "httpRoute.enabled=true", "--set", "httpRoute.parentRefs[0].name=e2e",
			"--set", "httpRoute.hostnames[0]="+host, "--set", "httpRoute.backendTLSPolicy.enabled=true",
			"--set", "httpRoute.backendTLSPolicy.caCertificateRefs[0].name=ca")
	}
	t.Cleanup(func() {
		target.runHelm(t, namespace, "uninstall", release, "--wait", "--timeout=2m", "--ignore-not-found")
	})
	target.runHelm(t, namespace, arguments...)

	for _, pod := range target.pods(t, namespace) {
		if text, err := target.core.CoreV1().RESTClient().Get().Namespace(namespace).Resource("pods").Name("https:" + pod.Name + ":8080").
			SubResource("proxy").Suffix("openapi.json").DoRaw(t.Context()); err != nil {
			t.Errorf("pod %s does not speak TLS: %s, %v", pod.Name, text, err)
		}
	}
	if target.gatewayClass == "" {
		return
	}
	path := "/webhook/" + team + "/" + source
	route := way{name: "HTTPRoute", url: target.url, host: host, client: &http.Client{}}
	target.served(t, route, path)
	got, err := route.send(t.Context(), path, secretKey(t, team, "secret"), unique(recorded(t)[3]))
	if err != nil || got.Result != "ok" || !strings.HasPrefix(got.Event, team+"/") {
		t.Errorf("a delivery over TLS: %+v, %v", got, err)
	}
}

// certificate returns a certificate for a name, and its CA, as PEM.
func certificate(t *testing.T, name string) (ca, certificate, key []byte) {
	t.Helper()
	caTemplate := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "e2e"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name},
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serverKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(template *x509.Certificate, public *ecdsa.PublicKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, template, caTemplate, public, caKey)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	der, err := x509.MarshalPKCS8PrivateKey(serverKey)
	if err != nil {
		t.Fatal(err)
	}
	return sign(caTemplate, &caKey.PublicKey), sign(template, &serverKey.PublicKey),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// served waits until the Ingress controller has configured the route.
func (c *cluster) served(t *testing.T, way way, path string) {
	t.Helper()
	var last string
	eventually(t, "the "+way.name+" does not reach the operator", func() bool {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, way.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = way.host
		response, err := way.client.Do(request)
		if err != nil {
			last = err.Error()
			return false
		}
		_ = response.Body.Close()
		last = response.Status
		return response.StatusCode == http.StatusMethodNotAllowed // a GET
	})
	t.Logf("the %s reaches the operator: %s", way.name, last)
}

func (c *cluster) event(t *testing.T, name string) *v1alpha1.NetBoxEvent {
	t.Helper()
	namespace, name, _ := strings.Cut(name, "/")
	event := &v1alpha1.NetBoxEvent{}
	c.get(t, client.ObjectKey{Namespace: namespace, Name: name}, event)
	return event
}

func secretKey(t *testing.T, namespace, entry string) string {
	t.Helper()
	secret := &corev1.Secret{}
	target.get(t, client.ObjectKey{Namespace: namespace, Name: "netbox-webhook"}, secret)
	if len(secret.Data[entry]) < 32 {
		t.Fatalf("entry %s of the generated Secret has %d characters", entry, len(secret.Data[entry]))
	}
	return string(secret.Data[entry])
}

// bothPodsServe sends a delivery to each pod through the API server's proxy.
func bothPodsServe(t *testing.T, namespace, path, key string) {
	t.Helper()
	target.settled(t, namespace)
	for _, pod := range target.pods(t, namespace) {
		delivery := unique(recorded(t)[1])
		text, err := target.core.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").Name(pod.Name+":8080").
			SubResource("proxy").Suffix(path).SetHeader("Content-Type", "application/json").
			SetHeader(netbox.SignatureHeader, netbox.Sign([]byte(key), []byte(delivery.Body))).Body([]byte(delivery.Body)).DoRaw(t.Context())
		if err != nil || !strings.Contains(string(text), `"result":"ok"`) {
			t.Errorf("pod %s: %s, %v", pod.Name, text, err)
		}
	}
}

// rights compares the operator's permissions with the markers in its code, in its namespace and in others.
func rights(t *testing.T, namespace string) {
	t.Helper()
	nobody := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "nobody"}}
	target.create(t, nobody)
	text, err := os.ReadFile("../../config/rbac/role.yaml")
	if err != nil {
		t.Fatal(err)
	}
	everywhere, here := map[string]bool{}, map[string]bool{}
	for document := range strings.SplitSeq(string(text), "---\n") {
		var role rbacv1.ClusterRole
		if err := yaml.Unmarshal([]byte(document), &role); err != nil {
			t.Fatal(err)
		}
		for _, rule := range role.Rules {
			if role.Name == "metrics-auth-role" {
				addRights(everywhere, rule.APIGroups, rule.Resources, rule.ResourceNames, rule.Verbs)
			}
			addRights(here, rule.APIGroups, rule.Resources, rule.ResourceNames, rule.Verbs)
		}
	}
	for where, wanted := range map[string]map[string]bool{namespace: here, metav1.NamespaceDefault: everywhere} {
		got := rightsOf(t, namespace, release, where)
		for right := range rightsOf(t, namespace, nobody.Name, where) {
			delete(got, right) // permission of every service account
		}
		if !maps.Equal(got, wanted) {
			t.Errorf("in namespace %s the operator may\n%s\nand its markers ask for\n%s", where, strings.Join(slices.Sorted(maps.Keys(got)), "\n"),
				strings.Join(slices.Sorted(maps.Keys(wanted)), "\n"))
		}
	}
}

// rightsOf parses kubectl auth can-i --list.
func rightsOf(t *testing.T, accountNamespace, account, where string) map[string]bool {
	t.Helper()
	config := rest.CopyConfig(target.config)
	config.Impersonate.UserName = "system:serviceaccount:" + accountNamespace + ":" + account
	as, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	review, err := as.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(), &authorizationv1.SelfSubjectRulesReview{
		Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: where},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rights := map[string]bool{}
	for _, rule := range review.Status.ResourceRules {
		addRights(rights, rule.APIGroups, rule.Resources, rule.ResourceNames, rule.Verbs)
	}
	return rights
}

func addRights(to map[string]bool, groups, resources, names, verbs []string) {
	for _, group := range groups {
		for _, resource := range resources {
			for _, verb := range verbs {
				to[strings.Join(append([]string{verb, resource, group}, names...), " ")] = true
			}
		}
	}
}

// podSecurity verifies that the Pod Security level of the operator's namespace is enforced.
func podSecurity(t *testing.T, namespace string) {
	t.Helper()
	err := target.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "root"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "root", Image: target.image}}},
	})
	if !apierrors.IsForbidden(err) {
		t.Errorf("a pod that is not restricted was admitted: %v", err)
	}
}

// authors verifies the chart's admission policies: the author of a source cannot use a Secret without permission to read it.
func authors(t *testing.T, namespace string) {
	t.Helper()
	name := metav1.ObjectMeta{Namespace: namespace, Name: "author"}
	target.create(t,
		&rbacv1.Role{ObjectMeta: name, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{v1alpha1.SchemeGroupVersion.Group}, Resources: []string{"netboxsources"}, Verbs: []string{"create"}},
		}},
		&rbacv1.RoleBinding{
			ObjectMeta: name,
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name.Name},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: name.Name}},
		})
	config := rest.CopyConfig(target.config)
	config.Impersonate.UserName = name.Name
	author, err := client.New(config, client.Options{Scheme: target.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	err = author.Create(t.Context(), &v1alpha1.NetBoxSource{
		ObjectMeta: name,
		Spec:       v1alpha1.NetBoxSourceSpec{SecretRef: &v1alpha1.SecretKeysReference{Name: "netbox-webhook"}},
	})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "may not get Secret") {
		t.Errorf("a source that names a Secret which its author may not get: %v", err)
	}
}

// gateway creates the Gateway that the HTTPRoute names.
func gateway(t *testing.T, namespace string) {
	t.Helper()
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
		"metadata": map[string]any{"name": "e2e", "namespace": namespace},
		"spec": map[string]any{
			"gatewayClassName": target.gatewayClass,
			"listeners":        []any{map[string]any{"name": "http", "protocol": "HTTP", "port": target.gatewayPort}},
		},
	}}
	target.create(t, object)
}

// upgradedCRD compares the cluster's CRD with the chart's.
func upgradedCRD(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(chartDir + "/crds/netbox-events.io_netboxevents.yaml")
	if err != nil {
		t.Fatal(err)
	}
	wanted, got := definition(), definition()
	if err := yaml.Unmarshal(text, &wanted.Object); err != nil {
		t.Fatal(err)
	}
	target.get(t, client.ObjectKey{Name: wanted.GetName()}, got)
	// The modification by otherChart.
	field := func(of *unstructured.Unstructured) string {
		names, _, namesErr := unstructured.NestedStringSlice(of.Object, "spec", "names", "shortNames")
		versions, _, err := unstructured.NestedSlice(of.Object, "spec", "versions")
		if err = errors.Join(namesErr, err); err != nil {
			t.Fatal(err)
		}
		description, _, _ := unstructured.NestedString(versions[0].(map[string]any), "schema", "openAPIV3Schema", "description")
		return fmt.Sprint(names, description)
	}
	if field(got) != field(wanted) {
		t.Errorf("after the upgrade the CRD has %s, and the chart's %s", field(got), field(wanted))
	}
}

// rollout is kubectl rollout restart.
func rollout(t *testing.T, namespace string) {
	t.Helper()
	deployment := &appsv1.Deployment{}
	target.get(t, client.ObjectKey{Namespace: namespace, Name: release}, deployment)
	old := target.pods(t, namespace)
	patch := client.MergeFrom(deployment.DeepCopy())
	deployment.Spec.Template.Annotations["kubectl.kubernetes.io/restartedAt"] = time.Now().Format(time.RFC3339)
	if err := target.Patch(t.Context(), deployment, patch); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old pods do not go", func() bool {
		for _, pod := range old {
			if err := target.Get(t.Context(), client.ObjectKeyFromObject(&pod), &corev1.Pod{}); !apierrors.IsNotFound(err) {
				return false
			}
		}
		return true
	})
	target.settled(t, namespace)
}

func deletePod(t *testing.T, namespace string) {
	t.Helper()
	pod := target.pods(t, namespace)[0]
	if err := target.Delete(t.Context(), &pod); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pod does not go", func() bool {
		return apierrors.IsNotFound(target.Get(t.Context(), client.ObjectKeyFromObject(&pod), &corev1.Pod{}))
	})
	target.settled(t, namespace)
}

// rotate adds a second key, lets the sender use it, and removes the first.
func rotate(t *testing.T, namespace string, stream *stream) {
	t.Helper()
	secret := &corev1.Secret{}
	target.get(t, client.ObjectKey{Namespace: namespace, Name: "netbox-webhook"}, secret)
	second := strings.Repeat("second ", 8) + "key"
	patch := client.MergeFrom(secret.DeepCopy())
	secret.Data["second"] = []byte(second)
	if err := target.Patch(t.Context(), secret, patch); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second) // the time to change NetBox; the operator reloads the Secret once a second
	stream.key.Store(&second)
	time.Sleep(4 * time.Second)
	patch = client.MergeFrom(secret.DeepCopy())
	delete(secret.Data, "secret")
	if err := target.Patch(t.Context(), secret, patch); err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * time.Second)
}

// apply verifies that a rule creates an object with the permissions of its service account, which the chart created, and not with an account
// that is missing in the values; and that the rule in the values acts on the event too.
func apply(t *testing.T, namespace string, ingress way, path string) {
	t.Helper()
	target.create(t,
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "untold"}},
		&rbacv1.Role{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "untold"},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"create", "patch"}}},
		},
		&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "untold"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "untold"},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: "untold"}},
		})
	for _, name := range []string{"provisioner", "untold"} {
		target.create(t, &v1alpha1.NetBoxEventRule{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec: v1alpha1.NetBoxEventRuleSpec{
				ServiceAccountName: name,
				Actions: []v1alpha1.Action{{Name: "note", Apply: &v1alpha1.ApplyAction{Template: v1alpha1.JSONObject{
					"apiVersion": {Raw: []byte(`"v1"`)}, "kind": {Raw: []byte(`"ConfigMap"`)},
					"metadata": {Raw: fmt.Appendf(nil, `{"name":%q}`, name)}, "data": {Raw: []byte(`{"event":"${event.event}"}`)},
				}}}},
			},
		})
	}
	eventually(t, "the rules are not accepted", func() bool {
		var rules v1alpha1.NetBoxEventRuleList
		if err := target.List(t.Context(), &rules, client.InNamespace(namespace)); err != nil {
			t.Fatal(err)
		}
		return !slices.ContainsFunc(rules.Items, func(rule v1alpha1.NetBoxEventRule) bool {
			return !slices.ContainsFunc(rule.Status.Conditions, func(condition metav1.Condition) bool {
				return condition.Type == "Ready" && condition.Status == metav1.ConditionTrue
			})
		})
	})
	got, err := ingress.send(t.Context(), path, secretKey(t, namespace, "second"), unique(recorded(t)[2]))
	if err != nil || got.Result != "ok" {
		t.Fatalf("the delivery: %+v, %v", got, err)
	}
	eventually(t, "the event is not finished", func() bool {
		return target.event(t, got.Event).Status.Phase == v1alpha1.PhaseFailed
	})
	target.get(t, client.ObjectKey{Namespace: namespace, Name: "provisioner"}, &corev1.ConfigMap{})
	if err := target.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "untold"}, &corev1.ConfigMap{}); !apierrors.IsNotFound(err) {
		t.Errorf("an object was created as a service account that is not in impersonation.serviceAccounts: %v", err)
	}
	states := map[string]v1alpha1.DeliveryState{}
	for _, rule := range target.event(t, got.Event).Status.Rules {
		states[rule.Name] = rule.State
	}
	wanted := map[string]v1alpha1.DeliveryState{
		"announce": v1alpha1.DeliverySucceeded, "provisioner": v1alpha1.DeliverySucceeded, "untold": v1alpha1.DeliveryFailed,
	}
	if !maps.Equal(states, wanted) {
		t.Errorf("the rules: %v, want %v", states, wanted)
	}
}

// remains checks that uninstalling keeps the documented objects, and no others.
func remains(t *testing.T, namespace string) {
	t.Helper()
	secretKey(t, namespace, "second")
	target.get(t, client.ObjectKey{Name: "netboxevents.netbox-events.io"}, definition())
	labels := client.MatchingLabels{"app.kubernetes.io/instance": release}
	for _, list := range []client.ObjectList{
		&corev1.ServiceList{}, &appsv1.DeploymentList{}, &rbacv1.RoleList{}, &rbacv1.RoleBindingList{}, &rbacv1.ClusterRoleList{},
		&rbacv1.ClusterRoleBindingList{}, &v1alpha1.NetBoxSourceList{}, &corev1.ConfigMapList{}, &corev1.ServiceAccountList{},
	} {
		if err := target.List(t.Context(), list, labels); err != nil {
			t.Fatal(err)
		}
		items := reflect.ValueOf(list).Elem().FieldByName("Items")
		if items.Len() != 0 {
			t.Errorf("uninstalling left %d in %T: %+v", items.Len(), list, items.Index(0))
		}
	}
}
