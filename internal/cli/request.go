package cli

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/netbox-events/netbox-event-operator/internal/netbox"
	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

const (
	// connectTimeout bounds the steps until a request is sent, together.
	connectTimeout = 10 * time.Second
	// answerTimeout bounds the wait for an answer, as NetBox 4.7 does by default.
	answerTimeout = time.Minute
	// maxAnswerBytes bounds what is read of an answer. The operator's are shorter.
	maxAnswerBytes = 64 << 10
	// userAgent is how the operator knows requests that are not NetBox's: it does not warn of those that it refuses.
	userAgent = "kubectl-netbox"
)

// Hops of a request.
const (
	hopDNS      = "DNS"
	hopTCP      = "TCP"
	hopTLS      = "TLS"
	hopHTTP     = "HTTP"
	hopRedirect = "redirect"
	hopAnswer   = "answer"
)

// hop is a step of a request, and what came of it.
type hop struct {
	name, text string
	color      color
}

// reach is how a URL is reached.
type reach struct {
	caFile    string
	connectTo string
	// isInsecure sends a request although the certificate is not valid.
	isInsecure bool

	// dial connects by another way than the network, if it is set; the way then authenticates the server.
	dial func(context.Context) (net.Conn, error)
	now  func() time.Time
}

// addReachFlags adds the flags of how a URL is reached.
func (r *reach) addReachFlags(flags *pflag.FlagSet) {
	flags.StringVar(&r.caFile, "ca-file", "", "file with certificates in PEM, of the CA that signed the Ingress's")
	flags.StringVar(&r.connectTo, "connect-to", "",
		"host:port to connect to instead of the URL's, such as that of an Ingress controller before DNS has the name")
}

// check fails if a flag has a wrong value.
func (r *reach) check() error {
	if r.connectTo == "" {
		return nil
	}
	if _, port, err := net.SplitHostPort(r.connectTo); err != nil || port == "" {
		return fmt.Errorf("--connect-to must be host:port, is %q", r.connectTo)
	}
	return nil
}

// parseURL returns the URL of a flag.
func parseURL(flag, text string) (*url.URL, error) {
	parsed, err := url.Parse(text)
	if err != nil || parsed.Host == "" || parsed.Scheme != "http" && parsed.Scheme != "https" {
		return nil, fmt.Errorf("%s must be a URL such as https://netbox-events.example.com, is %q", flag, text)
	}
	return parsed, nil
}

// reply is what came of a request.
type reply struct {
	hops []hop
	// failedAt is the hop that failed, "" if there is an answer; err is why.
	failedAt string
	err      error

	// certificate is that of the server, and certificateErr why it is not valid for the URL.
	certificate    *x509.Certificate
	certificateErr error

	status int
	header http.Header
	body   []byte
	// location is where a redirect leads.
	location *url.URL
	// operator is the answer of the operator, nil if another server answered.
	operator *operatorAnswer
}

// Results of the operator in its answers with 200.
const (
	resultStored    = "ok"
	resultDuplicate = "duplicate"
	resultIgnored   = "ignored"
)

// operatorAnswer is the body of the operator's answers.
type operatorAnswer struct {
	Result string `json:"result"`
	Event  string `json:"event"`
	Errors []struct {
		Field   string `json:"field"`
		Message string `json:"message"`
	} `json:"errors"`
}

// isOperators reports whether an answer with a status is one of the operator. One that says that an event is stored must name it.
func (a *operatorAnswer) isOperators(status int) bool {
	if status != http.StatusOK {
		return a.Result != ""
	}
	switch a.Result {
	case resultStored, resultDuplicate:
		namespace, name, _ := strings.Cut(a.Event, "/")
		return len(validation.IsDNS1123Label(namespace)) == 0 && len(validation.IsDNS1123Subdomain(name)) == 0
	default:
		return a.Result == resultIgnored
	}
}

func (r *reply) add(name, format string, args ...any) {
	r.hops = append(r.hops, hop{name, fmt.Sprintf(format, args...), ""})
}

// fail records the hop that failed.
func (r *reply) fail(name string, err error) *reply {
	r.failedAt, r.err = name, err
	r.hops = append(r.hops, hop{name, err.Error(), red})
	return r
}

// post is a request as NetBox sends it.
type post struct {
	body []byte
	// signature is empty for none.
	signature string
	// asksFirst sends the body only if the server asks for it.
	asksFirst bool
}

// send sends a request, and follows no redirect.
func (r *reach) send(ctx context.Context, to *url.URL, sent post) *reply {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	reply := &reply{}
	conn, err := r.connect(ctx, to, reply)
	if err != nil {
		return reply
	}
	defer func() { _ = conn.Close() }()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), bytes.NewReader(sent.body))
	if err != nil {
		return reply.fail(hopHTTP, err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", userAgent)
	if sent.signature != "" {
		request.Header.Set(netbox.SignatureHeader, sent.signature)
	}
	if sent.asksFirst {
		request.Header.Set("Expect", "100-continue")
	}
	useConn := func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	transport := &http.Transport{
		DialContext: useConn, DialTLSContext: useConn, DisableKeepAlives: true, DisableCompression: true, ExpectContinueTimeout: connectTimeout,
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return reply.fail(hopHTTP, plainError(err))
	}
	defer func() { _ = response.Body.Close() }()
	reply.read(response)
	return reply
}

// connect connects to the host of a URL.
func (r *reach) connect(ctx context.Context, to *url.URL, reply *reply) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	address := net.JoinHostPort(to.Hostname(), cmp.Or(to.Port(), map[string]string{"https": "443"}[to.Scheme], "80"))
	dial := r.dial
	if dial == nil {
		if r.connectTo != "" {
			address = r.connectTo
		} else if err := resolve(ctx, to.Hostname(), reply); err != nil {
			return nil, err
		}
		dial = func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", address) }
	}
	conn, err := dial(ctx)
	if err != nil {
		reply.fail(hopTCP, plainError(err))
		return nil, err
	}
	if r.dial == nil {
		reply.add(hopTCP, "connected to %s", conn.RemoteAddr())
	}
	if to.Scheme != "https" {
		return conn, nil
	}
	encrypted, err := r.encrypt(ctx, conn, to.Hostname(), reply)
	if err != nil {
		_ = conn.Close()
	}
	return encrypted, err
}

// resolve resolves the name of a host.
func resolve(ctx context.Context, host string, reply *reply) error {
	if net.ParseIP(host) != nil {
		return nil
	}
	addresses, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		reply.fail(hopDNS, plainError(err))
		return err
	}
	reply.add(hopDNS, "%s is %s", host, list(addresses))
	return nil
}

// encrypt starts TLS, and checks the certificate of the server.
func (r *reach) encrypt(ctx context.Context, conn net.Conn, host string, reply *reply) (net.Conn, error) {
	roots, err := r.roots()
	if err != nil {
		reply.fail(hopTLS, err)
		return nil, err
	}
	encrypted := tls.Client(conn, &tls.Config{
		ServerName: host, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // verified below, so that the reason can be said
	})
	if err := encrypted.HandshakeContext(ctx); err != nil {
		reply.fail(hopTLS, plainError(err))
		return nil, err
	}
	state := encrypted.ConnectionState()
	reply.certificate = state.PeerCertificates[0]
	chain := x509.NewCertPool()
	for _, certificate := range state.PeerCertificates[1:] {
		chain.AddCert(certificate)
	}
	_, reply.certificateErr = reply.certificate.Verify(x509.VerifyOptions{
		DNSName: host, Roots: roots, Intermediates: chain, CurrentTime: r.now(),
	})
	reply.add(hopTLS, "%s, %s", tls.VersionName(state.Version), certificateText(reply.certificate))
	switch {
	case reply.certificateErr == nil || r.dial != nil:
		return encrypted, nil
	case r.isInsecure:
		reply.hops = append(reply.hops, hop{hopTLS, "the certificate is not valid: " + reply.certificateErr.Error(), yellow})
		return encrypted, nil
	default:
		reply.fail(hopTLS, fmt.Errorf("the certificate is not valid: %w", reply.certificateErr))
		return nil, reply.certificateErr
	}
}

// roots returns the CAs, nil for those of the system.
func (r *reach) roots() (*x509.CertPool, error) {
	if r.caFile == "" {
		return nil, nil
	}
	content, err := os.ReadFile(r.caFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("%s has no certificate in PEM", r.caFile)
	}
	return roots, nil
}

// certificateText describes a certificate.
func certificateText(certificate *x509.Certificate) string {
	names := slices.Clone(certificate.DNSNames)
	for _, address := range certificate.IPAddresses {
		names = append(names, address.String())
	}
	return fmt.Sprintf("certificate %s for %s, issued by %s, valid until %s", quoted(certificate.Subject.String()),
		cmp.Or(list(names), "no name"), quoted(certificate.Issuer.String()), certificate.NotAfter.UTC().Format(time.DateOnly))
}

func quoted(name string) string { return fmt.Sprintf("%q", name) }

// read reads an answer.
func (r *reply) read(response *http.Response) {
	r.status, r.header = response.StatusCode, response.Header
	r.add(hopHTTP, "%s", response.Status)
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
	if err != nil && len(body) == 0 {
		r.fail(hopHTTP, fmt.Errorf("the answer broke off: %w", plainError(err)))
		return
	}
	r.body = body
	if location, err := response.Location(); err == nil && isRedirect(r.status) {
		r.location = location
		r.hops = append(r.hops, hop{hopRedirect, "to " + location.String() + ": " + redirectText(r.status), red})
		return
	}
	mediaType, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	var answer operatorAnswer
	if mediaType == "application/json" && json.Unmarshal(body, &answer) == nil && answer.isOperators(r.status) {
		r.operator = &answer
	}
	if r.operator != nil {
		r.add(hopAnswer, "%s", r.text())
	} else {
		r.hops = append(r.hops, hop{hopAnswer, "not of the operator: " + r.text(), red})
	}
}

// text returns the beginning of an answer, after the names of the server and of the content type where another server than the operator
// answered.
func (r *reply) text() string {
	text := oneline.Of(string(r.body), maxCellBytes)
	if r.operator == nil {
		text = strings.TrimSpace(strings.Join([]string{r.header.Get("Server"), r.header.Get("Content-Type"), text}, " "))
	}
	return text
}

func isRedirect(status int) bool {
	return slices.Contains([]int{
		http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect,
	}, status)
}

// losesBody reports whether NetBox follows a redirect with a GET.
func losesBody(status int) bool {
	return status != http.StatusTemporaryRedirect && status != http.StatusPermanentRedirect
}

// redirectText says what NetBox does about a redirect.
func redirectText(status int) string {
	if losesBody(status) {
		return "NetBox follows it with a GET without the body, and the event is lost"
	}
	return "NetBox repeats the POST there, after it has sent body and signature to this URL; Nautobot does not"
}

// plainError returns an error that says where the time was over.
func plainError(err error) error {
	if timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && timeout.Timeout() {
		return errors.New("no answer in time")
	}
	return err
}

// printHops prints the hops of a request.
func (p *plugin) printHops(hops []hop) error {
	var rows [][]cell
	for _, hop := range hops {
		rows = append(rows, []cell{{hop.name, ""}, {hop.text, hop.color}})
	}
	table := p.newTable()
	table.maxBytes = maxLineBytes
	return table.print(rows...)
}
