package main_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A profile names a store and the identity for it. The identity goes to that store and to no other,
// and no variable of a store goes to it.
func TestProfile(t *testing.T) {
	t.Parallel()
	s, other := startServer(t, true), startServer(t, true)
	require.NoError(t, os.MkdirAll(s.path(".config/inject"), 0o700))
	config := func(text string) {
		require.NoError(t, os.WriteFile(s.path(".config/inject/config.yaml"), []byte(text), 0o600))
	}
	relative, err := filepath.Rel(s.path(".config/inject"), s.path("platform.token"))
	require.NoError(t, err)
	config("profiles:\n" +
		"  work: {store: \"" + s.store + "\", ca-file: " + s.path("ca.pem") + ", token-file: " + relative + "}\n" +
		"  anonymous: {store: \"" + s.store + "\", ca-file: " + s.path("ca.pem") + "}\n" +
		"  file: {store: \"file://" + s.path("x.db") + "\", key-file: x.key}\n")

	variable := []string{"INJECT_PROFILE=work"}
	s.inject("", variable, "create", "secret", "K", "value-of-k", "-p", "p", "-d", "d").ok()
	require.Equal(t, "K -p p -d d\n", s.inject("", nil, "get", "secret", "-o", "name", "--profile", "work").ok().stdout)
	require.Contains(t, s.inject("", variable, "whoami").ok().stdout, "of the profile work\nas     token platform\n")
	require.Contains(t, s.inject("", variable, "__complete", "get", "secret", "").ok().stdout, "K\n")
	s.inject("", nil, "create", "secret", "LOCAL", "value", "--profile", "file").ok()
	require.FileExists(t, s.path("x.db"))
	require.FileExists(t, s.path(".config/inject/x.key"))

	// With --store the profile of the variable is not used: the other server sees no token of it.
	ca := []string{"--store", other.store, "--ca-file", other.path("ca.pem")}
	s.inject("", variable, append([]string{"get", "secret"}, ca...)...).failed("credentials")
	s.inject("", []string{"INJECT_PROFILE=no-such"}, append([]string{"get", "secret"}, ca...)...).failed("credentials")
	twin := append([]string{"get", "secret", "--token-file", other.path("platform.token")}, ca...)
	s.inject("", variable, twin...).ok()

	// A profile without an identity has none, whatever the variables of another store hold.
	env := []string{
		"INJECT_STORE=" + s.store, "INJECT_CA_FILE=" + s.path("ca.pem"), "INJECT_TOKEN=" + s.tokens["platform"],
	}
	s.inject("", env, "get", "secret").ok()
	s.inject("", env, "get", "secret", "--profile", "anonymous").failed("credentials")
	env[2] = "INJECT_TOKEN_FILE=" + s.path("platform.token")
	s.inject("", env, "get", "secret").ok()
	s.inject("", env, "get", "secret", "--profile", "anonymous").failed("credentials")
	s.inject("", env, "get", "secret", "--profile", "work").ok()

	s.inject("", append(env, "INJECT_PROFILE=work"), "get", "secret").failed(
		"INJECT_PROFILE and INJECT_STORE both name a store", "hint: unset one of them")
	s.inject("", nil, append([]string{"get", "secret", "--profile", "work"}, ca...)...).failed(
		"--profile and --store both name a store")
	s.inject("", nil, "get", "secret", "--profile", "wok").failed("has no such profile", "hint: did you mean work?")
	s.inject("", nil, "run", "--profile", "other", "--", "true").failed("hint: it has work, anonymous, file")
	for text, want := range map[string]string{
		"profiles: [a]\n":                               "config.yaml:1: profiles: ",
		"profiles:\n  work: {stoer: hunter2}\n":         "config.yaml:2: profiles.work.stoer",
		"profiles:\n  work: {token-file: a}\n":          "config.yaml:2: profiles.work: the store is missing",
		"profiles:\n  work: {store: [hunter2]}\n":       "config.yaml:2: profiles.work.store: ",
		"profile:\n  work: {store: dir:///hunter2}\n":   "config.yaml:1: profile",
		"profiles: {\n":                                 "is not YAML",
		"":                                              "is not YAML, or has no profiles",
		"profiles:\n  work: {store: dir:///absent/x}\n": "/absent/x",
	} {
		config(text)
		s.inject("", nil, "get", "secret", "--profile", "work").failed(want)
	}
	require.NoError(t, os.Remove(s.path(".config/inject/config.yaml")))
	s.inject("", nil, "get", "secret", "--profile", "work").failed("config.yaml: no such file", "has the profiles")
}
