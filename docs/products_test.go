package docs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	batchv1 "k8s.io/api/batch/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// Recordings in which devices are created, updated or deleted, become active, and fail.
var (
	withActivations = recordings("netbox-2.11.12 netbox-2.11.12-live netbox-3.3.10-live netbox-3.5.9 netbox-3.5.9-live netbox-3.7.8 " +
		"netbox-3.7.8-live netbox-4.4.10 netbox-4.6.8 netbox-4.6.8-live netbox-4.7.0-beta1")
	withDevices  = recordings(strings.Join(withActivations, " ") + " nautobot-2.4.44 nautobot-3.2.7-live netbox-2.9.11 netbox-2.9.11-live")
	withFailures = recordings("netbox-2.11.12 netbox-3.5.9 netbox-3.7.8 netbox-4.4.10 netbox-4.6.8 netbox-4.7.0-beta1")
	withGroups   = recordings(strings.Join(withDevices, " ") + " bulk-edit")
	everything   = recordings(strings.Join(withDevices, " ") + " netbox-4.7.3-live")
)

func recordings(names string) []string { return slices.Sorted(slices.Values(strings.Fields(names))) }

// products are by the names of the rules on the page.
var products = map[string]product{
	"slack":                {deliveries: withDevices, server: "https://hooks.slack.com", answer: slack},
	"teams":                {deliveries: withDevices, server: "https://example.environment.api.powerplatform.com:443", answer: teams},
	"awx":                  {deliveries: withActivations, server: "https://awx.example.com", answer: awx},
	"event-driven-ansible": {deliveries: withDevices, server: "https://eda.example.com:5000", answer: eventDrivenAnsible},
	"gitlab":               {deliveries: withActivations, server: "https://gitlab.example.com", answer: gitlab},
	"jenkins":              {deliveries: withActivations, server: "https://jenkins.example.com", answer: jenkins},
	"jenkins-webhook":      {deliveries: withActivations, server: "https://jenkins.example.com", answer: jenkinsWebhook},
	"github":               {deliveries: withActivations, server: "https://api.github.com", answer: github},
	"servicenow":           {deliveries: withFailures, server: "https://example.service-now.com", answer: serviceNow},
	"pagerduty": {
		deliveries: withActivations, server: "https://events.pagerduty.com", answer: pagerDuty,
		edit: strings.NewReplacer(`"failed"`, `"active"`, `"active"`, `"failed"`), // devices that recover, or are deleted
	},
	"slack-bulk-edit": {
		deliveries: withGroups, server: "https://hooks.slack.com", answerGroup: slackBulkEdit, sizes: []int{1, 2, 5000},
	},
	"awx-device": {
		// The devices of netbox-4.6.8-live are deleted within half a minute.
		deliveries: slices.DeleteFunc(slices.Clone(withGroups), func(name string) bool { return name == "netbox-4.6.8-live" }),
		server:     "https://awx.example.com", answerGroup: awxDevice, sizes: []int{1, 3, 4, 6},
		edit: strings.NewReplacer( // interfaces, and names of hosts
			`"rearport"`, `"interface"`, `"dcim.rearport"`, `"dcim.interface"`, "/rear-ports/", "/interfaces/",
			`sw-z\u00fcrich-1 \ud83d\ude80`, "sw-zurich-1", `Test Device `, "test-", "Device ", "device-"),
	},
	"knative":     {deliveries: everything, server: "http://broker-ingress.knative-eventing.svc.cluster.local", answer: knative},
	"argo-events": {deliveries: withDevices, server: "http://netbox-eventsource-svc.argo-events.svc:12000", answer: argoEvents},
	"argo-workflows": {
		deliveries: withActivations, object: argoWorkflow, kind: "Workflow", status: map[string]any{"phase": "Succeeded"},
		resource: schema.GroupVersionResource{Group: "argoproj.io", Version: "v1alpha1", Resource: "workflows"},
	},
	"tekton": {
		deliveries: withActivations, object: pipelineRun, kind: "PipelineRun",
		status:   map[string]any{"conditions": []any{map[string]any{"type": "Succeeded", "status": "True", "reason": "Completed"}}},
		resource: schema.GroupVersionResource{Group: "tekton.dev", Version: "v1", Resource: "pipelineruns"},
	},
	"one-run-for-each-site": {
		deliveries: withActivations, object: provisionJob, kind: "Job",
		status: map[string]any{
			"startTime": "2026-11-27T10:00:00Z", "completionTime": "2026-11-27T10:01:00Z", "succeeded": 1,
			"conditions": []any{
				map[string]any{"type": "SuccessCriteriaMet", "status": "True", "lastTransitionTime": "2026-11-27T10:01:00Z"},
				map[string]any{"type": "Complete", "status": "True", "lastTransitionTime": "2026-11-27T10:01:00Z"},
			},
		},
		resource: schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"},
	},
	"rest-api": {
		deliveries: withDevices, server: "https://inventory.example.com", tokens: "https://login.example.com", answer: restAPI,
	},
	"mirrored-configmap": {
		deliveries: slices.DeleteFunc(slices.Clone(withDevices), func(name string) bool { return strings.HasPrefix(name, "nautobot") }),
		object:     configMap, kind: "ConfigMap",
		name:     func(event *v1alpha1.NetBoxEvent) string { return "device-" + event.Spec.ObjectID },
		resource: schema.GroupVersionResource{Version: "v1", Resource: "configmaps"},
	},
	"metallb": {
		deliveries: recordings("netbox-3.7.8-live"), edit: strings.NewReplacer("tag-zurich", "metallb", "container", "active"),
		object: addressPool, kind: "IPAddressPool", namespace: "metallb-system",
		name:     func(event *v1alpha1.NetBoxEvent) string { return "netbox-" + event.Spec.ObjectID },
		resource: schema.GroupVersionResource{Group: "metallb.io", Version: "v1beta1", Resource: "ipaddresspools"},
	},
	"network-policy": {
		deliveries: recordings("netbox-3.7.8-live"), edit: strings.NewReplacer(`"slug": "ir"`, `"slug": "storage"`, "container", "active"),
		object: networkPolicy, kind: "NetworkPolicy",
		name:     func(event *v1alpha1.NetBoxEvent) string { return "netbox-prefix-" + event.Spec.ObjectID },
		resource: schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"},
	},
	"deletion": {
		deliveries: withDevices, isMade: true, name: hostName, kind: "BareMetalHost", // https://book.metal3.io/bmo/introduction
		resource: schema.GroupVersionResource{Group: "metal3.io", Version: "v1alpha1", Resource: "baremetalhosts"},
	},
}

// expect checks a POST of a path, and its headers. A header whose wanted value is empty must be there.
func expect(request *http.Request, path string, headers map[string]string) error {
	return expectMethod(http.MethodPost, request, path, headers)
}

func expectMethod(method string, request *http.Request, path string, headers map[string]string) error {
	var problems []error
	if request.Method != method || !regexp.MustCompile("^"+path+"$").MatchString(request.URL.EscapedPath()) {
		problems = append(problems, fmt.Errorf("want %s of %s", method, path))
	}
	for name, want := range headers {
		if got := request.Header.Values(name); len(got) != 1 || want != "" && got[0] != want || got[0] == "" {
			problems = append(problems, fmt.Errorf("%s is %q, want %q", name, got, want))
		}
	}
	return errors.Join(problems...)
}

// check returns an error if a requirement is not met.
func check(met bool, format string, args ...any) error {
	if met {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// decode decodes a JSON body without unknown fields.
func decode(body []byte, to any) error {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(to); err != nil {
		return err
	}
	return check(!decoder.More(), "more than one value")
}

// isLink reports whether a text is the URL of an object in the user interface of NetBox.
func isLink(text string, event *v1alpha1.NetBoxEvent) bool {
	return text == "https://netbox.example.com"+strings.Replace(event.Spec.ObjectURL, "/api", "", 1)
}

// slack checks a message to an incoming webhook.
//
// https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks: POST of JSON with text to /services/T…/B…/…; 200 with the
// text ok.
// https://docs.slack.dev/messaging/formatting-message-text: &, < and > are control characters, and escaped as HTML entities otherwise.
func slack(request *http.Request, body []byte, event *v1alpha1.NetBoxEvent) (answer, error) {
	var message struct {
		Text string `json:"text"`
	}
	if err := decode(body, &message); err != nil {
		return answer{}, err
	}
	before, link, _ := strings.Cut(message.Text, "<")
	link, after, closed := strings.Cut(link, ">")
	literal := regexp.MustCompile(`&(amp|lt|gt);`).ReplaceAllString(before+after, "")
	return answer{http.StatusOK, "ok"}, errors.Join(
		expect(request, `/services/T[0-9A-Z]+/B[0-9A-Z]+/[0-9A-Za-z]{24}`, map[string]string{"Content-Type": "application/json"}),
		check(len(message.Text) <= 40_000, "the text is longer than 40,000 characters"),
		check(closed && isLink(link, event), "the link is %q", link),
		check(!strings.ContainsAny(literal, "&<>"), "a control character is not escaped"),
		check(strings.HasPrefix(html.UnescapeString(before), "Device "+event.Spec.ObjectName+" was "), "it does not start with the name"),
	)
}

// slackBulkEdit checks a message with blocks to an incoming webhook.
//
// https://docs.slack.dev/reference/block-kit/blocks/section-block: a text of 1 to 3000 characters; at most 50 blocks in a message. Slack
// truncates messages of more than 40,000 characters, and has refused blocks of more than about 13,000 in all.
func slackBulkEdit(request *http.Request, body []byte, events []*v1alpha1.NetBoxEvent) (answer, error) {
	var message struct {
		Text   string `json:"text"`
		Blocks []struct {
			Type string `json:"type"`
			Text struct {
				Type string `json:"type"`
				Text string `json:"text"`
			} `json:"text"`
		} `json:"blocks"`
	}
	if err := decode(body, &message); err != nil {
		return answer{}, err
	}
	last, objects, fields := events[len(events)-1], map[string]bool{}, ""
	for _, event := range events {
		objects[event.Spec.ObjectID] = true
	}
	if len(events) == 1 {
		fields = strings.Join(last.Spec.ChangedFields, ", ")
	}
	problems := []error{
		expect(request, `/services/T[0-9A-Z]+/B[0-9A-Z]+/[0-9A-Za-z]{24}`, map[string]string{"Content-Type": "application/json"}),
		check(message.Text == fmt.Sprint("Devices that changed in NetBox: ", len(objects)), "the text is %q", message.Text),
		check(len(message.Blocks) == 2 && len(body) <= 13_000, "%d blocks, %d bytes", len(message.Blocks), len(body)),
	}
	var texts []string
	for _, block := range message.Blocks {
		text := block.Text.Text
		length := len(utf16.Encode([]rune(text)))
		problems = append(problems, check(block.Type == "section" && block.Text.Type == "mrkdwn", "unknown block"),
			check(length > 0 && length <= 3000, "a section has %d characters", length))
		texts = append(texts, text)
	}
	link, summary, _ := strings.Cut(strings.TrimPrefix(texts[0], "<"), "|")
	counts, by, isLinked := strings.Cut(summary, "> by ")
	total := 0
	for count := range strings.SplitSeq(counts, ", ") {
		var n int
		var event string
		_, err := fmt.Sscanf(count, "%d %s", &n, &event)
		total += n
		problems = append(problems, err, check(slices.Contains([]string{"created", "updated", "deleted"}, event), "the event is %q", event))
	}
	literal := regexp.MustCompile(`&(amp|lt|gt);`).ReplaceAllString(by+texts[1], "")
	unescaped := html.UnescapeString(by)
	return answer{http.StatusOK, "ok"}, errors.Join(append(problems,
		check(link == "https://netbox.example.com/core/changelog/?request_id="+last.Spec.RequestID && isLinked, "the link is %q", link),
		check(total == len(objects), "%d of %d changes", total, len(objects)),
		check(!strings.ContainsAny(literal, "&<>"), "a control character is not escaped"),
		check(strings.HasPrefix(unescaped, last.Spec.Username) && strings.HasSuffix(unescaped, fields), "who and what is %q", unescaped),
		check(strings.HasPrefix(html.UnescapeString(texts[1]), events[0].Spec.ObjectName), "the names are %q", texts[1]))...)
}

// teams checks a message to a workflow with the trigger "When a Teams webhook request is received".
//
// https://learn.microsoft.com/connectors/teams/#microsoft-teams-webhook and
// https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using: type is message, and attachments
// are cards, whose contentType is that of Adaptive Cards; at most 28 KB. The signature of the URL authenticates.
// https://adaptivecards.io/explorer: RichTextBlock, TextRun and Action.OpenUrl from 1.2 on.
func teams(request *http.Request, body []byte, event *v1alpha1.NetBoxEvent) (answer, error) {
	var message struct {
		Type        string `json:"type"`
		Attachments []struct {
			ContentType string `json:"contentType"`
			Content     struct {
				Schema  string `json:"$schema"`
				Type    string `json:"type"`
				Version string `json:"version"`
				Body    []struct {
					Type    string `json:"type"`
					Inlines []struct {
						Type   string `json:"type"`
						Text   string `json:"text"`
						Weight string `json:"weight"`
					} `json:"inlines"`
				} `json:"body"`
				Actions []struct {
					Type  string `json:"type"`
					Title string `json:"title"`
					URL   string `json:"url"`
				} `json:"actions"`
			} `json:"content"`
		} `json:"attachments"`
	}
	if err := decode(body, &message); err != nil {
		return answer{}, err
	}
	problems := []error{
		expect(request, `/powerautomate/automations/direct/workflows/[^/]+/triggers/manual/paths/invoke`,
			map[string]string{"Content-Type": "application/json"}),
		check(message.Type == "message" && len(message.Attachments) == 1 && len(body) <= 28<<10, "the message has the wrong type or size"),
	}
	for name, want := range map[string]string{"api-version": "1", "sp": "/triggers/manual/run", "sv": "1.0", "sig": "XXXX"} {
		problems = append(problems, check(request.URL.Query().Get(name) == want, "%s of the URL is not %q", name, want))
	}
	for _, attachment := range message.Attachments {
		card := attachment.Content
		problems = append(problems,
			check(attachment.ContentType == "application/vnd.microsoft.card.adaptive", "contentType is %q", attachment.ContentType),
			check(card.Type == "AdaptiveCard" && card.Schema == "http://adaptivecards.io/schemas/adaptive-card.json", "it is no card"),
			check(slices.Contains([]string{"1.2", "1.3", "1.4", "1.5"}, card.Version), "Teams does not show version %q", card.Version),
			check(len(card.Body) == 1 && card.Body[0].Inlines[0].Text == "Device "+event.Spec.ObjectName, "the name is missing"))
		for _, element := range card.Body {
			problems = append(problems, check(element.Type == "RichTextBlock" && len(element.Inlines) > 0, "unknown element %q", element.Type))
			for _, inline := range element.Inlines {
				problems = append(problems, check(inline.Type == "TextRun" && inline.Text != "", "no text in %v", inline),
					check(slices.Contains([]string{"", "Default", "Lighter", "Bolder"}, inline.Weight), "unknown weight %q", inline.Weight))
			}
		}
		for _, action := range card.Actions {
			problems = append(problems,
				check(action.Type == "Action.OpenUrl" && action.Title != "" && isLink(action.URL, event), "invalid action %v", action))
		}
	}
	return answer{status: http.StatusAccepted}, errors.Join(problems...)
}

// awx checks the launch of a job template.
//
// https://ansible.readthedocs.io/projects/awx/en/latest/rest_api/api_ref.html, Job Templates, launch: POST with a slash at the end;
// extra_vars is a mapping; 201 with the job, and ignored_fields.
// https://docs.ansible.com/automation-controller/latest/html/userguide/applications_auth.html: Authorization: Bearer.
func awx(request *http.Request, body []byte, event *v1alpha1.NetBoxEvent) (answer, error) {
	var launch struct {
		ExtraVars map[string]any `json:"extra_vars"`
		Limit     string         `json:"limit"`
		JobTags   string         `json:"job_tags"`
		Inventory int            `json:"inventory"`
	}
	if err := decode(body, &launch); err != nil {
		return answer{}, err
	}
	problems := []error{
		expect(request, `/api/v2/job_templates/[0-9]+/launch/`, map[string]string{
			"Content-Type": "application/json", "Authorization": "Bearer XXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
		}),
		check(launch.ExtraVars["netbox_device"] == event.Spec.ObjectName, "the device is %v", launch.ExtraVars["netbox_device"]),
		check(fmt.Sprint(launch.ExtraVars["netbox_device_id"]) == event.Spec.ObjectID, "the id is %v", launch.ExtraVars["netbox_device_id"]),
	}
	for name := range launch.ExtraVars {
		problems = append(problems, check(regexp.MustCompile(`^[a-zA-Z_]\w*$`).MatchString(name), "%q is no name of a variable", name))
	}
	return answer{http.StatusCreated, `{"job":12,"ignored_fields":{},"id":12,"type":"job"}`}, errors.Join(problems...)
}

// awxDevice checks a launch for a device: as awx, with a limit.
//
// https://docs.ansible.com/ansible/latest/inventory_guide/intro_patterns.html: what a limit may be.
func awxDevice(request *http.Request, body []byte, events []*v1alpha1.NetBoxEvent) (answer, error) {
	var launch struct {
		Limit     string `json:"limit"`
		ExtraVars struct {
			Group   string `json:"netbox_group"`
			Changes []struct {
				Event  string   `json:"event"`
				Type   string   `json:"type"`
				ID     string   `json:"id"`
				Name   string   `json:"name"`
				Fields []string `json:"fields"`
			} `json:"netbox_changes"`
		} `json:"extra_vars"`
	}
	if err := decode(body, &launch); err != nil {
		return answer{}, err
	}
	names := map[string]string{} // of the objects, by type and id
	for _, event := range events {
		names[event.Spec.ObjectType+event.Spec.ObjectID] = event.Spec.ObjectName
	}
	problems := []error{
		expect(request, `/api/v2/job_templates/[0-9]+/launch/`, map[string]string{
			"Content-Type": "application/json", "Authorization": "Bearer XXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
		}),
		check(len(launch.ExtraVars.Changes) == len(names) && launch.ExtraVars.Group != "", "the variables are %v", launch.ExtraVars),
	}
	for _, change := range launch.ExtraVars.Changes {
		name, known := names[change.Type+change.ID]
		problems = append(problems, check(known && change.Name == name && change.Fields != nil && change.Event != "none", "the change is %v", change))
	}
	last := events[len(events)-1].Spec
	var device struct {
		ID   any    `json:"id"`
		Name string `json:"name"`
	}
	encoded, err := json.Marshal(last.Data)
	if last.ObjectType == "dcim.interface" {
		encoded = last.Data["device"].Raw
	}
	err = errors.Join(err, json.Unmarshal(encoded, &device))
	return answer{http.StatusCreated, `{"job":12,"ignored_fields":{},"id":12,"type":"job"}`}, errors.Join(append(problems, err,
		check(launch.Limit == device.Name && regexp.MustCompile(`^[\w.-]+$`).MatchString(launch.Limit), "the limit is %q", launch.Limit))...)
}

// eventDrivenAnsible checks a request to the source ansible.eda.webhook.
//
// https://github.com/ansible/event-driven-ansible/blob/main/extensions/eda/plugins/event_source/webhook.py: POST of JSON to any path;
// the scheme and token of Authorization are separated by one blank, and compared with case; 200 with the path.
// https://github.com/ansible/eda-server/blob/main/src/aap_eda/api/event_stream_authentication.py: an event stream takes the same.
func eventDrivenAnsible(request *http.Request, body []byte, event *v1alpha1.NetBoxEvent) (answer, error) {
	var payload struct {
		ID            string         `json:"id"`
		Event         string         `json:"event"`
		ObjectType    string         `json:"objectType"`
		ObjectID      string         `json:"objectID"`
		ObjectName    string         `json:"objectName"`
		ChangedFields []string       `json:"changedFields"`
		Data          map[string]any `json:"data"`
	}
	if err := decode(body, &payload); err != nil {
		return answer{}, err
	}
	return answer{http.StatusOK, strings.TrimPrefix(request.URL.Path, "/")}, errors.Join(
		expect(request, `/netbox`, map[string]string{"Content-Type": "application/json", "Authorization": "Bearer XXXXXXXXXXXXXXXX"}),
		check(payload.ObjectID == event.Spec.ObjectID && payload.ObjectName == event.Spec.ObjectName && payload.ID == event.Name, "another event"),
		check(payload.Event == event.Spec.Event && payload.ObjectType == "dcim.device" && payload.Data["id"] != nil, "another event"),
		check(payload.ChangedFields != nil, "a condition on changedFields fails on null"),
	)
}

// gitlab checks a request that triggers a pipeline.
//
// https://docs.gitlab.com/ci/triggers/ and https://docs.gitlab.com/api/pipeline_triggers/#trigger-a-pipeline-with-a-token: POST of a
// form with token, ref and variables[key]; 201 with the pipeline.
// https://docs.gitlab.com/ci/variables/#prevent-cicd-variable-expansion: $ is the start of another variable, $$ a dollar sign.
func gitlab(request *http.Request, body []byte, event *v1alpha1.NetBoxEvent) (answer, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return answer{}, err
	}
	problems := []error{
		expect(request, `/api/v4/projects/[0-9]+/trigger/pipeline`, map[string]string{"Content-Type": "application/x-www-form-urlencoded"}),
		check(form.Get("token") == "glptt-XXXXXXXXXXXXXXXXXXXX" && form.Get("ref") == "main", "wrong token or ref"),
		check(strings.ReplaceAll(form.Get("variables[DEVICE]"), "$$", "$") == event.Spec.ObjectName, "the name is %q", form["variables[DEVICE]"]),
		check(form.Get("variables[DEVICE_ID]") == event.Spec.ObjectID, "the id is %q", form["variables[DEVICE_ID]"]),
	}
	for name, values := range form {
		known := name == "token" || name == "ref" || regexp.MustCompile(`^variables\[[A-Za-z0-9_]+\]$`).MatchString(name)
		problems = append(problems, check(known && len(values) == 1, "unknown %q", name),
			check(!strings.Contains(strings.ReplaceAll(values[0], "$$", ""), "$"), "a variable is expanded in %q", values[0]))
	}
	return answer{http.StatusCreated, `{"id":257,"status":"created","web_url":"https://gitlab.example.com/…"}`}, errors.Join(problems...)
}

// jenkins checks a request that starts a parameterized job.
//
// https://www.jenkins.io/doc/book/using/remote-access-api/: POST of a form to buildWithParameters; 201 with the item of the queue in
// Location.
// https://www.jenkins.io/doc/book/system-administration/authenticating-scripted-clients/: Basic with the user and an API token.
func jenkins(request *http.Request, body []byte, event *v1alpha1.NetBoxEvent) (answer, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return answer{}, err
	}
	user, token, _ := request.BasicAuth()
	problems := []error{
		expect(request, `(/job/[^/]+)+/buildWithParameters`, map[string]string{"Content-Type": "application/x-www-form-urlencoded"}),
		check(user == "netbox" && token == "11XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX", "the user is %q", user),
		check(form.Get("DEVICE") == event.Spec.ObjectName && form.Get("DEVICE_ID") == event.Spec.ObjectID, "another device"),
	}
	for name, values := range form {
		problems = append(problems, check(regexp.MustCompile(`^[A-Z_]+$`).MatchString(name) && len(values) == 1, "invalid parameter %q", name))
	}
	return answer{status: http.StatusCreated}, errors.Join(problems...)
}

// jenkinsWebhook checks a request to the Generic Webhook Trigger.
//
// https://github.com/jenkinsci/generic-webhook-trigger-plugin: any request to /generic-webhook-trigger/invoke; the token as Bearer;
// variables by JSONPath.
func jenkinsWebhook(request *http.Request, body []byte, event *v1alpha1.NetBoxEvent) (answer, error) {
	var content struct {
		ID     string `json:"id"`
		Device map[string]any
	}
	if err := decode(body, &content); err != nil {
		return answer{}, err
	}
	_, named := content.Device["name"] // $.device.name
	return answer{http.StatusOK, `{"jobs":{"provision":{"triggered":true,"url":"queue/item/12/"}},"message":"Triggered jobs."}`}, errors.Join(
		expect(request, `/generic-webhook-trigger/invoke`, map[string]string{"Content-Type": "application/json", "Authorization": "Bearer XXXXXXXXXXXXXXXX"}),
		check(content.ID == event.Name && named, "another event, or no $.device.name"),
	)
}

// github checks a request that starts a workflow.
//
// https://docs.github.com/rest/actions/workflows#create-a-workflow-dispatch-event: POST with ref and inputs; 204.
// https://docs.github.com/rest/using-the-rest-api/getting-started-with-the-rest-api: Accept, X-GitHub-Api-Version, and User-Agent, which
// is required.
// https://docs.github.com/actions/reference/workflows-and-actions/workflow-syntax#onworkflow_dispatchinputs: at most 25 inputs of 65,535
// characters.
func github(request *http.Request, body []byte, event *v1alpha1.NetBoxEvent) (answer, error) {
	var dispatch struct {
		Ref    string            `json:"ref"`
		Inputs map[string]string `json:"inputs"`
	}
	if err := decode(body, &dispatch); err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, errors.Join(
		expect(request, `/repos/[^/]+/[^/]+/actions/workflows/[^/]+\.ya?ml/dispatches`, map[string]string{
			"Authorization": "Bearer github_pat_XXXXXXXXXXXXXXXXXXXXXX", "Accept": "application/vnd.github+json",
			"X-GitHub-Api-Version": "2022-11-28", "User-Agent": "", "Content-Type": "application/json",
		}),
		check(dispatch.Ref == "main" && len(dispatch.Inputs) <= 10 && utf8.RuneCount(body) <= 65_535, "wrong ref, or too many inputs"),
		check(dispatch.Inputs["device"] == event.Spec.ObjectName && dispatch.Inputs["device_id"] == event.Spec.ObjectID, "another device"),
	)
}

// serviceNow checks a request that creates an incident.
//
// https://www.servicenow.com/docs/r/api-reference/rest-apis/c_TableAPI.html, POST /now/table/{tableName}: JSON of names and values;
// basic authentication; 201 with the record, of which sysparm_fields names the fields. The fields are of the table incident, with the
// lengths of a new instance.
func serviceNow(request *http.Request, body []byte, event *v1alpha1.NetBoxEvent) (answer, error) {
	var incident struct {
		ShortDescription   string `json:"short_description"`
		Description        string `json:"description"`
		Urgency            string `json:"urgency"`
		Impact             string `json:"impact"`
		CorrelationID      string `json:"correlation_id"`
		CorrelationDisplay string `json:"correlation_display"`
	}
	if err := decode(body, &incident); err != nil {
		return answer{}, err
	}
	user, password, _ := request.BasicAuth()
	choices := []string{"1", "2", "3"} // high, medium, low
	return answer{http.StatusCreated, `{"result":{"number":"INC0010002","sys_id":"c537bae64f411200adf9f8e18110c76e"}}`}, errors.Join(
		expect(request, `/api/now/table/incident`, map[string]string{"Content-Type": "application/json", "Accept": "application/json"}),
		check(user == "netbox" && password == "XXXXXXXX", "the user is %q", user),
		check(request.URL.RawQuery == "sysparm_fields=number,sys_id", "the query is %q", request.URL.RawQuery),
		check(strings.Contains(incident.ShortDescription, event.Spec.ObjectName), "the short description is %q", incident.ShortDescription),
		check(utf8.RuneCountInString(incident.ShortDescription) <= 160, "the short description is too long"),
		check(len(incident.Description) <= 4000 && len(incident.CorrelationDisplay) <= 100, "the description is too long"),
		check(slices.Contains(choices, incident.Urgency) && slices.Contains(choices, incident.Impact), "unknown urgency or impact"),
		check(incident.CorrelationID == event.Name && len(incident.CorrelationID) <= 100, "the correlation is %q", incident.CorrelationID),
	)
}

// pagerDuty checks an alert event.
//
// https://developer.pagerduty.com/docs/send-alert-event and https://developer.pagerduty.com/docs/events-api-v2-overview: the required
// fields, the choices and lengths below; 202, or 400; at most 512 KB.
func pagerDuty(request *http.Request, body []byte, event *v1alpha1.NetBoxEvent) (answer, error) {
	var alert struct {
		RoutingKey  string `json:"routing_key"`
		EventAction string `json:"event_action"`
		DedupKey    string `json:"dedup_key"`
		Payload     struct {
			Summary       string         `json:"summary"`
			Source        string         `json:"source"`
			Severity      string         `json:"severity"`
			Timestamp     time.Time      `json:"timestamp"`
			Component     string         `json:"component"`
			Group         string         `json:"group"`
			Class         string         `json:"class"`
			CustomDetails map[string]any `json:"custom_details"`
		} `json:"payload"`
		Links []struct {
			Href string `json:"href"`
			Text string `json:"text"`
		} `json:"links"`
	}
	if err := decode(body, &alert); err != nil {
		return answer{}, err
	}
	var after struct {
		Status string `json:"status"`
	}
	if err := json.Unmarshal(event.Spec.Snapshots["postchange"].Raw, &after); err != nil {
		return answer{}, err
	}
	want := "resolve"
	if after.Status == "failed" {
		want = "trigger"
	}
	return answer{http.StatusAccepted, `{"status":"success","message":"Event processed","dedup_key":"` + alert.DedupKey + `"}`}, errors.Join(
		expect(request, `/v2/enqueue`, map[string]string{"Content-Type": "application/json"}),
		check(len(alert.RoutingKey) == 32, "the routing key has %d characters", len(alert.RoutingKey)),
		check(alert.EventAction == want, "the action is %q, want %q", alert.EventAction, want),
		check(alert.DedupKey == "netbox/"+event.Spec.SourceRef.Name+"/dcim.device/"+event.Spec.ObjectID && len(alert.DedupKey) <= 255, "the key is %q", alert.DedupKey),
		check(alert.Payload.Summary != "" && utf8.RuneCountInString(alert.Payload.Summary) <= 1024, "the summary is %q", alert.Payload.Summary),
		check(alert.Payload.Source == event.Spec.ObjectName, "the source is %q", alert.Payload.Source),
		check(slices.Contains([]string{"critical", "error", "warning", "info"}, alert.Payload.Severity), "the severity is %q", alert.Payload.Severity),
		check(alert.Payload.Timestamp.Equal(event.Spec.Timestamp.Time), "the time is %s", alert.Payload.Timestamp),
		check(len(alert.Links) == 1 && isLink(alert.Links[0].Href, event), "the links are %v", alert.Links),
		check(len(body) <= 512<<10, "it is too large"),
	)
}

// restAPI checks a request for a token, or one to an API that takes the token.
//
// https://datatracker.ietf.org/doc/html/rfc6749#section-4.4: POST of a form with grant_type and scope; the client authenticates by basic
// authentication, with encoded id and secret (2.3.1); the answer is not cached (5.1).
// https://datatracker.ietf.org/doc/html/rfc6750#section-2.1: Authorization: Bearer.
func restAPI(request *http.Request, body []byte, event *v1alpha1.NetBoxEvent) (answer, error) {
	if request.URL.Path == "/oauth2/token" {
		form, err := url.ParseQuery(string(body))
		id, secret, _ := request.BasicAuth()
		return answer{http.StatusOK, `{"access_token":"2YotnFZFEjr1zCsicMWpAA","token_type":"Bearer","expires_in":3600}`}, errors.Join(err,
			expect(request, `/oauth2/token`, map[string]string{"Content-Type": "application/x-www-form-urlencoded"}),
			check(id == "netbox-events" && secret == "XXXXXXXXXXXXXXXX", "the client is %q", id),
			check(form.Get("grant_type") == "client_credentials" && form.Get("scope") == "devices.write", "the form is %v", form))
	}
	path, token := `/api/v1/devices/`+event.Spec.ObjectID, "Bearer 2YotnFZFEjr1zCsicMWpAA"
	if event.Spec.Event == "deleted" {
		given := answer{status: http.StatusNoContent}
		if strings.HasSuffix(event.Spec.ObjectID, "0") {
			given = answer{http.StatusNotFound, `{"detail":"no such device"}`}
		}
		return given, expectMethod(http.MethodDelete, request, path, map[string]string{"Authorization": token})
	}
	var device struct {
		Name     string    `json:"name"`
		Serial   string    `json:"serial"`
		Status   string    `json:"status"`
		Modified time.Time `json:"modified"`
	}
	if err := decode(body, &device); err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK}, errors.Join(
		expectMethod(http.MethodPut, request, path, map[string]string{"Authorization": token, "Content-Type": "application/json"}),
		check(device.Name == event.Spec.ObjectName && device.Status != "", "the device is %v", device),
		check(device.Modified.Equal(event.Spec.Timestamp.Time), "the time is %s", device.Modified),
	)
}

// cloudEvent checks a CloudEvent in one of the modes.
//
// https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md and spec.md.
func cloudEvent(request *http.Request, body []byte, event *v1alpha1.NetBoxEvent, isBinary bool) error {
	contentType := "application/cloudevents+json"
	if isBinary {
		contentType = "application/json"
	}
	problems := []error{check(request.Header.Get("Content-Type") == contentType, "Content-Type is %q", request.Header.Get("Content-Type"))}
	for name := range request.Header {
		if attribute, found := strings.CutPrefix(strings.ToLower(name), "ce-"); found {
			problems = append(problems, check(isBinary && regexp.MustCompile(`^[a-z0-9]{1,20}$`).MatchString(attribute), "attribute %q", attribute))
		}
	}
	request.Body = http.NoBody
	copied := request.Clone(request.Context())
	copied.Body = readCloser{bytes.NewReader(body)}
	received, err := cehttp.NewEventFromHTTPRequest(copied)
	if err != nil {
		return err
	}
	var spec v1alpha1.NetBoxEventSpec
	return errors.Join(append(problems, received.Validate(), received.DataAs(&spec),
		check(received.ID() == event.Name && received.SpecVersion() == "1.0", "id is %q", received.ID()),
		check(strings.HasPrefix(received.Type(), "io.netbox-events."), "type is %q", received.Type()),
		check(spec.ObjectID == event.Spec.ObjectID && spec.ObjectName == event.Spec.ObjectName, "another event"))...)
}

type readCloser struct{ *bytes.Reader }

// Close does nothing.
func (readCloser) Close() error { return nil }

// knative checks an event to the ingress of a broker.
//
// https://github.com/knative/specs/blob/main/specs/eventing/data-plane.md: POST of a CloudEvent in one of the modes; 202.
// https://knative.dev/docs/eventing/brokers/broker-types/channel-based-broker/: the path is the namespace and the name of the broker.
func knative(request *http.Request, body []byte, event *v1alpha1.NetBoxEvent) (answer, error) {
	return answer{status: http.StatusAccepted}, errors.Join(expect(request, `/netbox/default`, nil), cloudEvent(request, body, event, true))
}

// argoEvents checks an event to an event source of the type webhook.
//
// https://argoproj.github.io/argo-events/eventsources/setup/webhook/: the method and endpoint of the event source; CloudEvents are
// recognized.
// https://argoproj.github.io/argo-events/eventsources/webhook-authentication/: Authorization: Bearer.
// https://argoproj.github.io/argo-events/APIs/#argoproj.io/v1alpha1.WebhookContext: maxPayloadSize is 1048576 by default.
func argoEvents(request *http.Request, body []byte, event *v1alpha1.NetBoxEvent) (answer, error) {
	return answer{http.StatusOK, "success"}, errors.Join(
		expect(request, `/netbox`, map[string]string{"Authorization": "Bearer XXXXXXXXXXXXXXXX"}),
		cloudEvent(request, body, event, false),
		check(len(body) <= 1048576, "it is too large"),
	)
}

// parameter is a parameter of a workflow or pipeline run. The products also take other values than texts; a number would be an error.
type parameter struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// checkRun checks the parameters of a workflow or pipeline run, and its name, which is also the value of a label.
func checkRun(object *unstructured.Unstructured, event *v1alpha1.NetBoxEvent, parameters []parameter, expanded ...string) error {
	problems := []error{
		check(len(validation.IsDNS1123Label(object.GetName())) == 0, "the name %q is no label", object.GetName()),
		check(len(object.GetOwnerReferences()) == 1 && object.GetOwnerReferences()[0].Name == event.Name, "the event does not own it"),
	}
	values := map[string]string{}
	for _, parameter := range parameters {
		values[parameter.Name] = parameter.Value
		for _, text := range expanded {
			problems = append(problems, check(!strings.Contains(parameter.Value, text), "%s is expanded in %q", text, parameter.Value))
		}
	}
	blanks := strings.NewReplacer(" ", "")
	return errors.Join(append(problems,
		check(len(values) == 3 && values["device-id"] == event.Spec.ObjectID && values["site"] != "", "the parameters are %v", values),
		check(blanks.Replace(values["device"]) == blanks.Replace(event.Spec.ObjectName), "the name is %q", values["device"]))...)
}

// strictly decodes the spec of an object without unknown fields.
func strictly(object *unstructured.Unstructured, to any) error {
	encoded, err := json.Marshal(object.Object["spec"])
	if err != nil {
		return err
	}
	return decode(encoded, to)
}

// argoWorkflow checks a Workflow.
//
// https://argo-workflows.readthedocs.io/en/latest/fields/#workflowspec and
// /workflow-templates/#create-workflow-from-workflowtemplate-spec.
// https://argo-workflows.readthedocs.io/en/latest/variables/: {{…}} is a variable.
func argoWorkflow(object *unstructured.Unstructured, event *v1alpha1.NetBoxEvent) error {
	var spec struct {
		WorkflowTemplateRef struct {
			Name string `json:"name"`
		} `json:"workflowTemplateRef"`
		ServiceAccountName string `json:"serviceAccountName"`
		Arguments          struct {
			Parameters []parameter `json:"parameters"`
		} `json:"arguments"`
	}
	if err := strictly(object, &spec); err != nil {
		return err
	}
	return errors.Join(check(spec.WorkflowTemplateRef.Name != "", "no template"),
		checkRun(object, event, spec.Arguments.Parameters, "{{", "$("))
}

// pipelineRun checks a PipelineRun.
//
// https://tekton.dev/docs/pipelines/pipelineruns/#configuring-a-pipelinerun: pipelineRef, params, taskRunTemplate.
// https://tekton.dev/docs/pipelines/variables/: $(…) is a variable.
func pipelineRun(object *unstructured.Unstructured, event *v1alpha1.NetBoxEvent) error {
	var spec struct {
		PipelineRef struct {
			Name string `json:"name"`
		} `json:"pipelineRef"`
		TaskRunTemplate struct {
			ServiceAccountName string `json:"serviceAccountName"`
		} `json:"taskRunTemplate"`
		Params []parameter `json:"params"`
	}
	if err := strictly(object, &spec); err != nil {
		return err
	}
	return errors.Join(check(spec.PipelineRef.Name != "", "no pipeline"), checkRun(object, event, spec.Params, "$("))
}

// provisionJob checks a Job.
//
// https://kubernetes.io/docs/concepts/workloads/controllers/job/: the API server, which is real, checks it.
// https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/: $(…) is a variable, $$ a dollar sign.
func provisionJob(object *unstructured.Unstructured, event *v1alpha1.NetBoxEvent) error {
	var job batchv1.Job
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, &job, true); err != nil {
		return err
	}
	var parameters []parameter
	for _, variable := range job.Spec.Template.Spec.Containers[0].Env {
		name := strings.ReplaceAll(strings.ToLower(variable.Name), "_", "-")
		parameters = append(parameters, parameter{name, strings.ReplaceAll(variable.Value, "$$", "$")})
	}
	return checkRun(object, event, parameters)
}

func hostName(event *v1alpha1.NetBoxEvent) string { return "netbox-" + event.Spec.ObjectID }

// configMap checks the ConfigMap of a device.
//
// https://kubernetes.io/docs/concepts/configuration/configmap/: the API server, which is real, checks it.
func configMap(object *unstructured.Unstructured, event *v1alpha1.NetBoxEvent) error {
	data, _, err := unstructured.NestedStringMap(object.Object, "data")
	return errors.Join(err, check(data["name"] == event.Spec.ObjectName && data["site"] != "", "data is %v", data))
}

// addressPool checks an IPAddressPool.
//
// https://metallb.io/apis/#ipaddresspoolspec: addresses is a list of CIDRs or ranges.
func addressPool(object *unstructured.Unstructured, event *v1alpha1.NetBoxEvent) error {
	var spec struct {
		Addresses  []string `json:"addresses"`
		AutoAssign bool     `json:"autoAssign"`
	}
	if err := strictly(object, &spec); err != nil {
		return err
	}
	if len(spec.Addresses) != 1 {
		return fmt.Errorf("the addresses are %v", spec.Addresses)
	}
	_, err := netip.ParsePrefix(spec.Addresses[0])
	return errors.Join(err, checkPrefix(spec.Addresses[0], event))
}

// networkPolicy checks a NetworkPolicy.
//
// https://kubernetes.io/docs/concepts/services-networking/network-policies/: the API server, which is real, checks it.
func networkPolicy(object *unstructured.Unstructured, event *v1alpha1.NetBoxEvent) error {
	var policy networkingv1.NetworkPolicy
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, &policy, true); err != nil {
		return err
	}
	rules := policy.Spec.Egress
	if len(rules) != 1 || len(rules[0].To) != 1 || rules[0].To[0].IPBlock == nil {
		return fmt.Errorf("the rules are %v", rules)
	}
	return checkPrefix(rules[0].To[0].IPBlock.CIDR, event)
}

func checkPrefix(prefix string, event *v1alpha1.NetBoxEvent) error {
	return check(`"`+prefix+`"` == string(event.Spec.Data["prefix"].Raw), "the prefix is %q", prefix)
}
