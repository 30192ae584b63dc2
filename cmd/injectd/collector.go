package main

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// How far the heap grows between two collections, as a percentage of what is alive. A server with
// few connections has so little alive that Go's default, 100, would collect every sixty requests,
// and the slowest requests wait for that. With a thousand connections 60 MiB are alive, and twice as
// much garbage would be most of the server's memory. So the heap grows by growRoom, within bounds:
// under leastGrowth collecting would take a tenth of the server's time and more. A memory limit
// (debug.SetMemoryLimit) that is near what is alive has it take most of the time.
const (
	growRoom    = 32 << 20 // bytes
	mostGrowth  = 200
	leastGrowth = 50
	goDefault   = 100
	// memoryLimit is for a server under attack, with more than usual alive: near it the collector
	// works as often as it must. A thousand clients stay below it.
	memoryLimit = 160 << 20 // bytes
)

// tuneCollector keeps the growth of the heap right as connections come and go. $GOGC and
// $GOMEMLIMIT, if set, have the last word.
func tuneCollector() {
	if set := debug.SetMemoryLimit(memoryLimit); set != math.MaxInt64 {
		debug.SetMemoryLimit(set)
	}
	if set := debug.SetGCPercent(mostGrowth); set != goDefault {
		debug.SetGCPercent(set)
		return
	}
	adjustCollector(mostGrowth)
}

// adjustCollector sets the growth for what is alive now, and again after the next collection. now is
// the growth that is set. Each change stops the process for some microseconds, so small ones are
// left out.
func adjustCollector(now int) {
	alive := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"},
	}
	metrics.Read(alive)
	sum := uint64(1)
	for _, s := range alive {
		sum += s.Value.Uint64()
	}
	want := int(max(leastGrowth, min(mostGrowth, 100*growRoom/sum)))
	if want < now*9/10 || want > now*11/10 {
		debug.SetGCPercent(want)
		now = want
	}
	// The object is garbage at once, so its cleanup runs after the next collection.
	runtime.AddCleanup(&struct{ _ *int }{}, adjustCollector, now)
}
