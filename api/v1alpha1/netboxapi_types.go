package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NetBoxAPI is how the operator uses the REST API of a source's NetBox.
type NetBoxAPI struct {
	// url is the URL of NetBox, with its base path if it has one, without /api, for example https://netbox.example.com.
	// +required
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self.matches('^https?://[^/?#@$]+(/[^?#$]*)?$')",message="must be an http or https URL, without a password, a query and a fragment, such as https://netbox.example.com"
	URL string `json:"url,omitempty"`
	// tokenSecretRef names the entry of a Secret with a token of NetBox's REST API, of version 1 or 2, for example {"name": "netbox-token",
	// "key": "token"}. White space at its end is ignored.
	// +required
	TokenSecretRef SecretKeyReference `json:"tokenSecretRef,omitzero"`
	// tls configures the trusted CA and the client certificate.
	// +optional
	TLS *HTTPTLS `json:"tls,omitempty"`
	// webhook makes and keeps the webhook and its event rule in NetBox, for example {"url":
	// "https://netbox-events.example.com/webhook/netbox/netbox"}. Without it, people set them up. It requires NetBox 3.7 or later.
	// +optional
	Webhook *ManagedWebhook `json:"webhook,omitempty"`
	// backfill reads NetBox's change log, and stores the changes of which no webhook came, for example {"interval": "1m", "lag": "2m",
	// "maxAge": "24h"}. Without it, the change log is not read.
	// +optional
	Backfill *Backfill `json:"backfill,omitempty"`
	// lookups is Allow or Deny, for example Allow: the rules of this namespace may then read any object of NetBox that the token may. The
	// default is Deny.
	// +optional
	Lookups LookupPolicy `json:"lookups,omitempty"`
}

// ManagedWebhook is the webhook that the operator makes in NetBox, with an event rule that uses it. Both are named
// netbox-event-operator/<namespace>/<name>. Fields that are not listed here, such as the verification of TLS certificates, are left as
// people set them. NetBox signs with the entry that spec.secretRef.key names, or else with the one that is the last by name; a key that is
// replaced in the Secret is accepted for 5 minutes more.
type ManagedWebhook struct {
	// url is the URL at which NetBox reaches this source, for example https://netbox-events.example.com/webhook/netbox/netbox.
	// +required
	// +kubebuilder:validation:MaxLength=500
	// +kubebuilder:validation:XValidation:rule="self.matches('^https?://[^/?#@{}]+(/[^?#{}]*)?$')",message="must be an http or https URL, without a password, a query and a fragment, such as https://netbox-events.example.com/webhook/netbox/netbox"
	URL string `json:"url,omitempty"`
	// objectTypes are the types of objects, or all of one application, whose changes NetBox sends, for example ["dcim.device", "ipam.*"]; or
	// ["*"] for all that have event rules, which is the default; or ["FromRules"] for those that the rules of this namespace match.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:Pattern=`^(\*|FromRules|[a-z0-9_-]+\.([a-z0-9_-]+|\*))$`
	// +kubebuilder:validation:XValidation:rule="size(self) == 1 || !self.exists(t, t == '*' || t == 'FromRules')",message="* and FromRules are for all object types of the list: remove the others"
	ObjectTypes []string `json:"objectTypes,omitempty"`
	// events are the kinds of events that NetBox sends, by default ["created", "updated", "deleted"].
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:items:Enum=created;updated;deleted;job_started;job_ended
	Events []string `json:"events,omitempty"`
	// deletionPolicy is Delete or Retain, for example Retain: what happens to the webhook and its event rule when the source is deleted. The
	// default is Delete.
	// +optional
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`
}

// Values of webhook.objectTypes that are no object types.
const (
	// AllObjectTypes is for all object types that have event rules.
	AllObjectTypes = "*"
	// ObjectTypesFromRules is for the object types that the rules of the namespace match.
	ObjectTypesFromRules = "FromRules"
)

// DeletionPolicy is what happens in NetBox when a source is deleted.
//
// +kubebuilder:validation:Enum=Delete;Retain
type DeletionPolicy string

const (
	// DeletionPolicyDelete deletes the webhook and its event rule.
	DeletionPolicyDelete DeletionPolicy = "Delete"
	// DeletionPolicyRetain keeps them.
	DeletionPolicyRetain DeletionPolicy = "Retain"
)

// LookupPolicy is whether rules may read NetBox.
//
// +kubebuilder:validation:Enum=Allow;Deny
type LookupPolicy string

const (
	// LookupsAllowed lets the rules of the namespace read NetBox with the source's token.
	LookupsAllowed LookupPolicy = "Allow"
	// LookupsDenied refuses it.
	LookupsDenied LookupPolicy = "Deny"
)

// Backfill configures how the change log is read.
type Backfill struct {
	// interval is the time between two readings, for example 1m.
	// +optional
	// +kubebuilder:default="1m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9.]+(ns|us|ms|s|m|h))+$') && duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="must be at least 1s, and at most 24h, for example 90s; the largest unit is h"
	Interval metav1.Duration `json:"interval,omitzero"`
	// lag is the time that a webhook may take, for example 2m: a change that is older and has no event becomes one.
	// +optional
	// +kubebuilder:default="2m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9.]+(ns|us|ms|s|m|h))+$') && duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="must be at least 1s, and at most 24h, for example 90s; the largest unit is h"
	Lag metav1.Duration `json:"lag,omitzero"`
	// maxAge is the maximum age of a change that becomes an event, for example 24h. Older ones are skipped, such as after a longer outage.
	// +optional
	// +kubebuilder:default="24h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9.]+(ns|us|ms|s|m|h))+$') && duration(self) > duration('0s')",message="must be longer than 0s, for example 90s; the largest unit is h"
	MaxAge metav1.Duration `json:"maxAge,omitzero"`
	// from is the time of the first change to look at, for example 2026-11-01T00:00:00Z. Without it, changes that were made before the first
	// reading are not looked at.
	// +optional
	From *metav1.Time `json:"from,omitempty"`
}

// AnnotationBackfillSince is a time in RFC 3339, such as 2026-11-27T08:00:00Z, on a NetBoxSource: whenever its value changes, the change
// log is read again from that time on.
const AnnotationBackfillSince = "netbox-events.io/backfill-since"

// FinalizerNetBox keeps a deleted NetBoxSource until its webhook is removed from NetBox.
const FinalizerNetBox = "netbox-events.io/netbox"

// NetBoxAPIStatus is what the operator knows of a source's NetBox.
type NetBoxAPIStatus struct {
	// version of NetBox, for example 4.7.3.
	// +optional
	Version string `json:"version,omitempty"`
	// webhookID is the id of the webhook in NetBox, for example 14.
	// +optional
	WebhookID int64 `json:"webhookID,omitempty"`
	// eventRuleID is the id of the event rule in NetBox, for example 9.
	// +optional
	EventRuleID int64 `json:"eventRuleID,omitempty"`
	// key is the name of the Secret's entry that NetBox signs with, for example secret.
	// +optional
	Key string `json:"key,omitempty"`
	// objectTypes is the number of object types whose changes NetBox sends, for example 127.
	// +optional
	ObjectTypes int32 `json:"objectTypes,omitempty"`
	// cursor is the id of a row of the change log, for example 325: all changes up to it have events, or none is wanted. It is followed by a
	// margin for transactions that were long open.
	// +optional
	Cursor int64 `json:"cursor,omitempty"`
	// cursorTime is the time of that row, for example 2026-11-27T08:00:00.123456Z.
	// +optional
	CursorTime *metav1.MicroTime `json:"cursorTime,omitempty"`
	// missed is the number of changes of which no webhook came, and that became events, for example 3. Counts since the last update are lost
	// when the operator stops.
	// +optional
	Missed int64 `json:"missed,omitempty"`
	// phantoms is the number of events whose change is not in the change log, for example 1. They are labeled netbox-events.io/phantom.
	// +optional
	Phantoms int64 `json:"phantoms,omitempty"`
	// backfillSince is the last value of the annotation netbox-events.io/backfill-since that was processed.
	// +optional
	BackfillSince string `json:"backfillSince,omitempty"`
}

// Conditions of a NetBoxSource with spec.netbox, and their reasons.
const (
	// ConditionNetBoxReachable is True while NetBox answers the token. ConditionWebhookConfigured and ConditionChangeLogRead have its reasons
	// too, where NetBox is why they are not True.
	ConditionNetBoxReachable = "NetBoxReachable"

	// ReasonReachable means that NetBox answers.
	ReasonReachable = "Reachable"
	// ReasonTokenUnreadable means that the Secret of the token, or that of the CA, could not be read.
	ReasonTokenUnreadable = "TokenUnreadable"
	// ReasonTokenRefused means that NetBox refuses the token.
	ReasonTokenRefused = "TokenRefused"
	// ReasonPermissionMissing means that the token lacks a permission.
	ReasonPermissionMissing = "PermissionMissing"
	// ReasonUnreachable means that NetBox cannot be reached, or does not answer as NetBox does.
	ReasonUnreachable = "Unreachable"
	// ReasonRefused means that NetBox refuses a request.
	ReasonRefused = "Refused"
	// ReasonUnsupportedVersion means that this version of NetBox lacks what is needed.
	ReasonUnsupportedVersion = "UnsupportedVersion"

	// ConditionWebhookConfigured is True while the webhook and its event rule in NetBox are as spec.netbox.webhook says.
	ConditionWebhookConfigured = "WebhookConfigured"

	// ReasonConfigured means that the webhook and its event rule are as they should be.
	ReasonConfigured = "Configured"
	// ReasonNameTaken means that a webhook or an event rule with the name exists that is not of this source.
	ReasonNameTaken = "NameTaken"
	// ReasonKeyUnusable means that no key of spec.secretRef can be the webhook's secret.
	ReasonKeyUnusable = "KeyUnusable"
	// ReasonRemovalFailed means that the source is being deleted, and that its webhook could not be removed yet.
	ReasonRemovalFailed = "RemovalFailed"

	// ConditionChangeLogRead is True while the change log is read.
	ConditionChangeLogRead = "ChangeLogRead"

	// ReasonUpToDate means that all changes older than the lag have events.
	ReasonUpToDate = "UpToDate"
	// ReasonCatchingUp means that older changes are being read or stored.
	ReasonCatchingUp = "CatchingUp"

	// ConditionReceiving is False where NetBox logged changes that it should have sent, and none of them came.
	ConditionReceiving = "Receiving"

	// ReasonChangesArrive means that changes that NetBox logged arrived.
	ReasonChangesArrive = "ChangesArrive"
	// ReasonNothingLogged means that NetBox has logged no change yet that it should have sent.
	ReasonNothingLogged = "NothingLogged"
	// ReasonNothingArrives means that NetBox logged changes, and that none of them arrived.
	ReasonNothingArrives = "NothingArrives"
)
