package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/go-logr/logr/funcr"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/follow"
)

const eventsExample = `  # What failed within the last two hours
  kubectl netbox events --failed --since 2h

  # What is not done yet, in all namespaces
  kubectl netbox events --pending -A

  # What admin changes in sites, as it comes
  kubectl netbox events --type dcim.site --user admin --watch`

func newEventsCommand(p *plugin) *cobra.Command {
	command := &eventsCommand{plugin: p}
	events := &cobra.Command{
		Use:     "events",
		Short:   "List events, the newest last",
		Example: eventsExample,
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return command.run(c.Context()) },
	}
	events.Flags().BoolVarP(&command.watch, "watch", "w", false, "after the list, print events as they come, and when their phases change")
	events.Flags().BoolVar(&command.pending, "pending", false, "only events that are not finished")
	command.addFieldFlags(p, events)
	command.addStateFlags(p, events)
	events.MarkFlagsMutuallyExclusive("failed", "pending")
	addAllNamespaces(events, &command.isEverywhere)
	p.addOutput(events, &command.output, outputJSON, outputName)
	return events
}

type eventsCommand struct {
	*plugin
	filter

	watch  bool
	output string
	// isEverywhere is for the events of all namespaces.
	isEverywhere bool

	table *table
	// shown are the phases of the events that were printed.
	shown map[types.UID]v1alpha1.Phase
}

func (c *eventsCommand) run(ctx context.Context) error {
	if err := c.check(); err != nil {
		return err
	}
	api, namespace, err := c.cluster()
	if err != nil {
		return err
	}
	if c.isEverywhere {
		namespace = metav1.NamespaceAll
	}
	keep := withoutPayload
	if c.output == outputJSON {
		keep = func(event *v1alpha1.NetBoxEvent) *v1alpha1.NetBoxEvent { return event }
	}
	events, err := c.list(ctx, api, namespace, c.clock.Now(), keep)
	if err != nil {
		return err
	}
	c.table, c.shown = c.newTable(), map[types.UID]v1alpha1.Phase{}
	if c.watch {
		if err := mayWatch(ctx, api, namespace); err != nil {
			return err
		}
	}
	if err := c.show(events); err != nil || !c.watch {
		return err
	}
	return c.follow(ctx, api, namespace)
}

// show prints a list of events.
func (c *eventsCommand) show(events []*v1alpha1.NetBoxEvent) error {
	if c.output == outputJSON && !c.watch {
		return c.showJSON(events)
	}
	rows := [][]cell{c.head()}
	if len(events) == 0 && !c.watch && c.output == "" {
		_, err := fmt.Fprintln(c.ErrOut, "No events are selected.")
		return err
	}
	for _, event := range events {
		c.shown[event.UID] = event.Status.Phase
		if c.output != "" {
			if err := c.showOne(event); err != nil {
				return err
			}
			continue
		}
		rows = append(rows, c.row(event))
	}
	if c.output != "" {
		return nil
	}
	return c.table.print(rows...)
}

// showJSON prints a list as kubectl does.
func (c *eventsCommand) showJSON(events []*v1alpha1.NetBoxEvent) error {
	for _, event := range events {
		event.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind("NetBoxEvent"))
	}
	if events == nil {
		events = []*v1alpha1.NetBoxEvent{}
	}
	return c.printJSON(struct {
		APIVersion string                  `json:"apiVersion"`
		Kind       string                  `json:"kind"`
		Items      []*v1alpha1.NetBoxEvent `json:"items"`
	}{"v1", "List", events})
}

// showOne prints one event.
func (c *eventsCommand) showOne(event *v1alpha1.NetBoxEvent) error {
	switch c.output {
	case outputJSON: // a line each
		event.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind("NetBoxEvent"))
		return json.NewEncoder(c.Out).Encode(event)
	case outputName:
		if c.isEverywhere { // as the other commands take it
			_, err := fmt.Fprintln(c.Out, event.Namespace+"/"+event.Name)
			return err
		}
		_, err := fmt.Fprintf(c.Out, "netboxevent.%s/%s\n", v1alpha1.SchemeGroupVersion.Group, event.Name)
		return err
	default:
		return c.table.print(c.row(event))
	}
}

func (c *eventsCommand) head() []cell {
	return placed(c.isEverywhere, "NAMESPACE", cells("NAME", "EVENT", "TYPE", "OBJECT", "USER", "BRANCH", "CHANGED", "PHASE", "AGE"))
}

func (c *eventsCommand) row(event *v1alpha1.NetBoxEvent) []cell {
	spec := &event.Spec
	return placed(c.isEverywhere, event.Namespace, []cell{
		{event.Name, ""},
		{spec.Event, ""},
		{spec.ObjectType, ""},
		{spec.ObjectName, ""},
		{spec.Username, ""},
		{spec.Branch, ""},
		{changedFields(spec), dim},
		{string(event.Status.Phase), phaseColor(event.Status.Phase)},
		{c.age(spec.Delivery.ReceivedAt.Time), ""},
	})
}

func phaseColor(phase v1alpha1.Phase) color {
	switch phase {
	case v1alpha1.PhaseSucceeded:
		return green
	case v1alpha1.PhaseFailed:
		return red
	default:
		return yellow
	}
}

// changedFields names the fields that changed. Custom fields are named by themselves, not also together.
func changedFields(spec *v1alpha1.NetBoxEventSpec) string {
	names := make([]string, 0, len(spec.ChangedFields))
	for i, name := range spec.ChangedFields {
		if !hasMembers(spec.ChangedFields, i) {
			names = append(names, name)
		}
	}
	return list(names)
}

// mayWatch fails where the user may not watch events: follow would try again and again.
func mayWatch(ctx context.Context, api client.WithWatch, namespace string) error {
	watching, err := api.Watch(ctx, &v1alpha1.NetBoxEventList{}, client.InNamespace(namespace), client.Limit(1))
	if err != nil {
		return clusterError(err, "watch", resourceEvents, namespace)
	}
	watching.Stop()
	return nil
}

// follow prints events as they come, until ctx is done.
func (c *eventsCommand) follow(ctx context.Context, api client.WithWatch, namespace string) error {
	log := funcr.New(func(_, line string) { fmt.Fprintln(c.ErrOut, line) }, funcr.Options{})
	follower := follow.Follower{
		Client: api, List: &v1alpha1.NetBoxEventList{}, Namespace: namespace, Selector: c.selector(), PageSize: pageSize, Log: log,
	}
	follower.Run(ctx, follow.SeenFunc(func(object client.Object) {
		event := object.(*v1alpha1.NetBoxEvent)
		if phase, ok := c.shown[event.UID]; ok && phase == event.Status.Phase || !c.selects(event, c.clock.Now()) {
			return
		}
		c.shown[event.UID] = event.Status.Phase
		if err := c.showOne(event); err != nil {
			log.Info("cannot print an event", "cause", err.Error())
		}
	}))
	return nil
}
