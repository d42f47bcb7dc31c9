package rule

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"k8s.io/apimachinery/pkg/util/json"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

// evaluationTimeout bounds one evaluation. The cost limit ends it much earlier, unless the process is starved of CPU.
const evaluationTimeout = 5 * time.Second

// Input holds the variables of expressions for an event, or for a group of events. It is not safe for concurrent use.
type Input struct {
	evaluation evaluation // decodes each variable once, on first use
	// events are those of the group, nil for a single event.
	events []*v1alpha1.NetBoxEvent
	// confidential, if it is not nil, is called with each text that an expression makes of the values of Secrets.
	confidential func(text string)
}

// NewInput returns the Input of an event. The variable now has a fixed value, so that each attempt renders the same.
func NewInput(event *v1alpha1.NetBoxEvent, now time.Time) *Input {
	data := sync.OnceValue(func() any { return object(event.Spec.Data) })
	snapshots := sync.OnceValue(func() any { return object(event.Spec.Snapshots) })
	snapshot := func(name string) func() any {
		return func() any {
			both, _ := snapshots().(map[string]any)
			return both[name]
		}
	}
	variables, err := cel.NewActivation(map[string]any{
		"event":      func() any { return eventFields(event, data(), snapshots(), object) },
		"data":       data,
		"prechange":  snapshot("prechange"),
		"postchange": snapshot("postchange"),
		"now":        now,
	})
	if err != nil {
		panic(err) // it accepts any such map
	}
	return &Input{evaluation: evaluation{Activation: variables}}
}

// eventFields returns the fields of eventType. The function decode converts its other free-form JSON.
func eventFields(event *v1alpha1.NetBoxEvent, data, snapshots any, decode func(v1alpha1.JSONObject) any) map[string]any {
	spec := &event.Spec
	return map[string]any{
		"name":          event.Name,
		"namespace":     event.Namespace,
		"sourceRef":     map[string]any{"name": spec.SourceRef.Name},
		"event":         spec.Event,
		"objectType":    spec.ObjectType,
		"model":         spec.Model,
		"objectID":      spec.ObjectID,
		"objectURL":     spec.ObjectURL,
		"objectName":    spec.ObjectName,
		"branch":        spec.Branch,
		"username":      spec.Username,
		"requestID":     spec.RequestID,
		"request":       decode(spec.Request),
		"timestamp":     spec.Timestamp.Time,
		"changedFields": spec.ChangedFields,
		"data":          data,
		"snapshots":     snapshots,
		"context":       decode(spec.Context),
		"extra":         decode(spec.Extra),
		"delivery": map[string]any{
			"origin":      string(origin(&spec.Delivery)),
			"dataReadAt":  dataReadAt(&spec.Delivery),
			"receivedAt":  spec.Delivery.ReceivedAt.Time,
			"signature":   string(spec.Delivery.Signature),
			"key":         spec.Delivery.Key,
			"bodySHA256":  spec.Delivery.BodySHA256,
			"bodyBytes":   spec.Delivery.BodyBytes,
			"stringified": spec.Delivery.Stringified,
			"redacted":    spec.Delivery.Redacted,
			"envelope":    decode(spec.Delivery.Envelope),
			"traceparent": spec.Delivery.Traceparent,
		},
	}
}

// origin returns the origin of an event; the default is the webhook.
func origin(delivery *v1alpha1.Delivery) v1alpha1.Origin {
	return cmp.Or(delivery.Origin, v1alpha1.OriginWebhook)
}

// dataReadAt returns a time or nil.
func dataReadAt(delivery *v1alpha1.Delivery) any {
	if delivery.DataReadAt == nil {
		return nil
	}
	return delivery.DataReadAt.Time
}

// changed is the function changed of expressions.
func (in *Input) changed(spec *v1alpha1.NetBoxEventSpec, field string) bool {
	snapshot := func(name string) ref.Val {
		value, _ := in.evaluation.Activation.ResolveName(name)
		return types.DefaultTypeAdapter.NativeToValue(value)
	}
	return changed([]ref.Val{
		snapshot("prechange"), snapshot("postchange"), types.String(spec.Event),
		types.NewStringList(types.DefaultTypeAdapter, spec.ChangedFields), types.String(field),
	})
}

// object decodes free-form JSON: integers as int64, and nil as nil.
func object(encoded v1alpha1.JSONObject) any {
	if encoded == nil {
		return nil
	}
	decoded := make(map[string]any, len(encoded))
	for name, member := range encoded {
		decoded[name] = value(member.Raw)
	}
	return decoded
}

func value(text []byte) (decoded any) {
	if len(text) == 0 {
		return nil
	}
	// The API server, or package netbox, has parsed the text before, so this cannot fail.
	_ = json.Unmarshal(text, &decoded)
	return decoded
}

// evaluate returns the value of an expression. It wraps the error of the context if that is done.
func (e *expression) evaluate(ctx context.Context, in *Input) (ref.Val, error) {
	ctx, cancel := context.WithTimeout(ctx, evaluationTimeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("operation interrupted: %w in %.60q", err, e.text)
	}
	in.evaluation.usage = usage{ctx: ctx}
	value, _, err := e.program.ContextEval(ctx, &in.evaluation)
	if err != nil {
		if ended := ctx.Err(); ended != nil {
			return nil, fmt.Errorf("operation interrupted: %w in %.60q", ended, e.text)
		}
		// CEL's error may hold values of the event, in its text and in memory.
		return nil, fmt.Errorf("%s in %.60q", oneline.Of(err.Error(), maxErrorBytes), e.text)
	}
	return value, nil
}
