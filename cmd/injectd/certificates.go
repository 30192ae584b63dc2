package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"inject/resolver/kubeapi"
	"inject/resolver/secret"
	"inject/resolver/serve/certs"
	"inject/resolver/serve/watch"
	"inject/resolver/store/kube"
)

// kept keeps the certificates in Kubernetes, and what else a file of --kube-certificates names.
type kept struct {
	*certs.Keeper

	file *watch.Watched[*certs.Config]
}

// keptCalls is how many calls of the API are under way: they come one after the other.
const keptCalls = 4

// openKept reads the file, and does not call the API server.
func (f *accessSettings) openKept(ctx context.Context, log hclog.Logger) (*kept, error) {
	file, err := certs.Load(ctx, f.Kept, log)
	if err != nil {
		return nil, err
	}
	cluster, err := kubeapi.Find(kubeapi.Options{Kubeconfig: f.KeptConfig})
	if err != nil {
		return nil, err
	}
	client, err := cluster.Connect(keptCalls)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = client.Close() })
	return &kept{certs.New(certs.Options{Config: file.Current, Client: client, Log: log}), file}, nil
}

// waiting is why there is no certificate yet, for strangers.
func (k *kept) waiting() error {
	why := "the log says why"
	switch _, err := k.Certificate(); {
	case errors.Is(err, secret.ErrUnavailable):
		why = "the API server of Kubernetes has not answered"
	case errors.Is(err, secret.ErrDenied):
		why = "the account of the server has not a right that it needs"
	}
	return fmt.Errorf("there is no certificate yet: %s", why)
}

// await returns true once there is a certificate, and false if ctx ends before.
func (k *kept) await(ctx context.Context, log hclog.Logger) bool {
	select {
	case <-k.First():
		return true
	default:
		log.Info("waiting for a certificate")
	}
	select {
	case <-k.First():
		return true
	case <-ctx.Done():
		return false
	}
}

// from begins to keep the Secret of registries. Its credentials are those of a store.
func (k *kept) from(backend any, org string) error {
	s, ok := backend.(*kube.Store)
	switch {
	case ok:
	case k.file.Current().PullSecret == "":
		return nil
	default:
		return secret.WithHint(
			fmt.Errorf("%w: --kube-certificates: pullSecret needs a store kube://NAMESPACE", secret.ErrInvalid),
			"leave pullSecret out of the file")
	}
	k.Pull(func(ctx context.Context) ([]certs.Pull, error) {
		all, err := s.Pulls(ctx, org)
		pulls := make([]certs.Pull, len(all))
		for i, n := range all {
			pulls[i] = certs.Pull{Key: n.Ref.Key, Config: n.Value}
		}
		return pulls, err
	})
	return nil
}

// register adds the metrics of certificates.
func (k *kept) register(r prometheus.Registerer) {
	add := gauges{r}.add
	span := func(name, help string, of func(certs.Span) float64) {
		add(name, help+", in seconds since 1970.", func(send func(float64, ...string)) {
			spans, _ := k.Status()
			for certificate, s := range spans {
				send(of(s), certificate)
			}
		}, "certificate")
	}
	span("certificates_begin_timestamp_seconds", "When a certificate in Kubernetes began to be valid",
		func(s certs.Span) float64 { return float64(s.Begin.Unix()) })
	span("certificates_end_timestamp_seconds", "When a certificate in Kubernetes ends",
		func(s certs.Span) float64 { return float64(s.End.Unix()) })
	add("certificates_kept", "1 if a part of what --kube-certificates names is as it should be, as it was last read.",
		func(send func(float64, ...string)) {
			_, failed := k.Status()
			for _, p := range certs.Parts {
				send(number(failed[p] == nil), string(p))
			}
		}, "part")
}
