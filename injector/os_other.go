//go:build !linux

package injector

import "errors"

// undumpable does nothing: only Linux has it.
func undumpable() error { return errors.ErrUnsupported }
