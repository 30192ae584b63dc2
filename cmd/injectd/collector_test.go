package main

import (
	"math"
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
	limit := func() int64 { return debug.SetMemoryLimit(-1) }
	defer debug.SetMemoryLimit(limit())
	for gogc, percent := range map[string]int{"50": 50, "100": 100} { // 100 is Go's default
		debug.SetGCPercent(percent) // as Go does
		tuneCollector(gogc, "off", growRoom)
		require.Equal(t, percent, growth())
		require.Equal(t, int64(math.MaxInt64), limit())
	}
	debug.SetGCPercent(100)
	tuneCollector("100", "", growRoom)
	require.Equal(t, 100, growth())
	require.Equal(t, int64(memoryLimit), limit())
	debug.SetMemoryLimit(math.MaxInt64)
	tuneCollector("", "off", growRoom)
	becomes(mostGrowth)
	require.Equal(t, int64(math.MaxInt64), limit())

	tuneCollector("", "", growRoom)
	becomes(mostGrowth)
	ballast := make([]byte, 100<<20)
	becomes(leastGrowth)
	runtime.KeepAlive(ballast) // and no longer
	becomes(mostGrowth)
}

// The heap grows by the room, within bounds.
func TestGrowth(t *testing.T) {
	for _, c := range []struct {
		alive, room int64 // MiB
		want        int   // percent
	}{
		{2, 32, 200},
		{16, 32, 200},
		{20, 32, 160},
		{60, 32, 53},
		{100, 32, 50},
		{2, 16, 200},
		{20, 16, 80},
		{100, 16, 50},
	} {
		require.InDelta(t, c.want, growth(c.alive<<20, c.room<<20), 1, c)
	}
}

// What is alive may exceed the memory limit. Then the heap still grows by some MiB between two
// collections: with a limit that stayed, each few KiB would cause one.
func TestCollectorOverTheLimit(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(math.MaxInt64))
	tuneCollector("", "", growRoom)
	var ballast [][]byte
	for range 2 * memoryLimit >> 20 {
		ballast = append(ballast, make([]byte, 1<<20))
	}
	room := func() uint64 {
		runtime.GC()
		s := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}, {Name: "/gc/heap/live:bytes"}}
		metrics.Read(s)
		return s[0].Value.Uint64() - min(s[0].Value.Uint64(), s[1].Value.Uint64())
	}
	require.Eventually(t, func() bool { return room() > leastRoom*3/4 }, time.Minute, time.Millisecond)
	require.Less(t, room(), uint64(leastRoom*2), "and not by half of what is alive")
	runtime.KeepAlive(ballast) // and no longer
	require.Eventually(t, func() bool {
		runtime.GC()
		return debug.SetMemoryLimit(-1) == memoryLimit
	}, time.Minute, time.Millisecond)
}
