package login

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"

	"inject/resolver/secret"
)

// requestTime is how long an issuer may take for one answer, from the DNS lookup to the last byte.
// Tests shorten it.
var requestTime = 20 * time.Second

// maxHeader is the size of the header of an answer, in bytes. Package oauth2 reads at most 1 MiB of
// its body.
const maxHeader = 64 << 10

// newClient returns a client for requests to an issuer. It follows no redirect: another host would
// get the refresh token or the code. The authorities in caFile count beside those of the system,
// because the issuer's certificate often is signed by another one than the server's.
func newClient(caFile string) (*http.Client, error) {
	var roots *x509.CertPool // nil for those of the system
	if caFile != "" {
		pem, err := os.ReadFile(caFile) //nolint:gosec // the user names the file
		if err != nil {
			return nil, fmt.Errorf("%w: the file of the authorities: %w", secret.ErrInvalid, err)
		}
		if roots, err = x509.SystemCertPool(); err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%w: %s holds no certificate", secret.ErrInvalid, caFile)
		}
	}
	return &http.Client{
		Timeout: requestTime,
		Transport: &http.Transport{
			Proxy:                  proxy,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			DisableKeepAlives:      true, // the next request is seconds away, or of another process
			MaxResponseHeaderBytes: maxHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("it redirects, and tokens are sent to no other address")
		},
	}, nil
}

// proxy returns the proxy for a request. One without TLS is for this machine, and a proxy could
// replace its answer.
func proxy(r *http.Request) (*url.URL, error) {
	if r.URL.Scheme != "https" {
		return nil, nil //nolint:nilnil // no proxy, as of http.Transport
	}
	return http.ProxyFromEnvironment(r)
}

// under returns client with requests that end when ctx does. Package oauth2 makes one without a
// context, which Ctrl-C would not end, and does not close its answer.
func under(ctx context.Context, client *http.Client) *http.Client {
	limited := *client
	limited.Timeout = 0 // ctx has it
	limited.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		return client.Transport.RoundTrip(r.WithContext(ctx))
	})
	return &limited
}

type roundTrip func(*http.Request) (*http.Response, error)

// RoundTrip implements [http.RoundTripper].
func (r roundTrip) RoundTrip(request *http.Request) (*http.Response, error) { return r(request) }
