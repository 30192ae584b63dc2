package store_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/store"
)

func TestLoopback(t *testing.T) {
	for _, c := range []struct {
		host string
		want bool
	}{
		{"localhost", true},
		{"LocalHost", true},
		{"localhost.", true},
		{"127.0.0.1", true},
		{"127.255.3.4", true},
		{"::1", true},
		{"0:0:0:0:0:0:0:1", true},
		{"::ffff:127.0.0.1", true},

		{"", false},
		{".", false},
		{"localhost..", false},
		{"localhost.example.com", false},
		{"localhost6", false},
		{"my-localhost", false},
		{"app.localhost", false}, // a resolver may send it anywhere
		{"localhost:80", false},
		{"[::1]", false},
		{"127.0.0.1.example.com", false},
		{"127.1", false}, // some resolvers read it as 127.0.0.1, others as a name
		{"0127.0.0.1", false},
		{"2130706433", false},
		{"128.0.0.1", false},
		{"0.0.0.0", false},
		{"::", false},
		{"::2", false},
		{"::ffff:128.0.0.1", false},
		{"::1%lo", false},
		{"fe80::1%lo", false},
		{"::ffff:127.0.0.1%eth0", false},
		{" localhost", false},
	} {
		t.Run(c.host, func(t *testing.T) { require.Equal(t, c.want, store.Loopback(c.host)) })
	}
}
