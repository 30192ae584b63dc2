package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// newcomers bounds the connections without accepted credentials: how long each may stay, and how
// many there are of one network. Otherwise a client without credentials could take all
// connections of the port.
type newcomers struct {
	net.Listener

	each int           // of one network
	time time.Duration // of one connection

	mu sync.Mutex
	by map[string]int
}

// Accept implements [net.Listener]. It closes connections that exceed the share of their network.
func (n *newcomers) Accept() (net.Conn, error) {
	for {
		c, err := n.Listener.Accept()
		if err != nil {
			return nil, err
		}
		network := Network(c.RemoteAddr().String())
		if !n.enter(network) {
			_ = c.Close()
			continue
		}
		one := &newcomer{Conn: c}
		one.leave = sync.OnceFunc(func() { n.left(network) })
		one.timer = time.AfterFunc(n.time, func() {
			one.leave()
			_ = c.Close()
		})
		return one, nil
	}
}

func (n *newcomers) enter(network string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.by[network] >= n.each {
		return false
	}
	n.by[network]++
	return true
}

func (n *newcomers) left(network string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.by[network]--; n.by[network] == 0 {
		delete(n.by, network)
	}
}

// A newcomer is a connection that counts as one until it is known or closed.
type newcomer struct {
	net.Conn

	leave func()
	timer *time.Timer
}

// known ends the bounds.
func (c *newcomer) known() {
	c.timer.Stop()
	c.leave()
}

// Close implements [net.Conn].
func (c *newcomer) Close() error {
	c.known()
	return c.Conn.Close()
}

type newcomerKey struct{}

// withConn returns ctx with the connection, for Accepted.
func withConn(ctx context.Context, c net.Conn) context.Context {
	if over, ok := c.(*tls.Conn); ok {
		c = over.NetConn()
	}
	if over, ok := c.(*peerConn); ok {
		c = over.Conn
	}
	if one, ok := c.(*newcomer); ok {
		return context.WithValue(ctx, newcomerKey{}, one)
	}
	return ctx
}

// Accepted tells the port that the credentials of a request were accepted. ctx is the context of
// the request. From then on its connection may stay, and does not count to the share of those
// without credentials. It may be called many times and at the same time.
func Accepted(ctx context.Context) {
	if one, ok := ctx.Value(newcomerKey{}).(*newcomer); ok {
		one.known()
	}
}

// share is the share of one network of the connections without credentials.
func (l Limits) share() int { return cmp.Or(l.Newcomers, max(1, l.Connections/4)) }
