package guard

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// maxMemory bounds all that is held of the task's writes: whole bodies and the edges of parts.
	maxMemory = 32 << 20
	// maxHeld is the size of the largest object that is held, and so can be masked.
	maxHeld = 16 << 20
	// maxEdges is the share of maxMemory that the edges of parts may take: they stay until an upload
	// ends, so that without a share of their own they could keep every body out for ever.
	maxEdges  = 12 << 20
	blockSize = 64 << 10
	// softLimit is what a process may grow by until its collector runs more often.
	softLimit = 48 << 20
	// maxWait is how long a request waits for room: through a slow network others may need minutes, and
	// the SDK tries only three times more.
	maxWait = 2 * time.Minute
)

// LimitMemory has Go's collector run before garbage takes as much again as what is held. All masks must
// have been added: they count apart.
func (g *Guard) LimitMemory() {
	g.scan("x") // makes the masks ready
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	used := int64(m.Sys - m.HeapIdle) //nolint:gosec // it has a few MiB
	debug.SetMemoryLimit(min(debug.SetMemoryLimit(-1), used+softLimit))
}

// memory is what is held of the task's writes. It consists of blocks that are used again, because
// garbage would be counted by nobody and take as much once more.
type memory struct {
	all, edges *semaphore.Weighted
	mu         sync.Mutex
	used       int64 // of all
	free       []*[blockSize]byte
}

func newMemory() *memory {
	return &memory{all: semaphore.NewWeighted(maxMemory), edges: semaphore.NewWeighted(maxEdges)}
}

// take waits for n bytes, and returns a function that gives them back. blocks of them will be blocks.
func (m *memory) take(ctx context.Context, n int64, blocks int) (free func(), err error) {
	if !m.all.TryAcquire(n) {
		waiting, cancel := context.WithTimeout(ctx, maxWait)
		defer cancel()
		if err := m.all.Acquire(waiting, n); err != nil {
			return nil, busy(ctx)
		}
	}
	m.count(n, blocks)
	return func() { m.give(n) }, nil
}

// takeEdge is take for the edges of parts.
func (m *memory) takeEdge(ctx context.Context, n int64) error {
	waiting, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	if m.edges.Acquire(waiting, n) != nil {
		return busy(ctx)
	}
	if m.all.Acquire(waiting, n) != nil {
		m.edges.Release(n)
		return busy(ctx)
	}
	m.count(n, 0)
	return nil
}

// count notes that n bytes are taken, and forgets free blocks for what will not be blocks.
func (m *memory) count(n int64, blocks int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.used += n
	if most := int((maxMemory-m.used)/blockSize) + blocks; len(m.free) > most {
		clear(m.free[most:])
		m.free = m.free[:most]
	}
}

func (m *memory) give(n int64) {
	m.mu.Lock()
	m.used -= n
	m.mu.Unlock()
	m.all.Release(n)
}

func (m *memory) freeEdge(n int64) {
	m.edges.Release(n)
	m.give(n)
}

// busy returns the answer to a request that has found no room. SlowDown is what S3 itself says, and
// clients wait before they try again.
func busy(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return refuse(http.StatusServiceUnavailable, "SlowDown",
		"inject: too much is being uploaded at the same time (%d MiB are held)", maxMemory>>20)
}

// A held is a body in memory.
type held struct {
	m      *memory
	size   int64
	counts int64
	blocks []*[blockSize]byte
	free   func()
}

// hold reads a body of size bytes. The caller releases it.
func (m *memory) hold(ctx context.Context, r io.Reader, size int64) (*held, error) {
	h := &held{m: m, size: size, counts: (size + blockSize - 1) / blockSize * blockSize}
	free, err := m.take(ctx, h.counts, int(h.counts/blockSize))
	if err != nil {
		return nil, err
	}
	h.free = free
	for at := int64(0); at < size; at += blockSize {
		b := m.block()
		h.blocks = append(h.blocks, b)
		if _, err := io.ReadFull(r, b[:min(blockSize, size-at)]); err != nil {
			h.release()
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil, errShort
			}
			return nil, err
		}
	}
	return h, nil
}

func (m *memory) block() *[blockSize]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.free); n > 0 {
		b := m.free[n-1]
		m.free = m.free[:n-1]
		return b
	}
	return new([blockSize]byte)
}

func (h *held) release() {
	h.m.mu.Lock()
	h.m.free = append(h.m.free, h.blocks...)
	h.m.mu.Unlock()
	h.blocks = nil
	h.free()
}

// ReadAt implements [io.ReaderAt].
func (h *held) ReadAt(p []byte, at int64) (n int, err error) {
	for n < len(p) && at < h.size {
		b := h.blocks[at/blockSize]
		from := at % blockSize
		c := copy(p[n:], b[from:min(blockSize, from+h.size-at)])
		n, at = n+c, at+int64(c)
	}
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

// reader returns a reader of the whole body.
func (h *held) reader() io.Reader { return io.NewSectionReader(h, 0, h.size) }

// body returns the body to be sent. A small one is a copy, which may be sent together with the head.
func (h *held) body() io.Reader {
	if h.size == 0 || h.size > buffered {
		return h.reader()
	}
	return bytes.NewReader(bytes.Clone(h.blocks[0][:h.size]))
}

// copyBuffers are for the bodies of answers. Large ones make a download nearly as fast as without the
// guard. Only a few are kept, and a small one does where none is left.
type copyBuffers chan []byte

func newCopyBuffers() copyBuffers {
	all := make(copyBuffers, 32)
	for range cap(all) {
		all <- nil // made when it is needed
	}
	return all
}

const (
	largeCopy = 256 << 10
	smallCopy = 16 << 10
)

func (c copyBuffers) get() []byte {
	select {
	case b := <-c:
		if b == nil {
			b = make([]byte, largeCopy)
		}
		return b
	default:
		return make([]byte, smallCopy)
	}
}

func (c copyBuffers) put(b []byte) {
	if len(b) == largeCopy {
		c <- b
	}
}
