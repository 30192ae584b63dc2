//go:build !linux

package exec

import "syscall"

const (
	lastSignal = syscall.Signal(31)
	fionread   = 0x4004667f // FIONREAD of <sys/filio.h>: _IOR('f', 127, int)
)

// childAttr gives the program a process group of its own. Only Linux has a
// parent-death signal.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// becomeSubreaper does nothing: only Linux has subreapers.
func becomeSubreaper() {}
