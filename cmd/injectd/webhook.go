package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"inject/cli"
	"inject/injector/webhook"
	"inject/resolver/secret"
	"inject/resolver/serve/transport"
	"inject/resolver/serve/watch"
)

// The bounds of the webhook's port. Its callers are API servers, and each API server keeps a few connections.
const (
	webhookConnections = 1000
	webhookStreams     = 250 // requests at the same time on one connection, as Go's clients expect
	// webhookTime is how long the API server waits for an answer, so that a longer request is in vain.
	webhookTime = 10 * time.Second
	// webhookRoom is how far the heap grows between two collections, in bytes. What is alive is little, and
	// the bodies of pods are garbage at once.
	webhookRoom = 8 << 20
)

func (a *app) webhookCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "webhook [flags]",
		Short: "Change the pods of tasks, so that they run under inject",
		Long: `webhook answers the API server of Kubernetes, which asks for each new pod of a task what to
change in it: the command, volumes, and a container that copies inject there. It reads no
secrets and calls nothing. A pod that cannot be changed stays as it is. From Kubernetes
1.36 on a policy in the API server does the same, and needs no server.

SIGTERM and SIGINT drain: the server answers the requests that have begun, then ends. It
reads its files again when they change; after a bad edit the old content stays in force.`,
		Example: `  injectd webhook --config mutation.yaml \
      --cert-file tls.crt --cert-key-file tls.key`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.webhook(cmd.Context()) },
	}
	a.settings.AddFlags(cmd, &a.set.Webhook)
	return cmd
}

// checkWebhook returns an error for every setting of the webhook that is missing or invalid.
func (f *settings) checkWebhook() error {
	w := &f.Webhook
	errs := []error{checkAddress("listen", w.Address)}
	if w.Ops != "" {
		errs = append(errs, checkAddress("ops-listen", w.Ops))
	}
	if w.Config == "" {
		errs = append(errs, secret.WithHint(
			fmt.Errorf("%w: --config is missing: it says what pods get", secret.ErrInvalid),
			"the chart writes it to the ConfigMap inject-mutation"))
	}
	if w.CertFile == "" {
		errs = append(errs, secret.WithHint(
			fmt.Errorf("%w: --cert-file is missing: the API server calls webhooks over TLS only", secret.ErrInvalid),
			"give a certificate for the name of the Service, whose CA is the caBundle of the webhook configuration"))
	}
	return errors.Join(errs...)
}

func (a *app) webhook(ctx context.Context) error {
	f := &a.set.Webhook
	if err := a.set.checkWebhook(); err != nil {
		return err
	}
	tuneCollector(a.set.Found.GoGC, a.set.Found.GoMemLimit, webhookRoom)
	// Everything that watches a file, and every goroutine, ends with this context.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopping, release := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer release()

	files := map[string]string{f.Config: "config", f.CertKeyFile: "cert-key-file", f.CertFile: "cert-file"}
	delete(files, "") // the key may be in the certificate's file
	loads := newReloads()
	watching := watch.Notify(ctx, func(path string, why error) { loads.changed(files[path], why) })
	config, err := watch.Load(watching, f.Config, webhook.Parse, a.log.Named("config"))
	if err != nil {
		err = fmt.Errorf("--config: %w", err)
	}
	certificates, err2 := transport.LoadCertificates(watching,
		transport.CertificateFiles{Cert: f.CertFile, Key: f.CertKeyFile}, a.log.Named("certificates"))
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	for _, name := range files {
		loads.begin(name)
	}
	sources := map[string]interface{ Err() error }{"config": config}
	for flag, source := range certificates.Sources() {
		sources[flag] = source
	}
	limits := transport.Limits{
		Connections: webhookConnections, Streams: webhookStreams, RequestTime: webhookTime,
	}
	port, err := transport.Listen(ctx, f.Address, certificates, limits)
	if err != nil {
		return err
	}
	defer port.Close() //nolint:errcheck // the server has closed it before

	registry := newRegistry()
	registry.MustRegister(loads.loaded, loads.failures)
	handler := webhook.Handler(webhook.Options{
		Config: config.Current, Log: a.log, Metrics: registry, Port: webhookPort{},
	})
	// Ready means that it can serve, and not for how long.
	ready := func(context.Context) error {
		switch {
		case stopping.Err() != nil:
			return errors.New("stopping")
		case !time.Now().Before(certificates.NotAfter()):
			return errors.New("the certificate has expired")
		}
		return nil
	}
	gauges{registry}.files(sources, certificates)

	group, groupCtx := errgroup.WithContext(context.WithoutCancel(ctx))
	running, answered := context.WithCancel(groupCtx)
	defer answered()
	if err := a.startOps(running, group, f.Ops, ready, registry); err != nil {
		return err
	}
	group.Go(func() error {
		defer answered()
		server := transport.HTTP(handler, limits, a.log.Named("http"))
		return transport.Serve(afterDelay(running, stopping, f.DrainDelay), server, port, f.Drain)
	})
	a.log.Info("serving", "address", port.Addr().String(), "version", version)
	context.AfterFunc(stopping, release) // the next signal ends us at once
	err = group.Wait()
	a.log.Info("stopped")
	return err
}

// webhookPort gives the handler of package webhook the connections of package transport, which counts them by
// the network of the client. The server knows nothing else of an API server, which shows no credentials.
type webhookPort struct{}

// Network implements [webhook.Port].
func (webhookPort) Network(remote string) string { return transport.Network(remote) }

// Accepted implements [webhook.Port].
func (webhookPort) Accepted(ctx context.Context, network string) bool {
	return transport.Accepted(ctx, network)
}

// Explained implements [webhook.Port].
func (webhookPort) Explained(ctx context.Context, n int) { transport.Explained(ctx, n) }
