package main_test

import (
	"bytes"
	crand "crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed"
)

// A moved store is the file that a test migrates, and what is in it.
type moved struct {
	dir     string
	content map[secret.Ref][sha256.Size]byte
}

// newMoved makes a file with n secrets of the first types of types, whose values value returns.
func newMoved(t *testing.T, n, types int, value func() []byte) *moved {
	t.Helper()
	m := &moved{t.TempDir(), map[secret.Ref][sha256.Size]byte{}}
	s := m.open(t, "from", true)
	var batch []store.New
	bytes := 0
	for i := range n {
		ref := secret.Ref{Scope: task.Ladder()[i%4], Key: fmt.Sprintf("K%d", i)}
		b := value()
		m.content[ref] = sha256.Sum256(b)
		batch = append(batch, store.New{Ref: ref, Value: secret.NewValue(b), Type: store.Type(i % types)})
		if bytes += len(b); len(batch) == 1000 || bytes > 8<<20 || i == n-1 {
			require.NoError(t, s.Import(t.Context(), batch))
			batch, bytes = nil, 0
		}
	}
	require.NoError(t, s.Close())
	return m
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = crand.Read(b)
	return b
}

// open opens the file called name.
func (m *moved) open(t *testing.T, name string, write bool) *sealed.Store {
	t.Helper()
	s, err := sealed.Open(t.Context(), sealed.Options{
		Path: filepath.Join(m.dir, name+".db"), Key: sealed.Key{File: filepath.Join(m.dir, name+".key")},
		Write: write, LockTimeout: time.Minute,
	})
	require.NoError(t, err)
	return s
}

// target returns what the target has, and fails the test if a value is wrong.
func (m *moved) target(t *testing.T) map[secret.Ref]bool {
	t.Helper()
	s := m.open(t, "to", false)
	defer s.Close() //nolint:errcheck // read only
	there := map[secret.Ref]bool{}
	for info, err := range store.All(t.Context(), s, store.Filter{}) {
		require.NoError(t, err)
		v, _, err := s.Get(t.Context(), info.Ref)
		require.NoError(t, err)
		require.Equal(t, m.content[info.Ref], sha256.Sum256(v.Reveal()), info.Ref)
		there[info.Ref] = true
	}
	return there
}

func (m *moved) command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(binaries, "injectd"), append([]string{
		"migrate", "--from", "file:from.db", "--from-key-file", "from.key", "--to", "file:to.db", "--to-key-file",
		"to.key",
	}, args...)...)
	cmd.Dir, cmd.Env = m.dir, []string{"HOME=" + m.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// A migration that is killed at any moment can be begun again, and loses nothing.
func TestMigrateKilled(t *testing.T) {
	t.Parallel()
	n := 5000
	if testing.Short() {
		n = 2000
	}
	m := newMoved(t, n, 2, awkward)
	kills, before := 0, 0
	for round := 0; ; round++ {
		cmd := m.command()
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		require.NoError(t, cmd.Start())
		while := time.Duration(rand.IntN(400+400*round)) * time.Millisecond
		after := time.AfterFunc(while, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		after.Stop()
		there := m.target(t)
		require.GreaterOrEqual(t, len(there), before, "what was copied stays")
		before = len(there)
		if err == nil {
			break
		}
		ended, ok := errors.AsType[*exec.ExitError](err)
		require.True(t, ok)
		status, _ := ended.Sys().(syscall.WaitStatus)
		require.True(t, status.Signaled(), out.String())
		kills++
	}
	t.Logf("killed %d times", kills)
	require.Len(t, m.target(t), n)
	out, err := m.command().CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	require.Equal(t, fmt.Sprintf("injectd: %d secrets: %d equal\n", n, n), string(out))
}

// A signal ends a migration soon. It tells exactly what it did, and that it goes on.
func TestMigrateInterrupted(t *testing.T) {
	t.Parallel()
	const n = 20_000
	m := newMoved(t, n, 2, awkward)
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		have, was := 0, int64(0)
		path := filepath.Join(m.dir, "to.db")
		if info, err := os.Stat(path); err == nil {
			have, was = len(m.target(t)), info.Size()
		}
		cmd := m.command()
		var out, said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &said
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool {
			info, err := os.Stat(path)
			return err == nil && info.Size() > was+1<<20
		}, time.Minute, time.Millisecond, "the target grows")
		require.NoError(t, cmd.Process.Signal(sig))
		require.Error(t, cmd.Wait())
		require.Equal(t, 1, cmd.ProcessState.ExitCode(), said.String())
		require.Contains(t, said.String(), "not all secrets were looked at")
		require.Contains(t, said.String(), "hint: run it again: it goes on")
		created := regexp.MustCompile(`(\d+) created`).FindStringSubmatch(said.String())
		require.NotNil(t, created, said.String())
		now, err := strconv.Atoi(created[1])
		require.NoError(t, err)
		require.Len(t, m.target(t), have+now)
		require.Equal(t, now, bytes.Count(out.Bytes(), []byte("created  ")))
		require.Less(t, have+now, n)
	}
	out, err := m.command().CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	require.Len(t, m.target(t), n)
}

// Of a damaged file everything that can be read is copied, and the rest is named.
func TestMigrateDamaged(t *testing.T) {
	t.Parallel()
	m := newMoved(t, 2000, 2, func() []byte { return random(100) })
	path := filepath.Join(m.dir, "from.db")
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	lost, failed, most := 0, 0, 0
	for try := 0; try < 10 || try < 200 && (failed == 0 || lost == 0); try++ {
		damaged := bytes.Clone(whole)
		meta := 2 * os.Getpagesize()
		damaged[meta+rand.IntN(len(damaged)-meta)] ^= 1
		require.NoError(t, os.WriteFile(path, damaged, 0o600))
		require.NoError(t, os.RemoveAll(filepath.Join(m.dir, "to.db")))
		cmd := m.command("-o", "json")
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		var report struct {
			OK      bool
			Secrets []struct {
				ID    struct{ Name, Project, Domain string }
				State string
			}
			Counts map[string]int
		}
		if len(out) == 0 { // the key, say
			require.Error(t, err)
			require.Contains(t, said.String(), "--from: ")
			require.NoFileExists(t, filepath.Join(m.dir, "to.db"))
			continue
		}
		require.NoError(t, json.Unmarshal(out, &report), said.String())
		require.Equal(t, err == nil, report.OK)
		there := m.target(t)
		require.Len(t, there, report.Counts["created"])
		if report.OK { // a free page
			require.Len(t, there, len(m.content))
			continue
		}
		require.Contains(t, said.String(), "damaged")
		most = max(most, len(there))
		for _, s := range report.Secrets {
			if s.State == "failed" {
				failed++
				scope := secret.Scope{Org: secret.DefaultOrg, Project: s.ID.Project, Domain: s.ID.Domain}
				ref := secret.Ref{Scope: scope, Key: s.ID.Name}
				require.False(t, there[ref])
				require.Contains(t, m.content, ref)
				there[ref] = true
			}
		}
		lost += report.Counts["lost"]
		if report.Counts["lost"] == 0 {
			require.Len(t, there, len(m.content), "each is copied or named")
		}
	}
	require.Positive(t, failed, "a value was damaged")
	require.Positive(t, lost, "a name was damaged")
	require.Greater(t, most, len(m.content)*9/10, "the others are copied")
}

// The memory of a migration does not depend on what the stores have. Pages of the file that the
// kernel maps are not counted: it can drop them.
func TestMigrateMemory(t *testing.T) {
	t.Parallel()
	n, size := 500, 900_000
	if testing.Short() {
		n = 250
	}
	m := newMoved(t, n, 2, func() []byte { return random(size) })
	cmd := m.command()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	ended := make(chan error)
	go func() { ended <- cmd.Wait() }()
	most := 0 // KiB
	for err, running := error(nil), true; running; {
		select {
		case err = <-ended:
			require.NoErrorf(t, err, "%s", out.String())
			running = false
		case <-time.After(10 * time.Millisecond):
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
			if found := regexp.MustCompile(`RssAnon:\s*(\d+) kB`).FindSubmatch(status); found != nil {
				now, err := strconv.Atoi(string(found[1]))
				require.NoError(t, err)
				most = max(most, now)
			}
		}
	}
	require.Len(t, m.target(t), n)
	t.Logf("%d MiB of values, %d MiB of memory", n*size>>20, most>>10)
	require.Positive(t, most)
	require.Less(t, most>>10, 150, "MiB")
}

// Values are in neither output, nor in a file but sealed.
func TestMigrateLeaks(t *testing.T) {
	t.Parallel()
	m := newMoved(t, 0, 1, nil)
	s := m.open(t, "from", true)
	values := map[string]string{}
	for i := range 20 {
		b := append(awkward(), fmt.Sprintf("canary%d%d", i, rand.Int64())...)
		values[fmt.Sprint(i)] = string(b)
		ref := secret.Ref{Scope: task, Key: fmt.Sprintf("K%d", i)}
		require.NoError(t, s.Create(t.Context(), ref, secret.NewValue(b), store.Regular))
	}
	require.NoError(t, s.Close())
	texts := map[string]string{}
	for _, args := range [][]string{
		{"--dry-run"}, {"--audit-log", "audit.log"}, {"-o", "json"}, {"--overwrite", "all"}, {"--delete-equal"},
	} {
		var out, said bytes.Buffer
		cmd := m.command(args...)
		cmd.Stdout, cmd.Stderr = &out, &said
		require.NoError(t, cmd.Run(), said.String())
		texts[fmt.Sprint(args)+" stdout"], texts[fmt.Sprint(args)+" stderr"] = out.String(), said.String()
	}
	for _, name := range []string{"from.db", "to.db", "audit.log"} {
		b, err := os.ReadFile(filepath.Join(m.dir, name))
		require.NoError(t, err)
		texts[name] = string(b)
	}
	require.Len(t, m.targetKeys(t), 20)
	require.NoError(t, harness.FindLeak(texts, values))
	texts["canary"] = values["7"]
	require.Error(t, harness.FindLeak(texts, values))
}

func (m *moved) targetKeys(t *testing.T) (keys []string) {
	t.Helper()
	s := m.open(t, "to", false)
	defer s.Close() //nolint:errcheck // read only
	for info, err := range store.All(t.Context(), s, store.Filter{}) {
		require.NoError(t, err)
		keys = append(keys, info.Ref.Key)
	}
	return keys
}

// A target that is full keeps what it has, the error says why, and the migration goes on when there is
// room.
func TestMigrateFull(t *testing.T) {
	t.Parallel()
	harness.NeedRoot(t)
	m := newMoved(t, 300, 1, func() []byte { return random(50_000) })
	volume := filepath.Join(m.dir, "volume")
	require.NoError(t, os.Mkdir(volume, 0o700))
	require.NoError(t, syscall.Mount("tmpfs", volume, "tmpfs", 0, "size=8m"))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(volume, syscall.MNT_DETACH)) })
	require.NoError(t, os.Symlink("volume/to.db", filepath.Join(m.dir, "to.db")))
	args := []string{
		"migrate", "--from", "file:from.db", "--from-key-file", "from.key", "--to", "file:volume/to.db",
		"--to-key-file", "to.key",
	}
	run := func() (string, error) {
		cmd := m.command()
		cmd.Args = append(cmd.Args[:1], args...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run()
	require.Error(t, err)
	require.Contains(t, out, "the rest would fail as well: target: ")
	require.Contains(t, out, "no space left on device")
	there := len(m.target(t))
	require.Equal(t, there, strings.Count(out, "created  "))
	require.Positive(t, there)
	require.Less(t, there, 300)

	require.NoError(t, syscall.Mount("tmpfs", volume, "tmpfs", syscall.MS_REMOUNT, "size=100m"))
	out, err = run()
	require.NoError(t, err, out)
	require.Contains(t, out, fmt.Sprintf("injectd: 300 secrets: %d created, %d equal", 300-there, there))
	require.Len(t, m.target(t), 300)
}

// Without the right to read the source, or to write the target, a migration and its dry run end with an error.
func TestMigrateDenied(t *testing.T) {
	t.Parallel()
	harness.NeedRoot(t)
	m := newMoved(t, 3, 1, func() []byte { return random(10) })
	for dir := m.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	mode := func(name string, mode os.FileMode) { require.NoError(t, os.Chmod(filepath.Join(m.dir, name), mode)) }
	mode("from.key", 0o644) // root's own file, which others may read
	stranger := func(want string, args ...string) {
		t.Helper()
		cmd := m.command(args...)
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
		out, err := cmd.CombinedOutput()
		require.Error(t, err)
		require.Regexp(t, want, string(out))
		require.NoFileExists(t, filepath.Join(m.dir, "to.key"))
	}
	const source = `--from: access denied: store file: open .*from\.db: permission denied`
	stranger(source, "--dry-run")
	stranger(source)
	mode("from.db", 0o644)
	stranger(`--to: store unavailable: to\.db cannot be created in `, "--dry-run")
	require.NoError(t, os.WriteFile(filepath.Join(m.dir, "to.db"), nil, 0o600))
	stranger(`--to: access denied: store file: open .*to\.db: permission denied`)
	mode("to.db", 0o644)
	stranger(`--to: `, "--dry-run")
	stranger(`--from: access denied: store file: open .*from\.db: permission denied`, "--delete-equal")
}
