package injector

import (
	"io"
	"os"

	"inject/exec"
	"inject/injector/place"
	"inject/internal/tty"
)

// mask adds the values to the redactor and makes the task write to it instead of our own stdout
// and stderr. If there is nothing to mask, it leaves both and reports false.
func mask(p *exec.Process, o Options, secrets []place.Secret) (masked bool, err error) {
	if o.NoRedact {
		return false, nil
	}
	if err := place.Mask(o.Redactor, secrets, o.Log); err != nil {
		return false, err
	}
	if o.Redactor.Empty() {
		return false, nil
	}

	if tty.Is(o.Stdout) || tty.Is(o.Stderr) {
		p.Terminal = func(person io.Writer) io.Writer { return o.Redactor.LiveWriter(person) }
	}

	// If both are the same file they share one stream. That keeps the order of what the task
	// writes, and finds a value that is split between them.
	same := false
	if a, err := o.Stdout.Stat(); err == nil {
		if b, err := o.Stderr.Stat(); err == nil {
			same = os.SameFile(a, b)
		}
	}

	// On a terminal that is gone there is nothing to mask. The task's writes to it must fail with EIO,
	// where a pipe would end the task by a SIGPIPE.
	if !tty.Is(o.Stdout) && !tty.HungUp(o.Stdout) {
		p.Stdout, p.StdoutTo = o.Redactor.LiveWriter(o.Stdout), o.Stdout
	}
	if !tty.Is(o.Stderr) && !tty.HungUp(o.Stderr) {
		p.Stderr, p.StderrTo = p.Stdout, o.Stderr
		if !same {
			p.Stderr = o.Redactor.LiveWriter(o.Stderr)
		}
	}
	return true, nil
}
