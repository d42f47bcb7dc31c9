package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NetBoxEvent is one webhook that a NetBox (or Nautobot) sent: what happened to which object, by whom, and the data as it was sent,
// in one shape for all versions.
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
// +kubebuilder:printcolumn:name="Event",type=string,JSONPath=`.spec.event`
// +kubebuilder:printcolumn:name="Object Type",type=string,JSONPath=`.spec.objectType`
// +kubebuilder:printcolumn:name="Object",type=string,JSONPath=`.spec.objectName`
// +kubebuilder:printcolumn:name="User",type=string,JSONPath=`.spec.username`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Source",type=string,JSONPath=`.spec.sourceRef.name`,priority=1
// +kubebuilder:printcolumn:name="Request ID",type=string,JSONPath=`.spec.requestID`,priority=1
// +kubebuilder:printcolumn:name="Changed Fields",type=string,JSONPath=`.spec.changedFields`,priority=1
type NetBoxEvent struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec is what NetBox sent. It never changes.
	// +required
	// +structType=atomic
	Spec NetBoxEventSpec `json:"spec,omitzero"`
	// status is what became of it.
	// +optional
	// +kubebuilder:default={phase: Pending}
	// +structType=atomic
	Status NetBoxEventStatus `json:"status,omitzero"`
}

// NetBoxEventSpec is what NetBox sent. The texts from event to requestID are cut after 1024 bytes, which NetBox's own never are; data and
// delivery.envelope have the whole of them.
type NetBoxEventSpec struct {
	// sourceRef names the NetBoxSource, in the same namespace, that the delivery came to, for example {"name": "netbox"}.
	// +required
	SourceRef SourceReference `json:"sourceRef,omitzero"`
	// event is what happened, for example updated: created, updated, deleted, job_started, job_ended, or a name that a plugin of NetBox
	// made up.
	// +required
	// +kubebuilder:validation:MinLength=1
	Event string `json:"event,omitempty"`
	// objectType is the type of the object, for example dcim.site. It is empty where NetBox does not tell, as for jobs that run on a
	// plugin's model before NetBox 4.4.
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
	// objectName is what NetBox displays for the object, else its name, for example Test_site.
	// +optional
	ObjectName string `json:"objectName,omitempty"`
	// username is who made the change in NetBox, for example admin.
	// +optional
	Username string `json:"username,omitempty"`
	// requestID is NetBox's id of the request that made the change, for example b3dc3247-883f-4810-ad01-0f50ee6b722d. All changes of a
	// bulk edit share it. Job events have none.
	// +optional
	RequestID string `json:"requestID,omitempty"`
	// request is what NetBox 4.6 and later say of that request, for example {"id": "…", "method": "PATCH", "path":
	// "/api/dcim/sites/14/", "user": "admin"}.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Request JSONObject `json:"request,omitzero"`
	// timestamp is when NetBox made the delivery, for example 2020-10-26T18:14:18.764443Z.
	// +required
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$`
	Timestamp metav1.MicroTime `json:"timestamp,omitzero"`
	// changedFields are the fields in which the snapshots before and after an update differ, for example ["status"], without
	// last_updated.
	// +optional
	// +listType=atomic
	ChangedFields []string `json:"changedFields,omitempty"`
	// data is the object as NetBox's REST API shows it, for example {"id": 14, "name": "Test_site", …}; for job events it is what the
	// job put out. It is absent where NetBox sent null.
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
	// context is what plugins of NetBox 4.4 and later add, for example {"ticket": "CHG-1"}.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Context JSONObject `json:"context,omitzero"`
	// extra holds the keys of the body that NetBox does not define, for example {"team": "dc"}; a webhook's body template makes them.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Extra JSONObject `json:"extra,omitzero"`
	// delivery says how the event came here, for example {"signature": "Verified", "key": "secret", …}.
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

// SignatureState says whether a delivery was signed.
//
// +kubebuilder:validation:Enum=Verified;Unsigned
type SignatureState string

const (
	// SignatureVerified says that a key of the source made the signature.
	SignatureVerified SignatureState = "Verified"
	// SignatureUnsigned says that there was no signature to check, or no key, and that the source accepts that.
	SignatureUnsigned SignatureState = "Unsigned"
)

// Delivery says how an event came here.
type Delivery struct {
	// receivedAt is when the operator had the whole request, for example 2020-10-26T18:14:18.801213Z.
	// +required
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$`
	ReceivedAt metav1.MicroTime `json:"receivedAt,omitzero"`
	// signature is Verified, or Unsigned where the source accepts that, for example Verified.
	// +required
	Signature SignatureState `json:"signature,omitempty"`
	// key is the name of the Secret's entry that made the signature, for example secret.
	// +optional
	Key string `json:"key,omitempty"`
	// bodySHA256 is the SHA-256 of the body in hex, for example 9f86d081…; where values were redacted, of the body with them replaced.
	// +required
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	BodySHA256 string `json:"bodySHA256,omitempty"`
	// bodyBytes is how long the body was, in bytes, for example 1860.
	// +required
	BodyBytes int64 `json:"bodyBytes"`
	// stringified are JSON pointers from spec to numbers that Kubernetes cannot keep and that are stored as the text of their digits,
	// for example /data/custom_fields/iccid.
	// +optional
	// +listType=atomic
	Stringified []string `json:"stringified,omitempty"`
	// redacted are JSON pointers from spec to values that were not stored, for example /data/auth_psk.
	// +optional
	// +listType=atomic
	Redacted []string `json:"redacted,omitempty"`
	// envelope holds the members of the body that are not stored as they were sent, so that the body can be sent on: text that became
	// fields of the event, and null. For example {"event": "updated", "timestamp": "2020-10-26 18:14:18.764443+00:00", "model": "site", …}.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Envelope JSONObject `json:"envelope,omitzero"`
	// traceparent is the OpenTelemetry span in which the event was received, as the W3C's Trace Context writes it, for example
	// 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01. It is absent where no trace was recorded.
	// +optional
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`
	Traceparent string `json:"traceparent,omitempty"`
}

// Phase is how far the work on an event is.
//
// +kubebuilder:validation:Enum=Pending;Succeeded;Failed
type Phase string

const (
	// PhasePending says that there is work left.
	PhasePending Phase = "Pending"
	// PhaseSucceeded says that all work is done.
	PhaseSucceeded Phase = "Succeeded"
	// PhaseFailed says that an action failed permanently.
	PhaseFailed Phase = "Failed"
)

// IsFinished reports whether no work is left.
func (p Phase) IsFinished() bool { return p != PhasePending }

// AnnotationReplay asks for an event to be matched and delivered again whenever its value changes. Any value will do.
const AnnotationReplay = "netbox-events.io/replay"

// Conditions of a NetBoxEvent and their reasons.
const (
	// ConditionSucceeded is True when all work on the event is done, and False when an action failed permanently or waits for its next
	// attempt.
	ConditionSucceeded = "Succeeded"
	// ConditionMatched is True when a rule matched the event. It is there only where one did, or where an expression failed.
	ConditionMatched = "Matched"

	// ReasonLogged says that the event was written to the operator's log, and that no rule matched it.
	ReasonLogged = "Logged"
	// ReasonDelivered says that all actions are done.
	ReasonDelivered = "Delivered"
	// ReasonDelivering says that actions are being done.
	ReasonDelivering = "Delivering"
	// ReasonRetrying says that an action failed and will be retried.
	ReasonRetrying = "Retrying"
	// ReasonDeliveryFailed says that an action failed permanently.
	ReasonDeliveryFailed = "DeliveryFailed"
	// ReasonStatusCut says that all actions are done or failed permanently, as phase says, and that the event is so large that there is no
	// room for their states.
	ReasonStatusCut = "StatusCut"
	// ReasonSetAside says that the operator's process ended several times while it evaluated expressions on the event, which is left alone
	// since.
	ReasonSetAside = "SetAside"

	// ReasonRulesMatched says that a rule matched.
	ReasonRulesMatched = "RulesMatched"
	// ReasonExpressionError says that the expression of a rule failed on this event; that rule does not match it.
	ReasonExpressionError = "ExpressionError"
)

// DeliveryState is how far an action, or all actions of a rule, are.
//
// +kubebuilder:validation:Enum=Pending;Succeeded;Failed;Skipped
type DeliveryState string

const (
	// DeliveryPending says that it is not done yet.
	DeliveryPending DeliveryState = "Pending"
	// DeliverySucceeded says that it is done.
	DeliverySucceeded DeliveryState = "Succeeded"
	// DeliveryFailed says that it failed permanently.
	DeliveryFailed DeliveryState = "Failed"
	// DeliverySkipped says that the rule, or the action, was deleted before it was done.
	DeliverySkipped DeliveryState = "Skipped"
)

// RuleStatus is what a rule that matched an event made of it.
type RuleStatus struct {
	// name of the NetBoxEventRule, for example provision-active-devices.
	Name string `json:"name"`
	// state is Pending, Succeeded, Failed where an action failed, or Skipped, for example Succeeded.
	State DeliveryState `json:"state"`
	// actions are those that the rule had when it matched.
	// +optional
	// +listType=atomic
	Actions []ActionStatus `json:"actions,omitempty"`
}

// ActionStatus is how far an action is.
type ActionStatus struct {
	// name of the action, for example announce.
	Name string `json:"name"`
	// state is Pending, Succeeded, Failed or Skipped, for example Succeeded.
	State DeliveryState `json:"state"`
	// attempts is how often it was tried, for example 1.
	// +optional
	Attempts int32 `json:"attempts,omitempty"`
	// lastAttemptTime is when the last attempt ended, for example 2020-10-26T18:14:19Z.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$`
	LastAttemptTime *metav1.Time `json:"lastAttemptTime,omitempty"`
	// nextAttemptTime is when it will be retried, for example 2020-10-26T18:14:21Z.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$`
	NextAttemptTime *metav1.Time `json:"nextAttemptTime,omitempty"`
	// lastError is why the last attempt failed, for example "answered with 503 Service Unavailable".
	// +optional
	LastError string `json:"lastError,omitempty"`
	// response is what was answered or made, in short, for example "202 Accepted: queued", or "Job netbox/provision-leaf1".
	// +optional
	Response string `json:"response,omitempty"`
}

// NetBoxEventStatus is what became of an event.
type NetBoxEventStatus struct {
	// phase is Pending, Succeeded or Failed, for example Succeeded.
	// +optional
	Phase Phase `json:"phase,omitempty"`
	// conditions holds Succeeded: True when all work is done, for example with reason Logged; and Matched where rules had to do with it.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// rules are those that matched the event. Which ones, and their actions, is decided once.
	// +optional
	// +listType=atomic
	Rules []RuleStatus `json:"rules,omitempty"`
	// replay is the value of the annotation netbox-events.io/replay that this status is of, for example "1"; of one over 64 bytes the
	// beginning and a hash.
	// +optional
	Replay string `json:"replay,omitempty"`
	// startTime is when the work began, for example 2020-10-26T18:14:19Z.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$`
	StartTime *metav1.Time `json:"startTime,omitempty"`
	// completionTime is when the work ended, for example 2020-10-26T18:14:19Z.
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
