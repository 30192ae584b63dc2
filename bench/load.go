package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// A client has a connection of its own, and asks again as soon as it was answered.
type client struct {
	rand *rand.Rand
	// ask resolves a list that r chooses; an answer that is not right is an error.
	ask   func(ctx context.Context, r *rand.Rand) error
	close func() error
}

// A load is how many clients ask at once, in one of every so many rounds, and for
// how long in each.
type load struct {
	clients int
	every   int
	while   time.Duration
}

// answered is what some clients were told in a round.
type answered struct {
	took  time.Duration
	times []time.Duration // of each answer, sorted
}

func (a answered) quantile(q float64) time.Duration {
	return a.times[int(q*float64(len(a.times)-1))]
}

// drive lets the clients ask for a while; what they have asked by then is answered.
func drive(ctx context.Context, clients []*client, while time.Duration) (answered, error) {
	group, ctx := errgroup.WithContext(ctx)
	var mu sync.Mutex
	var all answered
	begin := time.Now()
	for _, c := range clients {
		group.Go(func() error {
			var times []time.Duration
			for now := time.Now(); now.Sub(begin) < while; {
				if err := c.ask(ctx, c.rand); err != nil {
					return err
				}
				then := now
				now = time.Now()
				times = append(times, now.Sub(then))
			}
			mu.Lock()
			defer mu.Unlock()
			all.times = append(all.times, times...)
			return nil
		})
	}
	err := group.Wait()
	all.took = time.Since(begin)
	slices.Sort(all.times)
	return all, err
}

// connect lets each client ask once, so that no handshake is measured.
func connect(ctx context.Context, clients []*client) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for _, c := range clients {
		group.Go(func() error { return c.ask(ctx, c.rand) })
	}
	return group.Wait()
}

// A side is clients that ask a server, and what they were told in each round.
type side struct {
	name    string
	server  *server
	clients []*client
	while   time.Duration // of a round
	rounds  []round
}

// A round is how long a resolve took.
type round struct {
	n        int           // of resolves
	each     time.Duration // when all clients share the machine
	cpu      time.Duration // of the server's processors
	p50, p99 time.Duration // for one client
}

func each(r round) time.Duration { return r.each }
func cpu(r round) time.Duration  { return r.cpu }
func p50(r round) time.Duration  { return r.p50 }
func p99(r round) time.Duration  { return r.p99 }

// of returns one of the times of each round.
func (s *side) of(which func(round) time.Duration) []time.Duration {
	times := make([]time.Duration, len(s.rounds))
	for i, r := range s.rounds {
		times[i] = which(r)
	}
	return times
}

// run is one round.
func (s *side) run(ctx context.Context) error {
	before, err := s.server.cpu()
	if err != nil {
		return err
	}
	all, err := drive(ctx, s.clients, s.while)
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	after, err := s.server.cpu()
	n := len(all.times)
	s.rounds = append(s.rounds, round{
		n: n, each: all.took / time.Duration(n), cpu: (after - before) / time.Duration(n),
		p50: all.quantile(0.5), p99: all.quantile(0.99),
	})
	return err
}

// compete lets the sides take turns, after a round to warm up.
func (b *bench) compete(rounds int, sides ...*side) error {
	var contenders []contender
	for _, s := range sides {
		contenders = append(contenders, contender{s.name, func() (time.Duration, error) { return 0, s.run(b.ctx) }})
	}
	if _, err := alternate(1, contenders); err != nil {
		return err
	}
	for _, s := range sides {
		s.rounds = nil
	}
	if _, err := alternate(rounds, contenders); err != nil {
		return err
	}
	n := 0
	for _, s := range sides {
		for _, r := range s.rounds {
			n += r.n
		}
	}
	b.report.note("%s: %d answers, each looked at and right", workload(len(sides[0].clients)), n)
	return nil
}
