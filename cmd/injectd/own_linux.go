package main

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// own reports whether the other end of a unix socket is of our own user, or root.
func own(c net.Conn) bool {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return false
	}
	var peer *unix.Ucred
	var err2 error
	err = raw.Control(func(fd uintptr) {
		peer, err2 = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return err == nil && err2 == nil && (peer.Uid == 0 || int(peer.Uid) == os.Geteuid())
}
