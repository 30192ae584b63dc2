package sealed_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
	"filippo.io/age/plugin"
	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed"
)

var keyRef = secret.Ref{Scope: secret.Scope{Org: "flyte"}, Key: "K"}

// roundTrip makes a store with key and reads it with again.
func roundTrip(t *testing.T, dir string, key, again sealed.Key) error {
	t.Helper()
	o := options(dir)
	o.Key = key
	s := open(t, o)
	if err := s.Create(t.Context(), keyRef, secret.NewValue([]byte("v")), store.Regular); err != nil {
		return err
	}
	require.NoError(t, s.Close())
	o.Key, o.Write = again, false
	s, err := sealed.Open(t.Context(), o)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // asserted elsewhere
	v, _, err := s.Get(t.Context(), keyRef)
	require.True(t, err != nil || v.Equal(secret.NewValue([]byte("v"))))
	return err
}

func textKey(text string) sealed.Key {
	return sealed.Key{Text: secret.NewValue([]byte(text)), Variable: "INJECT_KEY"}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	x, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	pq, err := age.GenerateHybridIdentity()
	require.NoError(t, err)
	other, err := age.GenerateX25519Identity()
	require.NoError(t, err)

	for name, id := range map[string]string{
		"X25519": x.String(),
		"hybrid": pq.String(),
		"two":    other.String() + "\n# c\n\n" + x.String(),
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, roundTrip(t, t.TempDir(), textKey(id), textKey(id)))
			file := filepath.Join(t.TempDir(), "id")
			require.NoError(t, os.WriteFile(file, []byte(id+"\n"), 0o600))
			require.NoError(t, roundTrip(t, t.TempDir(), sealed.Key{File: file}, sealed.Key{File: file}))
		})
	}

	err = roundTrip(t, t.TempDir(), textKey(x.String()), textKey(other.String()))
	require.ErrorIs(t, err, secret.ErrDenied)
	require.ErrorContains(t, err, "INJECT_KEY does not open this store")

	dir := t.TempDir()
	file := filepath.Join(dir, "k")
	err = roundTrip(t, dir, sealed.Key{File: file}, sealed.Key{File: file + "2"})
	require.ErrorIs(t, err, secret.ErrDenied)
	require.ErrorContains(t, err, "does not exist")
	require.NoFileExists(t, file+"2", "no key is made for a store that exists")

	for _, bad := range []string{"AGE-SECRET-KEY-1BROKENCANARY", "# nothing\n", "AGE-PLUGIN-BROKENCANARY"} {
		require.NoError(t, os.WriteFile(file, []byte(bad), 0o600))
		err = roundTrip(t, t.TempDir(), sealed.Key{File: file}, sealed.Key{})
		require.ErrorIs(t, err, secret.ErrInvalid, bad)
		require.NotContains(t, err.Error(), "CANARY", "no key in an error")
	}
}

func TestPassphrase(t *testing.T) {
	t.Parallel()
	asked := 0
	ask := func(want string, confirms bool) sealed.Key {
		return sealed.Key{Passphrase: true, Ask: func(_ string, confirm bool) (secret.Value, error) {
			asked++
			require.Equal(t, confirms, confirm)
			return secret.NewValue([]byte(want)), nil
		}}
	}
	require.NoError(t, roundTrip(t, t.TempDir(), ask("correct horse", true), ask("correct horse", false)))
	require.Equal(t, 2, asked)
	require.NoError(t, roundTrip(t, t.TempDir(), textKey("correct horse"), ask("correct horse", false)))
	dir := t.TempDir()
	require.NoError(t, roundTrip(t, dir, ask("correct horse", true), textKey("correct horse")))

	o := options(dir)
	for name, c := range map[string]struct {
		key  sealed.Key
		text string
	}{
		"another text":       {textKey("battery staple"), "INJECT_KEY does not open"},
		"another passphrase": {ask("battery staple", false), "the passphrase does not open"},
		"no terminal":        {sealed.Key{}, "no terminal"},
	} {
		t.Run(name, func(t *testing.T) {
			o := o
			o.Key = c.key
			_, err := sealed.Open(t.Context(), o)
			require.ErrorIs(t, err, secret.ErrDenied)
			require.ErrorContains(t, err, c.text)
		})
	}
	o.Key = sealed.Key{Ask: func(string, bool) (secret.Value, error) {
		return secret.Value{}, errors.New("interrupted")
	}}
	_, err := sealed.Open(t.Context(), o)
	require.ErrorContains(t, err, "interrupted")
	require.ErrorIs(t, roundTrip(t, t.TempDir(), ask("", true), sealed.Key{}), secret.ErrInvalid)
}

// A key file may itself be encrypted with a passphrase, as age does it.
func TestEncryptedKeyFile(t *testing.T) {
	t.Parallel()
	x, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	r, err := age.NewScryptRecipient("pass")
	require.NoError(t, err)
	r.SetWorkFactor(10)
	encrypt := func(dst io.Writer) {
		w, err := age.Encrypt(dst, r)
		require.NoError(t, err)
		_, err = w.Write([]byte(x.String() + "\n"))
		require.NoError(t, err)
		require.NoError(t, w.Close())
	}
	var binary, armored bytes.Buffer
	encrypt(&binary)
	a := armor.NewWriter(&armored)
	encrypt(a)
	require.NoError(t, a.Close())
	asked := func(answer string) func(string, bool) (secret.Value, error) {
		return func(string, bool) (secret.Value, error) { return secret.NewValue([]byte(answer)), nil }
	}
	for name, content := range map[string][]byte{"binary": binary.Bytes(), "armored": armored.Bytes()} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "id.age")
			require.NoError(t, os.WriteFile(file, content, 0o600))
			key := sealed.Key{File: file, Ask: asked("pass")}
			require.NoError(t, roundTrip(t, t.TempDir(), key, key))
			require.NoError(t, roundTrip(t, t.TempDir(), textKey(x.String()), key), "the same identity")
			key.Ask = asked("wrong")
			require.ErrorIs(t, roundTrip(t, t.TempDir(), key, key), secret.ErrDenied)
		})
	}
}

// runPlugin makes this test binary an age plugin if it was started under the name of one,
// age-plugin-injecttest. The plugin keeps an X25519 key outside of our process.
func runPlugin() {
	if filepath.Base(os.Args[0]) != "age-plugin-injecttest" {
		return
	}
	p, err := plugin.New("injecttest")
	if err != nil {
		panic(err)
	}
	p.HandleIdentity(func(data []byte) (age.Identity, error) { return age.ParseX25519Identity(string(data)) })
	p.HandleIdentityAsRecipient(func(data []byte) (age.Recipient, error) {
		id, err := age.ParseX25519Identity(string(data))
		if err != nil {
			return nil, err
		}
		return id.Recipient(), nil
	})
	p.RegisterFlags(nil)
	for _, arg := range os.Args[1:] {
		if machine, ok := strings.CutPrefix(arg, "--age-plugin="); ok {
			switch machine {
			case "recipient-v1":
				os.Exit(p.RecipientV1())
			case "identity-v1":
				os.Exit(p.IdentityV1())
			}
		}
	}
	os.Exit(2)
}

func TestPlugin(t *testing.T) {
	x, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	bin := t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(self, filepath.Join(bin, "age-plugin-injecttest")))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	key := textKey(plugin.EncodeIdentity("injecttest", []byte(x.String())))
	require.NoError(t, roundTrip(t, t.TempDir(), key, key))
	bad := textKey(plugin.EncodeIdentity("absent", nil))
	require.ErrorContains(t, roundTrip(t, t.TempDir(), bad, bad), "age-plugin-absent")
}
