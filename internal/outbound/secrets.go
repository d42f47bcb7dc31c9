package outbound

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/secretkeys"
)

// RBAC of outbound connections:
// +kubebuilder:rbac:groups="",resources=secrets;configmaps,verbs=get

// Secrets and ConfigMaps are cached briefly, because the many deliveries of a bulk edit need the same.
const (
	secretTTL  = 2 * time.Second
	maxSecrets = 256
)

// Secrets reads Secrets, and ConfigMaps with certificates. It is safe for concurrent use.
type Secrets struct {
	api    client.Reader
	cached *cache.LRUExpireCache
}

// NewSecrets returns a reader of Secrets and ConfigMaps of the API server. The reader of the API should have no cache.
func NewSecrets(api client.Reader, clock clock.PassiveClock) *Secrets {
	return &Secrets{api: api, cached: cache.NewLRUExpireCacheWithClock(maxSecrets, clock)}
}

// Get returns a Secret, which the caller must not change. It may be some seconds old.
func (s *Secrets) Get(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return readObject(ctx, s, "Secret", namespace, name, &corev1.Secret{})
}

// readObject reads an object, whose type its kind determines.
func readObject[T client.Object](ctx context.Context, s *Secrets, kind, namespace, name string, into T) (T, error) {
	key := kind + " " + namespace + "/" + name
	if cached, ok := s.cached.Get(key); ok {
		return cached.(T), nil
	}
	err := s.api.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, into)
	switch {
	case apierrors.IsNotFound(err):
		return into, fmt.Errorf("%s %s does not exist in namespace %s; create it", kind, name, namespace)
	case err != nil:
		return into, fmt.Errorf("reading %s %s: %w", kind, name, err)
	}
	s.cached.Add(key, into, secretTTL)
	return into, nil
}

// ConfigMapEntry returns an entry of a ConfigMap.
func (s *Secrets) ConfigMapEntry(ctx context.Context, namespace string, ref v1alpha1.ConfigMapKeyReference) ([]byte, error) {
	configMap, err := readObject(ctx, s, "ConfigMap", namespace, ref.Name, &corev1.ConfigMap{})
	if err != nil {
		return nil, err
	}
	if text, ok := configMap.Data[ref.Key]; ok {
		return []byte(text), nil
	}
	if bytes, ok := configMap.BinaryData[ref.Key]; ok {
		return bytes, nil
	}
	return nil, fmt.Errorf("ConfigMap %s has no entry %s", ref.Name, ref.Key)
}

// Entry returns an entry of a Secret without trailing white space, which editors and echo add. An empty entry is an error.
func (s *Secrets) Entry(ctx context.Context, namespace string, ref v1alpha1.SecretKeyReference) ([]byte, error) {
	secret, err := s.Get(ctx, namespace, ref.Name)
	if err != nil {
		return nil, err
	}
	keys, err := secretkeys.Of(secret, &v1alpha1.SecretKeysReference{Name: ref.Name, Key: ref.Key})
	if err != nil {
		return nil, err
	}
	return keys[0].Value, nil
}
