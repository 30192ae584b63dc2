package main

import (
	"bytes"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"inject/exec/redact/redacttest"
)

const compareName = "compare"

// The programs that are compared, as they are shown.
const (
	progCat       = "cat (masks nothing)"
	progInject    = "inject redact (all forms)"
	progPlain     = "plain automaton"
	progSed       = "sed"
	progGrep      = "grep -F -c (finds only)"
	progBuildkite = "buildkite's replacer"
)

var counts = []int{1, 3, 10, 30, 100, 300, 1000}

// compare runs what else could be used on the same text from the same producer.
// inject looks for all forms of the values, the others for the values as they are.
func (b *bench) compare() error {
	buildkite := b.buildBuildkite()
	for _, n := range counts {
		if err := b.checkPrograms(n, buildkite); err != nil {
			return err
		}
		w := redacttest.New("A", n, blockSize, seed)
		p, programs, err := b.programs(w, buildkite)
		if err != nil {
			return err
		}
		var contenders []contender
		var sizes []int
		for _, prog := range programs {
			run := func(size int) (time.Duration, error) { return pipe(b.ctx, b.null, b.producer(p, size), prog.stage) }
			size, err := ownSize(run)
			if err != nil {
				return err
			}
			if size == 0 {
				b.report.note(compareName, "%s with %d values takes too long and is left out", prog.name, n)
				continue
			}
			sizes = append(sizes, size)
			contenders = append(contenders, contender{prog.name, func() (time.Duration, error) { return run(size) }})
		}
		times, err := alternate(b.rounds, contenders)
		if err != nil {
			return err
		}
		for i, c := range contenders {
			row := Row{Section: compareName, Workload: "A", Values: n, Name: c.name, Unit: "MB/s", Bytes: sizes[i], Value: rates(sizes[i], times[i])}
			if i > 0 {
				perRound := make([]float64, len(times[i]))
				for k := range perRound { // of rates: the sizes are not the same
					perRound[k] = float64(sizes[i]) / times[i][k].Seconds() * times[0][k].Seconds() / float64(sizes[0])
				}
				row.versus(progInject, statOf(perRound))
			}
			b.report.add(row)
		}
	}
	b.report.note(compareName, "text A; each program has a text of the length that takes it about 0.3 s, its start included")
	b.report.note(compareName, "inject looks for all forms of the values, the others for the values as they are only, which is the less work")
	b.report.note(compareName, "sed and grep with LC_ALL=C; grep only counts lines and gives none out")
	return nil
}

// ownSize is the length of text that takes about 0.3 s; 0, if the shortest one takes
// several seconds.
func ownSize(run func(size int) (time.Duration, error)) (int, error) {
	const least, most = 128 << 10, 1 << 30
	for size := least; ; size *= 4 {
		t, err := run(size)
		switch {
		case err != nil:
			return 0, err
		case t > 3*time.Second:
			return 0, nil
		case t > 100*time.Millisecond || size >= most:
			return max(least, min(most, int(float64(size)*0.3/t.Seconds()))), nil
		}
	}
}

type program struct {
	name  string
	stage stage
}

// programs are the filters, with the files that they need.
func (b *bench) programs(w redacttest.Workload, buildkite string) (piped, []program, error) {
	p, err := b.prepare(w)
	if err != nil {
		return p, nil, err
	}
	values, err := b.file("raw", append(bytes.Join(p.Values, []byte("\n")), '\n'))
	if err != nil {
		return p, nil, err
	}
	var script strings.Builder
	for _, v := range p.Values {
		fmt.Fprintf(&script, "s/%s/[redacted]/g\n", special.ReplaceAll(v, []byte(`\$0`)))
	}
	sed, err := b.file("script.sed", []byte(script.String()))
	if err != nil {
		return p, nil, err
	}
	c := []string{"LC_ALL=C"} // bytes, as for the others
	// grep stops at the first find where its output is /dev/null. In text A there is
	// none, so that it reads all of it.
	programs := []program{
		{progInject, p.redact},
		{progCat, stage{args: []string{"cat"}}},
		{progPlain, stage{args: []string{b.self, plainVerb, values}}},
		{progSed, stage{args: []string{"sed", "-f", sed}, env: c}},
		{progGrep, stage{args: []string{"grep", "-F", "-c", "-f", values}, env: c, ok: []int{1}}},
	}
	if buildkite != "" {
		programs = append(programs, program{progBuildkite, stage{args: []string{buildkite, values}}})
	}
	return p, programs, nil
}

// special are the characters that sed would not take as they are.
var special = regexp.MustCompile(`[\\/.*^$\[]`)

var mask = regexp.MustCompile(`\[redacted:[^]]*\]`)

// checkPrograms looks that the programs do the work that they are measured for, on
// a text with a value on each line. Of the others a difference is told, not failed.
func (b *bench) checkPrograms(n int, buildkite string) error {
	w := redacttest.New("C", n, checkSize, seed)
	p, programs, err := b.programs(w, buildkite)
	if err != nil {
		return err
	}
	var patterns []redacttest.Pattern
	for i, v := range w.Values {
		patterns = append(patterns, redacttest.Pattern{Name: nameOf(i), Value: v})
	}
	raw := redacttest.Mask(w.Text, patterns)
	for _, prog := range programs {
		got, err := b.output(b.producer(p, checkSize), prog.stage)
		if err != nil {
			return err
		}
		same := true
		switch prog.name {
		case progInject:
			b.compareTo(b.want(w), got, fmt.Sprintf("%s, C, %d values", prog.name, n))
		case progPlain:
			b.compareTo(raw, got, fmt.Sprintf("%s, raw, C, %d values", prog.name, n))
		case progCat:
			same = bytes.Equal(got, w.Text)
		case progGrep:
			found := 0
			for line := range bytes.Lines(raw) {
				if bytes.Contains(line, []byte("[redacted:")) {
					found++
				}
			}
			same = string(bytes.TrimSpace(got)) == strconv.Itoa(found)
		default:
			same = bytes.Equal(got, mask.ReplaceAll(raw, []byte("[redacted]")))
		}
		if !same {
			b.report.note(compareName, "%s with %d values does not find what the plain rule finds", prog.name, n)
		}
	}
	return nil
}

// buildBuildkite builds the program with buildkite's replacer and returns its path,
// "" if it cannot be built: what is measured of ours does not depend on it.
func (b *bench) buildBuildkite() string {
	out := b.path("injectbench")
	cmd := exec.CommandContext(b.ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", out, ".") //nolint:gosec // our own program
	cmd.Dir = b.buildkite
	cmd.WaitDelay = time.Second
	if said, err := cmd.CombinedOutput(); err != nil {
		b.report.note(compareName, "buildkite's replacer could not be built and is left out: %v: %s", err, bytes.TrimSpace(said))
		return ""
	}
	return out
}
