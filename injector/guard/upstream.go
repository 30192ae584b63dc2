package guard

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"
)

// buffered is the size of a connection's buffers: the head of a request or an answer fits into it, with a
// small body. Large bodies pass them by.
const buffered = 8 << 10

// transport returns the client of a store. It follows no redirect.
func transport(vars map[string]string, roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		Proxy:               proxy(vars),
		DialContext:         dialDirect(&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}),
		TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 30 * time.Second,
		MaxConnsPerHost:     256, // their buffers stay below 4 MiB
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true, // bodies pass byte for byte
		WriteBufferSize:     buffered,
		ReadBufferSize:      buffered,
	}
}

// proxy returns the choice of a proxy by the task's variables, which may be secrets.
func proxy(vars map[string]string) func(*http.Request) (*url.URL, error) {
	either := func(name string) string { return cmp.Or(vars[name], vars[strings.ToLower(name)]) }
	choose := (&httpproxy.Config{
		HTTPProxy: either("HTTP_PROXY"), HTTPSProxy: cmp.Or(either("HTTPS_PROXY"), either("ALL_PROXY")),
		NoProxy: either("NO_PROXY"),
	}).ProxyFunc()
	return func(r *http.Request) (*url.URL, error) { return choose(r.URL) }
}

// authorities returns those of the file at path, nil for those of the system.
func authorities(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // a nil pool stands for the system's
	}
	text, err := os.ReadFile(path) //nolint:gosec // the operator's file
	if err != nil {
		return nil, refusedStart("AWS_CA_BUNDLE", err.Error())
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, refusedStart("AWS_CA_BUNDLE", path+" has no certificate")
	}
	return roots, nil
}

// spelled returns the name of a header as stores and clients write it: the names of metadata in small
// letters, because some take the case for a part of the name.
func spelled(name string) string {
	for _, prefix := range []string{"X-Amz-Meta-", "X-Goog-Meta-", "X-Ms-Meta-"} {
		if strings.HasPrefix(name, prefix) {
			return strings.ToLower(name)
		}
	}
	return name
}

// serverAt reads the address of a server in the variable that is called name.
func serverAt(name, text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil ||
		u.RawQuery != "" || u.Fragment != "" {
		return nil, refusedStart(name, "it is not the address of a server, https://HOST[:PORT]")
	}
	u.Path, u.RawPath = strings.TrimSuffix(u.Path, "/"), ""
	return u, nil
}

// A sending is a request as it goes upstream.
type sending struct {
	method string
	object object
	path   string // of the object, escaped as the task has escaped it; "" for what is not in a bucket
	query  string
	header http.Header
	body   io.Reader // nil for none
	length int64
	hash   string // for x-amz-content-sha256
	region string
	plain  bool // it is not signed
}

// ownTimeout is how long a request of the guard's own may take.
const ownTimeout = 10 * time.Second

// own returns a write of the guard's own.
func own(to object, b []byte) sending {
	return sending{
		method: http.MethodPut, object: to, path: (&url.URL{Path: "/" + to.key}).EscapedPath(),
		header: http.Header{"Content-Type": {"application/octet-stream"}},
		body:   bytes.NewReader(b), length: int64(len(b)),
	}
}

// outgoing returns out as a request to a server, below whose path is the escaped path at. It leaves
// out the headers that belong to one connection.
func outgoing(ctx context.Context, base *url.URL, at string, out sending) (*http.Request, error) {
	decoded, err := url.PathUnescape(at)
	if err != nil {
		return nil, err
	}
	u := *base
	u.Path, u.RawPath = base.Path+decoded, base.EscapedPath()+at
	u.RawQuery = out.query

	body := out.body
	if out.length == 0 {
		body = nil
	}
	r, err := http.NewRequestWithContext(ctx, out.method, u.String(), body) //nolint:gosec // to the store only
	if err != nil {
		return nil, err
	}
	r.URL = &u
	r.ContentLength = out.length
	for name, values := range out.header {
		switch name {
		case "Connection", "Content-Length", "Expect", "Host", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection",
			"Te", "Trailer", "Transfer-Encoding", "Upgrade":
		default:
			r.Header[spelled(name)] = values
		}
	}
	if r.Header.Get("User-Agent") == "" {
		r.Header.Set("User-Agent", "inject")
	}
	return r, nil
}

// done returns the error of a request of our own.
func done(resp *http.Response, err error) error {
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // its content is not needed
	if resp.StatusCode/100 != 2 {
		return upstreamError(resp)
	}
	return nil
}

// aborted is done for an upload to throw away, which may be gone.
func aborted(resp *http.Response, err error) error {
	if err == nil && resp.StatusCode == http.StatusNotFound {
		resp.StatusCode = http.StatusNoContent
	}
	return done(resp, err)
}

// upstreamError returns an error for an answer that is no success, with the code that S3 gives.
func upstreamError(resp *http.Response) error {
	var e struct {
		Code    string `xml:"Code"`
		Message string `xml:"Message"`
	}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	_ = xml.Unmarshal(b, &e) // a server in between may answer with anything
	if e.Code == "" {
		return errors.New("the server answers " + resp.Status)
	}
	return fmt.Errorf("the server answers %s: %.200s", e.Code, e.Message)
}
