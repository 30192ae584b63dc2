package serve_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/serve"
)

// everyVerb has a request of each kind for the secret K.
var everyVerb = map[string]string{
	secrets + "CreateSecret": `{"id":{"name":"NEW","project":"web","domain":"development"},` +
		`"secretSpec":{"stringValue":"v"}}`,
	secrets + "UpdateSecret": `{"id":{"name":"K","project":"web","domain":"development"},` +
		`"secretSpec":{"stringValue":"v"}}`,
	secrets + "DeleteSecret": `{"id":{"name":"K","project":"web","domain":"development"}}`,
	secrets + "GetSecret":    `{"id":{"name":"K","project":"web","domain":"development"}}`,
	secrets + "ListSecrets":  `{}`,
	resolve:                  `{"secrets":[{"key":"K"}]}`,
	imported: `{"scope":{"project":"web","domain":"development"},` +
		`"secrets":[{"name":"NEW2","value":"dg=="}]}`,
}

// Without an audit line nothing is done, answered or even denied. When the disk has room
// again, everything works as before.
func TestAuditFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	log, err := serve.OpenAudit(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, log.Close()) })
	r := start(t, matrixPolicy, func(o *serve.Options) { o.Audit = log })
	ref := secret.Ref{Scope: webDevelopment, Key: "K"}
	value := r.seedAt(ref)
	callers := map[string]*http.Client{
		"platform": r.client(certOf(r.Authority, "platform", "spiffe://example.org/platform/p")),
		"task": r.client(
			certOf(r.Authority, "task", "spiffe://example.org/project/web/domain/development/task/t"),
		),
		"elsewhere": r.client(certOf(r.Authority, "elsewhere", "spiffe://example.org/elsewhere")),
	}
	require.Equal(t, http.StatusOK, r.ask(callers["task"], resolve, everyVerb[resolve]).status)

	require.NoError(t, os.Rename(path, path+".1"))
	require.NoError(t, os.Symlink("/dev/full", path))
	require.NoError(t, log.Reopen())
	failures := 0.0
	for name, c := range callers {
		for method, body := range everyVerb {
			for _, body := range []string{body, strings.ReplaceAll(strings.ReplaceAll(body, `"K"`, `"no key"`),
				"NEW", "no key")} {
				a := r.ask(c, method, body)
				if name == "nobody" { // a request without credentials has no line
					require.Equal(t, http.StatusUnauthorized, a.status)
					continue
				}
				require.Equalf(t, http.StatusServiceUnavailable, a.status, "%s, %s: %s", name, method, a.raw)
				require.Equal(t, "unavailable", a.body["code"])
				require.Contains(t, a.body["message"], "store unavailable")
				failures++
			}
		}
	}
	require.ErrorIs(t, log.Err(), syscall.ENOSPC)
	require.Error(t, log.Probe(t.Context()))
	require.InDelta(t, failures, metric(t, r.registry, "inject_audit_errors_total"), 0)
	require.Equal(t, []secret.Ref{ref}, everything(t, r))
	requireValueAt(t, r, ref, value)

	require.NoError(t, os.Remove(path))
	require.NoError(t, log.Reopen())
	require.NoError(t, log.Probe(t.Context()))
	require.NoError(t, log.Err())
	for name, want := range map[string]int{
		"task": http.StatusOK, "elsewhere": http.StatusForbidden,
	} {
		require.Equal(t, want, r.ask(callers[name], resolve, everyVerb[resolve]).status)
	}
	for method, body := range everyVerb {
		if method != resolve {
			require.Equal(t, http.StatusOK, r.ask(callers["platform"], method, body).status, method)
			if method == secrets+"DeleteSecret" {
				r.seedAt(ref)
			}
		}
	}
	lines := 0
	for _, file := range []string{path + ".1", path} {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		for line := range strings.Lines(string(b)) {
			require.True(t, json.Valid([]byte(line)))
			lines++
		}
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode())
	}
	require.Equal(t, 1+1+2+6+4, lines, "four of the six are changes, which have a second line")
}

// A partly written line does not damage the next one.
func TestAuditCutLine(t *testing.T) {
	r := start(t, matrixPolicy, nil)
	client := r.client(certOf(r.Authority, "platform", "spiffe://example.org/platform/p"))
	list := func() int { return r.ask(client, secrets+"ListSecrets", `{}`).status }
	require.Equal(t, http.StatusOK, list())
	for _, room := range []int{0, 1, 100} {
		r.audit.setRoom(room)
		require.Equal(t, http.StatusServiceUnavailable, list())
		require.Equal(t, http.StatusServiceUnavailable, list())
		r.audit.setRoom(-1)
		require.Equal(t, http.StatusOK, list())
	}
	whole, cut := 0, 0
	for line := range strings.Lines(r.audit.String()) {
		if json.Valid([]byte(line)) {
			whole++
		} else {
			cut++
		}
	}
	require.Equal(t, 4, whole)
	require.Equal(t, 2, cut)
}

// Neither does one that another process left, or one from before the file is reopened.
func TestAuditCutLineOfBefore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	const fragment = `{"time":"2026-0`
	require.NoError(t, os.WriteFile(path, []byte(fragment), 0o600))
	log, err := serve.OpenAudit(path)
	require.NoError(t, err)
	r := start(t, matrixPolicy, func(o *serve.Options) { o.Audit = log })
	client := r.client(certOf(r.Authority, "platform", "spiffe://example.org/platform/p"))
	list := func() { require.Equal(t, http.StatusOK, r.ask(client, secrets+"ListSecrets", `{}`).status) }
	list()
	require.NoError(t, log.Reopen())
	list()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	_, err = f.WriteString(fragment)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, log.Reopen())
	list()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var valid []bool
	for line := range strings.Lines(string(b)) {
		valid = append(valid, json.Valid([]byte(line)))
	}
	require.Equal(t, []bool{false, true, true, false, true}, valid)
}
