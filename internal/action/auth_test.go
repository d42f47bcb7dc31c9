package action_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	testingclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/action"
)

// TestBasicAuth sends user names and passwords of Secrets.
func TestBasicAuth(t *testing.T) {
	to, runner := newSink(t), newRunner(t)
	for _, test := range []struct {
		reason         string
		secret         map[string]string
		want           outcome
		user, password string
		wantErr        string
	}{
		{reason: "both", secret: map[string]string{"username": "netbox", "password": "pa:ss\n"}, want: done, user: "netbox", password: "pa:ss"},
		{reason: "a user name alone", secret: map[string]string{"username": "t0ken"}, want: done, user: "t0ken"},
		{reason: "a password alone", secret: map[string]string{"password": "t0ken"}, want: done, password: "t0ken"},
		{reason: "neither", secret: map[string]string{"user": "t0ken"}, want: retry, wantErr: "auth.basic: Secret sink has neither an entry username nor an entry password"},
		{reason: "a colon", secret: map[string]string{"username": "t0ken:x"}, want: retry, wantErr: "contains a colon"},
		{reason: "no Secret", want: retry, wantErr: "auth.basic: Secret sink does not exist"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			namespace := plane.Namespace(t)
			if test.secret != nil {
				newSecret(t, namespace, "sink", test.secret)
			}
			to.request = nil
			spec := newRequest(to.URL)
			spec.HTTP.Auth = &v1alpha1.HTTPAuth{Basic: &v1alpha1.BasicAuth{SecretRef: v1alpha1.SecretReference{Name: "sink"}}}
			_, err := do(t, runner, newTask(t, device(t, namespace, "leaf1"), spec))
			expect(t, err, test.want, test.wantErr)
			expectUnavailable(t, err, err != nil)
			if (to.request != nil) != (test.want == done) {
				t.Fatalf("sent: %v", to.request)
			}
			if to.request != nil {
				if user, password, _ := to.request.BasicAuth(); user != test.user || password != test.password {
					t.Errorf("sent %q and %q, want %q and %q", user, password, test.user, test.password)
				}
			}
		})
	}
}

// issuer is a token endpoint that numbers its tokens, and a sink that accepts those from a number on.
type issuer struct {
	*httptest.Server
	mu       sync.Mutex
	issued   int
	asked    []string // the requests for tokens: client and scope
	accepted int
	sent     []string     // the tokens that the sink got
	lifetime int          // in seconds
	answer   http.Handler // of the token endpoint, instead
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{lifetime: 300}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, request *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		user, password, _ := request.BasicAuth()
		_ = request.ParseForm()
		i.asked = append(i.asked, strings.TrimSpace(request.Form.Get("grant_type")+" "+user+":"+password+" "+request.Form.Get("scope")))
		if i.answer != nil {
			i.answer.ServeHTTP(w, request)
			return
		}
		i.issued++
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": fmt.Sprint("token-", i.issued), "token_type": "bearer", "expires_in": i.lifetime})
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, request *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		token, _ := strings.CutPrefix(request.Header.Get("Authorization"), "Bearer ")
		i.sent = append(i.sent, token)
		var number int
		if _, _ = fmt.Sscanf(token, "token-%d", &number); number < i.accepted {
			w.WriteHeader(http.StatusUnauthorized)
		}
		body, _ := io.ReadAll(request.Body)
		fmt.Fprintf(w, "%d bytes with %s", len(body), token)
	})
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	return i
}

// action returns an action that sends with a token of the issuer.
func (i *issuer) action() v1alpha1.Action {
	spec := newRequest(i.URL + "/")
	spec.HTTP.Body = &v1alpha1.HTTPBody{Text: "12345"}
	spec.HTTP.Auth = &v1alpha1.HTTPAuth{OAuth2: &v1alpha1.OAuth2{
		TokenURL: i.URL + "/token", ClientID: "operator", ClientSecretRef: v1alpha1.SecretKeyReference{Name: "sink", Key: "key"}, Scopes: []string{"a", "b"},
	}}
	return spec
}

const clientSecret = "client-s3cret of a test"

func TestOAuth2(t *testing.T) {
	namespace := plane.Namespace(t)
	secret := newSecret(t, namespace, "sink", map[string]string{"key": clientSecret + "\n"})
	from := newIssuer(t)
	now := testingclock.NewFakePassiveClock(time.Now())
	runner := newRunner(t, func(options *settings) { options.Clock = now })
	task := newTask(t, device(t, namespace, "leaf1"), from.action())
	send := func(reason string, want outcome, token string, issued int) {
		t.Helper()
		from.sent = nil
		response, err := do(t, runner, task)
		expect(t, err, want)
		if got := from.sent[len(from.sent)-1]; got != token || from.issued != issued {
			t.Errorf("%s: sent %v, with %d tokens issued, want %s and %d", reason, from.sent, from.issued, token, issued)
		}
		if !strings.HasSuffix(response, "5 bytes with [redacted]") {
			t.Errorf("%s: response is %s", reason, response)
		}
	}
	later := func(pause time.Duration) { now.SetTime(now.Now().Add(pause)) }

	send("at first", done, "token-1", 1)
	if want := "client_credentials operator:client-s3cret+of+a+test a b"; len(from.asked) != 1 || from.asked[0] != want {
		t.Errorf("asked for a token with %q, want %q", from.asked, want)
	}
	send("once more", done, "token-1", 1)
	later(239 * time.Second)
	send("for four fifths of its life", done, "token-1", 1)
	later(2 * time.Second)
	send("before it ends", done, "token-2", 2)

	from.accepted = 3
	send("a token that the sink refuses", done, "token-3", 3)
	if len(from.sent) != 2 || from.sent[0] != "token-2" {
		t.Errorf("sent %v, want the refused token and a new one", from.sent)
	}
	from.accepted = 9
	send("a sink that refuses each token", permanent, "token-4", 4)
	if len(from.sent) != 2 {
		t.Errorf("sent %v, want two tokens", from.sent)
	}
	from.accepted = 0

	from.answer = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	later(250 * time.Second)
	send("a renewal that fails", done, "token-4", 4)
	asked := len(from.asked)
	send("a pause after it", done, "token-4", 4)
	if len(from.asked) != asked {
		t.Error("asked for a token again at once")
	}
	later(60 * time.Second)
	_, err := do(t, runner, task)
	expect(t, err, retry, "auth.oauth2: tokenURL answered with 503 Service Unavailable")
	expectUnavailable(t, err, true)
	from.answer = nil
	send("an endpoint that is back", done, "token-5", 5)

	secret.StringData = map[string]string{"key": "another"}
	if err := plane.Client.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	later(3 * time.Second)
	send("another client secret", done, "token-6", 6)

	theirs := plane.Namespace(t)
	newSecret(t, theirs, "sink", map[string]string{"key": "another"})
	task = newTask(t, device(t, theirs, "leaf1"), from.action())
	send("another namespace", done, "token-7", 7)

	from.answer = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a dry run asks for a token") })
	task = newTask(t, device(t, plane.Namespace(t), "leaf1"), from.action())
	newSecret(t, task.Event.Namespace, "sink", map[string]string{"key": "another"})
	task.IsDryRun = true
	response, err := do(t, runner, task)
	expect(t, err, done)
	if !strings.Contains(response, "; Authorization: Bearer <token of oauth2>; ") {
		t.Errorf("response is %s", response)
	}
}

// TestOneToken checks that deliveries that need a token at the same time wait for one.
func TestOneToken(t *testing.T) {
	namespace, from, runner := plane.Namespace(t), newIssuer(t), newRunner(t)
	newSecret(t, namespace, "sink", map[string]string{"key": clientSecret})
	task := newTask(t, device(t, namespace, "leaf1"), from.action())
	var all sync.WaitGroup
	for i := range 16 {
		event := device(t, namespace, fmt.Sprint("leaf", i))
		all.Go(func() {
			if _, err := do(t, runner, withEvent(task, event)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if from.issued != 1 || len(from.sent) != 16 {
		t.Errorf("%d tokens for %d requests", from.issued, len(from.sent))
	}
}

// TestTokenEndpoints asks endpoints that refuse, or misbehave. Nothing of what they say is shown.
func TestTokenEndpoints(t *testing.T) {
	namespace, runner := plane.Namespace(t), newRunner(t)
	newSecret(t, namespace, "sink", map[string]string{"key": clientSecret})
	var elsewhere atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	answer := func(code int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, request *http.Request) {
			_, password, _ := request.BasicAuth()
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Location", other.URL)
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(code)
			fmt.Fprint(w, strings.ReplaceAll(text, "SECRET", password+request.Form.Get("client_secret")))
		}
	}
	for _, test := range []struct {
		reason  string
		answer  http.HandlerFunc
		wantErr string
		pause   time.Duration
	}{
		{"a wrong secret", answer(401, `{"error": "invalid_client", "error_description": "SECRET"}`), "tokenURL answered with 401 Unauthorized invalid_client; check clientID and clientSecretRef", 7 * time.Second},
		{"a wrong secret with 400", answer(400, `{"error": "invalid_client"}`), "tokenURL answered with 400 Bad Request invalid_client; check clientID and clientSecretRef", 7 * time.Second},
		{"a wrong scope", answer(400, `{"error": "invalid_scope"}`), "tokenURL answered with 400 Bad Request invalid_scope; check scopes", 7 * time.Second},
		{"an error that is a secret", answer(400, `{"error": "SECRET"}`), "tokenURL answered with 400 Bad Request; check tokenURL", 7 * time.Second},
		{"not JSON", answer(404, "no SECRET here"), "tokenURL answered with 404 Not Found; check tokenURL", 7 * time.Second},
		{"unavailable", answer(503, "SECRET"), "tokenURL answered with 503 Service Unavailable", 7 * time.Second},
		{"a redirect", answer(307, "SECRET"), "tokenURL answered with 307 Temporary Redirect, and redirects are not followed", 7 * time.Second},
		{"no token", answer(200, `{"SECRET": 1}`), "tokenURL answered without an access token", 0},
		{"a page", answer(200, "<html>SECRET"), "tokenURL answered without an access token", 0},
		{"a token with a newline", answer(200, `{"access_token": "a\nb"}`), "the token contains a character that is invalid in a header", 0},
		{"a large answer", answer(200, `{"a": "`+strings.Repeat("a", 70_000)+`", "access_token": "a"}`), "tokenURL answered without an access token", 0},
		{"a broken connection", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "tokenURL: 127.0.0.1:", 0},
	} {
		t.Run(test.reason, func(t *testing.T) {
			from := newIssuer(t)
			from.answer = test.answer
			from.Config.ErrorLog = quiet
			response, err := do(t, runner, newTask(t, device(t, namespace, "leaf1"), from.action()))
			expect(t, err, retry, "auth.oauth2: "+test.wantErr)
			expectUnavailable(t, err, true)
			if failure, _ := err.(*action.Failure); failure.RetryAfter != test.pause { //nolint:errorlint // each error is one itself
				t.Errorf("RetryAfter is %s", failure.RetryAfter)
			}
			if strings.Contains(err.Error(), "s3cret") || response != "" || len(from.sent) > 0 {
				t.Errorf("response %q, error %v, sent %v", response, err, from.sent)
			}
		})
	}
	if elsewhere.Load() > 0 {
		t.Error("the redirect was followed")
	}
	t.Run("a timeout", func(t *testing.T) {
		from := newIssuer(t)
		from.answer = http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) { <-request.Context().Done() })
		task := newTask(t, device(t, namespace, "leaf1"), from.action())
		task.Rule.Spec.Retry.Timeout = metav1.Duration{Duration: 200 * time.Millisecond}
		_, err := do(t, runner, task)
		expect(t, err, retry, "timed out after 200ms: auth.oauth2: tokenURL: 127.0.0.1:")
		expectUnavailable(t, err, true)
	})
	t.Run("a forbidden address", func(t *testing.T) {
		from, to := newIssuer(t), newSink(t)
		spec := from.action()
		spec.HTTP.URL = to.URL
		spec.HTTP.Auth.OAuth2.TokenURL = strings.Replace(from.URL, "127.0.0.1", "0.0.0.0", 1) + "/token"
		runner := newRunner(t, func(options *settings) {
			options.AllowCIDRs = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
		})
		_, err := do(t, runner, newTask(t, device(t, namespace, "leaf1"), spec))
		expect(t, err, permanent, "auth.oauth2: tokenURL: 0.0.0.0:", "forbidden address (this machine)")
		if len(from.asked) > 0 {
			t.Error("it was asked for a token")
		}
	})
	t.Run("the CA of the action", func(t *testing.T) {
		from := newIssuer(t)
		secure := httptest.NewUnstartedServer(from.Config.Handler)
		secure.Config.ErrorLog = quiet
		secure.StartTLS()
		defer secure.Close()
		spec := from.action()
		spec.HTTP.Auth.OAuth2.TokenURL = secure.URL + "/token"
		_, err := do(t, runner, newTask(t, device(t, namespace, "leaf1"), spec))
		expect(t, err, retry, "auth.oauth2: tokenURL: 127.0.0.1:", "set tls.caConfigMapRef or tls.caSecretRef")
		newSecret(t, namespace, "ca", map[string]string{"ca.crt": pemOf(secure.Certificate())})
		spec.HTTP.TLS = &v1alpha1.HTTPTLS{CASecretRef: &v1alpha1.SecretKeyReference{Name: "ca", Key: "ca.crt"}}
		_, err = do(t, runner, newTask(t, device(t, namespace, "leaf1"), spec))
		expect(t, err, done)
	})
}

// TestServiceAccountToken sends tokens of service accounts to a sink that has the API server verify them.
func TestServiceAccountToken(t *testing.T) {
	namespace := plane.Namespace(t)
	plane.Create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: serviceAccount}})
	var tokens []string
	refusing := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		token, _ := strings.CutPrefix(request.Header.Get("Authorization"), "Bearer ")
		tokens = append(tokens, token)
		review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{"relay"}}}
		if err := plane.Client.Create(request.Context(), review); err != nil || refusing {
			w.WriteHeader(http.StatusUnauthorized)
		}
		fmt.Fprintf(w, "%v %s with %s", review.Status.Authenticated, review.Status.User.Username, token)
	}))
	defer server.Close()
	withAudience := func(audience string) v1alpha1.Action {
		spec := newRequest(server.URL)
		spec.HTTP.Auth = &v1alpha1.HTTPAuth{ServiceAccountToken: &v1alpha1.ServiceAccountToken{Audience: audience}}
		return spec
	}
	now := testingclock.NewFakePassiveClock(time.Now())
	runner := newRunner(t, func(options *settings) { options.Clock = now })
	task := newTask(t, device(t, namespace, "leaf1"), withAudience("relay"))
	send := func(want outcome, response string, distinct int) {
		t.Helper()
		got, err := do(t, runner, task)
		expect(t, err, want)
		if !strings.Contains(got, response) {
			t.Errorf("response is %q, want %q", got, response)
		}
		seen := map[string]bool{}
		for _, token := range tokens {
			seen[token] = true
		}
		if len(seen) != distinct {
			t.Errorf("%d tokens, want %d", len(seen), distinct)
		}
	}
	who := "true system:serviceaccount:" + namespace + ":" + serviceAccount + " with [redacted]"
	send(done, who, 1)
	now.SetTime(now.Now().Add(47 * time.Minute))
	send(done, who, 1)
	now.SetTime(now.Now().Add(2 * time.Minute))
	send(done, who, 2)
	refusing = true
	send(permanent, "401 Unauthorized", 3)
	refusing = false
	send(done, who, 3)
	task = newTask(t, device(t, namespace, "leaf1"), withAudience("other"))
	send(done, "false", 4)

	task.IsDryRun = true
	send(done, "Authorization: Bearer <token of serviceAccountToken>", 4)

	_, err := do(t, runner, newTask(t, device(t, plane.Namespace(t), "leaf1"), withAudience("relay")))
	expect(t, err, retry, "auth.serviceAccountToken: service account provisioner does not exist")
	expectUnavailable(t, err, true)

	config := rest.CopyConfig(plane.Config)
	config.Impersonate.UserName = "restricted"
	restricted, err := client.New(config, client.Options{Scheme: plane.Client.Scheme(), Mapper: plane.Client.RESTMapper()})
	if err != nil {
		t.Fatal(err)
	}
	runner = newRunner(t, func(options *settings) { options.Accounts = restricted })
	task = newTask(t, device(t, namespace, "leaf1"), withAudience("relay"))
	_, err = do(t, runner, task)
	expect(t, err, retry, "the operator may not create tokens of service account provisioner; grant it create on serviceaccounts/token")
	// The permission of the chart's Role is enough.
	role := &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "tokens"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, ResourceNames: []string{serviceAccount}, Verbs: []string{"create"}}},
	}
	plane.Create(t, role, &rbacv1.RoleBinding{
		ObjectMeta: role.ObjectMeta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "tokens"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "restricted"}},
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err = do(t, runner, task); err == nil || time.Now().After(deadline) {
			break
		}
	}
	expect(t, err, done)
}
