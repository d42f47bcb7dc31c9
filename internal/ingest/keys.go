package ingest

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/source"
)

const (
	// keysTTL is how long keys are used before the Secret is read again: so long an entry that was removed may still sign.
	keysTTL = 2 * time.Second
	// readInterval is the least time between two reads of one source's Secret, whatever signatures come.
	readInterval = time.Second
	// readTimeout bounds one read of a Secret.
	readTimeout = time.Second
)

// keyring keeps the keys of each source for a short time. No Secret is watched.
type keyring struct {
	secrets client.Reader
	clock   clock.PassiveClock

	mu      sync.Mutex
	sources map[types.NamespacedName]*sourceKeys // grows with the sources that ever were, which are few
}

func newKeyring(secrets client.Reader, clock clock.PassiveClock) *keyring {
	return &keyring{secrets: secrets, clock: clock, sources: map[types.NamespacedName]*sourceKeys{}}
}

// verify returns the name of the key of a source that made the signature of a body, or "" if none did.
func (k *keyring) verify(ctx context.Context, s *v1alpha1.NetBoxSource, body []byte, signature string) (string, error) {
	held := k.of(s)
	keys, err := held.get(ctx, keysTTL)
	if err != nil {
		return "", err
	}
	if name, ok := netbox.Verify(keys.list, body, signature); ok {
		return name, nil
	}
	// The key may be newer than ours.
	newer, err := held.get(ctx, 0)
	if err != nil || newer.version == keys.version {
		return "", err
	}
	name, _ := netbox.Verify(newer.list, body, signature)
	return name, nil
}

func (k *keyring) of(s *v1alpha1.NetBoxSource) *sourceKeys {
	k.mu.Lock()
	defer k.mu.Unlock()
	name := types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
	held := k.sources[name]
	if held == nil || held.ref != *s.Spec.SecretRef {
		held = &sourceKeys{keyring: k, namespace: s.Namespace, ref: *s.Spec.SecretRef}
		k.sources[name] = held
	}
	return held
}

// sourceKeys are the keys of one source.
type sourceKeys struct {
	keyring   *keyring
	namespace string
	ref       v1alpha1.SecretKeysReference

	mu     sync.Mutex // held during a read, so that all who wait share it
	readAt time.Time  // when the last read ended, well or badly
	keys   keys
	err    error
}

type keys struct {
	list    []netbox.Key
	version string // of the Secret
}

// get returns keys that were read at most maxAge ago, or within the last readInterval. While the API server cannot be reached it
// returns those it has.
func (s *sourceKeys) get(ctx context.Context, maxAge time.Duration) (keys, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if age := s.keyring.clock.Since(s.readAt); age >= readInterval && (age >= maxAge || s.err != nil) {
		s.read(ctx)
		s.readAt = s.keyring.clock.Now()
	}
	return s.keys, s.err
}

func (s *sourceKeys) read(ctx context.Context) {
	// The read serves everybody who waits, so it does not end when this sender hangs up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	var secret corev1.Secret
	err := s.keyring.secrets.Get(ctx, types.NamespacedName{Namespace: s.namespace, Name: s.ref.Name}, &secret)
	switch {
	case err == nil:
		s.keys.version = string(secret.UID) + "/" + secret.ResourceVersion
		s.keys.list, s.err = source.Keys(&secret, &s.ref)
	case apierrors.IsNotFound(err):
		s.keys, s.err = keys{}, fmt.Errorf("Secret %s/%s does not exist", s.namespace, s.ref.Name)
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err): // taken away on purpose, perhaps
		s.keys, s.err = keys{}, err
	case s.keys.list == nil:
		s.err = fmt.Errorf("Secret %s/%s cannot be read: %w", s.namespace, s.ref.Name, err)
	}
}
