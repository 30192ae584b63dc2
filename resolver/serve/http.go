package serve

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"inject/internal/printable"
	"inject/resolver/secret"
	"inject/resolver/serve/identity"
	"inject/resolver/serve/policy"
	"inject/resolver/serve/transport"
	"inject/resolver/store"
)

type callerKey struct{}

// requestHeader has the id of a request: in the request the client's, if it sends one, and
// in the answer ours. Flyte's clients send it.
const requestHeader = "X-Request-Id"

// identify authenticates the caller before a byte of the request's body is read. It answers
// requests without valid credentials, and those over the rate limit.
func (s *Server) identify(next http.Handler) http.Handler {
	refusals := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &caller{
			request: newRequest(), client: clientRequest(r), remote: remoteAddress(r),
			control: http.NewResponseController(w),
		}
		w.Header().Set(requestHeader, c.request)
		defer func() { c.place.Close() }() // also if an authenticator or the policy panics
		err := s.enter(r, c)
		if c.identity.Method == "" && transport.Refused(r.Context()) {
			w.Header().Set("Connection", "close") // with HTTP/2 it becomes a GOAWAY
		}
		if err == nil {
			err = s.charge(r, c)
			defer c.body.Close()
		}
		if err != nil {
			s.metrics.refused(connect.CodeOf(err))
			_ = c.control.SetWriteDeadline(time.Now().Add(openTime))
			c.place.MayYield(c.cutOff)
			_ = refusals.Write(w, r, err) // an error means that the client is gone
			flush(r, c.control)
			s.conclude(r, c)
			return
		}
		ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), callerKey{}, c), maxTime)
		defer cancel()
		// The library refuses a message that is too large, but reads it to its end. The limit
		// sets that end. It is twice the message's, since an HTTP/2 stream that is cut off
		// earlier would not get the answer.
		r.Body = http.MaxBytesReader(w, r.Body, 2*MaxMessage)
		c.answer = s.answers.Hold(c.name())
		defer c.answer.Close()
		next.ServeHTTP(w, r.WithContext(ctx))
		c.place.MayYield(c.cutOff)
		flush(r, c.control)
		s.conclude(r, c)
		if r.Context().Err() == nil {
			transport.Explained(r.Context(), requestInput+len(r.Header.Get("Authorization")))
		} else {
			transport.TakenBack(r.Context())
		}
	})
}

// flush sends the rest of an answer over HTTP/2, and waits for the client's window. The library does
// that only after the handler, when the request is no longer counted anywhere.
func flush(r *http.Request, w *http.ResponseController) {
	if r.ProtoMajor == 2 {
		_ = w.Flush() // an error means that the client is gone
	}
}

// requestInput is how many bytes of input a request takes at most, beside its body and its token, in
// frames and TLS records.
const requestInput = 512

// conclude writes the line of an identified request that has ended without one: its body was not
// received or could not be decoded, or a share was used up. A request that exceeds the share of the
// audit log has none.
func (s *Server) conclude(r *http.Request, c *caller) {
	if c.lined || c.identity.Method == "" || !c.paid && !s.pays(c) {
		return
	}
	record := c.record(verbOf(r), secret.Scope{})
	record.Decision, record.Reason = refused, c.reason
	if c.reason == "" {
		record.Decision, record.Reason = invalid, "the request could not be read or decoded"
	}
	c.lined = true
	s.metrics.decided("none", record.Decision)
	_ = s.log(context.WithoutCancel(r.Context()), record)
}

// pays reports whether a line about a request of c may be logged, and charges its share with it.
func (s *Server) pays(c *caller) bool {
	if c.grant.Rule() == "" {
		return s.stranger(c)
	}
	return s.audited.allow(c.name(), lineCost)
}

// enter identifies c and lets its request in, unless too many of its kind are under way: of its
// network until it is identified, and of its identity from then on. c.place must be closed at the
// end, also after an error.
func (s *Server) enter(r *http.Request, c *caller) error {
	if !s.take(r.Context(), s.arrivals, transport.Network(c.remote), c) {
		return s.exhausted(c, "request", "too many requests without accepted credentials")
	}
	if err := s.recognize(r, c); err != nil {
		return err
	}
	c.place.Close()
	if !s.take(r.Context(), s.requests, c.name(), c) {
		return s.exhausted(c, "request", "too many requests of this identity at the same time")
	}
	return s.admit(r, c)
}

// take makes c.place that of a request of the caller name in all, and returns false if the request must be
// turned away. It ends one that must be dropped.
func (s *Server) take(ctx context.Context, all *crowd, name string, c *caller) (served bool) {
	if c.place, served = all.enter(ctx, name); c.place == nil {
		_ = s.exhausted(c, "request", "dropped")
		panic(http.ErrAbortHandler)
	}
	return served
}

// recognize fills in the identity of c and its grant.
func (s *Server) recognize(r *http.Request, c *caller) error {
	if s.o.Authenticator == nil {
		if err := s.local(r); err != nil {
			return err
		}
		c.identity = identity.Identity{Method: "none", Name: "anyone"}
		c.grant, c.paid = policy.Everything(s.org("")), true
		return nil
	}
	who, err := s.o.Authenticator.Authenticate(r.Context(), credentials(r))
	if err != nil {
		return s.unidentified(r, c, err)
	}
	in := s.o.Policy()
	c.identity, c.grant, c.claims = who, in.For(who), claimsOf(in, who)
	return nil
}

// admit returns an error if c may not ask for anything now.
func (s *Server) admit(r *http.Request, c *caller) error {
	if !transport.Accepted(r.Context(), c.name()) {
		return s.exhausted(c, "connection", "too many connections of this identity")
	}
	if s.o.Authenticator == nil {
		return nil
	}
	if !s.limits.allow(c.name(), 1) {
		return s.tooMany(c)
	}
	if c.grant.Rule() == "" {
		if isWhoAmI(r.URL.Path) && s.stranger(c) {
			return nil // the answer is that it may do nothing
		}
		return s.unmatched(r, c)
	}
	if c.paid = s.pays(c); !c.paid {
		return s.tooLoud(c)
	}
	return nil
}

// tooMany returns the error for a request of c that asks for more keys than its rate allows.
func (s *Server) tooMany(c *caller) error {
	if s.warnings.Allow() {
		s.o.Log.Warn("too many requests from one identity", "identity", c.identity.Name)
	}
	return s.exhausted(c, "rate", "too many requests from this identity")
}

// tooLoud returns the error for a request of c whose line exceeds its share of the audit log.
func (s *Server) tooLoud(c *caller) error {
	if s.warnings.Allow() {
		s.o.Log.Warn("the requests of one identity use up its share of the audit log", "identity", c.identity.Name)
	}
	return s.exhausted(c, "audit", "this identity's share of the audit log is used up")
}

// unmatched returns the error for a request of an identity that no rule of the policy matches.
// Any task of a cluster may be one, so its lines count with those of strangers.
func (s *Server) unmatched(r *http.Request, c *caller) error {
	c.lined = true // at most this one, which counts with those of strangers
	if !s.stranger(c) {
		return s.exhausted(c, "stranger", "too many requests that no rule of the policy allows")
	}
	record := c.record(verbOf(r), secret.Scope{})
	record.Reason = "no rule matches the identity"
	s.metrics.decided("identify", denied)
	record.Decision = denied
	if err := s.log(r.Context(), record); err != nil {
		return connect.NewError(connect.CodeUnavailable, secret.ErrUnavailable)
	}
	s.o.Log.Info("no rule of the policy matches a caller", "request", c.request, "remote", c.remote)
	return connect.NewError(connect.CodePermissionDenied,
		fmt.Errorf("%w: no rule of the policy matches this identity%s; hint: ask the server's operator for one",
			secret.ErrDenied, c.asked())) // package rpc splits off the hint
}

// stranger reports whether a line about a request of a caller without rights may be logged.
// Without a limit any client that reaches the port could fill the disk of the audit log, and
// then no request would be answered.
func (s *Server) stranger(c *caller) bool {
	if s.strangers.allow(transport.Network(c.remote), 1) && s.allStrangers.Allow() {
		return true
	}
	if s.warnings.Allow() {
		s.o.Log.Warn("too many unauthenticated requests: the logs leave out the rest", "remote", c.remote)
	}
	return false
}

// verbOf returns the method that r asks for, for the audit log, if it looks like one.
func verbOf(r *http.Request) string {
	verb := strings.TrimPrefix(r.URL.Path, "/")
	if len(verb) > 100 || strings.ContainsFunc(verb, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "unknown"
	}
	return verb
}

// podClaims say which pod a token of Kubernetes is for. They are audited whether the policy
// names them or not: the subject is the service account, which many pods share.
var podClaims = []string{`claim.kubernetes\.io.pod.name`, `claim.kubernetes\.io.pod.uid`}

// podAttributes are what is audited of a pod beside its name, as claims without their prefix.
var podAttributes = []string{
	"kubernetes.uid", "kubernetes.serviceaccount", "kubernetes.node", "kubernetes.parent", "kubernetes.protection",
}

const (
	maxClaimValues = 8   // of one claim that are audited
	maxClaim       = 200 // bytes of each
)

// claimsOf returns the claims of a JWT, or what is known of a pod, for the audit log.
func claimsOf(p *policy.Policy, who identity.Identity) auditedClaims {
	var names []string
	switch who.Method {
	case "jwt":
		names = append(p.Claims(), podClaims...)
	case "kubernetes":
		names = podAttributes
	default:
		return nil
	}
	claims := auditedClaims{}
	for _, name := range names {
		values := who.Attribute(name)
		for _, v := range values[:min(len(values), maxClaimValues)] {
			name := strings.TrimPrefix(strings.TrimPrefix(name, "claim."), "kubernetes.")
			if v = printable.Text(v, maxClaim); !slices.Contains(claims[name], v) {
				claims[name] = append(claims[name], v)
			}
		}
	}
	return claims
}

// local returns an error if the server takes requests without credentials, and a web page may
// have made a browser send r.
func (s *Server) local(r *http.Request) error {
	if s.o.Authenticator != nil {
		return nil
	}
	// A web page can make a browser connect to loopback through a host name that resolves
	// to it (DNS rebinding). The Host header still has that name.
	if !asksLoopback(r.Host) {
		return connect.NewError(
			connect.CodePermissionDenied, errors.New("this server answers only requests to localhost"),
		)
	}
	// Browsers name the page that sends a request, and a page on this machine may be
	// anybody's: only one that this server sent itself would have its own address.
	if origin := r.Header.Get("Origin"); origin != "" && origin != "http://"+r.Host {
		return connect.NewError(
			connect.CodePermissionDenied, errors.New("this server answers no requests of web pages"),
		)
	}
	return nil
}

// unidentified returns the error for a request without valid credentials. Only our log says
// what is wrong with them, so that an attacker learns nothing.
func (s *Server) unidentified(r *http.Request, c *caller, err error) error {
	if errors.Is(err, identity.ErrNone) { // counted, not audited: nobody has claimed to be anyone
		return connect.NewError(
			connect.CodeUnauthenticated, errors.New("no credentials: send a client certificate or a bearer token"),
		)
	}
	allowed := s.stranger(c)
	if errors.Is(err, secret.ErrUnavailable) {
		if allowed {
			s.o.Log.Error("a caller could not be identified", "request", c.request, "remote", c.remote, "error", err)
		}
		return connect.NewError(
			connect.CodeUnavailable,
			errors.New("the caller cannot be identified now (request "+c.request+": the server's log says more)"),
		)
	}
	if !allowed {
		return s.exhausted(c, "stranger", "too many requests without valid credentials")
	}
	record := c.record(verbOf(r), secret.Scope{})
	record.Decision, record.Reason = unauthenticated, identity.Reason(err)
	s.metrics.decided("identify", unauthenticated)
	if err := s.log(r.Context(), record); err != nil {
		return connect.NewError(connect.CodeUnavailable, secret.ErrUnavailable)
	}
	s.o.Log.Info("a caller was refused", "request", c.request, "remote", c.remote, "error", err)
	text, hint := "the credentials were refused", ""
	if identity.Reason(err) == identity.ReasonExpired { // they were good, so only their owner learns it
		text = "the credentials have expired"
		hint = hintMark + "log in again, or make a new token or certificate as you made this one"
	}
	if advice := identity.Advice(err); advice != "" { // genuine, too
		hint = hintMark + advice
	}
	text += " (request " + c.request + ": the server's log says why)" + hint
	return connect.NewError(connect.CodeUnauthenticated, errors.New(text))
}

func credentials(r *http.Request) identity.Credentials {
	c := identity.Credentials{TLS: r.TLS}
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if ok && strings.EqualFold(scheme, "bearer") {
		c.Bearer = secret.NewValue([]byte(strings.TrimSpace(token)))
	}
	return c
}

func newRequest() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (Go 1.24)
	return hex.EncodeToString(b[:])
}

// clientRequest returns the client's id of r, or "" if there is none or it has characters
// that could be misread in a log.
func clientRequest(r *http.Request) string {
	id := r.Header.Get(requestHeader)
	odd := func(c rune) bool {
		return c != '-' && c != '_' && c != '.' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
	}
	if len(id) > 64 || strings.ContainsFunc(id, odd) {
		return ""
	}
	return id
}

func remoteAddress(r *http.Request) string {
	if addr, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		return addr.String()
	}
	return ""
}

// asksLoopback reports whether a Host header, with or without a port, names this machine.
func asksLoopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return store.Loopback(strings.Trim(host, "[]"))
}

// intercept counts every decoded call, and lets its reads share those of other calls.
func (s *Server) intercept(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		start := time.Now()
		ctx, end := s.flights.Begin(ctx)
		defer end()
		if c, ok := ctx.Value(callerKey{}).(*caller); ok {
			c.body.MayYield(nil) // all of it has been read
			c.place.MayYield(nil)
			defer func() {
				c.body.Shrink(0) // from here on there is only the answer, which the client may read slowly
				c.answer.MayYield(c.cutOff)
				c.place.MayYield(c.cutOff)
			}()
		}
		s.metrics.inFlight.Inc()
		defer s.metrics.inFlight.Dec()
		answer, err := next(ctx, r)
		code := "ok"
		if err != nil {
			code = connect.CodeOf(err).String()
		}
		s.metrics.answered(r.Spec().Procedure, code, time.Since(start))
		return answer, err
	}
}

// recovered answers a request whose handler panicked. The panic's argument is not logged,
// since it may contain a value. The stack has only addresses.
func (s *Server) recovered(ctx context.Context, spec connect.Spec, _ http.Header, what any) error {
	request := ""
	if c, ok := ctx.Value(callerKey{}).(*caller); ok {
		request, c.reason = c.request, "the server failed"
	}
	s.o.Log.Error(
		"a request's handler panicked", "request", request, "method", spec.Procedure, "type",
		fmt.Sprintf("%T", what), "stack", string(debug.Stack()),
	)
	return connect.NewError(connect.CodeInternal, errors.New("request "+request+" failed: the server's log says why"))
}
