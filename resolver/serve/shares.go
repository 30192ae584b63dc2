package serve

import (
	"context"
	"errors"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/semaphore"
)

// patience is how long a request waits for its share of something before it is refused.
const patience = 2 * time.Second

// shares bounds what all callers hold of one thing together, and what each of them holds. A
// caller queues for the whole only with what fits into its own share, so it cannot fill that
// queue. It is safe for concurrent use.
type shares struct {
	name string // in the metric of refused requests
	all  *semaphore.Weighted
	each int64

	mu sync.Mutex
	by map[string]*share
}

// A share is what one caller may hold. It is forgotten with its last hold.
type share struct {
	*semaphore.Weighted

	holds int
}

func newShares(name string, all, each int64) *shares {
	return &shares{name: name, all: semaphore.NewWeighted(all), each: each, by: map[string]*share{}}
}

// A hold is what one request holds. Its methods are not safe for concurrent use.
type hold struct {
	of    *shares
	who   string
	share *share
	n     int64
}

// hold returns an empty hold of who. The caller must close it.
func (s *shares) hold(who string) *hold {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.by[who]
	if one == nil {
		one = &share{Weighted: semaphore.NewWeighted(s.each)}
		s.by[who] = one
	}
	one.holds++
	return &hold{of: s, who: who, share: one}
}

// errBusy is the error of a request that waited in vain for its share.
var errBusy = errors.New("the share is used up")

// grow adds n to h, at most up to the share of one caller. It waits for others to release
// theirs, at most for patience, and returns errBusy then, or when ctx has ended.
func (h *hold) grow(ctx context.Context, n int64) error {
	n = min(n, h.of.each-h.n)
	if n <= 0 {
		return nil
	}
	if h.share.TryAcquire(n) { // mostly nothing has to wait, and needs no timer
		if h.of.all.TryAcquire(n) {
			h.n += n
			return nil
		}
		h.share.Release(n)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if h.share.Acquire(ctx, n) != nil {
		return errBusy
	}
	if h.of.all.Acquire(ctx, n) != nil {
		h.share.Release(n)
		return errBusy
	}
	h.n += n
	return nil
}

// shrink releases what h holds over n.
func (h *hold) shrink(n int64) {
	if over := h.n - n; over > 0 {
		h.of.all.Release(over)
		h.share.Release(over)
		h.n = n
	}
}

// close releases what h holds.
func (h *hold) close() {
	if h.n > 0 {
		h.of.all.Release(h.n)
		h.share.Release(h.n)
	}
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	if h.share.holds--; h.share.holds == 0 {
		delete(h.of.by, h.who)
	}
}

// retryHeader is in each refusal for which the same request may succeed later. It is the
// header of HTTP (RFC 9110, 10.2.3), in seconds; package rpc tries again because of it.
const retryHeader = "Retry-After"

// exhausted returns the error for a request that exceeds its share of what, and counts it.
func (s *Server) exhausted(what, text string) *connect.Error {
	s.metrics.exhausted.WithLabelValues(what).Inc()
	err := connect.NewError(connect.CodeResourceExhausted, errors.New(text+": try again later"))
	err.Meta().Set(retryHeader, "1")
	return err
}
