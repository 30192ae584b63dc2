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

// limit is what no process here comes near; it ends what hangs.
const limit = 2 * time.Minute

// A stage is one process of a pipe.
type stage struct {
	args []string
	env  []string // added to ours
}

// pipe runs the stages as a shell runs a | b, the last one writing to out, and
// returns how long it took until all had ended. Whatever happens, none is left: what
// inject has started ends when nobody reads what it writes.
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
			cmd.Stdin = nil // not a nil *os.File in an interface
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

// environ is our environment without what would tell inject other than we do.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "INJECT_") })
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}

// short is a command line that is not a page long.
func short(args []string) []string {
	if len(args) > 8 {
		return append(slices.Clone(args[:8]), "…")
	}
	return args
}

// output is pipe, and what the last stage wrote.
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
