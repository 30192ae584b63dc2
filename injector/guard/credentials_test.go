package guard

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Credentials are taken in the order of the SDK's own object store, with what each source asks for.
func TestCredentials(t *testing.T) { // not parallel: it sets variables
	var asked atomic.Int64
	ends := time.Hour
	pair := func() string {
		return fmt.Sprintf(`"AccessKeyId": "id%d", "SecretAccessKey": "key", "Token": "session", "Expiration": %q`,
			asked.Add(1), time.Now().Add(ends).UTC().Format(time.RFC3339))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /latest/api/token", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("token"))
	})
	const roles = "GET /latest/meta-data/iam/security-credentials/{role...}"
	mux.HandleFunc(roles, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("X-aws-ec2-metadata-token") != "token":
			w.WriteHeader(http.StatusUnauthorized) // as where IMDSv1 is off
		case r.PathValue("role") == "":
			_, _ = w.Write([]byte("the-role"))
		default:
			_, _ = fmt.Fprintf(w, `{"Code": "Success", %s}`, pair())
		}
	})
	mux.HandleFunc("GET /container", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "of the pod" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = fmt.Fprintf(w, `{%s}`, pair())
	})
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("Action") != "AssumeRoleWithWebIdentity" || r.FormValue("RoleArn") != "arn:role" ||
			r.FormValue("WebIdentityToken") != "jwt" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
			<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>id%d</AccessKeyId>
			<SecretAccessKey>key</SecretAccessKey><SessionToken>session</SessionToken><Expiration>%s</Expiration>
			</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`,
			asked.Add(1), time.Now().Add(ends).UTC().Format(time.RFC3339))
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), rand.Text())
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	get := func(t *testing.T, vars map[string]string) (*credentials, string) {
		t.Helper()
		for name, value := range vars {
			t.Setenv(name, value)
		}
		c := newCredentials(vars, http.DefaultTransport)
		got, err := c.get(t.Context())
		require.NoError(t, err)
		require.Equal(t, "key", got.SecretAccessKey)
		return c, got.AccessKeyID + " " + got.SessionToken
	}
	metadata := map[string]string{"AWS_METADATA_ENDPOINT": server.URL}
	container := map[string]string{
		"AWS_CONTAINER_CREDENTIALS_FULL_URI":     server.URL + "/container",
		"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": file("of the pod"),
	}
	web := map[string]string{
		"AWS_WEB_IDENTITY_TOKEN_FILE": file("jwt"), "AWS_ROLE_ARN": "arn:role", "AWS_ENDPOINT_URL_STS": server.URL,
	}
	static := map[string]string{"AWS_ACCESS_KEY_ID": "aws", "AWS_SECRET_ACCESS_KEY": "key", "AWS_SESSION_TOKEN": "own"}
	flyte := map[string]string{envKeyID: "flyte", envSecret: "key"}

	vars := map[string]string{}
	want := []string{"id1 session", "id2 session", "id3 session", "aws own", "flyte own"}
	for i, more := range []map[string]string{metadata, container, web, static, flyte} {
		maps.Copy(vars, more)
		t.Run(want[i], func(t *testing.T) {
			c, got := get(t, vars)
			require.Equal(t, want[i], got)
			again, err := c.get(t.Context())
			require.NoError(t, err)
			require.Equal(t, got, again.AccessKeyID+" "+again.SessionToken, "it has not ended")
		})
	}

	// Those that end soon are fetched again.
	ends = time.Second
	t.Run("ended", func(t *testing.T) {
		c, first := get(t, web)
		require.Eventually(t, func() bool {
			got, err := c.get(t.Context())
			return err == nil && got.AccessKeyID+" session" != first
		}, 5*time.Second, 50*time.Millisecond)
	})
	t.Run("refused", func(t *testing.T) {
		t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", file("another"))
		t.Setenv("AWS_ROLE_ARN", "arn:role")
		vars := map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": "x", "AWS_ENDPOINT_URL_STS": server.URL}
		_, err := newCredentials(vars, http.DefaultTransport).get(t.Context())
		require.Error(t, err)
	})
}

// What says whether there is a guard.
func TestPlan(t *testing.T) {
	t.Parallel()
	bucket := object{"s3", "bkt", "run/out"}
	for _, c := range []struct {
		mode    Mode
		command []string
		needed  bool
		outputs object
	}{
		{Auto, []string{"a0", "--outputs-path", "s3://bkt/run/out"}, true, bucket},
		{Auto, []string{"/opt/venv/bin/a0", "--outputs-path=s3://bkt/run/out/"}, true, bucket},
		{Auto, []string{"pyflyte-fast-execute", "--", "p", "--output-prefix", "s3a://bkt/run/out"}, true, bucket},
		{Auto, []string{"pyflyte-map-execute", "--raw-output-data-prefix", "s3://bkt/raw"}, true, object{}},
		{Auto, []string{"clustered", "--outputs-path", "/tmp/out"}, false, object{}},
		{Auto, []string{"a0", "--outputs-path", "file:///tmp/out"}, false, object{}},
		{Auto, []string{"a0", "--outputs-path"}, false, object{}},
		{Auto, []string{"python", "--outputs-path", "s3://bkt/run/out"}, false, object{}},
		{On, []string{"python"}, true, object{}},
		{On, []string{"python", "--outputs-path", "s3://bkt/run/out"}, true, bucket},
		{Off, []string{"a0", "--outputs-path", "s3://bkt/run/out"}, false, object{}},
	} {
		p, err := planFor(Options{Mode: c.mode, Command: c.command})
		require.NoError(t, err)
		require.Equal(t, c.needed, len(p.schemes) > 0, c.command)
		require.Equal(t, c.outputs, p.outputs, c.command)
	}
}

// The server that the task would have used is the one that is asked.
func TestUpstream(t *testing.T) {
	t.Parallel()
	for want, vars := range map[string]map[string]string{
		"https://s3.us-east-1.amazonaws.com":     {},
		"https://s3.eu-north-1.amazonaws.com":    {"AWS_REGION": "eu-north-1", "AWS_DEFAULT_REGION": "other"},
		"https://s3.cn-north-1.amazonaws.com.cn": {"AWS_DEFAULT_REGION": "cn-north-1"},
		"http://minio:9000":                      {envEndpoint: "http://minio:9000/", "AWS_ENDPOINT_URL": "http://b"},
		"https://a/base":                         {envEndpointS3: "https://a/base", envEndpoint: "http://b"},
	} {
		u, err := upstream(vars)
		require.NoError(t, err)
		require.Equal(t, want, u.String())
	}
	for _, bad := range []string{"minio:9000", "ftp://a", "http://", "http://u:p@a", "http://a?b", "http://a#b", "%"} {
		_, err := upstream(map[string]string{envEndpoint: bad})
		require.ErrorContains(t, err, envEndpoint, bad)
		require.NotContains(t, err.Error(), bad+" ")
	}
}

// The bucket stands in the address where the task's own client would put it.
func TestPlace(t *testing.T) {
	t.Parallel()
	const (
		named, ip, env = "https://store.example", "http://127.0.0.1:9000", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST"
		amazon, ofBkt  = "https://s3.us-east-1.amazonaws.com", "https://bkt.s3.us-east-1.amazonaws.com"
	)
	for _, c := range []struct {
		endpoint, style, virtual, styleV1 string
		v2, v1                            string
	}{
		{named, "", "", "", named + "/bkt/k", named + "/bkt/k"},
		{named, "path", "true", "path", named + "/bkt/k", "https://bkt.store.example/k"},
		{named, "virtual", "", "", named + "/k", named + "/bkt/k"},
		{named, "", "true", "virtual", named + "/k", "https://bkt.store.example/k"},
		{named + "/base", "virtual", "", "virtual", named + "/base/k", "https://bkt.store.example/base/k"},
		{ip, "virtual", "", "virtual", ip + "/k", ip + "/bkt/k"},
		{"", "", "", "", amazon + "/bkt/k", amazon + "/bkt/k"},
		{"", "virtual", "", "virtual", ofBkt + "/k", ofBkt + "/k"},
	} {
		vars := map[string]string{
			envEndpoint: c.endpoint, envStyle: c.style, env: c.virtual, envStyleV1: c.styleV1,
			envKeyID: platform.id, envSecret: platform.secret,
		}
		for _, v1 := range []bool{false, true} {
			s, err := newS3(t.Context(), vars, v1)
			require.NoError(t, err)
			var asked string
			s.client.Proxy = func(r *http.Request) (*url.URL, error) {
				asked = r.URL.String()
				return nil, errors.New("enough is known")
			}
			_, err = s.send(t.Context(), sending{method: http.MethodGet, object: object{"s3", "bkt", "k"}, path: "/k"})
			require.ErrorContains(t, err, "enough is known")
			require.Equal(t, map[bool]string{false: c.v2, true: c.v1}[v1], asked, "%+v v1 %v", c, v1)
		}
	}
}

// The task's environment leads to the guard, also past a proxy.
func TestEnviron(t *testing.T) {
	t.Parallel()
	g, _, c := guarded(t, Options{}, secretText())
	environ := []string{"HTTP_PROXY=http://p:1", "no_proxy=a,b", envStyle + "=virtual", "A=b", envKeyID + "=old"}
	got := variables(g.Environ(environ))
	require.Equal(t, map[string]string{
		"HTTP_PROXY": "http://p:1", "NO_PROXY": "a,b,127.0.0.1", "no_proxy": "a,b,127.0.0.1", "A": "b",
		envEndpoint: c.base, envKeyID: c.keys.id, envSecret: c.keys.secret, envStyle: "path",
	}, got)
	require.NotContains(t, variables(g.Environ([]string{"A=b"})), "NO_PROXY")
	require.Equal(t, c.base, variables(g.Environ([]string{envEndpointS3 + "=http://store"}))[envEndpointS3])
}
