// Package durable makes files and folders that are still there after a power cut. A file that was
// written and synced can be lost all the same: its name is in a folder, which must be synced, too.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Sync waits until the content of the file or folder at path is on the disk.
func Sync(path string) error {
	f, err := os.Open(path) //nolint:gosec // the caller's choice
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// MkdirAll makes the folder dir, and those above it that are missing, with the mode perm whatever
// the umask. When it returns nil, dir is on the disk. A folder that exists keeps its mode.
func MkdirAll(dir string, perm fs.FileMode) error {
	err := mkdir(dir, perm)
	if errors.Is(err, fs.ErrNotExist) {
		if err := MkdirAll(filepath.Dir(dir), perm); err != nil {
			return err
		}
		err = mkdir(dir, perm)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// A folder that exists may be one that another process has just made and not synced yet.
	// A parent that we may not open was not made by us, and we cannot sync it.
	if err := Sync(filepath.Dir(dir)); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

func mkdir(dir string, perm fs.FileMode) error {
	if err := os.Mkdir(dir, perm); err != nil {
		return err
	}
	return os.Chmod(dir, perm) // Mkdir takes the umask's bits away
}

// Create makes the file path, which must not exist, all or nothing. It calls write with a temporary
// path beside it, where write makes the file and syncs it, and then gives that file its name. When
// Create returns nil, the file is on the disk. If path exists, even if another process made it
// meanwhile, path stays as it is and the error is [fs.ErrExist]. Missing folders are made, for the
// user alone.
func Create(path string, write func(temp string) error) error {
	dir := filepath.Dir(path)
	if err := MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tempDir, err := os.MkdirTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tempDir) //nolint:errcheck // nothing uses what would be left
	temp := filepath.Join(tempDir, "new")
	if err := write(temp); err != nil {
		return err
	}
	if err := renameNew(temp, path); err != nil {
		return err
	}
	return Sync(dir)
}

// WriteNew creates the file path, which must not exist, with mode 0600. It calls write to fill the
// file, and syncs it. The name is on the disk only when its folder is synced, too, as Create does.
func WriteNew(path string, write func(*os.File) error) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the caller's choice
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(f.Sync(), f.Close())
}
