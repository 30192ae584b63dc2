// Package injector is a secret's way through, on one page: resolve the declared
// list, place the values, mask them, run the task. It takes the task and the
// resolver as they are given to it, and knows neither flags nor stores.
package injector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"inject/exec"
	"inject/exec/harden"
	"inject/exec/redact"
	"inject/injector/outputs"
	"inject/injector/place"
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

	placed, err := place.Values(place.Target{
		Environ: o.Environ, OnConflict: o.OnConflict, FilesDir: o.FilesDir,
		Scope: o.Scope, Masked: !o.NoRedact, Log: o.Log,
	}, secrets)
	if err != nil {
		return exec.Status{}, err
	}

	p := exec.Process{
		Args: o.Command, Env: placed.Env, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr,
		Grace: o.Grace, Signals: o.Signals, LetGo: true, Started: placed.Forget,
	}
	masked, err := mask(&p, o, secrets)
	if err = cmp.Or(err, ctx.Err()); err != nil {
		placed.Remove(o.Log)
		return exec.Status{}, err
	}
	checked := o.Outputs != nil && !o.Redactor.Empty()
	if !masked && !checked && !placed.HasFiles() {
		return exec.Status{}, exec.Replace(p)
	}
	if checked {
		p.Reserve, p.EndAll = reserve(o.Grace), true
	}

	ctx = context.WithoutCancel(ctx)
	status, err := exec.Run(ctx, p)
	// Before anything is said: stderr may be stuck, files must not be.
	placed.Remove(o.Log)
	if err != nil {
		return status, err
	}
	messageErr := maskMessage(ctx, o)
	if checked {
		err = checkOutputs(ctx, o, status)
	}
	return status, errors.Join(err, messageErr, outputLost(o.Log, status))
}

// Secrets returns what is to be placed of resolved.
func Secrets(resolved []resolver.Resolved) []place.Secret {
	secrets := make([]place.Secret, len(resolved))
	for i, r := range resolved {
		secrets[i] = place.Secret{Declaration: r.Declaration, Value: r.Value}
	}
	return secrets
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
