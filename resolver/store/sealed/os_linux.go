package sealed

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// lockPIDs returns the processes that hold a flock on f. They are listed in /proc/locks (see
// proc(5)) in lines such as "1: FLOCK ADVISORY WRITE 1234 08:02:131075 0 EOF". It returns none if
// that file cannot be read.
func lockPIDs(f *os.File) []int {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return nil
	}
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return nil
	}
	defer locks.Close() //nolint:errcheck // read only
	var pids []int
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		var n, pid int
		var kind, mode, access, where string
		_, err := fmt.Sscanf(lines.Text(), "%d: %s %s %s %d %s", &n, &kind, &mode, &access, &pid, &where)
		if err != nil {
			continue // a line with "->" is of a process that waits for the lock
		}
		if kind == "FLOCK" && where == file && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// programName returns the name of a process without its arguments, which may contain values.
func programName(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
