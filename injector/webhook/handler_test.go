package webhook_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"inject/injector/webhook"
	"inject/internal/harness"
)

// open is a port without bounds, on which each address is a network of its own.
type open struct{}

func (open) Network(remote string) string { host, _, _ := net.SplitHostPort(remote); return host }

func (open) Accepted(context.Context, string) bool { return true }

func (open) Explained(context.Context, int) {}

// served is a server with the handler.
type served struct {
	*httptest.Server

	log      *harness.Buffer
	registry *prometheus.Registry
}

func serve(t testing.TB) *served {
	t.Helper()
	s := &served{log: &harness.Buffer{}, registry: prometheus.NewRegistry()}
	c := parse(t)
	handler := webhook.Handler(webhook.Options{
		Config: func() *webhook.Config { return c }, Metrics: s.registry, Port: open{},
		Log: hclog.New(&hclog.LoggerOptions{Output: s.log, Level: hclog.Trace, JSONFormat: true}),
	})
	s.Server = httptest.NewUnstartedServer(handler)
	s.Server.EnableHTTP2 = true
	s.Server.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 2 * webhook.RequestsOf}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// reviewed returns the review of a pod that Flyte creates, with changes of the request.
func reviewed(pod any, changes ...func(request object)) object {
	request := object{
		"uid": "1-2-3", "kind": object{"group": "", "version": "v1", "kind": "Pod"},
		"resource":  object{"group": "", "version": "v1", "resource": "pods"},
		"operation": "CREATE", "name": "run-a0-0", "namespace": "flyte", "object": pod,
		"userInfo": object{"username": "system:serviceaccount:flyte-system:flyte"},
	}
	for _, change := range changes {
		change(request)
	}
	return object{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
}

// post sends a body and returns the answer.
func (s *served) post(t testing.TB, path string, body []byte) (code int, answer []byte) {
	t.Helper()
	r, err := s.Client().Post(s.URL+path, "application/json", bytes.NewReader(body))
	require.NoError(t, err)
	answer, err = io.ReadAll(r.Body)
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	return r.StatusCode, answer
}

// review returns the operations of the answer to a review.
func (s *served) review(t testing.TB, path string, review any) (o []webhook.Operation) {
	t.Helper()
	code, text := s.post(t, path, encode(t, review))
	require.Equal(t, http.StatusOK, code, "%s", text)
	var answer struct {
		APIVersion, Kind string
		Response         struct {
			UID, PatchType string
			Allowed        bool
			Patch          []byte
		}
	}
	require.NoError(t, json.Unmarshal(text, &answer))
	require.Equal(t, "admission.k8s.io/v1 AdmissionReview 1-2-3 true", fmt.Sprint(
		answer.APIVersion, " ", answer.Kind, " ", answer.Response.UID, " ", answer.Response.Allowed))
	if answer.Response.Patch == nil {
		require.Empty(t, answer.Response.PatchType)
		return nil
	}
	require.Equal(t, "JSONPatch", answer.Response.PatchType)
	require.NoError(t, json.Unmarshal(answer.Response.Patch, &o))
	return o
}

// Reviews are answered with what Mutate and Inherit return, and only those of new pods of tasks.
func TestReviews(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pod, _ := newPod()
	want := webhook.Mutate(parse(t), encode(t, pod)).Operations
	require.Equal(t, want, s.review(t, webhook.MutatePath, reviewed(pod)))
	kind := func(group, name string) func(object) {
		return func(r object) { r["kind"] = object{"group": group, "version": "v1", "kind": name} }
	}
	for name, change := range map[string]func(object){
		"another namespace":        func(r object) { r["namespace"] = "other" },
		"an update":                func(r object) { r["operation"] = "UPDATE" },
		"a part of a pod":          func(r object) { r["subResource"] = "status" },
		"another kind":             kind("apps", "Deployment"),
		"a pod of elsewhere":       kind("x.org", "Pod"),
		"no object":                func(r object) { delete(r, "object") },
		"an object that is null":   func(r object) { r["object"] = nil },
		"an object that is a text": func(r object) { r["object"] = "pod" },
		"no containers": func(r object) {
			pod, _ := newPod()
			delete(obj(pod["spec"]), "containers")
			r["object"] = pod
		},
		"containers of another type": func(r object) {
			pod, _ := newPod()
			obj(pod["spec"])["containers"] = object{"name": "x"}
			r["object"] = pod
		},
	} {
		require.Nil(t, s.review(t, webhook.MutatePath, reviewed(pod, change)), name)
	}

	// The namespace is that of the request, and not what the pod says.
	const account, other = "system:serviceaccount:flyte:default", "system:serviceaccount:flyte-system:flyte"
	by := func(name string, extra object) func(object) {
		return func(r object) { r["userInfo"] = object{"username": name, "extra": extra} }
	}
	extra := object{
		"authentication.kubernetes.io/pod-name": list{"driver"}, "authentication.kubernetes.io/pod-uid": list{"7"},
	}
	made := s.review(t, webhook.InheritPath, reviewed(pod, by(account, extra)))
	require.Equal(t, webhook.Inherit(encode(t, pod), "driver/7").Operations, made)
	for name, change := range map[string]func(object){
		"another namespace's account": by(other, extra),
		"a person":                    by("flyte", extra),
		"a token of no pod":           by(account, nil),
		"a token without a uid":       by(account, object{"authentication.kubernetes.io/pod-name": list{"driver"}}),
		"empty lists": by(account, object{
			"authentication.kubernetes.io/pod-name": list{}, "authentication.kubernetes.io/pod-uid": list{},
		}),
	} {
		require.Nil(t, s.review(t, webhook.InheritPath, reviewed(pod, change)), name)
	}
}

// What is no review is refused, and the server goes on.
func TestHostileReviews(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pod, first := newPod()
	good := reviewed(pod)
	without := func(name string) []byte {
		r := reviewed(pod)
		delete(r, name)
		return encode(t, r)
	}
	for name, body := range map[string][]byte{
		"nothing":         nil,
		"no JSON":         []byte("{"),
		"two":             append(encode(t, good), encode(t, good)...),
		"a list":          []byte("[]"),
		"no request":      without("request"),
		"no version":      without("apiVersion"),
		"no kind":         without("kind"),
		"an old version":  bytes.Replace(encode(t, good), []byte("k8s.io/v1"), []byte("k8s.io/v1beta1"), 1),
		"another kind":    bytes.Replace(encode(t, good), []byte(`"AdmissionReview"`), []byte(`"Review"`), 1),
		"no uid":          bytes.Replace(encode(t, good), []byte(`"1-2-3"`), []byte(`""`), 1),
		"a number as uid": bytes.Replace(encode(t, good), []byte(`"1-2-3"`), []byte(`1`), 1),
		"deep nesting":    bytes.Replace(encode(t, good), []byte(`"1-2-3"`), []byte(strings.Repeat("[", 1e6)), 1),
		"a deep object": bytes.Replace(encode(t, good), []byte(`"future":`), []byte(
			`"future":`+strings.Repeat(`{"a":`, 20000)+"1"+strings.Repeat("}", 20000)+`,"x":`), 1),
	} {
		code, text := s.post(t, webhook.MutatePath, body)
		require.Equal(t, http.StatusBadRequest, code, "%s: %s", name, text)
	}

	// Of names that are given twice the last counts, for the server as for what applies its answer.
	twice := bytes.Replace(encode(t, pod), []byte(`"spec":{`),
		[]byte(`"spec":{"containers":[]},"spec":{"volumes":7,"volumes":[],`), 1)
	require.NotEqual(t, encode(t, pod), twice)
	o := s.review(t, webhook.MutatePath, reviewed(json.RawMessage(twice)))
	require.NotEmpty(t, o)
	require.Equal(t, webhook.Already, webhook.Mutate(parse(t), apply(t, twice, o)).Outcome)

	// As large as the API server sends them.
	first["args"] = list{"a0", strings.Repeat("x", 3<<20)}
	require.NotEmpty(t, s.review(t, webhook.MutatePath, reviewed(pod)))
	first["command"] = list{"run", strings.Repeat("x", 1<<19)} // which is in the answer, too
	require.NotEmpty(t, s.review(t, webhook.MutatePath, reviewed(pod)))

	for _, size := range []int{webhook.MaxBody, webhook.MaxBody + 1, 8 << 20} {
		code, _ := s.post(t, webhook.MutatePath, bytes.Repeat([]byte(" "), size))
		want := http.StatusRequestEntityTooLarge
		if size == webhook.MaxBody {
			want = http.StatusBadRequest
		}
		require.Equal(t, want, code)
		// Without a length.
		r, err := s.Client().Post(s.URL+webhook.MutatePath, "application/json",
			io.MultiReader(strings.NewReader(" "), bytes.NewReader(bytes.Repeat([]byte(" "), size-1))))
		require.NoError(t, err)
		require.NoError(t, r.Body.Close())
		require.Equal(t, want, r.StatusCode)
	}

	r, err := s.Client().Get(s.URL + webhook.MutatePath)
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	require.Equal(t, http.StatusMethodNotAllowed, r.StatusCode)
	r, err = s.Client().Post(s.URL+webhook.MutatePath, "text/plain", bytes.NewReader(encode(t, good)))
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	require.Equal(t, http.StatusUnsupportedMediaType, r.StatusCode)
	code, _ := s.post(t, "/", encode(t, good))
	require.Equal(t, http.StatusNotFound, code)
}

// The log has a pod's name and what became of it, and nothing else of it; metrics count.
func TestLog(t *testing.T) {
	t.Parallel()
	s := serve(t)
	canary := rand.Text()
	pod, first := newPod()
	first["env"], first["args"] = list{object{"name": canary, "value": canary}}, list{"a0", canary}
	obj(pod["metadata"])["annotations"] = object{"x": canary}
	s.review(t, webhook.MutatePath, reviewed(pod, func(r object) { r["name"] = "planted-" + canary }))
	require.Contains(t, s.log.String(), canary, "the search finds what is there")

	value := rand.Text()
	text := bytes.ReplaceAll(encode(t, pod), []byte(canary), []byte(value))
	s.review(t, webhook.MutatePath, reviewed(json.RawMessage(text)))
	first["args"] = list{value} // its entrypoint is not known
	obj(pod["metadata"])["generateName"] = "made-"
	delete(obj(pod["metadata"]), "name")
	s.review(t, webhook.MutatePath, reviewed(pod, func(r object) { delete(r, "name") }))
	_, _ = s.post(t, webhook.MutatePath, []byte(`{"`+value+`":`))
	_, _ = s.post(t, webhook.MutatePath, []byte(`{"apiVersion":"`+value+`"}`))
	log := s.log.String()
	require.NotContains(t, log, value)
	require.Contains(t, log, `"name":"run-a0-0","namespace":"flyte","outcome":"changed"`)
	require.Contains(t, log,
		`"name":"made-","namespace":"flyte","outcome":"left","reason":"`+string(webhook.NoEntrypoint)+`"`)

	families, err := s.registry.Gather()
	require.NoError(t, err)
	seen := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "inject_reviews_total" {
			for _, m := range f.GetMetric() {
				seen[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	require.Equal(t, map[string]float64{"changed": 2, "left": 1, "failed": 2, "other": 0, "already": 0}, seen)
}

// client returns one whose requests come from the address.
func (s *served) client(t *testing.T, address string) *http.Client {
	t.Helper()
	base, ok := s.Client().Transport.(*http.Transport)
	require.True(t, ok)
	transport := base.Clone()
	transport.DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}).DialContext
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// stuck sends a review whose body of n bytes does not come, and returns the status of the answer; 0 if there is
// none.
func (s *served) stuck(ctx context.Context, c *http.Client, n int64) int {
	body, _ := io.Pipe()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+webhook.MutatePath, body)
	if err != nil {
		return 0
	}
	r.ContentLength = n
	r.Header.Set("Content-Type", "application/json")
	answer, err := c.Do(r)
	if err != nil {
		return 0
	}
	_ = answer.Body.Close()
	return answer.StatusCode
}

// The bodies of one network have a bound, and others are served meanwhile; one that does not arrive is given up.
func TestBodiesAreBounded(t *testing.T) {
	t.Parallel()
	s := serve(t)
	greedy, modest := s.client(t, "127.0.0.2"), s.client(t, "127.0.0.1")
	var all sync.WaitGroup
	var mu sync.Mutex
	answers := map[int]int{}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	// over is true when the server has refused a body, and given up another one that did not arrive.
	over := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return ctx.Err() != nil || answers[http.StatusServiceUnavailable] > 0 && answers[http.StatusBadRequest] > 0
	}
	for range 4 * webhook.BodiesOf / webhook.MaxBody {
		all.Go(func() {
			for !over() {
				code := s.stuck(ctx, greedy, webhook.MaxBody)
				mu.Lock()
				answers[code]++
				mu.Unlock()
			}
		})
	}
	pod, _ := newPod()
	body := encode(t, reviewed(pod))
	for !over() {
		time.Sleep(50 * time.Millisecond)
		r, err := modest.Post(s.URL+webhook.MutatePath, "application/json", bytes.NewReader(body))
		require.NoError(t, err)
		require.NoError(t, r.Body.Close())
		require.Equal(t, http.StatusOK, r.StatusCode, "one that waits for the other network is refused, too")
	}
	all.Wait() // the server gives them up by itself
	require.Positive(t, answers[http.StatusServiceUnavailable], answers)
	require.Positive(t, answers[http.StatusBadRequest], answers)
}

// The requests of one network have a bound, and others are served meanwhile.
func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	s := serve(t)
	greedy, modest := s.client(t, "127.0.0.2"), s.client(t, "127.0.0.1")
	// One connection for all: a thousand handshakes would take longer than a body may.
	warm, err := greedy.Post(s.URL+webhook.MutatePath, "application/json", http.NoBody)
	require.NoError(t, err)
	require.NoError(t, warm.Body.Close())
	ctx, stop := context.WithCancel(t.Context())
	refused := make(chan struct{}, 1)
	var all sync.WaitGroup
	for range webhook.RequestsOf + 50 {
		all.Go(func() {
			// Again, since the first may be given up before the last is sent.
			for code := 0; code != http.StatusServiceUnavailable; {
				if code = s.stuck(ctx, greedy, 1); ctx.Err() != nil {
					return
				}
			}
			select {
			case refused <- struct{}{}:
			default:
			}
		})
	}
	defer all.Wait()
	defer stop()
	select {
	case <-refused:
	case <-time.After(time.Minute):
		t.Fatal("all are served")
	}
	pod, _ := newPod()
	r, err := modest.Post(s.URL+webhook.MutatePath, "application/json", bytes.NewReader(encode(t, reviewed(pod))))
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	require.Equal(t, http.StatusOK, r.StatusCode)
}

// The lines of one network have a bound, and those of others are written.
func TestLinesAreBounded(t *testing.T) {
	t.Parallel()
	s := serve(t)
	greedy, modest := s.client(t, "127.0.0.2"), s.client(t, "127.0.0.1")
	send := func(c *http.Client, name string) {
		pod, _ := newPod()
		body := encode(t, reviewed(pod, func(r object) { r["name"] = name }))
		r, err := c.Post(s.URL+webhook.MutatePath, "application/json", bytes.NewReader(body))
		if err == nil {
			_, err = io.Copy(io.Discard, r.Body)
			err = errors.Join(err, r.Body.Close())
		}
		assert.NoError(t, err) // on a goroutine
	}
	start := time.Now()
	sent, written := 0, 0
	for sent == written { // the line of a request is written before its answer
		require.Less(t, time.Since(start), 2*time.Minute, "%d requests, each with its line", sent)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range webhook.LineBurst / 8 {
					send(greedy, "greedy")
				}
			})
		}
		all.Wait()
		sent += webhook.LineBurst
		written = strings.Count(s.log.String(), `"greedy"`)
	}
	send(modest, "modest")
	require.LessOrEqual(t, written, webhook.LineBurst+int(time.Since(start).Seconds()+1)*webhook.LineRate)
	require.Contains(t, s.log.String(), `"modest"`)
}
