package harness

import (
	"os/exec"
	"runtime"
	"syscall"
)

// endTogether makes cmd end if this process ends in any way. Linux ties that to the thread that
// starts it, so the calling goroutine keeps its thread until it calls release.
func endTogether(cmd *exec.Cmd) (release func()) {
	runtime.LockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return runtime.UnlockOSThread
}
