//go:build !linux || !(amd64 || arm64)

package exec

// reserveThreads makes no threads: there is no way here to hold one in the kernel.
func reserveThreads() {}
