package serve_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"inject/exec/redact"
	"inject/exec/redact/forms"
	"inject/resolver/idl/flyteidl2/secret/secretconnect"
	"inject/resolver/idl/inject/v1/injectv1connect"
	"inject/resolver/secret"
	"inject/resolver/serve/identity"
	"inject/resolver/store"
	"inject/resolver/store/storetest"
)

// The policy of the matrix. Its meaning is written down independently in callers.
const matrixPolicy = `
version: 1
rules:
  - name: platform
    identity: {spiffe: "spiffe://example.org/platform/*"}
    manage: [{project: "*", domain: "*"}]
    list: [{project: "*", domain: "*"}]
  - name: tasks
    identity: {spiffe: "spiffe://example.org/project/{project}/domain/{domain}/task/*"}
    resolve: {project: "{project}", domain: "{domain}"}
  - name: teams
    identity: {dns: "{team}.teams.example.org"}
    manage: [{project: "{team}", domain: "*"}]
    list: [{project: "{team}", domain: "*"}]
    resolve: {project: "{team}"}
  - name: ci
    identity: {issuer: "https://issuer.example.org", audience: injectd, claim.repository: "acme/web"}
    resolve: {project: web, domain: development, keys: [LISTED]}
  - name: acme
    identity: {issuer: "https://issuer.example.org", subject: admin}
    manage: [{org: acme, project: "*", domain: "*"}]
    list: [{org: acme, project: "*", domain: "*"}]
    resolve: {org: acme, project: web, domain: development}
  - name: writer
    identity: {token: writer}
    manage: [{project: "we*", domain: development}]
  - name: auditor
    identity: {token: auditor}
    list: [{project: "*", domain: "*"}, {org: acme}]
  - name: blocked
    identity: {token: blocked}
`

// The scopes of the matrix, by short names.
var matrixScopes = map[string]secret.Scope{
	"web development":      {Org: "flyte", Project: "web", Domain: "development"},
	"web production":       {Org: "flyte", Project: "web", Domain: "production"},
	"web":                  {Org: "flyte", Project: "web"},
	"shop development":     {Org: "flyte", Project: "shop", Domain: "development"},
	"development":          {Org: "flyte", Domain: "development"},
	"flyte":                {Org: "flyte"},
	"acme":                 {Org: "acme"},
	"acme web development": {Org: "acme", Project: "web", Domain: "development"},
}

// A matrixCaller is a caller with the permissions that the test expects.
type matrixCaller struct {
	name, method, rule string // as the audit log has them
	client             *http.Client
	bearer             string

	manage, list []string // short names of scopes
	task         string
	keys         []string // nil: all
}

const (
	secrets  = secretconnect.SecretServiceName + "/"
	imported = injectv1connect.ImportServiceName + "/Import"
	issuer   = "https://issuer.example.org"
)

// An issuer signs JWTs; its keys are in a file.
type jwtIssuer struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	path string
}

func newIssuer(t testing.TB, path string) *jwtIssuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	keys, err := json.Marshal(
		jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}},
	)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, keys, 0o600))
	return &jwtIssuer{t, key, path}
}

func (i *jwtIssuer) authenticator() identity.Authenticator {
	i.t.Helper()
	a, err := identity.NewJWT(i.t.Context(), identity.JWTOptions{Issuer: issuer, Audience: "injectd", Keys: i.path})
	require.NoError(i.t, err)
	return a
}

// token returns a valid token with the changes applied.
func (i *jwtIssuer) token(changes map[string]any) string {
	i.t.Helper()
	return i.sign(i.key, "k", changes)
}

func (i *jwtIssuer) sign(key *ecdsa.PrivateKey, id string, changes map[string]any) string {
	i.t.Helper()
	claims := map[string]any{
		"iss": issuer, "sub": "somebody", "aud": "injectd", "exp": time.Now().Add(time.Hour).Unix(),
		"iat": time.Now().Unix(),
	}
	for name, value := range changes {
		claims[name] = value
		if value == nil {
			delete(claims, name)
		}
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil,
	)
	require.NoError(i.t, err)
	payload, err := json.Marshal(claims)
	require.NoError(i.t, err)
	signed, err := signer.Sign(payload)
	require.NoError(i.t, err)
	token, err := signed.CompactSerialize()
	require.NoError(i.t, err)
	return token
}

// tokenFile writes a file with a token for each name, and returns the tokens.
func tokenFile(t testing.TB, path string, names ...string) (identity.Authenticator, map[string]string) {
	t.Helper()
	tokens, lines := map[string]string{}, ""
	for _, name := range names {
		value, line, err := identity.NewToken(name)
		require.NoError(t, err)
		tokens[name] = string(value.Reveal())
		lines += line + "\n"
	}
	require.NoError(t, os.WriteFile(path, []byte(lines), 0o600))
	a, err := identity.NewTokens(t.Context(), path, nil)
	require.NoError(t, err)
	return a, tokens
}

// A matrix has the server, its callers, and every value and answer so far.
type matrix struct {
	*running

	callers []*matrixCaller
	read    int // of the audit log, in bytes
	values  [][]byte
	refused strings.Builder // all answers that may hold no value
	count   int             // of keys
	used    int             // of values
	denials map[string]int  // by verb
	allowed map[string]int
}

func newMatrix(t *testing.T) *matrix {
	t.Helper()
	dir := t.TempDir()
	jwts := newIssuer(t, dir+"/jwks.json")
	known, tokens := tokenFile(t, dir+"/tokens", "writer", "auditor", "blocked")
	m := &matrix{denials: map[string]int{}, allowed: map[string]int{}}
	m.running = start(t, matrixPolicy, nil, identity.MTLS{}, known, jwts.authenticator())
	dns := func(name string) *tls.Certificate {
		cert, key := m.Issue(name, func(c *x509.Certificate) { c.DNSNames = []string{name} })
		pair, err := tls.LoadX509KeyPair(cert, key)
		require.NoError(t, err)
		return &pair
	}
	flyte := []string{"web development", "web production", "web", "shop development", "development", "flyte"}
	web := []string{"web development", "web production", "web"}
	acme := []string{"acme", "acme web development"}
	none := m.client(nil)
	platform, task, other := "spiffe://example.org/platform/alice",
		"spiffe://example.org/project/web/domain/development/task/t", "spiffe://example.org/elsewhere"
	m.callers = []*matrixCaller{
		{
			name: platform, method: "mtls", rule: "platform",
			client: m.client(certOf(m.Authority, "platform", platform)), manage: flyte, list: flyte,
		},
		{
			name: task, method: "mtls", rule: "tasks", client: m.client(certOf(m.Authority, "task", task)),
			task: "web development",
		},
		{
			name: "web.teams.example.org", method: "mtls", rule: "teams",
			client: m.client(dns("web.teams.example.org")), manage: web, list: web, task: "web",
		},
		{
			name: issuer + "#somebody", method: "jwt", rule: "ci", client: none,
			bearer: jwts.token(map[string]any{"repository": "acme/web"}), task: "web development",
			keys: []string{"LISTED"},
		},
		{
			name: issuer + "#admin", method: "jwt", rule: "acme", client: none,
			bearer: jwts.token(map[string]any{"sub": "admin"}), manage: acme, list: acme,
			task: "acme web development",
		},
		{
			name: "writer", method: "token", rule: "writer", client: none, bearer: tokens["writer"],
			manage: []string{"web development"},
		},
		{
			name: "auditor", method: "token", rule: "auditor", client: none, bearer: tokens["auditor"],
			list: append(flyte, "acme"),
		},
		{name: "blocked", method: "token", rule: "blocked", client: none, bearer: tokens["blocked"]},
		{name: other, method: "mtls", client: m.client(certOf(m.Authority, "other", other))},
		{name: issuer + "#nobody", method: "jwt", client: none, bearer: jwts.token(map[string]any{"sub": "nobody"})},
		{client: none},
	}
	return m
}

// value returns the next of a hundred values.
func (m *matrix) value() []byte {
	if len(m.values) < 100 {
		m.values = append(m.values, storetest.Value(m.t, 40))
	}
	m.used++
	return m.values[(m.used-1)%len(m.values)]
}

func (m *matrix) key() string {
	m.count++
	return fmt.Sprintf("KEY_%d", m.count)
}

// seed stores a secret without using the server.
func (m *matrix) seed(ref secret.Ref) []byte {
	m.t.Helper()
	v := m.value()
	require.NoError(m.t, m.backend.Create(m.t.Context(), ref, secret.NewValue(v), store.Regular))
	return v
}

// snapshot returns everything in the store.
func (m *matrix) snapshot() map[secret.Ref]string {
	m.t.Helper()
	all := map[secret.Ref]string{}
	for info, err := range store.All(m.t.Context(), m.backend, store.Filter{}) {
		require.NoError(m.t, err)
		v, _, err := m.backend.Get(m.t.Context(), info.Ref)
		require.NoError(m.t, err)
		all[info.Ref] = string(v.Reveal())
	}
	return all
}

// decisions returns the lines of the audit log since the last call.
func (m *matrix) decisions() []map[string]any {
	m.t.Helper()
	fresh := m.audit.from(m.read)
	m.read += len(fresh)
	var all []map[string]any
	for line := range strings.Lines(fresh) {
		var one map[string]any
		require.NoError(m.t, json.Unmarshal([]byte(line), &one))
		all = append(all, one)
	}
	return all
}

// as sends a request of the caller.
func (m *matrix) as(c *matrixCaller, method string, body map[string]any) answered {
	m.t.Helper()
	b, err := json.Marshal(body)
	require.NoError(m.t, err)
	var header []string
	if c.bearer != "" {
		header = []string{"Authorization", "Bearer " + c.bearer}
	}
	return m.ask(c.client, method, string(b), header...)
}

// A verb of the matrix: its request, and the check of its effect.
type matrixVerb struct {
	method string
	body   func(scope secret.Scope, key string, value []byte) map[string]any
	// allowed requires the right answer and the right contents of the store.
	allowed func(t *testing.T, m *matrix, c *matrixCaller, ref secret.Ref, before, sent []byte, a answered)
	seeded  bool // the secret is there before
	key     string
}

func idJSON(scope secret.Scope, key string) map[string]any {
	id := scopeJSON(scope)
	id["name"] = key
	return id
}

func (m *matrix) requireStored(t *testing.T, ref secret.Ref, want []byte) {
	t.Helper()
	v, _, err := m.backend.Get(t.Context(), ref)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, v.Reveal()))
}

func matrixVerbs() map[string]matrixVerb {
	written := func(s secret.Scope, key string, value []byte) map[string]any {
		return map[string]any{"id": idJSON(s, key), "secretSpec": map[string]any{"binaryValue": value}}
	}
	named := func(s secret.Scope, key string, _ []byte) map[string]any { return map[string]any{"id": idJSON(s, key)} }
	declared := func(s secret.Scope, key string, _ []byte) map[string]any {
		return map[string]any{"scope": scopeJSON(s), "secrets": []any{map[string]any{"key": key}}}
	}
	explained := func(s secret.Scope, key string, value []byte) map[string]any {
		body := declared(s, key, value)
		body["namesOnly"] = true
		return body
	}
	changed := func(t *testing.T, m *matrix, _ *matrixCaller, ref secret.Ref, _, sent []byte, _ answered) {
		t.Helper()
		m.requireStored(t, ref, sent)
	}
	resolved := func(t *testing.T, _ *matrix, _ *matrixCaller, ref secret.Ref, before, _ []byte, a answered) {
		t.Helper()
		found := foundIn(t, a)
		require.Equal(t, scopeJSON(ref.Scope), found["scope"])
		require.Equal(t, base64.StdEncoding.EncodeToString(before), found["value"])
	}
	return map[string]matrixVerb{
		"create": {method: secrets + "CreateSecret", body: written, allowed: changed},
		"update": {method: secrets + "UpdateSecret", body: written, allowed: changed, seeded: true},
		"delete": {
			method: secrets + "DeleteSecret", body: named, seeded: true,
			allowed: func(t *testing.T, m *matrix, _ *matrixCaller, ref secret.Ref, _, _ []byte, _ answered) {
				t.Helper()
				_, _, err := m.backend.Get(t.Context(), ref)
				require.ErrorIs(t, err, secret.ErrNotFound)
			},
		},
		"get": {
			method: secrets + "GetSecret", body: named, seeded: true,
			allowed: func(t *testing.T, _ *matrix, _ *matrixCaller, ref secret.Ref, _, _ []byte, a answered) {
				t.Helper()
				found, _ := a.body["secret"].(map[string]any)
				require.Equal(t, idJSON(ref.Scope, ref.Key), found["id"])
			},
		},
		"list": {
			method: secrets + "ListSecrets", seeded: true,
			body: func(s secret.Scope, _ string, _ []byte) map[string]any { return scopeJSON(s) },
			allowed: func(t *testing.T, m *matrix, c *matrixCaller, ref secret.Ref, _, _ []byte, a answered) {
				t.Helper()
				var want []any
				for ref2 := range m.snapshot() {
					if store.Filter(ref.Scope).Match(ref2) &&
						slices.ContainsFunc(c.list, func(s string) bool { return matrixScopes[s] == ref2.Scope }) {
						want = append(want, idJSON(ref2.Scope, ref2.Key))
					}
				}
				var got []any
				list, _ := a.body["secrets"].([]any)
				for _, one := range list {
					one, _ := one.(map[string]any)
					got = append(got, one["id"])
				}
				require.ElementsMatch(t, want, got)
			},
		},
		"resolve":         {method: resolve, body: declared, allowed: resolved, seeded: true, key: "LISTED"},
		"resolve another": {method: resolve, body: declared, allowed: resolved, seeded: true},
		"explain": {
			method: resolve, body: explained, seeded: true, key: "LISTED",
			allowed: func(t *testing.T, _ *matrix, _ *matrixCaller, ref secret.Ref, _, _ []byte, a answered) {
				t.Helper()
				found := foundIn(t, a)
				require.Equal(t, scopeJSON(ref.Scope), found["scope"])
				require.NotContains(t, found, "value")
			},
		},
		"import": {
			method: imported,
			body: func(s secret.Scope, key string, value []byte) map[string]any {
				return map[string]any{"scope": scopeJSON(s), "secrets": []any{
					map[string]any{"name": key, "value": value}, map[string]any{"name": key + "_2", "value": value},
				}}
			},
			allowed: func(t *testing.T, m *matrix, _ *matrixCaller, ref secret.Ref, _, sent []byte, _ answered) {
				t.Helper()
				m.requireStored(t, ref, sent)
				ref.Key += "_2"
				m.requireStored(t, ref, sent)
			},
		},
	}
}

// foundIn returns the secret that the only climb of an answer found.
func foundIn(t *testing.T, a answered) map[string]any {
	t.Helper()
	climbs, _ := a.body["climbs"].([]any)
	require.Len(t, climbs, 1, a.raw)
	climb, _ := climbs[0].(map[string]any)
	found, _ := climb["found"].(map[string]any)
	require.NotNil(t, found, a.raw)
	return found
}

// oracle returns from callers whether the operation is allowed, and otherwise the expected
// answer.
func (c *matrixCaller) oracle(verb, scope string) (may bool, status int, message string) {
	const deniedText, absentText = "access denied", "secret KEY not found"
	at := matrixScopes[scope]
	lists := slices.Contains(c.list, scope)
	switch {
	case c.name == "":
		return false, http.StatusUnauthorized, "no credentials: send a client certificate or a bearer token"
	case c.rule == "":
		return false, http.StatusForbidden, deniedText + ": no rule of the policy matches this identity; " +
			"hint: ask the server's operator for one"
	case verb == "create", verb == "import":
		return slices.Contains(c.manage, scope), http.StatusForbidden, deniedText
	case verb == "update", verb == "delete":
		if lists {
			return slices.Contains(c.manage, scope), http.StatusForbidden, deniedText
		}
		return slices.Contains(c.manage, scope), http.StatusNotFound, absentText
	case verb == "get":
		return lists, http.StatusNotFound, absentText
	case verb == "list":
		may := slices.ContainsFunc(
			c.list, func(s string) bool { return store.Filter(at).Match(secret.Ref{Scope: matrixScopes[s]}) },
		)
		return may, http.StatusForbidden, deniedText
	case c.task == "":
		return false, http.StatusForbidden, deniedText + ": this identity may not resolve secrets; hint: the " +
			"first rule of the policy that matches this identity must have resolve"
	case c.task != scope:
		bound := matrixScopes[c.task]
		return false, http.StatusForbidden, deniedText + ": this identity resolves as a task of " + bound.String() +
			" and of no other scope; hint: leave the scope out of the request, or give" + bound.Flags()
	case verb == "resolve another" && c.keys != nil: // as a key that is not there
		return false, http.StatusOK, ""
	}
	return true, 0, ""
}

// Every caller tries every verb at every scope. An allowed one has its effect. A denied one
// changes nothing, is audited in one line, and looks as if the secret were absent.
func TestMatrix(t *testing.T) {
	m := newMatrix(t)
	for _, scope := range matrixScopes {
		m.seed(secret.Ref{Scope: scope, Key: "EVERYWHERE"})
	}
	verbs := matrixVerbs()
	for _, c := range m.callers {
		t.Run(c.method+" "+c.rule+" "+c.name, func(t *testing.T) {
			for scope := range matrixScopes {
				for name := range verbs {
					m.cell(t, c, scope, name, verbs[name])
				}
			}
		})
	}
	for verb := range verbs {
		require.NotZerof(t, m.denials[verb], "no caller is denied %s", verb)
		require.NotZerof(t, m.allowed[verb], "no caller is allowed %s", verb)
	}
	wrong := m.ask(m.client(nil), resolve, `{"secrets":[{"key":"K"}]}`, "Authorization", "Bearer unknown")
	require.Equal(t, http.StatusUnauthorized, wrong.status) // the log has a line of it
	metrics, err := m.registry.Gather()
	require.NoError(t, err)
	m.requireNoValue(t, map[string]string{
		"audit log": m.audit.String(), "log": m.log.String(), "answers": m.refused.String(),
		"metrics": fmt.Sprint(metrics),
	})
}

// cell tests one caller with one verb at one scope.
func (m *matrix) cell(t *testing.T, c *matrixCaller, scope, name string, verb matrixVerb) {
	t.Helper()
	what := []any{"%s of %q (%s) at %s", name, c.name, c.rule, scope}
	ref := secret.Ref{Scope: matrixScopes[scope], Key: m.key()}
	if verb.key != "" {
		ref.Key = verb.key
	}
	var stored []byte
	if verb.seeded {
		stored = m.seed(ref)
	}
	before := m.snapshot()
	defer func() {
		for r := range m.snapshot() {
			if r.Key != "EVERYWHERE" {
				require.NoError(t, m.backend.Delete(t.Context(), r))
			}
		}
	}()
	var sent []byte
	if slices.Contains([]string{"create", "update", "import"}, name) {
		sent = m.value()
	}
	m.decisions()
	a := m.as(c, verb.method, verb.body(ref.Scope, ref.Key, sent))
	lines := m.decisions()
	may, status, message := c.oracle(name, scope)
	if may {
		m.allowed[name]++
		require.Equal(t, http.StatusOK, a.status, what...)
		verb.allowed(t, m, c, ref, stored, sent, a)
		require.NotEmpty(t, lines, what...)
		require.LessOrEqual(t, len(lines), 2, what...)
		require.Equal(t, "allowed", lines[0]["decision"], what...)
		require.Equal(t, "decision", lines[0]["event"], what...)
		for _, outcome := range lines[1:] {
			require.Equal(t, "outcome", outcome["event"], what...)
			require.Equal(t, lines[0]["request"], outcome["request"], what...)
			require.Equal(t, "done", outcome["outcome"], what...)
			require.NotContains(t, outcome, "decision", what...)
		}
		m.requireLine(t, c, name, ref, lines[0], a)
		if !strings.HasPrefix(name, "resolve") {
			fmt.Fprintln(&m.refused, a.raw, a.header)
		}
		return
	}
	m.denials[name]++
	fmt.Fprintln(&m.refused, a.raw, a.header)
	require.Equal(t, status, a.status, append(what, a.raw)...)
	require.Equal(t, before, m.snapshot(), what...)
	if c.name == "" { // without credentials: counted, not audited
		require.Empty(t, lines, what...)
	} else {
		require.Len(t, lines, 1, what...)
		require.Equal(t, "denied", lines[0]["decision"], what...)
		m.requireLine(t, c, name, ref, lines[0], a)
	}
	if message != "" {
		said := fmt.Sprint(a.body["message"])
		if a.status == http.StatusForbidden {
			said = withoutCaller(t, a, "")
		}
		require.Equal(t, strings.ReplaceAll(message, "KEY", ref.Key), said, what...)
	}

	// The answer for an absent secret differs in nothing but the name.
	absent := secret.Ref{Scope: ref.Scope, Key: "ABSENT" + rand.Text()}
	if verb.key == "" || status != http.StatusOK {
		b := m.as(c, verb.method, verb.body(absent.Scope, absent.Key, sent))
		require.Equal(t, a.status, b.status, what...)
		require.Equal(
			t, strings.ReplaceAll(withoutRequest(a), ref.Key, "KEY"),
			strings.ReplaceAll(withoutRequest(b), absent.Key, "KEY"), what...)
		require.Equal(t, slices.Sorted(maps.Keys(a.header)), slices.Sorted(maps.Keys(b.header)), what...)
		require.Equal(t, before, m.snapshot(), what...)
	}
}

// requireLine requires that a line of the audit log names the caller, the verb and the
// secret.
func (m *matrix) requireLine(
	t *testing.T, c *matrixCaller, verb string, ref secret.Ref, line map[string]any, a answered,
) {
	t.Helper()
	require.Equal(t, a.header.Get("X-Request-Id"), line["request"])
	rule, _ := line["rule"].(string)
	require.Equal(t, []any{c.name, c.method, c.rule}, []any{line["who"], line["method"], rule})
	if c.rule == "" { // nothing more is known, because the body was not read
		require.Equal(t, matrixVerbs()[verb].method, line["verb"])
		require.NotContains(t, line, "secrets")
		return
	}
	verb, _, _ = strings.Cut(verb, " ")
	require.Equal(t, verb, line["verb"])
	where := line["scope"]
	if line["claimed"] != nil {
		require.Nil(t, where)
		where = line["claimed"]
	}
	short := map[string]any{}
	for name, value := range scopeJSON(ref.Scope) {
		short[map[string]string{"organization": "org", "domain": "domain", "project": "project"}[name]] = value
	}
	require.Equal(t, short, where)
	switch verb {
	case "list":
	case "resolve", "explain", "import":
		all, _ := line["secrets"].([]any)
		require.NotEmpty(t, all)
		first, _ := all[0].(map[string]any)
		require.Equal(t, ref.Key, first["key"])
	default:
		require.Equal(t, ref.Key, line["key"])
	}
}

// requireNoValue requires that no value is in the texts, in any encoded form.
func (m *matrix) requireNoValue(t *testing.T, texts map[string]string) {
	t.Helper()
	requireNoValue(t, m.values, texts)
}

func requireNoValue(t *testing.T, values [][]byte, texts map[string]string) {
	t.Helper()
	canary := storetest.Value(t, 40)
	var patterns []redact.Pattern
	for _, v := range append(slices.Clone(values), canary) {
		patterns = append(patterns, redact.Pattern{Name: "value", Value: v})
	}
	r := redact.New(6, patterns...)
	require.Empty(t, r.Unmasked())
	masks := func(text string) int {
		var b bytes.Buffer
		w := r.Writer(&b)
		_, err := w.Write([]byte(text))
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return strings.Count(b.String(), "[REDACTED:value]") - strings.Count(text, "[REDACTED:value]")
	}
	all := forms.Of(canary, 6)
	kinds := map[string]bool{}
	for _, f := range all {
		kinds[f.Kind] = true
	}
	for _, kind := range []string{
		forms.KindRaw, forms.KindBase64, forms.KindBase64URL, forms.KindHex, forms.KindPercent, forms.KindJSON,
	} {
		require.Truef(t, kinds[kind], "the search knows %s", kind)
	}
	for _, f := range all {
		require.Equalf(t, 1, masks("\n"+string(f.Bytes)+"\n"), "the search finds what is there: %s", f.Kind)
	}
	for name, text := range texts {
		require.NotEmpty(t, text, name)
		require.Positivef(t, masks(text+string(all[0].Bytes)), "the search finds what is there, in %s", name)
		require.Zerof(t, masks(text), "there is a value in %s", name)
	}
}
