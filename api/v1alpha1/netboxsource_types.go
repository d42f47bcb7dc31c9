package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NetBoxSource is one NetBox (or Nautobot) that may send webhooks. The operator serves a URL for it, checks the signature of each
// request with the keys of a Secret, and stores each delivery as a NetBoxEvent in the source's namespace.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:metadata:annotations="kustomize.toolkit.fluxcd.io/substitute=disabled"
// +kubebuilder:resource:shortName=nbsrc,categories=netbox
// +kubebuilder:printcolumn:name="Path",type=string,JSONPath=`.status.path`,description="The path of the URL that NetBox posts to"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Events",type=integer,JSONPath=`.status.events`,description="Finished events that are kept"
// +kubebuilder:printcolumn:name="Pending",type=integer,JSONPath=`.status.pending`,priority=1,description="Events that waited to be finished when the leader counted last"
// +kubebuilder:printcolumn:name="Expired",type=integer,JSONPath=`.status.expired`,priority=1
// +kubebuilder:printcolumn:name="Unsigned",type=string,JSONPath=`.spec.unsigned`,priority=1
// +kubebuilder:printcolumn:name="Keys",type=string,JSONPath=`.status.keys`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NetBoxSource struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec says who may send, and what becomes of it.
	// +required
	Spec NetBoxSourceSpec `json:"spec,omitzero"`
	// status says where the source is served and whether it is.
	// +optional
	Status NetBoxSourceStatus `json:"status,omitzero"`
}

// NetBoxSourceSpec says who may send, and what becomes of it.
//
// +kubebuilder:validation:XValidation:rule="!has(self.maxAge) || duration(self.maxAge) <= duration(self.retention.succeededTTL) && duration(self.maxAge) <= duration(self.retention.failedTTL)",message="maxAge must not be longer than retention.succeededTTL and retention.failedTTL: a delivery that is sent again would be stored again after its event was deleted"
// +kubebuilder:validation:XValidation:rule="has(self.secretRef) || self.unsigned == 'Accept'",message="a source without secretRef must say unsigned: Accept"
type NetBoxSourceSpec struct {
	// path is the path of the URL that NetBox posts to, for example /webhook/netbox/netbox. The default is
	// /webhook/<namespace>/<name>. A slash at the end makes no difference. No part of it begins with a dot. Of two sources with one path
	// the one that claimed it first keeps it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?$`
	// +kubebuilder:validation:XValidation:rule="!(self + '/').startsWith('/docs/') && !(self + '/').startsWith('/openapi.json/')",message="/docs and /openapi.json are the receiver's own"
	Path string `json:"path,omitempty"`

	// secretRef names the Secret, in the source's namespace, whose entries are the secrets of NetBox's webhook. It may be created
	// after the source. For example {"name": "netbox-webhook"}.
	// +optional
	SecretRef *SecretKeysReference `json:"secretRef,omitempty"`

	// unsigned says what becomes of a request without a signature, for example Reject: Reject answers 401, Accept stores it. A wrong
	// signature is always refused. A source without secretRef must say Accept: anybody who reaches its URL can then create events.
	// +optional
	// +kubebuilder:default=Reject
	Unsigned UnsignedPolicy `json:"unsigned,omitempty"`

	// maxBodyBytes is the longest body taken, in bytes, for example 1000000. A longer one is answered with 413. The API server and
	// etcd have limits of their own: etcd's default is 1.5 MiB for the whole object.
	// +optional
	// +kubebuilder:default=1000000
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3000000
	MaxBodyBytes int64 `json:"maxBodyBytes,omitempty"`

	// maxAge is how old the timestamp of a delivery may be, in hours, minutes and seconds, for example 24h. An older one is answered with
	// 422. There is no limit where it is absent.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="must be longer than 0s"
	MaxAge *metav1.Duration `json:"maxAge,omitempty"`

	// rateLimit bounds how many requests are taken, on each replica of the operator, for example {"requestsPerSecond": 50, "burst": 200}.
	// What is over it is answered with 429. There is no limit where it is absent.
	// +optional
	RateLimit *RateLimit `json:"rateLimit,omitempty"`

	// maxPending is how many events of this source may wait to be finished, for example 20000. Deliveries beyond it are answered with 429 and
	// Retry-After, so that the backlog waits in NetBox's own queue.
	// +optional
	// +kubebuilder:default=20000
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxPending int32 `json:"maxPending,omitempty"`

	// suspend stops the source, for example true: requests are answered with 503, and nothing is stored. Whether they come again is
	// NetBox's choice: by default it does not retry.
	// +optional
	Suspend bool `json:"suspend,omitempty"`

	// redact lists the names of fields whose values are not stored, for example ["auth_psk", "password"]: a value under such a name, at
	// any depth, is replaced by the text [redacted], and its place listed in the event's delivery.redacted. NetBox sends these secrets
	// in clear. An empty list stores everything.
	// +optional
	// +listType=set
	// +kubebuilder:default={"auth_key","auth_psk","preshared_key","password","aws_secret_access_key"}
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=128
	Redact []string `json:"redact"`

	// accept selects the deliveries that are stored, for example {"objectTypes": ["dcim.*"], "events": ["created", "updated"]}. All others
	// are answered with 200 and ignored. All are stored where it is absent, and so is one on which cel fails.
	// +optional
	Accept *Filter `json:"accept,omitempty"`

	// retention says how long events are kept, for example {"succeededTTL": "72h", "failedTTL": "168h", "maxEvents": 5000}.
	// +optional
	// +kubebuilder:default={}
	Retention Retention `json:"retention,omitzero"`
}

// SecretKeysReference names entries of a Secret.
type SecretKeysReference struct {
	// name of the Secret, for example netbox-webhook.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	Name string `json:"name"`
	// key is the one entry that holds the webhook's secret, for example secret. Without it every entry of the Secret is a valid
	// secret, which lets one be changed without a gap: add an entry, change NetBox, remove the old entry.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[-._a-zA-Z0-9]+$`
	Key string `json:"key,omitempty"`
}

// UnsignedPolicy says what becomes of a request without a signature.
//
// +kubebuilder:validation:Enum=Reject;Accept
type UnsignedPolicy string

const (
	// UnsignedReject answers 401.
	UnsignedReject UnsignedPolicy = "Reject"
	// UnsignedAccept stores the delivery.
	UnsignedAccept UnsignedPolicy = "Accept"
)

// RateLimit is a token bucket.
type RateLimit struct {
	// requestsPerSecond is the rate in the long run, for example 50.
	// +kubebuilder:validation:Minimum=1
	RequestsPerSecond int32 `json:"requestsPerSecond"`
	// burst is how many requests may come at once, for example 200.
	// +kubebuilder:validation:Minimum=1
	Burst int32 `json:"burst"`
}

// Retention says how long finished events are kept.
type Retention struct {
	// succeededTTL is how long an event is kept after it succeeded, for example 72h.
	// +optional
	// +kubebuilder:default="72h"
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="must be longer than 0s"
	SucceededTTL metav1.Duration `json:"succeededTTL,omitzero"`
	// failedTTL is how long an event is kept after it failed, for example 168h.
	// +optional
	// +kubebuilder:default="168h"
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="must be longer than 0s"
	FailedTTL metav1.Duration `json:"failedTTL,omitzero"`
	// maxEvents is how many finished events of the source are kept, for example 5000; the oldest go first. Events that are younger than
	// spec.maxAge are kept beyond it: a delivery that is sent again would otherwise be stored again. The condition MaxEventsExceeded says so.
	// +optional
	// +kubebuilder:default=5000
	// +kubebuilder:validation:Minimum=1
	MaxEvents int32 `json:"maxEvents,omitempty"`
}

// DefaultRetention is what the API server makes of a source that does not say how long its events are kept.
func DefaultRetention() Retention {
	return Retention{
		SucceededTTL: metav1.Duration{Duration: 72 * time.Hour}, FailedTTL: metav1.Duration{Duration: 168 * time.Hour}, MaxEvents: 5000,
	}
}

// Conditions of a NetBoxSource and their reasons.
const (
	// ConditionReady is True while deliveries to the source are stored, and while a rule is accepted. Tools such as Flux go by it.
	ConditionReady = "Ready"

	// ReasonServing says that deliveries are stored.
	ReasonServing = "Serving"
	// ReasonSuspended says that spec.suspend is set.
	ReasonSuspended = "Suspended"
	// ReasonPathConflict says that another source claimed the same path first, or that it is unknown which of them did.
	ReasonPathConflict = "PathConflict"
	// ReasonSecretNotFound says that the Secret does not exist.
	ReasonSecretNotFound = "SecretNotFound"
	// ReasonKeyNotFound says that the Secret has no entry to check signatures with.
	ReasonKeyNotFound = "KeyNotFound"
	// ReasonSecretUnreadable says that the Secret could not be read: the operator has no right to, or the API server failed.
	ReasonSecretUnreadable = "SecretUnreadable"
	// ReasonInvalidAccept says that spec.accept.cel does not compile.
	ReasonInvalidAccept = "InvalidAccept"

	// ConditionBacklogFull is True while spec.maxPending events or more wait to be finished: deliveries are then answered with 429.
	ConditionBacklogFull = "BacklogFull"

	// ReasonMaxPendingReached says that spec.maxPending events wait to be finished.
	ReasonMaxPendingReached = "MaxPendingReached"
	// ReasonBelowMaxPending says that fewer events than spec.maxPending wait to be finished.
	ReasonBelowMaxPending = "BelowMaxPending"

	// ConditionMaxEventsExceeded is True while more finished events than spec.retention.maxEvents are kept because they are younger than
	// spec.maxAge. A source without maxAge does not have it.
	ConditionMaxEventsExceeded = "MaxEventsExceeded"

	// ReasonYoungerThanMaxAge says that more events than spec.retention.maxEvents are younger than spec.maxAge.
	ReasonYoungerThanMaxAge = "YoungerThanMaxAge"
	// ReasonWithinMaxEvents says that no more events than spec.retention.maxEvents are younger than spec.maxAge.
	ReasonWithinMaxEvents = "WithinMaxEvents"
)

// NetBoxSourceStatus says where a source is served and whether it is.
type NetBoxSourceStatus struct {
	// conditions holds Ready: True with reason Serving, or False with reason SecretNotFound, KeyNotFound, SecretUnreadable,
	// InvalidAccept, PathConflict or Suspended; BacklogFull: True with reason MaxPendingReached while spec.maxPending events wait; and
	// MaxEventsExceeded: True with reason YoungerThanMaxAge while more events than spec.retention.maxEvents are kept.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// path is the path that the receiver serves for this source, for example /webhook/netbox/netbox.
	// +optional
	Path string `json:"path,omitempty"`
	// claim records since when the source claims its path. Of two sources with one path it says which claimed it first.
	// +optional
	Claim *PathClaim `json:"claim,omitempty"`
	// keys are the names of the entries of the Secret that signatures are checked with, for example secret.
	// +optional
	// +listType=atomic
	Keys []string `json:"keys,omitempty"`
	// events is how many finished events of this source there are, for example 4711, when retention last looked: now and then, and whenever
	// one has been kept long enough or there may be too many.
	// +optional
	Events *int64 `json:"events,omitempty"`
	// oldest is when the oldest of them was finished.
	// +optional
	Oldest *metav1.Time `json:"oldest,omitempty"`
	// expired is how many events of this source retention has deleted so far, for example 123.
	// +optional
	Expired int64 `json:"expired,omitempty"`
	// pending is how many events of this source waited to be finished at pendingTime, for example 12.
	// +optional
	Pending *int64 `json:"pending,omitempty"`
	// pendingTime is when pending was counted. The leader counts again when many events came, and when spec.maxPending is reached or is no
	// longer reached.
	// +optional
	PendingTime *metav1.MicroTime `json:"pendingTime,omitempty"`
	// observedGeneration is the generation of the spec that this status was made from, for example 1.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
}

// PathClaim records since when a source claims a path. It is void for a source whose path is another by now.
type PathClaim struct {
	// path is the claimed path, for example /webhook/netbox/netbox.
	Path string `json:"path"`
	// since is when the claim began.
	Since metav1.MicroTime `json:"since"`
	// held is true where the path is this source's, and false where another source claimed it first.
	Held bool `json:"held"`
}

// NetBoxSourceList is a list of NetBoxSources.
//
// +kubebuilder:object:root=true
type NetBoxSourceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []NetBoxSource `json:"items"`
}
