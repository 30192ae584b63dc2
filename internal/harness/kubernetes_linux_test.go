package harness_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// kubernetesChild is the variable with which this binary starts an API server, says where it is, and waits.
const kubernetesChild = "INJECT_TEST_KUBERNETES"

// The API server and its etcd end with the process that started them, even if that is killed, and with
// the test that started them.
func TestKubernetesEnds(t *testing.T) {
	if os.Getenv(kubernetesChild) != "" {
		k := harness.StartKubernetes(t, harness.KubernetesOptions{})
		fmt.Println("\nAT", k.Addr, strings.TrimPrefix(k.Etcd, "http://"), k.Dir)
		time.Sleep(time.Hour)
		return
	}
	if err := harness.HasKubernetes(harness.Root(t)); err != nil {
		harness.Skip(t, err)
	}
	listens := func(address string) bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			require.NoError(t, c.Close())
		}
		return err == nil
	}
	ends := func(address string) {
		t.Helper()
		require.Eventually(t, func() bool { return !listens(address) }, time.Minute, 10*time.Millisecond)
	}

	t.Run("killed", func(t *testing.T) {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestKubernetesEnds$")
		cmd.Env = append(os.Environ(), kubernetesChild+"=1")
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		var at []string
		for lines := bufio.NewScanner(out); at == nil && lines.Scan(); {
			if rest, ok := strings.CutPrefix(lines.Text(), "AT "); ok {
				at = strings.Fields(rest)
			}
		}
		require.Len(t, at, 3)
		t.Cleanup(func() { require.NoError(t, os.RemoveAll(at[2])) })
		require.True(t, listens(at[0]))
		require.True(t, listens(at[1]))
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait())
		ends(at[0])
		ends(at[1])
	})
	t.Run("ended", func(t *testing.T) {
		var k *harness.Kubernetes
		t.Run("inner", func(t *testing.T) {
			k = harness.StartKubernetes(t, harness.KubernetesOptions{})
			require.True(t, listens(k.Addr))
			_, err := os.Stat(filepath.Join(k.Dir, "data"))
			require.NoError(t, err)
			k.KillAPI()
			require.NoError(t, k.StartAPI())
			k.Call(t, http.MethodGet, "/api/v1/namespaces/default", nil)
		})
		ends(k.Addr)
		require.NoDirExists(t, k.Dir)
	})
	t.Run("never began", func(t *testing.T) {
		dir := t.TempDir()
		t.Setenv("TMPDIR", dir)
		server := filepath.Join(dir, "kube-apiserver")
		require.NoError(t, os.WriteFile(server, []byte("#!/bin/sh\necho it is broken\nexit 3\n"), 0o700))
		t.Setenv("INJECT_TEST_KUBE_APISERVER", server)
		fake := &fatal{TB: t}
		done := make(chan struct{})
		go func() {
			defer close(done)
			harness.StartKubernetes(fake, harness.KubernetesOptions{})
		}()
		<-done
		require.Contains(t, fake.text, "apiserver ended: exit status 3")
		require.Contains(t, fake.text, "it is broken", "its log")
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 1, "only the program is left")
	})
}

// fatal is a test that notes why it failed.
type fatal struct {
	testing.TB

	text string
}

// Fatal ends the goroutine.
func (f *fatal) Fatal(args ...any) {
	f.text = fmt.Sprint(args...)
	runtime.Goexit()
}
