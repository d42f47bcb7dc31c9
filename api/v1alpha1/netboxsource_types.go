package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NetBoxSource is a NetBox (or Nautobot) that may send webhooks. The operator serves a URL for it, verifies the signature of each request
// with the keys of a Secret, and stores each delivery as a NetBoxEvent in the source's namespace.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:metadata:annotations="kustomize.toolkit.fluxcd.io/substitute=disabled"
// +kubebuilder:resource:shortName=nbsrc,categories=netbox
// +kubebuilder:printcolumn:name="Path",type=string,JSONPath=`.status.path`,description="The path of the URL that NetBox posts to"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Events",type=integer,JSONPath=`.status.events`,description="Finished events, as of the last sweep of retention"
// +kubebuilder:printcolumn:name="Pending",type=integer,JSONPath=`.status.pending`,priority=1,description="Pending events, as last counted by the leader"
// +kubebuilder:printcolumn:name="Expired",type=integer,JSONPath=`.status.expired`,priority=1
// +kubebuilder:printcolumn:name="Unsigned",type=string,JSONPath=`.spec.unsigned`,priority=1
// +kubebuilder:printcolumn:name="Keys",type=string,JSONPath=`.status.keys`,priority=1
// +kubebuilder:printcolumn:name="Receiving",type=string,JSONPath=`.status.conditions[?(@.type=="Receiving")].status`,priority=1
// +kubebuilder:printcolumn:name="Missed",type=integer,JSONPath=`.status.netbox.missed`,priority=1,description="Changes of which no webhook came"
// +kubebuilder:printcolumn:name="NetBox",type=string,JSONPath=`.status.netbox.version`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NetBoxSource struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec configures authentication, limits and retention.
	// +required
	Spec NetBoxSourceSpec `json:"spec,omitzero"`
	// status reports the path and the readiness of the source.
	// +optional
	Status NetBoxSourceStatus `json:"status,omitzero"`
}

// NetBoxSourceSpec configures authentication, limits and retention of a source.
//
// +kubebuilder:validation:XValidation:rule="!has(self.maxAge) || [self.maxAge, self.retention.succeededTTL, self.retention.failedTTL].exists(d, !d.matches('^([0-9.]+(ns|us|ms|s|m|h))+$')) || duration(self.maxAge) <= duration(self.retention.succeededTTL) && duration(self.maxAge) <= duration(self.retention.failedTTL)",message="maxAge must not be longer than retention.succeededTTL and retention.failedTTL: a delivery that is sent again would be stored twice once its event is deleted"
// +kubebuilder:validation:XValidation:rule="!has(self.netbox) || !has(self.netbox.backfill) || [self.netbox.backfill.maxAge, self.retention.succeededTTL, self.retention.failedTTL].exists(d, !d.matches('^([0-9.]+(ns|us|ms|s|m|h))+$')) || duration(self.netbox.backfill.maxAge) <= duration(self.retention.succeededTTL) && duration(self.netbox.backfill.maxAge) <= duration(self.retention.failedTTL)",message="netbox.backfill.maxAge must not be longer than retention.succeededTTL and retention.failedTTL: a change whose event is deleted would be stored again"
// +kubebuilder:validation:XValidation:rule="has(self.secretRef) || self.unsigned == 'Accept'",message="a source without secretRef must set unsigned: Accept"
type NetBoxSourceSpec struct {
	// path is the path of the URL that NetBox posts to, for example /webhook/netbox/netbox. The default is /webhook/<namespace>/<name>. A
	// trailing slash is ignored. No segment begins with a dot. If two sources have the same path, the one that claimed it first keeps it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?$`
	// +kubebuilder:validation:XValidation:rule="!(self + '/').startsWith('/docs/') && !(self + '/').startsWith('/openapi.json/')",message="/docs and /openapi.json are reserved for the receiver"
	Path string `json:"path,omitempty"`

	// secretRef names the Secret, in the source's namespace, whose entries are the signing keys: the secret of NetBox's webhook. It may be
	// created after the source. For example {"name": "netbox-webhook"}.
	// +optional
	SecretRef *SecretKeysReference `json:"secretRef,omitempty"`

	// unsigned is the policy for requests without a signature, for example Reject: Reject answers with 401, Accept stores them. A wrong
	// signature is always refused. A source without secretRef requires Accept: any client that reaches its URL can then create events.
	// +optional
	// +kubebuilder:default=Reject
	Unsigned UnsignedPolicy `json:"unsigned,omitempty"`

	// maxBodyBytes is the maximum length of a body in bytes, for example 1000000. A longer body is answered with 413. The API server and etcd
	// have further limits: etcd's default is 1.5 MiB for the whole object.
	// +optional
	// +kubebuilder:default=1000000
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3000000
	MaxBodyBytes int64 `json:"maxBodyBytes,omitempty"`

	// maxAge is the maximum age of a delivery's timestamp, in hours, minutes and seconds, for example 24h. An older delivery is answered with
	// 422. Without it, there is no limit.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9.]+(ns|us|ms|s|m|h))+$') && duration(self) > duration('0s')",message="must be longer than 0s, for example 90s; the largest unit is h"
	MaxAge *metav1.Duration `json:"maxAge,omitempty"`

	// rateLimit limits the rate of requests on each replica of the operator, for example {"requestsPerSecond": 50, "burst": 200}. Requests
	// over it are answered with 429. Without it, there is no limit.
	// +optional
	RateLimit *RateLimit `json:"rateLimit,omitempty"`

	// maxPending is the maximum number of pending events of this source, for example 20000. Deliveries over it are answered with 429 and
	// Retry-After, so that the backlog stays in NetBox's own queue.
	// +optional
	// +kubebuilder:default=20000
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxPending int32 `json:"maxPending,omitempty"`

	// suspend stops the source, for example true: requests are answered with 503 and not stored. NetBox does not retry them by default.
	// +optional
	Suspend bool `json:"suspend,omitempty"`

	// redact lists the names of fields whose values are not stored, for example ["auth_psk", "password"]: a value under such a name, at any
	// depth, is replaced by the text [redacted], and its JSON pointer is listed in the event's delivery.redacted. NetBox sends these secrets
	// in plain text. An empty list disables redaction.
	// +optional
	// +listType=set
	// +kubebuilder:default={"auth_key","auth_psk","preshared_key","password","aws_secret_access_key"}
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=128
	Redact []string `json:"redact"`

	// accept selects the deliveries that are stored, for example {"objectTypes": ["dcim.*"], "events": ["created", "updated"]}. All others are
	// answered with 200 and ignored. Without it, all are stored. A delivery on which cel fails is stored too.
	// +optional
	Accept *Filter `json:"accept,omitempty"`

	// retention limits the age and number of finished events, for example {"succeededTTL": "72h", "failedTTL": "168h", "maxEvents": 5000}.
	// +optional
	// +kubebuilder:default={}
	Retention Retention `json:"retention,omitzero"`

	// netbox lets the operator use the REST API of this NetBox: to set up the webhook, to find changes of which no webhook came, and for
	// lookups of rules. For example {"url": "https://netbox.example.com", "tokenSecretRef": {"name": "netbox-token", "key": "token"}}. Without
	// it, NetBox is never called.
	// +optional
	NetBox *NetBoxAPI `json:"netbox,omitempty"`
}

// SecretKeysReference selects entries of a Secret.
type SecretKeysReference struct {
	// name of the Secret, for example netbox-webhook.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	Name string `json:"name"`
	// key selects a single entry, for example secret. Without it, every entry of the Secret is a valid key, which allows rotation without
	// downtime: add an entry, change NetBox, remove the old entry.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[-._a-zA-Z0-9]+$`
	Key string `json:"key,omitempty"`
}

// UnsignedPolicy is the policy for requests without a signature.
//
// +kubebuilder:validation:Enum=Reject;Accept
type UnsignedPolicy string

const (
	// UnsignedReject answers with 401.
	UnsignedReject UnsignedPolicy = "Reject"
	// UnsignedAccept stores the delivery.
	UnsignedAccept UnsignedPolicy = "Accept"
)

// RateLimit is a token bucket.
type RateLimit struct {
	// requestsPerSecond is the sustained rate, for example 50.
	// +kubebuilder:validation:Minimum=1
	RequestsPerSecond int32 `json:"requestsPerSecond"`
	// burst is the number of requests that may exceed the rate at once, for example 200.
	// +kubebuilder:validation:Minimum=1
	Burst int32 `json:"burst"`
}

// Retention limits the age and number of finished events.
type Retention struct {
	// succeededTTL is the time for which an event is kept after it succeeded, for example 72h.
	// +optional
	// +kubebuilder:default="72h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9.]+(ns|us|ms|s|m|h))+$') && duration(self) > duration('0s')",message="must be longer than 0s, for example 90s; the largest unit is h"
	SucceededTTL metav1.Duration `json:"succeededTTL,omitzero"`
	// failedTTL is the time for which an event is kept after it failed, for example 168h.
	// +optional
	// +kubebuilder:default="168h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9.]+(ns|us|ms|s|m|h))+$') && duration(self) > duration('0s')",message="must be longer than 0s, for example 90s; the largest unit is h"
	FailedTTL metav1.Duration `json:"failedTTL,omitzero"`
	// maxEvents is the maximum number of finished events of the source, for example 5000; the oldest are deleted first. Events younger than
	// spec.maxAge are kept beyond it, to deduplicate deliveries that are sent again, and so are those of changes that may be read again from
	// NetBox's change log; the condition MaxEventsExceeded is then True.
	// +optional
	// +kubebuilder:default=5000
	// +kubebuilder:validation:Minimum=1
	MaxEvents int32 `json:"maxEvents,omitempty"`
}

// DefaultRetention returns the API server's defaults for spec.retention.
func DefaultRetention() Retention {
	return Retention{
		SucceededTTL: metav1.Duration{Duration: 72 * time.Hour}, FailedTTL: metav1.Duration{Duration: 168 * time.Hour}, MaxEvents: 5000,
	}
}

// Conditions of a NetBoxSource and their reasons.
const (
	// ConditionReady of a source is True while deliveries to it are stored; of a rule, while it is valid. Tools such as Flux go by it.
	ConditionReady = "Ready"

	// ReasonServing means that deliveries are stored.
	ReasonServing = "Serving"
	// ReasonSuspended means that spec.suspend is true. A suspended rule is Ready, a suspended source is not.
	ReasonSuspended = "Suspended"
	// ReasonPathConflict means that another source claimed the same path first, or that it is unknown which of them did.
	ReasonPathConflict = "PathConflict"
	// ReasonSecretNotFound means that the Secret does not exist.
	ReasonSecretNotFound = "SecretNotFound"
	// ReasonKeyNotFound means that the Secret has no key to verify signatures.
	ReasonKeyNotFound = "KeyNotFound"
	// ReasonSecretUnreadable means that the Secret could not be read: the operator lacks the permission, or the API server failed.
	ReasonSecretUnreadable = "SecretUnreadable"
	// ReasonInvalidAccept means that spec.accept.cel does not compile.
	ReasonInvalidAccept = "InvalidAccept"

	// ConditionBacklogFull is True once spec.maxPending or more events are pending, until they are fewer than 90 % of it: deliveries are then
	// answered with 429.
	ConditionBacklogFull = "BacklogFull"

	// ReasonMaxPendingReached means that the pending events have reached spec.maxPending.
	ReasonMaxPendingReached = "MaxPendingReached"
	// ReasonBelowMaxPending means that the pending events are below spec.maxPending.
	ReasonBelowMaxPending = "BelowMaxPending"

	// ConditionMaxEventsExceeded is True while more finished events than spec.retention.maxEvents are kept because they are younger than
	// spec.maxAge, or because their changes may be read again from NetBox's change log. It is absent without maxAge and netbox.backfill.
	ConditionMaxEventsExceeded = "MaxEventsExceeded"

	// ReasonYoungerThanMaxAge means that more events than spec.retention.maxEvents are younger than spec.maxAge.
	ReasonYoungerThanMaxAge = "YoungerThanMaxAge"
	// ReasonChangeLogUnread means that more events than spec.retention.maxEvents are of changes that may be read again from the change log.
	ReasonChangeLogUnread = "ChangeLogUnread"
	// ReasonWithinMaxEvents means that the events that have to be kept are within spec.retention.maxEvents.
	ReasonWithinMaxEvents = "WithinMaxEvents"
)

// NetBoxSourceStatus reports the path, readiness, backlog and retention of a source.
type NetBoxSourceStatus struct {
	// conditions holds Ready: True with reason Serving, or False with reason SecretNotFound, KeyNotFound, SecretUnreadable, InvalidAccept,
	// PathConflict or Suspended; BacklogFull: True with reason MaxPendingReached while the backlog is full; and MaxEventsExceeded: True with
	// reason YoungerThanMaxAge or ChangeLogUnread while more events than spec.retention.maxEvents are kept. With spec.netbox, it also holds
	// NetBoxReachable, WebhookConfigured, ChangeLogRead and Receiving.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// path is the path that the receiver serves for this source, for example /webhook/netbox/netbox.
	// +optional
	Path string `json:"path,omitempty"`
	// claim records when the source claimed its path. If two sources have the same path, it tells which claimed it first.
	// +optional
	Claim *PathClaim `json:"claim,omitempty"`
	// keys are the names of the Secret's entries that verify signatures, for example secret.
	// +optional
	// +listType=atomic
	Keys []string `json:"keys,omitempty"`
	// events is the number of finished events of this source, for example 4711, as of the last sweep of retention: at intervals, and when an
	// event expires or maxEvents may be exceeded.
	// +optional
	Events *int64 `json:"events,omitempty"`
	// oldest is the time at which the oldest of them was finished.
	// +optional
	Oldest *metav1.Time `json:"oldest,omitempty"`
	// expired is the number of events of this source that retention has deleted so far, for example 123.
	// +optional
	Expired int64 `json:"expired,omitempty"`
	// pending is the number of pending events of this source at pendingTime, for example 12.
	// +optional
	Pending *int64 `json:"pending,omitempty"`
	// pendingTime is the time at which pending was counted. The leader counts again after many new events, and when BacklogFull changes.
	// +optional
	PendingTime *metav1.MicroTime `json:"pendingTime,omitempty"`
	// netbox is what the operator knows of this NetBox. It is absent without spec.netbox.
	// +optional
	NetBox *NetBoxAPIStatus `json:"netbox,omitempty"`
	// observedGeneration is the generation of the spec that this status refers to, for example 1.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
}

// PathClaim records when a source claimed a path. It is void if the source's path has changed since.
type PathClaim struct {
	// path is the claimed path, for example /webhook/netbox/netbox.
	Path string `json:"path"`
	// since is the start of the claim.
	Since metav1.MicroTime `json:"since"`
	// held is true if this source owns the path, and false if another source claimed it first.
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
