package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// How far the heap grows between two collections, as a percentage of what is alive. A server with
// few connections has so little alive that Go's default, 100, would collect every sixty requests,
// and the slowest requests wait for that. With a thousand connections 60 MiB are alive, and twice as
// much garbage would be most of the server's memory. So the heap grows by growRoom, within bounds:
// under leastGrowth collecting would take a tenth of the server's time and more.
const (
	growRoom = 32 << 20 // bytes
	// remoteRoom is growRoom for a remote store. There a request is mostly waiting and messages to and
	// fro, beside which collecting twice as often is lost in the noise: it takes 10 MiB less.
	remoteRoom  = 16 << 20 // bytes
	mostGrowth  = 200
	leastGrowth = 50
	// memoryLimit is what the process takes at most, as Go counts it, while that leaves the heap
	// leastRoom to grow in. It is for a server under attack, which has more alive than usual: with
	// leastGrowth alone, garbage would take half as much again. A thousand clients stay below it.
	memoryLimit = 160 << 20 // bytes
	// leastRoom is the growth that remains if what is alive comes near memoryLimit or exceeds it. A
	// limit that stayed would have the collector run all the time, and no request would be answered.
	leastRoom = growRoom / 2
)

// tuneCollector keeps the growth of the heap right as connections come and go: by about room bytes. gogc
// and limit are $GOGC and $GOMEMLIMIT: Go has set what they say, and they have the last word. "" is none.
func tuneCollector(gogc, limit string, room int64) {
	now := tuning{room: room}
	if limit == "" {
		now.limit = memoryLimit
		debug.SetMemoryLimit(now.limit)
	}
	if gogc == "" {
		now.growth = mostGrowth
		debug.SetGCPercent(now.growth)
	}
	if now != (tuning{room: room}) {
		adjustCollector(now)
	}
}

// A tuning has the settings of the collector that are set. One of 0 is the user's.
type tuning struct {
	limit  int64 // bytes
	growth int   // percent
	room   int64 // bytes; is not set, but what growth follows
}

// growth returns by how many percent the heap grows if so many bytes are alive.
func growth(alive, room int64) int {
	return int(max(leastGrowth, min(mostGrowth, 100*room/(alive+1))))
}

// adjustCollector sets what is right for what is alive now, and again after the next collection. now
// is what is set. Each change stops the process for some microseconds, so small ones are left out.
func adjustCollector(now tuning) {
	read := func(name string) int64 {
		s := []metrics.Sample{{Name: name}}
		metrics.Read(s)
		return int64(s[0].Value.Uint64()) //nolint:gosec // less than the memory of any machine
	}
	live := read("/gc/heap/live:bytes")
	if sum := live + read("/gc/scan/stack:bytes") + read("/gc/scan/globals:bytes"); now.growth != 0 {
		want := growth(sum, now.room)
		if want < now.growth*9/10 || want > now.growth*11/10 {
			debug.SetGCPercent(want)
			now.growth = want
		}
	}
	if now.limit != 0 {
		// The heap may grow to the limit without what is not heap, less 3 % that the collector
		// keeps free (gcController.memoryLimitHeapGoal in Go's runtime).
		beside := read("/memory/classes/total:bytes") - read("/memory/classes/heap/released:bytes") -
			read("/memory/classes/heap/free:bytes") - read("/memory/classes/heap/objects:bytes")
		want := max(memoryLimit, (beside+live+leastRoom)*100/97)
		// A part of the limit would be too much to leave out: 5 % of 320 MiB are all of leastRoom.
		if want < now.limit*9/10 || want > now.limit+leastRoom/8 || want == memoryLimit && now.limit != want {
			debug.SetMemoryLimit(want)
			now.limit = want
		}
	}
	// The object is garbage at once, so its cleanup runs after the next collection.
	runtime.AddCleanup(&struct{ _ *int }{}, adjustCollector, now)
}
