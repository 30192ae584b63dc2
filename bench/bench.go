package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"inject/exec/redact"
	"inject/exec/redact/redacttest"
)

const (
	seed      = 20260301
	minLength = 6 // the product's default
)

// A scale is how much work each section does.
type scale struct {
	block  int // bytes of a text whose masking is timed
	check  int // bytes of a text whose masking is compared byte for byte
	starts int // of a command in each round; their median is the round's time
	many   int // secrets of the larger store
	loads  []load
	peak   time.Duration // how long clients ask while the server's memory is looked at
	kept   int           // secrets in a namespace of Kubernetes
	review time.Duration // how long reviews are sent in each round

	object  int // bytes of a large object of a bucket
	objects int // number of small ones
}

var (
	// full is what the published figures are measured with.
	full = scale{
		block:  4 << 20, // larger than the caches that belong to one core
		check:  1 << 20,
		starts: 20,
		many:   1_000_000,
		loads: []load{
			{1, 1, 300 * time.Millisecond},
			{64, 1, 500 * time.Millisecond},
			{1000, 2, 2 * time.Second},
		},
		peak: 4 * time.Second,
		kept: 10_000, review: 5 * time.Second,

		object: 1 << 30, objects: 1000,
	}
	// once runs everything a single time, in a few seconds a section. It shows that the
	// benchmarks run and that outputs are right. Its times mean nothing.
	once = scale{
		block:  256 << 10,
		check:  64 << 10,
		starts: 1,
		many:   10 * few,
		loads:  []load{{1, 1, 10 * time.Millisecond}, {8, 1, 10 * time.Millisecond}},
		peak:   100 * time.Millisecond,
		kept:   400,
		review: 100 * time.Millisecond,
		object: 20 << 20, objects: 20,
	}
)

type config struct {
	scale

	rounds  int
	once    bool
	inject  string
	injectd string
	only    []string
}

type bench struct {
	config

	ctx    context.Context //nolint:containedctx // this is one run of one command
	dir    string          // for the files of the run; removed at the end
	self   string
	null   *os.File
	report Report
	wrong  []string          // descriptions of the wrong outputs
	masked map[string][]byte // texts masked by the plain rule; see want
}

// A section is one kind of measurement.
type section struct {
	name  string
	title string
	run   func(*bench) error
}

var sections = []section{
	{pipesName, "Through pipes, to /dev/null", (*bench).pipes},
	{consumerName, "Through pipes, to a process that reads", (*bench).consumer},
	{memoryName, "In memory, beside the plain automaton", (*bench).memory},
	{linearName, "Time of a text twice as long", (*bench).linear},
	{writesName, "Allocations and system calls", (*bench).writes},
	{buildName, "Getting ready", (*bench).build},
	{startName, "To start true", (*bench).start},
	{resolveName, "To resolve five secrets over mTLS, beside five reads of etcd", (*bench).resolve},
	{attackedName, "To resolve five secrets during an attack of another client, beside no attack", (*bench).attacked},
	{manyName, "To resolve five secrets among many", (*bench).many},
	{kubeName, "To resolve five secrets in Kubernetes, beside plain GETs of its API server", (*bench).kube},
	{webhookName, "Reviews of pods, 200 a second, beside a server that does nothing", (*bench).webhook},
	{storageName, "Storage calls of Flyte's SDK, through the guard", (*bench).storage},
}

func sectionNames() []string {
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	return names
}

func newBench(ctx context.Context, c config) *bench {
	return &bench{config: c, ctx: ctx, masked: map[string][]byte{}}
}

func (b *bench) run() (err error) {
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.inject, err = filepath.Abs(b.inject); err != nil {
		return err
	}
	if _, err := os.Stat(b.inject); err != nil {
		return fmt.Errorf("%w (make build)", err)
	}
	for _, name := range b.only {
		if !slices.Contains(sectionNames(), name) {
			return fmt.Errorf("no section %q", name)
		}
	}
	if b.dir, err = os.MkdirTemp("", "inject-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.null, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0); err != nil {
		return err
	}
	defer b.null.Close() //nolint:errcheck // nothing is in it

	b.report = newReport(b.config)
	fmt.Println(b.report.about())
	for _, s := range sections {
		if len(b.only) > 0 && !slices.Contains(b.only, s.name) {
			continue
		}
		begin, from := time.Now(), len(b.report.Rows)
		if err := s.run(b); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Print(table(s.title, b.report.Rows[from:]))
		fmt.Printf("  (%.0f s)\n", time.Since(begin).Seconds())
	}
	fmt.Println("\n" + b.report.verdict())
	if len(b.wrong) > 0 {
		return fmt.Errorf("wrong output:\n  %s", strings.Join(b.wrong, "\n  "))
	}
	return nil
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// file writes a file of the run, which other users may not read, and returns its path.
func (b *bench) file(name string, data []byte) (string, error) {
	return b.path(name), os.WriteFile(b.path(name), data, 0o600) //nolint:gosec // in the folder of the run
}

// nameOf returns the name that inject gives to value number i, counted from 0.
func nameOf(i int) string { return "value-" + strconv.Itoa(i+1) }

// allForms returns the forms that the product searches for, as patterns of the plain rule.
func allForms(values [][]byte) []redacttest.Pattern {
	var all []redacttest.Pattern
	for _, f := range redact.Forms(minLength, patterns(values)...) {
		all = append(all, redacttest.Pattern{Mask: redact.Mask(f.Name), Value: f.Bytes})
	}
	return all
}

func redactor(values [][]byte) *redact.Redactor { return redact.New(minLength, patterns(values)...) }

func patterns(values [][]byte) []redact.Pattern {
	patterns := make([]redact.Pattern, len(values))
	for i, v := range values {
		patterns[i] = redact.Pattern{Name: nameOf(i), Value: v}
	}
	return patterns
}

// want returns the text of a workload of b.check bytes, masked by the plain rule. It keeps the
// text for later calls, because the plain rule is slow.
func (b *bench) want(w redacttest.Workload) []byte {
	key := fmt.Sprint(w.Name, " ", len(w.Values))
	if b.masked[key] == nil {
		b.masked[key] = redacttest.Mask(w.Text, allForms(w.Values))
	}
	return b.masked[key]
}

// compareTo records got if it differs from want: where, but none of its bytes.
func (b *bench) compareTo(want, got []byte, what string) {
	b.report.Checked++
	if bytes.Equal(want, got) {
		return
	}
	at := 0
	for at < min(len(want), len(got)) && want[at] == got[at] {
		at++
	}
	b.wrong = append(
		b.wrong,
		fmt.Sprintf("%s: %d bytes, not %d; they differ from byte %d on", what, len(got), len(want), at),
	)
	fmt.Println("  WRONG OUTPUT:", b.wrong[len(b.wrong)-1])
}
