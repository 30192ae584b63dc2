//go:build !linux

package harden

import "errors"

// undumpable fails: only Linux has prctl(2).
func undumpable() error { return errors.ErrUnsupported }
