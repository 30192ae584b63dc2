// Inject runs a command with its secrets, masks them in what it prints, and
// manages the store that they are in. See the README for what it is for.
//
// This package is flags and environment in, exit code out, and the verbs that a
// person types. What it takes to run a task is package injector's.
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

	"inject/cli"
	"inject/exec"
	"inject/exec/redact"
)

// version is set by the linker.
var version = "dev"

// codeFailed is the exit code when inject itself failed, before or instead of
// the command; docker run and env have the same.
const codeFailed = 125

// maxProcs is how much we do at a time: a stream of a task each, and what is between.
// On a machine with a hundred processors there would be as many threads to reserve.
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
	redactor *redact.Redactor // every value of the task's; all that we say passes it; nil until flags are read
	key      *redact.Redactor // what opens the store or is sent to it; all that we say passes it, too
	log      hclog.Logger
	status   exec.Status // of the command
	message  message
	running  bool            // the verb is run or init, whose failures go to the termination message
	stopped  <-chan struct{} // closed when a signal that was taken for the command asks us to stop; nil if none are
}

// main runs the program and returns its exit code.
func (a *app) main(ctx context.Context, args []string) int {
	var err error
	if a.settings, err = cli.Load(&a.set); err != nil {
		_, _ = fmt.Fprintln(a.stderr, "inject:", err)
		return codeFailed
	}
	a.key = redact.New(1,
		redact.Pattern{Name: keyVar, Value: a.set.Keys.Key.Reveal()},
		redact.Pattern{Name: tokenVar, Value: a.set.Keys.Token.Reveal()})
	a.log = hclog.New(&hclog.LoggerOptions{
		Name: "inject", Level: hclog.Warn, Output: a.masked(a.stderr), DisableTime: true,
	})
	err = a.rootCommand(args).ExecuteContext(ctx)
	if err == nil {
		a.dieOf(a.status.TerminalSignal)
		return a.status.Code
	}
	a.report(err)
	code := codeFailed
	if e, ok := errors.AsType[*exec.StartError](err); ok {
		code = e.Code
	}
	if e, ok := errors.AsType[*exec.StoppedError](err); ok {
		code = 128 + int(e.Signal)
	}
	if e, ok := errors.AsType[*interruptedError](err); ok {
		code = 128 + int(e.signal)
	}
	if a.status.Code != 0 { // the command's own failure came first
		code = a.status.Code
	}
	// Flags that are wrong end a run before it is prepared, and are told here, too.
	a.message.path = cmp.Or(a.message.path, a.set.Message.TerminationLog, a.settings.Env(cli.Twin("termination-log")))
	if a.running && (a.status.Code == 0 || !a.message.isThere()) {
		if err := a.message.write(err, a.mask); err != nil {
			a.log.Warn("the termination message could not be written", "error", err)
		}
	}
	return code
}

// dieOf ends us by the signal by which the terminal ended the command, so that a
// script that waits for us ends as it would have. It returns if that is not so,
// or if we are process 1, which no signal ends by default.
func (a *app) dieOf(sig syscall.Signal) {
	if sig == syscall.SIGINT || sig == syscall.SIGQUIT {
		_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) // the command had its own
		exec.DieOf(sig)
	}
}
