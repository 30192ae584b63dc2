// Command wrapper starts a program with os/exec, in as few lines as possible. inject is measured
// beside it. It does not forward signals, reap orphans or mask anything.
package main

import (
	"errors"
	"os"
	"os/exec"
)

func main() {
	cmd := exec.Command(os.Args[1], os.Args[2:]...) //nolint:gosec,noctx // it is for any program, and waits for it
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	exit := new(exec.ExitError)
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		os.Exit(127)
	}
}
