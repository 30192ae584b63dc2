package attack

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	resolve = "inject.v1.ResolveService/Resolve"
	list    = "flyteidl2.secret.SecretService/ListSecrets"
	whoami  = "inject.v1.WhoAmIService/WhoAmI"
	health  = "grpc.health.v1.Health/Check"
)

// requests are the attacks by requests that a usual client could send.
var requests = []Attack{
	{Name: "bodies that do not end", Bound: "body", run: func(ctx context.Context, a *attacker) {
		a.repeat(ctx, 300, func() *http.Request {
			return a.request(ctx, resolve, &stuck{ctx: ctx, left: 4<<20 - 1})
		})
	}},
	{Name: "bodies without credentials", Stranger: true, Bound: "open", run: func(ctx context.Context, a *attacker) {
		a.repeat(ctx, 300, func() *http.Request {
			return a.request(ctx, health, &stuck{ctx: ctx, left: 4<<20 - 1})
		})
	}},
	{Name: "compressed lists", Bound: "body", run: func(ctx context.Context, a *attacker) {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		_, _ = w.Write(bytes.Repeat([]byte{0x12, 0}, 2<<20-100)) // to memory
		_ = w.Close()
		a.repeat(ctx, 50, func() *http.Request {
			r := a.request(ctx, resolve, bytes.NewReader(z.Bytes()))
			r.Header.Set("Content-Type", "application/proto")
			r.Header.Set("Content-Encoding", "gzip")
			return r
		})
	}},
	{Name: "climbs", Bound: "climb", run: func(ctx context.Context, a *attacker) {
		body := keys("ABSENT_%d", 2000)
		a.repeat(ctx, 100, func() *http.Request { return a.request(ctx, resolve, strings.NewReader(body)) })
	}},
	{Name: "large answers", Bound: "answer", run: func(ctx context.Context, a *attacker) {
		body := keys("LARGE_%d", 31)
		a.repeat(ctx, 20, func() *http.Request {
			r := a.request(ctx, resolve, strings.NewReader(body))
			r.Header.Set("Accept-Encoding", "gzip")
			return r
		})
	}},
	{Name: "scans", Bound: "scan", run: func(ctx context.Context, a *attacker) {
		a.repeat(ctx, 400, func() *http.Request { return a.request(ctx, list, strings.NewReader("{}")) })
	}},
	{Name: "audit lines", Bound: "audit", run: func(ctx context.Context, a *attacker) {
		body := keys(strings.Repeat("K", 230)+"%d", 200)
		body = strings.Replace(body, "{", `{"scope":{"project":"another","domain":"d"},`, 1)
		a.repeat(ctx, 50, func() *http.Request { return a.request(ctx, resolve, strings.NewReader(body)) })
	}},
	{Name: "rate", Bound: "rate", run: func(ctx context.Context, a *attacker) {
		body := keys("K%d", 4096)
		a.repeat(ctx, 100, func() *http.Request { return a.request(ctx, resolve, strings.NewReader(body)) })
	}},
	{Name: "connections", run: func(ctx context.Context, a *attacker) {
		a.connect(ctx, 3000, func(c net.Conn) error {
			_, err := io.WriteString(c, "POST /"+whoami+" HTTP/1.1\r\nHost: localhost\r\n"+
				"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
			return err
		})
	}},
	{Name: "connections without credentials", Stranger: true, run: func(ctx context.Context, a *attacker) {
		a.connect(ctx, 3000, func(net.Conn) error { return nil })
	}},
	{Name: "headers that do not end", run: func(ctx context.Context, a *attacker) {
		a.connect(ctx, 1000, func(c net.Conn) error {
			text := "POST /" + list + " HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
			for {
				if _, err := io.WriteString(c, text); err != nil {
					return err
				}
				a.sent.Add(1)
				text = strings.Repeat("x", 1000)
				soon(ctx, time.Second)
			}
		})
	}},
}

// keys returns the body of a Resolve of n keys, named by format.
func keys(format string, n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`{"key":"`+format+`"}`, i)
	}
	return `{"secrets":[` + strings.Join(all, ",") + `]}`
}

// stuck is a body that stops before its end.
type stuck struct {
	ctx  context.Context //nolint:containedctx // of the attack
	left int
}

func (s *stuck) Read(p []byte) (int, error) {
	if s.left == 0 {
		<-s.ctx.Done()
		return 0, io.ErrUnexpectedEOF
	}
	n := min(len(p), s.left)
	for i := range p[:n] {
		p[i] = ' '
	}
	s.left -= n
	return n, nil
}

func (a *attacker) request(ctx context.Context, method string, body io.Reader) *http.Request {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+a.Address+"/"+method, body)
	if err != nil {
		panic(err) // of an address that the caller made up
	}
	r.Header.Set("Content-Type", "application/json")
	return r
}

// repeat sends n requests at a time.
func (a *attacker) repeat(ctx context.Context, n int, next func() *http.Request) {
	client := a.client(8)
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			for ctx.Err() == nil {
				a.sent.Add(1)
				answer, err := client.Do(next())
				if err != nil {
					a.answered("reset")
					soon(ctx, 10*time.Millisecond)
					continue
				}
				_, _ = io.Copy(io.Discard, answer.Body)
				_ = answer.Body.Close()
				a.answered(answer.Status[:3])
			}
		})
	}
	all.Wait()
}

// connect keeps n connections open, or as many as the server lets it. It calls begin on each.
func (a *attacker) connect(ctx context.Context, n int, begin func(net.Conn) error) {
	config := a.tls.Clone()
	config.NextProtos = []string{"http/1.1"}
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			for ctx.Err() == nil {
				c, err := dialer.DialContext(ctx, "tcp", a.Address)
				if err == nil {
					a.hold(ctx, tls.Client(c, config), begin)
				}
				soon(ctx, 100*time.Millisecond)
			}
		})
	}
	all.Wait()
}

func (a *attacker) hold(ctx context.Context, c net.Conn, begin func(net.Conn) error) {
	defer c.Close() //nolint:errcheck // an attacker's
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	a.open.Add(1)
	defer a.open.Add(-1)
	go func() { _ = begin(c) }()
	_, _ = io.Copy(io.Discard, c)
	a.ended.Add(1)
}
