package transport

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// If all places are taken, a new connection gets that of an idle one as soon as there is one, and
// none is ended before there is a new one.
func TestRoomForNewConnections(t *testing.T) {
	t.Parallel()
	const all = 4
	port, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	n := newConnections(port, Limits{Connections: all, Newcomers: all + 1, OfIdentity: all})
	accepted := make(chan *connection, 2*all)
	go func() {
		for {
			c, err := n.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- under(c)
		}
	}()
	dial := func() {
		c, err := net.Dial("tcp", port.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
	}
	ended := func(c *connection) bool {
		select {
		case <-c.closed:
			return true
		default:
			return false
		}
	}

	var taken []*connection
	for i := range all {
		dial()
		c := <-accepted
		require.True(t, c.accepted(map[bool]string{true: "few", false: "many"}[i == 0]))
		taken = append(taken, c)
	}
	taken[0].idle.Store(1)
	time.Sleep(10 * roomAgain)
	require.False(t, ended(taken[0]), "there is room for it")
	taken[0].idle.Store(0)

	dial()
	select {
	case <-accepted:
		require.Fail(t, "there is no room")
	case <-time.After(10 * roomAgain):
	}
	taken[0].idle.Store(1) // those of the identity with the most have requests
	taken = append(taken, <-accepted)
	for i, c := range taken {
		require.Equal(t, i == 0, ended(c))
	}

	dial()
	time.Sleep(2 * roomAgain)
	require.NoError(t, n.Close())
	_, more := <-accepted
	require.False(t, more)
}
