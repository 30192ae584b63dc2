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
	n, accepted, dial := bounded(t, Limits{Connections: all, Newcomers: all + 1, OfIdentity: all})

	var taken []*connection
	for i := range all {
		dial(1)
		c := <-accepted
		require.True(t, c.accepted(map[bool]string{true: "few", false: "many"}[i == 0]))
		taken = append(taken, c)
	}
	taken[0].idle.Store(1)
	time.Sleep(10 * roomAgain)
	require.False(t, ended(taken[0]), "there is room for it")
	taken[0].idle.Store(0)

	dial(1)
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
	require.True(t, taken[all].accepted("few"))

	dial(1)
	time.Sleep(2 * roomAgain)
	require.NoError(t, n.Close())
	_, more := <-accepted
	require.False(t, more)
}

// Newcomers of many networks, which fill a port together, make room for each other, and take the
// place of no known client. The network with the most makes room first.
func TestNewcomersMakeRoomForEachOther(t *testing.T) {
	t.Parallel()
	const all, known, each = 16, 10, 3
	n, accepted, dial := bounded(t, Limits{Connections: all, Newcomers: each, OfIdentity: all})
	var clients []*connection
	for i := range known {
		dial(1)
		c := <-accepted
		require.True(t, c.accepted(map[bool]string{true: "few", false: "many"}[i == 0]))
		c.idle.Store(int64(i + 1))
		clients = append(clients, c)
	}
	dial(2)
	modest := <-accepted
	for range 5 * all { // there is never room for all six
		dial(3)
		dial(4)
		<-accepted
		<-accepted
	}
	require.False(t, ended(modest), "its network has fewer than others")
	require.True(t, modest.accepted("late"))
	for network := range byte(5 * all) {
		for range each {
			dial(5 + network)
			<-accepted
		}
	}
	for i, c := range append(clients, modest) {
		require.False(t, ended(c), "client %d", i)
	}
	require.NoError(t, n.Close())
	require.Len(t, n.places, all)
}

// bounded returns a port with the limits, what it accepts, and a function that connects to it from
// the network 127.0.0.from.
func bounded(t *testing.T, l Limits) (n *connections, accepted chan *connection, dial func(from byte)) {
	t.Helper()
	port, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	n = newConnections(port, l)
	accepted = make(chan *connection, 2*l.Connections)
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
	return n, accepted, func(from byte) {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, from)}}
		c, err := d.DialContext(t.Context(), "tcp", port.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
	}
}

func ended(c *connection) bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}
