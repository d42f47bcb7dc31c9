package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NetBoxEventRule selects events of its namespace, and defines the actions on them.
//
// Texts may contain templates: ${…} is an expression in CEL (the Common Expression Language), and $${ is a literal ${. The variables are
// event (the fields of a NetBoxEvent's spec, and its name and namespace), data, prechange, postchange and now; the functions include
// changed("status") and changedTo("status", "active").
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:metadata:annotations="kustomize.toolkit.fluxcd.io/substitute=disabled"
// +kubebuilder:resource:shortName=nber,categories=netbox
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Matched",type=integer,JSONPath=`.status.matched`
// +kubebuilder:printcolumn:name="Failed",type=integer,JSONPath=`.status.failed`
// +kubebuilder:printcolumn:name="Last Matched",type=date,JSONPath=`.status.lastMatched`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Service Account",type=string,JSONPath=`.spec.serviceAccountName`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
type NetBoxEventRule struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec selects events, and defines the actions on them.
	// +required
	Spec NetBoxEventRuleSpec `json:"spec,omitzero"`
	// status reports whether the rule is in use, and counts its events.
	// +optional
	Status NetBoxEventRuleStatus `json:"status,omitzero"`
}

// NetBoxEventRuleSpec selects events, and defines the actions on them.
//
// +kubebuilder:validation:XValidation:rule="has(self.serviceAccountName) || !self.actions.exists(a, has(a.apply)) && (!has(self.onFailure) || !self.onFailure.exists(a, has(a.apply)))",message="a rule with an apply action must set serviceAccountName"
// +kubebuilder:validation:XValidation:rule="has(self.serviceAccountName) || !self.actions.exists(a, has(a.http) && has(a.http.auth) && has(a.http.auth.serviceAccountToken)) && (!has(self.onFailure) || !self.onFailure.exists(a, has(a.http) && has(a.http.auth) && has(a.http.auth.serviceAccountToken)))",message="a rule with http.auth.serviceAccountToken must set serviceAccountName"
// +kubebuilder:validation:XValidation:rule="!has(self.order) || self.order == 'PerObject' || !self.actions.exists(a, has(a.apply) && has(a.apply.operation) && a.apply.operation == 'Mirror')",message="an apply action with the operation Mirror needs the order PerObject"
// +kubebuilder:validation:XValidation:rule="!has(self.onFailure) || !self.onFailure.exists(a, has(a.apply) && has(a.apply.operation) && a.apply.operation == 'Mirror')",message="onFailure must not have apply actions with the operation Mirror"
// +kubebuilder:validation:XValidation:rule="!has(self.onFailure) || self.onFailure.all(f, !self.actions.exists(a, a.name == f.name))",message="actions and onFailure must not have actions of the same name"
type NetBoxEventRuleSpec struct {
	// suspend stops the matching of events, for example true. Deliveries of events that matched before continue. Events that come meanwhile
	// are not matched later, unless they are replayed.
	// +optional
	Suspend bool `json:"suspend,omitempty"`

	// dryRun executes no action, for example true: the status of each event that matches shows the request that would be sent, without the
	// values of Secrets, or the objects that would be written, which the API server checks by a dry run.
	// +optional
	DryRun bool `json:"dryRun,omitempty"`

	// match selects the events that match all of its fields. Without it, the rule matches all events of the namespace.
	// +optional
	Match Match `json:"match,omitzero"`

	// order is PerObject or None, for example PerObject: the events of a NetBox object are processed in order, and a failing event blocks the
	// later ones until it succeeds or fails permanently. With None, events are processed independently.
	// +optional
	// +kubebuilder:default=PerObject
	Order Order `json:"order,omitempty"`

	// group collects events, and executes the actions once for each group, for example {"by": "Request"}. Without it, each event is delivered
	// by itself.
	// +optional
	Group *Group `json:"group,omitempty"`

	// limit bounds the deliveries of the rule, for example {"perSecond": 10, "concurrency": 4}.
	// +optional
	Limit Limit `json:"limit,omitzero"`

	// retry limits the time and number of attempts of each action, for example {"for": "24h", "backoff": "1s", "maxBackoff": "5m", "timeout":
	// "10s"}.
	// +optional
	// +kubebuilder:default={}
	Retry Retry `json:"retry,omitzero"`

	// confirm delays the actions until the change is in NetBox's change log, for example true. Actions on a change that does not appear there
	// within the source's backfill.lag (2m without backfill) are skipped: NetBox sent a webhook for a request that it rolled back. The sources
	// need spec.netbox.
	// +optional
	Confirm bool `json:"confirm,omitempty"`

	// lookups are requests to the event's NetBox, whose answers are variables of when and of templates: lookups.device is the answer to the
	// one with the name device, decoded, and null where NetBox answers with 404. They are made once for an event, before its first action. The
	// sources need spec.netbox.lookups: Allow. For example [{"name": "device", "path": "/api/dcim/devices/${data.device.id}/"}].
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=8
	Lookups []Lookup `json:"lookups,omitempty"`

	// secrets are entries of Secrets, in the rule's namespace, for templates of http actions: ${secrets.token} is the value of the one with
	// the name token, for example [{"name": "token", "secretKeyRef": {"name": "slack", "key": "token"}}].
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Secrets []RuleSecret `json:"secrets,omitempty"`

	// serviceAccountName is the service account, in the rule's namespace, that apply actions act as, and whose tokens http actions with
	// auth.serviceAccountToken send, for example provisioner. The operator must be allowed to impersonate it, or to create its tokens, and so
	// must the author of the rule.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	ServiceAccountName string `json:"serviceAccountName,omitempty"`

	// actions are executed in this order for each matching event. A failed action is retried by itself, and blocks only those that depend on
	// it.
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Actions []Action `json:"actions,omitempty"`

	// onFailure are actions that are executed once for an event that the rule gives up: an action failed permanently, and no other one is
	// pending. Their templates may use failure.action, failure.error and failure.attempts. They are retried as the rule's actions are.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	OnFailure []Action `json:"onFailure,omitempty"`
}

// Group defines which events of a rule are delivered together. A group closes when quiet has passed since its last event was received, at
// the latest when maxWait has passed since its first, or with maxEvents events. Later events make another group.
//
// +kubebuilder:validation:XValidation:rule="[self.quiet, self.maxWait].exists(d, !d.matches('^([0-9.]+(ns|us|ms|s|m|h))+$')) || duration(self.quiet) <= duration(self.maxWait)",message="quiet must not be longer than maxWait"
type Group struct {
	// by is Request for the events of one request to a NetBox, such as a bulk edit; Object for those of one NetBox object; Rule for all events
	// of the rule; or an expression in CEL, for example data.site.slug, for those with the same value of it. Events for which the expression
	// is null or fails make one group.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	By string `json:"by,omitempty"`
	// quiet is the time without another event after which a group closes, for example 5s.
	// +optional
	// +kubebuilder:default="5s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9.]+(ns|us|ms|s|m|h))+$') && duration(self) > duration('0s')",message="must be longer than 0s, for example 90s; the largest unit is h"
	Quiet metav1.Duration `json:"quiet,omitzero"`
	// maxWait is the longest time from the first event of a group until it closes, for example 1m.
	// +optional
	// +kubebuilder:default="1m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9.]+(ns|us|ms|s|m|h))+$') && duration(self) > duration('0s') && duration(self) <= duration('24h')",message="must be longer than 0s, and at most 24h, for example 90s; the largest unit is h"
	MaxWait metav1.Duration `json:"maxWait,omitzero"`
	// maxEvents is the largest number of events in a group, for example 500.
	// +optional
	// +kubebuilder:default=500
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=5000
	MaxEvents int32 `json:"maxEvents,omitempty"`
	// net leaves out the NetBox objects whose changes in the group come to nothing, for example true: they were created and deleted in it, or
	// are as before. If none is left, the actions are skipped.
	// +optional
	Net bool `json:"net,omitempty"`
}

// Values of group.by that are not expressions.
const (
	// GroupByRequest is for the events of one request id of a source.
	GroupByRequest = "Request"
	// GroupByObject is for the events of one NetBox object.
	GroupByObject = "Object"
	// GroupByRule is for all events of the rule.
	GroupByRule = "Rule"
)

// Limit bounds the deliveries of a rule. A delivery is the execution of its due actions for one event.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="!has(self.key) || has(self.concurrency)",message="key divides concurrency: set concurrency, or remove key"
type Limit struct {
	// perSecond is the maximum rate of deliveries, for example 10.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	PerSecond int32 `json:"perSecond,omitempty"`
	// concurrency is the maximum number of deliveries at the same time, for example 4. A delivery that waits for an object (apply.wait)
	// counts; one that waits for its next attempt does not.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	Concurrency int32 `json:"concurrency,omitempty"`
	// key is an expression in CEL: concurrency bounds the deliveries for each of its values, for example data.site.slug.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Key string `json:"key,omitempty"`
}

// Lookup is a request to NetBox: a GET of a path, or a query in GraphQL. An answer of more than 1 MiB is an error.
//
// +kubebuilder:validation:ExactlyOneOf=path;graphql
type Lookup struct {
	// name of the answer in expressions, for example device for lookups.device.
	// +required
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[A-Za-z_][A-Za-z0-9_]*$`
	Name string `json:"name,omitempty"`
	// path is a path of NetBox's REST API, with a query if needed, for example /api/dcim/devices/${data.device.id}/. The value of a template
	// is escaped to one segment of the path or query.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self.startsWith('/api/')",message="must begin with /api/"
	Path string `json:"path,omitempty"`
	// graphql is a query in GraphQL; the answer is its data.
	// +optional
	GraphQL *GraphQLQuery `json:"graphql,omitempty"`
}

// GraphQLQuery is a query to NetBox in GraphQL.
type GraphQLQuery struct {
	// query is the text of the query, for example query($id: ID!) { device(id: $id) { name } }. It holds no templates: use variables.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=16384
	Query string `json:"query,omitempty"`
	// variables of the query. Their texts may hold templates: where ${…} is the whole text, the value keeps its type. For example {"id":
	// "${data.device.id}"}.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Variables JSONObject `json:"variables,omitzero"`
}

// RuleSecret is an entry of a Secret for the templates of a rule's http actions.
type RuleSecret struct {
	// name of the value in templates, for example token for ${secrets.token}.
	// +required
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[A-Za-z_][A-Za-z0-9_]*$`
	Name string `json:"name,omitempty"`
	// secretKeyRef names the entry, for example {"name": "slack", "key": "token"}. White space at its end is ignored.
	// +required
	SecretKeyRef SecretKeyReference `json:"secretKeyRef,omitzero"`
}

// Match selects the events of a rule. Upper and lower case make no difference in its lists.
type Match struct {
	// sources are the names of NetBoxSources, for example ["netbox"].
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	Sources []string `json:"sources,omitempty"`
	// branches are branches of the plugin netbox-branching, for example ["main", "Rack move"], or ["*"] for all. Absent: main alone, because a
	// change in a branch is not in effect before the branch is merged.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	Branches []string `json:"branches,omitempty"`
	Filter   `json:",inline"`
}

// Filter selects events. Each list matches if any of its entries does; an absent list matches all events. Upper and lower case make no
// difference in the lists.
type Filter struct {
	// events are the kinds of events, for example ["created", "updated"].
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	Events []string `json:"events,omitempty"`
	// objectTypes are types of objects, or all of one application, for example ["dcim.device", "virtualization.*"].
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:Pattern=`^[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+|\*)$`
	ObjectTypes []string `json:"objectTypes,omitempty"`
	// changedFields limits updates to those that changed one of these fields, for example ["status", "custom_fields.owner"]. All other events
	// match: a creation or a deletion changes all fields. An update without a snapshot from before it does not match: some have none, and all
	// before NetBox 2.11.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	ChangedFields []string `json:"changedFields,omitempty"`
	// cel is an expression in CEL that must be true, for example changedTo("status", "active") && data.role.slug == "leaf". If it fails on an
	// event, for example because of a missing key, a rule does not match the event, and reports the error in the event's status; a source
	// stores the event.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	CEL string `json:"cel,omitempty"`
}

// Order is the processing order of events.
//
// +kubebuilder:validation:Enum=PerObject;None
type Order string

const (
	// OrderPerObject processes the events of a NetBox object in order.
	OrderPerObject Order = "PerObject"
	// OrderNone processes events independently.
	OrderNone Order = "None"
)

// Retry limits the time and number of attempts of an action.
type Retry struct {
	// for is the time limit of an action, for example 24h, from the start of processing of the event or its replay, or from when the actions
	// in dependsOn succeeded. An action that has not succeeded by then fails permanently.
	// +optional
	// +kubebuilder:default="24h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9.]+(ns|us|ms|s|m|h))+$') && duration(self) > duration('0s') && duration(self) <= duration('720h')",message="must be longer than 0s, and at most 720h, for example 90s; the largest unit is h"
	For metav1.Duration `json:"for,omitzero"`
	// maxAttempts is the limit of attempts, for example 10. Without it, only for limits an action. Attempts that the sink throttles
	// (Retry-After) are not counted.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	MaxAttempts int32 `json:"maxAttempts,omitempty"`
	// backoff is the pause after the first failure, for example 1s. It doubles with each further failure, up to maxBackoff. Jitter shortens
	// each pause by up to a half, so that retries are spread.
	// +optional
	// +kubebuilder:default="1s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9.]+(ns|us|ms|s|m|h))+$') && duration(self) > duration('0s')",message="must be longer than 0s, for example 90s; the largest unit is h"
	Backoff metav1.Duration `json:"backoff,omitzero"`
	// maxBackoff is the longest pause, for example 5m. A sink may ask for a longer one by Retry-After, up to one hour.
	// +optional
	// +kubebuilder:default="5m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9.]+(ns|us|ms|s|m|h))+$') && duration(self) > duration('0s') && duration(self) <= duration('24h')",message="must be longer than 0s, and at most 24h, for example 90s; the largest unit is h"
	MaxBackoff metav1.Duration `json:"maxBackoff,omitzero"`
	// timeout bounds each attempt, for example 10s.
	// +optional
	// +kubebuilder:default="10s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9.]+(ns|us|ms|s|m|h))+$') && duration(self) > duration('0s') && duration(self) <= duration('5m')",message="must be longer than 0s, and at most 5m, for example 90s; the largest unit is h"
	Timeout metav1.Duration `json:"timeout,omitzero"`
}

// Action is one action of a rule.
//
// +kubebuilder:validation:ExactlyOneOf=http;apply;event;log
type Action struct {
	// name identifies the action in its rule, for example announce.
	// +required
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`
	// when is an expression in CEL: the action is skipped unless it is true, for example event.event != "deleted". It may use results of the
	// actions in dependsOn.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	When string `json:"when,omitempty"`
	// dependsOn are earlier actions of the list, for example ["create"]. The action waits until all of them have succeeded, and is skipped if
	// one fails permanently or is skipped. It may use their results, and those of the actions that these depend on, for example
	// ${results.create.response.body.id} of an http action, or ${results.job.object.metadata.name} of an apply action.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=63
	DependsOn []string `json:"dependsOn,omitempty"`
	// http sends a request to a URL: the event, or a body of any shape.
	// +optional
	HTTP *HTTPAction `json:"http,omitempty"`
	// apply creates, updates or deletes Kubernetes objects, as the rule's service account.
	// +optional
	Apply *ApplyAction `json:"apply,omitempty"`
	// event writes a Kubernetes Event on the NetBoxEvent.
	// +optional
	Event *EventAction `json:"event,omitempty"`
	// log writes a line to the operator's log.
	// +optional
	Log *LogAction `json:"log,omitempty"`
}

// HTTPAction sends a request to a URL. A response of 2xx is success, unless an expression decides; 408, 425, 429, 5xx and network errors
// are retried; any other response, redirects included, is a permanent failure.
//
// +kubebuilder:validation:XValidation:rule="!has(self.body) || !has(self.format)",message="a request has either a body or a format; remove one of them"
// +kubebuilder:validation:XValidation:rule="!has(self.auth) || !has(self.headers) || !self.headers.exists(h, h.name.lowerAscii() == 'authorization')",message="auth sets the header Authorization; remove one of them"
// +kubebuilder:validation:XValidation:rule="!has(self.method) || self.method != 'GET' || !has(self.body) && !has(self.format)",message="a GET request has no body; remove body and format, or use another method"
type HTTPAction struct {
	// url is the URL of the sink, for example https://hooks.example.com/netbox/${event.objectType}. The value of a template is escaped to one
	// segment of the path or query.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	URL string `json:"url,omitempty"`
	// body of the request, for example {"json": {"text": "${data.name} is ${postchange.status}"}}. Absent: the event, in the given format.
	// +optional
	Body *HTTPBody `json:"body,omitempty"`
	// format is the format of the event in a request without body. CloudEvent, which is the default, is a CloudEvents 1.0 event in structured
	// mode, CloudEventBinary one in binary mode, both with the event's spec as data; NetBox is the original body. Of a rule with group,
	// CloudEvent is one event of type io.netbox-events.group with the group's id and events as data, and CloudEventBatch a batch of
	// CloudEvents.
	// +optional
	Format HTTPFormat `json:"format,omitempty"`
	// method of the request, for example PUT. Absent: POST. A GET request has no body.
	// +optional
	// +kubebuilder:validation:Enum=GET;POST;PUT;PATCH;DELETE
	Method string `json:"method,omitempty"`
	// headers are added to the request, for example [{"name": "Authorization", "value": "Bearer ${secrets.token}"}].
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.exists_one(b, a.name.lowerAscii() == b.name.lowerAscii()))",message="duplicate header name; names are case-insensitive"
	Headers []HTTPHeader `json:"headers,omitempty"`
	// auth authenticates the request by the header Authorization, for example {"basic": {"secretRef": {"name": "sink"}}}.
	// +optional
	Auth *HTTPAuth `json:"auth,omitempty"`
	// signingSecretRef names the entry of a Secret that is the key for signing the body as NetBox does: X-Hook-Signature is the HMAC-SHA512 of
	// the body in hex. White space at the end of the entry is ignored. For example {"name": "relay", "key": "secret"}.
	// +optional
	SigningSecretRef *SecretKeyReference `json:"signingSecretRef,omitempty"`
	// tls configures the trusted CA and the client certificate.
	// +optional
	TLS *HTTPTLS `json:"tls,omitempty"`
	// success is an expression in CEL that decides whether the request succeeded, for example response.status in [200, 409]. It may use
	// response.status, response.headers, whose names are in lower case, and response.body, which is decoded if it is JSON, otherwise a text.
	// Absent: a status of 2xx. If it is false for a 2xx, the request is retried.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Success string `json:"success,omitempty"`
}

// HTTPBody is the body of a request: one of json, text and form.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="!has(self.contentType) || has(self.text)",message="contentType is for text; json and form have a type of their own"
// +kubebuilder:validation:XValidation:rule="!has(self.text) || !has(self.form)",message="a body is either text or form"
type HTTPBody struct {
	// json is any JSON. Its texts may hold templates: where ${…} is the whole text, the value keeps its type; where it is part of it, it
	// becomes text. For example {"text": "${data.name} is ${postchange.status}"}.
	// +optional
	JSON *JSON `json:"json,omitempty"`
	// text is a text that may hold templates, for example ${data.name} is active.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=65536
	Text string `json:"text,omitempty"`
	// contentType of text, by default text/plain; charset=utf-8.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	ContentType string `json:"contentType,omitempty"`
	// form holds the values of a form by name, for example {"ref": "main", "variables[SITE]": "${data.site.slug}"}. They may contain
	// templates, and are sent encoded, as application/x-www-form-urlencoded.
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=64
	Form map[string]string `json:"form,omitempty"`
}

// HTTPFormat is the format of a request to a sink.
//
// +kubebuilder:validation:Enum=CloudEvent;CloudEventBinary;CloudEventBatch;NetBox
type HTTPFormat string

const (
	// FormatCloudEvent is a CloudEvents 1.0 event in structured mode.
	FormatCloudEvent HTTPFormat = "CloudEvent"
	// FormatCloudEventBinary is a CloudEvents 1.0 event in binary mode.
	FormatCloudEventBinary HTTPFormat = "CloudEventBinary"
	// FormatCloudEventBatch is a batch of CloudEvents 1.0 events, of a group.
	FormatCloudEventBatch HTTPFormat = "CloudEventBatch"
	// FormatNetBox is the original body: equal as JSON, except for redacted values.
	FormatNetBox HTTPFormat = "NetBox"
)

// HTTPHeader is a header of a request.
type HTTPHeader struct {
	// name of the header, for example Authorization.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[-!#$%&'*+.^_|~0-9A-Za-z]+$`
	// +kubebuilder:validation:XValidation:rule="!(self.lowerAscii() in ['host', 'content-length', 'transfer-encoding', 'connection', 'x-hook-signature'])",message="Host, Content-Length, Transfer-Encoding, Connection and X-Hook-Signature are reserved for the operator"
	Name string `json:"name,omitempty"`
	// value is a text that may contain templates, for example ${event.objectType}.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	Value string `json:"value,omitempty"`
}

// HTTPAuth authenticates a request: one of basic, oauth2 and serviceAccountToken.
//
// +kubebuilder:validation:ExactlyOneOf=basic;oauth2;serviceAccountToken
type HTTPAuth struct {
	// basic sends a user name and a password.
	// +optional
	Basic *BasicAuth `json:"basic,omitempty"`
	// oauth2 sends a token that the operator gets by OAuth 2.0 client credentials.
	// +optional
	OAuth2 *OAuth2 `json:"oauth2,omitempty"`
	// serviceAccountToken sends a token of the rule's service account, which the sink verifies with the API server.
	// +optional
	ServiceAccountToken *ServiceAccountToken `json:"serviceAccountToken,omitempty"`
}

// BasicAuth is HTTP basic authentication.
type BasicAuth struct {
	// secretRef names a Secret of type kubernetes.io/basic-auth, with the entries username and password, for example {"name": "sink"}. White
	// space at the end of an entry is ignored.
	// +required
	SecretRef SecretReference `json:"secretRef,omitzero"`
}

// OAuth2 gets tokens by OAuth 2.0 client credentials. They are kept in memory, and renewed before they expire, and when the sink responds
// with 401.
type OAuth2 struct {
	// tokenURL is the token endpoint, for example https://login.example.com/oauth2/token. The tls of the action applies to it as well.
	// +required
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self.matches('^https?://[^/?#@$]+([/?][^#$]*)?$')",message="must be an http or https URL, without a password, a fragment and templates"
	TokenURL string `json:"tokenURL,omitempty"`
	// clientID of the operator at the token endpoint, for example netbox-events.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	ClientID string `json:"clientID,omitempty"`
	// clientSecretRef names the entry of a Secret with the client secret, for example {"name": "sink", "key": "client-secret"}. White space at
	// its end is ignored.
	// +required
	ClientSecretRef SecretKeyReference `json:"clientSecretRef,omitzero"`
	// scopes to request, for example ["events.write"].
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	Scopes []string `json:"scopes,omitempty"`
}

// ServiceAccountToken is a token of the rule's service account.
type ServiceAccountToken struct {
	// audience that the token is for, for example https://relay.example.com. The sink must refuse tokens for other audiences.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Audience string `json:"audience,omitempty"`
}

// SecretKeyReference names one entry of a Secret in the same namespace.
type SecretKeyReference struct {
	// name of the Secret, for example sink.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`
	// key is the entry, for example authorization.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[-._a-zA-Z0-9]+$`
	Key string `json:"key,omitempty"`
}

// SecretReference names a Secret in the same namespace.
type SecretReference struct {
	// name of the Secret, for example client-tls.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`
}

// ConfigMapKeyReference names one entry of a ConfigMap in the same namespace.
type ConfigMapKeyReference struct {
	// name of the ConfigMap, for example ca-bundle.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`
	// key is the entry, for example ca.crt.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[-._a-zA-Z0-9]+$`
	Key string `json:"key,omitempty"`
}

// HTTPTLS configures the trusted CA and the client certificate of a request.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="!has(self.caSecretRef) || !has(self.caConfigMapRef)",message="CAs come from either caSecretRef or caConfigMapRef; remove one of them"
type HTTPTLS struct {
	// caSecretRef names the entry of a Secret with the PEM certificates of the CAs that may sign the server's certificate, for example
	// {"name": "ca", "key": "ca.crt"}. Without it and caConfigMapRef, the system's CAs are trusted.
	// +optional
	CASecretRef *SecretKeyReference `json:"caSecretRef,omitempty"`
	// caConfigMapRef names the entry of a ConfigMap with these certificates, for example {"name": "ca-bundle", "key": "ca.crt"}.
	// +optional
	CAConfigMapRef *ConfigMapKeyReference `json:"caConfigMapRef,omitempty"`
	// clientCertSecretRef names a Secret of type kubernetes.io/tls that holds the client's certificate and key, for example {"name":
	// "client-tls"}.
	// +optional
	ClientCertSecretRef *SecretReference `json:"clientCertSecretRef,omitempty"`
}

// ApplyAction creates, updates or deletes Kubernetes objects, as the rule's service account.
//
// +kubebuilder:validation:XValidation:rule="!has(self.ownedByEvent) || !self.ownedByEvent || !has(self.operation) || self.operation != 'Delete'",message="ownedByEvent has no effect on the operation Delete: remove it"
// +kubebuilder:validation:XValidation:rule="!has(self.force) || !self.force || !has(self.operation) || self.operation != 'Create'",message="force has no effect on the operation Create: remove it"
// +kubebuilder:validation:XValidation:rule="!has(self.ownedByEvent) || !self.ownedByEvent || !has(self.operation) || self.operation != 'Mirror'",message="the objects of the operation Mirror outlive their events: remove ownedByEvent"
// +kubebuilder:validation:XValidation:rule="!has(self.wait) || !has(self.operation) || self.operation != 'Delete'",message="wait has no effect on the operation Delete: remove it"
type ApplyAction struct {
	// template is an object, or a List of apiVersion v1 with several objects in its items. Its texts may contain templates: if ${…} is the
	// whole text, the value keeps its type; otherwise it is converted to text. Names are deterministic for an event: without a metadata.name,
	// the name is metadata.generateName, or else the rule's name, and a hash of the event, or with operation Mirror of the NetBox object.
	// +required
	// +mapType=atomic
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:MinProperties=1
	Template JSONObject `json:"template,omitzero"`
	// operation is Apply, Create, Delete or Mirror. Apply, which is the default, creates or updates the objects by server-side apply, and
	// fails if a field manager other than the rules of this operator owns a field of the template, unless force is set. Create creates missing
	// objects, and fails if an object exists that another event created. Delete deletes objects, of which the template needs kind and name
	// alone: those that rules of this operator created, or any with force; it succeeds if they do not exist. Mirror keeps one object for each
	// NetBox object: it applies it when the NetBox object is created or updated, and deletes it when that is deleted or no longer matches the
	// rule.
	// +optional
	Operation ApplyOperation `json:"operation,omitempty"`
	// force takes over the fields of the template from any field manager that owns them, or deletes an object that others created, for
	// example true.
	// +optional
	Force bool `json:"force,omitempty"`
	// ownedByEvent makes the event the owner of the objects, so that they are deleted with it, for example true. The objects must be in the
	// event's namespace.
	// +optional
	OwnedByEvent bool `json:"ownedByEvent,omitempty"`
	// wait makes the action wait for its objects, for example {"success": "object.?status.?succeeded.orValue(0) > 0", "failure":
	// "object.?status.?failed.orValue(0) > 2", "timeout": "30m"}: it succeeds or fails as they do. Absent: the action succeeds when they are
	// written.
	// +optional
	Wait *ApplyWait `json:"wait,omitempty"`
}

// ApplyWait makes an action wait for its objects. The service account needs to get them.
type ApplyWait struct {
	// success is an expression in CEL over the variable object, for example object.?status.?succeeded.orValue(0) > 0: the action succeeds when
	// it is true for all objects of the template. An expression that fails, because of a missing key for example, is not true yet.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Success string `json:"success,omitempty"`
	// failure is an expression in CEL over the variable object, for example object.?status.?failed.orValue(0) > 2: the attempt fails when it
	// is true for an object. The next attempt deletes the failed object, if it is this event's own, and creates it again.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Failure string `json:"failure,omitempty"`
	// timeout bounds the wait, for example 30m. After it the attempt fails. Absent: 30m.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9.]+(ns|us|ms|s|m|h))+$') && duration(self) > duration('0s') && duration(self) <= duration('24h')",message="must be longer than 0s, and at most 24h, for example 90s; the largest unit is h"
	Timeout metav1.Duration `json:"timeout,omitzero"`
}

// ApplyOperation is the operation of an apply action.
//
// +kubebuilder:validation:Enum=Apply;Create;Delete;Mirror
type ApplyOperation string

const (
	// OperationApply is a server-side apply.
	OperationApply ApplyOperation = "Apply"
	// OperationCreate is a creation.
	OperationCreate ApplyOperation = "Create"
	// OperationDelete is a deletion.
	OperationDelete ApplyOperation = "Delete"
	// OperationMirror is a server-side apply or a deletion, by the newest event of the NetBox object.
	OperationMirror ApplyOperation = "Mirror"
)

// Labels of the objects of apply actions. A name that is too long for a label is truncated.
const (
	// LabelEvent is, on the objects of apply actions, the name of the event.
	LabelEvent = "netbox-events.io/event"
	// LabelRule is, on the objects of apply actions, the name of the rule.
	LabelRule = "netbox-events.io/rule"
	// LabelObject is, on the objects of the operation Mirror, a hash of the NetBox object, and one of the rule's and the action's names.
	LabelObject = "netbox-events.io/object"
)

// AnnotationTimestamp is, on the objects of the operation Mirror, the timestamp of the event that wrote them.
const AnnotationTimestamp = "netbox-events.io/timestamp"

// EventAction writes a Kubernetes Event on the NetBoxEvent.
type EventAction struct {
	// type is Normal or Warning, for example Warning. Absent: Normal.
	// +optional
	// +kubebuilder:validation:Enum=Normal;Warning
	Type string `json:"type,omitempty"`
	// reason is a machine-readable word, for example DeviceActive.
	// +required
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[A-Za-z][A-Za-z0-9]*$`
	Reason string `json:"reason,omitempty"`
	// message is a human-readable text that may contain templates, for example ${data.name} is active. It is truncated to 1024 bytes.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Message string `json:"message,omitempty"`
}

// LogAction writes a line to the operator's log.
type LogAction struct {
	// message is a text that may contain templates, for example ${event.objectName} by ${event.username}. It is truncated to 4096 bytes.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Message string `json:"message,omitempty"`
}

// Conditions of a NetBoxEventRule and their reasons. ConditionReady, as of a source, is True with ReasonCompiled, ReasonDryRun or
// ReasonSuspended, and False with ReasonInvalid.
const (
	// ConditionStalled is True while the rule is invalid, which a retry does not change. It is absent otherwise. Tools that evaluate
	// conditions by kstatus, such as Flux and Argo CD, then report a failure instead of progress.
	ConditionStalled = "Stalled"

	// ReasonCompiled means that the rule's expressions and templates are valid. The message names the entries of spec.match that match no
	// event.
	ReasonCompiled = "Compiled"
	// ReasonDryRun means the same of a rule whose spec.dryRun is true: its actions are not executed.
	ReasonDryRun = "DryRun"
	// ReasonInvalid means that an expression or a template is invalid.
	ReasonInvalid = "Invalid"

	// ConditionSinkAvailable is False while deliveries of one of the rule's actions wait for its sink, which failed several times in a row or
	// throttles. It is absent until that has happened once.
	ConditionSinkAvailable = "SinkAvailable"

	// ReasonAvailable means that no delivery waits for a sink.
	ReasonAvailable = "Available"
	// ReasonUnavailable means that a sink failed several times in a row: one delivery at a time probes whether it has recovered.
	ReasonUnavailable = "Unavailable"
	// ReasonAskedToWait means that a sink throttles with Retry-After or 429: deliveries continue after a pause, at the rate that the sink
	// accepts.
	ReasonAskedToWait = "AskedToWait"
)

// NetBoxEventRuleStatus reports whether a rule is in use, and counts its events. The counts are updated at least every 15 s; counts since
// the last update are lost when the operator stops.
type NetBoxEventRuleStatus struct {
	// conditions holds Ready: True with reason Compiled, Suspended or DryRun, or False with reason Invalid and the errors; Stalled if the rule
	// is invalid; and, once a sink was unavailable, SinkAvailable: False with reason Unavailable or AskedToWait, the time and the cause.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// matched is the number of events that matched, for example 12.
	// +optional
	Matched int64 `json:"matched"`
	// failed is the number of them that failed permanently, for example 0.
	// +optional
	Failed int64 `json:"failed"`
	// lastMatched is the time of the last match, for example 2020-10-26T18:14:19Z.
	// +optional
	LastMatched *metav1.Time `json:"lastMatched,omitempty"`
	// expressionErrors is the number of events on which the expression failed, for example 0. A typical cause is a missing key.
	// +optional
	ExpressionErrors int64 `json:"expressionErrors"`
	// lastExpressionError is the last error of the expression, for example "site-14-created-3f9c2a7be1d04c55a1b2: data.role: no such key; data
	// has id, name, slug, status, tags".
	// +optional
	LastExpressionError string `json:"lastExpressionError,omitempty"`
	// observedGeneration is the generation of the spec that conditions refer to, for example 1.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
}

// NetBoxEventRuleList is a list of NetBoxEventRules.
//
// +kubebuilder:object:root=true
type NetBoxEventRuleList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []NetBoxEventRule `json:"items"`
}
