package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/injector/webhook"
	"inject/resolver/serve/transport"
)

// The table of the webhook's bounds is what the code does.
func TestTableOfWebhookBounds(t *testing.T) {
	mib := func(n int) string { return fmt.Sprint(n>>20, " MiB") }
	kib := func(n int) string { return fmt.Sprint(n>>10, " KiB") }
	f := fmt.Sprintf
	rows := [][2]string{
		{"the body of a request", mib(webhook.MaxBody) + "; the API server takes 3 MiB for an object"},
		{"bodies that are held at the same time", f("%s; %s of one network. A request waits %g s for its share",
			mib(webhook.MaxBodies), mib(webhook.BodiesOf), webhook.Patience.Seconds())},
		{
			"fields and items of a request, at any depth",
			f("%d, counted before they are decoded. A pod with more is left unchanged", webhook.MaxValues),
		},
		{"requests under way", f("%d; %d of one network", webhook.MaxRequests, webhook.RequestsOf)},
		{"time for a request", f("%g s for its header, %g s for its body, %g s until it is answered, %g s more to "+
			"read the answer", transport.HeaderTime.Seconds(), webhook.BodyTime.Seconds(), webhookTime.Seconds(),
			transport.AnswerTime.Seconds())},
		{"the header of a request", kib(transport.MaxHeader)},
		{"connections", f("%d, %d requests at the same time on each; %d of one network, for one more an idle one "+
			"is closed", webhookConnections, webhookStreams, webhookConnections/4)},
		{"from a connection to its first request", f("%g s", transport.NewcomerTime.Seconds())},
		{"connections of one network without a request yet", f("%d; more are closed", webhookConnections/4)},
		{"TLS handshakes of one network that are computed at the same time", fmt.Sprint(transport.Handshakes)},
		{"input that is neither a request nor its body", f("%s at once and %s a second of one network; %s and %s of a "+
			"connection without a request yet", kib(transport.InputBurst), kib(transport.InputRate),
			kib(transport.NewcomerBurst), kib(transport.NewcomerRate))},
		{"lines of the log", f("%d at once and %d a second for each network; %d and %d for all", webhook.LineBurst,
			webhook.LineRate, 2*webhook.LineBurst, 2*webhook.LineRate)},
		{"the annotation of an entrypoint", f("%d characters", webhook.MaxEntrypoint)},
	}
	requireTable(t, "Bounds of the webhook", rows)
}

// requireTable checks the table of a section of the page of limits.
func requireTable(t *testing.T, section string, rows [][2]string) {
	t.Helper()
	var want strings.Builder
	for _, row := range rows {
		fmt.Fprintf(&want, "| %s | %s |\n", row[0], row[1])
	}
	page, err := os.ReadFile("../../docs/reference/limits.md")
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(page), "\n## "+section+"\n")
	require.True(t, ok)
	_, rest, ok = strings.Cut(rest, "|---|---|\n")
	require.True(t, ok)
	table, _, _ := strings.Cut(rest, "\n\n")
	require.Equal(t, want.String(), table+"\n")
}

// The table of the bounds of the port for operations is what the code does.
func TestTableOfOpsBounds(t *testing.T) {
	kib := func(n int) string { return fmt.Sprint(n>>10, " KiB") }
	f := fmt.Sprintf
	requireTable(t, "Bounds of the port for operations", [][2]string{
		{"connections", f("%d, one request at a time on each; %d of one network, for one more an idle one is closed",
			opsConnections, opsConnections/4)},
		{"connections of one network without a request yet", f("%d; more are closed", opsConnections/4)},
		{"time for a request", f("%g s for its header, %g s until it is answered, %g s more to read the answer",
			opsLimits.HeaderTime.Seconds(), opsLimits.RequestTime.Seconds(), transport.AnswerTime.Seconds())},
		{"from one request of a connection to the next", f("%g s", opsLimits.IdleTime.Seconds())},
		{"the header of a request", kib(transport.MaxHeader)},
		{"input of all connections of a network", f("%s at once and %s a second; %s and %s of a connection without a "+
			"request yet", kib(transport.InputBurst), kib(transport.InputRate), kib(transport.NewcomerBurst),
			kib(transport.NewcomerRate))},
		{"scrapes that are answered at the same time", f("%d", opsScrapes)},
		{"checks of readiness", "one at a time, at most one a second; all that ask share its result"},
	})
}
