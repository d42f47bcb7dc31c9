package ingest

import (
	"context"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// sourceList is a cache of the given sources.
type sourceList struct {
	client.Reader
	items []v1alpha1.NetBoxSource
}

func (s *sourceList) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	list.(*v1alpha1.NetBoxSourceList).Items = s.items
	return nil
}

func TestBacklogs(t *testing.T) {
	withPending := func(pending, at int64) v1alpha1.NetBoxSource {
		source := v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{UID: "a"}, Spec: v1alpha1.NetBoxSourceSpec{MaxPending: 10}}
		source.Status.Pending, source.Status.PendingTime = &pending, new(metav1.NewMicroTime(metav1.Unix(at, 0).Time))
		return source
	}
	before, after := withPending(0, 1), withPending(8, 2)
	cache := &sourceList{items: []v1alpha1.NetBoxSource{after}}
	backlogs := newBacklogs(cache)
	admit := func(source *v1alpha1.NetBoxSource) (settle func(bool), ok bool) {
		settle, err := backlogs.admit(t.Context(), source)
		return settle, err == nil
	}

	if settle, ok := admit(&before); !ok {
		t.Error("the first delivery is refused")
	} else {
		settle(true)
	}
	slow, ok := admit(&before)
	if !ok {
		t.Error("the second delivery is refused")
	}
	if _, ok := admit(&before); ok {
		t.Error("a request with an outdated source exceeds the published backlog")
	}
	cache.items[0] = withPending(9, 3)
	if err := backlogs.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok := admit(&after); ok {
		t.Error("a publication discarded a delivery in progress")
	}
	slow(false)
	if _, ok := admit(&after); !ok {
		t.Error("a delivery that was not stored keeps its place")
	}

	unbounded := v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{UID: "b"}}
	if _, ok := admit(&unbounded); !ok {
		t.Error("a source without spec.maxPending is refused")
	}

	cache.items = nil
	if err := backlogs.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok := backlogs.known[types.UID("a")]; ok {
		t.Error("a deleted source is kept")
	}
	slow(true) // ends after its source
}
