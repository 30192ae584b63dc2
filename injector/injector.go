// Package injector is a secret's way through, on one page: resolve the declared
// list, place the values, mask them, run the task. It takes the task and the
// resolver as they are given to it, and knows neither flags nor stores.
package injector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"inject/exec"
	"inject/exec/harden"
	"inject/exec/redact"
	"inject/injector/outputs"
	"inject/injector/place"
	"inject/internal/tty"
	"inject/resolver"
	"inject/resolver/secret"
)

// Options are a task and how it is run.
type Options struct {
	Scope    secret.Scope
	Declared []secret.Declaration
	Resolver resolver.Resolver
	// Deadline bounds resolving, all of it.
	Deadline time.Time
	// Release, if not nil, gives back what resolving needed, before the task starts.
	Release func() error

	// Environ is what the task inherits, without duplicate names.
	Environ    []string
	OnConflict place.Conflict
	// FilesDir is where file secrets appear; "" for the default.
	FilesDir string

	// Redactor masks the task's output; the values are added to it. It may hold
	// more, and serve others.
	Redactor *redact.Redactor
	// NoRedact gives the task our own stdout and stderr.
	NoRedact bool
	// Outputs are what the task leaves, which is checked when it and all its processes
	// have ended. There is a part of Grace for that.
	Outputs []*outputs.Folder
	// Policy is what becomes of values in Outputs.
	Policy outputs.Policy

	Command               []string
	Stdin, Stdout, Stderr *os.File
	// Grace is how long a task may take to end once it was asked to.
	Grace time.Duration
	// Signals are those that were taken since we began; nil to take them when the
	// task is started.
	Signals *exec.Signals
	// TerminationMessage is the file in which the task may leave a message for kubelet; ""
	// for none. It is masked when the task has ended, unless NoRedact is set.
	TerminationMessage string
	Log                hclog.Logger
}

// Run runs the task and returns how it ended. It returns an error with that if a value
// was in what it left (a [*outputs.LeakError]) or its output was lost. It returns an error, and
// has started nothing and left nothing, if a secret could not be resolved or placed
// (a [*resolver.Error] names all of those at once) or the command could not be
// started (an [*exec.StartError], or an [*exec.StoppedError] if a signal asked us
// to stop before). When nothing is to be masked or cleaned up
// it does not return: the process becomes the task. When ctx ends before the task
// is started, it never is; once it runs, signals end it, and this process has given up its
// stdin, its working folder and the descriptors that the task inherited.
func Run(ctx context.Context, o Options) (exec.Status, error) {
	resolved, err := resolve(ctx, o)
	if err != nil {
		return exec.Status{}, err
	}
	secrets := Secrets(resolved)
	harden.Process(o.Log.Debug) // from before the first Reveal, the task included
	to := place.Target{
		Environ: o.Environ, OnConflict: o.OnConflict, FilesDir: o.FilesDir,
		Scope: o.Scope, Masked: !o.NoRedact, Log: o.Log,
	}
	places, err := place.Values(to, secrets)
	if err != nil {
		return exec.Status{}, err
	}
	p := exec.Process{Args: o.Command, Env: places.Env, Stdin: o.Stdin, Grace: o.Grace, Signals: o.Signals, LetGo: true}
	err = mask(&p, o, secrets)
	checked := o.Outputs != nil && !o.Redactor.Empty()
	if checked {
		p.Reserve, p.EndAll = reserve(o.Grace), true
	}
	if err = cmp.Or(err, ctx.Err()); err != nil {
		places.Remove(o.Log)
		return exec.Status{}, err
	}
	if p.Terminal == nil && p.Stdout == io.Writer(o.Stdout) && p.Stderr == io.Writer(o.Stderr) && !places.HasFiles() && !checked {
		return exec.Status{}, exec.Replace(p)
	}
	p.Started = places.Forget
	ctx = context.WithoutCancel(ctx)
	status, err := exec.Run(ctx, p)
	// Before anything is said: stderr may be stuck, files must not be.
	places.Remove(o.Log)
	if err != nil {
		return status, err
	}
	messageErr := maskMessage(ctx, o)
	if checked {
		err = checkOutputs(ctx, o, status)
	}
	err = errors.Join(err, messageErr)
	lost := "; the rest of it is lost"
	if status.OutputErr != nil && status.Code == 0 {
		return status, errors.Join(err, fmt.Errorf("write the task's output: %w%s", status.OutputErr, lost))
	}
	tell(func() {
		switch {
		case status.OutputErr != nil:
			o.Log.Error("the task's output could not be written"+lost, "error", status.OutputErr)
		case status.Abandoned:
			o.Log.Warn("nobody takes the task's output" + lost)
		case status.NoTerminal != nil:
			o.Log.Warn("no terminal could be made for the task, so its output went through a pipe (--no-redact keeps the terminal)", "error", status.NoTerminal)
		case status.Leaked:
			o.Log.Warn("a process that the task left behind still holds its output; what it writes from now on is lost")
		}
	})
	return status, err
}

// Secrets returns what is to be placed of resolved.
func Secrets(resolved []resolver.Resolved) []place.Secret {
	secrets := make([]place.Secret, len(resolved))
	for i, r := range resolved {
		secrets[i] = place.Secret{Declaration: r.Declaration, Value: r.Value}
	}
	return secrets
}

// maskMessage masks the message that the task has left for kubelet. A message that had to be
// removed is no failure of the task.
func maskMessage(ctx context.Context, o Options) error {
	if o.NoRedact || o.TerminationMessage == "" {
		return nil
	}
	err := outputs.MaskMessage(ctx, o.TerminationMessage, o.Redactor)
	if !errors.Is(err, outputs.ErrRemoved) {
		return err
	}
	tell(func() { o.Log.Warn(err.Error()) })
	return nil
}

// tell says something that is not worth being stuck for.
func tell(say func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		say()
	}()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
}

// resolve returns the values and gives back what it took to get them.
func resolve(ctx context.Context, o Options) (resolved []resolver.Resolved, err error) {
	if o.Release != nil {
		defer func() {
			if err2 := o.Release(); err == nil && err2 != nil {
				err = fmt.Errorf("%w: give the store back: %w", secret.ErrUnavailable, err2)
			}
		}()
	}
	if len(o.Declared) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithDeadline(ctx, o.Deadline)
	defer cancel()
	return o.Resolver.Resolve(ctx, o.Scope, o.Declared)
}

// mask adds the values to the redactor and gives the task outputs that pass it, or
// our own ones if there is nothing to mask.
func mask(p *exec.Process, o Options, secrets []place.Secret) error {
	p.Stdout, p.Stderr = o.Stdout, o.Stderr
	if o.NoRedact {
		return nil
	}
	if err := place.Mask(o.Redactor, secrets, o.Log); err != nil {
		return err
	}
	if o.Redactor.Empty() {
		return nil
	}
	for _, f := range []*os.File{o.Stderr, o.Stdout} {
		if tty.Is(f) {
			p.Terminal = o.Redactor.TerminalWriter(f)
		}
	}
	// One stream if both are the same file: it keeps the order, and a value of
	// which half comes on each.
	same := false
	if a, err := o.Stdout.Stat(); err == nil {
		if b, err := o.Stderr.Stat(); err == nil {
			same = os.SameFile(a, b)
		}
	}
	if !tty.Is(o.Stdout) {
		p.Stdout, p.StdoutTo = o.Redactor.Writer(o.Stdout), o.Stdout
	}
	if !tty.Is(o.Stderr) {
		p.Stderr, p.StderrTo = p.Stdout, o.Stderr
		if !same {
			p.Stderr = o.Redactor.Writer(o.Stderr)
		}
	}
	return nil
}
