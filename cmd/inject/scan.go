package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"inject/exec"
	"inject/exec/redact"
	"inject/injector/outputs"
	"inject/internal/printable"
)

// filter copies the files to stdout, masked. They are one stream: a value may begin at the end
// of one file and end in the next.
func (a *redactVerb) filter(paths []string, stats bool) error {
	w := a.stream(a.stdout)
	if stats {
		w.Found = a.found.add
	}
	var errs []error
	for _, path := range paths {
		if err := a.pour(path, w); err != nil {
			errs = append(errs, about(path, err))
		}
		if _, err := w.Write(nil); err != nil {
			return errors.Join(errs...) // stdout failed: no other file can be copied
		}
	}
	if err := w.Close(); err != nil {
		errs = append(errs, about("-", err))
	}
	return errors.Join(errs...)
}

func (a *redactVerb) pour(path string, w *redact.Writer) error {
	f, err := a.open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	if in, err := f.Stat(); err == nil && in.Mode().IsRegular() {
		if out, err := a.stdout.Stat(); err == nil && os.SameFile(in, out) {
			return errors.New("it is stdout, too: the copy would never end")
		}
	}
	exec.WidenPipe(f)
	_, err = w.ReadFrom(f)
	return err
}

// scan checks each file, or masks it in place. The error names every file that failed.
func (a *redactVerb) scan(ctx context.Context, paths []string) error {
	r := &a.set.Redact
	if r.InPlace { // a signal must not leave a temporary file
		var stop func()
		ctx, stop = untilSignal(ctx, "files that were not done yet are as they were")
		defer stop()
	}

	files, err := outputs.List(slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return p == "-" }))
	errs := []error{err}
	if slices.Contains(paths, "-") {
		files = append(files, outputs.File{Path: "-"})
	}

	bar := newProgress(a.app, files)
	defer bar.clear()
	list := []finding{}
	var sayErr error
	s := outputs.Scanner{Redactor: a.redactor, Read: bar.add}
	s.Found = func(file outputs.File, f redact.Find) {
		a.found.add(f)
		switch {
		case r.Output == "json":
			list = append(list, finding{a.mask(file.Path), f.Offset, f.Name, f.Kind})
		case r.Check:
			bar.clear()
			if sayErr == nil {
				_, sayErr = fmt.Fprintf(a.masked(a.stdout), "%s:%d: %s (%s)\n", printable.Name(file.Path), f.Offset,
					f.Name, f.Kind)
			}
		}
	}

	for _, f := range files {
		bar.at(f)
		switch {
		case r.InPlace:
			err = s.Mask(ctx, f)
		case f.Path == "-":
			err = s.Copy(ctx, f, a.stdin, io.Discard)
		default:
			err = s.Check(ctx, f)
		}
		if sig, ok := errors.AsType[*interruptedError](context.Cause(ctx)); ok && err != nil {
			return sig
		}
		if err != nil {
			errs = append(errs, about(f.Path, err))
		}
	}

	bar.clear()
	if r.Output == "json" {
		sayErr = printAs(a.stdout, "json", list)
	}
	return errors.Join(append(errs, sayErr)...)
}

// interruptedError is the error of a verb that a signal ended.
type interruptedError struct {
	signal syscall.Signal
	rest   string // what has not been done
}

func (e *interruptedError) Error() string {
	return "stopped by a signal (" + e.signal.String() + "); " + e.rest
}

// untilSignal returns a context that ends, with an interruptedError as its cause,
// when a signal asks this process to stop.
func untilSignal(ctx context.Context, rest string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	go func() {
		select {
		case sig := <-signals:
			if sig, ok := sig.(syscall.Signal); ok {
				cancel(&interruptedError{sig, rest})
			}
		case <-ctx.Done():
		}
	}()
	return ctx, func() { signal.Stop(signals); cancel(nil) }
}

// about adds the path of a file to an error.
func about(path string, err error) error {
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return err // it has the path
	}
	return fmt.Errorf("%s: %w", printable.Name(path), err)
}
