package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// portWebhook is the name of the receiver's port in the manager's container, and defaultPort its number if it has none.
const (
	portWebhook = "webhook"
	defaultPort = 8080
)

// loopback is where a forwarded port listens. The name localhost may also be an address at which another program listens.
const loopback = "127.0.0.1"

// receiverPod returns a pod of the operator that watches a namespace, which is ready, and its Deployment.
func receiverPod(ctx context.Context, api client.Client, namespace string) (*corev1.Pod, *appsv1.Deployment, error) {
	deployments, err := listDeployments(ctx, api, namespace)
	if err != nil {
		return nil, nil, fmt.Errorf("%w; or send by --url", err)
	}
	at := slices.IndexFunc(deployments, func(deployment appsv1.Deployment) bool { return watches(&deployment, namespace) })
	if at < 0 {
		return nil, nil, fmt.Errorf("no Deployment of the operator watches namespace %s; send by --url, or install the chart", namespace)
	}
	deployment := &deployments[at]
	selector, err := metav1.LabelSelectorAsSelector(deployment.Spec.Selector)
	if err != nil {
		return nil, nil, err
	}
	var pods corev1.PodList
	if err := api.List(ctx, &pods, client.InNamespace(deployment.Namespace), client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return nil, nil, clusterError(err, "list", "pods", deployment.Namespace)
	}
	if at = slices.IndexFunc(pods.Items, isReady); at < 0 {
		return nil, nil, fmt.Errorf("no pod of Deployment %s/%s is ready; kubectl describe pods -n %s -l %s says why",
			deployment.Namespace, deployment.Name, deployment.Namespace, selector)
	}
	return &pods.Items[at], deployment, nil
}

func isReady(pod corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && slices.ContainsFunc(pod.Status.Conditions, func(condition corev1.PodCondition) bool {
		return condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue
	})
}

// webhookPort returns the port of the receiver in its pods.
func webhookPort(deployment *appsv1.Deployment) int32 {
	if _, text, err := net.SplitHostPort(argument(deployment, "webhook-bind-address", "")); err == nil {
		if port, err := strconv.ParseInt(text, 10, 32); err == nil {
			return int32(port)
		}
	}
	for _, port := range managerOf(deployment).Ports {
		if port.Name == portWebhook {
			return port.ContainerPort
		}
	}
	return defaultPort
}

// servesTLS reports whether the receiver serves https.
func servesTLS(deployment *appsv1.Deployment) bool {
	return argument(deployment, "webhook-cert-dir", "") != ""
}

// forward forwards a port of this machine to one of a pod, until ctx is done, and returns its address.
func (p *plugin) forward(ctx context.Context, pod *corev1.Pod, port int32) (address string, err error) {
	dialer, err := p.podDialer(pod)
	if err != nil {
		return "", err
	}
	ready, ended := make(chan struct{}), make(chan error, 1)
	forwarder, err := portforward.NewOnAddressesForStreamingWithContext(
		ctx, dialer, []string{loopback}, []string{fmt.Sprintf("0:%d", port)}, ready, io.Discard, io.Discard)
	if err != nil {
		return "", err
	}
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case err := <-ended:
		if err == nil {
			err = errors.New("it ended")
		}
		return "", fmt.Errorf("cannot forward a port to pod %s/%s: %w; it needs the right to create pods/portforward in namespace %s; "+
			"or send by --url", pod.Namespace, pod.Name, err, pod.Namespace)
	case <-ctx.Done():
		return "", ctx.Err()
	case <-ready:
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(loopback, strconv.Itoa(int(ports[0].Local))), nil
}

// podDialer connects to a pod as kubectl port-forward does: by WebSockets, and, if a proxy or an old API server refuses these, by SPDY.
func (p *plugin) podDialer(pod *corev1.Pod) (httpstream.Dialer, error) {
	config, err := p.config()
	if err != nil {
		return nil, err
	}
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	to := clients.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	older := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, to)
	newer, err := portforward.NewSPDYOverWebsocketDialerForStreaming(to, config)
	if err != nil {
		return nil, err
	}
	return portforward.NewFallbackDialerForStreaming(newer, older, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}
