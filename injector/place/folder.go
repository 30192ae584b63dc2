package place

import (
	"bytes"
	"errors"
	"fmt"
	"io"
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
type folder struct {
	path    string
	appears string   // the folder in which files declared without a path appear
	lock    *os.File // the folder itself, locked
	links   []string // paths of links into the folder
	made    []string // folders above appears that this run made, outermost first
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
	appears := appearsIn(filesDir)
	made, err := makeAll(appears)
	if err != nil {
		removeMade(made)
		return nil, cannotPlace(err)
	}
	all := bases(appears)
	sweep(all, log)
	var errs []error
	for _, base := range all {
		path, lock, err := makeLocked(base)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		f := &folder{path: path, appears: appears, lock: lock, made: made}
		if appears == "" {
			f.appears = path
		}
		return f, nil
	}
	removeMade(made)
	return nil, cannotPlace(errors.Join(errs...))
}

// removeMade removes the folders in made, innermost first. One that is not empty stays: its
// content is not ours.
func removeMade(made []string) {
	for _, dir := range slices.Backward(made) {
		_ = os.Remove(dir)
	}
}

// makeAll makes dir and the folders above it that are missing, and returns those that it made,
// outermost first. Package durable does not return what it made, and a run must remove it again.
func makeAll(dir string) (made []string, err error) {
	if dir == "" {
		return nil, nil
	}
	err = os.Mkdir(dir, 0o755) //nolint:gosec // as Flyte's own mount is; it holds links, no values
	if errors.Is(err, fs.ErrNotExist) {
		if made, err = makeAll(filepath.Dir(dir)); err == nil {
			err = os.Mkdir(dir, 0o755) //nolint:gosec // as above
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return made, nil
	}
	if err != nil {
		return made, err
	}
	return append(made, dir), nil
}

func cannotPlace(err error) error {
	return secret.WithHint(
		fmt.Errorf("%w: no folder for file secrets: %w", secret.ErrUnavailable, err),
		"choose a folder that can be written with --files-dir")
}

// makeLocked makes a private folder in base and locks it. Until it is locked, the sweep of
// another run may take it for that of a killed run: then it makes another.
func makeLocked(base string) (string, *os.File, error) {
	name := fmt.Sprintf("%s%d-%d-%s-", folderPrefix, os.Geteuid(), os.Getpid(), startTime())
	for {
		path, err := os.MkdirTemp(base, name)
		if err != nil {
			return "", nil, err
		}
		lock, err := os.Open(path) //nolint:gosec // just made
		if errors.Is(err, fs.ErrNotExist) {
			continue // swept before it was opened
		}
		if err == nil {
			err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		}
		if err != nil {
			return "", nil, errors.Join(err, os.Remove(path))
		}
		// It may have been swept before it was locked: then path is gone, or another folder.
		if now, err := os.Stat(path); err == nil {
			if mine, err := lock.Stat(); err == nil && os.SameFile(now, mine) {
				return path, lock, nil
			}
		}
		_ = lock.Close()
	}
}

// place writes the file of d and returns the path at which it appears.
func (f *folder) place(d secret.Declaration, value []byte) (string, error) {
	file := filepath.Join(f.path, d.Key)
	appears := filepath.Join(f.appears, d.Key)
	if d.Path != "" {
		file = filepath.Join(f.path, fmt.Sprintf(".at-%d", len(f.links)))
		appears = absolute(d.Path) // when the link is removed, the working folder may be another
	}
	if err := writeNew(file, value); err != nil {
		return "", fmt.Errorf("%w: %s: place it in a file: %w", secret.ErrUnavailable, d.Key, err)
	}
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
	if err := linkAs(f.path, key, name, 0o700); err != nil {
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

// writeNew writes b to the file path, which must not exist, with mode 0400.
func writeNew(path string, b []byte) error {
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400) //nolint:gosec // in our own folder
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return errors.Join(err, w.Close())
}

// link makes a link at path to file. The path is written to the list of links first, so that a
// sweep removes the link even if this run is killed right after it made it.
func (f *folder) link(file, path string) error {
	f.links = append(f.links, path)
	list, err := os.OpenFile(filepath.Join(f.path, linksFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = list.WriteString(path + "\x00")
	if err = errors.Join(err, list.Close()); err != nil {
		return err
	}
	err = os.Symlink(file, path)
	if errors.Is(err, fs.ErrExist) && leftLink(path) {
		// The link is left from a run whose folder is gone, as when a container is restarted with
		// another tmpfs.
		if err = os.Remove(path); err == nil {
			err = os.Symlink(file, path)
		}
	}
	return err
}

// isPrivate reports whether dir has the name of a private folder.
func isPrivate(dir string) bool { return strings.HasPrefix(filepath.Base(dir), folderPrefix) }

// leftLink reports whether path is a link into a private folder that no longer exists.
func leftLink(path string) bool {
	target, err := os.Readlink(path)
	if err != nil || !isPrivate(filepath.Dir(target)) {
		return false
	}
	_, err = os.Lstat(filepath.Dir(target))
	return errors.Is(err, fs.ErrNotExist)
}

// remove removes the folder, the links into it and the folders that the run made, and unlocks it.
func (f *folder) remove() error {
	err := removeFolder(f.path, f.links)
	removeMade(f.made)
	return errors.Join(err, f.lock.Close())
}

// removeFolder removes the private folder path, and those of links that lead into it.
func removeFolder(path string, links []string) error {
	var errs []error
	for _, link := range links {
		// Something else may have this path by now, and is not ours to remove.
		if target, err := os.Readlink(link); err == nil && filepath.Dir(target) == path {
			errs = append(errs, os.Remove(link))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(path))...)
}

// sweep removes the private folders that killed runs of this user left in bases. It logs
// folders that it cannot remove; they never keep a run from starting.
func sweep(bases []string, log hclog.Logger) {
	mine := fmt.Sprintf("%s%d-", folderPrefix, os.Geteuid())
	for _, base := range bases {
		entries, err := os.ReadDir(base)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if e.IsDir() && strings.HasPrefix(e.Name(), mine) {
				sweepFolder(filepath.Join(base, e.Name()), log)
			}
		}
	}
}

// sweepFolder removes the private folder path, unless its run is alive.
func sweepFolder(path string, log hclog.Logger) {
	// Another user may have made a folder with a name of ours, as in /dev/shm.
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil || int(st.Uid) != os.Geteuid() {
		return
	}
	lock, err := os.Open(path) //nolint:gosec // ours, as just seen
	if err != nil {
		return
	}
	defer lock.Close() //nolint:errcheck // a folder
	if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return // its run is alive
	}
	list, err := readLinks(filepath.Join(path, linksFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("links to the files of a killed run may be left", "folder", path, "error", err)
	}
	var links []string
	for link := range bytes.SplitSeq(list, []byte{0}) {
		links = append(links, string(link))
	}
	if err := removeFolder(path, links); err != nil {
		log.Warn("files of a killed run could not be removed", "folder", path, "error", err)
		return
	}
	log.Debug("removed the files of a killed run", "folder", path)
}

// readLinks reads the list of links at path. A task of the same user may have put anything there,
// so it must neither hang on a pipe, nor follow a link, nor read without end.
func readLinks(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0) //nolint:gosec // ours
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, fs.ErrInvalid)
	}
	return io.ReadAll(io.LimitReader(f, 1<<20))
}

// canWrite reports whether this process may make files in dir.
func canWrite(dir string) bool {
	return unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS) == nil
}
