package main

import "golang.org/x/sys/unix"

// peerAt returns the process at the other end of the Unix socket fd.
func peerAt(fd int) (peer, error) {
	cred, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return peer{}, err
	}
	pid, err := unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	return peer{cred.Uid, pid}, err
}
