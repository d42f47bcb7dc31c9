package apidocs_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/netbox-events/netbox-event-operator/internal/ingest/apidocs/apidocstest"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

const delivery = apidocstest.Webhook + "/requestBody/content/application~1json"

func TestDocumentIsOpenAPI31(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("testdata/openapi-3.1.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(apidocstest.Load(t).At("")); err != nil {
		t.Error(err)
	}
}

// The OpenAPI schema leaves the schemas inside a document alone; compiling them checks them against their own.
func TestSchemasAreSchemas(t *testing.T) {
	document := apidocstest.Load(t)
	for name := range document.At("/components/schemas").(map[string]any) {
		document.Schema("/components/schemas/" + name)
	}
}

func TestExamplesFitTheirSchemas(t *testing.T) {
	document := apidocstest.Load(t)
	count := 0
	check := func(at, schema string, value any) {
		count++
		if err := document.Schema(schema).Validate(value); err != nil {
			t.Errorf("%s: %v", at, err)
		}
	}
	var walk func(at string, value any)
	walk = func(at string, value any) {
		object, ok := value.(map[string]any)
		if !ok {
			return
		}
		// Of a media type, parameter or header.
		if example, ok := object["example"]; ok {
			check(at+"/example", at+"/schema", example)
		}
		switch examples := object["examples"].(type) {
		case map[string]any:
			for name, example := range examples {
				check(at+"/examples/"+name, at+"/schema", example.(map[string]any)["value"])
			}
		case []any: // of a schema
			for index, example := range examples {
				check(fmt.Sprintf("%s/examples/%d", at, index), at, example)
			}
		}
		for name, child := range object {
			if name == "example" || name == "examples" {
				continue
			}
			pointer := at + "/" + strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
			walk(pointer, child)
			if list, ok := child.([]any); ok {
				for index, element := range list {
					walk(fmt.Sprintf("%s/%d", pointer, index), element)
				}
			}
		}
	}
	walk("", document.At(""))
	if count < 30 {
		t.Errorf("only %d examples were found", count)
	}
}

// What the decoder takes fits the schema, and what it refuses does not.
func TestDeliverySchemaAgreesWithTheDecoder(t *testing.T) {
	schema := apidocstest.Load(t).Schema(delivery + "/schema")
	agree := func(name, body string) (taken bool) {
		t.Helper()
		_, err := netbox.Decode([]byte(body), nil)
		if _, malformed := errors.AsType[*netbox.SyntaxError](err); malformed {
			return false
		}
		value, parseErr := jsonschema.UnmarshalJSON(strings.NewReader(body))
		if parseErr != nil {
			t.Fatal(parseErr)
		}
		if invalid := schema.Validate(value); (invalid == nil) != (err == nil) {
			t.Errorf("%s: the decoder says %v, the schema says %v", name, err, invalid)
		}
		return err == nil
	}

	all, err := deliveries.All()
	if err != nil {
		t.Fatal(err)
	}
	taken := 0
	for _, recorded := range all {
		if agree(recorded.String(), recorded.Body) {
			taken++
		}
	}
	if taken < 1000 {
		t.Errorf("only %d of %d recorded deliveries were taken", taken, len(all))
	}

	const good = `"event": "updated", "timestamp": "2026-11-23T19:05:00Z", "data": null, "model": "site"`
	for reason, body := range map[string]string{
		"nothing at all":             `{}`,
		"the least":                  `{` + good + `}`,
		"unknown keys":               `{` + good + `, "more": [1]}`,
		"nulls":                      `{` + good + `, "object_type": null, "username": null, "request_id": null, "snapshots": null, "context": null, "request": null}`,
		"null inside":                `{` + good + `, "snapshots": {"prechange": null, "postchange": null}, "request": {"id": null, "user": null}}`,
		"no data":                    `{"event": "updated", "timestamp": "2026-11-23T19:05:00Z", "model": "site"}`,
		"data is no object":          `{"event": "updated", "timestamp": "2026-11-23T19:05:00Z", "model": "site", "data": []}`,
		"empty event":                `{"event": "", "timestamp": "2026-11-23T19:05:00Z", "model": "site", "data": null}`,
		"timestamp without offset":   `{"event": "updated", "timestamp": "2026-11-23T19:05:00", "model": "site", "data": null}`,
		"timestamp is a number":      `{"event": "updated", "timestamp": 1, "model": "site", "data": null}`,
		"neither type nor model":     `{"event": "updated", "timestamp": "2026-11-23T19:05:00Z", "data": null}`,
		"empty model":                `{"event": "updated", "timestamp": "2026-11-23T19:05:00Z", "data": null, "model": ""}`,
		"null type and model":        `{"event": "updated", "timestamp": "2026-11-23T19:05:00Z", "data": null, "model": null, "object_type": null}`,
		"username is a number":       `{` + good + `, "username": 1}`,
		"request_id is an object":    `{` + good + `, "request_id": {}}`,
		"object_type is a list":      `{` + good + `, "object_type": []}`,
		"snapshots is a list":        `{` + good + `, "snapshots": []}`,
		"prechange is text":          `{` + good + `, "snapshots": {"prechange": ""}}`,
		"differences is free":        `{` + good + `, "snapshots": {"differences": 1}}`,
		"context is text":            `{` + good + `, "context": ""}`,
		"request is text":            `{` + good + `, "request": ""}`,
		"user of request is a map":   `{` + good + `, "request": {"user": {}}}`,
		"method of request is free":  `{` + good + `, "request": {"method": 1}}`,
		"id, url, display are free":  `{"event": "updated", "timestamp": "2026-11-23T19:05:00Z", "model": "site", "data": {"id": [], "url": {}, "display": 1}}`,
		"object_type without a dot":  `{"event": "updated", "timestamp": "2026-11-23T19:05:00Z", "data": null, "object_type": "site"}`,
		"a long number in free JSON": `{` + good + `, "context": {"n": 123456789012345678901234567890}}`,
	} {
		agree(reason, body)
	}
}

func TestEveryAnswerIsDescribed(t *testing.T) {
	document := apidocstest.Load(t)
	described := document.At(apidocstest.Webhook + "/responses").(map[string]any)
	want := []string{"200", "400", "401", "404", "405", "408", "413", "415", "422", "429", "503"}
	if got := slices.Sorted(maps.Keys(described)); !slices.Equal(got, want) {
		t.Errorf("described are %v, want %v", got, want)
	}
	seen := map[any]bool{}
	for path, item := range document.At("/paths").(map[string]any) {
		for method, operation := range item.(map[string]any) {
			id := operation.(map[string]any)["operationId"]
			if id == nil || seen[id] {
				t.Errorf("%s %s: operationId %v is missing or not unique", method, path, id)
			}
			seen[id] = true
		}
	}
}

func TestValidator(t *testing.T) {
	head := func(more ...string) http.Header {
		header := http.Header{"Content-Type": {"application/json"}}
		for i := 0; i < len(more); i += 2 {
			header.Set(more[i], more[i+1])
		}
		return header
	}
	challenged := head("WWW-Authenticate", `HMAC-SHA512 header="X-Hook-Signature"`)
	for _, test := range []struct {
		reason string
		status int
		header http.Header
		body   string
		fits   bool
	}{
		{"stored", 200, head(), `{"result":"ok","event":"a/b"}`, true},
		{"stored, without a name", 200, head(), `{"result":"ok"}`, false},
		{"refused", 401, challenged, `{"result":"no"}`, true},
		{"refused without a challenge", 401, head(), `{"result":"no"}`, false},
		{"a key that is not described", 401, challenged, `{"result":"no","why":"x"}`, false},
		{"not JSON by its header", 401, http.Header{}, `{"result":"no"}`, false},
		{"allowed method", 405, head("Allow", "POST"), `{"result":"no"}`, true},
		{"allowed method missing", 405, head(), `{"result":"no"}`, false},
		{"faults", 422, head(), `{"result":"no","errors":[{"field":"a","message":"b"}]}`, true},
		{"faults missing", 422, head(), `{"result":"no"}`, false},
		{"try again", 503, head("Retry-After", "1"), `{"result":"no"}`, true},
		{"try again, but when", 503, head(), `{"result":"no"}`, false},
		{"try again, in words", 429, head("Retry-After", "soon"), `{"result":"no"}`, false},
		{"a status that is not described", 500, head(), `{"result":"no"}`, false},
	} {
		t.Run(test.reason, func(t *testing.T) {
			probe := &probe{TB: t}
			apidocstest.Validator(probe)(test.status, test.header, []byte(test.body))
			if fits := probe.faults.Len() == 0; fits != test.fits {
				t.Errorf("fits: %v, want %v; %s", fits, test.fits, &probe.faults)
			}
		})
	}
}

// probe keeps what a test would report.
type probe struct {
	testing.TB
	faults bytes.Buffer
}

func (p *probe) Errorf(format string, args ...any) { fmt.Fprintf(&p.faults, format+"\n", args...) }
