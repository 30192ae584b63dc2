package login

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/netutil"

	"inject/resolver/secret"
	"inject/resolver/store"
)

const (
	maxCallback      = 16 << 10    // bytes of the header of a request to the page
	maxCallbacks     = 16          // connections at the same time, to each address of the page
	callbackLastTime = time.Second // for the answer to the last request, when the login is over
)

// callbackTime is how long a request to the page may take, and its answer. Tests shorten it.
var callbackTime = 5 * time.Second

// A callback is the page of this machine that the browser comes back to from the issuer. It takes
// one answer, which must have the state of this login: any other page or program could send the
// browser here, too.
type callback struct {
	path, state string
	answers     chan url.Values
	taken       atomic.Bool
	server      *http.Server
}

// listen opens the page at redirect, which must be an address of this machine.
func listen(redirect, state string) (*callback, error) {
	u, err := url.Parse(redirect)
	if err != nil || u.Scheme != "http" || !store.Loopback(u.Hostname()) || u.Port() == "" || u.User != nil {
		return nil, secret.WithHint(
			fmt.Errorf("%w: the login that the server offers sends the browser to no port of this machine",
				secret.ErrInvalid),
			"use --device, or tell the server's operator: redirect-uri of --login is such as "+
				"http://localhost:53593/callback")
	}
	hosts := []string{u.Hostname()}
	if net.ParseIP(u.Hostname()) == nil { // a browser may try either
		hosts = []string{"127.0.0.1", "::1"}
	}
	var ports []net.Listener
	for _, host := range hosts {
		port, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", net.JoinHostPort(host, u.Port()))
		if host == "::1" && err != nil && !errors.Is(err, syscall.EADDRINUSE) { // a machine without IPv6
			continue
		}
		if err != nil {
			for _, port := range ports {
				_ = port.Close()
			}
			return nil, secret.WithHint(fmt.Errorf("the page that the browser comes back to: %w", err),
				"end the program that has the port, such as another login; or use --device")
		}
		ports = append(ports, netutil.LimitListener(port, maxCallbacks))
	}
	c := &callback{path: u.EscapedPath(), state: state, answers: make(chan url.Values, 1)}
	if c.path == "" {
		c.path = "/"
	}
	c.server = &http.Server{
		Handler: c, ReadTimeout: callbackTime, WriteTimeout: callbackTime, MaxHeaderBytes: maxCallback,
		ErrorLog: log.New(io.Discard, "", 0),
	}
	c.server.SetKeepAlivesEnabled(false) // idle connections of a browser would count
	for _, port := range ports {
		go func() { _ = c.server.Serve(port) }() // until close
	}
	return c, nil
}

// close closes the page, after the answer to a request that is under way.
func (c *callback) close() {
	ctx, cancel := context.WithTimeout(context.Background(), callbackLastTime)
	defer cancel()
	_ = c.server.Shutdown(ctx)
	_ = c.server.Close()
}

// ServeHTTP takes the answer of the issuer, which the browser brings.
func (c *callback) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	say := func(status int, text string) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Referrer-Policy", "no-referrer") // the address of the page has the code
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text+"\n")
	}
	if r.URL.EscapedPath() != c.path {
		say(http.StatusNotFound, "There is no such page.")
		return
	}
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		say(http.StatusMethodNotAllowed, "This page is for a browser that comes back from a login.")
		return
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || len(query["state"]) != 1 ||
		subtle.ConstantTimeCompare([]byte(query.Get("state")), []byte(c.state)) != 1 {
		say(http.StatusBadRequest, "This is not the login that inject waits for. Open the address that it shows.")
		return
	}
	if (len(query["code"]) != 1 || query.Get("code") == "") && query.Get("error") == "" {
		say(http.StatusBadRequest, "The answer has neither a code nor an error.")
		return
	}
	if c.taken.Swap(true) {
		say(http.StatusConflict, "inject has got an answer already.")
		return
	}
	text := "inject goes on with the login. You can close this page and go back to the terminal."
	if query.Get("error") != "" {
		text = "The login has failed. The terminal says why."
	}
	say(http.StatusOK, text)
	c.answers <- query
}

// A refusedError says why an issuer did not log a person in.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return e.text }

// wait returns the code of the answer.
func (c *callback) wait(ctx context.Context, issuer string) (string, error) {
	select {
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case query := <-c.answers:
		// RFC 9207: an issuer that names itself is the one that was asked. Otherwise the server has
		// sent the person to one issuer and would have the code go to another.
		if iss, ok := query["iss"]; ok && (len(iss) != 1 || iss[0] != issuer) {
			return "", &refusedError{"the answer is of another issuer"}
		}
		if code := query.Get("error"); code != "" {
			return "", &refusedError{said(code, query.Get("error_description"))}
		}
		return query.Get("code"), nil
	}
}
