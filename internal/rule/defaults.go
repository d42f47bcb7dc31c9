package rule

import (
	"cmp"
	"time"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// Values of fields that are strings in the API.
const (
	methodGet       = "GET"
	methodPost      = "POST"
	eventTypeNormal = "Normal"
)

// waitTimeout bounds the wait of an apply action.
const waitTimeout = 30 * time.Minute

// withDefaults returns a copy of an action with the defaults of its absent fields. The API server sets none within lists: GitOps tools
// compare lists as a whole, and would report a difference from the manifest forever.
func withDefaults(spec *v1alpha1.Action) *v1alpha1.Action {
	spec = spec.DeepCopy()
	if send := spec.HTTP; send != nil {
		send.Format = cmp.Or(send.Format, v1alpha1.FormatCloudEvent)
		send.Method = cmp.Or(send.Method, methodPost)
	}
	if apply := spec.Apply; apply != nil {
		apply.Operation = cmp.Or(apply.Operation, v1alpha1.OperationApply)
		if apply.Wait != nil {
			apply.Wait.Timeout.Duration = cmp.Or(apply.Wait.Timeout.Duration, waitTimeout)
		}
	}
	if event := spec.Event; event != nil {
		event.Type = cmp.Or(event.Type, eventTypeNormal)
	}
	return spec
}
