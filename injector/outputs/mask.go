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

// errAgain is returned if a file has changed since it was inspected.
var errAgain = errors.New("it changes while it is checked")

// A signature tells whether a file has changed. It may miss a change through shared memory
// (mmap), for which some file systems update the times late or never.
type signature struct {
	dev, ino, mode, links uint64
	size                  int64
	changed, modified     unix.Timespec
}

// inspectFile inspects an open file.
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

// replaceMasked replaces f, the file called name in the folder dir, by a masked one with the
// same mode and owner, and the times of like unless that is nil. Other names, access lists and
// extended attributes are lost. seen is the result of inspecting f, and before its signature
// then: a file that has changed since is not replaced, and the error is errAgain. If unwritten is not
// nil, the file is also not replaced if that returns false, and the error is [ErrWritten].
func replaceMasked(
	ctx context.Context, in *content.Inspector, dir int, name string, f *os.File,
	seen content.Content, before signature, like *unix.Stat_t, unwritten func() bool,
) error {
	temp := ".inject-" + rand.Text() // without name, which may already have the maximal length
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
		err = replace(dir, temp, name, fd, before, unwritten)
	}
	if err2 := w.Close(); err == nil {
		err = err2
	}
	if err != nil {
		_ = unix.Unlinkat(dir, temp, 0)
	}
	return err
}

// fill writes f to w with its values masked, and gives w the owner and mode of f.
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

// keep gives fd the owner, group and mode of like.
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

// replace renames the file temp, which is open as fd, to name, if the file there still has the
// signature before.
func replace(dir int, temp, name string, fd int, before signature, unwritten func() bool) error {
	if now, err := statAt(dir, name); err != nil || now != before {
		return errAgain
	}
	if err := rename(dir, temp, name, unwritten); err != nil {
		return err
	}
	// Another process may have put another file under either name in the meantime.
	_, ours, err := stat(fd)
	if now, err2 := statAt(dir, name); err != nil || err2 != nil || now.ino != ours.ino || now.dev != ours.dev {
		return errAgain
	}
	return nil
}

// rename renames temp to name, in the folder dir, if unwritten is nil or returns true.
func rename(dir int, temp, name string, unwritten func() bool) error {
	if unwritten == nil {
		return unix.Renameat(dir, temp, dir, name)
	}
	if !unwritten() {
		return ErrWritten
	}
	// The files change places, so that they can change back if a process opens the old one just now.
	if err := exchange(dir, temp, name); err != nil {
		return unix.Renameat(dir, temp, dir, name) // the file system has no exchange
	}
	if !unwritten() {
		return errors.Join(ErrWritten, exchange(dir, temp, name))
	}
	return unix.Unlinkat(dir, temp, 0)
}

// stat returns the status of fd and its signature.
func stat(fd int) (st unix.Stat_t, s signature, err error) {
	if err = unix.Fstat(fd, &st); err == nil {
		s = signatureOf(&st)
	}
	return st, s, err
}

// statAt returns the signature of the file called name in the folder dir.
func statAt(dir int, name string) (signature, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return signature{}, err
	}
	return signatureOf(&st), nil
}
