package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"inject/resolver/secret"
	"inject/resolver/serve"
	"inject/resolver/serve/transport"
	"inject/resolver/store"
)

// health decides whether the server is ready for requests.
type health struct {
	audit    *serve.Audit
	access   *access
	store    store.Lister
	file     string // the path of the store's file; "" if the store is not a file
	log      hclog.Logger
	stopping <-chan struct{}
	// auditFile is the path of the audit log; "" if it is not a file.
	auditFile string

	probing probe
}

// probeTime is how long a probe may take.
const probeTime = 5 * time.Second

// ready returns why no request should be sent to this server, nil if it is ready. The error is for
// strangers: it names neither paths nor secrets. The log has the details.
func (h *health) ready(ctx context.Context) error {
	select {
	case <-h.stopping:
		return errors.New("stopping")
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	return h.probing.ask(ctx, h.look)
}

// look tries what a request needs. Its cost does not depend on the size of the store.
func (h *health) look(ctx context.Context) error {
	var errs []*fault
	var details []error
	failed := func(c check, what string, err error) {
		if err == nil {
			return
		}
		details = append(details, fmt.Errorf("%s: %w", what, err))
		if number, ok := errors.AsType[syscall.Errno](err); ok {
			what += ": " + number.Error()
		}
		errs = append(errs, &fault{c, what})
	}
	failed(checkAudit, "the audit log cannot be written", h.audit.Probe(ctx))
	failed(checkRead, "the store cannot be read", canRead(ctx, h.store))
	if h.file != "" {
		failed(checkWrite, "the store's volume cannot be written", canWrite(h.file))
	}
	if c := h.access.certificates; c != nil && !time.Now().Before(c.NotAfter()) {
		failed(checkCertificate, "the certificate has expired", errors.New(c.NotAfter().Format(time.RFC3339)))
	}
	failed(checkCallers, "no caller can be identified", h.access.wayIn())
	if len(errs) > 0 {
		err := faults(errs)
		if was := h.probing.last(); was == nil || was.Error() != err.Error() {
			h.log.Error("not ready", "error", errors.Join(details...))
		}
		return err
	}
	if h.probing.last() != nil {
		h.log.Info("ready again")
	}
	return nil
}

// A check is one of those that decide whether the server is ready, as a metric names it.
type check string

const (
	checkAudit       check = "audit_log"
	checkRead        check = "store_read"
	checkWrite       check = "store_write"
	checkCertificate check = "certificate"
	checkCallers     check = "callers"
)

// A fault is why a check failed, for strangers.
type fault struct {
	check check
	what  string
}

// faults is the error of checks that ended.
type faults []*fault

func (f faults) Error() string {
	texts := make([]string, len(f))
	for i, one := range f {
		texts[i] = one.what
	}
	return strings.Join(texts, "\n")
}

// canRead looks up one secret, which need not exist.
func canRead(ctx context.Context, s store.Lister) error {
	ref := secret.Ref{Scope: secret.Scope{Org: secret.DefaultOrg}, Key: "READY"}
	if _, err := s.Describe(ctx, ref); !errors.Is(err, secret.ErrNotFound) {
		return err
	}
	return nil
}

// canWrite writes and removes a page beside the store's file, which is what a change needs: the
// volume may be mounted read-only, full, or failing.
func canWrite(store string) error {
	path := store + ".probe"
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600) //nolint:gosec // ours
	if errors.Is(err, os.ErrNotExist) {
		return canBeMade(store) // the first secret makes the folder
	}
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, os.Getpagesize()))
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(path))
}

// A probe is a check that runs once at a time, however many callers ask. Its result is
// shared for a second: anyone who reaches the port may ask. It is safe for concurrent use.
type probe struct {
	mu      sync.Mutex
	err     error         // of the last run
	ended   time.Time     // the last run
	running chan struct{} // closed when the run under way ends; nil without one
}

// ask returns the result of the run under way, of the last one, or of a new one with look. It gives
// up with ctx, while the run goes on: a disk that hangs must not collect goroutines.
func (p *probe) ask(ctx context.Context, look func(context.Context) error) error {
	const shared = time.Second
	p.mu.Lock()
	if p.running == nil {
		if !p.ended.IsZero() && time.Since(p.ended) < shared {
			defer p.mu.Unlock()
			return p.err
		}
		p.running = make(chan struct{})
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTime)
			defer cancel()
			err := look(ctx)
			p.mu.Lock()
			defer p.mu.Unlock()
			p.err, p.ended = err, time.Now()
			close(p.running)
			p.running = nil
		}()
	}
	running := p.running
	p.mu.Unlock()
	select {
	case <-running:
		return p.last()
	case <-ctx.Done():
		return errors.New("the checks do not end: a disk may hang")
	}
}

// last returns the result of the last run, nil before the first.
func (p *probe) last() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// A readiness is what decides whether a server is ready, which changes while it starts. It is safe for concurrent use.
type readiness struct {
	now atomic.Pointer[func(context.Context) error]
}

func (r *readiness) by(ready func(context.Context) error) { r.now.Store(&ready) }
func (r *readiness) ask(ctx context.Context) error        { return (*r.now.Load())(ctx) }

// startOps serves the port for operations in group until ctx ends, unless its address is "". ready is that of
// [health].
func (a *app) startOps(
	ctx context.Context, group *errgroup.Group, address string, ready func(context.Context) error,
	registry *prometheus.Registry,
) error {
	gauges{registry}.server(ready)
	if address == "" {
		return nil
	}
	port, err := opsPort(ctx, address)
	if err != nil {
		return err
	}
	group.Go(func() error { return serveUntil(ctx, opsServer(ready, registry, a.log.Named("ops")), port) })
	a.log.Info("operations are served", "address", port.Addr().String())
	return nil
}

// The bounds of the port for operations. Its callers are kubelets and a few programs that scrape metrics.
const opsConnections = 128

var opsLimits = transport.Limits{
	Connections: opsConnections, HeaderTime: 5 * time.Second, RequestTime: 20 * time.Second, IdleTime: time.Minute,
	Streams: 1,
}

// opsScrapes is how many scrapes are answered at the same time.
const opsScrapes = 4

// opsPort opens the port for probes and metrics. It serves no secrets and checks no
// credentials, so any address is allowed.
func opsPort(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	port, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, secret.WithHint(fmt.Errorf("--ops-listen: %w", err),
			"if another process has the address, end it or give another --ops-listen")
	}
	return transport.Bounded(port, opsLimits), nil
}

// opsServer answers the probes of Kubernetes and the scrapes of Prometheus. ready is that of [health].
func opsServer(ready func(context.Context) error, registry *prometheus.Registry, log hclog.Logger) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := ready(r.Context()); err != nil {
			http.Error(w, strings.ReplaceAll(err.Error(), "\n", "; "), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: opsScrapes}))
	server := transport.HTTP(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A caller shows no credentials: its network is all that is known of it.
		if !transport.Accepted(r.Context(), transport.Network(r.RemoteAddr)) {
			w.Header().Set("Connection", "close")
			http.Error(w, "too many connections of this network have a request", http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(w, r)
	}), opsLimits, log)
	// One request at a time on each connection, so that the bound of connections is one of requests, too.
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true)
	return server
}
