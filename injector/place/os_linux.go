package place

import (
	"os"
	"strings"
	"syscall"

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

// maxLinks is how many links a path may lead through, as for the kernel: see path_resolution(7).
const maxLinks = 40

// isReached returns an error unless root is the folder dir, found without a link that neither root
// nor this user has made. It looks at each name through a descriptor, so that nothing can be put
// there between the look and the next step.
func isReached(dir string, root *os.Root) error {
	at, err := openPath(unix.AT_FDCWD, ".")
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(at) }()
	for rest, links := dir, 0; rest != ""; {
		name := "/"
		if rest[0] != '/' {
			name, rest, _ = strings.Cut(rest, "/")
		}
		rest = strings.TrimLeft(rest, "/")
		to, err := openPath(at, name)
		if err != nil {
			return err
		}
		target, err := linkTarget(to)
		if err != nil || target != "" {
			_ = unix.Close(to)
			if links++; err == nil && links > maxLinks {
				err = unix.ELOOP
			}
			if err != nil {
				return err
			}
			rest = target + "/" + rest
			continue
		}
		_ = unix.Close(at)
		at = to
	}
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return err
	}
	is, err := root.Stat(".")
	if err != nil {
		return err
	}
	if o, ok := is.Sys().(*syscall.Stat_t); !ok || o.Dev != st.Dev || o.Ino != st.Ino {
		return errNotOwn
	}
	return nil
}

// openPath opens a name in the folder at for nothing but looking at it: see O_PATH in open(2). It
// does not follow a link.
func openPath(at int, name string) (int, error) {
	for {
		fd, err := unix.Openat(at, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// linkTarget returns where the link leads that is open as fd, or "" if fd is no link. It returns an
// error for a link that neither root nor this user has made.
func linkTarget(fd int) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", err
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return "", errForeignLink
	}
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", target)
	return string(target[:max(n, 0)]), err
}
