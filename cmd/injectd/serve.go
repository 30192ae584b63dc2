package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
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
	"inject/resolver/store/all"
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

// A server is what one injectd serve needs from its start to its end.
type server struct {
	*app

	audit    *serve.Audit
	access   *access
	loads    *reloads
	registry *prometheus.Registry
	limits   transport.Limits
	ready    readiness

	backend all.Store
	at      *url.URL   // of the backend
	file    maintainer // the backend if it is a file, else nil
	own     *keyWatch
}

// serve runs a server until a signal ends it.
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

	s := &server{app: a, loads: newReloads(), registry: newRegistry(), limits: f.limits()}
	if s.audit, err = a.openAudit(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.audit.Close()) }()
	if err := s.openAccess(ctx); err != nil {
		return err
	}
	return s.run(ctx, stopping, release)
}

// run serves until stopping ends, and then answers what has begun. release makes the next signal end the process.
func (s *server) run(ctx, stopping context.Context, release func()) (err error) {
	f := &s.set
	// The other ports end when the last request has been answered.
	group, groupCtx := errgroup.WithContext(context.WithoutCancel(ctx))
	running, answered := context.WithCancel(groupCtx)
	defer func() {
		if answered(); err != nil {
			_ = group.Wait() // its error is err, or is less than that
		}
	}()
	if s.access.kept != nil {
		if err := s.keepCertificates(ctx, running, group); err != nil {
			return err
		}
		if !s.access.kept.await(stopping, s.log) {
			answered()
			return group.Wait()
		}
	}
	port, err := s.listen(ctx)
	if err != nil {
		return err
	}
	defer port.Close() //nolint:errcheck // the server has closed it before
	address := served(port.Addr(), f.Access.Insecure)
	if s.backend, s.at, err = s.openServed(stopping, address); err != nil {
		return err
	}
	// after everything else, because requests use it until they end
	defer func() { err = errors.Join(err, s.backend.Close()) }()
	if err := s.adopt(ctx); err != nil {
		return err
	}
	handler := s.handler(address)
	s.watchHealth(stopping)
	if s.access.kept == nil {
		if err := s.startOps(running, group, f.Listen.Ops, s.ready.ask, s.registry); err != nil {
			return err
		}
	}
	group.Go(func() error {
		defer answered()
		server := transport.HTTP(handler, s.limits, s.log.Named("http"))
		s.access.certificates.Guard(server)
		return transport.Serve(afterDelay(running, stopping, f.Listen.DrainDelay), server, port, f.Listen.Drain)
	})
	s.maintain(running, group)
	s.log.Info("serving", "address", address, "listen", port.Addr().String(), "store", s.at.Redacted(),
		"version", version)
	context.AfterFunc(stopping, release) // the next signal ends us at once
	err = group.Wait()
	s.log.Info("stopped")
	return err
}

// openAccess reads what decides on callers. The audit log and the metrics tell when one of its files is read again.
func (s *server) openAccess(ctx context.Context) (err error) {
	files := s.set.Access.files()
	s.access, err = s.set.Access.open(watch.Notify(ctx, func(path string, why error) {
		s.loads.changed(cmp.Or(files[path], "jwt"), why)
		if err := s.audit.Reloaded(ctx, path, why); err != nil {
			s.log.Error("the audit log does not tell that a file was read again", "path", path, "error", err)
		}
	}), s.set.Org.Name, s.log)
	if err != nil {
		return err
	}
	for _, name := range files {
		s.loads.begin(name)
	}
	return nil
}

// keepCertificates begins to keep the certificates in Kubernetes, with the port for operations: until there is a
// certificate it is the only one that says what the server waits for.
func (s *server) keepCertificates(ctx, running context.Context, group *errgroup.Group) error {
	kept := s.access.kept
	kept.register(s.registry)
	s.ready.by(func(context.Context) error { return kept.waiting() })
	if err := s.startOps(running, group, s.set.Listen.Ops, s.ready.ask, s.registry); err != nil {
		return err
	}
	go kept.Run(ctx)
	return nil
}

// listen opens the port for requests.
func (s *server) listen(ctx context.Context) (net.Listener, error) {
	port, err := transport.Listen(ctx, s.set.Listen.Address, s.access.certificates, s.limits)
	if err != nil {
		if path, unknown := s.filePath(); unknown == nil { // mostly the server of the same store has the port
			err = errors.Join(alone(ctx, path), err)
		}
	}
	return port, err
}

// adopt checks that the store can be served with the settings, and gives it to all that need it.
func (s *server) adopt(ctx context.Context) error {
	room := int64(growRoom)
	if store.IsRemote(s.backend) {
		room = remoteRoom
	}
	tuneCollector(s.set.Found.GoGC, s.set.Found.GoMemLimit, room)
	s.file, _ = s.backend.(maintainer)
	s.own = newKeyWatch(s.app, s.file)
	if s.file != nil {
		if err := alone(ctx, s.at.Path); err != nil {
			return err
		}
		if err := s.set.checkStore(ctx, s.file); err != nil {
			return err
		}
		s.access.sources["key-file"] = s.own
	}
	if k, ok := s.backend.(*kube.Store); ok {
		if err := s.checkKube(ctx, k); err != nil {
			return err
		}
		if s.access.pods != nil {
			namespace, _ := k.Namespace()
			s.access.pods.storedIn(namespace)
		}
	}
	if s.access.kept != nil {
		if err := s.access.kept.from(s.backend, s.set.Org.Name); err != nil {
			return err
		}
	}
	if s.access.policy != nil {
		return checkQuotas(s.backend, s.at, s.access.policy.Current())
	}
	return nil
}

// handler answers the requests to the server at an address.
func (s *server) handler(address string) http.Handler {
	o := s.set.options()
	o.Store, o.Audit, o.Log, o.Metrics = s.backend, s.audit, s.log, s.registry
	if s.set.Access.Insecure {
		s.log.Warn("INSECURE: everyone who reaches this port may read, change and delete every secret; nothing is "+
			"encrypted on the way; this is for developing on this machine alone", "address", address)
	} else {
		o.Authenticator, o.Policy, o.Login = s.access.chain, s.access.policy.Current, s.access.login
	}
	return serve.New(o).Handler()
}

// watchHealth makes the server ready when its checks pass, and adds the metrics of what it has.
func (s *server) watchHealth(stopping context.Context) {
	h := &health{audit: s.audit, access: s.access, store: s.backend, log: s.log, stopping: stopping.Done()}
	if s.file != nil {
		h.file = s.at.Path
	}
	if s.set.Audit.Log != "-" {
		h.auditFile = s.set.Audit.Log
	}
	h.register(s.registry)
	s.registry.MustRegister(s.loads.loaded, s.loads.failures)
	if s.access.pods != nil {
		s.access.pods.register(s.registry)
	}
	s.ready.by(h.ready)
}

// maintain does in group what a server does beside its requests, until ctx ends.
func (s *server) maintain(ctx context.Context, group *errgroup.Group) {
	if s.file != nil {
		group.Go(func() error { s.control(ctx, s.at.Path, s.file, s.audit, s.own.soon); return nil })
		group.Go(func() error { s.own.run(ctx); return nil })
	}
	if s.access.pods != nil {
		group.Go(func() error { s.access.pods.watch(ctx); return nil })
	}
	group.Go(func() error { reopen(ctx, s.audit, s.log.Error); return nil })
}

// limits are those of the port.
func (f *settings) limits() transport.Limits {
	return transport.Limits{
		Connections: f.Limits.Connections, OfIdentity: f.Limits.OfIdentity, Streams: f.Limits.Streams,
	}
}

// newRegistry returns a registry with the metrics of every process.
func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// openAudit opens the audit log of the settings.
func (a *app) openAudit() (*serve.Audit, error) {
	if a.set.Audit.Log == "-" {
		return serve.NewAudit(a.stdout), nil
	}
	return serve.OpenAudit(a.set.Audit.Log)
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
