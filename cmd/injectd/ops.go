package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"inject/resolver/secret"
	"inject/resolver/serve"
	"inject/resolver/store"
)

// health decides whether the server is ready for requests.
type health struct {
	audit    *serve.Audit
	access   *access
	store    store.Lister
	stopping <-chan struct{}
}

// probeTime is how long the store may take to answer a probe.
const probeTime = 5 * time.Second

// ready returns why no request should be sent to this server, nil if it is ready.
func (h *health) ready(ctx context.Context) error {
	select {
	case <-h.stopping:
		return errors.New("stopping")
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	err := h.audit.Probe(ctx)
	if _, _, err2 := h.store.List(ctx, store.Filter{Org: secret.DefaultOrg}, 1, ""); err2 != nil {
		err = errors.Join(err, fmt.Errorf("store: %w", err2))
	}
	if c := h.access.certificates; c != nil && !time.Now().Before(c.NotAfter()) {
		err = errors.Join(err, errors.New("the certificate has expired"))
	}
	return err
}

// register adds the metrics of certificates, policy, tokens and issuers' keys.
func (h *health) register(r prometheus.Registerer) {
	gauge := func(name, help string, labels prometheus.Labels, value func() float64) {
		o := prometheus.GaugeOpts{Namespace: "inject", Name: name, Help: help, ConstLabels: labels}
		r.MustRegister(prometheus.NewGaugeFunc(o, value))
	}
	if c := h.access.certificates; c != nil {
		gauge("certificate_expiry_seconds", "When the server's certificate expires, in seconds since 1970.", nil,
			func() float64 { return float64(c.NotAfter().Unix()) })
	}
	for name, source := range h.access.sources {
		gauge("source_stale", "1 if a file or URL cannot be used as it is now, so that its last good content is in "+
			"force.", prometheus.Labels{"source": name},
			func() float64 {
				if source.Err() != nil {
					return 1
				}
				return 0
			})
	}
}

// opsPort opens the port for probes and metrics. It serves no secrets and checks no
// credentials, so any address is allowed.
func opsPort(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	port, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w: --ops-listen: %w", secret.ErrUnavailable, err)
	}
	return port, nil
}

// opsServer answers the probes of Kubernetes and the scrapes of Prometheus.
func opsServer(h *health, registry *prometheus.Registry) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := h.ready(r.Context()); err != nil {
			http.Error(w, strings.ReplaceAll(err.Error(), "\n", "; "), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	return &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
}
