package sealed

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"filippo.io/age/plugin"

	"inject/internal/durable"
	"inject/internal/keyfile"
	"inject/resolver/secret"
)

const dataKeySize = 32

// A Key says what protects the data key of a store. Text is used if it is not empty; otherwise a
// passphrase, if the store has one or a new one shall have one; otherwise File.
type Key struct {
	// Text is age identities, one a line, or a passphrase. It is for machines that have neither a
	// key file nor a person to ask.
	Text secret.Value
	// Variable is the variable that Text is from, or could be from, for messages, and Flag the flag
	// that gives File, if that is not --key-file.
	Variable string
	Flag     string
	// File is the path of a file of age identities, native ones or of plugins, one a line. The
	// file may be encrypted with a passphrase. If it does not exist when a store is made, it is
	// made with a new X25519 identity.
	File string
	// Passphrase makes a new store be protected by a passphrase instead of File.
	Passphrase bool
	// Ask asks a person for a passphrase. It is nil if there is no terminal. confirm is set if the
	// person chooses a new passphrase.
	Ask func(prompt string, confirm bool) (secret.Value, error)
	// Notice tells a person that File or the store was made, and passes on messages of age plugins.
	// If it is nil they are dropped.
	Notice func(text string)

	file []byte // the content of File, which is read once because it may be a pipe
}

// readFile returns the content of File.
func (k *Key) readFile() ([]byte, error) {
	if k.file != nil {
		return k.file, nil
	}
	if err := k.checkFile(); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(k.File)
	if err != nil {
		return nil, k.fileError(err)
	}
	k.file = b
	return b, nil
}

// checkFile refuses a File that others could read.
func (k *Key) checkFile() error {
	if err := keyfile.Check(k.File); err != nil {
		return fmt.Errorf("%w: key file %s: %w", secret.ErrInvalid, k.File, err)
	}
	return nil
}

// newDataKey makes a data key and wraps it.
func (k *Key) newDataKey() (madeKey, error) {
	key := make([]byte, dataKeySize)
	_, _ = rand.Read(key) // never fails (Go 1.24)
	return k.wrap(key, "the new store")
}

// wrap wraps the data key. When it returns, the key file that opens it again is durable. what names
// the store when a person is asked for a passphrase.
func (k *Key) wrap(key []byte, what string) (madeKey, error) {
	recipients, err := k.recipients(what)
	if err != nil {
		return madeKey{}, err
	}
	var b bytes.Buffer
	w, err := age.Encrypt(&b, recipients...)
	if err == nil {
		_, err = w.Write(key)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return madeKey{}, fmt.Errorf("wrap the data key: %w", err)
	}
	return madeKey{key, b.Bytes()}, nil
}

// open returns the data key in wrapped.
func (k *Key) open(wrapped []byte) ([]byte, error) {
	if _, err := age.ExtractHeader(bytes.NewReader(wrapped)); err != nil {
		return nil, damaged("the wrapped data key: %v", err)
	}

	identities, err := k.identities(wrapped)
	if err != nil {
		return nil, err
	}

	r, err := age.Decrypt(bytes.NewReader(wrapped), identities...)
	if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		return nil, secret.WithHint(fmt.Errorf("%w: %s does not open this store", secret.ErrDenied, k.source(wrapped)),
			"the store was made with another key: give that one with %s or %s", k.flag(), k.Variable)
	}
	if err != nil {
		return nil, secret.WithHint(
			fmt.Errorf("%w: %s could not be used: %w", secret.ErrDenied, k.source(wrapped), err),
			"an age plugin must be in PATH, and its device must be connected")
	}

	key, err := io.ReadAll(io.LimitReader(r, dataKeySize+1))
	if err != nil || len(key) != dataKeySize {
		return nil, damaged("the wrapped data key is incomplete")
	}
	return key, nil
}

// load reads the key file if it is needed to open wrapped. An error is ignored, because opening
// will meet it again.
func (k *Key) load(wrapped []byte) {
	if k.Text.Len() == 0 && !byPassphrase(wrapped) {
		_, _ = k.readFile()
	}
}

// asks reports whether opening wrapped may ask a person for a passphrase, or through a plugin for
// anything else.
func (k *Key) asks(wrapped []byte) bool {
	if text := k.Text.Reveal(); text != nil {
		return bytes.Contains(text, []byte("AGE-PLUGIN-")) || isEncrypted(text)
	}
	if byPassphrase(wrapped) {
		return true
	}
	b, err := k.readFile()
	return err == nil && (bytes.Contains(b, []byte("AGE-PLUGIN-")) || isEncrypted(b))
}

// byPassphrase reports whether wrapped is protected by a passphrase.
func byPassphrase(wrapped []byte) bool { return bytes.Contains(wrapped, []byte("\n-> scrypt ")) }

func (k *Key) flag() string { return cmp.Or(k.Flag, "--key-file") }

// source names, for errors, where the identities that open wrapped come from.
func (k *Key) source(wrapped []byte) string {
	switch {
	case k.Text.Len() > 0:
		return "the key in " + k.Variable
	case byPassphrase(wrapped):
		return "the passphrase"
	}
	return "key file " + k.File
}

func (k *Key) identities(wrapped []byte) ([]age.Identity, error) {
	if text := k.Text.Reveal(); text != nil {
		if !isIdentity(text) {
			return scrypt(age.NewScryptIdentity(string(text)))
		}
		return k.parse(text)
	}
	if byPassphrase(wrapped) {
		return k.askIdentity("the store", false)
	}
	b, err := k.readFile()
	if err != nil {
		return nil, err
	}
	return k.parse(b)
}

func (k *Key) fileError(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return secret.WithHint(fmt.Errorf("%w: key file %s does not exist", secret.ErrDenied, k.File),
			"the store can only be opened with the key that it was made with: %s, or %s", k.flag(), k.Variable)
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: key file: %w", secret.ErrDenied, err)
	}
	return fmt.Errorf("%w: key file: %w", secret.ErrUnavailable, err)
}

// scrypt converts the results of age's constructor of a passphrase identity.
func scrypt(id *age.ScryptIdentity, err error) ([]age.Identity, error) {
	if err != nil {
		return nil, fmt.Errorf("%w: passphrase: %w", secret.ErrInvalid, err)
	}
	return []age.Identity{id}, nil
}

func (k *Key) askIdentity(what string, confirm bool) ([]age.Identity, error) {
	phrase, err := k.ask(what, confirm)
	if err != nil {
		return nil, err
	}
	return scrypt(age.NewScryptIdentity(string(phrase.Reveal())))
}

func (k *Key) ask(what string, confirm bool) (secret.Value, error) {
	if k.Ask == nil {
		return secret.Value{}, secret.WithHint(
			fmt.Errorf("%w: %s needs a passphrase, and there is no terminal to ask on", secret.ErrDenied, what),
			"set %s to it", k.Variable)
	}
	phrase, err := k.Ask("passphrase of "+what, confirm)
	if err == nil && phrase.Len() == 0 {
		err = fmt.Errorf("%w: the passphrase is empty", secret.ErrInvalid)
	}
	return phrase, err
}

func (k *Key) recipients(what string) ([]age.Recipient, error) {
	var ids []age.Identity
	var err error
	text := k.Text.Reveal()
	switch {
	case text != nil && !isIdentity(text):
		return scryptRecipient(string(text))
	case text != nil:
		ids, err = k.parse(text)
	case k.Passphrase:
		phrase, err := k.ask(what, true)
		if err != nil {
			return nil, err
		}
		return scryptRecipient(string(phrase.Reveal()))
	default:
		ids, err = k.readOrMakeFile()
	}
	if err != nil {
		return nil, err
	}

	recipients := make([]age.Recipient, len(ids))
	for i, id := range ids {
		switch id := id.(type) {
		case *age.X25519Identity:
			recipients[i] = id.Recipient()
		case *age.HybridIdentity:
			recipients[i] = id.Recipient()
		case *plugin.Identity:
			recipients[i] = id.Recipient()
		default:
			return nil, fmt.Errorf("%w: a store cannot be made for an identity of type %T", secret.ErrInvalid, id)
		}
	}
	return recipients, nil
}

func scryptRecipient(phrase string) ([]age.Recipient, error) {
	r, err := age.NewScryptRecipient(phrase)
	if err != nil {
		return nil, fmt.Errorf("%w: passphrase: %w", secret.ErrInvalid, err)
	}
	return []age.Recipient{r}, nil
}

// readOrMakeFile returns the identities in k.File, which it makes if it does not exist. When it
// returns, the file is durable: if a power cut took the key away, the store made with it would be
// lost.
func (k *Key) readOrMakeFile() ([]age.Identity, error) {
	for {
		if err := k.checkFile(); err != nil {
			return nil, err
		}
		b, err := os.ReadFile(k.File)
		if err == nil {
			// Another process may have just made the file and not synced it yet.
			if err := errors.Join(durable.Sync(k.File), durable.Sync(filepath.Dir(k.File))); err != nil {
				return nil, k.fileError(err)
			}
			return k.parse(b)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, k.fileError(err)
		}
		if _, err := os.Lstat(k.File); err == nil {
			return nil, fmt.Errorf("%w: key file %s is a link to nothing", secret.ErrInvalid, k.File)
		}

		id, err := age.GenerateX25519Identity()
		if err != nil {
			return nil, fmt.Errorf("make a key: %w", err)
		}
		err = durable.Create(k.File, func(temp string) error {
			text := fmt.Sprintf("# made by inject: opens the store of secrets; keep a copy\n"+
				"# created: %s\n# public key: %s\n%s\n",
				time.Now().UTC().Format(time.RFC3339), id.Recipient(), id)
			return durable.WriteNew(temp, func(f *os.File) error { _, err := f.WriteString(text); return err })
		})

		switch {
		case err == nil:
			k.notice("made the key " + k.File + ": without it the store cannot be read, so keep a copy of it")
			return []age.Identity{id}, nil
		case !errors.Is(err, fs.ErrExist):
			return nil, secret.WithHint(fmt.Errorf("%w: make key file %s: %w", secret.ErrUnavailable, k.File, err),
				"a new key is made in that folder, so it must be writable")
		}
	}
}

func (k *Key) notice(text string) {
	if k.Notice != nil {
		k.Notice(text)
	}
}

// isIdentity reports whether text is age identities; otherwise it is a passphrase.
func isIdentity(text []byte) bool {
	return bytes.Contains(text, []byte("AGE-SECRET-KEY-")) || bytes.Contains(text, []byte("AGE-PLUGIN-")) ||
		isEncrypted(text)
}

func isEncrypted(text []byte) bool {
	return bytes.HasPrefix(text, []byte("age-encryption.org/")) || bytes.HasPrefix(text, []byte(armor.Header))
}

// parse returns the age identities in text, one a line. # begins a comment. Errors name the number
// of a line, never its text, which is a key.
func (k *Key) parse(text []byte) ([]age.Identity, error) {
	if isEncrypted(text) {
		var r io.Reader = bytes.NewReader(text)
		if bytes.HasPrefix(text, []byte(armor.Header)) {
			r = armor.NewReader(r)
		}
		ids, err := k.askIdentity(k.source(nil), false)
		if err != nil {
			return nil, err
		}
		if r, err = age.Decrypt(r, ids...); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", secret.ErrDenied, k.source(nil), err)
		}
		if text, err = io.ReadAll(io.LimitReader(r, 1<<20)); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", secret.ErrDenied, k.source(nil), err)
		}
	}

	var ids []age.Identity
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		id, err := k.parseIdentity(line)
		if err != nil {
			return nil, secret.WithHint(
				fmt.Errorf("%w: %s, line %d is not an age identity", secret.ErrInvalid, k.source(nil), n),
				"expected lines that begin with AGE-SECRET-KEY- or AGE-PLUGIN-, as age-keygen writes them")
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("%w: %s holds no age identity", secret.ErrInvalid, k.source(nil))
	}
	return ids, nil
}

func (k *Key) parseIdentity(line string) (age.Identity, error) {
	if strings.HasPrefix(line, "AGE-PLUGIN-") {
		say := func(format string, args ...any) { k.notice(strings.TrimSpace(fmt.Sprintf(format, args...))) }
		return plugin.NewIdentity(line, plugin.NewTerminalUI(say, say))
	}
	ids, err := age.ParseIdentities(strings.NewReader(line))
	if err != nil {
		return nil, err
	}
	return ids[0], nil
}
