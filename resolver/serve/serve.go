package serve

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

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

// Backend is what a Server serves. Where it is a [store.Manager] or [store.Importer],
// too, secrets can be managed. Those who ask for a secret at the same time share a read.
type Backend = flight.Backend

// Options say what is served, to whom. All but Authenticator, Policy and Rate are
// required.
type Options struct {
	Store Backend
	// Authenticator tells who is calling. nil: nobody is asked, and everyone may do
	// everything; only requests that were sent to a name of this machine are answered.
	Authenticator identity.Authenticator
	// Policy returns what is in force. Not called where everyone may do everything.
	Policy func() *policy.Policy
	Audit  *Audit
	Log    hclog.Logger
	// Metrics is where ours are registered.
	Metrics prometheus.Registerer
	// Cluster is the name that Flyte's clients are told for where secrets are.
	Cluster string
	// Rate is how many requests a second one identity may send in the long run, and
	// Burst how many at once. Rate 0: any number.
	Rate  float64
	Burst int
}

// What a request may bring and take. A message that is larger is refused whole.
const (
	maxMessage  = transport.MaxMessage
	maxDeclared = 4096     // in one Resolve: more than fits into a pod's annotations (256 KiB); and in one Import
	maxAnswer   = 32 << 20 // bytes of values in the answer to one Resolve
	maxTime     = transport.RequestTime
	// maxClimbing is how many Resolves are looked up at the same time. The others wait
	// with little more than what they ask: a thousand that are looked up take 100 MiB.
	maxClimbing = 64
	// Answers that are large wait until there is room for them among those that are on
	// their way: who does not fetch theirs would else have them pile up.
	largeAnswer = 1 << 20   // bytes
	maxLarge    = 256 << 20 // bytes
	// maxElsewhere is how many scopes a person is told of where a key is.
	maxElsewhere = 20
)

// How many requests of nobody are in the audit log, of one address: a second, and at once.
const (
	strangerRate  = 2
	strangerBurst = 1000
)

// Server answers requests. Safe for concurrent use.
type Server struct {
	o        Options
	flights  *flight.Flights
	backend  Backend        // behind the flights
	manager  store.Manager  // nil if the backend is read-only
	importer store.Importer // nil if the backend has none
	metrics  *metrics
	limits   *limits
	// strangers bounds how many requests of nobody are logged, by address; warnings how
	// often too many of anything are.
	strangers *limits
	warnings  *rate.Limiter
	helping   chan struct{}       // holds a token while a search for help is under way
	climbing  chan struct{}       // holds a token for each climb that is under way
	large     *semaphore.Weighted // bytes of large answers that are on their way
}

// New returns a server of what o says.
func New(o Options) *Server {
	s := &Server{
		o: o, metrics: newMetrics(o.Metrics),
		limits: newLimits(o.Rate, o.Burst), strangers: newLimits(strangerRate, strangerBurst), warnings: rate.NewLimiter(1, 10),
		helping: make(chan struct{}, 1), climbing: make(chan struct{}, maxClimbing), large: semaphore.NewWeighted(maxLarge),
	}
	s.flights = flight.New(o.Store, func(took time.Duration, err error) { s.metrics.backend("read", took, err) })
	s.backend = s.flights.Store()
	s.manager, _ = s.backend.(store.Manager)
	s.importer, _ = s.backend.(store.Importer)
	return s
}

// Handler returns the handler of every service: Connect, gRPC and gRPC-Web, binary and
// JSON, with the health service and reflection, which say nothing of secrets and ask
// nobody who they are.
func (s *Server) Handler() http.Handler {
	options := []connect.HandlerOption{
		messageOptions(),
		connect.WithRecover(s.recovered),
		connect.WithInterceptors(connect.UnaryInterceptorFunc(s.intercept)),
	}
	mux := http.NewServeMux()
	handle := func(path string, h http.Handler) { mux.Handle(path, s.identify(h)) }
	handle(secretconnect.NewSecretServiceHandler(&secretService{s}, options...))
	handle(clusterconnect.NewClusterServiceHandler(clusterService{}, options...))
	handle(injectv1connect.NewResolveServiceHandler(&resolveService{s}, options...))
	handle(injectv1connect.NewImportServiceHandler(&importService{s}, options...))
	names := []string{
		secretconnect.SecretServiceName, clusterconnect.ClusterServiceName,
		injectv1connect.ResolveServiceName, injectv1connect.ImportServiceName,
	}
	mux.Handle(grpchealth.NewHandler(grpchealth.NewStaticChecker(names...), messageOptions()))
	reflector := grpcreflect.NewStaticReflector(names...)
	mux.Handle(grpcreflect.NewHandlerV1(reflector, messageOptions()))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector, messageOptions()))
	return mux
}

// guard returns the store as the caller of ctx may use it.
func (s *Server) guard(ctx context.Context) *guard {
	c, ok := ctx.Value(callerKey{}).(*caller)
	if !ok {
		panic("a request that was not identified") // a handler outside of identify
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

// ofStore is err of the backend. Where that is denied something, such as the key of its
// file, it is out of order: nothing is denied to who is calling.
func ofStore(err error) error {
	if errors.Is(err, secret.ErrDenied) {
		return fmt.Errorf("%w: the store: %s", secret.ErrUnavailable, err.Error())
	}
	return err
}
