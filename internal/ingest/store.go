package ingest

import (
	"context"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// Store creates events in the API server.
type Store struct {
	client rest.Interface
}

// NewStore returns a Store that connects as config says, over a client that may be shared.
func NewStore(config *rest.Config, httpClient *http.Client, scheme *runtime.Scheme) (*Store, error) {
	config = rest.CopyConfig(config)
	config.GroupVersion = &v1alpha1.SchemeGroupVersion
	config.APIPath = "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientForConfigAndClient(config, httpClient)
	return &Store{client: client}, err
}

// Create creates an event. It asks for the metadata alone in return, which nobody reads either: the API server would otherwise write
// out the whole event again, and we would read it.
func (s *Store) Create(ctx context.Context, event *v1alpha1.NetBoxEvent) error {
	return s.client.Post().
		Namespace(event.Namespace).
		Resource("netboxevents").
		VersionedParams(&metav1.CreateOptions{FieldManager: fieldOwner}, metav1.ParameterCodec).
		SetHeader("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").
		Body(event).
		Do(ctx).
		Error()
}
