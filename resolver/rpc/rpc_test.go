package rpc_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"inject/resolver/idl/flyteidl2/core"
	secretpb "inject/resolver/idl/flyteidl2/secret"
	injectv1 "inject/resolver/idl/inject/v1"
	"inject/resolver/resolvertest"
	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/storetest"
)

var (
	flyte = secret.Scope{Org: "flyte"}
	refK  = secret.Ref{Scope: flyte, Key: "K"}
)

func TestResolver(t *testing.T) {
	resolvertest.Run(t, func(t *testing.T, s store.Store) resolvertest.Resolver { return serve(t, &server{store: s}) })
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		s := memory()
		return remote{serve(t, s), s.store}
	})
}

// An import creates all secrets or none, and names each one that exists already.
func TestImport(t *testing.T) {
	s := memory()
	c := serve(t, s)
	value := storetest.Value(t, 64)
	news := func(scope secret.Scope, keys ...string) (all []store.New) {
		for _, key := range keys {
			all = append(
				all,
				store.New{
					Ref: secret.Ref{Scope: scope, Key: key}, Value: secret.NewValue(value),
					Type: store.ImagePull,
				},
			)
		}
		return all
	}
	require.NoError(t, c.Import(t.Context(), nil))
	for _, scope := range storetest.Scopes {
		require.NoError(t, c.Import(t.Context(), news(scope, "A", "B")))
		v, info, err := s.store.Get(t.Context(), secret.Ref{Scope: scope, Key: "B"})
		require.NoError(t, err)
		require.True(t, v.Equal(secret.NewValue(value)))
		require.Equal(t, store.ImagePull, info.Type)
	}
	sent := len(s.seen())
	err := c.Import(t.Context(), news(flyte, "A", "C", "B"))
	list, ok := err.(interface{ Unwrap() []error })
	require.True(t, ok)
	require.Len(t, list.Unwrap(), 2)
	for i, key := range []string{"A", "B"} {
		require.Equal(t, fmt.Sprintf("create %s at org flyte: secret already exists", key), list.Unwrap()[i].Error())
		require.ErrorIs(t, list.Unwrap()[i], secret.ErrExists)
	}
	_, err = c.Describe(t.Context(), secret.Ref{Scope: flyte, Key: "C"})
	require.ErrorIs(t, err, secret.ErrNotFound, "all or nothing")
	require.Len(t, s.seen(), sent+2)

	// A request that can never succeed does not leave this process.
	large := news(flyte, "D", "E", "F", "G", "H")
	for i := range large {
		large[i].Value = secret.NewValue(make([]byte, store.MaxValue))
	}
	mixed := append(news(flyte, "D"), news(storetest.Scopes[1], "E")...)
	for _, all := range [][]store.New{
		large, mixed, news(flyte, "D", "D"), news(flyte, "D", "no key"), news(secret.Scope{}, "D"),
	} {
		require.ErrorIs(t, c.Import(t.Context(), all), secret.ErrInvalid)
	}
	require.Len(t, s.seen(), sent+2)
	require.NoError(t, c.Import(t.Context(), large[:3]))
}

// A request has the scope and, of each declaration, the fields that identify the secret.
func TestRequest(t *testing.T) {
	s := memory()
	c := serve(t, s)
	d := secret.Declaration{
		Group: "g", Key: "K", Version: "v1", Mount: secret.File, EnvVar: "CANARY", Path: "/canary/path",
	}
	climbs, err := c.Climb(
		t.Context(), resolvertest.Task, []secret.Declaration{d, {Key: "a value where a name belongs"}},
	)
	require.NoError(t, err)
	require.Equal(t, d, climbs[0].Declaration)
	require.ErrorIs(t, climbs[0].Err, secret.ErrNotFound)
	require.ErrorIs(t, climbs[1].Err, secret.ErrInvalid)
	want := &injectv1.ResolveRequest{
		Scope:     &injectv1.Scope{Organization: "flyte", Domain: "development", Project: "p"},
		Secrets:   []*core.Secret{{Group: "g", GroupVersion: "v1", Key: "K"}},
		NamesOnly: true, // since one declaration is refused here
	}
	require.True(t, proto.Equal(want, s.seen()[0]), "%v", s.seen()[0])
	_, err = c.Resolve(t.Context(), resolvertest.Task, []secret.Declaration{{Key: "a value where a name belongs"}})
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.Len(t, s.seen(), 1, "nothing to ask for")
}

// For a task without a scope the server takes the caller's and returns the rungs of that
// ladder; the scope of another task is sent.
func TestUnsaid(t *testing.T) {
	for _, bound := range append(resolvertest.Task.Ladder(), secret.Scope{Org: "acme", Domain: "d", Project: "p"}) {
		s := memory()
		s.bound = bound
		at := bound.Ladder()[len(bound.Ladder())-1]
		require.NoError(
			t,
			s.store.Create(
				t.Context(), secret.Ref{Scope: at, Key: "K"}, secret.NewValue([]byte("value")), store.Regular,
			),
		)
		c := serve(t, s)
		climbs, err := c.Climb(t.Context(), flyte, resolvertest.Declare("no key", "K", "L"))
		require.NoError(t, err)
		for i, climb := range climbs {
			require.Equal(t, bound, climb.Tried[0].Scope)
			require.Len(t, climb.Tried, []int{1, len(bound.Ladder()), len(bound.Ladder())}[i])
		}
		require.ErrorIs(t, climbs[0].Err, secret.ErrInvalid)
		require.Equal(t, at, climbs[1].Info.Ref.Scope)
		require.ErrorIs(t, climbs[2].Err, secret.ErrNotFound)
		got, err := c.Resolve(t.Context(), flyte, resolvertest.Declare("K"))
		require.NoError(t, err)
		require.Equal(t, "value", string(got[0].Value.Reveal()))

		for _, task := range []secret.Scope{{Org: "acme"}, {Org: "flyte", Domain: "d"}, {Org: "flyte", Project: "p"}} {
			_, err := c.Explain(t.Context(), task, resolvertest.Declare("K"))
			require.NoError(t, err)
		}
		var scopes []*injectv1.Scope
		for _, m := range s.seen() {
			r, ok := m.(*injectv1.ResolveRequest)
			require.True(t, ok)
			scopes = append(scopes, r.GetScope())
		}
		require.Nil(t, scopes[0])
		require.Nil(t, scopes[1])
		for i, task := range []*injectv1.Scope{
			{Organization: "acme"},
			{Organization: "flyte", Domain: "d"},
			{Organization: "flyte", Project: "p"},
		} {
			require.True(t, proto.Equal(task, scopes[2+i]), "%v", scopes)
		}
	}
}

// Explain gets no values.
func TestExplain(t *testing.T) {
	s := memory()
	require.NoError(t, s.store.Create(t.Context(), refK, secret.NewValue([]byte("value")), store.Regular))
	c := serve(t, s)
	for _, namesOnly := range []bool{true, false} {
		call, want := c.Explain, ""
		if !namesOnly {
			call, want = c.Climb, "value"
		}
		climbs, err := call(t.Context(), resolvertest.Task, resolvertest.Declare("K"))
		require.NoError(t, err)
		require.NoError(t, climbs[0].Err)
		require.Len(t, climbs[0].Tried, 4)
		require.Equal(t, refK, climbs[0].Info.Ref)
		require.Equal(t, want, string(climbs[0].Value.Reveal()))
		request, ok := s.seen()[len(s.seen())-1].(*injectv1.ResolveRequest)
		require.True(t, ok)
		require.Equal(t, namesOnly, request.GetNamesOnly())
	}
}

// A value that a server repeats in its message is not in the error, for every call.
func TestRepeatedValue(t *testing.T) {
	s := memory()
	a, config := config(t)
	c := open(t, rpc.Options{Address: s.start(t, "127.0.0.1:0", config), TLS: true, CAFile: a.file})
	canary := "canary-" + rand.Text()
	value := secret.NewValue([]byte(canary))
	repeated := canary
	s.before = func(proto.Message) (proto.Message, error) {
		return nil, status.Error(codes.InvalidArgument, "no good: "+repeated)
	}
	for name, call := range map[string]func() error{
		"create": func() error { return c.Create(t.Context(), refK, value, store.Regular) },
		"update": func() error { return c.Update(t.Context(), refK, value) },
		"import": func() error { return c.Import(t.Context(), []store.New{{Ref: refK, Value: value}}) },
	} {
		t.Run(name, func(t *testing.T) {
			repeated = "canary of its own"
			err := call()
			require.ErrorIs(t, err, secret.ErrInvalid, name)
			require.ErrorContains(t, err, repeated, name+": the error has the server's message")
			repeated = canary
			err = call()
			require.ErrorIs(t, err, secret.ErrInvalid, name)
			require.NotContains(t, err.Error(), canary, name)
		})
	}
}

// The token is read for each call, and an error about it does not quote it.
func TestToken(t *testing.T) {
	s := memory()
	a, config := config(t)
	token := "canary-" + rand.Text()
	path := a.write("token", []byte(token+"\n"))
	o := rpc.Options{Address: s.start(t, "127.0.0.1:0", config), TLS: true, CAFile: a.file, TokenFile: path}
	c := open(t, o)
	s.before = func(proto.Message) (proto.Message, error) {
		if last := s.tokens[len(s.tokens)-1]; last != "Bearer "+token {
			return nil, status.Error(codes.Unauthenticated, "no such token: "+last)
		}
		return nil, nil //nolint:nilnil // handled as usual
	}
	require.NoError(t, c.Create(t.Context(), refK, secret.NewValue([]byte("v")), store.Regular))
	wrong := "canary-" + rand.Text()
	a.write("token", []byte(wrong+"\r\n"))
	err := c.Delete(t.Context(), refK)
	require.ErrorIs(t, err, secret.ErrDenied)
	require.Contains(t, secret.Hint(err), "expired")
	require.NotContains(t, err.Error(), "canary", "though the server repeats it")
	s.mu.Lock()
	require.Contains(t, s.tokens, "Bearer "+wrong, "a token that is not known is one that was sent")
	s.mu.Unlock()

	for name, content := range map[string]string{
		"empty": "", "line": "\n", "two lines": token + "\n" + token, "two": token + " " + token,
		"not ASCII": token + "\xc3\xa9",
		"NUL":       token + "\x00", "newlines": token + "\n\n", "long": strings.Repeat(token, 1000),
		"huge": strings.Repeat(token, 100000),
	} {
		t.Run(name, func(t *testing.T) {
			a.write("token", []byte(content))
			_, err := rpc.Open(o)
			for _, err := range []error{err, c.Delete(t.Context(), refK)} {
				require.ErrorIsf(t, err, secret.ErrInvalid, name)
				require.ErrorContains(t, err, path)
				require.NotContains(t, err.Error(), "canary")
			}
		})
	}
	require.NoError(t, os.Remove(path))
	require.ErrorIs(t, c.Delete(t.Context(), refK), secret.ErrInvalid)
	require.ErrorContains(t, c.Delete(t.Context(), refK), "no such file")
	a.write("token", []byte(token))
	require.NoError(t, c.Delete(t.Context(), refK))

	// A token from the options.
	o.TokenFile, o.Token = "", secret.NewValue([]byte(token+"\n"))
	require.NoError(t, open(t, o).Create(t.Context(), refK, secret.NewValue([]byte("v")), store.Regular))
	o.Token = secret.NewValue([]byte(token + " two"))
	_, err = rpc.Open(o)
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.NotContains(t, err.Error(), "canary")
	o.Token = secret.Value{}

	// A token of a function, which is asked for each call and not before.
	var given secret.Value
	asked, broken := 0, errors.New("the session has ended")
	o.TokenFunc = func(context.Context) (secret.Value, error) { asked++; return given, nil }
	o.Again = "log in again"
	c = open(t, o)
	require.Zero(t, asked)
	given = secret.NewValue([]byte(token))
	require.NoError(t, c.Delete(t.Context(), refK))
	given = secret.NewValue([]byte("canary-of-the-function"))
	err = c.Delete(t.Context(), refK)
	require.ErrorIs(t, err, secret.ErrDenied)
	require.Equal(t, "log in again", secret.Hint(err))
	require.NotContains(t, err.Error(), "canary")
	require.Equal(t, 2, asked)
	given = secret.NewValue([]byte("two words"))
	require.ErrorContains(t, c.Delete(t.Context(), refK), "the token of the login has a character")
	c = open(t, rpc.Options{
		Address: o.Address, TLS: true, CAFile: a.file,
		TokenFunc: func(context.Context) (secret.Value, error) { return secret.Value{}, broken },
	})
	require.ErrorIs(t, c.Delete(t.Context(), refK), broken)
	o.TokenFunc, o.Again = nil, ""

	s.before = func(proto.Message) (proto.Message, error) { return nil, status.Error(codes.Unauthenticated, "who?") }
	o.TokenFile = ""
	_, err = open(t, o).Describe(t.Context(), refK)
	require.ErrorIs(t, err, secret.ErrDenied)
	require.Contains(t, secret.Hint(err), "--token-file")
}

// Without TLS only a server on this machine is asked, and no credentials are sent.
func TestPlain(t *testing.T) {
	s := memory()
	address := s.start(t, "127.0.0.1:0", nil)
	require.NoError(t, open(t, rpc.Options{Address: address}).Create(t.Context(), refK, secret.Value{}, store.Regular))
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	require.NoError(t, open(t, rpc.Options{Address: "127.0.0.1:" + port}).Delete(t.Context(), refK))
	require.NoError(
		t,
		open(t, rpc.Options{Address: "LocalHost:" + port}).Create(t.Context(), refK, secret.Value{}, store.Regular),
	)
	a := newAuthority(t)
	token := a.write("token", []byte("t"))
	for _, o := range []rpc.Options{
		{Address: "injectd.example:443"},
		{Address: "10.0.0.1:443"},
		{Address: "0.0.0.0:443"},
		{Address: "localhost.example:443"},
		{Address: address, TokenFile: token},
		{Address: address, Token: secret.NewValue([]byte("t"))},
		{Address: address, TokenFunc: func(context.Context) (secret.Value, error) { return secret.Value{}, nil }},
		{Address: address, CAFile: a.file},
		{Address: address, CertFile: a.file},
		{Address: ""},
		{Address: "localhost"},
		{Address: ":443", TLS: true},
		{Address: "localhost:", TLS: true},
	} {
		_, err := rpc.Open(o)
		require.ErrorIsf(t, err, secret.ErrInvalid, "%+v", o)
		require.NotEmpty(t, secret.Hint(err))
	}
	require.Len(t, s.seen(), 3)
}

// Both sides are authenticated, or no request is sent; the error comes within seconds.
func TestTLS(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	cert, key := a.issue("task", time.Now().Add(time.Hour))
	both := a.write("both.pem", append(slices.Clone(cert), key...))
	certFile, keyFile := a.write("cert.pem", cert), a.write("key.pem", key)
	foreign := other.write("both.pem", slices.Concat(other.issue("task", time.Now().Add(time.Hour))))
	asking := a.server()
	asking.ClientAuth = tls.RequireAndVerifyClientCert
	old := a.server()
	old.MaxVersion = tls.VersionTLS12
	for name, test := range map[string]struct {
		config     *tls.Config
		o          rpc.Options
		want       error // nil for the variant that is accepted
		text, hint string
	}{
		"right": {a.server(), rpc.Options{CAFile: a.file}, nil, "", ""},
		"another authority": {
			a.server(), rpc.Options{CAFile: other.file}, secret.ErrUnavailable, "unknown authority", other.file,
		},
		"the system's": {a.server(), rpc.Options{}, secret.ErrUnavailable, "unknown authority", "--ca-file"},
		"expired": {
			a.tls("localhost", time.Now().Add(-time.Hour)),
			rpc.Options{CAFile: a.file},
			secret.ErrUnavailable, "expired", "renew",
		},
		"another name": {
			a.tls("elsewhere.example", time.Now().Add(time.Hour)),
			rpc.Options{CAFile: a.file},
			secret.ErrUnavailable, "elsewhere.example", "for the host in --store",
		},
		"without TLS": {
			nil,
			rpc.Options{CAFile: a.file},
			secret.ErrUnavailable,
			"does not look like a TLS handshake", "does not speak TLS",
		},
		"TLS 1.2":             {old, rpc.Options{CAFile: a.file}, secret.ErrUnavailable, "protocol version", "TLS 1.3"},
		"certificate and key": {asking, rpc.Options{CAFile: a.file, CertFile: certFile, KeyFile: keyFile}, nil, "", ""},
		"both in one file":    {asking, rpc.Options{CAFile: a.file, CertFile: both}, nil, "", ""},
		"no certificate": {
			asking, rpc.Options{CAFile: a.file}, secret.ErrDenied, "certificate required", "--cert-file",
		},
		"another's": {
			asking,
			rpc.Options{CAFile: a.file, CertFile: foreign},
			secret.ErrDenied,
			"does not accept the client certificate", "--cert-file",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each failing case waits for a restart
			s := memory()
			test.o.Address, test.o.TLS = s.start(t, "127.0.0.1:0", test.config), true
			start := time.Now()
			_, err := open(t, test.o).Climb(t.Context(), flyte, resolvertest.Declare("K"))
			if test.want == nil {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, test.want)
			require.ErrorContains(t, err, test.text)
			require.ErrorContains(t, err, test.o.Address)
			require.Contains(t, secret.Hint(err), test.hint)
			require.Less(t, time.Since(start), time.Minute)
			require.Empty(t, s.seen())
		})
	}
}

// Open reports files that are wrong.
func TestFiles(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.issue("task", time.Now().Add(time.Hour))
	_, otherKey := a.issue("task", time.Now().Add(time.Hour))
	certFile, keyFile, other := a.write("cert.pem", cert), a.write("key.pem", key), a.write("other.pem", otherKey)
	garbage := a.write("garbage", []byte("canary"))
	good := rpc.Options{Address: "localhost:1", TLS: true, CAFile: a.file, CertFile: certFile, KeyFile: keyFile}
	open(t, good)
	for _, change := range []func(*rpc.Options){
		func(o *rpc.Options) { o.CAFile = garbage },
		func(o *rpc.Options) { o.CAFile = keyFile },
		func(o *rpc.Options) { o.CAFile = a.Dir },
		func(o *rpc.Options) { o.CAFile = "/nowhere" },
		func(o *rpc.Options) { o.CertFile = garbage },
		func(o *rpc.Options) { o.CertFile = "" },
		func(o *rpc.Options) { o.KeyFile = "" },
		func(o *rpc.Options) { o.KeyFile = other },
		func(o *rpc.Options) { o.KeyFile = garbage },
		func(o *rpc.Options) { o.KeyFile = "/nowhere" },
		func(o *rpc.Options) { o.TokenFile = "/nowhere" },
		func(o *rpc.Options) { o.CAFile = "/dev/zero" },
	} {
		o := good
		change(&o)
		_, err := rpc.Open(o)
		require.ErrorIsf(t, err, secret.ErrInvalid, "%+v", o)
		require.NotContains(t, err.Error(), "canary")
	}
	o := good
	o.CAFile, o.KeyFile, o.TokenFile = garbage, other, "/nowhere"
	_, err := rpc.Open(o)
	for _, path := range []string{garbage, other, "/nowhere"} {
		require.ErrorContains(t, err, path, "the error names every bad file")
	}
}

// The next connection uses a renewed certificate.
func TestRenewal(t *testing.T) {
	s := memory()
	a, config := config(t)
	config.ClientAuth = tls.RequireAndVerifyClientCert
	renew := func(name string) string {
		return a.write("both.pem", slices.Concat(a.issue(name, time.Now().Add(time.Hour))))
	}
	address := s.start(t, "127.0.0.1:0", config)
	c := open(t, rpc.Options{Address: address, TLS: true, CAFile: a.file, CertFile: renew("first")})
	for _, name := range []string{"first", "second"} {
		renew(name)
		s.callers = nil
		_, err := c.Climb(t.Context(), flyte, resolvertest.Declare("K"))
		require.NoError(t, err)
		s.stop()
		require.Equal(t, []string{name}, s.callers)
		require.Equal(t, address, s.start(t, address, config))
	}
}

// A call that changes nothing waits for a server that restarts. A change is sent once.
func TestRestart(t *testing.T) {
	t.Parallel()
	s := memory()
	a, config := config(t)
	address := s.start(t, "127.0.0.1:0", config)
	c := open(t, rpc.Options{Address: address, TLS: true, CAFile: a.file})
	require.NoError(t, c.Create(t.Context(), refK, secret.NewValue([]byte("v")), store.Regular))
	s.stop()
	err := c.Create(t.Context(), refK, secret.NewValue([]byte("v")), store.Regular)
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.ErrorContains(t, err, address)
	require.Contains(t, secret.Hint(err), "injectd")
	back := make(chan struct{})
	time.AfterFunc(10*rpc.RetryAfter(), func() { s.start(t, address, config); close(back) })
	got, err := c.Resolve(t.Context(), flyte, resolvertest.Declare("K"))
	<-back
	require.NoError(t, err)
	require.Equal(t, "v", string(got[0].Value.Reveal()))

	var calls atomic.Int64
	s.before = func(proto.Message) (proto.Message, error) {
		if calls.Add(1) < 4 {
			return nil, status.Error(codes.Unavailable, "starting")
		}
		return nil, nil //nolint:nilnil // handled as usual
	}
	for name, call := range map[string]func() error{
		"resolve":  func() error { _, err := c.Resolve(t.Context(), flyte, resolvertest.Declare("K")); return err },
		"describe": func() error { _, err := c.Describe(t.Context(), refK); return err },
		"list":     func() error { _, _, err := c.List(t.Context(), store.Filter{}, 0, ""); return err },
	} {
		t.Run(name, func(t *testing.T) {
			calls.Store(0)
			require.NoErrorf(t, call(), name)
			require.EqualValues(t, 4, calls.Load())
		})
	}
	for name, call := range map[string]func() error{
		"create": func() error { return c.Create(t.Context(), refK, secret.Value{}, store.Regular) },
		"update": func() error { return c.Update(t.Context(), refK, secret.Value{}) },
		"delete": func() error { return c.Delete(t.Context(), refK) },
		"import": func() error { return c.Import(t.Context(), []store.New{{Ref: refK}}) },
	} {
		t.Run(name, func(t *testing.T) {
			calls.Store(0)
			require.ErrorIsf(t, call(), secret.ErrUnavailable, name)
			require.EqualValuesf(t, 1, calls.Load(), "%s may have been made", name)
		})
	}
	v, _, err := s.store.Get(t.Context(), refK)
	require.NoError(t, err)
	require.Equal(t, 1, v.Len())
}

// Without a server a call fails within seconds, and at its deadline if that is sooner.
func TestNobody(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	c := open(t, rpc.Options{Address: address})
	start := time.Now()
	_, err = c.Resolve(t.Context(), flyte, resolvertest.Declare("K"))
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.ErrorContains(t, err, address)
	require.ErrorContains(t, err, "connection refused")
	require.Less(t, time.Since(start), time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = c.Resolve(ctx, flyte, resolvertest.Declare("K"))
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	_, err = open(t, rpc.Options{Address: "nowhere.invalid:443", TLS: true}).Describe(ctx, refK)
	require.ErrorIs(t, err, secret.ErrUnavailable)
}

// A server that never answers is unavailable, even if the caller sets no deadline.
func TestTimeout(t *testing.T) {
	s := memory()
	stop := make(chan struct{})
	s.before = func(proto.Message) (proto.Message, error) {
		<-stop
		return nil, status.Error(codes.Unavailable, "too late")
	}
	address := s.start(t, "127.0.0.1:0", nil)
	t.Cleanup(func() { close(stop) }) // before the server is stopped
	c := open(t, rpc.Options{Address: address, Timeout: 50 * time.Millisecond})
	for _, call := range []func() error{
		func() error { return c.Delete(t.Context(), refK) },
		func() error { _, _, err := c.List(t.Context(), store.Filter{}, 0, ""); return err },
		func() error { _, err := c.Resolve(t.Context(), flyte, resolvertest.Declare("K")); return err },
	} {
		err := call()
		require.ErrorIs(t, err, secret.ErrUnavailable)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "no answer from "+address+" in time")
	}
}

// TLS through a proxy ends at the server, whose certificate is checked.
func TestProxy(t *testing.T) {
	s := memory()
	a := newAuthority(t)
	behindProxy <- s.start(t, "127.0.0.1:0", a.tls(proxied, time.Now().Add(time.Hour)))
	c := open(
		t,
		rpc.Options{Address: proxied + ":443", TLS: true, CAFile: a.file, TokenFile: a.write("token", []byte("t"))},
	)
	require.NoError(t, c.Create(t.Context(), refK, secret.NewValue([]byte("v")), store.Regular))
	require.Equal(t, []string{"Bearer t"}, s.tokens)
}

// Each code becomes an error of a kind, with the server's message if that says more and
// may be shown.
func TestErrors(t *testing.T) {
	s := memory()
	c := serve(t, s)
	value := storetest.Value(t, 40)
	for _, test := range []struct {
		code          codes.Code
		message, text string
		want          error
	}{
		{codes.NotFound, "secret K not found", "create K at org flyte: secret not found", secret.ErrNotFound},
		{
			codes.AlreadyExists, `secrets "x" already exists`, "create K at org flyte: secret already exists",
			secret.ErrExists,
		},
		{codes.PermissionDenied, "access denied", "create K at org flyte: access denied", secret.ErrDenied},
		{codes.PermissionDenied, "not you", "create K at org flyte: access denied: not you", secret.ErrDenied},
		{codes.PermissionDenied, "access denied: not you; hint: do\x1b[31m so", "create K at org flyte: access " +
			"denied: not you", secret.ErrDenied},
		{codes.Unauthenticated, "who?", "create K at org flyte: access denied: who?", secret.ErrDenied},
		{codes.InvalidArgument, "invalid: so\x1b[31m; \nand so", `create K at org flyte: invalid: so\x1b[31m; ` +
			`\nand so`, secret.ErrInvalid},
		{codes.Unavailable, "full", "full", secret.ErrUnavailable},
		{codes.DeadlineExceeded, "too late", "too late", secret.ErrUnavailable},
		{codes.Canceled, "stopping", "stopping", secret.ErrUnavailable},
		{codes.ResourceExhausted, "too many requests", "store unavailable: too many requests", secret.ErrUnavailable},
		{
			codes.ResourceExhausted, `quota exceeded: the quota "q" allows 1; hint: delete`,
			`create K at org flyte: quota exceeded: the quota "q" allows 1`, secret.ErrQuota,
		},
		{
			codes.DataLoss, "store damaged (request 1)", "create K at org flyte: store damaged (request 1)",
			secret.ErrCorrupt,
		},
		{codes.Internal, "request 1 failed", "the server failed with Internal: request 1 failed", nil},
		{codes.Unimplemented, "unknown service", "Unimplemented: unknown service", nil},
		{codes.Unknown, strings.Repeat("x", 100000), "…", nil},
		{codes.Internal, string(value), "create K at org flyte: the server failed with Internal", nil},
	} {
		t.Run(fmt.Sprintf("%v %.20q", test.code, test.message), func(t *testing.T) {
			s.before = func(proto.Message) (proto.Message, error) {
				return nil, status.Error(test.code, strings.ToValidUTF8(test.message, "?"))
			}
			err := c.Create(
				t.Context(), refK, secret.NewValue([]byte(strings.ToValidUTF8(string(value), "?"))), store.Regular,
			)
			require.ErrorContains(t, err, test.text)
			require.Less(t, len(err.Error()), 500)
			for _, kind := range secret.Kinds() {
				require.Equalf(
					t, errors.Is(kind.Err(), test.want), errors.Is(err, kind.Err()), "%v is %v", err, kind,
				)
			}
			if test.want == nil {
				require.Contains(t, secret.Hint(err), "an injectd of this version")
			}
			if test.code == codes.PermissionDenied {
				require.Contains(
					t, secret.Hint(err),
					map[bool]string{
						true: `do\x1b[31m so`, false: "ask its operator",
					}[strings.Contains(test.message, "hint")],
				)
			}
			require.NotContains(t, err.Error(), string(value[30:]))
			require.NotErrorIs(t, err, context.Canceled)
			require.NotErrorIs(t, err, context.DeadlineExceeded)
		})
	}
}

// Every kind of error arrives as the same kind, by its status and by its number.
func TestKinds(t *testing.T) {
	s := memory()
	c := serve(t, s)
	for _, kind := range secret.Kinds() {
		t.Run(kind.String(), func(t *testing.T) {
			s.before = func(m proto.Message) (proto.Message, error) {
				if _, ok := m.(*injectv1.ResolveRequest); ok {
					failed := &injectv1.Failure{Code: injectv1.Failure_Code(kind)}
					return &injectv1.ResolveResponse{
						Climbs: []*injectv1.Climb{{Outcome: &injectv1.Climb_Failure{Failure: failed}}},
					}, nil
				}
				return nil, status.Error(codes.Code(kind.Status()), kind.Err().Error()+" (so it is said)")
			}
			err := c.Create(t.Context(), refK, secret.NewValue([]byte("v")), store.Regular)
			require.Equal(t, kind, secret.KindOf(err), "%v", err)
			climbs, err := c.Climb(t.Context(), resolvertest.Task, resolvertest.Declare("K"))
			require.NoError(t, err)
			require.Equal(t, kind, secret.KindOf(climbs[0].Err), "%v", climbs[0].Err)
		})
	}
}

// An answer that no injectd gives is an error.
func TestNonsense(t *testing.T) {
	s := memory()
	c := serve(t, s)
	at := func(domain string) *injectv1.Scope { return &injectv1.Scope{Domain: domain} }
	found := func(scope *injectv1.Scope) *injectv1.Climb {
		return &injectv1.Climb{
			Outcome: &injectv1.Climb_Found{Found: &injectv1.Found{Scope: scope, Value: []byte("canary")}},
		}
	}
	answer := func(climbs ...*injectv1.Climb) proto.Message { return &injectv1.ResolveResponse{Climbs: climbs} }
	absent := &injectv1.Climb_Failure{Failure: &injectv1.Failure{Code: injectv1.Failure_CODE_NOT_FOUND}}
	task := secret.Scope{Org: "flyte", Project: "p"}
	resolve := func() error { _, err := c.Resolve(t.Context(), task, resolvertest.Declare("K")); return err }
	unsaid := func() error { _, err := c.Resolve(t.Context(), flyte, resolvertest.Declare("K", "L")); return err }
	tried := func(at ...*injectv1.Scope) *injectv1.Climb {
		climb := found(at[len(at)-1])
		for _, scope := range at {
			climb.Tried = append(climb.Tried, &injectv1.Rung{Scope: scope})
		}
		return climb
	}
	s.before = func(proto.Message) (proto.Message, error) { return answer(found(nil)), nil }
	require.NoError(t, resolve(), "the default org may be left out")
	s.before = func(proto.Message) (proto.Message, error) { return answer(tried(at("d"), nil), tried(at("d"))), nil }
	require.NoError(t, unsaid())
	describe := func() error { _, err := c.Describe(t.Context(), refK); return err }
	list := func() error { _, _, err := c.List(t.Context(), store.Filter{}, 0, "t"); return err }
	for i, test := range []struct {
		answer proto.Message
		call   func() error
	}{
		{answer(), resolve},
		{answer(found(nil), found(nil)), resolve},
		{answer(found(at("development"))), resolve},
		{answer(found(&injectv1.Scope{Organization: "other"})), resolve},
		{answer(&injectv1.Climb{}), resolve},
		{answer(&injectv1.Climb{Outcome: absent, Tried: []*injectv1.Rung{{Scope: at("d")}}}), resolve},
		{answer(tried(at("d"), nil), tried(at("e"))), unsaid},
		{answer(tried(at("d"), at("e")), tried(at("d"))), unsaid},
		{answer(tried(at("\x1b[31m")), tried(at("\x1b[31m"))), unsaid},
		{answer(found(at("d")), found(at("d"))), unsaid},
		{answer(&injectv1.Climb{Outcome: absent, Elsewhere: []*injectv1.Scope{at("\x1b[31m")}}), resolve},
		{&secretpb.GetSecretResponse{}, describe},
		{&secretpb.GetSecretResponse{Secret: described(store.Info{Ref: secret.Ref{Scope: flyte, Key: "L"}})}, describe},
		{&secretpb.ListSecretsResponse{Secrets: []*secretpb.Secret{{}}}, list},
		{&secretpb.ListSecretsResponse{Token: "t"}, list},
		{
			&injectv1.ImportResponse{Failures: []*injectv1.ImportFailure{{Name: "L"}}},
			func() error { return c.Import(t.Context(), []store.New{{Ref: refK}}) },
		},
	} {
		s.before = func(proto.Message) (proto.Message, error) { return test.answer, nil }
		err := test.call()
		require.ErrorContainsf(t, err, "cannot be used", "%d", i)
		require.Contains(t, secret.Hint(err), "an injectd of this version")
		require.NotContains(t, err.Error(), "canary")
		require.NotContains(t, err.Error(), "\x1b")
	}
	s.before = func(proto.Message) (proto.Message, error) {
		big := found(nil)
		big.GetFound().Value = make([]byte, 65<<20)
		return answer(big), nil
	}
	require.ErrorIs(t, resolve(), secret.ErrInvalid)
}
