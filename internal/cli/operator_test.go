package cli

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/source"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

// startManager starts the operator, and returns the address of its receiver. It ends with the test.
func startManager(t *testing.T, config *rest.Config, arguments ...string) string {
	t.Helper()
	binary, err := plane().Manager()
	if err != nil {
		t.Fatal(err)
	}
	webhooks, probes := controlplane.NewAddress(t), controlplane.NewAddress(t)
	command := exec.Command(binary, append([]string{
		"--kubeconfig=" + controlplane.WriteKubeconfig(t, config), "--webhook-bind-address=" + webhooks,
		"--health-probe-bind-address=" + probes, "--metrics-bind-address=0", "--sink-allow-cidrs=127.0.0.0/8",
	}, arguments...)...)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	eventually(t, "the operator is not ready", func() bool {
		response, err := http.Get("http://" + probes + "/readyz")
		return err == nil && response.Body.Close() == nil && response.StatusCode == http.StatusOK
	})
	return webhooks
}

// signingSecret is the secret of NetBox's webhook.
const signingSecret = "a secret of NetBox"

// newSecret makes the Secret of a source.
func newSecret(t *testing.T, namespace, value string) {
	t.Helper()
	plane().Create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "netbox-webhook"}, StringData: map[string]string{"secret": value},
	})
}

// newSignedSource makes a source with a Secret, and waits until the operator at an address serves it.
func newSignedSource(t *testing.T, namespace, at string, change func(*v1alpha1.NetBoxSourceSpec)) *v1alpha1.NetBoxSource {
	t.Helper()
	made := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "netbox"}}
	made.Spec.SecretRef = &v1alpha1.SecretKeysReference{Name: "netbox-webhook"}
	if change != nil {
		change(&made.Spec)
	}
	plane().Create(t, made)
	eventually(t, "the source is not served", func() bool {
		return postAs(t, "http://"+at+source.Path(made), "kubectl-netbox", "", "", "") != http.StatusNotFound
	})
	eventually(t, "the source has no status", func() bool {
		err := plane().Client.Get(t.Context(), keyOf(namespace, "netbox"), made)
		return err == nil && readyReason(made) != ""
	})
	return made
}

// netboxAgent is the User-Agent of NetBox.
const netboxAgent = "python-urllib3/2.8.0"

// deliverTo sends a body as NetBox does, and returns the status of the answer.
func deliverTo(t *testing.T, at string, to *v1alpha1.NetBoxSource, body string) int {
	t.Helper()
	return postAs(t, "http://"+at+source.Path(to), netboxAgent, "application/json", body, signingSecret)
}

func postAs(t *testing.T, url, agent, contentType, body, secret string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("User-Agent", agent)
	request.Header.Set("Content-Type", contentType)
	if secret != "" {
		request.Header.Set(netbox.SignatureHeader, netbox.Sign([]byte(secret), []byte(body)))
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode
}

// newService makes the Service of an operator that installOperator made.
func newService(t *testing.T, namespace string) {
	t.Helper()
	plane().Create(t, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: operatorName},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app.kubernetes.io/part-of": operatorName},
			Ports:    []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(defaultPort)}},
		},
	})
}

// newPod makes a pod of an operator, on a node whose kubelet forwards all ports to an address.
func newPod(t *testing.T, deployment *appsv1.Deployment, address string) {
	t.Helper()
	kubelet := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		forwardPorts(request.Context(), w, request, address)
	}))
	t.Cleanup(kubelet.Close)
	_, port, err := net.SplitHostPort(kubelet.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-" + deployment.Namespace}}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: deployment.Namespace, Name: operatorName + "-6d4cf56db6-2xvkq", Labels: deployment.Spec.Template.Labels},
		Spec:       deployment.Spec.Template.Spec,
	}
	pod.Spec.NodeName = node.Name
	plane().Create(t,
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: deployment.Namespace, Name: "default"}}, node, pod)
	node.Status = corev1.NodeStatus{
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(number)}},
	}
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	if err := plane().Client.Status().Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	if err := plane().Client.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
}

// forwardPorts forwards ports as a kubelet does.
func forwardPorts(ctx context.Context, w http.ResponseWriter, request *http.Request, address string) {
	if _, err := httpstream.Handshake(request, w, []string{portforward.PortForwardProtocolV1Name}); err != nil {
		return
	}
	ended := make(chan struct{})
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, request, func(stream httpstream.Stream, replied <-chan struct{}) error {
		if stream.Headers().Get(corev1.StreamType) == corev1.StreamTypeError {
			go func() {
				<-ended
				_ = stream.Close()
			}()
			return nil
		}
		backend, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		go func() {
			<-replied
			_, _ = io.Copy(backend, stream)
		}()
		go func() {
			_, _ = io.Copy(stream, backend)
			_ = stream.Close()
			close(ended)
		}()
		return nil
	})
	if conn == nil {
		return
	}
	select {
	case <-conn.CloseChan():
	case <-time.After(time.Minute):
	}
	_ = conn.Close()
}
