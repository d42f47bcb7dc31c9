package cli

import (
	"context"
	"regexp"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// madeObject matches an object in the response of an apply action: its kind, namespace if it has one, and name.
var madeObject = regexp.MustCompile(`\b([A-Z][A-Za-z0-9]*) (?:([a-z0-9][a-z0-9-]*)/)?([a-z0-9][a-z0-9.:-]*[a-z0-9]|[a-z0-9])`)

// traceObjects returns the objects that an action made, which its response names, as they are now. The versions of their kinds are those
// of the rule.
func traceObjects(
	ctx context.Context, api client.Client, of *v1alpha1.NetBoxEventRule, action *v1alpha1.ActionStatus,
) (nodes []*traceNode) {
	if of == nil || strings.HasPrefix(action.Response, "dry run: ") {
		return nil
	}
	templates := templatesOf(of, action.Name)
	if len(templates) == 0 {
		return nil
	}
	for _, found := range madeObject.FindAllStringSubmatch(action.Response, -1) {
		at := slices.IndexFunc(templates, func(template rule.Object) bool { return template.Kind == found[1] })
		if at < 0 {
			continue
		}
		object := &unstructured.Unstructured{}
		object.SetGroupVersionKind(schema.FromAPIVersionAndKind(templates[at].APIVersion, templates[at].Kind))
		object.SetNamespace(found[2])
		object.SetName(found[3])
		nodes = append(nodes, traceObject(ctx, api, object))
	}
	return nodes
}

// templatesOf returns the objects of an action's template; none if it has no such action any more, or is invalid.
func templatesOf(of *v1alpha1.NetBoxEventRule, action string) []rule.Object {
	compiled, err := rule.Compile(&of.Spec)
	if err != nil {
		return nil
	}
	if found := compiled.Find(action); found != nil {
		return found.Objects
	}
	return nil
}

func traceObject(ctx context.Context, api client.Client, object *unstructured.Unstructured) *traceNode {
	node := &traceNode{Kind: object.GetKind(), Name: strings.TrimPrefix(object.GetNamespace()+"/"+object.GetName(), "/")}
	switch err := api.Get(ctx, client.ObjectKeyFromObject(object), object); {
	case apierrors.IsNotFound(err):
		node.State, node.color = stateGone, yellow
		return node
	case err != nil:
		resource := strings.ToLower(object.GetKind())
		if mapping, err := api.RESTMapper().RESTMapping(object.GroupVersionKind().GroupKind(), object.GroupVersionKind().Version); err == nil {
			resource = mapping.Resource.Resource
		}
		node.State, node.Text = stateUnknown, clusterError(err, "get", resource, object.GetNamespace()).Error()
		return node
	}
	result, err := status.Compute(object)
	if err != nil {
		node.State, node.Text = stateUnknown, err.Error()
		return node
	}
	node.State, node.Text, node.color = result.Status.String(), result.Message, green
	switch result.Status {
	case status.FailedStatus:
		node.color = red
	case status.CurrentStatus:
	default:
		node.color = yellow
	}
	return node
}
