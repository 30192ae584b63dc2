package main_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

const webhookConfig = `version: 1
taskNamespaces: [flyte]
image: inject.test/inject:1
pullPolicy: IfNotPresent
delivery: init
command: [/inject/inject, run]
outputs: []
files: true
pullSecret: ""
pythonEntrypoint: none
rawEntrypoint: none
entrypoints: []
resources: {}
`

// A webhookProcess is injectd webhook with the files of its folder.
type webhookProcess struct {
	*process

	t         *testing.T
	dir       string
	authority *harness.Authority
}

func newWebhook(t *testing.T, flags ...string) *webhookProcess {
	t.Helper()
	w := &webhookProcess{t: t, dir: t.TempDir()}
	w.authority = harness.NewAuthority(t, filepath.Join(w.dir, "pki"))
	w.certify("first.test", 1)
	w.configure(webhookConfig)
	p, err := startVerb(filepath.Join(binaries, "injectd"), "webhook", w.dir, []string{"HOME=" + w.dir},
		append([]string{
			"--config", w.dir + "/config.yaml", "--cert-file", w.authority.Path("tls.pem"),
			"--cert-key-file", w.authority.Path("tls.key"),
		}, flags...)...)
	require.NoError(t, err)
	w.process = p
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		if log := p.stderr.String(); t.Failed() {
			t.Log(log[max(0, len(log)-3000):])
		}
	})
	return w
}

// certify makes a certificate, which also has a name, and ends after days.
func (w *webhookProcess) certify(name string, days int) {
	w.authority.Issue("tls", harness.Local, func(c *x509.Certificate) {
		c.DNSNames, c.NotAfter = append(c.DNSNames, name), time.Now().AddDate(0, 0, days)
	})
}

func (w *webhookProcess) configure(text string) {
	require.NoError(w.t, os.WriteFile(w.dir+"/config.yaml", []byte(text), 0o600))
}

// client returns one whose connections come from an address of this machine.
func (w *webhookProcess) client(from string) *http.Client {
	transport := &http.Transport{
		DialContext:       w.dialer(from).DialContext,
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: w.authority.Pool()},
		ForceAttemptHTTP2: true,
	}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

func (*webhookProcess) dialer(from string) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
}

// review is that of a pod with an environment variable of this value.
func (*webhookProcess) review(value string) []byte {
	type object = map[string]any
	text, err := json.Marshal(object{
		"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
		"request": object{
			"uid": "1", "kind": object{"version": "v1", "kind": "Pod"}, "operation": "CREATE", "namespace": "flyte",
			"name": "pod-1", "object": object{
				"metadata": object{"name": "pod-1", "labels": object{"project": "p", "domain": "d"}},
				"spec": object{"containers": []object{{
					"name": "main", "args": []string{"a0"}, "env": []object{{"name": "K", "value": value}},
				}}},
			},
		},
	})
	if err != nil {
		panic(err)
	}
	return text
}

// send sends a review, and returns the status and the patch of the answer.
func (w *webhookProcess) send(c *http.Client, body []byte) (code int, patch string, err error) {
	r, err := c.Post("https://"+w.store+"/mutate", "application/json", bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close() //nolint:errcheck // was read
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, "", err
	}
	var answer struct{ Response struct{ Patch []byte } }
	_ = json.Unmarshal(text, &answer) // else the status says why
	return r.StatusCode, string(answer.Response.Patch), nil
}

// changes sends a review that must be answered, and returns the patch.
func (w *webhookProcess) changes(c *http.Client) string {
	w.t.Helper()
	code, patch, err := w.send(c, w.review("x"))
	require.NoError(w.t, err)
	require.Equal(w.t, http.StatusOK, code)
	require.NotEmpty(w.t, patch)
	return patch
}

// ask asks the port for operations.
func (w *webhookProcess) ask(path string) (code int, body string) {
	w.t.Helper()
	r, err := http.Get("http://" + w.ops + path)
	require.NoError(w.t, err)
	text, err := io.ReadAll(r.Body)
	require.NoError(w.t, err)
	require.NoError(w.t, r.Body.Close())
	return r.StatusCode, string(text)
}

func (w *webhookProcess) metric(name string) float64 {
	w.t.Helper()
	_, text := w.ask("/metrics")
	line := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (.*)$`).FindStringSubmatch(text)
	require.NotNil(w.t, line, name)
	value, err := strconv.ParseFloat(line[1], 64)
	require.NoError(w.t, err)
	return value
}

// memory returns what the process takes at most so far, in bytes.
func (w *webhookProcess) memory() int {
	w.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.cmd.Process.Pid))
	require.NoError(w.t, err)
	kib := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	require.NotNil(w.t, kib)
	n, err := strconv.Atoi(string(kib[1]))
	require.NoError(w.t, err)
	return n << 10
}

// Files are read again when they change, and a bad one changes nothing. No restart is needed for a certificate.
func TestWebhookReloads(t *testing.T) {
	w := newWebhook(t)
	c := w.client("127.0.0.1")
	require.Contains(t, w.changes(c), "inject.test/inject:1")
	code, _ := w.ask("/readyz")
	require.Equal(t, http.StatusOK, code)
	require.Zero(t, w.metric(`inject_source_stale{source="config"}`))
	require.InDelta(t, 1, w.metric(`inject_reviews_total{outcome="changed"}`), 0)

	w.configure("version: 2")
	require.Eventually(t, func() bool { return w.metric(`inject_source_stale{source="config"}`) == 1 },
		20*time.Second, 50*time.Millisecond)
	require.Contains(t, w.changes(c), "inject.test/inject:1")
	w.configure(strings.Replace(webhookConfig, "inject:1", "inject:2", 1))
	require.Eventually(t, func() bool { return strings.Contains(w.changes(c), "inject.test/inject:2") },
		20*time.Second, 50*time.Millisecond)
	require.Zero(t, w.metric(`inject_source_stale{source="config"}`))

	expires := w.metric("inject_certificate_expiry_timestamp_seconds")
	w.certify("second.test", 2)
	require.Eventually(t, func() bool {
		conn, err := tls.Dial("tcp", w.store, &tls.Config{
			MinVersion: tls.VersionTLS13, RootCAs: w.authority.Pool(), ServerName: "second.test",
		})
		if err == nil {
			_ = conn.Close()
		}
		w.changes(c) // while the two files are of different pairs, too
		return err == nil
	}, 20*time.Second, 50*time.Millisecond)
	require.Greater(t, w.metric("inject_certificate_expiry_timestamp_seconds"), expires)
}

// A server that is asked to stop is not ready, and answers what has begun.
func TestWebhookDrains(t *testing.T) {
	w := newWebhook(t, "--drain-delay", "1s")
	c := w.client("127.0.0.1")
	w.changes(c)
	body, rest := io.Pipe()
	text := w.review("x")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+w.store+"/mutate", body)
	require.NoError(t, err)
	r.ContentLength = int64(len(text))
	r.Header.Set("Content-Type", "application/json")
	answer := make(chan error, 1)
	go func() {
		a, err := c.Do(r)
		if err == nil {
			_ = a.Body.Close()
			if a.StatusCode != http.StatusOK {
				err = errors.New(a.Status)
			}
		}
		answer <- err
	}()
	_, err = rest.Write(text[:10])
	require.NoError(t, err)
	require.NoError(t, w.cmd.Process.Signal(syscall.SIGTERM))
	require.Eventually(t, func() bool {
		code, why := w.ask("/readyz")
		return code == http.StatusServiceUnavailable && strings.Contains(why, "stopping")
	}, 10*time.Second, 10*time.Millisecond)
	w.changes(w.client("127.0.0.1")) // during the delay
	_, err = rest.Write(text[10:])
	require.NoError(t, err)
	require.NoError(t, rest.Close())
	require.NoError(t, <-answer)
	<-w.ended
	require.NoError(t, w.err)
}

// No line of the log has a value of a pod, at the finest level. The search finds one that is there.
func TestWebhookLog(t *testing.T) {
	w := newWebhook(t, "--log-level", "debug")
	c := w.client("127.0.0.1")
	canary, value := "planted-"+rand.Text(), rand.Text()
	code, _, err := w.send(c, bytes.ReplaceAll(w.review("x"), []byte("pod-1"), []byte(canary)))
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, code)
	for _, body := range [][]byte{
		w.review(value), bytes.Replace(w.review(value), []byte(`"a0"`), []byte(`"x"`), 1),
		w.review(value)[:200], append(w.review(value), 'x'), bytes.Replace(w.review(value), []byte(`"K"`), []byte(`7`), 1),
		bytes.Replace(w.review(value), []byte(`"containers":[`), []byte(`"containers":[7,`), 1),
	} {
		_, _, err := w.send(c, body)
		require.NoError(t, err)
	}
	require.NoError(t, w.stop(syscall.SIGTERM))
	log := w.stderr.String() + w.stdout.String()
	require.Contains(t, log, canary)
	require.Contains(t, log, `"outcome":"left"`)
	require.NotContains(t, log, value)
}

// Reviews as large as the API server sends them are answered, one after the other, on one connection and on new ones.
func TestWebhookLarge(t *testing.T) {
	w := newWebhook(t)
	body := w.review(strings.Repeat("x", 3<<20))
	for _, protocol := range []string{"h2", "http/1.1"} {
		for range 2 {
			c := w.client("127.0.0.1")
			if transport, ok := c.Transport.(*http.Transport); ok {
				transport.ForceAttemptHTTP2 = protocol == "h2"
			}
			for range 2 {
				code, patch, err := w.send(c, body)
				require.NoError(t, err)
				require.Equal(t, http.StatusOK, code, protocol)
				require.NotEmpty(t, patch)
			}
		}
	}
}

// Pods as they come take little memory.
func TestWebhookMemory(t *testing.T) {
	w := newWebhook(t)
	c := w.client("127.0.0.1")
	body := w.review(strings.Repeat("x", 4<<10))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 250 {
				_, _, _ = w.send(c, body)
			}
		})
	}
	all.Wait()
	require.InDelta(t, 2000, w.metric(`inject_reviews_total{outcome="changed"}`), 0)
	most := w.memory()
	t.Logf("%d MiB", most>>20)
	require.Less(t, most, 40<<20)
}

// serves sends reviews as a client beside an attacker, as long as that, and each must be answered.
func (w *webhookProcess) serves(t *testing.T, long time.Duration) {
	t.Helper()
	for end := time.Now().Add(long); time.Now().Before(end); {
		// One that waits for the attacker is slow each time that it is tried.
		for try, took := 1, time.Hour; took >= 2*time.Second; try++ {
			require.LessOrEqual(t, try, 5, "others wait for the attacker")
			start := time.Now()
			code, patch, err := w.send(w.client("127.0.0.1"), w.review("x"))
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, code)
			require.NotEmpty(t, patch)
			took = time.Since(start)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Clients that send more of everything than they may have, from one network, take nothing from those of another.
func TestWebhookAttacks(t *testing.T) {
	w := newWebhook(t)
	const attacker = "127.0.0.2"
	victim := w.client("127.0.0.1")
	w.changes(victim)
	big := bytes.Repeat([]byte(" "), 4<<20)
	// stuck sends the beginning of something on a connection of its own, and waits until that ends.
	stuck := func(ctx context.Context, secure bool, text string) {
		conn, err := w.dialer(attacker).DialContext(ctx, "tcp", w.store)
		if err != nil {
			return
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		defer stop()
		if secure {
			conn = tls.Client(conn, &tls.Config{
				MinVersion: tls.VersionTLS13, RootCAs: w.authority.Pool(), ServerName: "first.test",
			})
		}
		_, _ = io.WriteString(conn, text)
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}
	for name, attack := range map[string]func(context.Context, *http.Client){
		"connections without a handshake": func(ctx context.Context, _ *http.Client) { stuck(ctx, false, "") },
		"connections without a request":   func(ctx context.Context, _ *http.Client) { stuck(ctx, true, "") },
		"headers that do not end": func(ctx context.Context, _ *http.Client) {
			stuck(ctx, true, "POST /mutate HTTP/1.1\r\nHost: first.test\r\nX: ")
		},
		"bodies that do not end": func(ctx context.Context, _ *http.Client) {
			stuck(ctx, true, "POST /mutate HTTP/1.1\r\nHost: first.test\r\nContent-Type: application/json\r\n"+
				"Content-Length: 4194304\r\n\r\n{")
		},
		"large bodies": func(ctx context.Context, c *http.Client) {
			to := "https://" + w.store + "/mutate"
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(big))
			if err != nil {
				return
			}
			r.Header.Set("Content-Type", "application/json")
			if a, err := c.Do(r); err == nil {
				_ = a.Body.Close()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			c := w.client(attacker)
			var all sync.WaitGroup
			for range 300 {
				all.Go(func() {
					for ctx.Err() == nil {
						attack(ctx, c)
						time.Sleep(20 * time.Millisecond)
					}
				})
			}
			w.serves(t, 3*time.Second)
			stop()
			all.Wait()
		})
	}
	most := w.memory()
	t.Logf("%d MiB", most>>20)
	require.Less(t, most, 160<<20)
}

// Pods of many small parts, which would take much more memory than their bytes, take little: those that one network
// sends beside clients of another, and those that two networks send, which have all bodies then.
func TestWebhookLargePods(t *testing.T) {
	w := newWebhook(t)
	// filled is a review of n bytes, in which a text is replaced by many of another, each with its number.
	filled := func(n int, replaced, before, each, after string) []byte {
		head, tail, ok := strings.Cut(string(w.review("x")), replaced)
		require.True(t, ok)
		all := bytes.NewBufferString(head + before)
		room := n - len(tail) - len(after) - len(each) - 20
		for i := 0; all.Len() < room; i++ {
			all.WriteString(strings.ReplaceAll(each, "#", strconv.FormatInt(int64(i), 36)))
		}
		body := append(bytes.TrimSuffix(all.Bytes(), []byte(",")), after+tail...)
		require.True(t, json.Valid(body))
		return body
	}
	const args, object = `"args":["a0"]`, `"uid":"1"`
	for name, body := range map[string][]byte{
		"many containers":      filled(4<<20, `"containers":[`, `"containers":[`, `{"a":1},`, `,`),
		"many variables":       filled(3<<20, `"env":[`, `"env":[`, `{"name":"#"},`, `,`),
		"many words":           filled(4<<20, args, `"command":[`, `"",`, `]`),
		"many fields":          filled(4<<20, args, args+`,`, `"#":1,`, ``),
		"many notes on a user": filled(4<<20, object, object+`,"userInfo":{"extra":{`, `"#":[],`, `}}`),
		"lists in lists": filled(4<<20, args, args+`,"a":[`,
			strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+`,`, `]`),
		// As many variables as are read. The answer removes each of them, and repeats the command.
		"what is just read": filled(4<<20, `"env":[`, `"env":[`+strings.Repeat(`{"name":"INJECT_"},`, 16000)+
			`{"name":"K"}],"command":["`, `<<<<<<<<`, `"],"x":[`),
	} {
		t.Run(name, func(t *testing.T) {
			code, patch, err := w.send(w.client("127.0.0.2"), body)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, code)
			require.Equal(t, name == "what is just read", patch != "")
			for _, networks := range [][]string{{"127.0.0.2"}, {"127.0.0.2", "127.0.0.3"}} {
				ctx, stop := context.WithCancel(t.Context())
				var all sync.WaitGroup
				for i := range 6 {
					c := w.client(networks[i%len(networks)])
					all.Go(func() {
						for ctx.Err() == nil {
							_, _, _ = w.send(c, body)
						}
					})
				}
				if len(networks) == 1 {
					w.serves(t, 2*time.Second)
				} else {
					time.Sleep(2 * time.Second)
				}
				stop()
				all.Wait()
			}
			t.Logf("%d MiB", w.memory()>>20)
		})
	}
	require.Less(t, w.memory(), 220<<20) // of the 256 MiB that the chart gives it
}
