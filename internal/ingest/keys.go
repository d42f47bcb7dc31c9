package ingest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/secretkeys"
)

const (
	// freshTime is the age from which keys are refreshed in the background, while deliveries are verified with the cached ones.
	freshTime = 2 * time.Second
	// staleTime is the age from which a delivery waits for an attempt to refresh the keys: the upper bound on how long a removed key is still
	// accepted while the API server is available, also for a source with few deliveries.
	staleTime = 10 * time.Second
	// readInterval is the least time between two reads of one source's Secret, so that wrong signatures cannot cause more.
	readInterval = time.Second
	// readTimeout bounds one read of a Secret.
	readTimeout = time.Second
	// graceTime is how long a key is still accepted after it was replaced, for sources whose webhook the operator keeps: NetBox signs with it
	// until the operator has carried the new key there.
	graceTime = 5 * time.Minute
)

// keyring caches the signing keys of each source. Secrets are not watched.
type keyring struct {
	secrets client.Reader
	clock   clock.PassiveClock

	mu      sync.Mutex
	sources map[types.NamespacedName]*sourceKeys
}

func newKeyring(secrets client.Reader, clock clock.PassiveClock) *keyring {
	return &keyring{secrets: secrets, clock: clock, sources: map[types.NamespacedName]*sourceKeys{}}
}

// verify returns the name of the key of a source that made the signature of a body, or "" if none did.
func (k *keyring) verify(ctx context.Context, s *v1alpha1.NetBoxSource, body []byte, signature string) (string, error) {
	held := k.forSource(s)
	keys, err := held.cached(ctx)
	if err != nil {
		return "", err
	}
	if name, ok := netbox.Verify(keys.list, body, signature); ok {
		return name, nil
	}
	// The signing key may be newer than the cached ones.
	newer, err := held.read(ctx)
	if err != nil {
		return "", err
	}
	if newer.version != keys.version {
		if name, ok := netbox.Verify(newer.list, body, signature); ok {
			return name, nil
		}
	}
	if s.Spec.NetBox == nil || s.Spec.NetBox.Webhook == nil {
		return "", nil
	}
	name, _ := netbox.Verify(held.replacedKeys(), body, signature)
	return name, nil
}

// forget removes the keys of deleted sources.
func (k *keyring) forget(isGone func(types.NamespacedName) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.sources, func(name types.NamespacedName, _ *sourceKeys) bool { return isGone(name) })
}

func (k *keyring) forSource(s *v1alpha1.NetBoxSource) *sourceKeys {
	k.mu.Lock()
	defer k.mu.Unlock()
	name := types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
	held := k.sources[name]
	if held == nil || held.ref != *s.Spec.SecretRef {
		next := &sourceKeys{keyring: k, namespace: s.Namespace, ref: *s.Spec.SecretRef}
		if held != nil {
			next.replaced = held.replacedBy(s)
		}
		held, k.sources[name] = next, next
	}
	return held
}

// sourceKeys caches the keys of one source.
type sourceKeys struct {
	keyring   *keyring
	namespace string
	ref       v1alpha1.SecretKeysReference

	mu      sync.Mutex
	reading chan struct{} // closed when the read in flight ends; nil if there is none
	readAt  time.Time     // when the last read ended, successful or not
	seenAt  time.Time     // when keys were last read successfully
	keys    keys
	err     error // set only if there are no cached keys
	// replaced are the keys that were replaced by those of this reference, at most graceTime ago.
	replaced []replacedKey
}

// replacedKey is a key that is accepted until a time.
type replacedKey struct {
	netbox.Key

	until time.Time
}

type keys struct {
	list    []netbox.Key
	version string // of the Secret
}

// cached returns the cached keys. It waits for a read of the Secret only if there are none, or if they are stale.
func (s *sourceKeys) cached(ctx context.Context) (keys, error) {
	s.mu.Lock()
	age := s.keyring.clock.Since(s.readAt)
	if s.err != nil || s.keys.list == nil || age >= staleTime {
		s.mu.Unlock()
		return s.read(ctx)
	}
	defer s.mu.Unlock()
	if age >= freshTime {
		s.startRead(ctx)
	}
	return s.keys, nil
}

// read returns keys that were read within the last readInterval, or the cached ones while the API server is unavailable.
func (s *sourceKeys) read(ctx context.Context) (keys, error) {
	s.mu.Lock()
	if s.keyring.clock.Since(s.readAt) >= readInterval {
		s.startRead(ctx)
	}
	reading := s.reading
	s.mu.Unlock()
	if reading != nil {
		select {
		case <-reading:
		case <-ctx.Done():
			return keys{}, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys, s.err
}

// startRead starts a read unless one is in flight. All deliveries to the source share it, so it does not end with ctx.
func (s *sourceKeys) startRead(ctx context.Context) {
	if s.reading != nil {
		return
	}
	s.reading = make(chan struct{})
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
		defer cancel()
		var secret corev1.Secret
		err := s.keyring.secrets.Get(ctx, types.NamespacedName{Namespace: s.namespace, Name: s.ref.Name}, &secret)

		s.mu.Lock()
		defer s.mu.Unlock()
		s.setResult(&secret, err)
		s.readAt = s.keyring.clock.Now()
		close(s.reading)
		s.reading = nil
	}()
}

// setResult stores the result of a read.
func (s *sourceKeys) setResult(secret *corev1.Secret, err error) {
	switch {
	case err == nil:
		list, err := signingKeys(secret, &s.ref)
		if s.replaced = s.replace(list, secret); err != nil {
			s.replaced = nil
		}
		s.keys = keys{list: list, version: string(secret.UID) + "/" + secret.ResourceVersion}
		s.err, s.seenAt = err, s.keyring.clock.Now()
	case apierrors.IsNotFound(err):
		s.keys, s.replaced, s.err = keys{}, nil, fmt.Errorf("Secret %s/%s does not exist", s.namespace, s.ref.Name)
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err): // access may have been revoked on purpose
		s.keys, s.replaced, s.err = keys{}, nil, err
	case s.keys.list == nil:
		s.err = fmt.Errorf("Secret %s/%s cannot be read: %w", s.namespace, s.ref.Name, err)
	}
}

// replacedKeys returns the keys that were replaced, and are still accepted.
func (s *sourceKeys) replacedKeys() []netbox.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []netbox.Key
	for _, key := range s.replaced {
		if s.keyring.clock.Now().Before(key.until) {
			keys = append(keys, key.Key)
		}
	}
	return keys
}

// replacedBy returns the keys that a change of the source replaces, because it refers to other ones.
func (s *sourceKeys) replacedBy(source *v1alpha1.NetBoxSource) []replacedKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.replace(nil, source)
}

// replace returns the replaced keys after an object was changed so that other keys are valid.
func (s *sourceKeys) replace(valid []netbox.Key, changed metav1.Object) []replacedKey {
	now := s.keyring.clock.Now()
	isValid := func(key netbox.Key) bool {
		return slices.ContainsFunc(valid, func(other netbox.Key) bool { return bytes.Equal(key.Value, other.Value) })
	}
	replaced := slices.DeleteFunc(s.replaced, func(key replacedKey) bool { return !now.Before(key.until) || isValid(key.Key) })
	replacedAt := s.seenAt // or later
	if changedAt := changeTime(changed); changedAt.After(replacedAt) {
		replacedAt = changedAt
	}
	until := replacedAt.Add(graceTime)
	if latest := now.Add(graceTime); until.After(latest) { // the clock of the API server is ahead
		until = latest
	}
	for _, key := range s.keys.list {
		if now.Before(until) && !isValid(key) {
			replaced = append(replaced, replacedKey{key, until})
		}
	}
	return replaced
}

// changeTime returns when an object was last changed, apart from its status; the zero time if that is not known. The keys of a source
// without deliveries may have been read long before that.
func changeTime(object metav1.Object) time.Time {
	var last time.Time
	for _, entry := range object.GetManagedFields() {
		if entry.Subresource == "" && entry.Time != nil && entry.Time.After(last) {
			last = entry.Time.Time
		}
	}
	return last
}

// signingKeys returns the keys of a Secret that a reference selects.
func signingKeys(secret *corev1.Secret, ref *v1alpha1.SecretKeysReference) ([]netbox.Key, error) {
	entries, err := secretkeys.Of(secret, ref)
	var keys []netbox.Key
	for _, entry := range entries {
		keys = append(keys, netbox.Key(entry))
	}
	return keys, err
}
