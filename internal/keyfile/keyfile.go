// Package keyfile tells whether a file with a key or a token is kept from others, as ssh(1) does
// before it uses a private key.
package keyfile

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Check returns an error if the file at path belongs to our user and its group or others may do
// anything with it. The error names the mode, and the command that mends it.
//
// The mode of a file is not ours to judge, and Check returns nil, if
//   - it belongs to another user, as files of root do that Kubernetes mounts for a pod
//   - it is on a read-only mount, as the volumes with secrets of Kubernetes and Docker are: in a
//     container that runs as root their files are ours, with mode 0644 or 0444
//   - only its group may, and its folder hands that group down (setgid), as the kubelet sets up all
//     that is on a volume with fsGroup: after a restart a key that we made there has mode 0660
//   - it is not a regular file, such as a pipe
//   - it cannot be looked at, which reading it will report
func Check(path string) error {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return nil //nolint:nilerr // as documented
	}
	mode := info.Mode().Perm()
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case mode&0o077 == 0, !ok, int(owner.Uid) != os.Geteuid(), onReadOnlyMount(path):
		return nil
	case mode&0o007 == 0 && handedDown(path, owner.Gid):
		return nil
	}
	return fmt.Errorf("it is open to others than its owner (mode %04o): run chmod 600 %s", mode, path)
}

// handedDown reports whether the folder of the file gives its group, which is gid, to what is made
// in it.
func handedDown(path string, gid uint32) bool {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false
	}
	dir, err := os.Stat(filepath.Dir(target))
	if err != nil || dir.Mode()&fs.ModeSetgid == 0 {
		return false
	}
	owner, ok := dir.Sys().(*syscall.Stat_t)
	return ok && owner.Gid == gid
}
