package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// Resources of the operator, as the API server names them.
const (
	resourceSources = "netboxsources"
	resourceRules   = "netboxeventrules"
	resourceEvents  = "netboxevents"
)

var scheme = runtime.NewScheme()

func init() {
	log.SetLogger(logr.Discard()) // controller-runtime complains without one
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
}

// namespace returns the namespace of the flag, or else that of the context.
func (p *plugin) namespace() (string, error) {
	namespace, _, err := p.flags.ToRawKubeConfigLoader().Namespace()
	return namespace, err
}

// config returns the way to the API server, as the user.
func (p *plugin) config() (*rest.Config, error) {
	config, err := p.flags.ToRESTConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, errors.New("no cluster is configured; set --kubeconfig, or KUBECONFIG")
	}
	if err != nil {
		return nil, err
	}
	config.UserAgent = "kubectl-netbox"
	config.QPS = -1 // the API server's priority and fairness throttles
	return config, nil
}

// client returns a client with the user's rights.
func (p *plugin) client() (client.WithWatch, error) {
	config, err := p.config()
	if err != nil {
		return nil, err
	}
	return client.NewWithWatch(config, client.Options{Scheme: scheme})
}

// cluster returns a client with the user's rights, and the namespace.
func (p *plugin) cluster() (client.WithWatch, string, error) {
	namespace, err := p.namespace()
	if err != nil {
		return nil, "", err
	}
	api, err := p.client()
	return api, namespace, err
}

// clusterError returns an error of the API server that says what to do. The verb and the resource, such as get and netboxevents, are what
// was asked for.
func clusterError(err error, verb, resource, namespace string) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsForbidden(err):
		next := "ask for a role with that right"
		if strings.HasPrefix(resource, "netbox") {
			role := "edit"
			if slices.Contains([]string{"get", "list", "watch"}, verb) {
				role = "view"
			}
			next += ", such as " + role + ", where the operator's chart has extended it"
		}
		return fmt.Errorf("you may not %s %s in %s; %s (%w)", verb, resource, place(namespace), next, err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("the API server does not accept your credentials; log in again (%w)", err)
	case meta.IsNoMatchError(err):
		return fmt.Errorf("this cluster has no %s; install the operator, or correct --context", resource)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w; see kubectl get %s -n %s", err, strings.ToLower(resource), namespace)
	case strings.Contains(err.Error(), "cannot unmarshal"): // of another type than the plugin's
		return fmt.Errorf("cannot read %s in %s; kubectl netbox version says whether the plugin fits the operator's CRDs: %w",
			resource, place(namespace), err)
	default:
		return fmt.Errorf("cannot %s %s in %s: %w", verb, resource, place(namespace), err)
	}
}

// addAllNamespaces adds kubectl's flag for all namespaces.
func addAllNamespaces(command *cobra.Command, isEverywhere *bool) {
	command.Flags().BoolVarP(isEverywhere, "all-namespaces", "A", false, "look at all namespaces")
}

// place names a namespace, or all of them.
func place(namespace string) string {
	if namespace == "" {
		return "all namespaces"
	}
	return "namespace " + namespace
}
