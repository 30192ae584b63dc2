package injector

import (
	"context"

	"inject/exec"
	"inject/injector/guard"
)

// startGuard puts a guard between the task and its object store, if the task needs one. It returns nil
// if it does not.
func startGuard(ctx context.Context, p *exec.Process, o Options) (*guard.Guard, error) {
	g, err := guard.Start(ctx, guard.Options{
		Mode: o.Storage, Command: o.Command, Environ: p.Env, Redactor: o.Redactor, Policy: o.Policy, Log: o.Log,
	})
	if err != nil || g == nil {
		return nil, err
	}
	g.LimitMemory()
	p.Env = g.Environ(p.Env)
	return g, nil
}
