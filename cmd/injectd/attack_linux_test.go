package main_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
	"inject/internal/harness/attack"
	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/serve/transport"
	"inject/resolver/store"
	"inject/resolver/store/sealed"
)

// attackPolicy lets an attacker do what any task and any reader of lists may.
const attackPolicy = `version: 1
rules:
- name: tasks
  identity: {spiffe: "spiffe://example.org/project/{project}/domain/{domain}"}
  resolve: {project: "{project}", domain: "{domain}"}
  list: [{project: "{project}", domain: "{domain}"}]
`

// mostMemory is what a server may take at most while it is attacked, in bytes. Its collector is as
// injectd sets it: the tests set neither GOMEMLIMIT nor GOGC.
const mostMemory = 200 << 20

// An attacked server, and the files of its clients.
type attacked struct {
	*process

	pki    *harness.Authority
	values map[string][]byte // of the victim's keys
}

func startAttacked(t *testing.T, flags ...string) *attacked {
	t.Helper()
	dir := t.TempDir()
	a := &attacked{pki: harness.NewAuthority(t, filepath.Join(dir, "pki")), values: map[string][]byte{}}
	a.pki.Issue("server", harness.Local)
	a.pki.Issue("attacker", a.pki.SPIFFE("spiffe://example.org/project/attacker/domain/d"))
	a.pki.Issue("victim", a.pki.SPIFFE("spiffe://example.org/project/victim/domain/d"))
	s, err := sealed.Open(t.Context(), sealed.Options{
		Path: filepath.Join(dir, "secrets.db"), Write: true, Key: sealed.Key{File: filepath.Join(dir, "key.txt")},
	})
	require.NoError(t, err)
	var all []store.New
	add := func(project, key string, size int) []byte {
		b := make([]byte, size)
		_, _ = rand.Read(b)
		all = append(all, store.New{
			Ref:   secret.Ref{Scope: secret.Scope{Org: secret.DefaultOrg, Project: project, Domain: "d"}, Key: key},
			Value: secret.NewValue(b),
		})
		return b
	}
	for i := range 32 {
		add("attacker", fmt.Sprintf("LARGE_%d", i), 1<<20)
	}
	for i := range 2000 {
		add("attacker", fmt.Sprintf("SMALL_%d", i), 40)
	}
	for i := range 5 {
		key := fmt.Sprintf("VICTIM_%d", i)
		a.values[key] = add("victim", key, 40)
	}
	require.NoError(t, s.Import(t.Context(), all))
	require.NoError(t, s.Close())
	policy := filepath.Join(dir, "policy.yaml")
	require.NoError(t, os.WriteFile(policy, []byte(attackPolicy), 0o600))
	environ := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GO") })
	a.process, err = startServer(dir, environ, append(flags, "--store", "file://"+filepath.Join(dir, "secrets.db"),
		"--key-file", filepath.Join(dir, "key.txt"), "--policy", policy, "--audit-log", filepath.Join(dir, "audit.log"),
		"--cert-file", a.pki.Path("server.pem"), "--cert-key-file", a.pki.Path("server.key"),
		"--client-ca-file", a.pki.CA())...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = a.stop(os.Kill) })
	return a
}

// victim returns a new client, with a connection of its own.
func (a *attacked) victim(t *testing.T) *rpc.Client {
	t.Helper()
	c, err := rpc.Open(rpc.Options{
		Address: a.host(), TLS: true, CAFile: a.pki.CA(), CertFile: a.pki.Path("victim.pem"),
		KeyFile: a.pki.Path("victim.key"), Timeout: 30 * time.Second,
	})
	require.NoError(t, err)
	return c
}

// serves sends each kind of request of the victim, on c and on a new connection. It returns the
// longest time until an answer.
func (a *attacked) serves(t *testing.T, c *rpc.Client) time.Duration {
	t.Helper()
	fresh := a.victim(t)
	defer fresh.Close() //nolint:errcheck // a test's
	scope := secret.Scope{Org: secret.DefaultOrg, Project: "victim", Domain: "d"}
	var declared []secret.Declaration
	for key := range a.values {
		declared = append(declared, secret.Declaration{Key: key})
	}
	resolve := func(c *rpc.Client) error {
		climbs, err := c.Climb(t.Context(), scope, declared)
		for _, climb := range climbs {
			require.NoError(t, climb.Err)
			require.Equal(t, a.values[climb.Declaration.Key], climb.Value.Reveal())
		}
		return err
	}
	var longest time.Duration
	for name, ask := range map[string]func() error{
		"resolve":      func() error { return resolve(c) },
		"resolve anew": func() error { return resolve(fresh) },
		"list": func() error {
			f := store.Filter{Org: scope.Org, Project: scope.Project, Domain: scope.Domain}
			_, _, err := c.List(t.Context(), f, 3, "")
			return err
		},
		"whoami": func() error { _, err := c.WhoAmI(t.Context()); return err },
	} {
		begin := time.Now()
		require.NoError(t, ask(), name)
		longest = max(longest, time.Since(begin))
	}
	return longest
}

// peak returns the most memory that the server has had, in bytes, as the kernel counts it.
func (a *attacked) peak(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.cmd.Process.Pid))
	require.NoError(t, err)
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	require.NotNil(t, found)
	kib, err := strconv.Atoi(string(found[1]))
	require.NoError(t, err)
	return kib << 10
}

// exhausted returns the metric of refused requests, by resource.
func (a *attacked) exhausted(t *testing.T) map[string]float64 {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+a.ops+"/metrics", nil)
	require.NoError(t, err)
	answer, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer answer.Body.Close() //nolint:errcheck // read whole
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	all := map[string]float64{}
	for _, m := range regexp.MustCompile(`(?m)^inject_exhausted_total\{resource="(\w+)"\} (\S+)$`).
		FindAllStringSubmatch(string(text), -1) {
		all[m[1]], err = strconv.ParseFloat(m[2], 64)
		require.NoError(t, err)
	}
	return all
}

// lowered are bounds that an attacker of low priority would reach late.
var lowered = map[string][]string{
	"rate":        {"--rate", "400", "--rate-burst", "2000"}, // more than the victim's rounds ask for
	"audit lines": {"--audit-rate", "65536", "--audit-burst", "1048576"},
}

// brief are the attacks of the short tests, one for each kind of resource: bodies, processors,
// answers, connections and frames.
var brief = []string{
	"bodies that do not end", "climbs", "windows that stay closed", "connections without credentials", "rapid reset",
}

// TestAttacks exceeds each bound of a server, one at a time, while another identity is served. The
// attacker is a process of its own with the lowest priority.
func TestAttacks(t *testing.T) {
	rounds, all := 50, attack.All
	if testing.Short() {
		rounds = 5
		all = slices.DeleteFunc(slices.Clone(all), func(a attack.Attack) bool {
			return !slices.Contains(brief, a.Name)
		})
		require.Len(t, all, len(brief))
	}
	for _, one := range all {
		t.Run(one.Name, func(t *testing.T) {
			a := startAttacked(t, lowered[one.Name]...)
			victim := a.victim(t)
			defer victim.Close() //nolint:errcheck // a test's
			a.serves(t, victim)
			running, err := attack.Start(t.Context(), attack.Target{
				Address: a.host(), CAFile: a.pki.CA(), CertFile: a.pki.Path("attacker.pem"),
				KeyFile: a.pki.Path("attacker.key"),
			}, one.Name)
			require.NoError(t, err)

			begin, longest := time.Now(), time.Duration(0)
			for round := 0; round < rounds || !a.exceeded(t, one, running); round++ {
				require.Less(t, time.Since(begin), 5*time.Minute, "the attack does not exceed its bound")
				took := a.serves(t, victim)
				// The machine may be busy with something else for a moment, so a slow round is repeated.
				for try := 1; took >= time.Second; try++ {
					t.Logf("an answer took %v", took)
					require.Less(t, try, 5, "others wait for the attacker")
					took = a.serves(t, victim)
				}
				longest = max(longest, took)
			}
			so, err := running.Result()
			require.NoError(t, err)
			require.NoError(t, running.Stop())
			peak := a.peak(t)
			t.Logf("%d MiB; at most %v; %+v; %v", peak>>20, longest, so, a.exhausted(t))
			require.Less(t, peak, mostMemory)
			a.serves(t, victim)
		})
	}
}

// An identity with too many connections loses an idle one, and not with the default bound.
func TestConnectionsOfAnIdentity(t *testing.T) {
	for flags, lost := range map[string]bool{"--max-identity-connections=1": true, "--max-streams=100": false} {
		t.Run(flags, func(t *testing.T) {
			a := startAttacked(t, flags)
			pair, err := tls.LoadX509KeyPair(a.pki.Path("victim.pem"), a.pki.Path("victim.key"))
			require.NoError(t, err)
			ca, err := os.ReadFile(a.pki.CA())
			require.NoError(t, err)
			roots := x509.NewCertPool()
			require.True(t, roots.AppendCertsFromPEM(ca))
			first := &http.Transport{TLSClientConfig: &tls.Config{
				Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS13,
			}}
			defer first.CloseIdleConnections()
			reused := func() (reused bool) {
				ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
					GotConn: func(got httptrace.GotConnInfo) { reused = got.Reused },
				})
				r, err := http.NewRequestWithContext(ctx, http.MethodPost,
					"https://"+a.host()+"/inject.v1.WhoAmIService/WhoAmI", strings.NewReader("{}"))
				require.NoError(t, err)
				r.Header.Set("Content-Type", "application/json")
				answer, err := first.RoundTrip(r)
				require.NoError(t, err)
				_, err = io.Copy(io.Discard, answer.Body)
				require.NoError(t, err)
				require.NoError(t, answer.Body.Close())
				require.Equal(t, http.StatusOK, answer.StatusCode)
				return reused
			}
			require.False(t, reused())
			require.True(t, reused())
			time.Sleep(100 * time.Millisecond) // until the server sees that the connection is idle
			second := a.victim(t)
			defer second.Close() //nolint:errcheck // a test's
			_, err = second.WhoAmI(t.Context())
			require.NoError(t, err)
			time.Sleep(500 * time.Millisecond) // until the client sees that its connection was closed
			require.Equal(t, !lost, reused())
		})
	}
}

// exceeded reports whether the attack has met its bound: the server refuses more, has ended a
// connection, or reads less than the attacker sends.
func (a *attacked) exceeded(t *testing.T, one attack.Attack, running *attack.Running) bool {
	t.Helper()
	before, err := running.Result()
	require.NoError(t, err)
	if one.Bound == "scan" && before.Answers["200"] > 2000 {
		// Lists cost so little that each has its turn in time: the test of serve has a slow store.
		return true
	}
	if one.Bound != "" {
		return a.exhausted(t)[one.Bound] > 0
	}
	if before.Ended > 0 {
		return true
	}
	time.Sleep(time.Second)
	after, err := running.Result()
	require.NoError(t, err)
	return before.Bytes > transport.InputBurst && after.Bytes-before.Bytes < 4*transport.InputRate
}
