package v1alpha1

// Reasons of the Kubernetes Events of a NetBoxSource. Changes of the conditions NetBoxReachable and WebhookConfigured are Events with the
// reason of the condition.
const (
	// EventSignatureMismatch means that a delivery was refused with 401: its signature is wrong, or missing.
	EventSignatureMismatch = "SignatureMismatch"
	// EventMalformedBody means that a delivery was refused with 400: its body is not JSON.
	EventMalformedBody = "MalformedBody"
	// EventInvalidBody means that a delivery was refused with 422: fields are missing or have the wrong type, or it is older than spec.maxAge.
	EventInvalidBody = "InvalidBody"
	// EventBodyTooLarge means that a delivery was refused with 413: its body exceeds spec.maxBodyBytes or another limit.
	EventBodyTooLarge = "BodyTooLarge"
	// EventUnsupportedMediaType means that a delivery was refused with 415: its Content-Type is not JSON.
	EventUnsupportedMediaType = "UnsupportedMediaType"
	// EventNotStored means that a delivery was refused with 503: its event could not be stored, its Secret could not be read, or the source is
	// suspended.
	EventNotStored = "NotStored"
	// EventThrottled means that a delivery was refused with 429: too many requests are in flight, or spec.rateLimit is exceeded.
	EventThrottled = "Throttled"
	// EventBacklogFull means that a delivery was refused with 429: spec.maxPending events are pending.
	EventBacklogFull = "BacklogFull"
	// EventAcceptFailed means that the expression of spec.accept failed on a delivery, which was therefore stored.
	EventAcceptFailed = "AcceptFailed"

	// EventWebhookChanged means that the webhook or its event rule was created in NetBox, or changed to follow the source.
	EventWebhookChanged = "WebhookChanged"
	// EventDriftCorrected means that the webhook or its event rule was changed in NetBox, and changed back.
	EventDriftCorrected = "DriftCorrected"
	// EventWebhookRemoved means that the webhook of a deleted source was deleted from NetBox, or kept there if the source says so.
	EventWebhookRemoved = "WebhookRemoved"
	// EventWebhookLeft means that the webhook of a deleted source could not be deleted from NetBox, and has to be deleted there.
	EventWebhookLeft = "WebhookLeft"

	// EventMissedChanges means that changes without a webhook became events from NetBox's change log.
	EventMissedChanges = "MissedChanges"
	// EventChangesSkipped means that changes without an event were skipped, because they are older than spec.netbox.backfill.maxAge.
	EventChangesSkipped = "ChangesSkipped"
	// EventPhantomEvents means that events were labeled as phantoms: their changes are not in NetBox's change log.
	EventPhantomEvents = "PhantomEvents"
	// EventChangeNotStored means that a change of the change log cannot be stored as an event.
	EventChangeNotStored = "ChangeNotStored"
	// EventChangeLogReset means that the change log ends before the row that was read last, as after a restore of NetBox from a backup.
	EventChangeLogReset = "ChangeLogReset"
	// EventBackfillRefused means that the annotation netbox-events.io/backfill-since is not a time, or not one that can be gone back to.
	EventBackfillRefused = "BackfillRefused"
)
