package cli

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// Annotations of Ingress controllers, by what they set.
const (
	nginx   = "nginx.ingress.kubernetes.io/"
	f5      = "nginx.org/"
	haproxy = "haproxy.org/"
	alb     = "alb.ingress.kubernetes.io/"
)

var (
	// timeoutAnnotations are those of the time that the operator has for an answer.
	timeoutAnnotations = []string{nginx + "proxy-read-timeout", f5 + "proxy-read-timeout", haproxy + "timeout-server"}
	// sizeAnnotations are those of the greatest body.
	sizeAnnotations = []string{nginx + "proxy-body-size", f5 + "client-max-body-size"}
	// pathAnnotations are those that change the path. That of ingress-nginx is looked at more closely.
	pathAnnotations = []string{f5 + "rewrites", haproxy + "path-rewrite"}
	// redirectAnnotations are those that redirect all requests.
	redirectAnnotations = []string{nginx + "permanent-redirect", nginx + "temporal-redirect", haproxy + "request-redirect"}
	// authAnnotations are those that want more than NetBox sends.
	authAnnotations = []string{nginx + "auth-type", nginx + "auth-url", nginx + "auth-tls-secret", haproxy + "auth-type", alb + "auth-type"}
)

const (
	nginxRewrite = nginx + "rewrite-target"
	// defaultHold is that of the operator.
	defaultHold = 25 * time.Second
	// nginxBodyBytes is the limit of ingress-nginx without an annotation.
	nginxBodyBytes = 1 << 20
	nextPath       = "remove it: the path must arrive unchanged; or set spec.path of the source to what arrives"
)

// isNginx reports whether an Ingress is for ingress-nginx.
func isNginx(ingress *networkingv1.Ingress) bool {
	for name := range ingress.Annotations {
		if strings.HasPrefix(name, nginx) {
			return true
		}
	}
	return ingress.Spec.IngressClassName != nil && *ingress.Spec.IngressClassName == "nginx"
}

// checkAnnotations looks at the annotations of an Ingress that leads to a source.
func (d *doctor) checkAnnotations(s *v1alpha1.NetBoxSource, route *route) {
	annotations := route.ingress.Annotations
	each := func(names []string, check func(name, value string)) {
		for _, name := range names {
			if value := annotations[name]; value != "" {
				check(name, value)
			}
		}
	}
	each(timeoutAnnotations, func(name, value string) { d.checkTimeout(route, name, value) })
	if _, value, ok := strings.Cut(annotations[alb+"load-balancer-attributes"], "idle_timeout.timeout_seconds="); ok {
		value, _, _ = strings.Cut(value, ",")
		d.checkTimeout(route, "idle_timeout.timeout_seconds", value)
	}
	d.checkSize(s, route)
	each(pathAnnotations, func(name, value string) {
		d.add(resultProblem, route.about, name+" changes the path: "+value, nextPath)
	})
	if target, ok := annotations[nginxRewrite]; ok {
		if rewritten := rewrite(route.path, target, pathOf(s)); rewritten != pathOf(s) {
			d.add(resultProblem, route.about,
				fmt.Sprintf("%s makes %s of the path %s: the operator answers with 404", nginxRewrite, rewritten, pathOf(s)), nextPath)
		}
	}
	each(redirectAnnotations, func(name, value string) {
		d.add(resultProblem, route.about, name+" redirects to "+value+", and no delivery arrives", "remove it")
	})
	each(authAnnotations, func(name, value string) {
		d.add(resultProblem, route.about, name+" asks for what NetBox does not send: "+value, "remove it: the operator verifies the signature")
	})
	if redirectsToHTTPS(route) {
		d.checkHTTP(s, route)
	}
}

// redirectsToHTTPS reports whether http is redirected to https.
func redirectsToHTTPS(route *route) bool {
	annotations := route.ingress.Annotations
	return isNginx(route.ingress) && route.isTLS && annotations[nginx+"ssl-redirect"] != "false" ||
		annotations[nginx+"force-ssl-redirect"] == "true" || annotations[haproxy+"ssl-redirect"] == "true" ||
		annotations[alb+"ssl-redirect"] != ""
}

// checkHTTP says that http is redirected, which is wrong if NetBox uses it.
func (d *doctor) checkHTTP(s *v1alpha1.NetBoxSource, route *route) {
	for _, to := range d.urlsOf(s) {
		if to.Scheme == "http" && to.Hostname() == route.host {
			d.add(resultProblem, route.about, fmt.Sprintf("it redirects %s to https", to.Redacted()), "give NetBox the URL with https")
			return
		}
	}
	d.ok(route.about, "http is redirected to https, so NetBox's URL must begin with https")
}

// rewrite returns what ingress-nginx makes of a path.
func rewrite(pattern, target, path string) string {
	compiled, err := regexp.Compile("(?i)^" + pattern)
	if err != nil {
		return path
	}
	found := compiled.FindStringSubmatchIndex(path)
	if found == nil {
		return path
	}
	braced := regexp.MustCompile(`\$(\d)`).ReplaceAllString(target, "$${$1}")
	return "/" + strings.Trim(string(compiled.ExpandString(nil, braced, path, found)), "/")
}

// isRegex reports whether the paths of an Ingress are regular expressions.
func isRegex(ingress *networkingv1.Ingress) bool {
	return ingress.Annotations[nginx+"use-regex"] == "true" || ingress.Annotations[nginxRewrite] != ""
}

func matchesRegex(pattern, path string) (matches, isKnown bool) {
	compiled, err := regexp.Compile("(?i)^" + pattern)
	return err == nil && compiled.MatchString(path), err == nil
}

// checkTimeout compares a time-out with the time for which the operator holds deliveries.
func (d *doctor) checkTimeout(route *route, name, value string) {
	if value == "" {
		return
	}
	timeout, err := parseTimeout(value)
	hold := holdOf(route.operator)
	if err != nil {
		d.unknown(route.about, "%s: %q is no time", name, value)
	} else if timeout > 0 && timeout <= hold {
		d.add(resultProblem, route.about,
			fmt.Sprintf("%s is %s: NetBox gets 504 while the operator holds a delivery, up to %s", name, timeout, hold),
			fmt.Sprintf("raise it to %s or more, or lower hold of the chart", hold+5*time.Second))
	}
}

// parseTimeout parses a number of seconds, or a duration.
func parseTimeout(value string) (time.Duration, error) {
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(seconds) * time.Second, nil
	}
	return time.ParseDuration(value)
}

// holdOf returns the time for which an operator holds deliveries.
func holdOf(operator *operator) time.Duration {
	hold, err := time.ParseDuration(argument(operator.deployment, "hold", ""))
	if err != nil {
		return defaultHold
	}
	return hold
}

// checkSize compares the limit of an Ingress with that of a source.
func (d *doctor) checkSize(s *v1alpha1.NetBoxSource, route *route) {
	name, limit := "the default of ingress-nginx", int64(math.MaxInt64)
	if isNginx(route.ingress) {
		limit = nginxBodyBytes
	}
	for _, annotation := range sizeAnnotations {
		if value := route.ingress.Annotations[annotation]; value != "" {
			name, limit = annotation, parseSize(value)
		}
	}
	if limit < s.Spec.MaxBodyBytes {
		d.add(resultProblem, route.about,
			fmt.Sprintf("%s lets %d bytes through, and spec.maxBodyBytes of source %s is %d: NetBox gets 413 as HTML",
				name, limit, s.Name, s.Spec.MaxBodyBytes),
			fmt.Sprintf("set the annotation to %dk", (s.Spec.MaxBodyBytes+1023)/1024))
	}
}

// parseSize parses a size as nginx writes it; 0, and what is no size, is no limit.
func parseSize(value string) int64 {
	units := map[string]int64{"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
	number, unit := strings.ToLower(value), int64(1)
	if factor, ok := units[number[len(number)-1:]]; ok {
		number, unit = number[:len(number)-1], factor
	}
	size, err := strconv.ParseInt(number, 10, 32)
	if err != nil || size == 0 {
		return math.MaxInt64
	}
	return size * unit
}

const traefikGroup = "traefik.io"

// pathMiddlewares, and the others, are the fields of Traefik's Middlewares by what they do.
var (
	pathMiddlewares = []string{"stripPrefix", "stripPrefixRegex", "replacePath", "replacePathRegex", "addPrefix"}
	authMiddlewares = []string{"basicAuth", "digestAuth", "forwardAuth"}
)

// checkMiddlewares looks at Traefik's Middlewares of an Ingress.
func (d *doctor) checkMiddlewares(ctx context.Context, s *v1alpha1.NetBoxSource, route *route) {
	for reference := range strings.SplitSeq(route.ingress.Annotations["traefik.ingress.kubernetes.io/router.middlewares"], ",") {
		if reference = strings.TrimSpace(reference); reference == "" {
			continue
		}
		middleware, err := d.traefik(ctx, "Middleware", route.ingress.Namespace, reference)
		if err != nil {
			d.unknown(route.about, "what Middleware %s does: %v", reference, err)
			continue
		}
		d.checkMiddleware(s, route, "Middleware "+reference, middleware)
	}
}

// traefik returns the spec of an object that an annotation names as <namespace>-<name>@kubernetescrd.
func (d *doctor) traefik(ctx context.Context, kind, namespace, reference string) (map[string]any, error) {
	name, provider, _ := strings.Cut(reference, "@")
	if provider != "kubernetescrd" {
		return nil, fmt.Errorf("it is of Traefik's provider %q", provider)
	}
	objects, err := d.listUnstructured(ctx, schema.GroupVersionKind{Group: traefikGroup, Version: "v1alpha1", Kind: kind + "List"})
	if apierrors.IsForbidden(err) {
		objects, err = d.listUnstructured(ctx, schema.GroupVersionKind{Group: traefikGroup, Version: "v1alpha1", Kind: kind + "List"},
			client.InNamespace(namespace))
	}
	if err != nil {
		return nil, clusterError(err, "list", strings.ToLower(kind)+"s", "")
	}
	at := slices.IndexFunc(objects, func(object unstructured.Unstructured) bool { return object.GetNamespace()+"-"+object.GetName() == name })
	if at < 0 {
		return nil, fmt.Errorf("there is no such %s", kind)
	}
	spec, _, err := unstructured.NestedMap(objects[at].Object, "spec")
	return spec, err
}

func (d *doctor) checkMiddleware(s *v1alpha1.NetBoxSource, route *route, name string, spec map[string]any) {
	for field, value := range spec {
		settings, _ := value.(map[string]any)
		switch {
		case slices.Contains(pathMiddlewares, field):
			d.add(resultProblem, route.about, fmt.Sprintf("%s (%s) changes the path", name, field), nextPath)
		case slices.Contains(authMiddlewares, field):
			d.add(resultProblem, route.about, fmt.Sprintf("%s (%s) asks for what NetBox does not send", name, field),
				"remove it: the operator verifies the signature")
		case field == "redirectScheme" || field == "redirectRegex":
			d.add(resultWarning, route.about, fmt.Sprintf("%s (%s) redirects requests", name, field),
				"give NetBox the URL that it leads to: docs/exposing.md")
		case field == "buffering":
			if limit, ok := settings["maxRequestBodyBytes"].(int64); ok && limit > 0 && limit < s.Spec.MaxBodyBytes {
				d.add(resultProblem, route.about, fmt.Sprintf("%s lets %d bytes through, and spec.maxBodyBytes of source %s is %d",
					name, limit, s.Name, s.Spec.MaxBodyBytes), "raise maxRequestBodyBytes")
			}
		}
	}
}

// checkServersTransport looks at the time-out of Traefik to a Service.
func (d *doctor) checkServersTransport(ctx context.Context, about string, operator *operator, service *corev1.Service) {
	reference := service.Annotations["traefik.ingress.kubernetes.io/service.serverstransport"]
	if reference == "" {
		return
	}
	spec, err := d.traefik(ctx, "ServersTransport", service.Namespace, reference)
	if err != nil {
		d.unknown(about, "what ServersTransport %s does: %v", reference, err)
		return
	}
	value, _, _ := unstructured.NestedFieldNoCopy(spec, "forwardingTimeouts", "responseHeaderTimeout")
	if value != nil {
		d.checkTimeout(&route{about: about, operator: operator}, "responseHeaderTimeout of ServersTransport "+reference, fmt.Sprint(value))
	}
}

// checkCertificate looks at a certificate in PEM.
func (d *doctor) checkCertificate(about string, text []byte, host string) {
	block, _ := pem.Decode(text)
	if block == nil {
		d.add(resultProblem, about, "the Secret of its certificate has no certificate", "create it again: kubectl create secret tls")
		return
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		d.add(resultProblem, about, "its certificate is malformed: "+err.Error(), "create it again: kubectl create secret tls")
		return
	}
	d.checkValidity(about, certificate, host)
}

// checkValidity checks the host and the end of a certificate. It reports whether they are well.
func (d *doctor) checkValidity(about string, certificate *x509.Certificate, host string) bool {
	const renew = "renew it, or see why cert-manager did not: kubectl get certificates -A"
	end, now := certificate.NotAfter, d.clock.Now()
	switch {
	case host != "" && certificate.VerifyHostname(host) != nil:
		d.add(resultProblem, about, fmt.Sprintf("its certificate is not for %s: %s", host, certificateText(certificate)),
			"make one for this host, or correct the host in NetBox's URL")
	case now.After(end):
		d.add(resultProblem, about, "its certificate is over since "+end.UTC().Format(time.DateOnly), renew)
	case end.Sub(now) < expiresSoon:
		d.add(resultWarning, about, "its certificate ends soon, at "+end.UTC().Format(time.DateOnly), renew)
	default:
		return true
	}
	return false
}
