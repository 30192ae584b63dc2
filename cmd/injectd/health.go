package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"inject/cli"
	"inject/resolver/secret"
)

func (a *app) healthCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "health [flags]",
		Short: "Ask a server on this machine whether it is ready",
		Long: `health asks the port for operations of a running server whether it is ready, as curl on
its /readyz would. It is for images without a shell. It exits with 0 if the server is
ready, and else with 1 and the reason.`,
		Example: "  docker run --health-cmd '/injectd health' injectd",
		Args:    cli.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.askHealth(cmd.Context()) },
	}
	a.settings.AddFlags(cmd, &a.set.Health, &a.set.Form)
	return cmd
}

func (a *app) askHealth(ctx context.Context) error {
	err := askReady(ctx, a.set.Health.Ops)
	answer := struct {
		Ready  bool   `json:"ready"`
		Reason string `json:"reason,omitempty"`
	}{Ready: err == nil}
	if err != nil {
		answer.Reason = err.Error()
	}
	if a.set.Form.Output == "json" {
		return errors.Join(json.NewEncoder(a.stdout).Encode(answer), err)
	}
	if err == nil {
		_, err = fmt.Fprintln(a.stdout, "ready")
	}
	return err
}

// askReady returns nil if the server with that port for operations is ready.
func askReady(ctx context.Context, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return secret.WithHint(checkAddress("ops-listen", address),
			"give the server's --ops-listen; a server without that port cannot be asked")
	}
	if ip := net.ParseIP(host); host == "" || ip.IsUnspecified() {
		host = "localhost"
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime+time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz",
		http.NoBody)
	if err != nil {
		return checkAddress("ops-listen", "")
	}
	// A transport of its own has no proxy: the server is on this machine.
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return secret.WithHint(fmt.Errorf("not ready: %w", err),
			"is injectd serve running, with this --ops-listen?")
	}
	defer response.Body.Close() //nolint:errcheck // read only
	text, err := io.ReadAll(io.LimitReader(response.Body, 4<<10))
	switch {
	case err != nil:
		return fmt.Errorf("not ready: %w", err)
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("not ready: %s", strings.TrimSpace(string(text)))
	}
	return nil
}
