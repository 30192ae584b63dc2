//go:build !linux

package place

// inMemory reports nothing: only Linux tells.
func inMemory(string) bool { return false }

// startTime is not known.
func startTime() string { return "0" }
