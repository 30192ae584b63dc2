package place

import (
	"cmp"
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

	"inject/internal/durable"
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
	dir = absolute(dir)
	if err := durable.MkdirAll(dir, 0o755); err != nil { // other users read it, whatever the umask
		return cannotPlace(err)
	}

	// With one call at a time, folders of other calls in dir are of calls that have ended or were
	// killed, and can be removed.
	lock, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0) //nolint:gosec // the operator's choice
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
	version, err := os.MkdirTemp(dir, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return cannotPlace(err)
	}
	a := atomicFolder{dir: dir, version: version, mode: mode, group: group, log: log}
	err = a.fill(secrets)
	if err == nil {
		err = a.publish()
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(version))
	}

	// The files are placed: what cannot be cleaned up is no failure.
	if err := a.sweep(); err != nil {
		log.Warn("files of earlier calls could not be removed", "folder", dir, "error", err)
	}
	return nil
}

// atomicFolder is one call of [Files].
type atomicFolder struct {
	dir, version string // version is the new folder in dir
	mode         fs.FileMode
	group        int
	log          hclog.Logger
	names        []string // of the links in dir
}

// fill writes the files into the new folder, and links to them for their further names.
func (a *atomicFolder) fill(secrets []Secret) error {
	var errs []error
	for _, s := range secrets {
		key := s.Declaration.Key
		if err := a.free(key); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := a.write(filepath.Join(a.version, key), s.Value.Reveal()); err != nil {
			errs = append(errs, fmt.Errorf("%w: %s: place it in a file: %w", secret.ErrUnavailable, key, err))
		}
		a.names = append(a.names, key)
	}
	aliasAll(declarations(secrets), a.alias, a.log)
	// Other users pass through this folder; the modes of the files decide who reads them.
	if err := os.Chmod(a.version, 0o755); err != nil { //nolint:gosec // as above
		errs = append(errs, cannotPlace(err))
	}
	return errors.Join(errs...)
}

// write writes the file path with the mode and group of this call.
func (a *atomicFolder) write(path string, value []byte) error {
	if err := writeNew(path, value); err != nil {
		return err
	}
	if a.group >= 0 {
		if err := os.Chown(path, -1, a.group); err != nil {
			return err
		}
	}
	return os.Chmod(path, a.mode)
}

// alias makes the file of key appear as name, too.
func (a *atomicFolder) alias(key, name string) error {
	top, _, inFolder := strings.Cut(name, "/")
	if err := a.free(top); err != nil {
		return err
	}
	if err := linkAs(a.version, key, name, 0o755); err != nil {
		return err
	}
	if inFolder { // for other users, whatever the umask
		if err := os.Chmod(filepath.Join(a.version, filepath.Dir(name)), 0o755); err != nil { //nolint:gosec // as above
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
	path := filepath.Join(a.dir, name)
	switch target, err := os.Readlink(path); {
	case errors.Is(err, fs.ErrNotExist), err == nil && filepath.Dir(target) == dataLink:
		return nil
	}
	return secret.WithHint(
		fmt.Errorf("%w: something else is at %s", secret.ErrInvalid, path),
		"remove it, or choose another folder with --files-dir")
}

// linkAs makes a link to the file key of dir under another name. If name is group/key, the folder
// group is made in dir with mode.
func linkAs(dir, key, name string, mode fs.FileMode) error {
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), mode); err != nil {
		return err
	}
	target, err := filepath.Rel(filepath.Dir(path), filepath.Join(dir, key))
	if err != nil {
		return err
	}
	return os.Symlink(target, path)
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
	data, next := filepath.Join(a.dir, dataLink), filepath.Join(a.dir, dataLink+"_tmp")
	if _, err := os.Readlink(data); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return secret.WithHint(
			fmt.Errorf("%w: %s is not a link, as inject init and kubelet make it", secret.ErrInvalid, data),
			"choose another folder with --files-dir")
	}
	// A new name leads nowhere until the last step, the rename, with which all of them lead to
	// their files.
	for _, name := range a.names {
		if err := a.name(name); err != nil {
			return cannotPlace(err)
		}
	}
	err := cmp.Or(removeLink(next), os.Symlink(filepath.Base(a.version), next))
	if err == nil {
		err = os.Rename(next, data)
	}
	if err != nil {
		return cannotPlace(err)
	}
	return nil
}

// sweep removes names that this call does not place, and the folders of earlier calls, also of
// those that were killed.
func (a *atomicFolder) sweep() error {
	entries, err := os.ReadDir(a.dir)
	errs := []error{err}
	for _, e := range entries {
		path := filepath.Join(a.dir, e.Name())
		target, err := os.Readlink(path)
		switch {
		case err == nil && filepath.Dir(target) == dataLink && !slices.Contains(a.names, e.Name()):
			errs = append(errs, os.Remove(path))
		case e.IsDir() && strings.HasPrefix(e.Name(), "..2") && path != a.version:
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}

// name makes a link called name into ..data, unless there is one.
func (a *atomicFolder) name(name string) error {
	path, target := filepath.Join(a.dir, name), dataLink+"/"+name
	if now, err := os.Readlink(path); err == nil && now == target {
		return nil
	}
	return os.Symlink(target, path)
}

// removeLink removes the link at path, which a killed call may have left. No link is no error.
func removeLink(path string) error {
	err := unix.Unlink(path)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
