package cli

import (
	"context"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// overviewOfAll looks at all namespaces that have sources or rules.
func (p *plugin) overviewOfAll(ctx context.Context, api client.Client) (*overview, error) {
	namespaces := map[string]bool{}
	for kind, resource := range map[string]string{"NetBoxSourceList": resourceSources, "NetBoxEventRuleList": resourceRules} {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind(kind))
		if err := api.List(ctx, list); err != nil {
			return nil, clusterError(err, "list", resource, metav1.NamespaceAll)
		}
		for i := range list.Items {
			namespaces[list.Items[i].Namespace] = true
		}
	}
	all := &overview{Sources: []sourceOverview{}, Rules: []ruleOverview{}}
	for _, namespace := range slices.Sorted(maps.Keys(namespaces)) {
		found, err := p.overviewOf(ctx, api, namespace)
		if err != nil {
			return nil, err
		}
		all.add(found)
	}
	if len(namespaces) == 0 {
		all.wrong("all namespaces", "have no NetBoxSource: nothing is received", "create one")
	}
	return all, p.addCRDs(ctx, all)
}

// add adds what was found in a namespace.
func (o *overview) add(found *overview) {
	for i := range found.Sources {
		found.Sources[i].Namespace = found.Namespace
	}
	for i := range found.Refused {
		found.Refused[i].Namespace = found.Namespace
	}
	for i := range found.Rules {
		found.Rules[i].Namespace = found.Namespace
	}
	o.Sources = append(o.Sources, found.Sources...)
	o.Refused = append(o.Refused, found.Refused...)
	o.Rules = append(o.Rules, found.Rules...)
	for _, row := range found.Operators {
		if !slices.ContainsFunc(o.Operators, func(other operator) bool { return key(&other) == key(&row) }) {
			o.Operators = append(o.Operators, row)
		}
	}
	for _, wrong := range found.Wrong {
		if strings.HasPrefix(wrong.About, "source ") || strings.HasPrefix(wrong.About, "rule ") {
			wrong.About += " in namespace " + found.Namespace
		}
		if !slices.Contains(o.Wrong, wrong) { // an operator of several namespaces is there once
			o.Wrong = append(o.Wrong, wrong)
		}
	}
	for _, unknown := range found.Unknown {
		if !slices.Contains(o.Unknown, unknown) {
			o.Unknown = append(o.Unknown, unknown)
		}
	}
}

func key(row *operator) client.ObjectKey {
	return client.ObjectKey{Namespace: row.Namespace, Name: row.Name}
}
