// Package injector runs a task with its secrets. [Run] is the way of a secret on one page: the
// declared list is resolved, its values are placed and masked, the task runs, and what it leaves
// is checked. Where the declared list and the resolver come from is the caller's choice: the
// package knows neither flags nor stores.
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
	"inject/injector/guard"
	"inject/injector/outputs"
	"inject/injector/place"
	"inject/resolver"
	"inject/resolver/secret"
)

// Options describe a task and how it is run.
type Options struct {
	// Declared are the secrets of the task, which Resolver looks up for Scope. Resolver may be
	// nil if there are none.
	Scope    secret.Scope
	Declared []secret.Declaration
	Resolver resolver.Resolver
	// Deadline is when resolving must be done.
	Deadline time.Time
	// Release, if not nil, closes the store that Resolver reads. It is called once, before the
	// task starts.
	Release func() error

	// Environ is the environment that the task inherits, without duplicate names.
	Environ    []string
	OnConflict place.Conflict
	// FilesDir is the folder in which file secrets appear; "" for the default of [place.Target].
	FilesDir string

	// Redactor masks the task's output. Run adds the values to it. It may have other patterns,
	// and other users.
	Redactor *redact.Redactor
	// NoRedact gives the task our own stdout and stderr, unmasked, and starts no guard.
	NoRedact bool
	// Outputs are folders that Run checks when the task and all its processes have ended. A part
	// of Grace is reserved for that.
	Outputs []*outputs.Folder
	// NeedOutputs makes it an error of a task that did not fail if one of Outputs is not there when
	// it has ended. Otherwise that is a warning: a setting for many tasks may name it.
	NeedOutputs bool
	// Storage says when a guard stands in front of the object store to which the task uploads.
	Storage guard.Mode
	// Policy says what happens if Outputs, or what the task uploads, have a value in them.
	Policy outputs.Policy

	Command               []string
	Stdin, Stdout, Stderr *os.File
	// Grace is how long the task may take to end after it was asked to; then it is killed.
	Grace time.Duration
	// Signals are the signals that the caller took before, so that none is lost on the way here.
	// If it is nil, Run takes them when it starts the task.
	Signals *exec.Signals
	// TerminationMessage is the file in which the task may leave a message for kubelet; ""
	// for none. It is masked when the task has ended, unless NoRedact is set. If there is one,
	// Run ends the processes that the task left behind, which could write it later.
	TerminationMessage string
	Log                hclog.Logger
}

// Run runs the task and returns how it ended.
//
// If the task cannot be started, it leaves no file behind and returns an error: a
// [*resolver.Error] that names every secret that could not be resolved, an [*exec.StartError]
// about the command, or an [*exec.StoppedError] if a signal asked us to stop before the start. If
// the task ran, it returns an error beside the status if the task left a value in its outputs (a
// [*outputs.LeakError]), or if a part of its output was lost.
//
// If there is nothing to mask, to check or to remove afterwards, Run does not return: this
// process becomes the task. If ctx ends before the start, the task never starts. Afterwards ctx
// is ignored, signals end the task, and this process has given up its stdin, its working folder
// and the descriptors that the task inherited.
func Run(ctx context.Context, o Options) (exec.Status, error) {
	resolved, err := resolve(ctx, o)
	if err != nil {
		return exec.Status{}, err
	}
	secrets := Secrets(resolved)
	harden.Process(o.Log.Debug) // before the first Reveal; the task cannot read our memory either

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
	var guarded *guard.Guard
	if err == nil && masked {
		guarded, err = startGuard(ctx, &p, o)
	}
	if err = cmp.Or(err, ctx.Err()); err != nil {
		placed.Remove(o.Log)
		return exec.Status{}, err
	}
	checked := o.Outputs != nil && !o.Redactor.Empty()
	if !masked && !checked && !placed.HasFiles() {
		return exec.Status{}, exec.Replace(p)
	}
	if checked || guarded != nil {
		p.Reserve = reserve(o.Grace)
	}
	p.EndAll = checked || masked && o.TerminationMessage != ""

	ctx = context.WithoutCancel(ctx)
	status, err := exec.Run(ctx, p)
	// The files go before any message: stderr may block, and they must not stay.
	placed.Remove(o.Log)
	if err != nil {
		return status, err
	}
	messageErr := maskMessage(ctx, o, status)
	if checked || guarded != nil {
		status, err = checkOutputs(ctx, o, status, guarded)
	}
	return status, errors.Join(err, messageErr, outputLost(o.Log, status))
}

// Secrets returns the part of resolved that package place needs.
func Secrets(resolved []resolver.Resolved) []place.Secret {
	secrets := make([]place.Secret, len(resolved))
	for i, r := range resolved {
		secrets[i] = place.Secret{Declaration: r.Declaration, Value: r.Value}
	}
	return secrets
}

// resolve returns the values of the declared list, and closes the store.
func resolve(ctx context.Context, o Options) (resolved []resolver.Resolved, err error) {
	if o.Release != nil {
		defer func() {
			if err2 := o.Release(); err == nil && err2 != nil {
				err = fmt.Errorf("%w: close the store: %w", secret.ErrUnavailable, err2)
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
