package action

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// RBAC of Mirror actions:
// +kubebuilder:rbac:groups=netbox-events.io,resources=netboxevents,verbs=list

// eventLister lists the events of a NetBox object, as the operator. It decodes one event at a time: all of them may not fit into memory.
type eventLister struct {
	client func() (*rest.RESTClient, error)
}

func newEventLister(config *rest.Config) *eventLister {
	return &eventLister{client: sync.OnceValues(func() (*rest.RESTClient, error) {
		config := rest.CopyConfig(config)
		config.APIPath, config.GroupVersion = "/apis", &v1alpha1.SchemeGroupVersion
		config.NegotiatedSerializer = scheme.Codecs.WithoutConversion() // of errors
		return rest.RESTClientFor(config)
	})}
}

// newest returns the name of the newest event of the NetBox object, in the same branch, if that is newer than the given one, empty
// otherwise. The answer is at least as new as the given event: it has all events that were acted on before that one was stored, or
// replayed.
func (l *eventLister) newest(ctx context.Context, event *v1alpha1.NetBoxEvent) (string, error) {
	client, err := l.client()
	if err != nil {
		return "", err
	}
	spec := &event.Spec
	body, err := client.Get().Namespace(event.Namespace).Resource("netboxevents").
		Param("fieldSelector", fields.Set{
			"spec.sourceRef.name": spec.SourceRef.Name, "spec.objectType": spec.ObjectType, "spec.objectID": spec.ObjectID,
		}.AsSelector().String()).
		Param("resourceVersion", cmp.Or(event.ResourceVersion, "0")).
		Param("resourceVersionMatch", string(metav1.ResourceVersionMatchNotOlderThan)).
		Stream(ctx)
	if err != nil {
		return "", err
	}
	defer body.Close()
	newest := position{name: event.Name, timestamp: spec.Timestamp, received: spec.Delivery.ReceivedAt}
	err = eachItem(body, func(item listedEvent) {
		at := position{name: item.Metadata.Name, timestamp: item.Spec.Timestamp, received: item.Spec.Delivery.ReceivedAt}
		if isChange(item.Spec.Event) && item.Spec.Branch == spec.Branch && at.compare(newest) > 0 {
			newest = at
		}
	})
	if err != nil || newest.name == event.Name {
		return "", err
	}
	return newest.name, nil
}

// position is the place of an event among those of its NetBox object: the order in which they are delivered.
type position struct {
	timestamp, received metav1.MicroTime
	name                string
}

func (p position) compare(other position) int {
	return cmp.Or(
		p.timestamp.Compare(other.timestamp.Time), p.received.Compare(other.received.Time), strings.Compare(p.name, other.name))
}

// listedEvent has the fields of a NetBoxEvent that decide which one is the newest.
type listedEvent struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Event     string           `json:"event"`
		Branch    string           `json:"branch"`
		Timestamp metav1.MicroTime `json:"timestamp"`
		Delivery  struct {
			ReceivedAt metav1.MicroTime `json:"receivedAt"`
		} `json:"delivery"`
	} `json:"spec"`
}

// eachItem calls a function with each item of an encoded list.
func eachItem[T any](list io.Reader, do func(item T)) error {
	decoder := json.NewDecoder(list)
	if err := expectToken(decoder, json.Delim('{')); err != nil {
		return err
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return err
		}
		if name != "items" {
			var other json.RawMessage
			if err := decoder.Decode(&other); err != nil {
				return err
			}
			continue
		}
		if err := expectToken(decoder, json.Delim('[')); err != nil {
			return err
		}
		for decoder.More() {
			var item T
			if err := decoder.Decode(&item); err != nil {
				return err
			}
			do(item)
		}
		return expectToken(decoder, json.Delim(']')) // absent if the answer was cut off
	}
	return nil
}

func expectToken(decoder *json.Decoder, want json.Delim) error {
	got, err := decoder.Token()
	if err == nil && got != want {
		err = fmt.Errorf("the list of events has %v, not %v", got, want)
	}
	return err
}
