package serve

import (
	"sync"

	"golang.org/x/time/rate"
)

// limits bounds how often each identity may call.
type limits struct {
	rate  rate.Limit
	burst int

	mu  sync.Mutex
	all map[string]*rate.Limiter
}

// maxLimiters is how many identities are kept in mind: a task each may have one.
const maxLimiters = 10_000

func newLimits(perSecond float64, burst int) *limits {
	return &limits{rate: rate.Limit(perSecond), burst: burst, all: map[string]*rate.Limiter{}}
}

// allow reports whether who may call now.
func (l *limits) allow(who string) bool {
	if l.rate == 0 {
		return true
	}
	l.mu.Lock()
	limiter := l.all[who]
	if limiter == nil {
		if len(l.all) >= maxLimiters {
			l.forget()
		}
		limiter = rate.NewLimiter(l.rate, l.burst)
		l.all[who] = limiter
	}
	l.mu.Unlock()
	return limiter.Allow()
}

// forget drops those that have rested: a new one would be the same. Where none has,
// some are dropped all the same; they may call a burst too often.
func (l *limits) forget() {
	for who, limiter := range l.all {
		if limiter.Tokens() >= float64(l.burst) {
			delete(l.all, who)
		}
	}
	for who := range l.all {
		if len(l.all) < maxLimiters/2 {
			break
		}
		delete(l.all, who)
	}
}
