//go:build !linux

package outputs

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// passing opens a folder to pass through it.
const passing = unix.O_RDONLY | unix.O_DIRECTORY

// openBeneath opens what is in dir under one name, if that is no link.
func openBeneath(dir int, name string, flags int) (int, error) {
	return unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

func signatureOf(st *unix.Stat_t) signature {
	return signature{
		dev: uint64(st.Dev), ino: st.Ino, mode: uint64(st.Mode), links: uint64(st.Nlink), //nolint:gosec // a number of the system's
		size: st.Size, changed: st.Ctim, modified: st.Mtim,
	}
}

func times(st unix.Stat_t) []unix.Timespec { return []unix.Timespec{st.Atim, st.Mtim} }

// crossesMounts reports whether openBeneath may open what is mounted.
func crossesMounts() bool { return true }

// holes reads a file; its holes are as long as they are.
type holes struct {
	fd       int
	size, at int64
}

// Read implements [io.Reader].
func (s *holes) Read(p []byte) (int, error) {
	n, err := unix.Pread(s.fd, p, s.at)
	s.at += int64(max(n, 0))
	if n == 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), os.NewSyscallError("pread", err)
}
