package redact_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/netbox-events/netbox-event-operator/internal/cli/redact"
)

var numbers = regexp.MustCompile(`<(string|number|URL) (?:\d+)`)

func TestText(t *testing.T) {
	r := redact.New()
	r.Know("netbox", "status")
	r.Learn(map[string]any{"name": "leaf1", "site": "Tokyo, main building", "netbox": "netbox", "id": float64(12345), "vlan": float64(200), "url": "https://nb.example.com/a"})
	for text, want := range map[string]string{
		"":                           "",
		"source netbox is Ready":     "source netbox is Ready",
		"leaf1 and leaf10":           "<string N, 5 bytes> and leaf10",
		"leaf1":                      "<string N, 5 bytes>",
		"in Tokyo, main building.":   "in <string N, 20 bytes>.",
		"id 12345, and 123456":       "id <string N, 5 bytes>, and 123456",
		`undefined "status"`:         `undefined "status"`,
		`found "a \" b" there`:       "found <string N, 6 bytes> there",
		`cut off "secr`:              "cut off <string N, 4 bytes>",
		"Get https://x.example/a: 5": "Get <URL N, 20 bytes> 5",
		"dial tcp 10.1.2.3:6443: no": "dial tcp <string N, 8 bytes>:6443: no",
		"tcp [fd00::1]:53, fd00::2:": "tcp [<string N, 7 bytes>]:53, <string N, 7 bytes>:",
		"from 127.0.0.1 at 19:12:00": "from 127.0.0.1 at 19:12:00",
		"10.200.0.1, VLAN 200":       "<string N, 10 bytes>, VLAN <string N, 3 bytes>",
		"lookup nb.example.com":      "lookup <string N, 14 bytes>",
		"\x00 leaf1 \x005\x00":       "  <string N, 5 bytes>  5 ",
	} {
		if got := numbers.ReplaceAllString(r.Text(text), "<$1 N"); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	if a, b := r.String("leaf1"), r.String("leaf1"); a != b || a == r.String("leaf2") {
		t.Error("the number does not say which values are equal")
	}
}

// TestMarks has a value that looks like a part of what stands for another.
func TestMarks(t *testing.T) {
	r := redact.New()
	r.Learn([]any{"bytes", "120", "13 leaves"})
	for i := range 119 {
		r.String(strings.Repeat("x", i+1))
	}
	if got, want := r.Text("13 leaves, <120"), "<string 120, 9 bytes>, <<string 121, 3 bytes>"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLogLine(t *testing.T) {
	r := redact.New()
	for line, want := range map[string]string{
		`{"level":"info","msg":"NetBox event","username":"admin","objectName":"leaf1","name":"device-1","status":200,"data":{"a":1,"b":"x"}}`: `{"data":{"a":"<number N>","b":"<string N, 1 bytes>"},` +
			`"level":"info","msg":"NetBox event","name":"device-1","objectName":"<string N, 5 bytes>","status":200,"username":"<string N, 5 bytes>"}`,
		`{"msg":"NetBox event rule","message":"my secret"}`: `{"message":"<string N, 9 bytes>","msg":"NetBox event rule"}`,
		`{"msg":"failed","cause":"answered \"no\""}`:        `{"cause":"answered <string N, 2 bytes>","msg":"failed"}`,
		`panic: "leaf1"`:                 `panic: <string N, 5 bytes>`,
		`{"msg":"cut off","username":"a`: `{<string N, 3 bytes>:<string N, 7 bytes>,<string N, 8 bytes>:<string N, 1 bytes>`,
		"":                               "",
	} {
		if got := numbers.ReplaceAllString(r.LogLine(line), "<$1 N"); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", line, got, want)
		}
	}
}

// TestNewField has a field that the table of treatments does not have: it is replaced.
func TestNewField(t *testing.T) {
	r := redact.New()
	got, err := r.Object(map[string]any{
		"kind": "NetBoxEventRule", "metadata": map[string]any{"name": "a", "managedFields": "x"},
		"spec": map[string]any{"new": map[string]any{"secret": "hunter2"}, "suspend": true},
	})
	if err != nil {
		t.Fatal(err)
	}
	if text := got["spec"].(map[string]any)["new"].(map[string]any)["secret"].(string); strings.Contains(text, "hunter2") {
		t.Error(text)
	}
	if got["metadata"].(map[string]any)["managedFields"] != nil || got["spec"].(map[string]any)["suspend"] != true {
		t.Errorf("got %v", got)
	}
}

// TestBodies has payloads and bodies that are no maps.
func TestBodies(t *testing.T) {
	r := redact.New()
	for _, body := range []any{[]any{271828, true}, 271828, "271828"} {
		spec := map[string]any{"body": map[string]any{"json": body}, "result": body}
		got, err := r.Object(map[string]any{"metadata": map[string]any{}, "spec": spec})
		if err != nil {
			t.Fatal(err)
		}
		if text := fmt.Sprint(got); strings.Contains(text, "271828") || strings.Contains(text, "true") {
			t.Errorf("%v: got %s", body, text)
		}
	}
}
