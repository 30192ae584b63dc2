package serve_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/resolver/serve/transport"
)

// Connections without accepted credentials neither take all places nor stay. Those of clients
// that are known do.
func TestNewcomersAreBounded(t *testing.T) {
	t.Parallel()
	const each, patience = 10, 3 * time.Second
	r := setup{policy: matrixPolicy, limits: transport.Limits{
		Connections: 4 * each, NewcomerTime: patience,
	}}.start(t)
	cert := certOf(r.Authority, "platform", "spiffe://example.org/platform/p")
	ask := func(c *http.Client) {
		start := time.Now()
		require.Equal(t, http.StatusOK, r.ask(c, secrets+"ListSecrets", `{}`).status)
		require.Less(t, time.Since(start), time.Second)
	}
	elsewhere := func() *http.Client { // a new connection from another address
		c := r.client(cert)
		over, ok := c.Transport.(*http.Transport)
		require.True(t, ok)
		over.DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext
		return c
	}
	for range each + 5 { // the connections of clients that are known do not count
		ask(r.client(cert))
	}
	known := r.client(cert)
	ask(known)

	pool := x509.NewCertPool()
	pool.AddCert(r.Cert)
	start := time.Now()
	var taken []net.Conn
	for i := range 10 * each {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", r.address)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		if i%2 == 0 { // after a handshake, with a good certificate and without a request
			over := tls.Client(conn, &tls.Config{
				RootCAs: pool, MinVersion: tls.VersionTLS13, ServerName: "localhost",
				NextProtos: []string{"http/1.1"}, Certificates: []tls.Certificate{*cert},
			})
			if over.HandshakeContext(t.Context()) != nil {
				continue
			}
			conn = over
		}
		taken = append(taken, conn)
		if i%(2*each) == 0 {
			ask(known)
			ask(elsewhere())
		}
	}
	require.NotEmpty(t, taken)
	for _, conn := range taken { // each is closed, at the latest at the deadline
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience+5*time.Second)))
		_, err := io.ReadAll(conn)
		timeout, ok := err.(net.Error) //nolint:errorlint // as net returns it
		require.False(t, ok && timeout.Timeout(), "it is still open")
	}
	time.Sleep(time.Until(start.Add(patience + time.Second)))
	ask(known)
	ask(r.client(cert))
}
