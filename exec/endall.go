package exec

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// polite is how long what is left of a program has to end by itself, and forcible
	// how long the kernel has to end it.
	polite   = time.Second
	forcible = 5 * time.Second
)

// endAll ends every process below us and reaps it: what the program left behind is
// ours, as we are its subreaper or process 1. Not those in spared, which were there
// before the program, and what is below them. It reports whether none is left. The
// program itself must have been reaped. When there is no time it is not polite.
func endAll(spared []int, inHaste bool) bool {
	began := time.Now()
	asked := map[int]bool{}
	politely := polite
	if inHaste {
		politely = 0
	}
	for reapAll() {
		since := time.Since(began)
		below, known := descendants(spared)
		if known && len(below) == 0 {
			return true
		}
		for _, pid := range below {
			switch {
			case since >= politely:
				_ = unix.Kill(pid, unix.SIGKILL)
			case !asked[pid]:
				_ = unix.Kill(pid, unix.SIGTERM)
				_ = unix.Kill(pid, unix.SIGCONT) // a stopped one does not hear it
			}
			asked[pid] = true
		}
		if since > politely+forcible {
			return false
		}
		time.Sleep(5 * time.Millisecond)
	}
	return true
}

// reapAll reaps the children that have ended, and reports whether there are others.
func reapAll() bool {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil: // ECHILD
			return false
		case pid == 0:
			return true
		}
	}
}

// descendants returns the processes below us but for those in spared and below them, and
// whether that is known. A number may be another's by the time
// it is sent a signal only if its process has ended and was reaped meanwhile: by a
// parent of its own, within microseconds, and numbers are not used again so soon.
func descendants(spared []int) (below []int, known bool) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, false
	}
	children := map[int][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		// PID (NAME) STATE PARENT …, and the name may hold anything: proc(5).
		if fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]); len(fields) > 1 {
			parent, _ := strconv.Atoi(string(fields[1]))
			children[parent] = append(children[parent], pid)
		}
	}
	if _, seen := children[os.Getppid()]; !seen {
		return nil, false // an empty /proc, or another one's
	}
	for _, pid := range children[os.Getpid()] {
		if !slices.Contains(spared, pid) {
			below = append(below, pid)
		}
	}
	for i := 0; i < len(below); i++ {
		below = append(below, children[below[i]]...)
	}
	return below, true
}
