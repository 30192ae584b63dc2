//go:build !linux

package sealed

import "os"

// lockPIDs returns nothing: only Linux tells which processes hold a flock.
func lockPIDs(*os.File) []int { return nil }

func programName(int) string { return "" }
