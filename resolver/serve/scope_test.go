package serve_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/idl/inject/v1/injectv1connect"
	"inject/resolver/secret"
	"inject/resolver/serve"
	"inject/resolver/store"
)

const resolve = injectv1connect.ResolveServiceName + "/Resolve"

// scopeJSON returns s in JSON, without empty fields.
func scopeJSON(s secret.Scope) map[string]any {
	m := map[string]any{}
	for name, value := range map[string]string{"organization": s.Org, "domain": s.Domain, "project": s.Project} {
		if value != "" {
			m[name] = value
		}
	}
	return m
}

// A task resolves at the scope from the policy, if its request has no scope or the same one,
// with or without the org. For another scope the error names the right one, and nothing
// about the secrets there.
func TestTaskScope(t *testing.T) {
	r := start(t, `
version: 1
rules:
  - {name: task, identity: {spiffe: "spiffe://example.org/flyte"}, resolve: {project: p, domain: d}}
  - {name: other org, identity: {spiffe: "spiffe://example.org/acme"}, resolve: {org: acme, project: p, domain: d}}
  - {name: project, identity: {spiffe: "spiffe://example.org/project"}, resolve: {project: p}}
  - {name: org, identity: {spiffe: "spiffe://example.org/org"}, resolve: {}}
  - {name: no task, identity: {spiffe: "spiffe://example.org/none"}, list: [{}]}
`, nil)
	const hint = "; hint: leave the scope out of the request, or give"
	for _, test := range []struct {
		caller string
		bound  secret.Scope   // zero: none
		same   []secret.Scope // what it may say
		denial string
	}{
		{
			"flyte",
			secret.Scope{Org: "flyte", Project: "p", Domain: "d"},
			[]secret.Scope{{}, {Org: "flyte", Project: "p", Domain: "d"}, {Project: "p", Domain: "d"}},
			"access denied: this identity resolves as a task of project p, domain d and of no other scope" +
				hint + " -p p -d d",
		},
		{
			"acme",
			secret.Scope{Org: "acme", Project: "p", Domain: "d"},
			[]secret.Scope{{}, {Org: "acme", Project: "p", Domain: "d"}, {Project: "p", Domain: "d"}},
			"access denied: this identity resolves as a task of project p, domain d, org acme and of no other scope" +
				hint + " --org acme -p p -d d",
		},
		{
			"project",
			secret.Scope{Org: "flyte", Project: "p"},
			[]secret.Scope{{}, {Org: "flyte", Project: "p"}, {Project: "p"}},
			"access denied: this identity resolves as a task of project p and of no other scope" + hint + " -p p",
		},
		{
			"org",
			secret.Scope{Org: "flyte"},
			[]secret.Scope{{}, {Org: "flyte"}},
			"access denied: this identity resolves as a task of org flyte and of no other scope" + hint,
		},
		{
			"none",
			secret.Scope{},
			nil,
			"access denied: this identity may not resolve secrets; hint: the first rule of the policy that " +
				"matches this identity must have resolve",
		},
	} {
		t.Run(test.caller, func(t *testing.T) {
			c := r.client(certOf(r.Authority, test.caller, "spiffe://example.org/"+test.caller))
			allowed := map[secret.Scope]bool{}
			for _, asked := range test.same {
				allowed[asked] = true
			}
			for _, org := range []string{"", "flyte", "acme", "third"} {
				for _, domain := range []string{"", "d", "e"} {
					for _, project := range []string{"", "p", "q"} {
						asked := secret.Scope{Org: org, Domain: domain, Project: project}
						before := len(r.audit.lines(t, 0))
						body, err := json.Marshal(
							map[string]any{"scope": scopeJSON(asked), "secrets": []any{map[string]any{"key": "K"}}},
						)
						require.NoError(t, err)
						a := r.ask(c, resolve, string(body))
						lines := r.audit.lines(t, before)
						require.Len(t, lines, 1)
						if allowed[asked] {
							require.Equalf(t, http.StatusOK, a.status, "%+v: %s", asked, a.raw)
							requireLadder(t, test.bound, a)
							require.Equal(t, "allowed", lines[0]["decision"])
							require.NotContains(t, lines[0], "claimed")
							continue
						}
						require.Equalf(t, http.StatusForbidden, a.status, "%+v: %s", asked, a.raw)
						require.Equal(t, "permission_denied", a.body["code"])
						require.Equal(t, test.denial, withoutCaller(t, a, "mtls spiffe://example.org/"+test.caller))
						require.Equal(t, "denied", lines[0]["decision"])
						require.NotContains(t, lines[0], "scope")
						if asked != (secret.Scope{}) {
							require.Len(t, lines[0]["claimed"], len(scopeJSON(asked)))
						}
					}
				}
			}
			if test.bound != (secret.Scope{}) {
				a := r.ask(c, resolve, `{"secrets":[{"key":"K"}]}`)
				require.Equal(t, http.StatusOK, a.status)
				requireLadder(t, test.bound, a)
			}
			a := r.ask(c, resolve, `{"scope":{"organization":"a__b"},"secrets":[{"key":"K"}]}`)
			require.Equal(t, http.StatusBadRequest, a.status)
		})
	}
}

// requireLadder requires that the first climb of an answer tried the whole ladder of a task.
func requireLadder(t *testing.T, task secret.Scope, a answered) {
	t.Helper()
	var want []any
	for _, rung := range task.Ladder() {
		want = append(want, scopeJSON(rung))
	}
	var got []any
	climbs, _ := a.body["climbs"].([]any)
	require.NotEmpty(t, climbs)
	climb, _ := climbs[0].(map[string]any)
	tried, _ := climb["tried"].([]any)
	for _, rung := range tried {
		rung, _ := rung.(map[string]any)
		got = append(got, rung["scope"])
	}
	require.Equal(t, want, got)
}

// If every caller may do everything, the scope of the request counts; without one it is the
// org's.
func TestOpenScope(t *testing.T) {
	r := start(t, "version: 1\nrules: []\n", func(o *serve.Options) { o.Authenticator, o.Policy = nil, nil })
	require.NoError(
		t,
		r.backend.Create(
			t.Context(), secret.Ref{Scope: secret.Scope{Org: "flyte"}, Key: "K"}, secret.NewValue([]byte("v")),
			store.Regular,
		),
	)
	for body, want := range map[string]secret.Scope{
		``:                                      {Org: "flyte"},
		`"scope":{},`:                           {Org: "flyte"},
		`"scope":{"organization":"acme"},`:      {Org: "acme"},
		`"scope":{"project":"p"},`:              {Org: "flyte", Project: "p"},
		`"scope":{"project":"p","domain":"d"},`: {Org: "flyte", Project: "p", Domain: "d"},
		`"scope":{"organization":"a","domain":"d"},`:  {Org: "a", Domain: "d"},
		`"scope":{"organization":"flyte"},`:           {Org: "flyte"},
		`"scope":{"domain":"d","organization":null},`: {Org: "flyte", Domain: "d"},
	} {
		t.Run(body, func(t *testing.T) {
			a := r.ask(r.client(nil), resolve, `{`+body+`"secrets":[{"key":"K"}]}`)
			require.Equalf(t, http.StatusOK, a.status, "%s: %s", body, a.raw)
			requireLadder(t, want, a)
		})
	}
}

// caller is what a denial says of the caller, with the request's id.
var caller = regexp.MustCompile(` \(request ([0-9a-f]{16}), caller ([^)]+)\)`)

// withoutCaller returns the message of a denial without the caller, which must be the one
// given, unless that is "". Its request must be the one of the answer's header.
func withoutCaller(t *testing.T, a answered, name string) string {
	t.Helper()
	text := fmt.Sprint(a.body["message"])
	found := caller.FindStringSubmatch(text)
	require.NotNil(t, found, text)
	require.Equal(t, a.header.Get("X-Request-Id"), found[1])
	if name != "" {
		require.Equal(t, name, found[2])
	}
	return caller.ReplaceAllString(text, "")
}

// withoutRequest returns the body of an answer without the request's id.
func withoutRequest(a answered) string { return caller.ReplaceAllString(a.raw, " (caller $2)") }
