package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"inject/cli"
	"inject/resolver/secret"
	"inject/resolver/serve"
	"inject/resolver/serve/transport"
	"inject/resolver/serve/watch"
	"inject/resolver/store"
	"inject/resolver/store/kube"
)

func (a *app) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve [flags]",
		Short: "Serve the store to people and tasks",
		Long: `serve answers Flyte's own commands for secrets and the requests of inject, over Connect,
gRPC and gRPC-Web on one port. Client certificates, an issuer's tokens or the tokens of
a tokens file identify callers. The policy says what each caller may do; everything else
is denied.

SIGTERM and SIGINT drain: the server answers the requests that have begun, then ends.
SIGHUP reopens the audit log. The server reads certificates, policy, tokens and issuers'
keys again when their files change; after a bad edit the old content stays in force.`,
		Example: `  injectd serve --insecure
  injectd serve --listen :8093 --store file:///var/lib/inject/secrets.db \
      --cert-file tls.crt --cert-key-file tls.key \
      --client-ca-file ca.crt --policy policy.yaml`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serve(cmd.Context()) },
	}
	s := &a.set
	a.settings.AddFlags(cmd, &s.Listen, &s.Audit, &s.File, &s.Wait, &s.Served, &s.Org, &s.Orgs, &s.Access, &s.Limits)
	return cmd
}

// check returns an error for every setting of s that is invalid or contradicts another.
func (f *settings) check() error {
	var errs []error
	if f.Limits.Connections < 1 || f.Limits.Streams < 1 {
		errs = append(errs, fmt.Errorf("%w: --max-connections and --max-streams are at least 1", secret.ErrInvalid))
	}
	if f.Limits.OfIdentity < 0 {
		errs = append(errs, fmt.Errorf("%w: --max-identity-connections is not negative", secret.ErrInvalid))
	}
	for _, one := range []struct {
		flag             string
		value, low, high int
	}{
		{"max-identity-bodies", f.Limits.Bodies, serve.MaxMessage, serve.MaxBodies},
		{"max-identity-resolves", f.Limits.Resolves, 1, serve.MaxResolves},
		{"max-identity-lists", f.Limits.Lists, 1, serve.MaxLists},
	} {
		if one.value < one.low || one.value > one.high {
			errs = append(errs, fmt.Errorf("%w: --%s is from %d to %d", secret.ErrInvalid, one.flag, one.low, one.high))
		}
	}
	if f.Limits.Rate < 0 || f.Limits.Rate > 0 && f.Limits.Burst < 1 {
		errs = append(errs, fmt.Errorf("%w: --rate is not negative, and --rate-burst at least 1", secret.ErrInvalid))
	}
	if f.Limits.AuditRate < 0 || f.Limits.AuditRate > 0 && f.Limits.AuditBurst < 16<<10 {
		errs = append(errs, fmt.Errorf(
			"%w: --audit-rate is not negative, and --audit-burst at least 16384, which is one line", secret.ErrInvalid))
	}
	listen := checkAddress("listen", f.Listen.Address)
	if listen == nil && f.Access.Insecure {
		listen = transport.CheckLoopback(f.Listen.Address)
	}
	errs = append(errs, listen)
	if f.Listen.Ops != "" {
		errs = append(errs, checkAddress("ops-listen", f.Listen.Ops))
	}
	return errors.Join(append(errs, f.Access.check())...)
}

// options returns what f says of the server's options.
func (f *settings) options() serve.Options {
	return serve.Options{
		Cluster: f.Listen.Cluster, Org: f.Org.Name, AnyOrg: f.Orgs.Which == "requested",
		Rate: f.Limits.Rate, Burst: f.Limits.Burst,
		AuditRate: float64(f.Limits.AuditRate), AuditBurst: f.Limits.AuditBurst,
		OwnBodies: f.Limits.Bodies, OwnResolves: f.Limits.Resolves, OwnLists: f.Limits.Lists,
	}
}

// checkStore is checkOrgs for a store, which is not read if every organization is served.
func (f *settings) checkStore(ctx context.Context, m maintainer) error {
	if f.Orgs.Which == "requested" {
		return nil
	}
	orgs, err := m.Orgs(ctx, shownOrgs)
	return errors.Join(err, f.checkOrgs(orgs))
}

// checkOrgs returns an error if a store has secrets of an organization that will not be served.
// orgs are those that it has, shownOrgs of them at most.
func (f *settings) checkOrgs(orgs []string) error {
	if f.Orgs.Which == "requested" {
		return nil
	}
	orgs = slices.DeleteFunc(orgs, func(org string) bool { return org == f.Org.Name })
	if len(orgs) == 0 {
		return nil
	}
	return secret.WithHint(
		fmt.Errorf("%w: the store has secrets of %s, which no request could reach: only %s is served",
			secret.ErrInvalid, strings.Join(orgs, ", "), f.Org.Name),
		"serve all of them with --orgs requested, or another one with --org")
}

// shownOrgs is how many organizations of a store are named at most.
const shownOrgs = 10

func checkAddress(flag, address string) error {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return fmt.Errorf("%w: --%s: an address is HOST:PORT", secret.ErrInvalid, flag)
	}
	return nil
}

// served returns the address of the port as a --store for clients on this machine.
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

func (a *app) serve(ctx context.Context) (err error) {
	f := &a.set
	if err := f.check(); err != nil {
		return err
	}
	// Everything that watches a file, and every goroutine, ends with this context.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopping, release := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer release()

	audit, err := a.openAudit()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, audit.Close()) }()
	files, loads := f.Access.files(), newReloads()
	who, err := f.Access.open(watch.Notify(ctx, func(path string, why error) {
		loads.changed(cmp.Or(files[path], "jwt"), why)
		if err := audit.Reloaded(ctx, path, why); err != nil {
			a.log.Error("the audit log does not tell that a file was read again", "path", path, "error", err)
		}
	}), f.Org.Name, a.log)
	if err != nil {
		return err
	}
	for _, name := range files {
		loads.begin(name)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	// The other ports end when the last request has been answered.
	group, groupCtx := errgroup.WithContext(context.WithoutCancel(ctx))
	running, answered := context.WithCancel(groupCtx)
	defer func() {
		if answered(); err != nil {
			_ = group.Wait() // its error is err, or is less than that
		}
	}()
	var ready atomic.Pointer[func(context.Context) error]
	ask := func(ctx context.Context) error { return (*ready.Load())(ctx) }
	gauges{registry}.server(ask)
	if who.kept != nil {
		who.kept.register(registry)
		waiting := func(context.Context) error { return who.kept.waiting() }
		ready.Store(&waiting)
		if err := a.serveOps(running, group, f.Listen.Ops, opsServer(ask, registry, a.log.Named("ops"))); err != nil {
			return err
		}
		go who.kept.Run(ctx)
		if !who.kept.await(stopping, a.log) {
			answered()
			return group.Wait()
		}
	}
	limits := transport.Limits{
		Connections: f.Limits.Connections, OfIdentity: f.Limits.OfIdentity, Streams: f.Limits.Streams,
	}
	port, err := transport.Listen(ctx, f.Listen.Address, who.certificates, limits)
	if err != nil {
		if path, unknown := a.filePath(); unknown == nil { // mostly the server of the same store has the port
			err = errors.Join(alone(ctx, path), err)
		}
		return err
	}
	defer port.Close() //nolint:errcheck // the server has closed it before
	address := served(port.Addr(), f.Access.Insecure)
	backend, at, err := a.openServed(stopping, address)
	if err != nil {
		return err
	}
	// after everything else, because requests use it until they end
	defer func() { err = errors.Join(err, backend.Close()) }()
	room := int64(growRoom)
	if store.IsRemote(backend) {
		room = remoteRoom
	}
	tuneCollector(f.Found.GoGC, f.Found.GoMemLimit, room)
	file, isFile := backend.(maintainer)
	if isFile {
		if err := alone(ctx, at.Path); err != nil {
			return err
		}
		if err := f.checkStore(ctx, file); err != nil {
			return err
		}
	}
	if s, ok := backend.(*kube.Store); ok {
		if err := a.checkKube(ctx, s); err != nil {
			return err
		}
		if who.pods != nil {
			namespace, _ := s.Namespace()
			who.pods.storedIn(namespace)
		}
	}
	if who.kept != nil {
		if err := who.kept.from(backend, f.Org.Name); err != nil {
			return err
		}
	}
	if who.policy != nil {
		if err := checkQuotas(backend, at, who.policy.Current()); err != nil {
			return err
		}
	}

	o := f.options()
	o.Store, o.Audit, o.Log, o.Metrics = backend, audit, a.log, registry
	if f.Access.Insecure {
		a.log.Warn("INSECURE: everyone who reaches this port may read, change and delete every secret; nothing is "+
			"encrypted on the way; this is for developing on this machine alone", "address", address)
	} else {
		o.Authenticator, o.Policy, o.Login = who.chain, who.policy.Current, who.login
	}
	handler := serve.New(o).Handler()
	health := &health{audit: audit, access: who, store: backend, log: a.log, stopping: stopping.Done()}
	own := newKeyWatch(a, file)
	if isFile {
		health.file = at.Path
		who.sources["key-file"] = own
	}
	if f.Audit.Log != "-" {
		health.auditFile = f.Audit.Log
	}
	health.register(registry)
	registry.MustRegister(loads.loaded, loads.failures)
	if who.pods != nil {
		who.pods.register(registry)
	}

	group.Go(func() error {
		defer answered()
		server := transport.HTTP(handler, limits, a.log.Named("http"))
		who.certificates.Guard(server)
		return transport.Serve(afterDelay(running, stopping, f.Listen.DrainDelay), server, port, f.Listen.Drain)
	})
	allReady := health.ready
	if ready.Store(&allReady); who.kept == nil {
		if err := a.serveOps(running, group, f.Listen.Ops, opsServer(ask, registry, a.log.Named("ops"))); err != nil {
			answered()
			return errors.Join(err, group.Wait())
		}
	}
	if isFile {
		group.Go(func() error { a.control(running, at.Path, file, audit, own.soon); return nil })
		group.Go(func() error { own.run(running); return nil })
	}
	if who.pods != nil {
		group.Go(func() error { who.pods.watch(running); return nil })
	}
	group.Go(func() error { reopen(running, audit, a.log.Error); return nil })
	a.log.Info("serving", "address", address, "listen", port.Addr().String(), "store", at.Redacted(),
		"version", version)
	context.AfterFunc(stopping, release) // the next signal ends us at once
	err = group.Wait()
	a.log.Info("stopped")
	return err
}

// openAudit opens the audit log of the settings.
func (a *app) openAudit() (*serve.Audit, error) {
	if a.set.Audit.Log == "-" {
		return serve.NewAudit(a.stdout), nil
	}
	return serve.OpenAudit(a.set.Audit.Log)
}

// serveOps opens the port for operations, unless its address is "", and serves it in group until ctx ends.
func (a *app) serveOps(ctx context.Context, group *errgroup.Group, address string, server *http.Server) error {
	if address == "" {
		return nil
	}
	port, err := opsPort(ctx, address)
	if err != nil {
		return err
	}
	group.Go(func() error { return serveUntil(ctx, server, port) })
	a.log.Info("operations are served", "address", port.Addr().String())
	return nil
}

// afterDelay returns a context that ends with running, or delay after the end of stopping.
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

// reopen reopens the audit log at each SIGHUP until ctx ends.
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
				failed("the audit log cannot be reopened, so it stays in the file that was open", "error", err)
			}
		}
	}
}

// serveUntil serves HTTP on a port until ctx ends. It does not drain, because requests to the
// ports for operations and maintenance are short.
func serveUntil(ctx context.Context, server *http.Server, port net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	err := server.Serve(port)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
