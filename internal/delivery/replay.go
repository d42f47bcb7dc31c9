package delivery

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

// replayPause delays the first attempt of a replayed event, so that replays of other events of its object can arrive: kubectl annotates
// many events one after the other, sorted by name and not by NetBox's time.
const replayPause = 5 * time.Second

const (
	// maxReplayBytes bounds the copy of the replay annotation in the status.
	maxReplayBytes = 64
	// maxNameBytes bounds that of the name of a rule.
	maxNameBytes = 253
)

// Replay is a request for a replay of an event, by its annotations. The zero value requests none.
type Replay struct {
	// Value is arbitrary.
	Value string
	// Rule is the only rule to replay, "" for all.
	Rule string
}

// ReplayOf returns the replay that the annotations of an event request. The status repeats them, so a long one is replaced by its
// beginning and a hash.
func ReplayOf(event metav1.Object) Replay {
	annotations := event.GetAnnotations()
	return Replay{
		Value: shorten(annotations[v1alpha1.AnnotationReplay], maxReplayBytes),
		Rule:  shorten(annotations[v1alpha1.AnnotationReplayRule], maxNameBytes),
	}
}

func shorten(text string, maxBytes int) string {
	if len(text) <= maxBytes {
		return text
	}
	hash := fmt.Sprintf("…%.10x", sha256.Sum256([]byte(text)))
	return oneline.Of(text[:maxBytes-len(hash)], maxBytes) + hash
}

// RecordedReplay returns the replay that a status belongs to.
func RecordedReplay(status *v1alpha1.NetBoxEventStatus) Replay {
	return Replay{Value: status.Replay, Rule: status.ReplayRule}
}

// IsNew reports whether a status does not record the replay yet.
func (r Replay) IsNew(status *v1alpha1.NetBoxEventStatus) bool {
	return r.Value != "" && r.Value != status.Replay || r.Rule != "" && r.Rule != status.ReplayRule
}

// Key returns the value of a rule's limit.key or group.by as it is in the status: a long one is replaced by its beginning and a hash.
func Key(value string) string { return shorten(value, maxNameBytes) }

// String names the replay in logs and in the journal.
func (r Replay) String() string {
	if r.Rule == "" {
		return r.Value
	}
	return strings.TrimSuffix(r.Rule+"/"+r.Value, "/")
}

// KeepOthers returns the status of a replay with the states that the other rules had before, where it is a replay of one rule.
func KeepOthers(replayed, before *v1alpha1.NetBoxEventStatus) *v1alpha1.NetBoxEventStatus {
	if replayed.ReplayRule == "" || before == nil {
		return replayed
	}
	kept := *replayed
	kept.Rules = slices.Clone(replayed.Rules)
	for i := range before.Rules {
		if before.Rules[i].Name != replayed.ReplayRule {
			kept.Rules = append(kept.Rules, before.Rules[i])
		}
	}
	slices.SortFunc(kept.Rules, func(a, b v1alpha1.RuleStatus) int { return strings.Compare(a.Name, b.Name) })
	return &kept
}

// ReopenMember returns the status that makes a finished event pending because another event of its group is replayed, for the rule of the
// group alone: the others keep their states. It returns nil for an event that was not in the group.
func ReopenMember(
	status *v1alpha1.NetBoxEventStatus, rule *v1alpha1.NetBoxEventRule, group string, replay Replay, now time.Time,
) *v1alpha1.NetBoxEventStatus {
	at := slices.IndexFunc(status.Rules, func(own v1alpha1.RuleStatus) bool {
		return own.Name == rule.Name && own.Group != nil && own.Group.ID == group
	})
	if at < 0 {
		return nil
	}
	started := metav1.NewTime(now.Truncate(time.Second))
	reopened := status.DeepCopy()
	reopened.Phase, reopened.CompletionTime, reopened.StartTime = v1alpha1.PhasePending, nil, &started
	reopened.Replay = shorten("group: "+replay.String(), maxReplayBytes) // the group gets another id
	fresh := deferRules([]v1alpha1.RuleStatus{NewRuleStatus(rule)}, metav1.NewTime(started.Add(replayPause)))[0]
	fresh.Group, fresh.LimitKey = &v1alpha1.GroupStatus{Key: reopened.Rules[at].Group.Key}, reopened.Rules[at].LimitKey
	reopened.Rules[at] = fresh
	return reopened
}

// Reopen returns the status that makes a finished event pending for a replay. A replay of one rule keeps the states of the others.
func Reopen(status *v1alpha1.NetBoxEventStatus, replay Replay) *v1alpha1.NetBoxEventStatus {
	if replay.Rule == "" {
		return &v1alpha1.NetBoxEventStatus{Phase: v1alpha1.PhasePending}
	}
	reopened := status.DeepCopy()
	reopened.Phase, reopened.CompletionTime = v1alpha1.PhasePending, nil
	return reopened
}
