// Package ui has the page of kubectl netbox ui, and guards the API behind it: only a program on this machine that knows the token gets an
// answer. It knows nothing of Kubernetes, and imports nothing of this module.
package ui

import (
	"crypto/subtle"
	"embed"
	"encoding/json"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

//go:embed page
var files embed.FS

// headers are sent with each answer. The page has no inline script or style, loads nothing from elsewhere, and cannot parse a text as HTML.
var headers = map[string]string{
	"Cache-Control": "no-store",
	"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Referrer-Policy":              "no-referrer",
	"X-Content-Type-Options":       "nosniff",
}

// Handler returns a handler of the page, and of the API below /api/ for requests with the token.
//
// The token is in the header Authorization. A cookie would not do: browsers send it to all ports of a host, and so to servers of others.
// For the same reason it is in the fragment of the page's URL, which browsers do not send.
func Handler(token string, api http.Handler) http.Handler {
	page, err := fs.Sub(files, "page")
	if err != nil {
		panic(err) // the name is not a valid path
	}
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServerFS(page))
	mux.Handle("/api/", authorized(token, api))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range headers {
			w.Header().Set(name, value)
		}
		switch {
		case !isLoopback(r.Host): // a page of another name that resolves to this address: DNS rebinding
			Error(w, http.StatusForbidden, "this server answers to localhost alone; open the URL that kubectl netbox ui printed")
		case !isOwnOrigin(r):
			Error(w, http.StatusForbidden, "another site made this request; open the URL that kubectl netbox ui printed")
		default:
			mux.ServeHTTP(w, r)
		}
	})
}

func authorized(token string, api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if subtle.ConstantTimeCompare([]byte(got), []byte(token)) != 1 {
			Error(w, http.StatusUnauthorized, "the token is missing or wrong; open the URL that kubectl netbox ui printed last")
			return
		}
		api.ServeHTTP(w, r)
	})
}

// isLoopback reports whether a host is this machine. The port may be another one, that of a tunnel.
func isLoopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	address, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && address.IsLoopback()
}

// isOwnOrigin reports whether no page of another origin made a request.
func isOwnOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	return origin == "" || origin == "http://"+r.Host
}

// Error answers with an error as JSON: {"error": "..."}.
func Error(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": text}) // the browser is gone
}
