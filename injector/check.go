package injector

import (
	"context"
	"errors"
	"fmt"
	"time"

	"inject/exec"
	"inject/injector/outputs"
)

// reserve is how much of grace is for the outputs: kubelet's own, after which all ends,
// is longer, but by how much we are not told.
func reserve(grace time.Duration) time.Duration { return min(grace/4, 5*time.Second) }

// checkOutputs checks what the task has left, now that nobody uses it.
func checkOutputs(ctx context.Context, o Options, status exec.Status) error {
	if o.Signals != nil {
		var cancel func()
		ctx, cancel = o.Signals.Deadline(ctx, status.Asked, o.Grace)
		defer cancel()
	}
	var report outputs.Report
	var errs []error
	for _, folder := range o.Outputs {
		r, err := folder.Check(ctx)
		report.Add(r)
		if err != nil {
			errs = append(errs, fmt.Errorf("check the outputs: %w", err))
		}
	}
	o.Log.Debug("outputs", "files", report.Files, "masked", report.Masked, "taken out", report.Refused, "left", report.Left)
	if report.Leaks(o.Policy) || status.Survived && o.Policy != outputs.Warn {
		errs = append(errs, &outputs.LeakError{Report: report, Survived: status.Survived})
	}
	if errs != nil {
		return errors.Join(errs...)
	}
	tell(func() {
		for _, line := range report.Lines() {
			o.Log.Warn(line)
		}
	})
	return nil
}
