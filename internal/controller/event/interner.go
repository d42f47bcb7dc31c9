package event

import (
	"fmt"
	"strings"
	"sync"

	"k8s.io/utils/lru"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// internedRules is how many sets of rules are kept.
const internedRules = 1000

// interner lets events that match the same rules share the states of what is to be delivered: a backlog of many events has few of them.
// What it returns is not to be changed.
type interner struct {
	once sync.Once
	kept *lru.Cache
}

func (i *interner) intern(rules []v1alpha1.RuleStatus) []v1alpha1.RuleStatus {
	i.once.Do(func() { i.kept = lru.New(internedRules) })
	var id strings.Builder
	for _, rule := range rules {
		fmt.Fprintf(&id, "%s\n", rule.Name)
		for _, action := range rule.Actions {
			fmt.Fprintf(&id, " %s\n", action.Name)
		}
	}
	if kept, ok := i.kept.Get(id.String()); ok {
		return kept.([]v1alpha1.RuleStatus)
	}
	i.kept.Add(id.String(), rules)
	return rules
}
