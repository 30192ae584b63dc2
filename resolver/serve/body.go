package serve

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"

	"inject/internal/shares"
	"inject/resolver/serve/transport"
)

// The bounds of the bodies that are held at the same time, in bytes. While a body is read and
// decoded it takes about three times its size.
const (
	maxOpenBodies = 2 << 20   // of all requests for services that need no credentials
	maxNetBodies  = 256 << 10 // of those of one network
	openMessage   = 4 << 10   // a message of such a service
	openBody      = 2 * openMessage
	openTime      = 5 * time.Second // for such a request
)

// Bodies and answers are charged with the smallest of these sizes that they fit into, at most the
// last. Growing in few steps lets few requests wait for more while they hold a part.
var (
	bodySteps   = []int64{4 << 10, 64 << 10, MaxMessage}
	answerSteps = []int64{4 << 10, 64 << 10, 1 << 20, 4 << 20, maxAnswer}
)

// step returns the step for size bytes.
func step(steps []int64, size int64) int64 {
	for _, n := range steps {
		if size <= n {
			return n
		}
	}
	return steps[len(steps)-1]
}

// A chargedBody takes the share of its bytes before it reads them.
type chargedBody struct {
	io.ReadCloser

	s    *Server
	c    *caller
	ctx  context.Context //nolint:containedctx // of the request that the body belongs to
	held *shares.Hold
	read int64
}

// charge takes the first step of a body's share, or all of it if the length is known or the
// body is compressed: then its length says nothing. The hold is c.body, which must be closed, also
// after an error.
func (s *Server) charge(r *http.Request, c *caller) error {
	c.body = s.bodies.Hold(c.name())
	b := &chargedBody{ReadCloser: r.Body, s: s, c: c, ctx: r.Context(), held: c.body}
	size := max(r.ContentLength, 1)
	for _, h := range []string{"Content-Encoding", "Connect-Content-Encoding", "Grpc-Encoding"} {
		if e := r.Header.Get(h); e != "" && !strings.EqualFold(e, "identity") {
			size = MaxMessage
		}
	}
	if err := b.room(size); err != nil {
		return err
	}
	r.Body = b
	late := func() { _ = c.control.SetReadDeadline(time.Unix(1, 0)) }
	c.body.MayYield(late)
	c.place.MayYield(late)
	return nil
}

// room grows the hold to the step for size bytes.
func (b *chargedBody) room(size int64) error {
	if b.held.Grow(b.ctx, step(bodySteps, size)-b.held.Size()) != nil {
		return b.s.exhausted(b.c, "body", "the server holds too many requests at the moment")
	}
	return nil
}

// Read implements [io.Reader]. What is over MaxMessage is not charged, because it is dropped.
func (b *chargedBody) Read(p []byte) (int, error) {
	if b.read < MaxMessage {
		if b.read >= b.held.Size() {
			if err := b.room(b.read + 1); err != nil {
				return 0, err
			}
		}
		p = p[:min(int64(len(p)), b.held.Size()-b.read)]
	}
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	transport.Explained(b.ctx, n)
	if err != nil && (b.held.Yielded() || b.c.place.Yielded()) {
		return n, b.s.exhausted(b.c, "body", "the server gave the place of this slow request to another")
	}
	return n, err
}

// open bounds the requests for services that need no credentials: a few KiB, for a few
// seconds, and few at a time for each network.
func (s *Server) open(next http.Handler) http.Handler {
	refusals := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := s.local(r)
		network := transport.Network(r.RemoteAddr)
		c := &caller{}
		served := s.take(r.Context(), s.arrivals, network, c)
		defer c.place.Close()
		held := s.openBodies.Hold(network)
		defer held.Close()
		if err == nil && (!served || held.Grow(r.Context(), openBody) != nil) {
			err = s.exhausted(c, "open", "too many requests without credentials at the same time")
		}
		// The context ends neither a read of the body nor a write of the answer.
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(time.Now().Add(openTime))
		_ = control.SetWriteDeadline(time.Now().Add(openTime))
		if err != nil {
			s.metrics.refused(connect.CodeOf(err))
			_ = refusals.Write(w, r, err) // an error means that the client is gone
			flush(r, control)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), openTime)
		defer cancel()
		r.Body = http.MaxBytesReader(w, r.Body, openBody)
		next.ServeHTTP(w, r.WithContext(ctx))
		flush(r, control)
	})
}
