package policy_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"inject/internal/harness"
	"inject/resolver/secret"
	"inject/resolver/serve/policy"
	"inject/resolver/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// subject is an identity with its attributes and their values.
type subject map[string][]string

func (s subject) Attribute(name string) []string { return s[name] }

func parse(t require.TestingT, text string) *policy.Policy {
	p, err := policy.Parse([]byte(text), secret.DefaultOrg)
	require.NoError(t, err, text)
	return p
}

// one returns the grant of a policy with one rule. text has the fields after its name.
func one(t require.TestingT, s subject, text string) policy.Grant {
	return parse(t, "version: 1\nrules:\n- name: r\n  "+strings.ReplaceAll(text, "\n", "\n  ")).For(s)
}

// at returns a scope of the default org.
func at(project, domain string) secret.Scope {
	return secret.Scope{Org: secret.DefaultOrg, Project: project, Domain: domain}
}

const example = `version: 1
rules:
  - name: platform team
    identity: {spiffe: "spiffe://example.org/platform/*"}
    manage:
      - {project: "*", domain: "*"}
    list:
      - {org: "*", project: "*", domain: "*"}
  - name: tasks
    identity: {spiffe: "spiffe://example.org/project/{project}/domain/{domain}/task/*"}
    resolve: {project: "{project}", domain: "{domain}"}
  - name: ci of fraud
    identity: {issuer: "https://ci.example.org", claim.repository: "acme/fraud"}
    resolve: {project: fraud, domain: development, keys: [DB_PASSWORD, API_KEY]}
  - name: dev token
    identity: {token: alice}
    manage: [{project: "alice-*", domain: development}]
    list:   [{project: "alice-*", domain: development}]
`

func TestExample(t *testing.T) {
	p := parse(t, example)

	g := p.For(subject{"spiffe": {"spiffe://example.org/platform/ann"}})
	require.Equal(t, "platform team", g.Rule())
	for _, scope := range []secret.Scope{at("", ""), at("p", ""), at("", "d"), at("p", "d")} {
		require.True(t, g.May(policy.Manage, scope), scope)
		require.True(t, g.May(policy.List, scope), scope)
		other := scope
		other.Org = "acme"
		require.False(t, g.May(policy.Manage, other), other)
		require.True(t, g.May(policy.List, other), other)
	}
	_, err := g.Bind(secret.Scope{})
	require.ErrorIs(t, err, secret.ErrDenied)
	require.False(t, g.MayResolve("API_KEY"))

	g = p.For(subject{"spiffe": {"spiffe://example.org/project/fraud/domain/production/task/train"}})
	require.Equal(t, "tasks", g.Rule())
	scope, err := g.Bind(secret.Scope{})
	require.NoError(t, err)
	require.Equal(t, at("fraud", "production"), scope)
	require.True(t, g.MayResolve("ANY_KEY"))
	require.False(t, g.MayResolve("no key"))
	require.False(t, g.May(policy.Manage, scope))
	require.False(t, g.May(policy.List, scope))
	require.True(t, g.May(policy.Resolve, scope))
	require.False(t, g.May(policy.Resolve, at("fraud", "development")))

	ci := subject{"issuer": {"https://ci.example.org"}, "claim.repository": {"acme/fraud"}}
	g = p.For(ci)
	require.Equal(t, "ci of fraud", g.Rule())
	require.True(t, g.MayResolve("API_KEY"))
	require.False(t, g.MayResolve("API_KEY2"))
	ci["issuer"] = []string{"https://evil.example.org"}
	require.Equal(t, policy.Grant{}, p.For(ci))

	g = p.For(subject{"token": {"alice"}})
	require.True(t, g.May(policy.Manage, at("alice-x", "development")))
	require.False(t, g.May(policy.Manage, at("alice-x", "production")))
	require.False(t, g.May(policy.Manage, at("alice", "development")))
	require.False(t, g.May(policy.Manage, at("", "development")))
	require.Equal(t, policy.Grant{}, p.For(subject{"token": {"alic"}}))
}

// Patterns of an identity with values that match and values that do not.
func TestIdentityPatterns(t *testing.T) {
	for _, c := range []struct {
		attribute, pattern string
		yes, no            []string
	}{
		{"token", "alice", []string{"alice"}, []string{"", "Alice", "alice ", "xalice", "alicex", "alice\n", "alice/"}},
		{"token", "*", []string{"a", "*", "a b", "ä"}, []string{"", "a/b", "/", ".", ".."}},
		{"token", "a*b", []string{"ab", "axb", "abb"}, []string{"a/b", "a", "b", "aba", "xab"}},
		{"token", "aba*aba", []string{"abaaba", "aba-aba"}, []string{"aba", "ababa"}},
		{"token", "*a*b*", []string{"ab", "xaxbx", "aab"}, []string{"ba", "a", "b", "a/b"}},
		{"token", "a.c", []string{"a.c"}, []string{"abc"}},
		{"token", "a[b-d]?+^$(x)|\\", []string{"a[b-d]?+^$(x)|\\"}, []string{"ab", "ac"}},
		{"spiffe", "spiffe://x/a/*", []string{"spiffe://x/a/b", "spiffe://x/a/..."}, []string{
			"spiffe://x/a",
			"spiffe://x/a/", "spiffe://x/a/b/c", "spiffe://x/a/..", "spiffe://x/a/.", "spiffe://y/a/b",
			"http://x/a/b", "spiffe://x/a/b/",
		}},
		{"spiffe", "spiffe://x/*/b", []string{"spiffe://x/a/b"}, []string{
			"spiffe://x/b", "spiffe://x//b",
			"spiffe://x/a/a/b", "spiffe://x/../b",
		}},
		{"spiffe", "spiffe://x/a/**", []string{"spiffe://x/a/b", "spiffe://x/a/b/c"}, []string{
			"spiffe://x/a",
			"spiffe://x/a/", "spiffe://x/ab", "spiffe://x/a/../b", "spiffe://x/a/b/..", "spiffe://x/a/.",
			"spiffe://x/a/./b",
		}},
		{"spiffe", "spiffe://*/a", []string{"spiffe://x/a"}, []string{"spiffe:///a", "spiffe://x/b/a"}},
		{"spiffe", "spiffe://x/*/**", []string{"spiffe://x/a/b", "spiffe://x/a/b/c"}, []string{
			"spiffe://x/a",
			"spiffe://x//b",
		}},
		{"token", "**", []string{"a", "a/b", "https://a/b"}, []string{"", "..", "a/../b"}},
		{"dns", "*.example.org", []string{"a.example.org", "a/b.example.org"}, []string{
			"example.org", ".example.org", "a.b.example.org", "a.example.org.", "aXexample.org",
		}},
		{"dns", "web-*.example.org", []string{"web-1.example.org"}, []string{"web-1.2.example.org", "web.example.org"}},
		{"dns", "a.b", []string{"a.b"}, []string{"a", "b", "a.b.c", "c.a.b"}},
	} {
		t.Run(c.attribute+" "+c.pattern, func(t *testing.T) {
			text := fmt.Sprintf("identity: {%s: %q}\nlist: [{}]", c.attribute, c.pattern)
			for _, v := range c.yes {
				require.Truef(
					t, one(t, subject{c.attribute: {v}}, text).May(policy.List, at("", "")), "%s matches %q",
					c.pattern, v,
				)
				require.Truef(
					t, one(t, subject{c.attribute: {"-", v, "-"}}, text).May(policy.List, at("", "")),
					"%s matches %q of several", c.pattern, v,
				)
			}
			for _, v := range c.no {
				require.Equalf(
					t, policy.Grant{}, one(t, subject{c.attribute: {v}}, text), "%s does not match %q", c.pattern,
					v,
				)
			}
		})
	}
}

// Every attribute of a rule must match, with any of its values.
func TestIdentityNeedsAll(t *testing.T) {
	text := `identity: {issuer: "https://i", subject: "s*", audience: inject, "claim.https://x/groups": dev, ` +
		`spiffe: "spiffe://x/a", dns: a.x, token: t}
list: [{}]`
	all := subject{
		"issuer": {
			"https://i",
		}, "subject": {"s1"}, "audience": {"other", "inject"}, "claim.https://x/groups": {"ops", "dev"},
		"spiffe": {"spiffe://x/a"}, "dns": {"b.x", "a.x"}, "token": {"t"}, "more": {"x"},
	}
	require.True(t, one(t, all, text).May(policy.List, at("", "")))
	for name, values := range all {
		if name == "more" {
			continue
		}
		for _, other := range [][]string{nil, {}, {""}, {values[0] + "/x"}} {
			all[name] = other
			require.Equalf(t, policy.Grant{}, one(t, all, text), "%s is %q", name, other)
		}
		all[name] = values
	}
	require.True(t, one(t, all, text).May(policy.List, at("", "")))
}

// Values that would bind an identity to another scope.
func TestCapturesAreNames(t *testing.T) {
	text := `identity: {spiffe: "spiffe://x/p/{project}/d/{domain}/t/*"}
manage: [{project: "{project}", domain: "{domain}"}]
resolve: {project: "{project}", domain: "{domain}"}`
	id := func(project, domain string) subject {
		return subject{"spiffe": {"spiffe://x/p/" + project + "/d/" + domain + "/t/train"}}
	}
	for _, name := range []string{
		"fraud", "a_b", "a-b", "ä", "*", "a*", "**", "{project}", "{", "}", "%2e%2e",
		`"`, "$HOME", strings.Repeat("x", 63),
	} {
		g := one(t, id(name, "d"), text)
		scope, err := g.Bind(secret.Scope{})
		require.NoErrorf(t, err, "%q", name)
		require.Equal(t, at(name, "d"), scope)
		require.True(t, g.May(policy.Manage, at(name, "d")))
		for _, other := range []string{"other", "", "d", "xyz", name + "x", "x" + name} {
			require.Falsef(t, g.May(policy.Manage, at(other, "d")), "captured %q, asked %q", name, other)
		}
		scope, err = one(t, id("p", name), text).Bind(secret.Scope{})
		require.NoError(t, err)
		require.Equal(t, at("p", name), scope)
	}
	for _, name := range []string{
		"", ".", "..", "a/b", "../fraud", "a__b", "__", "_a", "a_", "a b", " ", "a\n", "\x00", "\xff",
		"\u2028", "a/d/b/t/c",
		"p__key__K", strings.Repeat("x", 64), strings.Repeat("ä", 32),
	} {
		require.Equalf(t, policy.Grant{}, one(t, id(name, "d"), text), "project %q", name)
		require.Equalf(t, policy.Grant{}, one(t, id("p", name), text), "domain %q", name)
	}
	for _, whole := range []string{
		"spiffe://x/p/a/d/b/t/../../../../p/c/d/e/t/f", "spiffe://x/p/a/d/b/t/..", "spiffe://x/p/a/d/b/t/",
		"spiffe://x/p/a/d/b/t",
		"spiffe://x/p/a/d/b/t/c/", "spiffe://y/p/a/d/b/t/c", "xspiffe://x/p/a/d/b/t/c", "spiffe://x/p/a/d/b/t/c\n/",
	} {
		require.Equalf(t, policy.Grant{}, one(t, subject{"spiffe": {whole}}, text), "%q", whole)
	}
}

// An identity whose values capture different texts is bound to none of the scopes.
func TestCapturesOfSeveralValues(t *testing.T) {
	text := `identity: {issuer: "https://i", claim.groups: "team-{team}"}
manage: [{project: "{team}"}]`
	groups := func(values ...string) policy.Grant {
		return one(t, subject{"issuer": {"https://i"}, "claim.groups": values}, text)
	}
	require.True(t, groups("team-a").May(policy.Manage, at("a", "")))
	require.True(t, groups("x", "team-a", "y").May(policy.Manage, at("a", "")))
	require.True(t, groups("team-a", "team-a").May(policy.Manage, at("a", "")))
	require.True(
		t, groups("team-a__b", "team-c", "team-").May(policy.Manage, at("c", "")),
		"what is no name is not captured",
	)
	for _, values := range [][]string{{"team-a", "team-b"}, {"team-b", "team-a"}, {
		"team-a", "team-a", "team-b",
	}, {"team-a,team-b/"}, {"[team-a]"}, {`team-a","team-b `}} {
		require.Equalf(t, policy.Grant{}, groups(values...), "%q", values)
	}
	// Captures of different attributes are independent.
	g := one(
		t,
		subject{"issuer": {"https://i"}, "claim.a": {"a"}, "claim.b": {"b"}, "dns": {"c.x"}},
		`identity: {issuer: "https://i", claim.a: "{a}", claim.b: "{b}", dns: "{c}.x"}
resolve: {org: "{c}", project: "{b}", domain: "{a}"}`,
	)
	scope, err := g.Bind(secret.Scope{})
	require.NoError(t, err)
	require.Equal(t, secret.Scope{Org: "c", Project: "b", Domain: "a"}, scope)
}

// A capture with text around it may be an invalid name.
func TestCapturesWithText(t *testing.T) {
	text := `identity: {token: "{name}"}
resolve: {project: "team-{name}"}
list: [{project: "*-{name}-x*", domain: "pre-{name}"}]`
	g := one(t, subject{"token": {"a"}}, text)
	scope, err := g.Bind(secret.Scope{})
	require.NoError(t, err)
	require.Equal(t, at("team-a", ""), scope)
	require.True(t, g.May(policy.List, at("q-a-x", "pre-a")))
	require.True(t, g.May(policy.List, at("-a-xy", "pre-a")))
	require.False(t, g.May(policy.List, at("q-b-x", "pre-a")))
	require.False(t, g.May(policy.List, at("q-a-x", "pre-b")))
	require.False(t, g.May(policy.List, at("", "pre-a")))
	long := strings.Repeat("x", 58)
	require.Equal(t, "r", one(t, subject{"token": {long}}, text).Rule())
	require.Empty(t, one(t, subject{"token": {long + "x"}}, text).Rule(), "64 bytes with the text before it")
}

// Patterns of stored scopes, level by level.
func TestScopes(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no []secret.Scope
	}{
		{"{}", []secret.Scope{at("", "")}, []secret.Scope{at("p", ""), at("", "d"), at("p", "d"), {Org: "o"}, {}}},
		{"{domain: d}", []secret.Scope{at("", "d")}, []secret.Scope{at("", ""), at("p", "d"), at("", "e")}},
		{"{project: p}", []secret.Scope{at("p", "")}, []secret.Scope{
			at("p", "d"), at("", ""), at("P", ""), at("pp", ""),
		}},
		{"{project: p, domain: d}", []secret.Scope{at("p", "d")}, []secret.Scope{
			at("p", ""), at("", "d"), at("d", "p"),
		}},
		{"{project: '*'}", []secret.Scope{at("p", ""), at("", "")}, []secret.Scope{
			at("p", "d"), at("", "d"), at("a__b", ""), at("a/b", ""),
		}},
		{"{project: 'team-*'}", []secret.Scope{at("team-", ""), at("team-a", "")}, []secret.Scope{
			at("", ""), at("team", ""), at("xteam-a", ""), at("team-a/b", ""), at("team-_", ""),
		}},
		{
			"{project: '*-x', domain: '*'}",
			[]secret.Scope{at("a-x", ""), at("a-x", "d"), at("-x", "d")},
			[]secret.Scope{at("", "d"), at("a-xx", "d")},
		},
		{
			"{project: 'a*b*c'}",
			[]secret.Scope{at("abc", ""), at("a1b2c", ""), at("abbcc", "")},
			[]secret.Scope{at("ac", ""), at("acb", "")},
		},
		{"{org: acme}", []secret.Scope{{Org: "acme"}}, []secret.Scope{at("", "")}},
		{
			"{org: '*', project: p}",
			[]secret.Scope{{Org: "acme", Project: "p"}, at("p", "")},
			[]secret.Scope{{Project: "p"}, {Org: "acme"}},
		},
	} {
		t.Run(c.pattern, func(t *testing.T) {
			for i, verb := range []policy.Verb{policy.Manage, policy.List} {
				g := one(
					t, subject{"token": {"t"}},
					fmt.Sprintf("identity: {token: t}\n%s: [{org: no}, %s]", verb, c.pattern),
				)
				for _, scope := range c.yes {
					require.Truef(t, g.May(verb, scope), "%s %s at %+v", verb, c.pattern, scope)
					require.False(t, g.May([]policy.Verb{policy.List, policy.Manage}[i], scope), "the other verb")
					require.False(t, g.May(policy.Resolve, scope))
					require.False(t, g.May(policy.Verb(7), scope))
					require.False(t, g.May(policy.Verb(-1), scope))
				}
				for _, scope := range c.no {
					require.Falsef(t, g.May(verb, scope), "%s %s at %+v", verb, c.pattern, scope)
				}
			}
		})
	}
}

func TestMayAny(t *testing.T) {
	g := one(t, subject{"token": {"x"}}, `identity: {token: "{me}"}
list: [{project: "{me}-*", domain: development}, {domain: staging}]
resolve: {project: "{me}"}`)
	for f, want := range map[store.Filter]bool{
		{}:                                      true,
		{Org: "flyte"}:                          true,
		{Org: "acme"}:                           false,
		{Domain: "development"}:                 true,
		{Domain: "production"}:                  false,
		{Project: "x-1"}:                        true,
		{Project: "y-1"}:                        false,
		{Project: "x-1", Domain: "development"}: true,
		{Project: "x-1", Domain: "staging"}:     false,
		{Domain: "staging"}:                     true,
		{Org: "flyte", Project: "x-a__b"}:       false,
		{Org: "flyte", Project: "x-\n"}:         false,
		{Org: "acme", Project: "x", Domain: "staging"}: false,
	} {
		require.Equalf(t, want, g.MayAny(policy.List, f), "%+v", f)
		require.Falsef(t, g.MayAny(policy.Manage, f), "%+v", f)
		require.Falsef(t, policy.Grant{}.MayAny(policy.List, f), "%+v", f)
		require.Equal(
			t, secret.Scope{Org: "o", Domain: f.Domain, Project: f.Project}.Validate() == nil,
			policy.Everything(secret.DefaultOrg).MayAny(policy.List, f),
		)
	}
	require.True(t, g.MayAny(policy.Resolve, store.Filter{Project: "x"}))
	require.False(t, g.MayAny(policy.Resolve, store.Filter{Project: "y"}))
	require.False(t, g.MayAny(policy.Resolve, store.Filter{Project: "x", Domain: "staging"}))
	require.False(t, g.MayAny(policy.Verb(7), store.Filter{}))
}

func TestBind(t *testing.T) {
	g := one(t, subject{"token": {"t"}}, "identity: {token: t}\nresolve: {org: acme, project: p, domain: d}")
	bound := secret.Scope{Org: "acme", Project: "p", Domain: "d"}
	for _, asked := range []secret.Scope{{}, bound, {Project: "p", Domain: "d"}} {
		got, err := g.Bind(asked)
		require.NoError(t, err)
		require.Equal(t, bound, got)
	}
	for _, asked := range []secret.Scope{
		at("p", "d"),
		{Org: "acme"},
		{Org: "acme", Project: "p"},
		{Org: "acme", Domain: "d"},
		{Project: "q", Domain: "d"},
		{Org: "a/b"},
	} {
		got, err := g.Bind(asked)
		require.ErrorIsf(t, err, secret.ErrDenied, "%+v", asked)
		require.EqualError(
			t, err,
			"access denied: this identity resolves as a task of project p, domain d, org acme and of no other scope",
		)
		require.Equal(t, "leave the scope out of the request, or give --org acme -p p -d d", secret.Hint(err))
		require.Equal(t, secret.Scope{}, got)
	}
	for text, want := range map[string]secret.Scope{
		"{}": at("", ""), "{domain: d}": at("", "d"), "{project: p}": at("p", ""),
	} {
		t.Run(text, func(t *testing.T) {
			g := one(t, subject{"token": {"t"}}, "identity: {token: t}\nresolve: "+text)
			got, err := g.Bind(want)
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
	for _, g := range []policy.Grant{{}, one(t, subject{"token": {"t"}}, "identity: {token: t}"), one(t,
		subject{}, "identity: {token: t}\nresolve: {}")} {
		_, err := g.Bind(secret.Scope{})
		require.ErrorIs(t, err, secret.ErrDenied)
		require.NotEmpty(t, secret.Hint(err))
		require.False(t, g.MayResolve("K"))
		require.False(t, g.May(policy.Resolve, secret.Scope{}))
		require.False(t, g.May(policy.Resolve, at("", "")))
	}
}

func TestEverything(t *testing.T) {
	g := policy.Everything(secret.DefaultOrg)
	require.Equal(t, "everything", g.Rule())
	for _, verb := range []policy.Verb{policy.Manage, policy.List, policy.Resolve} {
		require.True(t, g.May(verb, secret.Scope{Org: "o", Project: "p"}))
		require.False(t, g.May(verb, secret.Scope{}))
		require.True(t, g.MayAny(verb, store.Filter{Domain: "d"}))
	}
	require.True(t, g.MayResolve("K"))
	require.False(t, g.MayResolve("no key"))
	for asked, want := range map[secret.Scope]secret.Scope{
		{}:                      at("", ""),
		{Project: "p"}:          at("p", ""),
		{Org: "o", Domain: "d"}: {Org: "o", Domain: "d"},
		at("p", "d"):            at("p", "d"),
	} {
		got, err := g.Bind(asked)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := g.Bind(at("a/b", ""))
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.Equal(
		t, "manage list resolve Verb(7)",
		fmt.Sprint(policy.Manage, policy.List, policy.Resolve, policy.Verb(7)),
	)
}

// TestDeclared has rules that limit a pod to what its task declares.
func TestDeclared(t *testing.T) {
	pod := subject{
		"kubernetes.namespace": {"flyte"}, "kubernetes.project": {"p"}, "kubernetes.domain": {"d"},
		"kubernetes.declared": {"A", "B"}, "kubernetes.label.team": {"x"},
	}
	const identity = "identity: {kubernetes.namespace: flyte, kubernetes.project: '{p}', kubernetes.domain: '{d}', " +
		"kubernetes.label.team: 'x*'}\n"
	const scope = "resolve: {project: '{p}', domain: '{d}'"
	for _, row := range []struct {
		fields  string
		allowed string // of A, B, C, D
	}{
		{"", "A B C D"},
		{", keys: [A, C]", "A C"},
		{", declared: true", "A B"},
		{", declared: true, keys: [A, C]", "A"},
		{", declared: true, also: [C, A]", "A B C"},
		{", declared: true, also: [D], keys: [B, C]", "B D"},
		{", declared: true, keys: [C]", ""},
	} {
		grant := one(t, pod, identity+scope+row.fields+"}")
		require.True(t, grant.May(policy.Resolve, at("p", "d")))
		var allowed []string
		for _, key := range []string{"A", "B", "C", "D"} {
			if grant.MayResolve(key) {
				allowed = append(allowed, key)
			}
		}
		require.Equal(t, row.allowed, strings.Join(allowed, " "), row.fields)
		var shown []policy.Permission // which has no key if it has all
		if row.allowed != "" {
			shown = []policy.Permission{{Verb: policy.Resolve, Org: "flyte", Domain: "d", Project: "p", Keys: allowed}}
		}
		if row.fields == "" {
			shown[0].Keys = nil
		}
		require.Equal(t, shown, grant.Permissions(), row.fields)
	}
	// A pod that declares nothing gets nothing but what is added.
	delete(pod, "kubernetes.declared")
	grant := one(t, pod, identity+scope+", declared: true, also: [C]}")
	require.False(t, grant.MayResolve("A"))
	require.True(t, grant.MayResolve("C"))
	require.False(t, one(t, pod, identity+scope+", declared: true}").MayResolve("A"))
	delete(pod, "kubernetes.project")
	require.Empty(t, one(t, pod, identity+scope+", declared: true}").Rule(), "without a scope no rule for one matches")
}

// The first rule that matches decides; later ones add nothing.
func TestFirstMatchDecides(t *testing.T) {
	p := parse(t, `version: 1
rules:
- {name: blocked, identity: {token: mallory}}
- {name: narrow, identity: {token: "a*"}, list: [{project: p}]}
- {name: broad, identity: {token: "*"}, list: [{project: "*"}], manage: [{}], resolve: {}}
`)
	require.True(t, p.For(subject{"token": {"bob"}}).May(policy.Manage, at("", "")))
	g := p.For(subject{"token": {"alice"}})
	require.Equal(t, "narrow", g.Rule())
	require.True(t, g.May(policy.List, at("p", "")))
	require.False(t, g.May(policy.List, at("q", "")))
	require.False(t, g.May(policy.Manage, at("", "")))
	require.False(t, g.MayResolve("K"))
	require.Equal(t, "narrow", p.For(subject{"token": {"bob", "alice"}}).Rule())
	g = p.For(subject{"token": {"mallory"}})
	require.Equal(t, "blocked", g.Rule())
	require.False(t, g.MayAny(policy.List, store.Filter{}))
	// A rule whose capture is not a valid name does not match, so the next one decides.
	p = parse(t, `version: 1
rules:
- {name: own, identity: {token: "{me}"}, list: [{project: "{me}"}]}
- {name: rest, identity: {token: "*"}}
`)
	require.Equal(t, "own", p.For(subject{"token": {"a"}}).Rule())
	require.Equal(t, "rest", p.For(subject{"token": {"a__b"}}).Rule())
}

// An identity without a matching rule may do nothing.
func TestDenyByDefault(t *testing.T) {
	policies := []*policy.Policy{{}, parse(t, "version: 1\nrules: []"), parse(t, example)}
	require.True(
		t, policies[2].For(subject{"token": {"alice"}}).MayAny(policy.List, store.Filter{}), "the allowed twin",
	)
	names := rapid.OneOf(
		rapid.SampledFrom(
			[]string{"spiffe", "dns", "issuer", "subject", "audience", "token", "claim.repository", "claim."},
		),
		rapid.String(),
	)
	values := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{
		"Alice", "alice/", "spiffe://example.org/platform/", "spiffe://example.org/platform/a/b",
		"https://ci.example.org", "*", "**", "{project}",
		"spiffe://example.org/project/a__b/domain/d/task/t",
	}))
	rapid.Check(t, func(t *rapid.T) {
		s := subject(rapid.MapOfN(names, rapid.SliceOfN(values, 0, 3), 0, 5).Draw(t, "subject"))
		for _, p := range policies {
			g := p.For(s)
			scope := secret.Scope{
				Org: rapid.SampledFrom([]string{"", "flyte", "*"}).
					Draw(t, "org"),
				Project: rapid.SampledFrom([]string{"", "p", "*", "alice-x"}).Draw(t, "project"),
				Domain:  rapid.SampledFrom([]string{"", "development"}).Draw(t, "domain"),
			}
			_, err := g.Bind(scope)
			if g != (policy.Grant{}) || err == nil || g.Rule() != "" || g.MayResolve("K") ||
				g.MayAny(policy.List, store.Filter{}) ||
				g.May(policy.Manage, scope) ||
				g.May(policy.List, scope) ||
				g.May(policy.Resolve, scope) {
				t.Fatalf("%v may something", s)
			}
		}
	})
}

// naive implements the policy as documented, with regular expressions that are compiled for
// each decision.
type naive struct {
	attribute, pattern string
	scopes             []secret.Scope // patterns
}

func (n naive) expression() *regexp.Regexp {
	separator := `/`
	if n.attribute == "dns" {
		separator = `.`
	}
	var parts []string
	for part := range strings.SplitSeq(n.pattern, separator) {
		s := regexp.QuoteMeta(part)
		s = regexp.MustCompile(`\\\{([a-z_]+)\\\}`).ReplaceAllString(s, `(?P<$1>[^`+separator+`]+)`)
		if part != "**" {
			s = strings.ReplaceAll(s, `\*`, `[^`+separator+`]*`)
		}
		parts = append(parts, s)
	}
	return regexp.MustCompile(
		`(?s)\A` + strings.ReplaceAll(strings.Join(parts, regexp.QuoteMeta(separator)), `\*\*`, `.+`) + `\z`,
	)
}

// captures returns the captures of v, and whether it matches.
func (n naive) captures(v string) (map[string]string, bool) {
	re := n.expression()
	m := re.FindStringSubmatch(v)
	if m == nil || v == "" {
		return nil, false
	}
	separator := "/"
	if n.attribute == "dns" {
		separator = "."
	}
	pattern, value := strings.Split(n.pattern, separator), strings.Split(v, separator)
	for i, part := range value {
		wild := i >= len(pattern)-1 && strings.HasSuffix(n.pattern, "**") ||
			strings.ContainsAny(pattern[min(i, len(pattern)-1)], "*{")
		if wild && (part == "." || part == ".." || part == "" && !strings.HasSuffix(n.pattern, "**")) {
			return nil, false
		}
		if wild && part == "" && i < len(pattern)-1 {
			return nil, false
		}
	}
	captured := map[string]string{}
	for i, name := range re.SubexpNames() {
		if name == "" {
			continue
		}
		if (secret.Scope{Org: m[i]}).Validate() != nil {
			return nil, false
		}
		captured[name] = m[i]
	}
	return captured, true
}

func (n naive) may(values []string, at secret.Scope) bool {
	found := map[string]map[string]string{}
	for _, v := range values {
		if c, ok := n.captures(v); ok {
			found[fmt.Sprint(c)] = c
		}
	}
	if len(found) != 1 || at.Validate() != nil {
		return false
	}
	for _, c := range found {
		level := func(pattern, name string) bool {
			if pattern == "*" {
				return true
			}
			s := strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `.*`)
			for capture, text := range c {
				s = strings.ReplaceAll(s, `\{`+capture+`\}`, regexp.QuoteMeta(text))
			}
			return (name == "") == (pattern == "") && regexp.MustCompile(`(?s)\A`+s+`\z`).MatchString(name)
		}
		for _, s := range n.scopes {
			if level(s.Org, at.Org) && level(s.Domain, at.Domain) && level(s.Project, at.Project) {
				return true
			}
		}
	}
	return false
}

// yaml returns n as a rule.
func (n naive) yaml(name string) string {
	var scopes []string
	for _, s := range n.scopes {
		var fields []string
		for _, f := range [][2]string{{"org", s.Org}, {"project", s.Project}, {"domain", s.Domain}} {
			if f[1] != "" {
				fields = append(fields, fmt.Sprintf("%s: %q", f[0], f[1]))
			}
		}
		scopes = append(scopes, "{"+strings.Join(fields, ", ")+"}")
	}
	return fmt.Sprintf(
		"- {name: %s, identity: {%s: %q}, list: [%s]}\n", name, n.attribute, n.pattern,
		strings.Join(scopes, ", "),
	)
}

// The compiled matcher decides as the naive one does. The policies and subjects are made of so
// few letters that they often match.
func TestAgreesWithNaive(t *testing.T) {
	segments := []string{"a", "b", "*", "a*", "*b", "*a*", "{p}", "a{p}", "{p}b", "..", "x.y"}
	matched, captured := 0, 0
	check := func(t *rapid.T) {
		var rules []naive
		text := "version: 1\nrules:\n"
		for i := range rapid.IntRange(1, 4).Draw(t, "rules") {
			n := naive{attribute: rapid.SampledFrom([]string{"token", "dns"}).Draw(t, "attribute")}
			separator := map[string]string{"token": "/", "dns": "."}[n.attribute]
			parts := rapid.SliceOfN(rapid.SampledFrom(segments), 1, 3).Draw(t, "pattern")
			if n.attribute == "token" && rapid.IntRange(0, 3).Draw(t, "below") == 0 {
				parts = append(parts, "**")
			}
			n.pattern = strings.Join(parts, separator)
			names := []string{"", "*", "a", "a*", "*b", "a*b"}
			switch strings.Count(n.pattern, "{p}") {
			case 0:
			case 1:
				names = append(names, "{p}", "a{p}", "*{p}", "{p}")
			default:
				continue
			}
			for range rapid.IntRange(1, 3).Draw(t, "scopes") {
				n.scopes = append(n.scopes, secret.Scope{
					Org: rapid.SampledFrom([]string{"flyte", "*", "a"}).
						Draw(t, "org"),
					Project: rapid.SampledFrom(names).
						Draw(t, "project"),
					Domain: rapid.SampledFrom(names).Draw(t, "domain"),
				})
			}
			if strings.Contains(n.pattern, "{p}") {
				n.scopes = append(n.scopes, secret.Scope{Org: "flyte", Project: "{p}"})
			}
			rules = append(rules, n)
			text += n.yaml(fmt.Sprint("r", i))
		}
		if len(rules) == 0 {
			return
		}
		p := parse(t, text)
		value := func(label, separator string) []string {
			segment := rapid.OneOf(
				rapid.StringOfN(rapid.SampledFrom([]rune("aab.*_{é\n")), 0, 3, -1),
				rapid.SampledFrom([]string{"a", "b", "ab"}),
			)
			return rapid.SliceOfN(rapid.Map(rapid.SliceOfN(segment, 1, 4),
				func(s []string) string { return strings.Join(s, separator) }), 0, 3).
				Draw(t, label)
		}
		s := subject{"token": value("token", "/"), "dns": value("dns", ".")}
		var decides *naive
		for i := range rules {
			one := map[string]bool{}
			for _, v := range s[rules[i].attribute] {
				if c, ok := rules[i].captures(v); ok {
					one[fmt.Sprint(c)] = true
				}
			}
			if len(one) == 1 {
				decides = &rules[i]
				break
			}
		}
		g := p.For(s)
		if (decides != nil) != (g.Rule() != "") {
			t.Fatalf("%s\n%q: rule %q decides, by the naive matcher %v", text, s, g.Rule(), decides)
		}
		if decides != nil {
			matched++
			if strings.Contains(decides.pattern, "{") {
				captured++
			}
		}
		names := rapid.OneOf(
			rapid.SampledFrom([]string{"", "a", "b", "ab", "aab"}),
			rapid.StringOfN(rapid.SampledFrom([]rune("aab.*_{é")), 0, 4, -1),
		)
		for range 5 {
			scope := secret.Scope{
				Org:     rapid.SampledFrom([]string{"flyte", "a", ""}).Draw(t, "at org"),
				Project: names.Draw(t, "at project"), Domain: names.Draw(t, "at domain"),
			}
			want := decides != nil && decides.may(s[decides.attribute], scope)
			if got := g.May(policy.List, scope); got != want {
				t.Fatalf("%s\n%q at %+v: %v, by the naive matcher %v", text, s, scope, got, want)
			}
			// A scope that may be listed is within each filter that selects it.
			if f := store.Filter(scope); want &&
				(!g.MayAny(policy.List, f) || !g.MayAny(policy.List, store.Filter{Domain: f.Domain}) ||
					!g.MayAny(policy.List, store.Filter{})) {
				t.Fatalf("%s\n%q may list at %+v and not under a filter of it", text, s, scope)
			}
		}
	}
	for range 20 { // enough to meet captures, even with the fifth of the runs that -short leaves
		rapid.Check(t, check)
	}
	require.Greater(t, matched, 5)
	require.Positive(t, captured)
}

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	var out harness.Buffer
	logger := hclog.New(&hclog.LoggerOptions{Output: &out})
	_, err := policy.Open(t.Context(), path, secret.DefaultOrg, logger)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.WriteFile(path, []byte("version: 2\nrules: []\n"), 0o600))
	_, err = policy.Open(t.Context(), path, secret.DefaultOrg, logger)
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.EqualError(t, err, path+": invalid policy: line 1: version: not 1, which is the only version")

	write := func(text string) {
		require.NoError(t, os.WriteFile(path+".new", []byte(text), 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	const rule = "version: 1\nrules: [{name: %s, identity: {token: %s}, list: [{}]}]\n"
	write(fmt.Sprintf(rule, "one", "alice"))
	f, err := policy.Open(t.Context(), path, secret.DefaultOrg, logger)
	require.NoError(t, err)
	alice, bob := subject{"token": {"alice"}}, subject{"token": {"bob"}}
	require.Equal(t, "one", f.Current().For(alice).Rule())
	require.Equal(t, policy.Grant{}, f.Current().For(bob))
	eventually := func(what func() bool) {
		require.Eventually(t, what, time.Minute, 5*time.Millisecond)
	}

	write(fmt.Sprintf(rule, "two", "bob")) // a good edit
	eventually(func() bool { return f.Current().For(bob).Rule() == "two" })
	require.Equal(t, policy.Grant{}, f.Current().For(alice), "what was taken away is gone")
	require.NoError(t, f.Err())

	write("version: 1\nrules: [{name: x, identity: {}, list: [{}]}]\n") // a bad one
	eventually(func() bool { return f.Err() != nil })
	require.EqualError(
		t, f.Err(), path+": invalid policy: line 2: rules[0].identity: empty: it would match every caller",
	)
	require.Equal(t, "two", f.Current().For(bob).Rule())
	eventually(func() bool { return strings.Contains(out.String(), "it would match every caller") })

	write(fmt.Sprintf(rule, "three", "bob"))
	eventually(func() bool { return f.Current().For(bob).Rule() == "three" && f.Err() == nil })

	require.NoError(t, os.Remove(path)) // none at all
	eventually(func() bool { return f.Err() != nil })
	require.ErrorIs(t, f.Err(), os.ErrNotExist)
	require.Equal(t, "three", f.Current().For(bob).Rule())
	require.Equal(t, policy.Grant{}, f.Current().For(alice))
}

// many returns a policy of n rules, and a subject that the last but one matches.
func many(t testing.TB, n int) (*policy.Policy, subject) {
	var b strings.Builder
	b.WriteString("version: 1\nrules:\n")
	for i := range n {
		switch i % 4 {
		case 0:
			fmt.Fprintf(
				&b,
				"- {name: r%d, identity: {spiffe: 'spiffe://example.org/team-%d/**'}, manage: [{project: '*'}]}\n",
				i, i,
			)
		case 1:
			fmt.Fprintf(
				&b,
				"- {name: r%d, identity: {issuer: 'https://ci.example.org', claim.repository: 'acme/repo-%d'}, "+
					"resolve: {project: p%d}}\n",
				i, i, i,
			)
		case 2:
			fmt.Fprintf(
				&b,
				"- {name: r%d, identity: {spiffe: "+
					"'spiffe://example.org/cell-%d/project/{project}/domain/{domain}/*'}, resolve: {project: "+
					"'{project}', domain: '{domain}'}}\n",
				i, i,
			)
		case 3:
			fmt.Fprintf(&b, "- {name: r%d, identity: {token: user-%d}, list: [{project: 'user-%d-*'}]}\n", i, i, i)
		}
	}
	id := fmt.Sprintf("spiffe://example.org/cell-%d/project/fraud/domain/production/x", n-2)
	return parse(t, b.String()), subject{"spiffe": {id}}
}

// A decision does not allocate, neither with captures nor without a rule.
func TestForAllocatesNothing(t *testing.T) {
	p, s := many(t, 100)
	none := subject{"token": {"nobody"}}
	scope := at("fraud", "production")
	require.Equal(t, "r98", p.For(s).Rule())
	require.Equal(t, policy.Grant{}, p.For(none))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		g := p.For(s)
		bound, err := g.Bind(scope)
		if err != nil || bound != scope || !g.MayResolve("K") || p.For(none).May(policy.List, scope) {
			panic("another decision")
		}
	}))
}

// Patterns and values for which backtracking would take exponential time.
func TestMatchIsLinear(t *testing.T) {
	const n = 1 << 16
	pattern := strings.Repeat("*a", n/2) + "*c"
	value := strings.Repeat("a", n)
	text := "identity: {token: " + fmt.Sprintf("%q", pattern) + "}\nlist: [{}]"
	require.Empty(t, one(t, subject{"token": {value}}, text).Rule())
	require.Equal(t, "r", one(t, subject{"token": {value + "c"}}, text).Rule())
}

func BenchmarkFor(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		p, s := many(b, n)
		none := subject{"token": {fmt.Sprint("nobody-", rand.Int())}}
		b.Run(fmt.Sprintf("rules=%d/last", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.For(s)
			}
		})
		b.Run(fmt.Sprintf("rules=%d/none", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.For(none)
			}
		})
	}
}

// The first quota that matches a scope bounds it, and each scope on its own.
func TestQuota(t *testing.T) {
	t.Parallel()
	p := parse(t, `
version: 1
rules: []
quotas:
- {name: big, project: big-*, domain: "*", secrets: 500}
- {name: production, project: "*", domain: production, bytes: 3Ki}
- {name: nothing, project: closed, secrets: 0}
- {name: the rest, project: "*", domain: "*", secrets: 10, bytes: 100}
`)
	require.True(t, p.HasQuotas())
	require.False(t, parse(t, "version: 1\nrules: []").HasQuotas())
	at := func(project, domain string) secret.Scope {
		return secret.Scope{Org: secret.DefaultOrg, Project: project, Domain: domain}
	}
	for scope, want := range map[secret.Scope]string{
		at("big-a", "production"):   "big",
		at("big-b", ""):             "big",
		at("small", "production"):   "production",
		at("", "production"):        "production",
		at("closed", ""):            "nothing",
		at("closed", "development"): "the rest",
		at("", ""):                  "the rest",
		{Org: "other"}:              "",
	} {
		if q := p.Quota(scope); want == "" {
			require.Nil(t, q)
		} else {
			require.Equal(t, want, q.Name, scope)
		}
	}

	require.Equal(t, "500 secrets", p.Quota(at("big-a", "")).String())
	require.Equal(t, "10 secrets and 100 bytes of values", p.Quota(at("", "")).String())

	use := func(secrets, bytes int64) store.Usage { return store.Usage{Secrets: secrets, Bytes: bytes} }
	rest, production := p.Quota(at("", "")), p.Quota(at("", "production"))
	for _, c := range []struct {
		q         *policy.Quota
		now, then store.Usage
		refused   string
	}{
		{rest, use(9, 99), use(10, 100), ""},
		{rest, use(10, 50), use(11, 50), "allows 10 secrets at org flyte, which has 10, and this would make 11"},
		{rest, use(2, 50), use(3, 101), "allows 100 bytes of values at org flyte, which has 50"},
		{rest, use(200, 500), use(199, 500), ""},
		{rest, use(200, 50), use(200, 60), ""},
		{rest, use(200, 500), use(199, 501), "which has 500"},
		{production, use(1000, 3071), use(1001, 3072), ""},
		{production, use(1000, 3071), use(1001, 3073), "allows 3072 bytes"},
		{p.Quota(at("closed", "")), use(0, 0), use(1, 0), "allows 0 secrets"},
	} {
		err := c.q.Check(at("", ""), c.now, c.then)
		if c.refused == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, secret.ErrQuota)
		require.ErrorContains(t, err, c.refused)
		require.ErrorContains(t, err, fmt.Sprintf("%q", c.q.Name))
		require.Contains(t, secret.Hint(err), "raise the quota")
	}
}
