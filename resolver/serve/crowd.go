package serve

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"inject/internal/shares"
)

// A crowd bounds the requests of each caller that are under way, in whatever state: each takes
// memory for its header, its goroutine and the input that waits for it. As many more may wait to
// be served, and those beyond are dropped, since an answer that the client does not read takes
// memory, too. It is safe for concurrent use.
type crowd struct{ served, waiting *shares.Shares }

func newCrowd(all, each int64) *crowd {
	return &crowd{shares.New(all, each, true), shares.New(all, each, false)}
}

// enter returns the place of a request of the caller name, which must be closed. It waits as [shares.Hold.Grow]
// does. Then served is false if the request must be turned away. The place is nil if it must be
// dropped.
func (c *crowd) enter(ctx context.Context, name string) (at *shares.Hold, served bool) {
	at = c.served.Hold(name)
	if at.Try(1) {
		return at, true
	}
	waiting := c.waiting.Hold(name)
	if !waiting.Try(1) {
		at.Close()
		waiting.Close()
		return nil, false
	}
	if at.Grow(ctx, 1) != nil {
		at.Close()
		return waiting, false
	}
	waiting.Close()
	return at, true
}

// retryHeader is in each refusal for which the same request may succeed later. It is the
// header of HTTP (RFC 9110, 10.2.3), in seconds; package rpc tries again because of it.
const retryHeader = "Retry-After"

// exhausted returns the error for a request of c that exceeds its share of what, and counts it.
func (s *Server) exhausted(c *caller, what, text string) *connect.Error {
	s.metrics.exhausted.WithLabelValues(what).Inc()
	c.reason = text
	err := connect.NewError(connect.CodeResourceExhausted, errors.New(text+": try again later"))
	err.Meta().Set(retryHeader, "1")
	return err
}
