package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// route is a path of an Ingress or HTTPRoute that leads to the receivers of an operator.
type route struct {
	// about names the Ingress or HTTPRoute.
	about string
	// host is empty for any.
	host string
	path string
	// isExact, hasRegex and hasWildcard say how path is compared; otherwise it is a prefix of whole segments.
	isExact, hasRegex, hasWildcard bool
	isTLS                          bool
	operator                       *operator
	// tlsSecret is the Secret of the certificate, if it is known.
	tlsSecret client.ObjectKey

	// ingress or gateway is what the route is of.
	ingress *networkingv1.Ingress
	gateway *gatewayRule
}

// covers reports whether the route takes a path, and whether that is known.
func (r *route) covers(path string) (isCovered, isKnown bool) {
	if r.hasRegex {
		return matchesRegex(r.path, path)
	}
	if before, after, ok := strings.Cut(r.path, "*"); r.hasWildcard && ok { // as load balancers of AWS and Google have it
		return strings.HasPrefix(path, before), after == ""
	}
	prefix := strings.TrimRight(r.path, "/")
	return path == r.path || !r.isExact && (path == prefix || strings.HasPrefix(path, prefix+"/")), true
}

// findRoutes finds what leads to the operators that watch the namespace.
func (d *doctor) findRoutes(ctx context.Context) {
	for i := range d.found.Operators {
		operator := &d.found.Operators[i]
		if operator.deployment == nil {
			continue
		}
		about := aboutOperator(operator)
		services, err := d.services(ctx, operator.deployment)
		if err != nil {
			d.unknown(about, "its Service and Ingress: %v", clusterError(err, "list", "services", operator.Namespace))
			continue
		}
		if len(services) == 0 {
			d.add(resultProblem, about, "no Service in namespace "+operator.Namespace+" selects its pods: no delivery reaches them",
				"install the chart, which has the Service, or correct the selector of yours")
			continue
		}
		ingresses, ingressErr := d.ingressRoutes(ctx, operator, services)
		gateways, gatewayErr := d.gatewayRoutes(ctx, operator, services)
		for _, err := range []error{ingressErr, gatewayErr} {
			if err != nil {
				d.unknown(about, "what leads to its Service: %v", err)
			}
		}
		routes := slices.Concat(ingresses, gateways)
		d.routes = append(d.routes, routes...)
		for i := range services {
			if len(routes) == 0 && ingressErr == nil && gatewayErr == nil {
				d.checkUnrouted(about, &services[i])
			}
			d.checkServersTransport(ctx, about, operator, &services[i])
		}
	}
}

// services returns the Services of an operator's receivers.
func (d *doctor) services(ctx context.Context, deployment *appsv1.Deployment) ([]corev1.Service, error) {
	var services corev1.ServiceList
	if err := d.api.List(ctx, &services, client.InNamespace(deployment.Namespace)); err != nil {
		return nil, err
	}
	pods := labels.Set(deployment.Spec.Template.Labels)
	return slices.DeleteFunc(services.Items, func(service corev1.Service) bool {
		return len(service.Spec.Selector) == 0 || !labels.SelectorFromSet(service.Spec.Selector).Matches(pods) ||
			!slices.ContainsFunc(service.Spec.Ports, func(port corev1.ServicePort) bool {
				return port.TargetPort.StrVal == portWebhook || port.TargetPort.IntVal == webhookPort(deployment)
			})
	}), nil
}

// checkUnrouted says how a Service is reached to which no Ingress and no HTTPRoute leads.
func (d *doctor) checkUnrouted(about string, service *corev1.Service) {
	if service.Spec.Type == corev1.ServiceTypeLoadBalancer || service.Spec.Type == corev1.ServiceTypeNodePort {
		d.ok(about, "Service %s is of type %s, without Ingress or HTTPRoute", service.Name, service.Spec.Type)
		return
	}
	d.ok(about, "no Ingress or HTTPRoute leads to Service %s: NetBox reaches it in the cluster alone, at http://%s.%s.svc",
		service.Name, service.Name, service.Namespace)
}

// ingressRoutes returns the paths of Ingresses that lead to Services.
func (d *doctor) ingressRoutes(ctx context.Context, operator *operator, services []corev1.Service) (routes []route, err error) {
	var ingresses networkingv1.IngressList
	if err := d.api.List(ctx, &ingresses, client.InNamespace(operator.Namespace)); err != nil {
		return nil, clusterError(err, "list", "ingresses", operator.Namespace)
	}
	for i := range ingresses.Items {
		ingress := &ingresses.Items[i]
		add := func(host, path string, pathType *networkingv1.PathType, backend *networkingv1.IngressBackend) {
			isOurs := backend != nil && backend.Service != nil && slices.ContainsFunc(services, func(service corev1.Service) bool {
				return service.Name == backend.Service.Name
			})
			if !isOurs {
				return
			}
			found := route{
				about: "Ingress " + ingress.Namespace + "/" + ingress.Name, host: host, path: cmp.Or(path, "/"), operator: operator, ingress: ingress,
				isExact: pathType != nil && *pathType == networkingv1.PathTypeExact, hasRegex: isRegex(ingress),
				hasWildcard: pathType != nil && *pathType == networkingv1.PathTypeImplementationSpecific,
			}
			found.isTLS, found.tlsSecret = tlsOf(ingress, host)
			routes = append(routes, found)
		}
		add("", "/", nil, ingress.Spec.DefaultBackend)
		for _, rule := range ingress.Spec.Rules {
			if rule.HTTP == nil {
				continue
			}
			for j := range rule.HTTP.Paths {
				path := &rule.HTTP.Paths[j]
				add(rule.Host, path.Path, path.PathType, &path.Backend)
			}
		}
	}
	return routes, nil
}

// tlsOf returns whether an Ingress serves https for a host, and the Secret of the certificate.
func tlsOf(ingress *networkingv1.Ingress, host string) (isTLS bool, secret client.ObjectKey) {
	_, domain, _ := strings.Cut(host, ".")
	for _, entry := range ingress.Spec.TLS {
		if len(entry.Hosts) == 0 || slices.Contains(entry.Hosts, host) || domain != "" && slices.Contains(entry.Hosts, "*."+domain) {
			return true, client.ObjectKey{Namespace: ingress.Namespace, Name: entry.SecretName}
		}
	}
	const prefix = "traefik.ingress.kubernetes.io/router."
	return ingress.Annotations[prefix+"tls"] == "true" || ingress.Annotations[prefix+"entrypoints"] == "websecure" ||
		ingress.Annotations["alb.ingress.kubernetes.io/certificate-arn"] != "", secret
}

// checkRoutes looks at what leads to a source.
func (d *doctor) checkRoutes(ctx context.Context, s *v1alpha1.NetBoxSource) {
	if len(d.routes) == 0 {
		return
	}
	var others []string
	isCovered := false
	for i := range d.routes {
		route := &d.routes[i]
		covers, isKnown := route.covers(pathOf(s))
		switch {
		case !isKnown:
			d.unknown(route.about, "whether the regular expression %s covers the path of source %s", route.path, s.Name)
			isCovered = true
		case covers:
			isCovered = true
			d.checkRoute(ctx, s, route)
		default:
			others = append(others, route.about+" with "+route.path)
		}
	}
	if !isCovered {
		d.add(resultProblem, aboutSource(s), fmt.Sprintf("nothing leads to its path %s, but %s", pathOf(s), list(others)),
			"add the path to the Ingress (ingress.path of the chart), or set spec.path of the source")
	}
}

// checkRoute looks at the settings of a route that leads to a source.
func (d *doctor) checkRoute(ctx context.Context, s *v1alpha1.NetBoxSource, route *route) {
	before := len(d.Checks)
	if route.ingress != nil {
		d.checkAnnotations(s, route)
		d.checkMiddlewares(ctx, s, route)
	} else {
		d.checkGateway(route)
	}
	d.checkTLSSecret(ctx, route)
	if !slices.ContainsFunc(d.Checks[before:], func(check check) bool { return check.Result == resultProblem }) {
		host := cmp.Or(route.host, "any host")
		d.ok(route.about, "leads from %s%s to source %s", host, route.path, s.Name)
	}
}

// expiresSoon is the time before its end from which on a certificate should have been renewed.
const expiresSoon = 14 * 24 * time.Hour

// checkTLSSecret looks at the certificate of an Ingress, where the user may.
func (d *doctor) checkTLSSecret(ctx context.Context, route *route) {
	if route.tlsSecret.Name == "" {
		return
	}
	var secret corev1.Secret
	err := d.api.Get(ctx, route.tlsSecret, &secret)
	switch {
	case apierrors.IsNotFound(err):
		d.add(resultProblem, route.about, "Secret "+route.tlsSecret.Name+" of its certificate does not exist",
			"create it, or look at the Certificate of cert-manager: kubectl describe certificate -n "+route.tlsSecret.Namespace)
	case err != nil:
		d.unknown(route.about, "its certificate: %v", clusterError(err, "get", "secrets", route.tlsSecret.Namespace))
	default:
		d.checkCertificate(route.about, secret.Data[corev1.TLSCertKey], route.host)
	}
}

// listUnstructured lists objects of a kind that the cluster may not have.
func (d *doctor) listUnstructured(
	ctx context.Context, kind schema.GroupVersionKind, options ...client.ListOption,
) ([]unstructured.Unstructured, error) {
	var objects unstructured.UnstructuredList
	objects.SetGroupVersionKind(kind)
	err := d.api.List(ctx, &objects, options...)
	if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
		return nil, nil
	}
	return objects.Items, err
}

// gatewayRule is a rule of an HTTPRoute, as far as it is looked at.
type gatewayRule struct {
	Matches []struct {
		Path struct {
			Type  string `json:"type"`
			Value string `json:"value"`
		} `json:"path"`
	} `json:"matches"`
	Filters []struct {
		URLRewrite struct {
			Path *struct {
				Type string `json:"type"`
			} `json:"path"`
		} `json:"urlRewrite"`
	} `json:"filters"`
	Timeouts struct {
		Request        string `json:"request"`
		BackendRequest string `json:"backendRequest"`
	} `json:"timeouts"`
	BackendRefs []backendRef `json:"backendRefs"`
}

type backendRef struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

// httpRoute is the part of an HTTPRoute that is looked at.
type httpRoute struct {
	Spec struct {
		Hostnames []string      `json:"hostnames"`
		Rules     []gatewayRule `json:"rules"`
	} `json:"spec"`
	Status struct {
		Parents []struct {
			Conditions []struct {
				Type    string `json:"type"`
				Status  string `json:"status"`
				Reason  string `json:"reason"`
				Message string `json:"message"`
			} `json:"conditions"`
		} `json:"parents"`
	} `json:"status"`
}

// gatewayRoutes returns the paths of HTTPRoutes that lead to Services.
func (d *doctor) gatewayRoutes(ctx context.Context, operator *operator, services []corev1.Service) (routes []route, err error) {
	kind := schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "HTTPRouteList"}
	objects, err := d.listUnstructured(ctx, kind, client.InNamespace(operator.Namespace))
	if err != nil {
		return nil, clusterError(err, "list", "httproutes", operator.Namespace)
	}
	for _, object := range objects {
		var found httpRoute
		about := "HTTPRoute " + object.GetNamespace() + "/" + object.GetName()
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &found); err != nil {
			d.unknown(about, "%v", err)
			continue
		}
		mine := gatewayPaths(&found, about, operator, services)
		if len(mine) > 0 {
			d.checkAttached(about, &found)
		}
		routes = append(routes, mine...)
	}
	return routes, nil
}

func gatewayPaths(found *httpRoute, about string, operator *operator, services []corev1.Service) (routes []route) {
	hosts := found.Spec.Hostnames
	if len(hosts) == 0 {
		hosts = []string{""}
	}
	for i := range found.Spec.Rules {
		rule := &found.Spec.Rules[i]
		isOurs := slices.ContainsFunc(services, func(service corev1.Service) bool {
			return slices.ContainsFunc(rule.BackendRefs, func(ref backendRef) bool {
				return ref.Name == service.Name && cmp.Or(ref.Namespace, operator.Namespace) == service.Namespace
			})
		})
		if !isOurs {
			continue
		}
		for _, host := range hosts {
			one := route{about: about, host: host, path: "/", operator: operator, gateway: rule, isTLS: true}
			if len(rule.Matches) == 0 {
				routes = append(routes, one)
			}
			for _, match := range rule.Matches {
				one.path, one.isExact, one.hasRegex = cmp.Or(match.Path.Value, "/"), match.Path.Type == "Exact", match.Path.Type == "RegularExpression"
				routes = append(routes, one)
			}
		}
	}
	return routes
}

// checkAttached says whether a Gateway took an HTTPRoute.
func (d *doctor) checkAttached(about string, found *httpRoute) {
	if len(found.Status.Parents) == 0 {
		d.add(resultProblem, about, "no Gateway has taken it", "correct its parentRefs, and let the listener allow routes of its namespace")
	}
	for _, parent := range found.Status.Parents {
		for _, condition := range parent.Conditions {
			if condition.Status == "False" && (condition.Type == "Accepted" || condition.Type == "ResolvedRefs") {
				d.add(resultProblem, about, fmt.Sprintf("%s is False (%s): %s", condition.Type, condition.Reason, condition.Message),
					"let the listener of the Gateway allow routes of its namespace, and correct what it refers to")
			}
		}
	}
}

// checkGateway looks at the filters and time-outs of an HTTPRoute.
func (d *doctor) checkGateway(route *route) {
	for _, filter := range route.gateway.Filters {
		if filter.URLRewrite.Path != nil {
			d.add(resultProblem, route.about, "it changes the path: the operator answers with 404", "remove the filter URLRewrite")
		}
	}
	d.checkTimeout(route, "timeouts.request", route.gateway.Timeouts.Request)
	d.checkTimeout(route, "timeouts.backendRequest", route.gateway.Timeouts.BackendRequest)
}
