package main_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"inject/internal/harness"
	"inject/internal/harness/attack"
	"inject/resolver/secret"
	"inject/resolver/serve/transport"
	"inject/resolver/store"
	"inject/resolver/store/sealed"
)

// attackPolicy lets an attacker do what any task and any reader of lists may. The scopes that the
// attacker may list have no secrets, so each of its lists reads those that it may not see.
const attackPolicy = `version: 1
rules:
- name: attacker
  identity: {spiffe: "spiffe://example.org/project/attacker/domain/d"}
  resolve: {project: attacker, domain: d}
  list: [{project: "attacker-*", domain: d}]
- name: tasks
  identity: {spiffe: "spiffe://example.org/project/{project}/domain/{domain}"}
  resolve: {project: "{project}", domain: "{domain}"}
  list: [{project: "{project}", domain: "{domain}"}]
`

// mostMemory is what a server may take at most while it is attacked, in bytes. Its collector is as
// injectd sets it: the tests set neither GOMEMLIMIT nor GOGC.
const mostMemory = 200 << 20

// A stand is a server with the secrets of a victim.
type stand struct {
	*process

	pki    *harness.Authority
	audit  string
	values [][]byte // of the victim's keys, VICTIM_0 and so on
}

func newAuthority(t *testing.T) *harness.Authority {
	t.Helper()
	pki := harness.NewAuthority(t, filepath.Join(t.TempDir(), "pki"))
	pki.Issue("server", harness.Local)
	pki.Issue("attacker", pki.SPIFFE("spiffe://example.org/project/attacker/domain/d"))
	pki.Issue("victim", pki.SPIFFE("spiffe://example.org/project/victim/domain/d"))
	return pki
}

// A holding is how many secrets of some size a project has. Their keys are the prefix and a number.
type holding struct {
	project, prefix string
	n, size         int
}

// forAttackers are the secrets that attacks ask for.
var forAttackers = []holding{{"attacker", "LARGE_", 32, 1 << 20}, {"attacker", "SMALL_", 2000, 40}}

// startStand starts a server with the secrets of the victim and those of others.
func startStand(t *testing.T, pki *harness.Authority, others []holding, flags ...string) *stand {
	t.Helper()
	dir := t.TempDir()
	st := &stand{pki: pki, audit: filepath.Join(dir, "audit.log")}
	s, err := sealed.Open(t.Context(), sealed.Options{
		Path: filepath.Join(dir, "secrets.db"), Write: true, Key: sealed.Key{File: filepath.Join(dir, "key.txt")},
	})
	require.NoError(t, err)
	var all []store.New
	for _, h := range append([]holding{{"victim", "VICTIM_", 5, 40}}, others...) {
		for i := range h.n {
			b := make([]byte, h.size)
			_, _ = rand.Read(b)
			all = append(all, store.New{
				Ref: secret.Ref{
					Scope: secret.Scope{Org: secret.DefaultOrg, Project: h.project, Domain: "d"},
					Key:   h.prefix + strconv.Itoa(i),
				},
				Value: secret.NewValue(b),
			})
			if h.project == "victim" {
				st.values = append(st.values, b)
			}
		}
	}
	require.NoError(t, s.Import(t.Context(), all))
	require.NoError(t, s.Close())
	policy := filepath.Join(dir, "policy.yaml")
	require.NoError(t, os.WriteFile(policy, []byte(attackPolicy), 0o600))
	environ := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GO") })
	st.process, err = startServer(dir, environ, append(flags, "--store", "file://"+filepath.Join(dir, "secrets.db"),
		"--key-file", filepath.Join(dir, "key.txt"), "--policy", policy, "--audit-log", st.audit,
		"--cert-file", pki.Path("server.pem"), "--cert-key-file", pki.Path("server.key"),
		"--client-ca-file", pki.CA())...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = st.stop(os.Kill) })
	return st
}

// client returns an HTTP client of the victim with connections of its own, which dial opens, or the
// default if it is nil.
func (st *stand) client(
	t *testing.T, dial func(ctx context.Context, network, address string) (net.Conn, error),
) *http.Client {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(st.pki.Path("victim.pem"), st.pki.Path("victim.key"))
	require.NoError(t, err)
	c := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{
			Certificates: []tls.Certificate{pair}, RootCAs: st.pki.Pool(), MinVersion: tls.VersionTLS13,
		},
		ForceAttemptHTTP2: true, DialContext: dial,
	}}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// ask sends a request and returns the body of its answer, or an error if that is not 200.
func (st *stand) ask(ctx context.Context, c *http.Client, method, body string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+st.host()+"/"+method,
		struct{ io.Reader }{strings.NewReader(body)}) // of a kind that net/http cannot send again
	if err != nil {
		return nil, err
	}
	r.ContentLength = int64(len(body))
	r.Header.Set("Content-Type", "application/json")
	answer, err := c.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close() //nolint:errcheck // read whole
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, text)
	}
	return text, err
}

// resolves asks for all values of the victim.
func (st *stand) resolves(ctx context.Context, c *http.Client) error {
	keys := make([]string, len(st.values))
	for i := range keys {
		keys[i] = fmt.Sprintf(`{"key":"VICTIM_%d"}`, i)
	}
	text, err := st.ask(ctx, c, "inject.v1.ResolveService/Resolve", `{"secrets":[`+strings.Join(keys, ",")+`]}`)
	if err != nil {
		return err
	}
	var answer struct {
		Climbs []struct{ Found struct{ Value []byte } }
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return err
	}
	if len(answer.Climbs) != len(st.values) {
		return fmt.Errorf("%d values, not %d", len(answer.Climbs), len(st.values))
	}
	for i, c := range answer.Climbs {
		if !bytes.Equal(c.Found.Value, st.values[i]) {
			return fmt.Errorf("another value of VICTIM_%d", i)
		}
	}
	return nil
}

// wants are the requests of a victim, on a connection that it has and on a new one.
var wants = []struct {
	name string
	anew bool
	ask  func(context.Context, *stand, *http.Client) error
}{
	{"resolve", false, func(ctx context.Context, st *stand, c *http.Client) error { return st.resolves(ctx, c) }},
	{"resolve anew", true, func(ctx context.Context, st *stand, c *http.Client) error { return st.resolves(ctx, c) }},
	{"list", false, func(ctx context.Context, st *stand, c *http.Client) error {
		text, err := st.ask(ctx, c, "flyteidl2.secret.SecretService/ListSecrets",
			`{"organization":"flyte","project":"victim","domain":"d","limit":3}`)
		if err == nil && bytes.Count(text, []byte("VICTIM_")) != 3 {
			err = fmt.Errorf("another list: %s", text)
		}
		return err
	}},
	{"whoami", false, func(ctx context.Context, st *stand, c *http.Client) error {
		_, err := st.ask(ctx, c, "inject.v1.WhoAmIService/WhoAmI", "{}")
		return err
	}},
}

// A victim asks the attacked server, and at the same moment for the same thing a spared one, which
// nothing else asks. What both of them are slow with is the fault of the machine, which may be busy
// with anything or stand still; so is the time during which the attacked server was ready to run and
// other programs had the processors. All else is the fault of the attack.
type victim struct {
	attacked, spared *stand
	kept             map[*stand]*http.Client
}

func newVictim(t *testing.T, attacked, spared *stand) *victim {
	t.Helper()
	return &victim{attacked, spared, map[*stand]*http.Client{
		attacked: attacked.client(t, nil), spared: spared.client(t, nil),
	}}
}

// slowest are the slowest answers of some rounds.
type slowest struct{ answer, spared, fault time.Duration }

// String returns the times for a log.
func (s slowest) String() string {
	return fmt.Sprintf("%v (spared %v, fault of the attack %v)", s.answer, s.spared, s.fault)
}

// serves sends each kind of request. All must be answered as if there were no attack, within a
// second beside what is the fault of the machine.
func (v *victim) serves(t *testing.T, so *slowest) {
	t.Helper()
	for _, want := range wants {
		var took [2]time.Duration
		var both errgroup.Group
		waited := v.attacked.waited(t)
		for i, st := range []*stand{v.attacked, v.spared} {
			client := v.kept[st]
			if want.anew {
				client = st.client(t, nil)
			}
			both.Go(func() error {
				begin := time.Now()
				err := want.ask(t.Context(), st, client)
				took[i] = time.Since(begin)
				if want.anew {
					client.CloseIdleConnections()
				}
				return err
			})
		}
		require.NoError(t, both.Wait(), want.name)
		waited = v.attacked.waited(t) - waited
		fault := took[0] - max(took[1], waited)
		so.answer, so.spared, so.fault = max(so.answer, took[0]), max(so.spared, took[1]), max(so.fault, fault)
		require.Less(t, fault, time.Second, "%s: %v, and %v of the server that is not attacked; %v without a processor",
			want.name, took[0], took[1], waited)
	}
}

// waited returns for how long the server has waited for processors that others had, as the kernel
// counts it. It adds up the times of all threads; several threads may wait at the same time.
func (st *stand) waited(t *testing.T) time.Duration {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", st.cmd.Process.Pid))
	require.NoError(t, err)
	var all time.Duration
	for _, path := range threads {
		var ran, waited, turns int64 // see the kernel's Documentation/scheduler/sched-stats.rst
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) { // the thread has ended
			continue
		}
		require.NoError(t, err)
		_, err = fmt.Sscan(string(text), &ran, &waited, &turns)
		require.NoError(t, err)
		all += time.Duration(waited)
	}
	return all / time.Duration(runtime.GOMAXPROCS(0))
}

// peak returns the most memory that the server has had, in bytes, as the kernel counts it.
func (st *stand) peak(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", st.cmd.Process.Pid))
	require.NoError(t, err)
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	require.NotNil(t, found)
	kib, err := strconv.Atoi(string(found[1]))
	require.NoError(t, err)
	return kib << 10
}

// exhausted returns the metric of refused requests, by resource.
func (st *stand) exhausted(t *testing.T) map[string]float64 {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+st.ops+"/metrics", nil)
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
	pki := newAuthority(t)
	spared := startStand(t, pki, nil)
	for _, one := range all {
		t.Run(one.Name, func(t *testing.T) {
			others, flags := forAttackers, []string(nil)
			switch one.Bound {
			case "scan":
				others = append([]holding{{"hidden", "HIDDEN_", 32000, 40}}, others...)
			case "audit": // which is large for an attacker of low priority
				flags = []string{"--audit-rate", "65536", "--audit-burst", "1048576"}
			}
			a := startStand(t, pki, others, flags...)
			v := newVictim(t, a, spared)
			var calm, before, under slowest
			for range rounds {
				v.serves(t, &calm)
			}
			running, err := attack.Start(t.Context(), attack.Target{
				Address: a.host(), CAFile: a.pki.CA(), CertFile: a.pki.Path("attacker.pem"),
				KeyFile: a.pki.Path("attacker.key"),
			}, one.Name)
			require.NoError(t, err)
			begin := time.Now()
			// exceeds serves rounds until the attack has exceeded its bound once more.
			exceeds := func(so *slowest, rounds int) {
				before := a.excess(t, one, running)
				for round := 0; round < rounds || !a.exceeded(t, one, running, before, begin); round++ {
					require.Less(t, time.Since(begin), 5*time.Minute, "the attack does not exceed its bound")
					v.serves(t, so)
				}
			}
			exceeds(&before, 1)
			exceeds(&under, rounds)
			so, err := running.Result()
			require.NoError(t, err)
			require.NoError(t, running.Stop())
			peak := a.peak(t)
			t.Logf("%d MiB; calm %v, then %v and %v; %+v; %v", peak>>20, calm, before, under, so, a.exhausted(t))
			require.Less(t, peak, mostMemory)
			a.refusedNone(t, rounds)
		})
	}
}

// refusedNone looks into the audit log for what the server did not allow the victim.
func (st *stand) refusedNone(t *testing.T, rounds int) {
	t.Helper()
	log, err := os.ReadFile(st.audit)
	require.NoError(t, err)
	decisions := map[string]int{}
	for line := range bytes.Lines(log) {
		var r struct{ Who, Decision, Outcome string }
		require.NoError(t, json.Unmarshal(line, &r))
		if strings.Contains(r.Who, "/victim/") {
			decisions[r.Decision]++
		}
	}
	require.GreaterOrEqual(t, decisions["allowed"], 2*rounds*len(wants))
	require.Len(t, decisions, 1, decisions)
}

// An identity with too many connections loses an idle one, and not with the default bound.
func TestConnectionsOfAnIdentity(t *testing.T) {
	for flags, lost := range map[string]bool{"--max-identity-connections=1": true, "--max-streams=100": false} {
		t.Run(flags, func(t *testing.T) {
			st := startStand(t, newAuthority(t), nil, flags)
			dials, ended := 0, make(chan struct{})
			first := st.client(t, func(ctx context.Context, network, address string) (net.Conn, error) {
				dials++
				c, err := (&net.Dialer{}).DialContext(ctx, network, address)
				return &noticed{c, sync.OnceFunc(func() { close(ended) })}, err
			})
			for range 2 {
				require.NoError(t, st.resolves(t.Context(), first))
			}
			require.Equal(t, 1, dials)
			second := st.client(t, nil)
			// The server may not have seen yet that the first connection is idle.
			require.Eventually(t, func() bool { return st.resolves(t.Context(), second) == nil },
				time.Minute, 10*time.Millisecond)
			if lost {
				select {
				case <-ended:
				case <-time.After(time.Minute):
					t.Fatal("the idle connection stays")
				}
				return
			}
			require.NoError(t, st.resolves(t.Context(), first))
			require.Equal(t, 1, dials)
		})
	}
}

// A noticed connection tells when it has ended.
type noticed struct {
	net.Conn

	ended func()
}

func (n *noticed) Read(p []byte) (int, error) {
	size, err := n.Conn.Read(p)
	if err != nil {
		n.ended()
	}
	return size, err
}

// excess returns how many requests the server has refused because of the attack's bound, or how many
// of its connections the server has ended.
func (st *stand) excess(t *testing.T, one attack.Attack, running *attack.Running) float64 {
	t.Helper()
	if one.Bound != "" {
		return st.exhausted(t)[one.Bound]
	}
	so, err := running.Result()
	require.NoError(t, err)
	return float64(so.Ended)
}

// exceeded reports whether the attack has exceeded its bound since excess was before, or has sent
// more than the server may have read since begin, so that the rest waits.
func (st *stand) exceeded(
	t *testing.T, one attack.Attack, running *attack.Running, before float64, begin time.Time,
) bool {
	t.Helper()
	if st.excess(t, one, running) > before {
		return true
	}
	so, err := running.Result()
	require.NoError(t, err)
	most := transport.InputBurst + time.Since(begin).Seconds()*transport.InputRate
	return one.Bound == "" && float64(so.Bytes) > most
}
