package place

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"inject/resolver/secret"
)

const (
	// folderPrefix begins the name of a run's private folder. The user, the process and its start
	// time follow. Only the user is read, by sweep; the rest is for a person who finds the
	// folder.
	folderPrefix = ".inject-"
	// linksFile is the file of a private folder that lists the links into it, each path with a
	// NUL byte behind it. No secret's file has this name, since no key begins with a dot.
	linksFile = ".links"
)

// folder is a run's private folder with its file secrets. Its mode is 0700, and it is on a tmpfs
// where there is one, so that values do not reach a disk. A file that must appear elsewhere is a
// link to the one in the folder, as the files of a Kubernetes volume are. The run holds a lock on
// the folder as long as it lives: a folder without a lock is left from a run that was killed.
//
// Its files are written, and removed at the end, through in, and the links through above: see own.go.
type folder struct {
	path    string
	base    *os.Root            // the folder that holds it
	in      *os.Root            // the folder itself
	lock    *os.File            // the same, locked
	appears string              // the folder in which files declared without a path appear
	above   map[string]*os.Root // the folders that links were made in, by their path
	links   []string            // paths of links into the folder
	made    []made              // folders above appears that this run made, outermost first
}

// absolute returns dir as an absolute path, or dir itself if the working folder is gone.
func absolute(dir string) string {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return dir
	}
	return abs
}

// bases returns the folders in which a private folder may be made, best first: those on a tmpfs
// come before those on a disk.
func bases(filesDir string) []string {
	var ram, disk []string
	runtimeDir := os.Getenv("XDG_RUNTIME_DIR") //nolint:forbidigo // about this machine, as TMPDIR is; not a setting
	for _, dir := range []string{filesDir, runtimeDir, "/dev/shm", os.TempDir()} {
		if dir == "" {
			continue
		}
		// A relative target of a link would be taken from where the link is, and the task may
		// change its working folder.
		if dir = absolute(dir); inMemory(dir) {
			ram = append(ram, dir)
		} else {
			disk = append(disk, dir)
		}
	}
	return append(ram, disk...)
}

// newFolder makes a private folder for files that appear in filesDir, which may be "" as in
// [Target]. It first removes the folders that killed runs left.
func newFolder(filesDir string, log hclog.Logger) (*folder, error) {
	f := &folder{appears: appearsIn(filesDir), above: map[string]*os.Root{}}
	if f.appears != "" {
		var at *os.Root
		var err error
		if at, f.made, err = openAll(f.appears); err != nil {
			removeMade(f.made)
			return nil, cannotPlace(err)
		}
		f.above[f.appears] = at
	}
	all := bases(f.appears)
	sweep(all, log)
	var errs []error
	for _, base := range all {
		err := f.makeIn(base)
		if err == nil {
			return f, nil
		}
		errs = append(errs, err)
	}
	removeMade(f.made)
	f.close()
	return nil, cannotPlace(errors.Join(errs...))
}

func cannotPlace(err error) error {
	return secret.WithHint(
		fmt.Errorf("%w: no folder for file secrets: %w", secret.ErrUnavailable, err),
		"choose a folder that can be written with --files-dir")
}

// makeIn makes the private folder in base. Until it is locked, the sweep of another run may take it
// for that of a killed run: then it makes another.
func (f *folder) makeIn(base string) error {
	root, err := openRoot(base)
	if err != nil {
		return err
	}
	prefix := fmt.Sprintf("%s%d-%d-%s-", folderPrefix, os.Geteuid(), os.Getpid(), startTime())
	for range 100 {
		var made bool
		name := prefix + rand.Text()
		if made, err = f.makeAs(root, name); made {
			f.path, f.base = filepath.Join(base, name), root
			if f.appears == "" {
				f.appears = f.path
			}
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return errors.Join(cmp.Or(err, errNotOwn), root.Close())
}

// makeAs makes the private folder with a name in root, and locks and marks it. It reports false
// without an error if it was swept before it was locked.
func (f *folder) makeAs(root *os.Root, name string) (made bool, err error) {
	in, err := makeOwn(root, name, 0o700)
	if err != nil {
		return false, err
	}
	lock, err := in.Open(".")
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err == nil && isAt(root, name, in) {
		if err = mark(in); err == nil {
			f.in, f.lock = in, lock
			return true, nil
		}
	}
	if err != nil {
		err = errors.Join(err, ignoreGone(root.Remove(name)))
	}
	_, _ = in.Close(), lock.Close()
	return false, err
}

// isAt reports whether the folder in is what has the name in root.
func isAt(root *os.Root, name string, in *os.Root) bool {
	at, err := root.Lstat(name)
	is, err2 := in.Stat(".")
	return err == nil && err2 == nil && os.SameFile(at, is)
}

// place writes the file of d and returns the path at which it appears.
func (f *folder) place(d secret.Declaration, value []byte) (string, error) {
	name, appears := d.Key, filepath.Join(f.appears, d.Key)
	if d.Path != "" {
		name = fmt.Sprintf(".at-%d", len(f.links))
		appears = absolute(d.Path) // when the link is removed, the working folder may be another
	}
	if err := writeNew(f.in, name, value); err != nil {
		return "", fmt.Errorf("%w: %s: place it in a file: %w", secret.ErrUnavailable, d.Key, err)
	}
	file := filepath.Join(f.path, name)
	if appears == file {
		return appears, nil
	}
	if err := f.link(file, appears); err != nil {
		hint := "its folder must be there and writable, and nothing may be in its place"
		if target, err := os.Readlink(appears); err == nil && isPrivate(filepath.Dir(target)) {
			hint = "another inject, which is running, has its file there: choose another place with --files-dir"
		} else if isAtomic(filepath.Dir(appears)) {
			hint = "inject init has placed its files there:" +
				" mount it read-only here, or choose another place with --files-dir"
		}
		return "", secret.WithHint(
			fmt.Errorf("%w: %s: place it at %s: %w", secret.ErrInvalid, d.Key, appears, err),
			"%s", hint)
	}
	return appears, nil
}

// aliasAll calls alias for every further name of a declared file: see [aliases]. A name that
// cannot be made is only logged, since it was not declared.
func aliasAll(declared []secret.Declaration, alias func(key, name string) error, log hclog.Logger) {
	for i, names := range aliases(declared) {
		for _, name := range names {
			if err := alias(declared[i].Key, name); err != nil {
				log.Debug("a file secret could not be given a further name",
					"secret", declared[i].Key, "name", name, "error", err)
			}
		}
	}
}

// alias makes the file of key appear as name, too.
func (f *folder) alias(key, name string) error {
	if err := linkAs(f.in, key, name, 0o700); err != nil {
		return err
	}
	// For group/key, it is enough that the folder group appears.
	top, _, _ := strings.Cut(name, "/")
	at := filepath.Join(f.appears, top)
	if f.appears == f.path || slices.Contains(f.links, at) {
		return nil
	}
	if err := f.link(filepath.Join(f.path, top), at); err != nil {
		f.links = f.links[:len(f.links)-1] // something else has this name, and must not be removed
		return err
	}
	return nil
}

// link makes a link at path to file. The path is written to the list of links first, so that a
// sweep removes the link even if this run is killed right after it made it.
func (f *folder) link(file, path string) error {
	f.links = append(f.links, path)
	list, err := f.in.OpenFile(linksFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = list.WriteString(path + "\x00")
	if err = errors.Join(err, list.Close()); err != nil {
		return err
	}
	return f.beside(path, func(dir *os.Root, name string) error {
		err := dir.Symlink(file, name)
		if errors.Is(err, fs.ErrExist) && leftLink(dir, name) {
			// The link is left from a run whose folder is gone, as when a container is restarted
			// with another tmpfs.
			if err = dir.Remove(name); err == nil {
				err = dir.Symlink(file, name)
			}
		}
		return err
	})
}

// beside calls do with the folder of path and the name in it. A folder is opened once and stays open,
// so that a link is removed from where it was made, even if the folder has been moved.
func (f *folder) beside(path string, do func(dir *os.Root, name string) error) error {
	dir := filepath.Dir(path)
	at := f.above[dir]
	if at == nil {
		var err error
		if at, err = openRoot(dir); err != nil {
			return err
		}
		f.above[dir] = at
	}
	return do(at, filepath.Base(path))
}

func beside(path string, do func(dir *os.Root, name string) error) error {
	dir, err := openRoot(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // a folder
	return do(dir, filepath.Base(path))
}

// isPrivate reports whether dir has the name of a private folder.
func isPrivate(dir string) bool { return strings.HasPrefix(filepath.Base(dir), folderPrefix) }

// leftLink reports whether a name is a link into a private folder that no longer exists.
func leftLink(dir *os.Root, name string) bool {
	target, err := dir.Readlink(name)
	if err != nil || !isPrivate(filepath.Dir(target)) {
		return false
	}
	_, err = os.Lstat(filepath.Dir(target))
	return errors.Is(err, fs.ErrNotExist)
}

// unlink returns a function that removes a name if it is a link into the private folder. Something
// else may have that name by now, and is not ours to remove.
func unlink(private string) func(dir *os.Root, name string) error {
	return func(dir *os.Root, name string) error {
		if target, err := dir.Readlink(name); err != nil || filepath.Dir(target) != private {
			return nil //nolint:nilerr // as above
		}
		return dir.Remove(name)
	}
}

// remove removes the folder, the links into it and the folders that the run made, and unlocks it.
func (f *folder) remove() error {
	var errs []error
	for _, link := range f.links {
		errs = append(errs, ignoreGone(f.beside(link, unlink(f.path))))
	}
	errs = append(errs, removeOwn(f.base, filepath.Base(f.path), f.in))
	removeMade(f.made)
	f.close()
	return errors.Join(errs...)
}

// close closes what is open, and so unlocks the folder.
func (f *folder) close() {
	for _, root := range f.above {
		_ = root.Close()
	}
	for _, root := range []*os.Root{f.base, f.in} {
		if root != nil {
			_ = root.Close()
		}
	}
	if f.lock != nil {
		_ = f.lock.Close()
	}
}

// sweep removes the private folders that killed runs of this user left in bases. It logs
// folders that it cannot remove; they never keep a run from starting.
func sweep(bases []string, log hclog.Logger) {
	mine := fmt.Sprintf("%s%d-", folderPrefix, os.Geteuid())
	for _, base := range bases {
		root, err := openRoot(base)
		if err != nil {
			continue
		}
		entries, _ := readDir(root) // those that could be read
		for _, e := range entries {
			if e.IsDir() && strings.HasPrefix(e.Name(), mine) {
				sweepFolder(root, e.Name(), log)
			}
		}
		_ = root.Close()
	}
}

// sweepFolder removes a private folder, unless its run is alive.
func sweepFolder(root *os.Root, name string, log hclog.Logger) {
	in, err := openOwn(root, name)
	if err != nil {
		return // another user made it, as in /dev/shm, or moved something there
	}
	defer in.Close() //nolint:errcheck // a folder
	lock, err := in.Open(".")
	if err != nil {
		return
	}
	defer lock.Close() //nolint:errcheck // a folder
	if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return // its run is alive
	}
	if !isMarked(in) {
		_ = root.Remove(name) // if it is empty: its run was killed before it placed anything
		return
	}
	path := filepath.Join(root.Name(), name)
	list, err := readSmall(in, linksFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("links to the files of a killed run may be left", "folder", path, "error", err)
	}
	var errs []error
	for link := range bytes.SplitSeq(list, []byte{0}) {
		if len(link) > 0 {
			errs = append(errs, ignoreGone(beside(string(link), unlink(path))))
		}
	}
	if err := errors.Join(append(errs, removeOwn(root, name, in))...); err != nil {
		log.Warn("files of a killed run could not be removed", "folder", path, "error", err)
		return
	}
	log.Debug("removed the files of a killed run", "folder", path)
}

// canWrite reports whether this process may make files in dir.
func canWrite(dir string) bool {
	return unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS) == nil
}
