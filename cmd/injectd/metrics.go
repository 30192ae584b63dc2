package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"inject/resolver/serve/transport"
	"inject/resolver/store"
	"inject/resolver/store/sealed"
)

// namespace begins the name of each metric of this server.
const namespace = "inject"

// reloads are the metrics of files that are read again when they change. They are set when that
// happens.
type reloads struct {
	loaded   *prometheus.GaugeVec
	failures *prometheus.CounterVec
}

func newReloads() *reloads {
	const source = "source"
	return &reloads{
		loaded: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: namespace, Name: "source_loaded_timestamp_seconds",
			Help: "When the content of a file that is in force was read, in seconds since 1970.",
		}, []string{source}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "source_reload_failures_total",
			Help: "Changes of a file that could not be used, so that its last good content stays in force.",
		}, []string{source}),
	}
}

// begin counts a file as read now.
func (r *reloads) begin(source string) {
	r.loaded.WithLabelValues(source).SetToCurrentTime()
	r.failures.WithLabelValues(source)
}

// changed counts a change of a file: one that is in use, or one that could not be used because
// of err.
func (r *reloads) changed(source string, err error) {
	if err != nil {
		r.failures.WithLabelValues(source).Inc()
		return
	}
	r.loaded.WithLabelValues(source).SetToCurrentTime()
}

// A counting store knows what its secrets take without reading them.
type counting interface {
	Usage(ctx context.Context) (u store.Usage, counted bool, err error)
}

var _ counting = (*sealed.Store)(nil)

// A gauge is a metric whose values are read when it is scraped. What cannot be read is left out,
// because a value that is made up would hide an alert.
type gauge struct {
	desc *prometheus.Desc
	read func(send func(value float64, labels ...string))
}

// Describe implements [prometheus.Collector].
func (g *gauge) Describe(to chan<- *prometheus.Desc) { to <- g.desc }

// Collect implements [prometheus.Collector].
func (g *gauge) Collect(to chan<- prometheus.Metric) {
	g.read(func(value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, value, labels...)
	})
}

// gauges adds metrics that are read when they are scraped.
type gauges struct{ prometheus.Registerer }

// add adds one. read sends its values.
func (r gauges) add(name, help string, read func(send func(float64, ...string)), labels ...string) {
	r.MustRegister(&gauge{prometheus.NewDesc(namespace+"_"+name, help, labels, nil), read})
}

// server adds the metrics of a server that may still start. Without them an alert of one that does not get
// ready would have nothing to fire on.
func (r gauges) server(ready func(context.Context) error) {
	r.add("build_info", "1, with the versions of the server and of Go.",
		func(send func(float64, ...string)) { send(1, version, runtime.Version()) }, "version", "goversion")
	r.add("ready", "1 if the server is ready for requests, as /readyz says.",
		func(send func(float64, ...string)) { send(number(ready(context.Background()) == nil)) })
}

// files adds the metrics of the files of every server. c may be nil.
func (r gauges) files(sources map[string]interface{ Err() error }, c *transport.Certificates) {
	r.add("source_stale", "1 if a file or URL cannot be used as it is now, so that its last good content is in force.",
		func(send func(float64, ...string)) {
			for name, source := range sources {
				send(number(source.Err() != nil), name)
			}
		}, "source")
	if c != nil {
		r.expiry("certificate_expiry", "When the server's certificate expires", c.NotAfter)
	}
}

// expiry adds when something expires, which is unknown if it is the zero time.
func (r gauges) expiry(name, help string, when func() time.Time) {
	r.add(name+"_timestamp_seconds", help+", in seconds since 1970.", func(send func(float64, ...string)) {
		if t := when(); !t.IsZero() {
			send(float64(t.Unix()))
		}
	})
}

// register adds the metrics that are read when they are scraped, beside those of [gauges.server]. None
// reads more of the store than a look-up does, so a scrape costs the same at any size of the store.
func (h *health) register(r prometheus.Registerer) {
	all := gauges{r}
	add := all.add
	all.files(h.access.sources, h.access.certificates)
	add("ready_check", "1 for a check of /readyz that passes, 0 for one that fails.", h.checks, "check")
	if c := h.access.certificates; c != nil {
		all.expiry("client_ca_expiry", "When the first of the CAs of client certificates expires", c.ClientCANotAfter)
		all.expiry("client_crl_next_update",
			"When the first of the lists of revoked certificates that are used should be renewed",
			c.ClientCRLNextUpdate)
	}
	if s, ok := h.store.(counting); ok {
		usage := func(name, help string, of func(store.Usage) int64) {
			add(name, help, func(send func(float64, ...string)) {
				ctx, cancel := context.WithTimeout(context.Background(), probeTime)
				defer cancel()
				if u, counted, err := s.Usage(ctx); err == nil && counted {
					send(float64(of(u)))
				}
			})
		}
		usage("store_secrets", "Secrets in the store.", func(u store.Usage) int64 { return u.Secrets })
		usage("store_values_bytes", "The sum of the sizes of all values.", func(u store.Usage) int64 { return u.Bytes })
	}
	if h.file == "" {
		return
	}
	add("store_size_bytes", "The size of the store's file.", func(send func(float64, ...string)) {
		if info, err := os.Stat(h.file); err == nil {
			send(float64(info.Size()))
		}
	})
	add("backup_last_success_timestamp_seconds", "When the last backup of the store was made, in seconds since 1970; "+
		"0 if there was none.", func(send func(float64, ...string)) {
		switch info, err := os.Stat(stampPath(h.file)); {
		case err == nil:
			send(float64(info.ModTime().Unix()))
		case errors.Is(err, fs.ErrNotExist):
			send(0)
		}
	})
	volumes := map[string]string{"store": filepath.Dir(h.file)}
	if h.auditFile != "" {
		volumes["audit_log"] = filepath.Dir(h.auditFile)
	}
	volume := func(name, help string, blocks func(*unix.Statfs_t) uint64) {
		add(name, help, func(send func(float64, ...string)) {
			for name, dir := range volumes {
				var stat unix.Statfs_t
				if unix.Statfs(dir, &stat) == nil {
					send(float64(blocks(&stat))*float64(stat.Bsize), name)
				}
			}
		}, "volume")
	}
	volume("volume_size_bytes", "The size of the volume of the store or the audit log.",
		func(s *unix.Statfs_t) uint64 { return s.Blocks })
	volume("volume_available_bytes", "The free space of the volume of the store or the audit log.",
		func(s *unix.Statfs_t) uint64 { return s.Bavail })
}

// checks sends the result of each check of readiness. There is none while a check hangs, or if the
// server is stopping.
func (h *health) checks(send func(float64, ...string)) {
	err := h.ready(context.Background())
	failed, ended := errors.AsType[faults](err)
	if err != nil && !ended {
		return
	}
	for _, c := range []check{checkAudit, checkRead, checkWrite, checkCertificate, checkCallers} {
		if c != checkWrite || h.file != "" {
			send(number(!slices.ContainsFunc(failed, func(f *fault) bool { return f.check == c })), string(c))
		}
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// stampPath is the path of an empty file beside the store, whose time is that of the last backup.
// So it is known after a restart, and with backups that were made without a server.
func stampPath(store string) string { return store + ".backup" }
