package main

import "golang.org/x/sys/unix"

// peer returns the user of the process at the other end of the Unix socket fd.
func peer(fd int) (uid uint32, err error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	return cred.Uid, nil
}
