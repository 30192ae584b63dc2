package outputs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"inject/injector/outputs/content"
)

// errAgain is returned for a file that is not what it was when it was looked at.
var errAgain = errors.New("it changes while it is looked at")

// A signature changes when a file does, but for what a program changes by way of memory
// (mmap), which not every file system notes at once.
type signature struct {
	dev, ino, mode, links uint64
	size                  int64
	changed, modified     unix.Timespec
}

// inspectFile looks at an open file.
func inspectFile(ctx context.Context, in *content.Inspector, f *os.File) (content.Content, error) {
	fd := int(f.Fd())
	st, _, err := stat(fd)
	if err != nil {
		return content.Content{}, err
	}
	raw := io.Reader(f)
	if st.Blocks*512 < st.Size { // there are holes
		raw = &holes{fd: fd, size: st.Size}
	}
	return in.Inspect(ctx, f.Name(), raw, f, st.Size)
}

// replaceMasked replaces f, the file called name in the folder dir, by a masked one, at
// once, with its mode and owner, and the times in like, unless that is nil. Its other
// names, access lists and extended attributes are lost. seen and before are what it was
// when it was looked at: if it is not that any more it stays, and the error is errAgain.
func replaceMasked(
	ctx context.Context, in *content.Inspector, dir int, name string, f *os.File,
	seen content.Content, before signature, like *unix.Stat_t,
) error {
	temp := ".inject-" + rand.Text() // not by its name, which may be as long as names are
	fd, err := unix.Openat(dir, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	w := os.NewFile(uintptr(fd), f.Name())
	err = fill(ctx, in, w, f, seen)
	if err == nil && like != nil {
		err = unix.UtimesNanoAt(dir, temp, times(*like), unix.AT_SYMLINK_NOFOLLOW)
	}
	if err == nil {
		err = w.Sync()
	}
	if err == nil {
		err = replace(dir, temp, name, fd, before)
	}
	if err2 := w.Close(); err == nil {
		err = err2
	}
	if err != nil {
		_ = unix.Unlinkat(dir, temp, 0) // it is gone if all went well
	}
	return err
}

// fill makes w what f is to become.
func fill(ctx context.Context, in *content.Inspector, w, f *os.File, seen content.Content) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := in.Rewrite(ctx, seen, f, w); err != nil {
		return err
	}
	like, _, err := stat(int(f.Fd()))
	if err != nil {
		return err
	}
	return keep(int(w.Fd()), like)
}

// keep gives fd the owner, group and mode that like has.
func keep(fd int, like unix.Stat_t) error {
	has, _, err := stat(fd)
	if err != nil {
		return err
	}
	if has.Uid != like.Uid || has.Gid != like.Gid {
		if err := unix.Fchown(fd, int(like.Uid), int(like.Gid)); err != nil {
			return fmt.Errorf("keep its owner: %w", err)
		}
	}
	// Last, because a change of the owner takes setuid away.
	return unix.Fchmod(fd, uint32(like.Mode)&0o7777) //nolint:unconvert // other systems have other types
}

// replace puts the file temp, which is open as fd, in the place of name, if that still
// is what it was.
func replace(dir int, temp, name string, fd int, before signature) error {
	if now, err := statAt(dir, name); err != nil || now != before {
		return errAgain
	}
	if err := unix.Renameat(dir, temp, dir, name); err != nil {
		return err
	}
	// Whoever may write to the folder may have put something else under either name.
	_, ours, err := stat(fd)
	if now, err2 := statAt(dir, name); err != nil || err2 != nil || now.ino != ours.ino || now.dev != ours.dev {
		return errAgain
	}
	return nil
}

// stat returns what fd is, and its signature.
func stat(fd int) (st unix.Stat_t, s signature, err error) {
	if err = unix.Fstat(fd, &st); err == nil {
		s = signatureOf(&st)
	}
	return st, s, err
}

func statAt(dir int, name string) (signature, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return signature{}, err
	}
	return signatureOf(&st), nil
}
