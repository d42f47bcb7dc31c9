package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// operatorName is the label of the operator's Deployments, and the default name of its Lease.
const operatorName = "netbox-event-operator"

// operator is an operator that watches the namespace. One that is no Deployment, such as a process on a developer's machine, has the name
// of its Lease; one without leader election has no name.
type operator struct {
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	Version   string       `json:"version,omitempty"`
	Image     string       `json:"image,omitempty"`
	Ready     int32        `json:"ready"`
	Replicas  int32        `json:"replicas"`
	Leader    string       `json:"leader,omitempty"`
	Renewed   *metav1.Time `json:"renewed,omitempty"`
	// Wrote is when an operator without name last wrote the status of a source.
	Wrote *metav1.Time `json:"wrote,omitempty"`

	deployment *appsv1.Deployment
}

// name returns the namespace, the name and the version of an operator, "" for one without name.
func (o *operator) name() string {
	if o.Name == "" {
		return ""
	}
	return strings.TrimSpace(o.Namespace + "/" + o.Name + " " + o.Version)
}

// operatorState says how many replicas are ready, and which leads.
func (p *plugin) operatorState(row *operator) string {
	if row.Name == "" {
		text := "no Deployment and no Lease is visible; it looked at all sources"
		if row.Wrote != nil {
			text += ", and last wrote the status of one " + p.age(row.Wrote.Time) + " ago"
		}
		return text
	}
	leads := "no replica leads"
	if row.Leader != "" {
		leads = "leader " + row.Leader
	}
	if row.deployment == nil {
		return "no Deployment is visible, " + leads
	}
	return fmt.Sprintf("%d of %d replicas ready, %s", row.Ready, row.Replicas, leads)
}

// listDeployments returns the Deployments of all operators, or, without the right to list those of all namespaces, of those in one.
func listDeployments(ctx context.Context, api client.Client, namespace string) ([]appsv1.Deployment, error) {
	var deployments appsv1.DeploymentList
	label := client.MatchingLabels{"app.kubernetes.io/part-of": operatorName}
	err := api.List(ctx, &deployments, label)
	if apierrors.IsForbidden(err) {
		if api.List(ctx, &deployments, label, client.InNamespace(namespace)) == nil && len(deployments.Items) > 0 {
			err = nil
		}
	}
	return deployments.Items, clusterError(err, "list", "deployments", "")
}

// addOperators adds the operators that watch the namespace, with their leaders.
func (p *plugin) addOperators(ctx context.Context, api client.Client, found *overview) {
	deployments, err := listDeployments(ctx, api, found.Namespace)
	if err != nil {
		found.Unknown = append(found.Unknown, "the operator: "+err.Error())
		return
	}
	for i := range deployments {
		if deployment := &deployments[i]; watches(deployment, found.Namespace) {
			p.addOperator(ctx, api, found, deployment)
		}
	}
	if len(found.Operators) == 0 {
		p.addProcess(ctx, api, found, deployments)
	}
}

func (p *plugin) addOperator(ctx context.Context, api client.Client, found *overview, deployment *appsv1.Deployment) {
	image := managerOf(deployment).Image
	row := operator{
		Namespace: deployment.Namespace, Name: deployment.Name, Image: image, Ready: deployment.Status.ReadyReplicas,
		Replicas: deployment.Status.Replicas, Version: cmp.Or(deployment.Labels["app.kubernetes.io/version"], tagOf(image)),
		deployment: deployment,
	}
	about := fmt.Sprintf("operator %s/%s", deployment.Namespace, deployment.Name)
	if row.Ready < row.Replicas || row.Replicas == 0 {
		found.wrong(about, fmt.Sprintf("%d of %d replicas are ready", row.Ready, row.Replicas),
			fmt.Sprintf("kubectl describe pods -n %s -l %s", deployment.Namespace, metav1.FormatLabelSelector(deployment.Spec.Selector)))
	}
	var lease coordinationv1.Lease
	name := leaseOf(deployment)
	err := api.Get(ctx, name, &lease)
	switch {
	case err != nil && !apierrors.IsNotFound(err):
		found.Unknown = append(found.Unknown, "who leads: "+clusterError(err, "get", "leases", name.Namespace).Error())
	case err != nil || !p.isHeld(&lease):
		found.wrong(about, "no replica leads: events are stored, and not acted on",
			fmt.Sprintf("kubectl logs -n %s deployment/%s, and see Lease %s", deployment.Namespace, deployment.Name, name.Name))
	default:
		row.lead(&lease)
	}
	found.Operators = append(found.Operators, row)
}

// addProcess adds an operator that is none of the visible Deployments: one that holds a Lease, or, without leader election and so without
// Lease, one that looked at all sources as they are.
func (p *plugin) addProcess(ctx context.Context, api client.Client, found *overview, deployments []appsv1.Deployment) {
	leases, err := listLeases(ctx, api, found.Namespace)
	if err != nil {
		found.Unknown = append(found.Unknown, "who leads: "+err.Error())
	}
	leases = slices.DeleteFunc(leases, func(lease coordinationv1.Lease) bool {
		return slices.ContainsFunc(deployments, func(deployment appsv1.Deployment) bool {
			return leaseOf(&deployment) == client.ObjectKeyFromObject(&lease)
		})
	})
	if at := slices.IndexFunc(leases, func(lease coordinationv1.Lease) bool { return p.isHeld(&lease) }); at >= 0 {
		row := operator{Namespace: leases[at].Namespace, Name: leases[at].Name}
		row.lead(&leases[at])
		found.Operators = append(found.Operators, row)
		return
	}
	if len(leases) == 0 && areObserved(found.sources) {
		found.Operators = append(found.Operators, operator{Wrote: lastWritten(found.sources)})
		return
	}
	found.wrong("operator", "no operator watches namespace "+found.Namespace,
		"install the chart, or add the namespace to its watchNamespaces")
}

// listLeases returns the Leases of the default name, or, without the right to list those of all namespaces, the one in a namespace.
func listLeases(ctx context.Context, api client.Client, namespace string) ([]coordinationv1.Lease, error) {
	var leases coordinationv1.LeaseList
	named := client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("metadata.name", operatorName)}
	err := api.List(ctx, &leases, named)
	if apierrors.IsForbidden(err) && api.List(ctx, &leases, named, client.InNamespace(namespace)) == nil {
		err = nil
	}
	return leases.Items, clusterError(err, "list", "leases", "")
}

// areObserved reports whether an operator has looked at all sources as they are.
func areObserved(sources []v1alpha1.NetBoxSource) bool {
	return len(sources) > 0 && !slices.ContainsFunc(sources, func(source v1alpha1.NetBoxSource) bool {
		ready := meta.FindStatusCondition(source.Status.Conditions, v1alpha1.ConditionReady)
		return ready == nil || ready.ObservedGeneration < source.Generation
	})
}

// lastWritten returns when the status of one of some sources was last written.
func lastWritten(sources []v1alpha1.NetBoxSource) (last *metav1.Time) {
	for i := range sources {
		for _, entry := range sources[i].ManagedFields {
			if entry.Subresource == "status" && entry.Time != nil && (last == nil || last.Before(entry.Time)) {
				last = entry.Time
			}
		}
	}
	return last
}

// leaseOf returns the name of an operator's Lease.
func leaseOf(deployment *appsv1.Deployment) client.ObjectKey {
	return client.ObjectKey{
		Namespace: argument(deployment, "leader-election-namespace", deployment.Namespace),
		Name:      argument(deployment, "leader-election-id", operatorName),
	}
}

func (o *operator) lead(lease *coordinationv1.Lease) {
	o.Leader, _, _ = strings.Cut(*lease.Spec.HolderIdentity, "_")
	if lease.Spec.RenewTime != nil {
		o.Renewed = &metav1.Time{Time: lease.Spec.RenewTime.Time}
	}
}

// clockSkew is how far this machine's clock may be off.
const clockSkew = time.Minute

// isHeld reports whether a replica leads.
func (p *plugin) isHeld(lease *coordinationv1.Lease) bool {
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
		return false
	}
	if lease.Spec.RenewTime == nil || lease.Spec.LeaseDurationSeconds == nil {
		return true
	}
	return p.clock.Since(lease.Spec.RenewTime.Time) <= time.Duration(*lease.Spec.LeaseDurationSeconds)*time.Second+clockSkew
}

// managerOf returns the container of the operator.
func managerOf(deployment *appsv1.Deployment) *corev1.Container {
	containers := deployment.Spec.Template.Spec.Containers
	at := slices.IndexFunc(containers, func(container corev1.Container) bool { return container.Name == "manager" })
	return &containers[max(at, 0)] // a Deployment has at least one
}

// argument returns the value of a flag of the operator.
func argument(deployment *appsv1.Deployment, flag, otherwise string) string {
	for _, argument := range managerOf(deployment).Args {
		if value, ok := strings.CutPrefix(argument, "--"+flag+"="); ok {
			return value
		}
	}
	return otherwise
}

func watches(deployment *appsv1.Deployment, namespace string) bool {
	watched := argument(deployment, "watch-namespaces", "")
	return watched == "" || slices.Contains(strings.Split(watched, ","), namespace)
}

// tagOf returns the tag or digest of an image.
func tagOf(image string) string {
	name := image[strings.LastIndex(image, "/")+1:]
	if at := strings.IndexAny(name, ":@"); at >= 0 {
		return name[at+1:]
	}
	return "latest"
}
