// Command roots prints the certificates of the authorities that Mozilla trusts, as PEM. They come with a
// module of Go in the version of go.mod, so that every build of an image has the same.
package main

import (
	"bufio"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

func main() {
	if err := write(); err != nil {
		fmt.Fprintln(os.Stderr, "roots:", err)
		os.Exit(1)
	}
}

// write leaves out authorities that Mozilla trusts with a condition, such as for certificates before a
// date: PEM cannot state one, so they would be trusted for more.
func write() error {
	out := bufio.NewWriter(os.Stdout)
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		certificate, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "# %s\n", certificate.Subject); err != nil {
			return err
		}
		if err := pem.Encode(out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return err
		}
	}
	return out.Flush()
}
