package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/eventstore"
)

const statusExample = `  # What is received, matched and waiting, and what is wrong
  kubectl netbox status -n netbox

  # All namespaces that have sources or rules
  kubectl netbox status -A

  # In a script: the exit code is 1 if something is wrong
  kubectl netbox status -n netbox -o json | jq -r '.wrong[].problem'`

func newStatusCommand(p *plugin) *cobra.Command {
	var output string
	var isEverywhere bool
	command := &cobra.Command{
		Use:   "status",
		Short: "Show sources, rules, the backlog and the operator, and what is wrong",
		Long: "Show the sources of a namespace with their backlog, the deliveries that were refused within the last hour, the rules, and the " +
			"operator with its leader, and what is wrong, each with the next step.",
		Example: statusExample,
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			api, namespace, err := p.cluster()
			if err != nil {
				return err
			}
			var found *overview
			if isEverywhere {
				found, err = p.overviewOfAll(command.Context(), api)
			} else {
				found, err = p.overview(command.Context(), api, namespace)
			}
			if err != nil {
				return err
			}
			if output == outputJSON {
				err = p.printJSON(found)
			} else {
				err = p.printOverview(found)
			}
			if err == nil && len(found.Wrong) > 0 {
				err = errFound
			}
			return err
		},
	}
	p.addOutput(command, &output, outputJSON)
	addAllNamespaces(command, &isEverywhere)
	return command
}

// overview is the answer of status.
type overview struct {
	// Namespace is empty for all namespaces. Then each source, refusal and rule has its own.
	Namespace string           `json:"namespace,omitempty"`
	Sources   []sourceOverview `json:"sources"`
	Refused   []refusal        `json:"refused,omitempty"`
	Rules     []ruleOverview   `json:"rules"`
	Operators []operator       `json:"operators,omitempty"`
	CRDs      *fit             `json:"crds,omitempty"`
	Wrong     []finding        `json:"wrong,omitempty"`
	// Unknown says what could not be looked at, and why.
	Unknown []string `json:"unknown,omitempty"`

	sources []v1alpha1.NetBoxSource
	rules   []v1alpha1.NetBoxEventRule
}

type sourceOverview struct {
	Namespace     string       `json:"namespace,omitempty"`
	Name          string       `json:"name"`
	Ready         string       `json:"ready"`
	Reason        string       `json:"reason"`
	Keys          []string     `json:"keys,omitempty"`
	LastDelivery  *metav1.Time `json:"lastDelivery,omitempty"`
	Pending       int          `json:"pending"`
	OldestPending *metav1.Time `json:"oldestPending,omitempty"`
	Failed        int          `json:"failed"`
	// NetBox is the version of NetBox, and Receiving the status of that condition; both are empty without spec.netbox.
	NetBox    string `json:"netbox,omitempty"`
	Receiving string `json:"receiving,omitempty"`
}

// refusal is a kind of deliveries that a source refused.
type refusal struct {
	Namespace string      `json:"namespace,omitempty"`
	Source    string      `json:"source"`
	Reason    string      `json:"reason"`
	Last      metav1.Time `json:"last"`
	Note      string      `json:"note"`
}

type ruleOverview struct {
	Namespace   string       `json:"namespace,omitempty"`
	Name        string       `json:"name"`
	Ready       string       `json:"ready"`
	Reason      string       `json:"reason"`
	Matched     int64        `json:"matched"`
	Failed      int64        `json:"failed"`
	LastMatched *metav1.Time `json:"lastMatched,omitempty"`
	// Sinks is the reason of the condition SinkAvailable, empty while all sinks have always been available.
	Sinks string `json:"sinks,omitempty"`
}

// finding is something that is wrong, and what to do about it.
type finding struct {
	About   string `json:"about"`
	Problem string `json:"problem"`
	Next    string `json:"next"`
}

// wrong adds a finding. The text {namespace} in the next step stands for the namespace.
func (o *overview) wrong(about, problem, next string) {
	o.Wrong = append(o.Wrong, finding{about, problem, strings.ReplaceAll(next, "{namespace}", o.Namespace)})
}

// overview looks at a namespace, and at the CRDs. It fails if the user may not list the operator's own resources in the namespace.
func (p *plugin) overview(ctx context.Context, api client.Client, namespace string) (*overview, error) {
	found, err := p.overviewOf(ctx, api, namespace)
	if err == nil {
		err = p.addCRDs(ctx, found)
	}
	if err != nil {
		return nil, err
	}
	return found, nil
}

// overviewOf looks at a namespace alone.
func (p *plugin) overviewOf(ctx context.Context, api client.Client, namespace string) (*overview, error) {
	found := &overview{Namespace: namespace, Sources: []sourceOverview{}, Rules: []ruleOverview{}}
	var sources v1alpha1.NetBoxSourceList
	if err := api.List(ctx, &sources, client.InNamespace(namespace)); err != nil {
		return nil, clusterError(err, "list", resourceSources, namespace)
	}
	var rules v1alpha1.NetBoxEventRuleList
	if err := api.List(ctx, &rules, client.InNamespace(namespace)); err != nil {
		return nil, clusterError(err, "list", resourceRules, namespace)
	}
	found.sources, found.rules = sources.Items, rules.Items
	late := lateAfter(rules.Items)
	for i := range sources.Items {
		if err := p.addSource(ctx, api, found, &sources.Items[i], late); err != nil {
			return nil, clusterError(err, "list", resourceEvents, namespace)
		}
	}
	if len(sources.Items) == 0 {
		found.wrong("namespace "+namespace, "has no NetBoxSource: nothing is received",
			"create one, or correct --namespace; kubectl netbox status -A shows all namespaces that have one")
	}
	p.addRefusals(ctx, api, found)
	for i := range rules.Items {
		found.addRule(&rules.Items[i])
	}
	p.addOperators(ctx, api, found)
	return found, nil
}

// addCRDs adds whether the CRDs fit the plugin.
func (p *plugin) addCRDs(ctx context.Context, found *overview) error {
	config, err := p.config()
	if err != nil {
		return err
	}
	if found.CRDs, err = fitOf(ctx, config); err != nil {
		found.Unknown = append(found.Unknown, fmt.Sprintf("whether the CRDs fit this plugin: %v", err))
	}
	return nil
}

// stuckAfter is the age of a pending event that is not explained by a group, or by ordinary retries.
const stuckAfter = 15 * time.Minute

// lateAfter returns the age of a pending event from which on it is late: rules with groups wait for them.
func lateAfter(rules []v1alpha1.NetBoxEventRule) time.Duration {
	var longest time.Duration
	for i := range rules {
		if group := rules[i].Spec.Group; group != nil {
			longest = max(longest, group.MaxWait.Duration)
		}
	}
	return longest + stuckAfter
}

// addSource adds a source, and what is wrong with it. It counts its events by their metadata alone.
func (p *plugin) addSource(
	ctx context.Context, api client.Client, found *overview, source *v1alpha1.NetBoxSource, late time.Duration,
) error {
	about := "source " + source.Name
	ready := found.condition(about, "netboxsource", source.Name, source.Status.Conditions, source.Generation)
	row := sourceOverview{Name: source.Name, Ready: string(ready.Status), Reason: ready.Reason, Keys: source.Status.Keys}
	if source.Spec.NetBox != nil {
		row.NetBox, row.Receiving = "unknown", string(metav1.ConditionUnknown)
		if source.Status.NetBox != nil {
			row.NetBox = cmp.Or(source.Status.NetBox.Version, row.NetBox)
		}
		if receiving := meta.FindStatusCondition(source.Status.Conditions, v1alpha1.ConditionReceiving); receiving != nil {
			row.Receiving = string(receiving.Status)
		}
	}
	all, err := countEvents(ctx, api, source)
	if err != nil {
		return err
	}
	pending, err := countEvents(ctx, api, source, eventstore.Pending)
	if err != nil {
		return err
	}
	failed, err := countEvents(ctx, api, source, eventstore.InPhase(v1alpha1.PhaseFailed))
	if err != nil {
		return err
	}
	row.LastDelivery, row.Pending, row.OldestPending, row.Failed = all.newest, pending.number, pending.oldest, failed.number
	found.Sources = append(found.Sources, row)
	if pending.oldest != nil && p.clock.Since(pending.oldest.Time) > late {
		found.wrong(about, fmt.Sprintf("%s, the oldest for %s", plural(pending.number, "event is pending", "events are pending"),
			p.age(pending.oldest.Time)), "kubectl netbox events --pending --source "+source.Name+" -n {namespace}, and trace the first one")
	}
	if failed.number > 0 {
		found.wrong(about, plural(failed.number, "event failed", "events failed"), "kubectl netbox events --failed --source "+source.Name+
			" -n {namespace}; fix the cause, and kubectl netbox replay --failed -n {namespace}")
	}
	return nil
}

// counted are the number, and the times of creation, of some events.
type counted struct {
	number         int
	oldest, newest *metav1.Time
}

// pageSize is the number of objects in one answer of the API server, as kubectl has it.
const pageSize = 500

func countEvents(ctx context.Context, api client.Client, source *v1alpha1.NetBoxSource, selectors ...fields.Selector) (counted, error) {
	var total counted
	selector := fields.AndSelectors(append(selectors, eventstore.OfSource(source.Name))...)
	for next := ""; ; {
		page := &metav1.PartialObjectMetadataList{}
		page.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind("NetBoxEventList"))
		err := api.List(ctx, page, client.InNamespace(source.Namespace), client.MatchingFieldsSelector{Selector: selector},
			client.Limit(pageSize), client.Continue(next))
		if err != nil {
			return counted{}, err
		}
		total.number += len(page.Items)
		for i := range page.Items {
			created := &page.Items[i].CreationTimestamp
			if total.oldest == nil || created.Before(total.oldest) {
				total.oldest = created
			}
			if total.newest == nil || total.newest.Before(created) {
				total.newest = created
			}
		}
		if next = page.Continue; next == "" {
			return total, nil
		}
	}
}

// condition returns the condition Ready of a source or rule, and records which of its conditions are wrong.
func (o *overview) condition(about, resource, name string, conditions []metav1.Condition, generation int64) metav1.Condition {
	ready := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady)
	if ready == nil || ready.ObservedGeneration < generation {
		o.wrong(about, "the operator has not looked at it since it was written",
			"check that the operator runs, and watches namespace {namespace}")
	}
	for _, condition := range conditions {
		bad, ok := badStatus[condition.Type]
		if !ok || condition.Status != bad {
			continue
		}
		next := nextSteps[condition.Reason]
		if next == "" {
			next = fmt.Sprintf("kubectl describe %s %s -n {namespace}", resource, name)
		}
		o.wrong(about, fmt.Sprintf("%s is %s (%s): %s", condition.Type, condition.Status, condition.Reason, condition.Message), next)
	}
	if ready == nil {
		return metav1.Condition{Status: metav1.ConditionUnknown}
	}
	return *ready
}

// badStatus are the statuses of conditions of sources and rules that are wrong.
var badStatus = map[string]metav1.ConditionStatus{
	v1alpha1.ConditionReady:             metav1.ConditionFalse,
	v1alpha1.ConditionBacklogFull:       metav1.ConditionTrue,
	v1alpha1.ConditionMaxEventsExceeded: metav1.ConditionTrue,
	v1alpha1.ConditionNetBoxReachable:   metav1.ConditionFalse,
	v1alpha1.ConditionWebhookConfigured: metav1.ConditionFalse,
	v1alpha1.ConditionChangeLogRead:     metav1.ConditionFalse,
	v1alpha1.ConditionReceiving:         metav1.ConditionFalse,
	v1alpha1.ConditionSinkAvailable:     metav1.ConditionFalse,
}

// nextSteps says what to do, by the reasons of conditions.
var nextSteps = map[string]string{
	v1alpha1.ReasonSuspended:          "set spec.suspend to false",
	v1alpha1.ReasonPathConflict:       "set another spec.path on one of the sources",
	v1alpha1.ReasonSecretNotFound:     "create the Secret with the secret of NetBox's webhook, or correct spec.secretRef",
	v1alpha1.ReasonKeyNotFound:        "add the secret of NetBox's webhook to the Secret, or correct spec.secretRef.key",
	v1alpha1.ReasonSecretUnreadable:   "let the operator get Secrets in this namespace: see watchNamespaces of the chart",
	v1alpha1.ReasonInvalidAccept:      "correct spec.accept",
	v1alpha1.ReasonMaxPendingReached:  "see what events wait for: kubectl netbox events --pending -n {namespace}",
	v1alpha1.ReasonYoungerThanMaxAge:  "raise spec.retention.maxEvents, or lower spec.maxAge",
	v1alpha1.ReasonChangeLogUnread:    "raise spec.retention.maxEvents, or lower spec.netbox.backfill.maxAge",
	v1alpha1.ReasonTokenUnreadable:    "create the Secret, or correct spec.netbox.tokenSecretRef",
	v1alpha1.ReasonTokenRefused:       "put a token that NetBox accepts into the Secret of spec.netbox.tokenSecretRef",
	v1alpha1.ReasonPermissionMissing:  "give the token's user the permission in NetBox",
	v1alpha1.ReasonUnreachable:        "check spec.netbox.url, and that the operator's network policy and proxy let it connect",
	v1alpha1.ReasonUnsupportedVersion: "upgrade NetBox, or remove what needs it from spec.netbox",
	v1alpha1.ReasonNameTaken:          "rename or delete that webhook or event rule in NetBox",
	v1alpha1.ReasonKeyUnusable:        "put a key that NetBox can keep into the Secret of spec.secretRef",
	v1alpha1.ReasonNothingArrives:     "check NetBox: is the webhook enabled, does its URL lead to the operator, does rqworker run?",
	v1alpha1.ReasonInvalid:            "correct the rule: kubectl netbox test tries it without a cluster",
	v1alpha1.ReasonUnavailable:        "check the sink; what waits is delivered by itself once it answers",
	v1alpha1.ReasonAskedToWait:        "wait: deliveries continue by themselves; limit.perSecond of the rule spares the sink",
}

func (o *overview) addRule(rule *v1alpha1.NetBoxEventRule) {
	ready := o.condition("rule "+rule.Name, "netboxeventrule", rule.Name, rule.Status.Conditions, rule.Generation)
	row := ruleOverview{
		Name: rule.Name, Ready: string(ready.Status), Reason: ready.Reason,
		Matched: rule.Status.Matched, Failed: rule.Status.Failed, LastMatched: rule.Status.LastMatched,
	}
	if sinks := meta.FindStatusCondition(rule.Status.Conditions, v1alpha1.ConditionSinkAvailable); sinks != nil {
		row.Sinks = sinks.Reason
	}
	o.Rules = append(o.Rules, row)
}

// refusalSteps says what to do about refused deliveries, by the reasons of the Kubernetes Events that the receiver makes.
var refusalSteps = map[string]string{
	v1alpha1.EventSignatureMismatch:    "set the secret of NetBox's webhook to one of the keys of the source's Secret",
	v1alpha1.EventMalformedBody:        "remove the body template of NetBox's webhook, or make it render JSON",
	v1alpha1.EventInvalidBody:          "remove the body template of NetBox's webhook, or have it send the fields that are missing",
	v1alpha1.EventBodyTooLarge:         "raise spec.maxBodyBytes of the source",
	v1alpha1.EventUnsupportedMediaType: "set the HTTP content type of NetBox's webhook to application/json",
	v1alpha1.EventNotStored:            "NetBox does not send again by itself: requeue its failed jobs once the source is ready",
	v1alpha1.EventThrottled:            "raise spec.rateLimit of the source; requeue the failed jobs of NetBox",
	v1alpha1.EventBacklogFull:          "see what events wait for: kubectl netbox events --pending -n {namespace}",
}

// refusedFor is how long a refusal counts as something that is wrong. The API server keeps Kubernetes Events as long by default.
const refusedFor = time.Hour

// addRefusals adds the newest refusal of each reason of each source, which the receiver reports by Kubernetes Events.
func (p *plugin) addRefusals(ctx context.Context, api client.Client, found *overview) {
	var events corev1.EventList
	selector := fields.Set{"involvedObject.kind": "NetBoxSource", "type": corev1.EventTypeWarning}.AsSelector()
	if err := api.List(ctx, &events, client.InNamespace(found.Namespace), client.MatchingFieldsSelector{Selector: selector}); err != nil {
		found.Unknown = append(found.Unknown, "refused deliveries: "+clusterError(err, "list", "events", found.Namespace).Error())
		return
	}
	slices.SortFunc(events.Items, func(a, b corev1.Event) int { return lastSeen(&b).Compare(lastSeen(&a).Time) })
	for i := range events.Items {
		event := &events.Items[i]
		last := lastSeen(event)
		next, ok := refusalSteps[event.Reason]
		isShown := slices.ContainsFunc(found.Refused, func(r refusal) bool {
			return r.Source == event.InvolvedObject.Name && r.Reason == event.Reason
		})
		if !ok || isShown || p.clock.Since(last.Time) > refusedFor {
			continue
		}
		found.Refused = append(found.Refused,
			refusal{Source: event.InvolvedObject.Name, Reason: event.Reason, Last: last, Note: event.Message})
		found.wrong("source "+event.InvolvedObject.Name,
			fmt.Sprintf("deliveries were refused (%s), the last %s ago", event.Reason, p.age(last.Time)), next)
	}
}

// lastSeen returns when a Kubernetes Event happened last.
func lastSeen(event *corev1.Event) metav1.Time {
	switch {
	case event.Series != nil:
		return metav1.NewTime(event.Series.LastObservedTime.Time)
	case !event.LastTimestamp.IsZero():
		return event.LastTimestamp
	default:
		return metav1.NewTime(event.EventTime.Time)
	}
}
