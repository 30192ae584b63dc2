package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"inject/resolver/serve/transport"
)

// This file has the checks of doctor that look at files more closely than a server does. A server
// starts with a certificate that every client refuses, and with a policy that others may change.

// writableByOthers warns of a file that decides who may do what and that others than its owner may
// change.
func writableByOthers(path string) string {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o022 == 0 {
		return ""
	}
	return fmt.Sprintf("others may change %s (mode %04o): chmod go-w", path, info.Mode().Perm())
}

// certificatesIn returns the certificates of a PEM file, without those that cannot be parsed.
func certificatesIn(path string) []*x509.Certificate {
	rest, err := os.ReadFile(path) //nolint:gosec // the operator's file
	if err != nil {
		return nil
	}
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return all
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			all = append(all, c)
		}
	}
}

func dated(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// lookAtCertificate checks whether clients would accept the certificate of the server, which is
// the first in the file; those behind it lead to its CA.
func lookAtCertificate(path string) finding {
	chain := certificatesIn(path)
	found := finding{what: "certificate"}
	if len(chain) == 0 {
		found.err = fmt.Errorf("%s holds no certificate", path)
		return found
	}
	leaf, now := chain[0], time.Now()
	found.is = "expires " + dated(leaf.NotAfter)
	var errs []error
	for i, c := range chain {
		name := ""
		if i > 0 {
			name = "the certificate of the CA " + c.Subject.String() + " "
		}
		switch {
		case i > 0 && now.After(c.NotAfter): // clients may know another way to their CA
			found.warn(name + "has expired " + dated(c.NotAfter))
		case now.After(c.NotAfter):
			errs = append(errs, fmt.Errorf("%shas expired %s", name, dated(c.NotAfter)))
		case now.Before(c.NotBefore):
			errs = append(errs, fmt.Errorf("%sis not valid before %s", name, dated(c.NotBefore)))
		case c.NotAfter.Sub(now) < soon:
			found.warn(name + "expires " + dated(c.NotAfter))
		}
	}
	if !serves(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth, len(leaf.UnknownExtKeyUsage)) {
		errs = append(errs, errors.New("is not for servers (extended key usage without serverAuth): clients refuse it"))
	}
	if len(leaf.DNSNames)+len(leaf.IPAddresses) == 0 {
		errs = append(errs, errors.New("has no DNS name and no IP address (subjectAltName): clients refuse it"))
	}
	if leaf.IsCA {
		found.warn(transport.OwnCA)
	}
	if leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		found.warn("may not sign (key usage without digitalSignature): some clients refuse it")
	}
	found.err = errors.Join(errs...)
	return found
}

// serves reports whether a certificate is for use; one without usages is for all.
func serves(usages []x509.ExtKeyUsage, use x509.ExtKeyUsage, unknown int) bool {
	return len(usages)+unknown == 0 || slices.Contains(usages, use) || slices.Contains(usages, x509.ExtKeyUsageAny)
}

// lookAtAuthorities checks which certificates of clients the CAs in a file could sign. It fails if
// none can. It is false if the file has no certificates, which loading it reports.
func lookAtAuthorities(path string, now time.Time) (finding, bool) {
	all := certificatesIn(path)
	found := finding{what: "mtls", is: path}
	var last time.Time
	var problems []string
	usable := 0
	for _, c := range all {
		name := c.Subject.String()
		if name == "" {
			name = fmt.Sprintf("serial number %v", c.SerialNumber)
		}
		self := bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate,
			c.Signature) == nil
		isCA := c.BasicConstraintsValid && c.IsCA
		problem := ""
		switch {
		case now.After(c.NotAfter):
			problem = "has expired " + dated(c.NotAfter)
		case now.Before(c.NotBefore):
			problem = "is not valid before " + dated(c.NotBefore)
		case !isCA && self:
			usable++ // as itself
			problems = append(problems, name+" is no CA: it lets in its own holder only")
			continue
		case !isCA:
			problem = "is no CA (basicConstraints): it cannot sign certificates of clients"
		case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
			problem = "may not sign certificates (key usage without keyCertSign)"
		case !serves(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth, len(c.UnknownExtKeyUsage)):
			problem = "is not for clients (extended key usage without clientAuth)"
		case c.NotAfter.Sub(now) < soon:
			usable++
			problems = append(problems, name+" expires "+dated(c.NotAfter))
			continue
		}
		if problem != "" {
			problems = append(problems, name+" "+problem)
			continue
		}
		usable++
		if last.Before(c.NotAfter) {
			last = c.NotAfter
		}
	}
	found.warn(writableByOthers(path))
	found.warn(strings.Join(problems, "; "))
	if usable == 0 {
		found.err = fmt.Errorf("%s lets no client in: %s", path, strings.Join(problems, "; "))
	}
	if !last.IsZero() {
		found.is += ", expires " + dated(last)
	}
	return found, len(all) > 0
}
