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

// The store has one process that writes it. While it is served that is the server, which
// is then asked to do what else is to be done with the file: on a socket beside it, by
// the same user or root.

// maintainer is a store that can be looked after while it is served.
type maintainer interface {
	Backup(ctx context.Context, to string) error
	Rewrap(ctx context.Context, to sealed.Key) error
	Verify(ctx context.Context) (int, error)
}

var _ maintainer = (*sealed.Store)(nil)

// work is what is asked, and in answers what came of it.
type work struct {
	Do      string `json:"do"`             // backup, rotate or verify
	Path    string `json:"path,omitempty"` // absolute: of the backup, or of the new key file
	Secrets int    `json:"secrets,omitempty"`
	Error   string `json:"error,omitempty"`
	Hint    string `json:"hint,omitempty"`
	Kind    string `json:"kind,omitempty"` // of the error: see [secret.Kind]
}

// do does w, and returns how many secrets there are, where that was to be found out.
func (w work) do(ctx context.Context, m maintainer, key func(file string) (sealed.Key, error)) (secrets int, err error) {
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
	return 0, fmt.Errorf("%w: %q is nothing that a server does", secret.ErrInvalid, w.Do)
}

func controlPath(store string) string { return store + ".sock" }

// control does what is asked on the socket beside the store, until ctx ends.
func (a *app) control(ctx context.Context, path string, m any) {
	s, ok := m.(maintainer)
	if !ok {
		return
	}
	path = controlPath(path)
	_ = os.Remove(path) // of a server that was killed: the store's lock is ours
	config := net.ListenConfig{}
	err := os.MkdirAll(filepath.Dir(path), 0o700) // else the first secret makes it
	var l net.Listener
	if err == nil {
		l, err = config.Listen(ctx, "unix", path)
	}
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		a.log.Warn("the store cannot be looked after while it is served", "error", err)
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
		_ = json.NewEncoder(rw).Encode(answer) // who has gone needs no answer
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second}
	if err := serveUntil(ctx, server, ownListener{l}); err != nil {
		a.log.Error("the store can no longer be looked after while it is served", "error", err)
	}
}

// ownListener drops whoever is neither of our own user nor root: between bind and chmod
// the socket is as open as the folder that it is in.
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

// errNotServed says that no server has the store open.
var errNotServed = errors.New("the store is not being served")

// ask has the server of the store at path do w.
func ask(ctx context.Context, path string, w work) (int, error) {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "unix", controlPath(path))
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return 0, secret.WithHint(fmt.Errorf("%w: %w", secret.ErrDenied, err), "be the user who serves the store")
		}
		return 0, errNotServed // no socket, or nobody behind it
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
		return 0, fmt.Errorf("%w: the server has not said how it went: %w", secret.ErrUnavailable, err)
	}
	defer response.Body.Close() //nolint:errcheck // read whole
	var answer work
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return 0, fmt.Errorf("%w: the server's answer cannot be read: %w", secret.ErrUnavailable, err)
	}
	if answer.Error != "" {
		return answer.Secrets, secret.WithHint(&toldError{answer.Error, secret.KindNamed(answer.Kind).Err()}, "%s", answer.Hint)
	}
	return answer.Secrets, nil
}

// toldError is an error as the server told it.
type toldError struct {
	text string
	kind error // the sentinel of its kind; nil if it has none
}

func (e *toldError) Error() string { return e.text }
func (e *toldError) Unwrap() error { return e.kind }

// maintain does w to the store, by way of its server if there is one.
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
