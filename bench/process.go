package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// limit ends a process that hangs. No process takes nearly as long.
const limit = 2 * time.Minute

// A stage is one command of a pipe.
type stage struct {
	args []string
	env  []string // added to our environment
}

// pipe runs the stages as a shell runs a | b. The last one writes to out. It returns the time
// until all had ended, and leaves no process behind: the child of inject ends when its output
// is closed.
func pipe(ctx context.Context, out *os.File, stages ...stage) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begin := time.Now()
	var cmds []*exec.Cmd
	var errs []error
	var in *os.File
	for i, s := range stages {
		cmd := exec.CommandContext(ctx, s.args[0], s.args[1:]...) //nolint:gosec // what is measured
		cmd.Env = append(environ(), s.env...)
		cmd.Stderr = new(bytes.Buffer)
		cmd.WaitDelay = time.Second
		cmd.Stdin = in
		if in == nil {
			cmd.Stdin = nil // a nil *os.File in the interface would not be nil
		}
		var next, write *os.File
		cmd.Stdout = out
		if i < len(stages)-1 {
			var err error
			next, write, err = os.Pipe()
			if err != nil {
				errs = append(errs, err)
				break
			}
			cmd.Stdout = write
		}
		err := cmd.Start()
		closeAll(in, write)
		in = next
		if err != nil {
			errs = append(errs, err)
			break
		}
		cmds = append(cmds, cmd)
	}
	if len(errs) > 0 {
		closeAll(in)
		cancel()
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w: %s", strings.Join(short(cmd.Args), " "), err, cmd.Stderr))
		}
	}
	took := time.Since(begin)
	if ctx.Err() != nil {
		errs = append(errs, context.Cause(ctx))
	}
	return took, errors.Join(errs...)
}

// environ returns our environment without the settings of inject.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "INJECT_") || strings.HasPrefix(v, "INJECTD_")
	})
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}

// short returns args cut to a length that fits into an error message.
func short(args []string) []string {
	if len(args) > 8 {
		return append(slices.Clone(args[:8]), "…")
	}
	return args
}

// output runs a pipe and returns what its last stage wrote.
func (b *bench) output(stages ...stage) ([]byte, error) {
	out, err := os.Create(b.path("output"))
	if err != nil {
		return nil, err
	}
	_, err = pipe(b.ctx, out, stages...)
	if err := errors.Join(err, out.Close()); err != nil {
		return nil, err
	}
	return os.ReadFile(out.Name())
}
