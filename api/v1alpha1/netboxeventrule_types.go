package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NetBoxEventRule says which events of its namespace matter, and what to do about them.
//
// Texts may hold templates: ${…} takes an expression in CEL (the Common Expression Language), and $${ stands for ${ itself. Expressions
// see event (the fields of a NetBoxEvent's spec, and its name and namespace), data, prechange, postchange and now, and may call
// changed("status") and changedTo("status", "active").
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=nber,categories=netbox
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Matched",type=integer,JSONPath=`.status.matched`
// +kubebuilder:printcolumn:name="Failed",type=integer,JSONPath=`.status.failed`
// +kubebuilder:printcolumn:name="Last Matched",type=date,JSONPath=`.status.lastMatched`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Service Account",type=string,JSONPath=`.spec.serviceAccountName`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].message`,priority=1
type NetBoxEventRule struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec says which events matter, and what to do about them.
	// +required
	Spec NetBoxEventRuleSpec `json:"spec,omitzero"`
	// status says whether the rule is in use, and how often it was.
	// +optional
	Status NetBoxEventRuleStatus `json:"status,omitzero"`
}

// NetBoxEventRuleSpec says which events matter, and what to do about them.
//
// +kubebuilder:validation:XValidation:rule="has(self.serviceAccountName) || !self.actions.exists(a, has(a.apply))",message="a rule with an apply action must name the serviceAccountName that it acts as"
type NetBoxEventRuleSpec struct {
	// match says which events matter: those that fit all of it. Without it all events of the namespace do.
	// +optional
	Match Match `json:"match,omitzero"`

	// order is PerObject or None, for example PerObject: the events of one NetBox object are done one after the other, and one that fails
	// holds those behind it until it succeeds or fails permanently. With None no event waits for another.
	// +optional
	// +kubebuilder:default=PerObject
	Order Order `json:"order,omitempty"`

	// retry says how long and how often an action is tried, for example {"for": "24h", "backoff": "1s", "maxBackoff": "5m", "timeout":
	// "10s"}.
	// +optional
	// +kubebuilder:default={}
	Retry Retry `json:"retry,omitzero"`

	// secrets are entries of Secrets, in the rule's namespace, for templates of http actions: ${secrets.token} is the value of the one with the
	// name token, for example [{"name": "token", "secretKeyRef": {"name": "slack", "key": "token"}}].
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Secrets []RuleSecret `json:"secrets,omitempty"`

	// serviceAccountName is the service account, in the rule's namespace, that apply actions act as, for example provisioner. The operator
	// must be allowed to impersonate it, and so must the author of the rule.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	ServiceAccountName string `json:"serviceAccountName,omitempty"`

	// actions are what is done about an event, in this order. One that fails is retried by itself: those after it do not wait.
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Actions []Action `json:"actions,omitempty"`
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

// Match says which events matter to a rule.
type Match struct {
	// sources are names of NetBoxSources, for example ["netbox"].
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	Sources []string `json:"sources,omitempty"`
	Filter  `json:",inline"`
}

// Filter selects events. Each list asks for any of its entries; a list that is absent asks for nothing.
type Filter struct {
	// events are what happened, for example ["created", "updated"].
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
	// changedFields narrows updates to those that changed one of these fields, for example ["status"]. Every other event passes: a creation
	// or a deletion changes all fields. NetBox tells what an update changed from 2.11 on; before, no update passes.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	ChangedFields []string `json:"changedFields,omitempty"`
	// cel is an expression in CEL that must be true, for example changedTo("status", "active") && data.role.slug == "leaf". Where it fails on
	// an event, as where a key is missing, a rule does not match the event, whose status says so, and a source stores it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	CEL string `json:"cel,omitempty"`
}

// Order says what waits for what.
//
// +kubebuilder:validation:Enum=PerObject;None
type Order string

const (
	// OrderPerObject does the events of one NetBox object one after the other.
	OrderPerObject Order = "PerObject"
	// OrderNone does every event as soon as it comes.
	OrderNone Order = "None"
)

// Retry says how long and how often an action is tried.
type Retry struct {
	// for is how long an action is tried, for example 24h, counted from when the operator began to process the event, or its replay. An
	// action that has not succeeded by then fails permanently.
	// +optional
	// +kubebuilder:default="24h"
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s') && duration(self) <= duration('720h')",message="must be longer than 0s, and at most 720h"
	For metav1.Duration `json:"for,omitzero"`
	// maxAttempts is how often an action is tried, for example 10. Absent: as often as for allows. An attempt that the sink answers by asking
	// to wait (Retry-After) is not counted.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	MaxAttempts int32 `json:"maxAttempts,omitempty"`
	// backoff is the pause after the first failure, for example 1s. It doubles with each further one, up to maxBackoff; up to half of it is
	// left off by chance, so that not all come back at once.
	// +optional
	// +kubebuilder:default="1s"
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="must be longer than 0s"
	Backoff metav1.Duration `json:"backoff,omitzero"`
	// maxBackoff is the longest pause, for example 5m. Only a sink that asks for more by Retry-After gets it, up to one hour.
	// +optional
	// +kubebuilder:default="5m"
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s') && duration(self) <= duration('24h')",message="must be longer than 0s, and at most 24h"
	MaxBackoff metav1.Duration `json:"maxBackoff,omitzero"`
	// timeout bounds each attempt, for example 10s.
	// +optional
	// +kubebuilder:default="10s"
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s') && duration(self) <= duration('5m')",message="must be longer than 0s, and at most 5m"
	Timeout metav1.Duration `json:"timeout,omitzero"`
}

// Action is one thing that is done.
//
// +kubebuilder:validation:ExactlyOneOf=http;apply;event;log
type Action struct {
	// name tells the actions of a rule apart, for example announce.
	// +required
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`
	// http sends the event to a URL.
	// +optional
	HTTP *HTTPAction `json:"http,omitempty"`
	// apply makes Kubernetes objects, as the rule's service account.
	// +optional
	Apply *ApplyAction `json:"apply,omitempty"`
	// event writes a Kubernetes Event on the NetBoxEvent.
	// +optional
	Event *EventAction `json:"event,omitempty"`
	// log writes a line to the operator's log.
	// +optional
	Log *LogAction `json:"log,omitempty"`
}

// HTTPAction sends a request to a URL. An answer of 2xx is success; 408, 425, 429, 5xx and faults of the network are retried; any
// other answer, redirects included, is final.
//
// +kubebuilder:validation:XValidation:rule="!has(self.body) || !has(self.format)",message="a request has either a body or a format; remove one of them"
// +kubebuilder:validation:XValidation:rule="!has(self.method) || self.method != 'GET' || !has(self.body) && !has(self.format)",message="a GET request has no body; remove body and format, or use another method"
type HTTPAction struct {
	// url is where to send to, for example https://hooks.example.com/netbox/${event.objectType}. A value becomes one part of the path or of
	// the query, whatever it holds.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	URL string `json:"url,omitempty"`
	// body of the request, for example {"json": {"text": "${data.name} is ${postchange.status}"}}. Without it the event is sent, as format says.
	// +optional
	Body *HTTPBody `json:"body,omitempty"`
	// format of the event in a request without body, by default CloudEvent, which is a CloudEvents 1.0 event in structured mode.
	// CloudEventBinary is one in binary mode, also with the event's spec as data; NetBox is the body as NetBox sent it.
	// +optional
	Format HTTPFormat `json:"format,omitempty"`
	// method of the request, by default POST. A GET request has no body.
	// +optional
	// +kubebuilder:validation:Enum=GET;POST;PUT;PATCH;DELETE
	Method string `json:"method,omitempty"`
	// headers are added to the request, for example [{"name": "Authorization", "value": "Bearer ${secrets.token}"}].
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.exists_one(b, a.name.lowerAscii() == b.name.lowerAscii()))",message="a header is named twice; upper and lower case make no difference"
	Headers []HTTPHeader `json:"headers,omitempty"`
	// signingSecretRef names the entry of a Secret with which the body is signed as NetBox does it: X-Hook-Signature is the HMAC-SHA512 of
	// the body in hex. White space at the end of the entry is ignored. For example {"name": "relay", "key": "secret"}.
	// +optional
	SigningSecretRef *SecretKeyReference `json:"signingSecretRef,omitempty"`
	// tls says whom to trust and who to be.
	// +optional
	TLS *HTTPTLS `json:"tls,omitempty"`
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
	// form holds the values of a form by name, for example {"ref": "main", "variables[SITE]": "${data.site.slug}"}. They may hold templates, and
	// are sent encoded, as application/x-www-form-urlencoded.
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=64
	Form map[string]string `json:"form,omitempty"`
}

// HTTPFormat is what is sent to a sink.
//
// +kubebuilder:validation:Enum=CloudEvent;CloudEventBinary;NetBox
type HTTPFormat string

const (
	// FormatCloudEvent is a CloudEvents 1.0 event in structured mode.
	FormatCloudEvent HTTPFormat = "CloudEvent"
	// FormatCloudEventBinary is a CloudEvents 1.0 event in binary mode.
	FormatCloudEventBinary HTTPFormat = "CloudEventBinary"
	// FormatNetBox is the body as NetBox sent it: equal as JSON, but for what was redacted.
	FormatNetBox HTTPFormat = "NetBox"
)

// HTTPHeader is a header of a request.
type HTTPHeader struct {
	// name of the header, for example Authorization.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[-!#$%&'*+.^_|~0-9A-Za-z]+$`
	// +kubebuilder:validation:XValidation:rule="!(self.lowerAscii() in ['host', 'content-length', 'transfer-encoding', 'connection', 'x-hook-signature'])",message="Host, Content-Length, Transfer-Encoding, Connection and X-Hook-Signature are the operator's own"
	Name string `json:"name,omitempty"`
	// value is a text that may hold templates, for example ${event.objectType}.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	Value string `json:"value,omitempty"`
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

// HTTPTLS says whom a request trusts and who it is.
//
// +kubebuilder:validation:MinProperties=1
type HTTPTLS struct {
	// caSecretRef names the entry of a Secret that holds the certificates, in PEM, that the server's must be signed by, for example {"name":
	// "ca", "key": "ca.crt"}. Without it those of the operating system are trusted.
	// +optional
	CASecretRef *SecretKeyReference `json:"caSecretRef,omitempty"`
	// clientCertSecretRef names a Secret of type kubernetes.io/tls that holds the client's certificate and key, for example {"name":
	// "client-tls"}.
	// +optional
	ClientCertSecretRef *SecretReference `json:"clientCertSecretRef,omitempty"`
}

// ApplyAction makes Kubernetes objects, as the rule's service account.
type ApplyAction struct {
	// template is an object, or a List of apiVersion v1 with several in its items. Its texts may hold templates: where ${…} is the whole
	// text, the value keeps its type; where it is part of it, it becomes text. Names are the same for the same event: without a
	// metadata.name, one is made of metadata.generateName, or else of the rule's name, and of a hash of the event.
	// +required
	// +mapType=atomic
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:MinProperties=1
	Template JSONObject `json:"template,omitzero"`
	// operation is Apply or Create, for example Apply: Apply makes the objects what the template says, by server-side apply, and fails where
	// another field manager owns a field of it; Create makes them if they are not there, and fails where one is there that another event made.
	// +optional
	// +kubebuilder:default=Apply
	Operation ApplyOperation `json:"operation,omitempty"`
	// ownedByEvent makes the event the owner of the objects, which are then deleted with it, for example true. They must be in the event's
	// namespace.
	// +optional
	OwnedByEvent bool `json:"ownedByEvent,omitempty"`
}

// ApplyOperation is how objects are made.
//
// +kubebuilder:validation:Enum=Apply;Create
type ApplyOperation string

const (
	// OperationApply is a server-side apply.
	OperationApply ApplyOperation = "Apply"
	// OperationCreate is a creation.
	OperationCreate ApplyOperation = "Create"
)

// Labels of what an apply action made. A name that is too long for a label is cut.
const (
	// LabelEvent is the name of the event.
	LabelEvent = "netbox-events.io/event"
	// LabelRule is the name of the rule.
	LabelRule = "netbox-events.io/rule"
)

// EventAction writes a Kubernetes Event on the NetBoxEvent.
type EventAction struct {
	// type is Normal or Warning, for example Normal.
	// +optional
	// +kubebuilder:default=Normal
	// +kubebuilder:validation:Enum=Normal;Warning
	Type string `json:"type,omitempty"`
	// reason is a word for machines, for example DeviceActive.
	// +required
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[A-Za-z][A-Za-z0-9]*$`
	Reason string `json:"reason,omitempty"`
	// message is a text for people that may hold templates, for example ${data.name} is active. It is cut after 1024 bytes.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Message string `json:"message,omitempty"`
}

// LogAction writes a line to the operator's log.
type LogAction struct {
	// message is a text that may hold templates, for example ${event.objectName} by ${event.username}. It is cut after 4096 bytes.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Message string `json:"message,omitempty"`
}

// Conditions of a NetBoxEventRule and their reasons.
const (
	// ConditionAccepted is True while events are matched against the rule.
	ConditionAccepted = "Accepted"

	// ReasonCompiled says that the rule's expressions and templates are good.
	ReasonCompiled = "Compiled"
	// ReasonInvalid says that an expression or a template is not good.
	ReasonInvalid = "Invalid"

	// ConditionSinkAvailable is False while deliveries of one of the rule's actions wait for its sink: it failed several times in a row, or
	// asked to wait. It is there only after that happened once.
	ConditionSinkAvailable = "SinkAvailable"

	// ReasonAvailable says that no delivery waits for a sink.
	ReasonAvailable = "Available"
	// ReasonUnavailable says that a sink failed several times in a row: one delivery at a time probes whether it is back.
	ReasonUnavailable = "Unavailable"
	// ReasonAskedToWait says that a sink answered with Retry-After or 429: deliveries go on after a pause, at the rate that the sink takes.
	ReasonAskedToWait = "AskedToWait"
)

// NetBoxEventRuleStatus says whether a rule is in use, and how often it was. The counts are brought up to date every 15 s or sooner; what
// was counted since is lost where the operator stops.
type NetBoxEventRuleStatus struct {
	// conditions holds Accepted: True with reason Compiled, or False with reason Invalid and what is wrong where; and, once a sink was not
	// available, SinkAvailable: False with reason Unavailable or AskedToWait, since when and why.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// matched is how many events matched, for example 12.
	// +optional
	Matched int64 `json:"matched"`
	// failed is how many of them failed permanently, for example 0.
	// +optional
	Failed int64 `json:"failed"`
	// lastMatched is when an event last matched, for example 2020-10-26T18:14:19Z.
	// +optional
	LastMatched *metav1.Time `json:"lastMatched,omitempty"`
	// expressionErrors is how often the expression failed, for example 0: on an event that lacks a key, for instance.
	// +optional
	ExpressionErrors int64 `json:"expressionErrors"`
	// lastExpressionError is the last such failure, for example "site-14-created-3f9c2a7be1d04c55a1b2: no such key: role".
	// +optional
	LastExpressionError string `json:"lastExpressionError,omitempty"`
	// observedGeneration is the generation of the spec that conditions were made from, for example 1.
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
