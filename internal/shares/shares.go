// Package shares bounds what callers make a server hold: what all of them hold of one thing together, and what
// each of them holds. A caller is a text, such as the name of an identity or a network.
package shares

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// Patience is how long [Hold.Grow] waits for others to release theirs.
const Patience = 2 * time.Second

// lazy is how long a request may hold what others wait for before it may be told to yield.
const lazy = 500 * time.Millisecond

// Shares bound what callers hold of one thing. A caller queues for the whole only with what fits
// into its own share, so it cannot fill that queue. If the whole is used up, the callers with the
// most must yield to those with less: see [Hold.MayYield]. Otherwise a few callers could keep all
// others from being served. They are safe for concurrent use.
type Shares struct {
	all  *semaphore.Weighted
	each int64
	// yields is true if there are holds that may yield. Looking for them costs a request that waits
	// more than its turn does, and with many clients most requests wait for their turn.
	yields bool

	mu sync.Mutex
	by map[string]*share
}

// A share is what one caller may hold. It is forgotten with its last hold.
type share struct {
	*semaphore.Weighted

	n     int64 // what is held of it
	holds map[*Hold]struct{}
}

// New returns shares of what all callers may hold together, all, of which each of them may hold each. yields is
// true if holds may yield.
func New(all, each int64, yields bool) *Shares {
	return &Shares{all: semaphore.NewWeighted(all), each: min(each, all), yields: yields, by: map[string]*share{}}
}

// A Hold is what one request holds. Its methods are not safe for concurrent use.
type Hold struct {
	of     *Shares
	caller string
	share  *share
	n      int64

	yield   func()    // see MayYield; guarded by of.mu
	since   time.Time // guarded by of.mu
	yielded atomic.Bool
}

// Hold returns an empty hold of a caller, which must be closed.
func (s *Shares) Hold(caller string) *Hold {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.by[caller]
	if one == nil {
		one = &share{Weighted: semaphore.NewWeighted(s.each), holds: map[*Hold]struct{}{}}
		s.by[caller] = one
	}
	h := &Hold{of: s, caller: caller, share: one}
	one.holds[h] = struct{}{}
	return h
}

// Callers returns how many callers have holds that are not closed.
func (s *Shares) Callers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.by)
}

// Size returns what h holds.
func (h *Hold) Size() int64 { return h.n }

// MayYield says that h can be given up from now on, because its request waits for its caller: for
// the rest of a body, or until an answer is read. yield must soon end the wait, so that h is
// closed. It is called at most once, not after close, and must not use h. With nil, h can no
// longer be given up.
func (h *Hold) MayYield(yield func()) {
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	h.yield, h.since = yield, time.Now()
}

// Yielded reports whether h was told to yield.
func (h *Hold) Yielded() bool { return h.yielded.Load() }

// reclaim makes callers with more than the owner of h would have give up holds until n are free:
// the caller with the most first, and of it the oldest hold.
func (s *Shares) reclaim(h *Hold, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for left := n; left > 0; {
		var next *Hold
		for _, one := range s.by {
			if one.n <= h.share.n+n || next != nil && one.n <= next.share.n {
				continue
			}
			if oldest := one.oldest(); oldest != nil {
				next = oldest
			}
		}
		if next == nil {
			return
		}
		left -= next.n
		next.yielded.Store(true)
		next.yield()
		next.yield = nil
	}
}

// oldest returns the oldest hold that may be given up, nil if there is none.
func (s *share) oldest() (oldest *Hold) {
	for h := range s.holds {
		if h.yield != nil && h.n > 0 && time.Since(h.since) >= lazy && (oldest == nil || h.since.Before(oldest.since)) {
			oldest = h
		}
	}
	return oldest
}

// waits calls reclaim from time to time until the returned function is called.
func (s *Shares) waits(h *Hold, n int64) (stop func()) {
	if !s.yields {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		again := time.NewTicker(lazy / 10)
		defer again.Stop()
		for {
			s.reclaim(h, n)
			select {
			case <-done:
				return
			case <-again.C:
			}
		}
	}()
	return func() { close(done) }
}

// ErrBusy is the error of a request that waited in vain for its share.
var ErrBusy = errors.New("the share is used up")

// Grow adds n to h, at most up to the share of one caller. It waits for others to release
// theirs, at most for [Patience], and returns [ErrBusy] then, or when ctx has ended.
func (h *Hold) Grow(ctx context.Context, n int64) error {
	if n = min(n, h.of.each-h.n); n <= 0 || h.Try(n) { // mostly nothing has to wait, and needs no timer
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	return h.Wait(ctx, n)
}

// Wait is [Hold.Grow] for n that fits into the share of the caller, and waits until ctx has ended.
func (h *Hold) Wait(ctx context.Context, n int64) error {
	if h.share.Acquire(ctx, n) != nil {
		return ErrBusy
	}
	stop := h.of.waits(h, n)
	defer stop()
	if h.of.all.Acquire(ctx, n) != nil {
		h.share.Release(n)
		return ErrBusy
	}
	h.add(n)
	return nil
}

// Try adds n to h, unless it would have to wait, and reports whether it did.
func (h *Hold) Try(n int64) bool {
	if !h.share.TryAcquire(n) {
		return false
	}
	if !h.of.all.TryAcquire(n) {
		h.share.Release(n)
		return false
	}
	h.add(n)
	return true
}

// add counts n more that h holds, or less if n is negative.
func (h *Hold) add(n int64) {
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	h.n += n
	h.share.n += n
}

// Shrink releases what h holds over n.
func (h *Hold) Shrink(n int64) {
	if over := h.n - n; over > 0 {
		h.of.all.Release(over)
		h.share.Release(over)
		h.add(-over)
	}
}

// Close releases what h holds. A nil hold has nothing.
func (h *Hold) Close() {
	if h == nil {
		return
	}
	h.Shrink(0)
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	h.yield = nil
	if delete(h.share.holds, h); len(h.share.holds) == 0 {
		delete(h.of.by, h.caller)
	}
}
