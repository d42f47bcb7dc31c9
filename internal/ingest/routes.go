package ingest

import (
	"context"
	"sync"
	"sync/atomic"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/source"
)

// routes caches the owner of each path until any source changes: a look-up in the informer's cache takes longer than all other work of
// refusing a request. Paths without an owner are not cached: clients can make up any number of them.
type routes struct {
	sources client.Reader
	known   *atomic.Pointer[sync.Map] // from path to *v1alpha1.NetBoxSource, immutable
}

func newRoutes(sources client.Reader) routes {
	r := routes{sources: sources, known: &atomic.Pointer[sync.Map]{}}
	r.forget()
	return r
}

func (r routes) forget() { r.known.Store(&sync.Map{}) }

// owner returns the source that a path belongs to, or nil.
func (r routes) owner(ctx context.Context, path string) (*v1alpha1.NetBoxSource, error) {
	known := r.known.Load() // before the look-up: a concurrent forget must discard its result
	if owner, ok := known.Load(path); ok {
		return owner.(*v1alpha1.NetBoxSource), nil
	}
	var claims v1alpha1.NetBoxSourceList
	if err := r.sources.List(ctx, &claims, client.MatchingFields{source.PathIndex: path}); err != nil {
		return nil, err
	}
	owner := source.Owner(claims.Items)
	if owner != nil {
		known.Store(path, owner)
	}
	return owner, nil
}
