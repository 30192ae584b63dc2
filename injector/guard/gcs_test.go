package guard

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"inject/injector/outputs"
	"inject/resolver/idl/flyteidl2/core"
)

// A bearerTask is a client that sends a token, or what else it has, with its requests.
type bearerTask struct {
	t      *testing.T
	base   string // with the door
	header string // Authorization
}

func (c bearerTask) do(method, target string, body []byte, headers ...string) (int, string) {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.base+target, bytes.NewReader(body))
	require.NoError(c.t, err)
	if c.header != "" {
		r.Header.Set("Authorization", c.header)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(r) // follows no redirect
	require.NoError(c.t, err)
	defer resp.Body.Close() //nolint:errcheck // read only
	b, err := io.ReadAll(resp.Body)
	require.NoError(c.t, err)
	return resp.StatusCode, string(b)
}

// guardedGCS starts a guard in front of a bucket of GCS for a0, whose outputs go to bkt/run/out.
func guardedGCS(t *testing.T, values ...string) (*Guard, *bucket, bearerTask) {
	t.Helper()
	b := newBucket(t)
	b.token = rand.Text()
	o := Options{
		Mode: Auto, Command: []string{"a0", "--outputs-path", "gs://bkt/run/out"},
		Environ: []string{envGoogle + "=" + b.URL},
	}
	g, vars := started(t, o, values...)
	return g, b, bearerTask{t, vars[envGoogle], "Bearer " + b.token}
}

// Writes to GCS are masked, refused, or stored byte for byte, also where the key is escaped as a whole.
func TestGCS(t *testing.T) {
	t.Parallel()
	v := secretText()
	g, b, c := guardedGCS(t, v)
	for _, put := range []struct{ target, key, body, stored, why string }{
		{"/bkt/run%2Fout%2Foutputs%2Epb", "run/out/outputs.pb", "", "", ""},
		{"/bkt/c%20%C3%A4%2Ebin", "c ä.bin", "\x00\x01nothing", "\x00\x01nothing", ""},
		{"/b%6Bt/t%2Etxt", "t.txt", "it is " + v + ".", "it is [REDACTED:V0].", ""},
		{"/bkt/p%2Epkl", "p.pkl", "\x80\x04" + v, "", "holds the value of V0 in binary data, which cannot be masked"},
		{"/bkt/a%2Finputs%2Epb", "a/inputs.pb", "\x0a" + v, "", "with which another task would be started"},
		{"/bkt/a%2F%2E%2E%2Fb", "b", "x", "", "the key has .."},
	} {
		status, answer := c.do(http.MethodPut, put.target, []byte(put.body),
			"Content-Md5", "of the body", "X-Goog-Hash", "md5=x")
		got, there := b.object(put.key)
		if put.why != "" {
			require.Contains(t, []int{400, 403}, status, answer)
			require.Contains(t, answer, put.why)
			require.False(t, there, put.key)
			continue
		}
		require.Equal(t, 200, status, answer)
		require.Equal(t, put.stored, got, put.key)
		require.Equal(t, put.stored == put.body, b.headers["/bkt/"+put.key].Get("X-Goog-Hash") != "", put.key)
	}
	require.Contains(t, b.seen, "PUT /bkt/run%2Fout%2Foutputs%2Epb", "it is sent as it came")
	for _, header := range []string{"X-Goog-Meta-A", "Content-Type", "Cache-Control"} {
		status, _ := c.do(http.MethodPut, "/bkt/k", nil, header, "a"+hex.EncodeToString([]byte(v)))
		require.Equal(t, 403, status, header)
	}
	status, _ := c.do(http.MethodPut, "/bkt/k", []byte("x"), "X-Goog-Meta-A", "b")
	require.Equal(t, 200, status)
	require.Equal(t, "b", b.headers["/bkt/k"].Get("X-Goog-Meta-A"))
	status, answer := c.do(http.MethodGet, "/bkt/k", nil)
	require.Equal(t, 200, status)
	require.Equal(t, "x", answer)
	status, _ = c.do(http.MethodPut, "/bkt/copy", nil, "X-Goog-Copy-Source", "bkt/k")
	require.Equal(t, 200, status)
	require.Equal(t, "bkt/k", b.headers["/bkt/copy"].Get("X-Goog-Copy-Source"))
	status, _ = c.do(http.MethodDelete, "/bkt/k", nil)
	require.Equal(t, 204, status)
	end, err := g.End(t.Context(), true)
	require.NoError(t, err)
	require.Equal(t, 1, end.Report.Masked)
	require.Equal(t, 5, end.Report.Refused)
	require.False(t, end.Explained, "the task has left outputs")
}

// Writes that the guard cannot read as an object are refused, and so is all that does not come by the
// path of the task.
func TestGCSRefuses(t *testing.T) {
	t.Parallel()
	_, b, c := guardedGCS(t, secretText())
	for _, bad := range []struct{ method, target, header string }{
		{http.MethodPost, "/bkt/k", ""},
		{http.MethodPost, "/upload/storage/v1/b/bkt/o?uploadType=media&name=k", ""},
		{http.MethodPut, "/upload/storage/v1/b/bkt/o?upload_id=1", ""},
		{http.MethodPut, "/bkt/k?X-Goog-Signature=a", ""},
		{http.MethodPut, "/bkt/k?uploadId=", ""},
		{http.MethodPut, "/bkt/k?partNumber=0&uploadId=1", ""},
		{http.MethodPut, "/bkt/k?partNumber=1&uploadId=1&uploadType=media", ""},
		{http.MethodPut, "/bkt/k", "X-Goog-Resumable"},
		{http.MethodPut, "/bkt/k", "X-Goog-Copy-Source"}, // with a body
		{http.MethodPatch, "/storage/v1/b/bkt/o/k", ""},
		{http.MethodPut, "/a@b/k", ""},
	} {
		header := []string{}
		if bad.header != "" {
			header = []string{bad.header, "start"}
		}
		status, answer := c.do(bad.method, bad.target, []byte("x"), header...)
		require.Contains(t, []int{400, 403, 405}, status, bad.target+answer)
	}
	stranger := c
	for _, door := range []string{"", "/", "/bkt", "/" + rand.Text(), "/x", "/.."} {
		stranger.base = c.base[:strings.LastIndex(c.base, "/")] + door
		status, _ := stranger.do(http.MethodPut, "/bkt/k", []byte("x"))
		require.Equal(t, 403, status, door)
	}
	stranger.base = c.base + "x"
	status, _ := stranger.do(http.MethodGet, "/bkt/k", nil)
	require.Equal(t, 403, status)
	require.Empty(t, b.seen)
	// A store that does not take the token is asked, and says so.
	c.header = "Bearer other"
	status, answer := c.do(http.MethodPut, "/bkt/k", []byte("x"))
	require.Equal(t, 403, status)
	require.Contains(t, answer, "SignatureDoesNotMatch")
	require.Empty(t, b.keys())
}

// A value in a part, or where parts meet, is found, and the upload is thrown away. The guard has only
// the token of the task for that, and for error.pb.
func TestGCSParts(t *testing.T) {
	t.Parallel()
	v := secretText()
	g, b, c := guardedGCS(t, v)
	upload := func(key string, parts ...string) (status int, answer string) {
		status, answer = c.do(http.MethodPost, "/bkt/"+key+"?uploads=", nil)
		require.Equal(t, 200, status, answer)
		_, id, _ := strings.Cut(answer, "<UploadId>")
		id, _, _ = strings.Cut(id, "<")
		list := ""
		for i, p := range parts {
			n := string(rune('1' + i))
			target := "/bkt/" + key + "?partNumber=" + n + "&uploadId=" + id
			if status, answer = c.do(http.MethodPut, target, []byte(p)); status != 200 {
				status2, _ := c.do(http.MethodDelete, "/bkt/"+key+"?uploadId="+id, nil)
				require.Equal(t, 204, status2, "the client throws it away, too")
				return status, answer
			}
			list += "<Part><PartNumber>" + n + "</PartNumber></Part>"
		}
		return c.do(http.MethodPost, "/bkt/"+key+"?uploadId="+id, []byte("<C>"+list+"</C>"))
	}
	status, answer := upload("good", "abc", "def", "g")
	require.Equal(t, 200, status, answer)
	got, _ := b.object("good")
	require.Equal(t, "abcdefg", got)
	for _, parts := range [][]string{{"abc", "x" + v + "y"}, {"abc" + v[:5], v[5:]}, {v[:3], v[3:9], v[9:] + "z"}} {
		status, answer = upload("run%2Fbad%2Ebin", parts...)
		require.Equal(t, 403, status, parts)
		require.Contains(t, answer, "gs://bkt/run/bad.bin holds the value of V0, and was uploaded in parts")
		require.Zero(t, b.uploads())
	}
	status, _ = c.do(http.MethodPost, "/bkt/open?uploads=", nil)
	require.Equal(t, 200, status)
	end, err := g.End(t.Context(), false)
	require.NoError(t, err)
	require.Zero(t, b.uploads(), "it is aborted at the end")
	require.True(t, end.Explained)
	text, _ := b.object("run/out/error.pb")
	var doc core.ErrorDocument
	require.NoError(t, proto.Unmarshal([]byte(text), &doc))
	require.Contains(t, doc.GetError().GetMessage(), "gs://bkt/run/bad.bin holds the value of V0")
}

// Without a token of the task's the guard cannot say why, and says that.
func TestGCSNoToken(t *testing.T) {
	t.Parallel()
	v := secretText()
	g, b, c := guardedGCS(t, v)
	c.header = ""
	status, _ := c.do(http.MethodPut, "/bkt/p", []byte("\x00"+v))
	require.Equal(t, 403, status)
	end, err := g.End(t.Context(), false)
	require.ErrorContains(t, err, "write error.pb to gs://bkt/run/out: the task has sent no request with a token")
	require.False(t, end.Explained)
	require.Empty(t, b.seen)
}

// The token of a write is kept rather than that of a read, and the last of each.
func TestDoor(t *testing.T) {
	t.Parallel()
	d := newDoor()
	for _, c := range []struct{ method, header, want string }{
		{http.MethodGet, "r1", "r1"},
		{http.MethodGet, "r2", "r2"},
		{http.MethodPut, "w1", "w1"},
		{http.MethodGet, "r3", "w1"},
		{http.MethodPost, "w2", "w2"},
		{http.MethodPut, "", "w2"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, "http://h"+d.path+"/b/k", nil)
		require.NoError(t, err)
		rest, refusal := d.enter(r, c.header, "")
		require.Nil(t, refusal)
		require.Equal(t, "b/k", rest)
		var out sending
		require.NoError(t, d.authorize(&out))
		require.Equal(t, c.want, out.header.Get("Authorization"))
	}
}

// Redirects are handed to the task, and nothing but the one server is asked.
func TestGCSRedirect(t *testing.T) {
	t.Parallel()
	_, b, c := guardedGCS(t, secretText())
	other := newBucket(t)
	b.before = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Location", other.URL+r.URL.RequestURI())
		w.WriteHeader(http.StatusTemporaryRedirect)
		return true
	}
	status, _ := c.do(http.MethodPut, "/bkt/k", []byte("x"))
	require.Equal(t, http.StatusTemporaryRedirect, status)
	require.Empty(t, other.seen)
}

// The server that the task would have used is the one that is asked.
func TestGCSUpstream(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "account.json")
	require.NoError(t, os.WriteFile(file, []byte(`{"gcs_base_url": "http://file:1/", "private_key": "x"}`), 0o600))
	plain := filepath.Join(t.TempDir(), "plain.json")
	require.NoError(t, os.WriteFile(plain, []byte(`{"private_key": "x"}`), 0o600))
	const key = `{"gcs_base_url": "http://key"}`
	for _, c := range []struct {
		want string
		vars map[string]string
	}{
		{"https://storage.googleapis.com", nil},
		{"https://storage.googleapis.com", map[string]string{"GOOGLE_SERVICE_ACCOUNT": plain}},
		{"http://file:1", map[string]string{"GOOGLE_SERVICE_ACCOUNT": file}},
		{"http://file:1", map[string]string{"SERVICE_ACCOUNT": file, envGoogle: ""}},
		{"http://key", map[string]string{envGoogleKey: key}},
		{"https://a/b", map[string]string{envGoogle: "https://a/b/", envGoogleKey: key, "SERVICE_ACCOUNT": file}},
		{"https://a", map[string]string{"GOOGLE_base_Url": "https://a"}},
	} {
		s, err := newGCS(c.vars)
		require.NoError(t, err)
		require.Equal(t, c.want, s.base.String())
		set := s.environ(c.vars, "http://guard")
		require.Equal(t, "http://guard"+s.path, set[envGoogle])
		for name := range c.vars {
			if strings.EqualFold(name, envGoogle) && name != envGoogle {
				require.Empty(t, set[name], "a spelling that would win")
				require.Contains(t, set, name)
			}
		}
	}
	for name, vars := range map[string]map[string]string{
		envGoogle:                {envGoogle: "storage"},
		"GOOGLE_base_url":        {envGoogle: "http://a", "GOOGLE_base_url": "http://b"},
		envGoogleKey:             {envGoogleKey: "{"},
		"GOOGLE_SERVICE_ACCOUNT": {"GOOGLE_SERVICE_ACCOUNT": "/no/such/file"},
	} {
		_, err := newGCS(vars)
		require.ErrorContains(t, err, name)
	}
}

// A task with addresses of two providers has a guard in front of both.
func TestTwoProviders(t *testing.T) {
	t.Parallel()
	v := secretText()
	b, google := newBucket(t), newBucket(t)
	google.token = rand.Text()
	g, vars := started(t, Options{
		Mode:    Auto,
		Command: []string{"a0", "--outputs-path", "gs://bkt/out", "--raw-data-path=s3://bkt/raw"},
		Environ: []string{
			envGoogle + "=" + google.URL, envEndpoint + "=" + b.URL,
			envKeyID + "=" + platform.id, envSecret + "=" + platform.secret,
		},
	}, v)
	c := client{t, vars[envEndpoint], keyPair{vars[envKeyID], vars[envSecret]}}
	c2 := bearerTask{t, vars[envGoogle], "Bearer " + google.token}
	status, answer := c.do(http.MethodPut, "/bkt/raw/t.txt", []byte("of "+v))
	require.Equal(t, 200, status, answer)
	status, answer = c2.do(http.MethodPut, "/bkt/out%2Foutputs%2Epb", nil)
	require.Equal(t, 200, status, answer)
	status, _ = c.do(http.MethodPut, "/bkt/out/error.pb", nil)
	require.Equal(t, 200, status)
	require.Equal(t, []string{"/bkt/out/error.pb", "/bkt/raw/t.txt"}, b.keys())
	require.Equal(t, []string{"/bkt/out/outputs.pb"}, google.keys())
	require.Equal(t, map[string]bool{"outputs.pb": true}, g.wrote, "only that of the store of the outputs counts")
	end, err := g.End(context.Background(), true)
	require.NoError(t, err)
	require.Equal(t, 1, end.Report.Masked)
	require.True(t, end.Report.Leaks(outputs.Fail))
}
