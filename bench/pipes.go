package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"inject/exec/redact/redacttest"
)

const (
	pipesName    = "pipes"
	consumerName = "consumer"
)

// The names of the contenders of a pipe.
const (
	byCat    = "producer | cat"
	byRedact = "producer | inject redact"
	byRun    = "inject -- producer"
)

// A piped is a workload with the files and commands of its pipes.
type piped struct {
	redacttest.Workload

	text   string // the file of the text
	redact stage
	run    []string // the command line of inject, without that of its child
	env    []string
}

// prepare writes the files of a workload. It alone knows how values are passed to inject.
func (b *bench) prepare(w redacttest.Workload) (piped, error) {
	p := piped{Workload: w}
	var err error
	if p.text, err = b.file("text", w.Text); err != nil {
		return p, err
	}
	store := b.path("store")
	if err := os.RemoveAll(store); err != nil {
		return p, err
	}
	if err := os.Mkdir(store, 0o700); err != nil {
		return p, err
	}
	var declared []string
	for i, v := range w.Values {
		if _, err := b.file("store/"+nameOf(i), v); err != nil {
			return p, err
		}
		declared = append(declared, fmt.Sprintf("%s=VALUE_%d", nameOf(i), i+1))
	}
	p.env = []string{
		"INJECT_STORE=dir://" + store,
		"INJECT_SECRETS=" + strings.Join(declared, ","),
		"INJECT_LOG_LEVEL=error",
	}
	p.run = []string{b.inject, "--"}
	// A line such as NAME=value would be refused as one of a .env file; in JSON none is.
	texts := make([]string, len(w.Values))
	for i, v := range w.Values {
		texts[i] = string(v)
	}
	list, err := json.Marshal(texts)
	if err != nil {
		return p, err
	}
	file, err := b.file("values", list)
	if err != nil {
		return p, err
	}
	p.redact = stage{args: []string{b.inject, "redact", "--values-from", file}}
	return p, nil
}

// producer returns the stage that writes size bytes of the text.
func (b *bench) producer(p piped, size int) stage {
	return stage{args: []string{b.self, producerVerb, p.text, fmt.Sprint(size), fmt.Sprint(p.Write)}}
}

// stages returns the pipe of a contender, for size bytes.
func (b *bench) stages(by string, p piped, size int) []stage {
	producer := b.producer(p, size)
	switch by {
	case byCat:
		return []stage{producer, {args: []string{"cat"}}}
	case byRedact:
		return []stage{producer, p.redact}
	default:
		return []stage{{args: append(slices.Clone(p.run), producer.args...), env: p.env}}
	}
}

// commonSize returns a length of text for all contenders, in bytes: it takes the fastest about
// 0.5 s, or the slowest 1 s if that is less. With a shorter text, the start of the processes
// would be measured.
func (b *bench) commonSize(run func(by string, size int) (time.Duration, error), contenders []string) (int, error) {
	if b.once {
		return b.block, nil
	}
	const first = 16
	var fastest float64
	slowest := math.Inf(1)
	for _, by := range contenders {
		t, err := run(by, first*b.block)
		if err != nil {
			return 0, err
		}
		rate := float64(first*b.block) / t.Seconds()
		fastest, slowest = max(fastest, rate), min(slowest, rate)
	}
	return max(1, int(min(fastest*0.5, slowest))/b.block) * b.block, nil
}

type pipeCase struct {
	workload string
	n        int
	redact   float64 // the targets, as multiples of cat's speed; 0 is none
	run      float64
}

func (b *bench) pipes() error {
	return b.comparePipes([]pipeCase{
		{"A", 1, 1, 1},
		{"A", 10, 1, 1},
		{"A", 100, 1, 1},
		{"A", 1000, 0.9, 0.9},
		{"C", 10, 0.5, 0.5},
		{"D2", 100, 0, 0},
		{"F", 10, 0, 0},
	}, "")
}

// consumer measures pipes whose output another process reads, on the same cores.
func (b *bench) consumer() error {
	return b.comparePipes([]pipeCase{{"A", 10, 0, 0}, {"A", 1000, 0, 0}}, " | consumer",
		stage{args: []string{b.self, consumerVerb}})
}

// comparePipes compares inject with cat in each case. Their output goes through the stages
// behind, whose name is suffix.
func (b *bench) comparePipes(cases []pipeCase, suffix string, behind ...stage) error {
	for _, c := range cases {
		if err := b.checkPipes(c); err != nil {
			return err
		}
		p, err := b.prepare(redacttest.New(c.workload, c.n, b.block, seed))
		if err != nil {
			return err
		}
		all := []string{byCat, byRedact, byRun}
		run := func(by string, size int) (time.Duration, error) {
			return pipe(b.ctx, b.null, append(b.stages(by, p, size), behind...)...)
		}
		size, err := b.commonSize(run, all)
		if err != nil {
			return err
		}

		var contenders []contender
		for _, by := range all {
			contenders = append(contenders, contender{by, func() (time.Duration, error) { return run(by, size) }})
		}
		times, err := alternate(b.rounds, contenders)
		if err != nil {
			return err
		}
		for i, by := range all {
			row := Row{Workload: c.workload, Values: c.n, Name: by + suffix, Unit: "MB/s", Value: rates(size, times[i])}
			if i > 0 {
				row.versus(byCat+suffix, ratios(times[i], times[0]))
				row.atLeast([]float64{0, c.redact, c.run}[i])
			}
			b.report.add(row)
		}
	}
	return nil
}

// checkPipes compares the outputs of a case's pipes with that of the plain rule, for the text
// of the case and for one with a value on each line. The text is sent several times, so that
// what is held back at its end is followed by its beginning.
func (b *bench) checkPipes(c pipeCase) error {
	const times = 3
	for _, name := range slices.Compact(slices.Sorted(slices.Values([]string{c.workload, "C"}))) {
		w := redacttest.New(name, c.n, b.check, seed)
		p, err := b.prepare(w)
		if err != nil {
			return err
		}
		want := bytes.Repeat(b.want(w), times)
		for _, by := range []string{byRedact, byRun} {
			got, err := b.output(b.stages(by, p, times*b.check)...)
			if err != nil {
				return err
			}
			b.compareTo(want, got, fmt.Sprintf("%s, %s, %d values", by, name, c.n))
		}
	}
	return nil
}
