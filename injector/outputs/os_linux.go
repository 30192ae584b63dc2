package outputs

import (
	"errors"
	"io"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// passing are the flags to open a folder only to open others in it. It need not be readable.
const passing = unix.O_PATH | unix.O_DIRECTORY

// noOpenat2 is set if the kernel has no openat2(2), or a seccomp filter does not know it.
var noOpenat2 atomic.Bool

// openBeneath opens the file or folder called name in dir. It opens no link, and with openat2
// nothing that is mounted there.
func openBeneath(dir int, name string, flags int) (int, error) {
	flags |= unix.O_NOFOLLOW | unix.O_CLOEXEC
	for !noOpenat2.Load() {
		fd, err := unix.Openat2(dir, name, &unix.OpenHow{
			Flags: uint64(flags), //nolint:gosec // bits
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS |
				unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
		})
		switch {
		case errors.Is(err, unix.EAGAIN): // a rename elsewhere: try again
		case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
			noOpenat2.Store(true)
		default:
			return fd, err
		}
	}
	return unix.Openat(dir, name, flags, 0)
}

// lease takes a lease on a file that is open for reading (fcntl(2), F_SETLEASE): while it is held,
// no process has the file open for writing, and one that opens it so waits until fd is closed. It
// returns a function that reports whether none waits, or always true if the system does not say.
// If a process has the file open for writing already, the error is [ErrWritten].
func lease(fd int) (unwritten func() bool, err error) {
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil, ErrWritten
	case err != nil: // neither ours nor CAP_LEASE, or a file system without leases
		return func() bool { return true }, nil //nolint:nilerr // as documented
	}
	return func() bool {
		kind, err := unix.FcntlInt(uintptr(fd), unix.F_GETLEASE, 0)
		return err == nil && kind == unix.F_RDLCK
	}, nil
}

// exchange makes two files change their names atomically.
func exchange(dir int, a, b string) error {
	return unix.Renameat2(dir, a, dir, b, unix.RENAME_EXCHANGE)
}

func signatureOf(st *unix.Stat_t) signature {
	return signature{
		dev: st.Dev, ino: st.Ino,
		mode: uint64(st.Mode), links: uint64(st.Nlink), //nolint:unconvert // arm64 has other types
		size: st.Size, changed: st.Ctim, modified: st.Mtim,
	}
}

func times(st unix.Stat_t) []unix.Timespec { return []unix.Timespec{st.Atim, st.Mtim} }

// holeLength is how many bytes of a hole are read, so that a value with zeros in it is found.
const holeLength = 64 << 10

// crossesMounts reports whether openBeneath may open what is mounted, so that device numbers
// must be compared. Otherwise they are not, because on overlayfs those of files differ from
// those of their folders.
func crossesMounts() bool { return noOpenat2.Load() }

// holes reads a sparse file. It returns holeLength bytes of each hole and skips the rest.
type holes struct {
	fd   int
	size int64
	at   int64
	end  int64 // end of the data at at, or of the part of the hole that is read
	hole bool  // at is in a hole
}

// Read implements [io.Reader].
func (s *holes) Read(p []byte) (int, error) {
	if s.at >= s.end {
		if err := s.next(); err != nil {
			return 0, err
		}
	}
	p = p[:min(int64(len(p)), s.end-s.at)]
	if s.hole {
		clear(p)
		s.at += int64(len(p))
		return len(p), nil
	}
	n, err := unix.Pread(s.fd, p, s.at)
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	s.at += int64(max(n, 0))
	return max(n, 0), err
}

// next finds out whether data or a hole is at s.at, and where it ends.
func (s *holes) next() error {
	if s.hole { // go to its end
		data, err := unix.Seek(s.fd, s.at, unix.SEEK_DATA)
		if err != nil { // there is no more data
			return io.EOF
		}
		s.at, s.hole = data, false
	} else if s.at >= s.size {
		return io.EOF
	}
	data, err := unix.Seek(s.fd, s.at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		data, err = s.size, nil
	}
	if err != nil {
		return err
	}
	if data > s.at {
		s.hole, s.end = true, min(s.at+holeLength, data)
		return nil
	}
	hole, err := unix.Seek(s.fd, s.at, unix.SEEK_HOLE)
	s.end = hole
	if err != nil || hole <= s.at {
		s.end = s.size
	}
	return nil
}
