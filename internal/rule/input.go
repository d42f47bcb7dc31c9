package rule

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types/ref"
	"k8s.io/apimachinery/pkg/util/json"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// evaluationTimeout bounds one evaluation. The cost limit ends it long before, unless the machine has no time for us.
const evaluationTimeout = 5 * time.Second

// Input is what expressions see of an event. It is for one goroutine.
type Input struct {
	evaluation evaluation // its variables decode what expressions ask for, once
}

// NewInput returns what expressions see of an event. The value of now is theirs, too: the same at each attempt, so that the same comes out.
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
		"event":      func() any { return eventFields(event, data(), snapshots()) },
		"data":       data,
		"prechange":  snapshot("prechange"),
		"postchange": snapshot("postchange"),
		"now":        now,
	})
	if err != nil {
		panic(err) // it takes any such map
	}
	return &Input{evaluation{Activation: variables}}
}

// eventFields are the fields of eventType.
func eventFields(event *v1alpha1.NetBoxEvent, data, snapshots any) any {
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
		"username":      spec.Username,
		"requestID":     spec.RequestID,
		"request":       object(spec.Request),
		"timestamp":     spec.Timestamp.Time,
		"changedFields": spec.ChangedFields,
		"data":          data,
		"snapshots":     snapshots,
		"context":       object(spec.Context),
		"extra":         object(spec.Extra),
		"delivery": map[string]any{
			"receivedAt":  spec.Delivery.ReceivedAt.Time,
			"signature":   string(spec.Delivery.Signature),
			"key":         spec.Delivery.Key,
			"bodySHA256":  spec.Delivery.BodySHA256,
			"bodyBytes":   spec.Delivery.BodyBytes,
			"stringified": spec.Delivery.Stringified,
			"redacted":    spec.Delivery.Redacted,
			"envelope":    object(spec.Delivery.Envelope),
			"traceparent": spec.Delivery.Traceparent,
		},
	}
}

// object decodes free-form JSON: nil where it is absent, and integers as int64.
func object(from v1alpha1.JSONObject) any {
	if from == nil {
		return nil
	}
	decoded := make(map[string]any, len(from))
	for name, member := range from {
		decoded[name] = value(member.Raw)
	}
	return decoded
}

func value(text []byte) (decoded any) {
	if len(text) == 0 {
		return nil
	}
	// The API server, or package netbox, has read the text before, so this cannot fail.
	_ = json.Unmarshal(text, &decoded)
	return decoded
}

// evaluate returns the value of an expression. Its errors say what is wrong with the expression on this event; when the context ended, they
// are that of the context.
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
		return nil, fmt.Errorf("%w in %.60q", bounded(err), e.text) // CEL's may hold values of the event
	}
	return value, nil
}
