package main_test

import (
	"bytes"
	"crypto/rand"
	mrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// A narrow is a slow way to a store: a proxy of TCP that passes so many bytes of each connection in a
// millisecond, in pieces.
type narrow struct {
	addr   string
	piece  int
	passed atomic.Int64 // in both directions
}

func startNarrow(t *testing.T, to string, piece int) *narrow {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	n := &narrow{addr: l.Addr().String(), piece: piece}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go n.serve(c, to)
		}
	}()
	return n
}

// serve passes the bytes of a connection until one end closes it. Then it resets the connection to the
// other end, as if there were only one connection.
func (n *narrow) serve(c net.Conn, to string) {
	up, err := net.Dial("tcp", to)
	if err != nil {
		reset(c)
		return
	}
	done := make(chan struct{}, 2)
	pass := func(to, from net.Conn) {
		defer func() { done <- struct{}{} }()
		buf := make([]byte, n.piece)
		for {
			m, err := from.Read(buf)
			if _, err2 := to.Write(buf[:m]); err != nil || err2 != nil {
				return
			}
			n.passed.Add(int64(m))
			time.Sleep(time.Millisecond)
		}
	}
	go pass(up, c)
	go pass(c, up)
	<-done
	reset(c)
	reset(up)
	<-done
}

func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// A fault is what happens to the store in the middle of a call of flyte.storage.
type fault struct {
	name, call string
	piece      int                                              // see narrow
	middle     func(t *testing.T, g *gateway, task *os.Process) // when some of the file has passed; nil for nothing
	want       string                                           // "" if the task is ended
}

// A store that crashes, comes back, stops for a while or is slow, in the middle of an upload or of a
// download, is for the task what it is without the guard: what comes through is whole, and what does not
// is the same error.
func TestGuardFaults(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("TestUpstreamGone has a store in memory")
	}
	ranFlyte(t, "flyte.storage: put and get while the store crashes, stops and is slow, through the guard")
	home := homeWith(t, rand.Text())
	content := make([]byte, 24<<20) // five parts
	_, _ = mrand.NewChaCha8([32]byte{}).Read(content)
	for _, f := range []fault{
		{"put, crashes and is back", "put", 16 << 10, again, "done"},
		{"get, crashes and is back", "get", 16 << 10, again, "failed"}, // the SDK tries only heads again
		{"put, crashes", "put", 16 << 10, crash, "failed"},
		{"get, crashes", "get", 16 << 10, crash, "failed"},
		{"put, stops for a while", "put", 16 << 10, pause, "done"},
		{"get, stops for a while", "get", 16 << 10, pause, "done"},
		{"put, stops for good", "put", 16 << 10, hang, ""},
		{"put, slow", "put", 4 << 10, nil, "done"},
		{"get, slow", "get", 4 << 10, nil, "done"},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			argv := []string{harness.SDK(t, "python"), "faults.py"}
			plain := exec.Command(argv[0], argv[1:]...)
			plain.Env = []string{"HOME=" + home}
			want, _ := f.run(t, content, plain)
			flags := []string{"run", "--secret", "V", "--storage", "guard", "--"}
			got, said := f.run(t, content, command(home, append(flags, argv...)...))
			require.Equal(t, want, got)
			if f.call == "put" && f.want != "done" {
				require.Contains(t, said, "an upload in parts stays in the store")
			}
		})
	}
}

// run runs cmd, which is faults.py with or without the guard, with the fault. It returns how the call has
// ended, and what was said.
func (f fault) run(t *testing.T, content []byte, cmd *exec.Cmd) (ended, said string) {
	t.Helper()
	g := startGateway(t)
	way := startNarrow(t, g.addr, f.piece)
	from, to := filepath.Join(t.TempDir(), "file"), filepath.Join(g.dir, "key")
	args := []string{"put", from, "s3://bkt/key"}
	if f.call == "get" {
		args = []string{"get", "s3://bkt/key", from}
		from, to = to, from
	}
	require.NoError(t, os.WriteFile(from, content, 0o600))
	cmd.Args = append(cmd.Args, args...)
	inPod(cmd, append(slices.Clone(g.env), "FLYTE_AWS_ENDPOINT=http://"+way.addr)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Start())
	if f.middle != nil {
		size := int64(len(content))
		some := func() bool { return way.passed.Load() > size/4 }
		require.Eventually(t, some, time.Minute, time.Millisecond)
		require.Less(t, way.passed.Load(), size, "it is in the middle")
		f.middle(t, g, cmd.Process)
	}
	_ = cmd.Wait() // what it has said is compared
	ended = strings.TrimSpace(stdout.String())
	word, _, _ := strings.Cut(ended, ":")
	require.Equal(t, f.want, word, "%s%s", &stdout, &stderr)
	got, err := os.ReadFile(to)
	if f.want == "done" {
		require.NoError(t, err)
		whole := bytes.Equal(content, got)
		require.True(t, whole)
	} else {
		require.ErrorIs(t, err, os.ErrNotExist, "%d bytes are there", len(got))
	}
	return ended, stderr.String()
}

// crash ends the store.
func crash(_ *testing.T, g *gateway, _ *os.Process) { g.kill() }

// again starts the store again after a crash.
func again(t *testing.T, g *gateway, _ *os.Process) {
	t.Helper()
	g.kill()
	g.start(t)
}

// pause stops the process of the store for longer than clients wait until they try again.
func pause(t *testing.T, g *gateway, _ *os.Process) {
	t.Helper()
	require.NoError(t, g.cmd.Process.Signal(syscall.SIGSTOP))
	time.Sleep(2 * time.Second)
	require.NoError(t, g.cmd.Process.Signal(syscall.SIGCONT))
}

// hang stops the process of the store, for which a client would wait for a day, and asks the task to end.
func hang(t *testing.T, g *gateway, task *os.Process) {
	t.Helper()
	require.NoError(t, g.cmd.Process.Signal(syscall.SIGSTOP))
	require.NoError(t, task.Signal(syscall.SIGTERM))
}
