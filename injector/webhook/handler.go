package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"inject/internal/printable"
	"inject/internal/shares"
)

// The paths of the two webhooks.
const (
	MutatePath  = "/mutate"
	InheritPath = "/inherit"
)

// What callers may make the handler hold and do. A network is an IPv4 address or an IPv6 /64: the API
// server gives no credentials, so nothing else is known of a caller. A request that does not get its share
// is answered with 503, and then no pod is created: the API server tells its user, and Flyte tries again.
const (
	// MaxBody is the longest request in bytes. The API server takes 3 MiB for an object, and adds to it the
	// user that makes it.
	MaxBody = 4 << 20
	// MaxBodies are the bytes of bodies that are held at the same time. What is decoded of a body, and its
	// answer, take up to 18 times its size, most of it only until the next collection.
	MaxBodies = 16 << 20
	// BodiesOf are those of one network.
	BodiesOf = 8 << 20
	// MaxValues are the fields and items of a review, at any depth. Of a few bytes each they would take up to a
	// hundred times their size. A pod with 1000 mounts and 1000 variables has 6000.
	MaxValues = 1 << 15
	// MaxRequests are the requests under way.
	MaxRequests = 2048
	// RequestsOf are those of one network. The API server has 600 of all kinds at most, unless its flags
	// --max-requests-inflight and --max-mutating-requests-inflight say otherwise.
	RequestsOf = 1024
	// BodyTime is how long the body of a request may take to arrive. The API server waits 10 s for an answer.
	BodyTime = 5 * time.Second
	// Patience is how long a request waits for its share of bodies.
	Patience = shares.Patience
	// LineRate are the lines of the log a second about requests of one network; twice as many about those
	// of all.
	LineRate = 200
	// LineBurst are those at once.
	LineBurst = 2000

	maxCallers = 1000 // of which the lines are counted
	maxName    = 253  // of an object, in bytes; longer ones are cut in the log
)

// Options say what a handler needs.
type Options struct {
	Config  func() *Config // the present one; it is asked for each request
	Log     hclog.Logger
	Metrics prometheus.Registerer
	Port    Port
}

// A Port knows connections, which are bounded before a request is known. It is safe for concurrent use.
type Port interface {
	// Network returns the network of a remote address, HOST:PORT.
	Network(remote string) string
	// Accepted tells the port that the connection of a request's context is one of a network. It returns false
	// if the network has too many: then the request must be refused.
	Accepted(ctx context.Context, network string) bool
	// Explained tells the port that n bytes of input were a good request.
	Explained(ctx context.Context, n int)
}

// A handler answers reviews of admission.
type handler struct {
	Options

	requests, bodies *shares.Shares // by network
	lines            *lines
	seen             *prometheus.CounterVec
	exhausted        *prometheus.CounterVec
	seconds          prometheus.Histogram
}

// Handler returns what answers the API server's reviews (AdmissionReview of admission.k8s.io/v1) on
// [MutatePath] and [InheritPath]. It allows every request: see [Mutate] and [Inherit] for what it changes.
func Handler(o Options) http.Handler {
	h := &handler{
		Options: o, lines: newLines(),
		requests: shares.New(MaxRequests, RequestsOf, false), bodies: shares.New(MaxBodies, BodiesOf, false),
		seen: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "inject", Name: "reviews_total", Help: "Pods that were reviewed, by what became of them.",
		}, []string{"outcome"}),
		exhausted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "inject", Name: "exhausted_total",
			Help: "Requests that were refused because a share was used up, by what it was a share of.",
		}, []string{"resource"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "inject", Name: "review_duration_seconds", Help: "How long a review took, with its body.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
	}
	for _, outcome := range []Outcome{Changed, Already, Other, Left, failed} {
		h.seen.WithLabelValues(string(outcome))
	}
	o.Metrics.MustRegister(h.seen, h.exhausted, h.seconds)
	mux := http.NewServeMux()
	mux.Handle("POST "+MutatePath, h.answers(func(c *Config, r *request) Result { return Mutate(c, r.Object) }))
	mux.Handle("POST "+InheritPath, h.answers(func(_ *Config, r *request) Result {
		if maker := r.maker(); maker != "" {
			return Inherit(r.Object, maker)
		}
		return Result{Outcome: Other}
	}))
	return mux
}

// failed is the outcome of a request without an answer.
const failed Outcome = "failed"

// A review is an AdmissionReview (k8s.io/api/admission/v1), as far as it is read. Those types would link
// what decodes them.
type review struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Request    *request `json:"request"`
}

type request struct {
	UID         string          `json:"uid"`
	Kind        kind            `json:"kind"`
	SubResource string          `json:"subResource"`
	Operation   string          `json:"operation"`
	Name        string          `json:"name"`
	Namespace   string          `json:"namespace"`
	UserInfo    user            `json:"userInfo"`
	Object      json.RawMessage `json:"object"`
}

type kind struct {
	Group   string `json:"group"`
	Version string `json:"version"`
	Kind    string `json:"kind"`
}

type user struct {
	Username string          `json:"username"`
	Extra    json.RawMessage `json:"extra"` // decoded when its values are counted
}

type answer struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Response   response `json:"response"`
}

type response struct {
	UID       string `json:"uid"`
	Allowed   bool   `json:"allowed"`
	PatchType string `json:"patchType,omitempty"`
	Patch     []byte `json:"patch,omitempty"`
}

const (
	reviewVersion = "admission.k8s.io/v1"
	reviewKind    = "AdmissionReview"
)

// maker returns the pod of the request's namespace whose token its user has, as NAME/UID, or "". The API
// server takes these values from the token. inject.maker of the chart's policies has the same rule.
func (r *request) maker() string {
	var extra map[string][]string
	if json.Unmarshal(r.UserInfo.Extra, &extra) != nil {
		return ""
	}
	one := func(name string) string {
		if all := extra["authentication.kubernetes.io/"+name]; len(all) > 0 {
			return all[0]
		}
		return ""
	}
	name, uid := one("pod-name"), one("pod-uid")
	if name == "" || uid == "" || !strings.HasPrefix(r.UserInfo.Username, "system:serviceaccount:"+r.Namespace+":") {
		return ""
	}
	return name + "/" + uid
}

// A refusal is an answer that is no review. Its text is ours.
type refusal struct {
	code     int
	text     string
	resource string // of which a share is used up
}

func (r *refusal) Error() string { return r.text }

// answers returns what answers reviews with result.
func (h *handler) answers(result func(*Config, *request) Result) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		network := h.Port.Network(r.RemoteAddr)
		err := h.answer(w, r, network, result)
		h.seconds.Observe(time.Since(start).Seconds())
		if err == nil {
			return
		}
		h.seen.WithLabelValues(string(failed)).Inc()
		no := &refusal{code: http.StatusInternalServerError, text: "the server failed"}
		_ = errors.As(err, &no)
		if no.resource != "" {
			h.exhausted.WithLabelValues(no.resource).Inc()
			w.Header().Set("Retry-After", "1")
		}
		if h.lines.allow(network) {
			h.Log.Warn("a request was refused", "remote", r.RemoteAddr, "code", no.code, "reason", no.text)
		}
		http.Error(w, no.text, no.code)
	})
}

func (h *handler) answer(
	w http.ResponseWriter, r *http.Request, network string, result func(*Config, *request) Result,
) (err error) {
	defer func() {
		if what := recover(); what != nil { // not logged, since it may have a part of a pod
			h.Log.Error("a review's handler panicked", "type", fmt.Sprintf("%T", what), "stack", string(debug.Stack()))
			err = errors.New("panic")
		}
	}()
	place := h.requests.Hold(network)
	defer place.Close()
	if !place.Try(1) { // a request waits for bytes, but not to be counted
		return &refusal{http.StatusServiceUnavailable, "too many requests at the same time", "request"}
	}
	if !h.Port.Accepted(r.Context(), network) {
		return &refusal{http.StatusServiceUnavailable, "too many connections", "connection"}
	}
	held := h.bodies.Hold(network)
	defer held.Close()
	body, err := h.read(w, r, held)
	if err != nil {
		return err
	}
	in, err := decode(body)
	if err != nil {
		return err
	}

	res := Result{Outcome: Other}
	c := h.Config()
	pod := kind{Version: "v1", Kind: "Pod"}
	if in.Kind == pod && in.SubResource == "" && in.Operation == "CREATE" &&
		slices.Contains(c.TaskNamespaces, in.Namespace) {
		if res = left(Large); !many(body) {
			res = result(c, in)
		}
	}
	out := answer{reviewVersion, reviewKind, response{UID: in.UID, Allowed: true}}
	if len(res.Operations) > 0 {
		out.Response.PatchType, out.Response.Patch = "JSONPatch", encode(res.Operations)
	}
	h.seen.WithLabelValues(string(res.Outcome)).Inc()
	if h.lines.allow(network) {
		h.log(r.URL.Path, in, res)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(encode(out))
	if r.ProtoMajor == 2 {
		// The library sends the rest after the handler, when the request is no longer counted.
		_ = http.NewResponseController(w).Flush()
	}
	return nil
}

// read returns the body of r, whose size it adds to held.
func (h *handler) read(w http.ResponseWriter, r *http.Request, held *shares.Hold) (body []byte, err error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, &refusal{http.StatusUnsupportedMediaType, "a review is application/json", ""}
	}
	tooLarge := &refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("a review has at most %d bytes", MaxBody), ""}
	size := r.ContentLength
	if size < 0 {
		size = MaxBody
	}
	if size > MaxBody {
		return nil, tooLarge
	}
	if held.Grow(r.Context(), size) != nil {
		return nil, &refusal{http.StatusServiceUnavailable, "too many bytes at the same time", "body"}
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(BodyTime))
	h.Port.Explained(r.Context(), headerInput)
	var b bytes.Buffer
	if r.ContentLength > 0 {
		b.Grow(int(size) + bytes.MinRead)
	}
	explained := readerFunc(func(p []byte) (int, error) {
		n, err := r.Body.Read(p)
		// At once, and not for all of the body before: what may come at once has a bound.
		h.Port.Explained(r.Context(), n)
		return n, err
	})
	if _, err := b.ReadFrom(http.MaxBytesReader(w, io.NopCloser(explained), size)); err != nil {
		if _, over := errors.AsType[*http.MaxBytesError](err); over {
			return nil, tooLarge
		}
		return nil, &refusal{http.StatusBadRequest, "the body did not arrive whole, or not in time", ""}
	}
	return b.Bytes(), nil
}

type readerFunc func([]byte) (int, error)

// Read implements [io.Reader].
func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// headerInput is how many bytes of input a request takes beside its body, in frames and TLS records.
const headerInput = 1 << 10

// decode returns the request of a review.
func decode(body []byte) (*request, error) {
	bad := func(text string) error { return &refusal{http.StatusBadRequest, text, ""} }
	var in review
	switch err := json.Unmarshal(body, &in); {
	case err != nil:
		return nil, bad("the body is not the JSON of a review") // the error may quote it
	case in.APIVersion != reviewVersion || in.Kind != reviewKind:
		return nil, bad("the body is no " + reviewKind + " of " + reviewVersion)
	case in.Request == nil || in.Request.UID == "":
		return nil, bad("the review has no request, or none with a uid")
	}
	return in.Request, nil
}

// log says what became of a pod: never more of it than its name.
func (h *handler) log(path string, in *request, res Result) {
	fields := []any{
		"webhook", path, "namespace", printable.Text(in.Namespace, maxName),
		"name", printable.Text(in.podName(), maxName), "outcome", string(res.Outcome),
	}
	if res.Reason != "" {
		fields = append(fields, "reason", string(res.Reason))
	}
	h.Log.Info("reviewed", fields...)
}

// podName returns the name of the pod, or the beginning of the one that it will get.
func (r *request) podName() string {
	if r.Name != "" {
		return r.Name
	}
	var o struct {
		Metadata struct {
			Name         string `json:"name"`
			GenerateName string `json:"generateName"`
		} `json:"metadata"`
	}
	if json.Unmarshal(r.Object, &o) != nil {
		return ""
	}
	if o.Metadata.Name != "" {
		return o.Metadata.Name
	}
	return o.Metadata.GenerateName
}
