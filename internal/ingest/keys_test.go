package ingest

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
)

// slowSecrets serves one Secret with one key, with a delay.
type slowSecrets struct {
	client.Reader
	key   string
	err   error
	takes time.Duration
	// changed is when the Secret was changed.
	changed time.Time
	reads   atomic.Int32
}

func (s *slowSecrets) Get(ctx context.Context, _ client.ObjectKey, object client.Object, _ ...client.GetOption) error {
	s.reads.Add(1)
	key, err := s.key, s.err
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.takes):
	}
	secret := object.(*corev1.Secret)
	secret.ResourceVersion, secret.Data = key, map[string][]byte{"secret": []byte(key)}
	secret.ManagedFields = []metav1.ManagedFieldsEntry{{Time: new(metav1.NewTime(s.changed))}}
	return err
}

// TestKeysAreRefreshedInBackground verifies deliveries while reads of the Secret are slow.
func TestKeysAreRefreshedInBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slow = 500 * time.Millisecond
		secrets := &slowSecrets{key: "old", takes: slow}
		ring := newKeyring(secrets, clock.RealClock{})
		source := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: "netbox", Name: "netbox"}}
		source.Spec.SecretRef = &v1alpha1.SecretKeysReference{Name: "webhook"}
		expect := func(reason, key string, accepted bool, waited time.Duration, reads int32) {
			t.Helper()
			began := time.Now()
			name, err := ring.verify(t.Context(), source, []byte("body"), netbox.Sign([]byte(key), []byte("body")))
			if err != nil || (name != "") != accepted || time.Since(began) != waited || secrets.reads.Load() != reads {
				t.Errorf("%s: key %q, %v, after %s, with %d reads; want accepted %t after %s with %d reads",
					reason, name, err, time.Since(began), secrets.reads.Load(), accepted, waited, reads)
			}
		}
		expect("the first delivery waits for the keys", "old", true, slow, 1)
		expect("fresh keys are used", "old", true, 0, 1)
		for n := range 5 {
			time.Sleep(freshTime + slow)
			expect("keys are used while they are refreshed", "old", true, 0, 1+int32(n))
			synctest.Wait() // until the read has begun
		}

		time.Sleep(readInterval + slow)
		secrets.key = "new"
		expect("a mismatch reads the Secret at once", "new", true, slow, 7)
		expect("the removed key, within readInterval", "old", false, 0, 7)
		time.Sleep(readInterval)
		expect("a mismatch reads the Secret at most once in readInterval", "old", false, slow, 8)

		secrets.key = "newer"
		time.Sleep(staleTime)
		expect("a delivery waits while its keys are stale", "new", false, slow, 9)

		secrets.err, secrets.takes = errors.New("the API server is away"), time.Hour
		time.Sleep(staleTime)
		expect("the API server is away: stale keys are used after a read", "newer", true, readTimeout, 10)
		expect("and then without one", "newer", true, 0, 10)

		ring.forget(func(name types.NamespacedName) bool { return name.Name == "other" })
		expect("another source was deleted", "newer", true, 0, 10)
		ring.forget(func(name types.NamespacedName) bool { return name.Name == "netbox" })
		if _, err := ring.verify(t.Context(), source, nil, ""); err == nil {
			t.Error("the keys of a deleted source are kept")
		}
	})
}

// TestReplacedKeysAreAcceptedForAWhile verifies deliveries that NetBox signed before the operator carried a new key to it.
func TestReplacedKeysAreAcceptedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		secrets := &slowSecrets{key: "first", changed: time.Now()}
		ring := newKeyring(secrets, clock.RealClock{})
		kept := &v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{Namespace: "netbox", Name: "kept"}}
		kept.Spec.SecretRef = &v1alpha1.SecretKeysReference{Name: "webhook"}
		byHand := kept.DeepCopy()
		byHand.Name = "by-hand"
		kept.Spec.NetBox = &v1alpha1.NetBoxAPI{Webhook: &v1alpha1.ManagedWebhook{}}
		expect := func(reason string, source *v1alpha1.NetBoxSource, key string, accepted bool) {
			t.Helper()
			name, err := ring.verify(t.Context(), source, []byte("body"), netbox.Sign([]byte(key), []byte("body")))
			if want := map[bool]string{true: "secret"}[accepted]; name != want || err != nil && accepted {
				t.Errorf("%s: key %q, %v; want %q", reason, name, err, want)
			}
		}
		replace := func(key string) {
			secrets.key, secrets.changed = key, time.Now()
			time.Sleep(readInterval)
		}
		expect("the key", kept, "first", true)
		expect("the key", byHand, "first", true)

		time.Sleep(24 * time.Hour) // without deliveries
		replace("second")
		expect("NetBox does not have the new key yet", kept, "first", true)
		expect("NetBox has the new key", kept, "second", true)
		expect("people rotate keys by adding an entry", byHand, "first", false)
		expect("any other key", kept, "other", false)
		time.Sleep(graceTime - 2*readInterval)
		expect("just before the end", kept, "first", true)
		time.Sleep(readInterval)
		expect("at the end", kept, "first", false)

		replace("third")
		time.Sleep(graceTime)
		expect("a replaced key that was noticed late", kept, "second", false)

		kept.Spec.SecretRef = &v1alpha1.SecretKeysReference{Name: "webhook-2"}
		kept.ManagedFields = []metav1.ManagedFieldsEntry{{Time: new(metav1.Now())}}
		secrets.key = "fourth"
		expect("the source refers to another Secret", kept, "third", true)
		expect("the source refers to another Secret", kept, "fourth", true)

		time.Sleep(staleTime)
		secrets.err = apierrors.NewNotFound(corev1.Resource("secrets"), "webhook-2")
		expect("the Secret was deleted", kept, "third", false)
		secrets.err = nil
		replace("fifth")
		for _, key := range []string{"third", "fourth"} {
			expect("and made again", kept, key, false)
		}
		expect("and made again", kept, "fifth", true)
	})
}
