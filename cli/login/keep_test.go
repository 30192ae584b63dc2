package login_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/cli/login"
	"inject/internal/harness"
	"inject/resolver/secret"
)

// keepOf keeps a login at i whose token ends after a time.
func keepOf(t *testing.T, i *issuer, ends time.Duration) login.Keep {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.refresh, i.ended = "refresh+/="+rand.Text(), false
	k := login.Keep{
		Dir: filepath.Join(t.TempDir(), "state", "logins"), Address: "grpcs://Example.org:8093", Again: "inject login",
	}
	require.NoError(t, k.Save(t.Context(),
		login.Provider{Issuer: i.url, TokenEndpoint: i.url + "/token", ClientID: "inject"},
		login.Tokens{
			Access: secret.NewValue([]byte("access-" + rand.Text())), Refresh: secret.NewValue([]byte(i.refresh)),
			Expiry: time.Now().Add(ends),
		}))
	return k
}

func TestKeep(t *testing.T) {
	t.Parallel()
	i := startIssuer(t)
	k := keepOf(t, i, time.Hour)
	info, err := os.Stat(k.Path())
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode())
	info, err = os.Stat(k.Dir)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700)|fs.ModeDir, info.Mode())

	token, err := k.Token(t.Context())
	require.NoError(t, err)
	require.Contains(t, content(t, k), string(token.Reveal()))
	require.NotContains(t, fmt.Sprint(token), string(token.Reveal()))
	require.Empty(t, i.requests("/token"), "the token is still good")
	from, err := k.Issuer()
	require.NoError(t, err)
	require.Equal(t, i.url, from)

	// The same server, in other letters; and another server.
	same, other := k, k
	same.Address = "grpcs://example.ORG:8093"
	again, err := same.Token(t.Context())
	require.NoError(t, err)
	require.True(t, again.Equal(token))
	other.Address = "grpcs://example.org:8094"
	_, err = other.Token(t.Context())
	require.ErrorIs(t, err, login.ErrNone)
	require.NoError(t, os.Rename(k.Path(), other.Path())) // even if the file gets there
	_, err = other.Token(t.Context())
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.ErrorContains(t, err, "it is for another server")
}

// Addresses never share a file, and none leads out of the folder.
func TestKeepPath(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, address := range []string{
		"grpcs://a:1", "grpcs://a:11", "grpcs://[::1]:1", "grpcs://a%2f..:1", "grpcs://../../x:1", "grpcs://a_1:1",
	} {
		path := login.Keep{Dir: "/d", Address: address}.Path()
		require.Equal(t, "/d", filepath.Dir(path), address)
		require.NotContains(t, seen, path)
		seen[path] = address
	}
}

func TestRenew(t *testing.T) {
	t.Parallel()
	i := startIssuer(t)
	for name, ends := range map[string]time.Duration{"ended": -time.Hour, "about to end": login.Early - time.Second} {
		t.Run(name, func(t *testing.T) {
			k := keepOf(t, i, ends)
			before, _ := k.Issuer()
			old := content(t, k)
			for _, leftover := range []string{"", "of a process that was killed"} { // the second time there is one
				if leftover != "" {
					require.NoError(t, os.WriteFile(k.Path()+".new", []byte(leftover), 0o644))
				}
				i.mu.Lock()
				i.life = 1 // so the next call renews it, too
				sent := i.refresh
				i.mu.Unlock()
				token, err := k.Token(t.Context())
				require.NoError(t, err)
				asked := i.requests("/token")
				require.Len(t, asked, 1)
				require.Equal(t, sent, asked[0].Get("refresh_token"))
				now := content(t, k)
				require.NotEqual(t, old, now)
				require.NotContains(t, now, sent, "it can be used no more")
				require.Contains(t, now, i.refresh)
				require.Contains(t, now, string(token.Reveal()))
				require.NoFileExists(t, k.Path()+".new")
				info, err := os.Stat(k.Path())
				require.NoError(t, err)
				require.Equal(t, fs.FileMode(0o600), info.Mode())
			}
			after, _ := k.Issuer()
			require.Equal(t, before, after)
		})
	}

	t.Run("no life and no new refresh token", func(t *testing.T) {
		k := keepOf(t, i, -time.Hour)
		sent := i.refresh
		i.token = func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 200, map[string]string{"access_token": "new"})
		}
		defer func() { i.token = nil }()
		for range 2 { // the second time it is still good
			token, err := k.Token(t.Context())
			require.NoError(t, err)
			require.Equal(t, "new", string(token.Reveal()))
		}
		require.Len(t, i.requests("/token"), 1)
		require.Contains(t, content(t, k), sent)
	})
}

// Of many that renew a token at the same time one does, and the others use what it got. An issuer that
// rotates refresh tokens would end the session if an old one came again.
func TestRenewTogether(t *testing.T) {
	t.Parallel()
	i := startIssuer(t)
	for range 10 {
		k := keepOf(t, i, -time.Minute)
		i.requests("/token")
		var wait sync.WaitGroup
		tokens := make([]secret.Value, 16)
		for n := range tokens {
			wait.Go(func() {
				var err error
				tokens[n], err = k.Token(t.Context())
				if err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		for _, token := range tokens {
			require.True(t, token.Equal(tokens[0]))
		}
		require.Len(t, i.requests("/token"), 1)
		require.Contains(t, content(t, k), i.refresh)
	}
}

// A process that waits for another one that renews gives up when its own time is over.
func TestRenewWaits(t *testing.T) {
	t.Parallel()
	i := startIssuer(t)
	asked, release := make(chan struct{}), make(chan struct{})
	i.token = func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-release
		i.grant(w, r.Form)
	}
	k := keepOf(t, i, -time.Minute)
	done := make(chan error, 1)
	go func() {
		_, err := k.Token(t.Context())
		done <- err
	}()
	<-asked
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := k.Token(ctx)
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	close(release)
	require.NoError(t, <-done)
}

func TestEnded(t *testing.T) {
	t.Parallel()
	i := startIssuer(t)
	k := keepOf(t, i, -time.Minute)
	i.ended = true
	for range 2 { // it stays so
		_, err := k.Token(t.Context())
		require.ErrorIs(t, err, secret.ErrDenied)
		require.ErrorContains(t, err, "has ended: invalid_grant (Session not active)")
		require.Equal(t, "log in again: inject login", secret.Hint(err))
		require.NoFileExists(t, k.Path()+".new")
	}

	// An issuer that cannot be asked has not ended it.
	for name, token := range map[string]http.HandlerFunc{
		"down": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"too busy": func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 429, map[string]string{"error": "slow_down"})
		},
		"for a while": func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 400, map[string]string{"error": "temporarily_unavailable"})
		},
	} {
		i.token = token
		_, err := k.Token(t.Context())
		require.ErrorIs(t, err, secret.ErrUnavailable, name)
		require.NotErrorIs(t, err, secret.ErrDenied, name)
		require.Equal(t, "try again, or log in again: inject login", secret.Hint(err), name)
	}

	// Without a refresh token there is nothing to ask.
	i.token = nil
	i.requests("/token")
	require.NoError(t, k.Save(t.Context(),
		login.Provider{Issuer: i.url, TokenEndpoint: i.url + "/token", ClientID: "inject"},
		login.Tokens{Access: secret.NewValue([]byte("x")), Expiry: time.Now()}))
	_, err := k.Token(t.Context())
	require.ErrorIs(t, err, secret.ErrDenied)
	require.ErrorContains(t, err, "none to renew it")
	require.Empty(t, i.requests("/token"))
}

// A refresh token is not spent when the new one could not be kept.
func TestNoPlace(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		harness.Need(t, "chattr") // root may write anywhere else
	}
	i := startIssuer(t)
	k := keepOf(t, i, -time.Minute)
	require.NoError(t, os.MkdirAll(filepath.Join(k.Path()+".new", "in the way"), 0o700))
	_, err := k.Token(t.Context())
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.ErrorContains(t, err, "the tokens cannot be kept")
	require.Empty(t, i.requests("/token"))
}

func TestUnusable(t *testing.T) {
	t.Parallel()
	i := startIssuer(t)
	k := keepOf(t, i, time.Hour)
	good := content(t, k)
	refused := func(want string) {
		t.Helper()
		for _, do := range []func() error{
			func() error { _, err := k.Token(t.Context()); return err },
			func() error { _, err := k.Issuer(); return err },
		} {
			err := do()
			require.ErrorIs(t, err, secret.ErrInvalid)
			require.ErrorContains(t, err, want)
			require.NotContains(t, err.Error(), "canary")
		}
	}
	require.NoError(t, os.Chmod(k.Path(), 0o640))
	refused("mode 0640): run chmod 600")
	require.NoError(t, os.Chmod(k.Path(), 0o600))
	_, err := k.Token(t.Context())
	require.NoError(t, err)
	for text, want := range map[string]string{
		"": "not the file of a login", `{"canary`: "not the file of a login", `{"refresh_token":"canary"}`: "not the file",
		"null": "not the file", strings.Repeat(" ", 300<<10) + good: "bytes long",
		strings.Replace(good, "Example", "canary", 1): "another server",
	} {
		require.NoError(t, os.WriteFile(k.Path(), []byte(text), 0o600))
		refused(want)
	}
	// A token endpoint that someone has changed gets nothing without TLS.
	k = keepOf(t, i, -time.Hour)
	good = strings.Replace(content(t, k), `"token_endpoint": "`+i.url, `"token_endpoint": "http://example.org`, 1)
	require.NoError(t, os.WriteFile(k.Path(), []byte(good), 0o600))
	_, err = k.Token(t.Context())
	require.ErrorContains(t, err, "its token endpoint is not an https URL")
}

func TestRemove(t *testing.T) {
	t.Parallel()
	i := startIssuer(t)
	gone := func(k login.Keep) {
		t.Helper()
		entries, err := os.ReadDir(k.Dir)
		require.NoError(t, err)
		require.Len(t, entries, 1)
		require.Equal(t, filepath.Base(k.Path())+".lock", entries[0].Name())
		_, err = k.Remove(t.Context())
		require.ErrorIs(t, err, login.ErrNone)
	}
	k := keepOf(t, i, -time.Hour)
	require.NoError(t, os.WriteFile(k.Path()+".new", []byte("left"), 0o600))
	revoked, err := k.Remove(t.Context())
	require.NoError(t, err)
	require.True(t, revoked)
	require.True(t, i.ended)
	asked := i.requests("/revoke")
	require.Len(t, asked, 1)
	require.Equal(t, "inject", asked[0].Get("client_id"))
	require.Equal(t, "refresh_token", asked[0].Get("token_type_hint"))
	gone(k)

	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a request went to another host")
	}))
	defer other.Close()
	for _, c := range []struct {
		name    string
		rewrite func(map[string]string)
		want    string
	}{
		{"no endpoint", func(m map[string]string) { delete(m, "revocation_endpoint") }, ""},
		{"another host", func(m map[string]string) { m["revocation_endpoint"] = other.URL }, "at another host"},
		{"no TLS", func(m map[string]string) { m["revocation_endpoint"] = "http://example.org" }, "at another host"},
		{"another issuer", func(m map[string]string) { m["issuer"] = "https://example.org" }, "not its own"},
		{"a long answer", func(m map[string]string) { m["x"] = strings.Repeat("x", 1<<20) }, "not its own"},
		{"no such page", func(m map[string]string) { m["revocation_endpoint"] = i.url + "/none" }, "HTTP status 404"},
	} {
		t.Run(c.name, func(t *testing.T) {
			i.rewrite = c.rewrite
			k := keepOf(t, i, time.Hour)
			revoked, err := k.Remove(t.Context())
			require.False(t, revoked)
			if c.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, "are deleted, but not revoked: ")
				require.ErrorContains(t, err, c.want)
			}
			gone(k)
		})
	}
	t.Run("damaged", func(t *testing.T) {
		k := keepOf(t, i, time.Hour)
		require.NoError(t, os.WriteFile(k.Path(), []byte("{"), 0o644))
		_, err := k.Remove(t.Context())
		require.ErrorContains(t, err, "are deleted, but not revoked: ")
		gone(k)
	})
	t.Run("down", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		require.NoError(t, l.Close())
		k := keepOf(t, i, time.Hour)
		text := strings.ReplaceAll(content(t, k), i.url, "http://"+l.Addr().String())
		require.NoError(t, os.WriteFile(k.Path(), []byte(text), 0o600))
		_, err = k.Remove(t.Context())
		require.ErrorContains(t, err, "connection refused")
		gone(k)
	})
}
