package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	mrand "math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// A history is the sequence of values of one secret. One client changes it; others read it.
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

// acknowledge ends a change. A change without it may have been made or not, and may still be
// made; then it is the last one.
func (h *history) acknowledge() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = len(h.values) - 1
}

// mark returns the oldest value that a read which begins now may see, and how many are known.
func (h *history) mark() (told, known int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.told, len(h.values)
}

// may reports whether a read that began at told, a result of mark, may see a value for which is
// returns true.
func (h *history) may(told int, is func(v []byte) bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.values[told:], is)
}

// of returns the history of a secret, and creates it if there is none.
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

// failed notes the error of a request. It reports whether a fault, or the end of the test, may
// cause such an error.
func (s *soak) failed(err error) bool {
	s.mu.Lock()
	s.told[fmt.Sprintf("%v\n%+v\n%#v\n%s", err, err, err, secret.Hint(err))] = true
	s.mu.Unlock()
	return errors.Is(err, secret.ErrUnavailable)
}

// repeat calls do again and again until the clients are to stop. After a request without an
// answer it waits, longer each time.
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

// change calls do to change refs to values; a nil value deletes.
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

// forget stops using refs: a change without an answer may still be made later.
func (m *manager) forget(refs []secret.Ref) {
	gone := func(ref secret.Ref) bool { return slices.Contains(refs, ref) }
	m.present, m.absent = slices.DeleteFunc(m.present, gone), slices.DeleteFunc(m.absent, gone)
}

// refusal returns an error unless err is the refusal want.
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
		return m.change("create", []secret.Ref{ref}, [][]byte{v},
			func() error { return m.client.Create(ctx, ref, secret.NewValue(v), store.Regular) })
	case what < 4:
		ref, v := m.fresh(), m.value()
		return m.change("create", []secret.Ref{ref}, [][]byte{v},
			func() error { return m.client.Create(ctx, ref, secret.NewValue(v), store.ImagePull) })
	case what < 5:
		var refs []secret.Ref
		var values [][]byte
		var all []store.New
		at := m.fresh().Scope
		for range 4 {
			ref, v := secret.Ref{Scope: at, Key: m.fresh().Key}, m.value()
			refs, values, all = append(refs, ref), append(values, v),
				append(all, store.New{Ref: ref, Value: secret.NewValue(v)})
		}
		return m.change("import", refs, values, func() error { return m.client.Import(ctx, all) })
	case what < 12:
		ref, v := one(m.present), m.value()
		return m.change("update", []secret.Ref{ref}, [][]byte{v},
			func() error { return m.client.Update(ctx, ref, secret.NewValue(v)) })
	case what < 15:
		ref := one(m.present)
		return m.change("delete", []secret.Ref{ref}, [][]byte{nil}, func() error { return m.client.Delete(ctx, ref) })
	case what == 15:
		return m.refusal(m.client.Create(ctx, one(m.present), secret.NewValue(m.value()), store.Regular),
			secret.ErrExists)
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

// resolve resolves secrets as a task does. No value may be older than the last change that was
// acknowledged before the request.
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
			return fmt.Errorf("an answer that must have no value has one of %v", refs[i])
		}
		if !histories[i].may(told[i], is) {
			return fmt.Errorf("%v is in none of the states that it may be in: %w", refs[i], climb.Err)
		}
	}
	return nil
}

// list expects each secret that existed all the time exactly once, and none that never existed.
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
