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
	// polite is how long processes have to end after SIGTERM, and forcible after SIGKILL.
	polite   = time.Second
	forcible = 5 * time.Second
)

// endAll ends every process below us and reaps it, and reports whether none is left. Below us are
// the processes that the program left behind, because we are their subreaper or process 1. The
// processes in spared, which were there before the program, and their descendants are left alone.
// The program itself must have been reaped. In haste, endAll sends SIGKILL without a SIGTERM
// before it.
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
				_ = unix.Kill(pid, unix.SIGCONT) // a stopped process does not act on SIGTERM
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

// reapAll reaps the children that have ended, and reports whether others are still running.
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

// descendants returns the processes below us except those in spared and their descendants, and
// whether /proc could tell. A returned process may end before it gets a signal. Its number could
// only be another process's by then if its own parent reaped it and the kernel had used up all
// numbers since, which takes longer than these microseconds.
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
		// The format is PID (NAME) STATE PARENT …, and the name may contain anything: proc(5).
		if fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]); len(fields) > 1 {
			parent, _ := strconv.Atoi(string(fields[1]))
			children[parent] = append(children[parent], pid)
		}
	}
	if _, seen := children[os.Getppid()]; !seen {
		return nil, false // /proc is empty, or that of another PID namespace
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
