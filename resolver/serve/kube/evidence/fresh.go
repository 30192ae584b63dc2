package evidence

import (
	"context"
	"fmt"
	"sync"
	"time"

	"inject/resolver/secret"
)

const (
	// MaxPause is the longest pause between two reads for [Reader.Fresh]. It is otherwise as long as the
	// last read took, so that they are under way half of the time at most.
	MaxPause = 20 * time.Millisecond
	// maxRead is how long such a read may take.
	maxRead = 10 * time.Second
)

// turns are the reads of [Reader.Fresh]: at most one is under way, and one waits.
type turns struct {
	mu      sync.Mutex
	running bool
	next    *turn // not begun; nil if nothing waits for it
}

// A turn is one read, which many wait for.
type turn struct {
	done   chan struct{}
	report *Report // once done is closed
	err    error
}

// Fresh returns a report of a read that begins after the call, so that it tells of everything that
// the caller has seen before. A report that is a second old would vouch for a pod that was forged in
// that second, after the policies were removed. All calls that come while a read is under way share the
// next one. The error wraps [secret.ErrUnavailable] if ctx ends before.
func (r *Reader) Fresh(ctx context.Context) (*Report, error) {
	t := r.turns.join(r)
	select {
	case <-t.done:
		return t.report, t.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: the admission policies were not read in time: %w", secret.ErrUnavailable,
			context.Cause(ctx))
	}
}

// join returns the turn that has not begun, and sees to it that it does.
func (s *turns) join(r *Reader) *turn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = &turn{done: make(chan struct{})}
	}
	if !s.running {
		s.running = true
		go s.run(r)
	}
	return s.next
}

// run takes turns as long as there is one.
func (s *turns) run(r *Reader) {
	for {
		s.mu.Lock()
		t := s.next
		if s.next = nil; t == nil {
			s.running = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		began := time.Now()
		t.take(r)
		time.Sleep(min(time.Since(began), MaxPause))
	}
}

// take reads, for all that wait and not for one of them.
func (t *turn) take(r *Reader) {
	ctx, cancel := context.WithTimeout(context.Background(), maxRead)
	defer cancel()
	defer close(t.done)
	t.report, t.err = r.Read(ctx)
}
