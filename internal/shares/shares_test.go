package shares_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"inject/internal/shares"
)

// With a thousand clients most requests wait for their turn. Where no hold can yield, each is one
// goroutine that sleeps, and no second one looks for others that could yield.
func TestWaitingForATurnIsCheap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const waiters = 1000
		s := shares.New(1, 1, false)
		holder := s.Hold("holder")
		require.NoError(t, holder.Grow(t.Context(), 1))
		ctx, cancel := context.WithCancel(t.Context())
		before := runtime.NumGoroutine()
		var all sync.WaitGroup
		for i := range waiters {
			all.Go(func() {
				h := s.Hold(fmt.Sprint(i))
				defer h.Close()
				_ = h.Grow(ctx, 1) // it waits in vain
			})
		}
		synctest.Wait()
		require.Less(t, runtime.NumGoroutine()-before, waiters*3/2)
		cancel()
		all.Wait()
		holder.Close()
	})
}
