package kube

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"inject/resolver/secret"
)

// The bounds of what strangers can cause before they are known. Each that is checked takes two to a dozen
// calls of the API, and an object of up to 1.5 MiB at a time.
const (
	// MaxReviews is how many callers are checked at the same time, and OwnReviews how many of one
	// namespace.
	MaxReviews = 16
	OwnReviews = 12
	// MaxQueue is how many wait for that, and OwnQueue how many of one namespace. Package serve has
	// no more requests of callers who are not known.
	MaxQueue = 1024
	OwnQueue = 768
)

// Patience is how long a caller waits. A connection of a caller who is not known ends after ten seconds.
const Patience = 7 * time.Second

var errBusy = errors.New("too many pods ask at the same time")

// A gate bounds how many callers are checked, and how many wait for it: of all namespaces, and of each.
// A namespace is what a token says, so only those that are served have a lane. It is safe for concurrent
// use.
type gate struct {
	all lane

	mu sync.Mutex
	of map[string]*lane // of namespaces with callers
}

// A lane has its places: slots for those that are checked, and queue for those and the others that wait.
type lane struct {
	slots, queue chan struct{}
	users        int // guarded by gate.mu
}

func newLane(slots, queue int) lane {
	return lane{slots: make(chan struct{}, slots), queue: make(chan struct{}, slots+queue)}
}

func newGate() *gate {
	return &gate{all: newLane(MaxReviews, MaxQueue), of: map[string]*lane{}}
}

// enter waits for a place. The caller calls leave once if err is nil. The error wraps
// [secret.ErrUnavailable].
func (g *gate) enter(ctx context.Context, namespace string) (leave func(), err error) {
	own := g.use(namespace)
	var taken []chan struct{}
	leave = func() {
		for _, c := range taken {
			<-c
		}
		g.unuse(namespace, own)
	}
	for _, queue := range []chan struct{}{own.queue, g.all.queue} {
		select {
		case queue <- struct{}{}:
			taken = append(taken, queue)
		default:
			leave()
			return nil, fmt.Errorf("%w: %w", secret.ErrUnavailable, errBusy)
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, Patience, errBusy)
	defer cancel()
	// First its own: then those of one namespace never fill the queue for all.
	for _, slots := range []chan struct{}{own.slots, g.all.slots} {
		select {
		case slots <- struct{}{}:
			taken = append(taken, slots)
		case <-ctx.Done():
			leave()
			return nil, fmt.Errorf("%w: %w", secret.ErrUnavailable, context.Cause(ctx))
		}
	}
	return leave, nil
}

func (g *gate) use(namespace string) *lane {
	g.mu.Lock()
	defer g.mu.Unlock()
	own := g.of[namespace]
	if own == nil {
		one := newLane(OwnReviews, OwnQueue)
		own = &one
		g.of[namespace] = own
	}
	own.users++
	return own
}

func (g *gate) unuse(namespace string, own *lane) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if own.users--; own.users == 0 {
		delete(g.of, namespace)
	}
}
