//go:build !linux

package outputs

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// passing are the flags to open a folder only to open others in it.
const passing = unix.O_RDONLY | unix.O_DIRECTORY

// openBeneath opens the file or folder called name in dir. It opens no link.
func openBeneath(dir int, name string, flags int) (int, error) {
	return unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// lease knows nothing: this system does not tell whether a process writes a file.
func lease(int) (unwritten func() bool, err error) { return func() bool { return true }, nil }

// exchange is not available here, and not needed without a lease.
func exchange(int, string, string) error { return unix.ENOSYS }

func signatureOf(st *unix.Stat_t) signature {
	return signature{
		dev: uint64(st.Dev), ino: st.Ino, //nolint:gosec // a device number
		mode: uint64(st.Mode), links: uint64(st.Nlink),
		size: st.Size, changed: st.Ctim, modified: st.Mtim,
	}
}

func times(st unix.Stat_t) []unix.Timespec { return []unix.Timespec{st.Atim, st.Mtim} }

// crossesMounts reports whether openBeneath may open what is mounted, so that device numbers
// must be compared.
func crossesMounts() bool { return true }

// holes reads a file with all bytes of its holes.
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
