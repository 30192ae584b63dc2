package outputs

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"inject/exec/redact"
	"inject/injector/outputs/content"
)

// ErrRemoved is returned, wrapped, by [MaskMessage] when nothing is left of the message.
var ErrRemoved = errors.New("the command's termination message could not be masked, and is removed")

// MaskMessage masks the termination message at path, which a task may have left there for
// kubelet, now that it has ended. It is masked in place: the file is mounted there, and
// cannot be replaced. If it cannot be masked it is removed, which is [ErrRemoved]; if that
// is not possible either, the error is another one, and values may be in it.
func MaskMessage(ctx context.Context, path string, r *redact.Redactor) error {
	info, err := os.Lstat(path)
	if err != nil || r.Empty() {
		return nil //nolint:nilerr // there is none
	}
	link := info.Mode()&os.ModeSymlink != 0 // which may lead anywhere
	if !link && (!info.Mode().IsRegular() || info.Size() == 0) {
		return nil
	}

	err = maskInPlace(ctx, path, r)
	if errors.Is(err, unix.EACCES) && os.Chmod(path, 0o600) == nil { // the command has closed it
		err = maskInPlace(ctx, path, r)
	}
	if err == nil {
		return nil
	}
	if os.Remove(path) == nil || os.Truncate(path, 0) == nil {
		return fmt.Errorf("%w: %w", ErrRemoved, err)
	}
	return fmt.Errorf("the command's termination message, %s, can be neither masked nor removed: %w", path, err)
}

// maskInPlace masks a file in its place. Of a long one only the end is kept, of which
// kubelet reads the last 4 KiB.
func maskInPlace(ctx context.Context, path string, r *redact.Redactor) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0) //nolint:gosec // the operator's file
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // what matters is written by then
	in := content.NewInspector(r)
	seen, err := inspectFile(ctx, in, f)
	switch {
	case err != nil:
		return err
	case seen.Unchecked:
		return errors.New(seen.Why)
	case len(seen.Found) == 0:
		return nil
	}

	var masked tail
	if _, err := f.Seek(0, 0); err != nil {
		return err
	}
	if err := in.Rewrite(ctx, seen, f, &masked); err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(masked.b, 0)
	return err
}

// tail keeps the end of what is written.
type tail struct{ b []byte }

// Write implements [io.Writer].
func (t *tail) Write(p []byte) (int, error) {
	const most = 64 << 10
	t.b = append(t.b, p...)
	if len(t.b) > 2*most {
		t.b = t.b[:copy(t.b, t.b[len(t.b)-most:])]
	}
	return len(p), nil
}
