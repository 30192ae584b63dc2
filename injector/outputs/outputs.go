// Package outputs looks for known values in files, and takes them out: in what a
// task leaves behind, or a person is about to hand on. Which values those are,
// and what follows from a find, is its callers' business.
package outputs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"inject/exec/redact"
)

// A File is one to look into.
type File struct {
	Path string
	Size int64 // when it was listed, in bytes; 0 for what is no regular file
}

// List returns the files at paths and, for a folder, all regular files below it,
// in lexical order; links are followed only if they are in paths. It returns what
// there is beside an error that names all that could not be listed.
func List(paths []string) ([]File, error) {
	var files []File
	var errs []error
	for _, path := range paths {
		info, err := os.Stat(path)
		switch {
		case err != nil:
			errs = append(errs, err)
			continue
		case !info.IsDir():
			files = append(files, File{path, regularSize(info)})
			continue
		}
		root := path
		if link, err := filepath.EvalSymlinks(path); err == nil && link != filepath.Clean(path) {
			root += string(filepath.Separator) // or WalkDir would stop at the link
		}
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				errs = append(errs, err)
				return nil
			}
			if d.Type().IsRegular() {
				info, err := d.Info()
				if errors.Is(err, fs.ErrNotExist) {
					return nil // removed since
				}
				if err != nil {
					errs = append(errs, err)
					return nil
				}
				files = append(files, File{path, info.Size()})
			}
			return nil
		})
	}
	return files, errors.Join(errs...)
}

func regularSize(info fs.FileInfo) int64 {
	if !info.Mode().IsRegular() {
		return 0
	}
	return info.Size()
}

// A Scanner looks into files. Its fields are set before it is used, and it is
// used by one goroutine.
type Scanner struct {
	Redactor *redact.Redactor
	// Found, if not nil, is called for every run that there is; by Mask, once it is
	// masked.
	Found func(File, redact.Find)
	// Read, if not nil, is called as bytes are read for the first time, with how many
	// more those are.
	Read func(n int)
}

// Check looks for values in f, and changes nothing.
func (s *Scanner) Check(ctx context.Context, f File) error {
	r, err := os.Open(f.Path)
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // read only
	return s.Copy(ctx, f, r, io.Discard)
}

// Copy copies r to w with its values masked. f is what r is called when
// something is found.
func (s *Scanner) Copy(ctx context.Context, f File, r io.Reader, w io.Writer) error {
	out := s.Redactor.Writer(w)
	if s.Found != nil {
		out.Found = func(find redact.Find) { s.Found(f, find) }
	}
	_, err := out.ReadFrom(s.reader(ctx, r))
	if err == nil {
		err = out.Close()
	}
	return err
}

// reader returns r, ended when ctx does, and tells what was read.
func (s *Scanner) reader(ctx context.Context, r io.Reader) io.Reader { return &scanned{s, ctx, r} }

type scanned struct {
	s   *Scanner
	ctx context.Context //nolint:containedctx // it is one call's
	r   io.Reader
}

// Read implements [io.Reader].
func (r *scanned) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.r.Read(p)
	if r.s.Read != nil {
		r.s.Read(n)
	}
	return n, err
}

// ErrLinks is returned, wrapped, by [Scanner.Mask] when the file was masked and
// has other names, under which it still is as it was.
var ErrLinks = errors.New("it has other names (hard links), under which the values still are")

// errChanged is why a file is left as it is.
var errChanged = errors.New("it changed while it was being masked, and is left as it is")

// Mask replaces a regular file that holds values by a masked one with the same
// mode and owner: at once, so that whoever opens it finds either, and nobody is
// left with half. Its times, access lists and extended attributes are new. A file
// without values is not touched. It follows a link and leaves it in place. If it
// fails, or ctx ends, the file is as it was; but for [ErrLinks], and if the folder
// cannot be synced, when it is masked.
func (s *Scanner) Mask(ctx context.Context, f File) error {
	path, err := filepath.EvalSymlinks(f.Path)
	if err != nil {
		return err
	}
	// Before it is opened: a named pipe would wait for somebody to write to it.
	if info, err := os.Stat(path); err != nil {
		return err
	} else if !info.Mode().IsRegular() {
		return errors.New("it is no regular file: it cannot be replaced")
	}
	r, err := os.Open(path)
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // read only
	before, err := r.Stat()
	if err != nil {
		return err
	}
	found := false
	look := Scanner{Redactor: s.Redactor, Found: func(File, redact.Find) { found = true }, Read: s.Read}
	if err := look.Copy(ctx, f, r, io.Discard); err != nil || !found {
		return err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return err
	}
	w, err := os.CreateTemp(filepath.Dir(path), ".masked-*") // not by its name, which may be as long as names are
	if err != nil {
		return err
	}
	defer os.Remove(w.Name()) //nolint:errcheck // it is gone if all went well
	var finds []redact.Find   // which are none until they are masked
	again := Scanner{Redactor: s.Redactor, Found: func(_ File, find redact.Find) { finds = append(finds, find) }}
	err = again.fill(ctx, f, r, w, before)
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	// The same file still, and as it was read?
	now, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(before, now) || before.Size() != now.Size() || !before.ModTime().Equal(now.ModTime()) {
		return errChanged
	}
	if err := os.Rename(w.Name(), path); err != nil {
		return err
	}
	if s.Found != nil {
		for _, find := range finds {
			s.Found(f, find)
		}
	}
	if err := syncFolder(filepath.Dir(path)); err != nil {
		return fmt.Errorf("it is masked, but that may not outlast a crash: %w", err)
	}
	if links(before) > 1 {
		return ErrLinks
	}
	return nil
}

// fill makes w what r is to become, on the disk.
func (s *Scanner) fill(ctx context.Context, f File, r io.Reader, w *os.File, like fs.FileInfo) error {
	if err := s.Copy(ctx, f, r, w); err != nil {
		return err
	}
	if err := keep(w, like); err != nil {
		return err
	}
	return w.Sync()
}

// keep gives w the owner, group and mode of like.
func keep(w *os.File, like fs.FileInfo) error {
	if err := chown(w, like); err != nil {
		return fmt.Errorf("keep its owner: %w", err)
	}
	return w.Chmod(like.Mode()) // last: chown takes setuid away
}

func syncFolder(path string) error {
	d, err := os.Open(path) //nolint:gosec // the caller's choice
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
