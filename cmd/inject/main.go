// Inject runs a command with its secrets, masks them in the command's output, and manages
// the store with the secrets. The README says what it is for.
//
// This package has the command line: the settings, the verbs, the messages and the exit code.
// Package injector runs a task.
//
// It has more than 1500 lines since each verb needs its flags, its help and its output; each
// is a file of its own, and the verbs share only type app.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"inject/cli"
	"inject/exec"
	"inject/exec/redact"
)

// version is set by the linker.
var version = "dev"

// The exit codes if inject itself fails.
const (
	codeFailed       = 1
	codeRedactFailed = 2   // 1 is a find, as of grep(1)
	codeRunFailed    = 125 // as of docker run and env(1): others are the command's
)

// maxProcs bounds the threads that run Go code: the work is two output streams and little
// else. Without a bound, Go would start a thread for each of a hundred processors.
const maxProcs = 4

func main() {
	if exec.Monitor() {
		return
	}
	if runtime.GOMAXPROCS(0) > maxProcs { // to set it stops the world
		runtime.GOMAXPROCS(maxProcs)
	}
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(a.main(context.Background(), os.Args[1:]))
}

// app is one run of the program.
type app struct {
	stdin, stdout, stderr *os.File

	set      settings
	settings *cli.Settings    // the flags and variables of set
	redactor *redact.Redactor // masks the secret values in all messages; nil until the flags are read
	key      *redact.Redactor // masks INJECT_KEY and INJECT_TOKEN in all messages
	log      hclog.Logger
	status   exec.Status // of the command
	message  message
	// outputsFlag is set if --outputs is on the command line, not only its variable set.
	outputsFlag bool
	profile     string          // whose store and identity are used; "" for none
	stopped     <-chan struct{} // closed when a signal that was taken for the command asks us to stop; nil if none are
}

// main runs the program and returns its exit code.
func (a *app) main(ctx context.Context, args []string) int {
	var err error
	if a.settings, err = cli.Load(&a.set); err != nil {
		_, _ = fmt.Fprintln(a.stderr, "inject:", err)
		return codeRunFailed
	}
	a.settings.Complete = a.completeFlag
	a.key = redact.New(1,
		redact.Pattern{Name: keyVar, Value: a.set.Keys.Key.Reveal()},
		redact.Pattern{Name: tokenVar, Value: a.set.Keys.Token.Reveal()})
	a.log = hclog.New(&hclog.LoggerOptions{
		Name: "inject", Level: hclog.Warn, Output: a.masked(a.stderr), DisableTime: true,
	})

	cmd, err := a.rootCommand(args).ExecuteContextC(ctx)
	if err == nil {
		a.dieOf(a.status.TerminalSignal)
		return a.status.Code
	}

	a.suggest(ctx, err)
	err = a.withoutStore(err)
	a.report(err)
	code, runs := codeOf(cmd)
	if e, ok := errors.AsType[*exec.StartError](err); ok {
		code = e.Code
	}
	if e, ok := errors.AsType[*exec.StoppedError](err); ok {
		code = 128 + int(e.Signal)
	}
	if e, ok := errors.AsType[*cli.InterruptedError](err); ok && e.Signal != 0 {
		code = 128 + int(e.Signal)
	}
	if e, ok := errors.AsType[*interruptedError](err); ok {
		code = 128 + int(e.signal)
	}
	if a.status.Code != 0 { // the command's own failure came first
		code = a.status.Code
	}

	// A bad flag ends a run before prepare is called; it is reported in the message, too.
	a.message.path = cmp.Or(a.message.path, a.set.Message.TerminationLog, a.settings.Env(cli.Twin("termination-log")))
	if runs && (a.status.Code == 0 || !a.message.isThere()) {
		if err := a.message.write(err, a.mask); err != nil {
			a.log.Warn("the termination message could not be written", "error", err)
		}
	}
	return code
}

// codeOf returns the exit code of a failure of cmd, and whether cmd is a verb that a container
// starts. The failures of such a verb, bad flags included, go to the termination message.
func codeOf(cmd *cobra.Command) (code int, runs bool) {
	for cmd.HasParent() && cmd.Parent().HasParent() {
		cmd = cmd.Parent()
	}
	switch {
	case !cmd.HasParent() || cmd.Name() == "run" || cmd.Name() == "init":
		return codeRunFailed, true
	case cmd.Name() == "redact":
		return codeRedactFailed, false
	}
	return codeFailed, false
}

// dieOf ends this process by the signal that the terminal sent to the command, so that a shell
// script that waits for inject stops, as it would without inject. It returns if sig is no such
// signal, or if this is process 1, which the kernel does not end by a signal.
func (a *app) dieOf(sig syscall.Signal) {
	if sig == syscall.SIGINT || sig == syscall.SIGQUIT {
		_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) // the command had its own
		exec.DieOf(sig)
	}
}
