package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The more is alive, the less the heap grows before a collection, and back again.
func TestCollector(t *testing.T) {
	growth := func() int {
		runtime.GC() // the growth follows what the last collection found
		s := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		metrics.Read(s)
		return int(s[0].Value.Uint64())
	}
	becomes := func(want int) {
		t.Helper()
		require.Eventually(t, func() bool { return growth() == want }, time.Minute, time.Millisecond)
	}
	debug.SetGCPercent(50) // as by $GOGC
	tuneCollector()
	require.Equal(t, 50, growth())

	debug.SetGCPercent(goDefault)
	tuneCollector()
	becomes(mostGrowth)
	ballast := make([]byte, 100<<20)
	becomes(leastGrowth)
	runtime.KeepAlive(ballast) // and no longer
	becomes(mostGrowth)
}
