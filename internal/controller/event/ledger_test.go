package event

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// TestOrderWhileListing has the later of two events be listed first, as names have another order than times: nothing of its object is
// delivered before the list is complete, whether it is the first list or one after a watch that was too far behind.
func TestOrderWhileListing(t *testing.T) {
	l := newLedger()
	for list := range 2 {
		number := l.startList()
		name := []string{"first", "second"}[list]
		later := &v1alpha1.NetBoxEvent{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID(name), ResourceVersion: "2"}}
		later.Spec.SourceRef.Name, later.Spec.ObjectType, later.Spec.ObjectID = "s", "t", name
		later.Spec.Timestamp = metav1.NewMicroTime(time.Unix(2, 0))
		l.observe(t.Context(), later, true)
		e := l.events[client.ObjectKeyFromObject(later)]
		l.start(e, &v1alpha1.NetBoxEventStatus{
			Phase: v1alpha1.PhasePending, Rules: []v1alpha1.RuleStatus{{Name: "r", State: v1alpha1.DeliveryPending}},
		}, nil)
		l.enterLane(e, func(string) bool { return true })
		if next := l.next(l.lanes[laneOf(later)].unitOf("r")); next != nil {
			t.Errorf("list %d: %s is delivered although an earlier event may be on the next page", list, next.name)
		}
		if _, ready := l.endList(metav1.NamespaceAll, number); l.next(l.lanes[laneOf(later)].unitOf("r")) != e || len(ready) != 1 {
			t.Errorf("list %d: %s is not delivered after the list", list, name)
		}
	}
}

// TestListDoesNotWaitForMatching lists far more than there is room for while nothing is matched: the list waits once, and no longer.
func TestListDoesNotWaitForMatching(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		number, began := l.startList(), time.Now()
		const events, bodyBytes = 1000, 1 << 20
		for n := range events {
			name := fmt.Sprint(n)
			event := &v1alpha1.NetBoxEvent{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID(name), ResourceVersion: "2"}}
			event.Spec.ObjectID, event.Spec.Delivery.BodyBytes = name, bodyBytes
			l.observe(t.Context(), event, true)
		}
		l.endList(metav1.NamespaceAll, number)
		if took := time.Since(began); took != holdWait {
			t.Errorf("the list waited for %s", took)
		}
		held := 0
		for _, e := range l.events {
			if e.body != nil {
				held++
			}
		}
		if len(l.events) != events || held == 0 || held > heldBytes/bodyBytes {
			t.Errorf("%d events, of which %d have their bodies", len(l.events), held)
		}
	})
}
