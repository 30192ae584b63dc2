package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"inject/cli"
	"inject/exec"
	"inject/exec/harden"
	"inject/exec/redact"
	"inject/injector/outputs"
	"inject/injector/place"
	"inject/internal/printable"
	"inject/internal/tty"
	"inject/resolver/secret"
)

func (a *app) redactCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "redact [flags] [PATH…]",
		Short: "Mask the declared secrets in a stream or in files",
		Long: `redact copies stdin, or the files at PATH, to stdout and masks the declared secrets
and other values in them, in every form in which programs usually write a value:
as it is, in base64, hex, JSON, a URL, a shell's quotes and so on. What it reads may
be anything, and is passed on as it comes, not line by line.

With --check it only tells where values are, as PATH:BYTE: NAME (FORM) with BYTE
counted from 0, and exits with 1 if there are any, and with 125 if it could not look
everywhere. With --in-place it replaces files that hold values by masked ones of the
same mode and owner; JSON stays JSON, and an archive is an error. To both a folder
stands for all files below it; links in it are not followed. Without them several files are one stream, as cat makes of them.`,
		Example: `  make deploy 2>&1 | inject redact --secret API_KEY --secret DB_PASSWORD
  inject redact --mask "$TOKEN" --stats < build.log > masked.log
  vault-dump | inject redact --values-from - --check ./artifacts
  inject redact --task task.yaml --in-place core.log /var/log/task`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return a.redact(cmd, args) },
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	s := &a.set
	a.settings.AddFlags(cmd, &s.Mask, &s.Values, &s.Redact, &s.Declare, &s.Scope, &s.Store, &s.Resolve)
	return cmd
}

func (a *app) redact(cmd *cobra.Command, paths []string) error {
	r := &a.set.Redact
	if err := a.validateRedact(cmd, paths); err != nil {
		return err
	}
	if err := a.loadPatterns(cmd.Context(), a.set.Values.From); err != nil {
		return err
	}
	if len(paths) == 0 {
		paths = []string{"-"}
	}
	var found finds
	var err error
	if r.Check || r.InPlace {
		err = a.scan(cmd.Context(), paths, &found)
	} else {
		err = a.filter(paths, r.Stats, &found)
	}
	if r.Stats {
		found.tell(a.masked(a.stderr), r.Check)
	}
	if err == nil && r.Check && found.total > 0 {
		a.status.Code = 1
	}
	return err
}

// validateRedact refuses what does not go together.
func (a *app) validateRedact(cmd *cobra.Command, paths []string) error {
	r := &a.set.Redact
	wrong := func(what string) error { return fmt.Errorf("%w: %s", secret.ErrInvalid, what) }
	switch {
	case r.Check && r.InPlace:
		return wrong("--check and --in-place exclude each other: give one")
	case r.InPlace && (len(paths) == 0 || slices.Contains(paths, "-")):
		return secret.WithHint(wrong("--in-place needs files to replace"), "%s --in-place PATH…; without it stdin goes to stdout", cmd.CommandPath())
	case cmd.Flags().Changed("output") && !r.Check && a.settings.Env(cli.Twin("output")) == "": // which is of other verbs, too
		return wrong("--output needs --check")
	case a.set.Values.From == "-" && (len(paths) == 0 || slices.Contains(paths, "-")):
		return secret.WithHint(wrong("stdin cannot be both the values and the text"), "--values-from FILE, or name the files to mask")
	}
	return nil
}

// loadPatterns makes the redactor know all that is to be masked.
func (a *app) loadPatterns(ctx context.Context, valuesFrom string) error {
	t, scope, err := a.loadTask()
	if err != nil {
		return err
	}
	var patterns []redact.Pattern
	if valuesFrom != "" {
		if patterns, err = a.readValues(valuesFrom); err != nil {
			return fmt.Errorf("--values-from: %w", err)
		}
	}
	var secrets []place.Secret
	if len(t.Declared) > 0 {
		if secrets, err = a.resolveNow(ctx, scope, t.Declared); err != nil {
			return err
		}
	}
	harden.Process(a.log.Debug)
	if err := place.Mask(a.redactor, secrets, a.log, patterns...); err != nil {
		return err
	}
	if a.redactor.Empty() {
		return secret.WithHint(fmt.Errorf("%w: there is nothing to mask", secret.ErrInvalid),
			"declare secrets with --secret KEY, or give values with --values-from FILE or --mask TEXT, of at least --redact-min-length bytes")
	}
	return nil
}

// maxValues is how much may be given by --values-from, in bytes: a hundred
// thousand keys. What is there by mistake, such as a device or a log, is larger,
// and one byte of a value may take a hundred with all its forms.
const maxValues = 4 << 20

// readValues reads patterns from a file, or from stdin: one a line, or a JSON
// array of strings. They are called by their line, or their place in the array.
func (a *app) readValues(path string) ([]redact.Pattern, error) {
	f, err := a.open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	text, err := io.ReadAll(io.LimitReader(f, maxValues+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxValues {
		return nil, fmt.Errorf("%w: %s has more than %d MiB", secret.ErrInvalid, path, maxValues>>20)
	}
	values, err := splitValues(text)
	if err != nil {
		return nil, fmt.Errorf("%s %w", path, err)
	}
	var patterns []redact.Pattern
	for i, v := range values {
		if len(v) > 0 { // an empty line is no value
			patterns = append(patterns, redact.Pattern{Name: "value-" + strconv.Itoa(i+1), Value: v})
		}
	}
	if len(patterns) == 0 {
		return nil, fmt.Errorf("%w: there is no value in %s", secret.ErrInvalid, path)
	}
	return patterns, nil
}

// splitValues takes a list of values apart. What looks as if it were meant in
// another way is refused: a value that is read wrongly is not masked.
func splitValues(text []byte) (values [][]byte, err error) {
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		return nil, fmt.Errorf("is UTF-16, and the text may not be: %w", secret.ErrInvalid)
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // as some editors begin a file
	trimmed := bytes.TrimSpace(text)
	switch {
	case bytes.HasPrefix(trimmed, []byte("[")):
		var list []*string
		// Whose error quotes; and which replaces what is no Unicode.
		if json.Unmarshal(trimmed, &list) != nil || slices.Contains(list, nil) || !utf8.Valid(trimmed) {
			return nil, secret.WithHint(fmt.Errorf("begins with [ and is not a JSON array of strings: %w", secret.ErrInvalid),
				"a value that begins with [ can be in such an array, too")
		}
		for _, s := range list {
			if strings.ContainsRune(*s, utf8.RuneError) {
				return nil, secret.WithHint(fmt.Errorf("has a string that is no Unicode: %w", secret.ErrInvalid), "bytes as they are go one value a line")
			}
			values = append(values, []byte(*s))
		}
	case bytes.HasPrefix(trimmed, []byte("{")) && json.Valid(trimmed):
		return nil, secret.WithHint(fmt.Errorf("is a JSON object: %w", secret.ErrInvalid), "the values alone, as an array or one a line: jq '[.[]]'")
	default:
		for line := range bytes.Lines(text) {
			values = append(values, bytes.TrimRight(line, "\r\n"))
		}
	}
	return values, nil
}

// filter copies the files to stdout with what is to be masked masked. They are
// one stream: what one of them begins, the next may end.
func (a *app) filter(paths []string, stats bool, found *finds) error {
	w := a.stream(a.stdout)
	if stats {
		w.Found = found.add
	}
	var errs []error
	for _, path := range paths {
		if err := a.pour(path, w); err != nil {
			errs = append(errs, about(path, err))
		}
		if _, err := w.Write(nil); err != nil {
			return errors.Join(errs...) // stdout's error stays: no other file can be copied, either
		}
	}
	if err := w.Close(); err != nil {
		errs = append(errs, about("-", err))
	}
	return errors.Join(errs...)
}

func (a *app) pour(path string, w *redact.Writer) error {
	f, err := a.open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	if in, err := f.Stat(); err == nil && in.Mode().IsRegular() {
		if out, err := a.stdout.Stat(); err == nil && os.SameFile(in, out) {
			return errors.New("it is stdout, too: it would never end")
		}
	}
	exec.WidenPipe(f)
	_, err = w.ReadFrom(f)
	return err
}

// open opens a file for reading; - is stdin.
func (a *app) open(path string) (*os.File, error) {
	if path == "-" {
		return a.stdin, nil
	}
	return os.Open(path) //nolint:gosec // the user's choice
}

// scan looks into each file, or masks it in place, and tells of every one with
// which it could not.
func (a *app) scan(ctx context.Context, paths []string, found *finds) error {
	r := &a.set.Redact
	if r.InPlace { // which has something to clean up
		var stop func()
		ctx, stop = untilSignal(ctx)
		defer stop()
	}
	files, err := outputs.List(slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return p == "-" }))
	errs := []error{err}
	if slices.Contains(paths, "-") {
		files = append(files, outputs.File{Path: "-"})
	}
	bar := newProgress(a, files)
	defer bar.clear()
	list := []finding{}
	var sayErr error
	s := outputs.Scanner{Redactor: a.redactor, Read: bar.add}
	s.Found = func(file outputs.File, f redact.Find) {
		found.add(f)
		switch {
		case r.Output == "json":
			list = append(list, finding{a.hide(file.Path), f.Offset, f.Name, f.Kind})
		case r.Check:
			bar.clear()
			if sayErr == nil {
				_, sayErr = fmt.Fprintf(a.masked(a.stdout), "%s:%d: %s (%s)\n", printable.Name(file.Path), f.Offset, f.Name, f.Kind)
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

// stream returns a stream that is masked to f: one for a person if f is a terminal. If
// it is a pipe it is made to hold more.
func (a *app) stream(f *os.File) *redact.Writer {
	if tty.Is(f) {
		return a.redactor.TerminalWriter(f)
	}
	exec.WidenPipe(f)
	return a.redactor.Writer(f)
}

// interruptedError is why files were not masked.
type interruptedError struct{ signal syscall.Signal }

func (e *interruptedError) Error() string {
	return "stopped by a signal (" + e.signal.String() + "); files that were not done yet are as they were"
}

// untilSignal returns a context that ends, with an interruptedError as its cause,
// when a signal asks us to stop.
func untilSignal(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	go func() {
		select {
		case sig := <-signals:
			if sig, ok := sig.(syscall.Signal); ok {
				cancel(&interruptedError{sig})
			}
		case <-ctx.Done():
		}
	}()
	return ctx, func() { signal.Stop(signals); cancel(nil) }
}

// hide returns text with every value masked: in JSON a mask may not come where
// JSON's own signs are.
func (a *app) hide(text string) string {
	var b strings.Builder
	_, _ = io.WriteString(a.masked(&b), text) // in memory
	return b.String()
}

// about says which file an error is about.
func about(path string, err error) error {
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return err // it says so
	}
	return fmt.Errorf("%s: %w", printable.Name(path), err)
}

// finding is a find for programs.
type finding struct {
	File   string `json:"file"`
	Offset int64  `json:"offset"`
	Key    string `json:"key"`
	Form   string `json:"form"`
}

// finds is what was masked: how often, by name and form.
type finds struct {
	total  int
	counts map[string]map[string]int
}

func (f *finds) add(find redact.Find) {
	f.total++
	if f.counts == nil {
		f.counts = map[string]map[string]int{}
	}
	if f.counts[find.Name] == nil {
		f.counts[find.Name] = map[string]int{}
	}
	f.counts[find.Name][find.Kind]++
}

// tell prints the counts, the most frequent first.
func (f *finds) tell(w io.Writer, onlyFound bool) {
	sums := map[string]int{}
	for name, kinds := range f.counts {
		for _, n := range kinds {
			sums[name] += n
		}
	}
	var rows strings.Builder
	for _, name := range byCount(sums) {
		var kinds []string
		for _, kind := range byCount(f.counts[name]) {
			kinds = append(kinds, fmt.Sprintf("%s %d", kind, f.counts[name][kind]))
		}
		fmt.Fprintf(&rows, "  %s\t%d\t%s\n", name, sums[name], strings.Join(kinds, ", "))
	}
	var b bytes.Buffer
	what := "masked"
	if onlyFound {
		what = "found"
	}
	fmt.Fprintf(&b, "inject: %s %d\n", what, f.total)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, err := io.WriteString(t, rows.String())
	if err = errors.Join(err, t.Flush()); err == nil { // always, in memory
		_, _ = w.Write(b.Bytes())
	}
}

// byCount returns the keys, those that count most first.
func byCount(counts map[string]int) []string {
	return slices.SortedFunc(maps.Keys(counts), func(x, y string) int {
		return cmp.Or(cmp.Compare(counts[y], counts[x]), strings.Compare(x, y))
	})
}
