package outbound_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/http/httpproxy"
	"k8s.io/utils/clock"

	"github.com/netbox-events/netbox-event-operator/internal/outbound"
)

// TestProxyGuard sends to forbidden addresses by all their names: none reaches the proxy.
func TestProxyGuard(t *testing.T) {
	var seen []string
	proxy := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		seen = append(seen, request.Method+" "+request.Host)
	}))
	defer proxy.Close()
	transports := outbound.NewTransports(outbound.Options{Clock: clock.RealClock{}, Proxy: &outbound.Proxy{
		Config:                httpproxy.Config{HTTPProxy: proxy.URL, HTTPSProxy: proxy.URL},
		AllowsUnresolvedHosts: true,
		LookupNetIP: func(_ context.Context, _, host string) ([]netip.Addr, error) {
			addresses, ok := map[string][]string{
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
	}})
	via, err := transports.For(t.Context(), "default", nil)
	if err != nil {
		t.Fatal(err)
	}
	send := func(url string) error {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := via.RoundTrip(request)
		if err != nil {
			return err
		}
		return response.Body.Close()
	}
	for _, host := range []string{
		"127.0.0.1", "127.8.8.8", "0.0.0.0", "169.254.169.254", "[::1]", "[::]", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "[fe80::1%25lo]",
		"100.100.100.200", "168.63.129.16", "[fd00:ec2::254]", "2852039166", "0xa9fea9fe", "0xa9.0xfe.1", "0251.0376.0251.0376", "169.254.169.254.", "127.1",
		"１６９.254.169.254", "１６９。２５４。１６９。２５４", "②⑧⑤②⓪③⑨①⑥⑥",
		"localhost", "LOCALHOST", "localhost.", "a.localhost", "ｌocalhost", "ip6-localhost", "localhost.localdomain",
		"metadata.google.internal", "Metadata.Google.Internal.", "a.metadata.google.internal", "metadata", "metadata.goog", "instance-data", "instance-data.ec2.internal",
		"local.example", "LOCAL.example", "metadata.example", "mapped.example", "nat64.example",
	} {
		for _, scheme := range []string{"http", "https"} {
			if err := send(scheme + "://" + host + "/latest/meta-data"); !outbound.IsForbidden(err) {
				t.Errorf("%s %s: %v, want that it is forbidden", scheme, host, err)
			}
		}
	}
	if len(seen) > 0 {
		t.Errorf("the proxy saw %v", seen)
	}
	if err := send("http://sink.example"); err != nil || len(seen) != 1 {
		t.Errorf("the proxy saw %v, and the error is %v; want that an allowed host passes", seen, err)
	}
}

func TestProxyURLs(t *testing.T) {
	for address, valid := range map[string]bool{
		"": true, "http://proxy:3128": true, "proxy:3128": true, "https://user:pa55@proxy": true, "socks5://proxy": true,
		"http://user:pa55@": false, "ftp://user:pa55@proxy": false, "http://user:pa55@proxy:port": false, "http://user:pa%ss55@proxy": false,
	} {
		for _, config := range []httpproxy.Config{{HTTPProxy: address}, {HTTPSProxy: address}} {
			err := (&outbound.Proxy{Config: config}).Validate()
			if (err == nil) != valid || err != nil && strings.Contains(err.Error(), "55") {
				t.Errorf("%s: %v", address, err)
			}
		}
	}
}
