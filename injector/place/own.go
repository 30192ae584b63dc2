package place

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// This file has the folders that we make where other users may write, too: an emptyDir is open to
// all containers of its pod and has no sticky bit, so a process in any of them can rename our
// folders and put links in their place. We may be root. So a folder is opened once and all in it
// is reached from there, no link is followed below it, and nothing is removed that we did not make.

// markFile is in every folder of ours that holds values. A folder without it is never emptied,
// whatever its name and owner are. No secret's file has this name, since no key begins with a dot.
const markFile = "..inject"

var (
	errNotOwn      = errors.New("another process has replaced it, or its file system does not keep owners and modes")
	errForeignLink = errors.New("a link on the way belongs to another user, who could have it lead anywhere")
)

// openRoot opens the folder dir, unless a link on the way to it is another user's: as root we would
// change whatever folder it leads to. Those of root and of this user are the operator's. Without
// the dot, a pipe at dir would keep it waiting for a writer.
func openRoot(dir string) (*os.Root, error) {
	root, err := os.OpenRoot(dir + "/.")
	if err != nil {
		return nil, err
	}
	if err := isReached(dir, root); err != nil {
		return nil, errors.Join(&fs.PathError{Op: "open", Path: dir, Err: err}, root.Close())
	}
	return root, nil
}

// openOwn opens the folder called name in root, if this user made it and nobody else can write it.
func openOwn(root *os.Root, name string) (*os.Root, error) {
	in, err := root.OpenRoot(name + "/.") // as openRoot
	if err != nil {
		return nil, err
	}
	at, err := root.Lstat(name)
	is, err2 := in.Stat(".")
	if err = cmp.Or(err, err2); err == nil && (!os.SameFile(at, is) || !isOwn(is)) { // a link, or another's
		err = &fs.PathError{Op: "open", Path: filepath.Join(root.Name(), name), Err: errNotOwn}
	}
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return in, nil
}

// isOwn reports whether a file belongs to this user, who alone may write it.
func isOwn(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid() && info.Mode().Perm()&0o022 == 0
}

// makeOwn makes an empty folder in root that only this user can write.
func makeOwn(root *os.Root, name string, mode fs.FileMode) (*os.Root, error) {
	if err := root.Mkdir(name, mode); err != nil {
		return nil, err
	}
	in, err := openOwn(root, name)
	if err == nil {
		var there []fs.DirEntry
		if there, err = readDir(in); err == nil && len(there) == 0 {
			return in, nil
		}
		// Another folder of this user has been moved there.
		err = cmp.Or(err, error(&fs.PathError{Op: "open", Path: in.Name(), Err: errNotOwn}))
		_ = in.Close()
	}
	return nil, errors.Join(err, ignoreGone(root.Remove(name)))
}

// mark notes that all in the folder is ours to remove.
func mark(in *os.Root) error { return writeNew(in, markFile, nil) }

func isMarked(in *os.Root) bool {
	info, err := in.Lstat(markFile)
	return err == nil && info.Mode().IsRegular() && isOwn(info)
}

// removeOwn removes the folder of ours that is open as in and called name in root. A folder
// without our mark is removed only if it is empty.
func removeOwn(root *os.Root, name string, in *os.Root) error {
	if isMarked(in) {
		entries, err := readDir(in)
		errs := []error{err}
		for _, e := range entries {
			if e.Name() != markFile {
				errs = append(errs, in.RemoveAll(e.Name()))
			}
		}
		// The mark goes last, so that the next sweep goes on where this one is killed.
		if err := errors.Join(errs...); err != nil {
			return err
		}
		if err := in.Remove(markFile); err != nil {
			return err
		}
	}
	return ignoreGone(root.Remove(name))
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func readDir(in *os.Root) ([]fs.DirEntry, error) {
	d, err := in.Open(".")
	if err != nil {
		return nil, err
	}
	entries, err := d.ReadDir(-1)
	return entries, errors.Join(err, d.Close())
}

// writeNew writes b to the file called name, which must not exist, with mode 0400.
func writeNew(in *os.Root, name string, b []byte) error {
	return writeMode(in, name, b, 0o400, -1)
}

// writeMode writes b to the file called name, which must not exist, with a mode, and a group
// unless that is -1.
func writeMode(in *os.Root, name string, b []byte, mode fs.FileMode, group int) error {
	w, err := in.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	if err == nil && group >= 0 {
		err = w.Chown(-1, group)
	}
	if err == nil {
		err = w.Chmod(mode) // last, and whatever the umask
	}
	return errors.Join(err, w.Close())
}

// chmod changes the mode of the folder itself.
func chmod(in *os.Root, mode fs.FileMode) error {
	d, err := in.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Chmod(mode), d.Close())
}

// made is a folder that this process made above one that it needs.
type made struct {
	above *os.Root
	name  string
}

// openAll opens the folder dir. It makes dir and those above it that are missing, which other
// users may read whatever the umask, and returns what it made, outermost first. Links are followed
// as by openRoot.
func openAll(dir string) (root *os.Root, all []made, err error) {
	root, err = openRoot(dir)
	if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
		return root, nil, err
	}
	above, all, err := openAll(filepath.Dir(dir))
	if err != nil {
		return nil, all, err
	}
	name := filepath.Base(dir)
	root, err = makeOwn(above, name, 0o755)
	switch {
	case err == nil:
		all = append(all, made{above, name})
		if err = chmod(root, 0o755); err != nil {
			_ = root.Close()
		}
		return root, all, err
	case errors.Is(err, fs.ErrExist): // another process has made it meanwhile, or it is a link to nothing
		root, err = openRoot(dir)
	}
	return root, all, errors.Join(err, above.Close())
}

// removeMade removes the folders in all, innermost first. One that is not empty stays: its content
// is not ours.
func removeMade(all []made) {
	for _, m := range slices.Backward(all) {
		_ = m.above.Remove(m.name)
		_ = m.above.Close()
	}
}

// closeMade leaves the folders in all where they are.
func closeMade(all []made) {
	for _, m := range all {
		_ = m.above.Close()
	}
}

// readSmall returns the content of the regular file called name. A task of the same user may have
// put anything there, so it must neither hang on a pipe nor read without end.
func readSmall(in *os.Root, name string) ([]byte, error) {
	if info, err := in.Lstat(name); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file: %w", name, fs.ErrInvalid)
	}
	f, err := in.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	return io.ReadAll(io.LimitReader(f, 1<<20))
}
