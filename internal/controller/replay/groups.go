package replay

import (
	"context"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
)

// reopenGroups makes the other events of the groups of an event pending, each for the rule of the group alone. Those that an earlier
// attempt made pending are left.
func (r *Reconciler) reopenGroups(ctx context.Context, event *v1alpha1.NetBoxEvent, requested delivery.Replay) error {
	for i := range event.Status.Rules {
		status := &event.Status.Rules[i]
		if status.Group == nil || status.Group.Events < 2 || requested.Rule != "" && requested.Rule != status.Name {
			continue
		}
		var rule v1alpha1.NetBoxEventRule
		err := r.Rules.Get(ctx, types.NamespacedName{Namespace: event.Namespace, Name: status.Name}, &rule)
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		if err == nil && rule.Spec.Group != nil && !rule.Spec.Suspend {
			if err := r.reopenGroup(ctx, event, &rule, status.Group.ID, requested); err != nil {
				return err
			}
		}
	}
	return nil
}

// groupPage is how many events of a group are listed at one time.
const groupPage = 100

func (r *Reconciler) reopenGroup(
	ctx context.Context, event *v1alpha1.NetBoxEvent, rule *v1alpha1.NetBoxEventRule, group string, requested delivery.Replay,
) error {
	selector := eventstore.Finished
	if event.Status.Group == group { // else the event is in several groups, and this is not the one that can be selected
		selector = eventstore.FinishedInGroup(group)
	}
	for next := ""; ; {
		var page v1alpha1.NetBoxEventList
		err := r.Events.List(ctx, &page, client.InNamespace(event.Namespace), client.MatchingFieldsSelector{Selector: selector},
			client.Limit(groupPage), client.Continue(next))
		if err != nil {
			return err
		}
		for i := range page.Items {
			member := &page.Items[i]
			status := delivery.ReopenMember(&member.Status, rule, group, requested, r.Clock.Now())
			if member.UID == event.UID || status == nil {
				continue
			}
			if _, err := r.Status.UpdateStatus(ctx, versionOf(member), status); client.IgnoreNotFound(err) != nil {
				return err
			}
		}
		if next = page.Continue; next == "" {
			return nil
		}
	}
}

func versionOf(event *v1alpha1.NetBoxEvent) eventstore.Version {
	return eventstore.Version{Namespace: event.Namespace, Name: event.Name, UID: event.UID, ResourceVersion: event.ResourceVersion}
}
