package injector

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"inject/exec"
	"inject/injector/guard"
	"inject/injector/outputs"
	"inject/resolver/secret"
)

// reserve returns the part of grace that is kept for the check of the outputs. Kubelet kills all
// when its own grace period is over, and does not tell us how long that is.
func reserve(grace time.Duration) time.Duration { return min(grace/4, 5*time.Second) }

// checkOutputs checks the folders that the task has written, when none of its processes is left, and
// ends the guard in front of its object store. It returns an [*outputs.LeakError] if that makes the
// task fail, and logs other finds. The status that it returns is that of the run.
func checkOutputs(ctx context.Context, o Options, status exec.Status, g *guard.Guard) (exec.Status, error) {
	if o.Signals != nil {
		var cancel func()
		ctx, cancel = o.Signals.Deadline(ctx, status.Asked, o.Grace)
		defer cancel()
	}

	var report outputs.Report
	var errs []error
	explained := false
	if g != nil {
		end, err := g.End(ctx, status.Code == 0)
		report.Add(end.Report)
		if explained = end.Explained; err != nil {
			errs = append(errs, err)
		}
	}
	if !o.Redactor.Empty() {
		for _, folder := range o.Outputs {
			r, err := folder.Check(ctx)
			report.Add(r)
			if err != nil {
				errs = append(errs, fmt.Errorf("check the outputs: %w", err))
			}
		}
	}

	o.Log.Debug("outputs", "files", report.Files,
		"masked", report.Masked, "taken out", report.Refused, "left", report.Left)
	if status.Code == 0 {
		for _, path := range report.Missing {
			errs = append(errs, missing(o, path))
		}
	}
	leaks := report.Leaks(o.Policy) || status.Survived && o.Policy != outputs.Warn
	if explained && errs == nil {
		// Flyte shows the task's author the error that is in the bucket. Any other exit code would make
		// Flyte try again, which leads to the same.
		status.Code, leaks = 0, false
	}
	if leaks {
		errs = append(errs, &outputs.LeakError{Report: report, Survived: status.Survived})
	}
	if errs != nil {
		return status, errors.Join(errs...)
	}
	tell(func() {
		for _, line := range report.Lines() {
			o.Log.Warn(line)
		}
	})
	return status, nil
}

// missing returns an error about a folder that the task has not made, or only logs that.
func missing(o Options, path string) error {
	err := fmt.Errorf("%w: --outputs: there is no folder %s, so nothing in it was checked", secret.ErrInvalid, path)
	if o.NeedOutputs && o.Policy != outputs.Warn {
		return secret.WithHint(err, "name the folder that the command writes; in INJECT_OUTPUTS it need not be there")
	}
	tell(func() { o.Log.Warn(fmt.Sprintf("outputs: there is no folder %s, so nothing in it was checked", path)) })
	return nil
}

// maskMessage masks the message that the task has left for kubelet, when none of its processes is
// left. It is no failure of the task if the message had to be removed.
func maskMessage(ctx context.Context, o Options, status exec.Status) error {
	if o.NoRedact || o.TerminationMessage == "" {
		return nil
	}
	if status.Survived {
		tell(func() {
			o.Log.Warn("a process that the task left behind could not be ended: what it writes to the " +
				"termination message from now on is not masked")
		})
	}
	err := outputs.MaskMessage(ctx, o.TerminationMessage, o.Redactor)
	if !errors.Is(err, outputs.ErrRemoved) {
		return err
	}
	tell(func() { o.Log.Warn(err.Error()) })
	return nil
}

// outputLost returns an error if output of the task is lost, unless the task failed: its
// failure is the one to report, so the loss is only logged.
func outputLost(log hclog.Logger, status exec.Status) error {
	const lost = "; the rest of it is lost"
	if status.OutputErr != nil && status.Code == 0 {
		return fmt.Errorf("write the task's output: %w%s", status.OutputErr, lost)
	}
	tell(func() {
		switch {
		case status.OutputErr != nil:
			log.Error("the task's output could not be written"+lost, "error", status.OutputErr)
		case status.Abandoned:
			log.Warn("the task's output is not read" + lost)
		case status.NoTerminal != nil:
			log.Warn("no terminal could be made for the task, so its output went through a pipe"+
				" (--no-redact keeps the terminal)", "error", status.NoTerminal)
		case status.Leaked:
			log.Warn("a process that the task left behind has its output open; what it writes from now on is lost")
		}
	})
	return nil
}

// tell calls say, and waits for it at most a second: stderr may block, and we must end.
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
