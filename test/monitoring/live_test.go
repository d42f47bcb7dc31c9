package monitoring

import (
	"crypto/tls"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
	"github.com/netbox-events/netbox-event-operator/test/netboxstub"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

const key = "a key"

// TestLive runs the operator on a real API server, causes each event that a metric counts, and runs the queries of the alerts and the dashboard:
// every selected series must exist, and each panel must have data.
func TestLive(t *testing.T) {
	rules := rules(t)
	_, board := readDashboard(t)
	t.Chdir(root)
	plane, err := controlplane.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plane.Stop(); err != nil {
			t.Error(err)
		}
	})
	arrange(t, plane)
	webhooks, metrics := startManager(t, plane)
	token := prometheusToken(t, plane)
	admin, err := rest.HTTPClientFor(plane.Config)
	if err != nil {
		t.Fatal(err)
	}
	anonymous := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}

	m, now := newMemory(), time.Unix(0, 0)
	scrape := func() {
		now = now.Add(15 * time.Second)
		m.scrape(t, now, anonymous, "https://"+metrics+"/metrics", token, labels.FromStrings("job", job, "namespace", namespace, "pod", "a"))
		m.scrape(t, now, admin, strings.TrimSuffix(plane.Config.Host, "/")+"/metrics", "", labels.FromStrings("job", "apiserver", "namespace", "default"))
	}
	n := 0
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		n++
		send(t, webhooks, n)
		scrape()
		missing := m.missing(t, rules, board)
		if len(missing) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("neither the operator nor the API server exports these:\n%s", strings.Join(missing, "\n"))
		}
	}
	for range 3 { // for the rates
		n++
		send(t, webhooks, n)
		time.Sleep(time.Second)
		scrape()
	}
	if len(m.query(t, "netbox_events_grouping_events > 0", now)) == 0 {
		t.Error("no event is counted that waits for its group")
	}
	placeholder := regexp.MustCompile(`{{(\w+)}}`)
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			vector := m.query(t, fill(target.Expr), now)
			shows := false
			for _, sample := range vector {
				complete := !math.IsNaN(sample.F)
				for _, label := range placeholder.FindAllStringSubmatch(target.LegendFormat, -1) {
					complete = complete && sample.Metric.Has(label[1])
				}
				shows = shows || complete
			}
			if !shows {
				t.Errorf("%s: %s gives %v for the legend %q", p.Title, target.Expr, vector, target.LegendFormat)
			}
		}
	}
}

// arrange creates sources and rules, each with another outcome.
func arrange(t *testing.T, plane *controlplane.ControlPlane) {
	t.Helper()
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/busy" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusGone)
	}))
	t.Cleanup(sink.Close)
	const token = "0123456789abcdef0123456789abcdef01234567"
	stub := netboxstub.New(token, "dcim.site")
	t.Cleanup(stub.Close)
	made := time.Now().Add(-time.Minute)
	stub.Log(netboxstub.Change{Action: "create", ObjectType: "dcim.site", ObjectID: 1, RequestID: "a", Time: made})
	plane.Create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "netbox"}})
	plane.Create(t, &corev1.Secret{ObjectMeta: named("netbox"), StringData: map[string]string{"secret": key, "token": token}})
	for name, spec := range map[string]v1alpha1.NetBoxSourceSpec{
		"netbox":    {SecretRef: &v1alpha1.SecretKeysReference{Name: "netbox", Key: "secret"}},
		"suspended": {Unsigned: v1alpha1.UnsignedAccept, Suspend: true},
		"keyless":   {SecretRef: &v1alpha1.SecretKeysReference{Name: "missing"}},
		"full":      {Unsigned: v1alpha1.UnsignedAccept, MaxPending: 1},
		// NetBox logged a change of which no webhook comes.
		"unheard": {Unsigned: v1alpha1.UnsignedAccept, NetBox: &v1alpha1.NetBoxAPI{
			URL: stub.URL, TokenSecretRef: v1alpha1.SecretKeyReference{Name: "netbox", Key: "token"},
			Webhook:  &v1alpha1.ManagedWebhook{URL: "http://127.0.0.1/"},
			Backfill: &v1alpha1.Backfill{From: new(metav1.NewTime(made.Add(-time.Minute))), Lag: metav1.Duration{Duration: time.Second}},
		}},
		"limited": {Unsigned: v1alpha1.UnsignedAccept, RateLimit: &v1alpha1.RateLimit{RequestsPerSecond: 1, Burst: 1}},
	} {
		plane.Create(t, &v1alpha1.NetBoxSource{ObjectMeta: named(name), Spec: spec})
	}
	for name, spec := range map[string]v1alpha1.NetBoxEventRuleSpec{
		"gives-up": {Actions: []v1alpha1.Action{{Name: "send", HTTP: &v1alpha1.HTTPAction{URL: sink.URL + "/gone"}}}},
		"retries":  {Actions: []v1alpha1.Action{{Name: "send", HTTP: &v1alpha1.HTTPAction{URL: sink.URL + "/busy"}}}},
		"groups": {
			Group:   &v1alpha1.Group{By: v1alpha1.GroupByRule, Quiet: metav1.Duration{Duration: time.Hour}, MaxWait: metav1.Duration{Duration: time.Hour}},
			Actions: []v1alpha1.Action{{Name: "log", Log: &v1alpha1.LogAction{Message: "here"}}},
		},
		"errs": {Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: "data.missing"}}, Actions: []v1alpha1.Action{{Name: "log", Log: &v1alpha1.LogAction{Message: "here"}}}},
	} {
		// Only events of devices and racks stay pending, so that those of sites are finished.
		switch name {
		case "retries":
			spec.Match.ObjectTypes = []string{"dcim.device"}
		case "groups":
			spec.Match.ObjectTypes = []string{"dcim.rack"}
		}
		plane.Create(t, &v1alpha1.NetBoxEventRule{ObjectMeta: named(name), Spec: spec})
	}
}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "netbox", Name: name} }

// startManager returns the addresses of a manager's webhooks and metrics.
func startManager(t *testing.T, plane *controlplane.ControlPlane) (webhooks, metrics string) {
	t.Helper()
	directory := t.TempDir()
	binary, kubeconfig := filepath.Join(directory, "manager"), filepath.Join(directory, "kubeconfig")
	if output, err := exec.Command("go", "build", "-o", binary, "./cmd/manager").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	if err := os.WriteFile(kubeconfig, plane.Kubeconfig(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, address := range []*string{&webhooks, &metrics} {
		*address = controlplane.NewAddress(t)
	}
	var log strings.Builder
	manager := exec.Command(binary, "--kubeconfig="+kubeconfig, "--webhook-bind-address="+webhooks, "--metrics-bind-address="+metrics,
		"--health-probe-bind-address=0", "--leader-elect", "--leader-election-namespace=netbox", "--sink-allow-cidrs=127.0.0.0/8",
		"--hold=1s") // of the deliveries to keyless
	manager.Stderr = &log
	if err := manager.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = manager.Process.Kill()
		_ = manager.Wait()
		if t.Failed() {
			t.Logf("log of the manager:\n%s", &log)
		}
	})
	for _, address := range []string{webhooks, metrics} {
		listening := func() bool {
			connection, err := net.Dial("tcp", address)
			return err == nil && connection.Close() == nil
		}
		for end := time.Now().Add(30 * time.Second); !listening(); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the manager does not listen at %s", address)
			}
		}
	}
	return webhooks, metrics
}

// prometheusToken returns the token of a service account that may read metrics, as docs/monitoring.md has it.
func prometheusToken(t *testing.T, plane *controlplane.ControlPlane) string {
	t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: named("prometheus")}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "metrics-reader"}}
	role.Rules = []rbacv1.PolicyRule{{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}}
	plane.Create(t, account, role, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "prometheus"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: account.Namespace, Name: account.Name}},
	})
	var token authenticationv1.TokenRequest
	if err := plane.Client.SubResource("token").Create(t.Context(), account, &token); err != nil {
		t.Fatal(err)
	}
	return token.Status.Token
}

// send sends deliveries that are stored, and then some that are refused.
func send(t *testing.T, webhooks string, n int) {
	t.Helper()
	post := func(source, signature, body string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+webhooks+"/webhook/netbox/"+source, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set(netbox.SignatureHeader, signature)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
	}
	for _, kind := range []string{"site", "device", "rack"} {
		body := fmt.Sprintf(`{"event":"updated","timestamp":%q,"object_type":"dcim.%s","data":{"id":%d}}`,
			time.Now().UTC().Format(time.RFC3339Nano), kind, n)
		post("netbox", netbox.Sign([]byte(key), []byte(body)), body)
		post("netbox", netbox.Sign([]byte(key), []byte(body)), body)
		post("netbox", "wrong", body)
		post("suspended", "", body)
		post("keyless", "", body)
		post("limited", "", body)
		post("limited", "", body)
		post("full", "", body) // a device waits for its sink, and a rack for its group
	}
}

// scrape reads metrics as Prometheus does, and adds the labels of a target.
func (m *memory) scrape(t *testing.T, now time.Time, from *http.Client, url, token string, target labels.Labels) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := from.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s answers %s", url, response.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	m.add(labels.NewBuilder(target).Set(model.MetricNameLabel, "up").Labels(), now, 1)
	for _, family := range families {
		samples, err := expfmt.ExtractSamples(&expfmt.DecodeOptions{Timestamp: model.TimeFromUnixNano(now.UnixNano())}, family)
		if err != nil {
			t.Fatal(err)
		}
		for _, sample := range samples {
			metric := labels.NewBuilder(target)
			for name, text := range sample.Metric {
				metric.Set(string(name), string(text))
			}
			m.add(metric.Labels(), now, float64(sample.Value))
		}
	}
}

// missing returns the metrics that alerts and dashboard select and no process exports.
func (m *memory) missing(t *testing.T, rules []rulefmt.Rule, board dashboard) []string {
	t.Helper()
	known := map[string]bool{
		"kube_deployment_status_replicas_available": true, // kube-state-metrics does not run
		"apiserver_storage_objects":                 true, // Kubernetes 1.37 no longer exports it
	}
	missing := []string{}
	look := func(expression string) {
		for _, selector := range selectors(t, expression) {
			if !known[selector.Name] && !m.find(false, nil, selector.LabelMatchers...).Next() {
				missing = append(missing, selector.String())
			}
		}
	}
	for _, rule := range rules {
		known[rule.Record] = true
	}
	for _, rule := range rules {
		look(rule.Expr)
	}
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			look(fill(target.Expr))
		}
	}
	slices.Sort(missing)
	return slices.Compact(missing)
}
