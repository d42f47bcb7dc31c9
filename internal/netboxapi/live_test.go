package netboxapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

// TestLive drives a real NetBox of 4.4 or later. It needs a superuser's token, and removes what it makes. Of Nautobot, it only
// reads the change log.
func TestLive(t *testing.T) {
	base, token := os.Getenv("NETBOX_URL"), os.Getenv("NETBOX_TOKEN")
	if base == "" || token == "" {
		t.Skip("NETBOX_URL and NETBOX_TOKEN are not set")
	}
	client, err := New(Options{URL: base, Token: token, Transport: http.DefaultTransport, Limiter: rate.NewLimiter(rate.Inf, 1)})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	status, err := client.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if status.Flavor == Nautobot {
		testLiveLog(t, client)
		return
	}
	types, err := client.ObjectTypes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	region := slices.IndexFunc(types, func(found ObjectType) bool { return found.Name == "dcim.region" })
	if region < 0 || types[region].HasEventRules != SupportYes || !strings.HasSuffix(types[region].Endpoint, "/api/dcim/regions/") {
		t.Fatalf("ObjectTypes: %+v", types)
	}

	name := fmt.Sprintf("netboxapi-test-%d", time.Now().UnixNano())
	began := time.Now().Add(-time.Minute)
	before, err := client.Last(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if webhook, err := client.Webhook(ctx, name); err != nil || webhook != nil {
		t.Fatalf("Webhook of an unused name: %v, %v", webhook, err)
	}
	want := Webhook{
		Name: name, PayloadURL: "https://receiver.example/webhook", HTTPMethod: http.MethodPost, HTTPContentType: "application/json",
		Secret: "a secret of the test", SSLVerification: true,
	}
	webhook, err := client.CreateWebhook(ctx, want)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.DeleteWebhook(t.Context(), webhook.ID) })
	if drift := webhook.Drift(want); len(drift) > 0 {
		t.Errorf("a new webhook differs in %v", drift)
	}
	if _, err := client.CreateWebhook(ctx, want); KindOf(err) != KindExists {
		t.Errorf("creating it again: %v", err)
	}
	if webhook, err = client.UpdateWebhook(ctx, *webhook, Webhook{Name: name, PayloadURL: "ftp://a"}); KindOf(err) != KindInvalid {
		t.Errorf("a wrong URL: %v", err)
	}
	if webhook, err = client.Webhook(ctx, name); err != nil || webhook == nil {
		t.Fatalf("Webhook: %v, %v", webhook, err)
	}
	changed := *webhook
	changed.Secret = "another secret of the test"
	if webhook, err = client.UpdateWebhook(ctx, *webhook, changed); err != nil || webhook.Secret != changed.Secret {
		t.Fatalf("UpdateWebhook: %+v, %v", webhook, err)
	}
	wantRule := EventRule{Name: name, ObjectTypes: []string{"dcim.region"}, Events: []string{ObjectCreated}, WebhookID: webhook.ID}
	rule, err := client.CreateEventRule(ctx, wantRule)
	if err != nil {
		t.Fatal(err)
	}
	if drift := rule.Drift(wantRule); len(drift) > 0 {
		t.Errorf("a new event rule differs in %v", drift)
	}
	wantRule.Events, wantRule.Conditions = []string{ObjectDeleted, ObjectCreated}, json.RawMessage(`{"attr": "name", "value": "x"}`)
	if rule, err = client.UpdateEventRule(ctx, *rule, wantRule); err != nil || len(rule.Drift(wantRule)) > 0 {
		t.Fatalf("UpdateEventRule: %+v, %v", rule, err)
	}
	if found, err := client.EventRule(ctx, name); err != nil || found == nil || found.ID != rule.ID {
		t.Errorf("EventRule: %v, %v", found, err)
	}

	var all []Row
	for more, after := true, before; more; {
		var rows []Row
		if rows, more, err = client.Changes(ctx, after, 2); err != nil {
			t.Fatal(err)
		}
		all = append(all, rows...)
		after = all[len(all)-1].Cursor()
	}
	mine := func(row Row) bool {
		return row.ObjectType == "extras.webhook" && row.ObjectID == fmt.Sprint(webhook.ID)
	}
	created := slices.IndexFunc(all, mine)
	if created < 0 || all[created].Action != Create || all[created].Prechange != nil || all[created].Postchange == nil {
		t.Fatalf("Changes: %+v", all)
	}
	if rows, err := client.ChangesOf(ctx, all[created].RequestID); err != nil || len(rows) != 1 || rows[0].ID != all[created].ID {
		t.Errorf("ChangesOf: %v, %v", rows, err)
	}
	if first, err := client.FirstAfter(ctx, began); err != nil || first.Compare(all[created].Cursor()) >= 0 {
		t.Errorf("FirstAfter: %v, %v", first, err)
	}
	exact, err := client.FirstAfter(ctx, all[created].Time)
	if rows, _, rowsErr := client.Changes(ctx, exact, 1); err != nil || rowsErr != nil || len(rows) != 1 || rows[0].ID != all[created].ID {
		t.Errorf("FirstAfter the time of a row: %v, %v, %v, %v", exact, rows, err, rowsErr)
	}
	last, err := client.Last(ctx)
	if future, futureErr := client.FirstAfter(ctx, time.Now().Add(time.Hour)); err != nil || futureErr != nil || future != last {
		t.Errorf("FirstAfter the future: %v, %v; Last: %v, %v", future, futureErr, last, err)
	}

	ids := []string{fmt.Sprint(webhook.ID), "999999999", "999999998"}
	if objects, err := client.Objects(ctx, webhooksPath, ids); err != nil || len(objects) != 1 || objects[ids[0]] == nil {
		t.Errorf("Objects: %v, %v", objects, err)
	}
	if body, err := client.Get(ctx, "/api/extras/webhooks/?name="+name+"&fields=id"); err != nil || !strings.Contains(string(body), ids[0]) {
		t.Errorf("Get: %s, %v", body, err)
	}
	if body, err := client.Get(ctx, "/api/extras/webhooks/999999999/"); err != nil || body != nil {
		t.Errorf("Get of what is not there: %s, %v", body, err)
	}
	if _, err := client.Get(ctx, "/api/nosuch/"); KindOf(err) != KindWrongURL {
		t.Errorf("Get of a path that is not there: %v", err)
	}
	if data, err := client.GraphQL(ctx, "query($id: ID!) {webhook(id: $id) {name}}", map[string]any{"id": ids[0]}); err != nil ||
		!strings.Contains(string(data), name) {
		t.Errorf("GraphQL: %s, %v", data, err)
	}
	if _, err := client.GraphQL(ctx, "{nosuch}", nil); KindOf(err) != KindInvalid {
		t.Errorf("GraphQL of a wrong query: %v", err)
	}
	if queues, err := client.Queues(ctx); err != nil || len(queues) == 0 {
		t.Errorf("Queues: %v, %v", queues, err)
	}

	if err := client.DeleteEventRule(ctx, rule.ID); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := client.DeleteWebhook(ctx, webhook.ID); err != nil {
			t.Error(err)
		}
	}
	if found, err := client.WebhookByID(ctx, webhook.ID); err != nil || found != nil {
		t.Errorf("WebhookByID after the deletion: %v, %v", found, err)
	}
	wrong, _ := New(Options{URL: base, Token: strings.Repeat("0", 40), Transport: http.DefaultTransport})
	if _, err := wrong.Status(ctx); KindOf(err) != KindUnauthorized {
		t.Errorf("a wrong token: %v", err)
	} else {
		t.Log(err)
	}
	if _, err := wrong.GraphQL(ctx, "{x}", nil); KindOf(err) != KindUnauthorized {
		t.Errorf("a wrong token for GraphQL: %v", err)
	}
}

// testLiveLog reads the changes of the last hour in small pages and in one.
func testLiveLog(t *testing.T, client *Client) {
	t.Helper()
	ctx := t.Context()
	start, err := client.FirstAfter(ctx, time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	want, more, err := client.Changes(ctx, start, maxPageRows)
	if err != nil || more || len(want) == 0 {
		t.Fatalf("%d rows, %v, %v: make between 1 and %d changes before this test", len(want), more, err, maxPageRows)
	}
	var got []Row
	for more, after := true, start; more; {
		var rows []Row
		if rows, more, err = client.Changes(ctx, after, 3); err != nil {
			t.Fatal(err)
		}
		got = append(got, rows...)
		after = got[len(got)-1].Cursor()
	}
	if asText(t, got) != asText(t, want) {
		t.Errorf("got %d rows, want %d", len(got), len(want))
	}
	if last, err := client.Last(ctx); err != nil || last != got[len(got)-1].Cursor() {
		t.Errorf("Last: %v, %v", last, err)
	}
	if rows, err := client.ChangesOf(ctx, want[0].RequestID); err != nil || len(rows) == 0 || rows[0].ID != want[0].ID {
		t.Errorf("ChangesOf: %v, %v", rows, err)
	}
}
