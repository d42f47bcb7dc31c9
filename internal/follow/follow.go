// Package follow lists objects page by page and then watches them, without a cache: an informer keeps all objects, and lists them in one
// response, which takes too much memory for a backlog of large events.
package follow

import (
	"context"
	"errors"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// retryInterval is the pause after a list or a watch failed.
const retryInterval = 2 * time.Second

// Handler receives notifications, all from one goroutine.
type Handler interface {
	// Listing is called before each list: the first one, and a relist whenever changes may have been missed.
	Listing()
	// Seen is called for each listed object, and for each one that is added or changed afterwards.
	Seen(ctx context.Context, object client.Object)
	// Listed is called after a complete list. Objects that were not seen since Listing no longer exist.
	Listed()
	// Gone is called for each object that is deleted, or no longer matches the selector.
	Gone(object client.Object)
}

// SeenFunc is a Handler of Seen alone.
type SeenFunc func(object client.Object)

// Seen calls the function.
func (f SeenFunc) Seen(_ context.Context, object client.Object) { f(object) }

// Listing does nothing.
func (SeenFunc) Listing() {}

// Listed does nothing.
func (SeenFunc) Listed() {}

// Gone does nothing.
func (SeenFunc) Gone(client.Object) {}

// Follower lists and watches the objects of one kind.
type Follower struct {
	Client client.WithWatch
	// List is an empty list of the kind.
	List client.ObjectList
	// Namespace restricts the objects to a namespace; "" means all.
	Namespace string
	Selector  fields.Selector
	PageSize  int64
	Log       logr.Logger
}

// Run lists and watches until ctx is done. It relists when the watch expired, because changes may have been missed.
func (f *Follower) Run(ctx context.Context, handler Handler) {
	for ctx.Err() == nil {
		if err := f.listAndWatch(ctx, handler); err != nil && ctx.Err() == nil {
			f.Log.Info("list or watch failed; relisting", "cause", err.Error(), "namespace", f.Namespace)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryInterval):
		}
	}
}

func (f *Follower) listAndWatch(ctx context.Context, handler Handler) error {
	handler.Listing()
	version, err := f.list(ctx, handler)
	if err != nil {
		return err
	}
	handler.Listed()
	watcher, err := watchtools.NewRetryWatcherWithContext(ctx, version, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return f.Client.Watch(ctx, f.emptyList(), f.options(options))
		},
	})
	if err != nil {
		return err
	}
	defer watcher.Stop()
	for event := range watcher.ResultChan() {
		object, ok := event.Object.(client.Object)
		switch {
		case event.Type == watch.Bookmark:
		case !ok:
			return apierrors.FromObject(event.Object)
		case event.Type == watch.Deleted:
			handler.Gone(object)
		default:
			handler.Seen(ctx, object)
		}
	}
	return errors.New("the watch ended")
}

// list lists all objects, and returns the resource version at which the watch must start.
func (f *Follower) list(ctx context.Context, handler Handler) (string, error) {
	page := metav1.ListOptions{Limit: f.PageSize}
	for {
		list := f.emptyList()
		if err := f.Client.List(ctx, list, f.options(page)); err != nil {
			return "", err
		}
		err := meta.EachListItemWithAlloc(list, func(item runtime.Object) error {
			handler.Seen(ctx, item.(client.Object))
			return ctx.Err()
		})
		if err != nil {
			return "", err
		}
		if page.Continue = list.GetContinue(); page.Continue == "" {
			return list.GetResourceVersion(), nil
		}
	}
}

func (f *Follower) emptyList() client.ObjectList { return f.List.DeepCopyObject().(client.ObjectList) }

func (f *Follower) options(raw metav1.ListOptions) *client.ListOptions {
	return &client.ListOptions{Namespace: f.Namespace, FieldSelector: f.Selector, Raw: &raw, Limit: raw.Limit, Continue: raw.Continue}
}
