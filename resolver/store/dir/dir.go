// Package dir is the store in a mounted folder, read-only: what kubelet mounts
// from a Kubernetes Secret, or what a person lays out by hand. A secret is a
// plain file that holds the value's bytes and nothing else:
//
//	KEY                 the org's
//	DOMAIN/KEY          the domain's, every project
//	DOMAIN/PROJECT/KEY  the project's in that domain
//	_/PROJECT/KEY       the project's, every domain (no domain is called "_")
//
// The folder is one org's, [secret.DefaultOrg] unless opened for another one. A
// folder where a key is looked for is a scope, not a secret. Names that no key
// has, such as ..data, are passed over.
//
// kubelet swaps the content of a mounted folder by renaming the link ..data, into
// which the names that one sees are links. An operation in the middle of which it
// did so is done again, so that it never mixes two generations. Links are
// followed inside the folder only, and one that leads nowhere is an error, not an
// absent secret.
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

// kubelet's link to the folder's present content.
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

// Open opens the folder at name as the store of org, "" for
// [secret.DefaultOrg]. The caller closes it. A folder that is not there is an
// error, not an empty store: a failed mount must not read as absence.
func Open(name, org string) (*Store, error) {
	if org == "" {
		org = secret.DefaultOrg
	}
	root, err := os.OpenRoot(name)
	if err != nil {
		hint := secret.WithHint(classify(err), "--store dir:// needs a folder that is there and may be read")
		return nil, fmt.Errorf("store folder: %w", hint)
	}
	return &Store{root, org}, nil
}

// Close gives the folder back.
func (s *Store) Close() error { return s.root.Close() }

// classify wraps an error of the file system in one of the sentinels. Absence
// is not decided here.
func classify(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w", secret.ErrDenied, err)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w: %w", secret.ErrInvalid, err)
	}
	return fmt.Errorf("%w: %w", secret.ErrUnavailable, err)
}

// snapshot calls fn, and again if kubelet swapped the content meanwhile: what fn
// found may have been of both generations, or missing because one was just gone.
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

// generation returns where kubelet's link leads, "" if the folder is not kubelet's.
func (s *Store) generation() (string, error) {
	target, err := s.root.Readlink(dataLink)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EINVAL) { // none, or no link
		return "", nil
	}
	if err != nil {
		return "", classify(err)
	}
	return target, nil
}

// pathOf returns where r is in the folder.
func pathOf(r secret.Ref) string {
	domain := r.Domain
	if domain == "" && r.Project != "" {
		domain = allDomains
	}
	return path.Join(domain, r.Project, r.Key)
}

func (s *Store) read(ctx context.Context, op string, ref secret.Ref, fn func(f *os.File, info store.Info) error) error {
	err := ref.Validate()
	if err == nil && ref.Org != s.org {
		err = errors.Join(ctx.Err(), secret.ErrNotFound)
	}
	if err == nil && (strings.HasPrefix(ref.Domain, "..") || strings.HasPrefix(ref.Project, "..")) {
		// Kubelet's own: below ..data is another name for everything.
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
	// Not blocking: a FIFO would wait for a writer.
	f, err := root.OpenFile(pathOf(ref), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	// ENOTDIR: where the domain's folder would be is a secret of that name.
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

// absent returns [secret.ErrNotFound] unless a link is there that leads nowhere:
// what it led to was there once.
func absent(root *os.Root, at string) error {
	for ; at != "."; at = path.Dir(at) {
		info, err := root.Lstat(at)
		switch {
		case err == nil && info.Mode()&fs.ModeSymlink != 0:
			if _, err := root.Stat(at); err == nil {
				return secret.ErrNotFound // it leads to a folder without the rest
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

// Describe implements [store.Lister]. Created and Updated are the file's time.
func (s *Store) Describe(ctx context.Context, ref secret.Ref) (info store.Info, err error) {
	err = s.read(ctx, "describe", ref, func(_ *os.File, i store.Info) error {
		info = i
		return nil
	})
	return info, err
}

// List implements [store.Lister]. The order is that of the stored ids, and the
// token is the id with which the page before ended.
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

// walk calls yield with every secret in the folder at, which is scope's, and in
// the folders of narrower scopes below it.
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
				continue // gone since the folder was read
			}
			return err
		}
		if err != nil {
			return classify(err)
		}
		ref := secret.Ref{Scope: scope, Key: name}
		switch {
		case info.Mode().IsRegular() && ref.Validate() == nil:
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

// narrower returns the scope of the folder name in scope's folder at, if it has one.
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
