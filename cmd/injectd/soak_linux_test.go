package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/store/sealed"
)

// A soak is a server, its clients, and what the clients know of the store.
type soak struct {
	*searcher

	dir, storeDir, auditDir string // the last two are small disks of their own
	server                  *process
	proxy                   *proxy

	mu      sync.Mutex
	secrets map[secret.Ref]*history
	names   []secret.Ref    // of secrets, to choose from
	told    map[string]bool // what clients were told when something failed
	imports [][]secret.Ref  // those without an answer
	changes map[string]int  // that were acknowledged, by verb and key

	answered, refused atomic.Int64
	ended             chan struct{} // closed when the clients shall stop
	stopping          atomic.Bool   // the server was asked to
}

func (s *soak) storePath() string { return filepath.Join(s.storeDir, "secrets.db") }

// TestSoak runs a server with 24 clients through every fault that we know. Everything that the
// clients were told stays true, and no value appears outside of the store and the answers.
func TestSoak(t *testing.T) {
	rounds, answers := 2, int64(300)
	if testing.Short() {
		rounds, answers = 1, 20
	}
	dir := t.TempDir()
	s := &soak{
		dir: dir, storeDir: filepath.Join(dir, "store"), auditDir: filepath.Join(dir, "audit"), searcher: newSearcher(),
		secrets: map[secret.Ref]*history{}, told: map[string]bool{}, changes: map[string]int{},
		ended: make(chan struct{}),
	}
	smallDisk(t, s.storeDir, "128m")
	smallDisk(t, s.auditDir, "64m")
	before := goleak.IgnoreCurrent()
	require.NoError(t, makePKI(t, filepath.Join(dir, "pki")))
	require.NoError(t, makePKI(t, filepath.Join(dir, "pki2")))
	replace(t, filepath.Join(dir, "ca.pem"), read(t, filepath.Join(dir, "pki", "ca.pem"))+
		read(t, filepath.Join(dir, "pki2", "ca.pem")))
	for _, file := range []string{"server.pem", "server.key"} {
		replace(t, filepath.Join(dir, file), read(t, filepath.Join(dir, "pki", file)))
	}
	replace(t, filepath.Join(dir, "policy.yaml"), soakPolicy(false))
	c := &conductor{
		soak: s, t: t, http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
		keyFile: filepath.Join(dir, "key.txt"),
	}
	var err error
	s.server, err = startServer(dir, []string{"HOME=" + dir}, "--store", "file://"+s.storePath(),
		"--key-file", c.keyFile, "--policy", "policy.yaml",
		"--cert-file", "server.pem", "--cert-key-file", "server.key", "--client-ca-file", "ca.pem",
		"--audit-log", filepath.Join(s.auditDir, "audit.log"), "--rate", "0", "--audit-rate", "0",
		"--log-level", "debug")
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = s.server.cmd.Process.Kill()
		<-s.server.ended
		if log := s.server.stderr.String(); t.Failed() {
			t.Log(log[max(0, len(log)-20_000):])
		}
	})
	s.proxy = newProxy(t, s.server.host)
	t.Cleanup(s.proxy.close)

	group, ctx := errgroup.WithContext(t.Context())
	c.ctx = ctx
	c.platform, c.task, c.other = s.client(t, s.server.host(), "platform"), s.client(t, s.server.host(), "task"),
		s.client(t, s.server.host(), "other")
	ended := sync.OnceFunc(func() { close(s.ended) })
	defer ended()
	address := s.proxy.port.Addr().String()
	var clients []*rpc.Client
	start := func(n int, name string, do func(i int, c *rpc.Client) func(context.Context) error) {
		for i := range n {
			client := s.client(t, address, name)
			clients = append(clients, client)
			one := do(i, client)
			group.Go(func() error { return s.repeat(ctx, one) })
		}
	}
	start(8, "platform", func(i int, c *rpc.Client) func(context.Context) error {
		return (&manager{soak: s, client: c, name: fmt.Sprintf("M%d", i)}).one
	})
	start(11, "task", func(_ int, c *rpc.Client) func(context.Context) error {
		return func(ctx context.Context) error { return s.resolve(ctx, c, true) }
	})
	start(2, "task", func(_ int, c *rpc.Client) func(context.Context) error {
		return func(ctx context.Context) error { return s.resolve(ctx, c, false) }
	})
	start(2, "platform", func(_ int, c *rpc.Client) func(context.Context) error {
		return func(ctx context.Context) error { return s.list(ctx, c) }
	})
	start(1, "other", func(_ int, c *rpc.Client) func(context.Context) error {
		return func(ctx context.Context) error { return s.denied(ctx, c) }
	})
	require.Len(t, clients, 24)

	c.progress(answers)
	for c.rounds = range rounds {
		for _, fault := range c.all() {
			began := s.answered.Load()
			fault.make()
			c.progress(answers)
			c.until("it is ready", c.ready)
			c.get("/metrics")
			c.faults = append(c.faults, fault.name)
			t.Logf("%s: %d answers, %d refused in all", fault.name, s.answered.Load()-began, s.refused.Load())
		}
	}
	s.stopping.Store(true)
	require.NoError(t, s.server.stop(syscall.SIGTERM), s.server.stderr)
	ended()
	require.NoError(t, group.Wait())
	c.ctx = t.Context()
	for _, client := range append(clients, c.platform, c.task, c.other) {
		require.NoError(t, client.Close())
	}
	s.proxy.close()
	goleak.VerifyNone(t, before)

	s.checkStore(t, c.keyFile)
	s.checkAudit(t)
	c.injectd("doctor", "--insecure", "--store", "file://"+s.storePath(), "--key-file", c.keyFile)
	s.searcher.clean(t, "the log", []byte(s.server.stderr.String()))
	require.Empty(t, s.server.stdout.String())
	s.searcher.clean(t, "what operations and maintenance say", c.said.Bytes())
	s.searcher.clean(t, "errors", []byte(strings.Join(slices.Collect(maps.Keys(s.told)), "\n")))
	s.searcher.cleanFile(t, s.storePath())
	for round := range rounds {
		s.searcher.cleanFile(t, filepath.Join(dir, fmt.Sprintf("backup%d.db", round)))
		s.searcher.cleanFile(t, filepath.Join(s.auditDir, fmt.Sprintf("audit.log.%d", round)))
	}
	s.searcher.cleanFile(t, filepath.Join(s.auditDir, "audit.log"))
	t.Logf("%d answers and %d that were refused for %d faults; %d connections were cut; %d secrets, %d changes; %d "+
		"errors of clients",
		s.answered.Load(), s.refused.Load(), len(c.faults), s.proxy.cuts.Load(), len(s.secrets), len(s.changes),
		len(s.told))
}

// checkStore expects every acknowledged change in the store, and of those under way all or
// nothing.
func (s *soak) checkStore(t *testing.T, keyFile string) {
	t.Helper()
	file, err := sealed.Open(t.Context(), sealed.Options{Path: s.storePath(), Key: sealed.Key{File: keyFile}})
	require.NoError(t, err)
	there := 0
	made := map[secret.Ref]bool{}
	for ref, h := range s.secrets {
		v, _, err := file.Get(t.Context(), ref)
		is := func(b []byte) bool { return b == nil }
		if err == nil {
			there++
			got := v.Reveal() // to compare it
			is = func(b []byte) bool { return b != nil && bytes.Equal(b, got) }
		} else {
			require.ErrorIs(t, err, secret.ErrNotFound)
		}
		told, _ := h.mark()
		require.Truef(t, h.may(told, is), "%v is nothing that it can be", ref)
		made[ref] = err == nil
	}
	for _, refs := range s.imports {
		for _, ref := range refs {
			require.Equalf(t, made[refs[0]], made[ref], "of an import there is %v or there is %v", refs[0], ref)
		}
	}
	n, err := file.Verify(t.Context())
	require.NoError(t, err)
	require.Equal(t, there, n, "nothing else is there")
	require.NoError(t, file.Close())
}

// checkAudit expects an audit line for each acknowledged change.
func (s *soak) checkAudit(t *testing.T) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(s.auditDir, "audit.log*"))
	require.NoError(t, err)
	allowed := map[string]int{}
	cut := 0
	for _, path := range paths {
		for line := range strings.Lines(read(t, path)) {
			var r struct {
				Verb, Key, Decision, Outcome string
				Secrets                      []struct{ Key string }
			}
			if json.Unmarshal([]byte(line), &r) != nil {
				cut++ // there was no room for all of it
				continue
			}
			if r.Decision != "allowed" || r.Outcome != "" {
				continue
			}
			allowed[r.Verb+" "+r.Key]++
			for _, one := range r.Secrets {
				allowed[r.Verb+" "+one.Key]++
			}
		}
	}
	require.LessOrEqual(t, cut, len(paths), "only a disk that is full cuts a line")
	for change, n := range s.changes {
		require.GreaterOrEqualf(t, allowed[change], n, "lines of %s", change)
	}
}
