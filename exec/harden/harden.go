// Package harden keeps what is in this process's memory inside it. Both programs use it, injectd
// without package exec, since a server starts no processes.
package harden

// Process keeps other processes of the same user from reading our memory and environment by
// ptrace(2) or /proc, and the kernel from writing them into a core dump. Root can still read them.
// It lasts until execve(2), so a program that we start is not affected, and may be called again.
//
// From then on our files in /proc belong to root. Whatever is named by one, such as /dev/stdin or
// /dev/fd/3, must be open by then, or another user than root cannot open it.
//
// If the system cannot do it, as on macOS, debug is called with the reason and the process goes on.
func Process(debug func(msg string, args ...any)) {
	if err := undumpable(); err != nil {
		debug("other processes of the same user can read this process", "error", err)
	}
}
