package cli

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// urlsOf returns the URLs at which NetBox may reach a source: the flag's, or the one that the operator enters in NetBox, or those of the
// hosts that lead to the source.
func (d *doctor) urlsOf(s *v1alpha1.NetBoxSource) []*url.URL {
	if d.url != nil {
		switch {
		case strings.Trim(d.url.Path, "/") == "":
			return []*url.URL{d.url.JoinPath(pathOf(s))}
		case d.isURLOf(s):
			return []*url.URL{d.url}
		}
		return nil
	}
	if s.Spec.NetBox != nil && s.Spec.NetBox.Webhook != nil {
		if parsed, err := parseURL("url", s.Spec.NetBox.Webhook.URL); err == nil {
			return []*url.URL{parsed}
		}
	}
	var urls []*url.URL
	for i := range d.routes {
		route := &d.routes[i]
		isCovered, _ := route.covers(pathOf(s))
		if !isCovered || route.host == "" || strings.HasPrefix(route.host, "*") {
			continue
		}
		to := &url.URL{Scheme: "http", Host: route.host, Path: pathOf(s)}
		if route.isTLS {
			to.Scheme = "https"
		}
		if !slices.ContainsFunc(urls, func(other *url.URL) bool { return *other == *to }) {
			urls = append(urls, to)
		}
	}
	return urls
}

// isURLOf reports whether the path of the flag is that of a source.
func (d *doctor) isURLOf(s *v1alpha1.NetBoxSource) bool {
	return strings.TrimRight(d.url.Path, "/") == strings.TrimRight(pathOf(s), "/")
}

// refusedBody is no JSON, and so no event, whatever its signature.
const refusedBody = "test of kubectl netbox doctor"

// refusedSignature is of no key.
var refusedSignature = strings.Repeat("0", 128)

// checkWay sends requests to the URLs of a source that the operator refuses.
func (d *doctor) checkWay(ctx context.Context, s *v1alpha1.NetBoxSource) {
	urls := d.urlsOf(s)
	if len(urls) == 0 {
		return
	}
	if reason := readyReason(s); reason != v1alpha1.ReasonServing {
		d.unknown(aboutSource(s), "whether its URL reaches the operator: it is asked once the source is Ready")
		return
	}
	for _, to := range urls {
		about := "URL " + to.Redacted()
		reply := d.reach.send(ctx, to, post{body: []byte(refusedBody), signature: refusedSignature})
		if d.checkReply(about, to, reply) {
			d.checkLarge(ctx, s, about, to)
		}
	}
}

// checkReply says what came of a request that the operator has to refuse. It reports whether it did.
func (d *doctor) checkReply(about string, to *url.URL, reply *reply) (isRefused bool) {
	d.checkServed(about, to, reply)
	isNamed := d.url != nil || d.reach.connectTo != ""
	switch {
	case slices.Contains([]string{hopDNS, hopTCP, hopTLS}, reply.failedAt) && !isNamed:
		d.add(resultUnknown, about, fmt.Sprintf("it cannot be reached from here: %v", reply.err),
			"run this where NetBox runs, or pass --connect-to HOST:PORT, the address of the Ingress controller")
	case reply.failedAt != "":
		d.add(resultProblem, about, fmt.Sprintf("%s failed: %v", reply.failedAt, reply.err), replyStep(reply, d.Namespace))
	case reply.location != nil:
		result := resultWarning
		if losesBody(reply.status) {
			result = resultProblem
		}
		d.add(result, about, fmt.Sprintf("it answers with %d, a redirect to %s: %s", reply.status, reply.location,
			redirectText(reply.status)), replyStep(reply, d.Namespace))
	case reply.operator == nil:
		d.add(resultProblem, about, fmt.Sprintf("another server than the operator answers with %d: %s", reply.status, reply.text()),
			replyStep(reply, d.Namespace))
	case slices.Contains([]int{http.StatusUnauthorized, http.StatusBadRequest}, reply.status):
		d.ok(about, "the operator answers, and refuses a wrong delivery with %d", reply.status)
		return true
	case slices.Contains([]int{http.StatusTooManyRequests, http.StatusServiceUnavailable}, reply.status):
		d.add(resultWarning, about, fmt.Sprintf("the operator answers with %d: %s", reply.status, reply.operator.Result), "run it again later")
	default:
		d.add(resultProblem, about, fmt.Sprintf("the operator answers with %d: %s", reply.status, reply.operator.Result),
			replyStep(reply, d.Namespace))
	}
	return false
}

// checkServed looks at the certificate of a server.
func (d *doctor) checkServed(about string, to *url.URL, reply *reply) {
	if reply.certificate == nil || !d.checkValidity(about, reply.certificate, to.Hostname()) {
		return
	}
	if _, isUnknown := errors.AsType[x509.UnknownAuthorityError](reply.certificateErr); isUnknown && d.reach.caFile == "" {
		d.add(resultWarning, about, "its certificate is of no CA that is known here: "+certificateText(reply.certificate),
			"pass --ca-file; and set the CA file path of NetBox's webhook, unless NetBox's system knows the CA")
	} else if reply.certificateErr != nil {
		d.add(resultProblem, about, "its certificate is not valid: "+reply.certificateErr.Error(), "correct the certificate of the Ingress")
	} else {
		d.ok(about, "%s", certificateText(reply.certificate))
	}
}

// checkLarge sends a body of the greatest size, which the operator refuses as well.
func (d *doctor) checkLarge(ctx context.Context, s *v1alpha1.NetBoxSource, about string, to *url.URL) {
	size := s.Spec.MaxBodyBytes
	reply := d.reach.send(ctx, to, post{body: bytes.Repeat([]byte("x"), int(size)), signature: refusedSignature, asksFirst: true})
	switch {
	case reply.operator != nil && (reply.status == http.StatusUnauthorized || reply.status == http.StatusBadRequest):
		d.ok(about, "a body of %d bytes, which spec.maxBodyBytes allows, reaches the operator", size)
	case reply.operator != nil && reply.status != http.StatusRequestEntityTooLarge: // it answers without reading the body
		d.unknown(about, "whether a body of %d bytes reaches the operator: it answers with %d", size, reply.status)
	case reply.failedAt != "":
		d.add(resultProblem, about, fmt.Sprintf("a body of %d bytes does not reach the operator: %v", size, reply.err),
			"raise the body size limit of the Ingress, or lower spec.maxBodyBytes")
	default:
		d.add(resultProblem, about, fmt.Sprintf("a body of %d bytes, which spec.maxBodyBytes allows, is answered with %d by another server",
			size, reply.status), "raise the body size limit of the Ingress, or lower spec.maxBodyBytes")
	}
}
