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
	"maps"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"inject/exec/redact"
	"inject/exec/redact/forms"
	"inject/internal/harness"
	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed"
)

// A history is what one secret was, in order. One client changes it; others read it.
type history struct {
	mu     sync.Mutex
	values [][]byte // nil where there was no secret, as at first
	told   int      // of values: the last that was acknowledged
}

func (h *history) begin(v []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.values = append(h.values, v)
}

// acknowledge is the end of a change. Without it the change may have been made or not,
// and may still be: then it is the last one.
func (h *history) acknowledge() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = len(h.values) - 1
}

// mark returns what a read that begins now may not go behind, and how much is known.
func (h *history) mark() (told, known int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.told, len(h.values)
}

// may reports whether a read that began when told had been acknowledged may end with v.
func (h *history) may(told int, is func(v []byte) bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.values[told:], is)
}

// A soak is a server, those who use it, and what they know.
type soak struct {
	dir, storeDir, auditDir string // the last two are small disks of their own
	server                  *process
	proxy                   *proxy
	searcher                *searcher

	mu      sync.Mutex
	secrets map[secret.Ref]*history
	names   []secret.Ref    // of secrets, to choose from
	told    map[string]bool // what clients were told when something failed
	imports [][]secret.Ref  // those of which nobody has said how they ended
	changes map[string]int  // that were acknowledged, by verb and key

	answered, refused atomic.Int64
	ended             chan struct{} // closed when the clients shall stop
	stopping          atomic.Bool   // the server was asked to
}

// value returns a value that no other secret has, and that is recognized wherever it, or
// the beginning of it, is found.
func (s *soak) value() []byte {
	sizes := []int{16, 16, 16, 200, 200, 3000, 30_000}
	b := make([]byte, sizes[mrand.IntN(len(sizes))])
	_, _ = rand.Read(b)
	core := s.searcher.cores[mrand.IntN(len(s.searcher.cores))]
	return slices.Concat(core, b, core)
}

// of returns the history of a secret, and begins it.
func (s *soak) of(ref secret.Ref) *history {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.secrets[ref]
	if h == nil {
		h = &history{values: [][]byte{nil}}
		s.secrets[ref] = h
		s.names = append(s.names, ref)
	}
	return h
}

func (s *soak) random() (secret.Ref, *history, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.names) == 0 {
		return secret.Ref{}, nil, false
	}
	// Of the latest ones mostly: the others are not changed any more.
	n := min(len(s.names), 200)
	ref := s.names[len(s.names)-1-mrand.IntN(n)]
	return ref, s.secrets[ref], true
}

// failed notes what a client was told. It reports whether that is what a fault, or the
// end, does to a request.
func (s *soak) failed(err error) bool {
	s.mu.Lock()
	s.told[fmt.Sprintf("%v\n%+v\n%#v\n%s", err, err, err, secret.Hint(err))] = true
	s.mu.Unlock()
	return errors.Is(err, secret.ErrUnavailable)
}

// repeat does something again and again until the clients shall stop. After what was
// not answered it waits, longer each time.
func (s *soak) repeat(ctx context.Context, do func(context.Context) error) error {
	pause := time.Duration(0)
	for {
		select {
		case <-s.ended:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		once, cancel := ctx, context.CancelFunc(func() {})
		if mrand.IntN(20) == 0 { // some do not wait for the answer
			once, cancel = context.WithTimeout(ctx, time.Duration(mrand.IntN(20_000))*time.Microsecond)
		}
		err := do(once)
		cancel()
		switch {
		case err == nil:
			s.answered.Add(1)
			pause = 0
		case errors.Is(err, secret.ErrUnavailable):
			if s.stopping.Load() {
				return nil
			}
			s.refused.Add(1)
			pause = min(pause*2+5*time.Millisecond, 100*time.Millisecond)
		default:
			return err
		}
	}
}

// A manager creates, updates and deletes secrets of its own.
type manager struct {
	*soak

	client  *rpc.Client
	name    string
	made    int
	present []secret.Ref
	absent  []secret.Ref // were deleted
}

// change makes a change of refs to values, which are nil to delete, with do.
func (m *manager) change(verb string, refs []secret.Ref, values [][]byte, do func() error) error {
	for i, ref := range refs {
		m.of(ref).begin(values[i])
	}
	err := do()
	if err != nil {
		m.failed(err)
		m.forget(refs)
		if len(refs) > 1 {
			m.mu.Lock()
			m.imports = append(m.imports, refs)
			m.mu.Unlock()
		}
		return err
	}
	for i, ref := range refs {
		m.of(ref).acknowledge()
		m.forget(refs[i : i+1])
		if values[i] == nil {
			m.absent = append(m.absent, ref)
		} else {
			m.present = append(m.present, ref)
		}
		m.mu.Lock()
		m.changes[verb+" "+ref.Key]++
		m.mu.Unlock()
	}
	return nil
}

// forget leaves refs to what they are: what was not answered may still be done.
func (m *manager) forget(refs []secret.Ref) {
	gone := func(ref secret.Ref) bool { return slices.Contains(refs, ref) }
	m.present, m.absent = slices.DeleteFunc(m.present, gone), slices.DeleteFunc(m.absent, gone)
}

// refusal wants a request to be refused as it must be.
func (m *manager) refusal(err, want error) error {
	if err == nil {
		return fmt.Errorf("it was done, and not refused with: %w", want)
	}
	m.failed(err)
	if errors.Is(err, want) {
		return nil
	}
	return err
}

func (m *manager) fresh() secret.Ref {
	m.made++
	ladder := task.Ladder()
	return secret.Ref{Scope: ladder[m.made%len(ladder)], Key: fmt.Sprintf("%s_%d", m.name, m.made)}
}

func (m *manager) one(ctx context.Context) error {
	what := mrand.IntN(20)
	if len(m.present) < 4 {
		what = mrand.IntN(5)
	}
	one := func(refs []secret.Ref) secret.Ref { return refs[mrand.IntN(len(refs))] }
	switch {
	case what < 2 && len(m.absent) > 0:
		ref, v := one(m.absent), m.value()
		return m.change("create", []secret.Ref{ref}, [][]byte{v}, func() error { return m.client.Create(ctx, ref, secret.NewValue(v), store.Regular) })
	case what < 4:
		ref, v := m.fresh(), m.value()
		return m.change("create", []secret.Ref{ref}, [][]byte{v}, func() error { return m.client.Create(ctx, ref, secret.NewValue(v), store.ImagePull) })
	case what < 5:
		var refs []secret.Ref
		var values [][]byte
		var all []store.New
		at := m.fresh().Scope
		for range 4 {
			ref, v := secret.Ref{Scope: at, Key: m.fresh().Key}, m.value()
			refs, values, all = append(refs, ref), append(values, v), append(all, store.New{Ref: ref, Value: secret.NewValue(v)})
		}
		return m.change("import", refs, values, func() error { return m.client.Import(ctx, all) })
	case what < 12:
		ref, v := one(m.present), m.value()
		return m.change("update", []secret.Ref{ref}, [][]byte{v}, func() error { return m.client.Update(ctx, ref, secret.NewValue(v)) })
	case what < 15:
		ref := one(m.present)
		return m.change("delete", []secret.Ref{ref}, [][]byte{nil}, func() error { return m.client.Delete(ctx, ref) })
	case what == 15:
		return m.refusal(m.client.Create(ctx, one(m.present), secret.NewValue(m.value()), store.Regular), secret.ErrExists)
	case what == 16 && len(m.absent) > 0:
		return m.refusal(m.client.Update(ctx, one(m.absent), secret.NewValue(m.value())), secret.ErrNotFound)
	case what == 17: // with one in the way none is imported
		ref := one(m.present)
		beside := secret.Ref{Scope: ref.Scope, Key: m.fresh().Key}
		m.of(beside)
		return m.refusal(m.client.Import(ctx, []store.New{
			{Ref: beside, Value: secret.NewValue(m.value())}, {Ref: ref, Value: secret.NewValue(m.value())},
		}), secret.ErrExists)
	}
	ref := one(m.present)
	info, err := m.client.Describe(ctx, ref)
	if err != nil {
		m.failed(err)
		return err
	}
	if info.Ref != ref {
		return fmt.Errorf("described %v as %v", ref, info.Ref)
	}
	return nil
}

// resolve asks for secrets as a task does. What it gets is no older than what was
// acknowledged when it asked.
func (s *soak) resolve(ctx context.Context, c *rpc.Client, values bool) error {
	var declared []secret.Declaration
	var refs []secret.Ref
	var histories []*history
	var told []int
	for range 1 + mrand.IntN(5) {
		ref, h, ok := s.random()
		if !ok || slices.Contains(refs, ref) {
			continue
		}
		n, _ := h.mark()
		declared, refs = append(declared, secret.Declaration{Key: ref.Key}), append(refs, ref)
		histories, told = append(histories, h), append(told, n)
	}
	if declared == nil {
		return nil
	}
	ask := c.Explain
	if values {
		ask = c.Climb
	}
	climbs, err := ask(ctx, task, declared)
	if err != nil {
		s.failed(err)
		return err
	}
	all := true
	for _, climb := range climbs {
		all = all && climb.Err == nil
	}
	for i, climb := range climbs {
		is := func(v []byte) bool { return (v != nil) == (climb.Err == nil) }
		switch {
		case errors.Is(climb.Err, secret.ErrNotFound):
			s.failed(climb.Err)
		case climb.Err != nil:
			s.failed(climb.Err)
			return climb.Err
		case climb.Info.Ref != refs[i]:
			return fmt.Errorf("asked for %v, and found %v", refs[i], climb.Info.Ref)
		case values && all:
			got := climb.Value.Reveal() // to compare it
			is = func(v []byte) bool { return v != nil && bytes.Equal(v, got) }
		case climb.Value.Len() > 0:
			return fmt.Errorf("a value of %v that nobody should be told", refs[i])
		}
		if !histories[i].may(told[i], is) {
			return fmt.Errorf("%v is nothing that it can be: %w", refs[i], climb.Err)
		}
	}
	return nil
}

// list wants each secret that is there all the time exactly once, and none that was not
// there at any time.
func (s *soak) list(ctx context.Context, c *rpc.Client) error {
	type state struct{ told, known int }
	before := map[secret.Ref]state{}
	s.mu.Lock()
	secrets := maps.Clone(s.secrets)
	s.mu.Unlock()
	for ref, h := range secrets {
		told, known := h.mark()
		before[ref] = state{told, known}
	}
	listed := map[secret.Ref]int{}
	for info, err := range store.All(ctx, c, store.Filter{}) {
		if err != nil {
			s.failed(err)
			return err
		}
		listed[info.Ref]++
	}
	for ref, h := range secrets {
		was := before[ref]
		told, known := h.mark()
		there := func(v []byte) bool { return v != nil }
		switch {
		case known == was.known && told == known-1 && was.told == told && listed[ref] == 0 && h.may(told, there),
			listed[ref] > 0 && !h.may(was.told, there), listed[ref] > 1:
			return fmt.Errorf("%v was listed %d times", ref, listed[ref])
		}
	}
	return nil
}

// denied is a client that may do nothing.
func (s *soak) denied(ctx context.Context, c *rpc.Client) error {
	err := c.Create(ctx, secret.Ref{Scope: task, Key: "DENIED"}, secret.NewValue(s.value()), store.Regular)
	if err == nil {
		return errors.New("it was not denied")
	}
	if s.failed(err); errors.Is(err, secret.ErrDenied) {
		return nil
	}
	return err
}

// A proxy is between the clients and the server, and cuts their connections when it is
// told to: at any byte, in both directions.
type proxy struct {
	port    net.Listener
	to      string
	cutting atomic.Bool
	cuts    atomic.Int64
	running sync.WaitGroup
	mu      sync.Mutex
	conns   map[net.Conn]bool
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	port, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{port: port, to: to, conns: map[net.Conn]bool{}}
	p.running.Go(func() {
		for {
			client, err := port.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", p.to)
			if err != nil {
				_ = client.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
				p.mu.Lock()
				p.conns[pair[0]] = true
				p.mu.Unlock()
				p.running.Go(func() { p.pass(pair[0], pair[1]) })
			}
		}
	})
	return p
}

func (p *proxy) pass(from, to net.Conn) {
	b := make([]byte, 16<<10)
	for {
		n, err := from.Read(b[:1+mrand.IntN(len(b))])
		cut := n > 0 && p.cutting.Load() && mrand.IntN(30) == 0
		if cut {
			p.cuts.Add(1)
			n = mrand.IntN(n)
			if tcp, ok := to.(*net.TCPConn); ok && mrand.IntN(2) == 0 {
				_ = tcp.SetLinger(0) // a reset, and not an end
			}
		}
		if _, err2 := to.Write(b[:n]); err != nil || err2 != nil || cut {
			break
		}
	}
	_, _ = from.Close(), to.Close()
	p.mu.Lock()
	delete(p.conns, from)
	p.mu.Unlock()
}

func (p *proxy) close() {
	_ = p.port.Close()
	p.mu.Lock()
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
}

// A searcher finds values, in every form that we know.
type searcher struct {
	cores    [][]byte // each value begins and ends with one of them
	redactor *redact.Redactor
	forms    [][]string // of each core, made by others than the redactor
	canary   []byte
	planted  int
}

func newSearcher() *searcher {
	binary := make([]byte, 24)
	_, _ = rand.Read(binary)
	s := &searcher{cores: [][]byte{
		[]byte("'\"$HOME`\\\n\xff\xfe%s" + rand.Text()), []byte(rand.Text() + "$(id)\t\xc3'\n"),
		[]byte("p@ss w+rd/=&<" + rand.Text()), binary,
	}}
	s.redactor = redact.New(1)
	var canary bytes.Buffer
	for i, core := range s.cores {
		if err := s.redactor.Add(redact.Pattern{Name: fmt.Sprint(i), Value: core}); err != nil {
			panic(err)
		}
		s.forms = append(s.forms, harness.Forms(string(core)))
		for _, f := range forms.Of(core, 1) {
			s.planted++
			_, _ = fmt.Fprintf(&canary, "\n-- %s --\n", f.Bytes)
		}
	}
	s.canary = canary.Bytes()
	return s
}

// finds returns where in text a value is.
func (s *searcher) finds(text []byte) []redact.Find {
	var found []redact.Find
	w := s.redactor.Writer(io.Discard)
	w.Found = func(f redact.Find) { found = append(found, f) }
	_, _ = w.Write(text) // to nowhere
	_ = w.Close()
	for i, forms := range s.forms {
		if form := harness.Leaked(string(text), forms); form != "" {
			found = append(found, redact.Find{Offset: int64(bytes.Index(text, []byte(form))), Name: fmt.Sprint(i), Kind: "encoded"})
		}
	}
	return found
}

// clean wants no value in text, and first every canary that is planted there found.
func (s *searcher) clean(t *testing.T, where string, text []byte) {
	t.Helper()
	require.NotEmptyf(t, text, "%s says nothing", where)
	middle := len(text) / 2
	require.GreaterOrEqualf(t, len(s.finds(slices.Concat(text[:middle], s.canary, text[middle:]))), s.planted, "the search of %s finds nothing", where)
	for i, core := range s.cores { // one alone, as it is
		require.NotEmptyf(t, s.finds(slices.Concat(text[:middle], core, text[middle:])), "the search of %s does not find %d", where, i)
	}
	require.Emptyf(t, s.finds(text), "a value is in %s", where)
}

func (s *searcher) cleanFile(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	s.clean(t, path, b)
}

// smallDisk mounts a disk of its own at dir.
func smallDisk(t *testing.T, dir, size string) {
	t.Helper()
	require.NoError(t, os.Mkdir(dir, 0o700))
	err := unix.Mount("none", dir, "tmpfs", 0, "size="+size)
	if errors.Is(err, unix.EPERM) {
		harness.Skip(t, "no disk can be mounted here")
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
}

// fill leaves no room on the disk at dir; free gives it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "fill")
	f, err := os.Create(path)
	require.NoError(t, err)
	_, err = io.Copy(f, zeros{})
	require.ErrorIs(t, err, unix.ENOSPC)
	require.NoError(t, f.Close())
	return func() { require.NoError(t, os.Remove(path)) }
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// soakPolicy is a policy in which other may list, or nothing.
func soakPolicy(other bool) string {
	text := policyFile
	if other {
		text += `  - name: other
    identity: {spiffe: "spiffe://example.org/other"}
    list: [{project: "*", domain: "*"}]
`
	}
	return text
}

// replace gives a file other bytes, as a careful editor does.
func replace(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", []byte(text), 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

// client opens a client with the certificate of name.
func (s *soak) client(t *testing.T, address, name string) *rpc.Client {
	t.Helper()
	pki := filepath.Join(s.dir, "pki")
	c, err := rpc.Open(rpc.Options{
		Address: address, TLS: true, CAFile: filepath.Join(s.dir, "ca.pem"), Timeout: time.Minute,
		CertFile: filepath.Join(pki, name+".pem"), KeyFile: filepath.Join(pki, name+".key"),
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A conductor makes faults and sees what comes of them.
type conductor struct {
	*soak

	t        *testing.T
	ctx      context.Context //nolint:containedctx // of one test, and ends when a client has found a mistake
	platform *rpc.Client     // as all of its clients not by way of the proxy
	task     *rpc.Client
	other    *rpc.Client
	http     *http.Client
	keyFile  string
	said     bytes.Buffer // what was told of operations and maintenance
	faults   []string
	rounds   int
}

// until waits for something to become so.
func (c *conductor) until(what string, is func() bool) {
	c.t.Helper()
	for !is() {
		select {
		case <-c.ctx.Done():
			require.NoError(c.t, context.Cause(c.ctx), "a client, while waiting until "+what)
		case <-c.server.ended:
			require.FailNow(c.t, "the server has ended, while waiting until "+what, c.server.stderr.String())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// progress waits until the clients had as many answers.
func (c *conductor) progress(answers int64) {
	c.t.Helper()
	from := c.answered.Load()
	c.until(fmt.Sprintf("there were %d answers", answers), func() bool { return c.answered.Load()-from >= answers })
}

// get returns what the port for operations says.
func (c *conductor) get(path string) (code int, text string) {
	c.t.Helper()
	response, err := c.http.Get("http://" + c.server.ops + path)
	require.NoError(c.t, err)
	b, err := io.ReadAll(response.Body)
	require.NoError(c.t, errors.Join(err, response.Body.Close()))
	c.said.Write(b)
	return response.StatusCode, string(b)
}

func (c *conductor) ready() bool {
	code, _ := c.get("/readyz")
	return code == http.StatusOK
}

// injectd runs one that is not the server.
func (c *conductor) injectd(args ...string) {
	c.t.Helper()
	cmd := exec.CommandContext(c.ctx, filepath.Join(binaries, "injectd"), args...)
	cmd.Env = []string{"HOME=" + c.dir}
	out, err := cmd.CombinedOutput()
	c.said.Write(out)
	require.NoErrorf(c.t, err, "%s", out)
}

// strace makes calls of the server fail or wait, as inject says, while during runs.
func (c *conductor) strace(inject string, during func()) {
	c.t.Helper()
	log := filepath.Join(c.dir, "strace.log")
	calls, _, _ := strings.Cut(inject, ":")
	stop := attach(c.t, c.server, "-f", "-o", log, "-e", "trace="+calls, "-e", "inject="+inject)
	during()
	c.until("strace did something", func() bool {
		text := read(c.t, log)
		return strings.Contains(text, "(INJECTED)") || strings.Contains(text, "(DELAYED)")
	})
	stop()
}

func (c *conductor) update(ref secret.Ref, v []byte) error {
	h := c.of(ref)
	h.begin(v)
	err := c.platform.Update(c.ctx, ref, secret.NewValue(v))
	if err == nil {
		h.acknowledge()
	} else if !c.failed(err) {
		require.NoError(c.t, err)
	}
	return err
}

// A fault is made, seen and ended by its function.
type fault struct {
	name string
	make func()
}

func (c *conductor) all() []fault {
	return []fault{
		{"slow disk", func() {
			c.strace("fdatasync:delay_enter=10000", func() { c.progress(100) })
		}},
		{"full disk", func() {
			ref := secret.Ref{Scope: task, Key: fmt.Sprintf("FULL_%d", c.rounds)}
			old := c.value()
			c.of(ref).begin(old)
			require.NoError(c.t, c.platform.Create(c.ctx, ref, secret.NewValue(old), store.Regular))
			c.of(ref).acknowledge()
			large := func() []byte {
				v := c.value()
				return slices.Concat(v, bytes.Repeat(v, 500_000/len(v)), c.value())
			}
			free := fill(c.t, c.storeDir)
			c.until("a change finds no room", func() bool { return c.update(ref, large()) != nil })
			for range 5 { // what is there is told meanwhile, and it is what was acknowledged
				got, err := c.task.Resolve(c.ctx, task, []secret.Declaration{{Key: ref.Key}})
				require.NoError(c.t, err)
				told, _ := c.of(ref).mark()
				c.of(ref).mu.Lock()
				want := c.of(ref).values[told]
				c.of(ref).mu.Unlock()
				require.True(c.t, bytes.Equal(want, got[0].Value.Reveal()), "what was refused was not done")
				_ = c.update(ref, large()) // or a client has just deleted something
			}
			refused := c.refused.Load()
			c.until("clients find no room", func() bool { return c.refused.Load() > refused+10 })
			free()
			require.NoError(c.t, c.update(ref, large()), "there is room again")
		}},
		{"full audit disk", func() {
			free := fill(c.t, c.auditDir)
			declared := []secret.Declaration{{Key: "ANY"}}
			c.until("nothing is answered", func() bool {
				_, err := c.task.Explain(c.ctx, task, declared)
				return err != nil
			})
			// The end of the file's last page took what was left of a line.
			c.until("it is not ready", func() bool { return !c.ready() })
			for range 5 {
				_, err := c.task.Explain(c.ctx, task, declared)
				require.ErrorIs(c.t, err, secret.ErrUnavailable)
				c.failed(err)
				_, _, err = c.platform.List(c.ctx, store.Filter{}, 1, "")
				require.ErrorIs(c.t, err, secret.ErrUnavailable)
				err = c.other.Create(c.ctx, secret.Ref{Scope: task, Key: "DENIED"}, secret.NewValue(c.value()), store.Regular)
				require.ErrorIs(c.t, err, secret.ErrUnavailable, "not even a denial is told")
				c.failed(err)
				code, text := c.get("/readyz")
				require.Equal(c.t, http.StatusServiceUnavailable, code)
				require.Contains(c.t, text, "audit log")
			}
			answered, refused := c.answered.Load(), c.refused.Load()
			c.until("clients get no answer", func() bool { return c.refused.Load() > refused+20 })
			require.Equal(c.t, answered, c.answered.Load(), "nothing is answered")
			free()
			c.until("it is ready again, by itself", c.ready)
			_, err := c.task.Explain(c.ctx, task, declared)
			require.NoError(c.t, err)
		}},
		{"dropped connections", func() {
			c.proxy.cutting.Store(true)
			from := c.proxy.cuts.Load()
			c.until("connections were cut", func() bool { return c.proxy.cuts.Load() >= from+60 })
			c.proxy.cutting.Store(false)
		}},
		{"policy edits", func() {
			path := filepath.Join(c.dir, "policy.yaml")
			may := func() bool {
				_, _, err := c.other.List(c.ctx, store.Filter{Org: secret.DefaultOrg}, 1, "")
				if err != nil {
					require.ErrorIs(c.t, err, secret.ErrDenied)
				}
				return err == nil
			}
			stale := func() bool {
				_, text := c.get("/metrics")
				return strings.Contains(text, `inject_source_stale{source="policy"} 1`)
			}
			require.False(c.t, may())
			replace(c.t, path, soakPolicy(true))
			c.until("other may list", may)
			replace(c.t, path, "rules: [}")
			c.until("the policy is known to be stale", stale)
			require.True(c.t, may(), "what was in force stays so")
			require.NoError(c.t, os.Remove(path))
			require.True(c.t, may(), "what was in force stays so")
			replace(c.t, path, soakPolicy(false))
			c.until("other may not list any more", func() bool { return !may() })
			require.False(c.t, stale())
		}},
		{"certificate reload", func() {
			from := []string{"pki", "pki2"}[(c.rounds+1)%2]
			want := read(c.t, filepath.Join(c.dir, from, "server.pem"))
			for _, file := range []string{"server.pem", "server.key"} {
				replace(c.t, filepath.Join(c.dir, file), read(c.t, filepath.Join(c.dir, from, file)))
			}
			c.until("the new certificate is shown", func() bool {
				conn, err := tls.Dial("tcp", c.server.host(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) // which is compared
				require.NoError(c.t, err)
				shown := conn.ConnectionState().PeerCertificates[0].Raw
				require.NoError(c.t, conn.Close())
				pair, err := tls.X509KeyPair([]byte(want), []byte(read(c.t, filepath.Join(c.dir, from, "server.key"))))
				require.NoError(c.t, err)
				return bytes.Equal(shown, pair.Certificate[0])
			})
			c.proxy.cutting.Store(true) // everyone connects again
			cuts := c.proxy.cuts.Load()
			c.until("connections were cut", func() bool { return c.proxy.cuts.Load() >= cuts+10 })
			c.proxy.cutting.Store(false)
		}},
		{"audit log moved", func() {
			path := filepath.Join(c.auditDir, "audit.log")
			require.NoError(c.t, os.Rename(path, fmt.Sprintf("%s.%d", path, c.rounds)))
			c.progress(20) // into the file that was moved
			require.NoError(c.t, c.server.cmd.Process.Signal(syscall.SIGHUP))
			c.until("there is a new audit log", func() bool {
				info, err := os.Stat(path)
				return err == nil && info.Size() > 0
			})
		}},
		{"stopped process", func() {
			require.NoError(c.t, c.server.cmd.Process.Signal(syscall.SIGSTOP))
			time.Sleep(300 * time.Millisecond)
			require.NoError(c.t, c.server.cmd.Process.Signal(syscall.SIGCONT))
		}},
		{"failing disk", func() {
			refused := c.refused.Load()
			c.strace("fdatasync:error=EIO:when=2+3", func() {
				c.until("changes fail", func() bool { return c.refused.Load() > refused+30 })
			})
		}},
		{"maintenance", func() {
			file := []string{"--store", "file://" + c.storePath()}
			c.injectd(append([]string{"backup", filepath.Join(c.dir, fmt.Sprintf("backup%d.db", c.rounds))}, file...)...)
			c.keyFile = filepath.Join(c.dir, fmt.Sprintf("key%d.txt", c.rounds))
			c.injectd(append([]string{"keys", "rotate", "--new-key-file", c.keyFile}, file...)...)
			c.injectd(append([]string{"doctor", "--insecure"}, file...)...)
		}},
	}
}

func (s *soak) storePath() string { return filepath.Join(s.storeDir, "secrets.db") }

// TestSoak is a server with 24 clients to which everything happens. What they were told
// is true to the end, and no value is anywhere but where it belongs.
func TestSoak(t *testing.T) {
	rounds, answers := 2, int64(300)
	if raceEnabled {
		rounds, answers = 1, 60
	}
	dir := t.TempDir()
	s := &soak{
		dir: dir, storeDir: filepath.Join(dir, "store"), auditDir: filepath.Join(dir, "audit"), searcher: newSearcher(),
		secrets: map[secret.Ref]*history{}, told: map[string]bool{}, changes: map[string]int{}, ended: make(chan struct{}),
	}
	smallDisk(t, s.storeDir, "128m")
	smallDisk(t, s.auditDir, "64m")
	before := goleak.IgnoreCurrent()
	require.NoError(t, makePKI(t, filepath.Join(dir, "pki")))
	require.NoError(t, makePKI(t, filepath.Join(dir, "pki2")))
	replace(t, filepath.Join(dir, "ca.pem"), read(t, filepath.Join(dir, "pki", "ca.pem"))+read(t, filepath.Join(dir, "pki2", "ca.pem")))
	for _, file := range []string{"server.pem", "server.key"} {
		replace(t, filepath.Join(dir, file), read(t, filepath.Join(dir, "pki", file)))
	}
	replace(t, filepath.Join(dir, "policy.yaml"), soakPolicy(false))
	c := &conductor{soak: s, t: t, http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, keyFile: filepath.Join(dir, "key.txt")}
	var err error
	s.server, err = startServer(dir, []string{"HOME=" + dir}, "--store", "file://"+s.storePath(), "--key-file", c.keyFile,
		"--cert-file", "server.pem", "--cert-key-file", "server.key", "--client-ca-file", "ca.pem", "--policy", "policy.yaml",
		"--audit-log", filepath.Join(s.auditDir, "audit.log"), "--rate", "0", "--log-level", "debug")
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = s.server.cmd.Process.Kill()
		<-s.server.ended
		if log := s.server.stderr.String(); t.Failed() {
			t.Log(log[max(0, len(log)-20_000):])
		}
	})
	s.proxy = newProxy(t, s.server.host())
	t.Cleanup(s.proxy.close)

	group, ctx := errgroup.WithContext(t.Context())
	c.ctx = ctx
	c.platform, c.task, c.other = s.client(t, s.server.host(), "platform"), s.client(t, s.server.host(), "task"), s.client(t, s.server.host(), "other")
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
	t.Logf("%d answers and %d that were refused for %d faults; %d connections were cut; %d secrets, %d changes; %d errors of clients",
		s.answered.Load(), s.refused.Load(), len(c.faults), s.proxy.cuts.Load(), len(s.secrets), len(s.changes), len(s.told))
}

// checkStore wants in the store what was acknowledged, and of what was under way all or
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

// checkAudit wants a line for each change that was acknowledged.
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

// A server that ends by a fault of its own leaves no core, whatever the limit is of who
// starts it, and what it says of its goroutines holds no value.
func TestNoCore(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	var old unix.Rlimit
	require.NoError(t, unix.Prlimit(0, unix.RLIMIT_CORE, &unlimited, &old)) // of what we start, too
	defer func() { require.NoError(t, unix.Prlimit(0, unix.RLIMIT_CORE, &old, nil)) }()

	other := exec.Command("sh", "-c", "kill -ABRT $$")
	other.Dir = t.TempDir()
	require.Error(t, other.Run())
	require.True(t, coreOf(t, other), "another process leaves one")

	s := newSearcher()
	for _, signal := range []syscall.Signal{syscall.SIGABRT, syscall.SIGQUIT, syscall.SIGSEGV} {
		dir := t.TempDir()
		// With crash the runtime ends as if it had no handlers, once it has said all.
		p, err := startServer(dir, []string{"HOME=" + dir, "GOTRACEBACK=crash"}, "--insecure",
			"--store", "file://"+dir+"/secrets.db", "--key-file", filepath.Join(dir, "key.txt"), "--log-level", "debug")
		require.NoError(t, err)
		require.Regexp(t, `Max core file size +0 +0 `, read(t, fmt.Sprintf("/proc/%d/limits", p.cmd.Process.Pid)))
		var group errgroup.Group
		var changes atomic.Int64
		for i := range 8 { // values on their way in and out
			c := connect(t, p)
			group.Go(func() error {
				defer c.Close() //nolint:errcheck // it has no connection any more
				for n := 0; ; n++ {
					ref := secret.Ref{Scope: task, Key: fmt.Sprintf("K%d_%d", i, n)}
					err := c.Create(t.Context(), ref, secret.NewValue(slices.Concat(s.cores[n%len(s.cores)], make([]byte, n%3*4000))), store.Regular)
					if err == nil {
						_, err = c.Resolve(t.Context(), task, []secret.Declaration{{Key: ref.Key}})
					}
					if errors.Is(err, secret.ErrUnavailable) {
						return nil
					}
					if err != nil {
						return err
					}
					changes.Add(1)
				}
			})
		}
		for changes.Load() < 20 {
			time.Sleep(time.Millisecond)
		}
		require.Error(t, p.stop(signal))
		require.NoError(t, group.Wait())
		require.Contains(t, p.stderr.String(), "goroutine ")
		require.False(t, coreOf(t, p.cmd), p.cmd.ProcessState)
		left, err := filepath.Glob(filepath.Join(dir, "*core*"))
		require.NoError(t, err)
		require.Empty(t, left)
		s.clean(t, "what is said of goroutines", []byte(p.stderr.String()))
	}
}

// Nobody of the server's own user may look into it, nor is it ever dumped where the limit
// says nothing: also before it has a store, since values come to it from clients.
func TestHidden(t *testing.T) {
	harness.NeedRoot(t)                            // to be another user
	dir, err := os.MkdirTemp("", "injectd-hidden") //nolint:usetesting // t.TempDir is in a folder that is root's alone
	require.NoError(t, err)
	defer os.RemoveAll(dir) //nolint:errcheck // best effort
	require.NoError(t, os.Chown(dir, 65534, 65534))
	ownerOf := func(name string, args ...string) func() uint32 {
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.Env = dir, []string{"HOME=" + dir}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
		return func() uint32 {
			info, err := os.Stat(fmt.Sprintf("/proc/%d/environ", cmd.Process.Pid))
			require.NoError(t, err)
			status, ok := info.Sys().(*syscall.Stat_t)
			require.True(t, ok)
			return status.Uid
		}
	}
	other := ownerOf("/bin/sleep", "60")
	server := ownerOf(filepath.Join(binaries, "injectd"), "serve", "--insecure", "--listen", "127.0.0.1:0", "--ops-listen=")
	require.Eventually(t, func() bool { return server() == 0 }, time.Minute, time.Millisecond, "it is root's to look into")
	require.EqualValues(t, 65534, other(), "another is its user's")
}

// coreOf reports whether the kernel made a core of a process that has ended by a signal.
func coreOf(t *testing.T, cmd *exec.Cmd) bool {
	t.Helper()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	require.True(t, ok)
	require.True(t, status.Signaled(), cmd.ProcessState)
	return status.CoreDump()
}
