package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/eventspec"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
	"github.com/netbox-events/netbox-event-operator/internal/secretkeys"
	"github.com/netbox-events/netbox-event-operator/internal/source"
)

const sendExample = `  # A harmless test event, through a forwarded port to a pod of the operator
  kubectl netbox send netbox

  # The same through the Ingress, as NetBox sends it
  kubectl netbox send netbox --url https://netbox-events.example.com

  # A body that NetBox sent: that of a stored event
  kubectl netbox show site-14-updated-3f9c2a7be1d04c55a1b2 --raw > body.json
  kubectl netbox send netbox body.json`

func newSendCommand(p *plugin) *cobra.Command {
	command := &sendCommand{plugin: p, reach: reach{now: p.now}}
	send := &cobra.Command{
		Use:   "send SOURCE [FILE]",
		Short: "Send a signed test delivery, and say what each hop answered",
		Long: "Send a delivery to a source, signed with the key of its Secret, and say what each hop answered, and whether the event is " +
			"stored. Without FILE, it is an event of an object and in a branch that NetBox does not have: rules act on events of the main " +
			"branch alone, unless they name branches. If rules match, it says which, and asks.\n\n" +
			"It is sent through a forwarded port to a pod of the operator, or with --url as NetBox sends it. No redirect is followed, and no " +
			"proxy is used.",
		Example:           sendExample,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: p.completeArgs(completeSources, nil),
		RunE:              func(c *cobra.Command, args []string) error { return command.run(c.Context(), args) },
	}
	flags := send.Flags()
	flags.StringVar(&command.url, "url", "", "send to this URL; without a path, to that of the source")
	flags.BoolVarP(&command.isConfirmed, "yes", "y", false, "do not ask")
	command.addReachFlags(flags)
	flags.BoolVar(&command.isInsecure, "insecure-skip-verify", false, "send although the certificate of --url is not valid")
	return send
}

// now returns the time.
func (p *plugin) now() time.Time { return p.clock.Now() }

type sendCommand struct {
	*plugin
	reach

	url         string
	isConfirmed bool
}

func (c *sendCommand) run(ctx context.Context, args []string) error {
	api, namespace, err := c.cluster()
	if err != nil {
		return err
	}
	to, err := c.target()
	if err != nil {
		return err
	}
	var target v1alpha1.NetBoxSource
	if err := api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: args[0]}, &target); err != nil {
		return clusterError(err, "get", resourceSources, namespace)
	}
	key, err := signingKey(ctx, api, &target)
	if err != nil {
		return err
	}
	body, err := c.body(args[1:])
	if err != nil {
		return err
	}
	isHarmless, err := c.announce(ctx, api, &target, key, body)
	if err != nil {
		return err
	}
	if err := c.confirm(ctx, isHarmless || c.isConfirmed, "Send it?"); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the forwarded port
	if to == nil {
		if to, err = c.forwardTo(ctx, api, namespace); err != nil {
			return err
		}
	}
	if strings.Trim(to.Path, "/") == "" {
		to = to.JoinPath(source.Path(&target))
	}
	sent := post{body: body}
	if key != nil {
		sent.signature = netbox.Sign(key.Value, body)
	}
	fmt.Fprintf(c.Out, "POST %s\n", to.Redacted())
	reply := c.send(ctx, to, sent)
	if err := c.printHops(reply.hops); err != nil {
		return err
	}
	return c.verdict(reply, namespace)
}

// target returns the URL of the flag, or nil.
func (c *sendCommand) target() (*url.URL, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.url != "" {
		return parseURL("--url", c.url)
	}
	if c.connectTo != "" || c.caFile != "" || c.isInsecure {
		return nil, errors.New("--connect-to, --ca-file and --insecure-skip-verify go with --url")
	}
	return nil, nil
}

// signingKey returns the key with which NetBox signs where the operator set up the webhook: that of secretRef.key, or the last by name.
// It returns nil for a source without Secret.
func signingKey(ctx context.Context, api client.Client, target *v1alpha1.NetBoxSource) (*secretkeys.Key, error) {
	ref := target.Spec.SecretRef
	if ref == nil {
		return nil, nil
	}
	var secret corev1.Secret
	if err := api.Get(ctx, client.ObjectKey{Namespace: target.Namespace, Name: ref.Name}, &secret); err != nil {
		return nil, clusterError(err, "get", "secrets", target.Namespace)
	}
	keys, err := secretkeys.Of(&secret, ref)
	if err != nil {
		return nil, fmt.Errorf("%w; add the secret of NetBox's webhook to it", err)
	}
	return &keys[len(keys)-1], nil
}

// body returns the body to send.
func (c *sendCommand) body(files []string) ([]byte, error) {
	if len(files) > 0 {
		return os.ReadFile(files[0])
	}
	return testBody(c.clock.Now())
}

// testBranch is a branch that NetBox does not have: rules act on events of the main branch, unless they name branches.
const testBranch = "kubectl-netbox-test"

// testBody returns the body of an event as NetBox 4.7 sends it, of an object that NetBox does not have.
func testBody(now time.Time) ([]byte, error) {
	type object = map[string]any
	return json.Marshal(struct {
		Event      string `json:"event"`
		Timestamp  string `json:"timestamp"`
		ObjectType string `json:"object_type"`
		Data       object `json:"data"`
		Context    object `json:"context"`
		Request    object `json:"request"`
		Snapshots  object `json:"snapshots"`
	}{
		"created", now.UTC().Format("2006-01-02T15:04:05.000000-07:00"), "netboxevents.test",
		object{"id": 1, "display": "Test of kubectl netbox", "name": "Test of kubectl netbox", "url": "/api/plugins/netbox-events/tests/1/"},
		object{"active_branch": object{"id": 1, "name": testBranch}},
		object{"id": string(uuid.NewUUID()), "method": http.MethodPost, "user": "kubectl netbox"},
		object{"prechange": nil, "postchange": object{"name": "Test of kubectl netbox"}},
	})
}

// announce says what is sent, and what rules do about it. It reports whether it is known that they do nothing.
func (c *sendCommand) announce(
	ctx context.Context, api client.Client, target *v1alpha1.NetBoxSource, key *secretkeys.Key, body []byte,
) (isHarmless bool, err error) {
	signed := "unsigned, because the source has no secretRef"
	if key != nil {
		signed = fmt.Sprintf("signed with key %s of Secret %s", key.Name, target.Spec.SecretRef.Name)
		if result, problem, next := keyProblem(string(key.Value)); result == resultProblem {
			fmt.Fprintf(c.ErrOut, "warning: key %s of Secret %s %s; %s\n", key.Name, target.Spec.SecretRef.Name, problem, next)
		}
	}
	decoded, err := netbox.Decode(body, target.Spec.Redact)
	if err != nil {
		fmt.Fprintf(c.Out, "To source %s: %d bytes, %s\n", target.Name, len(body), signed)
		_, err := fmt.Fprintf(c.Out, "This is no event, and will be refused: %s\n\n", oneline.Of(err.Error(), maxLineBytes))
		return true, err
	}
	event := eventspec.New(decoded, eventspec.Delivery{
		Source: target, Origin: v1alpha1.OriginWebhook, BodyBytes: len(body), ReceivedAt: c.clock.Now(),
	})
	fmt.Fprintf(c.Out, "To source %s: %s, %d bytes, %s\n", target.Name, oneline.Of(summary(&event.Spec), maxCellBytes), len(body), signed)
	if !isAccepted(ctx, target, event) {
		_, err := fmt.Fprintf(c.Out, "The source's spec.accept does not match it: it is not stored.\n\n")
		return true, err
	}
	var rules v1alpha1.NetBoxEventRuleList
	if err := api.List(ctx, &rules, client.InNamespace(target.Namespace)); err != nil {
		_, err := fmt.Fprintf(c.Out, "Whether rules act on it is not known: %v\n\n", clusterError(err, "list", resourceRules, target.Namespace))
		return false, err
	}
	acting := c.acting(ctx, rules.Items, event)
	if len(acting) == 0 {
		_, err := fmt.Fprint(c.Out, "No rule matches it.\n\n")
		return true, err
	}
	_, err = fmt.Fprintf(c.Out, "Rules match it, and will execute their actions: %s\n\n", strings.Join(acting, ", "))
	return false, err
}

// isAccepted reports whether the source stores an event. It does if the expression is wrong: it is refused then, for another reason.
func isAccepted(ctx context.Context, target *v1alpha1.NetBoxSource, event *v1alpha1.NetBoxEvent) bool {
	if target.Spec.Accept == nil {
		return true
	}
	filter, err := rule.CompileAccept(target.Spec.Accept)
	if err != nil {
		return true
	}
	accepted, _ := filter.Accepts(ctx, event) // an event on which it fails is stored
	return accepted
}

// acting returns the names of the rules that act on an event, or may do so.
func (c *sendCommand) acting(ctx context.Context, rules []v1alpha1.NetBoxEventRule, event *v1alpha1.NetBoxEvent) (names []string) {
	in := rule.NewInput(event, c.clock.Now())
	for i := range rules {
		if rules[i].Spec.Suspend {
			continue
		}
		if what, acts := actsOn(ctx, &rules[i], event, in); acts {
			names = append(names, rules[i].Name+what)
		}
	}
	return names
}

// actsOn reports whether a rule acts on an event, as far as this plugin knows, and what is special about it.
func actsOn(ctx context.Context, of *v1alpha1.NetBoxEventRule, event *v1alpha1.NetBoxEvent, in *rule.Input) (what string, acts bool) {
	compiled, err := rule.Compile(&of.Spec)
	if err != nil {
		return " (invalid, or of a newer operator)", true
	}
	if compiled.Removes(event, in) { // even where the rule matches the deleted object
		return " (deletes what it mirrored)", true
	}
	ctx, cancel := context.WithTimeout(ctx, matchTimeout)
	defer cancel()
	mismatch := compiled.Explain(ctx, event, in)
	if mismatch != nil && ctx.Err() != nil {
		return " (not evaluated in time)", true
	}
	return "", mismatch == nil
}

// forwardTo forwards a port to a pod of the operator, and returns the URL of its receiver.
func (c *sendCommand) forwardTo(ctx context.Context, api client.Client, namespace string) (*url.URL, error) {
	pod, deployment, err := receiverPod(ctx, api, namespace)
	if err != nil {
		return nil, err
	}
	port := webhookPort(deployment)
	address, err := c.forward(ctx, pod, port)
	if err != nil {
		return nil, err
	}
	c.dial = func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", address) }
	to := &url.URL{Scheme: "http", Host: fmt.Sprintf("%s.%s:%d", pod.Name, pod.Namespace, port)}
	if servesTLS(deployment) {
		to.Scheme = "https"
	}
	_, err = fmt.Fprintf(c.Out, "By port-forward to pod %s/%s\n", pod.Namespace, pod.Name)
	return to, err
}

// verdict says what came of a delivery.
func (c *sendCommand) verdict(reply *reply, namespace string) error {
	answer := reply.operator
	if answer == nil || reply.status != http.StatusOK {
		next := replyStep(reply, namespace)
		fmt.Fprintf(c.Out, "\n%s\n", painter(c.hasColors()).paint("Not stored.", red))
		for _, fault := range operatorFaults(answer) {
			fmt.Fprintln(c.Out, "- "+fault)
		}
		if next != "" {
			fmt.Fprintln(c.Out, "Next: "+next)
		}
		return errFound
	}
	_, name, _ := strings.Cut(answer.Event, "/")
	var text string
	switch answer.Result {
	case resultIgnored:
		text = "Well received, and not stored: it does not match the source's spec.accept."
	case resultDuplicate:
		text = fmt.Sprintf("Stored before, as event %s.\nNext: kubectl netbox trace %s -n %s", name, name, namespace)
	case resultStored:
		text = fmt.Sprintf("Stored as event %s.\nNext: kubectl netbox trace %s -n %s", name, name, namespace)
	}
	_, err := fmt.Fprintf(c.Out, "\n%s\n", painter(c.hasColors()).paint(text, green))
	return err
}

// operatorFaults lists what the operator found wrong in a body.
func operatorFaults(answer *operatorAnswer) (faults []string) {
	if answer == nil {
		return nil
	}
	for _, fault := range answer.Errors {
		faults = append(faults, oneline.Of(fault.Field+": "+fault.Message, maxLineBytes))
	}
	return faults
}

// replyStep says what to do about an answer that is no success.
func replyStep(reply *reply, namespace string) string {
	if reply.operator != nil {
		switch reply.status {
		case http.StatusNotFound:
			return "a proxy changed the path, or no operator serves the source: compare with kubectl get netboxsources -n " + namespace
		case http.StatusUnauthorized:
			return "a proxy changed the body, or the operator reads another Secret: kubectl netbox doctor -n " + namespace
		case http.StatusMethodNotAllowed:
			return "a proxy changed the method"
		default:
			return "kubectl netbox doctor -n " + namespace
		}
	}
	switch {
	case reply.failedAt == hopDNS:
		return "correct the host of the URL, or create its DNS record; --connect-to goes around DNS"
	case reply.failedAt == hopTCP:
		return "check the Ingress controller's Service, firewalls, and the port"
	case reply.failedAt == hopTLS && reply.certificateErr != nil:
		return "correct the certificate of the Ingress; for a private CA, pass --ca-file, and set the CA file path of NetBox's webhook"
	case reply.failedAt == hopTLS:
		return "check that the port serves https"
	case reply.failedAt == hopHTTP:
		return "raise the time-outs on the way, and see the log of the Ingress controller and of the operator"
	case reply.location != nil:
		return "give NetBox the URL that answers without a redirect, or turn the redirect off: docs/exposing.md"
	}
	switch reply.status {
	case http.StatusNotFound:
		return "the Ingress has no such host or path: kubectl get ingress -A"
	case http.StatusRequestEntityTooLarge:
		return "raise the body size limit of the Ingress"
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return "the proxy reaches no pod of the operator: kubectl netbox status -n " + namespace
	case http.StatusGatewayTimeout:
		return "raise the time-out of the proxy above --hold of the operator"
	case http.StatusOK:
		return "another server answers at this URL, and NetBox takes that for a success: correct the URL"
	default:
		return "another server answers at this URL: correct the URL, or the Ingress"
	}
}
