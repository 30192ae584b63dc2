package main_test

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed"
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
	// underWay is the change of which nobody has said how it ended: every secret in it
	// has changed, or none; nil is one that is deleted.
	underWay map[secret.Ref][]byte
	acks     int
}

// awkward returns a value with all that is lost where somebody takes it for text. Most are
// short; some take pages of their own in the store.
func awkward() []byte {
	sizes := []int{0, 1, 16, 200, 200, 3000, 9000, 120_000}
	b := make([]byte, sizes[rand.IntN(len(sizes))])
	_, _ = crand.Read(b)
	return append(b, "'\"$HOME`\\\n\xff%s\x00\r\n"...)
}

// run changes secrets, one after the other, until it is told nothing any more. It calls
// acknowledged after each.
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

// check finds out from what is there how the change under way ended, and returns an
// error if something is there that cannot be.
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
		return false, fmt.Errorf("after %d changes: %v is not as it was acknowledged; of the change under way %v is made and %v is not", w.acks, lost, after, before)
	}
	made = w.underWay != nil && before == nil
	if made {
		maps.Copy(w.state, w.underWay)
	}
	w.underWay = nil
	return made, nil
}

// everything returns what a server has, as it tells a task.
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

// TestKill kills a server under write load, again and again, and each time the next one
// must have everything that was acknowledged, and nothing in part. The making of the
// store, and the start of a server that finds what a killed one left, are killed, too.
func TestKill(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	kills, perStore := 200, 20
	if raceEnabled {
		kills, perStore = 30, 10
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
			flags = []string{"--insecure", "--ops-listen=", "--store", "file://" + dir + "/secrets.db", "--key-file", filepath.Join(dir, "key.txt")}
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
		s, err := sealed.Open(t.Context(), sealed.Options{Path: filepath.Join(dir, "secrets.db"), Key: sealed.Key{File: filepath.Join(dir, "key.txt")}})
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
			left, err := filepath.Glob(filepath.Join(dir, "[^.]*")) // without the folders in which a killed one was making the store
			require.NoError(t, err)
			slices.Sort(left)
			require.Equal(t, []string{filepath.Join(dir, "key.txt"), filepath.Join(dir, "secrets.db")}, left, "what a server leaves when it was asked to stop")
		}
	}
	require.Greater(t, acks, kills, "there was load")
	t.Logf("%d kills under load and %d of a server that starts: %d changes were acknowledged; of %d under way %d were made", kills, early, acks, under, made)
}

// underLoad kills p while all of writers write: a moment after as many changes as were
// asked for. It returns how many were acknowledged.
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
		defer c.Close() //nolint:errcheck // it has no connection any more
		group.Go(func() error {
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
	cmd := exec.Command(filepath.Join(binaries, "injectd"), append([]string{"serve", "--listen", "127.0.0.1:0"}, flags...)...)
	cmd.Dir, cmd.Env = dir, environ
	require.NoError(t, cmd.Start())
	time.Sleep(after)
	require.NoError(t, cmd.Process.Kill())
	require.ErrorContains(t, cmd.Wait(), "signal: killed")
}
