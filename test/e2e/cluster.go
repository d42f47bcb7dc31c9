//go:build e2e

// Package e2e installs the chart into the cluster of KUBECONFIG, as users do, and sends it NetBox's webhooks from outside.
package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/app"
)

const (
	chartDir    = "../../charts/netbox-event-operator"
	release     = "netbox-event-operator" // also the name of its objects
	waitTimeout = 2 * time.Minute
)

// settings describe the cluster.
type settings struct {
	// url is the address of the Ingress controller, http://127.0.0.1:30080, and of the Gateway's listener.
	url          string
	ingressClass string
	gatewayClass string // empty without a Gateway API
	gatewayPort  int64  // of that listener: some controllers have fixed ones
	image        string
	// previousChart is the chart to upgrade from, as an argument of helm install; if empty, a modified copy of the current one.
	previousChart string
	previousImage string
	helm          string
}

func fromEnvironment() (settings, error) {
	s := settings{
		url:           strings.TrimSuffix(os.Getenv("E2E_URL"), "/"),
		ingressClass:  os.Getenv("E2E_INGRESS_CLASS"),
		gatewayClass:  os.Getenv("E2E_GATEWAY_CLASS"),
		image:         os.Getenv("E2E_IMAGE"),
		previousChart: os.Getenv("E2E_PREVIOUS_CHART"),
		previousImage: os.Getenv("E2E_PREVIOUS_IMAGE"),
		helm:          os.Getenv("HELM"),
	}
	port, err := strconv.ParseInt(cmp.Or(os.Getenv("E2E_GATEWAY_PORT"), "80"), 10, 64)
	if err != nil {
		return s, fmt.Errorf("E2E_GATEWAY_PORT: %w", err)
	}
	s.gatewayPort = port
	if s.url == "" || s.ingressClass == "" || s.image == "" || s.helm == "" {
		return s, errors.New("E2E_URL (the address of the Ingress controller), E2E_INGRESS_CLASS, E2E_IMAGE and HELM must be set; " +
			"see make e2e and make kind")
	}
	if s.previousImage == "" {
		s.previousImage = s.image
	}
	return s, nil
}

// cluster is the one under test.
type cluster struct {
	settings
	client.Client
	config *rest.Config
	core   kubernetes.Interface
}

// connect refuses a cluster that already has the CRDs: the tests delete these, and all events with them.
func connect(ctx context.Context) (*cluster, error) {
	settings, err := fromEnvironment()
	if err != nil {
		return nil, err
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	scheme, err := app.Scheme()
	if err != nil {
		return nil, err
	}
	api, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, err
	}
	core, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	c := &cluster{settings: settings, Client: api, config: config, core: core}
	switch err := api.Get(ctx, client.ObjectKey{Name: "netboxevents.netbox-events.io"}, definition()); {
	case err == nil:
		return nil, errors.New("this cluster already has the operator's CRDs, which these tests delete, and all events with them: " +
			"use a separate cluster, or delete the CRDs")
	case !apierrors.IsNotFound(err):
		return nil, err
	}
	return c, nil
}

func definition() *unstructured.Unstructured {
	object := new(unstructured.Unstructured)
	object.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	return object
}

// deleteCRDs deletes the CRDs, which did not exist before the tests.
func (c *cluster) deleteCRDs(ctx context.Context) {
	for _, kind := range []string{"netboxsources", "netboxevents", "netboxeventrules"} {
		left := definition()
		left.SetName(kind + "." + v1alpha1.SchemeGroupVersion.Group)
		if err := c.Delete(ctx, left); client.IgnoreNotFound(err) != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

// namespace creates a namespace that enforces the Pod Security level restricted.
func (c *cluster) namespace(t *testing.T, name string) {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}
	c.create(t, namespace)
	t.Cleanup(func() {
		if err := c.Delete(context.Background(), namespace); err != nil {
			t.Error(err)
		}
	})
}

func (c *cluster) create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, object := range objects {
		if err := c.Create(t.Context(), object); err != nil {
			t.Fatalf("creating %T: %v", object, err)
		}
	}
}

func (c *cluster) get(t *testing.T, name client.ObjectKey, object client.Object) {
	t.Helper()
	if err := c.Get(t.Context(), name, object); err != nil {
		t.Fatal(err)
	}
}

// runHelm runs a helm command in a namespace and returns its output.
func (c *cluster) runHelm(t *testing.T, namespace string, arguments ...string) string {
	t.Helper()
	arguments = append(arguments, "--namespace", namespace)
	output, err := exec.CommandContext(context.WithoutCancel(t.Context()), c.helm, arguments...).CombinedOutput()
	if err != nil {
		t.Fatalf("helm %s: %v\n%s\n%s", strings.Join(arguments, " "), err, output, c.whatHappened(namespace))
	}
	t.Logf("helm %s", strings.Join(arguments, " "))
	return string(output)
}

// helmImage returns the values for an image.
func helmImage(image string) []string {
	repository, tag := image, "latest"
	if colon := strings.LastIndex(image, ":"); colon > strings.LastIndex(image, "/") {
		repository, tag = image[:colon], image[colon+1:]
	}
	return []string{"--set", "image.repository=" + repository, "--set-string", "image.tag=" + tag}
}

// whatHappened collects diagnostics after a failure.
func (c *cluster) whatHappened(namespace string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var text strings.Builder
	pods, err := c.core.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	for _, pod := range pods.Items {
		fmt.Fprintf(&text, "pod %s: %s %+v\n", pod.Name, pod.Status.Phase, pod.Status.ContainerStatuses)
		log, err := c.core.CoreV1().Pods(namespace).GetLogs(pod.Name, &corev1.PodLogOptions{TailLines: new(int64(30))}).DoRaw(ctx)
		fmt.Fprintf(&text, "%s%v\n", log, err)
	}
	events, err := c.core.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return text.String() + err.Error()
	}
	for _, event := range events.Items {
		fmt.Fprintf(&text, "%s %s/%s: %s\n", event.Type, event.InvolvedObject.Kind, event.InvolvedObject.Name, event.Message)
	}
	return text.String()
}

// pods returns the operator's pods that are ready and not terminating.
func (c *cluster) pods(t *testing.T, namespace string) []corev1.Pod {
	t.Helper()
	deployment := &appsv1.Deployment{}
	c.get(t, client.ObjectKey{Namespace: namespace, Name: release}, deployment)
	var pods corev1.PodList
	if err := c.List(t.Context(), &pods, client.InNamespace(namespace), client.MatchingLabels(deployment.Spec.Selector.MatchLabels)); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(pods.Items, func(pod corev1.Pod) bool {
		ready := slices.ContainsFunc(pod.Status.Conditions, func(condition corev1.PodCondition) bool {
			return condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue
		})
		return !ready || !pod.DeletionTimestamp.IsZero()
	})
}

// settled waits for two ready pods, and no terminating one.
func (c *cluster) settled(t *testing.T, namespace string) {
	t.Helper()
	eventually(t, "the pods do not become ready", func() bool {
		var pods corev1.PodList
		if err := c.List(t.Context(), &pods, client.InNamespace(namespace), client.MatchingLabels{
			"app.kubernetes.io/instance": release, "app.kubernetes.io/name": release,
		}); err != nil {
			t.Fatal(err)
		}
		return len(pods.Items) == 2 && len(c.pods(t, namespace)) == 2
	})
}

func eventually(t *testing.T, complaint string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(waitTimeout)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatal(complaint)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// otherChart copies the chart as another version with different CRDs: the version to upgrade from, as long as none is released, and the one to
// install later.
func otherChart(t *testing.T, version string) string {
	t.Helper()
	older := filepath.Join(t.TempDir(), "netbox-event-operator")
	if err := os.CopyFS(older, os.DirFS(chartDir)); err != nil {
		t.Fatal(err)
	}
	replace := func(file, old, by string) {
		path := filepath.Join(older, file)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(text), old, by, 1)
		if changed == string(text) {
			t.Fatalf("%s does not hold %q", file, old)
		}
		if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	replace("Chart.yaml", "\nversion: ", "\nversion: "+version+"+")
	replace("crds/netbox-events.io_netboxevents.yaml", "    - nbe\n", "    - otherevent\n")
	replace("crds/netbox-events.io_netboxevents.yaml", "NetBoxEvent is a webhook", "NetBoxEvent is another webhook")
	return older
}
