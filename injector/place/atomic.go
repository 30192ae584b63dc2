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

// Files places the file secrets among secrets in the folder dir for others to
// read, and leaves them there, laid out as kubelet lays out a secret's volume: each name
// is a link into ..data, which is a link to a folder of this call's, so that all of them
// change at once and a reader never finds some of one call and some of another. What an
// earlier call has placed and this one has not is removed.
//
// The files are 0400; 0440 for group, if that is not -1, or for dir's group where new
// files get that (setgid, as with a pod's fsGroup). If it fails, what was there before
// is as it was; at the worst there are new names beside it that lead nowhere.
func Files(dir string, group int, secrets []Secret, log hclog.Logger) error {
	dir = absolute(dir)
	if err := durable.MkdirAll(dir, 0o755); err != nil { // for other users to read
		return cannotPlace(err)
	}
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: dir, Err: unix.ENOTDIR}
	}
	if err != nil {
		return cannotPlace(err)
	}
	// One at a time, so that what a killed one has left is nobody's.
	lock, err := os.Open(dir) //nolint:gosec // the operator's choice
	if err == nil {
		defer lock.Close() //nolint:errcheck // a folder
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err != nil {
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
	// Kubelet's names, so that whatever passes over its folders passes over ours.
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
	// They are placed, whatever else is there.
	if err := a.sweep(); err != nil {
		log.Warn("files of earlier calls could not be removed", "folder", dir, "error", err)
	}
	return nil
}

// atomicFolder is one call of Files.
type atomicFolder struct {
	dir, version string
	mode         fs.FileMode
	group        int
	log          hclog.Logger
	names        []string // that appear in dir
}

// fill writes the files, and links for their other names, into the new folder.
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
	// Others pass through it; whoever may read is the files' to say.
	if err := os.Chmod(a.version, 0o755); err != nil { //nolint:gosec // as above
		errs = append(errs, cannotPlace(err))
	}
	return errors.Join(errs...)
}

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

// alias makes key appear as name, too.
func (a *atomicFolder) alias(key, name string) error {
	top, _, inFolder := strings.Cut(name, "/")
	if err := a.free(top); err != nil {
		return err
	}
	if err := linkAs(a.version, key, name, 0o755); err != nil {
		return err
	}
	if inFolder { // whatever the umask
		if err := os.Chmod(filepath.Join(a.version, filepath.Dir(name)), 0o755); err != nil { //nolint:gosec // as above
			return err
		}
	}
	if !slices.Contains(a.names, top) {
		a.names = append(a.names, top)
	}
	return nil
}

// free returns an error if something that is not of ours has a name in dir.
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

// linkAs makes a link to key in dir under another name, which may be in a folder of
// dir's, made with mode if it is not there.
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

const dataLink = "..data"

// isAtomic reports whether the files in dir are those of a Files, or kubelet's.
func isAtomic(dir string) bool {
	_, err := os.Readlink(filepath.Join(dir, dataLink))
	return err == nil
}

// publish makes the new folder the one that is read. If it fails, the old one is.
func (a *atomicFolder) publish() error {
	data, next := filepath.Join(a.dir, dataLink), filepath.Join(a.dir, dataLink+"_tmp")
	if _, err := os.Readlink(data); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return secret.WithHint(
			fmt.Errorf("%w: %s is no link, as inject init and kubelet make it", secret.ErrInvalid, data),
			"choose another folder with --files-dir")
	}
	// New names lead nowhere until the last step, after which all of them do.
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

// sweep removes names that are no longer placed, and the folders of earlier calls, also
// of those that were killed.
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

// name makes name a link into ..data, unless it is.
func (a *atomicFolder) name(name string) error {
	path, target := filepath.Join(a.dir, name), dataLink+"/"+name
	if now, err := os.Readlink(path); err == nil && now == target {
		return nil
	}
	return os.Symlink(target, path)
}

// removeLink removes a link that a killed call has left.
func removeLink(path string) error {
	err := unix.Unlink(path)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
