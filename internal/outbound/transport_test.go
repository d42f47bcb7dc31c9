package outbound_test

import (
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/outbound"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

var plane *controlplane.ControlPlane

func TestMain(m *testing.M) { controlplane.Main(m, &plane) }

// TestTransports connects to a server with a CA from a Secret and from a ConfigMap: the same certificates share a Transport.
func TestTransports(t *testing.T) {
	server := httptest.NewUnstartedServer(http.RedirectHandler("/elsewhere", http.StatusFound))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	namespace := plane.Namespace(t)
	plane.Create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "ca"}, StringData: map[string]string{"ca.crt": ca + "\n", "text": "no certificate"},
	})
	plane.Create(t, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "ca"},
		Data:       map[string]string{"ca.crt": strings.TrimSpace(ca)}, BinaryData: map[string][]byte{"binary": []byte(strings.TrimSpace(ca))},
	})
	now := testingclock.NewFakePassiveClock(time.Now())
	transports := outbound.NewTransports(outbound.Options{
		Secrets: outbound.NewSecrets(plane.Client, now), AllowCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Clock: now,
	})
	fromSecret := func(key string) *v1alpha1.HTTPTLS {
		return &v1alpha1.HTTPTLS{CASecretRef: &v1alpha1.SecretKeyReference{Name: "ca", Key: key}}
	}
	fromConfigMap := func(key string) *v1alpha1.HTTPTLS {
		return &v1alpha1.HTTPTLS{CAConfigMapRef: &v1alpha1.ConfigMapKeyReference{Name: "ca", Key: key}}
	}

	ids := map[any]bool{}
	for _, spec := range []*v1alpha1.HTTPTLS{fromSecret("ca.crt"), fromConfigMap("ca.crt"), fromConfigMap("binary")} {
		via, err := transports.For(t.Context(), namespace, spec)
		if err != nil {
			t.Fatal(err)
		}
		ids[via.ID()] = true
		response, err := via.RoundTrip(httptest.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil))
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != http.StatusFound {
			t.Errorf("status is %d, want the redirect itself", response.StatusCode)
		}
		_ = response.Body.Close()
	}
	if len(ids) != 1 {
		t.Errorf("%d Transports for one CA, want 1", len(ids))
	}

	plain, err := transports.For(t.Context(), namespace, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = plain.RoundTrip(httptest.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil))
	want := "netbox.example: certificate signed by unknown authority; set tls.caConfigMapRef or tls.caSecretRef to the certificate of that authority"
	if err == nil || outbound.Describe("netbox.example", err).Error() != want || outbound.IsForbidden(err) {
		t.Errorf("error is %v, want one that is described as %q", err, want)
	}

	for want, spec := range map[string]*v1alpha1.HTTPTLS{
		"tls.caSecretRef: entry text of Secret ca has no PEM certificate":  fromSecret("text"),
		"tls.caSecretRef: Secret ca has no entry none":                     fromSecret("none"),
		"tls.caConfigMapRef: ConfigMap ca has no entry none":               fromConfigMap("none"),
		"tls.clientCertSecretRef: Secret none does not exist in namespace": {ClientCertSecretRef: &v1alpha1.SecretReference{Name: "none"}},
	} {
		if _, err := transports.For(t.Context(), namespace, spec); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error is %v, want %s", err, want)
		}
	}
}

// TestSecrets reads a Secret that changes: a value is used for two seconds.
func TestSecrets(t *testing.T) {
	namespace, now := plane.Namespace(t), testingclock.NewFakePassiveClock(time.Now())
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "netbox"}, StringData: map[string]string{"token": "first\n"},
	}
	plane.Create(t, secret)
	secrets := outbound.NewSecrets(plane.Client, now)
	expect := func(want string) {
		t.Helper()
		got, err := secrets.Entry(t.Context(), namespace, v1alpha1.SecretKeyReference{Name: "netbox", Key: "token"})
		if err != nil || string(got) != want {
			t.Errorf("got %q and error %v, want %q", got, err, want)
		}
	}
	expect("first")
	secret.StringData = map[string]string{"token": "second"}
	if err := plane.Client.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	expect("first")
	now.SetTime(now.Now().Add(3 * time.Second))
	expect("second")
}
