package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

const replayExample = `  # What the rule announce gave up within the last two hours, once its sink is well again
  kubectl netbox replay --failed --rule announce --since 2h

  # All rules on one event
  kubectl netbox replay site-14-updated-3f9c2a7be1d04c55a1b2

  # A new rule on what was received before it was made
  kubectl netbox replay --rule provision --type dcim.device --since 24h`

func newReplayCommand(p *plugin) *cobra.Command {
	command := &replayCommand{plugin: p}
	replay := &cobra.Command{
		Use:   "replay EVENT... | --failed [--rule RULE] [--since TIME]",
		Short: "Match and deliver events again",
		Long: "Match and deliver finished events again, oldest first. The events are named, or selected by flags. All actions of the rules " +
			"that match are executed again, also those that succeeded; with --rule, those of this rule alone. Events that share a group with one " +
			"that is replayed are delivered again with it.",
		Example:           replayExample,
		ValidArgsFunction: p.completeMany(completeEvents),
		RunE:              func(c *cobra.Command, args []string) error { return command.run(c.Context(), args) },
	}
	flags := replay.Flags()
	command.addFieldFlags(p, replay)
	flags.BoolVar(&command.failed, "failed", false, "only events of which an action failed permanently")
	flags.StringVar(&command.rule, "rule", "", "replay this NetBoxEventRule alone; with --failed, only events of which it failed")
	flags.DurationVar(&command.since, "since", 0, "only events that were received within this time, such as 2h")
	flags.BoolVarP(&command.isConfirmed, "yes", "y", false, "do not ask")
	flags.Float64Var(&command.perSecond, "per-second", defaultRate, "most events that are replayed in a second")
	p.complete(replay, "rule", completeRules)
	return replay
}

// defaultRate is a rate that leaves sinks and the operator room for new events.
const defaultRate = 20

type replayCommand struct {
	*plugin
	filter

	isConfirmed bool
	perSecond   float64
}

func (c *replayCommand) run(ctx context.Context, args []string) error {
	if err := c.checkFlags(args); err != nil {
		return err
	}
	api, namespace, err := c.cluster()
	if err != nil {
		return err
	}
	if len(args) > 0 {
		namespace, err = namespaceOf(args, namespace)
	}
	if err == nil {
		err = c.checkRule(ctx, api, namespace)
	}
	if err != nil {
		return err
	}
	events, err := c.events(ctx, api, namespace, args)
	if err != nil {
		return err
	}
	if events = c.finished(events); len(events) == 0 {
		_, err := fmt.Fprintln(c.ErrOut, "No finished event is selected; nothing to replay.")
		return err
	}
	patch := c.patch()
	if err := patch.apply(ctx, api, events[0], client.DryRunAll); client.IgnoreNotFound(err) != nil {
		return clusterError(err, "patch", resourceEvents, namespace)
	}
	c.warnUnlessFit(ctx)
	if err := c.announce(events); err != nil {
		return err
	}
	if err := c.confirm(ctx, c.isConfirmed, fmt.Sprintf("Replay %s?", plural(len(events), "event", "events"))); err != nil {
		return err
	}
	return c.replay(ctx, api, namespace, events, patch)
}

func (c *replayCommand) checkFlags(args []string) error {
	selection := c.filter
	selection.rule = ""
	switch isSelected := selection != (filter{}); {
	case c.perSecond <= 0:
		return errors.New("--per-second must be more than 0")
	case len(args) > 0 && isSelected:
		return errors.New("name events, or select them by flags, not both; --rule alone goes with names")
	case len(args) == 0 && !isSelected:
		return errors.New("name events, or select them by --failed, --since, --source, --type, --object, --user, --request or --branch")
	}
	return c.check()
}

// namespaceOf returns the one namespace of the events with these names: a replay has one rule, and one order.
func namespaceOf(args []string, namespace string) (string, error) {
	first := eventKey(args[0], namespace).Namespace
	for _, arg := range args[1:] {
		if other := eventKey(arg, namespace).Namespace; other != first {
			return "", fmt.Errorf("the events are in namespaces %s and %s; replay those of one namespace at a time", first, other)
		}
	}
	return first, nil
}

// checkRule fails unless the rule of the flag would be delivered.
func (c *replayCommand) checkRule(ctx context.Context, api client.Client, namespace string) error {
	if c.rule == "" {
		return nil
	}
	var found v1alpha1.NetBoxEventRule
	if err := api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: c.rule}, &found); err != nil {
		return clusterError(err, "get", resourceRules, namespace)
	}
	if found.Spec.Suspend {
		return usageError{fmt.Errorf("rule %s is suspended, and would match nothing; set spec.suspend to false first", c.rule)}
	}
	if _, err := rule.Compile(&found.Spec); err != nil {
		return usageError{fmt.Errorf("rule %s is invalid, and would match nothing; correct it first: %w", c.rule, err)}
	}
	return nil
}

// events returns the events to replay, the oldest first.
func (c *replayCommand) events(
	ctx context.Context, api client.Client, namespace string, args []string,
) (events []*v1alpha1.NetBoxEvent, err error) {
	for _, name := range args {
		event, err := getEvent(ctx, api, namespace, name)
		if err != nil {
			return nil, err
		}
		events = append(events, withoutPayload(event))
	}
	if len(args) == 0 {
		selection := c.filter
		if !c.failed {
			selection.rule = "" // it may not have matched yet
		}
		if events, err = selection.list(ctx, api, namespace, c.clock.Now(), withoutPayload); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(events, func(a, b *v1alpha1.NetBoxEvent) int {
		return cmp.Or(a.Spec.Timestamp.Compare(b.Spec.Timestamp.Time), compareReceived(a, b))
	})
	return slices.CompactFunc(events, func(a, b *v1alpha1.NetBoxEvent) bool { return a.UID == b.UID }), nil
}

// finished leaves out events that are delivered anyway.
func (c *replayCommand) finished(events []*v1alpha1.NetBoxEvent) []*v1alpha1.NetBoxEvent {
	all := len(events)
	events = slices.DeleteFunc(events, func(event *v1alpha1.NetBoxEvent) bool { return !event.Status.Phase.IsFinished() })
	if pending := all - len(events); pending > 0 {
		fmt.Fprintln(c.ErrOut, plural(pending, "event is", "events are"), "pending, and left out: they are delivered anyway.")
	}
	return events
}

// maxAnnounced bounds the events that are listed before the question, at each end.
const maxAnnounced = 10

// announce says what will be done.
func (c *replayCommand) announce(events []*v1alpha1.NetBoxEvent) error {
	fmt.Fprintf(c.Out, "%s, oldest first, at most %g in a second: %s.\n\n",
		plural(len(events), "event will be delivered again", "events will be delivered again"), c.perSecond, c.actions())
	rows := [][]cell{cells("NAME", "EVENT", "TYPE", "OBJECT", "PHASE", "AGE")}
	for i, event := range events {
		if i == maxAnnounced && len(events) > 2*maxAnnounced {
			rows = append(rows, cells(fmt.Sprintf("… %d more …", len(events)-2*maxAnnounced), "", "", "", "", ""))
		}
		if i >= maxAnnounced && i < len(events)-maxAnnounced {
			continue
		}
		spec := &event.Spec
		rows = append(rows, []cell{
			{event.Name, ""},
			{spec.Event, ""},
			{spec.ObjectType, ""},
			{spec.ObjectName, ""},
			{string(event.Status.Phase), phaseColor(event.Status.Phase)},
			{c.age(spec.Delivery.ReceivedAt.Time), ""},
		})
	}
	return c.section(rows)
}

// actions says which actions are executed.
func (c *replayCommand) actions() string {
	if c.rule != "" {
		return "all actions of rule " + c.rule + ", if it matches now"
	}
	return "all actions of the rules that match now"
}

// replayPatch is the patch that requests a replay.
type replayPatch struct {
	annotations map[string]any
}

func (c *replayCommand) patch() replayPatch {
	annotations := map[string]any{
		v1alpha1.AnnotationReplay:     c.clock.Now().UTC().Format(metav1.RFC3339Micro),
		v1alpha1.AnnotationReplayRule: nil, // of an earlier replay
	}
	if c.rule != "" {
		annotations[v1alpha1.AnnotationReplayRule] = c.rule
	}
	return replayPatch{annotations}
}

// apply annotates an event, unless it was made again since.
func (r replayPatch) apply(ctx context.Context, api client.Client, event *v1alpha1.NetBoxEvent, options ...client.PatchOption) error {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": event.UID, "annotations": r.annotations}})
	if err != nil {
		return err
	}
	metadata := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: event.Namespace, Name: event.Name}}
	metadata.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind("NetBoxEvent"))
	return api.Patch(ctx, metadata, client.RawPatch(types.MergePatchType, body), append(options, client.FieldOwner("kubectl-netbox"))...)
}

// replay requests the replays one after the other.
func (c *replayCommand) replay(
	ctx context.Context, api client.Client, namespace string, events []*v1alpha1.NetBoxEvent, patch replayPatch,
) error {
	limiter := rate.NewLimiter(rate.Limit(c.perSecond), 1)
	gone := 0
	for i, event := range events {
		err := limiter.Wait(ctx)
		if err == nil {
			err = patch.apply(ctx, api, event)
		}
		if apierrors.IsNotFound(err) {
			gone++
			err = nil
		}
		if err != nil {
			return fmt.Errorf("%d of %d events were replayed; run it again for the others: %w",
				i-gone, len(events), clusterError(err, "patch", resourceEvents, namespace))
		}
		c.progress(i+1, len(events))
	}
	if gone > 0 {
		fmt.Fprintln(c.ErrOut, plural(gone, "event was", "events were"), "deleted meanwhile.")
	}
	_, err := fmt.Fprintf(c.Out, "Requested the replay of %s; kubectl netbox events --pending -n %s shows those that are not done yet.\n",
		plural(len(events)-gone, "event", "events"), namespace)
	return err
}

// progressStep is the number of events after which a line says how far the replay is, where the output is no terminal.
const progressStep = 100

// progress says how far the replay is.
func (c *replayCommand) progress(done, all int) {
	if file, ok := c.ErrOut.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		fmt.Fprintf(c.ErrOut, "\r%d of %d", done, all)
		if done == all {
			fmt.Fprintln(c.ErrOut)
		}
	} else if done%progressStep == 0 && done < all {
		fmt.Fprintf(c.ErrOut, "%d of %d\n", done, all)
	}
}
