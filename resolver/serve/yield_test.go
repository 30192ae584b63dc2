package serve_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"inject/resolver/serve/transport"
)

// Callers that together hold all that there is of something must give up a part of it for a caller
// with less: bodies that are not sent on, and answers that are not read.
func TestCallersWithMuchYield(t *testing.T) {
	for name, test := range map[string]struct {
		callers int
		metric  string
		ask     func(ctx context.Context, r *running, client *http.Client) error
	}{
		"bodies": {4, "resource=body", func(ctx context.Context, r *running, client *http.Client) error {
			request := r.request(resolve, "").WithContext(ctx)
			request.Body, request.ContentLength = io.NopCloser(&stuck{ctx, 4<<20 - 1}), -1
			answer, err := client.Do(request)
			if err == nil {
				_ = answer.Body.Close()
			}
			return err
		}},
		"answers": {2, "resource=answer", func(ctx context.Context, r *running, client *http.Client) error {
			body := keysOf("LARGE", 16)
			answer, err := client.Do(r.request(resolve, body).WithContext(ctx))
			if err != nil {
				return err
			}
			defer answer.Body.Close() //nolint:errcheck // it is not read
			// The first bytes only, until the server cuts the answer off.
			if _, err = io.ReadFull(answer.Body, make([]byte, 1)); err == nil && answer.StatusCode == http.StatusOK {
				<-ctx.Done()
			}
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, matrixPolicy, overCostly(t))
			id := "spiffe://example.org/project/shop/domain/production/task/t"
			victim := r.client(certOf(r.Authority, "victim", id))
			refused := 0
			// serves asks again when it is refused, as clients do. Where a large answer takes seconds to
			// make, because the machine has other work, a request may wait in vain for its share.
			serves := func() {
				for begin := time.Now(); ; refused++ {
					a := r.ask(victim, resolve, `{"secrets":[{"key":"K"}]}`)
					if a.status == http.StatusTooManyRequests && time.Since(begin) < soon {
						time.Sleep(time.Second) // as the answer asks it to
						continue
					}
					require.Equal(t, http.StatusOK, a.status, a.raw)
					return
				}
			}
			serves()
			ctx, cancel := context.WithCancel(t.Context())
			var all sync.WaitGroup
			for i := range test.callers {
				id := fmt.Sprintf("spiffe://example.org/project/p%d/domain/d/task/t", i)
				client := r.http1(certOf(r.Authority, fmt.Sprint("caller", i), id))
				over, ok := client.Transport.(*http.Transport)
				require.True(t, ok)
				over.DisableCompression = true // large answers are zeros
				for range 3 {
					all.Go(func() {
						for ctx.Err() == nil {
							_ = test.ask(ctx, r, client)
							time.Sleep(time.Millisecond)
						}
					})
				}
			}
			require.Eventually(t, func() bool { // each has a request too many
				return metric(t, r.registry, "inject_exhausted_total", test.metric) >= float64(test.callers)
			}, soon, 10*time.Millisecond)
			const asked = 20
			for range asked {
				serves()
				time.Sleep(20 * time.Millisecond)
			}
			// A server that takes nothing back refuses each of them until the callers end.
			require.LessOrEqual(t, refused, asked, "others are refused because of those with much")
			if name == "bodies" {
				require.Eventually(t, func() bool {
					return strings.Contains(r.audit.String(), "gave the place of this slow request")
				}, soon, 10*time.Millisecond)
			}
			cancel()
			all.Wait()
		})
	}
}

// Identities that together have all the requests that may be under way, and read no answer, must give
// up a few for an identity with less.
func TestUnreadAnswersYieldPlaces(t *testing.T) { // not beside others, which would have to wait
	const callers, each = 16, 512
	r := setup{policy: matrixPolicy, change: overCostly(t), limits: transport.Limits{Streams: each}}.start(t)
	victim := r.client(certOf(r.Authority, "victim", "spiffe://example.org/project/shop/domain/production/task/t"))
	serves := func() {
		t.Helper()
		a := r.ask(victim, resolve, `{"secrets":[{"key":"K"}]}`)
		require.Equal(t, http.StatusOK, a.status, a.raw)
	}
	serves()
	var framers []*http2.Framer
	var askers []func(uint32) error
	for i := range callers {
		conn := r.dial(certOf(r.Authority, fmt.Sprint("caller", i),
			fmt.Sprintf("spiffe://example.org/project/p%d/domain/d/task/t", i)), "h2")
		t.Cleanup(func() { _ = conn.Close() })
		framer := http2.NewFramer(conn, conn)
		go func() { // the rest is not read, but the connection must be
			for {
				if _, err := framer.ReadFrame(); err != nil {
					return
				}
			}
		}()
		_, err := io.WriteString(conn, http2.ClientPreface)
		require.NoError(t, err)
		require.NoError(t, framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
		framers, askers = append(framers, framer), append(askers, newAsker(framer, resolve))
	}
	// All are of one network, so only few may be on their way to be identified at the same time.
	const batch = 8
	read, lines := 0, 0 // of the audit log: to read all of it each time would take the server's time
	for n := 0; n < each; n += batch {
		for i, framer := range framers {
			for k := n; k < n+batch; k++ {
				require.NoError(t, askers[i](uint32(2*k+1)))
				require.NoError(t, framer.WriteData(uint32(2*k+1), true, []byte(`{"secrets":[{"key":"K"}]}`)))
			}
		}
		require.Eventually(t, func() bool {
			more := r.audit.from(read)
			read, lines = read+len(more), lines+strings.Count(more, "\n")
			return lines >= callers*(n+batch)
		}, soon, time.Millisecond)
	}
	for range 3 {
		serves()
	}
}

// A request whose answer is not read holds no share of the bodies: its own was read long ago.
func TestUnreadAnswersHoldNoBodies(t *testing.T) {
	t.Parallel()
	r := start(t, matrixPolicy, overCostly(t))
	victim := r.client(certOf(r.Authority, "victim", "spiffe://example.org/project/shop/domain/production/task/t"))
	for i := range 4 { // each has two, which together count as all that there may be
		client := r.client(certOf(r.Authority, fmt.Sprint("caller", i),
			fmt.Sprintf("spiffe://example.org/project/p%d/domain/d/task/t", i)))
		over, ok := client.Transport.(*http.Transport)
		require.True(t, ok)
		over.DisableCompression = true // the answer is zeros
		over.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}
		for range 2 {
			body := keysOf("LARGE", 1) + strings.Repeat(" ", 65<<10)
			answer, err := client.Do(r.request(resolve, body))
			require.NoError(t, err)
			t.Cleanup(func() { _ = answer.Body.Close() })
			require.Equal(t, http.StatusOK, answer.StatusCode)
		}
	}
	a := r.ask(victim, resolve, `{"secrets":[{"key":"K"}]}`)
	require.Equal(t, http.StatusOK, a.status, a.raw)
}
