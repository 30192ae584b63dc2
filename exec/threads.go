package exec

import (
	"runtime"
	"sync"
)

// reserveThreads begins to make threads for all goroutines that may run at a time and one that
// waits for timers, beside those that wait in the kernel already. A goroutine that is locked to its
// thread has it alone, and the runtime keeps the threads for others afterwards.
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
