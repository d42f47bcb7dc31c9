package event_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
	"github.com/netbox-events/netbox-event-operator/internal/controller/event"
)

// counting is a sink that counts the deliveries of each rule.
type counting struct{ measured, others atomic.Int64 }

func (c *counting) Do(_ context.Context, task action.Task) (action.Result, error) {
	switch {
	case task.Rule.Name == "measured":
		c.measured.Add(1)
	case task.Group == nil:
		c.others.Add(1)
	default:
		c.others.Add(int64(len(task.Group.Events)))
	}
	return action.Result{Response: "taken"}, nil
}

func ofType(objectType string) func(*v1alpha1.NetBoxEventRuleSpec) {
	return func(spec *v1alpha1.NetBoxEventRuleSpec) { spec.Match.ObjectTypes = []string{objectType} }
}

// BenchmarkBesideGroups measures how long a rule without groups takes for 2000 events, while 20 000 events for another rule come as fast as
// the API server takes them: delivered by themselves, and in 2000 groups of 10.
func BenchmarkBesideGroups(b *testing.B) {
	for _, by := range []string{"", v1alpha1.GroupByRequest} {
		b.Run("by="+by, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				namespace := plane.Namespace(b)
				plane.Create(b, newRule(namespace, "measured", ofType("dcim.region")))
				other := newRule(namespace, "other", ofType("dcim.site"))
				if by != "" {
					grouped(by, 2*time.Second)(&other.Spec)
				}
				plane.Create(b, other)
				sink := &counting{}
				_, stop := startWith(b, plane.Config, namespace, 0, nil, func(options *event.Options) { options.Actions = sink })
				const groups, size = 2000, 10
				b.StartTimer()
				var creating sync.WaitGroup
				for worker := range 8 {
					creating.Go(func() {
						for group := worker; group < groups; group += 8 {
							for i := range size + 1 {
								made := newEvent(namespace, group*(size+1)+i, 0)
								if i == size {
									made.Spec.ObjectType = "dcim.region"
								}
								made.Spec.RequestID = fmt.Sprint("request-", group)
								made.Spec.Delivery.ReceivedAt = metav1.NowMicro()
								if err := plane.Client.Create(b.Context(), made); err != nil {
									b.Error(err)
								}
							}
						}
					})
				}
				creating.Wait()
				for sink.measured.Load() < groups {
					time.Sleep(10 * time.Millisecond)
				}
				b.StopTimer()
				for sink.others.Load() < groups*size {
					time.Sleep(10 * time.Millisecond)
				}
				stop()
				b.StartTimer()
			}
		})
	}
}
