package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/cli/manifest"
	"github.com/netbox-events/netbox-event-operator/internal/cli/ruletest"
)

// isFile reports whether an argument is a file rather than the name of an object. What looks like a file is one, so that an error says that
// it does not exist.
func isFile(arg string) bool {
	if _, err := os.Stat(arg); err == nil || filepath.Base(arg) != arg {
		return true
	}
	return slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(arg))
}

// readRules returns the rules of a file, or the one of a name in the cluster.
func (p *plugin) readRules(ctx context.Context, arg string) ([]*ruletest.Rule, error) {
	if isFile(arg) {
		return ruletest.ReadRules(ctx, arg)
	}
	var live v1alpha1.NetBoxEventRule
	if err := p.get(ctx, arg, resourceRules, &live); err != nil {
		return nil, err
	}
	compiled, err := ruletest.NewRule(&live)
	if err != nil {
		return nil, err
	}
	return []*ruletest.Rule{compiled}, nil
}

// readEvent returns the event of a file, or the one of a name in the cluster. A file with a body is as received by a source with the
// default settings.
func (p *plugin) readEvent(ctx context.Context, arg string) (*v1alpha1.NetBoxEvent, error) {
	if isFile(arg) {
		content, err := os.ReadFile(arg)
		if err != nil {
			return nil, err
		}
		return readBody(arg, content, "netbox", time.Time{})
	}
	var live v1alpha1.NetBoxEvent
	return &live, p.get(ctx, arg, resourceEvents, &live)
}

// readBody returns the event of a body as received by a source with the default settings, or a NetBoxEvent.
func readBody(file string, content []byte, sourceName string, received time.Time) (*v1alpha1.NetBoxEvent, error) {
	var source v1alpha1.NetBoxSource
	source.Name = sourceName
	if err := manifest.Sources().Default(&source); err != nil {
		return nil, err
	}
	return ruletest.ReadEvent(file, content, &source, received)
}

// get reads an object of the cluster.
func (p *plugin) get(ctx context.Context, name, resource string, into client.Object) error {
	namespace, err := p.namespace()
	if err != nil {
		return err
	}
	api, err := p.client()
	if err != nil {
		return fmt.Errorf("%w; there is no file %s either", clusterError(err, "get", resource, namespace), name)
	}
	return clusterError(api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, into), "get", resource, namespace)
}
