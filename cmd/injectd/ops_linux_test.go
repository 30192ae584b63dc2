package main_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The bounds of the port for operations, as the page of limits has them.
const (
	allOps = 128
	ownOps = 32
)

// A caller that takes more connections to the port for operations than its share is refused, and others are served
// meanwhile: with connections that send nothing, of one network and of many, and with ones that have asked.
func TestOpsBounds(t *testing.T) {
	t.Parallel()
	p, err := startServer(t.TempDir(), []string{"HOME=" + t.TempDir()}, "--insecure")
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.stop(syscall.SIGKILL) })
	for name, p := range map[string]*process{"serve": p, "webhook": newWebhook(t).process} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opsBounds(t, p.ops)
		})
	}
}

func opsBounds(t *testing.T, address string) {
	t.Helper()
	t.Run("silent, one network", func(t *testing.T) {
		silent := make([]net.Conn, 0, ownOps)
		for range ownOps {
			silent = append(silent, dialOps(t, address, "127.0.1.2"))
		}
		over := dialOps(t, address, "127.0.1.2")
		require.ErrorIs(t, readEnd(over, time.Second), io.EOF, "one more")
		for _, c := range silent {
			require.ErrorIs(t, readEnd(c, time.Millisecond), os.ErrDeadlineExceeded, "within the share")
		}
		require.NoError(t, probeOps(t, dialOps(t, address, "127.0.1.3")), "another network")
		require.NoError(t, probeOps(t, silent[0]))
	})
	t.Run("silent, many networks", func(t *testing.T) {
		for network := range 2 * allOps / ownOps {
			for range ownOps {
				dialOps(t, address, fmt.Sprint("127.0.2.", 2+network))
			}
			require.NoError(t, probeOps(t, dialOps(t, address, "127.0.1.4")), "another network")
		}
	})
	t.Run("asking", func(t *testing.T) {
		asking := make([]net.Conn, 0, ownOps)
		for range ownOps {
			c := dialOps(t, address, "127.0.1.5")
			require.NoError(t, probeOps(t, c))
			asking = append(asking, c)
		}
		require.NoError(t, probeOps(t, dialOps(t, address, "127.0.1.5")), "one more, for an idle one")
		closed := 0
		for _, c := range asking {
			if errors.Is(readEnd(c, time.Second/10), io.EOF) {
				closed++
			}
		}
		require.Equal(t, 1, closed)
		require.NoError(t, probeOps(t, dialOps(t, address, "127.0.1.6")), "another network")
	})
}

// dialOps connects to a port from an address of this machine.
func dialOps(t *testing.T, address, from string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext(ctx, "tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// probeOps asks on a connection whether the process lives.
func probeOps(t *testing.T, c net.Conn) error {
	t.Helper()
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	if _, err := io.WriteString(c, "GET /livez HTTP/1.1\r\nHost: ops\r\n\r\n"); err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close() //nolint:errcheck // read only
	if text, err := io.ReadAll(answer.Body); err != nil || string(text) != "ok\n" {
		return fmt.Errorf("%s: %s: %w", answer.Status, text, err)
	}
	return nil
}

// readEnd returns why nothing can be read from a connection.
func readEnd(c net.Conn, within time.Duration) error {
	_ = c.SetReadDeadline(time.Now().Add(within))
	_, err := c.Read(make([]byte, 1))
	return err
}
