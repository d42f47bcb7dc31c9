package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/internal/secretkeys"
	"github.com/netbox-events/netbox-event-operator/internal/source"
)

func pathOf(s *v1alpha1.NetBoxSource) string { return source.Path(s) }

func aboutSource(s *v1alpha1.NetBoxSource) string { return "source " + s.Name }

// readyReason returns the reason of the condition Ready of a source, "" if the operator has not looked at the source as it is.
func readyReason(s *v1alpha1.NetBoxSource) string {
	ready := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil || ready.ObservedGeneration < s.Generation {
		return ""
	}
	return ready.Reason
}

// checkReady has what status finds: conditions, refused deliveries, and events that are late or failed.
func (d *doctor) checkReady(_ context.Context, s *v1alpha1.NetBoxSource) {
	if !d.addFindings(aboutSource(s)) {
		d.ok(aboutSource(s), "%s", meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionReady).Message)
	}
}

const (
	// minKeyBytes is the least length of a key that cannot be guessed.
	minKeyBytes = 16
	// maxKeyCharacters is the longest secret that NetBox keeps.
	maxKeyCharacters = 255
	newKey           = "make a new one, such as the output of openssl rand -hex 32, and enter it in NetBox"
)

// checkKeys looks at the keys of the Secret.
func (d *doctor) checkKeys(ctx context.Context, s *v1alpha1.NetBoxSource) {
	ref := s.Spec.SecretRef
	if ref == nil {
		return
	}
	var secret corev1.Secret
	err := d.api.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: ref.Name}, &secret)
	if apierrors.IsNotFound(err) {
		if readyReason(s) != v1alpha1.ReasonSecretNotFound {
			d.add(resultProblem, aboutSource(s), "Secret "+ref.Name+" does not exist", nextSteps[v1alpha1.ReasonSecretNotFound])
		}
		return
	}
	if err != nil {
		d.unknown(aboutSource(s), "the keys in Secret %s: %v", ref.Name, clusterError(err, "get", "secrets", s.Namespace))
		return
	}
	keys, err := secretkeys.Of(&secret, ref)
	if err != nil && readyReason(s) != v1alpha1.ReasonKeyNotFound {
		d.add(resultProblem, aboutSource(s), err.Error(), nextSteps[v1alpha1.ReasonKeyNotFound])
	}
	for _, key := range keys {
		about := fmt.Sprintf("key %s of Secret %s", key.Name, ref.Name)
		if result, problem, next := keyProblem(string(key.Value)); problem != "" {
			d.add(result, aboutSource(s), about+" "+problem, next)
			continue
		}
		if len(secret.Data[key.Name]) > len(key.Value) {
			about += ", whose white space at the end is ignored"
		}
		d.ok(aboutSource(s), "%s", about)
	}
}

// keyProblem returns what is wrong with a key, if anything.
func keyProblem(key string) (result checkResult, problem, next string) {
	switch {
	case !utf8.ValidString(key) || strings.ContainsRune(key, 0):
		return resultProblem, "is no text, and NetBox cannot have it", newKey
	case strings.TrimLeftFunc(key, unicode.IsSpace) != key:
		return resultProblem, "begins with white space, which is a part of the key, and which NetBox removes: no signature matches",
			"write the entry again without it: printf %s \"$KEY\" instead of echo"
	case strings.ContainsFunc(key, unicode.IsControl):
		return resultWarning, "has a line break or another control character, which cannot be entered in NetBox's form", newKey
	case utf8.RuneCountInString(key) > maxKeyCharacters:
		return resultProblem, fmt.Sprintf("is longer than the %d characters that NetBox keeps", maxKeyCharacters), newKey
	case len(key) < minKeyBytes:
		return resultWarning, fmt.Sprintf("is shorter than %d bytes, and could be guessed", minKeyBytes), newKey
	default:
		return "", "", ""
	}
}

// checkUnsigned warns of sources that take what anyone sends.
func (d *doctor) checkUnsigned(_ context.Context, s *v1alpha1.NetBoxSource) {
	if s.Spec.Unsigned == v1alpha1.UnsignedAccept {
		d.add(resultWarning, aboutSource(s), "spec.unsigned is Accept: anyone who reaches its URL can make events, and rules act on them",
			"set spec.secretRef, and the secret of NetBox's webhook, and then unsigned: Reject")
	}
}

// checkAccept looks at spec.accept: it may select what NetBox never sends.
func (d *doctor) checkAccept(_ context.Context, s *v1alpha1.NetBoxSource) {
	accept := s.Spec.Accept
	if accept == nil {
		return
	}
	if _, err := rule.CompileAccept(accept); err != nil {
		if readyReason(s) != v1alpha1.ReasonInvalidAccept {
			d.add(resultProblem, aboutSource(s), err.Error(), nextSteps[v1alpha1.ReasonInvalidAccept])
		}
		return
	}
	for _, warning := range rule.Warnings("spec.accept", accept) {
		d.add(resultProblem, aboutSource(s), warning+": nothing that NetBox sends matches it", nextSteps[v1alpha1.ReasonInvalidAccept])
	}
	d.ok(aboutSource(s), "what spec.accept does not match is not stored, and is answered with 200 and ignored")
}

// checkPath looks for other sources with the same path.
func (d *doctor) checkPath(_ context.Context, s *v1alpha1.NetBoxSource) {
	if readyReason(s) == v1alpha1.ReasonPathConflict {
		return // addFindings has it
	}
	sources := slices.DeleteFunc(slices.Clone(d.everywhere), func(other v1alpha1.NetBoxSource) bool { return pathOf(&other) != pathOf(s) })
	if owner := source.Owner(sources); owner != nil && owner.UID != s.UID {
		d.add(resultProblem, aboutSource(s), fmt.Sprintf("source %s/%s claimed the path %s first", owner.Namespace, owner.Name, pathOf(s)),
			nextSteps[v1alpha1.ReasonPathConflict])
		return
	}
	d.ok(aboutSource(s), "the path is %s", pathOf(s))
}

// netboxConditions are those that say that NetBox's side is well.
var netboxConditions = []string{v1alpha1.ConditionNetBoxReachable, v1alpha1.ConditionWebhookConfigured, v1alpha1.ConditionReceiving}

// checkNetBox looks at what the operator does in NetBox, beyond the conditions.
func (d *doctor) checkNetBox(_ context.Context, s *v1alpha1.NetBoxSource) {
	if s.Spec.NetBox == nil {
		return
	}
	version := ""
	if s.Status.NetBox != nil {
		version = s.Status.NetBox.Version
	}
	if webhook := s.Spec.NetBox.Webhook; webhook != nil {
		if slices.Contains(webhook.Events, "job_started") && strings.HasPrefix(version, "4.6.") {
			d.add(resultProblem, aboutSource(s), "jobs fail in NetBox "+version+" when their start is reported, by a bug in NetBox",
				"remove job_started from spec.netbox.webhook.events, or upgrade NetBox to 4.7")
		}
	}
	for _, condition := range s.Status.Conditions {
		if condition.Status == metav1.ConditionTrue && slices.Contains(netboxConditions, condition.Type) {
			d.ok(aboutSource(s), "%s", condition.Message)
		}
	}
}

// checkSetAside looks for events that crashed the operator.
func (d *doctor) checkSetAside(ctx context.Context, s *v1alpha1.NetBoxSource) {
	row := d.row(s)
	if row.Failed == 0 {
		return
	}
	failed := filter{source: s.Name, failed: true}
	events, err := failed.list(ctx, d.api, s.Namespace, d.clock.Now(), withoutPayload)
	if err != nil {
		d.unknown(aboutSource(s), "why events failed: %v", err)
		return
	}
	events = slices.DeleteFunc(events, func(event *v1alpha1.NetBoxEvent) bool {
		succeeded := meta.FindStatusCondition(event.Status.Conditions, v1alpha1.ConditionSucceeded)
		return succeeded == nil || succeeded.Reason != v1alpha1.ReasonSetAside
	})
	if len(events) > 0 {
		d.add(resultProblem, aboutSource(s),
			fmt.Sprintf("%s set aside, because the operator crashed while it processed them; the last is %s",
				plural(len(events), "event was", "events were"), events[len(events)-1].Name),
			"simplify the expressions of the rules, or raise the memory limit of the operator's pods, and kubectl netbox replay it")
	}
}

// row returns what status shows of a source.
func (d *doctor) row(s *v1alpha1.NetBoxSource) *sourceOverview {
	at := slices.IndexFunc(d.found.Sources, func(row sourceOverview) bool { return row.Name == s.Name })
	return &d.found.Sources[at]
}

// checkDeliveries looks whether anything came.
func (d *doctor) checkDeliveries(_ context.Context, s *v1alpha1.NetBoxSource) {
	row := d.row(s)
	isRefused := slices.ContainsFunc(d.found.Refused, func(refused refusal) bool { return refused.Source == s.Name })
	switch {
	case row.LastDelivery != nil:
		d.ok(aboutSource(s), "the last event was stored %s ago", d.age(row.LastDelivery.Time))
	case isRefused: // addFindings has it
	case s.Status.Expired > 0:
		d.ok(aboutSource(s), "%d events were stored, and deleted by retention; none since", s.Status.Expired)
	default:
		d.add(resultWarning, aboutSource(s), "no delivery was stored or refused yet",
			"in NetBox, check that the RQ worker runs, that the event rule is enabled, and that its conditions are met; "+
				"kubectl netbox send "+s.Name+" -n {namespace} --url URL checks the route")
	}
}
