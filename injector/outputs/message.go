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

// ErrRemoved is returned, wrapped, by [MaskMessage] when it has removed the message.
var ErrRemoved = errors.New("the command's termination message could not be masked, and is removed")

// MaskMessage masks the termination message at path, which a task that has ended may have left
// there for kubelet. It masks in place, because the file is usually a mount and cannot be
// replaced. A message that cannot be masked is removed, and the error is [ErrRemoved]. If it
// cannot be removed either, the error is another one, and the message may hold values.
func MaskMessage(ctx context.Context, path string, r *redact.Redactor) error {
	info, err := os.Lstat(path)
	if err != nil || r.Empty() {
		return nil //nolint:nilerr // there is no message
	}
	link := info.Mode()&os.ModeSymlink != 0 // it may lead anywhere, so it is removed
	if !link && (!info.Mode().IsRegular() || info.Size() == 0) {
		return nil
	}

	err = maskInPlace(ctx, path, r)
	if errors.Is(err, unix.EACCES) && os.Chmod(path, 0o600) == nil { // the command has made it unwritable
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

// maskInPlace masks a file without replacing it. Only the end of a long file is kept, because
// kubelet reads the last 4 KiB.
func maskInPlace(ctx context.Context, path string, r *redact.Redactor) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0) //nolint:gosec // the operator's file
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // WriteAt has reported errors
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

// tail keeps the last bytes that are written to it: at least 64 KiB, at most twice that.
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
