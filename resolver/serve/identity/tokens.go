package identity

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"inject/resolver/secret"
	"inject/resolver/serve/watch"
)

// tokenPrefix begins every token, so that secret scanners can recognise a leaked one.
const tokenPrefix = "inj_"

// Tokens authenticates tokens whose hashes are in a file. The file has a line for each:
//
//	NAME sha256:HEX [expires=RFC3339]
//
// NAME is for the policy and the audit log: up to 128 letters, digits and ._@:/- ; the first
// is a letter or a digit. HEX is the SHA-256 of the token. A # at the beginning of a line or
// after white space begins a comment. The identity's Method is token; its Name and its
// attribute token are NAME. [NewToken] makes a token and its line.
type Tokens struct {
	file *watch.Watched[map[[sha256.Size]byte]token]
}

type token struct {
	name    string
	expires time.Time // zero: never
}

// NewTokens reads the file at path and follows its changes until ctx ends. It returns an
// error that wraps [secret.ErrInvalid] if the file cannot be read, has another form, or is
// writable by its group or others. After that, such a file is logged and the previous tokens
// stay in use. The file may be readable by others: a token has 256 random bits, so it cannot
// be guessed from its hash.
func NewTokens(ctx context.Context, path string, log hclog.Logger) (*Tokens, error) {
	file, err := watch.Load(ctx, path, func(b []byte) (map[[sha256.Size]byte]token, error) {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if mode := info.Mode().Perm(); mode&0o022 != 0 {
			return nil, fmt.Errorf("its group or others may write to it (mode %04o): run chmod go-w", mode)
		}
		return parseTokens(b)
	}, log)
	if err != nil {
		return nil, fmt.Errorf("%w: tokens file: %w", secret.ErrInvalid, err)
	}
	return &Tokens{file}, nil
}

// Err returns why the current contents of the file are not in use, or nil if they are.
func (t *Tokens) Err() error { return t.file.Err() }

// Authenticate implements [Authenticator]. For a bearer token without our prefix it returns
// ErrNone.
func (t *Tokens) Authenticate(_ context.Context, c Credentials) (Identity, error) {
	bearer := c.Bearer.Reveal()
	if !bytes.HasPrefix(bearer, []byte(tokenPrefix)) {
		return Identity{}, fmt.Errorf("%w: not one of our tokens", ErrNone)
	}
	// The time of the lookup depends on the hash of the token. An attacker cannot choose a
	// token by its hash, so the time reveals nothing about valid tokens, and a comparison in
	// constant time is not needed.
	found, ok := t.file.Current()[sha256.Sum256(bearer)]
	if !ok {
		return Identity{}, refuse("token", ReasonUnknown, "it is not in the tokens file")
	}
	if !found.expires.IsZero() && !time.Now().Before(found.expires) {
		return Identity{}, refuse(
			"token", ReasonExpired, "%s has expired (%s)", found.name, found.expires.UTC().Format(time.RFC3339),
		)
	}
	return New("token", found.name, map[string][]string{"token": {found.name}}), nil
}

// NewToken returns a new token and its line for the tokens file. The line has no line end and
// no expiry; " expires=RFC3339" may be appended. The error wraps [secret.ErrInvalid] and does
// not quote name.
func NewToken(name string) (value secret.Value, line string, err error) {
	if err := validTokenName(name); err != nil {
		return secret.Value{}, "", fmt.Errorf("%w: %w", secret.ErrInvalid, err)
	}
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails (Go 1.24)
	text := base64.RawURLEncoding.AppendEncode([]byte(tokenPrefix), random[:])
	sum := sha256.Sum256(text)
	return secret.NewValue(text), name + " sha256:" + hex.EncodeToString(sum[:]), nil
}

var tokenName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._@:/-]{0,127}$`)

func validTokenName(name string) error {
	switch {
	case strings.HasPrefix(name, tokenPrefix):
		return errors.New(
			"there is a token in place of its name (not shown): everyone who can read the file has it, so make " +
				"a new token",
		)
	case !tokenName.MatchString(name):
		return errors.New(
			"the name of a token has up to 128 letters, digits and ._@:/- , and begins with a letter or a digit",
		)
	}
	return nil
}

// CheckTokens returns an error if file is not a valid tokens file. It names lines and quotes
// none of them.
func CheckTokens(file []byte) error {
	if _, err := parseTokens(file); err != nil {
		return fmt.Errorf("%w: %w", secret.ErrInvalid, err)
	}
	return nil
}

// maxTokenErrors is how many wrong lines one error names.
const maxTokenErrors = 20

// parseTokens reads a tokens file. Its error names the lines that are wrong and quotes none of
// them, because one may hold a token by mistake.
func parseTokens(b []byte) (map[[sha256.Size]byte]token, error) {
	tokens := map[[sha256.Size]byte]token{}
	names, hashes := map[string]int{}, map[[sha256.Size]byte]int{}
	var errs []error
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		fields := strings.Fields(line)
		for i, field := range fields {
			if strings.HasPrefix(field, "#") {
				fields = fields[:i]
				break
			}
		}
		if len(fields) == 0 {
			continue
		}
		sum, one, err := parseToken(fields)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("line %d: %w", n, err))
		case names[one.name] != 0:
			errs = append(errs, fmt.Errorf("line %d: the same name as in line %d", n, names[one.name]))
		case hashes[sum] != 0:
			errs = append(errs, fmt.Errorf("line %d: the same hash as in line %d", n, hashes[sum]))
		default:
			names[one.name], hashes[sum], tokens[sum] = n, n, one
		}
		if len(errs) == maxTokenErrors {
			break
		}
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	return tokens, nil
}

func parseToken(fields []string) (sum [sha256.Size]byte, one token, err error) {
	if err := validTokenName(fields[0]); err != nil {
		return sum, one, err
	}
	one.name = fields[0]
	if len(fields) < 2 {
		return sum, one, errors.New("no hash: a line is NAME sha256:HEX [expires=RFC3339]")
	}
	digits, ok := strings.CutPrefix(fields[1], "sha256:")
	decoded, err := hex.DecodeString(digits)
	if !ok || err != nil || len(decoded) != sha256.Size {
		return sum, one, errors.New("the hash is not sha256: and 64 hexadecimal digits")
	}
	copy(sum[:], decoded)
	if len(fields) == 2 {
		return sum, one, nil
	}
	expires, ok := strings.CutPrefix(fields[2], "expires=")
	if !ok || len(fields) > 3 {
		return sum, one, errors.New("only expires=RFC3339 may follow the hash")
	}
	one.expires, err = time.Parse(time.RFC3339, expires)
	if err != nil || one.expires.IsZero() {
		return sum, one, errors.New("expires is not a time such as 2030-12-31T23:59:59Z")
	}
	return sum, one, nil
}
