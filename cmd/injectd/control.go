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
	"inject/resolver/serve"
	"inject/resolver/store/sealed"
)

// Only one process may write the store file. While the store is served, that process is the
// server. Maintenance commands of the same user, or of root, then ask the server to do their
// work, over a Unix socket beside the file: the control socket.

// maintainer is a store that can be backed up, verified and given a new key while it is served.
type maintainer interface {
	Backup(ctx context.Context, to string) error
	BackupTo(ctx context.Context, w io.Writer) error
	Rewrap(ctx context.Context, to sealed.Key, accept ...func(wrapped []byte) error) error
	Wrapped(ctx context.Context) ([]byte, error)
	Verify(ctx context.Context) (int, error)
	Orgs(ctx context.Context, limit int) ([]string, error)
}

var _ maintainer = (*sealed.Store)(nil)

// work is a request on the control socket, and the answer to it.
type work struct {
	Do      string   `json:"do"`             // backup, copy, rotate or verify
	Path    string   `json:"path,omitempty"` // of the backup, or of the new key file; absolute
	Secrets int      `json:"secrets,omitempty"`
	Orgs    []string `json:"orgs,omitempty"`    // of a store that was verified, as many as are shown
	Wrapped []byte   `json:"wrapped,omitempty"` // the data key of a store that was verified, encrypted
	Error   string   `json:"error,omitempty"`
	Hint    string   `json:"hint,omitempty"`
	Kind    string   `json:"kind,omitempty"` // of the error: see [secret.Kind]

	out io.Writer // gets the copy
}

// resultTrailer is the trailer with the answer to a copy, whose body is the copy itself.
const resultTrailer = "Inject-Result"

// do carries w out and fills in its results. served says that a server does it, which must be able
// to start again with its own key.
func (a *app) do(ctx context.Context, m maintainer, w *work, served bool) error {
	switch w.Do {
	case "verify":
		var err, err2, err3 error
		if w.Secrets, err = m.Verify(ctx); err == nil {
			w.Orgs, err2 = m.Orgs(ctx, shownOrgs)
		}
		w.Wrapped, err3 = m.Wrapped(ctx)
		return errors.Join(err, err2, err3)
	case "backup":
		// The missing folder is most likely one that is not mounted, and the disk below it another.
		if _, err := os.Stat(filepath.Dir(w.Path)); err != nil {
			return secret.WithHint(fmt.Errorf("%w: backup: %w", secret.ErrInvalid, err),
				"make the folder, or mount it")
		}
		return a.stamped(m.Backup(ctx, w.Path))
	case "copy":
		return a.stamped(m.BackupTo(ctx, w.out))
	case "rotate":
		k, err := a.keyOf(w.Path)
		if err != nil {
			return err
		}
		if served {
			return m.Rewrap(ctx, k, func(wrapped []byte) error { return a.staysOpen(wrapped, w.Path) })
		}
		return m.Rewrap(ctx, k)
	}
	return fmt.Errorf("%w: the server knows no maintenance called %q", secret.ErrInvalid, w.Do)
}

// stamped notes the time of a backup that has ended with err, and returns err. The backup is good
// also if that fails.
func (a *app) stamped(err error) error {
	if err != nil {
		return err
	}
	path, err := a.filePath()
	if err == nil {
		err = os.WriteFile(stampPath(path), nil, 0o600)
	}
	if err != nil {
		a.log.Warn("the time of the backup is not noted, so the metric of the last backup is too old", "error", err)
	}
	return nil
}

func controlPath(store string) string { return store + ".sock" }

// alone returns an error if another server has the control socket of the store at path. A store
// without a file has no lock yet, so that two servers of it would start, and the first secret would
// belong to one of them; and a server goes on with a file that was moved away.
// The socket appears a moment after a server has begun: two that start at once may both go on.
func alone(ctx context.Context, path string) error {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "unix", controlPath(path))
	if err != nil {
		return nil // no process listens
	}
	defer c.Close() //nolint:errcheck // nothing was sent
	who := "another process"
	if p, ok := peerOf(c); ok && p.pid > 0 {
		who = fmt.Sprintf("process %d", p.pid)
	}
	return secret.WithHint(fmt.Errorf("%w: the store at %s is served by %s", secret.ErrUnavailable, path, who),
		"end %s first: one process at a time may write a store", who)
}

// control answers requests on the control socket of the store at path until ctx ends. It calls done
// after each.
func (a *app) control(ctx context.Context, path string, s maintainer, audit *serve.Audit, done func()) {
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
		if w.out = rw; w.Do == "copy" {
			rw.Header().Set("Trailer", resultTrailer)
		}
		user, _ := r.Context().Value(userKey{}).(int)
		err := audited(r.Context(), audit, w.maintenance(user), func() error { return a.do(r.Context(), s, &w, true) })
		done()
		if err != nil {
			w.Error, w.Hint, w.Kind = err.Error(), secret.Hint(err), secret.KindOf(err).String()
			a.log.Error("maintenance failed", "do", w.Do, "path", w.Path, "error", err)
		} else {
			a.log.Info("maintenance done", "do", w.Do, "path", w.Path)
		}
		answer, err := json.Marshal(w)
		if err != nil {
			return // a bug: the client reports that there is no answer
		}
		if w.Do == "copy" {
			rw.Header().Set(resultTrailer, string(answer))
			return
		}
		_, _ = rw.Write(answer) // an error here means that the client has gone
	})
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if o, ok := c.(ownConn); ok {
				ctx = context.WithValue(ctx, userKey{}, o.user)
			}
			return ctx
		},
	}
	if err := serveUntil(ctx, server, ownListener{l}); err != nil {
		a.log.Error("the control socket has failed: backup, key rotation and doctor cannot work until a restart",
			"error", err)
	}
}

// maintenance returns w for the audit log, as done by a user.
func (w work) maintenance(user int) serve.Maintenance {
	m := serve.Maintenance{Verb: w.Do, User: user, Path: w.Path}
	if w.Do == "copy" {
		m.Verb, m.Path = "backup", "-"
	}
	return m
}

// audited calls do between the lines of the audit log that say who asked for m, and how it ended.
// Nothing is done if the first one cannot be written. Reading the store has no lines.
func audited(ctx context.Context, audit *serve.Audit, m serve.Maintenance, do func() error) error {
	if m.Verb == "verify" {
		return do()
	}
	end, err := audit.Begin(ctx, m)
	if err != nil {
		return err
	}
	err = do()
	end(err)
	return err
}

// recorded calls do as audited does, with the lines in --audit-log if that is a file. It is for
// what is done without a server.
func (a *app) recorded(ctx context.Context, m serve.Maintenance, do func() error) error {
	if a.set.Audit.Log == "-" || m.Verb == "verify" {
		return do()
	}
	audit, err := serve.OpenAudit(a.set.Audit.Log)
	if err != nil {
		return err
	}
	return errors.Join(audited(ctx, audit, m, do), audit.Close())
}

// userKey is that of the user at the other end of the control socket.
type userKey struct{}

// An ownConn is a connection of our own user or root.
type ownConn struct {
	net.Conn

	user int
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
		if user, ok := own(c); ok {
			return ownConn{c, user}, nil
		}
		_ = c.Close()
	}
}

// errNotServed means that no server has the store open.
var errNotServed = errors.New("the store is not being served")

// ask sends w to the server of the store at path and takes the results of its answer. It returns
// errNotServed if no server listens.
func ask(ctx context.Context, path string, w *work) error {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "unix", controlPath(path))
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return secret.WithHint(fmt.Errorf("%w: %w", secret.ErrDenied, err),
				"run it as the user of the server, or as root")
		}
		return errNotServed // no socket, or no process listens on it
	}
	client := &http.Client{Transport: &http.Transport{
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return c, nil },
		DisableKeepAlives: true,
	}}
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://injectd/", bytes.NewReader(b))
	if err != nil {
		return errors.Join(err, c.Close())
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("%w: the server did not answer, so it is not known whether it is done: %w",
			secret.ErrUnavailable, err)
	}
	defer response.Body.Close() //nolint:errcheck // read whole
	var answer work
	if _, copies := response.Trailer[resultTrailer]; copies {
		if _, err := io.Copy(w.out, response.Body); err != nil {
			return fmt.Errorf("%w: backup: the copy is cut short: %w", secret.ErrUnavailable, err)
		}
		err = json.Unmarshal([]byte(response.Trailer.Get(resultTrailer)), &answer)
	} else {
		err = json.NewDecoder(response.Body).Decode(&answer)
	}
	if err != nil {
		return fmt.Errorf("%w: the server's answer cannot be read: %w", secret.ErrUnavailable, err)
	}
	w.Secrets, w.Wrapped, w.Orgs = answer.Secrets, answer.Wrapped, answer.Orgs
	if answer.Error != "" {
		return secret.WithHint(&toldError{answer.Error, secret.KindNamed(answer.Kind).Err()}, "%s", answer.Hint)
	}
	return nil
}

// toldError is an error that the server answered with.
type toldError struct {
	text string
	kind error // the sentinel of its kind, nil if it has none
}

func (e *toldError) Error() string { return e.text }
func (e *toldError) Unwrap() error { return e.kind }

// maintain carries w out, and fills in its results: by asking the server of the store if one runs,
// else in this process. served says that a server did it.
func (a *app) maintain(ctx context.Context, w *work) (served bool, err error) {
	store, err := a.filePath()
	if err != nil {
		return false, err
	}
	if w.Path != "" {
		if w.Path, err = filepath.Abs(w.Path); err != nil {
			return false, err
		}
	}
	err = ask(ctx, store, w)
	if !errors.Is(err, errNotServed) {
		return true, err
	}
	s, err := a.openFile(ctx, w.Do != "verify")
	if err != nil {
		return false, err
	}
	err = a.recorded(ctx, w.maintenance(os.Getuid()), func() error { return a.do(ctx, s, w, false) })
	return false, errors.Join(err, s.Close())
}
