package netbox

import (
	"crypto/sha256"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Object is a JSON object whose values are JSON texts. A nil Object is null or a missing member.
type Object map[string]jsontext.Value

// Event is a delivery, normalised across all versions of NetBox.
type Event struct {
	// Event is the kind of event: "created", "updated", "deleted", "job_started", "job_ended", or a name defined by a plugin.
	Event string
	// Timestamp is when NetBox sent it, in UTC, to the microsecond.
	Timestamp time.Time
	// ObjectType is the application and model, "dcim.site". It is empty if neither the body nor the model identifies the application, as for
	// the job events of a plugin's model before NetBox 4.4.
	ObjectType string
	// Model is the model alone, "site".
	Model string
	// ObjectID is data.id as text: "14", or a UUID from Nautobot. It is empty for job events.
	ObjectID string
	// ObjectURL is data.url, "/api/dcim/sites/14/".
	ObjectURL string
	// ObjectName is data.display (from NetBox 2.11), else data.name.
	ObjectName string
	// Branch is the branch of netbox-branching in which the change was made, "" for main.
	Branch string
	// Username is the user who made the change; request.user from NetBox 4.7.
	Username string
	// RequestID is the UUID of the HTTP request to NetBox that made the change; request.id from NetBox 4.7. All changes of
	// a bulk edit share it. It is empty for job events.
	RequestID string
	// ChangedFields are the names of the fields in which the snapshots of an update differ, sorted, without last_updated. Custom fields are
	// among them as custom_fields.owner, beside custom_fields.
	ChangedFields []string

	// Data, Snapshots, Context and Request are the members of these names.
	Data, Snapshots, Context, Request Object
	// Extra holds the members that no version of NetBox defines.
	Extra Object
	// Envelope holds the other original members, for Body: members that became text fields, {"event": "updated", "timestamp": "2020-10-26
	// 18:14:18.764443+00:00", "model": "site"}, and nulls in place of an Object, {"data": null}.
	Envelope Object

	// Redacted and Stringified are JSON pointers from the event, "/data/auth_psk": to values replaced by the text Redacted,
	// and to numbers replaced by the text of their digits.
	Redacted, Stringified []string
	// Digest is the SHA-256 of the body, with redacted values already replaced.
	Digest [sha256.Size]byte
}

// Decode reads the body of a delivery. Values under a name in redact, at any depth, are replaced by the text Redacted.
//
// It fails with a *SyntaxError if the body is not one JSON object, and with an *InvalidError, which names every fault, if it is
// not an event. See also ErrTooLarge and ErrTooManyValues.
func Decode(body []byte, redact []string) (*Event, error) {
	found, err := scan(body, redact)
	if err != nil {
		return nil, err
	}
	kept, err := members(apply(body, slices.Concat(found.redacted, found.stringified)))
	if err != nil {
		return nil, err
	}

	var faults []Fault
	top := fields{object: kept, faults: &faults}
	data, snapshots, request := top.child("data"), top.child("snapshots"), top.child("request")
	event := &Event{
		Event:       top.requiredText("event"),
		Timestamp:   top.timestamp("timestamp"),
		ObjectType:  top.text("object_type"),
		Model:       top.text("model"),
		ObjectID:    data.scalar("id"),
		ObjectURL:   data.scalar("url"),
		ObjectName:  first(data.scalar("display"), data.scalar("name")),
		Username:    first(top.text("username"), request.text("user")),
		RequestID:   first(top.text("request_id"), request.text("id")),
		Data:        data.object,
		Snapshots:   snapshots.object,
		Context:     top.child("context").object,
		Request:     request.object,
		Extra:       only(kept, func(name string) bool { return !isDefined(name) }),
		Envelope:    only(kept, func(name string) bool { return isDefined(name) && kept[name].Kind() != '{' }),
		Redacted:    found.redactedAt,
		Stringified: found.stringifiedAt,
		Digest:      sha256.Sum256(apply(body, found.redacted)),
	}
	event.ObjectType, event.Model = objectType(event, data.scalar("object_type"))
	event.Branch = first(branch(event.Context), branch(event.Data))

	if len(found.redacted) > 0 { // changes of redacted values show only in the original body
		sent, err := members(body)
		if err != nil {
			return nil, err
		}
		snapshots = fields{object: sent, faults: &faults}.child("snapshots")
	}
	before, after := snapshots.child("prechange").object, snapshots.child("postchange").object
	if event.Event == "updated" {
		event.ChangedFields = changedFields(before, after)
	}

	top.require("data")
	switch {
	case event.Model != "":
	case event.ObjectType != "":
		top.fault("object_type", "must name an application and a model, such as dcim.site, is %.40q", event.ObjectType)
	default:
		top.fault("object_type", "is missing, and so is model; one of them must name the object's type, such as dcim.site")
	}
	if len(faults) > 0 {
		return nil, invalid(faults)
	}
	return event, nil
}

// branch returns the name of the active branch, {"active_branch": {"id": 2, "name": "Rack move", "schema_id": "td5smq0f"}}, which
// netbox-branching adds to the context, and, if it is configured to, to the data.
func branch(object Object) string {
	return fields{object: object, faults: new([]Fault)}.child("active_branch").scalar("name")
}

// Redact returns a JSON value of NetBox as Decode keeps data: without what is under a name in redact, at any depth, and with the numbers
// that Kubernetes cannot represent as strings. It fails as Decode does.
func Redact(value []byte, redact []string) ([]byte, error) {
	const before, after = `{"data":`, `}`
	body := slices.Concat([]byte(before), value, []byte(after))
	found, err := scan(body, redact)
	if err != nil {
		return nil, err
	}
	edited := apply(body, slices.Concat(found.redacted, found.stringified))
	return edited[len(before) : len(edited)-len(after)], nil
}

// members decodes an object that scan has validated.
func members(body []byte) (Object, error) {
	var object Object
	if err := json.Unmarshal(body, &object, lenient, jsontext.AllowDuplicateNames(true)); err != nil {
		return nil, syntaxError(body, 0, "not valid JSON: %v", err)
	}
	return object, nil
}

// only returns the members whose names are wanted, or nil.
func only(members Object, wanted func(name string) bool) Object {
	var found Object
	for name, value := range members {
		if !wanted(name) {
			continue
		}
		if found == nil {
			found = Object{}
		}
		found[name] = value
	}
	return found
}

// ChangedFields returns the fields in which two snapshots differ, as Event.ChangedFields names them. The snapshots are JSON objects, such
// as those before the first and after the last of several updates.
func ChangedFields(before, after jsontext.Value) []string {
	both := fields{object: Object{"before": before, "after": after}, faults: new([]Fault)}
	return changedFields(both.child("before").object, both.child("after").object)
}

// changedFields returns the sorted names of the fields that differ, and of the custom fields that differ, as custom_fields.<name>. Without
// both snapshots it returns nil: an update that is only a side effect of another object's change has no prechange.
func changedFields(before, after Object) []string {
	if before == nil || after == nil {
		return nil
	}
	var changed []string
	for _, name := range names(before, after) {
		value, ok := before[name]
		other, okOther := after[name]
		if name != "last_updated" && (ok != okOther || !equal(value, other)) {
			changed = append(changed, name)
		}
	}
	if slices.Contains(changed, customFields) {
		before, after := custom(before), custom(after)
		for _, name := range names(before, after) {
			if !equal(orNull(before[name]), orNull(after[name])) { // an object that was not saved since a field was added lacks it
				changed = append(changed, customFields+"."+name)
			}
		}
	}
	slices.Sort(changed)
	return changed
}

const customFields = "custom_fields"

// custom returns the custom fields of a snapshot, nil for none.
func custom(snapshot Object) Object {
	return fields{object: snapshot, faults: new([]Fault)}.child(customFields).object
}

// names returns the names of the members of two objects, each once.
func names(a, b Object) []string {
	all := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(all)
	return slices.Compact(all)
}

func orNull(value jsontext.Value) jsontext.Value {
	if value == nil {
		return jsontext.Value("null")
	}
	return value
}

// equal compares two values of one sender: it ignores the order of members and the escaping of text, but 1.0 is not 1.
func equal(a, b jsontext.Value) bool {
	if string(a) == string(b) {
		return true
	}
	return string(canonical(a)) == string(canonical(b))
}

func canonical(value jsontext.Value) jsontext.Value {
	canonical := value.Clone()
	// The value was decoded already, so this cannot fail.
	_ = canonical.Format(lenient, jsontext.ReorderRawObjects(true))
	return canonical
}

func first(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}
