package action

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

// RBAC of http actions:
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get

// Secrets are cached briefly, because the many deliveries of a bulk edit need the same.
const (
	secretTTL  = 2 * time.Second
	maxSecrets = 256
)

type secretReader struct {
	api    client.Reader
	cached *cache.LRUExpireCache
}

func newSecretReader(api client.Reader, clock clock.PassiveClock) *secretReader {
	return &secretReader{api: api, cached: cache.NewLRUExpireCacheWithClock(maxSecrets, clock)}
}

func (s *secretReader) get(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	key := types.NamespacedName{Namespace: namespace, Name: name}
	if cached, ok := s.cached.Get(key); ok {
		return cached.(*corev1.Secret), nil
	}
	var secret corev1.Secret
	err := s.api.Get(ctx, key, &secret)
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("Secret %s does not exist in namespace %s; create it", name, namespace)
	case err != nil:
		return nil, fmt.Errorf("reading Secret %s: %w", name, err)
	}
	s.cached.Add(key, &secret, secretTTL)
	return &secret, nil
}

// entry returns an entry of a Secret without trailing white space, which editors and echo add.
func (s *secretReader) entry(ctx context.Context, namespace string, ref v1alpha1.SecretKeyReference) ([]byte, error) {
	secret, err := s.get(ctx, namespace, ref.Name)
	if err != nil {
		return nil, err
	}
	keys, err := secretkeys.Of(secret, &v1alpha1.SecretKeysReference{Name: ref.Name, Key: ref.Key})
	if err != nil {
		return nil, err
	}
	return keys[0].Value, nil
}
