// Package exec hands over to the user's program: it becomes it ([Replace]), or
// starts it and stays in front of it as if it were not there ([Run]): signals
// go in, output and exit status come out, orphans are reaped. It knows nothing
// of secrets, and what happens to the output is its writers' business. It is
// the only package that imports os/exec and starts processes.
package exec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Exit codes for a program that could not be started, as sh, env and docker
// have them.
const (
	CodeNotExecutable = 126
	CodeNotFound      = 127
)

// A Process is a program to run.
type Process struct {
	// Args are the arguments. Args[0] is the program's path if it holds a slash,
	// else its name, which is looked up in the PATH of Env.
	Args []string
	// Env is the whole environment, without duplicate names.
	Env []string
	// Stdin is given to the program as it is.
	Stdin *os.File
	// Stdout and Stderr get what the program writes. An *os.File is given to it as
	// it is; anything else is written to from a pipe, in the order in which it
	// came, and closed, if it can be, when that has ended. If the two are equal
	// they share one pipe.
	Stdout, Stderr io.Writer
	// StdoutTo and StderrTo, if not nil, are the files that Stdout and Stderr write to
	// in the end: when nobody reads one any more the program is told at once, and not
	// by its next write; and if it is a pipe it is made to hold more once it is busy.
	// StdoutTo becomes /dev/null when the program has closed its stdout, so that its
	// reader finds the end, unless StderrTo is the same file.
	StdoutTo, StderrTo *os.File
	// Terminal, if not nil, gets what the program shows on a terminal of its own. Each
	// of Stdin, Stdout and Stderr that is a terminal is replaced by that one, and
	// everything else about it is as if it were not. One of the outputs must be a
	// terminal. Of whoever sets it main calls [Monitor] first.
	Terminal io.Writer
	// Grace is how long after a SIGTERM to us the program's group gets a SIGKILL,
	// and output that nobody takes is left; 0 for never.
	Grace time.Duration
	// Reserve is how much of Grace is the caller's, for what it does once Run has
	// returned.
	Reserve time.Duration
	// EndAll makes Run end what the program leaves behind: with SIGTERM once its output
	// is written, a second later with SIGKILL. Nothing of it runs when Run returns, or
	// Survived is set.
	EndAll bool
	// Signals are those that the program gets, taken beforehand, which whoever took
	// them releases; nil to take them when it is started.
	Signals *Signals
	// LetGo makes Run give up what this process was started with only to hand it on, once
	// the program has it: stdin, the descriptors above 2, and the working folder unless
	// there is a terminal, which may show it to a person. What the program closes is closed
	// then, and what it unmounts is not kept busy by us. The caller uses none of them any more.
	LetGo bool
	// Started, if not nil, is called by Run once the program has Args and Env, which
	// are not used from then on.
	Started func()
}

// Status is how a program ended.
type Status struct {
	// Code is its exit code, or 128+n if signal n ended it.
	Code int
	// Leaked is set when some other process still held the program's output when
	// we stopped waiting for it. What it writes after that is lost.
	Leaked bool
	// Abandoned is set when we were asked to stop while nobody took the program's
	// output: the rest of it is lost.
	Abandoned bool
	// Survived is set when something that the program left behind could not be ended, or
	// not be found (EndAll).
	Survived bool
	// Asked is when we were asked to stop, the zero Time if we were not.
	Asked time.Time
	// TerminalSignal is the signal that ended it, if a shell on a terminal waits for
	// us: it stops its script only if we die of it, too.
	TerminalSignal syscall.Signal
	// NoTerminal is why the program had a pipe instead of a terminal of its own; nil if
	// it had one, or needed none.
	NoTerminal error
	// OutputErr is the first error in writing the program's output, other than
	// that nobody reads it any more; the program was cut off from there on, as by
	// a closed pipe.
	OutputErr error
}

// StartError is why a program could not be started.
type StartError struct {
	Name string // Args[0]
	Code int    // CodeNotFound or CodeNotExecutable
	Err  error
}

// Error returns "NAME: cause".
func (e *StartError) Error() string { return e.Name + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *StartError) Unwrap() error { return e.Err }

// Replace becomes the program, as execve(2) does. It returns only if it cannot,
// and then a [*StartError] or a [*StoppedError]. Stdin, Stdout, Stderr and Grace
// are not used: the program has ours.
func Replace(p Process) error {
	path, err := ready(p)
	if err != nil {
		return err
	}
	if p.Signals != nil {
		// There is nothing to clean up: from here on a signal ends us as it will end
		// the program.
		if err := p.Signals.giveBack(); err != nil {
			return err
		}
	}
	return startError(p, path, syscall.Exec(path, p.Args, p.Env)) //nolint:gosec // it is what we are for
}

// Run starts the program and returns how it ended, a [*StartError] if it was
// never started, a [*StoppedError] if a signal asked us to stop before that, and
// another error if the system could start nothing. When ctx ends, the program is asked to stop as by a SIGTERM.
// No other child of this process may be waited for meanwhile, because Run reaps
// them all; so at most one Run may be under way.
func Run(ctx context.Context, p Process) (Status, error) {
	if p.Signals == nil {
		_, p.Signals = TakeSignals(ctx)
		defer p.Signals.Release()
	}
	path, err := ready(p)
	if err != nil {
		return Status{}, err
	}
	s, err := newSupervisor(p)
	if err != nil {
		return Status{}, err
	}
	if err := s.start(path); err != nil {
		return Status{}, startError(p, path, err)
	}
	if p.LetGo {
		letGo()
	}
	if p.Started != nil {
		p.Started()
	}
	return s.run(ctx)
}

// Output runs a short helper program to its end, in the environment env and with
// in on its stdin, and returns its stdout. Its stderr is ours. Not to be used
// while a Run is under way.
func Output(ctx context.Context, env []string, in string, args ...string) ([]byte, error) {
	cmd := osexec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // the caller's choice of helper
	cmd.Env = env
	cmd.Stdin, cmd.Stderr = strings.NewReader(in), os.Stderr
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w", args[0], err)
	}
	return out.Bytes(), nil
}

var (
	errNotFound = errors.New("command not found")
	errFolder   = errors.New("is a folder")
	errNotExec  = errors.New("is not executable")
)

// ready returns the path of the program, if it is there and may be started with its
// arguments and environment; else a [*StartError].
func ready(p Process) (string, error) {
	path, err := look(p)
	if err != nil {
		return "", err
	}
	if err := checkSize(path, p.Args, p.Env); err != nil {
		return "", notStarted(p.Args[0], err)
	}
	return path, nil
}

// look returns the path of the program, as execvp(3) finds it: the first in PATH
// that may be executed. A program that is only there in a form that may not be
// is "not executable", not "not found". Unlike os/exec it takes "." in PATH as
// the user wrote it.
func look(p Process) (string, error) {
	if len(p.Args) == 0 || p.Args[0] == "" {
		return "", &StartError{Code: CodeNotFound, Err: errNotFound}
	}
	name := p.Args[0]
	if strings.Contains(name, "/") {
		if err := executable(name); err != nil {
			return "", notStarted(name, err)
		}
		return name, nil
	}
	err := errNotFound
	for _, dir := range filepath.SplitList(pathOf(p.Env)) {
		path := filepath.Join(dir, name)
		if !strings.Contains(path, "/") {
			path = "./" + path
		}
		err2 := executable(path)
		if err2 == nil {
			return path, nil
		}
		if errors.Is(err2, errNotExec) {
			err = err2
		}
	}
	return "", notStarted(name, err)
}

// pathOf returns the PATH in env, or what the C library searches without one.
func pathOf(env []string) string {
	path := "/bin:/usr/bin"
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	return path
}

func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR):
		return errNotFound
	case err != nil:
		return err
	case info.IsDir():
		return errFolder
	case unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS) != nil:
		return errNotExec
	}
	return nil
}

func notStarted(name string, err error) *StartError {
	code := CodeNotExecutable
	if errors.Is(err, errNotFound) {
		code = CodeNotFound
	}
	return &StartError{name, code, err}
}

// startError explains why the program at path, which is there and may be
// executed, was not.
func startError(p Process, path string, err error) error {
	if _, ok := errors.AsType[*StoppedError](err); ok {
		return err
	}
	if _, ok := errors.AsType[*monitorError](err); ok {
		return fmt.Errorf("start %s: %w", p.Args[0], err)
	}
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM),
		errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		// Not the program's fault, and it may be started in a while.
		return fmt.Errorf("start %s: no process can be made: %w", p.Args[0], err)
	case errors.Is(err, unix.ENOENT):
		err = fmt.Errorf("its interpreter, in the first line of %s, or its loader does not exist", path)
	case errors.Is(err, unix.ENOEXEC):
		err = fmt.Errorf("is neither a program for this machine nor a script that begins with #!: %w", err)
	case errors.Is(err, unix.E2BIG):
		err = fmt.Errorf("its arguments and environment are too large together: %w", err)
	}
	return notStarted(p.Args[0], err)
}
