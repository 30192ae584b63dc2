// Command bench measures the product beside its peers and prints tables of ratios: masking
// beside cat and a textbook automaton, the start of a command beside tini, injectd beside etcd,
// and storage calls of Flyte's SDK through the guard beside those without it. The page
// docs/explanation/benchmarks.md says what each section measures.
//
// It is a module of its own, so that the product does not depend on the client of etcd. Every
// masked output is compared with that of the plain rule in exec/redact/redacttest, and every
// answer of a server with the value that was stored.
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

	"inject/internal/harness/attack"
)

const usage = `usage: bench measure [flags]   measure and print tables; fails only if an output is wrong

bench measure -h lists the flags`

func main() {
	if attack.Main() {
		return
	}
	// A signal ends the context, so that the run ends its processes and removes its files.
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
	case producerVerb, consumerVerb, hollowVerb, leaderVerb:
		return child(ctx, verb, args)
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
