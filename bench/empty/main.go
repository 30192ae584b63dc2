// Command empty links the gRPC client that inject links, and does nothing. No Go program with
// that client can start in less time.
package main

import (
	"context"
	"os"

	"inject/resolver/rpc"
	"inject/resolver/secret"
)

func main() {
	if len(os.Args) < 2 {
		return // this is what is measured
	}
	// Without this use of it, the linker would leave the client out.
	client, err := rpc.Open(rpc.Options{Address: os.Args[1]})
	if err == nil {
		_, err = client.Resolve(context.Background(), secret.Scope{}, nil)
	}
	if err != nil {
		os.Exit(1)
	}
}
