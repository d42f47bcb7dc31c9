package app_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"golang.org/x/net/http/httpproxy"
	"k8s.io/client-go/rest"

	"github.com/netbox-events/netbox-event-operator/internal/app"
	"github.com/netbox-events/netbox-event-operator/internal/outbound"
)

// TestWithoutProxy checks that the connection to the API server does not use the proxy of http actions, but that of a kubeconfig.
func TestWithoutProxy(t *testing.T) {
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://kubernetes.example.com/version", nil)
	if err != nil {
		t.Fatal(err)
	}
	if proxy, err := app.WithoutProxy(&rest.Config{}).Proxy(request); proxy != nil || err != nil {
		t.Errorf("the proxy is %v, %v; want none", proxy, err)
	}
	own := http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy"})
	if proxy, err := app.WithoutProxy(&rest.Config{Proxy: own}).Proxy(request); err != nil || proxy.Host != "proxy" {
		t.Errorf("the proxy is %v, %v; want that of the kubeconfig", proxy, err)
	}
}

func TestInvalidProxy(t *testing.T) {
	options := app.Options{Proxy: outbound.Proxy{Config: httpproxy.Config{HTTPSProxy: "http://user:pa55@:x"}}}
	err := app.Run(t.Context(), plane.Config, options, logr.Discard())
	if err == nil || !strings.HasPrefix(err.Error(), "HTTPS_PROXY is not the URL of a proxy") || strings.Contains(err.Error(), "pa55") {
		t.Errorf("error: %v", err)
	}
}
