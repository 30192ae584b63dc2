// Package dir is the store in a mounted folder, read-only: one that kubelet mounts from a
// Kubernetes Secret, or one that a person lays out by hand. A secret is a plain file that contains
// the bytes of the value and nothing else:
//
//	KEY                 a secret of the org
//	DOMAIN/KEY          a secret of the domain, for every project in it
//	DOMAIN/PROJECT/KEY  a secret of the project in that domain
//	_/PROJECT/KEY       a secret of the project, for every domain (no domain is called "_")
//
// The folder belongs to one org: [secret.DefaultOrg], unless it is opened for another. A folder
// with the name of a key is a scope, not a secret. Names that cannot be keys, such as ..data, are
// ignored.
//
// kubelet replaces the content of a mounted folder by renaming the link ..data, which the visible
// names lead through. An operation during which that happened is repeated, so its result is never
// a mixture of two generations. Links are followed inside the folder only. A link that leads
// nowhere is an error, not an absent secret.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"inject/resolver/secret"
	"inject/resolver/store"
)

// allDomains is the folder that stands for "every domain".
const allDomains = "_"

// dataLink is kubelet's link to the current content of the folder.
const dataLink = "..data"

// Store reads secrets from a folder. It is safe for concurrent use.
type Store struct {
	root *os.Root
	org  string
}

var (
	_ store.Reader = (*Store)(nil)
	_ store.Lister = (*Store)(nil)
)

// Open opens the folder at name as the store of org; "" is [secret.DefaultOrg]. The caller closes
// it. A folder that does not exist is an error and not an empty store, because a failed mount must
// not read as absence.
func Open(name, org string) (*Store, error) {
	if org == "" {
		org = secret.DefaultOrg
	}
	root, err := os.OpenRoot(name)
	if err != nil {
		hint := secret.WithHint(classify(err), "dir:// needs a folder that exists and can be read")
		return nil, fmt.Errorf("store folder: %w", hint)
	}
	return &Store{root, org}, nil
}

// Close closes the folder.
func (s *Store) Close() error { return s.root.Close() }

// classify wraps an error of the file system in one of the sentinels of package secret, but never
// in [secret.ErrNotFound]: see absent.
func classify(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w", secret.ErrDenied, err)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w: %w", secret.ErrInvalid, err)
	}
	return fmt.Errorf("%w: %w", secret.ErrUnavailable, err)
}

// snapshot calls fn, again and again until kubelet did not replace the content meanwhile. Otherwise
// fn may have read parts of two generations, or missed files because one generation was being
// removed.
func (s *Store) snapshot(ctx context.Context, fn func() error) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		before, err := s.generation()
		if err != nil {
			return err
		}
		result := fn()
		after, err := s.generation()
		if err != nil {
			return err
		}
		if before == after {
			return result
		}
	}
}

// generation returns the target of kubelet's link, or "" if kubelet does not manage the folder.
func (s *Store) generation() (string, error) {
	target, err := s.root.Readlink(dataLink)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EINVAL) { // it does not exist, or it is not a link
		return "", nil
	}
	if err != nil {
		return "", classify(err)
	}
	return target, nil
}

// pathOf returns the path of r in the folder.
func pathOf(r secret.Ref) string {
	domain := r.Domain
	if domain == "" && r.Project != "" {
		domain = allDomains
	}
	return path.Join(domain, r.Project, r.Key)
}

func (s *Store) read(ctx context.Context, op string, ref secret.Ref, fn func(f *os.File, info store.Info) error) error {
	err := errors.Join(ref.Validate(), secret.ValidKey(ref.Key)) // a file with dots in its name is none of a secret
	if err == nil && ref.Org != s.org {
		err = errors.Join(ctx.Err(), secret.ErrNotFound)
	}
	if err == nil && (strings.HasPrefix(ref.Domain, "..") || strings.HasPrefix(ref.Project, "..")) {
		// These are kubelet's: below ..data everything has a second name.
		err = errors.Join(ctx.Err(), secret.ErrNotFound)
	}
	if err == nil {
		err = s.snapshot(ctx, func() error { return open(s.root, ref, fn) })
	}
	if err != nil {
		return &secret.Error{Op: op, Ref: ref, Err: err}
	}
	return nil
}

func open(root *os.Root, ref secret.Ref, fn func(*os.File, store.Info) error) error {
	// O_NONBLOCK, because opening a FIFO would wait for a writer.
	f, err := root.OpenFile(pathOf(ref), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	// ENOTDIR: there is a secret with the name of the domain, so the domain has no folder.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return absent(root, pathOf(ref))
	}
	if err != nil {
		return classify(err)
	}
	defer f.Close() //nolint:errcheck // read only
	info, err := f.Stat()
	switch {
	case err != nil:
		return classify(err)
	case info.IsDir():
		return secret.ErrNotFound
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: %s is neither a file nor a folder", secret.ErrInvalid, pathOf(ref))
	}
	return fn(f, store.Info{Ref: ref, Created: info.ModTime(), Updated: info.ModTime()})
}

// absent returns [secret.ErrNotFound], unless part of the path at is a link that leads nowhere.
// Such a link is an outage, because its target did exist.
func absent(root *os.Root, at string) error {
	for ; at != "."; at = path.Dir(at) {
		info, err := root.Lstat(at)
		switch {
		case err == nil && info.Mode()&fs.ModeSymlink != 0:
			if _, err := root.Stat(at); err == nil {
				return secret.ErrNotFound // its target exists, but not the rest of the path
			}
			return fmt.Errorf("%w: %s is a link to nothing", secret.ErrUnavailable, at)
		case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR):
			return classify(err)
		}
	}
	return secret.ErrNotFound
}

// Get implements [store.Reader].
func (s *Store) Get(ctx context.Context, ref secret.Ref) (v secret.Value, info store.Info, err error) {
	err = s.read(ctx, "get", ref, func(f *os.File, i store.Info) error {
		b, err := io.ReadAll(io.LimitReader(f, store.MaxValue+1))
		if err != nil {
			return classify(err)
		}
		if len(b) > store.MaxValue {
			return fmt.Errorf("%w: %s is over %d bytes", secret.ErrInvalid, pathOf(ref), store.MaxValue)
		}
		v, info = secret.NewValue(b), i
		return nil
	})
	return v, info, err
}

// Describe implements [store.Lister]. Created and Updated are both the modification time of the
// file.
func (s *Store) Describe(ctx context.Context, ref secret.Ref) (info store.Info, err error) {
	err = s.read(ctx, "describe", ref, func(_ *os.File, i store.Info) error {
		info = i
		return nil
	})
	return info, err
}

// List implements [store.Lister]. Secrets are in the order of their ids. The token is the last id
// of the page before.
func (s *Store) List(ctx context.Context, f store.Filter, limit int, token string) ([]store.Info, string, error) {
	if token != "" && !strings.HasPrefix(token, "u__org__"+s.org+"__domain__") {
		return nil, "", fmt.Errorf("list: %w: the token is not of this store", secret.ErrInvalid)
	}
	var all []store.Info
	err := s.snapshot(ctx, func() error {
		all = nil
		return s.walk(s.root, secret.Scope{Org: s.org}, ".", func(info store.Info) {
			if f.Match(info.Ref) && info.Ref.ID() > token {
				all = append(all, info)
			}
		})
	})
	if err != nil {
		return nil, "", fmt.Errorf("list: %w", err)
	}
	slices.SortFunc(all, func(a, b store.Info) int { return strings.Compare(a.Ref.ID(), b.Ref.ID()) })
	if limit > 0 && len(all) > limit {
		return all[:limit], all[limit-1].Ref.ID(), nil
	}
	return all, "", nil
}

// walk calls yield with every secret in the folder at, which belongs to scope, and in the folders
// of narrower scopes below it.
func (s *Store) walk(root *os.Root, scope secret.Scope, at string, yield func(store.Info)) error {
	d, err := root.Open(at)
	if err != nil {
		return classify(err)
	}
	names, err := d.Readdirnames(-1)
	_ = d.Close()
	if err != nil {
		return classify(err)
	}
	for _, name := range names {
		info, err := root.Stat(path.Join(at, name))
		if errors.Is(err, fs.ErrNotExist) {
			err = absent(root, path.Join(at, name))
			if errors.Is(err, secret.ErrNotFound) || strings.HasPrefix(name, "..") {
				continue // removed since the folder was read
			}
			return err
		}
		if err != nil {
			return classify(err)
		}
		ref := secret.Ref{Scope: scope, Key: name}
		switch {
		case info.Mode().IsRegular() && secret.ValidKey(name) == nil && ref.Validate() == nil:
			yield(store.Info{Ref: ref, Created: info.ModTime(), Updated: info.ModTime()})
		case info.IsDir():
			if below, ok := narrower(scope, at, name); ok {
				if err := s.walk(root, below, path.Join(at, name), yield); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// narrower returns the scope of the folder name inside the folder at of scope, and false if a
// folder there is not a scope.
func narrower(scope secret.Scope, at, name string) (secret.Scope, bool) {
	switch {
	case at == "." && name == allDomains:
		return scope, true
	case at == ".":
		scope.Domain = name
	case scope.Project == "":
		scope.Project = name
	default:
		return scope, false
	}
	return scope, !strings.HasPrefix(name, "..") && scope.Validate() == nil
}
