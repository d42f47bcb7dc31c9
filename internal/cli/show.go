package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
	"github.com/netbox-events/netbox-event-operator/internal/payload"
)

const showExample = `  # What changed, and what came of it
  kubectl netbox show site-14-updated-3f9c2a7be1d04c55a1b2

  # The body as NetBox sent it, such as for a test of a rule
  kubectl netbox show site-14-updated-3f9c2a7be1d04c55a1b2 --raw > body.json`

func newShowCommand(p *plugin) *cobra.Command {
	var isRaw bool
	command := &cobra.Command{
		Use:               "show EVENT",
		Short:             "Show one event: what changed, its deliveries and its data",
		Example:           showExample,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.completeArgs(completeEvents),
		RunE: func(command *cobra.Command, args []string) error {
			api, namespace, err := p.cluster()
			if err != nil {
				return err
			}
			event, err := getEvent(command.Context(), api, namespace, args[0])
			if err != nil {
				return err
			}
			if !isRaw {
				return p.show(event)
			}
			body, err := payload.Body(event)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(p.Out, "%s\n", body)
			return err
		},
	}
	command.Flags().BoolVar(&isRaw, "raw", false, "print the body as NetBox sent it, except for redacted values")
	return command
}

// eventKey returns the namespace and name of an event, which is given as its name, as events -o name prints it, or as the receiver does:
// namespace/name.
func eventKey(given, namespace string) client.ObjectKey {
	before, name, ok := strings.Cut(given, "/")
	if !ok {
		return client.ObjectKey{Namespace: namespace, Name: given}
	}
	if resource, _, _ := strings.Cut(before, "."); slices.Contains([]string{"netboxevent", resourceEvents, "nbe"}, strings.ToLower(resource)) {
		before = namespace
	}
	return client.ObjectKey{Namespace: before, Name: name}
}

func getEvent(ctx context.Context, api client.Client, namespace, given string) (*v1alpha1.NetBoxEvent, error) {
	var event v1alpha1.NetBoxEvent
	key := eventKey(given, namespace)
	if err := api.Get(ctx, key, &event); err != nil {
		return nil, clusterError(err, "get", resourceEvents, key.Namespace)
	}
	return &event, nil
}

// show prints an event for people.
func (p *plugin) show(event *v1alpha1.NetBoxEvent) error {
	fmt.Fprintln(p.Out, summary(&event.Spec))
	facts := p.newTable()
	facts.indent, facts.maxBytes = "  ", maxFactBytes
	if err := facts.print(p.facts(event)...); err != nil {
		return err
	}
	if err := p.showChanges(event); err != nil {
		return err
	}
	if err := p.showDeliveries(event); err != nil {
		return err
	}
	return p.showData(event)
}

// maxFactBytes bounds a fact, such as the message of a condition.
const maxFactBytes = 1024

// summary says in one line what happened.
func summary(spec *v1alpha1.NetBoxEventSpec) string {
	parts := slices.DeleteFunc([]string{spec.ObjectType, spec.ObjectName, spec.Event}, func(part string) bool { return part == "" })
	text := strings.Join(parts, " ")
	if spec.Username != "" {
		text += " by " + spec.Username
	}
	if spec.Branch != "" {
		text += " in branch " + spec.Branch
	}
	return oneline.Of(text, maxFactBytes)
}

// facts returns what is known about an event and its delivery.
func (p *plugin) facts(event *v1alpha1.NetBoxEvent) (rows [][]cell) {
	spec, delivery := &event.Spec, &event.Spec.Delivery
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, []cell{{name, dim}, {value, ""}})
		}
	}
	add("Event", event.Namespace+"/"+event.Name)
	add("Source", spec.SourceRef.Name)
	add("Object", cmp.Or(spec.ObjectURL, spec.ObjectID))
	add("Request", requestText(spec))
	add("Sent", p.moment(spec.Timestamp.Time))
	add("Received", p.moment(delivery.ReceivedAt.Time)+", "+deliveryText(delivery))
	add("Redacted", strings.Join(delivery.Redacted, ", "))
	add("Stringified", strings.Join(delivery.Stringified, ", "))
	if event.Labels[v1alpha1.LabelPhantom] != "" {
		add("Phantom", "NetBox's change log does not have this change: NetBox sent it for a request that it rolled back")
	}
	phase := string(event.Status.Phase)
	if succeeded := meta.FindStatusCondition(event.Status.Conditions, v1alpha1.ConditionSucceeded); succeeded != nil {
		phase += " (" + succeeded.Reason + "): " + succeeded.Message
	}
	rows = append(rows, []cell{{"Phase", dim}, {phase, phaseColor(event.Status.Phase)}})
	if event.Status.Replay != "" || event.Status.ReplayRule != "" {
		add("Replay", strings.TrimSpace(event.Status.ReplayRule+" "+event.Status.Replay))
	}
	return rows
}

// requestText describes the request to NetBox that made the change.
func requestText(spec *v1alpha1.NetBoxEventSpec) string {
	parts := []string{spec.RequestID}
	for _, name := range []string{"method", "path"} {
		var value string
		if json.Unmarshal(spec.Request[name].Raw, &value) == nil {
			parts = append(parts, value)
		}
	}
	return strings.TrimSpace(strings.Join(parts, " "))
}

// deliveryText says how the event came.
func deliveryText(delivery *v1alpha1.Delivery) string {
	if delivery.Origin == v1alpha1.OriginChangeLog {
		return "from NetBox's change log: no webhook came"
	}
	text := fmt.Sprintf("%d bytes", delivery.BodyBytes)
	if delivery.Signature == v1alpha1.SignatureVerified {
		return text + ", signed with key " + delivery.Key
	}
	return text + ", unsigned"
}

// moment writes a time, and how long ago it is.
func (p *plugin) moment(then time.Time) string {
	return fmt.Sprintf("%s (%s ago)", then.UTC().Format(time.RFC3339), p.age(then))
}

// showChanges prints the fields that changed, before and after.
func (p *plugin) showChanges(event *v1alpha1.NetBoxEvent) error {
	spec := &event.Spec
	if len(spec.ChangedFields) == 0 {
		return nil
	}
	rows := [][]cell{cells("CHANGED", "BEFORE", "AFTER")}
	for _, change := range changes(spec) {
		rows = append(rows, []cell{{change.Field, ""}, {change.Before, red}, {change.After, green}})
	}
	fmt.Fprintln(p.Out)
	return p.newTable().print(rows...)
}

// change is a field that changed, with its values as JSON.
type change struct {
	Field  string `json:"field"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// changes returns the fields that changed. Custom fields are by themselves, not also together.
func changes(spec *v1alpha1.NetBoxEventSpec) (changed []change) {
	before, after := snapshot(spec, "prechange"), snapshot(spec, "postchange")
	for i, name := range spec.ChangedFields {
		if !hasMembers(spec.ChangedFields, i) {
			changed = append(changed, change{name, jsonText(field(before, name)), jsonText(field(after, name))})
		}
	}
	return changed
}

// hasMembers reports whether the members of a changed field are named by themselves: the list is sorted.
func hasMembers(changed []string, at int) bool {
	return at+1 < len(changed) && strings.HasPrefix(changed[at+1], changed[at]+".")
}

func snapshot(spec *v1alpha1.NetBoxEventSpec, name string) (fields map[string]any) {
	_ = decodeNumbers(spec.Snapshots[name].Raw, &fields) // null where NetBox sent none
	return fields
}

// decodeNumbers decodes JSON with its numbers as they are written.
func decodeNumbers(text []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	return decoder.Decode(into)
}

// field returns a field of a snapshot, or a custom field.
func field(fields map[string]any, name string) any {
	if value, ok := fields[name]; ok {
		return value
	}
	name, member, ok := strings.Cut(name, ".")
	members, isMap := fields[name].(map[string]any)
	if !ok || !isMap {
		return nil
	}
	return members[member]
}

func jsonText(value any) string {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(value) // it was decoded
	return strings.TrimSpace(text.String())
}

// showData prints the object as NetBox's REST API showed it.
func (p *plugin) showData(event *v1alpha1.NetBoxEvent) error {
	text, err := dataYAML(&event.Spec)
	if err != nil || len(text) == 0 {
		return err
	}
	fmt.Fprintln(p.Out, "\nDATA")
	for line := range bytes.Lines(text) {
		fmt.Fprintf(p.Out, "  %s", line)
	}
	return nil
}

// dataYAML returns the object as NetBox's REST API showed it, nothing if NetBox sent none. Control characters are escaped.
func dataYAML(spec *v1alpha1.NetBoxEventSpec) ([]byte, error) {
	if len(spec.Data) == 0 {
		return nil, nil
	}
	encoded, err := json.Marshal(spec.Data)
	if err != nil {
		return nil, err
	}
	return yaml.JSONToYAML(encoded)
}

// showDeliveries prints the actions of the rules that matched.
func (p *plugin) showDeliveries(event *v1alpha1.NetBoxEvent) error {
	rows := p.deliveries(event)
	fmt.Fprintln(p.Out)
	if len(rows) == 0 {
		_, err := fmt.Fprintln(p.Out, "No rule matched; kubectl netbox trace says why.")
		return err
	}
	return p.newTable().print(append([][]cell{cells(deliveryColumns...)}, rows...)...)
}

// deliveryColumns are the columns of deliveries.
var deliveryColumns = []string{"RULE", "ACTION", "STATE", "ATTEMPTS", "LAST", "NEXT", "ANSWER"}

// deliveries returns a row for each action of the rules that matched.
func (p *plugin) deliveries(event *v1alpha1.NetBoxEvent) (rows [][]cell) {
	for _, rule := range event.Status.Rules {
		for _, action := range rule.Actions {
			rows = append(rows, []cell{
				{rule.Name, ""},
				{action.Name, ""},
				stateCell(action.State),
				{strconv.Itoa(int(action.Attempts)), ""},
				p.ageCell(action.LastAttemptTime), p.untilCell(action.NextAttemptTime),
				{cmp.Or(action.LastError, action.Response), ""},
			})
		}
	}
	return rows
}

func stateCell(state v1alpha1.DeliveryState) cell {
	switch state {
	case v1alpha1.DeliverySucceeded:
		return cell{string(state), green}
	case v1alpha1.DeliveryFailed:
		return cell{string(state), red}
	case v1alpha1.DeliverySkipped:
		return cell{string(state), dim}
	default:
		return cell{string(state), yellow}
	}
}

// untilCell says how long it is until a time.
func (p *plugin) untilCell(then *metav1.Time) cell {
	if then == nil {
		return cell{}
	}
	return cell{p.until(then.Time), ""}
}

// until writes the time until then.
func (p *plugin) until(then time.Time) string {
	if wait := then.Sub(p.clock.Now()); wait > 0 {
		return "in " + wait.Round(time.Second).String()
	}
	return "now"
}
