package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"inject/resolver/secret"
	"inject/resolver/store/sealed"
)

// Only one process may write the store file. While the store is served, that process is the
// server. Maintenance commands of the same user, or of root, then ask the server to do their
// work, over a Unix socket beside the file: the control socket.

// maintainer is a store that can be backed up, verified and given a new key while it is served.
type maintainer interface {
	Backup(ctx context.Context, to string) error
	Rewrap(ctx context.Context, to sealed.Key) error
	Verify(ctx context.Context) (int, error)
}

var _ maintainer = (*sealed.Store)(nil)

// work is a request on the control socket, and the answer to it.
type work struct {
	Do      string `json:"do"`             // backup, rotate or verify
	Path    string `json:"path,omitempty"` // of the backup, or of the new key file; absolute
	Secrets int    `json:"secrets,omitempty"`
	Error   string `json:"error,omitempty"`
	Hint    string `json:"hint,omitempty"`
	Kind    string `json:"kind,omitempty"` // of the error: see [secret.Kind]
}

// do carries w out. It returns the number of secrets if w is to verify the store.
func (w work) do(
	ctx context.Context, m maintainer, key func(file string) (sealed.Key, error),
) (secrets int, err error) {
	switch w.Do {
	case "verify":
		return m.Verify(ctx)
	case "backup":
		return 0, m.Backup(ctx, w.Path)
	case "rotate":
		k, err := key(w.Path)
		if err != nil {
			return 0, err
		}
		return 0, m.Rewrap(ctx, k)
	}
	return 0, fmt.Errorf("%w: the server knows no maintenance called %q", secret.ErrInvalid, w.Do)
}

func controlPath(store string) string { return store + ".sock" }

// control answers requests on the control socket of the store at path until ctx ends.
func (a *app) control(ctx context.Context, path string, m any) {
	s, ok := m.(maintainer)
	if !ok {
		return
	}
	path = controlPath(path)
	_ = os.Remove(path) // left by a server that was killed; we hold the store's lock
	config := net.ListenConfig{}
	err := os.MkdirAll(filepath.Dir(path), 0o700) // the store and its folder may not exist before the first secret
	var l net.Listener
	if err == nil {
		l, err = config.Listen(ctx, "unix", path)
	}
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		a.log.Warn("no control socket: backup, key rotation and doctor cannot work while the store is served",
			"error", err)
		return
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /", func(rw http.ResponseWriter, r *http.Request) {
		var w work
		if err := json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&w); err != nil {
			http.Error(rw, "not a request", http.StatusBadRequest)
			return
		}
		secrets, err := w.do(r.Context(), s, a.keyOf)
		answer := work{Do: w.Do, Secrets: secrets}
		if err != nil {
			answer.Error, answer.Hint, answer.Kind = err.Error(), secret.Hint(err), secret.KindOf(err).String()
			a.log.Error("maintenance failed", "do", w.Do, "path", w.Path, "error", err)
		} else {
			a.log.Info("maintenance done", "do", w.Do, "path", w.Path)
		}
		_ = json.NewEncoder(rw).Encode(answer) // an error here means that the client has gone
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second}
	if err := serveUntil(ctx, server, ownListener{l}); err != nil {
		a.log.Error("the control socket has failed: backup, key rotation and doctor cannot work until a restart",
			"error", err)
	}
}

// ownListener closes connections of users other than our own and root. Between bind and
// chmod the socket's mode is the umask's, so other users could connect if the folder lets
// them.
type ownListener struct{ net.Listener }

func (l ownListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if own(c) {
			return c, nil
		}
		_ = c.Close()
	}
}

// errNotServed means that no server has the store open.
var errNotServed = errors.New("the store is not being served")

// ask sends w to the server of the store at path and returns the number of secrets in its
// answer. It returns errNotServed if no server listens.
func ask(ctx context.Context, path string, w work) (int, error) {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "unix", controlPath(path))
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return 0, secret.WithHint(fmt.Errorf("%w: %w", secret.ErrDenied, err),
				"run it as the user of the server, or as root")
		}
		return 0, errNotServed // no socket, or no process listens on it
	}
	client := &http.Client{Transport: &http.Transport{
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return c, nil },
		DisableKeepAlives: true,
	}}
	b, err := json.Marshal(w)
	if err != nil {
		return 0, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://injectd/", bytes.NewReader(b))
	if err != nil {
		return 0, errors.Join(err, c.Close())
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, fmt.Errorf("%w: the server did not answer, so it is not known whether it is done: %w",
			secret.ErrUnavailable, err)
	}
	defer response.Body.Close() //nolint:errcheck // read whole
	var answer work
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return 0, fmt.Errorf("%w: the server's answer cannot be read: %w", secret.ErrUnavailable, err)
	}
	if answer.Error != "" {
		return answer.Secrets, secret.WithHint(&toldError{answer.Error, secret.KindNamed(answer.Kind).Err()},
			"%s", answer.Hint)
	}
	return answer.Secrets, nil
}

// toldError is an error that the server answered with.
type toldError struct {
	text string
	kind error // the sentinel of its kind, nil if it has none
}

func (e *toldError) Error() string { return e.text }
func (e *toldError) Unwrap() error { return e.kind }

// maintain carries w out: by asking the server of the store if one runs, else in this
// process. It returns the number of secrets if w is to verify the store.
func (a *app) maintain(ctx context.Context, w work) (secrets int, err error) {
	store, err := a.filePath()
	if err != nil {
		return 0, err
	}
	if w.Path != "" {
		if w.Path, err = filepath.Abs(w.Path); err != nil {
			return 0, err
		}
	}
	secrets, err = ask(ctx, store, w)
	if !errors.Is(err, errNotServed) {
		return secrets, err
	}
	s, err := a.openFile(ctx, w.Do != "verify")
	if err != nil {
		return 0, err
	}
	secrets, err = w.do(ctx, s, a.keyOf)
	return secrets, errors.Join(err, s.Close())
}
