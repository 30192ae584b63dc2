// Command coredns is CoreDNS with only the plugins that a cluster needs. With all of them it would
// link the libraries of three clouds, and take minutes to build.
package main

import (
	"github.com/coredns/coredns/coremain"

	// What dns.yaml configures.
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

func main() { coremain.Run() }
