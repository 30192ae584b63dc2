package main_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"inject/internal/harness"
	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// smallDisk mounts a tmpfs of the given size at dir.
func smallDisk(t *testing.T, dir, size string) {
	t.Helper()
	require.NoError(t, os.Mkdir(dir, 0o700))
	err := unix.Mount("none", dir, "tmpfs", 0, "size="+size)
	if errors.Is(err, unix.EPERM) {
		harness.Skip(t, "no disk can be mounted here")
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
}

// fill fills the disk at dir; free removes what filled it.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "fill")
	f, err := os.Create(path)
	require.NoError(t, err)
	_, err = io.Copy(f, zeros{})
	require.ErrorIs(t, err, unix.ENOSPC)
	require.NoError(t, f.Close())
	return func() { require.NoError(t, os.Remove(path)) }
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// soakPolicy is a policy in which other may list everything, or may do nothing that it tries.
func soakPolicy(other bool) string {
	// Without a rule, other's requests would be among the few that callers without rights may make.
	text := policyFile + `  - name: other
    identity: {spiffe: "spiffe://example.org/other"}
    resolve: {project: elsewhere, domain: elsewhere}
`
	if other {
		text += `    list: [{project: "*", domain: "*"}]
`
	}
	return text
}

// replace replaces the content of a file by a rename, as careful editors do.
func replace(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", []byte(text), 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

// A conductor causes faults and checks their consequences.
type conductor struct {
	*soak

	t        *testing.T
	ctx      context.Context //nolint:containedctx // of one test, and ends when a client has found a mistake
	platform *rpc.Client     // as all of its clients not by way of the proxy
	task     *rpc.Client
	other    *rpc.Client
	http     *http.Client
	keyFile  string
	said     bytes.Buffer // the output of the port for operations and of maintenance commands
	faults   []string
	rounds   int
}

// until waits until is returns true.
func (c *conductor) until(what string, is func() bool) {
	c.t.Helper()
	for !is() {
		select {
		case <-c.ctx.Done():
			require.NoError(c.t, context.Cause(c.ctx), "a client, while waiting until "+what)
		case <-c.server.ended:
			require.FailNow(c.t, "the server has ended, while waiting until "+what, c.server.stderr.String())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// progress waits until the clients have had that many more answers.
func (c *conductor) progress(answers int64) {
	c.t.Helper()
	from := c.answered.Load()
	c.until(fmt.Sprintf("there were %d answers", answers), func() bool { return c.answered.Load()-from >= answers })
}

// get returns the answer of the port for operations.
func (c *conductor) get(path string) (code int, text string) {
	c.t.Helper()
	response, err := c.http.Get("http://" + c.server.ops + path)
	require.NoError(c.t, err)
	b, err := io.ReadAll(response.Body)
	require.NoError(c.t, errors.Join(err, response.Body.Close()))
	c.said.Write(b)
	return response.StatusCode, string(b)
}

func (c *conductor) ready() bool {
	code, _ := c.get("/readyz")
	return code == http.StatusOK
}

// injectd runs a maintenance command of injectd.
func (c *conductor) injectd(args ...string) {
	c.t.Helper()
	cmd := exec.CommandContext(c.ctx, filepath.Join(binaries, "injectd"), args...)
	cmd.Env = []string{"HOME=" + c.dir}
	out, err := cmd.CombinedOutput()
	c.said.Write(out)
	require.NoErrorf(c.t, err, "%s", out)
}

// strace makes system calls of the server fail or wait while during runs; inject is an argument
// of strace -e.
func (c *conductor) strace(inject string, during func()) {
	c.t.Helper()
	log := filepath.Join(c.dir, "strace.log")
	calls, _, _ := strings.Cut(inject, ":")
	stop := attach(c.t, c.server, "-f", "-o", log, "-e", "trace="+calls, "-e", "inject="+inject)
	during()
	c.until("strace did something", func() bool {
		text := read(c.t, log)
		return strings.Contains(text, "(INJECTED)") || strings.Contains(text, "(DELAYED)")
	})
	stop()
}

func (c *conductor) update(ref secret.Ref, v []byte) error {
	h := c.of(ref)
	h.begin(v)
	err := c.platform.Update(c.ctx, ref, secret.NewValue(v))
	if err == nil {
		h.acknowledge()
	} else if !c.failed(err) {
		require.NoError(c.t, err)
	}
	return err
}

// A fault is a function that causes a fault, checks its consequences and ends it.
type fault struct {
	name string
	make func()
}

func (c *conductor) all() []fault {
	return []fault{
		{"slow disk", func() {
			c.strace("fdatasync:delay_enter=10000", func() { c.progress(100) })
		}},
		{"full disk", func() {
			ref := secret.Ref{Scope: task, Key: fmt.Sprintf("FULL_%d", c.rounds)}
			old := c.value()
			c.of(ref).begin(old)
			require.NoError(c.t, c.platform.Create(c.ctx, ref, secret.NewValue(old), store.Regular))
			c.of(ref).acknowledge()
			large := func() []byte {
				v := c.value()
				return slices.Concat(v, bytes.Repeat(v, 500_000/len(v)), c.value())
			}
			free := fill(c.t, c.storeDir)
			c.until("a change finds no room", func() bool { return c.update(ref, large()) != nil })
			for range 5 { // reads are answered meanwhile, with acknowledged values
				got, err := c.task.Resolve(c.ctx, task, []secret.Declaration{{Key: ref.Key}})
				require.NoError(c.t, err)
				told, _ := c.of(ref).mark()
				c.of(ref).mu.Lock()
				want := c.of(ref).values[told]
				c.of(ref).mu.Unlock()
				require.True(c.t, bytes.Equal(want, got[0].Value.Reveal()), "what was refused was not done")
				_ = c.update(ref, large()) // or a client has just deleted something
			}
			refused := c.refused.Load()
			c.until("clients find no room", func() bool { return c.refused.Load() > refused+10 })
			free()
			require.NoError(c.t, c.update(ref, large()), "there is room again")
		}},
		{"full audit disk", func() {
			free := fill(c.t, c.auditDir)
			declared := []secret.Declaration{{Key: "ANY"}}
			c.until("nothing is answered", func() bool {
				_, err := c.task.Explain(c.ctx, task, declared)
				return err != nil
			})
			// The end of the file's last page took what was left of a line.
			c.until("it is not ready", func() bool { return !c.ready() })
			for range 5 {
				_, err := c.task.Explain(c.ctx, task, declared)
				require.ErrorIs(c.t, err, secret.ErrUnavailable)
				c.failed(err)
				_, _, err = c.platform.List(c.ctx, store.Filter{}, 1, "")
				require.ErrorIs(c.t, err, secret.ErrUnavailable)
				err = c.other.Create(c.ctx, secret.Ref{Scope: task, Key: "DENIED"}, secret.NewValue(c.value()),
					store.Regular)
				require.ErrorIs(c.t, err, secret.ErrUnavailable, "a request to deny fails as unavailable, too")
				c.failed(err)
				code, text := c.get("/readyz")
				require.Equal(c.t, http.StatusServiceUnavailable, code)
				require.Contains(c.t, text, "audit log")
			}
			answered, refused := c.answered.Load(), c.refused.Load()
			c.until("clients get no answer", func() bool { return c.refused.Load() > refused+20 })
			require.Equal(c.t, answered, c.answered.Load(), "nothing is answered")
			free()
			c.until("it is ready again, by itself", c.ready)
			_, err := c.task.Explain(c.ctx, task, declared)
			require.NoError(c.t, err)
		}},
		{"dropped connections", func() {
			c.proxy.cutting.Store(true)
			from := c.proxy.cuts.Load()
			c.until("connections were cut", func() bool { return c.proxy.cuts.Load() >= from+60 })
			c.proxy.cutting.Store(false)
		}},
		{"policy edits", func() {
			path := filepath.Join(c.dir, "policy.yaml")
			may := func() bool {
				_, _, err := c.other.List(c.ctx, store.Filter{Org: secret.DefaultOrg}, 1, "")
				if err != nil {
					require.ErrorIs(c.t, err, secret.ErrDenied)
				}
				return err == nil
			}
			stale := func() bool {
				_, text := c.get("/metrics")
				return strings.Contains(text, `inject_source_stale{source="policy"} 1`)
			}
			require.False(c.t, may())
			replace(c.t, path, soakPolicy(true))
			c.until("other may list", may)
			replace(c.t, path, "rules: [}")
			c.until("the policy is known to be stale", stale)
			require.True(c.t, may(), "what was in force stays so")
			require.NoError(c.t, os.Remove(path))
			require.True(c.t, may(), "what was in force stays so")
			replace(c.t, path, soakPolicy(false))
			c.until("other may not list any more", func() bool { return !may() })
			require.False(c.t, stale())
		}},
		{"certificate reload", func() {
			from := []string{"pki", "pki2"}[(c.rounds+1)%2]
			want := read(c.t, filepath.Join(c.dir, from, "server.pem"))
			for _, file := range []string{"server.pem", "server.key"} {
				replace(c.t, filepath.Join(c.dir, file), read(c.t, filepath.Join(c.dir, from, file)))
			}
			c.until("the new certificate is shown", func() bool {
				// only the certificate is looked at
				conn, err := tls.Dial("tcp", c.server.host(),
					&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
				require.NoError(c.t, err)
				shown := conn.ConnectionState().PeerCertificates[0].Raw
				require.NoError(c.t, conn.Close())
				pair, err := tls.X509KeyPair([]byte(want), []byte(read(c.t, filepath.Join(c.dir, from, "server.key"))))
				require.NoError(c.t, err)
				return bytes.Equal(shown, pair.Certificate[0])
			})
			c.proxy.cutting.Store(true) // everyone connects again
			cuts := c.proxy.cuts.Load()
			c.until("connections were cut", func() bool { return c.proxy.cuts.Load() >= cuts+10 })
			c.proxy.cutting.Store(false)
		}},
		{"audit log moved", func() {
			path := filepath.Join(c.auditDir, "audit.log")
			require.NoError(c.t, os.Rename(path, fmt.Sprintf("%s.%d", path, c.rounds)))
			c.progress(20) // into the file that was moved
			require.NoError(c.t, c.server.cmd.Process.Signal(syscall.SIGHUP))
			c.until("there is a new audit log", func() bool {
				info, err := os.Stat(path)
				return err == nil && info.Size() > 0
			})
		}},
		{"stopped process", func() {
			require.NoError(c.t, c.server.cmd.Process.Signal(syscall.SIGSTOP))
			time.Sleep(300 * time.Millisecond)
			require.NoError(c.t, c.server.cmd.Process.Signal(syscall.SIGCONT))
		}},
		{"failing disk", func() {
			refused := c.refused.Load()
			c.strace("fdatasync:error=EIO:when=2+3", func() {
				c.until("changes fail", func() bool { return c.refused.Load() > refused+30 })
			})
		}},
		{"maintenance", func() {
			file := []string{"--store", "file://" + c.storePath()}
			c.injectd(append([]string{"backup", filepath.Join(c.dir, fmt.Sprintf("backup%d.db", c.rounds))},
				file...)...)
			c.keyFile = filepath.Join(c.dir, fmt.Sprintf("key%d.txt", c.rounds))
			require.NoError(c.t, addIdentity(c.keyFile, filepath.Join(c.dir, "key.txt")))
			c.injectd(append([]string{"keys", "rotate", "--new-key-file", c.keyFile}, file...)...)
			c.injectd(append([]string{"doctor", "--insecure", "--key-file", c.keyFile}, file...)...)
		}},
	}
}
