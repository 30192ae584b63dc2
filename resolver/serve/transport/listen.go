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

// Limits are of a port, whoever is calling: they hold before anyone is identified.
type Limits struct {
	Connections int // at the same time; more wait to be accepted
	Streams     int // requests at the same time on one connection

	// How long a client may take; zero for what is usual. Who is slower is cut off.
	HeaderTime  time.Duration // for the TLS handshake, and for saying what is wanted: 10 s
	RequestTime time.Duration // for sending all of it: 30 s
	IdleTime    time.Duration // until the next request: 3 min
}

// What a request may take. The handler enforces both, too.
const (
	MaxMessage  = 4 << 20          // bytes, also after gzip: a value of 1 MiB in JSON, and many small ones
	RequestTime = 30 * time.Second // until it is answered, unless Limits say otherwise
)

// What a connection may take.
const (
	headerTime   = 10 * time.Second
	idleTime     = 3 * time.Minute
	maxHeader    = 16 << 10 // bytes
	pingAfter    = 30 * time.Second
	pingTime     = 15 * time.Second
	maxFrame     = 64 << 10 // bytes; each connection may keep one
	maxConnInput = 4 * MaxMessage
)

// Listen opens a port. Without certificates only an address of this machine's own is
// taken: everyone on the way would read what is answered.
func Listen(ctx context.Context, address string, certificates *Certificates, l Limits) (net.Listener, error) {
	if certificates == nil {
		if err := CheckLoopback(address); err != nil {
			return nil, err
		}
	}
	var config net.ListenConfig
	port, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w: listen: %w", secret.ErrUnavailable, err)
	}
	port = netutil.LimitListener(port, l.Connections)
	if certificates != nil {
		port = tls.NewListener(port, certificates.TLS())
	}
	return port, nil
}

// CheckLoopback returns nil if address is HOST:PORT and the host is this machine's own.
func CheckLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%w: listen: an address is HOST:PORT", secret.ErrInvalid)
	}
	if store.Loopback(host) {
		return nil
	}
	return secret.WithHint(fmt.Errorf("%w: without TLS only this machine itself is served, and %s is not an address of its own", secret.ErrInvalid, address),
		"give certificates with --cert-file, or listen on 127.0.0.1")
}

// HTTP returns the HTTP server of a port with the handler h: HTTP/1.1 and HTTP/2, also
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
		// A request is short: one whose body comes in drops, or whose answer is not
		// fetched, holds memory. The handler's own time ends before.
		ReadHeaderTimeout: cmp.Or(l.HeaderTime, headerTime), ReadTimeout: requestTime,
		WriteTimeout: requestTime + 10*time.Second, IdleTimeout: cmp.Or(l.IdleTime, idleTime),
		MaxHeaderBytes: maxHeader,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: l.Streams, MaxReadFrameSize: maxFrame,
			MaxReceiveBufferPerConnection: maxConnInput, MaxReceiveBufferPerStream: MaxMessage,
			SendPingTimeout: pingAfter, PingTimeout: pingTime,
		},
		ErrorLog: log.New(httpLog{logger}, "", 0),
	}
}

// httpLog is what net/http says, mostly of what clients did wrong.
type httpLog struct{ hclog.Logger }

func (l httpLog) Write(p []byte) (int, error) {
	l.Debug("http", "said", string(p))
	return len(p), nil
}

// Serve serves the port until ctx ends; then no connection is accepted, clients are told
// to go elsewhere, and requests that have begun are answered, for at most drain.
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
		err = errors.Join(fmt.Errorf("%w: some requests were not answered within %v, and are cut off", secret.ErrUnavailable, drain), server.Close())
	}
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
