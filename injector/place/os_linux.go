package place

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// inMemory reports whether dir is on a file system that keeps its files in memory, not on a disk.
func inMemory(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && (st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC)
}

// startTime returns when this process started, in clock ticks since the kernel booted: field 22
// of /proc/self/stat, see proc(5). It returns "0" if /proc cannot be read.
func startTime() string {
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return "0"
	}
	// The second field, the program's name in parentheses, may contain spaces and parentheses.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 20 {
		return "0"
	}
	return fields[19]
}
