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
type counting struct{ single, groups atomic.Int64 }

func (c *counting) Do(_ context.Context, task action.Task) (action.Result, error) {
	if task.Group == nil {
		c.single.Add(1)
	} else {
		c.groups.Add(int64(len(task.Group.Events)))
	}
	return action.Result{Response: "taken"}, nil
}

// BenchmarkBesideGroups measures how long a rule without groups takes for 20 000 events that are created as fast as the API server takes
// them, alone and beside a rule that delivers them in 2000 groups of 10.
func BenchmarkBesideGroups(b *testing.B) {
	for _, rules := range []string{"single", "both"} {
		b.Run(rules, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				namespace := plane.Namespace(b)
				plane.Create(b, newRule(namespace, "single"))
				if rules == "both" {
					plane.Create(b, newRule(namespace, "groups", grouped(v1alpha1.GroupByRequest, 2*time.Second, time.Minute)))
				}
				sink := &counting{}
				_, stop := startWith(b, plane.Config, namespace, 0, nil, func(options *event.Options) { options.Actions = sink })
				const groups, size = 2000, 10
				b.StartTimer()
				var creating sync.WaitGroup
				for worker := range 8 {
					creating.Go(func() {
						for group := worker; group < groups; group += 8 {
							for i := range size {
								made := newEvent(namespace, group*size+i, 0)
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
				for sink.single.Load() < groups*size {
					time.Sleep(10 * time.Millisecond)
				}
				b.StopTimer()
				for rules == "both" && sink.groups.Load() < groups*size {
					time.Sleep(10 * time.Millisecond)
				}
				stop()
				b.StartTimer()
			}
		})
	}
}
