package main

import (
	"errors"
	"fmt"
	"time"

	"inject/internal/harness/attack"
)

const attackedName = "attacked"

// floods are the attacks that are measured, one for each kind of resource.
var floods = []string{"bodies that do not end", "climbs", "connections without credentials", "rapid reset"}

// victims is the number of clients that are served during an attack, each with an identity of its
// own. The attacker has another.
const victims = 8

// attacked compares resolves during an attack with those without one. The attacker has the lowest
// priority, so that what is measured is the server and not who gets this machine's processors.
func (b *bench) attacked() (err error) {
	c, err := b.newComparison()
	if err != nil {
		return err
	}
	f := newFilling(few)
	s, err := c.serve(attackedName, f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	clients, err := c.clients(victims, func(project int) (*client, error) { return c.injectdClient(s, f, project) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeClients(clients)) }()

	// The longest of the loads' rounds, since an attack does more at its beginning than later.
	alone := &side{name: "no attack", server: s, clients: clients, while: c.loads[len(c.loads)-1].while}
	sides := []*side{alone}
	contenders := []contender{{alone.name, func() (time.Duration, error) { return 0, alone.run(c.ctx) }}}
	for _, name := range floods {
		one := &side{name: name, server: s, clients: clients, while: alone.while}
		sides = append(sides, one)
		contenders = append(contenders, contender{name, func() (time.Duration, error) { return 0, c.during(one) }})
	}
	if _, err := alternate(c.rounds, contenders); err != nil {
		return err
	}
	for _, s := range sides {
		row := func(name, unit string, value Stat) Row {
			return Row{Workload: workload(victims), Name: s.name + ": " + name, Unit: unit, Value: value}
		}
		rate, tail := row("rate", "/s", perSecond(s.of(each))), row("99th percentile", "ms", millis(s.of(p99)))
		// Beside that of no attack it says which part of the server's work is for its other clients, also
		// if other programs have the processors.
		work := row("CPU of the server for each", "ms", millis(s.of(cpu)))
		if s != alone {
			rate.versus(alone.name, ratios(s.of(each), alone.of(each)))
			tail.versus(alone.name, ratios(alone.of(p99), s.of(p99)))
			work.versus(alone.name, ratios(alone.of(cpu), s.of(cpu)))
		}
		c.report.add(rate)
		c.report.add(tail)
		c.report.add(work)
	}
	return nil
}

// during runs a round of s during the attack of its name.
func (c *comparison) during(s *side) (err error) {
	attacker := c.tasks[projects-1]
	running, err := attack.Start(c.ctx, attack.Target{
		Address: s.server.address, CAFile: c.authority.file, CertFile: attacker.cert, KeyFile: attacker.key,
	}, s.name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, running.Stop()) }()
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		so, err := running.Result()
		switch {
		case err != nil:
			return err
		case so.Sent > 0 || so.Open > 0:
			return s.run(c.ctx)
		case time.Since(begin) > limit:
			return fmt.Errorf("%s: the attack does not begin", s.name)
		}
	}
}
