package main_test

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"inject/internal/harness"
	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed"
	"inject/resolver/store/sealed/disktest"
)

// task is a scope whose ladder reaches every secret of these tests.
var task = secret.Scope{Org: secret.DefaultOrg, Project: "p", Domain: "d"}

// writers are the clients of a server that is killed. Each has a scope and the secrets
// there for itself, so that it knows what must be there.
func newWriters() []*writer {
	var all []*writer
	for i, scope := range task.Ladder() {
		w := &writer{state: map[secret.Ref][]byte{}}
		for k := range 8 {
			w.refs = append(w.refs, secret.Ref{Scope: scope, Key: fmt.Sprintf("W%d_K%d", i, k)})
		}
		all = append(all, w)
	}
	return all
}

type writer struct {
	refs  []secret.Ref
	state map[secret.Ref][]byte // what was acknowledged
	// underWay is a change whose outcome is unknown: it changed every secret in it, or none. A
	// nil value stands for a deleted secret.
	underWay map[secret.Ref][]byte
	acks     int
}

// awkward returns a value whose bytes are lost or changed if any code treats it as text. Most
// values are short; some take pages of their own in the store.
func awkward() []byte {
	sizes := []int{0, 1, 16, 200, 200, 3000, 9000, 120_000}
	random := make([]byte, sizes[rand.IntN(len(sizes))])
	_, _ = crand.Read(random)
	return slices.Concat(random, []byte("'\"$HOME`\\\n\xff%s\x00\r\n"))
}

// run changes secrets, one after the other, until the server no longer answers. It calls
// acknowledged after each change that the server confirms.
func (w *writer) run(ctx context.Context, c *rpc.Client, acknowledged func()) error {
	for {
		var absent, present []secret.Ref
		for _, ref := range w.refs {
			if w.state[ref] == nil {
				absent = append(absent, ref)
			} else {
				present = append(present, ref)
			}
		}
		rand.Shuffle(len(absent), func(i, j int) { absent[i], absent[j] = absent[j], absent[i] })
		rand.Shuffle(len(present), func(i, j int) { present[i], present[j] = present[j], present[i] })
		w.underWay = map[secret.Ref][]byte{}
		var err error
		switch what := rand.IntN(5); {
		case len(absent) >= 3 && what < 2:
			var all []store.New
			for _, ref := range absent[:3] {
				w.underWay[ref] = awkward()
				all = append(all, store.New{Ref: ref, Value: secret.NewValue(w.underWay[ref])})
			}
			err = c.Import(ctx, all)
		case len(present) == 0 || len(absent) > 0 && what == 2:
			w.underWay[absent[0]] = awkward()
			err = c.Create(ctx, absent[0], secret.NewValue(w.underWay[absent[0]]), store.Regular)
		case what == 3:
			w.underWay[present[0]] = nil
			err = c.Delete(ctx, present[0])
		default:
			w.underWay[present[0]] = awkward()
			err = c.Update(ctx, present[0], secret.NewValue(w.underWay[present[0]]))
		}
		switch {
		case errors.Is(err, secret.ErrUnavailable):
			return nil // the server is gone
		case err != nil:
			return fmt.Errorf("after %d changes: %w", w.acks, err)
		}
		w.acks++
		maps.Copy(w.state, w.underWay)
		w.underWay = nil
		acknowledged()
	}
}

// check compares the secrets that exist with those that the writer knows. It reports whether
// the change that was under way was made, and returns an error if the store cannot be right.
func (w *writer) check(there map[secret.Ref][]byte) (made bool, err error) {
	is := func(ref secret.Ref, want []byte) bool {
		got, ok := there[ref]
		return ok == (want != nil) && bytes.Equal(got, want)
	}
	var lost, before, after []secret.Ref
	for _, ref := range w.refs {
		next, changing := w.underWay[ref]
		switch {
		case !changing && !is(ref, w.state[ref]):
			lost = append(lost, ref)
		case changing && !is(ref, next):
			before = append(before, ref)
			if !is(ref, w.state[ref]) {
				lost = append(lost, ref)
			}
		case changing && !is(ref, w.state[ref]):
			after = append(after, ref)
		}
	}
	if lost != nil || before != nil && after != nil {
		return false, fmt.Errorf("after %d changes: %v is not as it was acknowledged; of the change under way %v is "+
			"made and %v is not", w.acks, lost, after, before)
	}
	made = w.underWay != nil && before == nil
	if made {
		maps.Copy(w.state, w.underWay)
	}
	w.underWay = nil
	return made, nil
}

// The check after a kill finds a lost, a changed and an unknown secret.
func TestWriterCheck(t *testing.T) {
	a, b, c := secret.Ref{Scope: task, Key: "A"}, secret.Ref{Scope: task, Key: "B"}, secret.Ref{Scope: task, Key: "C"}
	one, two := []byte("1"), []byte("2")
	type values = map[secret.Ref][]byte
	for _, test := range []struct {
		there values
		made  bool
		err   string
	}{
		{there: values{a: one}},
		{there: values{a: one, b: one, c: two}, made: true},
		{there: values{a: one, b: one}, err: "of the change under way"},
		{there: values{a: one, b: one, c: one}, err: "not as it was acknowledged"},
		{there: values{a: two}, err: "not as it was acknowledged"},
		{there: values{b: one, c: two}, err: "not as it was acknowledged"},
	} {
		w := &writer{refs: []secret.Ref{a, b, c}, state: values{a: one}, underWay: values{b: one, c: two}}
		made, err := w.check(test.there)
		if test.err != "" {
			require.ErrorContains(t, err, test.err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, test.made, made)
	}
}

// everything returns all secrets of a server, as a task resolves them.
func everything(ctx context.Context, c *rpc.Client) (map[secret.Ref][]byte, error) {
	var declared []secret.Declaration
	for info, err := range store.All(ctx, c, store.Filter{}) {
		if err != nil {
			return nil, err
		}
		declared = append(declared, secret.Declaration{Key: info.Ref.Key})
	}
	all := map[secret.Ref][]byte{}
	if declared == nil {
		return all, nil
	}
	resolved, err := c.Resolve(ctx, task, declared)
	for _, r := range resolved {
		all[r.Info.Ref] = r.Value.Reveal() // to compare it
	}
	return all, err
}

// connect returns a client of a server without TLS.
func connect(t *testing.T, p *process) *rpc.Client {
	t.Helper()
	c, err := rpc.Open(rpc.Options{Address: p.host(), Timeout: time.Minute})
	require.NoError(t, err)
	return c
}

// TestKill kills a server under write load, again and again. Each time the next server must have
// every change that was acknowledged, and no change in part. Servers are also killed while they
// create the store, and while they start on what a killed one left.
func TestKill(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	kills, perStore := 200, 20
	if testing.Short() {
		kills, perStore = 10, 5
	}
	var dir string
	var flags, environ []string
	var writers []*writer
	acks, under, made, early := 0, 0, 0, 0
	look := func(p *process) {
		c := connect(t, p)
		there, err := everything(t.Context(), c)
		require.NoError(t, err)
		require.NoError(t, c.Close())
		known := 0
		for _, w := range writers {
			if w.underWay != nil {
				under++
			}
			done, err := w.check(there)
			require.NoError(t, err)
			if done {
				made++
			}
			for _, v := range w.state {
				if v != nil {
					known++
				}
			}
		}
		require.Len(t, there, known, "nothing else is there")
	}
	for kill := range kills {
		if kill%perStore == 0 {
			dir = t.TempDir()
			flags = []string{
				"--insecure", "--ops-listen=",
				"--store", "file://" + dir + "/secrets.db", "--key-file", filepath.Join(dir, "key.txt"),
			}
			environ, writers = []string{"HOME=" + dir}, newWriters()
		}
		if kill%4 == 3 { // before it serves, or just then
			early++
			killed(t, dir, environ, flags, time.Duration(rand.IntN(80_000))*time.Microsecond)
		}
		p, err := startServer(dir, environ, flags...)
		require.NoErrorf(t, err, "kill %d", kill)
		look(p)
		n, err := underLoad(t, p, writers, rand.IntN(10))
		require.NoErrorf(t, err, "kill %d", kill)
		acks += n
		// Every page and every secret, before anything can have mended it.
		s, err := sealed.Open(t.Context(), sealed.Options{
			Path: filepath.Join(dir, "secrets.db"),
			Key:  sealed.Key{File: filepath.Join(dir, "key.txt")},
		})
		require.NoErrorf(t, err, "kill %d", kill)
		_, err = s.Verify(t.Context())
		require.NoErrorf(t, err, "kill %d", kill)
		require.NoError(t, s.Close())
		if kill%perStore == perStore-1 {
			p, err := startServer(dir, environ, flags...)
			require.NoError(t, err)
			look(p)
			doctor := exec.Command(filepath.Join(binaries, "injectd"), append([]string{"doctor"}, flags...)...)
			doctor.Env = environ
			out, err := doctor.CombinedOutput()
			require.NoErrorf(t, err, "%s", out)
			require.NoError(t, p.stop(syscall.SIGTERM), p.stderr)
			// without the folders in which a killed one was making the store
			left, err := filepath.Glob(filepath.Join(dir, "[^.]*"))
			require.NoError(t, err)
			slices.Sort(left)
			require.Equal(t, []string{filepath.Join(dir, "key.txt"), filepath.Join(dir, "secrets.db")}, left,
				"what a server leaves when it was asked to stop")
		}
	}
	require.Greater(t, acks, kills, "there was load")
	t.Logf("%d kills under load and %d of a server that starts: %d changes were acknowledged; of %d under way %d "+
		"were made", kills, early, acks, under, made)
}

// underLoad kills p while all writers write, a moment after the given number of changes. It
// returns how many changes were acknowledged.
func underLoad(t *testing.T, p *process, writers []*writer, changes int) (acks int, err error) {
	t.Helper()
	group, ctx := errgroup.WithContext(t.Context())
	var done atomic.Int64
	enough := make(chan struct{})
	if changes == 0 { // when the first one is being made, and with it maybe the store
		close(enough)
	}
	for _, w := range writers {
		c := connect(t, p)
		group.Go(func() error {
			defer c.Close() //nolint:errcheck // it has no connection any more
			return w.run(ctx, c, func() {
				if done.Add(1) == int64(changes) {
					close(enough)
				}
			})
		})
	}
	select {
	case <-enough:
	case <-p.ended:
	}
	time.Sleep(time.Duration(rand.IntN(20_000)) * time.Microsecond)
	killed := p.stop(syscall.SIGKILL)
	if err := group.Wait(); err != nil {
		return 0, err
	}
	require.ErrorContains(t, killed, "signal: killed", p.stderr)
	return int(done.Load()), nil
}

// killed starts a server and kills it after a while, wherever it is then.
func killed(t *testing.T, dir string, environ, flags []string, after time.Duration) {
	t.Helper()
	cmd := exec.Command(filepath.Join(binaries, "injectd"),
		append([]string{"serve", "--listen", "127.0.0.1:0"}, flags...)...)
	cmd.Dir, cmd.Env = dir, environ
	require.NoError(t, cmd.Start())
	time.Sleep(after)
	require.NoError(t, cmd.Process.Kill())
	require.ErrorContains(t, cmd.Wait(), "signal: killed")
}

// A step is a request of a client, and what it changes in the store.
type step struct {
	do             func(context.Context, *rpc.Client) error
	changed        map[secret.Ref][]byte // nil is one that is deleted
	backup, rotate bool
}

// newSteps returns n steps of every kind, a backup and a key rotation among them. maintain runs
// a maintenance command of injectd in dir.
func newSteps(n int, dir string, maintain func(args ...string) error) []step {
	var steps []step
	state := map[secret.Ref][]byte{}
	ladder := task.Ladder()
	for i := range n {
		ref := secret.Ref{Scope: ladder[i%4], Key: fmt.Sprintf("K%d", i%9)}
		v := secret.NewValue(awkward())
		s := step{changed: map[secret.Ref][]byte{ref: v.Reveal()}}
		switch {
		case i == n/4 || i == n-2:
			s.changed = map[secret.Ref][]byte{}
			var all []store.New
			for k := range 6 {
				ref := secret.Ref{Scope: ladder[0], Key: fmt.Sprintf("IMPORTED%d_%d", i, k)}
				s.changed[ref] = awkward()
				all = append(all, store.New{Ref: ref, Value: secret.NewValue(s.changed[ref])})
			}
			s.do = func(ctx context.Context, c *rpc.Client) error { return c.Import(ctx, all) }
		case i == n/2:
			s = step{backup: true}
			s.do = func(context.Context, *rpc.Client) error { return maintain("backup", "backup.db") }
		case i == 2*n/3:
			s = step{rotate: true, do: func(context.Context, *rpc.Client) error {
				_ = maintain("keys", "rotate", "--new-key-file", "key2.txt") // is refused, but makes the key
				if err := addIdentity(filepath.Join(dir, "key2.txt"), filepath.Join(dir, "key.txt")); err != nil {
					return err
				}
				return maintain("keys", "rotate", "--new-key-file", "key2.txt")
			}}
		case state[ref] == nil:
			s.do = func(ctx context.Context, c *rpc.Client) error { return c.Create(ctx, ref, v, store.Regular) }
		case i%5 == 0:
			s.changed[ref] = nil
			s.do = func(ctx context.Context, c *rpc.Client) error { return c.Delete(ctx, ref) }
		default:
			s.do = func(ctx context.Context, c *rpc.Client) error { return c.Update(ctx, ref, v) }
		}
		maps.Copy(state, s.changed)
		steps = append(steps, s)
	}
	return steps
}

// stepsAreIn returns an error unless the store in dir, and the backup if one was made, hold
// exactly what the steps leave.
func stepsAreIn(ctx context.Context, dir string, steps []step) error {
	state, key := map[secret.Ref][]byte{}, "key.txt"
	for _, s := range steps {
		maps.Copy(state, s.changed)
		if s.backup {
			if err := storeIs(ctx, filepath.Join(dir, "backup.db"), filepath.Join(dir, key), state); err != nil {
				return fmt.Errorf("the backup: %w", err)
			}
		}
		if s.rotate {
			key = "key2.txt"
		}
	}
	return storeIs(ctx, filepath.Join(dir, "secrets.db"), filepath.Join(dir, key), state)
}

func storeIs(ctx context.Context, path, key string, state map[secret.Ref][]byte) error {
	s, err := sealed.Open(ctx, sealed.Options{Path: path, Key: sealed.Key{File: key}})
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // read only
	known := 0
	for ref, want := range state {
		v, _, err := s.Get(ctx, ref)
		switch {
		case want == nil && !errors.Is(err, secret.ErrNotFound):
			return fmt.Errorf("%v was deleted: %w", ref, err)
		case want != nil && err != nil:
			return err
		case want != nil && !bytes.Equal(want, v.Reveal()): // to compare it
			return fmt.Errorf("%v is another value", ref)
		case want != nil:
			known++
		}
	}
	n, err := s.Verify(ctx)
	if err == nil && n != known {
		err = fmt.Errorf("there are %d secrets, and should be %d", n, known)
	}
	return err
}

// attach attaches strace, with options, to a server until the server ends or stop is called.
func attach(t *testing.T, p *process, options ...string) (stop func()) {
	t.Helper()
	strace := harness.Need(t, "strace")
	cmd := exec.Command(strace, append([]string{"-p", strconv.Itoa(p.cmd.Process.Pid)}, options...)...)
	said := &harness.Buffer{}
	cmd.Stderr = said
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return strings.Contains(said.String(), "attached") }, time.Minute,
		time.Millisecond, "strace: %s", said)
	return func() {
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended with the server
		_ = cmd.Wait()                       // it says that it was interrupted
	}
}

// TestEverySyncPoint records the system calls of a server, and rebuilds what a power cut would
// have left on the disk at every point between them. The server writes the audit line
// about a finished change before it answers, so each change with such a line must be on the disk.
func TestEverySyncPoint(t *testing.T) {
	dir, beside := t.TempDir(), t.TempDir()
	environ := []string{"HOME=" + dir}
	flags := []string{"--store", "file://" + dir + "/secrets.db"}
	audit := filepath.Join(beside, "audit.log")
	p, err := startServer(dir, environ, append(flags,
		"--insecure", "--ops-listen=", "--key-file", filepath.Join(dir, "key.txt"), "--audit-log", audit)...)
	require.NoError(t, err)
	log := filepath.Join(beside, "strace.log")
	detached := attach(t, p, disktest.Strace(log)...)
	changes := 45
	if testing.Short() {
		changes = 10
	}
	steps := newSteps(changes, dir, func(args ...string) error {
		cmd := exec.Command(filepath.Join(binaries, "injectd"), append(args, flags...)...)
		cmd.Dir, cmd.Env = dir, environ
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	c := connect(t, p)
	for n, s := range steps {
		require.NoErrorf(t, s.do(t.Context(), c), "step %d", n)
	}
	require.NoError(t, c.Close())
	require.NoError(t, p.stop(syscall.SIGTERM), p.stderr)
	detached()
	disktest.EverySyncPoint(t, dir, log, len(steps), func(_ int, path string, data []byte) int {
		if path != audit {
			return 0
		}
		return bytes.Count(data, []byte(`"outcome":"done"`))
	}, func(state string, acked int) error {
		err := stepsAreIn(t.Context(), state, steps[:acked])
		if err == nil || acked == len(steps) {
			return err
		}
		if err2 := stepsAreIn(t.Context(), state, steps[:acked+1]); err2 != nil { // which is under way
			return fmt.Errorf("after %d acknowledged steps: %w; with one more: %w", acked, err, err2)
		}
		return nil
	})
}

// A change is what a client asked for: ref gets value, or is deleted if value is nil.
type change struct {
	ref          secret.Ref
	value        []byte
	acknowledged bool // else it may have been made or not
}

// mayBe returns the values that each secret may have after acks acknowledged changes, while the
// next change is under way.
func mayBe(changes []change, acks int) map[secret.Ref][][]byte {
	may := map[secret.Ref][][]byte{}
	for _, c := range changes {
		may[c.ref] = [][]byte{nil}
	}
	for _, c := range changes {
		if c.acknowledged && acks > 0 {
			acks--
			may[c.ref] = nil
			may[c.ref] = append(may[c.ref], c.value)
			continue
		}
		may[c.ref] = append(may[c.ref], c.value)
		if c.acknowledged {
			break
		}
	}
	return may
}

// storeMayBe returns an error unless each secret in dir has one of the values that it may have.
func storeMayBe(ctx context.Context, dir string, may map[secret.Ref][][]byte) error {
	s, err := sealed.Open(ctx, sealed.Options{
		Path: filepath.Join(dir, "secrets.db"),
		Key:  sealed.Key{File: filepath.Join(dir, "key.txt")},
	})
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // read only
	for ref, values := range may {
		v, _, err := s.Get(ctx, ref)
		if err != nil && !errors.Is(err, secret.ErrNotFound) {
			return err
		}
		is := func(b []byte) bool { return (b == nil) == (err != nil) && bytes.Equal(b, v.Reveal()) } // to compare it
		if !slices.ContainsFunc(values, is) {
			return fmt.Errorf("%v is nothing that it may be: %w", ref, err)
		}
	}
	_, err = s.Verify(ctx)
	return err
}

// TestFailedSync is TestEverySyncPoint on a disk whose syncs fail. The kernel does not write again
// what a failed sync left unwritten. A change that was refused because of that may be on the
// disk or not; changes that were acknowledged after it must be.
func TestFailedSync(t *testing.T) {
	dir, beside := t.TempDir(), t.TempDir()
	audit, log := filepath.Join(beside, "audit.log"), filepath.Join(beside, "strace.log")
	p, err := startServer(dir, []string{"HOME=" + dir}, "--insecure", "--ops-listen=", "--audit-log", audit,
		"--store", "file://"+dir+"/secrets.db", "--key-file", filepath.Join(dir, "key.txt"))
	require.NoError(t, err)
	// strace counts the calls of each thread by itself.
	detached := attach(t, p, append(disktest.Strace(log), "-e", "inject=fdatasync:error=EIO:when=3+3")...)
	c := connect(t, p)
	var changes []change
	acks := 0
	many := 30
	if testing.Short() {
		many = 12
	}
	for n := range many {
		next := change{ref: secret.Ref{Scope: task, Key: fmt.Sprintf("K%d", n%5)}, value: awkward()}
		_, err := c.Describe(t.Context(), next.ref)
		switch {
		case errors.Is(err, secret.ErrNotFound):
			err = c.Create(t.Context(), next.ref, secret.NewValue(next.value), store.Regular)
		case err == nil && n%7 == 0:
			next.value = nil
			err = c.Delete(t.Context(), next.ref)
		case err == nil:
			err = c.Update(t.Context(), next.ref, secret.NewValue(next.value))
		}
		if next.acknowledged = err == nil; next.acknowledged {
			acks++
		} else {
			require.ErrorIs(t, err, secret.ErrUnavailable)
		}
		changes = append(changes, next)
	}
	require.NoError(t, c.Close())
	require.NoError(t, p.stop(syscall.SIGTERM), p.stderr)
	detached()
	require.Less(t, acks, len(changes), "syncs failed")
	disktest.EverySyncPoint(t, dir, log, acks, func(_ int, path string, data []byte) int {
		if path != audit || bytes.Contains(data, []byte(`"verb":"get"`)) {
			return 0
		}
		return bytes.Count(data, []byte(`"outcome":"done"`))
	}, func(state string, acked int) error {
		return storeMayBe(t.Context(), state, mayBe(changes, acked))
	})
}
