package serve

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/semaphore"
)

// patience is how long a request waits for its share of something before it is refused.
const patience = 2 * time.Second

// lazy is how long a request may hold what others wait for before it may be told to yield.
const lazy = 500 * time.Millisecond

// shares bounds what all callers hold of one thing together, and what each of them holds. A
// caller queues for the whole only with what fits into its own share, so it cannot fill that
// queue. If the whole is used up, the callers with the most must yield to those with less: see
// [hold.mayYield]. Otherwise a few callers could keep all others from being served. It is safe
// for concurrent use.
type shares struct {
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
	holds map[*hold]struct{}
}

func newShares(all, each int64, yields bool) *shares {
	return &shares{all: semaphore.NewWeighted(all), each: min(each, all), yields: yields, by: map[string]*share{}}
}

// A hold is what one request holds. Its methods are not safe for concurrent use.
type hold struct {
	of    *shares
	who   string
	share *share
	n     int64

	yield   func()    // see mayYield; guarded by of.mu
	since   time.Time // guarded by of.mu
	yielded atomic.Bool
}

// hold returns an empty hold of who. The caller must close it.
func (s *shares) hold(who string) *hold {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.by[who]
	if one == nil {
		one = &share{Weighted: semaphore.NewWeighted(s.each), holds: map[*hold]struct{}{}}
		s.by[who] = one
	}
	h := &hold{of: s, who: who, share: one}
	one.holds[h] = struct{}{}
	return h
}

// mayYield says that h can be given up from now on, because its request waits for its caller: for
// the rest of a body, or until an answer is read. yield must soon end the wait, so that h is
// closed. It is called at most once, not after close, and must not use h. With nil, h can no
// longer be given up.
func (h *hold) mayYield(yield func()) {
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	h.yield, h.since = yield, time.Now()
}

// reclaim makes callers with more than the owner of h would have give up holds until n are free:
// the caller with the most first, and of it the oldest hold.
func (s *shares) reclaim(h *hold, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for left := n; left > 0; {
		var next *hold
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
func (s *share) oldest() (oldest *hold) {
	for h := range s.holds {
		if h.yield != nil && h.n > 0 && time.Since(h.since) >= lazy && (oldest == nil || h.since.Before(oldest.since)) {
			oldest = h
		}
	}
	return oldest
}

// waits calls reclaim from time to time until the returned function is called.
func (s *shares) waits(h *hold, n int64) (stop func()) {
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

// errBusy is the error of a request that waited in vain for its share.
var errBusy = errors.New("the share is used up")

// grow adds n to h, at most up to the share of one caller. It waits for others to release
// theirs, at most for patience, and returns errBusy then, or when ctx has ended.
func (h *hold) grow(ctx context.Context, n int64) error {
	if n = min(n, h.of.each-h.n); n <= 0 || h.try(n) { // mostly nothing has to wait, and needs no timer
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return h.wait(ctx, n)
}

// wait is grow for n that may be added, and waits until ctx has ended.
func (h *hold) wait(ctx context.Context, n int64) error {
	if h.share.Acquire(ctx, n) != nil {
		return errBusy
	}
	stop := h.of.waits(h, n)
	defer stop()
	if h.of.all.Acquire(ctx, n) != nil {
		h.share.Release(n)
		return errBusy
	}
	h.add(n)
	return nil
}

// try adds n to h, unless it would have to wait, and reports whether it did.
func (h *hold) try(n int64) bool {
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
func (h *hold) add(n int64) {
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	h.n += n
	h.share.n += n
}

// shrink releases what h holds over n.
func (h *hold) shrink(n int64) {
	if over := h.n - n; over > 0 {
		h.of.all.Release(over)
		h.share.Release(over)
		h.add(-over)
	}
}

// close releases what h holds, if it is not nil.
func (h *hold) close() {
	if h == nil {
		return
	}
	h.shrink(0)
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	h.yield = nil
	if delete(h.share.holds, h); len(h.share.holds) == 0 {
		delete(h.of.by, h.who)
	}
}

// A crowd bounds the requests of each caller that are under way, in whatever state: each takes
// memory for its header, its goroutine and the input that waits for it. As many more may wait to
// be served, and those beyond are dropped, since an answer that the client does not read takes
// memory, too. It is safe for concurrent use.
type crowd struct{ served, waiting *shares }

func newCrowd(all, each int64) *crowd {
	return &crowd{newShares(all, each, true), newShares(all, each, false)}
}

// enter returns the place of a request of who, which the caller must close. It waits as [hold.grow]
// does. Then served is false if the request must be turned away. The place is nil if it must be
// dropped.
func (c *crowd) enter(ctx context.Context, who string) (at *hold, served bool) {
	at = c.served.hold(who)
	if at.try(1) {
		return at, true
	}
	waiting := c.waiting.hold(who)
	if !waiting.try(1) {
		at.close()
		waiting.close()
		return nil, false
	}
	if at.grow(ctx, 1) != nil {
		at.close()
		return waiting, false
	}
	waiting.close()
	return at, true
}

// retryHeader is in each refusal for which the same request may succeed later. It is the
// header of HTTP (RFC 9110, 10.2.3), in seconds; package rpc tries again because of it.
const retryHeader = "Retry-After"

// exhausted returns the error for a request of c that exceeds its share of what, and counts it.
func (s *Server) exhausted(c *caller, what, text string) *connect.Error {
	s.metrics.exhausted.WithLabelValues(what).Inc()
	c.reason = text
	err := connect.NewError(connect.CodeResourceExhausted, errors.New(text+": try again later"))
	err.Meta().Set(retryHeader, "1")
	return err
}
