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
	// folderPrefix begins the name of a run's private folder. After it come the
	// user, the process and when that started, for whoever finds the folder.
	folderPrefix = ".inject-"
	// linksFile lists, in the private folder, the links into it from elsewhere.
	// No key begins with a dot.
	linksFile = ".links"
)

// folder is a run's private folder with its file secrets: on a tmpfs where there
// is one, so that values do not reach a disk, and 0700. Where they have to
// appear in another place there is a link to them, as kubelet's own secrets are
// links. While the run lives it has the folder locked; a folder that nobody has
// locked is one that a killed run left.
type folder struct {
	path    string
	appears string // where files appear that are declared without a path
	lock    *os.File
	links   []string
	made    []string // folders that were not there, outermost first
}

// absolute returns dir as an absolute path, clean; dir itself if the working
// folder is gone.
func absolute(dir string) string {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return dir
	}
	return abs
}

// bases returns where private folders may be, best first: a tmpfs before a disk.
func bases(filesDir string) []string {
	var ram, disk []string
	for _, dir := range []string{filesDir, os.Getenv("XDG_RUNTIME_DIR"), "/dev/shm", os.TempDir()} { //nolint:forbidigo // like TMPDIR it says what this machine has; it sets nothing
		if dir == "" {
			continue
		}
		// Links are relative to where they are, and a task may change its folder.
		if dir = absolute(dir); inMemory(dir) {
			ram = append(ram, dir)
		} else {
			disk = append(disk, dir)
		}
	}
	return append(ram, disk...)
}

// newFolder makes a private folder for files that shall appear in filesDir, and
// removes those that killed runs left.
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

// removeMade removes folders that were made, unless something else is in them.
func removeMade(made []string) {
	for _, dir := range slices.Backward(made) {
		_ = os.Remove(dir)
	}
}

// makeAll makes dir and what is missing above it, and returns what it made.
func makeAll(dir string) (made []string, err error) {
	if dir == "" {
		return nil, nil
	}
	err = os.Mkdir(dir, 0o755) //nolint:gosec // as Flyte's mount; what is in it is links
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
		"choose one that can be written with --files-dir")
}

func makeLocked(base string) (string, *os.File, error) {
	name := fmt.Sprintf("%s%d-%d-%s-", folderPrefix, os.Geteuid(), os.Getpid(), startTime())
	for {
		path, err := os.MkdirTemp(base, name)
		if err != nil {
			return "", nil, err
		}
		lock, err := os.Open(path) //nolint:gosec // just made
		if errors.Is(err, fs.ErrNotExist) {
			continue // another run's sweep has come between
		}
		if err == nil {
			err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		}
		if err != nil {
			return "", nil, errors.Join(err, os.Remove(path))
		}
		// Or between this and the lock.
		if now, err := os.Stat(path); err == nil {
			if mine, err := lock.Stat(); err == nil && os.SameFile(now, mine) {
				return path, lock, nil
			}
		}
		_ = lock.Close()
	}
}

// place writes a file secret and returns the path at which it appears.
func (f *folder) place(d secret.Declaration, value []byte) (string, error) {
	file := filepath.Join(f.path, d.Key)
	appears := filepath.Join(f.appears, d.Key)
	if d.Path != "" {
		file = filepath.Join(f.path, fmt.Sprintf(".at-%d", len(f.links)))
		appears = absolute(d.Path) // whoever removes it may be in another folder by then
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

// aliasAll makes files appear under the names by which other managers of Flyte's secrets
// have them, too (see [aliases]). A name that is taken, or cannot be made, is left
// out: nobody declared it.
func aliasAll(declared []secret.Declaration, alias func(key, name string) error, log hclog.Logger) {
	for i, names := range aliases(declared) {
		for _, name := range names {
			if err := alias(declared[i].Key, name); err != nil {
				log.Debug("a file secret does not appear under another name, too",
					"secret", declared[i].Key, "name", name, "error", err)
			}
		}
	}
}

// alias makes key's file appear as name, too.
func (f *folder) alias(key, name string) error {
	if err := linkAs(f.path, key, name, 0o700); err != nil {
		return err
	}
	// Of a folder's name only the folder has to appear.
	top, _, _ := strings.Cut(name, "/")
	at := filepath.Join(f.appears, top)
	if f.appears == f.path || slices.Contains(f.links, at) {
		return nil
	}
	if err := f.link(filepath.Join(f.path, top), at); err != nil {
		f.links = f.links[:len(f.links)-1] // it is not ours
		return err
	}
	return nil
}

// writeNew writes a file that must not exist, readable by the owner only.
func writeNew(path string, b []byte) error {
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400) //nolint:gosec // in our own folder
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return errors.Join(err, w.Close())
}

// link makes the file appear at path. That it will is written down first, so
// that whoever sweeps after us finds it.
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
		// Of a run whose folder is gone, as after the restart of a container.
		if err = os.Remove(path); err == nil {
			err = os.Symlink(file, path)
		}
	}
	return err
}

func isPrivate(dir string) bool { return strings.HasPrefix(filepath.Base(dir), folderPrefix) }

// leftLink reports whether path is a link into a private folder that is gone.
func leftLink(path string) bool {
	target, err := os.Readlink(path)
	if err != nil || !isPrivate(filepath.Dir(target)) {
		return false
	}
	_, err = os.Lstat(filepath.Dir(target))
	return errors.Is(err, fs.ErrNotExist)
}

// remove removes the files and the links to them.
func (f *folder) remove() error {
	err := removeFolder(f.path, f.links)
	removeMade(f.made)
	return errors.Join(err, f.lock.Close())
}

func removeFolder(path string, links []string) error {
	var errs []error
	for _, link := range links {
		// Only what is still ours: something else may be there by now.
		if target, err := os.Readlink(link); err == nil && filepath.Dir(target) == path {
			errs = append(errs, os.Remove(link))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(path))...)
}

// sweep removes what killed runs of this user left in bases.
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

func sweepFolder(path string, log hclog.Logger) {
	// Nobody else can make a folder of ours in a folder with a sticky bit, but its
	// name can be taken.
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
		log.Warn("links of a killed run may be left", "folder", path, "error", err)
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

// readLinks reads a list of links. The run that wrote it is dead, and its task
// had the same user: it may have put anything there.
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

func canWrite(dir string) bool {
	return unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS) == nil
}
