package login

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/sys/unix"

	"inject/internal/durable"
	"inject/internal/keyfile"
	"inject/resolver/secret"
)

const (
	maxFile = 256 << 10 // bytes of a file of tokens; one has at most two tokens and a few addresses

	// early is how long before its end a token is replaced, so that it is still accepted when it
	// arrives, and by a server whose clock is ahead.
	early = 15 * time.Second
	// assumed is the life of a token whose issuer does not tell it and can give another.
	assumed = 5 * time.Minute
	// lockPause is the wait between two attempts to get the lock.
	lockPause = 20 * time.Millisecond
)

// ErrNone is the error if no login is kept for a server.
var ErrNone = errors.New("there is no login")

// A Keep is where the login for one server is kept: a file of that server alone, with mode 0600.
// Processes that use it at the same time take turns to change it.
type Keep struct {
	Dir     string // of all logins
	Address string // of the server, as grpcs://HOST:PORT; the tokens are for it alone
	CAFile  string // as in [Login]
	Again   string // the command that logs in again, for hints
}

// kept is the content of a file.
type kept struct {
	Address       string    `json:"address"`
	Issuer        string    `json:"issuer"`
	TokenEndpoint string    `json:"token_endpoint"`
	ClientID      string    `json:"client_id"`
	AccessToken   string    `json:"access_token"`
	RefreshToken  string    `json:"refresh_token,omitempty"`
	Expiry        time.Time `json:"expiry,omitzero"`
}

// valid reports whether the access token will be accepted for a while.
func (f *kept) valid() bool { return f.Expiry.IsZero() || time.Until(f.Expiry) > early }

// set replaces the tokens. An issuer that gives no new refresh token lets the old one be used again.
func (f *kept) set(t Tokens) {
	f.AccessToken, f.Expiry = string(t.Access.Reveal()), t.Expiry
	if t.Refresh.Len() > 0 {
		f.RefreshToken = string(t.Refresh.Reveal())
	}
	if f.Expiry.IsZero() && f.RefreshToken != "" {
		f.Expiry = time.Now().Add(assumed)
	}
}

func (f *kept) provider() Provider {
	return Provider{Issuer: f.Issuer, TokenEndpoint: f.TokenEndpoint, ClientID: f.ClientID}
}

// Path returns the path of the file.
func (k Keep) Path() string {
	return filepath.Join(k.Dir, url.QueryEscape(strings.ToLower(k.Address))+".json")
}

// Issuer returns the issuer at which the person has logged in. The error wraps [ErrNone] if none has.
func (k Keep) Issuer() (string, error) {
	f, err := k.read()
	if err != nil {
		return "", err
	}
	return f.Issuer, nil
}

// Save keeps the tokens of a login at p, in place of those of an earlier one.
func (k Keep) Save(ctx context.Context, p Provider, t Tokens) error {
	if err := durable.MkdirAll(k.Dir, 0o700); err != nil {
		return notKept(err)
	}
	unlock, err := k.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	f := &kept{Address: k.Address, Issuer: p.Issuer, TokenEndpoint: p.TokenEndpoint, ClientID: p.ClientID}
	f.set(t)
	return k.write(f)
}

// Token returns the access token. If that has expired, or is about to, it asks the issuer for another
// one first, and keeps what it gets. It sends the refresh token to the token endpoint of the login and
// to no other address. The error wraps [ErrNone] if no login is kept; if the issuer has ended the
// session, it says how to log in again.
func (k Keep) Token(ctx context.Context) (secret.Value, error) {
	f, err := k.read()
	if err != nil {
		return secret.Value{}, err
	}
	if f.valid() {
		return secret.NewValue([]byte(f.AccessToken)), nil
	}
	unlock, err := k.lock(ctx)
	if err != nil {
		return secret.Value{}, err
	}
	defer unlock()
	if f, err = k.read(); err != nil { // another process may have been first
		return secret.Value{}, err
	}
	if !f.valid() {
		if err := k.refresh(ctx, f); err != nil {
			return secret.Value{}, err
		}
	}
	return secret.NewValue([]byte(f.AccessToken)), nil
}

// refresh replaces the tokens in f by new ones of the issuer, and keeps them.
func (k Keep) refresh(ctx context.Context, f *kept) error {
	p := f.provider()
	if f.RefreshToken == "" {
		return k.ended(p, "its token has expired, and the issuer has given none to renew it")
	}
	if err := p.check(); err != nil {
		return err
	}
	// The issuer may make the old token worthless when it gives the new one. So the new one must have
	// a place before it is asked for.
	place, err := k.create()
	if err != nil {
		return err
	}
	defer func() { // if put has not moved and closed it
		_ = os.Remove(k.temporary())
		_ = place.Close()
	}()
	client, err := newClient(k.CAFile)
	if err != nil {
		return err
	}
	t, err := p.config().TokenSource(context.WithValue(ctx, oauth2.HTTPClient, client),
		&oauth2.Token{RefreshToken: f.RefreshToken}).Token()
	if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok && e.ErrorCode != "" && !temporary(e) {
		return k.ended(p, said(e.ErrorCode, e.ErrorDescription))
	}
	if err != nil {
		return secret.WithHint(fmt.Errorf("%w: %w", secret.ErrUnavailable, p.failed("renew the token", err)),
			"try again, or log in again: %s", k.Again)
	}
	tokens, err := p.tokens(t)
	if err != nil {
		return err
	}
	f.set(tokens)
	return k.put(place, f)
}

func (k Keep) ended(p Provider, why string) error {
	return secret.WithHint(fmt.Errorf("%w: the login at %s has ended: %s", secret.ErrDenied, p.host(), why),
		"log in again: %s", k.Again)
}

// Remove deletes the tokens, and asks the issuer to revoke them. revoked is false if the issuer has
// no way to do that. The tokens are deleted also if the issuer cannot be asked, which is an error. The
// error wraps [ErrNone] if no login is kept.
func (k Keep) Remove(ctx context.Context) (revoked bool, err error) {
	if _, err := os.Lstat(k.Path()); errors.Is(err, fs.ErrNotExist) {
		return false, ErrNone
	}
	unlock, err := k.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	f, err := k.read()
	if err == nil {
		revoked, err = k.revoke(ctx, f)
	}
	if err != nil {
		err = secret.WithHint(fmt.Errorf("the tokens of %s are deleted, but not revoked: %w", k.Address, err),
			"they can be used until they expire, or until you end the session on the pages of the issuer")
	}
	for _, path := range []string{k.Path(), k.temporary()} {
		if e := os.Remove(path); e != nil && !errors.Is(e, fs.ErrNotExist) {
			return revoked, fmt.Errorf("the tokens cannot be deleted: %w", e)
		}
	}
	return revoked, errors.Join(err, durable.Sync(k.Dir))
}

// maxMetadata is the size of an issuer's metadata, in bytes.
const maxMetadata = 512 << 10

// revoke asks the issuer to revoke the tokens in f (RFC 7009). The endpoint is in the metadata of the
// issuer (OpenID Connect Discovery 1.0), which the server does not pass on; it must be at the host of
// the token endpoint, from which the tokens are.
func (k Keep) revoke(ctx context.Context, f *kept) (bool, error) {
	p := f.provider()
	if err := p.check(); err != nil {
		return false, err
	}
	client, err := newClient(k.CAFile)
	if err != nil {
		return false, err
	}
	ask := func(method, address, form string) ([]byte, error) {
		request, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(form))
		if err != nil {
			return nil, errUnsafe
		}
		request.Header.Set("Accept", "application/json")
		if form != "" {
			request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		response, err := client.Do(request)
		if err != nil {
			return nil, err
		}
		defer response.Body.Close() //nolint:errcheck // read only
		if response.StatusCode != http.StatusOK {
			return nil, &oauth2.RetrieveError{Response: response}
		}
		return io.ReadAll(io.LimitReader(response.Body, maxMetadata))
	}
	body, err := ask(http.MethodGet, strings.TrimSuffix(f.Issuer, "/")+"/.well-known/openid-configuration", "")
	if err != nil {
		return false, p.failed("read the metadata", err)
	}
	var metadata struct {
		Issuer   string `json:"issuer"`
		Endpoint string `json:"revocation_endpoint"`
	}
	if json.Unmarshal(body, &metadata) != nil || metadata.Issuer != f.Issuer {
		return false, fmt.Errorf("the metadata of %s is not its own", p.host())
	}
	if metadata.Endpoint == "" {
		return false, nil
	}
	from, err := safeURL(f.TokenEndpoint)
	to, err2 := safeURL(metadata.Endpoint)
	if errors.Join(err, err2) != nil || to.Scheme != from.Scheme || to.Host != from.Host {
		return false, fmt.Errorf("%s revokes tokens at another host than it gives them", p.host())
	}
	form := url.Values{"client_id": {f.ClientID}, "token": {f.RefreshToken}, "token_type_hint": {"refresh_token"}}
	if f.RefreshToken == "" {
		form.Set("token", f.AccessToken)
		form.Set("token_type_hint", "access_token")
	}
	if _, err = ask(http.MethodPost, metadata.Endpoint, form.Encode()); err != nil {
		return false, p.failed("revoke the tokens", err)
	}
	return true, nil
}

// read returns the content of the file. Its error quotes none of it.
func (k Keep) read() (*kept, error) {
	unusable := func(err error) error {
		return secret.WithHint(fmt.Errorf("%w: the file of the login, %s: %w", secret.ErrInvalid, k.Path(), err),
			"mend that, or delete the file and log in again: %s", k.Again)
	}
	file, err := os.Open(k.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, unusable(err)
	}
	defer file.Close() //nolint:errcheck // read only
	if err := keyfile.Check(k.Path()); err != nil {
		return nil, unusable(err)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, unusable(err)
	}
	f := &kept{}
	switch {
	case len(text) > maxFile:
		return nil, unusable(fmt.Errorf("it is over %d bytes long", maxFile))
	case json.Unmarshal(text, f) != nil || f.AccessToken == "":
		return nil, unusable(errors.New("it is not the file of a login"))
	case !strings.EqualFold(f.Address, k.Address):
		return nil, unusable(errors.New("it is for another server"))
	}
	return f, nil
}

// temporary returns the path of the file that becomes the new one. Only a process with the lock uses
// it, so one that is there is of a process that was killed.
func (k Keep) temporary() string { return k.Path() + ".new" }

// create makes the file that becomes the new one.
func (k Keep) create() (*os.File, error) {
	if err := os.Remove(k.temporary()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, notKept(err)
	}
	f, err := os.OpenFile(k.temporary(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, notKept(err)
	}
	return f, nil
}

// put writes f to the file that create has made, and gives that its name.
func (k Keep) put(place *os.File, f *kept) error {
	text, err := json.MarshalIndent(f, "", "  ") //nolint:gosec // the file is for the tokens
	if err == nil {
		_, err = place.Write(append(text, '\n'))
	}
	if err = errors.Join(err, place.Sync(), place.Close()); err == nil {
		err = os.Rename(k.temporary(), k.Path())
	}
	if err == nil {
		err = durable.Sync(k.Dir)
	}
	if err != nil {
		return notKept(err)
	}
	return nil
}

func (k Keep) write(f *kept) error {
	place, err := k.create()
	if err != nil {
		return err
	}
	return k.put(place, f)
}

func notKept(err error) error {
	return fmt.Errorf("%w: the tokens cannot be kept: %w", secret.ErrUnavailable, err)
}

// lock waits until no other process changes the file. The caller calls unlock.
func (k Keep) lock(ctx context.Context) (unlock func(), err error) {
	file, err := os.OpenFile(k.Path()+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, notKept(err)
	}
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = file.Close()
			return nil, notKept(err)
		}
		select {
		case <-ctx.Done():
			_ = file.Close()
			return nil, fmt.Errorf("%w: another process renews the login: %w", secret.ErrUnavailable,
				context.Cause(ctx))
		case <-time.After(lockPause):
		}
	}
}
