package rpc_test

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"inject/resolver/rpc"
	"inject/resolver/secret"
	injectd "inject/resolver/serve"
	"inject/resolver/serve/transport"
	"inject/resolver/store"
	"inject/resolver/store/storetest"
)

// exampleServer starts a server on loopback, without TLS and without credentials. It returns
// the address, and a function that ends the server.
func exampleServer() (address string, end func() error, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	limits := transport.Limits{Connections: 10, Streams: 10}
	port, err := transport.Listen(ctx, "127.0.0.1:0", nil, limits)
	if err != nil {
		cancel()
		return "", nil, err
	}
	server := injectd.New(injectd.Options{
		Store: storetest.Memory(), Audit: injectd.NewAudit(io.Discard), Log: hclog.NewNullLogger(),
		Metrics: prometheus.NewRegistry(), Cluster: "example", Org: secret.DefaultOrg,
	})
	done := make(chan error, 1)
	go func() {
		done <- transport.Serve(ctx, transport.HTTP(server.Handler(), limits, hclog.NewNullLogger()), port, time.Second)
	}()
	return port.Addr().String(), func() error { cancel(); return <-done }, nil
}

// A secret is created and resolved over the wire.
func ExampleOpen() {
	address, end, err := exampleServer()
	if err != nil {
		fmt.Println(err)
		return
	}
	client, err := rpc.Open(
		rpc.Options{Address: address, Timeout: 10 * time.Second},
	) // with TLS: true, also a CAFile, a TokenFile …
	if err != nil {
		fmt.Println(err)
		return
	}

	ctx := context.Background()
	ref := secret.Ref{Scope: secret.Scope{Org: "flyte", Project: "fraud"}, Key: "API_KEY"}
	if err := client.Create(ctx, ref, secret.NewValue([]byte("hunter2")), store.Regular); err != nil {
		fmt.Println(err)
	}
	task := secret.Scope{Org: "flyte", Project: "fraud", Domain: "production"}
	resolved, err := client.Resolve(ctx, task, []secret.Declaration{{Key: "API_KEY"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(resolved[0].Info.Ref, resolved[0].Value.Len(), "bytes")

	fmt.Println(client.Close(), end())
	// Output:
	// API_KEY at project fraud 7 bytes
	// <nil> <nil>
}
