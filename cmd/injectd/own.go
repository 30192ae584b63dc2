package main

import (
	"net"
	"os"
)

// A peer is the process at the other end of a Unix socket.
type peer struct {
	user uint32
	pid  int // 0 if it is in another container
}

// peerOf returns the process at the other end of a Unix socket. It is false if that is not known.
func peerOf(c net.Conn) (p peer, ok bool) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return p, false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return p, false
	}
	var err2 error
	err = raw.Control(func(fd uintptr) { p, err2 = peerAt(int(fd)) })
	return p, err == nil && err2 == nil
}

// own returns the user of the process at the other end of a Unix socket, and whether it is our
// own user or root.
func own(c net.Conn) (user int, ok bool) {
	p, ok := peerOf(c)
	return int(p.user), ok && (p.user == 0 || int(p.user) == os.Geteuid())
}
