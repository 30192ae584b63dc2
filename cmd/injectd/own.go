package main

import (
	"net"
	"os"
)

// own reports whether the process at the other end of a Unix socket runs as our own user or
// as root.
func own(c net.Conn) bool {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return false
	}
	var uid uint32
	var err2 error
	err = raw.Control(func(fd uintptr) { uid, err2 = peer(int(fd)) })
	return err == nil && err2 == nil && (uid == 0 || int(uid) == os.Geteuid())
}
