package exec

import (
	"runtime"
	"sync"
)

// reserveThreads makes the runtime create threads now: one for each goroutine that may run at a
// time, one that waits for timers and one to spare, since package os/signal has a goroutine that
// is woken and blocked again. They come beside the threads that are blocked in system calls now.
// Each goroutine is locked to a thread until all have one, and the runtime keeps the threads
// afterwards. Without this, a program that uses up the user's processes would make the runtime
// end us when it needs another thread.
func reserveThreads() {
	n := runtime.GOMAXPROCS(0) + 2
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
