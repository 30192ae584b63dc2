package main_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"

	"inject/internal/harness"
)

// A caller has two open connections: one that is idle, and one with a running stream.
type openCaller struct {
	idle   *tls.Conn
	reader *bufio.Reader
	stream grpc.BidiStreamingClient[
		grpc_reflection_v1.ServerReflectionRequest, grpc_reflection_v1.ServerReflectionResponse]
	idleEnded, streamEnded chan struct{}
}

// openConnections connects to the server at host with the certificate name of a, and sends a
// request on each connection.
func openConnections(t *testing.T, host string, server, a *harness.Authority, name string) *openCaller {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(a.Path(name+".pem"), a.Path(name+".key"))
	require.NoError(t, err)
	config := &tls.Config{RootCAs: server.Pool(), Certificates: []tls.Certificate{pair}, ServerName: "localhost"}
	c := &openCaller{idleEnded: make(chan struct{}), streamEnded: make(chan struct{})}
	c.idle, err = tls.Dial("tcp", host, config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.idle.Close() })
	c.reader = bufio.NewReader(c.idle)
	require.Equal(t, http.StatusOK, c.list(t))

	conn, err := grpc.NewClient(host, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	c.stream, err = grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	require.NoError(t, err)
	c.ask(t)
	return c
}

// list lists the secrets of the caller over the idle connection.
func (c *openCaller) list(t *testing.T) int {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, "https://localhost/flyteidl2.secret.SecretService/ListSecrets",
		strings.NewReader("{}"))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	require.NoError(t, r.Write(c.idle))
	answer, err := http.ReadResponse(c.reader, r)
	require.NoError(t, err)
	defer answer.Body.Close() //nolint:errcheck // read whole
	_, err = new(bytes.Buffer).ReadFrom(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode
}

// ask sends a message on the running stream and waits for the answer.
func (c *openCaller) ask(t *testing.T) {
	t.Helper()
	require.NoError(t, c.stream.Send(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
	}))
	_, err := c.stream.Recv()
	require.NoError(t, err)
}

// wait closes idleEnded and streamEnded when the server ends the connections. The caller can
// send nothing more.
func (c *openCaller) wait() {
	go func() {
		_, _ = c.reader.ReadByte()
		close(c.idleEnded)
	}()
	go func() {
		_, _ = c.stream.Recv()
		close(c.streamEnded)
	}()
}

func pemOf(t *testing.T, path string) []byte { return []byte(read(t, path)) }

// Certificates that the server no longer trusts lose their open connections, idle ones and
// those with a running request, and get no new one. Others keep theirs.
func TestRevoked(t *testing.T) {
	crl := func(lists ...[]byte) []byte {
		var text []byte
		for _, der := range lists {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})...)
		}
		return text
	}
	for name, test := range map[string]struct {
		before func(a, b *harness.Authority) []byte // the file that will change
		after  func(a, b *harness.Authority) []byte
		crl    bool   // it is the CRL file, and not that of the CAs
		is     string // what doctor says of the lists
	}{
		"a CA is removed": {
			before: func(a, b *harness.Authority) []byte { return append(pemOf(t, a.CA()), pemOf(t, b.CA())...) },
			after:  func(_, b *harness.Authority) []byte { return pemOf(t, b.CA()) },
		},
		"a CA is removed, its list stays": {
			before: func(a, b *harness.Authority) []byte { return append(pemOf(t, a.CA()), pemOf(t, b.CA())...) },
			after:  func(_, b *harness.Authority) []byte { return pemOf(t, b.CA()) },
			is:     "warn +revoked .*is signed by no CA of --client-ca-file",
		},
		"a list in PEM": {
			before: func(a, b *harness.Authority) []byte { return crl(a.Revoke(), b.Revoke()) },
			after:  func(a, b *harness.Authority) []byte { return crl(b.Revoke(), a.Revoke("alice")) },
			crl:    true,
		},
		"a list in DER": {
			before: func(a, _ *harness.Authority) []byte { return a.Revoke() },
			after:  func(a, b *harness.Authority) []byte { return append(b.Revoke(), a.Revoke("alice")...) },
			crl:    true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			a, b := harness.NewAuthority(t, filepath.Join(dir, "a")), harness.NewAuthority(t, filepath.Join(dir, "b"))
			a.Issue("server", harness.Local)
			a.Issue("alice", a.SPIFFE("spiffe://example.org/platform"))
			a.Issue("carol", a.SPIFFE("spiffe://example.org/platform"))
			b.Issue("bob", b.SPIFFE("spiffe://example.org/platform"))
			path := func(name string, text []byte) string {
				p := filepath.Join(dir, name)
				require.NoError(t, os.WriteFile(p, text, 0o600))
				return p
			}
			cas, list := append(pemOf(t, a.CA()), pemOf(t, b.CA())...), a.Revoke()
			changed := path("changes", test.before(a, b))
			flags := []string{"--client-ca-file", changed, "--client-crl-file", path("list", list)}
			if test.crl {
				flags = []string{"--client-ca-file", path("cas", cas), "--client-crl-file", changed}
			} else if name == "a CA is removed" {
				flags = flags[:2]
			}
			flags = append(flags, "--cert-file", a.Path("server.pem"), "--cert-key-file", a.Path("server.key"),
				"--store", "file://"+dir+"/secrets.db", "--key-file", dir+"/key.txt",
				"--policy", path("policy.yaml", []byte(policyFile)))
			s, err := startServer(dir, os.Environ(), flags...)
			require.NoError(t, err)
			t.Cleanup(func() { _ = s.stop(os.Interrupt) })

			alice, bob := openConnections(t, s.host(), a, a, "alice"), openConnections(t, s.host(), a, b, "bob")
			carol := openConnections(t, s.host(), a, a, "carol")
			alice.wait()
			path("new", test.after(a, b))
			begin := time.Now()
			require.NoError(t, os.Rename(filepath.Join(dir, "new"), changed))
			for _, ended := range []chan struct{}{alice.idleEnded, alice.streamEnded} {
				select {
				case <-ended:
				case <-time.After(20 * time.Second):
					t.Fatalf("the connection goes on: %s", s.stderr)
				}
			}
			took := time.Since(begin)
			t.Logf("the connections ended after %v", took)
			require.Less(t, took, time.Second)
			require.Equal(t, http.StatusOK, bob.list(t), "a trusted certificate keeps its connections")
			bob.ask(t)
			if test.crl {
				require.Equal(t, http.StatusOK, carol.list(t), "and so does one of the same CA")
				carol.ask(t)
			}

			// New connections.
			list2 := func(a *harness.Authority, name string) ([]byte, error) {
				return exec.Command(filepath.Join(binaries, "inject"), "get", "secret", "--store", s.store, "--ca-file",
					filepath.Join(dir, "a", "ca.pem"), "--cert-file", a.Path(name+".pem"), "--cert-key-file",
					a.Path(name+".key")).CombinedOutput()
			}
			out, err := list2(a, "alice")
			require.Error(t, err)
			require.Contains(t, string(out), "does not accept the client certificate")
			out, err = list2(b, "bob")
			require.NoError(t, err, "%s", out)

			doctor := exec.Command(filepath.Join(binaries, "injectd"), append([]string{"doctor"}, flags...)...)
			found, _ := doctor.Output()
			switch {
			case test.crl:
				require.Regexp(t, `(?m)^ok +revoked .*, 1 certificates$`, string(found))
			case len(test.is) > 0:
				require.Regexp(t, `(?m)^`+test.is+`$`, string(found))
			}

			if test.crl { // a bad edit: the list from before stays in force
				require.NoError(t, os.WriteFile(changed, []byte("no list"), 0o600))
				require.Eventually(t, func() bool {
					return strings.Contains(s.stderr.String(), "the file cannot be used")
				}, 20*time.Second, 20*time.Millisecond)
				_, err = list2(a, "alice")
				require.Error(t, err)
				out, err = list2(a, "carol")
				require.NoError(t, err, "%s", out)
			}
		})
	}
}
