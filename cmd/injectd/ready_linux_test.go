package main_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// issuer serves an issuer's keys as Kubernetes does: only to callers that may read them.
func issuer(ts *testscript.TestScript, _ bool, args []string) {
	keys := []byte(ts.ReadFile("pki/jwks.json"))
	token := ts.MkAbs("pki/reader.token")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		want, err := os.ReadFile(token)
		if err != nil || r.Header.Get("Authorization") != "Bearer "+strings.TrimSpace(string(want)) {
			http.Error(w, "forbidden", http.StatusForbidden)
			return
		}
		_, _ = w.Write(keys)
	}))
	ts.Setenv(args[0], s.URL)
	ts.Defer(s.Close)
}

// addIdentity adds the age identity in the file key, which is made if it does not exist, to the
// key file own.
func addIdentity(key, own string) error {
	text, err := os.ReadFile(key)
	if errors.Is(err, os.ErrNotExist) {
		var id *age.X25519Identity
		if id, err = age.GenerateX25519Identity(); err == nil {
			text = []byte(id.String() + "\n")
			err = os.WriteFile(key, text, 0o600)
		}
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(own, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

// A server whose volume is full is not ready, says so without its paths, and is ready again by
// itself.
func TestReadyWithFullVolume(t *testing.T) {
	harness.NeedRoot(t)
	dir := t.TempDir()
	volume := filepath.Join(dir, "volume")
	require.NoError(t, os.Mkdir(volume, 0o700))
	require.NoError(t, syscall.Mount("tmpfs", volume, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(volume, syscall.MNT_DETACH)) })
	file := filepath.Join(volume, "secrets.db")
	p, err := startServer(dir, nil, "--insecure", "--store", "file://"+file, "--key-file", "key.txt")
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.stop(syscall.SIGKILL) })
	probe := func() string {
		out, err := exec.Command("curl", "-sS", "-w", "%{http_code}", "http://"+p.ops+"/readyz").Output()
		require.NoError(t, err)
		return string(out)
	}
	require.Equal(t, "ok\n200", probe())

	full := filepath.Join(volume, "full")
	err = os.WriteFile(full, make([]byte, 2<<20), 0o600)
	require.ErrorIs(t, err, syscall.ENOSPC)
	const want = "the store's volume cannot be written: no space left on device\n503"
	require.Eventually(t, func() bool { return probe() == want }, 10*time.Second, 100*time.Millisecond)
	require.Contains(t, p.stderr.String(), file+".probe", "the log says where")

	require.NoError(t, os.Remove(full))
	require.Eventually(t, func() bool { return probe() == "ok\n200" }, 10*time.Second, 100*time.Millisecond)
	_, err = os.Stat(file + ".probe")
	require.ErrorIs(t, err, os.ErrNotExist, "nothing is left")
	require.Contains(t, p.stderr.String(), "ready again")
}
