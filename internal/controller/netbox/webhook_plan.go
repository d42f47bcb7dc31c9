package netbox

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netboxapi"
	"github.com/netbox-events/netbox-event-operator/internal/secretkeys"
)

// NetBox's limits, in characters: the name of a webhook and of an event rule, their descriptions, and a webhook's secret.
const (
	maxNameLength        = 150
	maxDescriptionLength = 200
	maxSecretLength      = 255
)

// namePrefix begins the names of webhooks and event rules, so that the permissions of a token can be limited to them.
const namePrefix = "netbox-event-operator/"

// objectName returns the name that the webhook and the event rule of a source have in NetBox. A name that is too long ends with a hash.
func objectName(source types.NamespacedName) string {
	const hashLength = 16
	name := namePrefix + source.String()
	if len(name) <= maxNameLength {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return name[:maxNameLength-hashLength-1] + "-" + hex.EncodeToString(sum[:])[:hashLength]
}

// The descriptions in NetBox: who made an object. They begin with the name of a source, which may be cut.
const (
	ownedFormat    = "NetBoxSource %s, uid %s; made and kept by netbox-event-operator"
	retainedFormat = "NetBoxSource %s; made by netbox-event-operator, and kept when the source was deleted"
)

var (
	ownedPattern    = regexp.MustCompile(`^NetBoxSource \S+, uid (\S+); made and kept by netbox-event-operator$`)
	retainedPattern = regexp.MustCompile(`^NetBoxSource \S+; made by netbox-event-operator, and kept when the source was deleted$`)
)

// ownedMark returns the description of an object that a source owns.
func ownedMark(source types.NamespacedName, uid types.UID) string {
	rest := len(fmt.Sprintf(ownedFormat, "", uid))
	return fmt.Sprintf(ownedFormat, cutName(source.String(), maxDescriptionLength-rest), uid)
}

// retainedMark returns the description of an object that is kept after its source was deleted.
func retainedMark(source types.NamespacedName) string {
	rest := len(fmt.Sprintf(retainedFormat, ""))
	return fmt.Sprintf(retainedFormat, cutName(source.String(), maxDescriptionLength-rest))
}

func cutName(name string, length int) string {
	const ellipsis = "..."
	if len(name) <= length {
		return name
	}
	return name[:length-len(ellipsis)] + ellipsis
}

// netboxObject is a webhook or an event rule that was found in NetBox.
type netboxObject struct {
	kind              string
	id                int64
	name, description string
}

func webhookObject(webhook *netboxapi.Webhook) netboxObject {
	return netboxObject{kind: "webhook", id: webhook.ID, name: webhook.Name, description: webhook.Description}
}

func ruleObject(rule *netboxapi.EventRule) netboxObject {
	return netboxObject{kind: "event rule", id: rule.ID, name: rule.Name, description: rule.Description}
}

// hasMark reports whether the description says that a source owns the object.
func (o netboxObject) hasMark(uid types.UID) bool {
	mark := ownedPattern.FindStringSubmatch(o.description)
	return mark != nil && mark[1] == string(uid)
}

// isOwned reports whether a source owns an object with its name: it has the source's mark; or no mark, but the id in the source's status,
// because somebody changed its description.
func (o netboxObject) isOwned(uid types.UID, statusID int64) bool {
	return o.hasMark(uid) || o.id == statusID && !ownedPattern.MatchString(o.description) && !retainedPattern.MatchString(o.description)
}

// claim returns an error for which isNameTaken is true, unless a source owns an object with its name, or may adopt one that was kept.
func (o netboxObject) claim(uid types.UID, statusID int64) error {
	if o.isOwned(uid, statusID) || retainedPattern.MatchString(o.description) {
		return nil
	}
	if owned := ownedPattern.FindStringSubmatch(o.description); owned != nil {
		return nameTaken("the name %s is taken in NetBox: %s %d belongs to the NetBoxSource with uid %s, of another operator or an earlier one "+
			"of this name; delete that %s in NetBox if the source is gone, or rename this source", o.name, o.kind, o.id, owned[1], o.kind)
	}
	return nameTaken("the name %s is taken in NetBox: %s %d was not made by this operator, and is left alone; rename or delete it in NetBox",
		o.name, o.kind, o.id)
}

// setUpError is a reason why the webhook cannot be set up, other than an error of a client.
type setUpError struct {
	// reason is that of the condition.
	reason string
	text   string
}

// Error says what to do.
func (e *setUpError) Error() string { return e.text }

// webhookReasonOf returns the reason of the condition WebhookConfigured for an error.
func webhookReasonOf(err error) string {
	if failure, ok := errors.AsType[*setUpError](err); ok {
		return failure.reason
	}
	return reasonOf(err)
}

// hiddenName returns the error for a name that NetBox says is taken, by an object that the token may not see.
func hiddenName(kind, name string) error {
	return nameTaken("the name %s is taken in NetBox by another %s, which the token may not see: let it view all whose name begins with %s, "+
		"or delete that %s in NetBox", name, kind, namePrefix, kind)
}

func nameTaken(format string, args ...any) error {
	return &setUpError{v1alpha1.ReasonNameTaken, fmt.Sprintf(format, args...)}
}

// isNameTaken reports whether an object of NetBox has the name of a source, and is not the source's.
func isNameTaken(err error) bool {
	failure, ok := errors.AsType[*setUpError](err)
	return ok && failure.reason == v1alpha1.ReasonNameTaken
}

// desired is what the webhook and the event rule of a source should be. Fields that people may set have the values for a new webhook.
type desired struct {
	// url is that of NetBox.
	url     string
	webhook netboxapi.Webhook
	rule    netboxapi.EventRule
}

// planWebhook returns what the webhook and the event rule of a source should be, which must have spec.netbox.webhook.
func planWebhook(source *v1alpha1.NetBoxSource, key []byte, objectTypes []string) desired {
	name := types.NamespacedName{Namespace: source.Namespace, Name: source.Name}
	spec := source.Spec.NetBox.Webhook
	return desired{
		url: source.Spec.NetBox.URL,
		webhook: netboxapi.Webhook{
			Name: objectName(name), Description: ownedMark(name, source.UID), PayloadURL: spec.URL, HTTPMethod: "POST",
			HTTPContentType: "application/json", Secret: string(key), SSLVerification: true,
		},
		rule: netboxapi.EventRule{
			Name: objectName(name), Description: ownedMark(name, source.UID), Enabled: true, ObjectTypes: objectTypes,
			Events: netboxEvents(spec.Events),
		},
	}
}

// webhookFrom returns what an existing webhook should be.
func (d desired) webhookFrom(have netboxapi.Webhook) netboxapi.Webhook {
	want := d.webhook
	want.ID, want.SSLVerification, want.CAFilePath = have.ID, have.SSLVerification, have.CAFilePath
	return want
}

// netboxEvents returns NetBox's names of the kinds of events in spec.netbox.webhook.events.
func netboxEvents(events []string) []string {
	if len(events) == 0 {
		events = []string{"created", "updated", "deleted"}
	}
	var names []string
	for _, event := range events {
		switch event {
		case "created":
			names = append(names, netboxapi.ObjectCreated)
		case "updated":
			names = append(names, netboxapi.ObjectUpdated)
		case "deleted":
			names = append(names, netboxapi.ObjectDeleted)
		case "job_started":
			names = append(names, netboxapi.JobStarted)
		case "job_ended":
			names = append(names, netboxapi.JobCompleted, netboxapi.JobErrored, netboxapi.JobFailed)
		}
	}
	return names
}

// driftedFields returns those of the fields that differ which were changed in NetBox: of newly, the operator wanted something else before.
func driftedFields(differ, newly []string) []string {
	return slices.DeleteFunc(slices.Clone(differ), func(field string) bool { return slices.Contains(newly, field) })
}

// signingKey returns the key of a Secret that NetBox is to sign with: the one that ref names, or that with the last name. It fails if
// NetBox could not keep it as it is.
func signingKey(secret *corev1.Secret, ref *v1alpha1.SecretKeysReference) (secretkeys.Key, error) {
	keys, err := secretkeys.Of(secret, ref)
	if err != nil {
		return secretkeys.Key{}, fmt.Errorf("spec.secretRef: %w", err)
	}
	key := keys[len(keys)-1]
	text := string(key.Value)
	unusable := func(format string, args ...any) (secretkeys.Key, error) {
		return secretkeys.Key{}, fmt.Errorf("spec.secretRef: entry %s of Secret %s cannot be the webhook's secret in NetBox: %s", key.Name,
			ref.Name, fmt.Sprintf(format, args...))
	}
	switch {
	case !utf8.Valid(key.Value), strings.ContainsRune(text, 0):
		return unusable("it is not text; use, for example, the output of openssl rand -hex 32")
	case strings.TrimFunc(text, isPythonSpace) != text:
		return unusable("it begins or ends with white space, which NetBox removes; remove it")
	case utf8.RuneCountInString(text) > maxSecretLength:
		return unusable("it has %d characters, and NetBox takes at most %d; use a shorter one", utf8.RuneCountInString(text), maxSecretLength)
	}
	return key, nil
}

// isPythonSpace reports whether NetBox strips a character from the ends of a text.
func isPythonSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }
