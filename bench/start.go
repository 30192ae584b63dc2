package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

const (
	startName = "start"
	// leaderVerb makes this program the session leader of a terminal, as a shell is. It
	// starts a command several times and writes the median time.
	leaderVerb = "leader" // TIMES COMMAND...
)

// The targets of start.
const (
	startTarget   = 3  // with a secret, as a multiple of the time of tini
	noneTarget    = 2  // without a secret, as a multiple of the time of tini
	sizeTarget    = 15 // MB of the binary
	memoryTarget  = 20 // MiB
	secretOfStart = "the-value-of-k"

	emptyProgram = "empty program with the gRPC client"
)

// start measures the time to run `true` through inject, beside other programs that start a
// command.
func (b *bench) start() error {
	for _, tool := range []string{"tini", "dumb-init", "catatonit"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w (apt-get install %s)", err, tool)
		}
	}
	inject, err := b.install()
	if err != nil {
		return err
	}
	wrapper, err := b.program("wrapper")
	if err != nil {
		return err
	}
	empty, err := b.program("empty")
	if err != nil {
		return err
	}
	key, err := b.home(inject, nil)
	if err != nil {
		return err
	}
	phrase, err := b.home(inject, []string{"INJECT_KEY=correct horse battery staple"})
	if err != nil {
		return err
	}

	const tini = "tini -s -- true"
	piped := []starter{
		{tini, []string{"tini", "-s", "--", "true"}, key, 0},
		{"true", []string{"true"}, key, 0},
		{"dumb-init true", []string{"dumb-init", "true"}, key, 0},
		{"catatonit -- true", []string{"catatonit", "--", "true"}, key, 0},
		{"os/exec wrapper", []string{wrapper, "true"}, key, 0},
		{emptyProgram, []string{empty}, key, 0},
		{"inject --secret K -- true", []string{inject, "--secret", "K", "--", "true"}, key, startTarget},
		{"inject -- true", []string{inject, "--", "true"}, key, noneTarget},
	}
	if err := b.measureStarts("pipe", piped, b.rounds, b.plainStart); err != nil {
		return err
	}
	container := []starter{
		{tini, []string{"tini", "-s", "--", "true"}, key, 0},
		{"inject --secret K -- true", []string{inject, "--secret", "K", "--", "true"}, key, 0},
		{"inject -- true", []string{inject, "--", "true"}, key, 0},
	}
	if err := b.measureStarts("own terminal", container, b.rounds, b.terminalStart); err != nil {
		return err
	}
	if err := b.measureStarts("shell's terminal", container, b.rounds, b.shellStart); err != nil {
		return err
	}
	slow := []starter{
		{tini, []string{"tini", "-s", "--", "true"}, key, 0},
		{"inject --secret K, passphrase key", []string{inject, "--secret", "K", "--", "true"}, phrase, 0},
	}
	// A passphrase is slow by design, to make guessing slow.
	if err := b.measureStarts("pipe", slow, min(b.rounds, 3), onceStart); err != nil {
		return err
	}
	if err := b.residentMemory(inject, key); err != nil {
		return err
	}
	info, err := os.Stat(b.inject)
	if err != nil {
		return err
	}
	size := Row{Name: "bin/inject, stripped", Unit: "MB", Value: statOf([]float64{float64(info.Size()) / 1e6})}
	size.atMost(sizeTarget)
	b.report.add(size)
	return nil
}

// install copies the binary, as an installation does. The linker writes it through a mapping,
// which leaves smaller pages in the page cache than a write does, and that would make inject
// slower to start than its peers, which were installed.
func (b *bench) install() (string, error) {
	data, err := os.ReadFile(b.inject)
	if err != nil {
		return "", err
	}
	path := b.path("inject")
	return path, os.WriteFile(path, data, 0o755) //nolint:gosec // a program
}

// program builds a program of the bench with the flags of the product, and returns its path.
func (b *bench) program(name string) (string, error) {
	path := b.path(name)
	build := exec.CommandContext(b.ctx, "go", "build", //nolint:gosec // our own program
		"-tags", "grpcnotrace,nethttpomithttp2", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w",
		"-o", path, "./"+name)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", name, err, out)
	}
	return path, nil
}

// home makes a home whose store has the secret K, checks that inject finds it, and returns the
// environment for that.
func (b *bench) home(inject string, env []string) ([]string, error) {
	dir, err := os.MkdirTemp(b.dir, "home")
	if err != nil {
		return nil, err
	}
	env = append([]string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}, env...)
	for _, args := range [][]string{
		{"create", "secret", "K", secretOfStart},
		{"--secret", "K", "--", "sh", "-c", `test "$K" = ` + secretOfStart},
	} {
		cmd := exec.CommandContext(b.ctx, inject, args...) //nolint:gosec // what is measured
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("inject %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return env, nil
}

// starter is a command to start, and its target.
type starter struct {
	name   string
	args   []string
	env    []string
	target float64 // as a multiple of the first starter; 0 is none
}

// measureStarts compares the starters with the first of them.
func (b *bench) measureStarts(
	where string, starters []starter, rounds int, run func(starter) (time.Duration, error),
) error {
	var contenders []contender
	for _, s := range starters {
		contenders = append(contenders, contender{s.name, func() (time.Duration, error) { return run(s) }})
	}
	times, err := alternate(rounds, contenders)
	if err != nil {
		return err
	}
	for i, s := range starters {
		row := Row{Workload: where, Name: s.name, Unit: "ms", Value: millis(times[i])}
		row.versus(starters[0].name, ratios(times[0], times[i]))
		if s.target > 0 {
			row.Target = &Target{fmt.Sprintf("≤ %g×", s.target), row.Ratio.Median <= s.target}
		}
		b.report.add(row)
	}
	// The ratio to the empty program is inject's own part of the start.
	for e, s := range starters {
		if s.name != emptyProgram {
			continue
		}
		for i, s := range starters[e+1:] {
			ours := times[e+1+i]
			row := Row{Workload: where, Name: s.name + ", to the empty program", Unit: "ms", Value: millis(ours)}
			row.versus(emptyProgram, ratios(times[e], ours))
			b.report.add(row)
		}
	}
	return nil
}

// plainStart returns the median time of several starts on /dev/null.
func (b *bench) plainStart(s starter) (time.Duration, error) { return startOften(s, b.starts, nil) }

// onceStart returns the time of one start on /dev/null.
func onceStart(s starter) (time.Duration, error) { return startOften(s, 1, nil) }

// terminalStart is plainStart on a terminal that only the command uses, as in a container with
// a terminal.
func (b *bench) terminalStart(s starter) (time.Duration, error) {
	var times []time.Duration
	for range b.starts {
		ours, theirs, err := pty.Open()
		if err != nil {
			return 0, err
		}
		go io.Copy(io.Discard, ours) //nolint:errcheck // until it ends
		t, err := startOften(s, 1, theirs)
		if err := errors.Join(err, theirs.Close(), ours.Close()); err != nil {
			return 0, err
		}
		times = append(times, t)
	}
	return median(times), nil
}

// startOften starts s several times and returns the median time. If terminal is not nil, s leads
// a session on it; else its descriptors are /dev/null.
func startOften(s starter, runs int, terminal *os.File) (time.Duration, error) {
	path, err := exec.LookPath(s.args[0])
	if err != nil {
		return 0, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close() //nolint:errcheck // nothing is in it
	attr := &syscall.ProcAttr{Env: s.env, Files: []uintptr{null.Fd(), null.Fd(), null.Fd()}}
	if terminal != nil {
		attr.Files = []uintptr{terminal.Fd(), terminal.Fd(), terminal.Fd()}
		attr.Sys = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	}
	return startNow(path, s.args, attr, runs)
}

func startNow(path string, args []string, attr *syscall.ProcAttr, runs int) (time.Duration, error) {
	var times []time.Duration
	for range runs {
		begin := time.Now()
		pid, err := syscall.ForkExec(path, args, attr) //nolint:gosec // what is measured
		if err != nil {
			return 0, err
		}
		var status unix.WaitStatus
		for {
			if _, err = unix.Wait4(pid, &status, 0, nil); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		times = append(times, time.Since(begin))
		if err != nil || status.ExitStatus() != 0 {
			return 0, fmt.Errorf("%s: status %d: %w", strings.Join(args, " "), status, err)
		}
	}
	return median(times), nil
}

func median(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2]
}

// shellStart is plainStart on a terminal, as a job of a session leader, as in a shell. The
// leader takes the time.
func (b *bench) shellStart(s starter) (time.Duration, error) {
	ours, theirs, err := pty.Open()
	if err != nil {
		return 0, err
	}
	defer ours.Close()           //nolint:errcheck // nothing is kept
	go io.Copy(io.Discard, ours) //nolint:errcheck // until it ends
	var told bytes.Buffer
	args := append([]string{leaderVerb, fmt.Sprint(b.starts)}, s.args...)
	cmd := exec.CommandContext(b.ctx, b.self, args...) //nolint:gosec // this program
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = s.env, theirs, &told, theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Run()
	if err = errors.Join(err, theirs.Close()); err != nil {
		return 0, err
	}
	var t int64
	err = binary.Read(&told, binary.NativeEndian, &t)
	return time.Duration(t), err
}

// leader starts args several times on the terminal that is its stdin, and writes the median
// time to stdout.
func leader(times int, args []string) error {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	t, err := startNow(path, args, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 0, 0}}, times)
	if err != nil {
		return err
	}
	return binary.Write(os.Stdout, binary.NativeEndian, int64(t))
}

// residentMemory reports the peak memory of inject beside a task that does nothing, and beside
// one that writes.
func (b *bench) residentMemory(inject string, env []string) error {
	for _, c := range []struct{ name, script string }{
		{"peak memory of inject, a task that waits", "echo ready >&2; read x"},
		{
			"peak memory of inject, a task that has written 256 MiB",
			"head -c 268435456 /dev/zero; echo ready >&2; read x",
		},
	} {
		cmd := exec.CommandContext(b.ctx, inject, //nolint:gosec // the program that is measured
			"--secret", "K", "--", "sh", "-c", c.script)
		cmd.Env, cmd.Stdout, cmd.WaitDelay = env, b.null, time.Second
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		said, err := cmd.StderrPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		_, err = io.ReadFull(said, make([]byte, len("ready\n")))
		peak, err2 := peakMemory(cmd.Process.Pid)
		if err := errors.Join(err, err2, in.Close()); err != nil {
			return err
		}
		_ = cmd.Wait() // it ends because read finds the end of stdin
		row := Row{Name: c.name, Unit: "MiB", Value: statOf([]float64{peak})}
		row.atMost(memoryTarget)
		b.report.add(row)
	}
	return nil
}

// peakMemory returns the peak of the resident memory of a process, in MiB.
func peakMemory(pid int) (float64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var kib float64
		if n, _ := fmt.Sscanf(line, "VmHWM: %f kB", &kib); n == 1 {
			return kib / 1024, nil
		}
	}
	return 0, errors.New("the status of the process has no VmHWM")
}
