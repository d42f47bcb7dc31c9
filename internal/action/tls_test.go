package action_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	key, text := sign(t, template, template, nil)
	block, _ := pem.Decode([]byte(text))
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{certificate, key, text}
}

func pemOf(certificate *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
}

// issue returns a certificate for loopback, and its key.
func (a *authority) issue(t *testing.T, name string) (certificate, key string) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	private, certificate := sign(t, template, a.certificate, a.key)
	bytes, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: bytes}))
}

// sign signs a certificate with a key, or with its own.
func sign(t *testing.T, template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if by == nil {
		by = key
	}
	bytes, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: bytes}))
}

var quiet = log.New(io.Discard, "", 0)

// newTLSSink starts a server that requires a client certificate of the authority, and responds with its name.
func newTLSSink(t *testing.T, ca *authority) *httptest.Server {
	t.Helper()
	certificate, key := ca.issue(t, "a sink")
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AddCert(ca.certificate)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		_, _ = io.WriteString(w, request.Proto+" "+request.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients, MinVersion: tls.VersionTLS12}
	server.EnableHTTP2 = true
	server.Config.ErrorLog = quiet
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func newTLSSecret(t *testing.T, namespace, name, certificate, key string) *corev1.Secret {
	t.Helper()
	return newSecret(t, namespace, name, map[string]string{corev1.TLSCertKey: certificate, corev1.TLSPrivateKeyKey: key})
}

func TestTLS(t *testing.T) {
	ours, others, namespace := newAuthority(t), newAuthority(t), plane.Namespace(t)
	server := newTLSSink(t, ours)
	newSecret(t, namespace, "ca", map[string]string{"ca.crt": ours.pem, "both.crt": others.pem + ours.pem, "other.crt": others.pem, "text": "no certificate"})
	certificate, key := ours.issue(t, "operator")
	newTLSSecret(t, namespace, "client", certificate, key)
	second, secondKey := ours.issue(t, "second")
	newTLSSecret(t, namespace, "second", second, secondKey)
	foreign, foreignKey := others.issue(t, "operator")
	newTLSSecret(t, namespace, "foreign", foreign, foreignKey)
	newTLSSecret(t, namespace, "mixed", certificate, foreignKey)

	runner := newRunner(t) // shared, so that cached transports are reused
	for _, test := range []struct {
		reason     string
		ca, client string
		want       outcome
		text       string // of the response, or of the error
	}{
		{reason: "good", ca: "ca.crt", client: "client", want: done, text: "200 OK: HTTP/2.0 operator"},
		{reason: "another client", ca: "ca.crt", client: "second", want: done, text: "200 OK: HTTP/2.0 second"},
		{reason: "the first once more", ca: "ca.crt", client: "client", want: done, text: "200 OK: HTTP/2.0 operator"},
		{reason: "one of two authorities", ca: "both.crt", client: "client", want: done, text: "200 OK: HTTP/2.0 operator"},
		{reason: "no client", ca: "ca.crt", want: retry, text: "127.0.0.1:"},
		{reason: "a client of another authority", ca: "ca.crt", client: "foreign", want: retry, text: "127.0.0.1:"},
		{reason: "another authority", ca: "other.crt", client: "client", want: retry, text: "certificate signed by unknown authority"},
		{reason: "the operating system's authorities", client: "client", want: retry, text: "certificate signed by unknown authority"},
		{reason: "no certificate", ca: "text", client: "client", want: retry, text: "tls.caSecretRef: entry text of Secret ca has no PEM certificate"},
		{reason: "no entry", ca: "ca.pem", client: "client", want: retry, text: "tls.caSecretRef: Secret ca has no entry ca.pem"},
		{reason: "no Secret", ca: "ca.crt", client: "nobody", want: retry, text: "tls.clientCertSecretRef: Secret nobody does not exist"},
		{reason: "a Secret without a client certificate", ca: "ca.crt", client: "ca", want: retry, text: "tls.clientCertSecretRef: tls.crt and tls.key of Secret ca: "},
		{reason: "a key of another certificate", ca: "ca.crt", client: "mixed", want: retry, text: "tls.clientCertSecretRef: tls.crt and tls.key of Secret mixed: "},
	} {
		t.Run(test.reason, func(t *testing.T) {
			spec := newRequest(server.URL)
			spec.HTTP.TLS = &v1alpha1.HTTPTLS{}
			if test.ca != "" {
				spec.HTTP.TLS.CASecretRef = &v1alpha1.SecretKeyReference{Name: "ca", Key: test.ca}
			}
			if test.client != "" {
				spec.HTTP.TLS.ClientCertSecretRef = &v1alpha1.SecretReference{Name: test.client}
			}
			response, err := do(t, runner, newTask(t, device(t, namespace, "leaf1"), spec))
			expect(t, err, test.want, test.text)
			if err == nil && response != test.text {
				t.Errorf("response is %q, want %q", response, test.text)
			}
		})
	}
	t.Run("no tls in the rule", func(t *testing.T) {
		_, err := do(t, runner, newTask(t, device(t, namespace, "leaf1"), newRequest(server.URL)))
		expect(t, err, retry, "certificate signed by unknown authority")
	})

	t.Run("an authority of a ConfigMap", func(t *testing.T) {
		plane.Create(t, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "bundle"},
			Data:       map[string]string{"ca.crt": ours.pem, "text": "no certificate"}, BinaryData: map[string][]byte{"binary": []byte(ours.pem)},
		})
		for key, text := range map[string]string{
			"ca.crt": "", "binary": "",
			"text":    "tls.caConfigMapRef: entry text of ConfigMap bundle has no PEM certificate",
			"missing": "tls.caConfigMapRef: ConfigMap bundle has no entry missing",
		} {
			spec := newRequest(server.URL)
			spec.HTTP.TLS = &v1alpha1.HTTPTLS{
				CAConfigMapRef: &v1alpha1.ConfigMapKeyReference{Name: "bundle", Key: key}, ClientCertSecretRef: &v1alpha1.SecretReference{Name: "client"},
			}
			_, err := do(t, runner, newTask(t, device(t, namespace, "leaf1"), spec))
			if text == "" {
				expect(t, err, done)
			} else {
				expect(t, err, retry, text)
			}
			spec.HTTP.TLS.CAConfigMapRef.Name = "ca" // there is a Secret of this name
			_, err = do(t, runner, newTask(t, device(t, namespace, "leaf1"), spec))
			expect(t, err, retry, "tls.caConfigMapRef: ConfigMap ca does not exist in namespace")
		}
	})

	t.Run("rotated", func(t *testing.T) {
		secret := newTLSSecret(t, namespace, "rotated", certificate, key)
		now := testingclock.NewFakePassiveClock(time.Now())
		runner := newRunner(t, func(options *settings) { options.Clock = now })
		spec := newRequest(server.URL)
		spec.HTTP.TLS = &v1alpha1.HTTPTLS{CASecretRef: &v1alpha1.SecretKeyReference{Name: "ca", Key: "ca.crt"}, ClientCertSecretRef: &v1alpha1.SecretReference{Name: "rotated"}}
		task := newTask(t, device(t, namespace, "leaf1"), spec)
		for _, step := range []struct {
			reason, certificate, key string
			want                     outcome
			response                 string
		}{
			{"at first", certificate, key, done, "200 OK: HTTP/2.0 operator"},
			{"another certificate", second, secondKey, done, "200 OK: HTTP/2.0 second"},
			{"an invalid certificate", foreign, foreignKey, retry, ""},
			{"corrected", certificate, key, done, "200 OK: HTTP/2.0 operator"},
		} {
			secret.StringData = map[string]string{corev1.TLSCertKey: step.certificate, corev1.TLSPrivateKeyKey: step.key}
			if err := plane.Client.Update(t.Context(), secret); err != nil {
				t.Fatal(err)
			}
			now.SetTime(now.Now().Add(3 * time.Second))
			response, err := do(t, runner, task)
			expect(t, err, step.want)
			if response != step.response {
				t.Errorf("%s: response is %q, want %q", step.reason, response, step.response)
			}
		}
	})
}
