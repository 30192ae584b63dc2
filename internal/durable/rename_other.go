//go:build !linux

package durable

import "os"

// renameNew gives temp the name path, which must not exist: [os.ErrExist] otherwise, even if
// another process made it meanwhile.
func renameNew(temp, path string) error { return os.Link(temp, path) }
