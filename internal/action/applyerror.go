package action

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
	"github.com/netbox-events/netbox-event-operator/internal/outbound"
)

// explain classifies an error of the API server, and adds the object and advice to it.
func explain(object string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*Failure](err); ok {
		return fmt.Errorf("%s: %w", object, err)
	}
	isPermanent, advice := classify(err)
	text := object + ": " + oneline.Of(cmp.Or(conflictText(err), err.Error()), maxTextBytes/2) // leaves room for the advice
	if advice != "" {
		text += "; " + advice
	}
	failure := &Failure{Err: outbound.WithText(err, text), Permanent: isPermanent, Unavailable: !isPermanent && isUnavailable(err)}
	if _, ok := errors.AsType[*apierrors.StatusError](err); ok {
		failure.Err = responseError{failure.Err}
	}
	failure.Throttled = failure.Unavailable && apierrors.IsTooManyRequests(err)
	if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
		failure.RetryAfter = min(maxRetryAfter, time.Duration(seconds)*time.Second)
	}
	return failure
}

// isUnavailable reports whether the API server caused an error, not the object: it did not respond, or responded with 429 or 5xx without a
// cause in a field.
func isUnavailable(err error) bool {
	if meta.IsNoMatchError(err) {
		return false // the kind does not exist
	}
	status, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok {
		return true
	}
	if details := status.ErrStatus.Details; details != nil &&
		slices.ContainsFunc(details.Causes, func(cause metav1.StatusCause) bool { return cause.Field != "" }) {
		return false
	}
	return status.ErrStatus.Code == http.StatusTooManyRequests || status.ErrStatus.Code >= 500
}

// classify reports whether an error is permanent: the request is invalid or forbidden. A missing namespace or kind may be created, and an
// exceeded quota raised.
func classify(err error) (isPermanent bool, advice string) {
	text := err.Error()
	contains := func(part string) bool { return strings.Contains(text, part) }
	switch apierrors.ReasonForError(err) {
	case metav1.StatusReasonForbidden:
		switch {
		case contains("cannot impersonate"): // and more from Kubernetes 1.36 on: cannot impersonate-on:serviceaccount:patch
			return true, "allow the operator to impersonate the rule's service account, and replay the event"
		case contains(`" cannot `): // RBAC's text
			if contains("at the cluster scope") {
				return true, "grant this permission to the service account with a ClusterRole and a ClusterRoleBinding, and replay the event"
			}
			return true, "grant this permission to the service account with a Role and a RoleBinding, and replay the event"
		case contains("exceeded quota"), contains("status unknown for quota"), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			return false, ""
		default: // by admission
			return true, ""
		}
	case metav1.StatusReasonConflict:
		if apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict) {
			return true, "remove these fields from the template, use the name of another object, or set apply.force to take them over"
		}
		return false, "" // a concurrent change of the object
	case metav1.StatusReasonAlreadyExists:
		return true, "this event did not create it: include ${event.name} in the name, or use operation Apply"
	case metav1.StatusReasonInvalid, metav1.StatusReasonBadRequest, metav1.StatusReasonMethodNotAllowed,
		metav1.StatusReasonRequestEntityTooLarge, metav1.StatusReasonUnsupportedMediaType:
		return true, ""
	case metav1.StatusReasonUnknown: // with status 500
		if contains("failed to create typed patch object") {
			return true, "correct the template, which does not match the schema of its kind; for a string field, use ${string(data.id)}"
		}
		return false, ""
	default:
		return false, ""
	}
}

// conflicts returns the conflicts in an error of a server-side apply: with the field managers of this operator's rules, and with others.
func conflicts(err error) (own, foreign []metav1.StatusCause) {
	refusal, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok || refusal.ErrStatus.Reason != metav1.StatusReasonConflict || refusal.ErrStatus.Details == nil {
		return nil, nil
	}
	for _, cause := range refusal.ErrStatus.Details.Causes {
		if strings.HasPrefix(cause.Message, conflictPrefix+`"`+managerPrefix) && cause.Type == metav1.CauseTypeFieldManagerConflict {
			own = append(own, cause)
		} else {
			foreign = append(foreign, cause)
		}
	}
	return own, foreign
}

// isOfAnother reports whether conflicts are about an object that a Mirror action made for another NetBox object than the one of a field
// manager.
func isOfAnother(own []metav1.StatusCause, manager string) bool {
	return slices.ContainsFunc(own, func(cause metav1.StatusCause) bool {
		other, _, _ := strings.Cut(strings.TrimPrefix(cause.Message, conflictPrefix+`"`), `"`)
		return cause.Field == ".metadata.labels."+v1alpha1.LabelObject && objectKey(other) != objectKey(manager)
	})
}

// conflictPrefix begins the message of a conflict at the API server. The quoted name of the field manager follows.
const conflictPrefix = "conflict with "

// conflictText names the fields that other field managers own, and these managers. It is empty for another error.
func conflictText(err error) string {
	if !apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict) {
		return ""
	}
	_, foreign := conflicts(err)
	fields := make([]string, len(foreign))
	for i, cause := range foreign {
		fields[i] = cause.Field + " (" + strings.TrimPrefix(cause.Message, conflictPrefix) + ")"
	}
	return "other field managers own fields of the template: " + strings.Join(fields, ", ")
}
