package netbox_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/test/deliveries"
)

var redact = []string{"auth_key", "auth_psk", "preshared_key", "password", "aws_secret_access_key"}

func recorded(t testing.TB) []deliveries.Delivery {
	t.Helper()
	all, err := deliveries.All()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestDecodeRecorded decodes every recorded delivery and compares the event with an independent reading of the body.
func TestDecodeRecorded(t *testing.T) {
	types := map[string]string{} // object type of a model, as the versions that send both say
	all := recorded(t)
	for _, delivery := range all {
		var body struct {
			Model      string
			ObjectType string `json:"object_type"`
		}
		if json.Unmarshal([]byte(delivery.Body), &body) == nil && body.Model != "" && body.ObjectType != "" {
			types[body.Model] = body.ObjectType
		}
	}

	decoded := 0
	for _, delivery := range all {
		var body map[string]any
		decoder := json.NewDecoder(strings.NewReader(delivery.Body))
		decoder.UseNumber()
		decodeErr := decoder.Decode(&body)

		event, err := netbox.Decode([]byte(delivery.Body), redact)
		switch {
		case decodeErr != nil:
			if _, ok := errors.AsType[*netbox.SyntaxError](err); !ok {
				t.Errorf("%s: a body that is no JSON: error is %v", delivery, err)
			}
			continue
		case body["event"] == nil: // a body template
			invalid, ok := errors.AsType[*netbox.InvalidError](err)
			if !ok || !slices.ContainsFunc(invalid.Faults, func(f netbox.Fault) bool { return f.Field == "timestamp" }) {
				t.Errorf("%s: a body of other keys: error is %v", delivery, err)
			}
			continue
		case err != nil:
			t.Errorf("%s: %v", delivery, err)
			continue
		}
		decoded++

		request, _ := body["request"].(map[string]any)
		data, _ := body["data"].(map[string]any)
		text := func(value any) string {
			switch value := value.(type) {
			case string:
				return value
			case json.Number:
				return value.String()
			}
			return ""
		}
		or := func(a, b string) string {
			if a != "" {
				return a
			}
			return b
		}
		wantType := text(body["object_type"])
		if wantType == "" {
			wantType = types[text(body["model"])]
		}
		if wantType != "" && event.ObjectType != wantType {
			t.Errorf("%s: object type %q, want %q", delivery, event.ObjectType, wantType)
		}
		if event.ObjectType == "" {
			t.Errorf("%s: no object type for %v", delivery, body["model"])
		}
		want := map[string]string{
			"event": text(body["event"]), "username": or(text(body["username"]), text(request["user"])),
			"requestID": or(text(body["request_id"]), text(request["id"])), "objectID": text(data["id"]),
			"objectURL": text(data["url"]), "objectName": or(text(data["display"]), text(data["name"])),
			"model":     or(text(body["model"]), wantType[strings.LastIndex(wantType, ".")+1:]),
			"timestamp": microseconds(text(body["timestamp"])),
		}
		got := map[string]string{
			"event": event.Event, "username": event.Username, "requestID": event.RequestID, "objectID": event.ObjectID,
			"objectURL": event.ObjectURL, "objectName": event.ObjectName, "model": event.Model,
			"timestamp": event.Timestamp.Format("2006-01-02T15:04:05.000000Z07:00"),
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: normalised fields (-want +got):\n%s", delivery, diff)
		}

		for name, object := range map[string]netbox.Object{
			"data": event.Data, "snapshots": event.Snapshots, "request": event.Request, "context": event.Context,
		} {
			got := any(nil)
			if object != nil {
				got = generic(t, object)
			}
			pointers := slices.Concat(event.Redacted, event.Stringified)
			if diff := cmp.Diff(blank(body[name], "/"+name, pointers), blank(got, "/"+name, pointers)); diff != "" {
				t.Errorf("%s: %s (-sent +decoded):\n%s", delivery, name, diff)
			}
		}
		if len(event.Redacted) == 0 && event.Digest != sha256.Sum256([]byte(delivery.Body)) {
			t.Errorf("%s: the digest is not that of the body", delivery)
		}
	}
	if decoded < 3000 {
		t.Errorf("decoded %d deliveries, want more than 3000: the recordings are not complete", decoded)
	}
}

// microseconds formats a timestamp of any version as the newest version does.
func microseconds(text string) string {
	text = strings.NewReplacer(" ", "T", "+00:00", "").Replace(text)
	if !strings.Contains(text, ".") {
		text += ".000000"
	}
	return text + "Z"
}

// generic decodes an object as the API server does.
func generic(t testing.TB, object netbox.Object) any {
	t.Helper()
	raw := map[string]json.RawMessage{}
	for name, value := range object {
		raw[name] = json.RawMessage(value)
	}
	encoded, err := json.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	var value any
	decoder := json.NewDecoder(bytes.NewReader(encoded))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

// blank replaces the values at the pointers, which are compared separately.
func blank(value any, at string, pointers []string) any {
	if slices.Contains(pointers, at) {
		return "changed on the way"
	}
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	switch value := value.(type) {
	case map[string]any:
		for name, child := range value {
			value[name] = blank(child, at+"/"+escape.Replace(name), pointers)
		}
	case []any:
		for i, child := range value {
			value[i] = blank(child, at+"/"+big.NewInt(int64(i)).String(), pointers)
		}
	}
	return value
}

func TestVerifyRecorded(t *testing.T) {
	for _, delivery := range recorded(t) {
		if delivery.Key == nil {
			continue
		}
		body, key := []byte(delivery.Body), netbox.Key{Name: "secret", Value: []byte(*delivery.Key)}
		if delivery.Method == http.MethodGet && delivery.Body == "" {
			continue // a redirect dropped the body and kept the signature
		}
		signature := delivery.Header(netbox.SignatureHeader)
		if name, ok := netbox.Verify([]netbox.Key{{Name: "other", Value: []byte("x")}, key}, body, signature); !ok || name != "secret" {
			t.Errorf("%s: the recorded signature is refused (key %q)", delivery, name)
		}
		for reason, wrong := range map[string]string{
			"upper case": strings.ToUpper(signature), "prefixed": "sha512=" + signature, "cut": signature[:127], "empty": "",
			"of other bytes": netbox.Sign(key.Value, append(body, '\n')), "padded": signature + " ",
		} {
			if _, ok := netbox.Verify([]netbox.Key{key}, body, wrong); ok {
				t.Fatalf("%s: a signature that is %s is accepted", delivery, reason)
			}
		}
	}
	if _, ok := netbox.Verify(nil, []byte("{}"), ""); ok {
		t.Error("accepted without any key")
	}
}

const valid = `{"event":"updated","timestamp":"2020-10-26T18:14:18.764443+00:00","object_type":"dcim.site","data":{"id":14},` // + `}`

func TestDecodeFaults(t *testing.T) {
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, test := range []struct{ reason, body, want string }{
		{"empty", "", "the body is empty (line 1, column 1, byte 0)"},
		{"an array", " [1]", "the body must be a JSON object, is an array (line 1, column 1, byte 0)"},
		{"NaN", "{\"data\":\n {\"a\": NaN}}", "not valid JSON: NaN is not a JSON number (line 2, column 8, byte 16)"},
		{"-Infinity", `{"a":-Infinity}`, "not valid JSON: Infinity is not a JSON number (line 1, column 7, byte 6)"},
		{"two values", `{} {}`, "unexpected data after the JSON object (line 1, column 4, byte 3)"},
		{"cut off", `{"a":`, "not valid JSON: unexpected EOF (line 1, column 6, byte 5)"},
		{"a name twice", `{"a":1,"a":2}`, `not valid JSON: duplicate object member name (line 1, column 8, byte 7)`},
		{"Latin-1", "{\"a\":\"\xfc\"}", "not UTF-8 (line 1, column 7, byte 6)"},
		{"too deep", `{"data":` + nested(netbox.MaxDepth) + `}`, "nested deeper than 200 levels (line 1, column 208, byte 207)"},
		{
			"everything missing", `{"data":5}`,
			`data: must be an object or null, is a number; event: is missing; object_type: is missing, and so is model; ` +
				`one of them must name the object's type, such as dcim.site; timestamp: is missing`,
		},
		{
			"everything of the wrong type",
			`{"event":1,"timestamp":"yesterday","model":[],"object_type":"dcim.site","username":true,"request_id":{},"snapshots":` +
				`{"prechange":3,"postchange":null},"context":"","request":{"user":1}}`,
			`context: must be an object or null, is a string; data: is missing; event: must be a string, is a number; ` +
				`model: must be a string or null, is an array; request.user: must be a string or null, is a number; ` +
				`request_id: must be a string or null, is an object; snapshots.prechange: must be an object or null, is a number; ` +
				`timestamp: must be an ISO 8601 date and time with an offset from UTC, such as 2020-10-26T18:14:18.764443+00:00, is "yesterday"; ` +
				`username: must be a string or null, is a boolean`,
		},
		{"no offset from UTC", strings.Replace(valid, "+00:00", "", 1) + `"context":null}`, `timestamp: must be an ISO 8601 date and time ` +
			`with an offset from UTC, such as 2020-10-26T18:14:18.764443+00:00, is "2020-10-26T18:14:18.764443"`},
	} {
		t.Run(test.reason, func(t *testing.T) {
			event, err := netbox.Decode([]byte(test.body), nil)
			if err == nil {
				t.Fatalf("decoded to %+v", event)
			}
			if diff := cmp.Diff(test.want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := netbox.Decode([]byte(valid+`"context":{"a":`+nested(netbox.MaxDepth-2)+`}}`), nil); err != nil {
		t.Errorf("nested as deep as allowed: %v", err)
	}
}

func TestDecodeNumbers(t *testing.T) {
	for _, test := range []struct {
		literal string
		kept    bool
	}{
		{"14", true},
		{"14.0", true},
		{"-0.0", true},
		{"9223372036854775807", true},
		{"9223372036854775808", false},
		{"-9223372036854775808", true},
		{"123456789012345678901234567890", false},
		{"1" + strings.Repeat("0", 300), false},
		{"47.376887", true},
		{"0.1234567890123456", true},
		{"0.12345678901234567890", false},
		{"1e21", true},
		{"1E+2", true},
		{"12345.678901234567e-3", true},
		{"1e400", false},
		{"1e-400", false},
		{"0e99999999999999999999", true},
		{"1e99999999999999999999", false},
	} {
		event, err := netbox.Decode([]byte(valid+`"x":{"a~/b":[`+test.literal+`]}}`), nil)
		if err != nil {
			t.Fatal(err)
		}
		want, pointers := test.literal, []string(nil)
		if !test.kept {
			want, pointers = `"`+test.literal+`"`, []string{"/extra/x/a~0~1b/0"}
		}
		if got := string(event.Extra["x"]); got != `{"a~/b":[`+want+`]}` || !reflect.DeepEqual(event.Stringified, pointers) {
			t.Errorf("%s: kept as %s, stringified %v", test.literal, got, event.Stringified)
		}
	}
}

func TestDecodeRedacted(t *testing.T) {
	body := func(psk string) []byte {
		return []byte(valid + `"snapshots":{"prechange":{"password":"old","status":"a"},"postchange":{"password":"new","status":"a"}},` +
			`"password":{"a":[1]},"auth_psk":"","request":{"GET":{"auth_psk":5}},"context":{"auth_psk":null,"l":[{"auth\u005fpsk":"` + psk + `"}]}}`)
	}
	event, err := netbox.Decode(body("s3cret"), redact)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"/snapshots/prechange/password", "/snapshots/postchange/password", "/extra/password", "/request/GET/auth_psk",
		"/context/l/0/auth_psk",
	}
	if diff := cmp.Diff(want, event.Redacted); diff != "" {
		t.Errorf("redacted (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"password"}, event.ChangedFields); diff != "" {
		t.Errorf("changed fields (-want +got):\n%s", diff)
	}
	for _, object := range []netbox.Object{event.Data, event.Snapshots, event.Context, event.Request, event.Extra} {
		for name, value := range object {
			if strings.Contains(string(value), "s3cret") || strings.Contains(string(value), "new") {
				t.Errorf("%s still holds a secret: %s", name, value)
			}
		}
	}
	if other, _ := netbox.Decode(body("another"), redact); other.Digest != event.Digest {
		t.Error("the digest tells secrets apart")
	}
	if own, err := netbox.Decode([]byte(valid+`"context":{"data":1}}`), []string{"data", "context"}); err != nil ||
		string(own.Data["id"]) != "14" || string(own.Context["data"]) != `"[redacted]"` {
		t.Errorf("members that NetBox defines are redacted as fields: %+v, %v", own, err)
	}
	if open, _ := netbox.Decode(body("s3cret"), nil); len(open.Redacted) != 0 || open.Digest != sha256.Sum256(body("s3cret")) {
		t.Errorf("redacted %v without being asked to", open.Redacted)
	}
}

// TestDecodeLongPointers decodes a body whose pointers would take 2 GB.
func TestDecodeLongPointers(t *testing.T) {
	for _, value := range []string{`{"password":"x"}`, "12345678901234567890"} {
		body := valid + `"context":{"` + strings.Repeat("x", 100_000) + `":[` + strings.Repeat(value+",", 20_000) + "0]}}"
		if _, err := netbox.Decode([]byte(body), []string{"password"}); !errors.Is(err, netbox.ErrTooLarge) {
			t.Errorf("many of %s under a long name: %v", value, err)
		}
	}
	typed := `{"event":{"` + strings.Repeat("x", 100_000) + `":[` + strings.Repeat("12345678901234567890,", 20_000) + "0]}}"
	if _, err := netbox.Decode([]byte(typed), nil); err == nil || errors.Is(err, netbox.ErrTooLarge) {
		t.Errorf("numbers that are not kept: %v", err)
	}
}

// TestDecodeManyValues checks that values of all kinds count, and names do not.
func TestDecodeManyValues(t *testing.T) {
	// The members of valid, and context and its list, are values too.
	const others = 8
	for _, value := range []string{"0", `"0"`, "null", "[]", `{"a":[]}`} {
		each := 1 + strings.Count(value, "a")
		for _, test := range []struct {
			count int
			want  error
		}{{(netbox.MaxValues - others) / each, nil}, {(netbox.MaxValues-others)/each + 1, netbox.ErrTooManyValues}} {
			body := valid + `"context":{"x":[` + strings.Repeat(value+",", test.count-1) + value + "]}}"
			if _, err := netbox.Decode([]byte(body), nil); !errors.Is(err, test.want) {
				t.Errorf("%d of %s: %v, want %v", test.count, value, err, test.want)
			}
		}
	}
}

func TestDecodeChangedFields(t *testing.T) {
	for _, test := range []struct {
		reason, event, before, after string
		want                         []string
	}{
		{"order and escaping do not matter", "updated", `{"a":{"x":1,"y":"\u00fc"},"last_updated":1}`, `{"last_updated":2,"a":{"y":"ü", "x":1}}`, nil},
		{"added, removed and changed, sorted", "updated", `{"b":1,"a":1,"c":null}`, `{"b":2,"d":1,"c":null}`, []string{"a", "b", "d"}},
		{"long integers differ", "updated", `{"a":100000000000000000000000}`, `{"a":100000000000000000000001}`, []string{"a"}},
		{
			"custom fields, where missing is null", "updated",
			`{"custom_fields":{"a":1,"b":{"c":1},"d":null}}`, `{"custom_fields":{"a":1.5,"b":{"c":1},"e":null,"f":"x"}}`,
			[]string{"custom_fields", "custom_fields.a", "custom_fields.f"},
		},
		{"no custom fields before", "updated", `{"custom_fields":null}`, `{"custom_fields":{"a":1,"b":null}}`, []string{"custom_fields", "custom_fields.a"}},
		{"custom fields that are no object", "updated", `{"custom_fields":1}`, `{"custom_fields":2}`, []string{"custom_fields"}},
		{"a creation changes everything", "created", `null`, `{"a":1}`, nil},
		{"a side effect has no prechange", "updated", `null`, `{"a":1}`, nil},
	} {
		body := strings.Replace(valid, "updated", test.event, 1) + `"snapshots":{"prechange":` + test.before + `,"postchange":` + test.after + `}}`
		event, err := netbox.Decode([]byte(body), nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, event.ChangedFields, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.reason, diff)
		}
		if test.event != "updated" {
			continue
		}
		got := netbox.ChangedFields([]byte(test.before), []byte(test.after))
		if diff := cmp.Diff(test.want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s, of the snapshots alone (-want +got):\n%s", test.reason, diff)
		}
	}
}

func TestDecodeBranch(t *testing.T) {
	const members = `{"event":"updated","timestamp":"2026-11-26T11:31:00Z","object_type":"dcim.rack",`
	for _, test := range []struct{ reason, members, want string }{
		{"in the context", `"data":{},"context":{"active_branch":{"id":2,"name":"Rack move"}}}`, "Rack move"},
		{"in the data", `"data":{"active_branch":{"id":2,"name":"Rack move"}},"context":null}`, "Rack move"},
		{"main", `"data":{},"context":{"active_branch":null}}`, ""},
		{"another shape", `"data":{"active_branch":"x"},"context":{"active_branch":[{"name":"x"}]}}`, ""},
	} {
		event, err := netbox.Decode([]byte(members+test.members), nil)
		if err != nil {
			t.Fatal(err)
		}
		if event.Branch != test.want {
			t.Errorf("%s: the branch is %q, want %q", test.reason, event.Branch, test.want)
		}
	}
}

func TestDecodeObjectType(t *testing.T) {
	for _, test := range []struct{ reason, members, want string }{
		{"from the URL", `"model":"vminterface","data":{"url":"/api/virtualization/interfaces/1/"}`, "virtualization.vminterface"},
		{"below a base path, absolute", `"model":"site","data":{"url":"https://nb.example.com/netbox/api/dcim/sites/1/"}`, "dcim.site"},
		{"a plugin's URL", `"model":"zone","data":{"url":"/api/plugins/netbox-dns/zones/1/"}`, "netbox_dns.zone"},
		{
			"Nautobot's objects say it", `"model":"goldenconfig","data":{"url":"/api/plugins/golden-config/x/1/","object_type":"nautobot_golden_config.goldenconfig"}`,
			"nautobot_golden_config.goldenconfig",
		},
		{
			"another object's type in the data", `"model":"imageattachment","data":{"url":"/api/extras/image-attachments/1/","object_type":"dcim.site"}`,
			"extras.imageattachment",
		},
		{"a job of an old NetBox", `"model":"scriptmodule","data":null`, "extras.scriptmodule"},
		{"a job on a plugin's model", `"model":"backup","data":{}`, ""},
	} {
		event, err := netbox.Decode([]byte(`{"event":"x","timestamp":"2020-10-26 18:14:18+02:00",`+test.members+`}`), nil)
		if err != nil {
			t.Fatal(err)
		}
		if event.ObjectType != test.want {
			t.Errorf("%s: %q, want %q", test.reason, event.ObjectType, test.want)
		}
	}
}

func TestRedact(t *testing.T) {
	got, err := netbox.Redact([]byte(` [{"ssid": "a", "auth_psk": "secret", "x": {"auth_psk": ""}, "n": 123456789012345678901234567890}]`), []string{"auth_psk"})
	want := ` [{"ssid": "a", "auth_psk": "[redacted]", "x": {"auth_psk": ""}, "n": "123456789012345678901234567890"}]`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
	for _, bad := range []string{`1}`, ``, `{"a": NaN}`} {
		if got, err := netbox.Redact([]byte(bad), nil); err == nil {
			t.Errorf("%s is taken as %s", bad, got)
		}
	}
}
