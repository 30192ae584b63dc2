package main_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"inject/internal/harness"
	"inject/resolver"
	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// Replicas are servers with one store: a namespace of Kubernetes.
type replicas struct {
	*harness.Kubernetes

	namespace string
	dir       string
	flags     []string
}

// newReplicas makes the namespace, with a user of the servers who may do in it what they need.
func newReplicas(t *testing.T, k *harness.Kubernetes) *replicas {
	t.Helper()
	namespace, user := newNamespace(t, k, storeVerbs...)
	s := &replicas{Kubernetes: k, namespace: namespace, dir: t.TempDir()}
	pki := filepath.Join(s.dir, "pki")
	require.NoError(t, makePKI(t, pki))
	policy := filepath.Join(s.dir, "policy.yaml")
	require.NoError(t, os.WriteFile(policy, []byte(policyFile), 0o600))
	s.flags = []string{
		"--store", "kube://" + s.namespace + "?kubeconfig=" + user, "--policy", policy,
		"--cert-file", pki + "/server.pem", "--cert-key-file", pki + "/server.key",
		"--client-ca-file", pki + "/ca.pem", "--rate", "0", "--audit-rate", "0",
	}
	return s
}

// start starts one more server, which ends with the test.
func (s *replicas) start(t *testing.T, more ...string) *process {
	t.Helper()
	p, err := startServer(s.dir, []string{"HOME=" + s.dir}, append(slices.Clone(s.flags), more...)...)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		if log := p.stderr.String(); t.Failed() {
			t.Logf("%d: %s", p.cmd.Process.Pid, log[max(0, len(log)-3000):])
		}
	})
	return p
}

// client opens a client with the certificate of name.
func (s *replicas) client(t *testing.T, address, name string) *rpc.Client {
	t.Helper()
	pki := filepath.Join(s.dir, "pki")
	c, err := rpc.Open(rpc.Options{
		Address: address, TLS: true, CAFile: pki + "/ca.pem", Timeout: time.Minute,
		CertFile: filepath.Join(pki, name+".pem"), KeyFile: filepath.Join(pki, name+".key"),
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// data returns the data of a Secret, nil if there is none.
func (s *replicas) data(t *testing.T, name string) map[string][]byte {
	t.Helper()
	code, text, err := s.Try(t.Context(), http.MethodGet, s.path()+"/"+name, nil)
	require.NoError(t, err)
	if code == http.StatusNotFound {
		return nil
	}
	require.Equal(t, http.StatusOK, code)
	var o struct{ Data map[string][]byte }
	require.NoError(t, json.Unmarshal(text, &o))
	return o.Data
}

// names returns the names of all Secrets.
func (s *replicas) names(t *testing.T) (all []string) {
	t.Helper()
	var list struct {
		Items []struct{ Metadata struct{ Name string } }
	}
	require.NoError(t, json.Unmarshal(s.Call(t, http.MethodGet, s.path(), nil), &list))
	for _, o := range list.Items {
		all = append(all, o.Metadata.Name)
	}
	return all
}

// roots returns the CA of the servers.
func (s *replicas) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	b, err := os.ReadFile(filepath.Join(s.dir, "pki", "ca.pem"))
	if err == nil {
		pool.AppendCertsFromPEM(b)
	}
	return pool
}

func (s *replicas) path() string { return "/api/v1/namespaces/" + s.namespace + "/secrets" }

// A flip is a key with a secret at the org, which stays, and one at a narrower scope, which is created,
// updated and deleted again and again. Its history has nil where only the org has one.
type flip struct {
	*history

	typ          store.Type
	narrow, wide secret.Ref
	stays        []byte // the value at the org
}

// newFlip makes the secret at the org. The narrow one will be at a scope.
func newFlip(ctx context.Context, m changer, key string, at secret.Scope, t store.Type, stays []byte) (*flip, error) {
	f := &flip{
		history: &history{values: [][]byte{nil}}, typ: t, narrow: secret.Ref{Scope: at, Key: key},
		wide: secret.Ref{Scope: secret.Scope{Org: task.Org}, Key: key}, stays: stays,
	}
	return f, m.Create(ctx, f.wide, secret.NewValue(stays), t)
}

// is reports whether a task gets r if the narrow secret is v.
func (f *flip) is(r resolver.Resolved, v []byte) bool {
	if v == nil {
		return r.Info.Ref == f.wide && r.Value.Equal(secret.NewValue(f.stays))
	}
	return r.Info.Ref == f.narrow && r.Value.Equal(secret.NewValue(v))
}

// A changer is the part of a [store.Manager] with which secrets are changed.
type changer interface {
	Create(ctx context.Context, ref secret.Ref, v secret.Value, t store.Type) error
	Update(ctx context.Context, ref secret.Ref, v secret.Value) error
	Delete(ctx context.Context, ref secret.Ref) error
}

// A changing is a change of a secret: a create, an update or a delete.
type changing struct {
	verb string
	next []byte // what it makes of the secret
	do   func(context.Context, changer) error
}

// change begins the next change of the narrow secret, which is to v unless it is a delete. No other
// goroutine changes it.
func (f *flip) change(v []byte) changing {
	c := changing{"update", v, func(ctx context.Context, m changer) error {
		return m.Update(ctx, f.narrow, secret.NewValue(v))
	}}
	switch {
	case f.values[len(f.values)-1] == nil:
		c.verb, c.do = "create", func(ctx context.Context, m changer) error {
			return m.Create(ctx, f.narrow, secret.NewValue(v), f.typ)
		}
	case mrand.IntN(3) == 0:
		c = changing{"delete", nil, func(ctx context.Context, m changer) error { return m.Delete(ctx, f.narrow) }}
	}
	f.begin(c.next)
	return c
}

// unique returns an awkward value that no other call has returned.
func unique() []byte { return append(awkward(), rand.Text()...) }

// declared is the declared list of all flips.
func declared(flips []*flip) []secret.Declaration {
	all := make([]secret.Declaration, len(flips))
	for i, f := range flips {
		all[i].Key = f.narrow.Key
	}
	return all
}

// resolveFlips resolves the keys of flips as a task does. Each must be what it was when the request began,
// or what it was changed to since.
func resolveFlips(ctx context.Context, c *rpc.Client, flips []*flip) error {
	told := make([]int, len(flips))
	for i, f := range flips {
		told[i], _ = f.mark()
	}
	got, err := c.Resolve(ctx, task, declared(flips))
	if err != nil {
		return err
	}
	for i, f := range flips {
		if !f.may(told[i], func(v []byte) bool { return f.is(got[i], v) }) {
			return fmt.Errorf("%s is nothing that it may be", f.narrow.Key)
		}
	}
	return nil
}

// A write that one server has acknowledged is seen by the next read of the other one, each time: also
// while that one has reads of the same secrets under way, which tasks share, during the first writes.
func TestWriteIsSeenByOtherServer(t *testing.T) {
	t.Parallel()
	writes, shared := 1000, 200
	if testing.Short() {
		writes, shared = 60, 30
	}
	s := newReplicas(t, kubernetes.Get(t))
	servers := []*process{s.start(t), s.start(t)}
	var managers, tasks []*rpc.Client
	for _, p := range servers {
		managers = append(managers, s.client(t, p.host(), "platform"))
		tasks = append(tasks, s.client(t, p.host(), "task"))
	}
	var flips []*flip
	for i, at := range task.Ladder()[:3] {
		f, err := newFlip(t.Context(), managers[0], fmt.Sprint("FLIP_", i), at, store.Regular, unique())
		require.NoError(t, err)
		flips = append(flips, f)
	}
	list := declared(flips)

	group, ctx := errgroup.WithContext(t.Context())
	done := make(chan struct{})
	var asked [2]atomic.Int64 // reads
	for i := range servers {
		for range 2 {
			c := s.client(t, servers[i].host(), "task")
			group.Go(func() error {
				for {
					select {
					case <-done:
						return nil
					default:
					}
					if err := resolveFlips(ctx, c, flips); err != nil {
						return fmt.Errorf("in the background: %w", err)
					}
					asked[i].Add(4 * int64(len(list)))
				}
			})
		}
	}

	now := make([][]byte, len(flips))
	seen, verbs := 0, map[string]int{}
	for i := range writes {
		if i == shared {
			close(done)
		}
		require.NoError(t, context.Cause(ctx))
		k := mrand.IntN(len(flips))
		f := flips[k]
		c := f.change(unique())
		require.NoError(t, c.do(t.Context(), managers[i%2]))
		f.acknowledge()
		now[k] = c.next
		verbs[c.verb]++
		other := 1 - i%2
		got, err := tasks[other].Resolve(t.Context(), task, list)
		require.NoError(t, err)
		asked[other].Add(4 * int64(len(list)))
		for k, f := range flips {
			if !f.is(got[k], now[k]) {
				break
			}
			if k == len(flips)-1 {
				seen++
			}
		}
		if i%10 == 0 {
			_, err := managers[other].Describe(t.Context(), f.narrow)
			require.Equal(t, now[k] == nil, errors.Is(err, secret.ErrNotFound), "%v", err)
			page, _, err := managers[other].List(t.Context(),
				store.Filter{Org: task.Org, Project: f.narrow.Project, Domain: f.narrow.Domain}, 0, "")
			require.NoError(t, err)
			listed := slices.ContainsFunc(page, func(i store.Info) bool { return i.Ref == f.narrow })
			require.Equal(t, now[k] != nil, listed)
		}
	}
	require.NoError(t, group.Wait())
	require.Equal(t, writes, seen, "writes of one server that the next read of the other has seen")
	require.Len(t, verbs, 3)
	for i, f := range flips {
		if now[i] != nil {
			require.NoError(t, managers[i%2].Delete(t.Context(), f.narrow))
		}
		require.NoError(t, managers[i%2].Delete(t.Context(), f.wide))
		_, err := tasks[1-i%2].Resolve(t.Context(), task, list[i:i+1])
		require.ErrorIs(t, err, secret.ErrNotFound)
	}
	for i, p := range servers {
		require.Less(t, reads(t, p), float64(asked[i].Load()), "tasks share reads")
	}
	t.Log(verbs)
}

// reads returns how many reads of its store a server has made.
func reads(t *testing.T, p *process) (n float64) {
	t.Helper()
	values, _ := scrape(t, p)
	for name, v := range values {
		if strings.HasPrefix(name, "inject_backend_operations_total{") && strings.Contains(name, `"read"`) {
			n += v
		}
	}
	return n
}

// insist calls do again until its error is not that the store is unavailable.
func insist(ctx context.Context, do func() error) (repeated int, err error) {
	for ; ; repeated++ {
		err = do()
		if !errors.Is(err, secret.ErrUnavailable) {
			return repeated, err
		}
		select {
		case <-ctx.Done():
			return repeated, err
		case <-time.After(time.Duration(mrand.IntN(20)) * time.Millisecond):
		}
	}
}

// An updating is an update of a secret, from the first attempt to the acknowledgment.
type updating struct {
	value        []byte
	began, ended time.Time
}

// register is what several clients know of the value of one secret that all of them change.
type register struct {
	mu  sync.Mutex
	all []*updating
}

// update changes the secret by do. What was acknowledged is in the register, and so is what is being
// made, since others may see it.
func (r *register) update(ctx context.Context, value []byte, do func() error) (repeated int, err error) {
	u := &updating{value: value, began: time.Now()}
	r.mu.Lock()
	r.all = append(r.all, u)
	r.mu.Unlock()
	repeated, err = insist(ctx, do)
	r.mu.Lock()
	defer r.mu.Unlock()
	u.ended = time.Now()
	return repeated, err
}

// check returns an error if a read between began and ended cannot have got value: nothing has written
// it, or another update was made entirely between the one that has written it and the read.
func (r *register) check(value []byte, began, ended time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.all, func(u *updating) bool { return bytes.Equal(u.value, value) })
	if i < 0 || r.all[i].began.After(ended) {
		return errors.New("no update has written what was read")
	}
	if r.all[i].ended.IsZero() {
		return nil
	}
	for _, u := range r.all {
		if u.began.After(r.all[i].ended) && !u.ended.IsZero() && u.ended.Before(began) {
			return fmt.Errorf("a read got what was replaced %v before it began", began.Sub(u.ended))
		}
	}
	return nil
}

// The check of a read finds values that were never written, were replaced, or are from later.
func TestRegister(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	r := &register{all: []*updating{
		{[]byte("a"), at(0), at(10)},
		{[]byte("b"), at(5), at(20)},
		{[]byte("c"), at(30), at(40)},
		{[]byte("d"), at(50), time.Time{}},
	}}
	for _, c := range []struct {
		value        string
		began, ended int
		err          string
	}{
		{"a", 21, 22, ""}, // b may have been made before a
		{"b", 35, 36, ""},
		{"b", 39, 45, ""},
		{"c", 25, 31, ""},
		{"d", 45, 60, ""},
		{"c", 60, 70, ""}, // d is not acknowledged
		{"b", 41, 45, "was replaced"},
		{"d", 41, 45, "no update"},
		{"e", 41, 45, "no update"},
	} {
		err := r.check([]byte(c.value), at(c.began), at(c.ended))
		if c.err == "" {
			require.NoError(t, err, c)
			continue
		}
		require.ErrorContains(t, err, c.err, c)
	}
}

// Clients of two servers change the same secret at the same time. Each read gets the last value, or one
// that is being written; of creates at the same time one is made, and so of deletes.
func TestSameSecretByTwoServers(t *testing.T) {
	t.Parallel()
	updates, rounds := 40, 40
	if testing.Short() {
		updates, rounds = 5, 5
	}
	s := newReplicas(t, kubernetes.Get(t))
	var managers, tasks []*rpc.Client
	for range 2 {
		p := s.start(t)
		managers = append(managers, s.client(t, p.host(), "platform"))
		tasks = append(tasks, s.client(t, p.host(), "task"))
	}
	ref := secret.Ref{Scope: task, Key: "CONTENDED"}
	get := func(i int) ([]byte, error) {
		got, err := tasks[i].Resolve(t.Context(), task, []secret.Declaration{{Key: ref.Key}})
		if err != nil {
			return nil, err
		}
		return got[0].Value.Reveal(), nil // to compare it
	}

	r := &register{}
	first := unique()
	_, err := r.update(t.Context(), first, func() error {
		return managers[0].Create(t.Context(), ref, secret.NewValue(first), store.Regular)
	})
	require.NoError(t, err)
	var repeated atomic.Int64
	done := make(chan struct{})
	var writers, readers errgroup.Group
	for i := range 6 {
		writers.Go(func() error {
			for range updates {
				next := unique()
				n, err := r.update(t.Context(), next, func() error {
					return managers[i%2].Update(t.Context(), ref, secret.NewValue(next))
				})
				repeated.Add(int64(n))
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	read := func(i int) error {
		began := time.Now()
		got, err := get(i)
		if err != nil {
			return err
		}
		return r.check(got, began, time.Now())
	}
	for i := range 4 {
		readers.Go(func() error {
			for {
				select {
				case <-done:
					return nil
				default:
				}
				if err := read(i % 2); err != nil {
					return err
				}
			}
		})
	}
	require.NoError(t, writers.Wait())
	close(done)
	require.NoError(t, readers.Wait())
	require.NoError(t, errors.Join(read(0), read(1)))
	t.Logf("%d updates at the same time, %d attempts more", 6*updates, repeated.Load())

	// Both servers at the same moment.
	both := func(do func(i int) error) (errs [2]error) {
		var group sync.WaitGroup
		for i := range errs {
			group.Go(func() { errs[i] = do(i) })
		}
		group.Wait()
		return errs
	}
	one := func(errs [2]error, other error) (winner int) {
		t.Helper()
		if errs[0] != nil {
			winner = 1
		}
		require.NoError(t, errs[winner])
		require.ErrorIs(t, errs[1-winner], other)
		return winner
	}
	for i := range rounds {
		ref := secret.Ref{Scope: task, Key: fmt.Sprint("RACE_", i)}
		values := [2][]byte{unique(), unique()}
		winner := one(both(func(i int) error {
			return managers[i].Create(t.Context(), ref, secret.NewValue(values[i]), store.Regular)
		}), secret.ErrExists)
		for k := range tasks {
			got, err := tasks[k].Resolve(t.Context(), task, []secret.Declaration{{Key: ref.Key}})
			require.NoError(t, err)
			require.True(t, got[0].Value.Equal(secret.NewValue(values[winner])))
		}
		one(both(func(i int) error { return managers[i].Delete(t.Context(), ref) }), secret.ErrNotFound)
	}
}

// docker returns the credentials of an image registry.
func docker(password []byte) []byte {
	auth := base64.StdEncoding.EncodeToString(append([]byte("user:"), password...))
	b, _ := json.Marshal(map[string]any{"auths": map[string]any{"registry.example.com": map[string]any{"auth": auth}}})
	return b
}

// pullName is the name of the copy of an image pull secret that Flyte looks for.
func pullName(ref secret.Ref) string {
	sum := sha256.Sum256([]byte(ref.Org + ":" + ref.Domain + ":" + ref.Project + ":" + ref.Key))
	return "img-pull-" + hex.EncodeToString(sum[:])[:16]
}

// name is the name of the Secret of ref.
func name(ref secret.Ref) string {
	sum := md5.Sum([]byte(ref.ID()))
	return hex.EncodeToString(sum[:])
}

// equalCopy expects the copy of an image pull secret to be equal to it, and to be absent if it is.
func (s *replicas) equalCopy(t *testing.T, ref secret.Ref) (present bool) {
	t.Helper()
	own, pull := s.data(t, name(ref)), s.data(t, pullName(ref))
	if own == nil {
		require.Nil(t, pull, "a copy of a secret that does not exist")
		return false
	}
	require.Equal(t, own[ref.ID()], pull[".dockerconfigjson"])
	return true
}

// managers starts two servers, and returns a client of each that may manage all secrets.
func (s *replicas) managers(t *testing.T) (all []*rpc.Client) {
	t.Helper()
	for range 2 {
		all = append(all, s.client(t, s.start(t).host(), "platform"))
	}
	return all
}

// The copy of an image pull secret is equal to it whenever all changes by two servers were acknowledged,
// and is gone with it.
func TestPullCopiesByTwoServers(t *testing.T) {
	t.Parallel()
	rounds := 40
	if testing.Short() {
		rounds = 5
	}
	s := newReplicas(t, kubernetes.Get(t))
	managers := s.managers(t)
	there, gone := 0, 0
	for round := range rounds {
		ref := secret.Ref{Scope: task.Ladder()[round%4], Key: fmt.Sprint("REGISTRY_", round)}
		v := docker(unique())
		require.NoError(t, managers[round%2].Create(t.Context(), ref, secret.NewValue(v), store.ImagePull))
		require.True(t, s.equalCopy(t, ref))
		deleting := round%2 == 1
		var group errgroup.Group
		for i := range 4 {
			group.Go(func() error {
				_, err := insist(t.Context(), func() error {
					if deleting && i == 0 {
						return managers[round/2%2].Delete(t.Context(), ref)
					}
					return managers[i%2].Update(t.Context(), ref, secret.NewValue(docker(unique())))
				})
				if deleting && errors.Is(err, secret.ErrNotFound) {
					err = nil // also of a delete whose first attempt ended in between
				}
				return err
			})
		}
		require.NoError(t, group.Wait())
		if s.equalCopy(t, ref) {
			there++
		} else {
			gone++
		}
	}
	require.Equal(t, []int{(rounds + 1) / 2, rounds / 2}, []int{there, gone})
}

// A list that goes from server to server, page by page, has each secret that is there all the time once,
// and none that was never there, while both servers create and delete others.
func TestListsByTwoServers(t *testing.T) {
	t.Parallel()
	lists := 30
	if testing.Short() {
		lists = 3
	}
	s := newReplicas(t, kubernetes.Get(t))
	managers := s.managers(t)
	stay := map[secret.Ref]bool{}
	for i := range 60 {
		ref := secret.Ref{Scope: task.Ladder()[i%4], Key: fmt.Sprint("STAYS_", i)}
		require.NoError(t, managers[i%2].Create(t.Context(), ref, secret.NewValue(unique()), store.Regular))
		stay[ref] = true
	}
	done := make(chan struct{})
	var group errgroup.Group
	var changes atomic.Int64
	for i := range managers {
		group.Go(func() error {
			for n := 0; ; n++ {
				select {
				case <-done:
					return nil
				default:
				}
				ref := secret.Ref{Scope: task.Ladder()[n%4], Key: fmt.Sprintf("GOES_%d_%d", i, n)}
				err := managers[i].Create(t.Context(), ref, secret.NewValue(nil), store.Regular)
				if err == nil && n%3 > 0 {
					err = managers[1-i].Delete(t.Context(), ref)
				}
				if err != nil {
					return err
				}
				changes.Add(1)
			}
		})
	}
	pages := 0
	for n := range lists {
		listed := map[secret.Ref]int{}
		for token, i := "", n; ; i++ {
			page, next, err := managers[i%2].List(t.Context(), store.Filter{Org: task.Org}, 7, token)
			require.NoError(t, err)
			pages++
			for _, info := range page {
				listed[info.Ref]++
				require.True(t, stay[info.Ref] || strings.HasPrefix(info.Ref.Key, "GOES_"))
				require.Equal(t, 1, listed[info.Ref], info.Ref)
			}
			if token = next; token == "" {
				break
			}
		}
		for ref := range stay {
			require.Equal(t, 1, listed[ref], ref)
		}
	}
	close(done)
	require.NoError(t, group.Wait())
	t.Logf("%d pages in %d lists during %d changes", pages, lists, changes.Load())
	require.Greater(t, changes.Load(), int64(lists), "the store changed meanwhile")
}
