//go:build !linux

package exec

import (
	"os"
	"syscall"
)

const (
	lastSignal = syscall.Signal(31)
	fionread   = 0x4004667f // FIONREAD of <sys/filio.h>: _IOR('f', 127, int)
)

// childAttr gives the program nothing: only Linux has a parent-death signal.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

// becomeSubreaper does nothing: only Linux has subreapers.
func becomeSubreaper() {}

// WidenPipe does nothing: only Linux lets a pipe's size be set.
func WidenPipe(*os.File) {}

func widen(int) {}
