// Package eventstore writes NetBoxEvents to the API server: the receiver creates them, their controller writes their status.
//
// A write asks for the metadata alone in return, which nobody reads either: the API server would otherwise write out the whole event
// once more for each, and we would read it.
//
// Writes go over HTTP/1.1, each on a connection to itself that is kept for the next. That takes fewer passes between goroutines and
// processes than HTTP/2, and leaves the connection of the watch of pending events alone, which the API server ends when it falls behind.
// Nor do all writes hang where a machine or a load balancer is gone without a word: client-go notices that a connection of HTTP/2 is dead
// after 45 seconds. Here a write that is not answered within its deadline fails, and the next ones open new connections.
package eventstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	apply "github.com/netbox-events/netbox-event-operator/api/v1alpha1/applyconfiguration/api/v1alpha1"
)

// Field managers of what is created, and of the status.
const (
	creator = "netbox-event-operator-receiver"
	worker  = "netbox-event-operator"
)

const (
	resource     = "netboxevents"
	metadataOnly = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	// idempotencyKey is for net/http alone: a request that has it is sent again where a connection that was kept turns out to be closed. The
	// API server closes one after 90 seconds, or when it ends.
	idempotencyKey = "Idempotency-Key"
	// statusTimeout is how long a status may take: more than an API server needs to find that etcd is away.
	statusTimeout = 30 * time.Second
)

const (
	// unansweredTime is how long a write must have waited before a missing answer says something about the server. A caller may have less
	// time than that left, and a healthy server needs some milliseconds.
	unansweredTime = time.Second
	// closeInterval is the least time between two closings of the idle connections. A server that is gone needs one: connections in use are
	// closed by the deadlines of their own writes. A server that is only slow would have to answer a TLS handshake for each.
	closeInterval = 10 * time.Second
)

// Store is a client of the API server for events.
type Store struct {
	client    rest.Interface
	transport http.RoundTripper

	mu       sync.Mutex
	closedAt time.Time // when the idle connections were closed last
}

// New returns a Store that connects as config says.
func New(config *rest.Config, scheme *runtime.Scheme) (*Store, error) {
	config = rest.CopyConfig(config)
	config.GroupVersion = &v1alpha1.SchemeGroupVersion
	config.APIPath = "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.NextProtos = []string{"http/1.1"}
	config.Wrap(keepConnections)
	if config.UserAgent == "" {
		config.UserAgent = rest.DefaultKubernetesUserAgent()
	}
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	client, err := rest.RESTClientForConfigAndClient(config, httpClient)
	return &Store{client: client, transport: httpClient.Transport}, err
}

// keptConnections is how many connections are kept for the next writes: as many as may be under way at one time, 64 of the receiver and 32
// of the controller, and some. Client-go keeps 25, and each that it closes costs us and the API server a handshake of TLS.
const keptConnections = 128

// keepConnections has the transport of client-go, which others may wrap, keep that many connections.
func keepConnections(transport http.RoundTripper) http.RoundTripper {
	inner := transport
	for {
		wrapper, ok := inner.(utilnet.RoundTripperWrapper)
		if !ok {
			break
		}
		inner = wrapper.WrappedRoundTripper()
	}
	// Without TLS it is http.DefaultTransport, which is not ours. A transport that is shared with another Store may be in use already.
	if base, ok := inner.(*http.Transport); ok && inner != http.DefaultTransport && base.MaxIdleConnsPerHost != keptConnections {
		base.MaxIdleConnsPerHost = keptConnections
	}
	return transport
}

// etcdBytes is what etcd takes in one request, by default. A cluster whose etcd takes more would gain little: the API server sends it
// 2 MiB at the most. statusBytes of it are for what is added to an event after its creation: its metadata (1 KiB), and a status, without
// which the event would stay Pending, its actions be repeated at every start, and retention never delete it.
const (
	etcdBytes   = 1536 << 10
	statusBytes = 32 << 10
)

// TooLargeError says that an event is larger than can be stored.
type TooLargeError struct {
	// Bytes is the length of the event as etcd stores it.
	Bytes int
	// Limit is the limit that it exceeds, for people.
	Limit string
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the event takes %d bytes as it is stored, and %s", e.Bytes, e.Limit)
}

// Create creates an event. Its errors are those of the API server, and *TooLargeError.
func (s *Store) Create(ctx context.Context, event *v1alpha1.NetBoxEvent) error {
	event.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind("NetBoxEvent"))
	body, err := json.Marshal(event)
	if err != nil {
		return err
	}
	size := storedSize(body)
	if most := etcdBytes - statusBytes; size > most {
		return &TooLargeError{size, fmt.Sprintf("%d is the most: etcd takes %d, and %d are kept for the status", most, etcdBytes, statusBytes)}
	}
	_, err = s.write(ctx, s.client.Post().
		Namespace(event.Namespace).
		Resource(resource).
		VersionedParams(&metav1.CreateOptions{FieldManager: creator}, metav1.ParameterCodec).
		SetHeader("Content-Type", "application/json").
		SetHeader(idempotencyKey, event.Name).
		MaxRetries(0). // the caller has the sender to think of, and an answer that says when to come again
		Body(body))
	if err != nil && IsTooLarge(err) { // the limits of this cluster are lower
		return &TooLargeError{size, "the API server or etcd refuses it: " + err.Error()}
	}
	return err
}

// UpdateStatus replaces the status of an event, and returns the event's new resource version. The configuration names the version and the UID
// of the event that it is for: if the event was changed since, or another one has taken its name, there is a conflict. Its errors are those
// of the API server.
//
// It is an update, of which the API server takes the status alone. The same status as a patch, server-side apply included, costs it a tenth
// more CPU for each event: it builds the whole event anew, payload and all, to compare it field by field.
func (s *Store) UpdateStatus(ctx context.Context, event *apply.NetBoxEventApplyConfiguration) (version string, err error) {
	body, err := json.Marshal(event)
	if err != nil {
		return "", err
	}
	answer, err := s.write(ctx, s.client.Put().
		Namespace(*event.GetNamespace()).
		Resource(resource).
		Name(*event.GetName()).
		SubResource("status").
		VersionedParams(&metav1.UpdateOptions{FieldManager: worker}, metav1.ParameterCodec).
		SetHeader("Content-Type", "application/json").
		SetHeader(idempotencyKey, *event.GetName()).
		Timeout(statusTimeout).
		Body(body))
	if err != nil {
		return "", err
	}
	var stored struct {
		Metadata struct{ ResourceVersion string }
	}
	err = json.Unmarshal(answer, &stored)
	return stored.Metadata.ResourceVersion, err
}

// write sends a request. If it is not answered in time, the server may be gone, and with it the connections that were kept.
func (s *Store) write(ctx context.Context, request *rest.Request) (answer []byte, err error) {
	began := time.Now()
	result := request.SetHeader("Accept", metadataOnly).Do(ctx)
	answer, _ = result.Raw()
	err = result.Error() // more than the error of Raw
	if errors.Is(err, context.DeadlineExceeded) && time.Since(began) >= unansweredTime {
		s.closeIdle()
	}
	return answer, err
}

func (s *Store) closeIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.closedAt) >= closeInterval {
		s.closedAt = now
		utilnet.CloseIdleConnectionsFor(s.transport)
	}
}

// FinishedAt is when the status of a finished event was written last, from its metadata alone: the API server keeps the time of a field
// manager's last change with the fields that it manages, to the second.
func FinishedAt(event metav1.Object) time.Time {
	for _, entry := range event.GetManagedFields() {
		if entry.Manager == worker && entry.Subresource == "status" && entry.Time != nil {
			return entry.Time.Time
		}
	}
	return event.GetCreationTimestamp().Time
}

// IsTooLarge tells whether an event is over a limit of the API server (3 MiB for a request), of its connection to etcd (2 MiB) or of
// etcd (1.5 MiB by default). The API server passes the last two on as errors that only their text tells apart.
func IsTooLarge(err error) bool {
	_, ok := errors.AsType[*TooLargeError](err)
	return ok || apierrors.IsRequestEntityTooLargeError(err) ||
		strings.Contains(err.Error(), "etcdserver: request is too large") ||
		strings.Contains(err.Error(), "trying to send message larger than max")
}
