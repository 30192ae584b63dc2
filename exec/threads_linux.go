//go:build amd64 || arm64

package exec

import (
	"runtime"
	"sync/atomic"
)

// reserveThreads begins to make threads for all goroutines that may run at a time
// and one that waits for timers, beside those that wait in the kernel already. The
// runtime keeps a thread for good.
func reserveThreads() {
	n := runtime.GOMAXPROCS(0) + 1
	gate := new(threadGate)
	for range n {
		go func() {
			if gate.arrived.Add(1) == int32(n) { //nolint:gosec // small
				gate.open.Store(1)
				_ = futex(&gate.open, futexWake, uint32(n)) //nolint:gosec // small
				return
			}
			for gate.open.Load() == 0 { // each in a thread of its own
				_ = futex(&gate.open, futexWait, 0)
			}
		}()
	}
}

// threadGate opens when everybody is there.
type threadGate struct {
	arrived atomic.Int32
	open    atomic.Uint32 // a futex
}
