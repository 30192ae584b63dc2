package serve_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/resolver/serve"
)

// stuck is the body of a request that stops before its end until ctx has ended.
type stuck struct {
	ctx  context.Context //nolint:containedctx // of the attack
	left int
}

func (s *stuck) Read(p []byte) (int, error) {
	if s.left == 0 {
		<-s.ctx.Done()
		return 0, io.ErrUnexpectedEOF
	}
	n := min(len(p), s.left)
	for i := range p[:n] {
		p[i] = ' '
	}
	s.left -= n
	return n, nil
}

// withstands sends n requests at once, again and again, while another identity is served: each
// request of that identity is answered, and within a second if the processors are not busy with
// other programs. It returns how many requests of the attack had which status, and by how many bytes
// of heap and stacks more was alive at most. Garbage is not counted, since how much there is depends
// on when the collector gets a processor.
func (r *running) withstands(
	t *testing.T, client *http.Client, n int, attack func(context.Context) *http.Request,
) (answers map[int]int, grown uint64) {
	t.Helper()
	victim := r.client(certOf(r.Authority, "platform", "spiffe://example.org/platform/victim"))
	task := r.client(certOf(r.Authority, "victim", "spiffe://example.org/project/shop/domain/production/task/t"))
	serves := func() {
		for client, asked := range map[*http.Client][2]string{
			victim: {secrets + "ListSecrets", `{"limit":1}`}, task: {resolve, `{"secrets":[{"key":"K"}]}`},
		} {
			// One that waits for the attacker is slow, or refused, each time that it is tried.
			for try, took := 1, time.Hour; took >= time.Second; try++ {
				require.LessOrEqual(t, try, 5, "others wait for the attacker")
				start := time.Now()
				a := r.ask(client, asked[0], asked[1])
				require.Equal(t, http.StatusOK, a.status, a.raw)
				took = time.Since(start)
			}
		}
	}
	alive := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	serves()
	before := alive()

	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var mu sync.Mutex
	answers = map[int]int{}
	for range n {
		all.Go(func() {
			for ctx.Err() == nil {
				status := 0
				answer, err := client.Do(attack(ctx))
				if err == nil {
					status = answer.StatusCode
					_, _ = io.Copy(io.Discard, answer.Body)
					_ = answer.Body.Close()
				}
				mu.Lock()
				answers[status]++
				mu.Unlock()
				time.Sleep(10 * time.Millisecond) // the attacker has a processor of its own elsewhere
			}
		})
	}
	time.Sleep(200 * time.Millisecond)
	for end := time.Now().Add(2500 * time.Millisecond); time.Now().Before(end); { // longer than a request waits
		serves()
		now := alive()
		grown = max(grown, now-min(before, now))
		time.Sleep(50 * time.Millisecond)
	}
	stop()
	all.Wait()
	t.Logf("%v; %d MiB", answers, grown>>20)
	return answers, grown
}

// Services without credentials hold a few KiB of each request, of a few requests.
func TestOpenServicesAreBounded(t *testing.T) {
	for _, method := range []string{
		"grpc.health.v1.Health/Check", "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
	} {
		t.Run(method, func(t *testing.T) {
			r := start(t, matrixPolicy, nil)
			kind := map[bool]string{true: "application/grpc", false: "application/json"}[method[5] == 'r']
			_, grown := r.withstands(t, r.client(nil), 100, func(ctx context.Context) *http.Request {
				request := r.request(method, "").WithContext(ctx)
				request.Header.Set("Content-Type", kind)
				request.Body, request.ContentLength = io.NopCloser(&stuck{ctx, 4<<20 - 1}), -1
				return request
			})
			require.Less(t, grown, uint64(64<<20), "a hundred bodies of 4 MiB")

			// Also without a body, so that only the number of requests is bounded.
			answers, _ := r.withstands(t, r.client(nil), 100, func(ctx context.Context) *http.Request {
				request := r.request(method, "").WithContext(ctx)
				request.Header.Set("Content-Type", kind)
				request.Body, request.ContentLength = io.NopCloser(&stuck{ctx, 1}), -1
				return request
			})
			t.Log(answers)
			require.Positive(t, metric(t, r.registry, "inject_exhausted_total", "resource=open"))
		})
	}
}

// The bodies of one identity have a bound together, whether they end or not.
func TestBodiesAreBounded(t *testing.T) {
	r := start(t, matrixPolicy, nil)
	task := r.client(certOf(r.Authority, "task", "spiffe://example.org/project/web/domain/development/task/t"))
	_, grown := r.withstands(t, task, 90, func(ctx context.Context) *http.Request {
		request := r.request(resolve, "").WithContext(ctx)
		request.Body, request.ContentLength = io.NopCloser(&stuck{ctx, 4<<20 - 1}), -1
		return request
	})
	require.Less(t, grown, uint64(100<<20), "ninety bodies of 4 MiB")
	require.Positive(t, metric(t, r.registry, "inject_exhausted_total", "resource=body"))
	require.Eventually(t, func() bool { return r.ask(task, resolve, `{"secrets":[{"key":"K"}]}`).status == 200 },
		5*time.Second, 50*time.Millisecond)
}

// A server without credentials answers no web page, by whatever name the page was loaded.
func TestWebPagesAreRefused(t *testing.T) {
	r := start(t, matrixPolicy, func(o *serve.Options) { o.Authenticator = nil })
	client := r.client(nil)
	for name, test := range map[string]struct {
		header, value string
		want          int
	}{
		"a program":                  {"X-Any", "1", http.StatusOK},
		"its own address":            {"Origin", "http://" + r.address, http.StatusOK},
		"a page of elsewhere":        {"Origin", "https://attacker.example", http.StatusForbidden},
		"a page of another port":     {"Origin", "http://127.0.0.1:1", http.StatusForbidden},
		"a page of a file":           {"Origin", "null", http.StatusForbidden},
		"a name of this machine":     {"Host", "localhost:1", http.StatusOK},
		"a name that was pointed at": {"Host", "attacker.example", http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			for _, method := range []string{secrets + "ListSecrets", "grpc.health.v1.Health/Check"} {
				request := r.request(method, `{}`, test.header, test.value)
				if test.header == "Host" {
					request.Host = test.value
				}
				answer, err := client.Do(request)
				require.NoError(t, err)
				_ = answer.Body.Close()
				require.Equal(t, test.want, answer.StatusCode, method)
			}
		})
	}
}

// Bodies of an identity that no rule matches are not read.
func TestUnmatchedIsNotRead(t *testing.T) {
	r := start(t, matrixPolicy, nil)
	stranger := r.client(certOf(r.Authority, "elsewhere", "spiffe://example.org/elsewhere"))
	answers, grown := r.withstands(t, stranger, 90, func(ctx context.Context) *http.Request {
		request := r.request(resolve, "").WithContext(ctx)
		request.Body, request.ContentLength = io.NopCloser(&stuck{ctx, 4<<20 - 1}), -1
		return request
	})
	require.Less(t, grown, uint64(64<<20), "ninety bodies of 4 MiB")
	require.Positive(t, answers[http.StatusForbidden], answers)
	resolved := metric(t, r.registry, "inject_requests_total", "method=/inject", "code=ok") // others'
	require.InDelta(t, resolved, metric(t, r.registry, "inject_requests_total", "method=/inject"), 0)
	require.Less(t, len(r.audit.lines(t, 0)), 1500)
}

// Small compressed bodies that are large lists do not take memory.
func TestListsAreCountedBeforeTheyAreDecoded(t *testing.T) {
	r := start(t, matrixPolicy, nil)
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, err := w.Write(bytes.Repeat([]byte{0x12, 0}, 2<<20-100))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	task := r.client(certOf(r.Authority, "task", "spiffe://example.org/project/web/domain/development/task/t"))
	request := func(ctx context.Context) *http.Request {
		request := r.request(resolve, z.String(), "Content-Encoding", "gzip").WithContext(ctx)
		request.Header.Set("Content-Type", "application/proto")
		return request
	}
	_, grown := r.withstands(t, task, 12, request)
	require.Less(t, grown, uint64(100<<20))
	require.Eventually(t, func() bool { // when the server has ended the requests that were given up
		answer, err := task.Do(request(t.Context()))
		require.NoError(t, err)
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusBadRequest
	}, 20*time.Second, 10*time.Millisecond)
	require.Contains(t, r.audit.String(), "declarations")
}
