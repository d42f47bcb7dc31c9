package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NetBoxEvent is a webhook received from NetBox (or Nautobot): the kind of event, the object, the user, and the data as sent, in one shape
// for all versions.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:metadata:annotations="kustomize.toolkit.fluxcd.io/substitute=disabled"
// +kubebuilder:resource:shortName=nbe,categories=netbox
// +kubebuilder:selectablefield:JSONPath=`.spec.objectType`
// +kubebuilder:selectablefield:JSONPath=`.spec.objectID`
// +kubebuilder:selectablefield:JSONPath=`.spec.event`
// +kubebuilder:selectablefield:JSONPath=`.spec.username`
// +kubebuilder:selectablefield:JSONPath=`.spec.requestID`
// +kubebuilder:selectablefield:JSONPath=`.spec.sourceRef.name`
// +kubebuilder:selectablefield:JSONPath=`.status.phase`
// +kubebuilder:selectablefield:JSONPath=`.status.group`
// +kubebuilder:printcolumn:name="Event",type=string,JSONPath=`.spec.event`
// +kubebuilder:printcolumn:name="Object Type",type=string,JSONPath=`.spec.objectType`
// +kubebuilder:printcolumn:name="Object",type=string,JSONPath=`.spec.objectName`
// +kubebuilder:printcolumn:name="User",type=string,JSONPath=`.spec.username`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Source",type=string,JSONPath=`.spec.sourceRef.name`,priority=1
// +kubebuilder:printcolumn:name="Request ID",type=string,JSONPath=`.spec.requestID`,priority=1
// +kubebuilder:printcolumn:name="Changed Fields",type=string,JSONPath=`.spec.changedFields`,priority=1
// +kubebuilder:printcolumn:name="Origin",type=string,JSONPath=`.spec.delivery.origin`,priority=1
type NetBoxEvent struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec is the received event. It is immutable.
	// +required
	// +structType=atomic
	Spec NetBoxEventSpec `json:"spec,omitzero"`
	// status is the processing state of the event.
	// +optional
	// +kubebuilder:default={phase: Pending}
	// +structType=atomic
	Status NetBoxEventStatus `json:"status,omitzero"`
}

// NetBoxEventSpec is a received event. The texts from event to requestID are truncated to 1024 bytes, which NetBox's own values never
// reach; data and delivery.envelope hold the full texts.
type NetBoxEventSpec struct {
	// sourceRef names the NetBoxSource, in the same namespace, that received the delivery, for example {"name": "netbox"}.
	// +required
	SourceRef SourceReference `json:"sourceRef,omitzero"`
	// event is the kind of event, for example updated: created, updated, deleted, job_started, job_ended, or a name defined by a NetBox
	// plugin.
	// +required
	// +kubebuilder:validation:MinLength=1
	Event string `json:"event,omitempty"`
	// objectType is the type of the object, for example dcim.site. It is empty if NetBox does not send it, as for jobs on a plugin's model
	// before NetBox 4.4.
	// +optional
	ObjectType string `json:"objectType,omitempty"`
	// model is the last part of the object type, for example site.
	// +optional
	Model string `json:"model,omitempty"`
	// objectID is the id of the object in NetBox, as text, for example "14"; a UUID from Nautobot. Job events have none.
	// +optional
	ObjectID string `json:"objectID,omitempty"`
	// objectURL is the URL of the object in NetBox's REST API, for example /api/dcim/sites/14/.
	// +optional
	ObjectURL string `json:"objectURL,omitempty"`
	// objectName is the display name of the object, or else its name, for example Test_site.
	// +optional
	ObjectName string `json:"objectName,omitempty"`
	// branch is the branch of the plugin netbox-branching in which the change was made, for example Rack move. It is empty for main.
	// +optional
	Branch string `json:"branch,omitempty"`
	// username is the NetBox user who made the change, for example admin.
	// +optional
	Username string `json:"username,omitempty"`
	// requestID is NetBox's id of the request that made the change, for example b3dc3247-883f-4810-ad01-0f50ee6b722d. All changes of a
	// bulk edit share it. Job events have none.
	// +optional
	RequestID string `json:"requestID,omitempty"`
	// request describes that request, from NetBox 4.6 on, for example {"id": "…", "method": "PATCH", "path": "/api/dcim/sites/14/", "user":
	// "admin"}.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Request JSONObject `json:"request,omitzero"`
	// timestamp is the time at which NetBox created the delivery, for example 2020-10-26T18:14:18.764443Z.
	// +required
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$`
	Timestamp metav1.MicroTime `json:"timestamp,omitzero"`
	// changedFields are the fields in which the snapshots before and after an update differ, without last_updated, and the custom fields
	// among them, for example ["custom_fields", "custom_fields.owner", "status"]. An update without a snapshot from before it has none.
	// +optional
	// +listType=atomic
	ChangedFields []string `json:"changedFields,omitempty"`
	// data is the object as NetBox's REST API shows it, for example {"id": 14, "name": "Test_site", …}; for job events it is the job's output.
	// It is absent if NetBox sent null.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Data JSONObject `json:"data,omitzero"`
	// snapshots are the object's fields before and after the change, for example {"prechange": {"status": "planned", …}, "postchange":
	// {"status": "active", …}}. They are flat: foreign keys are numbers. NetBox sends them from 2.11 on.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Snapshots JSONObject `json:"snapshots,omitzero"`
	// context is data added by plugins, from NetBox 4.4 on, for example {"ticket": "CHG-1"}.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Context JSONObject `json:"context,omitzero"`
	// extra holds the keys of the body that NetBox does not define, such as those of a webhook's body template, for example {"team": "dc"}.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Extra JSONObject `json:"extra,omitzero"`
	// delivery describes the HTTP delivery of the event, for example {"signature": "Verified", "key": "secret", …}.
	// +required
	Delivery Delivery `json:"delivery,omitzero"`
}

// SourceReference names a NetBoxSource in the same namespace.
type SourceReference struct {
	// name of the NetBoxSource, for example netbox.
	// +required
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name,omitempty"`
}

// SignatureState is the result of the signature check.
//
// +kubebuilder:validation:Enum=Verified;Unsigned
type SignatureState string

const (
	// SignatureVerified means that a key of the source made the signature.
	SignatureVerified SignatureState = "Verified"
	// SignatureUnsigned means that there was no signature or no key to verify, and that the source accepts unsigned deliveries.
	SignatureUnsigned SignatureState = "Unsigned"
)

// Origin is how a change became known.
//
// +kubebuilder:validation:Enum=Webhook;ChangeLog
type Origin string

const (
	// OriginWebhook is for events that NetBox sent.
	OriginWebhook Origin = "Webhook"
	// OriginChangeLog is for changes that the operator found in NetBox's change log.
	OriginChangeLog Origin = "ChangeLog"
)

// LabelPhantom is on the NetBoxEvents whose change is not in NetBox's change log: NetBox sent a webhook for a request that it rolled back.
const LabelPhantom = "netbox-events.io/phantom"

// Delivery describes the HTTP delivery of an event.
type Delivery struct {
	// receivedAt is the time at which the operator had received the whole request, or had read the change log, for example
	// 2020-10-26T18:14:18.801213Z.
	// +required
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$`
	ReceivedAt metav1.MicroTime `json:"receivedAt,omitzero"`
	// origin is how the change became known, for example Webhook: Webhook, or ChangeLog if no webhook came and the operator found it in
	// NetBox's change log. Absent: Webhook.
	// +optional
	Origin Origin `json:"origin,omitempty"`
	// dataReadAt is the time at which spec.data of an event from the change log was read, for example 2020-10-26T18:17:20.000000Z: it is the
	// object of that time. It is absent if spec.data is of the change itself.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$`
	DataReadAt *metav1.MicroTime `json:"dataReadAt,omitempty"`
	// signature is the result of the signature check, for example Verified: Verified, or Unsigned if the source accepts unsigned deliveries.
	// An event from the change log has none.
	// +optional
	Signature SignatureState `json:"signature,omitempty"`
	// key is the name of the Secret's entry that made the signature, for example secret.
	// +optional
	Key string `json:"key,omitempty"`
	// bodySHA256 is the SHA-256 of the body in hex, for example 9f86d081…, computed after redaction. The body of an event from the change log
	// is one that the operator made, in the shape of NetBox's.
	// +required
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	BodySHA256 string `json:"bodySHA256,omitempty"`
	// bodyBytes is the length of the body in bytes, for example 1860.
	// +required
	BodyBytes int64 `json:"bodyBytes"`
	// stringified are JSON pointers from spec to numbers that Kubernetes cannot represent, and that are stored as strings, for example
	// /data/custom_fields/iccid.
	// +optional
	// +listType=atomic
	Stringified []string `json:"stringified,omitempty"`
	// redacted are JSON pointers from spec to values that were replaced by [redacted], for example /data/auth_psk.
	// +optional
	// +listType=atomic
	Redacted []string `json:"redacted,omitempty"`
	// envelope holds the original members of the body that spec stores in another form, from which the body is restored for forwarding: texts
	// that became fields of the event, and nulls. For example {"event": "updated", "timestamp": "2020-10-26 18:14:18.764443+00:00", "model":
	// "site", …}.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Envelope JSONObject `json:"envelope,omitzero"`
	// traceparent is the OpenTelemetry span in which the event was received, in the format of W3C Trace Context, for example
	// 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01. It is absent if no trace was recorded.
	// +optional
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`
	Traceparent string `json:"traceparent,omitempty"`
}

// Phase is the processing phase of an event.
//
// +kubebuilder:validation:Enum=Pending;Succeeded;Failed
type Phase string

const (
	// PhasePending means that processing is not complete.
	PhasePending Phase = "Pending"
	// PhaseSucceeded means that processing is complete, and that no action failed.
	PhaseSucceeded Phase = "Succeeded"
	// PhaseFailed means that processing is complete, and that an action failed permanently.
	PhaseFailed Phase = "Failed"
)

// IsFinished reports whether processing is complete.
func (p Phase) IsFinished() bool { return p != PhasePending }

// Annotations of a NetBoxEvent.
const (
	// AnnotationReplay causes an event to be matched and delivered again whenever its value changes. The value is arbitrary.
	AnnotationReplay = "netbox-events.io/replay"
	// AnnotationReplayRule is the name of a rule: replays are of this rule alone. It causes one whenever its value changes.
	AnnotationReplayRule = "netbox-events.io/replay-rule"
)

// Conditions of a NetBoxEvent and their reasons.
const (
	// ConditionSucceeded is True when processing is complete and no action failed, and False when an action failed permanently or waits for
	// its next attempt.
	ConditionSucceeded = "Succeeded"
	// ReasonLogged means that no rule matched the event, which was written to the operator's log.
	ReasonLogged = "Logged"
	// ReasonDelivered means that all actions succeeded.
	ReasonDelivered = "Delivered"
	// ReasonDelivering means that actions are in progress.
	ReasonDelivering = "Delivering"
	// ReasonWaiting means that an action was executed, and waits for the objects that it wrote.
	ReasonWaiting = "Waiting"
	// ReasonGrouping means that the event waits until its group is complete.
	ReasonGrouping = "Grouping"
	// ReasonRetrying means that an action failed and will be retried.
	ReasonRetrying = "Retrying"
	// ReasonDeliveryFailed means that an action failed permanently.
	ReasonDeliveryFailed = "DeliveryFailed"
	// ReasonStatusCut means that processing is complete, with the result in phase, and that the states of the actions were dropped because the
	// event is too large to store them.
	ReasonStatusCut = "StatusCut"
	// ReasonSetAside means that the operator crashed several times while it evaluated expressions on the event, and no longer processes it.
	ReasonSetAside = "SetAside"

	// ConditionMatched is True when a rule matched the event. It is present only if one matched, or if an expression failed.
	ConditionMatched = "Matched"

	// ReasonRulesMatched means that a rule matched.
	ReasonRulesMatched = "RulesMatched"
	// ReasonExpressionError means that the expression of a rule failed on this event; that rule does not match it.
	ReasonExpressionError = "ExpressionError"
)

// DeliveryState is the state of an action, or of all actions of a rule.
//
// +kubebuilder:validation:Enum=Pending;Succeeded;Failed;Skipped
type DeliveryState string

const (
	// DeliveryPending means that it has not finished yet.
	DeliveryPending DeliveryState = "Pending"
	// DeliverySucceeded means that it succeeded.
	DeliverySucceeded DeliveryState = "Succeeded"
	// DeliveryFailed means that it failed permanently.
	DeliveryFailed DeliveryState = "Failed"
	// DeliverySkipped means that the action was not executed: its when is false, an action that it depends on did not succeed, or the action
	// or its rule was deleted. Of a rule, that all its actions were skipped.
	DeliverySkipped DeliveryState = "Skipped"
)

// RuleStatus is the state of a rule that matched an event.
type RuleStatus struct {
	// name of the NetBoxEventRule, for example provision-active-devices.
	Name string `json:"name"`
	// state is Pending, Succeeded, Failed if an action failed permanently, or Skipped, for example Succeeded.
	State DeliveryState `json:"state"`
	// actions are the states of the rule's actions, as of the time it matched; if one failed permanently, also of those in onFailure.
	// +optional
	// +listType=atomic
	Actions []ActionStatus `json:"actions,omitempty"`
	// removal is true if the event does not match the rule, but its NetBox object may have matched earlier: the rule's Mirror actions delete
	// their objects.
	// +optional
	Removal bool `json:"removal,omitempty"`
	// group is the group of the rule that the event belongs to.
	// +optional
	Group *GroupStatus `json:"group,omitempty"`
	// limitKey is the value of the rule's limit.key, for example ams1; a long one is replaced by its beginning and a hash.
	// +optional
	LimitKey string `json:"limitKey,omitempty"`
}

// GroupStatus names the group of events that an event is delivered in.
type GroupStatus struct {
	// id of the group, the same for all its events, for example 3f9c2a7be1d04c55a1b2.
	// +optional
	ID string `json:"id,omitempty"`
	// key is the value of group.by that the events share, for example ams1; a long one is replaced by its beginning and a hash.
	// +optional
	Key string `json:"key,omitempty"`
	// events is the number of events in the group, for example 24. It is absent while the group is open.
	// +optional
	Events int32 `json:"events,omitempty"`
	// until is when the group closes unless another event comes, for example 2020-10-26T18:14:24Z. It is absent for a closed group.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$`
	Until *metav1.Time `json:"until,omitempty"`
	// members are hashes of the names of the group's events: after a crash, the operator knows by them which pending events it has delivered
	// already. It is present on one event of a group, until the others are finished.
	// +optional
	Members []byte `json:"members,omitempty"`
}

// ActionStatus is the state of an action.
type ActionStatus struct {
	// name of the action, for example announce.
	Name string `json:"name"`
	// state is Pending, Succeeded, Failed or Skipped, for example Succeeded.
	State DeliveryState `json:"state"`
	// attempts is the number of attempts, for example 1.
	// +optional
	Attempts int32 `json:"attempts,omitempty"`
	// lastAttemptTime is the end of the last attempt, for example 2020-10-26T18:14:19Z.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$`
	LastAttemptTime *metav1.Time `json:"lastAttemptTime,omitempty"`
	// nextAttemptTime is the time of the next attempt, for example 2020-10-26T18:14:21Z.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$`
	NextAttemptTime *metav1.Time `json:"nextAttemptTime,omitempty"`
	// lastError is the error of the last attempt, for example "answered with 503 Service Unavailable".
	// +optional
	LastError string `json:"lastError,omitempty"`
	// response summarizes the result of an attempt, for example "202 Accepted: queued", or "Job netbox/provision-leaf1"; or says why the
	// action was skipped.
	// +optional
	Response string `json:"response,omitempty"`
	// startTime is when the action could first be attempted, if it had to wait for others, for example 2020-10-26T18:14:19Z.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$`
	StartTime *metav1.Time `json:"startTime,omitempty"`
	// waitingSince is when the action began to wait for its objects (apply.wait), for example 2020-10-26T18:14:19Z.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$`
	WaitingSince *metav1.Time `json:"waitingSince,omitempty"`
	// result holds the members of the action's result that later actions use, for example {"response": {"body": {"id": 7}}}.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Result JSONObject `json:"result,omitzero"`
}

// NetBoxEventStatus is the processing state of an event.
type NetBoxEventStatus struct {
	// phase is Pending, Succeeded or Failed, for example Succeeded.
	// +optional
	Phase Phase `json:"phase,omitempty"`
	// conditions holds Succeeded: True when processing is complete and no action failed, for example with reason Logged; and Matched if a rule
	// matched or an expression failed.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// group is the id of the event's group, of the first rule with group if there are several, for example 3f9c2a7be1d04c55a1b2. It is a
	// selectable field: kubectl get netboxevents --field-selector status.group=3f9c2a7be1d04c55a1b2.
	// +optional
	Group string `json:"group,omitempty"`
	// rules are the rules that matched the event, with their actions. They are matched once.
	// +optional
	// +listType=atomic
	Rules []RuleStatus `json:"rules,omitempty"`
	// replay is the value of the annotation netbox-events.io/replay that this status belongs to, for example "1"; over 64 bytes, its beginning
	// and a hash. Of an event that is replayed because another one of its group is, it begins with group.
	// +optional
	Replay string `json:"replay,omitempty"`
	// replayRule is the value of the annotation netbox-events.io/replay-rule that this status belongs to, for example
	// provision-active-devices.
	// +optional
	ReplayRule string `json:"replayRule,omitempty"`
	// startTime is the start of processing, for example 2020-10-26T18:14:19Z.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$`
	StartTime *metav1.Time `json:"startTime,omitempty"`
	// completionTime is the end of processing, for example 2020-10-26T18:14:19Z.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$`
	CompletionTime *metav1.Time `json:"completionTime,omitempty"`
}

// NetBoxEventList is a list of NetBoxEvents.
//
// +kubebuilder:object:root=true
type NetBoxEventList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []NetBoxEvent `json:"items"`
}
