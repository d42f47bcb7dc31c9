package netbox

import (
	"bytes"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// timeLayout is the form of the timestamps that NetBox sends.
const timeLayout = "2006-01-02T15:04:05.000000Z07:00"

// changeBody is the body of a webhook of NetBox 4.7.
type changeBody struct {
	Event      string          `json:"event"`
	Timestamp  string          `json:"timestamp"`
	ObjectType string          `json:"object_type"`
	Data       json.RawMessage `json:"data"`
	Request    struct {
		ID   string  `json:"id"`
		User *string `json:"user"`
	} `json:"request"`
	Snapshots struct {
		Prechange  json.RawMessage `json:"prechange"`
		Postchange json.RawMessage `json:"postchange"`
	} `json:"snapshots"`
}

// body returns the body of the webhook that NetBox would have sent for the change with some data.
func (c *change) body(data json.RawMessage) ([]byte, error) {
	body := changeBody{Event: c.event, Timestamp: c.time.UTC().Format(timeLayout), ObjectType: c.objectType, Data: data}
	body.Request.ID = c.requestID
	if c.user != "" {
		body.Request.User = &c.user
	}
	body.Snapshots.Prechange = c.before
	if c.event != eventDeleted {
		body.Snapshots.Postchange = c.after
	}
	return json.Marshal(body)
}

// data returns the object of the change as its rows have it, with the members that identify an object in NetBox's API. The endpoint is the
// path of the list of such objects, "" if it is unknown.
func (c *change) data(endpoint string) (json.RawMessage, error) {
	members := map[string]json.RawMessage{}
	if c.latest != nil {
		if err := json.Unmarshal(c.latest, &members); err != nil {
			return nil, err
		}
	}
	id, err := strconv.ParseInt(c.objectID, 10, 64)
	// The rows of NetBox are flat, and have none of these. Those of Nautobot, whose ids are no numbers, have them.
	isFlat := err == nil
	set := func(name string, value any) {
		if _, ok := members[name]; isFlat || !ok {
			members[name], _ = json.Marshal(value) // cannot fail: it is a text or a number
		}
	}
	delete(members, "id") // the change is of the object that its rows name, and so is the event
	if isFlat {
		set("id", id)
	} else {
		set("id", c.objectID)
	}
	if endpoint != "" {
		set("url", strings.TrimSuffix(endpoint, "/")+"/"+url.PathEscape(c.objectID)+"/")
	}
	if c.objectName != "" {
		set("display", c.objectName)
	}
	return json.Marshal(members)
}

// linkNames are the members of objects in NetBox's API that are URLs of that NetBox.
var linkNames = []string{"url", "display_url", "notes_url", "image", "front_image", "rear_image"}

// userNames are the members with data of users, in which such a name has another meaning.
var userNames = []string{"custom_fields", "custom_field_data", "config_context", "local_context_data"}

// relativeLinks returns an object of the API as webhooks have it: the URLs of NetBox without scheme and host. Nothing else changes.
func relativeLinks(object json.RawMessage) json.RawMessage {
	var self struct {
		URL string `json:"url"`
	}
	_ = json.Unmarshal(object, &self)
	parsed, err := url.Parse(self.URL)
	if err != nil || parsed.Scheme == "" || parsed.Host == "" {
		return object
	}
	origin := `"` + parsed.Scheme + "://" + parsed.Host
	var relative []byte
	done := int64(0)
	dec := jsontext.NewDecoder(bytes.NewReader(object), jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))
	for {
		kind, depth := dec.PeekKind(), dec.StackDepth()
		container, length := dec.StackIndex(depth)
		isName := container == '{' && length%2 == 0
		if kind != '"' || isName {
			token, err := dec.ReadToken()
			if err != nil {
				break // the end: the client has decoded the object
			}
			if isName && kind == '"' && slices.Contains(userNames, token.String()) {
				if dec.SkipValue() != nil {
					break
				}
			}
			continue
		}
		value, err := dec.ReadValue()
		if err != nil {
			break
		}
		rest, isLink := bytes.CutPrefix(value, []byte(origin+"/"))
		if !isLink || container != '{' || !slices.Contains(linkNames, dec.StackPointer().LastToken()) {
			continue
		}
		end := dec.InputOffset()
		relative = append(relative, object[done:end-int64(len(value))]...)
		relative = append(relative, `"/`...)
		relative = append(relative, rest...)
		done = end
	}
	return append(relative, object[done:]...)
}
