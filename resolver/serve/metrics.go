package serve

import (
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"inject/resolver/secret"
)

// metrics are the metrics for Prometheus. Labels have a fixed set of values; names that a
// caller chose are only in the audit log.
type metrics struct {
	requests    *prometheus.CounterVec
	inFlight    prometheus.Gauge
	seconds     *prometheus.HistogramVec
	refusals    *prometheus.CounterVec
	exhausted   *prometheus.CounterVec
	decisions   *prometheus.CounterVec
	operations  *prometheus.CounterVec
	backendTime *prometheus.HistogramVec
	auditErrors prometheus.Counter
}

// buckets are in seconds: from a lookup in memory to the longest that a client waits.
var buckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "inject", Name: name, Help: help}, labels)
	}
	seconds := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(
			prometheus.HistogramOpts{Namespace: "inject", Name: name, Help: help, Buckets: buckets}, labels,
		)
	}
	m := &metrics{
		requests: counter("requests_total", "Decoded calls, by method and status code.", "method", "code"),
		inFlight: prometheus.NewGauge(
			prometheus.GaugeOpts{
				Namespace: "inject", Name: "requests_in_flight",
				Help: "Decoded calls that are being answered.",
			},
		),
		seconds: seconds("request_duration_seconds", "How long a call took, by method.", "method"),
		refusals: counter(
			"refusals_total", "Requests that were refused before their body was read, by status code.", "code",
		),
		exhausted: counter(
			"exhausted_total", "Requests that were refused because a share was used up, by what it was a share of.",
			"resource",
		),
		decisions: counter("decisions_total", "Lines of the audit log, by verb and decision.", "verb", "decision"),
		operations: counter(
			"backend_operations_total", "Operations on the store, by outcome.", "operation", "outcome",
		),
		backendTime: seconds(
			"backend_operation_duration_seconds", "How long an operation on the store took.", "operation",
		),
		auditErrors: prometheus.NewCounter(
			prometheus.CounterOpts{
				Namespace: "inject", Name: "audit_errors_total",
				Help: "Lines of the audit log that could not be written; their requests were not answered.",
			},
		),
	}
	r.MustRegister(
		m.requests, m.inFlight, m.seconds, m.refusals, m.exhausted, m.decisions, m.operations, m.backendTime,
		m.auditErrors,
	)
	// A counter that first appears as 1 has not grown for Prometheus, so an alert would miss the
	// first failure.
	for _, op := range []string{"read", "get", "list", "create", "update", "delete", "import"} {
		for _, err := range []error{nil, secret.ErrUnavailable, secret.ErrCorrupt} {
			m.operations.WithLabelValues(op, outcome(err))
		}
	}
	return m
}

func (m *metrics) answered(method, code string, took time.Duration) {
	m.requests.WithLabelValues(method, code).Inc()
	m.seconds.WithLabelValues(method).Observe(took.Seconds())
}

func (m *metrics) refused(code connect.Code) { m.refusals.WithLabelValues(code.String()).Inc() }

func (m *metrics) decided(verb, decision string) { m.decisions.WithLabelValues(verb, decision).Inc() }

func (m *metrics) backend(op string, took time.Duration, err error) {
	m.operations.WithLabelValues(op, outcome(err)).Inc()
	m.backendTime.WithLabelValues(op).Observe(took.Seconds())
}
