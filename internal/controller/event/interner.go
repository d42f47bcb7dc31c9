package event

import (
	"fmt"
	"strings"
	"sync"

	"k8s.io/utils/lru"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/delivery"
)

// internedStatuses is how many are kept.
const internedStatuses = 1000

// interner lets events that were matched within the same second by the same rules share their first status: a large backlog has few of
// them. The returned status must not be changed.
type interner struct {
	once sync.Once
	kept *lru.Cache
}

func (i *interner) intern(status *v1alpha1.NetBoxEventStatus) *v1alpha1.NetBoxEventStatus {
	if delivery.RecordedReplay(status) != (delivery.Replay{}) || len(status.Conditions) > 0 {
		return status
	}
	i.once.Do(func() { i.kept = lru.New(internedStatuses) })
	var id strings.Builder
	fmt.Fprintf(&id, "%d\n", status.StartTime.Unix())
	for _, rule := range status.Rules {
		fmt.Fprintf(&id, "%s %t %q %+v\n", rule.Name, rule.Removal, rule.LimitKey, rule.Group)
		for _, action := range rule.Actions {
			fmt.Fprintf(&id, " %s\n", action.Name)
		}
	}
	if kept, ok := i.kept.Get(id.String()); ok {
		return kept.(*v1alpha1.NetBoxEventStatus)
	}
	i.kept.Add(id.String(), status)
	return status
}
