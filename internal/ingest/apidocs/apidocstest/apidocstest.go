// Package apidocstest holds the receiver's answers against the OpenAPI document, in tests.
package apidocstest

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/netbox-events/netbox-event-operator/internal/ingest/apidocs"
)

// Webhook is the JSON pointer to the operation that takes deliveries.
const Webhook = "/paths/~1webhook~1{namespace}~1{name}/post"

// Document is the OpenAPI document as it is served.
type Document struct {
	t        testing.TB
	root     any
	compiler *jsonschema.Compiler
}

// Load fetches the document from the handler.
func Load(t testing.TB) *Document {
	t.Helper()
	served := httptest.NewRecorder()
	apidocs.Handler().ServeHTTP(served, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/openapi.json", nil))
	root := parse(t, served.Body.Bytes())

	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	if err := compiler.AddResource("openapi.json", root); err != nil {
		t.Fatal(err)
	}
	return &Document{t: t, root: root, compiler: compiler}
}

// Validator returns a check for the answers to deliveries. It reports an answer whose status the document does not describe, whose
// body does not fit its schema there, or which lacks a header that it promises.
func Validator(t testing.TB) func(status int, header http.Header, body []byte) {
	t.Helper()
	document := Load(t)
	return func(status int, header http.Header, body []byte) {
		t.Helper()
		pointer := Webhook + "/responses/" + strconv.Itoa(status)
		response, ok := document.At(pointer).(map[string]any)
		if !ok {
			t.Errorf("the document does not describe the status %d, answered with %s", status, body)
			return
		}
		if got := header.Get("Content-Type"); got != "application/json" {
			t.Errorf("answer %d: Content-Type is %q", status, got)
		}
		if err := document.Schema(pointer + "/content/application~1json/schema").Validate(parse(t, body)); err != nil {
			t.Errorf("answer %d, %s: %v", status, body, err)
		}
		promised, _ := response["headers"].(map[string]any)
		for name := range promised {
			at := pointer + "/headers/" + name
			if err := document.Schema(at + "/schema").Validate(document.headerValue(at, header.Get(name))); err != nil {
				t.Errorf("answer %d: header %s is %q: %v", status, name, header.Get(name), err)
			}
		}
	}
}

// headerValue reads a header as its schema has it: as a number or as text.
func (d *Document) headerValue(pointer, text string) any {
	if d.At(pointer+"/schema/type") == "integer" {
		if number, err := strconv.Atoi(text); err == nil {
			return number
		}
	}
	return text
}

// At returns what a JSON pointer leads to, through references, or nil.
func (d *Document) At(pointer string) any {
	_, value := d.resolve(pointer)
	return value
}

// Schema compiles the schema at a JSON pointer, which may lead through references. A schema that is none fails the test.
func (d *Document) Schema(pointer string) *jsonschema.Schema {
	d.t.Helper()
	at, _ := d.resolve(pointer)
	schema, err := d.compiler.Compile("openapi.json#" + strings.NewReplacer("{", "%7B", "}", "%7D").Replace(at))
	if err != nil {
		d.t.Fatal(err)
	}
	return schema
}

var unescape = strings.NewReplacer("~1", "/", "~0", "~")

// resolve follows a JSON pointer, and every reference on its way, to a value and its own pointer.
func (d *Document) resolve(pointer string) (at string, value any) {
	value = d.root
	if pointer == "" {
		return "", value
	}
	for token := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		switch parent := value.(type) {
		case map[string]any:
			value = parent[unescape.Replace(token)]
		case []any:
			index, err := strconv.Atoi(token)
			if err != nil || index >= len(parent) {
				return "", nil
			}
			value = parent[index]
		default:
			return "", nil
		}
		at += "/" + token
		if object, ok := value.(map[string]any); ok {
			if reference, ok := object["$ref"].(string); ok {
				at, value = d.resolve(strings.TrimPrefix(reference, "#"))
			}
		}
	}
	return at, value
}

func parse(t testing.TB, text []byte) any {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return value
}
