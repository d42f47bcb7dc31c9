package outbound

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/utils/clock"
)

// Proxy is the proxy of outbound connections.
type Proxy struct {
	// Config is as in HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
	Config httpproxy.Config
	// AllowsUnresolvedHosts means that the proxy may connect to hosts whose names cannot be resolved here: it alone can then refuse forbidden
	// addresses.
	AllowsUnresolvedHosts bool
	// LookupNetIP resolves the names of hosts that the proxy is to connect to; nil means net.DefaultResolver.
	LookupNetIP func(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Validate returns an error if the URL of a proxy is invalid. The error omits the URL, which may hold a password.
func (p *Proxy) Validate() error {
	for name, value := range map[string]string{"HTTPS_PROXY": p.Config.HTTPSProxy, "HTTP_PROXY": p.Config.HTTPProxy} {
		if value == "" {
			continue
		}
		if !strings.Contains(value, "://") {
			value = "http://" + value // as httpproxy
		}
		parsed, err := url.Parse(value)
		if err != nil || parsed.Hostname() == "" || !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, parsed.Scheme) {
			return fmt.Errorf("%s is not the URL of a proxy, such as http://proxy.example.com:3128; correct it", name)
		}
	}
	return nil
}

const (
	// lookupTTL is the time for which the result of a lookup is used, and maxLookups the number of cached ones.
	lookupTTL, maxLookups = 10 * time.Second, 256
	// lookupTimeout bounds a lookup.
	lookupTimeout = 3 * time.Second
)

// proxies determines the proxies of requests, and the hosts that these may connect to.
type proxies struct {
	Proxy

	of      func(*url.URL) (*url.URL, error)
	allowed []netip.Prefix
	checked *cache.LRUExpireCache // error by host
}

// newProxies returns proxies that obey the Proxy, which may be nil.
func newProxies(proxy *Proxy, allowed []netip.Prefix, clock clock.PassiveClock) *proxies {
	p := &proxies{allowed: allowed, checked: cache.NewLRUExpireCacheWithClock(maxLookups, clock)}
	if proxy != nil {
		p.Proxy = *proxy
	}
	if p.LookupNetIP == nil {
		p.LookupNetIP = net.DefaultResolver.LookupNetIP
	}
	p.of = p.Config.ProxyFunc()
	return p
}

// localNames are names that a proxy may resolve to itself, or to the metadata service of a cloud, and the domains of such names.
var localNames = []string{
	"localhost", "localhost.localdomain", "localhost6", "localhost6.localdomain6", "ip6-localhost", "ip6-loopback",
	"metadata", "metadata.google.internal", "metadata.goog", "metadata.azure.internal", "metadata.tencentyun.com",
	"instance-data", "instance-data.ec2.internal", "metadata.platformequinix.com", "metadata.packet.net",
}

// check refuses hosts that a proxy must not connect to. The proxy resolves their names by itself, so those that cannot be resolved here are
// refused as well, unless they are allowed.
func (p *proxies) check(ctx context.Context, host string) error {
	name, err := asciiHost(host)
	if err != nil {
		return err
	}
	name = strings.TrimSuffix(name, ".")
	for _, local := range localNames {
		if name == local || strings.HasSuffix(name, "."+local) {
			return forbid("%.100s is a forbidden host (this machine, or %s), also through a proxy; use another host", host, cloudMetadata)
		}
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return nil // checkHost has checked it
	}
	if cached, ok := p.checked.Get(name); ok {
		err, _ := cached.(error)
		return err
	}
	err = p.lookup(ctx, name)
	if ctx.Err() == nil {
		p.checked.Add(name, err, lookupTTL)
	}
	return err
}

func (p *proxies) lookup(ctx context.Context, name string) error {
	limited, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addresses, err := p.LookupNetIP(limited, "ip", name)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && p.AllowsUnresolvedHosts:
		return nil
	case err != nil:
		return errUnresolved
	}
	for _, address := range addresses {
		if err := checkAddress(address, p.allowed); err != nil {
			return err
		}
	}
	return nil
}

// errUnresolved is the error of a host whose name cannot be resolved here.
var errUnresolved = errors.New("its name cannot be resolved here, and the proxy might resolve it to a forbidden address; " +
	"add it to the cluster's DNS, to NO_PROXY, or start the operator with --proxy-unresolved-hosts")

// AddProxySecrets adds the credentials of the proxy for a URL, if there is one, to the secrets of a request: a proxy may repeat them in its
// answer.
func (t *Transports) AddProxySecrets(target *url.URL, secrets *Redactor) {
	proxy, err := t.proxies.of(target)
	if err != nil || proxy == nil || proxy.User == nil {
		return
	}
	user := proxy.User.Username()
	password, _ := proxy.User.Password()
	if password == "" {
		secrets.Add(user)
	}
	secrets.Add(password)
	secrets.Add(base64.StdEncoding.EncodeToString([]byte(user + ":" + password)))
}

// connectError is the answer of a proxy that did not connect to a host.
type connectError struct{ status int }

// Error says what the proxy answered, without its own text.
func (e *connectError) Error() string {
	text := "the proxy answered with " + Status(e.status)
	switch e.status {
	case http.StatusProxyAuthRequired:
		return text + "; correct the user name and the password in the proxy's URL"
	case http.StatusForbidden, http.StatusMethodNotAllowed:
		return text + "; allow this host and port in the proxy, or add it to NO_PROXY"
	default:
		return text + "; check that the host is up, and that the proxy can connect to it"
	}
}

// checkConnect returns the error of an answer to CONNECT.
func checkConnect(_ context.Context, _ *url.URL, _ *http.Request, response *http.Response) error {
	if response.StatusCode != http.StatusOK {
		return &connectError{response.StatusCode}
	}
	return nil
}

// proxyError is the error of a request through a proxy.
type proxyError struct {
	proxy string // host and port
	err   error
}

// Error returns the text of the error, which may hold what a server or a proxy sent.
func (e *proxyError) Error() string { return e.err.Error() }

// Unwrap returns the error.
func (e *proxyError) Unwrap() error { return e.err }

// describe returns a fixed text for the error.
func (e *proxyError) describe() string {
	if refused, ok := errors.AsType[*connectError](e.err); ok {
		return refused.Error()
	}
	if errors.Is(e.err, errUnresolved) {
		return errUnresolved.Error()
	}
	switch op, ok := errors.AsType[*net.OpError](e.err); {
	case ok && op.Op == "proxyconnect" && isUnverified(op.Err):
		return "the certificate of the proxy " + e.proxy + " cannot be verified; replace it, or name its CA in SSL_CERT_FILE of the operator"
	case ok && op.Op == "proxyconnect":
		return "the proxy " + e.proxy + ": " + describe(op.Err)
	case ok && strings.HasPrefix(op.Op, "socks"):
		return "the proxy " + e.proxy + " did not connect to it; check that the host is up, and that the proxy can connect to it"
	default:
		return describe(e.err) + " (through the proxy " + e.proxy + ")"
	}
}

func isUnverified(err error) bool {
	_, ok := errors.AsType[*tls.CertificateVerificationError](err)
	return ok
}
