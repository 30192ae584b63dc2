package main_test

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"inject/internal/harness"
)

// awkwardHome returns a home whose store has K, with a value that any missing quotes would change.
func awkwardHome(t *testing.T) (home, value string) {
	t.Helper()
	home, value = t.TempDir(), "'\"$HOME`\\ $$ $(X) "+rand.Text()
	require.NoError(t, command(home, "create", "secret", "K", "--value", value).Run())
	return home, value
}

// Launchers such as torchrun start many workers. Here a task has 64 processes (with -short 16), and
// each starts others through inject. The inner injects look nothing up: the first process moves the
// store away.
func TestTree(t *testing.T) {
	t.Parallel()
	home, value := awkwardHome(t)
	world := longOrShort(64, 16)
	script := filepath.Join(home, "node.sh")
	require.NoError(t, os.WriteFile(script, []byte(`
printf 'rank %s of %s: %s\n' "$1" "$WORLD" "$V"
for child in $((2 * $1)) $((2 * $1 + 1)); do
  [ "$child" -gt "$WORLD" ] || `+binary+` run --secret K=V -- sh "$0" "$child" &
done
[ "$1" != 1 ] || mv "$HOME/.local" "$HOME/gone"
wait
[ "$1" != 1 ] || printf 'sum %s\n' "$(printf %s "$V" | cksum)"
`), 0o600))
	cmd := command(home, "--secret", "K=V", "--", "sh", script, "1")
	cmd.Env = append(cmd.Env, "WORLD="+strconv.Itoa(world))
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	for rank := range world {
		require.Contains(t, string(out), fmt.Sprintf("rank %d of %d: [REDACTED:K]\n", rank+1, world))
	}
	sum := exec.Command("cksum")
	sum.Stdin = strings.NewReader(value)
	want, err := sum.Output()
	require.NoError(t, err)
	require.Contains(t, string(out), "sum "+string(want), "the task has the real value")
	require.NotContains(t, string(out), value)
}

// inject starts an image's own entrypoint with its arguments, and follows its exec.
func TestChainedEntrypoint(t *testing.T) {
	// Not parallel: while another test starts a process, that process may have the script open for
	// writing, and the script cannot be executed (https://go.dev/issue/22315).
	home, _ := awkwardHome(t)
	entrypoint := filepath.Join(home, "entrypoint.sh")
	require.NoError(t, os.WriteFile(entrypoint, []byte("#!/bin/sh\nexport SET=1\nexec \"$@\"\n"), 0o700))
	out, err := command(home, "run", "--secret", "K=V", "--", entrypoint, "sh", "-c", `echo "$SET $V $1"; exit 5`,
		"a0", "--x=$y").Output()
	require.Error(t, err)
	require.Equal(t, "1 [REDACTED:K] --x=$y\n", string(out))
}

// bombs writes n files that take long to check: each has a gigabyte of zeros, compressed. To be
// written fast, a file repeats one gzip member.
func bombs(t *testing.T, dir string, n int) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	var member bytes.Buffer
	w := gzip.NewWriter(&member)
	_, err := w.Write(make([]byte, 9_000_000))
	require.NoError(t, err)
	require.NoError(t, w.Close())

	file := bytes.Repeat(member.Bytes(), 100)
	for i := range n {
		require.NoError(t, os.WriteFile(fmt.Sprintf("%s/%d.gz", dir, i), file, 0o600))
	}
}

// A part of the grace is for checking outputs. Outputs that were not checked in time are moved
// away, and the run fails.
func TestOutputsInGrace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, script string
		code         int
	}{
		{"stopped while the task runs", "echo ready; exec sleep 60", 143},
		{"stopped while outputs are checked", "echo ready", 125},
		{"the task ignores TERM", "trap '' TERM; echo ready; while :; do sleep 0.1; done", 137},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			outputsInGrace(t, c.script, c.code)
		})
	}
}

// outputsInGrace stops a run of script whose outputs take too long to check, and requires an exit
// code.
func outputsInGrace(t *testing.T, script string, code int) {
	t.Helper()
	home, _ := awkwardHome(t)
	dir := filepath.Join(home, "out")
	const n = 16
	bombs(t, dir, n)
	cmd := command(home, "--secret", "K", "--outputs", dir, "--grace", "1s", "--", "sh", "-c", script)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	line := make([]byte, 6)
	_, err = stdout.Read(line)
	require.NoError(t, err)
	time.Sleep(200 * time.Millisecond) // until a task that ends has ended, and inject checks outputs
	start := time.Now()
	require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
	require.Error(t, cmd.Wait())
	took := time.Since(start)
	require.Equal(t, code, cmd.ProcessState.ExitCode(), stderr.String())
	require.Contains(t, stderr.String(), "it was not checked in time")
	require.Less(t, took, 10*time.Second)
	// Only outputs that were checked in time are left.
	left, err := filepath.Glob(dir + "/*.gz")
	require.NoError(t, err)
	require.Less(t, len(left), n)
	aside, err := filepath.Glob(home + "/.inject-refused-*/*")
	require.NoError(t, err)
	require.Len(t, aside, n-len(left))
}

// After a signal to stop, processes that the task left running are killed soon, so that there is
// time to check the outputs.
func TestLeftoverInGrace(t *testing.T) {
	t.Parallel()
	home, _ := awkwardHome(t)
	dir := filepath.Join(home, "out")
	script := `mkdir "$1"; for i in 1 2 3; do echo fine > "$1/$i"; done
(setsid sh -c 'trap "" TERM; while :; do sleep 0.1; done' > /dev/null 2>&1 &); echo ready; exec sleep 60`
	cmd := command(home, "--secret", "K", "--outputs", dir, "--grace", "4s", "--", "sh", "-c", script, "sh", dir)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	_, err = stdout.Read(make([]byte, 6))
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
	require.Error(t, cmd.Wait())
	require.Equalf(t, 143, cmd.ProcessState.ExitCode(), "%s", stderr.String())
	require.Empty(t, stderr.String())
	left, err := filepath.Glob(dir + "/*")
	require.NoError(t, err)
	require.Len(t, left, 3)
}

// The task's own termination message is masked before the outputs, which may take long.
func TestMessageIsMaskedFirst(t *testing.T) {
	t.Parallel()
	home, value := awkwardHome(t)
	dir, message := filepath.Join(home, "out"), filepath.Join(home, "message")
	bombs(t, dir, 16)
	cmd := command(home, "--secret", "K", "--outputs", dir, "--termination-log", message, "--", "sh",
		"-c", `printf 'it was %s' "$K" > "$1"`, "sh", message)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Wait() })
	require.Eventually(t, func() bool {
		b, _ := os.ReadFile(message)
		return string(b) == "it was [REDACTED:K]"
	}, 20*time.Second, 5*time.Millisecond)
	require.NoError(t, cmd.Process.Kill(), "inject was still checking the outputs")
	b, err := os.ReadFile(message)
	require.NoError(t, err)
	require.NotContains(t, string(b), value)
}

// If outputs are on a disk that is full or read-only, files with values are removed. If they cannot
// be removed, the error says so.
func TestOutputsThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	home := sharedHome(t, 65534)
	script := `set -e
mkdir -p "$1/full" "$1/ro" && chmod 777 "$1/full" "$1/ro" && mount -t tmpfs -o size=64k,mode=777 none "$1/full"
set +e
` + binary + ` --secret K --outputs "$1/full" -- sh -c 'printf %s "$K" > "$1/full/text"; dd if=/dev/zero of="$1/full/fill" bs=1k 2> /dev/null || true' sh "$1"; echo "full $?"
test -e "$1/full/text" && echo "LEFT"
test -e "$1/full/fill" && echo "the rest is there"
` + binary + ` --secret K -- sh -c 'printf %s "$K" > "$1/ro/text"' sh "$1" && mount -t tmpfs -o ro none "$1/full" && mount --bind "$1/ro" "$1/ro" && mount -o remount,bind,ro "$1/ro"
` + binary + ` --secret K --outputs "$1/ro" -- true; echo "read-only $?"
umount "$1/ro"; chmod 755 "$1/ro"; chown -R 0:0 "$1/ro"
setpriv --reuid 65534 --regid 65534 --clear-groups ` + binary + ` --secret K --outputs "$1/ro" -- true; echo "not ours $?"`
	cmd := exec.Command("unshare", "-m", "sh", "-c", script, "sh", home)
	harness.NeedRoot(t)
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	text := string(out)
	require.Contains(t, text, "full 125\n")
	require.Contains(t, text, `outputs: "text": removed: it cannot be masked: `)
	require.Contains(t, text, "no space left on device")
	require.NotContains(t, text, "LEFT")
	require.Contains(t, text, "the rest is there")
	require.Contains(t, text, "read-only 125\n")
	require.Contains(
		t,
		text,
		`outputs: "text": left as it is: it cannot be masked: read-only file system; and it cannot be removed: read-only file system (K 1)`,
	)
	require.Contains(t, text, "not ours 125\n")
	require.Contains(
		t,
		text,
		`outputs: "text": left as it is: it cannot be masked: permission denied; and it cannot be removed: permission denied (K 1)`,
	)
}

// init has different errors for a volume that is mounted noexec and for a full one. It leaves no
// file in either.
func TestInitNoexec(t *testing.T) {
	t.Parallel()
	harness.NeedRoot(t)
	dir := t.TempDir()
	script := `mount -t tmpfs -o noexec,size=64m none "$1" && ` + binary + ` init --copy-to "$1"; echo "code $?"; ls -A "$1"
mount -t tmpfs -o size=64k none "$1" && ` + binary + ` init --copy-to "$1"; echo "code $?"; ls -A "$1"`
	out, err := exec.Command("unshare", "-m", "sh", "-c", script, "sh", dir).CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	require.Contains(t, string(out),
		"nothing in "+dir+" can be executed: it is mounted noexec\nhint: copy to a volume without")
	require.Contains(t, string(out), "no space left on device")
	require.Equal(t, 2, strings.Count(string(out), "code 125\n"))
	require.True(t, strings.HasSuffix(string(out), "code 125\n"), "%s", out)
}

// init needs little memory besides the copy. Here the copy is on a disk and does not count, so the
// rest is the Go runtime's.
func TestInitMemory(t *testing.T) {
	t.Parallel()
	harness.Need(t, "python3") // a small program: a child's peak begins with that of its parent
	const measure = "import resource, subprocess, sys; subprocess.check_call(sys.argv[1:]); " +
		"print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
	out, err := exec.Command("python3", "-c", measure, binary, "init", "--copy-to", t.TempDir()).Output()
	require.NoError(t, err)
	kib, err := strconv.Atoi(strings.TrimSpace(string(out)))
	require.NoError(t, err)
	require.Less(t, kib, 16<<10)
}

// While init replaces files, a reader that has opened the folder sees either all old files or all
// new ones.
func TestInitSwap(t *testing.T) {
	t.Parallel()
	home, dir := homeWithSecret(t), t.TempDir()
	require.NoError(t, command(home, "create", "secret", "L", "the-value").Run())
	place := func() {
		out, err := command(home, "init", "--files", "--files-dir", dir, "--secret-file", "K", "--secret-file",
			"L").CombinedOutput()
		require.NoErrorf(t, err, "%s", out)
	}
	place()
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		read := 0
		defer func() { done <- read }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			data, err := os.OpenRoot(dir + "/..data") // stays the same folder when the link changes
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			k, err := data.ReadFile("K")
			l, err2 := data.ReadFile("L")
			_ = data.Close()
			if err != nil || err2 != nil {
				continue // init removed the folder meanwhile
			}
			if !bytes.Equal(k, l) {
				t.Errorf("%q and %q", k, l)
			}
			read++
		}
	}()
	for i := range longOrShort(20, 6) {
		for _, key := range []string{"K", "L"} {
			require.NoError(t, command(home, "update", "secret", key, fmt.Sprintf("value-%d", i)).Run())
		}
		place()
	}
	close(stop)
	require.Positive(t, <-done)
	left, err := filepath.Glob(dir + "/..2*")
	require.NoError(t, err)
	require.Len(t, left, 1)
}
