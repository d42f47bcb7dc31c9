package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/cli/redact"
	"github.com/netbox-events/netbox-event-operator/internal/version"
)

// kindEvent is the kind of objects that event actions write Kubernetes Events about.
const kindEvent = "NetBoxEvent"

// evidence is what a report is made of, as it is in the cluster.
type evidence struct {
	namespace string
	time      metav1.Time
	// kubernetes is the version of the API server.
	kubernetes string
	overview   *overview
	sources    []v1alpha1.NetBoxSource
	rules      []v1alpha1.NetBoxEventRule
	events     []v1alpha1.NetBoxEvent
	secrets    []secretFacts
	notes      []corev1.Event
	operators  []operatorEvidence
	// unread says what could not be read, and why.
	unread []string

	redactor *redact.Redactor
}

// operatorEvidence is an operator that watches the namespace.
type operatorEvidence struct {
	deployment *appsv1.Deployment
	pods       []corev1.Pod
	lease      *coordinationv1.Lease
	logs       []podLog
}

// podLog is the end of the log of a pod.
type podLog struct {
	name  string
	lines []string
}

// secretFacts is what is said of a Secret that a source or a rule names.
type secretFacts struct {
	Name    string      `json:"name"`
	Missing bool        `json:"missing,omitempty"`
	Type    string      `json:"type,omitempty"`
	Keys    []entryFact `json:"keys,omitempty"`
}

// entryFact describes an entry of a Secret.
type entryFact struct {
	Key   string `json:"key"`
	Bytes int    `json:"bytes"`
	// LeadingSpace and TrailingSpace are mistakes that a look at the Secret does not show.
	LeadingSpace  bool `json:"leadingSpace,omitempty"`
	TrailingSpace bool `json:"trailingSpace,omitempty"`
}

// lacks records what could not be read.
func (e *evidence) lacks(what string, err error) {
	if err != nil {
		e.unread = append(e.unread, what+": "+err.Error())
	}
}

// collect reads all that the user may read. It fails where nothing can be read at all.
func (c *reportCommand) collect(ctx context.Context) (*evidence, error) {
	api, namespace, err := c.cluster()
	if err != nil {
		return nil, err
	}
	config, err := c.config()
	if err != nil {
		return nil, err
	}
	found := &evidence{namespace: namespace, time: metav1.NewTime(c.clock.Now()), redactor: redact.New()}
	found.redactor.LearnText(config.Host)
	server, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	info, err := server.ServerVersion()
	if err != nil {
		return nil, fmt.Errorf("cannot reach the cluster: %w", err)
	}
	found.kubernetes = info.GitVersion
	found.overview, err = c.overview(ctx, api, namespace)
	found.lacks("status", err)

	var sources v1alpha1.NetBoxSourceList
	found.lacks("sources", clusterError(api.List(ctx, &sources, client.InNamespace(namespace)), "list", resourceSources, namespace))
	found.sources = sources.Items
	var rules v1alpha1.NetBoxEventRuleList
	found.lacks("rules", clusterError(api.List(ctx, &rules, client.InNamespace(namespace)), "list", resourceRules, namespace))
	found.rules = rules.Items
	c.addEvents(ctx, api, found)
	c.addSecrets(ctx, api, found)
	pods, err := corev1client.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	if found.overview != nil {
		for i := range found.overview.Operators {
			if deployment := found.overview.Operators[i].deployment; deployment != nil { // a process has neither pods nor a readable log
				c.addOperatorEvidence(ctx, api, pods, found, deployment)
			}
		}
	}
	c.addNotes(ctx, api, found)
	return found, found.learn()
}

// addEvents adds the events: failed and pending ones first, and then the newest. The redactor learns what all of them say of objects and
// users, because messages and lines of the log also name those that are not added.
func (c *reportCommand) addEvents(ctx context.Context, api client.Client, found *evidence) {
	events, err := (&filter{}).list(ctx, api, found.namespace, c.clock.Now(), withoutPayload)
	if err != nil {
		found.lacks("events", err)
		return
	}
	for _, event := range events {
		for _, value := range []string{event.Spec.ObjectName, event.Spec.Username, event.Spec.Branch, event.Spec.ObjectURL} {
			found.redactor.LearnText(value)
		}
	}
	slices.Reverse(events)
	slices.SortStableFunc(events, func(a, b *v1alpha1.NetBoxEvent) int {
		return cmp.Compare(rank(a.Status.Phase), rank(b.Status.Phase))
	})
	for _, event := range events[:min(c.events, len(events))] {
		var whole v1alpha1.NetBoxEvent
		err := api.Get(ctx, client.ObjectKeyFromObject(event), &whole)
		if client.IgnoreNotFound(err) != nil {
			found.lacks("event "+event.Name, clusterError(err, "get", resourceEvents, found.namespace))
			return
		}
		if err == nil {
			found.events = append(found.events, whole)
		}
	}
}

func rank(phase v1alpha1.Phase) int {
	if phase == v1alpha1.PhaseSucceeded {
		return 1
	}
	return 0
}

// addSecrets adds what is said of the Secrets that sources and rules name.
func (c *reportCommand) addSecrets(ctx context.Context, api client.Client, found *evidence) {
	names := map[string]bool{}
	for i := range found.sources {
		found.lacks("Secrets", secretNames(&found.sources[i].Spec, names))
	}
	for i := range found.rules {
		found.lacks("Secrets", secretNames(&found.rules[i].Spec, names))
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		var secret corev1.Secret
		err := api.Get(ctx, client.ObjectKey{Namespace: found.namespace, Name: name}, &secret)
		if apierrors.IsNotFound(err) {
			found.secrets = append(found.secrets, secretFacts{Name: name, Missing: true})
			continue
		}
		if err != nil {
			found.lacks("Secret "+name, clusterError(err, "get", "secrets", found.namespace))
			continue
		}
		facts := secretFacts{Name: name, Type: string(secret.Type)}
		for _, key := range slices.Sorted(maps.Keys(secret.Data)) {
			value := string(secret.Data[key])
			facts.Keys = append(facts.Keys, entryFact{
				Key: key, Bytes: len(value),
				LeadingSpace:  strings.TrimLeftFunc(value, unicode.IsSpace) != value,
				TrailingSpace: strings.TrimRightFunc(value, unicode.IsSpace) != value,
			})
			found.redactor.LearnText(value)
			found.redactor.LearnText(base64.StdEncoding.EncodeToString(secret.Data[key]))
		}
		found.secrets = append(found.secrets, facts)
	}
}

// secretNames adds the names of the Secrets in a spec: its references have names that end in ecretRef, or in ecretKeyRef.
func secretNames(spec any, names map[string]bool) error {
	text, err := yaml.Marshal(spec)
	if err != nil {
		return err
	}
	var fields any
	if err := yaml.Unmarshal(text, &fields); err != nil {
		return err
	}
	addSecretNames(fields, names)
	return nil
}

func addSecretNames(value any, names map[string]bool) {
	switch value := value.(type) {
	case map[string]any:
		for key, item := range value {
			reference, _ := item.(map[string]any)
			if name, ok := reference["name"].(string); ok && (strings.HasSuffix(key, "ecretRef") || strings.HasSuffix(key, "ecretKeyRef")) {
				names[name] = true
			}
			addSecretNames(item, names)
		}
	case []any:
		for _, item := range value {
			addSecretNames(item, names)
		}
	}
}

func (c *reportCommand) addOperatorEvidence(
	ctx context.Context, api client.Client, core *corev1client.CoreV1Client, found *evidence, deployment *appsv1.Deployment,
) {
	row, name := operatorEvidence{deployment: deployment}, client.ObjectKeyFromObject(deployment)
	var lease coordinationv1.Lease
	leaseName := leaseOf(deployment)
	err := api.Get(ctx, leaseName, &lease)
	found.lacks("Lease "+leaseName.String(), clusterError(err, "get", "leases", leaseName.Namespace))
	if err == nil {
		row.lease = &lease
	}
	selector, err := metav1.LabelSelectorAsSelector(deployment.Spec.Selector)
	if err != nil {
		found.lacks("pods of operator "+name.String(), err)
		return
	}
	var pods corev1.PodList
	err = api.List(ctx, &pods, client.InNamespace(name.Namespace), client.MatchingLabelsSelector{Selector: selector})
	found.lacks("pods of operator "+name.String(), clusterError(err, "list", "pods", name.Namespace))
	row.pods = pods.Items
	for i := range row.pods {
		if pod := &row.pods[i]; c.hasLogs {
			c.addLog(ctx, core, found, &row, pod, false)
			if slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
				return s.Name == managerOf(deployment).Name && s.RestartCount > 0
			}) {
				c.addLog(ctx, core, found, &row, pod, true)
			}
		}
	}
	found.operators = append(found.operators, row)
}

// maxLogBytes bounds the log of a pod.
const maxLogBytes = 4 << 20

// addLog adds the end of the log of a pod, or of its container before the last restart.
func (c *reportCommand) addLog(
	ctx context.Context, core *corev1client.CoreV1Client, found *evidence, row *operatorEvidence, pod *corev1.Pod, isPrevious bool,
) {
	log := podLog{name: pod.Name}
	if isPrevious {
		log.name += "-previous"
	}
	stream, err := core.Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{
		Container: managerOf(row.deployment).Name, Previous: isPrevious, TailLines: &c.tail, LimitBytes: new(int64(maxLogBytes)),
	}).Stream(ctx)
	if apierrors.IsForbidden(err) {
		err = clusterError(err, "get", "pods/log", pod.Namespace)
	}
	if err != nil {
		found.lacks("log of pod "+log.name, err)
		return
	}
	text, err := io.ReadAll(stream)
	_ = stream.Close()
	found.lacks("log of pod "+log.name, err)
	for line := range strings.Lines(string(text)) {
		log.lines = append(log.lines, strings.TrimSuffix(line, "\n"))
	}
	row.logs = append(row.logs, log)
}

// addNotes adds the Kubernetes Events of the namespace's sources and rules, of the events in the report, and of the operators.
func (c *reportCommand) addNotes(ctx context.Context, api client.Client, found *evidence) {
	namespaces := map[string]bool{found.namespace: true}
	for i := range found.operators {
		namespaces[found.operators[i].deployment.Namespace] = true
	}
	for _, namespace := range slices.Sorted(maps.Keys(namespaces)) {
		var list corev1.EventList
		if err := api.List(ctx, &list, client.InNamespace(namespace)); err != nil {
			found.lacks("Kubernetes Events", clusterError(err, "list", "events", namespace))
			continue
		}
		for i := range list.Items {
			if about := &list.Items[i].InvolvedObject; found.isReported(about) || found.isOfOperator(about) {
				found.notes = append(found.notes, list.Items[i])
			}
		}
	}
	slices.SortFunc(found.notes, func(a, b corev1.Event) int {
		return cmp.Or(lastSeen(&a).Compare(lastSeen(&b).Time), strings.Compare(a.Name, b.Name))
	})
}

// isReported reports whether an object is a source or a rule of the namespace, or an event in the report.
func (e *evidence) isReported(about *corev1.ObjectReference) bool {
	if about.Namespace != e.namespace || !strings.HasPrefix(about.APIVersion, v1alpha1.SchemeGroupVersion.Group+"/") {
		return false
	}
	return about.Kind != kindEvent ||
		slices.ContainsFunc(e.events, func(event v1alpha1.NetBoxEvent) bool { return event.Name == about.Name })
}

// isOfOperator reports whether an object is of an operator, by its name.
func (e *evidence) isOfOperator(about *corev1.ObjectReference) bool {
	return slices.ContainsFunc(e.operators, func(row operatorEvidence) bool {
		return about.Namespace == row.deployment.Namespace && strings.HasPrefix(about.Name, row.deployment.Name)
	})
}

// learn has the redactor learn all values, and know the names in Kubernetes.
func (e *evidence) learn() error {
	e.redactor.Know(e.namespace)
	for i := range e.sources {
		e.redactor.Know(e.sources[i].Name)
		if err := e.redactor.LearnObject(&e.sources[i]); err != nil {
			return err
		}
	}
	for i := range e.rules {
		rule := &e.rules[i]
		e.redactor.Know(rule.Name)
		for _, action := range slices.Concat(rule.Spec.Actions, rule.Spec.OnFailure) {
			e.redactor.Know(action.Name)
		}
		if err := e.redactor.LearnObject(rule); err != nil {
			return err
		}
	}
	for i := range e.events {
		event := &e.events[i]
		e.redactor.Know(event.Name, event.Spec.Event, event.Spec.ObjectType, event.Spec.Model)
		if err := e.redactor.LearnObject(event); err != nil {
			return err
		}
	}
	for i := range e.secrets {
		e.redactor.Know(e.secrets[i].Name)
	}
	for i := range e.operators {
		e.redactor.Know(e.operators[i].deployment.Namespace, e.operators[i].deployment.Name)
		for k := range e.operators[i].pods {
			e.redactor.Know(e.operators[i].pods[k].Name)
			e.redactor.LearnText(e.operators[i].pods[k].Spec.NodeName)
		}
		for _, variable := range managerOf(e.operators[i].deployment).Env {
			if len(variable.Value) >= 8 { // shorter ones are switches and numbers
				e.redactor.LearnText(variable.Value)
			}
		}
	}
	return nil
}

// files returns the files of the report, without secrets and values.
func (e *evidence) files() (files []reportFile, failure error) {
	add := func(name string, value any) {
		text, err := yaml.Marshal(value)
		failure = errors.Join(failure, err)
		files = append(files, reportFile{name + ".yaml", text})
	}
	addObject := func(directory, kind string, object client.Object) {
		object.GetObjectKind().SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind(kind))
		redacted, err := e.redactor.Object(object)
		failure = errors.Join(failure, err)
		add(directory+"/"+object.GetName(), redacted)
	}
	add("versions", e.versions())
	if e.overview != nil {
		add("status", e.statusFacts())
	}
	for i := range e.sources {
		addObject("sources", "NetBoxSource", &e.sources[i])
	}
	for i := range e.rules {
		addObject("rules", "NetBoxEventRule", &e.rules[i])
	}
	for i := range e.events {
		addObject("events", kindEvent, &e.events[i])
	}
	if len(e.secrets) > 0 {
		add("secrets", e.secrets)
	}
	if len(e.notes) > 0 {
		add("kubernetes-events", e.noteFacts())
	}
	for i := range e.operators {
		row := &e.operators[i]
		directory := "operator/" + row.deployment.Namespace + "-" + row.deployment.Name + "/"
		add(directory+"state", e.operatorFacts(row))
		for _, log := range row.logs {
			var text bytes.Buffer
			for _, line := range log.lines {
				text.WriteString(e.redactor.LogLine(line) + "\n")
			}
			files = append(files, reportFile{directory + log.name + ".log", text.Bytes()})
		}
	}
	return files, failure
}

// readme is the first file of the report.
func (e *evidence) readme() []byte {
	text := fmt.Sprintf("Report of kubectl netbox about namespace %s, made %s by %s.\n\n",
		e.namespace, e.time.UTC().Format(metav1.RFC3339Micro), version.ThisBuild().Of("kubectl-netbox")) +
		"Values are replaced: <string 3, 14 bytes> has the same number wherever the value is the same.\n\n" + listed("Left out:", leftOut)
	if len(e.unread) > 0 {
		text += "\n" + listed("Not read:", e.texts(e.unread))
	}
	return []byte(text)
}

// texts returns free texts without values. Errors of the API server name users, and addresses of nodes.
func (e *evidence) texts(texts []string) (redacted []string) {
	for _, text := range texts {
		redacted = append(redacted, e.redactor.Text(text))
	}
	return redacted
}

func (e *evidence) versions() any {
	build := version.ThisBuild()
	facts := map[string]any{
		"plugin":     map[string]any{"version": build.Version, "commit": build.Commit, "go": build.Go},
		"kubernetes": e.kubernetes,
	}
	if e.overview != nil {
		if e.overview.CRDs != nil {
			facts["crds"] = e.overview.CRDs
		}
		operators := map[string]any{}
		for i := range e.overview.Operators {
			row := &e.overview.Operators[i]
			if row.deployment != nil { // the version of a process is not known
				operators[row.Namespace+"/"+row.Name] = map[string]any{"version": row.Version, "image": row.Image}
			}
		}
		facts["operators"] = operators
	}
	return facts
}

// statusFacts returns the answer of status, in which messages are free text.
func (e *evidence) statusFacts() *overview {
	shown := *e.overview
	shown.Refused, shown.Wrong, shown.Unknown = slices.Clone(shown.Refused), slices.Clone(shown.Wrong), e.texts(shown.Unknown)
	for i := range shown.Refused {
		shown.Refused[i].Note = e.redactor.Text(shown.Refused[i].Note)
	}
	for i := range shown.Wrong {
		shown.Wrong[i].Problem = e.redactor.Text(shown.Wrong[i].Problem)
	}
	return &shown
}

// noteFact is a Kubernetes Event.
type noteFact struct {
	About  string      `json:"about"`
	Type   string      `json:"type"`
	Reason string      `json:"reason"`
	Action string      `json:"action,omitempty"`
	Note   string      `json:"note"`
	Count  int32       `json:"count,omitempty"`
	First  metav1.Time `json:"first,omitzero"`
	Last   metav1.Time `json:"last"`
}

func (e *evidence) noteFacts() (facts []noteFact) {
	for i := range e.notes {
		note := &e.notes[i]
		fact := noteFact{
			About: note.InvolvedObject.Kind + " " + note.InvolvedObject.Namespace + "/" + note.InvolvedObject.Name,
			Type:  note.Type, Reason: e.redactor.Text(note.Reason), Action: note.Action, Note: e.redactor.Text(note.Message),
			Count: note.Count, First: note.FirstTimestamp, Last: lastSeen(note),
		}
		if note.InvolvedObject.Kind == kindEvent { // the message of an event action, which NetBox's values were rendered into
			fact.Note = e.redactor.String(note.Message)
		}
		if note.Series != nil {
			fact.Count = note.Series.Count
		}
		facts = append(facts, fact)
	}
	return facts
}

// operatorFacts returns the state of an operator. Its flags may name hosts, and its environment have tokens.
func (e *evidence) operatorFacts(row *operatorEvidence) any {
	var variables []string
	for _, variable := range managerOf(row.deployment).Env {
		variables = append(variables, variable.Name)
	}
	facts := map[string]any{
		"image": managerOf(row.deployment).Image, "args": e.texts(managerOf(row.deployment).Args), "environment": variables,
		"resources": managerOf(row.deployment).Resources, "replicas": row.deployment.Spec.Replicas,
		"conditions": row.deployment.Status.Conditions, "ready": row.deployment.Status.ReadyReplicas,
	}
	if row.lease != nil {
		facts["lease"] = row.lease.Spec
	}
	pods := []map[string]any{}
	for i := range row.pods {
		pod := &row.pods[i]
		containers := slices.Clone(pod.Status.ContainerStatuses)
		for k := range containers {
			for _, state := range []*corev1.ContainerState{&containers[k].State, &containers[k].LastTerminationState} {
				if state.Terminated != nil {
					terminated := *state.Terminated
					terminated.Message = e.redactor.Text(terminated.Message)
					state.Terminated = &terminated
				}
			}
		}
		pods = append(pods, map[string]any{
			"name": pod.Name, "created": pod.CreationTimestamp, "phase": pod.Status.Phase, "reason": pod.Status.Reason,
			"conditions": pod.Status.Conditions, "containers": containers,
		})
	}
	facts["pods"] = pods
	return facts
}
