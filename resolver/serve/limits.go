package serve

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limits bounds the rate of something for each identity. With rate 0 there is no limit.
type limits struct {
	rate  rate.Limit
	burst int

	mu  sync.Mutex
	all map[string]*rate.Limiter
}

// maxLimiters is how many identities are remembered. Each task may have its own.
const maxLimiters = 10_000

func newLimits(perSecond float64, burst int) *limits {
	return &limits{rate: rate.Limit(perSecond), burst: burst, all: map[string]*rate.Limiter{}}
}

// allow reports whether the identity who may have n of what is limited now, and takes them. If n
// is more than a full bucket has, a full bucket is enough.
func (l *limits) allow(who string, n int) bool {
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
	return limiter.AllowN(time.Now(), min(n, l.burst))
}

// forget drops limiters that are full again, since a new one is equal. If too few are, it
// drops others, too; their identities may then exceed the limit by one burst.
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
