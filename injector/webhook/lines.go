package webhook

import (
	"sync"

	"golang.org/x/time/rate"
)

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
