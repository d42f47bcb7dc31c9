package action_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http/httpproxy"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/outbound"
)

const proxyPassword = "pr0xy-passw0rd"

// proxy is an HTTP proxy that resolves names by itself, and requires a password.
type proxy struct {
	*httptest.Server
	hosts map[string]string // the address of each host that it knows

	mu   sync.Mutex
	seen []string // method and host of each request
}

func newProxy(t *testing.T, hosts map[string]string) *proxy {
	t.Helper()
	p := &proxy{hosts: hosts}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		p.mu.Lock()
		p.seen = append(p.seen, request.Method+" "+request.Host)
		p.mu.Unlock()
		want := "Basic " + base64.StdEncoding.EncodeToString([]byte("operator:"+proxyPassword))
		to, known := p.hosts[request.URL.Hostname()]
		switch got := request.Header.Get("Proxy-Authorization"); {
		case got != want:
			http.Error(w, "you sent "+got, http.StatusProxyAuthRequired)
		case !known:
			http.Error(w, "with "+got+" I do not know "+request.Host, http.StatusBadGateway)
		case request.Method == http.MethodConnect:
			tunnel(w, to)
		default:
			forward := &httputil.ReverseProxy{ErrorLog: quiet, Rewrite: func(out *httputil.ProxyRequest) {
				out.Out.URL.Host = to
				out.Out.Header.Del("Proxy-Authorization")
			}}
			forward.ServeHTTP(w, request)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

// tunnel connects a client with an address.
func tunnel(w http.ResponseWriter, to string) {
	server, err := (&net.Dialer{}).Dial("tcp", to)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	client, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = server.Close()
		return
	}
	_, _ = io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	}()
	go func() {
		_, _ = io.Copy(client, server)
		_ = client.Close()
	}()
}

// through returns options with the proxy for all requests, and no exception to forbidden addresses. Its resolver knows some names.
func (p *proxy) through(password string, change ...func(*outbound.Proxy)) func(*settings) {
	return func(options *settings) {
		to := strings.Replace(p.URL, "//", "//operator:"+password+"@", 1)
		options.AllowCIDRs = nil
		options.Proxy = &outbound.Proxy{
			Config: httpproxy.Config{HTTPProxy: to, HTTPSProxy: to, NoProxy: "direct.example"},
			LookupNetIP: func(_ context.Context, _, host string) ([]netip.Addr, error) {
				addresses, ok := map[string][]string{
					"sink.example": {"203.0.113.7", "2001:db8::7"}, "down.example": {"203.0.113.8"}, "direct.example": {"203.0.113.9"},
					"local.example": {"127.0.0.1"}, "metadata.example": {"203.0.113.9", "169.254.169.254"}, "mapped.example": {"::ffff:127.0.0.1"},
					"nat64.example": {"64:ff9b::a9fe:a9fe"},
				}[host]
				if !ok {
					return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
				}
				var parsed []netip.Addr
				for _, address := range addresses {
					parsed = append(parsed, netip.MustParseAddr(address))
				}
				return parsed, nil
			},
		}
		for _, change := range change {
			change(options.Proxy)
		}
	}
}

func hostOf(t *testing.T, address string) string {
	t.Helper()
	parsed, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Host
}

// TestProxy sends through a proxy at a loopback address, which only the proxy may have.
func TestProxy(t *testing.T) {
	namespace, to, ca := plane.Namespace(t), newSink(t), newAuthority(t)
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		fmt.Fprintf(w, "%s for %s, %q", request.Proto, request.Host, request.Header.Get("Proxy-Authorization"))
	}))
	secure.Config.ErrorLog = quiet
	secure.EnableHTTP2 = true
	secure.StartTLS()
	defer secure.Close()
	newSecret(t, namespace, "ca", map[string]string{"ca.crt": pemOf(secure.Certificate()), "other.crt": ca.pem})
	relay := newProxy(t, map[string]string{"sink.example": hostOf(t, to.URL), "secure.example": hostOf(t, secure.URL), "example.com": hostOf(t, secure.URL)})
	runner := newRunner(t, relay.through(proxyPassword, func(proxy *outbound.Proxy) { proxy.AllowsUnresolvedHosts = true }))

	spec := newRequest("http://sink.example:8080/x")
	if _, err := do(t, runner, newTask(t, device(t, namespace, "leaf1"), spec)); err != nil {
		t.Fatal(err)
	}
	if to.request.Host != "sink.example:8080" || to.request.RequestURI != "/x" || to.request.Header.Get("Proxy-Authorization") != "" {
		t.Errorf("the sink got %s of %s with %v", to.request.RequestURI, to.request.Host, to.request.Header)
	}

	spec = newRequest("https://example.com/x") // the name in the certificate
	spec.HTTP.TLS = &v1alpha1.HTTPTLS{CASecretRef: &v1alpha1.SecretKeyReference{Name: "ca", Key: "ca.crt"}}
	response, err := do(t, runner, newTask(t, device(t, namespace, "leaf1"), spec))
	expect(t, err, done)
	if want := `200 OK: HTTP/2.0 for example.com, ""`; response != want {
		t.Errorf("response is %s, want %s", response, want)
	}
	spec.HTTP.TLS.CASecretRef.Key = "other.crt"
	_, err = do(t, runner, newTask(t, device(t, namespace, "leaf1"), spec))
	expect(t, err, retry, "example.com: certificate signed by unknown authority", "(through the proxy 127.0.0.1:")
	if want := []string{"POST sink.example:8080", "CONNECT example.com:443", "CONNECT example.com:443"}; !slices.Equal(relay.seen, want) {
		t.Errorf("the proxy saw %v, want %v", relay.seen, want)
	}

	t.Run("NO_PROXY", func(t *testing.T) {
		relay.seen = nil
		_, err := do(t, runner, newTask(t, device(t, namespace, "leaf1"), newRequest("http://direct.example")))
		expect(t, err, retry, "direct.example: ") // there is no such host
		_, err = do(t, newRunner(t, func(options *settings) {
			relay.through(proxyPassword)(options)
			options.AllowCIDRs = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		}), newTask(t, device(t, namespace, "leaf1"), newRequest(to.URL)))
		expect(t, err, done)
		if len(relay.seen) > 0 {
			t.Errorf("the proxy saw %v", relay.seen)
		}
	})
	t.Run("a token", func(t *testing.T) {
		from := newIssuer(t)
		relay.hosts["issuer.example"], relay.seen = hostOf(t, from.URL), nil
		newSecret(t, namespace, "sink", map[string]string{"key": clientSecret})
		spec := from.action()
		spec.HTTP.URL, spec.HTTP.Auth.OAuth2.TokenURL = "http://issuer.example/", "http://issuer.example/token"
		_, err := do(t, runner, newTask(t, device(t, namespace, "leaf1"), spec))
		expect(t, err, done)
		if want := []string{"POST issuer.example", "POST issuer.example"}; !slices.Equal(relay.seen, want) {
			t.Errorf("the proxy saw %v, want %v", relay.seen, want)
		}
		spec.HTTP.Auth.OAuth2.TokenURL = "http://metadata.google.internal/token"
		_, err = do(t, runner, newTask(t, device(t, namespace, "leaf1"), spec))
		expect(t, err, permanent, "auth.oauth2: tokenURL: metadata.google.internal: metadata.google.internal is a forbidden host")
	})
}

// TestProxyGuard sends to hosts that no proxy may connect to, or that may be one.
func TestProxyGuard(t *testing.T) {
	namespace, relay := plane.Namespace(t), newProxy(t, nil)
	runner := newRunner(t, relay.through(proxyPassword, func(proxy *outbound.Proxy) { proxy.AllowsUnresolvedHosts = true }))
	_, err := do(t, runner, newTask(t, device(t, namespace, "local"), newRequest("http://${data.name}.example/")))
	expect(t, err, permanent, "local.example: 127.0.0.1 is a forbidden address (loopback)")
	if len(relay.seen) > 0 {
		t.Errorf("the proxy saw %v", relay.seen)
	}

	t.Run("names that only the proxy knows", func(t *testing.T) {
		to := newSink(t)
		relay := newProxy(t, map[string]string{"inner.example": hostOf(t, to.URL)})
		task := newTask(t, device(t, namespace, "leaf1"), newRequest("http://inner.example"))
		_, err := do(t, newRunner(t, relay.through(proxyPassword)), task)
		expect(t, err, retry, "inner.example: its name cannot be resolved here", "--proxy-unresolved-hosts")
		expectUnavailable(t, err, true)
		if len(relay.seen) > 0 {
			t.Errorf("the proxy saw %v", relay.seen)
		}
		broken := func(proxy *outbound.Proxy) {
			proxy.AllowsUnresolvedHosts = true
			proxy.LookupNetIP = func(context.Context, string, string) ([]netip.Addr, error) { return nil, errors.New("no DNS") }
		}
		_, err = do(t, newRunner(t, relay.through(proxyPassword, broken)), task)
		expect(t, err, done)
	})
	t.Run("an exception", func(t *testing.T) {
		to := newSink(t)
		relay := newProxy(t, map[string]string{"local.example": hostOf(t, to.URL)})
		_, err := do(t, newRunner(t, relay.through(proxyPassword), func(options *settings) {
			options.AllowCIDRs = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		}), newTask(t, device(t, namespace, "leaf1"), newRequest("http://local.example")))
		expect(t, err, done)
	})
}

// TestProxyFails sends through proxies that refuse, or that are no proxies. No error shows a password.
func TestProxyFails(t *testing.T) {
	namespace, relay := plane.Namespace(t), newProxy(t, nil)
	gone := newProxy(t, nil)
	gone.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = quiet
	secure.StartTLS()
	defer secure.Close()
	silent, _ := newRawSink(t, func(net.Conn, string) {})
	rude, _ := newRawSink(t, func(conn net.Conn, head string) { _, _ = io.WriteString(conn, "no: "+head) })
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close() //nolint:errcheck // the test is over
	go func() {
		for conn, err := busy.Accept(); err == nil; conn, err = busy.Accept() {
			_, _ = io.WriteString(conn, "busy\r\n")
			_ = conn.Close()
		}
	}()
	at := func(address string) func(*settings) {
		return (&proxy{Server: &httptest.Server{URL: address}}).through(proxyPassword)
	}
	for _, test := range []struct {
		reason, url string
		options     func(*settings)
		want        outcome
		texts       []string
	}{
		{"a wrong password", "http://sink.example", relay.through("wr0ng-pr0xy-passw0rd"), retry, []string{"sink.example: the proxy answered with 407 Proxy Authentication Required; correct the user name and the password in the proxy's URL"}},
		{"a wrong password for a tunnel", "https://sink.example", relay.through("wr0ng-pr0xy-passw0rd"), retry, []string{"sink.example: the proxy answered with 407 Proxy Authentication Required; correct"}},
		{"a sink that is down", "https://sink.example", relay.through(proxyPassword), retry, []string{"sink.example: the proxy answered with 502 Bad Gateway; check that the host is up"}},
		{"a sink that is down, without tunnel", "http://sink.example", relay.through(proxyPassword), retry, []string{"answered with 502 Bad Gateway"}},
		{"no proxy", "http://sink.example", gone.through(proxyPassword), retry, []string{"sink.example: the proxy 127.0.0.1:", "connection refused"}},
		{"no proxy for a tunnel", "https://sink.example", gone.through(proxyPassword), retry, []string{"sink.example: the proxy 127.0.0.1:", "connection refused"}},
		{"a silent proxy", "https://sink.example", at("http://" + silent), retry, []string{"timed out after 300ms"}},
		{"a proxy that speaks something else", "https://sink.example", at("http://" + rude), retry, []string{"sink.example: ", "(through the proxy 127.0.0.1:"}},
		{"a proxy that speaks something else, without tunnel", "http://sink.example", at("http://" + rude), retry, []string{"sink.example: ", "malformed", "(through the proxy 127.0.0.1:"}},
		{"a proxy that is no SOCKS", "http://sink.example", at("socks5://" + busy.Addr().String()), retry, []string{"sink.example: the proxy 127.0.0.1:", "did not connect to it"}},
		{"a proxy of an unknown authority", "https://sink.example", at(secure.URL), retry, []string{"sink.example: the certificate of the proxy 127.0.0.1:", "SSL_CERT_FILE"}},
	} {
		t.Run(test.reason, func(t *testing.T) {
			task := newTask(t, device(t, namespace, "leaf1"), newRequest(test.url))
			if strings.Contains(test.reason, "silent") {
				task.Rule.Spec.Retry.Timeout = metav1.Duration{Duration: 300 * time.Millisecond}
			}
			response, err := do(t, newRunner(t, test.options), task)
			expect(t, err, test.want, test.texts...)
			expectUnavailable(t, err, true)
			encoded := base64.StdEncoding.EncodeToString([]byte("operator:" + proxyPassword))
			for _, secret := range []string{"passw0rd", encoded[:8], encoded[8:16], encoded[16:24]} {
				if strings.Contains(fmt.Sprint(response, err), secret) {
					t.Errorf("response %q and error %q show %s", response, err, secret)
				}
			}
		})
	}
}
