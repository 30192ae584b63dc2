package webhook_test

import (
	"bytes"
	"crypto/rand"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/injector/webhook"
)

// BenchmarkReview reports what a review of a pod of 4 KiB costs, over TLS and HTTP/2 as the API server sends it:
// its time over that of a handler that reads the review and allows it without a look. The median and the
// 99th percentile should be under 6: a pod is decoded level by level, so that what is not read is not decoded. The
// contenders take turns.
func BenchmarkReview(b *testing.B) {
	pod, first := newPod()
	var env list
	for range 40 {
		env = append(env, object{"name": "K_" + rand.Text(), "value": rand.Text() + rand.Text()})
	}
	first["env"] = env
	body := encode(b, reviewed(pod))
	require.Greater(b, len(body), 4<<10)
	allowed := encode(b, object{
		"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
		"response": object{"uid": "1-2-3", "allowed": true},
	})
	plain := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(allowed)
		}
	}))
	plain.EnableHTTP2 = true
	plain.StartTLS()
	defer plain.Close()
	ours := serve(b)

	servers := []*httptest.Server{ours.Server, plain}
	times := make([][]time.Duration, len(servers))
	for round := 0; b.Loop(); round++ {
		for i := range servers {
			i = (round + i) % len(servers)
			start := time.Now()
			to := servers[i].URL + webhook.MutatePath
			r, err := servers[i].Client().Post(to, "application/json", bytes.NewReader(body))
			require.NoError(b, err)
			answer, err := io.ReadAll(r.Body)
			require.NoError(b, err)
			require.NoError(b, r.Body.Close())
			times[i] = append(times[i], time.Since(start))
			require.Equal(b, i == 0, bytes.Contains(answer, []byte(`"patch"`)), "%s", answer)
		}
	}
	b.ReportMetric(0, "ns/op") // what counts is the ratio
	of := func(i, percent int) float64 {
		slices.Sort(times[i])
		return float64(times[i][len(times[i])*percent/100])
	}
	b.ReportMetric(of(0, 50)/of(1, 50), "review/plain")
	b.ReportMetric(of(0, 99)/of(1, 99), "p99-review/p99-plain")
	b.ReportMetric(of(0, 99)/1e6, "p99-ms")
}
