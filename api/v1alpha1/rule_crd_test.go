package v1alpha1_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

func TestRuleRules(t *testing.T) {
	namespace := plane.Namespace(t)
	const logs = `"actions":[{"name":"a","log":{"message":"m"}}]`
	action := func(what string) string { return `{"actions":[{"name":"a",` + what + `}]}` }
	sending := func(what string) string { return action(`"http":{"url":"https://a",` + what + `}`) }
	header := func(what string) string { return sending(`"headers":[{` + what + `}]`) }
	applying := func(what string) string {
		return `{"serviceAccountName":"s","actions":[{"name":"a","apply":{"template":{"a":1},` + what + `}}]}`
	}
	spec := func(what string) string { return `{` + logs + `,` + what + `}` }

	for reason, test := range map[string]struct{ spec, message string }{
		"all of it": {`{
			"match": {"sources": ["netbox"], "events": ["created", "job_end"], "objectTypes": ["dcim.device", "virtualization.*", "netbox_dns.a-b"],
				"changedFields": ["status"], "cel": "true"},
			"suspend": true, "dryRun": true, "order": "None", "retry": {"maxAttempts": 1, "backoff": "100ms", "maxBackoff": "24h", "timeout": "5m"}, "serviceAccountName": "a.b-c",
			"secrets": [{"name": "token_1", "secretKeyRef": {"name": "s", "key": "A_b.c-d"}}],
			"actions": [
				{"name": "send", "http": {"url": "https://a/${event.objectType}", "format": "CloudEventBinary", "method": "PUT", "headers": [
					{"name": "A", "value": "b"}, {"name": "!#$%&'*+-.^_|~", "value": "Bearer ${secrets.token_1}"}],
					"signingSecretRef": {"name": "s", "key": "k"},
					"tls": {"caSecretRef": {"name": "s", "key": "k"}, "clientCertSecretRef": {"name": "s"}}}},
				{"name": "make", "apply": {"template": {"kind": "Job"}, "operation": "Create", "ownedByEvent": true}},
				{"name": "tell", "event": {"type": "Warning", "reason": "DeviceActive", "message": "m"}},
				{"name": "say", "log": {"message": "m"}}]
		}`, ""},

		"no actions":                      {`{}`, "spec.actions"},
		"an empty list of actions":        {`{"actions":[]}`, "spec.actions"},
		"17 actions":                      {`{"actions":[` + list(17, `{"name":"a%d","log":{"message":"m"}}`) + `]}`, "must have at most 16 items"},
		"an action of no kind":            {`{"actions":[{"name":"a"}]}`, "exactly one of the fields in [http apply event log] must be set"},
		"an action of two kinds":          {action(`"log":{"message":"m"},"event":{"reason":"A","message":"m"}`), "exactly one of the fields in [http apply event log] must be set"},
		"an action without name":          {`{"actions":[{"log":{"message":"m"}}]}`, "spec.actions[0].name"},
		"a name that no label may be":     {`{"actions":[{"name":"a_b","log":{"message":"m"}}]}`, "spec.actions[0].name"},
		"a name twice":                    {`{"actions":[{"name":"a","log":{"message":"m"}},{"name":"a","log":{"message":"n"}}]}`, "Duplicate value"},
		"apply without service account":   {action(`"apply":{"template":{"a":1}}`), "must set serviceAccountName"},
		"apply as an empty name":          {`{"serviceAccountName":"","actions":[{"name":"a","apply":{"template":{"a":1}}}]}`, "spec.serviceAccountName"},
		"a service account that is none":  {spec(`"serviceAccountName":"a:b"`), "spec.serviceAccountName"},
		"an empty template":               {`{"serviceAccountName":"s","actions":[{"name":"a","apply":{"template":{}}}]}`, "at least 1 properties"},
		"a template that is a list":       {`{"serviceAccountName":"s","actions":[{"name":"a","apply":{"template":[]}}]}`, "must be of type object"},
		"an unknown operation":            {`{"serviceAccountName":"s","actions":[{"name":"a","apply":{"template":{"a":1},"operation":"Replace"}}]}`, "Unsupported value"},
		"an owner of nothing":             {`{"serviceAccountName":"s","actions":[{"name":"a","apply":{"template":{"a":1},"operation":"Delete","ownedByEvent":true}}]}`, "ownedByEvent has no effect"},
		"force without effect":            {`{"serviceAccountName":"s","actions":[{"name":"a","apply":{"template":{"a":1},"operation":"Create","force":true}}]}`, "force has no effect"},
		"a wait":                          {applying(`"wait":{"success":"true","failure":"false","timeout":"24h"}`), ""},
		"a wait without timeout":          {applying(`"wait":{"success":"true"}`), ""},
		"a wait for nothing":              {applying(`"wait":{"failure":"true"}`), "wait.success"},
		"a wait for a deletion":           {applying(`"operation":"Delete","wait":{"success":"true"}`), "wait has no effect on the operation Delete"},
		"no time to wait":                 {applying(`"wait":{"success":"true","timeout":"0s"}`), "must be longer than 0s, and at most 24h"},
		"too much time to wait":           {applying(`"wait":{"success":"true","timeout":"25h"}`), "must be longer than 0s, and at most 24h"},
		"a mirror":                        {applying(`"operation":"Mirror","force":true,"wait":{"success":"true"}`), ""},
		"an owner of a mirror":            {applying(`"operation":"Mirror","ownedByEvent":true`), "outlive their events"},
		"a mirror in any order":           {`{"serviceAccountName":"s","order":"None","actions":[{"name":"a","apply":{"template":{"a":1},"operation":"Mirror"}}]}`, "needs the order PerObject"},
		"a mirror of failures":            {`{"serviceAccountName":"s",` + logs + `,"onFailure":[{"name":"b","apply":{"template":{"a":1},"operation":"Mirror"}}]}`, "onFailure must not have"},
		"an event without reason":         {action(`"event":{"message":"m"}`), "reason"},
		"a reason of two words":           {action(`"event":{"reason":"a b","message":"m"}`), "reason"},
		"an unknown type of event":        {action(`"event":{"type":"Error","reason":"A","message":"m"}`), "Unsupported value"},
		"an event that says nothing":      {action(`"event":{"reason":"A","message":""}`), "message"},
		"a line that says nothing":        {action(`"log":{}`), "message"},
		"no URL":                          {action(`"http":{}`), "url"},
		"no authentication":               {sending(`"auth":{}`), "exactly one of the fields in [basic oauth2 serviceAccountToken] must be set"},
		"two authentications":             {sending(`"auth":{"basic":{"secretRef":{"name":"s"}},"serviceAccountToken":{"audience":"a"}}`), "exactly one of the fields"},
		"basic authentication":            {sending(`"auth":{"basic":{"secretRef":{"name":"s"}}}`), ""},
		"OAuth 2.0":                       {sending(`"auth":{"oauth2":{"tokenURL":"https://a.b:443/c?d=e@f","clientID":"a","clientSecretRef":{"name":"s","key":"k"},"scopes":["a","b"]}}`), ""},
		"a token URL with a password":     {sending(`"auth":{"oauth2":{"tokenURL":"https://a:b@c/","clientID":"a","clientSecretRef":{"name":"s","key":"k"}}}`), "must be an http or https URL, without a password"},
		"a token URL with a template":     {sending(`"auth":{"oauth2":{"tokenURL":"https://a/${data.id}","clientID":"a","clientSecretRef":{"name":"s","key":"k"}}}`), "tokenURL"},
		"a token of no service account":   {sending(`"auth":{"serviceAccountToken":{"audience":"a"}}`), "must set serviceAccountName"},
		"the same on failure":             {spec(`"onFailure":[{"name":"b","http":{"url":"https://a","auth":{"serviceAccountToken":{"audience":"a"}}}}]`), "must set serviceAccountName"},
		"a token of a service account":    {`{"serviceAccountName":"s",` + strings.TrimPrefix(sending(`"auth":{"serviceAccountToken":{"audience":"a"}}`), "{"), ""},
		"authentication and its header":   {sending(`"auth":{"basic":{"secretRef":{"name":"s"}}},"headers":[{"name":"AUTHORIZATION","value":"x"}]`), "auth sets the header Authorization"},
		"authentication and a header":     {sending(`"auth":{"basic":{"secretRef":{"name":"s"}}},"headers":[{"name":"X-Authorization","value":"x"}]`), ""},
		"CAs of a ConfigMap":              {sending(`"tls":{"caConfigMapRef":{"name":"a","key":"ca.crt"}}`), ""},
		"CAs of two places":               {sending(`"tls":{"caConfigMapRef":{"name":"a","key":"k"},"caSecretRef":{"name":"a","key":"k"}}`), "CAs come from either caSecretRef or caConfigMapRef"},
		"an unknown format":               {sending(`"format":"XML"`), "Unsupported value"},
		"an unknown method":               {sending(`"method":"TRACE"`), "Unsupported value"},
		"a GET request":                   {sending(`"method":"GET"`), ""},
		"a GET request with a body":       {sending(`"method":"GET","body":{"text":"a"}`), "a GET request has no body"},
		"a GET request with a format":     {sending(`"method":"GET","format":"NetBox"`), "a GET request has no body"},
		"a body of JSON":                  {sending(`"body":{"json":[{"a":["${data.id}",1.5,null]}]}`), ""},
		"a body of a number":              {sending(`"body":{"json":1}`), ""},
		"a body of a text":                {sending(`"body":{"text":"a,b","contentType":"text/csv"}`), ""},
		"a body of a form":                {sending(`"body":{"form":{"variables[A]":"${data.id}"}}`), ""},
		"a body of nothing":               {sending(`"body":{}`), "at least 1 properties"},
		"a body of two":                   {sending(`"body":{"text":"a","form":{"a":"b"}}`), "either text or form"},
		"a type of JSON":                  {sending(`"body":{"json":{},"contentType":"text/csv"}`), "contentType is for text"},
		"a body and a format":             {sending(`"body":{"text":"a"},"format":"NetBox"`), "either a body or a format"},
		"a header of nothing":             {header(`"name":"a"`), "headers[0].value"},
		"a header of an empty value":      {header(`"name":"a","value":""`), "headers[0].value"}, // which Go would leave out
		"a Secret from nowhere":           {spec(`"secrets":[{"name":"a"}]`), "secretKeyRef"},
		"a Secret's entry without key":    {spec(`"secrets":[{"name":"a","secretKeyRef":{"name":"s"}}]`), "secretKeyRef.key"},
		"a Secret that CEL cannot name":   {spec(`"secrets":[{"name":"a-b","secretKeyRef":{"name":"s","key":"k"}}]`), "spec.secrets[0].name"},
		"a Secret twice":                  {spec(`"secrets":[{"name":"a","secretKeyRef":{"name":"s","key":"k"}},{"name":"a","secretKeyRef":{"name":"s","key":"l"}}]`), "Duplicate value"},
		"a header with a colon":           {header(`"name":"a:","value":"b"`), "headers[0].name"},
		"a header with a line break":      {header(`"name":"a\n","value":"b"`), "headers[0].name"},
		"a header twice":                  {sending(`"headers":[{"name":"a","value":"b"},{"name":"a","value":"c"}]`), "Duplicate value"},
		"a header twice in another case":  {sending(`"headers":[{"name":"a","value":"b"},{"name":"A","value":"c"}]`), "duplicate header name"},
		"host":                            {header(`"name":"host","value":"b"`), "are reserved for the operator"},
		"Content-Length":                  {header(`"name":"Content-Length","value":"b"`), "are reserved for the operator"},
		"TRANSFER-ENCODING":               {header(`"name":"TRANSFER-ENCODING","value":"b"`), "are reserved for the operator"},
		"cOnnection":                      {header(`"name":"cOnnection","value":"b"`), "are reserved for the operator"},
		"X-Hook-Signature":                {header(`"name":"X-Hook-Signature","value":"b"`), "are reserved for the operator"},
		"a Secret that cannot be":         {sending(`"signingSecretRef":{"name":"a/b","key":"k"}`), "signingSecretRef.name"},
		"a Secret without name":           {sending(`"tls":{"caSecretRef":{"name":"","key":"k"}}`), "caSecretRef.name"},
		"an entry that cannot be":         {sending(`"signingSecretRef":{"name":"a","key":"k/l"}`), "signingSecretRef.key"},
		"a certificate of no Secret":      {sending(`"tls":{"clientCertSecretRef":{}}`), "clientCertSecretRef.name"},
		"tls about nothing":               {sending(`"tls":{}`), "at least 1 properties"},
		"an unknown order":                {spec(`"order":"PerSource"`), "Unsupported value"},
		"no attempts":                     {spec(`"retry":{"maxAttempts":0}`), "spec.retry.maxAttempts"},
		"a pause longer than the default": {spec(`"retry":{"backoff":"6m"}`), ""},
		"no pause":                        {spec(`"retry":{"backoff":"0s"}`), "must be longer than 0s"},
		"more than a day's pause":         {spec(`"retry":{"maxBackoff":"24h1s"}`), "must be longer than 0s, and at most 24h"},
		"no pause at most":                {spec(`"retry":{"maxBackoff":"-1s"}`), "must be longer than 0s, and at most 24h"},
		"a pause in days":                 {spec(`"retry":{"maxBackoff":"1d"}`), "at most 24h, for example 90s; the largest unit is h"},
		"no time":                         {spec(`"retry":{"timeout":"0s"}`), "must be longer than 0s, and at most 5m"},
		"too much time":                   {spec(`"retry":{"timeout":"6m"}`), "must be longer than 0s, and at most 5m"},
		"time for retries":                {spec(`"retry":{"for":"720h"}`), ""},
		"no time for retries":             {spec(`"retry":{"for":"0s"}`), "must be longer than 0s, and at most 720h"},
		"too much time for retries":       {spec(`"retry":{"for":"721h"}`), "must be longer than 0s, and at most 720h"},
		"time without a unit":             {spec(`"retry":{"for":"3600"}`), "for example 90s"},
		"a limit of nothing":              {spec(`"limit":{}`), "at least 1 properties"},
		"a limit":                         {spec(`"limit":{"perSecond":10,"concurrency":4,"key":"data.site.slug"}`), ""},
		"no rate":                         {spec(`"limit":{"perSecond":0}`), "greater than or equal to 1"},
		"a key that divides nothing":      {spec(`"limit":{"perSecond":1,"key":"data.site.slug"}`), "key divides concurrency: set concurrency, or remove key"},
		"a group":                         {spec(`"group":{"by":"Request"}`), ""},
		"a group of an expression":        {spec(`"group":{"by":"data.site.slug","quiet":"24h","maxWait":"24h","maxEvents":5000,"net":true}`), ""},
		"a group by nothing":              {spec(`"group":{}`), "spec.group.by"},
		"no pause that ends a group":      {spec(`"group":{"by":"Rule","quiet":"0s"}`), "must be longer than 0s"},
		"a pause in minutes":              {spec(`"group":{"by":"Rule","quiet":"5min"}`), "must be longer than 0s, for example 90s; the largest unit is h"},
		"a pause longer than the wait":    {spec(`"group":{"by":"Rule","quiet":"2m"}`), "quiet must not be longer than maxWait"},
		"a group for two days":            {spec(`"group":{"by":"Rule","maxWait":"48h"}`), "at most 24h"},
		"a group of too many":             {spec(`"group":{"by":"Rule","maxEvents":5001}`), "less than or equal to 5000"},
		"a step":                          {`{"actions":[{"name":"a","log":{"message":"m"}},{"name":"b","when":"true","dependsOn":["a"],"log":{"message":"m"}}]}`, ""},
		"a step that waits twice":         {`{"actions":[{"name":"b","dependsOn":["a","a"],"log":{"message":"m"}}]}`, "Duplicate value"},
		"a step that waits for none":      {`{"actions":[{"name":"b","dependsOn":[],"log":{"message":"m"}}]}`, "spec.actions[0].dependsOn"},
		"an empty condition":              {action(`"when":"","log":{"message":"m"}`), "spec.actions[0].when"},
		"on failure":                      {spec(`"onFailure":[{"name":"b","log":{"message":"m"}}]`), ""},
		"nothing on failure":              {spec(`"onFailure":[]`), "spec.onFailure"},
		"a name twice on failure":         {spec(`"onFailure":[{"name":"b","log":{"message":"m"}},{"name":"b","log":{"message":"m"}}]`), "Duplicate value"},
		"a name in both lists":            {spec(`"onFailure":[{"name":"a","log":{"message":"m"}}]`), "actions and onFailure must not have actions of the same name"},
		"apply on failure as nobody":      {spec(`"onFailure":[{"name":"b","apply":{"template":{"a":1}}}]`), "must set serviceAccountName"},
		"success of nothing":              {sending(`"success":""`), "http.success"},
		"branches":                        {spec(`"match":{"branches":["*","main","Rack move"]}`), ""},
		"no branches":                     {spec(`"match":{"branches":[]}`), "spec.match.branches"},
		"an empty match":                  {spec(`"match":{}`), ""},
		"a match of no source":            {spec(`"match":{"sources":[]}`), "spec.match.sources"},
		"a source without name":           {spec(`"match":{"sources":[""]}`), "spec.match.sources[0]"},
		"an event twice":                  {spec(`"match":{"events":["created","created"]}`), "Duplicate value"},
		"a type without application":      {spec(`"match":{"objectTypes":["device"]}`), "spec.match.objectTypes[0]"},
		"every application":               {spec(`"match":{"objectTypes":["*.device"]}`), "spec.match.objectTypes[0]"},
		"an empty expression":             {spec(`"match":{"cel":""}`), "spec.match.cel"},
	} {
		made := object(t, "NetBoxEventRule", namespace, "", test.spec)
		made.SetGenerateName("r-")
		if err := plane.Client.Create(t.Context(), made); !refused(err, test.message) {
			t.Errorf("%s: %v, want %q", reason, err, test.message)
		}
	}
}

// list joins a format with one number, for the numbers from 0.
func list(length int, format string) string {
	items := make([]string, length)
	for i := range items {
		items[i] = fmt.Sprintf(format, i)
	}
	return strings.Join(items, ",")
}

func TestRuleDefaults(t *testing.T) {
	namespace := plane.Namespace(t)
	for name, test := range map[string]struct {
		retry, want string // want is for, maxAttempts, backoff, maxBackoff and timeout
	}{
		"absent":        {``, "24h0m0s 0 1s 5m0s 10s"},
		"empty":         {`"retry":{},`, "24h0m0s 0 1s 5m0s 10s"},
		"attempts-only": {`"retry":{"maxAttempts":3},`, "24h0m0s 3 1s 5m0s 10s"},
		"pause-only":    {`"retry":{"backoff":"2s"},`, "24h0m0s 0 2s 5m0s 10s"},
		"longest-only":  {`"retry":{"maxBackoff":"1h"},`, "24h0m0s 0 1s 1h0m0s 10s"},
		"timeout-only":  {`"retry":{"timeout":"1s"},`, "24h0m0s 0 1s 5m0s 1s"},
	} {
		plane.Create(t, object(t, "NetBoxEventRule", namespace, name, `{`+test.retry+`"serviceAccountName":"s","actions":[
			{"name":"send","http":{"url":"https://a"}}, {"name":"make","apply":{"template":{"a":1}}},
			{"name":"tell","event":{"reason":"A","message":"m"}}]}`))
		var stored v1alpha1.NetBoxEventRule
		if err := plane.Client.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: name}, &stored); err != nil {
			t.Fatal(err)
		}
		retry, actions := stored.Spec.Retry, stored.Spec.Actions
		got := fmt.Sprint(retry.For.Duration, retry.MaxAttempts, retry.Backoff.Duration, retry.MaxBackoff.Duration, retry.Timeout.Duration)
		if got != test.want || stored.Spec.Order != v1alpha1.OrderPerObject ||
			actions[0].HTTP.Format != "" || actions[0].HTTP.Method != "" || actions[1].Apply.Operation != "" || actions[2].Event.Type != "" {
			t.Errorf("%s: %+v", name, stored.Spec)
		}
	}
}

// TestRuleTemplate checks that a template is stored verbatim, and that a client of this package preserves it.
func TestRuleTemplate(t *testing.T) {
	namespace := plane.Namespace(t)
	const template = `{"apiVersion":"v1","data":null,"items":[{"a":{"b":{"c":[1,2.5,9007199254740993,true,"${data.name}"]}},"n":null}],"kind":"List",` +
		`"metadata":{"annotations":{"x":null}},"number":7,"spec":{},"text":"t"}`
	stored := v1alpha1.NetBoxEventRule{Spec: v1alpha1.NetBoxEventRuleSpec{
		ServiceAccountName: "s",
		Actions:            []v1alpha1.Action{{Name: "make", Apply: &v1alpha1.ApplyAction{}}},
	}}
	stored.Namespace, stored.Name = namespace, "r"
	if err := json.Unmarshal([]byte(template), &stored.Spec.Actions[0].Apply.Template); err != nil {
		t.Fatal(err)
	}
	plane.Create(t, &stored)
	key := types.NamespacedName{Namespace: namespace, Name: "r"}
	for _, reader := range []string{"the API server", "a client of this package"} {
		if err := plane.Client.Get(t.Context(), key, &stored); err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(stored.Spec.Actions[0].Apply.Template)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != template {
			t.Errorf("%s stores a template as\n%s, want\n%s", reader, got, template)
		}
		stored.Spec.Order = v1alpha1.OrderNone
		if err := plane.Client.Update(t.Context(), &stored); err != nil {
			t.Fatal(err)
		}
	}
}
