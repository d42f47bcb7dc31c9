package delivery_test

import (
	"errors"
	"testing"
	"time"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
)

// TestOutage checks for how long a sink may be down before an event is given up.
func TestOutage(t *testing.T) {
	const day = 24 * time.Hour
	attemptsOnly := *retry
	attemptsOnly.MaxAttempts = 10
	for _, test := range []struct {
		reason   string
		retry    *v1alpha1.Retry
		outcome  delivery.Outcome
		from, to time.Duration // when it is given up
	}{
		{"by default, a day", retry, down, day, day},
		{"limited attempts", &attemptsOnly, down, 4 * time.Minute, 9 * time.Minute},
		{"attempts that the sink asked to make later do not count", &attemptsOnly, throttled(time.Second), day, day + time.Second},
		{"refused", &attemptsOnly, delivery.Outcome{Err: errors.New("answered with 404"), Permanent: true}, 0, 0},
	} {
		t.Run(test.reason, func(t *testing.T) {
			rule := &v1alpha1.NetBoxEventRule{Spec: v1alpha1.NetBoxEventRuleSpec{Actions: []v1alpha1.Action{{Name: "a"}}, Retry: *test.retry}}
			status := delivery.NewStatus([]v1alpha1.RuleStatus{delivery.NewRuleStatus(rule)}, nil, delivery.Replay{}, epoch)
			action, now := &status.Rules[0].Actions[0], epoch
			for {
				delivery.RecordAttempt(action, test.outcome, test.retry, delivery.Deadline(status, action, test.retry), now)
				if action.State != v1alpha1.DeliveryPending {
					break
				}
				now = action.NextAttemptTime.Time
			}
			if took := now.Sub(epoch); action.State != v1alpha1.DeliveryFailed || took < test.from || took > test.to {
				t.Errorf("%s after %s and %d attempts, want Failed after %s to %s", action.State, took, action.Attempts, test.from, test.to)
			}
		})
	}
}
