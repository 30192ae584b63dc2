package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// A client has its own connection, and sends a request as soon as the last is answered.
type client struct {
	rand *rand.Rand
	// ask resolves a list that r chooses. It returns an error for a wrong answer.
	ask   func(ctx context.Context, r *rand.Rand) error
	close func() error
}

// A load is a number of clients that ask at once, for a while, in each round or, if every is
// 2, in half as many rounds.
type load struct {
	clients int
	every   int
	while   time.Duration
}

// answered has the times of the answers to some clients in a round.
type answered struct {
	took  time.Duration
	times []time.Duration // of each answer, sorted
}

func (a answered) quantile(q float64) time.Duration {
	return a.times[int(q*float64(len(a.times)-1))]
}

// drive lets the clients ask for a while. It waits for the answers to requests that are under
// way at the end.
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

// connect lets each client ask once, so that the handshakes are not measured.
func connect(ctx context.Context, clients []*client) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for _, c := range clients {
		group.Go(func() error { return c.ask(ctx, c.rand) })
	}
	return group.Wait()
}

// A side is a server with its clients, and the results of its rounds.
type side struct {
	name    string
	server  *server
	behind  []*server // others that work for it
	clients []*client
	while   time.Duration // of a round
	rounds  []round
}

// A round has the times of a resolve in one round.
type round struct {
	n        int           // resolves
	each     time.Duration // the length of the round, divided by n
	cpu      time.Duration // the CPU time of the server, divided by n
	behind   time.Duration // that of the servers behind it, divided by n
	client   time.Duration // that of this process, divided by n
	p50, p99 time.Duration // quantiles of the time for one client
}

func each(r round) time.Duration { return r.each }
func cpu(r round) time.Duration  { return r.cpu }

func p50(r round) time.Duration { return r.p50 }
func p99(r round) time.Duration { return r.p99 }

// of returns one of the times of each round.
func (s *side) of(which func(round) time.Duration) []time.Duration {
	times := make([]time.Duration, len(s.rounds))
	for i, r := range s.rounds {
		times[i] = which(r)
	}
	return times
}

// run runs one round and appends its results.
func (s *side) run(ctx context.Context) error {
	before, err := s.spent()
	if err != nil {
		return err
	}
	all, err := drive(ctx, s.clients, s.while)
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	after, err := s.spent()
	n := time.Duration(len(all.times))
	s.rounds = append(s.rounds, round{
		n: len(all.times), each: all.took / n, cpu: (after.server - before.server) / n,
		behind: (after.behind - before.behind) / n, client: (after.client - before.client) / n,
		p50: all.quantile(0.5), p99: all.quantile(0.99),
	})
	return err
}

// spent is the CPU time so far of the server, of those behind it, and of this process.
type spent struct{ server, behind, client time.Duration }

func (s *side) spent() (t spent, err error) {
	if t.server, err = s.server.cpu(); err != nil {
		return t, err
	}
	for _, b := range s.behind {
		one, err := b.cpu()
		if err != nil {
			return t, err
		}
		t.behind += one
	}
	var usage syscall.Rusage
	err = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	t.client = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	return t, err
}

// compete runs the rounds of all sides in turns, after one round to warm up.
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
	b.report.note("%s: %d answers, each compared and right", workload(len(sides[0].clients)), n)
	return nil
}
