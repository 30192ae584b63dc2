package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"time"

	"inject/exec/redact/redacttest"
)

const (
	memoryName = "memory"
	linearName = "linear"
	writesName = "writes"
	buildName  = "build"
)

const (
	byWriter = "redact.Writer"
	byPlain  = "plain automaton"
)

// discard is io.Discard without its ReadFrom, which io.Copy would use in place of Write.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// feed writes text in pieces of write bytes.
func feed(w io.Writer, text []byte, write int) error {
	for len(text) > 0 {
		n := min(write, len(text))
		if _, err := w.Write(text[:n]); err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}

// search returns a contender whose time is that of masking the text once. It takes the mean of
// as many times as need 10 ms. open returns a new stream.
func search(name string, w redacttest.Workload, open func(io.Writer) io.WriteCloser) contender {
	const least = 10 * time.Millisecond
	return contender{name, func() (time.Duration, error) {
		stream := open(discard{})
		begin := time.Now()
		for n := time.Duration(1); ; n++ {
			if err := feed(stream, w.Text, w.Write); err != nil {
				return 0, err
			}
			if t := time.Since(begin); t > least {
				return t / n, stream.Close()
			}
		}
	}}
}

// both returns the two ways to mask a workload, with all forms of its values.
func both(w redacttest.Workload) (writer, plain func(io.Writer) io.WriteCloser) {
	r, p := redactor(w.Values), redacttest.NewPlain(allForms(w.Values))
	return func(dst io.Writer) io.WriteCloser { return r.Writer(dst) }, p.Writer
}

func (b *bench) memory() error {
	for _, c := range []struct {
		workload string
		n        int
		target   float64 // as a multiple of the plain automaton's speed; 0 is none
	}{
		{"A", 1, 0},
		{"A", 10, 10},
		{"A", 100, 10},
		{"A", 1000, 0},
		{"B", 100, 0},
		{"C", 10, 0},
		{"C", 100, 0},
		{"D1", 10, 0.8},
		{"D2", 100, 0.8},
		{"D3", 10, 0.8},
		{"D4", 56, 0.8},
		{"E", 100, 0},
		{"F", 10, 0},
	} {
		if err := b.checkMemory(c.workload, c.n); err != nil {
			return err
		}
		w := redacttest.New(c.workload, c.n, b.block, seed)
		writer, plain := both(w)
		times, err := alternate(b.rounds, []contender{search(byPlain, w, plain), search(byWriter, w, writer)})
		if err != nil {
			return err
		}
		row := Row{Workload: c.workload, Values: c.n, Name: byPlain, Unit: "MB/s", Value: rates(b.block, times[0])}
		b.report.add(row)
		row = Row{Workload: c.workload, Values: c.n, Name: byWriter, Unit: "MB/s", Value: rates(b.block, times[1])}
		row.versus(byPlain, ratios(times[1], times[0]))
		row.atLeast(c.target)
		b.report.add(row)
	}
	return nil
}

// checkMemory compares the outputs of both ways with that of the plain rule.
func (b *bench) checkMemory(workload string, n int) error {
	w := redacttest.New(workload, n, b.check, seed)
	writer, plain := both(w)
	for name, open := range map[string]func(io.Writer) io.WriteCloser{byWriter: writer, byPlain: plain} {
		var got bytes.Buffer
		stream := open(&got)
		if err := errors.Join(feed(stream, w.Text, w.Write), stream.Close()); err != nil {
			return err
		}
		b.compareTo(b.want(w), got.Bytes(), fmt.Sprintf("%s, %s, %d values", name, workload, n))
	}
	return nil
}

// linear shows that a text of twice the length takes twice the time. An algorithm that goes
// back in the text would take four times as long.
func (b *bench) linear() error {
	for _, c := range []struct {
		workload string
		n        int
	}{{"D1", 10}, {"D2", 100}, {"D3", 10}, {"D4", 56}} {
		once, twice := redacttest.New(c.workload, c.n, b.block, seed), redacttest.New(c.workload, c.n, 2*b.block, seed)
		writer, _ := both(once)
		times, err := alternate(b.rounds, []contender{search("once", once, writer), search("twice", twice, writer)})
		if err != nil {
			return err
		}
		row := Row{Workload: c.workload, Values: c.n, Name: byWriter, Unit: "ms", Value: millis(times[1])}
		row.versus("half of the text", ratios(times[0], times[1]))
		row.Target = &Target{"≤ 2.3×", row.Ratio.Median <= 2.3}
		b.report.add(row)
	}
	return nil
}

// writes counts the allocations of a write, and the system calls for a child that writes
// little at a time.
func (b *bench) writes() error {
	for _, c := range []struct {
		workload string
		n        int
	}{{"A", 10}, {"B", 10}, {"C", 10}, {"D1", 10}, {"D2", 10}, {"F", 10}} {
		w := redacttest.New(c.workload, c.n, b.check, seed)
		stream := redactor(w.Values).Writer(discard{})
		allocated, err := allocations(stream, w)
		if err := errors.Join(err, stream.Close()); err != nil {
			return err
		}
		row := Row{
			Workload: c.workload, Values: c.n, Name: fmt.Sprintf("a write of %d bytes", w.Write),
			Unit: "allocations", Value: statOf([]float64{allocated}),
		}
		row.atMost(0)
		b.report.add(row)
	}
	return b.calls()
}

// allocations returns the number of allocations of a write, after the first ones.
func allocations(stream io.Writer, w redacttest.Workload) (float64, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // so that other goroutines allocate nothing meanwhile
	if err := feed(stream, w.Text, w.Write); err != nil {
		return 0, err
	}
	const times = 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range times {
		if err := feed(stream, w.Text, w.Write); err != nil {
			return 0, err
		}
	}
	runtime.ReadMemStats(&after)
	writes := times * ((len(w.Text) + w.Write - 1) / w.Write)
	// Rounded down, as in testing.AllocsPerRun.
	return float64((after.Mallocs - before.Mallocs) / uint64(writes)), nil //nolint:gosec // a small number
}

var (
	childWrites  = regexp.MustCompile(`(?m)^\d+ +write\(1<pipe:`)
	injectReads  = regexp.MustCompile(`(?m)^\d+ +read\(\d+<pipe:`)
	injectWrites = regexp.MustCompile(`(?m)^\d+ +\w+\(.*</dev/null`)
)

// calls counts the writes of a child that writes 80 bytes at a time, and the reads and writes of
// inject.
func (b *bench) calls() error {
	if path, _ := exec.LookPath("strace"); path == "" {
		b.report.note("strace is not installed: calls of the system are not counted")
		return nil
	}
	p, err := b.prepare(redacttest.New("F", 10, b.check, seed))
	if err != nil {
		return err
	}
	traced := b.stages(byRun, p, b.check)[0]
	log := b.path("strace")
	traced.args = append([]string{
		"strace", "-f", "-y", "-s", "0", "-o", log, "-e", "signal=none",
		"-e", "trace=read,write,writev,splice,tee,vmsplice,sendfile,copy_file_range",
	}, traced.args...)
	if _, err := pipe(b.ctx, b.null, traced); err != nil {
		return err
	}
	lines, err := os.ReadFile(log) //nolint:gosec // a file of the run
	if err != nil {
		return err
	}
	children := len(childWrites.FindAll(lines, -1))
	reads, ours := len(injectReads.FindAll(lines, -1)), len(injectWrites.FindAll(lines, -1))
	if children == 0 || reads == 0 || ours == 0 {
		return fmt.Errorf("strace shows %d writes of the child, %d reads and %d writes of inject",
			children, reads, ours)
	}
	calls := Row{Workload: "F", Values: 10, Name: "writes of the child", Unit: "calls"}
	calls.Value = statOf([]float64{float64(children)})
	b.report.add(calls)
	for _, c := range []struct {
		name  string
		calls int
	}{{"reads of inject -- child", reads}, {"writes of inject -- child", ours}} {
		row := Row{Workload: "F", Values: 10, Name: c.name, Unit: "calls", Value: statOf([]float64{float64(c.calls)})}
		row.Target = &Target{"≤ the child's", c.calls <= children}
		b.report.add(row)
	}
	return nil
}

// build measures the preparation before the first byte: forms, filter and automaton.
func (b *bench) build() error {
	targets := map[int]float64{1: 0.2, 10: 0.2, 20: 0.2, 1000: 20} // ms
	for _, n := range []int{1, 10, 20, 100, 1000, 10000} {
		values := redacttest.Values(n, seed)
		times, err := alternate(b.rounds, []contender{{"build", func() (time.Duration, error) {
			runtime.GC() // so that this run does not collect the garbage of the last
			begin := time.Now()
			for k := time.Duration(1); ; k++ {
				redactor(values)
				if t := time.Since(begin); t > time.Millisecond {
					return t / k, b.ctx.Err()
				}
			}
		}}})
		if err != nil {
			return err
		}
		row := Row{Values: n, Name: "redact.New", Unit: "ms", Value: millis(times[0])}
		if t := targets[n]; t > 0 {
			row.atMost(t)
		}
		b.report.add(row)
	}
	for _, n := range []int{1000, 10000} {
		values := redacttest.Values(n, seed)
		before := heap()
		r := redactor(values)
		retained := heap() - before
		runtime.KeepAlive(r)
		runtime.KeepAlive(values)
		row := Row{Values: n, Name: "memory kept", Unit: "MiB", Value: statOf([]float64{retained / (1 << 20)})}
		if n == 1000 {
			row.atMost(16)
		}
		b.report.add(row)
	}
	return nil
}

// heap returns the bytes of the heap in use.
func heap() float64 {
	runtime.GC()
	runtime.GC() // objects with finalizers are freed by the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
