package webhook

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

// shares bounds what all callers hold of one thing together, and what each of them holds. A caller queues
// for the whole only with what fits into its own share, so it cannot fill that queue. It is safe for
// concurrent use.
//
// The server's package has these shares, too, which can also be given up. They are not imported, since the
// webhook must not link the server.
type shares struct {
	all  *semaphore.Weighted
	each int64

	mu sync.Mutex
	by map[string]*share
}

// A share is what one caller may hold. It is forgotten when nothing of it is asked for.
type share struct {
	*semaphore.Weighted

	users int
}

func newShares(all, each int64) *shares {
	return &shares{all: semaphore.NewWeighted(all), each: each, by: map[string]*share{}}
}

// take takes n of the share of a network, and waits for it until ctx ends. Then ok is false. The caller must
// call release, once, if it is true.
func (s *shares) take(ctx context.Context, network string, n int64) (release func(), ok bool) {
	s.mu.Lock()
	one := s.by[network]
	if one == nil {
		one = &share{Weighted: semaphore.NewWeighted(s.each)}
		s.by[network] = one
	}
	one.users++
	s.mu.Unlock()
	leave := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if one.users--; one.users == 0 {
			delete(s.by, network)
		}
	}
	if !one.TryAcquire(n) && one.Acquire(ctx, n) != nil {
		leave()
		return nil, false
	}
	if !s.all.TryAcquire(n) && s.all.Acquire(ctx, n) != nil {
		one.Release(n)
		leave()
		return nil, false
	}
	return func() { s.all.Release(n); one.Release(n); leave() }, true
}

// lines bounds the lines of the log a second, of each caller and of all. It is safe for concurrent use.
type lines struct {
	all *rate.Limiter

	mu sync.Mutex
	by map[string]*rate.Limiter
}

func newLines() *lines {
	return &lines{all: rate.NewLimiter(LineRate*2, LineBurst*2), by: map[string]*rate.Limiter{}}
}

// allow reports whether one more line about a request of a network may be logged.
func (l *lines) allow(network string) bool {
	l.mu.Lock()
	one := l.by[network]
	if one == nil {
		if len(l.by) >= maxCallers {
			clear(l.by) // they may then exceed the rate by one burst
		}
		one = rate.NewLimiter(LineRate, LineBurst)
		l.by[network] = one
	}
	l.mu.Unlock()
	return one.Allow() && l.all.Allow()
}
