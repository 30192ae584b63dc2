package exec

import (
	"runtime"
	"sync"
)

// reserveThreads makes the runtime create threads now: one for each goroutine that may run at a
// time and one that waits for timers, beside the threads that are blocked in system calls
// already. Each goroutine is locked to a thread until all have one, and the runtime keeps the
// threads afterwards. Without this, a program that uses up the user's processes would make the
// runtime end us when it needs another thread.
func reserveThreads() {
	n := runtime.GOMAXPROCS(0) + 1
	var all sync.WaitGroup
	all.Add(n)
	for range n {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			all.Done()
			all.Wait()
		}()
	}
}
