package guard

import (
	"crypto/rand"
	"io"
	mrand "math/rand/v2"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// A body of any size comes as the store sends it, one after the other by the same connections, whether it
// is passed in the kernel or not; and one that the store cuts is not taken for the whole.
func TestDownload(t *testing.T) {
	t.Parallel()
	_, b, c := guarded(t, Options{}, secretText())
	whole := make([]byte, 3<<20)
	_, _ = rand.Read(whole)
	sizes := []int{0, 1, buffered, largeCopy - 1, largeCopy, largeCopy + 1, 2 * largeCopy, len(whole)}
	for range 100 {
		sizes = append(sizes, mrand.IntN(len(whole)))
	}
	for i, size := range sizes {
		key := "k" + strconv.Itoa(i)
		b.mu.Lock()
		b.objects["/bkt/"+key] = whole[len(whole)-size:]
		b.mu.Unlock()
		status, got := c.do(http.MethodGet, "/bkt/"+key, nil)
		require.Equal(t, 200, status)
		requireSame(t, string(whole[len(whole)-size:]), got)
		if size < 10 {
			continue
		}
		from := mrand.IntN(size - 1)
		status, got = c.do(http.MethodGet, "/bkt/"+key, nil, "Range", "bytes="+strconv.Itoa(from)+"-")
		require.Equal(t, 206, status)
		requireSame(t, string(whole[len(whole)-size+from:]), got)
	}

	var end atomic.Int64
	b.mu.Lock()
	b.before = func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Length", strconv.Itoa(len(whole)))
		_, _ = w.Write(whole[:end.Load()])
		panic(http.ErrAbortHandler)
	}
	b.mu.Unlock()
	for _, cut := range []int{1, largeCopy, 2*largeCopy + 1, len(whole) - 1} {
		end.Store(int64(cut))
		resp, err := c.send(http.MethodGet, "/bkt/k0", nil)
		require.NoError(t, err)
		got, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if cut == 1 { // not even the head has come
			require.Equal(t, 503, resp.StatusCode)
			continue
		}
		require.Equal(t, 200, resp.StatusCode)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.LessOrEqual(t, len(got), cut)
	}
}
