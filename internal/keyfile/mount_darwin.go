package keyfile

import "golang.org/x/sys/unix"

func onReadOnlyMount(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && s.Flags&unix.MNT_RDONLY != 0
}
