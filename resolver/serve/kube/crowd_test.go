package kube_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/serve/kube"
	"inject/resolver/serve/kube/evidence"
)

// TestCrowd has many pods that ask at once: each is answered, and none with what is another's.
func TestCrowd(t *testing.T) {
	t.Parallel()
	n := 10_000
	if testing.Short() {
		n = 1000
	}
	w := newWorld(t, func(o *kube.Options) {
		direct := shared.server.Get(t).Kubeconfig() // without the proxy, which would take most of the time
		o.Policies = evidence.NewReader(connect(t, direct), o.Config)
		o.Reviews, o.Objects = connect(t, direct), connect(t, direct)
	})
	type member struct {
		scope scope
		key   string
		pod   object
		token string
	}
	all := make([]member, n)
	var group sync.WaitGroup
	turns := make(chan struct{}, 16)
	for i := range all {
		turns <- struct{}{}
		group.Go(func() {
			defer func() { <-turns }()
			m := &all[i]
			m.scope, m.key = newScope(), fmt.Sprintf("KEY_%d", i)
			m.pod = w.task(t, m.scope, []string{m.key})
			m.token = w.token(t, m.pod)
		})
	}
	group.Wait()
	require.False(t, t.Failed())

	wrong := make(chan error, n)
	began := time.Now()
	for i := range all {
		group.Go(func() {
			m := &all[i]
			id, err := w.ask(m.token)
			for errors.Is(err, secret.ErrUnavailable) && time.Since(began) < 10*time.Minute { // as a client does
				time.Sleep(time.Second)
				id, err = w.ask(m.token)
			}
			if err == nil && (id.Name != w.namespace+"/"+name(m.pod) ||
				!slices.Equal(id.Attribute("kubernetes.project"), []string{m.scope.project}) ||
				!slices.Equal(id.Attribute("kubernetes.declared"), []string{m.key})) {
				err = fmt.Errorf("%s was taken for %s", name(m.pod), id.Name)
			}
			wrong <- err
		})
	}
	for range all {
		require.NoError(t, <-wrong)
	}
	t.Logf("%d pods were identified, %.0f a second", n, float64(n)/time.Since(began).Seconds())
}
