package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/exec/redact"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed"
)

// tell returns the messages and hints of err, as users see them.
func tell(err error) string {
	var b strings.Builder
	for _, f := range failures(err) {
		fmt.Fprintf(&b, "%s\n%s\n", f.text, f.hint)
	}
	return b.String()
}

// A store that cannot import gets an error of its own, and nothing is stored.
func TestImportNeedsAnImporter(t *testing.T) {
	dir := t.TempDir()
	s, err := sealed.Open(
		t.Context(),
		sealed.Options{Path: dir + "/secrets.db", Write: true, Key: sealed.Key{File: dir + "/key.txt"}},
	)
	require.NoError(t, err)
	defer s.Close() //nolint:errcheck // nothing is in it
	stdout, err := os.Create(dir + "/stdout")
	require.NoError(t, err)
	defer stdout.Close() //nolint:errcheck // it is read by its name
	a := &secretsVerb{app: &app{stdout: stdout, stderr: stdout, redactor: redact.New(1), key: redact.New(1)}}
	scope := secret.Scope{Org: secret.DefaultOrg, Project: "p"}
	secrets := []store.New{{Ref: secret.Ref{Scope: scope, Key: "K"}, Value: secret.NewValue([]byte("v"))}}

	err = a.importAll(t.Context(), struct{ store.Manager }{s}, secrets, nil)
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.Equal(t,
		"invalid: this store creates one secret at a time\ninject create secret NAME -p p\nnothing was stored\n\n",
		tell(err))
	require.NoFileExists(t, dir+"/secrets.db")

	require.NoError(t, a.importAll(t.Context(), s, secrets, nil))
	told, err := os.ReadFile(dir + "/stdout")
	require.NoError(t, err)
	require.Equal(t, "K created\n", string(told))
}

// The error says that nothing was stored only if that is certain.
func TestNotStored(t *testing.T) {
	scope := secret.Scope{Org: secret.DefaultOrg, Domain: "d"}
	for _, c := range []struct {
		err  error
		told string
	}{
		{secret.ErrInvalid, "nothing was stored\n\n"},
		{secret.ErrDenied, "nothing was stored\n\n"},
		{
			errors.Join(secret.ErrInvalid, secret.ErrExists),
			"nothing was stored\n--upsert replaces the values of those that exist\n",
		},
		{secret.ErrUnavailable, "either all of the secrets were stored or none\ninject get secret -d d lists what " +
			"is there\n"},
		{
			errors.Join(secret.ErrInvalid, secret.ErrUnavailable),
			"either all of the secrets were stored or none\ninject get secret -d d lists what is there\n",
		},
		{
			context.Canceled,
			"either all of the secrets were stored or none\ninject get secret -d d lists what is there\n",
		},
	} {
		require.Equal(t, c.told, tell(notStored(c.err, scope)), c.err)
	}
}
