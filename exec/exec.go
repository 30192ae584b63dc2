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

// Exit codes for a program that could not be started, the same as those of sh, env and docker.
const (
	CodeNotExecutable = 126
	CodeNotFound      = 127
)

// A Process is a program to run.
type Process struct {
	// Args are the arguments. Args[0] is the program's path if it contains a slash. Otherwise
	// it is a name, which is looked up in the PATH of Env.
	Args []string
	// Env is the whole environment, without duplicate names.
	Env []string
	// Stdin becomes the program's stdin. If it is nil, the program's is closed.
	Stdin *os.File
	// Stdout and Stderr receive what the program writes. The program gets an *os.File itself.
	// For any other writer it gets a pipe, which Run copies to the writer in order; at the end
	// of the pipe Run closes the writer if it is an io.Closer. Equal writers share one pipe.
	Stdout, Stderr io.Writer
	// StdoutTo and StderrTo, if not nil, are the files that Stdout and Stderr write to in the
	// end. When the reader of such a file goes away, the program's pipe is closed at once and
	// not at the next write. If the file is a pipe, its capacity grows once it is busy. When
	// the program has closed its stdout, StdoutTo is replaced by /dev/null so that its reader
	// sees the end, unless StderrTo is the same file.
	StdoutTo, StderrTo *os.File
	// Terminal, if not nil, gives the program a pseudo-terminal, which replaces each of Stdin,
	// Stdout and Stderr that is a terminal. At least one of Stdout and Stderr must be one. Run
	// calls Terminal once, with a writer to the person's terminal. The writer that it returns
	// receives what the program shows. A program that sets Terminal must call [Monitor] first in
	// its main function.
	Terminal func(person io.Writer) io.Writer
	// Grace is the time from a SIGTERM to us until the program's group gets a SIGKILL and
	// output whose reader is stuck is given up. 0 means never.
	Grace time.Duration
	// Reserve is the part of Grace that the caller needs after Run has returned. The program
	// keeps at least half of Grace.
	Reserve time.Duration
	// EndAll makes Run end the processes that the program leaves behind: with SIGTERM once its
	// output is written, and with SIGKILL a second later. If one of them still runs when Run
	// returns, Status.Survived is set.
	EndAll bool
	// Signals are forwarded to the program. The caller took them with [TakeSignals] and
	// releases them. If nil, Run takes them when it starts the program.
	Signals *Signals
	// LetGo makes Run close stdin and the descriptors above 2, and leave the working folder, once
	// the program has started. Otherwise a descriptor that the program closes would stay open in
	// this process, and a file system that it unmounts would stay busy. The working folder stays
	// if there is a terminal, because a terminal may show it.
	LetGo bool
	// Started, if not nil, is called by Run once the program has started. Run does not use
	// Args and Env from then on, so the caller may overwrite them.
	Started func()
}

// Status is how a program ended.
type Status struct {
	// Code is its exit code, or 128+n if signal n ended it.
	Code int
	// Leaked is set when a process that the program left behind still held its output when Run
	// stopped waiting. Later output of that process is lost.
	Leaked bool
	// Abandoned is set when we were asked to stop while the reader of the program's output was
	// stuck. The rest of the output is lost.
	Abandoned bool
	// Survived is set when Process.EndAll could not end, or not find, all processes that the
	// program left behind.
	Survived bool
	// Asked is when we were asked to stop. It is the zero Time if we were not.
	Asked time.Time
	// TerminalSignal is the signal that ended the program, if we are a job of a shell on a
	// terminal. The shell ends its script only if we die of that signal, too: see [DieOf].
	TerminalSignal syscall.Signal
	// NoTerminal is why the program got a pipe instead of the pseudo-terminal that it should
	// have. It is nil if the program got one or needed none.
	NoTerminal error
	// OutputErr is the first error in writing the program's output. From there on the program
	// wrote to a closed pipe. That the reader has gone away is no error.
	OutputErr error
}

// StartError says why a program could not be started.
type StartError struct {
	Name string // Args[0]
	Code int    // CodeNotFound or CodeNotExecutable
	Err  error
}

// Error returns "NAME: cause".
func (e *StartError) Error() string { return e.Name + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *StartError) Unwrap() error { return e.Err }

// Replace turns this process into the program, by execve(2). It returns only if that fails: with
// a [*StartError], or with a [*StoppedError] if a signal asked us to stop before. It uses only
// Args, Env and Signals of p; the program inherits our stdin, stdout and stderr.
func Replace(p Process) error {
	path, err := ready(p)
	if err != nil {
		return err
	}
	if p.Signals != nil {
		// There is nothing to clean up, so from here on a signal may end us as it would end
		// the program.
		if err := p.Signals.giveBack(); err != nil {
			return err
		}
	}
	return startError(p, path, syscall.Exec(path, p.Args, p.Env)) //nolint:gosec // the caller's program
}

// Run starts the program, waits for it and returns how it ended. Its error is a [*StartError] if
// the program cannot be started, a [*StoppedError] if a signal asked us to stop before that, and
// another error if the system has no process or descriptor left. When ctx ends, the program is
// asked to stop as by a SIGTERM to us.
//
// Run reaps every child of this process. So at most one Run may be under way, and the process must
// not wait for another child meanwhile.
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

// Output runs a short helper program to its end, with the environment env and the text in on its
// stdin, and returns its stdout. It shares our stderr. Output must not be called during a [Run],
// which would reap the helper.
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

// Detach starts a program that may outlive us, such as a browser, with the environment env. It has
// none of our files and a session of its own, so that a Ctrl-C at our terminal does not end it. Detach
// must not be called during a [Run], which would reap the program.
func Detach(env []string, args ...string) error {
	cmd := osexec.Command(args[0], args[1:]...) //nolint:gosec,noctx // the caller's choice; it outlives every context
	cmd.Env, cmd.SysProcAttr = env, &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	go func() { _ = cmd.Wait() }() // it is not ours to wait for
	return nil
}

var (
	errNotFound = errors.New("command not found")
	errFolder   = errors.New("is a folder")
	errNotExec  = errors.New("is not executable")
)

// ready returns the path of the program. It returns a [*StartError] if there is no such program, or
// if it cannot be started with these arguments and this environment.
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

// look returns the path of the program, as execvp(3) finds it: the first file in PATH that may be
// executed. If there are only files that may not be executed, the error is "is not executable"
// and not "command not found". Unlike os/exec, look accepts "." in PATH.
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

// pathOf returns the PATH in env, or without one the folders that the C library searches.
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

// startError explains why the system did not start the program at path, which exists and may be
// executed.
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
		// The program is not at fault, and can perhaps be started later.
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
