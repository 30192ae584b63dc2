package guard

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"inject/exec/redact"
	"inject/injector/outputs"
	"inject/resolver/idl/flyteidl2/core"
)

// guarded starts a guard for the values in front of a bucket.
func guarded(t *testing.T, o Options, values ...string) (*Guard, *bucket, client) {
	t.Helper()
	b := newBucket(t)
	o.Environ = append(o.Environ, envEndpoint+"="+b.URL, envKeyID+"="+platform.id, envSecret+"="+platform.secret)
	g, vars := started(t, o, values...)
	return g, b, client{t, vars[envEndpoint], keyPair{vars[envKeyID], vars[envSecret]}}
}

// started starts a guard for the values, and returns the variables of its task.
func started(t *testing.T, o Options, values ...string) (*Guard, map[string]string) {
	t.Helper()
	if o.Mode == "" {
		o.Mode = On
	}
	if o.Policy == "" {
		o.Policy = outputs.Mask
	}
	o.Log = hclog.NewNullLogger()
	o.Redactor = redact.New(6)
	for i, v := range values {
		require.NoError(t, o.Redactor.Add(redact.Pattern{Name: fmt.Sprintf("V%d", i), Value: []byte(v)}))
	}
	g, err := Start(t.Context(), o)
	require.NoError(t, err)
	require.NotNil(t, g)
	t.Cleanup(func() { _, _ = g.End(context.Background(), true) })
	return g, variables(g.Environ(o.Environ))
}

// requireSame compares texts without showing them, because they are large.
func requireSame(t *testing.T, want, got string) {
	t.Helper()
	require.Len(t, got, len(want))
	same := want == got
	require.True(t, same, "the bodies differ")
}

func secretText() string { return "q\"ä" + rand.Text() }

// A write is masked, refused, or stored byte for byte.
func TestPut(t *testing.T) {
	t.Parallel()
	v := secretText()
	g, b, c := guarded(t, Options{}, v)
	for _, put := range []struct {
		key, body, stored, why string
	}{
		{"clean.bin", "\x00\x01nothing", "\x00\x01nothing", ""},
		{"empty", "", "", ""},
		{"a/t.txt", "it is " + v + ".", "it is [REDACTED:V0].", ""},
		{"t.json", `{"a": "` + hex.EncodeToString([]byte(v)) + `"}`, `{"a": "[REDACTED:V0]"}`, ""},
		{"report.html", "<b>" + strings.ReplaceAll(v, `"`, "&quot;") + "</b>", "<b>[REDACTED:V0]</b>", ""},
		{"p.pkl", "\x80\x04" + v, "", "holds the value of V0 in binary data, which cannot be masked"},
		{"sub/inputs.pb", "\x0a" + v, "", "with which another task would be started"},
		{"x" + v, "clean", "", "in its name"},
	} {
		target := "/bkt/" + strings.ReplaceAll(strings.ReplaceAll(put.key, `"`, "%22"), "ä", "%C3%A4")
		status, answer := c.do(http.MethodPut, target, []byte(put.body))
		got, there := b.object(put.key)
		if put.why != "" {
			assert.Equal(t, 403, status, answer)
			assert.Contains(t, answer, put.why)
			assert.NotContains(t, answer, v)
			assert.False(t, there, put.key)
			continue
		}
		assert.Equal(t, 200, status, answer)
		assert.Equal(t, put.stored, got, put.key)
		status, answer = c.do(http.MethodGet, target, nil)
		assert.Equal(t, 200, status)
		assert.Equal(t, put.stored, answer)
	}
	end, err := g.End(t.Context(), true)
	require.NoError(t, err)
	require.Equal(t, 3, end.Report.Masked)
	require.Equal(t, 3, end.Report.Refused)
	require.NotContains(t, strings.Join(end.Report.Lines(), "\n"), v)
}

// A value in metadata, tags or a query is found, also in another form, and nothing is stored.
func TestPutNames(t *testing.T) {
	t.Parallel()
	v := secretText()
	_, b, c := guarded(t, Options{}, v)
	coded := hex.EncodeToString([]byte(v))
	for _, header := range []string{"X-Amz-Meta-A", "X-Amz-Tagging", "Content-Type", "X-Amz-Meta-" + coded} {
		status, answer := c.do(http.MethodPut, "/bkt/k", nil, header, "a="+coded)
		require.Equal(t, 403, status, header)
		require.Contains(t, answer, "V0", header)
		status, _ = c.do(http.MethodPost, "/bkt/k?uploads", nil, header, "a="+coded)
		require.Equal(t, 403, status, header)
	}
	status, _ := c.do(http.MethodPut, "/bkt/k?tagging", []byte("<Tagging>"+coded+"</Tagging>"))
	require.Equal(t, 403, status)
	require.Empty(t, b.keys())
	status, _ = c.do(http.MethodPut, "/bkt/k", nil, "X-Amz-Meta-A", "a")
	require.Equal(t, 200, status)
	require.Equal(t, "a", b.headers["/bkt/k"].Get("X-Amz-Meta-A"))
}

// What the policy fail says of what could be masked, and what warn says of what could not.
func TestPolicies(t *testing.T) {
	t.Parallel()
	v := secretText()
	g, b, c := guarded(t, Options{Policy: outputs.Fail}, v)
	status, _ := c.do(http.MethodPut, "/bkt/t.txt", []byte(v))
	require.Equal(t, 403, status)
	status, _ = c.do(http.MethodPut, "/bkt/t.7z", []byte("7z\xbc\xaf\x27\x1c\x00\x04rest"))
	require.Equal(t, 403, status, "it cannot be searched")
	require.Empty(t, b.keys())
	require.Equal(t, 2, g.report.Refused)

	g, b, c = guarded(t, Options{Policy: outputs.Warn}, v)
	status, _ = c.do(http.MethodPut, "/bkt/p", []byte("\x00"+v))
	require.Equal(t, 200, status)
	large := append(bytes.Repeat([]byte("abcdefgh"), maxHeld/8), v...)
	status, _ = c.do(http.MethodPut, "/bkt/large", large)
	require.Equal(t, 200, status)
	status, answer := c.upload("parts", [][]byte{[]byte("x" + v[:8]), []byte(v[8:]), []byte(v)}, []int{0, 1, 2})
	require.Equal(t, 200, status, answer)
	for key, want := range map[string]string{"p": "\x00" + v, "large": string(large), "parts": "x" + v + v} {
		got, _ := b.object(key)
		requireSame(t, want, got)
	}
	require.Zero(t, g.report.Refused)
	require.Equal(t, 4, g.report.Left)

	g, b, c = guarded(t, Options{}, v)
	status, _ = c.do(http.MethodPut, "/bkt/t.7z", []byte("7z\xbc\xaf\x27\x1c\x00\x04rest"))
	require.Equal(t, 200, status)
	require.Len(t, b.keys(), 1)
	require.Equal(t, 1, g.report.Left, "it is reported as not searched")
}

// A large object is searched while it is sent, wherever the value is, and is never stored with it.
func TestPutLarge(t *testing.T) {
	t.Parallel()
	v := secretText()
	_, b, c := guarded(t, Options{}, v)
	clean := make([]byte, maxHeld+1<<20)
	_, _ = rand.Read(clean)
	status, answer := c.do(http.MethodPut, "/bkt/clean", clean)
	require.Equal(t, 200, status, answer)
	got, _ := b.object("clean")
	requireSame(t, string(clean), got)
	for _, at := range []int{0, searchSize - 3, maxHeld, len(clean) - len(v)} {
		bad := slices.Clone(clean)
		copy(bad[at:], v)
		resp, err := c.send(http.MethodPut, "/bkt/bad", bad)
		if err == nil { // otherwise the answer came while the rest was sent
			text, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			require.Equal(t, 403, resp.StatusCode)
			require.Contains(t, string(text), "/bkt/bad holds the value of V0")
		}
		_, there := b.object("bad")
		require.False(t, there, at)
	}
}

// Whatever the parts of an upload and the order in which they arrive: it is stored unless the redactor
// finds a value in the whole.
func TestParts(t *testing.T) {
	t.Parallel()
	long := make([]byte, 90<<10)
	_, _ = rand.Read(long)
	values := []string{secretText(), rand.Text()[:8], strings.Repeat("ab", 9) + rand.Text(), string(long)}
	g, b, c := guarded(t, Options{}, values...)
	rounds := 400
	if testing.Short() {
		rounds = 60
	}
	stored := 0
	for round := range rounds {
		r := mrand.New(mrand.NewPCG(uint64(round), 7))
		var whole []byte
		for range r.IntN(6) {
			v := values[r.IntN(len(values))]
			switch r.IntN(6) {
			case 0:
				whole = append(whole, v...)
			case 1: // the beginning only
				whole = append(whole, v[:min(r.IntN(len(v)), 60_000)]...)
			case 2: // the end only
				whole = append(whole, v[len(v)-min(r.IntN(len(v)), 60_000):]...)
			case 3:
				whole = append(whole, strings.Repeat("ab", r.IntN(20))...)
			default:
				filler := make([]byte, r.IntN(100))
				for i := range filler {
					filler[i] = byte(r.Uint32())
				}
				whole = append(whole, filler...)
			}
		}
		parts := cut(r, whole)
		key := fmt.Sprintf("k%d", round)
		status, answer := c.upload(key, parts, r.Perm(len(parts)))
		got, there := b.object(key)
		if found := g.scan(string(whole)); found != nil {
			require.Equalf(t, 403, status,
				"round %d: %v is not found in %d parts: %q", round, found, len(parts), whole)
			require.Contains(t, answer, "uploaded in parts")
			require.False(t, there)
			continue
		}
		require.Equalf(t, 200, status, "round %d: %s: nothing is in %q", round, answer, whole)
		requireSame(t, string(whole), got)
		stored++
	}
	require.Greater(t, stored, rounds/10)
	require.Less(t, stored, rounds)
	require.Zero(t, b.uploads(), "an upload that is refused is aborted")
	end, err := g.End(t.Context(), true)
	require.NoError(t, err)
	require.Equal(t, rounds-stored, end.Report.Refused, "one finding for each object")
	require.True(t, g.memory.all.TryAcquire(maxMemory), "all memory is free again")
}

// cut cuts a text into parts, of which some are empty or shorter than a value.
func cut(r *mrand.Rand, whole []byte) (parts [][]byte) {
	for len(whole) > 0 {
		n := min(1+r.IntN(1+r.IntN(2000)), len(whole))
		if len(parts) > 40 {
			n = len(whole)
		}
		parts = append(parts, whole[:n])
		whole = whole[n:]
	}
	return append(parts, nil)[:max(len(parts), 1)]
}

// A list that leaves a part out would join parts that did not meet, and one with a part from elsewhere
// would join bytes that were not searched.
func TestCompleteLists(t *testing.T) {
	t.Parallel()
	v := secretText()
	_, b, c := guarded(t, Options{}, v)
	status, answer := c.do(http.MethodPost, "/bkt/k?uploads", nil)
	require.Equal(t, 200, status, answer)
	put := func(n int, body string) {
		status, answer := c.do(http.MethodPut, fmt.Sprintf("/bkt/k?partNumber=%d&uploadId=1", n), []byte(body))
		require.Equal(t, 200, status, answer)
	}
	complete := func(numbers ...int) (int, string) {
		list := ""
		for _, n := range numbers {
			list += fmt.Sprintf("<Part><PartNumber>%d</PartNumber></Part>", n)
		}
		return c.do(http.MethodPost, "/bkt/k?uploadId=1", []byte("<C>"+list+"</C>"))
	}
	put(1, "begin "+v[:9])
	put(2, "between")
	put(10_000, v[9:])
	b.mu.Lock()
	b.parts["1"][3] = []byte("put there without the guard")
	b.mu.Unlock()
	for _, numbers := range [][]int{{1, 10_000}, {1, 2}, {2, 1, 10_000}, {1, 2, 3, 10_000}, {1, 3, 10_000}, {}} {
		status, answer = complete(numbers...)
		require.Equal(t, 400, status, numbers)
		require.Contains(t, answer, "InvalidPart")
	}
	status, _ = c.do(http.MethodPut, "/bkt/k?partNumber=10001&uploadId=1", nil)
	require.Equal(t, 400, status)
	put(2, "replaced")
	status, answer = complete(1, 2, 10_000)
	require.Equal(t, 200, status, answer)
	got, _ := b.object("k")
	require.Equal(t, "begin "+v[:9]+"replaced"+v[9:], got)

	status, _ = c.do(http.MethodPost, "/bkt/k?uploadId=1", []byte("not XML"))
	require.Equal(t, 400, status)
}

// Bodies in aws-chunked reach the store as they would be without frames, and their checksums too.
func TestChunked(t *testing.T) {
	t.Parallel()
	v := secretText()
	_, b, c := guarded(t, Options{}, v)
	frame := func(content []byte, sizes int, trailer string) []byte {
		var out bytes.Buffer
		for len(content) > 0 {
			n := min(sizes, len(content))
			fmt.Fprintf(&out, "%x;chunk-signature=0\r\n%s\r\n", n, content[:n])
			content = content[n:]
		}
		fmt.Fprintf(&out, "0\r\n%s\r\n", trailer)
		return out.Bytes()
	}
	send := func(content []byte, body []byte) (int, string) {
		return c.do(http.MethodPut, "/bkt/k", body, hashHeader, unsignedTrailer, "Content-Encoding", "aws-chunked,gzip",
			"X-Amz-Decoded-Content-Length", fmt.Sprint(len(content)), "X-Amz-Trailer", "x-amz-checksum-crc32")
	}
	content := []byte("\x00 a body of frames")
	status, answer := send(content, frame(content, 5, "x-amz-checksum-crc32:AAAAAA==\r\n"))
	require.Equal(t, 200, status, answer)
	got, _ := b.object("k")
	require.Equal(t, string(content), got)
	h := b.headers["/bkt/k"]
	require.Equal(t, "AAAAAA==", h.Get("X-Amz-Checksum-Crc32"))
	require.Equal(t, "gzip", h.Get("Content-Encoding"))
	require.Empty(t, h.Get("X-Amz-Trailer"))

	status, _ = send([]byte(v), frame([]byte(v), 3, "x-amz-checksum-crc32:AAAAAA==\r\n"))
	require.Equal(t, 200, status)
	got, _ = b.object("k")
	require.Equal(t, "[REDACTED:V0]", got)
	require.Empty(t, b.headers["/bkt/k"].Get("X-Amz-Checksum-Crc32"), "it would be wrong")
	require.NotEmpty(t, b.headers["/bkt/k"].Get("X-Amz-Checksum-Sha256"))

	large := bytes.Repeat([]byte("large "), maxHeld/5)
	status, answer = send(large, frame(large, 1<<20, "x-amz-checksum-crc32:BBBBBB==\r\n"))
	require.Equal(t, 200, status, answer)
	got, _ = b.object("k")
	requireSame(t, fmt.Sprintf("%x\r\n%s\r\n0\r\nx-amz-checksum-crc32:BBBBBB==\r\n\r\n", len(large), large), got)
	require.Equal(t, fmt.Sprint(len(large)), b.headers["/bkt/k"].Get("X-Amz-Decoded-Content-Length"))

	// More than its head has announced does not reach the store, which would take it for another request.
	_, err := c.send(http.MethodPut, "/bkt/long", frame(large, 1<<20, "x-amz-checksum-crc32:BBBBBB==\r\n"),
		hashHeader, unsignedTrailer, "Content-Encoding", "aws-chunked", "X-Amz-Trailer", "x-amz-checksum-crc32",
		"X-Amz-Decoded-Content-Length", strconv.Itoa(len(large)-1000))
	require.NoError(t, err)
	_, there := b.object("long")
	require.False(t, there)

	good := frame(content, 5, "")
	for _, bad := range [][]byte{
		nil, good[:len(good)-9], []byte("zz\r\n"), []byte("-1\r\n"), []byte("ffffffffffffffff\r\n"),
		append([]byte("5\r\n"), good...),
		frame(content[:5], 5, ""), frame(append(content, 'x'), 5, ""), []byte(strings.Repeat("0", 5000)),
		frame(content, 5, strings.Repeat("a:b\r\n", 50)),
	} {
		status, answer := send(content, bad)
		require.Equalf(t, 400, status, "%.60q: %s", bad, answer)
	}
}

// Only requests that are signed with the task's keys are served. A read without a signature passes
// without one.
func TestSignatures(t *testing.T) {
	t.Parallel()
	g, b, c := guarded(t, Options{}, secretText())
	status, _ := c.do(http.MethodPut, "/bkt/k", []byte("content"))
	require.Equal(t, 200, status)
	refused := func(code string, c client, method, target string, headers ...string) {
		t.Helper()
		status, answer := c.do(method, target, []byte("x"), headers...)
		require.Equal(t, 403, status, answer)
		require.Contains(t, answer, code)
	}
	refused("InvalidAccessKeyId", client{t, c.base, platform}, http.MethodPut, "/bkt/k")
	refused("SignatureDoesNotMatch", client{t, c.base, keyPair{c.keys.id, "wrong"}}, http.MethodPut, "/bkt/k")
	refused("SignatureDoesNotMatch", client{t, c.base, keyPair{c.keys.id, "wrong"}}, http.MethodGet, "/bkt/k")

	plain := func(method, target string) (*http.Response, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, c.base+target, nil)
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		defer resp.Body.Close() //nolint:errcheck // read only
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp, string(text)
	}
	resp, text := plain(http.MethodGet, "/bkt/k")
	require.Equal(t, 200, resp.StatusCode, text)
	require.Equal(t, "content", text)
	for _, method := range []string{http.MethodPut, http.MethodPost, http.MethodDelete} {
		resp, text = plain(method, "/bkt/k")
		require.Equal(t, 403, resp.StatusCode, text)
	}
	resp, _ = plain(http.MethodGet, "/bkt/k?X-Amz-Signature=0&X-Amz-Credential="+c.keys.id)
	require.Equal(t, 403, resp.StatusCode, "a URL that is signed for the guard is of no use")
	require.Len(t, b.keys(), 1)

	// Once the task has ended, its keys are of no use.
	_, err := g.End(t.Context(), true)
	require.NoError(t, err)
	_, err = c.send(http.MethodGet, "/bkt/k", nil)
	require.Error(t, err)
}

// A part of a request that the signature covers cannot be changed.
func TestTampered(t *testing.T) {
	t.Parallel()
	_, b, c := guarded(t, Options{}, secretText())
	change := func(edit func(r *http.Request)) int {
		t.Helper()
		client := &http.Client{Transport: tamper(edit)}
		target := c.base + "/bkt/k?x-id=PutObject"
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, target, strings.NewReader("x"))
		require.NoError(t, err)
		r.Header.Set("X-Amz-Meta-A", "b")
		sign(t, r, c.keys, sum([]byte("x")))
		resp, err := client.Do(r)
		require.NoError(t, err)
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	require.Equal(t, 200, change(func(*http.Request) {}))
	for i, edit := range []func(r *http.Request){
		func(r *http.Request) { r.URL.Path = "/bkt/other" },
		func(r *http.Request) { r.URL.RawQuery = "" },
		func(r *http.Request) { r.Header.Set("X-Amz-Meta-A", "c") },
		func(r *http.Request) { r.Header.Set(hashHeader, sum([]byte("y"))) },
		func(r *http.Request) { r.Header.Set("X-Amz-Date", time.Now().Add(-time.Hour).UTC().Format(dateFormat)) },
		func(r *http.Request) { r.Method = http.MethodPost },
		func(r *http.Request) { r.Host = "elsewhere" },
	} {
		require.Equal(t, 403, change(edit), i)
	}
	// A body that does not have the hash is refused by the store.
	require.Equal(t, 400, change(func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("y")) }))
	require.Equal(t, []string{"/bkt/k"}, b.keys())
}

type tamper func(r *http.Request)

// RoundTrip implements [http.RoundTripper].
func (f tamper) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	f(r)
	return http.DefaultTransport.RoundTrip(r)
}

// Redirects are handed to the task, and nothing but the one server is asked, whatever the request was.
func TestRedirect(t *testing.T) {
	t.Parallel()
	g, b, c := guarded(t, Options{}, secretText())
	id, _ := c.begin("parts")
	other := newBucket(t)
	b.mu.Lock()
	b.before = func(w http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Location", other.URL+r.URL.RequestURI())
		w.WriteHeader(http.StatusTemporaryRedirect)
		return true
	}
	b.mu.Unlock()
	no := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, ask := range []struct {
		method, target string
		size           int
	}{
		{http.MethodGet, "/bkt/k", 0},
		{http.MethodHead, "/bkt/k", 0},
		{http.MethodDelete, "/bkt/k", 0},
		{http.MethodPut, "/bkt/k", 1},
		{http.MethodPut, "/bkt/k", maxHeld + 1},
		{http.MethodPut, "/bkt/k?tagging", 1},
		{http.MethodPost, "/bkt/k?uploads", 0},
		{http.MethodPut, "/bkt/parts?partNumber=1&uploadId=" + id, 1},
	} {
		body := bytes.Repeat([]byte("x"), ask.size)
		r, err := http.NewRequestWithContext(t.Context(), ask.method, c.base+ask.target, bytes.NewReader(body))
		require.NoError(t, err)
		sign(t, r, c.keys, sum(body))
		resp, err := no.Do(r)
		require.NoError(t, err)
		_ = resp.Body.Close()
		require.Equal(t, http.StatusTemporaryRedirect, resp.StatusCode, ask)
		require.Contains(t, resp.Header.Get("Location"), other.URL)
	}
	require.Empty(t, other.seen)
	require.Zero(t, g.report.Files, "nothing is stored")
}

// What is no key in one of the task's buckets is refused before anything is asked.
func TestPaths(t *testing.T) {
	t.Parallel()
	_, b, c := guarded(t, Options{}, secretText())
	for _, target := range []string{
		"/bkt/../other/k", "/bkt/%2e%2e/other/k", "/bkt/a/%2E%2E", "/bkt/..%2f..%2fother/k", "/bkt/..", "/../bkt/k",
		"/a@evil.example/k", "/-x/k", "/b/k", "/zone--x-s3/k",
	} {
		status, answer := c.do(http.MethodPut, target, []byte("x"))
		require.Contains(t, []int{400, 403}, status, target+answer)
	}
	require.Empty(t, b.seen)
	for _, key := range []string{"a//b", "a%2Fb", "a+b%20c", "a..b", "%C3%A4~", "/etc/passwd", "%252e%252e/x", "..."} {
		status, answer := c.do(http.MethodPut, "/bkt/"+key, []byte("x"))
		require.Equal(t, 200, status, key+answer)
		require.Contains(t, b.seen, "PUT /bkt/"+key, "it is sent as it came")
	}
}

// Bodies that are held share 32 MiB: those that find no room wait, and all are stored.
func TestMemory(t *testing.T) {
	t.Parallel()
	g, b, c := guarded(t, Options{}, secretText())
	release := make(chan struct{})
	b.mu.Lock()
	b.before = func(http.ResponseWriter, *http.Request) bool { <-release; return false }
	b.mu.Unlock()
	body := bytes.Repeat([]byte{1}, 4<<20)
	var done sync.WaitGroup
	for i := range 24 {
		done.Go(func() {
			status, answer := c.do(http.MethodPut, fmt.Sprintf("/bkt/k%d", i), body)
			assert.Equal(t, 200, status, answer)
		})
	}
	require.Eventually(t, func() bool {
		free := g.memory.all.TryAcquire(4<<20 + 1)
		if free {
			g.memory.all.Release(4<<20 + 1)
		}
		return !free
	}, 10*time.Second, time.Millisecond)
	close(release)
	done.Wait()
	require.Len(t, b.keys(), 24)
	require.LessOrEqual(t, len(g.memory.free), maxMemory/blockSize)

	// The edges of parts cannot keep bodies out.
	require.NoError(t, g.memory.takeEdge(t.Context(), maxEdges))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.Error(t, g.memory.takeEdge(ctx, 1))
	status, answer := c.do(http.MethodPut, "/bkt/k", bytes.Repeat([]byte{1}, maxHeld))
	require.Equal(t, 200, status, answer)
}

// If something was refused and the task has left no outputs, its author reads why in error.pb.
func TestExplained(t *testing.T) {
	t.Parallel()
	v := secretText()
	start := func() (*Guard, *bucket, client) {
		command := []string{"/usr/bin/a0", "--outputs-path", "s3://bkt/run/out/"}
		return guarded(t, Options{Mode: Auto, Command: command}, v)
	}
	g, b, c := start()
	status, _ := c.do(http.MethodPut, "/bkt/run/out/error.pb", []byte("\x0a\x03own"))
	require.Equal(t, 200, status)
	status, _ = c.do(http.MethodPut, "/bkt/raw/p.pkl", []byte("\x00"+v))
	require.Equal(t, 403, status)
	end, err := g.End(t.Context(), false)
	require.NoError(t, err)
	require.True(t, end.Explained)
	text, _ := b.object("run/out/error.pb")
	var doc core.ErrorDocument
	require.NoError(t, proto.Unmarshal([]byte(text), &doc))
	require.Equal(t, "SecretInOutput", doc.GetError().GetCode())
	require.Equal(t, core.ContainerError_NON_RECOVERABLE, doc.GetError().GetKind())
	require.Equal(t, "inject: s3://bkt/raw/p.pkl holds the value of V0 in binary data, which cannot be masked:"+
		" nothing was stored", doc.GetError().GetMessage())

	g, b, c = start()
	status, _ = c.do(http.MethodPut, "/bkt/run/out/outputs.pb", nil)
	require.Equal(t, 200, status)
	status, _ = c.do(http.MethodPut, "/bkt/raw/p.pkl", []byte("\x00"+v))
	require.Equal(t, 403, status)
	end, err = g.End(t.Context(), true)
	require.NoError(t, err)
	require.False(t, end.Explained, "the task went on without it")
	require.Equal(t, []string{"/bkt/run/out/outputs.pb"}, b.keys())
	require.True(t, end.Report.Leaks(outputs.Mask))

	g, _, c = start()
	status, _ = c.do(http.MethodPut, "/bkt/elsewhere/outputs.pb", nil)
	require.Equal(t, 200, status)
	_, err = g.End(t.Context(), true)
	require.ErrorContains(t, err, "neither outputs.pb nor error.pb has come through the guard")
	g, _, _ = start()
	_, err = g.End(t.Context(), false)
	require.NoError(t, err, "it has failed before it wrote anything")
}

// Uploads that are open when the task ends are aborted.
func TestOpenUploads(t *testing.T) {
	t.Parallel()
	g, b, c := guarded(t, Options{}, secretText())
	for i := range 3 {
		status, answer := c.do(http.MethodPost, fmt.Sprintf("/bkt/k%d?uploads", i), nil)
		require.Equal(t, 200, status, answer)
	}
	status, _ := c.do(http.MethodDelete, "/bkt/k0?uploadId=1", nil)
	require.Equal(t, 204, status)
	require.Equal(t, 2, b.uploads())
	_, err := g.End(t.Context(), true)
	require.NoError(t, err)
	require.Zero(t, b.uploads())
}

// A store that is gone, and one that cuts an answer, are errors of the task's client.
func TestUpstreamGone(t *testing.T) {
	t.Parallel()
	_, b, c := guarded(t, Options{}, secretText())
	status, _ := c.do(http.MethodPut, "/bkt/k", bytes.Repeat([]byte("x"), 1<<20))
	require.Equal(t, 200, status)
	b.mu.Lock()
	b.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet {
			return false
		}
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte("half"))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	b.mu.Unlock()
	resp, err := c.send(http.MethodGet, "/bkt/k", nil)
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
	}
	require.Error(t, err)
	b.CloseClientConnections()
	b.Close()
	status, answer := c.do(http.MethodPut, "/bkt/k", []byte("x"))
	require.Equal(t, 503, status)
	require.Contains(t, answer, "the object store cannot be asked")
}
