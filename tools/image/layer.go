package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A layer maps the names in an image to its files, links and folders.
type layer map[string]entry

type entry struct {
	header tar.Header
	data   []byte
}

// file adds the content of the file source as name. All may read it, and run it if its owner may, so
// that the builder's umask is not in the image.
func (l layer) file(source, name string) error {
	data, err := os.ReadFile(source) //nolint:gosec // the command line names the file
	if err != nil {
		return err
	}
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	header := tar.Header{Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))}
	if info.Mode()&0o100 != 0 {
		header.Mode = 0o755
	}
	return l.add(name, entry{header, data})
}

// files adds all files below the folder source, with the names that they have there.
func (l layer) files(source string) error {
	return filepath.WalkDir(source, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		return l.file(path, filepath.ToSlash(name))
	})
}

// folder adds the empty folder name, which belongs to owner and is open to no other user.
func (l layer) folder(name string, owner int) error {
	return l.add(name, entry{tar.Header{Typeflag: tar.TypeDir, Mode: 0o700, Uid: owner, Gid: owner}, nil})
}

// link adds a symbolic link called name.
func (l layer) link(name, target string) error {
	return l.add(name, entry{tar.Header{Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: target}, nil})
}

// add adds e as name, and the folders above it. It is an error if name exists already.
func (l layer) add(name string, e entry) error {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if _, ok := l[name]; ok || name == "" {
		return fmt.Errorf("/%s already exists", name)
	}
	e.header.Name = name
	if e.header.Typeflag == tar.TypeDir {
		e.header.Name += "/"
	}
	l[name] = e
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if above, ok := l[dir]; ok && above.header.Typeflag != tar.TypeDir {
			return fmt.Errorf("/%s is not a folder", dir)
		}
		l[dir] = entry{tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil}
	}
	return nil
}

// archive returns the layer in the format of OCI, without times, so that the same content always gives the
// same layer. level is gzip's.
func (l layer) archive(level int) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(l)) { // a folder comes before its files
		e := l[name]
		if err := w.WriteHeader(&e.header); err != nil {
			return nil, fmt.Errorf("/%s: %w", name, err)
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, fmt.Errorf("/%s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithCompressionLevel(level), tarball.WithMediaType(types.OCILayer))
}
