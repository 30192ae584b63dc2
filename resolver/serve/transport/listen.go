// Package transport is a server's port: listening, TLS with certificates that are replaced
// while it runs, HTTP with limits that hold before anyone is identified, and an orderly end.
// It knows nothing of secrets, callers or what is served.
package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/net/netutil"

	"inject/resolver/secret"
	"inject/resolver/store"
)

// Limits are those of a port. They hold before a caller is identified.
type Limits struct {
	Connections int // at the same time; further ones wait to be accepted
	Streams     int // concurrent requests on one connection
	// Newcomers are the connections of one network at the same time that have no accepted
	// credentials yet; further ones are closed. OfIdentity are those of one identity; for a further
	// one an idle one is closed. Zero for the default, but at most a quarter of Connections. Without
	// TLS only [Bounded] has these limits.
	Newcomers, OfIdentity int

	// How long a client may take before it is disconnected; zero for the default.
	NewcomerTime time.Duration // from being accepted to the first good credentials: 10 s
	HeaderTime   time.Duration // for the TLS handshake, and for the header of a request: 10 s
	RequestTime  time.Duration // for sending the whole request: 30 s
	IdleTime     time.Duration // until the next request: 3 min
	UnreadTime   time.Duration // until it reads what the server has for it: 10 s
}

// The limits of a request. The handler enforces them, too.
const (
	MaxMessage  = 4 << 20          // bytes, also after gzip: a value of 1 MiB in JSON, and many small ones
	RequestTime = 30 * time.Second // until it is answered, unless Limits say otherwise
)

// The limits of a connection, and the defaults of [Limits].
const (
	HeaderTime   = 10 * time.Second
	NewcomerTime = 10 * time.Second
	IdleTime     = 3 * time.Minute
	AnswerTime   = 10 * time.Second // to read an answer, after the longest time for a request
	Newcomers    = 256
	OfIdentity   = 1000
	MaxHeader    = 16 << 10 // bytes
	PingAfter    = 30 * time.Second
	PingTime     = 15 * time.Second
	// UnreadTime is how long a client may leave unread what the server has for it, before its
	// connection is closed. Acknowledgements of floods would pile up otherwise.
	UnreadTime = 10 * time.Second
	// MaxFrame is the size of a frame in bytes, as HTTP/2 sets it. Each connection may keep one.
	MaxFrame = 16 << 10
	// MaxConnInput and MaxStreamInput are the bytes of bodies that a client may send before a
	// handler reads them.
	MaxConnInput   = 256 << 10
	MaxStreamInput = 64 << 10
	// The bytes that a connection without accepted credentials, and all those of one identity, may
	// send at once and in a second, beside what [Explained] counts.
	NewcomerBurst = 32 << 10
	NewcomerRate  = 16 << 10
	InputBurst    = 256 << 10
	InputRate     = 256 << 10
	// TakenBackInput is how many bytes of input a request counts as that its client took back.
	TakenBackInput = 1 << 10
	// Handshakes are those of one network that are computed at the same time.
	Handshakes = 4
	// MaxRefused is how many requests may be refused on a connection before credentials are accepted
	// on it. Then it is ended, since a handshake costs the client more than a request.
	MaxRefused = 16
	// HeaderTable is how many bytes of headers each side of a connection remembers, to send them
	// shorter. Some differ in every request, so that they would fill HTTP/2's default, 4096.
	HeaderTable = 512
)

// Listen opens a port for TLS. Without certificates it takes only a loopback address,
// because values would cross the network in the clear.
func Listen(ctx context.Context, address string, certificates *Certificates, l Limits) (net.Listener, error) {
	if certificates == nil {
		if err := CheckLoopback(address); err != nil {
			return nil, err
		}
	}
	var config net.ListenConfig
	port, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, secret.WithHint(fmt.Errorf("--listen: %w", err),
			"if another process has the address, end it or give another --listen")
	}
	if certificates == nil {
		port = netutil.LimitListener(port, l.Connections)
	} else {
		port = newConnections(port, l)
		if certificates.clients != nil {
			port = peerListener{port, certificates.clients}
		}
		port = tls.NewListener(port, certificates.TLS())
	}
	return port, nil
}

// Bounded returns port, which has no TLS, with the bounds of connections that [Listen] gives to one with TLS. The
// handler must call [Accepted] for each request that it answers.
func Bounded(port net.Listener, l Limits) net.Listener {
	bounded := newConnections(port, l)
	bounded.plain = true
	return bounded
}

// CheckLoopback returns nil if address is HOST:PORT with a host for which [store.Loopback] is
// true.
func CheckLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%w: listen: the address is not HOST:PORT", secret.ErrInvalid)
	}
	if store.Loopback(host) {
		return nil
	}
	return secret.WithHint(
		fmt.Errorf(
			"%w: without TLS the server listens on loopback only, and %s is another address", secret.ErrInvalid,
			address,
		),
		"give certificates with --cert-file, or listen on 127.0.0.1",
	)
}

// HTTP returns the HTTP server of a port. It serves h over HTTP/1.1 and HTTP/2, with or
// without TLS.
func HTTP(h http.Handler, l Limits, logger hclog.Logger) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	requestTime := cmp.Or(l.RequestTime, RequestTime)
	return &http.Server{
		Handler:   h,
		Protocols: &protocols,
		// Requests are short, so a client that sends its body slowly, or does not read its
		// answer, only holds memory. The handler's own deadline is earlier.
		ReadHeaderTimeout: cmp.Or(l.HeaderTime, HeaderTime), ReadTimeout: requestTime,
		WriteTimeout: requestTime + AnswerTime, IdleTimeout: cmp.Or(l.IdleTime, IdleTime),
		MaxHeaderBytes: MaxHeader,
		ConnContext:    withConn, ConnState: noteIdle,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: l.Streams, MaxReadFrameSize: MaxFrame,
			MaxDecoderHeaderTableSize: HeaderTable, MaxEncoderHeaderTableSize: HeaderTable,
			MaxReceiveBufferPerConnection: MaxConnInput, MaxReceiveBufferPerStream: MaxStreamInput,
			SendPingTimeout: PingAfter, PingTimeout: PingTime,
			WriteByteTimeout: cmp.Or(l.UnreadTime, UnreadTime),
		},
		ErrorLog: log.New(httpLog{logger}, "", 0),
	}
}

// httpLog takes the messages of net/http, which are mostly about mistakes of clients.
type httpLog struct{ hclog.Logger }

func (l httpLog) Write(p []byte) (int, error) {
	l.Debug("http", "said", string(p))
	return len(p), nil
}

// Serve serves the port until ctx ends. Then it accepts no more connections, asks clients to
// leave, and waits at most drain for requests in progress.
func Serve(ctx context.Context, server *http.Server, port net.Listener, drain time.Duration) error {
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(port) }()
	select {
	case err := <-failed:
		return fmt.Errorf("%w: serve: %w", secret.ErrUnavailable, err)
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	err := server.Shutdown(last)
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.Join(
			fmt.Errorf("%w: some requests were not answered within %v and were cut off", secret.ErrUnavailable, drain),
			server.Close(),
		)
	}
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
