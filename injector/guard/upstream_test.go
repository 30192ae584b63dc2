package guard

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	mrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/stretchr/testify/require"
)

// platform are the keys that the pod has.
var platform = keyPair{"platform", "of the platform"}

// bucket is an object store in memory. It checks signatures and hashes, and joins parts. The real
// servers, whose rules it has, are in the tests of cmd/inject.
type bucket struct {
	*httptest.Server

	mu      sync.Mutex
	objects map[string][]byte
	headers map[string]http.Header
	parts   map[string]map[int][]byte // by upload
	created int                       // uploads
	seen    []string                  // the requests
	before  func(w http.ResponseWriter, r *http.Request) bool
	token   string // GCS: requests must carry this one, and are not signed
}

func newBucket(t *testing.T) *bucket {
	b := &bucket{objects: map[string][]byte{}, headers: map[string]http.Header{}, parts: map[string]map[int][]byte{}}
	b.Server = httptest.NewServer(b)
	t.Cleanup(b.Close)
	return b
}

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.seen = append(b.seen, r.Method+" "+r.URL.RequestURI())
	before := b.before
	b.mu.Unlock()
	if before != nil && before(w, r) {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the guard has cut the connection
	}
	fail := func(status int, code string) {
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code><Message>m</Message></Error>", code)
	}
	sig, ok := readSignature(r.Header.Get("Authorization"))
	signed := ok && (&s3{verifier: newSigner()}).verify(r, sig, platform)
	if b.token != "" {
		signed = r.Header.Get("Authorization") == "Bearer "+b.token
	}
	if !signed && r.Header.Get("Authorization") != "" || !signed && r.Method != http.MethodGet {
		fail(403, "SignatureDoesNotMatch")
		return
	}
	if hash := r.Header.Get(hashHeader); len(hash) == 64 {
		h := sha256.Sum256(body)
		if hex.EncodeToString(h[:]) != hash {
			fail(400, "XAmzContentSHA256Mismatch")
			return
		}
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	key, q := r.URL.Path, r.URL.Query()
	id := q.Get("uploadId")
	switch {
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		content, there := b.objects[key]
		if !there {
			fail(404, "NoSuchKey")
			return
		}
		w.Header().Set("Etag", `"x"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	case r.Method == http.MethodPost && q.Has("uploads"):
		b.created++ // no store gives an id twice
		id = strconv.Itoa(b.created)
		b.parts[id] = map[int][]byte{}
		_, _ = fmt.Fprintf(w, "<R><UploadId>%s</UploadId></R>", id)
	case r.Method == http.MethodDelete && id != "":
		delete(b.parts, id)
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodDelete:
		delete(b.objects, key)
		w.WriteHeader(http.StatusNoContent)
	case id != "" && b.parts[id] == nil:
		fail(404, "NoSuchUpload")
	case r.Method == http.MethodPut && id != "":
		n, _ := strconv.Atoi(q.Get("partNumber"))
		b.parts[id][n] = body
		w.Header().Set("Etag", `"x"`)
	case r.Method == http.MethodPost && id != "":
		var list struct {
			Part []struct{ PartNumber int }
		}
		if xml.Unmarshal(body, &list) != nil {
			fail(400, "MalformedXML")
			return
		}
		var whole []byte
		for _, p := range list.Part {
			whole = append(whole, b.parts[id][p.PartNumber]...)
		}
		b.objects[key] = whole
		delete(b.parts, id)
	default:
		b.objects[key], b.headers[key] = body, r.Header.Clone()
	}
}

// object returns the object of that key.
func (b *bucket) object(key string) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	content, ok := b.objects["/bkt/"+key]
	return string(content), ok
}

func (b *bucket) keys() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.objects))
}

func (b *bucket) uploads() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.parts)
}

// client sends requests as a guarded task does, with the address and the keys of its environment.
type client struct {
	t    *testing.T
	base string
	keys keyPair
}

// do sends a signed request and returns the status and the body of its answer.
func (c client) do(method, target string, body []byte, headers ...string) (int, string) {
	c.t.Helper()
	resp, err := c.send(method, target, body, headers...)
	require.NoError(c.t, err)
	defer resp.Body.Close() //nolint:errcheck // read only
	b, err := io.ReadAll(resp.Body)
	require.NoError(c.t, err)
	return resp.StatusCode, string(b)
}

func (c client) send(method, target string, body []byte, headers ...string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.base+target, bytes.NewReader(body))
	require.NoError(c.t, err)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	hash := r.Header.Get(hashHeader)
	if hash == "" {
		h := sha256.Sum256(body)
		hash = hex.EncodeToString(h[:])
		r.Header.Set(hashHeader, hash)
	}
	sign(c.t, r, c.keys, hash)
	return http.DefaultClient.Do(r)
}

// sign signs a request.
func sign(t *testing.T, r *http.Request, keys keyPair, hash string) {
	t.Helper()
	r.Header.Set(hashHeader, hash)
	pair := aws.Credentials{AccessKeyID: keys.id, SecretAccessKey: keys.secret}
	require.NoError(t, newSigner().SignHTTP(t.Context(), pair, r, hash, "s3", "us-east-1", time.Now()))
}

// upload uploads an object in parts, whose bodies are sent in the order of their places in order, and
// returns the status of the first request that failed, or 200.
func (c client) upload(key string, parts [][]byte, order []int) (int, string) {
	c.t.Helper()
	status, answer := c.do(http.MethodPost, "/bkt/"+key+"?uploads", nil)
	require.Equal(c.t, 200, status, answer)
	_, id, _ := strings.Cut(answer, "<UploadId>")
	id, _, _ = strings.Cut(id, "<")
	for _, i := range order {
		status, answer := c.do(http.MethodPut, fmt.Sprintf("/bkt/%s?partNumber=%d&uploadId=%s", key, i+1, id), parts[i])
		if status != 200 {
			return status, answer
		}
	}
	var list strings.Builder
	for i := range parts {
		fmt.Fprintf(&list, "<Part><PartNumber>%d</PartNumber><ETag>x</ETag></Part>", i+1)
	}
	return c.do(http.MethodPost, "/bkt/"+key+"?uploadId="+id,
		[]byte("<CompleteMultipartUpload>"+list.String()+"</CompleteMultipartUpload>"))
}

// The names of buckets and accounts have their forms.
func TestNames(t *testing.T) {
	t.Parallel()
	buckets := regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]$`)
	accounts := regexp.MustCompile(`^[a-z0-9]{3,24}$`)
	const some = "aZ09._-/ä\n"
	seen := map[bool]int{}
	for range 20_000 {
		var text strings.Builder
		for range mrand.IntN(7) {
			from := mrand.IntN(len(some))
			text.WriteString(some[from : from+1])
		}
		name := text.String()
		require.Equal(t, buckets.MatchString(name), isBucket(name), "%q", name)
		require.Equal(t, accounts.MatchString(name), isAccount(name), "%q", name)
		seen[isBucket(name)]++
	}
	require.Len(t, seen, 2)
	for n := 23; n < 300; n++ {
		name := strings.Repeat("a", n)
		require.Equal(t, buckets.MatchString(name), isBucket(name), n)
		require.Equal(t, accounts.MatchString(name), isAccount(name), n)
	}
}
