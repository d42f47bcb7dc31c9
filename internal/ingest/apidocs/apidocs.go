// Package apidocs serves the description of the receiver's HTTP API: as an OpenAPI document, and as a page that shows it. It does not
// import the receiver; the receiver's tests validate its answers against the document with package apidocstest.
package apidocs

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/swaggest/swgui/v5/static"
)

//go:embed openapi.json page
var own embed.FS

// contentSecurityPolicy keeps the page from fetching or running anything that the receiver does not serve itself. Swagger UI's style
// sheet has its icons in data URLs.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handles reports whether Handler serves a URL's path.
func Handles(path string) bool {
	return path == "/openapi.json" || path == "/docs" || strings.HasPrefix(path, "/docs/")
}

// Handler serves GET and HEAD of /openapi.json, of /docs and of what that page loads from below /docs/. It never redirects, and answers all
// other requests with 404 or 405 and JSON.
func Handler() http.Handler {
	page := load(own, "page/docs.html")
	assets := map[string]asset{
		"/openapi.json":              load(own, "openapi.json"),
		"/docs":                      page,
		"/docs/":                     page,
		"/docs/docs.css":             load(own, "page/docs.css"),
		"/docs/docs.js":              load(own, "page/docs.js"),
		"/docs/favicon-32x32.png":    load(static.FS, "favicon-32x32.png"),
		"/docs/swagger-ui-bundle.js": load(static.FS, "swagger-ui-bundle.js.gz"),
		"/docs/swagger-ui.css":       load(static.FS, "swagger-ui.css.gz"),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", contentSecurityPolicy)
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("X-Content-Type-Options", "nosniff")

		asset, found := assets[request.URL.Path]
		switch {
		case request.Method != http.MethodGet && request.Method != http.MethodHead:
			header.Set("Allow", "GET, HEAD")
			refuse(w, http.StatusMethodNotAllowed, "only GET and HEAD are accepted here; NetBox posts to the path of a NetBoxSource")
		case !found:
			refuse(w, http.StatusNotFound, "no such page; see /docs")
		default:
			asset.serve(w, request)
		}
	})
}

func refuse(w http.ResponseWriter, status int, result string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// An error means that the client has disconnected.
	_ = json.NewEncoder(w).Encode(map[string]string{"result": result})
}

// asset is a file to serve.
type asset struct {
	contentType string
	etag        string
	content     []byte
	gzipped     bool
}

var contentTypes = map[string]string{
	".css":  "text/css; charset=utf-8",
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".json": "application/json",
	".png":  "image/png",
}

// load reads an embedded file. The tests cover its existence.
func load(files fs.FS, name string) asset {
	content, err := fs.ReadFile(files, name)
	if err != nil {
		panic(err)
	}
	plain, gzipped := strings.CutSuffix(name, ".gz")
	return asset{
		contentType: contentTypes[path.Ext(plain)],
		etag:        fmt.Sprintf(`"%.16x"`, sha256.Sum256(content)),
		content:     content,
		gzipped:     gzipped,
	}
}

// serve answers GET and HEAD. The URLs are the same in all versions, so browsers must revalidate their cached copies.
func (a asset) serve(w http.ResponseWriter, request *http.Request) {
	header := w.Header()
	header.Set("Content-Type", a.contentType)
	header.Set("Cache-Control", "no-cache")
	if a.gzipped {
		header.Set("Vary", "Accept-Encoding")
		if !acceptsGzip(request) {
			a.inflate(w, request)
			return
		}
		header.Set("Content-Encoding", "gzip")
	}
	header.Set("Etag", a.etag)
	http.ServeContent(w, request, "", time.Time{}, bytes.NewReader(a.content))
}

// inflate decompresses an asset for the rare client without gzip.
func (a asset) inflate(w http.ResponseWriter, request *http.Request) {
	if request.Method == http.MethodHead {
		return
	}
	reader, err := gzip.NewReader(bytes.NewReader(a.content))
	if err != nil {
		panic(err) // embedded data is well formed
	}
	// An error means that the client has disconnected.
	_, _ = io.Copy(w, reader) //nolint:gosec // the compressed data is embedded
}

func acceptsGzip(request *http.Request) bool {
	for encoding := range strings.SplitSeq(request.Header.Get("Accept-Encoding"), ",") {
		name, quality, _ := strings.Cut(encoding, ";")
		if strings.TrimSpace(name) == "gzip" {
			return strings.Trim(quality, " q=0.") != "" || quality == ""
		}
	}
	return false
}
