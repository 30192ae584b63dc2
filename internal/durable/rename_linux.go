package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// renameNew gives temp the name path, which must not exist: [os.ErrExist] otherwise, even if
// another process made it meanwhile.
func renameNew(temp, path string) error {
	err := unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // not on this file system
		return os.Link(temp, path)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: temp, New: path, Err: err}
	}
	return nil
}
