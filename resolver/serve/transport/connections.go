package transport

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// connections bounds those of a port: how many there are, how many each identity has, and of those
// without accepted credentials how long each may stay and how many each network has. Otherwise one
// client could take all of them.
type connections struct {
	net.Listener

	plain  bool // it has no TLS
	limits Limits
	places chan struct{} // one for each connection
	closed chan struct{}
	close  func()

	mu        sync.Mutex
	newcomers map[string]*network
	known     map[string]*peer
}

// A network has connections without accepted credentials.
type network struct {
	n   int
	all map[*connection]struct{} // those of the n that have a place
	// turns are handshakes that compute something. The processors are for those of other networks,
	// too, so few compute at the same time.
	turns chan struct{}
}

// A peer is an identity with connections.
type peer struct {
	all   map[*connection]struct{}
	input *budget
}

func newConnections(port net.Listener, l Limits) *connections {
	n := &connections{
		Listener: port, limits: l, places: make(chan struct{}, l.Connections), closed: make(chan struct{}),
		newcomers: map[string]*network{}, known: map[string]*peer{},
	}
	n.close = sync.OnceFunc(func() { close(n.closed) })
	return n
}

var errClosed = errors.New("the port is closed")

// roomAgain is after how long a new connection looks again for an idle one that can be ended.
const roomAgain = 20 * time.Millisecond

// Accept implements [net.Listener]. It closes connections that exceed the share of their network. If
// all places are taken, it ends others: see makeRoom.
func (n *connections) Accept() (net.Conn, error) {
	for {
		c, err := n.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := Network(c.RemoteAddr().String())
		at := n.enter(from)
		if at == nil {
			_ = c.Close()
			continue
		}
		one := &connection{
			Conn: c, of: n, at: at, since: time.Now(), input: newBudget(NewcomerBurst, NewcomerRate),
			known: make(chan struct{}), closed: make(chan struct{}),
		}
		if !n.takePlace() {
			n.left(from, one)
			_ = c.Close()
			return nil, errClosed
		}
		one.leave = sync.OnceFunc(func() { n.left(from, one) })
		one.end = sync.OnceFunc(func() {
			close(one.closed)
			one.computed()
			<-n.places
		})
		one.timer = time.AfterFunc(time.Hour, func() { _ = one.Close() })
		n.mu.Lock()
		at.all[one] = struct{}{}
		n.mu.Unlock()
		one.timer.Reset(cmp.Or(n.limits.NewcomerTime, NewcomerTime)) // it may be over at once, and uses one
		return one, nil
	}
}

// Close implements [net.Listener].
func (n *connections) Close() error {
	n.close()
	return n.Listener.Close()
}

// enter returns the network from, nil if it has too many newcomers.
func (n *connections) enter(from string) *network {
	n.mu.Lock()
	defer n.mu.Unlock()
	at := n.newcomers[from]
	switch {
	case at == nil:
		at = &network{all: map[*connection]struct{}{}, turns: make(chan struct{}, Handshakes)}
		n.newcomers[from] = at
	case at.n >= n.limits.newcomers():
		return nil
	}
	at.n++
	return at
}

func (n *connections) left(from string, c *connection) {
	n.mu.Lock()
	defer n.mu.Unlock()
	at := n.newcomers[from]
	delete(at.all, c)
	if at.n--; at.n == 0 {
		delete(n.newcomers, from)
	}
}

// takePlace waits for a place, and ends other connections until there is one. It returns false if the
// port is closed.
func (n *connections) takePlace() bool {
	for {
		select {
		case n.places <- struct{}{}:
			return true
		default:
			n.makeRoom()
		}
		select {
		case n.places <- struct{}{}:
			return true
		case <-n.closed:
			return false
		case <-time.After(roomAgain): // all had a request, and one may be idle now
		}
	}
}

// makeRoom ends a connection. Newcomers that have a quarter of all places or more make room for each
// other: the oldest of the network with the most is ended, so that no flood of them takes the places
// of known clients, or of other networks. Otherwise it ends an idle connection, of the identity with
// the most that has an idle one. A request that the client sends just then is lost: net/http has no
// GOAWAY for one connection without an answer on it.
func (n *connections) makeRoom() {
	n.mu.Lock()
	var last *connection
	most, newcomers := 0, 0
	for _, at := range n.newcomers {
		if newcomers += len(at.all); len(at.all) > most {
			last, most = oldest(at.all), len(at.all)
		}
	}
	if newcomers < n.limits.quarter() {
		last, most = nil, 0
		for _, one := range n.known {
			if len(one.all) > most {
				if c := longestIdle(one.all); c != nil {
					last, most = c, len(one.all)
				}
			}
		}
	}
	n.mu.Unlock()
	if last != nil {
		_ = last.Close()
	}
}

// oldest returns the connection that was accepted first.
func oldest(all map[*connection]struct{}) (first *connection) {
	for c := range all {
		if first == nil || c.since.Before(first.since) {
			first = c
		}
	}
	return first
}

// longestIdle returns the connection without a request for the longest time, nil if all have one.
func longestIdle(all map[*connection]struct{}) (longest *connection) {
	var since int64
	for c := range all {
		if at := c.idle.Load(); at != 0 && (longest == nil || at < since) {
			longest, since = c, at
		}
	}
	return longest
}

// A connection is a newcomer until credentials are accepted on it. Then it counts to their
// identity, until it is closed.
type connection struct {
	net.Conn

	of     *connections
	at     *network
	leave  func() // the newcomers
	end    func() // gives its place back
	timer  *time.Timer
	since  time.Time // it was accepted
	input  *budget   // while it is a newcomer
	closed chan struct{}
	idle   atomic.Int64 // since when, in nanoseconds; 0 during a request
	turn   atomic.Bool  // it has one of at.turns
	failed atomic.Int64 // refused requests while it is a newcomer

	known chan struct{} // closed when who and peer are set
	who   string        // set with of.mu
	peer  *peer
	gone  bool // it is closed; guarded by of.mu
}

// Read implements [net.Conn]. It delays what exceeds the budget of input.
func (c *connection) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	select {
	case <-c.known:
	default:
		if c.input.wait(n, c.closed, c.known) {
			return n, err
		}
	}
	c.peer.input.wait(n, c.closed, nil)
	return n, err
}

// Write implements [net.Conn].
func (c *connection) Write(p []byte) (int, error) {
	c.computed()
	if !c.of.plain && bytes.HasPrefix(p, []byte("HTTP/")) {
		_, err := io.WriteString(c.Conn, withoutTLS)
		return len(p), err
	}
	return c.Conn.Write(p)
}

// withoutTLS is the answer to a request that came without TLS. No record of TLS begins with its first
// letter: net/http writes its own answer of one line below TLS, which clients of the Connect protocol
// would show as "Bad Request".
var withoutTLS = func() string {
	const body = `{"code":"failed_precondition","message":"this port takes TLS only, and the request came without: ` +
		`leave out --insecure, and insecure in the configuration"}`
	return fmt.Sprintf("HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"+
		"Connection: close\r\n\r\n%s", len(body), body)
}()

// compute waits for a turn to compute a handshake. It ends with the first byte that is sent.
func (c *connection) compute() {
	select {
	case c.at.turns <- struct{}{}:
		c.turn.Store(true)
		select {
		case <-c.closed: // meanwhile
			c.computed()
		default:
		}
	case <-c.closed:
	}
}

func (c *connection) computed() {
	if c.turn.CompareAndSwap(true, false) {
		<-c.at.turns
	}
}

// accepted counts c to the identity who. If that has too many, it ends one that is idle, or else
// returns false.
func (c *connection) accepted(who string) bool {
	select {
	case <-c.known:
		return true
	default:
	}
	n := c.of
	n.mu.Lock()
	one := n.known[who]
	var idle *connection
	switch {
	case c.peer != nil:
		n.mu.Unlock()
		return true
	case one == nil:
		one = &peer{all: map[*connection]struct{}{}, input: newBudget(InputBurst, InputRate)}
	case len(one.all) >= n.limits.ofIdentity():
		if idle = longestIdle(one.all); idle == nil {
			n.mu.Unlock()
			return false
		}
		delete(one.all, idle)
	}
	c.who, c.peer = who, one
	if !c.gone {
		n.known[who] = one
		one.all[c] = struct{}{}
	}
	n.mu.Unlock()
	close(c.known)
	if idle != nil {
		_ = idle.Close()
	}
	c.timer.Stop()
	c.leave()
	return true
}

// Close implements [net.Conn].
func (c *connection) Close() error {
	c.timer.Stop()
	c.leave()
	c.end()
	c.of.forget(c)
	return c.Conn.Close()
}

// forget no longer counts c to its identity.
func (n *connections) forget(c *connection) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c.gone = true
	if c.peer == nil {
		return
	}
	if delete(c.peer.all, c); len(c.peer.all) == 0 && n.known[c.who] == c.peer {
		delete(n.known, c.who)
	}
}

type connectionKey struct{}

// under returns the connection under TLS, nil for a port without TLS.
func under(c net.Conn) *connection {
	if over, ok := c.(*tls.Conn); ok {
		c = over.NetConn()
	}
	if over, ok := c.(*peerConn); ok {
		c = over.Conn
	}
	one, _ := c.(*connection)
	return one
}

// withConn returns ctx with the connection, for Accepted.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, under(c))
}

// noteIdle notes when the requests on a connection begin and end.
func noteIdle(c net.Conn, state http.ConnState) {
	one := under(c)
	switch {
	case one == nil:
	case state == http.StateIdle:
		one.idle.Store(time.Now().UnixNano())
	default:
		one.idle.Store(0)
	}
}

// Accepted tells the port that the credentials of a request were accepted, as those of the identity
// who. ctx is the context of the request. From then on its connection may stay, counts to that
// identity, and no longer to those without credentials. It returns false if the identity has too
// many connections, all with requests: then the request must be refused. It may be called many
// times and at the same time; only the first call for a connection counts.
func Accepted(ctx context.Context, who string) bool {
	one, _ := ctx.Value(connectionKey{}).(*connection)
	return one == nil || one.accepted(who)
}

// Refused tells the port that a request was refused for its credentials. ctx is the context of the
// request. It returns true if the connection has had so many of them that the answer must ask the
// client to close it.
func Refused(ctx context.Context) bool {
	one, _ := ctx.Value(connectionKey{}).(*connection)
	if one == nil {
		return false
	}
	select {
	case <-one.known:
		return false
	default:
		return one.failed.Add(1) >= MaxRefused
	}
}

// Explained tells the port that n bytes of input were a good request, or part of its body. ctx is
// the context of the request. They do not count to the input of its identity that is bounded.
func Explained(ctx context.Context, n int) {
	one, _ := ctx.Value(connectionKey{}).(*connection)
	if one == nil {
		return
	}
	select {
	case <-one.known:
		one.peer.input.give(n)
	default:
	}
}

// TakenBack tells the port that the client took a request back. ctx is the context of the request. It
// has cost the server more than its frames say, so [TakenBackInput] more bytes count to the input of
// its identity.
func TakenBack(ctx context.Context) { Explained(ctx, -TakenBackInput) }

// newcomers is the share of one network of the connections without accepted credentials.
func (l Limits) newcomers() int { return cmp.Or(l.Newcomers, min(Newcomers, l.quarter())) }

// ofIdentity is the share of one identity of all connections.
func (l Limits) ofIdentity() int { return cmp.Or(l.OfIdentity, min(OfIdentity, l.quarter())) }

func (l Limits) quarter() int { return max(1, l.Connections/4) }
