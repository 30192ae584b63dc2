package guard

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"inject/exec/redact"
	"inject/injector/outputs"
	"inject/resolver/secret"
)

// inFront starts a guard in front of a server that serve is.
func inFront(t *testing.T, serve func(net.Conn), values ...string) (*Guard, client) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); serve(c) }() //nolint:errcheck // the tests see what was served
		}
	}()
	g, vars := started(t, Options{Environ: []string{
		envEndpoint + "=http://" + l.Addr().String(), envKeyID + "=" + platform.id, envSecret + "=" + platform.secret,
	}}, values...)
	return g, client{t, vars[envEndpoint], keyPair{vars[envKeyID], vars[envSecret]}}
}

// A store that answers before it has read the body gets no other body's bytes, and the task gets its
// answer. The body's memory is used again for others.
func TestEarlyAnswer(t *testing.T) {
	t.Parallel()
	var mixed sync.Map
	g, c := inFront(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		const text = "<Error><Code>AccessDenied</Code><Message>not yours</Message></Error>"
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		want := strings.TrimPrefix(req.URL.Path, "/bkt/k")[0]
		buf := make([]byte, 32<<10)
		for {
			time.Sleep(time.Millisecond)
			n, err := req.Body.Read(buf)
			if bytes.ContainsFunc(buf[:n], func(r rune) bool { return r != rune(want) }) {
				mixed.Store(req.URL.Path, true)
			}
			if err != nil {
				return
			}
		}
	}, secretText())
	var done sync.WaitGroup
	for i := range 16 {
		name := string(rune('a' + i))
		size := 12 << 20
		if i%4 == 3 {
			size = maxHeld + 1<<20
		}
		done.Go(func() {
			resp, err := c.send(http.MethodPut, "/bkt/k"+name, bytes.Repeat([]byte(name), size))
			if err == nil { // otherwise the answer came while the rest was sent
				text, _ := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				assert.Equal(t, 403, resp.StatusCode)
				assert.Contains(t, string(text), "not yours")
			}
		})
	}
	done.Wait()
	mixed.Range(func(key, _ any) bool { t.Errorf("%s got the bytes of another body", key); return true })
	require.Eventually(t, func() bool {
		free := g.memory.all.TryAcquire(maxMemory)
		return free
	}, 10*time.Second, time.Millisecond, "all memory is free again")
}

// The answer of a store that has not read the body is the task's, also if the body is in frames.
func TestEarlyAnswerToFrames(t *testing.T) {
	t.Parallel()
	_, b, c := guarded(t, Options{}, secretText())
	b.mu.Lock()
	b.before = func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, "<Error><Code>AccessDenied</Code><Message>not yours</Message></Error>")
		return true
	}
	b.mu.Unlock()
	content := bytes.Repeat([]byte("x"), maxHeld+1<<20)
	body := fmt.Appendf(nil, "%x\r\n%s\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n", len(content), content)
	resp, err := c.send(http.MethodPut, "/bkt/k", body, hashHeader, unsignedTrailer,
		"X-Amz-Decoded-Content-Length", strconv.Itoa(len(content)), "X-Amz-Trailer", "x-amz-checksum-crc32")
	if err == nil {
		_ = resp.Body.Close()
		require.Equal(t, 403, resp.StatusCode)
	}
}

// The keys of the store, and the token beside them, may be secrets of the task.
func TestCredentialsAreSecrets(t *testing.T) {
	t.Parallel()
	token := rand.Text() + "/" + rand.Text()
	_, b, c := guarded(t, Options{Environ: []string{"AWS_SESSION_TOKEN=" + token}}, token, platform.secret)
	status, answer := c.do(http.MethodPut, "/bkt/k.txt", []byte("content"), tokenHeader, token)
	require.Equal(t, 200, status, answer)
	require.Equal(t, []string{token}, b.headers["/bkt/k.txt"][tokenHeader])
	status, answer = c.do(http.MethodPut, "/bkt/k.txt", []byte("it is "+token), tokenHeader, token)
	require.Equal(t, 200, status, answer)
	got, _ := b.object("k.txt")
	require.Equal(t, "it is [REDACTED:V0]", got)
}

// A value in the addresses that the platform has chosen would have every write refused, and every
// address in the outputs masked: the task does not start.
func TestValueInAddress(t *testing.T) {
	t.Parallel()
	v := secretText()
	r := redact.New(6)
	require.NoError(t, r.Add(redact.Pattern{Name: "PROJECT", Value: []byte("flytesnacks")},
		redact.Pattern{Name: "V", Value: []byte(v)}))
	start := func(command ...string) error {
		g, err := Start(t.Context(), Options{
			Mode: Auto, Command: append([]string{"a0"}, command...), Redactor: r, Policy: outputs.Mask,
			Log:     hclog.NewNullLogger(),
			Environ: []string{envKeyID + "=" + platform.id, envSecret + "=" + platform.secret},
		})
		if g != nil {
			_, _ = g.End(t.Context(), false)
		}
		return err
	}
	require.NoError(t, start("--outputs-path", "s3://bkt/other/run"))
	err := start("--outputs-path", "s3://bkt/other/run", "--raw-data-path=s3://bkt/flytesnacks/run")
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.ErrorContains(t, err, "--raw-data-path: the value of PROJECT is in it")
	err = start("--outputs-path", "s3://flytesnacks/run")
	require.ErrorContains(t, err, "--outputs-path: the value of PROJECT is in it")
	err = start("--outputs-path", "s3://bkt/"+hex.EncodeToString([]byte(v)))
	require.ErrorContains(t, err, "V")
	require.NotContains(t, err.Error(), hex.EncodeToString([]byte(v)))
}

// begin begins an upload, and returns its id and a function that uploads a part.
func (c client) begin(key string) (id string, put func(number int, body string) (int, string)) {
	c.t.Helper()
	status, answer := c.do(http.MethodPost, "/bkt/"+key+"?uploads", nil)
	require.Equal(c.t, 200, status, answer)
	_, id, _ = strings.Cut(answer, "<UploadId>")
	id, _, _ = strings.Cut(id, "<")
	return id, func(number int, body string) (int, string) {
		return c.do(http.MethodPut, fmt.Sprintf("/bkt/%s?partNumber=%d&uploadId=%s", key, number, id), []byte(body))
	}
}

func (c client) complete(key, id string, numbers ...int) (int, string) {
	list := ""
	for _, n := range numbers {
		list += fmt.Sprintf("<Part><PartNumber>%d</PartNumber></Part>", n)
	}
	return c.do(http.MethodPost, "/bkt/"+key+"?uploadId="+id, []byte("<C>"+list+"</C>"))
}

// The edges of parts that have met are gone, so if one of them comes again with other edges, its
// neighbours have to come again, too.
func TestPartAgain(t *testing.T) {
	t.Parallel()
	v := secretText()
	g, b, c := guarded(t, Options{}, v)
	long := strings.Repeat("-", 10_000)
	id, put := c.begin("k")
	for range 3 {
		for _, n := range []int{1, 2, 3} {
			body := long
			if n == 1 {
				body += v[:9]
			}
			status, answer := put(n, body)
			require.Equal(t, 200, status, answer)
		}
	}
	other := v[9:] + long
	status, _ := put(2, other)
	require.Equal(t, 200, status)
	status, answer := c.complete("k", id, 1, 2, 3)
	require.Equal(t, 400, status, answer)
	require.Contains(t, answer, "InvalidPart")
	status, _ = put(3, long)
	require.Equal(t, 200, status)
	status, answer = put(1, long+v[:9])
	require.Equal(t, 403, status, answer)
	require.Zero(t, b.uploads())
	require.Empty(t, b.keys())

	// An upload that begins anew with other content is stored.
	id, put = c.begin("anew")
	for _, order := range [][]int{{1, 2, 3, 4, 5}, {3, 2, 5, 1, 4}, {1, 2, 3, 4, 5}} {
		for _, n := range order {
			status, answer := put(n, strings.Repeat(strconv.Itoa(order[1]+n), 10_000))
			require.Equal(t, 200, status, answer)
		}
	}
	status, answer = c.complete("anew", id, 1, 2, 3, 4, 5)
	require.Equal(t, 200, status, answer)

	// However often a part comes again, it takes memory once.
	_, put = c.begin("again")
	status, _ = put(5, long)
	require.Equal(t, 200, status)
	taken := func() int64 {
		for _, up := range g.uploads.all {
			if up.object.key == "again" {
				return up.taken
			}
		}
		return 0
	}
	before := taken()
	for range 20 {
		status, _ = put(5, long)
		require.Equal(t, 200, status)
	}
	require.Equal(t, before, taken())
}

// A list in which a part is twice would have it meet itself.
func TestPartTwiceInList(t *testing.T) {
	t.Parallel()
	v := secretText()
	_, b, c := guarded(t, Options{}, v)
	_, put := c.begin("k")
	for _, n := range []int{1, 2} {
		status, _ := put(n, v[9:]+strings.Repeat("-", 10_000)+v[:9])
		require.Equal(t, []int{200, 403}[n-1], status)
	}
	require.Zero(t, b.uploads())
	id, put := c.begin("k2")
	status, _ := put(1, v[9:]+strings.Repeat("-", 10_000)+v[:9])
	require.Equal(t, 200, status)
	status, _ = put(2, strings.Repeat("-", 10_000))
	require.Equal(t, 200, status)
	status, answer := c.complete("k2", id, 1, 1)
	require.Equal(t, 400, status, answer)
	require.Empty(t, b.keys())
}

// S3 may say in the body of an answer with the status 200 that an upload could not be completed. Clients
// then ask again.
func TestCompleteFails(t *testing.T) {
	t.Parallel()
	g, b, c := guarded(t, Options{}, secretText())
	id, put := c.begin("k")
	status, _ := put(1, "content")
	require.Equal(t, 200, status)
	b.mu.Lock()
	b.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		_, _ = io.WriteString(w, "<?xml version=\"1.0\"?>\n   \n<Error><Code>InternalError</Code></Error>")
		return true
	}
	b.mu.Unlock()
	status, answer := c.complete("k", id, 1)
	require.Equal(t, 200, status)
	require.Contains(t, answer, "InternalError")
	require.Zero(t, g.report.Files)
	b.mu.Lock()
	b.before = nil
	b.mu.Unlock()
	status, answer = c.complete("k", id, 1)
	require.Equal(t, 200, status, answer)
	got, _ := b.object("k")
	require.Equal(t, "content", got)
	require.Equal(t, 1, g.report.Files)
}

// The bytes by which a store keeps a slow request alive reach the task at once.
func TestSlowAnswer(t *testing.T) {
	t.Parallel()
	_, b, c := guarded(t, Options{}, secretText())
	id, put := c.begin("k")
	status, _ := put(1, "content")
	require.Equal(t, 200, status)
	release := make(chan struct{})
	b.mu.Lock()
	b.before = func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = io.WriteString(w, " ")
		_ = http.NewResponseController(w).Flush()
		<-release
		return false
	}
	b.mu.Unlock()
	list := []byte("<C><Part><PartNumber>1</PartNumber></Part></C>")
	resp, err := c.send(http.MethodPost, "/bkt/k?uploadId="+id, list)
	require.NoError(t, err)
	one := make([]byte, 1)
	_, err = io.ReadFull(resp.Body, one)
	require.NoError(t, err)
	close(release)
	_ = resp.Body.Close()
}

// A run is no failure because an upload is gone, or may not be aborted: nothing of a value is there.
func TestAbortFails(t *testing.T) {
	t.Parallel()
	g, b, c := guarded(t, Options{}, secretText())
	status, _ := c.do(http.MethodPut, "/bkt/k?partNumber=1&uploadId=gone", []byte("x"))
	require.Equal(t, 404, status)
	c.begin("open")
	b.mu.Lock()
	b.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete && !strings.Contains(r.URL.RawQuery, "gone") {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	}
	b.mu.Unlock()
	_, err := g.End(t.Context(), true)
	require.NoError(t, err)
}

// The end of a task does not take longer because many uploads are open and the store is gone.
func TestEndIsBounded(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it waits until the guard gives up")
	}
	g, b, c := guarded(t, Options{}, secretText())
	for i := range 5 {
		c.begin(fmt.Sprintf("k%d", i))
	}
	stop := make(chan struct{})
	defer close(stop)
	b.mu.Lock()
	b.before = func(http.ResponseWriter, *http.Request) bool { <-stop; return true }
	b.mu.Unlock()
	begun := time.Now()
	_, _ = g.End(t.Context(), true)
	require.Less(t, time.Since(begun), ownTimeout+linger+2*time.Second)
}

// With --on-leak warn nothing is refused because of a value.
func TestWarnNames(t *testing.T) {
	t.Parallel()
	v := "abc" + rand.Text()
	g, b, c := guarded(t, Options{Policy: outputs.Warn}, v)
	status, answer := c.do(http.MethodPut, "/bkt/"+v, []byte("x"), "X-Amz-Meta-A", v)
	require.Equal(t, 200, status, answer)
	status, answer = c.do(http.MethodPut, "/bkt/k?tagging", []byte("<Tagging>"+v+"</Tagging>"))
	require.Equal(t, 200, status, answer)
	require.Contains(t, b.keys(), "/bkt/"+v)
	require.Equal(t, 2, g.report.Left)
	require.Zero(t, g.report.Refused)
	require.NotContains(t, strings.Join(g.report.Lines(), "\n"), v)
}

// A client that has stopped in the middle of a body does not keep its memory.
func TestStalled(t *testing.T) {
	t.Parallel()
	g, b, c := guarded(t, Options{}, secretText())
	g.stall = time.Second
	address := strings.TrimPrefix(c.base, "http://")
	for i := range 3 {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, c.base+fmt.Sprintf("/bkt/k%d", i), nil)
		require.NoError(t, err)
		r.ContentLength = maxHeld
		sign(t, r, c.keys, unsignedPayload)
		conn, err := net.Dial("tcp", address)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		var head bytes.Buffer
		r.Body = io.NopCloser(strings.NewReader(""))
		_ = r.Write(&head)
		_, err = conn.Write(append(head.Bytes(), "the beginning"...))
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool {
		free := g.memory.all.TryAcquire(maxHeld + 1)
		if free {
			g.memory.all.Release(maxHeld + 1)
		}
		return !free
	}, 10*time.Second, time.Millisecond)
	begun := time.Now()
	status, answer := c.do(http.MethodPut, "/bkt/other", bytes.Repeat([]byte("x"), maxHeld))
	require.Equal(t, 200, status, answer)
	require.Less(t, time.Since(begun), 10*time.Second)
	require.Equal(t, []string{"/bkt/other"}, b.keys())

	// A store that takes longer than that to answer is waited for.
	b.mu.Lock()
	b.before = func(http.ResponseWriter, *http.Request) bool { time.Sleep(2 * g.stall); return false }
	b.mu.Unlock()
	status, answer = c.do(http.MethodPut, "/bkt/slow", []byte("x"))
	require.Equal(t, 200, status, answer)
}

// Queries that servers read in several ways are refused.
func TestQueries(t *testing.T) {
	t.Parallel()
	_, b, c := guarded(t, Options{}, secretText())
	for _, query := range []string{
		"partNumber=1&uploadId=1&uploadId=2", "partNumber=1&partNumber=2&uploadId=1", "a;partNumber=1;uploadId=1",
		"uploadId=%zz", "x-id=PutObject&x-id=CopyObject",
	} {
		target := c.base + "/bkt/k?" + query
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, target, strings.NewReader("x"))
		require.NoError(t, err)
		sign(t, r, c.keys, sum([]byte("x")))
		r.URL.RawQuery = query
		resp, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		_ = resp.Body.Close()
		require.Equal(t, 400, resp.StatusCode, query)
	}
	require.Empty(t, b.seen)
}

// An encoding that stands in two lines is that of the object, but for the frames.
func TestEncodings(t *testing.T) {
	t.Parallel()
	v := secretText()
	_, b, c := guarded(t, Options{}, v)
	body := fmt.Sprintf("5\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", v[:5], len(v)-5, v[5:])
	for _, frames := range []string{"aws-chunked", "AWS-Chunked"} {
		status, answer := c.do(http.MethodPut, "/bkt/k.txt", []byte(body),
			"Content-Encoding", "gzip", "Content-Encoding", frames,
			"X-Amz-Decoded-Content-Length", strconv.Itoa(len(v)))
		require.Equal(t, 200, status, answer)
		got, _ := b.object("k.txt")
		require.Equal(t, "[REDACTED:V0]", got)
		require.Equal(t, []string{"gzip"}, b.headers["/bkt/k.txt"]["Content-Encoding"])
	}
}

// A value in a body that the task has compressed itself is found.
func TestCompressed(t *testing.T) {
	t.Parallel()
	v := secretText()
	_, b, c := guarded(t, Options{}, v)
	var body bytes.Buffer
	z := gzip.NewWriter(&body)
	_, _ = io.WriteString(z, "it is "+v)
	_ = z.Close()
	status, answer := c.do(http.MethodPut, "/bkt/k.json", body.Bytes(), "Content-Encoding", "gzip")
	require.Equal(t, 403, status)
	require.Contains(t, answer, "a gzip archive")
	require.Empty(t, b.keys())
}

// A list of hosts that is * means all of them only if nothing stands beside it.
func TestNoProxy(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{"*": "*", "": "127.0.0.1", "a.example": "a.example,127.0.0.1"} {
		_, vars := started(t, Options{Environ: []string{
			envKeyID + "=" + platform.id, envSecret + "=" + platform.secret,
			"HTTPS_PROXY=http://p:1", "HTTP_PROXY=http://p:1", "NO_PROXY=" + given,
		}}, secretText())
		require.Equal(t, want, vars["NO_PROXY"])
		require.Equal(t, want, vars["no_proxy"])
	}
}

// Open uploads take little memory, however long the values are.
func TestManyUploads(t *testing.T) {
	t.Parallel()
	g, _, c := guarded(t, Options{}, strings.Repeat(rand.Text(), 2000))
	body := strings.Repeat("-", 80_000)
	for i := range 250 {
		_, put := c.begin(fmt.Sprintf("k%d", i))
		for n := range 2 {
			status, answer := put(n+1, body)
			require.Equal(t, 200, status, answer)
		}
	}
	require.True(t, g.memory.edges.TryAcquire(maxEdges/2))
	g.memory.edges.Release(maxEdges / 2)
}

// Map tasks of Flyte 1 write below a folder of their own.
func TestMapTask(t *testing.T) {
	t.Parallel()
	g, _, c := guarded(t, Options{
		Mode: Auto, Command: []string{"pyflyte-map-execute", "--output-prefix", "s3://bkt/run/out"},
	}, secretText())
	status, _ := c.do(http.MethodPut, "/bkt/run/out/17/outputs.pb", nil)
	require.Equal(t, 200, status)
	_, err := g.End(t.Context(), true)
	require.NoError(t, err)
}

// What stands before the head of a request, or between two, is no request with the task's keys.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	_, b, c := guarded(t, Options{}, secretText())
	head := func(method, target string, lines ...string) string {
		r, err := http.NewRequestWithContext(t.Context(), method, c.base+target, nil)
		require.NoError(t, err)
		sign(t, r, c.keys, unsignedPayload)
		text := method + " " + target + " HTTP/1.1\r\nHost: " + r.Host + "\r\n"
		for name := range r.Header {
			text += name + ": " + r.Header.Get(name) + "\r\n"
		}
		return text + strings.Join(lines, "\r\n") + "\r\n\r\n"
	}
	const inner = "PUT /bkt/inner HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"
	for _, text := range []string{
		head("PUT", "/bkt/k", "Content-Length: 5", "Content-Length: 1") + "hello",
		head("PUT", "/bkt/k", "Content-Length: 4", "Transfer-Encoding: chunked") + "0\r\n\r\n" + inner,
		head("PUT", "/bkt/k", "Transfer-Encoding: chunked") + "1\r\nx\r\n0\r\n\r\n" + inner,
		head("PUT", "/bkt/k", "Transfer-Encoding: identity, chunked") + "1\r\nx\r\n0\r\n\r\n" + inner,
		head("PUT", "/bkt/k", "Content-Length: 1", "X-Amz-Meta-A : b") + "x",
		head("PUT", "/bkt/k", "Content-Length: +1") + "x",
		"CONNECT " + strings.TrimPrefix(b.URL, "http://") + " HTTP/1.1\r\nHost: x\r\n\r\n",
		inner,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(c.base, "http://"))
		require.NoError(t, err)
		_, err = io.WriteString(conn, text)
		require.NoError(t, err)
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		line, _ := bufio.NewReader(conn).ReadString('\n')
		_ = conn.Close()
		require.NotContains(t, line, " 20", text)
	}
	require.Empty(t, b.keys())

	// A header that names others for one connection only takes none of them away from the signature.
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, c.base+"/bkt/k", strings.NewReader("x"))
	require.NoError(t, err)
	r.Header.Set("Connection", "X-Amz-Content-Sha256, X-Amz-Meta-A, Authorization")
	r.Header.Set("X-Amz-Meta-A", "b")
	sign(t, r, c.keys, sum([]byte("x")))
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	_ = resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, sum([]byte("x")), b.headers["/bkt/k"].Get(hashHeader))

	// The host in an absolute target is not asked.
	other := newBucket(t)
	r, err = http.NewRequestWithContext(t.Context(), http.MethodPut, other.URL+"/bkt/absolute", strings.NewReader("x"))
	require.NoError(t, err)
	sign(t, r, c.keys, sum([]byte("x")))
	at, err := url.Parse(c.base)
	require.NoError(t, err)
	resp, err = (&http.Transport{Proxy: http.ProxyURL(at)}).RoundTrip(r)
	require.NoError(t, err)
	_ = resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	require.Empty(t, other.seen)
	require.Contains(t, b.keys(), "/bkt/absolute")
}

// A header in two lines, or folded into one, is signed as clients of S3 sign it.
func TestHeaderLines(t *testing.T) {
	t.Parallel()
	_, b, c := guarded(t, Options{}, secretText())
	status, answer := c.do(http.MethodPut, "/bkt/k", []byte("x"),
		"X-Amz-Meta-A", "b", "X-Amz-Meta-A", "c  d", "X-Amz-Acl", "")
	require.Equal(t, 200, status, answer)
	require.Equal(t, []string{"b", "c  d"}, b.headers["/bkt/k"]["X-Amz-Meta-A"])
}

// When the guard has ended, nothing of it runs.
func TestNothingIsLeft(t *testing.T) {
	before := goleak.IgnoreCurrent()
	store := newBucket(t)
	g, vars := started(t, Options{Environ: []string{
		envEndpoint + "=" + store.URL, envKeyID + "=" + platform.id, envSecret + "=" + platform.secret,
	}}, secretText())
	client := &http.Client{Transport: &http.Transport{}}
	for i := range 20 {
		target := fmt.Sprintf("%s/bkt/k%d", vars[envEndpoint], i)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, target, strings.NewReader("x"))
		require.NoError(t, err)
		sign(t, r, keyPair{vars[envKeyID], vars[envSecret]}, sum([]byte("x")))
		resp, err := client.Do(r)
		require.NoError(t, err)
		_ = resp.Body.Close()
		require.Equal(t, 200, resp.StatusCode)
	}
	_, err := g.End(t.Context(), true)
	require.NoError(t, err)
	client.CloseIdleConnections()
	store.Close()
	goleak.VerifyNone(t, before)
}

// While credentials are valid, requests do not wait for a server that gives no others.
func TestRefreshFails(t *testing.T) {
	t.Parallel()
	fetched := 0
	c := &credentials{fetch: func(context.Context) (aws.Credentials, error) {
		fetched++
		return aws.Credentials{}, errors.New("gone")
	}}
	c.now = aws.Credentials{AccessKeyID: "id", SecretAccessKey: "key", Expires: time.Now().Add(time.Hour)}
	for range 3 {
		got, err := c.get(t.Context())
		require.NoError(t, err)
		require.Equal(t, "id", got.AccessKeyID)
	}
	require.Equal(t, 1, fetched)
	c.fresh, c.now.Expires = time.Time{}, time.Now()
	_, err := c.get(t.Context())
	require.ErrorContains(t, err, "gone")
}

// The blocks of an uploader that numbers them take little memory, however long the values are. They have
// to be listed in the order in which they met.
func TestNumberedBlocks(t *testing.T) {
	t.Parallel()
	long := strings.Repeat(rand.Text(), 2000)
	g, b, c := guardedAzure(t, long)
	body := strings.Repeat("-", 80_000)
	name := func(n int) string { return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%20d", n)) }
	list := func(numbers ...int) []byte {
		text := ""
		for _, n := range numbers {
			text += "<Latest>" + name(n) + "</Latest>"
		}
		return []byte("<BlockList>" + text + "</BlockList>")
	}
	put := func(n int, body string) {
		status, answer := c.do(http.MethodPut, "/cont/k?comp=block&blockid="+url.QueryEscape(name(n)), []byte(body))
		require.Equal(t, 201, status, answer)
	}
	var all []int
	for n := range 300 {
		put(n, body)
		all = append(all, n)
	}
	require.True(t, g.memory.edges.TryAcquire(maxEdges/2))
	g.memory.edges.Release(maxEdges / 2)
	for _, numbers := range [][]int{{1, 0}, {0, 2}, {0}, {2}, append(slices.Clone(all), 0)} {
		status, answer := c.do(http.MethodPut, "/cont/k?comp=blocklist", list(numbers...))
		require.Equal(t, 400, status, numbers)
		require.Contains(t, answer, "InvalidBlockList")
	}
	status, answer := c.do(http.MethodPut, "/cont/k?comp=blocklist", list(all...))
	require.Equal(t, 201, status, answer)
	requireSame(t, strings.Repeat(body, 300), b.objects["/cont/k"])
}

// Parts that arrive at once, twice, and from clients that go away, are stored unless the redactor finds a
// value in the whole; no memory stays taken.
func TestPartsAtOnce(t *testing.T) {
	t.Parallel()
	v := secretText()
	g, b, c := guarded(t, Options{}, v)
	stored := 0
	const rounds = 20
	for round := range rounds {
		r := mrand.New(mrand.NewPCG(uint64(round), 3))
		whole := bytes.Repeat([]byte("0123456789abcdef"), 500+r.IntN(2000))
		if r.IntN(2) == 0 {
			copy(whole[r.IntN(len(whole)-len(v)):], v)
		}
		var parts []string
		for rest := whole; len(rest) > 0; {
			n := min(1+r.IntN(len(whole)/4), len(rest))
			parts = append(parts, string(rest[:n]))
			rest = rest[n:]
		}
		key := fmt.Sprintf("k%d", round)
		id, put := c.begin(key)
		var all sync.WaitGroup
		var numbers []int
		for i, part := range parts {
			numbers = append(numbers, i+1)
			for range 2 {
				all.Go(func() { put(i+1, part) }) // the list tells whether it was stored
			}
			all.Go(func() {
				ctx, cancel := context.WithCancel(t.Context())
				target := fmt.Sprintf("%s/bkt/%s?partNumber=%d&uploadId=%s", c.base, key, i+1, id)
				body := io.MultiReader(strings.NewReader(part[:len(part)/2]), canceled(cancel))
				q, err := http.NewRequestWithContext(ctx, http.MethodPut, target, body)
				if !assert.NoError(t, err) { //nolint:testifylint // require ends only the test's own goroutine
					return
				}
				q.ContentLength = int64(len(part))
				sign(t, q, c.keys, unsignedPayload)
				if resp, err := http.DefaultClient.Do(q); err == nil {
					_ = resp.Body.Close()
				}
			})
		}
		all.Wait()
		status, answer := c.complete(key, id, numbers...)
		got, there := b.object(key)
		if bytes.Contains(whole, []byte(v)) {
			require.Equal(t, 403, status, answer)
			require.False(t, there)
			continue
		}
		require.Equal(t, 200, status, answer)
		requireSame(t, string(whole), got)
		stored++
	}
	require.Greater(t, stored, rounds/4)
	require.Less(t, stored, rounds)
	require.Zero(t, b.uploads())
	require.Eventually(t, func() bool { return g.memory.all.TryAcquire(maxMemory) }, 10*time.Second, time.Millisecond)
}

// canceled is a body that ends its own request.
type canceled context.CancelFunc

// Read implements [io.Reader].
func (c canceled) Read([]byte) (int, error) {
	c()
	time.Sleep(time.Millisecond)
	return 0, context.Canceled
}

// A part that the store has gone on with, although its request was cut, does not stay when the upload of
// it was refused.
func TestPartAfterAbort(t *testing.T) {
	t.Parallel()
	v := secretText()
	g, b, c := guarded(t, Options{}, v)
	id, put := c.begin("k")
	status, _ := put(1, v)
	require.Equal(t, 403, status)
	require.Zero(t, b.uploads())
	b.mu.Lock()
	b.parts[id] = map[int][]byte{2: []byte("late")}
	b.mu.Unlock()
	_, err := g.End(t.Context(), true)
	require.NoError(t, err)
	require.Zero(t, b.uploads())
}
