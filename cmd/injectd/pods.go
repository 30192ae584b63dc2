package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"inject/resolver/kubeapi"
	"inject/resolver/serve/identity"
	"inject/resolver/serve/kube"
	"inject/resolver/serve/kube/evidence"
	"inject/resolver/serve/watch"
)

// pods authenticates the pods of a cluster, and keeps what is known of the policies that vouch for them.
type pods struct {
	*kube.Authenticator

	file   *watch.Watched[*evidence.Config]
	reader *evidence.Reader
	anyway bool
	log    hclog.Logger
	count  *prometheus.CounterVec

	places atomic.Pointer[evidence.Places]
	last   atomic.Pointer[evidence.Report] // nil before the first one
	said   string                          // the state that was logged last; of watch only
}

const (
	// podCalls is how many calls of the API each use has under way: a review, and a few objects, for
	// each pod that is checked.
	podCalls = 4 * kube.MaxReviews
	// podsEvery is how often the state of the policies is read for the log and the metrics. What is
	// decided on a pod does not depend on it.
	podsEvery = 10 * time.Second
)

// openPods returns what authenticates pods, and does not call the API server.
func (f *accessSettings) openPods(ctx context.Context, log hclog.Logger) (*pods, error) {
	file, err := evidence.Load(ctx, f.Pods, log)
	if err != nil {
		return nil, err
	}
	cluster, err := kubeapi.Find(kubeapi.Options{Kubeconfig: f.PodsConfig})
	if err != nil {
		return nil, err
	}
	p := &pods{file: file, anyway: f.PodsAnyway, log: log, count: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Name: "pods_total",
		Help: "Tokens of pods that were checked, by why they were refused; identified for those that were not.",
	}, []string{"reason"})}
	places := evidence.Places{}
	if f.PodsConfig == "" {
		places.Server = cluster.Namespace()
	}
	p.places.Store(&places)
	o := kube.Options{
		Config: file.Current, Margin: f.PodsMargin, AcceptUnprotected: f.PodsAnyway,
		Places: func() evidence.Places { return *p.places.Load() },
	}
	var clients [3]*kubeapi.Client
	for i := range clients {
		if clients[i], err = cluster.Connect(podCalls); err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { _ = clients[i].Close() })
	}
	p.reader = evidence.NewReader(clients[0], file.Current)
	o.Policies, o.Reviews, o.Objects = p.reader, clients[1], clients[2]
	p.Authenticator = kube.New(o)
	return p, nil
}

// Authenticate implements [identity.Authenticator].
func (p *pods) Authenticate(ctx context.Context, c identity.Credentials) (identity.Identity, error) {
	id, err := p.Authenticator.Authenticate(ctx, c)
	switch reason := identity.Reason(err); reason {
	case identity.ReasonNone:
	case "":
		p.count.WithLabelValues("identified").Inc()
	default:
		p.count.WithLabelValues(reason).Inc()
	}
	return id, err
}

// storedIn says in which namespace the secrets are.
func (p *pods) storedIn(namespace string) {
	places := *p.places.Load()
	places.Store = namespace
	p.places.Store(&places)
}

// watch reads the state of the policies now and then until ctx ends, and logs its changes.
func (p *pods) watch(ctx context.Context) {
	for {
		report, err := p.reader.Fresh(ctx)
		if ctx.Err() != nil {
			return
		}
		p.say(report, err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(podsEvery):
		}
	}
}

// say logs the state of the policies unless it is the one that was logged last.
func (p *pods) say(report *evidence.Report, err error) {
	state, problems := "protected", map[string]string{}
	if err == nil {
		p.last.Store(report)
		for _, namespace := range report.Config.TaskNamespaces {
			if _, err := report.InForce(namespace); err != nil {
				problems[namespace] = err.Error()
			}
		}
	}
	gaps := p.gaps(report, err)
	var list []any
	for _, namespace := range slices.Sorted(maps.Keys(problems)) {
		list = append(list, "namespace "+namespace, problems[namespace])
	}
	switch {
	case err != nil:
		state = "unknown"
		list = append(list, "error", err)
	case gaps != "":
		state = "unprotected"
		list = append(list, "because", gaps)
	case len(problems) > 0:
		state = "no evidence"
	}
	said := fmt.Sprint(state, list)
	if said == p.said {
		return
	}
	p.said = said
	switch {
	case state == "protected":
		p.log.Info("the admission policies vouch for pods", "pods", state)
	case state == "unprotected" && p.anyway:
		p.log.Warn("UNPROTECTED: others may reach the secrets of pods, which are served all the same",
			append([]any{"pods", state}, list...)...)
	case state == "unknown":
		p.log.Error("the admission policies cannot be read, so no pod is served",
			append([]any{"pods", state}, list...)...)
	default:
		p.log.Error("pods are refused: nothing vouches for them, or others may reach their secrets",
			append([]any{"pods", state}, list...)...)
	}
}

// gaps returns what leaves pods unprotected, as one text.
func (p *pods) gaps(report *evidence.Report, err error) string {
	if err != nil {
		return ""
	}
	var all []string
	for _, g := range report.Gaps(*p.places.Load()) {
		all = append(all, g.Text)
	}
	return strings.Join(all, "; ")
}

// register adds the metrics of pods.
func (p *pods) register(r prometheus.Registerer) {
	p.count.WithLabelValues("identified")
	r.MustRegister(p.count)
	add := gauges{r}.add
	each := func(name, help string, value func(*evidence.Report, string) bool) {
		add(name, help, func(send func(float64, ...string)) {
			report := p.last.Load()
			if report == nil {
				return
			}
			for _, of := range report.Config.TaskNamespaces {
				send(number(value(report, of)), of)
			}
		}, "namespace")
	}
	each("pods_vouched", "1 if the admission policies of a namespace are in force, as they were last read.",
		func(report *evidence.Report, of string) bool { _, err := report.InForce(of); return err == nil })
	each("pods_protected", "1 if no others may reach the secrets of the pods of a namespace, as it was last read.",
		func(report *evidence.Report, of string) bool {
			return !slices.ContainsFunc(report.Gaps(*p.places.Load()), func(g evidence.Gap) bool {
				return g.Namespace == "" || g.Namespace == of
			})
		})
	add("pods_read_timestamp_seconds", "When the admission policies were last read, in seconds since 1970.",
		func(send func(float64, ...string)) {
			if report := p.last.Load(); report != nil {
				send(float64(report.Began.Unix()))
			}
		})
}
