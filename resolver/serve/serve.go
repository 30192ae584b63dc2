package serve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"inject/internal/shares"
	"inject/resolver/idl/flyteidl2/auth/authconnect"
	"inject/resolver/idl/flyteidl2/cluster/clusterconnect"
	"inject/resolver/idl/flyteidl2/secret/secretconnect"
	"inject/resolver/idl/inject/v1/injectv1connect"
	"inject/resolver/secret"
	"inject/resolver/serve/identity"
	"inject/resolver/serve/policy"
	"inject/resolver/serve/transport"
	"inject/resolver/store"
	"inject/resolver/store/flight"
)

// Backend is the store that a Server serves. If it is also a [store.Manager] or a
// [store.Importer], secrets can be managed. Concurrent requests for a secret share a read.
type Backend = flight.Backend

// Options configure a Server. All but Authenticator, Policy, Rate and Burst are required.
type Options struct {
	Store Backend
	// Authenticator identifies callers. If it is nil, every caller may do everything, and
	// only requests to a loopback host are answered.
	Authenticator identity.Authenticator
	// Policy returns the policy in force. It is not called if Authenticator is nil.
	Policy func() *policy.Policy
	Audit  *Audit
	Log    hclog.Logger
	// Metrics is where the server registers its metrics.
	Metrics prometheus.Registerer
	// Cluster is the name of the cluster of every secret, for Flyte's clients.
	Cluster string
	// Org is the organization of every secret, whichever a request to manage secrets names: Flyte's
	// server does so, and its clients take an organization from the server's address. A request of
	// a task or an import that names another is denied. With AnyOrg the organization that is named
	// counts, and Org where none is.
	Org    string
	AnyOrg bool
	// Login tells clients how to get a token. It is nil if the server offers no login.
	Login *identity.Login
	// Rate is how many keys per second each identity may ask for on average, and Burst how many
	// at once. A request without a list counts as one key. With Rate 0 there is no limit.
	Rate  float64
	Burst int
	// AuditRate is how many bytes of the audit log per second each identity may cause on
	// average, and AuditBurst how many at once. With AuditRate 0 there is no limit.
	AuditRate  float64
	AuditBurst int
	// What the requests of one identity may take at the same time. Zero for the default, and at
	// most what those of all identities together may: [MaxBodies], [MaxResolves] and [MaxLists].
	OwnBodies   int // bytes of bodies, at least [MaxMessage]
	OwnResolves int // declared lists
	OwnLists    int // lists of secrets
}

// The bounds of what all identities take at the same time, and the defaults of one identity's.
const (
	MaxMessage = transport.MaxMessage // bytes of one body
	MaxBodies  = 32 << 20             // bytes of all bodies
	OwnBodies  = 2 * MaxMessage
	// MaxResolves is how many declared lists are resolved at the same time. A thousand of them
	// take 100 MiB; a request that waits takes little more than its body.
	MaxResolves = 64
	OwnResolves = 8
	MaxLists    = 8 // that are read at the same time
	OwnLists    = 2
)

// The limits of a request.
const (
	maxDeclared = 4096     // in one Resolve: more than fits into a pod's annotations (256 KiB); and in one Import
	maxAnswer   = 32 << 20 // bytes of values in the answer to one Resolve
	maxTime     = transport.RequestTime
	climbKeys   = 256 // a longer declared list counts as several
	// maxReads is how many reads of a store that is remote are under way at the same time, and ownReads
	// how many of one identity: as many as one declared list has, which are sixteen secrets at four
	// scopes. Each may return store.MaxValue, so they also bound the values that are not yet counted in
	// an answer. The server of the store has others to serve: kube-apiserver by default takes 400 reads
	// at the same time of all its clients (--max-requests-inflight).
	maxReads = 128
	ownReads = 64
	// Answers are read and sent only while their sum is at most maxAnswers, and ownAnswers for one
	// identity. Otherwise clients that do not read their answers could exhaust the memory.
	maxAnswers = 2 * maxAnswer // bytes
	ownAnswers = maxAnswer     // bytes
	// maxRequests is how many requests are under way at the same time in any state, and
	// ownRequests how many of one identity. maxArrivals and netArrivals are those that are not yet
	// identified, of all networks and of one. Each may take 16 KiB for its header and as much
	// again; as many more are answered with an error, and those beyond are dropped.
	maxRequests = 8192
	ownRequests = 512
	maxArrivals = 1024
	netArrivals = 256
	// maxElsewhere is how many other scopes of a missing key are named.
	maxElsewhere = 20
)

// How many requests of callers without rights are in the logs: per second, and at once, from
// one network and from all.
const (
	strangerRate      = 2
	strangerBurst     = 1000
	allStrangersRate  = 20
	allStrangersBurst = 5000
)

// A Server answers requests. It is safe for concurrent use.
type Server struct {
	o        Options
	flights  *flight.Flights
	backend  Backend        // reads through flights
	manager  store.Manager  // nil if the backend is read-only
	importer store.Importer // nil if the backend has none
	counts   bool           // whether the backend keeps the quotas of the policy
	metrics  *metrics
	limits   *limits
	// strangers bounds how many requests of callers without rights are audited, by network, and
	// allStrangers those of all networks. warnings bounds how often a warning about too many
	// requests is logged.
	strangers    *limits
	allStrangers *rate.Limiter
	warnings     *rate.Limiter
	audited      *limits        // bytes of the audit log
	climbing     *shares.Shares // Resolves that run
	scanning     *shares.Shares // lists that are read, and searches for other scopes
	answers      *shares.Shares // bytes of answers that are read or sent
	reading      *shares.Shares // reads of a remote store
	// requests are those under way, by identity, and arrivals those not yet identified, by network.
	requests, arrivals *crowd
	// bodies are the bytes of requests, by identity, and openBodies those of requests that
	// need no credentials, by network.
	bodies, openBodies *shares.Shares
}

// New returns a server.
func New(o Options) *Server {
	s := &Server{
		o: o, metrics: newMetrics(o.Metrics),
		limits: newLimits(
			o.Rate, o.Burst,
		), strangers: newLimits(strangerRate, strangerBurst), warnings: rate.NewLimiter(1, 10),
		allStrangers: rate.NewLimiter(allStrangersRate, allStrangersBurst),
		audited:      newLimits(o.AuditRate, o.AuditBurst),
		climbing:     shares.New(MaxResolves, int64(cmp.Or(o.OwnResolves, OwnResolves)), false),
		scanning:     shares.New(MaxLists, int64(cmp.Or(o.OwnLists, OwnLists)), false),
		answers:      shares.New(maxAnswers, ownAnswers, true),
		reading:      shares.New(maxReads, ownReads, false),
		requests:     newCrowd(maxRequests, ownRequests),
		arrivals:     newCrowd(maxArrivals, netArrivals),
		bodies:       shares.New(MaxBodies, int64(cmp.Or(o.OwnBodies, OwnBodies)), true),
		openBodies:   shares.New(maxOpenBodies, maxNetBodies, false),
	}
	if l, ok := o.Store.(store.Limiter); ok {
		o.Store, s.counts = l.WithLimit(s.quota), true
	}
	s.flights = flight.New(o.Store, s.observe)
	s.backend = s.flights.Store()
	s.manager, _ = s.backend.(store.Manager)
	s.importer, _ = s.backend.(store.Importer)
	return s
}

// Handler returns the handler of every service: Connect, gRPC and gRPC-Web, binary and JSON.
// The health service and reflection are part of it; they need no credentials and reveal
// nothing about secrets.
func (s *Server) Handler() http.Handler {
	options := []connect.HandlerOption{
		messageOptions(MaxMessage),
		connect.WithRecover(s.recovered),
		connect.WithInterceptors(connect.UnaryInterceptorFunc(s.intercept)),
	}
	mux := http.NewServeMux()
	handle := func(path string, h http.Handler) { mux.Handle(path, s.identify(h)) }
	handle(secretconnect.NewSecretServiceHandler(&secretService{s}, options...))
	handle(clusterconnect.NewClusterServiceHandler(&clusterService{s}, options...))
	handle(injectv1connect.NewResolveServiceHandler(&resolveService{s}, options...))
	handle(injectv1connect.NewImportServiceHandler(&importService{s}, options...))
	tiny := append(options, messageOptions(openMessage))
	path, whoami := injectv1connect.NewWhoAmIServiceHandler(&whoAmIService{s}, tiny...)
	handle(path, small(whoami))
	path, whoami = authconnect.NewIdentityServiceHandler(&whoAmIService{s}, tiny...)
	handle(path, small(whoami))
	names := []string{
		secretconnect.SecretServiceName, clusterconnect.ClusterServiceName,
		injectv1connect.ResolveServiceName, injectv1connect.ImportServiceName, injectv1connect.WhoAmIServiceName,
		authconnect.IdentityServiceName, authconnect.AuthMetadataServiceName,
	}
	open := func(path string, h http.Handler) { mux.Handle(path, s.open(h)) }
	open(authconnect.NewAuthMetadataServiceHandler(&loginService{s}, messageOptions(openMessage),
		connect.WithRecover(s.recovered)))
	open(grpchealth.NewHandler(grpchealth.NewStaticChecker(names...), messageOptions(openMessage)))
	reflector := grpcreflect.NewStaticReflector(append(names, grpchealth.HealthV1ServiceName)...)
	open(grpcreflect.NewHandlerV1(reflector, messageOptions(openMessage)))
	open(grpcreflect.NewHandlerV1Alpha(reflector, messageOptions(openMessage)))
	mux.Handle("/", http.HandlerFunc(elsewhere))
	return mux
}

var errElsewhere = connect.NewError(connect.CodeUnimplemented, errors.New(
	"no such service: this is injectd, which manages the secrets of Flyte 2 and nothing else; use the command line "+
		"flyte 2.0 or later for them (not flytectl, pyflyte or flyte 0.x), and Flyte's own server for the rest"))

// elsewhere answers requests to services that the server does not have. Clients of Flyte 1 and the
// rest of Flyte's command line send them, and would show "404" to a person. The answer needs no
// credentials and is always the same. Of the body no more is read than of a service that needs none: with
// HTTP/2 a stream is reset if its body is not read, and some clients then show that in place of the answer.
func elsewhere(w http.ResponseWriter, r *http.Request) {
	_, _ = io.CopyN(io.Discard, r.Body, openMessage) // the connection has a deadline until a caller is known
	if transport.Refused(r.Context()) {
		w.Header().Set("Connection", "close")
	}
	if answers := connect.NewErrorWriter(); r.Method == http.MethodPost && answers.IsSupported(r) {
		_ = answers.Write(w, r, errElsewhere) // an error means that the client is gone
		return
	}
	http.NotFound(w, r)
}

// org returns the organization that a request means by asked.
func (s *Server) org(asked string) string {
	if !s.o.AnyOrg {
		return s.o.Org
	}
	return cmp.Or(asked, s.o.Org)
}

// foreign returns an error for a request that names an organization which the server does not
// have. The secrets of its own would be the wrong ones for it.
func (s *Server) foreign(asked string) error {
	if s.o.AnyOrg || asked == "" || asked == s.o.Org {
		return nil
	}
	return secret.WithHint(
		fmt.Errorf("%w: this server has the secrets of the org %s and not those of %.80q",
			secret.ErrDenied, s.o.Org, asked),
		"leave the org out or give --org %s; a server for several orgs is started with --orgs requested", s.o.Org)
}

// quota is the [store.Limit] of the policy in force.
func (s *Server) quota(at secret.Scope, now, then store.Usage) error {
	if s.o.Authenticator == nil {
		return nil
	}
	q := s.o.Policy().Quota(at)
	if q == nil {
		return nil
	}
	err := q.Check(at, now, then)
	if err != nil {
		s.metrics.exhausted.WithLabelValues("quota").Inc()
	}
	return err
}

// guard returns the store for the request of ctx.
func (s *Server) guard(ctx context.Context) *guard {
	c, ok := ctx.Value(callerKey{}).(*caller)
	if !ok {
		panic("a request without a caller") // a handler that is not wrapped by identify
	}
	return &guard{s, c}
}

// timed runs an operation on the backend and counts it.
func (s *Server) timed(op string, fn func() error) error {
	start := time.Now()
	err := fn()
	s.metrics.backend(op, time.Since(start), err)
	return ofStore(err)
}

// ofStore returns an error of the backend as the caller's. If the backend is denied access,
// such as to its key file, it is unavailable: it was not the caller who was denied. An API server of
// Kubernetes also denies everything for a moment after its start, until it has read its roles.
func ofStore(err error) error {
	if errors.Is(err, secret.ErrDenied) {
		return fmt.Errorf("%w: the store: %s", secret.ErrUnavailable, err.Error())
	}
	return err
}
