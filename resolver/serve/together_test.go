package serve_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/serve"
	"inject/resolver/store"
	"inject/resolver/store/storetest"
)

// held is a store whose reads wait until the test lets them go on.
type held struct {
	store.Store

	reads atomic.Int64
	hold  chan struct{}
}

func (h *held) Get(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
	h.reads.Add(1)
	<-h.hold
	return h.Store.Get(ctx, ref)
}

// metric returns the value of a metric, summed over its labels.
func metric(t *testing.T, r prometheus.Gatherer, name string, labels ...string) (sum float64) {
	t.Helper()
	families, err := r.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var pairs []string
			for _, l := range m.GetLabel() {
				pairs = append(pairs, l.GetName()+"="+l.GetValue())
			}
			all := strings.Join(pairs, " ")
			matches := true
			for _, l := range labels {
				matches = matches && strings.Contains(all, l)
			}
			if matches {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// Tasks that start together share one read for each rung of each secret, and each gets its
// values. (The tests of package flight have ten thousand tasks; here that would mostly test
// the machine.)
func TestTasksThatStartTogether(t *testing.T) {
	const tasks, connections = 400, 8
	backend := &held{Store: storetest.Memory(), hold: make(chan struct{})}
	r := start(t, rules, func(o *serve.Options) { o.Store = backend })
	narrow := secret.Scope{Org: "flyte", Project: "p", Domain: "d"}
	first, last := storetest.Value(t, 30), storetest.Value(t, 30)
	require.NoError(
		t,
		backend.Create(t.Context(), secret.Ref{Scope: narrow, Key: "FIRST"}, secret.NewValue(first), store.Regular),
	)
	require.NoError(
		t,
		backend.Create(
			t.Context(), secret.Ref{Scope: secret.Scope{Org: "flyte"}, Key: "LAST"}, secret.NewValue(last),
			store.Regular,
		),
	)

	pair := certOf(r.Authority, "task", "spiffe://example.org/project/p/domain/d")
	pool := x509.NewCertPool()
	pool.AddCert(r.Cert)
	clients := make([]*http.Client, connections)
	for i := range clients {
		transport := &http.Transport{
			TLSClientConfig: &tls.Config{
				RootCAs: pool, Certificates: []tls.Certificate{*pair}, MinVersion: tls.VersionTLS13,
			},
			ForceAttemptHTTP2: true, MaxConnsPerHost: 1,
		}
		t.Cleanup(transport.CloseIdleConnections)
		clients[i] = &http.Client{Transport: transport}
	}
	var wg sync.WaitGroup
	var right atomic.Int64
	for i := range tasks {
		wg.Go(func() {
			status, answer := r.call(
				clients[i%connections], "inject.v1.ResolveService/Resolve",
				`{"secrets":[{"key":"FIRST"},{"key":"LAST"}]}`,
			)
			if text := fmt.Sprint(answer); status == http.StatusOK &&
				strings.Contains(text, base64.StdEncoding.EncodeToString(first)) &&
				strings.Contains(text, base64.StdEncoding.EncodeToString(last)) {
				right.Add(1)
			}
		})
	}
	require.Eventually(
		t, func() bool { return metric(t, r.registry, "inject_requests_in_flight") == tasks }, time.Minute,
		20*time.Millisecond,
	)
	close(backend.hold)
	wg.Wait()
	require.EqualValues(t, tasks, right.Load())
	require.EqualValues(t, 5, backend.reads.Load(), "FIRST at its first rung, LAST at all four")
	require.InDelta(t, 5, metric(t, r.registry, "inject_backend_operations_total", "operation=read"), 0)
}
