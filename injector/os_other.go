//go:build !linux

package injector

import "errors"

// inMemory reports nothing: only Linux tells.
func inMemory(string) bool { return false }

// startTime is not known.
func startTime() string { return "0" }

// undumpable does nothing: only Linux has it.
func undumpable() error { return errors.ErrUnsupported }
