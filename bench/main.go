// Command bench measures how fast values are masked, beside what else could be
// done, and tells it as a table, as JSON and as the page docs/explanation/masking.md. It is
// a module of its own, so that what draws a plot is not what the product is built
// of. It knows the product from outside: its binaries, its package exec/redact, and
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
       bench plot [flags]      write the plot and the tables of a measurement's JSON into the docs

bench measure -h and bench plot -h tell the flags`

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
	case "plot":
		return plotVerb(args)
	case producerVerb, consumerVerb, plainVerb, leaderVerb:
		return child(verb, args)
	default:
		return errors.New(usage)
	}
}

func measure(ctx context.Context, args []string) error {
	var c config
	flags := flag.NewFlagSet("bench measure", flag.ContinueOnError)
	flags.IntVar(&c.rounds, "rounds", 15, "alternating `rounds` of each comparison")
	flags.BoolVar(&c.quick, "quick", false, "only what has a target, without the other programs")
	flags.StringVar(&c.json, "json", "", "write the results to `FILE`, too")
	flags.StringVar(&c.inject, "inject", "../bin/inject", "the `PATH` of the binary that is measured")
	flags.StringVar(&c.injectd, "injectd", "../bin/injectd", "the `PATH` of the server that is measured")
	flags.StringVar(&c.buildkite, "buildkite", "buildkite", "the `DIR` of the program with buildkite's replacer")
	only := flags.String("only", "", "only these `sections`: "+strings.Join(sectionNames(), ","))
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *only != "" {
		c.only = strings.Split(*only, ",")
	}
	return newBench(ctx, c).run()
}

func plotVerb(args []string) error {
	flags := flag.NewFlagSet("bench plot", flag.ContinueOnError)
	from := flags.String("json", "../docs/redaction.json", "the results in `FILE`")
	page := flags.String("page", "../docs/explanation/masking.md", "the page whose generated part is written")
	svg := flags.String("svg", "../docs/redaction.svg", "the plot that is written")
	if err := flags.Parse(args); err != nil {
		return err
	}
	r, err := readReport(*from)
	if err != nil {
		return err
	}
	if err := drawPlot(r, *svg); err != nil {
		return err
	}
	return rewrite(r, *page)
}
