package redact

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// treatment is what is done about a string of an object.
type treatment int

const (
	// asTemplate is the treatment of all strings that the table does not have, so that new fields are replaced.
	asTemplate treatment = iota
	shown
	asText
	asExpression
	asValue
)

// treatments are those of strings, by the last names of the path of their field, without indexes.
var treatments = map[string]treatment{
	// Names in Kubernetes, and of the operator's API.
	"name": shown, "key": shown, "keys": shown, "sources": shown, "serviceAccountName": shown, "dependsOn": shown, "id": shown, "group": shown,
	"replay": shown, "replayRule": shown, "version": shown, "backfillSince": shown, "traceparent": shown,
	// What happened to an object, and which one, without its name.
	"event": shown, "objectType": shown, "model": shown, "objectID": shown, "requestID": shown, "changedFields": shown, "redact": shown,
	"redacted": shown, "stringified": shown, "events": shown, "objectTypes": shown,
	// Words that the API defines.
	"unsigned": shown, "order": shown, "format": shown, "method": shown, "operation": shown, "lookups": shown, "deletionPolicy": shown,
	"type": shown, "origin": shown, "signature": shown, "phase": shown, "state": shown, "status": shown, "reason": shown,
	// Times.
	"timestamp": shown, "since": shown, "until": shown, "from": shown, "oldest": shown, "interval": shown, "lag": shown, "quiet": shown,
	"maxWait": shown, "for": shown, "backoff": shown, "maxBackoff": shown, "timeout": shown, "succeededTTL": shown, "failedTTL": shown,
	"maxAge": shown, "receivedAt": shown, "dataReadAt": shown,

	"cel": asExpression, "when": asExpression, "success": asExpression, "failure": asExpression, "by": asExpression, "limit.key": asExpression,
	"message": asText, "lastError": asText, "response": asText, "lastExpressionError": asText,
	"group.key": asValue, "limitKey": asValue, "branches": asValue,
	"event.reason": asTemplate, "event.message": asTemplate, "log.message": asTemplate,
}

// payloads are the fields with NetBox's values, and bodies those with templates of any structure.
var (
	payloads = []string{"data", "snapshots", "context", "extra", "request", "envelope", "result"}
	bodies   = []string{"json", "form", "template", "variables"}
)

func treatmentOf(path []string) treatment {
	last := path[len(path)-1]
	if len(path) > 1 {
		if found, ok := treatments[path[len(path)-2]+"."+last]; ok {
			return found
		}
	}
	if strings.HasSuffix(last, "Time") {
		return shown
	}
	return treatments[last]
}

// walk returns a part of an object with its strings replaced by do. Payloads and bodies are replaced as a whole.
func walk(path []string, value any, do func(value any, as treatment) any) any {
	last := path[len(path)-1]
	if slices.Contains(payloads, last) {
		return do(value, asValue)
	}
	if slices.Contains(bodies, last) {
		return do(value, asTemplate)
	}
	switch value := value.(type) {
	case map[string]any:
		walked := make(map[string]any, len(value))
		for _, key := range slices.Sorted(maps.Keys(value)) {
			walked[key] = walk(append(slices.Clip(path), key), value[key], do)
		}
		return walked
	case []any:
		walked := make([]any, len(value))
		for i, item := range value {
			walked[i] = walk(path, item, do)
		}
		return walked
	case string:
		return do(value, treatmentOf(path))
	default:
		return value
	}
}

// fieldsOf returns an object as it is stored.
func fieldsOf(object any) (map[string]any, error) {
	text, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var fields map[string]any
	return fields, decoder.Decode(&fields)
}

// LearnObject takes the values of a source, a rule or an event.
func (r *Redactor) LearnObject(object any) error {
	fields, err := fieldsOf(object)
	if err != nil {
		return err
	}
	learn := func(value any, as treatment) any {
		switch as {
		case asValue:
			r.Learn(value)
		case asTemplate:
			r.learnTemplates(value)
		case shown, asText, asExpression:
		}
		return value
	}
	for _, part := range []string{"spec", "status"} {
		walk([]string{part}, fields[part], learn)
	}
	for _, field := range []string{"labels", "annotations"} {
		described, _ := fields["metadata"].(map[string]any)[field].(map[string]any)
		for key, value := range described {
			if !isShownKey(key) {
				r.LearnText(fmt.Sprint(value))
			}
		}
	}
	return nil
}

func (r *Redactor) learnTemplates(value any) {
	switch value := value.(type) {
	case map[string]any:
		for _, item := range value {
			r.learnTemplates(item)
		}
	case []any:
		for _, item := range value {
			r.learnTemplates(item)
		}
	case string:
		r.LearnTemplate(value)
	}
}

// Object returns a source, a rule or an event without secrets and values of NetBox.
func (r *Redactor) Object(object any) (map[string]any, error) {
	fields, err := fieldsOf(object)
	if err != nil {
		return nil, err
	}
	redacted := map[string]any{"apiVersion": fields["apiVersion"], "kind": fields["kind"], "metadata": r.metadata(fields["metadata"])}
	for _, part := range []string{"spec", "status"} {
		if fields[part] != nil {
			redacted[part] = walk([]string{part}, fields[part], r.treat)
		}
	}
	return redacted, nil
}

func (r *Redactor) treat(value any, as treatment) any {
	text, isText := value.(string)
	switch {
	case as == asValue:
		return r.Value(value)
	case !isText:
		return r.templates(value)
	case as == shown:
		return text
	case as == asText:
		return r.Text(text)
	case as == asExpression:
		return r.Expression(text)
	default:
		return r.Template(text)
	}
}

// templates returns a body with its expressions. The kind of an object is shown.
func (r *Redactor) templates(value any) any {
	switch value := value.(type) {
	case map[string]any:
		masked := make(map[string]any, len(value))
		for _, key := range slices.Sorted(maps.Keys(value)) {
			if key == "apiVersion" || key == "kind" {
				masked[key] = value[key]
				continue
			}
			masked[key] = r.templates(value[key])
		}
		return masked
	case []any:
		masked := make([]any, len(value))
		for i, item := range value {
			masked[i] = r.templates(item)
		}
		return masked
	case string:
		return r.Template(value)
	default:
		return r.Value(value)
	}
}

// metadata returns an object's metadata. Annotations may have the whole object, or anything.
func (r *Redactor) metadata(value any) map[string]any {
	fields, _ := value.(map[string]any)
	kept := map[string]any{}
	for _, field := range []string{
		"name", "namespace", "uid", "generation", "resourceVersion", "creationTimestamp", "deletionTimestamp", "finalizers", "ownerReferences",
	} {
		if fields[field] != nil {
			kept[field] = fields[field]
		}
	}
	for _, field := range []string{"labels", "annotations"} {
		described, _ := fields[field].(map[string]any)
		shown := map[string]any{}
		for _, key := range slices.Sorted(maps.Keys(described)) {
			if shown[key] = described[key]; !isShownKey(key) {
				shown[key] = r.Value(described[key])
			}
		}
		if len(shown) > 0 {
			kept[field] = shown
		}
	}
	return kept
}

// isShownKey reports whether the value of a label or an annotation is a name in Kubernetes.
func isShownKey(key string) bool {
	prefix, _, _ := strings.Cut(key, "/")
	return slices.Contains([]string{"netbox-events.io", "app.kubernetes.io", "helm.sh"}, prefix)
}

// logKeys are fields of the operator's log with names or words, and logTexts those with free text. All others have values.
var (
	logKeys = []string{
		"level", "ts", "logger", "name", "namespace", "source", "rule", "action", "event", "objectType", "objectID", "requestID", "timestamp",
		"at", "controller", "controllerKind", "controllerGroup", "reconcileID", "version", "commit", "go", "reason", "condition", "method",
		"status", "address", "caller", "traceID", "spanID",
	}
	logTexts = []string{"msg", "error", "cause", "stacktrace", "stack", "result"}
)

// LogLine returns a line of the operator's log without values.
func (r *Redactor) LogLine(line string) string {
	var fields map[string]any
	decoder := json.NewDecoder(strings.NewReader(line))
	decoder.UseNumber()
	if decoder.Decode(&fields) != nil {
		return r.Text(line) // of Go's runtime, such as a panic
	}
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		text, isText := fields[key].(string)
		switch {
		case isText && slices.Contains(logTexts, key):
			fields[key] = r.Text(text)
		case isText && slices.Contains(logKeys, key), !isText && isPlain(fields[key]):
		default:
			fields[key] = r.Value(fields[key])
		}
	}
	var masked strings.Builder
	encoder := json.NewEncoder(&masked)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(fields) != nil {
		return r.Text(line)
	}
	return strings.TrimSuffix(masked.String(), "\n")
}

// isPlain reports whether a value of a log line is a count, a time or a switch.
func isPlain(value any) bool {
	switch value.(type) {
	case json.Number, bool:
		return true
	default:
		return false
	}
}
