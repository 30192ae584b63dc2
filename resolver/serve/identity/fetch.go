package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"inject/resolver/secret"
	"inject/resolver/store"
)

const (
	maxFetched   = 512 << 10        // bytes of an answer
	fetchTime    = 10 * time.Second // of one fetch, from the DNS lookup to the last byte
	maxRedirects = 3
)

// isSafe reports whether what is fetched from u cannot be replaced on the way.
func isSafe(u *url.URL) bool {
	return u.Host != "" && (u.Scheme == "https" || u.Scheme == "http" && store.Loopback(u.Hostname()))
}

// rootsOf returns the CAs in a file, or nil, which stands for those of the system, if caFile is "".
// They are read for each fetch, so they can be replaced.
func rootsOf(caFile string) (*x509.CertPool, error) {
	if caFile == "" {
		return nil, nil //nolint:nilnil // a nil pool stands for the system's, as in tls.Config
	}
	pem, err := os.ReadFile(caFile) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("CA file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA file: %s holds no certificate", caFile)
	}
	return pool, nil
}

// fetch returns the body of an issuer's URL, which must be safe. It sends the token, unless that is
// empty. The error does not quote the URL, whose query may be secret.
func fetch(ctx context.Context, from *url.URL, caFile string, token secret.Value, accept string) ([]byte, error) {
	roots, err := rootsOf(caFile)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from.String(), http.NoBody)
	if err != nil {
		return nil, errors.New("the URL cannot be requested")
	}
	request.Header.Set("Accept", accept)
	if token.Len() > 0 { // a redirect to another host is refused, so it goes to this one only
		request.Header.Set("Authorization", "Bearer "+string(token.Reveal()))
	}
	transport := &http.Transport{
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		DisableKeepAlives:      true, // the next fetch is minutes away
		MaxResponseHeaderBytes: 64 << 10,
	}
	if from.Scheme == "https" { // http is for loopback, and a proxy could replace the answer
		transport.Proxy = http.ProxyFromEnvironment
	}
	client := &http.Client{CheckRedirect: sameHost, Transport: transport}
	response, err := client.Do(request)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return nil, fmt.Errorf("%s: %w", from.Host, err)
	}
	defer response.Body.Close() //nolint:errcheck // read only
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: HTTP status %d", from.Host, response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxFetched+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", from.Host, err)
	case len(body) > maxFetched:
		return nil, fmt.Errorf("%s: more than %d bytes", from.Host, maxFetched)
	}
	return body, nil
}

// sameHost refuses redirects to another host, which could replace the answer.
func sameHost(to *http.Request, via []*http.Request) error {
	switch first := via[0].URL; {
	case to.URL.Host != first.Host || to.URL.Scheme != first.Scheme:
		return errors.New("it redirects to another host or scheme")
	case len(via) > maxRedirects:
		return errors.New("it redirects too often")
	}
	return nil
}
