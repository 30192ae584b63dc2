package transport_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/serve/transport"
)

func TestNetwork(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:1":                "192.0.2.1",
		"[::ffff:192.0.2.1]:1":       "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:1":   "2001:db8:1:2::/64",
		"[2001:db8:1:2:ffff::1]:443": "2001:db8:1:2::/64",
		"[2001:db8:1:3::1]:443":      "2001:db8:1:3::/64",
		"[fe80::1%eth0]:1":           "fe80::/64",
		"@":                          "",
		"":                           "",
	} {
		t.Run(remote, func(t *testing.T) { require.Equal(t, want, transport.Network(remote)) })
	}
}
