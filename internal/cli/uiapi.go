package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/cli/ui"
)

// uiAPI answers the page of ui, with what the other commands show.
type uiAPI struct {
	*plugin

	api       client.WithWatch
	namespace string
}

func (u *uiAPI) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, answer := range map[string]func(*http.Request) (any, error){
		"GET /api/context":               u.showContext,
		"GET /api/overview":              func(r *http.Request) (any, error) { return u.overview(r.Context(), u.api, u.namespace) },
		"GET /api/events/{name}":         u.showEvent,
		"GET /api/events/{name}/trace":   u.traceEvent,
		"POST /api/events/{name}/replay": u.replayEvent,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if found, err := answer(r); err != nil {
				uiError(w, err)
			} else {
				w.Header().Set("Content-Type", "application/json")
				_ = json.NewEncoder(w).Encode(found) // the browser is gone
			}
		})
	}
	mux.HandleFunc("GET /api/events", u.streamEvents)
	return mux
}

// usageError is an error of the user.
type usageError struct{ error }

// uiError answers with an error. 401 is for the token alone.
func uiError(w http.ResponseWriter, err error) {
	status := http.StatusBadGateway
	_, isUsage := errors.AsType[usageError](err)
	switch {
	case isUsage:
		status = http.StatusBadRequest
	case apierrors.IsForbidden(err):
		status = http.StatusForbidden
	case apierrors.IsNotFound(err):
		status = http.StatusNotFound
	}
	ui.Error(w, status, err.Error())
}

// showContext says which part of which cluster the page shows.
func (u *uiAPI) showContext(*http.Request) (any, error) {
	raw, err := u.flags.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return nil, err
	}
	return map[string]string{"namespace": u.namespace, "context": cmp.Or(*u.flags.Context, raw.CurrentContext)}, nil
}

// uiCell is a text of a table, with the name of its color in the page.
type uiCell struct {
	Text string `json:"text"`
	Tone string `json:"tone,omitempty"`
}

var tones = map[color]string{green: "good", red: "bad", yellow: "busy", dim: "dim"}

func uiCells(rows [][]cell) [][]uiCell {
	shown := make([][]uiCell, len(rows))
	for i, row := range rows {
		for _, cell := range row {
			shown[i] = append(shown[i], uiCell{cell.text, tones[cell.color]})
		}
	}
	return shown
}

// uiEvent is one event for people.
type uiEvent struct {
	UID     string     `json:"uid"`
	Name    string     `json:"name"`
	Summary string     `json:"summary"`
	Phase   uiCell     `json:"phase"`
	Facts   [][]uiCell `json:"facts"`
	Changes []change   `json:"changes"`
	// Columns are those of the deliveries.
	Columns    []string   `json:"columns"`
	Deliveries [][]uiCell `json:"deliveries"`
	// Data is YAML.
	Data string `json:"data"`
}

// event returns the event of a request, which is one of the namespace.
func (u *uiAPI) event(r *http.Request) (*v1alpha1.NetBoxEvent, error) {
	return getEvent(r.Context(), u.api, u.namespace, u.namespace+"/"+r.PathValue("name"))
}

func (u *uiAPI) showEvent(r *http.Request) (any, error) {
	event, err := u.event(r)
	if err != nil {
		return nil, err
	}
	data, err := dataYAML(&event.Spec)
	if err != nil {
		return nil, err
	}
	phase := event.Status.Phase
	return &uiEvent{
		UID: string(event.UID), Name: event.Name, Summary: summary(&event.Spec), Phase: uiCell{string(phase), tones[phaseColor(phase)]},
		Facts: uiCells(u.facts(event)), Changes: changes(&event.Spec), Columns: deliveryColumns, Deliveries: uiCells(u.deliveries(event)),
		Data: string(data),
	}, nil
}

// uiNode is a node of a trace, with the name of its color in the page.
type uiNode struct {
	traceNode

	Tone     string    `json:"tone,omitempty"`
	Children []*uiNode `json:"children,omitempty"`
}

func newUINode(node *traceNode) *uiNode {
	shown := &uiNode{traceNode: *node, Tone: tones[node.color]}
	for _, child := range node.Children {
		shown.Children = append(shown.Children, newUINode(child))
	}
	return shown
}

func (u *uiAPI) traceEvent(r *http.Request) (any, error) {
	event, err := u.event(r)
	if err != nil {
		return nil, err
	}
	tree, err := u.trace(r.Context(), u.api, event)
	if err != nil {
		return nil, err
	}
	return newUINode(tree), nil
}

// replayEvent requests a replay of an event. With dryRun it only says what would be done, and fails if that is not possible.
func (u *uiAPI) replayEvent(r *http.Request) (any, error) {
	ctx, query := r.Context(), r.URL.Query()
	replay := &replayCommand{plugin: u.plugin, filter: filter{rule: query.Get("rule")}}
	if err := replay.checkRule(ctx, u.api, u.namespace); err != nil {
		return nil, err
	}
	event, err := u.event(r)
	if err != nil {
		return nil, err
	}
	if !event.Status.Phase.IsFinished() {
		return nil, usageError{errors.New("the event is pending: it is delivered anyway; wait until it is finished")}
	}
	var options []client.PatchOption
	if query.Get("dryRun") == "true" {
		options = append(options, client.DryRunAll)
	}
	if err := replay.patch().apply(ctx, u.api, event, options...); err != nil {
		return nil, clusterError(err, "patch", resourceEvents, u.namespace)
	}
	return map[string]string{"text": "This executes " + replay.actions() + ", also those that succeeded."}, nil
}

// uiFilter reads the filter of a request, whose parameters are the flags of events.
func uiFilter(r *http.Request) (filter, error) {
	query := r.URL.Query()
	f := filter{
		source: query.Get("source"), objectType: query.Get("type"), object: query.Get("object"), user: query.Get("user"),
		request: query.Get("request"), branch: query.Get("branch"), rule: query.Get("rule"),
		failed: query.Get("failed") == "true", pending: query.Get("pending") == "true",
	}
	if since := query.Get("since"); since != "" {
		var err error
		if f.since, err = time.ParseDuration(since); err != nil || f.since < 0 {
			return f, usageError{fmt.Errorf("since is %q; write a time such as 2h or 30m", since)}
		}
	}
	if f.failed && f.pending {
		return f, usageError{errors.New("an event is not both failed and pending; choose one")}
	}
	return f, nil
}
