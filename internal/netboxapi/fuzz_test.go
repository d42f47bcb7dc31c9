package netboxapi

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// FuzzRow checks that a row that is decoded has what a change needs, and that its cursor can be written and read.
func FuzzRow(f *testing.F) {
	for _, one := range recorded(f) {
		var found struct{ Results []json.RawMessage }
		if json.Unmarshal(one.Body, &found) == nil {
			for _, row := range found.Results {
				f.Add([]byte(row))
			}
		}
	}
	f.Add([]byte(rowOf(Status{major: 2, minor: 10}, 1)))
	f.Add([]byte(`{"id": "9", "time": "2026-11-26T11:51:05Z", "request_id": "a", "action": {"value": "delete"}, "changed_object_id": 1e3,
		"changed_object": "text", "prechange_data": {}, "object_data": null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var row Row
		if json.Unmarshal(text, &row) != nil {
			return
		}
		if row.ID == "" && string(text) != "null" || row.ID != "" && (row.ObjectID == "" || row.RequestID == "" || row.Time.IsZero()) {
			t.Errorf("%s: %+v", text, row)
		}
		if row.ObjectURL != "" && !strings.HasPrefix(row.ObjectURL, "/") {
			t.Errorf("%s: URL %q", text, row.ObjectURL)
		}
		if cursor := row.Cursor(); cursor.ID > 0 || (!cursor.Time.IsZero() && cursor.Time.Year() < 10000) {
			if again, err := ParseCursor(cursor.String()); err != nil || again.Compare(cursor) != 0 {
				t.Errorf("%s: cursor %v, %v, %v", text, cursor, again, err)
			}
		}
	})
}

// FuzzFailure checks that the error of any answer is one short line without the token.
func FuzzFailure(f *testing.F) {
	for _, one := range recorded(f) {
		f.Add(one.Status, one.ContentType, "", []byte(one.Body))
	}
	f.Add(302, "text/html", "https://other.example/"+testToken, []byte{})
	f.Add(429, "application/json", "", []byte(`{"detail": "`+strings.ToUpper(testToken)+`"}`))
	client, err := New(Options{URL: "https://netbox.example.com", Token: testToken})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, status int, contentType, location string, body []byte) {
		response := &http.Response{StatusCode: status, Header: http.Header{
			"Content-Type": {contentType}, "Location": {location}, "Retry-After": {location},
		}}
		failure := client.failure(request{method: http.MethodPost, path: webhooksPath}, response, body)
		if failure == nil {
			return
		}
		text := client.fail(failure).Error()
		if text == "" || len(text) > maxMessageBytes || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
			t.Errorf("%q", text)
		}
		if failure.Kind == "" || failure.RetryAfter < 0 || failure.RetryAfter > maxRetryAfter {
			t.Errorf("%+v", failure)
		}
		for at := 0; at+fragmentBytes <= len(testToken); at++ {
			if strings.Contains(strings.ToLower(text), testToken[at:at+fragmentBytes]) {
				t.Errorf("the token is in %q", text)
			}
		}
	})
}
