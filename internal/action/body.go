package action

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/cloudevents/sdk-go/v2/binding"
	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/payload"
)

// renderBody returns the body of a request, and its headers.
func renderBody(ctx context.Context, task Task, spec *v1alpha1.HTTPAction) ([]byte, http.Header, error) {
	switch {
	case spec.Method == http.MethodGet:
		return nil, http.Header{}, nil
	case task.Action.Body != nil:
		body, contentType, err := task.Action.Body.Render(ctx, task.Input)
		if err != nil {
			return nil, nil, renderError(ctx, fmt.Errorf("body.%w", err))
		}
		return body, http.Header{"Content-Type": {contentType}}, nil
	case task.Group != nil:
		body, contentType, err := encodeGroup(ctx, task, spec.Format)
		if err != nil {
			return nil, nil, renderError(ctx, err)
		}
		return body, http.Header{"Content-Type": {contentType}}, nil
	default:
		body, header, err := encode(ctx, task.Event, spec.Format)
		if err != nil {
			return nil, nil, permanent(err)
		}
		return body, header, nil
	}
}

// encode returns an event in a format, and the headers of the format.
func encode(ctx context.Context, event *v1alpha1.NetBoxEvent, format v1alpha1.HTTPFormat) ([]byte, http.Header, error) {
	switch format {
	case v1alpha1.FormatNetBox:
		body, err := payload.Body(event)
		return body, http.Header{"Content-Type": {"application/json"}}, err
	case v1alpha1.FormatCloudEventBinary:
		return encodeCloudEvent(binding.WithForceBinary(ctx), event, percentEncode)
	default:
		return encodeStructured(ctx, event)
	}
}

// encodeStructured encodes an event as a CloudEvent in structured mode.
func encodeStructured(ctx context.Context, event *v1alpha1.NetBoxEvent) ([]byte, http.Header, error) {
	return encodeCloudEvent(binding.WithForceStructured(ctx), event, func(text string) string { return text })
}

// encodeCloudEvent encodes an event as CloudEvents 1.0. The id is the same at each attempt.
func encodeCloudEvent(ctx context.Context, event *v1alpha1.NetBoxEvent, attribute func(string) string) ([]byte, http.Header, error) {
	spec := event.Spec
	spec.Delivery.Envelope = nil // the other fields hold it, normalized
	objectType := spec.ObjectType
	if objectType == "" {
		objectType = spec.Model
	}
	encoded := cloudevents.New()
	encoded.SetID(event.Name)
	encoded.SetSource(sourceOf(event))
	encoded.SetType(attribute("io.netbox-events." + objectType + "." + spec.Event))
	encoded.SetSubject(attribute(strings.TrimSuffix(objectType+"/"+spec.ObjectID, "/")))
	encoded.SetTime(spec.Timestamp.Time)
	for name, value := range map[string]string{"objecttype": objectType, "objectid": spec.ObjectID, "requestid": spec.RequestID} {
		if value != "" {
			encoded.SetExtension(name, attribute(value))
		}
	}
	if err := encoded.SetData(cloudevents.ApplicationJSON, spec); err != nil { // bytes would become data_base64
		return nil, nil, err
	}
	return write(ctx, &encoded)
}

// write returns the body and the headers of a CloudEvent.
func write(ctx context.Context, event *cloudevents.Event) ([]byte, http.Header, error) {
	request := &http.Request{Header: http.Header{}}
	if err := cehttp.WriteRequest(ctx, binding.ToMessage(event), request); err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(request.Body)
	return body, request.Header, err
}

// sourceOf returns the source of a CloudEvent.
func sourceOf(event *v1alpha1.NetBoxEvent) string {
	return fmt.Sprintf("/apis/%s/namespaces/%s/netboxsources/%s", v1alpha1.SchemeGroupVersion, event.Namespace, event.Spec.SourceRef.Name)
}

// percentEncode encodes an attribute as a header value (CloudEvents HTTP binding, 3.1.3.2). The SDK does not.
func percentEncode(text string) string {
	var encoded strings.Builder
	for _, b := range []byte(text) {
		if b <= ' ' || b > '~' || b == '"' || b == '%' {
			fmt.Fprintf(&encoded, "%%%02X", b)
		} else {
			encoded.WriteByte(b)
		}
	}
	return encoded.String()
}
