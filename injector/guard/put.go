package guard

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"inject/exec/redact"
	"inject/injector/outputs"
	"inject/injector/outputs/content"
)

// putObject stores an object.
func (g *Guard) putObject(w http.ResponseWriter, r *request) error {
	b, err := bodyOf(r)
	if err != nil {
		return err
	}
	var resp *http.Response
	if b.size <= maxHeld {
		resp, err = g.putHeld(r, b)
	} else {
		resp, err = g.putLarge(r, b)
	}
	if err != nil {
		return err
	}
	if resp.StatusCode/100 == 2 {
		g.stored(r.object)
	}
	g.answer(w, resp)
	return nil
}

// putHeld stores an object that is small enough to be masked.
func (g *Guard) putHeld(r *request, b *body) (*http.Response, error) {
	h, err := g.memory.hold(r.Context(), b, b.size)
	if err != nil {
		return nil, err
	}
	defer h.release()
	if err := b.finish(); err != nil {
		return nil, err
	}
	out := g.sending(r)
	b.unchunk(&out)

	instead, err := g.inspect(r.Context(), r.object, h)
	switch {
	case err != nil:
		return nil, err
	case instead != nil:
		r.store.changed(&out, instead)
		out.body, out.length = bytes.NewReader(instead), int64(len(instead))
	default:
		out.body, out.length = h.body(), h.size
		if b.chunked {
			out.hash, err = hashOf(h.reader())
		}
	}
	if err != nil {
		return nil, err
	}
	return exchange(r.Context(), r.store, out)
}

// exchange sends a write, and returns its answer when nothing reads the body any more: a store may answer
// before it has read all of it, and package http goes on with it then, which would send what other
// requests have in that memory by now. Answers to writes are short.
//
// A [bytes.Reader] has memory of its own, and stays what it is: package http sends it with the head.
func exchange(ctx context.Context, to store, out sending) (*http.Response, error) {
	if _, own := out.body.(*bytes.Reader); !own {
		lent := &lent{r: out.body}
		defer lent.takeBack()
		out.body = lent
	}
	ctx, cancel := outlasting(ctx)
	defer cancel()
	resp, err := to.send(ctx, out)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // all is read
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	resp.Body = io.NopCloser(bytes.NewReader(b))
	return resp, err
}

// outlasting returns a context that ends a second after ctx. A client that goes away when all of its body
// is here leaves a store that is about to keep it: a part that came to be after its upload was aborted
// would stay there.
func outlasting(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(linger/2, cancel) })
	return longer, func() { stop(); cancel() }
}

// maxAnswer bounds the answers to writes that are held.
const maxAnswer = 64 << 10

// A lent is a reader that can be taken back from package http.
type lent struct {
	mu   sync.Mutex
	r    io.Reader
	over bool
}

var errOver = errors.New("the store has answered")

// Read implements [io.Reader].
func (l *lent) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return 0, errOver
	}
	return l.r.Read(p)
}

// WriteTo implements [io.WriterTo]. A store that has answered ends its connection, and so the write.
func (l *lent) WriteTo(w io.Writer) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return 0, errOver
	}
	return io.Copy(w, l.r)
}

func (l *lent) takeBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
}

// inspect returns the bytes to store in place of the body of an object; nil for the body itself. The
// error is a refusal if it must not be stored.
func (g *Guard) inspect(ctx context.Context, o object, h *held) ([]byte, error) {
	in := g.scans.get()
	defer g.scans.put(in)
	name := path.Base(o.key)
	seen, err := in.Inspect(ctx, name, h.reader(), h, h.size)
	if err != nil {
		return nil, err
	}
	found := outputs.Finding{Path: o.String(), Found: seen.Found, Why: seen.Why, Outcome: passed}
	switch {
	case seen.Unchecked && len(seen.Found) == 0:
		if g.o.Policy == outputs.Fail {
			return nil, g.refuse(o, nil, "cannot be searched ("+seen.Why+")")
		}
		found.Why = "not searched: " + seen.Why
		g.found(found)
		return nil, nil
	case len(seen.Found) == 0:
		return nil, nil
	case g.o.Policy == outputs.Warn:
		g.found(found)
		return nil, nil
	case name == "inputs.pb":
		return nil, g.refuse(o, seen.Found,
			"holds the value of %s, with which another task would be started; give it the name of the secret")
	case !seen.Maskable():
		return nil, g.refuse(o, seen.Found, "holds the value of %s in "+seen.Why+", which cannot be masked")
	case g.o.Policy == outputs.Fail:
		return nil, g.refuse(o, seen.Found, "holds the value of %s")
	}
	var b bytes.Buffer
	if err := in.Rewrite(ctx, seen, h.reader(), &b); err != nil {
		if errors.Is(err, content.ErrStill) {
			return nil, g.refuse(o, seen.Found, "holds the value of %s, and cannot be masked without breaking it")
		}
		return nil, err
	}
	found.Outcome, found.Why = masked, ""
	g.found(found)
	return b.Bytes(), nil
}

// putLarge stores an object that is searched while it is sent.
func (g *Guard) putLarge(r *request, b *body) (*http.Response, error) {
	s := &searched{r: g.o.Redactor, src: b, warn: g.o.Policy == outputs.Warn}
	resp, err := g.stream(r, b, s)
	switch {
	case s.found == nil:
		return resp, err
	case s.warn:
		const why = "too large to be masked"
		g.found(outputs.Finding{Path: r.object.String(), Found: s.found, Why: why, Outcome: passed})
		return resp, err
	}
	return nil, g.refuse(r.object, s.found,
		fmt.Sprintf("holds the value of %%s, and is too large to be masked (more than %d MiB)", maxHeld>>20))
}

// stream sends the body of a request upstream while s searches it.
func (g *Guard) stream(r *request, b *body, s *searched) (*http.Response, error) {
	// It takes what is read, what may be sent and what its redactor holds, each with an edge.
	free, err := g.memory.take(r.Context(), 3*(searchSize+int64(g.edge())), 0)
	if err != nil {
		return nil, err
	}
	defer free()
	out := g.sending(r)
	out.body, out.length = s, b.size
	if b.chunked {
		b.rechunk(&out, s)
	}
	resp, err := exchange(r.Context(), r.store, out)
	if err == nil && resp.StatusCode/100 == 2 {
		err = drained(s) // what is behind the last frame, and the end of the search
	}
	return resp, err
}

// errFound ends the sending of a body with a value in it. The upstream then has a part of the body that
// it announced, and stores nothing.
var errFound = errors.New("it holds a value")

// A searched is a body that is searched while it is read. It holds back what may begin a value.
type searched struct {
	r    *redact.Redactor
	src  io.Reader
	warn bool // values pass

	w     *redact.Writer
	in    []byte
	out   []byte // what may be sent
	at    int
	n     int64
	edge  int    // the size of head
	head  []byte // the first bytes
	tail  []byte // of a body that has ended: what may begin a value that goes on in another part
	ended bool
	found map[string]int
}

// searchSize is how many bytes are searched at a time.
const searchSize = 64 << 10

// Read implements [io.Reader].
func (s *searched) Read(p []byte) (int, error) {
	for s.at == len(s.out) {
		if s.ended {
			return 0, io.EOF
		}
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.out[s.at:])
	s.at += n
	return n, nil
}

// WriteTo implements [io.WriterTo].
func (s *searched) WriteTo(w io.Writer) (n int64, err error) {
	for {
		m, err := w.Write(s.out[s.at:])
		s.at += m
		n += int64(m)
		if err != nil || s.ended {
			return n, err
		}
		if err := s.fill(); err != nil {
			return n, err
		}
	}
}

func (s *searched) fill() error {
	if s.w == nil {
		s.in, s.out = make([]byte, searchSize), make([]byte, 0, searchSize)
		s.head = make([]byte, 0, s.edge)
		s.w = s.r.Writer((*emitted)(s))
		s.w.Found = func(f redact.Find) {
			if s.found == nil {
				s.found = map[string]int{}
			}
			s.found[f.Name]++
		}
		s.w.Covered = func(b []byte, _ string) error { // as it is: only if values pass, it is sent
			s.out = append(s.out, b...)
			return nil
		}
	}
	s.out, s.at = s.out[:0], 0
	n, err := s.src.Read(s.in)
	s.n += int64(n)
	s.head = append(s.head, s.in[:min(n, cap(s.head)-len(s.head))]...)
	if _, err := s.w.Write(s.in[:n]); err != nil {
		return err
	}
	if errors.Is(err, io.EOF) {
		s.ended, err = true, nil
		from := len(s.out)
		if err := s.w.Close(); err != nil {
			return err
		}
		s.tail = slices.Clone(s.out[from:])
	}
	if s.found != nil && !s.warn {
		return errFound
	}
	return err
}

// emitted is a searched as the destination of its redactor.
type emitted searched

// Write implements [io.Writer].
func (e *emitted) Write(p []byte) (int, error) {
	e.out = append(e.out, p...)
	return len(p), nil
}

// A body is that of a write, without the frames of aws-chunked.
type body struct {
	io.Reader
	size    int64 // of the content
	chunked bool
	frames  *chunks
}

// isChunked reports whether the body of a request is in frames (aws-chunked), which may have
// signatures of their own and a checksum behind them.
func isChunked(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get(hashHeader), "STREAMING-") ||
		slices.ContainsFunc(encodings(r.Header), isFrames)
}

// encodings returns those of a body, which may stand in several lines.
func encodings(h http.Header) []string {
	return strings.FieldsFunc(strings.Join(h.Values("Content-Encoding"), ","), func(c rune) bool {
		return c == ',' || c == ' '
	})
}

func isFrames(encoding string) bool { return strings.EqualFold(encoding, "aws-chunked") }

// bodyOf returns the body of a write.
func bodyOf(r *request) (*body, error) {
	if !r.chunked {
		if r.ContentLength < 0 {
			return nil, errNoLength
		}
		return &body{Reader: r.Body, size: r.ContentLength}, nil
	}
	size, err := strconv.ParseInt(r.Header.Get("X-Amz-Decoded-Content-Length"), 10, 64)
	if err != nil || size < 0 {
		return nil, refuse(http.StatusLengthRequired, "MissingContentLength",
			"inject: the request has no X-Amz-Decoded-Content-Length")
	}
	frames := newChunks(r.Body)
	return &body{Reader: frames, size: size, chunked: true, frames: frames}, nil
}

// finish reads what is behind the content: the last frame and the trailers.
func (b *body) finish() error {
	if !b.chunked {
		return nil
	}
	return drained(b.frames)
}

// drained reads r to its end, before which nothing should be.
func drained(r io.Reader) error {
	n, err := io.Copy(io.Discard, r)
	if err == nil && n > 0 {
		err = errLong
	}
	return err
}

// unchunk makes out a request without frames: the checksum behind them becomes a header.
func (b *body) unchunk(out *sending) {
	if !b.chunked {
		return
	}
	out.header.Del("X-Amz-Decoded-Content-Length")
	out.header.Del("X-Amz-Trailer")
	rest := slices.DeleteFunc(encodings(out.header), isFrames)
	out.header.Del("Content-Encoding")
	if len(rest) > 0 {
		out.header.Set("Content-Encoding", strings.Join(rest, ","))
	}
	for name, value := range b.frames.trailers {
		out.header.Set(name, value)
	}
}

func hashOf(r io.Reader) (string, error) {
	h := sha256.New()
	_, err := io.Copy(h, r)
	return hex.EncodeToString(h.Sum(nil)), err
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}
