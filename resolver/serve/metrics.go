package serve

import (
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what Prometheus is told. Labels are words of ours, never names that a
// caller chose: those are in the audit log.
type metrics struct {
	requests    *prometheus.CounterVec
	inFlight    prometheus.Gauge
	seconds     *prometheus.HistogramVec
	refusals    *prometheus.CounterVec
	decisions   *prometheus.CounterVec
	operations  *prometheus.CounterVec
	backendTime *prometheus.HistogramVec
	auditErrors prometheus.Counter
}

// buckets are of seconds, from what a lookup takes in memory to what a client waits for.
var buckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "inject", Name: name, Help: help}, labels)
	}
	seconds := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "inject", Name: name, Help: help, Buckets: buckets}, labels)
	}
	m := &metrics{
		requests:    counter("requests_total", "Calls that were understood, by method and status code.", "method", "code"),
		inFlight:    prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "inject", Name: "requests_in_flight", Help: "Calls that were understood and are being answered."}),
		seconds:     seconds("request_seconds", "How long a call took, by method.", "method"),
		refusals:    counter("refusals_total", "Requests that were refused before they were read, by status code.", "code"),
		decisions:   counter("decisions_total", "Lines of the audit log, by verb and decision.", "verb", "decision"),
		operations:  counter("backend_operations_total", "Operations of the store, by how they ended.", "operation", "outcome"),
		backendTime: seconds("backend_seconds", "How long an operation of the store took.", "operation"),
		auditErrors: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "inject", Name: "audit_errors_total", Help: "Lines of the audit log that could not be written; the requests were not answered."}),
	}
	r.MustRegister(m.requests, m.inFlight, m.seconds, m.refusals, m.decisions, m.operations, m.backendTime, m.auditErrors)
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
