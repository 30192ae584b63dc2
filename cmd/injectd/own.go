package main

import (
	"net"
	"os"
)

// own returns the user of the process at the other end of a Unix socket, and whether it is our
// own user or root.
func own(c net.Conn) (user int, ok bool) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, false
	}
	var uid uint32
	var err2 error
	err = raw.Control(func(fd uintptr) { uid, err2 = peer(int(fd)) })
	return int(uid), err == nil && err2 == nil && (uid == 0 || int(uid) == os.Geteuid())
}
