package fleet

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/test/fleet/figures"
)

// CreateRule creates a rule that sends every event to a sink, and waits until it is ready.
func (f *Fleet) CreateRule(ctx context.Context, sink *Sink, retry v1alpha1.Retry) error {
	rule := &v1alpha1.NetBoxEventRule{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: "send"}}
	rule.Spec.Retry = retry
	rule.Spec.Actions = []v1alpha1.Action{{Name: "send", HTTP: &v1alpha1.HTTPAction{URL: sink.URL()}}}
	return f.create(ctx, rule)
}

// create creates a rule, and waits until it is ready.
func (f *Fleet) create(ctx context.Context, rule *v1alpha1.NetBoxEventRule) error {
	if err := f.Plane.Client.Create(ctx, rule); err != nil {
		return err
	}
	return Wait(ctx, 30*time.Second, "rule "+rule.Name+" is ready", func(ctx context.Context) (bool, error) {
		err := f.Plane.Client.Get(ctx, client.ObjectKeyFromObject(rule), rule)
		return meta.IsStatusConditionTrue(rule.Status.Conditions, v1alpha1.ConditionReady), err
	})
}

// Served waits until a replica receives and a leader processes: it sends a delivery, and waits until its event is finished.
func (f *Fleet) Served(ctx context.Context) error {
	sender, err := f.NewSender()
	if err != nil {
		return err
	}
	sender.Pause = 20 * time.Millisecond
	sender.Tries = 3000
	sender.Burst(ctx, 1, 1)
	return f.Finished(ctx, time.Minute)
}

func eventMetadata() *metav1.PartialObjectMetadataList {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind("NetBoxEventList"))
	return list
}

// Finished waits until no event is pending.
func (f *Fleet) Finished(ctx context.Context, limit time.Duration) error {
	return Wait(ctx, limit, "every event is finished", func(ctx context.Context) (bool, error) {
		pending := eventMetadata()
		err := f.Plane.Client.List(ctx, pending, client.InNamespace(Namespace), client.Limit(1),
			client.MatchingFields{"status.phase": string(v1alpha1.PhasePending)})
		return len(pending.Items) == 0, err
	})
}

// Keep sets the number of events that the source keeps.
func (f *Fleet) Keep(ctx context.Context, maxEvents int) error {
	of := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: source}}
	patch := fmt.Appendf(nil, `{"spec":{"retention":{"maxEvents":%d}}}`, maxEvents)
	return f.Plane.Client.Patch(ctx, of, client.RawPatch(types.MergePatchType, patch))
}

// Stored counts the events in the cluster.
func (f *Fleet) Stored(ctx context.Context) (int, error) {
	first := eventMetadata()
	if err := f.Plane.Client.List(ctx, first, client.InNamespace(Namespace), client.Limit(1)); err != nil {
		return 0, err
	}
	count := len(first.Items)
	if first.RemainingItemCount != nil {
		count += int(*first.RemainingItemCount)
	}
	return count, nil
}

// Judge compares the events in the cluster with the answers.
func (f *Fleet) Judge(ctx context.Context, s *Sender) (figures.Verdict, error) {
	verdict, names := s.verdict(), s.Names()
	stored := map[string][]string{} // names of events by request id
	err := f.eachEvent(ctx, func(event *v1alpha1.NetBoxEvent) {
		stored[event.Spec.RequestID] = append(stored[event.Spec.RequestID], event.Namespace+"/"+event.Name)
		switch event.Status.Phase {
		case v1alpha1.PhaseSucceeded:
		case v1alpha1.PhaseFailed:
			verdict.Failed++
		default:
			verdict.Unfinished++
		}
	})
	if err != nil {
		return verdict, err
	}
	for requestID, name := range names {
		switch of := stored[requestID]; {
		case len(of) == 0 || of[0] != name && len(of) == 1:
			verdict.Lost++
		default:
		}
	}
	for _, of := range stored {
		if len(of) > 1 {
			verdict.Doubled++
		}
	}
	return verdict, nil
}

// eachEvent calls a function with each event in the cluster.
func (f *Fleet) eachEvent(ctx context.Context, do func(*v1alpha1.NetBoxEvent)) error {
	const page = 500
	for next := ""; ; {
		var events v1alpha1.NetBoxEventList
		if err := f.Plane.Client.List(ctx, &events, client.InNamespace(Namespace), client.Limit(page), client.Continue(next)); err != nil {
			return err
		}
		for i := range events.Items {
			do(&events.Items[i])
		}
		if next = events.Continue; next == "" {
			return nil
		}
	}
}
