package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NetBoxEvent is one webhook that a NetBox (or Nautobot) sent: what happened to which object, by whom, and the data as it was sent,
// in one shape for all versions.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
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
	Spec NetBoxEventSpec `json:"spec,omitzero"`
	// status is what became of it.
	// +optional
	// +kubebuilder:default={phase: Pending}
	Status NetBoxEventStatus `json:"status,omitzero"`
}

// NetBoxEventSpec is what NetBox sent.
//
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="an event is what NetBox sent and cannot be changed"
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
	// +mapType=atomic
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
	// +mapType=atomic
	Data JSONObject `json:"data,omitzero"`
	// snapshots are the object's fields before and after the change, for example {"prechange": {"status": "planned", …}, "postchange":
	// {"status": "active", …}}. They are flat: foreign keys are numbers. NetBox sends them from 2.11 on.
	// +optional
	// +mapType=atomic
	Snapshots JSONObject `json:"snapshots,omitzero"`
	// context is what plugins of NetBox 4.4 and later add, for example {"ticket": "CHG-1"}.
	// +optional
	// +mapType=atomic
	Context JSONObject `json:"context,omitzero"`
	// extra holds the keys of the body that NetBox does not define, for example {"team": "dc"}; a webhook's body template makes them.
	// +optional
	// +mapType=atomic
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
	// PhaseFailed says that work was given up.
	PhaseFailed Phase = "Failed"
)

// Conditions of a NetBoxEvent and their reasons.
const (
	// ConditionSucceeded is True when all work on the event is done.
	ConditionSucceeded = "Succeeded"

	// ReasonLogged says that the event was written to the operator's log.
	ReasonLogged = "Logged"
)

// NetBoxEventStatus is what became of an event.
type NetBoxEventStatus struct {
	// phase is Pending, Succeeded or Failed, for example Succeeded.
	// +optional
	Phase Phase `json:"phase,omitempty"`
	// conditions holds Succeeded: True when all work is done, for example with reason Logged.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
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
