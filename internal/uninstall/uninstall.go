// Package uninstall deletes the chart's sources while the operator still runs. The chart's hook runs it: Helm deletes the operator first,
// and nobody would then remove the webhooks of the sources from NetBox, and their finalizers.
package uninstall

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// Sources deletes sources, each namespace/name, and waits until they are gone. It writes the result of each to out.
func Sources(ctx context.Context, config *rest.Config, sources []string, out io.Writer) error {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return err
	}
	api, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return err
	}
	for _, source := range sources {
		namespace, name, ok := strings.Cut(source, "/")
		if !ok {
			return fmt.Errorf("%q must be namespace/name", source)
		}
		if err := remove(ctx, api, types.NamespacedName{Namespace: namespace, Name: name}); err != nil {
			return fmt.Errorf("source %s: %w", source, err)
		}
		if _, err := fmt.Fprintf(out, "source %s deleted\n", source); err != nil {
			return err
		}
	}
	return nil
}

func remove(ctx context.Context, api client.Client, name types.NamespacedName) error {
	source := &v1alpha1.NetBoxSource{}
	source.Namespace, source.Name = name.Namespace, name.Name
	if err := api.Delete(ctx, source); err != nil {
		return client.IgnoreNotFound(err)
	}
	return wait.PollUntilContextCancel(ctx, time.Second, true, func(ctx context.Context) (bool, error) {
		err := api.Get(ctx, name, source)
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
}
