package place

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"inject/resolver/secret"
)

// Files places secrets in the folder dir for other processes to read, and leaves them there. All
// must be declared as files without a path. They are laid out as kubelet lays out a volume
// (k8s.io/kubernetes pkg/volume/util/atomic_writer.go): each name is a link into ..data, and
// ..data is a link to a new folder of this call. All files so change at once, and a reader that
// opens ..data never finds files of two calls in it. Files of an earlier call that this one does
// not place are removed.
//
// The mode of the files is 0400. It is 0440 with the given group if that is not -1, and with
// dir's group if new files get it (setgid, as with a pod's fsGroup).
//
// If Files fails, a reader finds the files of the earlier call; there may be new names beside
// them that lead nowhere. Two calls for one folder, of this process or others, take turns.
func Files(dir string, group int, secrets []Secret, log hclog.Logger) error {
	root, all, err := openAll(absolute(dir))
	closeMade(all)
	if err != nil {
		return cannotPlace(err)
	}
	defer root.Close() //nolint:errcheck // a folder

	// With one call at a time, folders of other calls in dir are of calls that have ended or were
	// killed, and can be removed.
	lock, err := root.Open(".")
	if err != nil {
		return cannotPlace(err)
	}
	defer lock.Close() //nolint:errcheck // a folder
	info, err := lock.Stat()
	if err = cmp.Or(err, unix.Flock(int(lock.Fd()), unix.LOCK_EX)); err != nil {
		return cannotPlace(err)
	}

	if !inMemory(dir) {
		log.Warn("the folder for files is on a disk, where values may outlive the pod:"+
			" use an emptyDir with medium Memory", "folder", dir)
	}

	mode := fs.FileMode(0o400)
	if group >= 0 || info.Mode()&fs.ModeSetgid != 0 {
		mode = 0o440
	}

	// The name is as kubelet's, so that programs that skip its folders skip ours, too.
	version := time.Now().UTC().Format("..2006_01_02_15_04_05.") + rand.Text()
	in, err := makeOwn(root, version, 0o700)
	if err != nil {
		return cannotPlace(err)
	}
	defer in.Close() //nolint:errcheck // a folder
	a := atomicFolder{dir: root, version: version, in: in, mode: mode, group: group, log: log}
	if err = mark(in); err != nil {
		err = cannotPlace(err)
	} else if err = a.fill(secrets); err == nil {
		err = a.publish()
	}
	if err != nil {
		return errors.Join(err, removeOwn(root, version, in))
	}

	// The files are placed: what cannot be cleaned up is no failure.
	if err := a.sweep(); err != nil {
		log.Warn("files of earlier calls could not be removed", "folder", dir, "error", err)
	}
	return nil
}

// atomicFolder is one call of [Files].
type atomicFolder struct {
	dir     *os.Root
	version string   // the new folder in dir
	in      *os.Root // the same
	mode    fs.FileMode
	group   int
	log     hclog.Logger
	names   []string // of the links in dir
}

// fill writes the files into the new folder, and links to them for their further names.
func (a *atomicFolder) fill(secrets []Secret) error {
	var errs []error
	for _, s := range secrets {
		key := s.Declaration.Key
		if slices.Contains(a.names, key) { // a list may have a key for ANY and as a file
			continue
		}
		if err := a.free(key); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := writeMode(a.in, key, s.Value.Reveal(), a.mode, a.group); err != nil {
			errs = append(errs, fmt.Errorf("%w: %s: place it in a file: %w", secret.ErrUnavailable, key, err))
		}
		a.names = append(a.names, key)
	}
	aliasAll(declarations(secrets), a.alias, a.log)
	// Other users pass through this folder; the modes of the files decide who reads them.
	if err := chmod(a.in, 0o755); err != nil {
		errs = append(errs, cannotPlace(err))
	}
	return errors.Join(errs...)
}

// alias makes the file of key appear as name, too.
func (a *atomicFolder) alias(key, name string) error {
	top, _, inFolder := strings.Cut(name, "/")
	if err := a.free(top); err != nil {
		return err
	}
	if err := linkAs(a.in, key, name, 0o755); err != nil {
		return err
	}
	if inFolder { // for other users, whatever the umask
		if err := a.in.Chmod(filepath.Dir(name), 0o755); err != nil {
			return err
		}
	}
	if !slices.Contains(a.names, top) {
		a.names = append(a.names, top)
	}
	return nil
}

// free returns an error if something has name in dir that no call of Files made.
func (a *atomicFolder) free(name string) error {
	switch target, err := a.dir.Readlink(name); {
	case errors.Is(err, fs.ErrNotExist), err == nil && filepath.Dir(target) == dataLink:
		return nil
	}
	return secret.WithHint(
		fmt.Errorf("%w: something else is at %s", secret.ErrInvalid, filepath.Join(a.dir.Name(), name)),
		"remove it, or choose another folder with --files-dir")
}

// linkAs makes a link to the file key of dir under another name. If name is group/key, the folder
// group is made in dir with mode.
func linkAs(dir *os.Root, key, name string, mode fs.FileMode) error {
	if err := dir.MkdirAll(filepath.Dir(name), mode); err != nil {
		return err
	}
	target, err := filepath.Rel(filepath.Dir(name), key)
	if err != nil {
		return err
	}
	return dir.Symlink(target, name)
}

// dataLink is the link in dir to the folder of the latest call. Kubelet uses the same name.
const dataLink = "..data"

// isAtomic reports whether [Files] or kubelet placed the files in dir.
func isAtomic(dir string) bool {
	_, err := os.Readlink(filepath.Join(dir, dataLink))
	return err == nil
}

// publish makes readers find the new folder. If it fails, they find the old one.
func (a *atomicFolder) publish() error {
	if _, err := a.dir.Readlink(dataLink); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return secret.WithHint(
			fmt.Errorf("%w: %s is not a link, as inject init and kubelet make it",
				secret.ErrInvalid, filepath.Join(a.dir.Name(), dataLink)),
			"choose another folder with --files-dir")
	}
	// A new name leads nowhere until the last step, the rename, with which all of them lead to
	// their files.
	for _, name := range a.names {
		if err := a.name(name); err != nil {
			return cannotPlace(err)
		}
	}
	const next = dataLink + "_tmp" // a killed call may have left it
	err := ignoreGone(a.dir.Remove(next))
	if err == nil {
		err = a.dir.Symlink(a.version, next)
	}
	if err == nil {
		err = a.dir.Rename(next, dataLink)
	}
	if err != nil {
		return cannotPlace(err)
	}
	return nil
}

// sweep removes names that this call does not place, and the folders of earlier calls, also of
// those that were killed.
func (a *atomicFolder) sweep() error {
	entries, err := readDir(a.dir)
	errs := []error{err}
	for _, e := range entries {
		target, err := a.dir.Readlink(e.Name())
		switch {
		case err == nil && filepath.Dir(target) == dataLink && !slices.Contains(a.names, e.Name()):
			errs = append(errs, ignoreGone(a.dir.Remove(e.Name())))
		case e.IsDir() && strings.HasPrefix(e.Name(), "..2") && e.Name() != a.version:
			errs = append(errs, a.sweepFolder(e.Name()))
		}
	}
	return errors.Join(errs...)
}

// sweepFolder removes the folder of an earlier call. One of another user or of kubelet stays.
func (a *atomicFolder) sweepFolder(name string) error {
	in, err := openOwn(a.dir, name)
	if err != nil {
		return nil
	}
	defer in.Close() //nolint:errcheck // a folder
	if err := removeOwn(a.dir, name, in); err != nil && isMarked(in) {
		return err
	}
	return nil
}

// name makes a link called name into ..data, unless there is one.
func (a *atomicFolder) name(name string) error {
	target := dataLink + "/" + name
	if now, err := a.dir.Readlink(name); err == nil && now == target {
		return nil
	}
	return a.dir.Symlink(target, name)
}
