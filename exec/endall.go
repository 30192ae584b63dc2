package exec

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// politely is how long what is left of a program has to end by itself, and
	// forcibly how long the kernel has to end it.
	politely = time.Second
	forcibly = 5 * time.Second
)

// endAll ends every process below us and reaps it: what the program left behind is
// ours, as we are its subreaper or process 1. It reports whether none is left. The
// program itself must have been reaped.
func endAll() bool {
	began := time.Now()
	asked := map[int]bool{}
	for reapAll() {
		since := time.Since(began)
		for _, pid := range descendants() {
			switch {
			case since >= politely:
				_ = unix.Kill(pid, unix.SIGKILL)
			case !asked[pid]:
				_ = unix.Kill(pid, unix.SIGTERM)
				_ = unix.Kill(pid, unix.SIGCONT) // a stopped one does not hear it
			}
			asked[pid] = true
		}
		if since > politely+forcibly {
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

// descendants returns the processes below us. A number may be another's by the time
// it is sent a signal only if its process has ended and was reaped meanwhile: by a
// parent of its own, within microseconds, and numbers are not used again so soon.
func descendants() (below []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
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
	below = children[os.Getpid()]
	for i := 0; i < len(below); i++ {
		below = append(below, children[below[i]]...)
	}
	return below
}
