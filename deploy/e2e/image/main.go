// Command image makes a container image from files, and writes it as a tarball that containerd and
// docker can load. It needs no base image and no registry, so a test runs only what it has built.
// It is a module of its own, so that its dependencies are not those of inject.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const usage = `usage: image -o FILE -tag NAME:TAG [flags] SOURCE=PATH...

Each file SOURCE becomes PATH in the image, with the same permissions, owned by root.
`

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var config v1.Config
	content := layer{}
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprint(os.Stderr, usage)
		flags.PrintDefaults()
	}
	out := flags.String("o", "", "the tarball `FILE` to write")
	tag := flags.String("tag", "", "the image's `NAME:TAG`")
	flags.StringVar(&config.User, "user", "", "the `UID:GID` of its process")
	flags.Func("entrypoint", "the `WORDS` that start its process", func(s string) error {
		config.Entrypoint = strings.Fields(s)
		return nil
	})
	flags.Func("link", "a symbolic link, as `PATH=TARGET` (repeat)", func(s string) error {
		return pair(s, content.link)
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	for _, file := range flags.Args() {
		if err := pair(file, content.file); err != nil {
			return err
		}
	}
	config.Env = []string{"PATH=/bin"}
	return write(*out, *tag, config, content)
}

// pair calls do with the texts before and after the first = in s. It is an error if one is empty.
func pair(s string, do func(left, right string) error) error {
	left, right, ok := strings.Cut(s, "=")
	if !ok || left == "" || right == "" {
		return fmt.Errorf("%q is not two paths with = between them", s)
	}
	return do(left, right)
}

// A layer maps the names in an image to its files, links and folders.
type layer map[string]entry

type entry struct {
	header tar.Header
	data   []byte
}

// file adds the content and permissions of the file source as name.
func (l layer) file(source, name string) error {
	data, err := os.ReadFile(source) //nolint:gosec // the command line names the file
	if err != nil {
		return err
	}
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	header := tar.Header{Typeflag: tar.TypeReg, Mode: int64(info.Mode().Perm()), Size: int64(len(data))}
	return l.add(name, entry{header, data})
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
	l[name] = e
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if above, ok := l[dir]; ok && above.header.Typeflag != tar.TypeDir {
			return fmt.Errorf("/%s is not a folder", dir)
		}
		l[dir] = entry{tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil}
	}
	return nil
}

// tar returns the layer as an archive, without times, so that the same content always gives the
// same image.
func (l layer) tar() ([]byte, error) {
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
	return b.Bytes(), nil
}

// write writes an image with the one layer content to the tarball out.
func write(out, tag string, config v1.Config, content layer) error {
	ref, err := name.NewTag(tag, name.StrictValidation)
	if err != nil {
		return fmt.Errorf("-tag: %w", err)
	}
	archive, err := content.tar()
	if err != nil {
		return err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }
	layer, err := tarball.LayerFromOpener(open, tarball.WithCompressionLevel(gzip.BestSpeed))
	if err != nil {
		return fmt.Errorf("layer: %w", err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return fmt.Errorf("layer: %w", err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", runtime.GOARCH, config
	if image, err = mutate.ConfigFile(image, file); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return tarball.WriteToFile(out, ref, image)
}
