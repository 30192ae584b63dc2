package guard

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
)

// A direct is a connection to a store without TLS. It saves copies of large bodies: the kernel passes
// those of answers from it to the task (splice, on Linux), and what is searched is written at once, not
// in the pieces of 32 KiB of package net.
type direct struct {
	*net.TCPConn

	to   io.ReaderFrom // if not nil, a read goes there in place of its buffer
	went bool          // one has
}

// dialDirect returns a function that dials for a [http.Transport].
func dialDirect(d *net.Dialer) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, addr)
		if tcp, ok := c.(*net.TCPConn); ok {
			return &direct{TCPConn: tcp}, nil
		}
		return c, err
	}
}

// Read implements [io.Reader].
func (d *direct) Read(p []byte) (int, error) {
	if d.to == nil {
		return d.TCPConn.Read(p)
	}
	d.went = true
	n, err := d.to.ReadFrom(&io.LimitedReader{R: d.TCPConn, N: int64(len(p))})
	if err == nil && n < int64(len(p)) {
		err = io.EOF
	}
	return int(n), err
}

// ReadFrom implements [io.ReaderFrom].
func (d *direct) ReadFrom(r io.Reader) (int64, error) {
	if part, ok := r.(*io.LimitedReader); ok { // of a request's body
		if body, ok := part.R.(io.WriterTo); ok {
			n, err := body.WriteTo(&atMost{d.TCPConn, part.N})
			part.N -= n
			return n, err
		}
	}
	return d.TCPConn.ReadFrom(r)
}

// An atMost takes no more bytes than the head of a request has announced: the store would take more for
// another request.
type atMost struct {
	to   io.Writer
	left int64
}

// Write implements [io.Writer].
func (a *atMost) Write(p []byte) (int, error) {
	if int64(len(p)) > a.left {
		return 0, errLong
	}
	n, err := a.to.Write(p)
	a.left -= int64(n)
	return n, err
}

// usedKey is the key of the *direct by which a request was sent, in its context.
type usedKey struct{}

// relayed returns a context for a request whose answer relay may pass.
func relayed(ctx context.Context) context.Context {
	used := new(*direct)
	return httptrace.WithClientTrace(context.WithValue(ctx, usedKey{}, used), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { *used, _ = info.Conn.(*direct) },
	})
}

// relay passes a large body in the kernel, if it can: all of it but the end, which fits into buf. The
// transport counts what was read from its connection, and buf is only filled by what it had read ahead.
// It reads past its own buffer, because buf is larger.
func relay(w http.ResponseWriter, resp *http.Response, buf []byte) error {
	used, _ := resp.Request.Context().Value(usedKey{}).(**direct)
	to, ok := w.(io.ReaderFrom)
	if used == nil || *used == nil || !ok {
		return nil
	}
	d := *used
	for left := resp.ContentLength; left > int64(len(buf)); {
		d.to, d.went = to, false
		n, err := resp.Body.Read(buf)
		d.to = nil
		if !d.went && err == nil {
			_, err = w.Write(buf[:n])
		}
		if err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}
