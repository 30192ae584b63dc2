package transport

import (
	"sync"
	"time"
)

// A budget bounds bytes of input: burst at once, and rate a second. Frames of HTTP/2 can make the
// server work, and hold something, without being a request, so that no other bound sees them. It is
// safe for concurrent use.
type budget struct {
	burst, rate float64

	mu   sync.Mutex
	left float64 // less than 0 if more came than may
	at   time.Time
}

func newBudget(burst, rate float64) *budget {
	return &budget{burst: burst, rate: rate, left: burst, at: time.Now()}
}

func (b *budget) add(n int) (left float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.left = min(b.burst, b.left+now.Sub(b.at).Seconds()*b.rate+float64(n))
	b.at = now
	return b.left
}

// give adds n bytes that may come.
func (b *budget) give(n int) { b.add(n) }

// wait takes n bytes that came, and waits while more came than may. It returns false if or else was
// closed before, and true at the latest when end is.
func (b *budget) wait(n int, end, orElse <-chan struct{}) bool {
	for left := b.add(-n); left < 0; left = b.add(0) {
		// In small steps, since give may have ended the debt meanwhile.
		debt := time.Duration(-left / b.rate * float64(time.Second))
		timer := time.NewTimer(min(debt, 20*time.Millisecond) + time.Millisecond)
		select {
		case <-end:
			timer.Stop()
			return true
		case <-orElse:
			timer.Stop()
			return false
		case <-timer.C:
		}
	}
	return true
}
