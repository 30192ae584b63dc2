package serve_test

import (
	"context"
	"io"
	"maps"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/resolver/idl/flyteidl2/auth/authconnect"
	"inject/resolver/idl/flyteidl2/cluster/clusterconnect"
	"inject/resolver/idl/inject/v1/injectv1connect"
	"inject/resolver/serve"
)

// asksWho matches the methods that an identity without a rule may call, too.
var asksWho = regexp.MustCompile("WhoAmI|UserInfo")

// everyMethod has a request of each method that needs credentials.
func everyMethod() map[string]string {
	all := maps.Clone(everyVerb)
	all[strings.TrimPrefix(injectv1connect.WhoAmIServiceWhoAmIProcedure, "/")] = `{}`
	all[strings.TrimPrefix(authconnect.IdentityServiceUserInfoProcedure, "/")] = `{}`
	all[strings.TrimPrefix(clusterconnect.ClusterServiceSelectClusterProcedure, "/")] = `{}`
	return all
}

// lineOf returns the decision in the only line of a request.
func (r *running) lineOf(t *testing.T, request string) map[string]any {
	t.Helper()
	var found []map[string]any
	require.Eventually(t, func() bool { // a request that was not decoded gets its line after the answer
		found = nil
		for _, line := range r.audit.lines(t, 0) {
			if line["request"] == request && line["event"] == "decision" {
				found = append(found, line)
			}
		}
		return len(found) > 0
	}, soon, time.Millisecond)
	require.Len(t, found, 1)
	return found[0]
}

// Every request of an identified caller has one decision in the audit log, however it ends.
func TestEachRequestHasOneDecision(t *testing.T) {
	r := start(t, matrixPolicy, nil)
	clients := map[string]*http.Client{}
	for name, id := range map[string]string{
		"platform": "spiffe://example.org/platform/p", "task": attacker, "no rule": "spiffe://example.org/elsewhere",
	} {
		clients[name+", HTTP/2"] = r.client(certOf(r.Authority, strings.ReplaceAll(name, " ", ""), id))
		clients[name+", HTTP/1.1"] = r.http1(certOf(r.Authority, strings.ReplaceAll(name, " ", ""), id))
	}
	const undecided = "invalid"
	for name, change := range map[string]struct {
		want   string // "" for that of the policy
		change func(*http.Request)
	}{
		"as it should be":  {"", func(*http.Request) {}},
		"half of the JSON": {undecided, func(q *http.Request) { body(q, `{"`) }},
		"not UTF-8":        {undecided, func(q *http.Request) { body(q, "{\"\xff\":1}") }},
		"not the binary form": {undecided, func(q *http.Request) {
			body(q, "\x0a\x7fx")
			q.Header.Set("Content-Type", "application/proto")
		}},
		"not gzip":               {undecided, func(q *http.Request) { q.Header.Set("Content-Encoding", "gzip") }},
		"an unknown compression": {undecided, func(q *http.Request) { q.Header.Set("Content-Encoding", "rot13") }},
		"an unknown type":        {undecided, func(q *http.Request) { q.Header.Set("Content-Type", "text/plain") }},
		"an unknown verb":        {undecided, func(q *http.Request) { q.Method = http.MethodPut }},
		"too large":              {undecided, func(q *http.Request) { body(q, `{"x":"`+strings.Repeat("x", 5<<20)+`"}`) }},
		"gRPC without a message": {undecided, func(q *http.Request) {
			body(q, "")
			q.Header.Set("Content-Type", "application/grpc")
		}},
		"gRPC with a broken message": {undecided, func(q *http.Request) {
			body(q, "\x00\x00\x00\x00\x03\x0a\x7fx")
			q.Header.Set("Content-Type", "application/grpc")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for who, client := range clients {
				for method, text := range everyMethod() {
					request := r.request(method, text)
					change.change(request)
					answer, err := client.Do(request)
					require.NoError(t, err)
					_, _ = io.Copy(io.Discard, answer.Body)
					require.NoError(t, answer.Body.Close())
					line := r.lineOf(t, answer.Header.Get("X-Request-Id"))
					require.NotEmpty(t, line["who"])
					switch {
					case strings.HasPrefix(who, "no rule") && !asksWho.MatchString(method):
						require.Equal(t, "denied", line["decision"])
					case change.want != "":
						require.Equalf(t, change.want, line["decision"], "%s, %s", who, method)
						require.NotEmpty(t, line["reason"])
					default:
						require.Contains(t, []string{"allowed", "denied"}, line["decision"])
					}
				}
			}
		})
	}
}

func body(r *http.Request, text string) {
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
}

// A request that the client takes back has a line, too.
func TestCanceledRequestHasADecision(t *testing.T) {
	r := start(t, matrixPolicy, nil)
	client := r.client(certOf(r.Authority, "task", attacker))
	ctx, cancel := context.WithCancel(t.Context())
	request := r.request(resolve, "").WithContext(ctx)
	request.Body, request.ContentLength = io.NopCloser(&stuck{ctx, 100}), -1
	time.AfterFunc(100*time.Millisecond, cancel)
	_, err := client.Do(request) //nolint:bodyclose // there is none
	require.ErrorIs(t, err, context.Canceled)
	require.Eventually(t, func() bool { return len(r.audit.lines(t, 0)) == 1 }, soon, time.Millisecond)
	require.Equal(t, "invalid", r.audit.lines(t, 0)[0]["decision"])
}

// A request over a rate or a share has a line, within the share of the audit log.
func TestRefusedRequestsHaveADecision(t *testing.T) {
	for name, change := range map[string]func(*serve.Options){
		"rate":  func(o *serve.Options) { o.Rate, o.Burst = 0.001, 3 },
		"audit": func(o *serve.Options) { o.AuditRate, o.AuditBurst = 0.001, 3<<10+500 },
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, matrixPolicy, change)
			client := r.client(certOf(r.Authority, "task", attacker))
			for i := range 6 {
				answer := r.ask(client, resolve, `{"secrets":[{"key":"K"}]}`)
				id := answer.header.Get("X-Request-Id")
				switch {
				case answer.status == http.StatusOK:
					require.Equal(t, "allowed", r.lineOf(t, id)["decision"])
				case name == "rate":
					require.Equal(t, http.StatusTooManyRequests, answer.status)
					line := r.lineOf(t, id)
					require.Equal(t, "refused", line["decision"])
					require.Contains(t, line["reason"], "too many requests")
				default:
					require.GreaterOrEqual(t, i, 2)
					require.Equal(t, http.StatusTooManyRequests, answer.status)
				}
			}
			require.Positive(t, metric(t, r.registry, "inject_exhausted_total", "resource="+name))
			if name == "audit" {
				require.LessOrEqual(t, len(r.audit.lines(t, 0)), 3)
			}
		})
	}
}

// The lines about an identity without a rule are those of strangers, also if its requests are over
// a rate. Those of an identity with a rule have the larger share of that identity.
func TestRefusedStrangersHaveFewLines(t *testing.T) {
	const strangers = 1000 // at once, from one network
	for who, id := range map[string]string{"no rule": "spiffe://example.org/elsewhere", "task": attacker} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			r := start(t, matrixPolicy, func(o *serve.Options) { o.Rate, o.Burst = 0.001, 1 })
			client := r.client(certOf(r.Authority, "c", id))
			begin := time.Now()
			for range 2 * strangers {
				require.Contains(t, []int{http.StatusOK, http.StatusForbidden, http.StatusTooManyRequests},
					r.ask(client, resolve, `{"secrets":[{"key":"K"}]}`).status)
			}
			lines := strings.Count(r.audit.String(), "\n")
			if who == "task" {
				require.Equal(t, 2*strangers, lines)
				return
			}
			require.GreaterOrEqual(t, lines, strangers)
			require.LessOrEqual(t, lines, strangers+100+10*int(time.Since(begin).Seconds()))
		})
	}
}
