package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"inject/cli"
	"inject/resolver/secret"
	"inject/resolver/serve"
	"inject/resolver/serve/transport"
	"inject/resolver/store"
)

// serveFlags are those of serve and, as it checks what serve would need, of doctor.
type serveFlags struct {
	accessFlags

	listen, opsListen string
	audit             string
	cluster           string
	limits            transport.Limits
	rate              float64
	burst             int
	drain, drainDelay time.Duration
}

func (f *serveFlags) listenGroup() cli.Group {
	return cli.NewGroup("listen", func(s *pflag.FlagSet) {
		s.StringVar(&f.listen, "listen", "127.0.0.1:8093", "`HOST:PORT` to serve on")
		s.StringVar(&f.opsListen, "ops-listen", "127.0.0.1:8094", "`HOST:PORT` of /livez, /readyz and /metrics; empty for none")
		s.StringVar(&f.audit, "audit-log", "-", "`FILE` to append the audit log to; - is stdout")
		s.StringVar(&f.cluster, "cluster-name", "inject", "what Flyte's clients are told is where secrets are")
		s.DurationVar(&f.drain, "drain", 25*time.Second, "for requests that have begun when we are asked to stop")
		s.DurationVar(&f.drainDelay, "drain-delay", 0, "from not being ready to taking no more connections, so that load balancers learn of it")
	})
}

func (f *serveFlags) limitsGroup() cli.Group {
	return cli.NewGroup("limits", func(s *pflag.FlagSet) {
		s.IntVar(&f.limits.Connections, "max-connections", 12_000, "at the same time; more wait")
		s.IntVar(&f.limits.Streams, "max-streams", 250, "requests at the same time on one connection")
		s.Float64Var(&f.rate, "rate", 1000, "requests a second of one identity in the long run; 0 for any number")
		s.IntVar(&f.burst, "rate-burst", 20_000, "requests of one identity at once")
	})
}

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve [flags]",
		Short: "Serve the store to people and tasks",
		Long: `serve answers Flyte's own commands for secrets and what inject asks for a task, over
Connect, gRPC and gRPC-Web on one port. Callers are known by client certificates,
by tokens of an issuer or by those of a token file; what each may is said in the
policy, and everything else is denied.

SIGTERM and SIGINT drain: what has begun is answered. SIGHUP opens the audit log
again. Certificates, policy, tokens and keys of issuers are read again when their
files change; a bad edit leaves in force what was.`,
		Example: `  injectd serve --insecure
  injectd serve --listen :8093 --store file:///var/lib/inject/secrets.db \
      --cert-file tls.crt --cert-key-file tls.key --client-ca-file ca.crt --policy policy.yaml`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serve(cmd.Context(), &f) },
	}
	cli.AddGroups(cmd, f.listenGroup(), a.servedGroup(), f.accessFlags.group(), f.limitsGroup())
	return cmd
}

func (f *serveFlags) check() error {
	var errs []error
	if f.limits.Connections < 1 || f.limits.Streams < 1 {
		errs = append(errs, fmt.Errorf("%w: --max-connections and --max-streams are at least 1", secret.ErrInvalid))
	}
	if f.rate < 0 || f.rate > 0 && f.burst < 1 {
		errs = append(errs, fmt.Errorf("%w: --rate is not negative, and --rate-burst at least 1", secret.ErrInvalid))
	}
	listen := checkAddress("listen", f.listen)
	if listen == nil && f.insecure {
		listen = transport.CheckLoopback(f.listen)
	}
	errs = append(errs, listen)
	if f.opsListen != "" {
		errs = append(errs, checkAddress("ops-listen", f.opsListen))
	}
	return errors.Join(append(errs, f.accessFlags.check())...)
}

func checkAddress(flag, address string) error {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return fmt.Errorf("%w: --%s: an address is HOST:PORT", secret.ErrInvalid, flag)
	}
	return nil
}

// served returns where the port is for others on this machine, as a --store.
func served(port net.Addr, insecure bool) string {
	scheme := store.SchemeGRPCS
	if insecure {
		scheme = store.SchemeGRPC
	}
	host, number, err := net.SplitHostPort(port.String())
	if ip := net.ParseIP(host); err == nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return scheme + "://" + net.JoinHostPort(host, number)
}

func (a *app) serve(ctx context.Context, f *serveFlags) (err error) {
	if err := f.check(); err != nil {
		return err
	}
	tuneCollector()
	// What is kept current, and every goroutine, ends with it.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopping, release := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer release()

	who, err := f.open(ctx, a.log)
	if err != nil {
		return err
	}
	audit := serve.NewAudit(a.stdout)
	if f.audit != "-" {
		if audit, err = serve.OpenAudit(f.audit); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, audit.Close()) }()
	}
	port, err := transport.Listen(ctx, f.listen, who.certificates, f.limits)
	if err != nil {
		return err
	}
	defer port.Close() //nolint:errcheck // closed by the server before
	address := served(port.Addr(), f.insecure)
	backend, at, err := a.openServed(stopping, address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, backend.Close()) }() // the last of all: requests have ended

	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	o := serve.Options{
		Store: backend, Audit: audit, Log: a.log, Metrics: registry, Cluster: f.cluster,
		Rate: f.rate, Burst: f.burst,
	}
	if f.insecure {
		a.log.Warn("INSECURE: everyone who reaches this port may read, change and delete every secret; nothing is encrypted on the way; this is for developing on this machine alone", "address", address)
	} else {
		o.Authenticator, o.Policy = who.chain, who.policy.Current
	}
	handler := serve.New(o).Handler()
	health := &health{audit: audit, access: who, store: backend, stopping: stopping.Done()}
	health.register(registry)

	// Where the last request has been answered the rest may end, too.
	group, groupCtx := errgroup.WithContext(context.WithoutCancel(ctx))
	running, answered := context.WithCancel(groupCtx)
	group.Go(func() error {
		defer answered()
		return transport.Serve(afterDelay(running, stopping, f.drainDelay), transport.HTTP(handler, f.limits, a.log.Named("http")), port, f.drain)
	})
	if f.opsListen != "" {
		ops, err := opsPort(ctx, f.opsListen)
		if err != nil {
			answered()
			return errors.Join(err, group.Wait())
		}
		group.Go(func() error { return serveUntil(running, opsServer(health, registry), ops) })
		a.log.Info("operations are served", "address", ops.Addr().String())
	}
	if at.Scheme == store.SchemeFile {
		group.Go(func() error { a.control(running, at.Path, backend); return nil })
	}
	group.Go(func() error { reopen(running, audit, a.log.Error); return nil })
	a.log.Info("serving", "address", address, "store", at.Redacted(), "version", version)
	go func() {
		<-stopping.Done()
		release() // the next signal ends us at once
	}()
	err = group.Wait()
	a.log.Info("stopped")
	return err
}

// tuneCollector lets the heap grow to three times what is alive before a collection. With so
// little alive Go's default, twice, collects every sixty requests, and the slowest requests
// wait for that. $GOGC, if set, has the last word.
func tuneCollector() {
	const percent, goDefault = 200, 100
	if set := debug.SetGCPercent(percent); set != goDefault {
		debug.SetGCPercent(set)
	}
}

// afterDelay returns a context that ends when running does, or a while after stopping.
func afterDelay(running, stopping context.Context, delay time.Duration) context.Context {
	ctx, cancel := context.WithCancel(running)
	context.AfterFunc(stopping, func() {
		select {
		case <-running.Done():
		case <-time.After(delay):
		}
		cancel()
	})
	return ctx
}

// reopen opens the audit log again on SIGHUP, until ctx ends.
func reopen(ctx context.Context, audit *serve.Audit, failed func(string, ...any)) {
	moved := make(chan os.Signal, 1)
	signal.Notify(moved, syscall.SIGHUP)
	defer signal.Stop(moved)
	for {
		select {
		case <-ctx.Done():
			return
		case <-moved:
			if err := audit.Reopen(); err != nil {
				failed("the audit log stays in the file that it was in", "error", err)
			}
		}
	}
}

// serveUntil serves a port of ours, whose requests are short, until ctx ends.
func serveUntil(ctx context.Context, server *http.Server, port net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	err := server.Serve(port)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
