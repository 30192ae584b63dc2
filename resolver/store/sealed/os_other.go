//go:build !linux

package sealed

import "os"

// lockPIDs returns nothing: only Linux tells who holds a flock.
func lockPIDs(*os.File) []int { return nil }

func programName(int) string { return "" }

// renameNew gives temp the name path, which must not exist: [os.ErrExist]
// otherwise, whoever made it meanwhile.
func renameNew(temp, path string) error { return os.Link(temp, path) }
