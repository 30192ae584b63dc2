package exec

import (
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	lastSignal = syscall.Signal(64) // real-time ones included; Go merges those
	fionread   = unix.TIOCINQ
)

// childAttr gives the program its death if we are killed. The kernel's race, that we die before the child asks for it, is
// checked by package syscall.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// becomeSubreaper makes orphans below us our children, as they are if we are
// process 1.
func becomeSubreaper() {
	if unix.Getpid() != 1 {
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	}
}
