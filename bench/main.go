// Command bench measures how fast values are masked, beside what else could be
// done, and tells it as a table. It is a module of its own, so that the client of
// etcd is not what the product is built of. It knows the product from outside: its
// binaries, its package exec/redact, and
// the plain rule in exec/redact/redacttest that all outputs are held to. It also
// measures what it costs to start a command, and how fast injectd answers, beside
// etcd: for that it fills stores and asks as inject does, by the packages that do
// so. To open a store is the store's own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

const usage = `usage: bench measure [flags]   measure, print a table; fails only if an output is wrong

bench measure -h tells the flags`

func main() {
	// What is cleaned up is cleaned up on a signal, too: it ends what runs.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	verb, args := args[0], args[1:]
	switch verb {
	case "measure":
		return measure(ctx, args)
	case producerVerb, consumerVerb, leaderVerb:
		return child(verb, args)
	default:
		return errors.New(usage)
	}
}

func measure(ctx context.Context, args []string) error {
	var c config
	flags := flag.NewFlagSet("bench measure", flag.ContinueOnError)
	flags.IntVar(&c.rounds, "rounds", 15, "alternating `rounds` of each comparison")
	flags.BoolVar(&c.once, "once", false, "run each benchmark once, with little data, to see that it runs")
	flags.StringVar(&c.inject, "inject", "../bin/inject", "the `PATH` of the binary that is measured")
	flags.StringVar(&c.injectd, "injectd", "../bin/injectd", "the `PATH` of the server that is measured")
	only := flags.String("only", "", "only these `sections`: "+strings.Join(sectionNames(), ","))
	if err := flags.Parse(args); err != nil {
		return err
	}
	c.scale = full
	if c.once {
		c.scale, c.rounds = once, 1
	}
	if *only != "" {
		c.only = strings.Split(*only, ",")
	}
	return newBench(ctx, c).run()
}
