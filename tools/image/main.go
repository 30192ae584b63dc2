// Command image makes container images from files, without a base image, a registry or docker. It is a
// module of its own, so that its dependencies are not those of inject.
//
//	image tar     any image, as a tarball that containerd and docker can load, for tests
//	image layout  an image of a release for several platforms, with SBOMs, as an OCI layout
package main

import (
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const usage = `usage: image tar -o FILE -tag NAME:TAG [flags] SOURCE=PATH...
       image layout -o FOLDER -name NAME -files FOLDER [flags] PROGRAM...

tar: each file SOURCE becomes PATH in the image, owned by root.
layout: PROGRAM is the image's program, once for each platform.

`

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 0 && args[0] == "tar" {
		return runTar(args[1:])
	}
	if len(args) > 0 && args[0] == "layout" {
		return runLayout(args[1:])
	}
	fmt.Fprint(os.Stderr, usage)
	return errors.New("the first word must be tar or layout")
}

// newFlags returns the flags of a command.
func newFlags(command string) *flag.FlagSet {
	flags := flag.NewFlagSet("image "+command, flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprint(os.Stderr, usage)
		flags.PrintDefaults()
	}
	return flags
}

func runTar(args []string) error {
	var config v1.Config
	content := layer{}
	flags := newFlags("tar")
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
	flags.Func("from", "a `FILE` with a path in each line, the same as in the image (repeat)", func(s string) error {
		list, err := os.ReadFile(s) //nolint:gosec // the command line names the file
		if err != nil {
			return err
		}
		for path := range strings.FieldsFuncSeq(string(list), func(r rune) bool { return r == '\n' }) {
			if err := content.file(path, path); err != nil {
				return err
			}
		}
		return nil
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
	ref, err := name.NewTag(*tag, name.StrictValidation)
	if err != nil {
		return fmt.Errorf("-tag: %w", err)
	}
	layer, err := content.archive(gzip.BestSpeed)
	if err != nil {
		return fmt.Errorf("layer: %w", err)
	}
	image, err := newImage(v1.ConfigFile{Architecture: runtime.GOARCH, Config: config}, layer)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(*out, ref, image)
}

// pair calls do with the texts before and after the first = in s. It is an error if one is empty.
func pair(s string, do func(left, right string) error) error {
	left, right, ok := strings.Cut(s, "=")
	if !ok || left == "" || right == "" {
		return fmt.Errorf("%q is not two paths with = between them", s)
	}
	return do(left, right)
}

// newImage returns an image for Linux of these layers, with the architecture, time and configuration in
// about.
func newImage(about v1.ConfigFile, layers ...v1.Layer) (v1.Image, error) {
	image, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created, file.Config = "linux", about.Architecture, about.Created, about.Config
	file.History = nil // it is optional, and no step made the layers
	image, err = mutate.ConfigFile(image, file)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return image, nil
}
