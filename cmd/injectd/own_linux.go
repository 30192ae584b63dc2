package main

import "golang.org/x/sys/unix"

// peerAt returns the process at the other end of the Unix socket fd.
func peerAt(fd int) (peer, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return peer{}, err
	}
	return peer{cred.Uid, int(cred.Pid)}, nil
}
