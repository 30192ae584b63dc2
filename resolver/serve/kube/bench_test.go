package kube_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"

	"inject/resolver/kubeapi"
	"inject/resolver/serve/kube"
	"inject/resolver/serve/kube/evidence"
)

// BenchmarkIdentify reports how many pods are identified in the time of one plain TokenReview of the same API
// server, with as many at the same time, and what one at a time takes beside a TokenReview. The contenders
// take turns, and a ratio is the median of the rounds' own.
func BenchmarkIdentify(b *testing.B) {
	w := newWorld(b, func(o *kube.Options) {
		direct := shared.server.Get(b).Kubeconfig() // without the proxy
		o.Policies = evidence.NewReader(connect(b, direct), o.Config)
		o.Reviews, o.Objects = connect(b, direct), connect(b, direct)
	})
	const together = kube.OwnReviews
	var tokens [together]string
	for i := range tokens {
		tokens[i] = w.token(b, w.task(b, newScope(), []string{"K"}))
	}
	identify := func(ctx context.Context, token string) error {
		_, err := w.Authenticate(ctx, bearer(token))
		return err
	}
	plain := connect(b, shared.server.Get(b).Kubeconfig())
	review := func(ctx context.Context, token string) error {
		r, err := kubeapi.TokenReviews.Create(ctx, plain, "", "", &authenticationv1.TokenReview{
			Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{kube.Audience}},
		})
		if err == nil && !r.Status.Authenticated {
			err = fmt.Errorf("not authenticated: %s", r.Status.Error)
		}
		return err
	}
	took := func(n int, do func(context.Context, string) error) float64 {
		var group sync.WaitGroup
		failures := make(chan error, n)
		start := time.Now()
		for i := range n {
			group.Go(func() { failures <- do(b.Context(), tokens[i]) })
		}
		group.Wait()
		all := time.Since(start)
		for range n {
			require.NoError(b, <-failures)
		}
		return all.Seconds()
	}
	ratios := map[int][]float64{}
	for round := 0; b.Loop(); round++ {
		for _, n := range []int{1, together} {
			var times [2]float64
			for turn := range 2 {
				if (turn+round)%2 == 0 {
					times[0] = took(n, identify)
				} else {
					times[1] = took(n, review)
				}
			}
			ratios[n] = append(ratios[n], times[0]/times[1])
		}
	}
	b.ReportMetric(0, "ns/op") // what counts is the ratio
	for n, all := range ratios {
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2], fmt.Sprintf("%d/TokenReview", n))
	}
}
