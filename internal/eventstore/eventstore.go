// Package eventstore writes NetBoxEvents to the API server: the receiver creates them, and their controller writes their status.
//
// Writes request only the metadata as their response: otherwise the API server would serialize the whole event for each response, and the
// client would decode it.
//
// Writes use HTTP/1.1, each on its own connection, which is kept for later writes. That needs fewer switches between goroutines and
// processes than HTTP/2, and does not delay the connection of the watch of pending events, which the API server ends when it falls behind.
// It also avoids that all writes hang after a silent failure of a machine or load balancer: client-go detects a dead HTTP/2 connection only
// after 45 seconds. Here a write fails at its deadline, and the next ones open new connections.
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
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// Field managers of the creation and of the status.
const (
	creator = "netbox-event-operator-receiver"
	worker  = "netbox-event-operator"
)

const (
	resource     = "netboxevents"
	metadataOnly = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	// idempotencyKey is read by net/http alone: it retries a request with this header if a kept connection turns out to be closed. The API
	// server closes one after 90 seconds, and at shutdown.
	idempotencyKey = "Idempotency-Key"
	// statusTimeout bounds a status write: longer than an API server takes to detect that etcd is unavailable.
	statusTimeout = 30 * time.Second
)

const (
	// unansweredTime is the least duration of an unanswered write that indicates a dead server. The deadline of a caller may be shorter, and a
	// healthy server needs some milliseconds.
	unansweredTime = time.Second
	// closeInterval is the least time between two closings of the idle connections. A dead server needs only one: connections in use are
	// closed at the deadlines of their own writes. A slow server would get a storm of TLS handshakes.
	closeInterval = 10 * time.Second
)

// Store is a client that writes events to the API server.
type Store struct {
	client    rest.Interface
	transport http.RoundTripper

	mu       sync.Mutex
	closedAt time.Time // the last closing of the idle connections
}

// New returns a Store for the API server of config.
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

// keptConnections is the size of the connection pool: the maximum of writes in flight, 64 of the receiver and 32 of the controller, and
// some spare ones. Client-go's pool has 25, and each new connection costs both sides a TLS handshake.
const keptConnections = 128

// keepConnections sets the pool size of client-go's transport, which may be wrapped.
func keepConnections(transport http.RoundTripper) http.RoundTripper {
	inner := transport
	for {
		wrapper, ok := inner.(utilnet.RoundTripperWrapper)
		if !ok {
			break
		}
		inner = wrapper.WrappedRoundTripper()
	}
	// Without TLS it is http.DefaultTransport, which must not be changed. A transport that is shared with another Store may be in use already.
	if base, ok := inner.(*http.Transport); ok && inner != http.DefaultTransport && base.MaxIdleConnsPerHost != keptConnections {
		base.MaxIdleConnsPerHost = keptConnections
	}
	return transport
}

// etcdBytes is etcd's default limit of a request. A higher limit in a cluster would gain little: the API server sends at most 2 MiB.
// statusBytes of it are reserved for data added after the creation: the metadata (1 KiB), and a status, without which the event would stay
// Pending, its actions would be repeated at every start, and retention would never delete it.
const (
	etcdBytes   = 1536 << 10
	statusBytes = 32 << 10
)

// TooLargeError means that an event is too large to store.
type TooLargeError struct {
	// Bytes is the length of the event as etcd stores it.
	Bytes int
	// Limit describes the exceeded limit, for people.
	Limit string
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the stored event would take %d bytes: %s", e.Bytes, e.Limit)
}

// Create creates an event. It returns the errors of the API server, and *TooLargeError.
func (s *Store) Create(ctx context.Context, event *v1alpha1.NetBoxEvent) error {
	event.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind("NetBoxEvent"))
	body, err := json.Marshal(event)
	if err != nil {
		return err
	}
	size := storedSize(body)
	if most := etcdBytes - statusBytes; size > most {
		return &TooLargeError{size, fmt.Sprintf("the limit is %d, of etcd's %d less %d reserved for the status", most, etcdBytes, statusBytes)}
	}
	_, err = s.write(ctx, s.client.Post().
		Namespace(event.Namespace).
		Resource(resource).
		VersionedParams(&metav1.CreateOptions{FieldManager: creator}, metav1.ParameterCodec).
		SetHeader("Content-Type", "application/json").
		SetHeader(idempotencyKey, event.Name).
		MaxRetries(0). // the caller has a deadline, and handles Retry-After
		Body(body))
	if err != nil && IsTooLarge(err) { // this cluster has lower limits
		return &TooLargeError{size, "the API server or etcd refused it: " + err.Error()}
	}
	return err
}

// Get reads an event from the API server. It returns the errors of the API server.
func (s *Store) Get(ctx context.Context, namespace, name string) (*v1alpha1.NetBoxEvent, error) {
	body, err := s.client.Get().Namespace(namespace).Resource(resource).Name(name).
		SetHeader("Accept", "application/json").MaxRetries(0).Do(ctx).Raw()
	if err != nil {
		return nil, err
	}
	var event v1alpha1.NetBoxEvent
	return &event, json.Unmarshal(body, &event)
}

// Version identifies a stored version of an event.
type Version struct {
	Namespace       string    `json:"namespace"`
	Name            string    `json:"name"`
	UID             types.UID `json:"uid"`
	ResourceVersion string    `json:"resourceVersion"`
}

// UpdateStatus replaces the status of an event, and returns the event's new resource version. If the event was changed or recreated since
// the given version, the write fails with a conflict. It returns the errors of the API server.
//
// It is an update, of which the API server uses the status alone. A patch, server-side apply included, costs the API server a tenth more
// CPU per event: it rebuilds the whole event, payload included, to compare it field by field.
func (s *Store) UpdateStatus(ctx context.Context, of Version, status *v1alpha1.NetBoxEventStatus) (version string, err error) {
	body, err := json.Marshal(struct {
		APIVersion string                      `json:"apiVersion"`
		Kind       string                      `json:"kind"`
		Metadata   Version                     `json:"metadata"`
		Status     *v1alpha1.NetBoxEventStatus `json:"status"`
	}{v1alpha1.SchemeGroupVersion.String(), "NetBoxEvent", of, status})
	if err != nil {
		return "", err
	}
	answer, err := s.write(ctx, s.client.Put().
		Namespace(of.Namespace).
		Resource(resource).
		Name(of.Name).
		SubResource("status").
		VersionedParams(&metav1.UpdateOptions{FieldManager: worker}, metav1.ParameterCodec).
		SetHeader("Content-Type", "application/json").
		SetHeader(idempotencyKey, of.Name).
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

// write sends a request. If it is not answered in time, the server and the kept connections may be dead.
func (s *Store) write(ctx context.Context, request *rest.Request) (answer []byte, err error) {
	began := time.Now()
	result := request.SetHeader("Accept", metadataOnly).Do(ctx)
	answer, _ = result.Raw()
	err = result.Error() // has more detail than the error of Raw
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

// FinishedAt returns the time of the last status write of a finished event, from its metadata alone: managedFields has the time of each
// field manager's last change, to the second.
func FinishedAt(event metav1.Object) time.Time {
	for _, entry := range event.GetManagedFields() {
		if entry.Manager == worker && entry.Subresource == "status" && entry.Time != nil {
			return entry.Time.Time
		}
	}
	return event.GetCreationTimestamp().Time
}

// IsTooLarge reports whether an event exceeds a limit of the API server (3 MiB for a request), of its connection to etcd (2 MiB) or of etcd
// (1.5 MiB by default). The API server's errors for the last two differ from others only by their text.
func IsTooLarge(err error) bool {
	_, ok := errors.AsType[*TooLargeError](err)
	return ok || apierrors.IsRequestEntityTooLargeError(err) ||
		strings.Contains(err.Error(), "etcdserver: request is too large") ||
		strings.Contains(err.Error(), "trying to send message larger than max")
}
