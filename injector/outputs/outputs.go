// Package outputs finds known values in files and masks them: in the folders and the
// termination message that a task leaves ([Folder], [MaskMessage]), and in files that a person
// names ([Scanner]). Package content finds out the form of a file and masks values in it. The
// caller decides what a find means.
package outputs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"inject/exec/redact"
	"inject/injector/outputs/content"
)

// A File is a file to scan.
type File struct {
	Path string
	Size int64 // in bytes, when it was listed; 0 if it is not a regular file
}

// List returns the files at paths and, for a folder, all regular files below it, in lexical
// order. Links are followed only if they are in paths. The files are valid beside an error,
// which names every file that could not be listed.
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
			root += string(filepath.Separator) // otherwise WalkDir stops at the link
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

// A Scanner scans and masks files by their paths. Its fields are set before it is used, and it
// is used by one goroutine.
type Scanner struct {
	Redactor *redact.Redactor
	// Found, if not nil, is called for every value that is found; by Mask, after the file has
	// been masked.
	Found func(File, redact.Find)
	// Read, if not nil, is called with the number of bytes of every read of the first pass over
	// a file.
	Read func(n int)

	in *content.Inspector // made by the first call of inspect
}

// Check finds the values in f, also in archives and compressed files, and changes nothing. Offsets
// of finds in a member of an archive count in the member. A file that cannot be searched completely
// is an error.
func (s *Scanner) Check(ctx context.Context, f File) error {
	r, err := os.Open(f.Path)
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // read only
	if info, err := r.Stat(); err != nil {
		return err
	} else if !info.Mode().IsRegular() { // a pipe cannot be read twice
		return s.Copy(ctx, f, r, io.Discard)
	}
	seen, err := s.inspect(ctx, r, func(find redact.Find) {
		if s.Found != nil {
			s.Found(f, find)
		}
	})
	if err == nil && seen.Unchecked {
		err = fmt.Errorf("%s: it may hold values", seen.Why)
	}
	return err
}

// inspect inspects r and calls found for each value in it.
func (s *Scanner) inspect(ctx context.Context, r *os.File, found func(redact.Find)) (content.Content, error) {
	if s.in == nil {
		s.in = content.NewInspector(s.Redactor)
	}
	s.in.Read, s.in.Found = s.Read, found
	return inspectFile(ctx, s.in, r)
}

// Copy copies r to w with its values masked byte by byte, whatever the form of r. f names r in
// calls of Found.
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

// reader returns r so that it ends with ctx and calls s.Read.
func (s *Scanner) reader(ctx context.Context, r io.Reader) io.Reader { return &scanned{s, ctx, r} }

type scanned struct {
	s   *Scanner
	ctx context.Context //nolint:containedctx // it lives as long as one call
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

// ErrLinks is returned, wrapped, by [Scanner.Mask] for a file with several names: it is masked
// under one of them, and unchanged under the others.
var ErrLinks = errors.New("it has other names (hard links), under which the values still are")

// ErrWritten is returned, wrapped, by [Scanner.Mask] for a file that another process may write. What
// that writes after the file is replaced would go to the old one, which has no name any more.
var ErrWritten = errors.New("another process has it open for writing: it is left as it is," +
	" because what that process writes would be lost")

// Mask replaces a regular file that holds values by a masked one with the same mode and owner.
// The replacement is atomic: a program that opens the file finds either the old or the new one.
// A file without values is not touched. A link is followed and stays a link.
//
// A text, JSON and Flyte's messages keep their form. Bytes of no known form are masked byte by
// byte. A file that cannot be masked, such as an archive, is an error. The times, access lists
// and extended attributes of the masked file are new.
//
// A file that another process has open for writing, or opens meanwhile, is left as it is, and the
// error is [ErrWritten]; opening it waits until Mask has returned. Linux tells only the owner of the
// file and root with CAP_LEASE, and not on every file system. Elsewhere only a change is noticed
// that is made before the file is replaced.
//
// If Mask fails or ctx ends, the file is unchanged, with two exceptions: it is masked if the
// error is [ErrLinks], or if only the sync of the folder has failed.
func (s *Scanner) Mask(ctx context.Context, f File) error {
	path, err := filepath.EvalSymlinks(f.Path)
	if err != nil {
		return err
	}
	// Check this before opening it: opening a named pipe waits for a writer.
	if info, err := os.Stat(path); err != nil {
		return err
	} else if !info.Mode().IsRegular() {
		return errors.New("it is not a regular file: it cannot be replaced")
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // read only
	r, err := os.Open(path)
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // read only; it ends the lease
	unwritten, err := lease(int(r.Fd()))
	if err != nil {
		return err
	}
	return s.mask(ctx, f, dir, r, unwritten)
}

// mask masks r, a file in the folder dir. unwritten is as in replaceMasked.
func (s *Scanner) mask(ctx context.Context, f File, dir, r *os.File, unwritten func() bool) error {
	_, before, err := stat(int(r.Fd()))
	if err != nil {
		return err
	}
	var finds []redact.Find // reported only after the file has been masked
	seen, err := s.inspect(ctx, r, func(find redact.Find) { finds = append(finds, find) })
	switch {
	case err != nil:
		return err
	case seen.Unchecked:
		return fmt.Errorf("%s: it is left as it is, and may hold values", seen.Why)
	case len(seen.Found) == 0:
		return nil
	case !seen.Maskable() && !seen.Binary():
		return fmt.Errorf("%s, which cannot be masked: it is left as it is, and holds values", seen.Why)
	}

	fd := int(dir.Fd())
	err = replaceMasked(ctx, s.in, fd, filepath.Base(r.Name()), r, seen, before, nil, unwritten)
	if errors.Is(err, errAgain) {
		return errors.New("it changed while it was being masked, and is left as it is")
	}
	if err != nil {
		return err
	}

	if s.Found != nil {
		for _, find := range finds {
			s.Found(f, find)
		}
	}
	if err := unix.Fsync(fd); err != nil {
		return fmt.Errorf("it is masked, but that may not outlast a crash: %w", err)
	}
	if before.links > 1 {
		return ErrLinks
	}
	return nil
}
