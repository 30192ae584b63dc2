package guard

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// guardMemory is the most that a guard may add to the resident memory of its process.
const guardMemory = 64 << 10 // KiB

// The resident memory of a guard stays within its bound, whatever the number, the size and the order of
// uploads. The guard is in a process of its own, because the peak counts all that it has ever had.
func TestPeakMemory(t *testing.T) {
	const addressOf = "INJECT_TEST_GUARD_UPSTREAM"
	if address := os.Getenv(addressOf); address != "" {
		guardOf(t, address)
		return
	}
	if testing.Short() {
		t.Skip("it takes ten seconds")
	}
	stalled := make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/stalled") {
			<-stalled
		}
		if r.Method == http.MethodGet {
			_, _ = io.Copy(w, io.LimitReader(newNoise(), 4<<20))
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "<R><UploadId>"+rand.Text()+"</UploadId></R>")
	}))
	t.Cleanup(upstream.Close)

	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestPeakMemory$", "-test.count=1")
	cmd.Env = append(os.Environ(), addressOf+"="+upstream.URL)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	said := json.NewDecoder(bufio.NewReader(out))
	var begin, end guardSays
	require.NoError(t, said.Decode(&begin))
	c := client{t, begin.Address, keyPair{begin.ID, begin.Secret}}

	peak := func(name string) {
		_, err := in.Write([]byte("\n"))
		require.NoError(t, err)
		require.NoError(t, said.Decode(&end))
		t.Logf("after %s: %d KiB", name, end.Peak-begin.Peak)
	}
	held := func() {
		c.sendAll(8, 16, 30*time.Second, http.MethodPut, maxHeld, numbered("/bkt/held"))
	}
	held()
	peak("bodies of 16 MiB")
	c.sendAll(200, 2000, 30*time.Second, http.MethodPut, 4<<10, numbered("/bkt/small"))
	peak("many small ones")
	// No two of these parts are neighbours, so all of their edges are kept, until there is no room.
	c.sendAll(50, 400, time.Second, http.MethodPut, 200<<10, func(i int) string {
		return fmt.Sprintf("/bkt/parts?partNumber=%d&uploadId=%d", 2*(i/8)+1, i%8)
	})
	peak("parts without neighbours")
	var all sync.WaitGroup
	all.Go(func() {
		c.sendAll(200, 200, 3*time.Second, http.MethodPut, maxHeld+1, numbered("/bkt/stalled"))
	})
	all.Go(func() {
		c.sendAll(100, 100, 3*time.Second, http.MethodGet, 0, numbered("/bkt/read"))
	})
	all.Wait()
	close(stalled)
	peak("uploads that stall, with downloads")
	held()
	peak("bodies of 16 MiB again")
	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait())
	require.Less(t, end.Peak-begin.Peak, guardMemory)
	require.Greater(t, end.Peak-begin.Peak, maxHeld>>10, "the bodies were held")
}

func numbered(target string) func(i int) string {
	return func(i int) string { return target + strconv.Itoa(i) }
}

// guardSays is what the process of a guard writes.
type guardSays struct {
	Address, ID, Secret string
	Peak                int // resident memory, in KiB
}

// guardOf is the process of a guard. It says how it is reached and its peak of memory, and that again
// for each line of stdin.
func guardOf(t *testing.T, upstream string) {
	environ := []string{
		envEndpoint + "=" + upstream, envKeyID + "=" + platform.id, envSecret + "=" + platform.secret,
	}
	long := make([]byte, 30<<10) // so edges are as long as they can be
	_, _ = rand.Read(long)
	g, vars := started(t, Options{Environ: environ}, string(long), secretText())
	g.LimitMemory()
	says := guardSays{Address: vars[envEndpoint], ID: vars[envKeyID], Secret: vars[envSecret]}
	debug.FreeOSMemory()                                                      // the values have been made ready
	require.NoError(t, os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)) // so that the peak begins here
	for lines := bufio.NewScanner(os.Stdin); ; {
		status, err := os.ReadFile("/proc/self/status")
		require.NoError(t, err)
		_, hwm, _ := strings.Cut(string(status), "VmHWM:")
		_, err = fmt.Sscan(hwm, &says.Peak)
		require.NoError(t, err)
		require.NoError(t, json.NewEncoder(os.Stdout).Encode(says))
		if !lines.Scan() {
			os.Exit(0) // nothing may follow on stdout
		}
	}
}

// sendAll sends n requests with bodies of size bytes, some at a time. How they end does not matter.
func (c client) sendAll(atOnce, n int, limit time.Duration, method string, size int64, target func(i int) string) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: atOnce}, Timeout: limit}
	defer client.CloseIdleConnections()
	free := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i := range n {
		free <- struct{}{}
		all.Go(func() {
			defer func() { <-free }()
			r, err := http.NewRequestWithContext(context.Background(), method, c.base+target(i), nil)
			if err != nil {
				c.t.Error(err)
				return
			}
			if size > 0 {
				r.Body, r.ContentLength = io.NopCloser(io.LimitReader(newNoise(), size)), size
			}
			sign(c.t, r, c.keys, unsignedPayload)
			if resp, err := client.Do(r); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		})
	}
	all.Wait()
}

// noise is an endless body that is not easy to search.
type noise struct{ at int }

func newNoise() *noise { return &noise{} }

var noiseText = sync.OnceValue(func() []byte {
	b := make([]byte, 1<<20)
	_, _ = rand.Read(b)
	return b
})

// Read implements [io.Reader].
func (r *noise) Read(p []byte) (int, error) {
	n := copy(p, noiseText()[r.at:])
	r.at = (r.at + n) % len(noiseText())
	return n, nil
}
