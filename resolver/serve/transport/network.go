package transport

import "net/netip"

// Network returns the network that the limits count a remote address (HOST:PORT) to: an IPv4
// address, or the /64 of an IPv6 address, since one machine may use all addresses of its /64.
// It returns "" for what is not an address.
func Network(remote string) string {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return ""
	}
	ip := at.Addr().Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	prefix, err := ip.Prefix(64)
	if err != nil {
		return ""
	}
	return prefix.String()
}
