package store

import (
	"net/netip"
	"strings"
)

// Loopback reports whether host, without a port and without brackets, names this machine's
// own loopback interface: localhost in any case, an address in 127.0.0.0/8, or ::1. Only
// there may a token or a value be sent without TLS, since nothing leaves the machine.
//
// Names are not looked up, because what a name resolves to may change between the check and
// the connection. An unspecified address such as 0.0.0.0 is every interface, so it is not
// loopback; nor is an address with a zone, which names another interface.
func Loopback(host string) bool {
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback() && addr.Zone() == ""
}
