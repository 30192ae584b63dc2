package guard

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	mrand "math/rand/v2"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"inject/resolver/idl/flyteidl2/core"
	"inject/resolver/secret"
)

// blobs is a store of Azure's in memory. It checks signatures, and joins blocks. The real server is in
// the tests of cmd/inject.
type blobs struct {
	*httptest.Server

	key secret.Value // of the account

	mu      sync.Mutex
	objects map[string]string
	headers map[string]http.Header
	blocks  map[string]string // by path and name
	seen    []string
	token   string // Authorization in place of a signature, or the sig of a signature for access
}

const azureAccount = "acct1"

func newBlobs(t *testing.T) *blobs {
	key := make([]byte, 64)
	_, _ = rand.Read(key)
	b := &blobs{
		key:     secret.NewValue(key),
		objects: map[string]string{}, headers: map[string]http.Header{}, blocks: map[string]string{},
	}
	b.Server = httptest.NewServer(b)
	t.Cleanup(b.Close)
	return b
}

// allowed reports whether a request may be served.
func (b *blobs) allowed(r *http.Request) bool {
	if b.token != "" {
		return r.Header.Get("Authorization") == b.token || r.URL.Query().Get("sig") == b.token
	}
	date, err := http.ParseTime(r.Header.Get("X-Ms-Date"))
	return err == nil && time.Since(date).Abs() < time.Minute &&
		r.Header.Get("Authorization") == "SharedKey "+azureAccount+":"+sharedKey(r, azureAccount, b.key)
}

func (b *blobs) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the guard has cut the connection
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = append(b.seen, r.Method+" "+r.URL.RequestURI())
	if !b.allowed(r) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, "<Error><Code>AuthenticationFailed</Code></Error>")
		return
	}
	q, key := r.URL.Query(), r.URL.Path
	switch {
	case r.Method == http.MethodGet:
		_, _ = io.WriteString(w, b.objects[key])
		return
	case q.Get("comp") == "block":
		b.blocks[key+q.Get("blockid")] = string(body)
	case q.Get("comp") == "blocklist":
		var list struct {
			Names []string `xml:",any"`
		}
		if xml.Unmarshal(body, &list) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		b.objects[key] = ""
		for _, name := range list.Names {
			b.objects[key] += b.blocks[key+name]
		}
	case q.Get("comp") == "batch":
		b.batch(w, r, body)
		return
	default:
		b.objects[key], b.headers[key] = string(body), r.Header.Clone()
	}
	w.WriteHeader(http.StatusCreated)
}

func (b *blobs) batch(w http.ResponseWriter, r *http.Request, body []byte) {
	_, boundary, _ := strings.Cut(r.Header.Get("Content-Type"), "boundary=")
	parts := multipart.NewReader(bytes.NewReader(body), boundary)
	for {
		part, err := parts.NextRawPart()
		if err != nil {
			break
		}
		one, err := http.ReadRequest(bufio.NewReader(part))
		if err != nil || !b.allowed(one) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		delete(b.objects, one.URL.Path)
		_, _ = fmt.Fprintf(w, "%s;", part.Header.Get("Content-Id"))
	}
}

// A sharer is a client that signs with the key of an account.
type sharer struct {
	bearerTask
	key secret.Value
}

// request returns a signed request.
func (c sharer) request(method, target string, body []byte, headers ...string) *http.Request {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.base+target, bytes.NewReader(body))
	require.NoError(c.t, err)
	r.Header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	r.Header.Set("X-Ms-Version", "2023-11-03")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	r.Header.Set("Authorization", "SharedKey "+azureAccount+":"+sharedKey(r, azureAccount, c.key))
	return r
}

func (c sharer) do(method, target string, body []byte, headers ...string) (int, string) {
	c.t.Helper()
	return c.send(c.request(method, target, body, headers...))
}

func (c sharer) send(r *http.Request) (int, string) {
	c.t.Helper()
	resp, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(c.t, err)
	defer resp.Body.Close() //nolint:errcheck // read only
	b, err := io.ReadAll(resp.Body)
	require.NoError(c.t, err)
	if resp.StatusCode == http.StatusForbidden && strings.Contains(string(b), "inject: ") {
		require.NotEmpty(c.t, resp.Header.Get("X-Ms-Error-Code"))
	}
	return resp.StatusCode, string(b)
}

func (c sharer) put(key, body string, headers ...string) (int, string) {
	c.t.Helper()
	return c.do(http.MethodPut, "/cont/"+key, []byte(body), append(headers, "X-Ms-Blob-Type", "BlockBlob")...)
}

// guardedAzure starts a guard in front of an account for a0, whose outputs go to cont/run/out.
func guardedAzure(t *testing.T, values ...string) (*Guard, *blobs, sharer) {
	t.Helper()
	b := newBlobs(t)
	g, vars := started(t, Options{
		Mode:    Auto,
		Command: []string{"a0", "--outputs-path", "abfss://cont@" + azureAccount + ".dfs.core.windows.net/run/out"},
		Environ: []string{
			envAzure + "=" + b.URL, "AZURE_STORAGE_ACCESS_KEY=" + base64.StdEncoding.EncodeToString(b.key.Reveal()),
		},
	}, values...)
	key, err := base64.StdEncoding.DecodeString(vars[envAzureKey])
	require.NoError(t, err)
	require.NotContains(t, vars, "AZURE_STORAGE_ACCESS_KEY", "it would win")
	require.NotEqual(t, b.key.Reveal(), key)
	require.Equal(t, "true", vars[envAzureHTTP])
	return g, b, sharer{bearerTask{t: t, base: vars[envAzure]}, secret.NewValue(key)}
}

// Writes to Azure are masked, refused, or stored byte for byte, and signed with the key of the account.
func TestAzure(t *testing.T) {
	t.Parallel()
	v := secretText()
	g, b, c := guardedAzure(t, v)
	for _, put := range []struct{ target, key, body, stored, why string }{
		{"run/out/outputs.pb", "run/out/outputs.pb", "", "", ""},
		{"c%20+%C3%A4.bin", "c +ä.bin", "\x00\x01nothing", "\x00\x01nothing", ""},
		{"t.txt", "t.txt", "it is " + v + ".", "it is [REDACTED:V0].", ""},
		{"p.pkl", "p.pkl", "\x80\x04" + v, "", "holds the value of V0 in binary data, which cannot be masked"},
		{"a/inputs.pb", "a/inputs.pb", "\x0a" + v, "", "with which another task would be started"},
		{"a/%2e%2e/b", "b", "x", "", "the key has .."},
	} {
		status, answer := c.put(put.target, put.body, "Content-Md5", "of the body", "X-Ms-Blob-Content-Md5", "of it")
		got, there := b.objects["/cont/"+put.key]
		if put.why != "" {
			require.Contains(t, []int{400, 403}, status, answer)
			require.Contains(t, answer, put.why)
			require.False(t, there, put.key)
			continue
		}
		require.Equal(t, 201, status, answer)
		require.Equal(t, put.stored, got, put.key)
		sum := b.headers["/cont/"+put.key].Get("X-Ms-Blob-Content-Md5")
		require.Equal(t, put.stored == put.body, sum != "", put.key)
	}
	coded := hex.EncodeToString([]byte(v))
	for _, header := range []string{"X-Ms-Meta-A", "X-Ms-Tags", "X-Ms-Blob-Content-Type", "X-Ms-Meta-" + coded} {
		status, _ := c.put("k", "", header, "a="+coded)
		require.Equal(t, 403, status, header)
		status, _ = c.do(http.MethodPut, "/cont/k?comp=blocklist", []byte("<BlockList/>"), header, "a="+coded)
		require.Equal(t, 403, status, header)
	}
	status, _ := c.do(http.MethodPut, "/cont/k?comp=tags", []byte("<Tags>"+coded+"</Tags>"))
	require.Equal(t, 403, status)
	status, answer := c.put("k", "x", "X-Ms-Meta-A", "b", "X-Ms-Encryption-Key", coded)
	require.Equal(t, 201, status, answer)
	require.Equal(t, "b", b.headers["/cont/k"].Get("X-Ms-Meta-A"))
	status, answer = c.do(http.MethodGet, "/cont/k", nil)
	require.Equal(t, 200, status)
	require.Equal(t, "x", answer)
	end, err := g.End(t.Context(), true)
	require.NoError(t, err)
	require.Equal(t, 1, end.Report.Masked)
	require.Equal(t, 11, end.Report.Refused)
}

// Copies and deletions reach the store with its own addresses, and signatures with its own key.
func TestAzureCopyDelete(t *testing.T) {
	t.Parallel()
	_, b, c := guardedAzure(t, secretText())
	for _, source := range []string{c.base + "/cont/k?a=b", "https://other.blob.core.windows.net/c/k"} {
		status, answer := c.do(http.MethodPut, "/cont/copy", nil, headerCopySource, source)
		require.Equal(t, 201, status, answer)
		want := strings.Replace(source, c.base, b.URL, 1)
		require.Equal(t, want, b.headers["/cont/copy"].Get(headerCopySource))
	}
	batch := func(requests ...*http.Request) (int, string) {
		var body strings.Builder
		for i, r := range requests {
			fmt.Fprintf(&body, "--b/+1\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n"+
				"Content-ID: %d\r\n\r\n%s %s HTTP/1.1\r\nContent-Length: 0\r\n", i, r.Method, r.URL.RequestURI())
			_ = r.Header.Write(&body)
			body.WriteString("\r\n\r\n")
		}
		body.WriteString("--b/+1--\r\n")
		return c.do(http.MethodPost, "/cont?restype=container&comp=batch", []byte(body.String()),
			"Content-Type", "multipart/mixed; boundary=b/+1")
	}
	for _, key := range []string{"a", "b%20+", "c"} {
		status, _ := c.put(key, "x")
		require.Equal(t, 201, status)
	}
	status, answer := batch(
		c.request(http.MethodDelete, "/cont/a", nil), c.request(http.MethodDelete, "/cont/b%20+", nil))
	require.Equal(t, 200, status, answer)
	require.Equal(t, "0;1;", answer)
	require.Equal(t, []string{"/cont/c", "/cont/copy"}, slices.Sorted(maps.Keys(b.objects)))

	stranger := c
	stranger.key = secret.NewValue([]byte("other"))
	stranger.base = c.base[:strings.LastIndex(c.base, "/")]
	seen := len(b.seen)
	for i, bad := range []*http.Request{
		c.request(http.MethodPut, "/cont/c?comp=tier", nil),
		stranger.request(http.MethodDelete, "/cont/c", nil),
		sharer{bearerTask{t: t, base: c.base}, stranger.key}.request(http.MethodDelete, "/cont/c", nil),
	} {
		status, _ = batch(bad)
		require.Contains(t, []int{400, 403}, status, i)
	}
	require.Len(t, b.seen, seen)
}

// What the guard cannot read as a blob, and what is not signed with the task's key, is refused.
func TestAzureRefuses(t *testing.T) {
	t.Parallel()
	_, b, c := guardedAzure(t, secretText())
	for _, bad := range []struct {
		method, target string
		headers        []string
	}{
		{http.MethodPut, "/cont/k", nil},
		{http.MethodPut, "/cont/k", []string{"X-Ms-Blob-Type", "AppendBlob"}},
		{http.MethodPut, "/cont/k?comp=appendblock", nil},
		{http.MethodPut, "/cont/k?comp=page", nil},
		{http.MethodPut, "/cont/k?comp=tags&comp=page", nil},
		{http.MethodPut, "/cont/k?resource=file", []string{"X-Ms-Blob-Type", "BlockBlob"}},
		{http.MethodPut, "/cont/k", []string{"X-Ms-Blob-Type", "BlockBlob", "X-Ms-Structured-Body", "XSM/1.0"}},
		// A copy with a body.
		{http.MethodPut, "/cont/k", []string{"X-Ms-Blob-Type", "BlockBlob", headerCopySource, "https://a/b"}},
		{http.MethodPut, "/cont/k?comp=block", nil},
		{http.MethodPut, "/cont/k?comp=block&blockid=" + strings.Repeat("A", 92), nil},
		{http.MethodPost, "/?restype=service&comp=userdelegationkey", nil},
		{http.MethodPost, "/cont?restype=container&comp=batch", []string{"Content-Type", "text/plain"}},
		{http.MethodPatch, "/cont/k", nil},
		{http.MethodPut, "/c@x/k", []string{"X-Ms-Blob-Type", "BlockBlob"}},
	} {
		status, answer := c.do(bad.method, bad.target, []byte("x"), bad.headers...)
		require.Contains(t, []int{400, 403, 405}, status, bad.target+answer)
		require.Contains(t, answer, "inject: ")
	}
	change := func(edit func(r *http.Request)) int {
		r := c.request(http.MethodPut, "/cont/k?timeout=1", []byte("x"),
			"X-Ms-Blob-Type", "BlockBlob", "X-Ms-Meta-A", "b")
		edit(r)
		status, _ := c.send(r)
		return status
	}
	require.Empty(t, b.seen)
	require.Equal(t, 201, change(func(*http.Request) {}))
	for i, edit := range []func(r *http.Request){
		func(r *http.Request) { r.URL.Path += "2" },
		func(r *http.Request) { r.URL.RawQuery = "" },
		func(r *http.Request) { r.Header.Set("X-Ms-Meta-A", "c") },
		func(r *http.Request) { r.Header.Set("Content-Type", "c") },
		func(r *http.Request) { r.Header.Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)) },
		func(r *http.Request) { r.Header.Del("Date") },
		func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), azureAccount, "acct2", 1))
		},
		func(r *http.Request) { r.Header.Set("Authorization", "SharedKeyLite "+azureAccount+":x") },
		func(r *http.Request) { r.Header.Set("Authorization", "SharedKey") },
		func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("xy")), 2 },
	} {
		require.Equal(t, 403, change(edit), i)
	}
	require.Equal(t, []string{"PUT /cont/k?timeout=1"}, b.seen)
}

// Blocks may arrive and be listed in any order, more than once, or not at all. A blob exists if and
// only if the redactor finds nothing in the text that the list makes of it.
func TestBlocks(t *testing.T) {
	t.Parallel()
	v := secretText()
	g, b, c := guardedAzure(t, v)
	random := mrand.New(mrand.NewPCG(1, uint64(time.Now().UnixNano())))
	refused, stored := 0, 0
	for i := range 150 {
		whole := []byte(strings.Repeat("noise. ", random.IntN(4)) + v + strings.Repeat(" more", random.IntN(3)))
		pieces := cut(random, whole)
		name := func(n int) string { return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%03d", n)) }
		target := fmt.Sprintf("/cont/k%d", i)
		bad := false
		for _, n := range random.Perm(len(pieces)) {
			status, answer := c.do(http.MethodPut, target+"?comp=block&blockid="+url.QueryEscape(name(n)), pieces[n])
			if status == 403 {
				require.NotEmpty(t, g.scan(string(pieces[n])), answer)
				bad = true
				break
			}
			require.Equal(t, 201, status, answer)
		}
		if bad {
			refused++
			continue
		}
		var text, list strings.Builder
		order := random.Perm(len(pieces))
		if random.IntN(2) == 0 {
			slices.Sort(order)
		}
		order = append(order[:random.IntN(2)], order[min(len(order), random.IntN(2)):]...) // one twice, or one left out
		for _, n := range order {
			text.Write(pieces[n])
			tag := []string{"Uncommitted", "Latest"}[random.IntN(2)]
			fmt.Fprintf(&list, "<%s>%s</%s>", tag, name(n), tag)
		}
		whole = []byte("<BlockList>" + list.String() + "</BlockList>")
		status, answer := c.do(http.MethodPut, target+"?comp=blocklist", whole)
		if len(g.scan(text.String())) > 0 {
			require.Equal(t, 403, status, "%q", text.String())
			require.Contains(t, answer, "holds the value of V0, and was uploaded in parts")
			require.NotContains(t, b.objects, target)
			refused++
			// The same blob may be written once more.
			status, answer = c.do(http.MethodPut, target+"?comp=blocklist", whole)
			require.Equal(t, 400, status)
			require.Contains(t, answer, "InvalidBlockList")
			status, _ = c.do(http.MethodPut, target+"?comp=block&blockid=AAAA", []byte("clean"))
			require.Equal(t, 201, status)
			status, _ = c.do(http.MethodPut, target+"?comp=blocklist",
				[]byte("<BlockList><Uncommitted>AAAA</Uncommitted></BlockList>"))
			require.Equal(t, 201, status)
			require.Equal(t, "clean", b.objects[target])
			continue
		}
		require.Equal(t, 201, status, answer)
		require.Equal(t, text.String(), b.objects[target])
		stored++
	}
	require.Positive(t, refused)
	require.Positive(t, stored)
	for _, list := range []string{"<Uncommitted>BBBB</Uncommitted>", "<Committed>AAAA</Committed>", "<Uncommitted/"} {
		status, answer := c.do(http.MethodPut, "/cont/z?comp=block&blockid=AAAA", []byte("x"))
		require.Equal(t, 201, status, answer)
		status, _ = c.do(http.MethodPut, "/cont/z?comp=blocklist", []byte("<BlockList>"+list+"</BlockList>"))
		require.Equal(t, 400, status, list)
	}
	status, _ := c.do(http.MethodPut, "/cont/z?comp=blocklist", []byte("<BlockList></BlockList>"))
	require.Equal(t, 201, status, "a blob of no blocks")
	_, err := g.End(t.Context(), false)
	require.NoError(t, err)
	require.True(t, g.memory.all.TryAcquire(maxMemory-g.openEdges()), "all memory is free again")
}

// openEdges returns what the edges of uploads take that no list has ended.
func (g *Guard) openEdges() (n int64) {
	for _, u := range g.uploads.open() {
		n += u.taken
	}
	return n
}

// With a token, or a signature for access, requests pass with it, and the guard's own have it, too.
func TestAzureTokens(t *testing.T) {
	t.Parallel()
	v := secretText()
	for _, sas := range []bool{false, true} {
		b := newBlobs(t)
		b.token = "Bearer " + rand.Text()
		query, header := "", b.token
		if sas {
			b.token = rand.Text() + "/+="
			query, header = "?sv=2023-11-03&sp=rwl&sig="+url.QueryEscape(b.token), ""
		}
		g, vars := started(t, Options{
			Mode: Auto, Command: []string{"a0", "--outputs-path", "abfs://cont/run/out"},
			Environ: []string{envAzure + "=" + b.URL, envAccount + "=" + azureAccount},
		}, v)
		require.NotContains(t, vars, envAzureKey)
		c := bearerTask{t, vars[envAzure], header}
		status, answer := c.do(http.MethodPut, "/cont/p.txt"+query, []byte("of "+v), "X-Ms-Blob-Type", "BlockBlob")
		require.Equal(t, 201, status, answer)
		require.Equal(t, "of [REDACTED:V0]", b.objects["/cont/p.txt"])
		status, _ = c.do(http.MethodPut, "/cont/p"+query, []byte("\x00"+v), "X-Ms-Blob-Type", "BlockBlob")
		require.Equal(t, 403, status)
		signed := c
		signed.header = "SharedKey " + azureAccount + ":x"
		status, _ = signed.do(http.MethodGet, "/cont/p", nil)
		require.Equal(t, 403, status, "there is no key to sign with")
		end, err := g.End(t.Context(), false)
		require.NoError(t, err)
		require.True(t, end.Explained)
		var doc core.ErrorDocument
		require.NoError(t, proto.Unmarshal([]byte(b.objects["/cont/run/out/error.pb"]), &doc))
		require.Contains(t, doc.GetError().GetMessage(), "abfss://cont/p holds the value of V0")
	}
}

// The account and the server that the task would have used are those that are asked.
func TestAzureUpstream(t *testing.T) {
	t.Parallel()
	key := base64.StdEncoding.EncodeToString([]byte("key"))
	for _, c := range []struct {
		want, account string // account is that of the addresses
		vars          map[string]string
	}{
		{"https://a12.blob.core.windows.net", "a12", nil},
		{"https://b12.blob.core.windows.net", "a12", map[string]string{envAccount: "b12"}},
		{"http://azurite:10000/a12", "a12", map[string]string{envAzure: "http://azurite:10000/a12/"}},
		{"http://azurite:10000", "a12", map[string]string{"AZURE_ENDPOINT": "http://azurite:10000", envEmulator: "0"}},
		{"https://e", "a12", map[string]string{"AZURE_storage_endpoint": "https://e", "AZURE_Endpoint": "https://e"}},
	} {
		s, err := newAzure(c.vars, c.account)
		require.NoError(t, err)
		require.Equal(t, c.want, s.base.String())
		require.Zero(t, s.key.Len())
		set := s.environ(c.vars, "http://guard")
		require.Equal(t, "http://guard"+s.path, set[envAzure])
		require.NotContains(t, set, envAzureKey)
		for name := range c.vars {
			if strings.HasSuffix(strings.ToLower(name), "endpoint") && name != envAzure {
				require.Contains(t, set, name)
				require.Empty(t, set[name], "it could win")
			}
		}
	}
	for _, c := range []struct {
		name string
		vars map[string]string
	}{
		{envAccount, nil},
		{envAccount, map[string]string{envAccount: "x.evil.example/"}},
		{envAzure, map[string]string{envAccount: "a12", envAzure: "x"}},
		{"AZURE_ENDPOINT", map[string]string{envAccount: "a12", envAzure: "http://x", "AZURE_ENDPOINT": "http://y"}},
		{envEmulator, map[string]string{envAccount: "a12", envEmulator: "true"}},
		{"AZURE_Use_Fabric_Endpoint", map[string]string{envAccount: "a12", "AZURE_Use_Fabric_Endpoint": "1"}},
		{envAzureKey, map[string]string{envAccount: "a12", envAzureKey: "%"}},
		{"AZURE_STORAGE_MASTER_KEY", map[string]string{
			envAccount: "a12", envAzureKey: key, "AZURE_STORAGE_MASTER_KEY": key + key,
		}},
	} {
		_, err := newAzure(c.vars, "")
		require.ErrorContains(t, err, c.name)
		require.NotContains(t, err.Error(), key)
	}
}

// Which addresses of the other providers are guarded, and which keep the task from starting.
func TestPlanClouds(t *testing.T) {
	t.Parallel()
	plan := func(program string, args ...string) (plan, error) {
		return planFor(Options{Mode: Auto, Command: append([]string{program}, args...)})
	}
	const azureURL = "abfs://cont@acct1.dfs.core.windows.net/"
	p, err := plan("a0", "--outputs-path", "gs://b/o/", "--raw-data-path", azureURL+"r",
		"--checkpoint-path=abfss://c/k")
	require.NoError(t, err)
	require.Equal(t, map[string]bool{"gs": true, "abfss": true}, p.schemes)
	require.Equal(t, object{"gs", "b", "o"}, p.outputs)
	require.Equal(t, "acct1", p.account)
	p, err = plan("a0", "--outputs-path", azureURL+"o")
	require.NoError(t, err)
	require.Equal(t, object{"abfss", "cont", "o"}, p.outputs)
	for _, bad := range [][]string{
		{"a0", "--outputs-path", "gcs://b/o"},
		{"a0", "--outputs-path", "az://b/o"},
		{"a0", "--outputs-path", "abfss://w@onelake.dfs.fabric.microsoft.com/o"},
		{"a0", "--outputs-path", "abfss://w@a.dfs.core.windows.net.evil.example/o"},
		{"a0", "--outputs-path", azureURL + "o", "--raw-data-path", "abfs://c@acct2.dfs.core.windows.net/r"},
		{"pyflyte-execute", "--output-prefix", "gs://b/o"},
		{"pyflyte-fast-execute", "--output-prefix", azureURL},
	} {
		_, err := plan(bad[0], bad[1:]...)
		require.ErrorContains(t, err, bad[len(bad)-2], bad)
		require.ErrorContains(t, err, "--storage: ")
	}
	for want, names := range map[string][]string{
		"s3": {""}, "gs": {"GOOGLE_APPLICATION_CREDENTIALS"}, "abfss": {envAccount},
		"abfss s3": {envAccount, "AWS_ROLE_ARN"},
	} {
		o := Options{Mode: On, Command: []string{"python"}}
		for _, name := range names {
			o.Environ = append(o.Environ, name+"=x")
		}
		p, err := planFor(o)
		require.NoError(t, err)
		require.Equal(t, want, strings.Join(slices.Sorted(maps.Keys(p.schemes)), " "))
	}
}
