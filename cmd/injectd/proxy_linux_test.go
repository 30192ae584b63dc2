package main_test

import (
	mrand "math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// A proxy stands between the clients and a server, and cuts their connections on request, at any
// byte and in both directions.
type proxy struct {
	port    net.Listener
	to      func() string // the server of the next connection
	cutting atomic.Bool
	cuts    atomic.Int64
	running sync.WaitGroup
	mu      sync.Mutex
	conns   map[net.Conn]bool
}

func newProxy(t *testing.T, to func() string) *proxy {
	t.Helper()
	port, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{port: port, to: to, conns: map[net.Conn]bool{}}
	p.running.Go(func() {
		for {
			client, err := port.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", p.to())
			if err != nil {
				_ = client.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
				p.mu.Lock()
				p.conns[pair[0]] = true
				p.mu.Unlock()
				p.running.Go(func() { p.pass(pair[0], pair[1]) })
			}
		}
	})
	return p
}

func (p *proxy) pass(from, to net.Conn) {
	b := make([]byte, 16<<10)
	for {
		n, err := from.Read(b[:1+mrand.IntN(len(b))])
		cut := n > 0 && p.cutting.Load() && mrand.IntN(30) == 0
		if cut {
			p.cuts.Add(1)
			n = mrand.IntN(n)
			if tcp, ok := to.(*net.TCPConn); ok && mrand.IntN(2) == 0 {
				_ = tcp.SetLinger(0) // a reset, and not an end
			}
		}
		if _, err2 := to.Write(b[:n]); err != nil || err2 != nil || cut {
			break
		}
	}
	_, _ = from.Close(), to.Close()
	p.mu.Lock()
	delete(p.conns, from)
	p.mu.Unlock()
}

func (p *proxy) close() {
	_ = p.port.Close()
	p.mu.Lock()
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
}
