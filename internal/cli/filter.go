package cli

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// filter selects events of a namespace: by the API server as far as it has the fields, and the rest here.
type filter struct {
	source, objectType, object, user, request, branch, rule string

	failed, pending bool
	since           time.Duration
}

// mainBranch is the name of the branch that events do not name.
const mainBranch = "main"

// addFieldFlags adds the flags of all fields but failed, pending and since.
func (f *filter) addFieldFlags(p *plugin, command *cobra.Command) {
	flags := command.Flags()
	flags.StringVar(&f.source, "source", "", "only events of this NetBoxSource")
	flags.StringVar(&f.objectType, "type", "", "only events of objects of this type, such as dcim.device, or dcim.*")
	flags.StringVar(&f.object, "object", "", "only events of the object with this id or name")
	flags.StringVar(&f.user, "user", "", "only changes that this user of NetBox made")
	flags.StringVar(&f.request, "request", "", "only changes that the request with this id made, such as a bulk edit")
	flags.StringVar(&f.branch, "branch", "", "only changes in this branch; main for those in none")
	p.complete(command, "source", completeSources)
}

// addStateFlags adds the flags of the other fields.
func (f *filter) addStateFlags(p *plugin, command *cobra.Command) {
	flags := command.Flags()
	flags.BoolVar(&f.failed, "failed", false, "only events of which an action failed permanently")
	flags.StringVar(&f.rule, "rule", "", "only events that matched this NetBoxEventRule; with --failed, those of which it failed")
	flags.DurationVar(&f.since, "since", 0, "only events that were received within this time, such as 2h")
	p.complete(command, "rule", completeRules)
}

func (f *filter) check() error {
	if f.since < 0 {
		return errors.New("--since must not be negative")
	}
	return nil
}

// selector returns what the API server selects.
func (f *filter) selector() fields.Selector {
	set := fields.Set{}
	for field, value := range map[string]string{"spec.sourceRef.name": f.source, "spec.username": f.user, "spec.requestID": f.request} {
		if value != "" {
			set[field] = value
		}
	}
	if f.objectType != "" && !strings.HasSuffix(f.objectType, ".*") {
		set["spec.objectType"] = f.objectType
	}
	switch {
	case f.pending:
		set["status.phase"] = string(v1alpha1.PhasePending)
	case f.failed:
		set["status.phase"] = string(v1alpha1.PhaseFailed)
	}
	return set.AsSelector()
}

// selects reports whether an event that the API server selected is wanted.
func (f *filter) selects(event *v1alpha1.NetBoxEvent, now time.Time) bool {
	spec := &event.Spec
	prefix, isPrefix := strings.CutSuffix(f.objectType, "*")
	switch {
	case f.object != "" && f.object != spec.ObjectID && !strings.EqualFold(f.object, spec.ObjectName),
		isPrefix && !strings.HasPrefix(spec.ObjectType, prefix),
		f.branch != "" && f.branch != cmp.Or(spec.Branch, mainBranch),
		f.since > 0 && now.Sub(spec.Delivery.ReceivedAt.Time) > f.since:
		return false
	}
	return f.rule == "" || slices.ContainsFunc(event.Status.Rules, func(rule v1alpha1.RuleStatus) bool {
		return rule.Name == f.rule && (!f.failed || rule.State == v1alpha1.DeliveryFailed)
	})
}

// list returns the events that the filter selects, the newest last. It keeps of each what the function returns.
func (f *filter) list(
	ctx context.Context, api client.Client, namespace string, now time.Time, keep func(*v1alpha1.NetBoxEvent) *v1alpha1.NetBoxEvent,
) ([]*v1alpha1.NetBoxEvent, error) {
	var kept []*v1alpha1.NetBoxEvent
	for next := ""; ; {
		var page v1alpha1.NetBoxEventList
		err := api.List(ctx, &page, client.InNamespace(namespace), client.MatchingFieldsSelector{Selector: f.selector()},
			client.Limit(pageSize), client.Continue(next))
		if err != nil {
			return nil, clusterError(err, "list", resourceEvents, namespace)
		}
		for i := range page.Items {
			if f.selects(&page.Items[i], now) {
				kept = append(kept, keep(&page.Items[i]))
			}
		}
		if next = page.Continue; next == "" {
			slices.SortFunc(kept, compareReceived)
			return kept, nil
		}
	}
}

func compareReceived(a, b *v1alpha1.NetBoxEvent) int {
	return cmp.Or(a.Spec.Delivery.ReceivedAt.Compare(b.Spec.Delivery.ReceivedAt.Time), a.Spec.Timestamp.Compare(b.Spec.Timestamp.Time),
		strings.Compare(a.Name, b.Name))
}

// withoutPayload returns a copy of an event without what NetBox sent of the object, which takes most of the memory.
func withoutPayload(event *v1alpha1.NetBoxEvent) *v1alpha1.NetBoxEvent {
	kept := &v1alpha1.NetBoxEvent{ObjectMeta: event.ObjectMeta, Spec: event.Spec, Status: event.Status}
	kept.ManagedFields = nil
	kept.Spec.Data, kept.Spec.Snapshots, kept.Spec.Context, kept.Spec.Extra, kept.Spec.Request = nil, nil, nil, nil, nil
	kept.Spec.Delivery.Envelope = nil
	return kept
}
