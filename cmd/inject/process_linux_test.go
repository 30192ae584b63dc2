package main_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
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
	"golang.org/x/sys/unix"

	"inject/internal/harness"
)

// sharedHome returns a home as homeWithSecret does, which belongs to the user uid.
func sharedHome(t *testing.T, uid int) string {
	t.Helper()
	home, err := os.MkdirTemp("", "inject-home") //nolint:usetesting // t.TempDir's own folder is root's alone
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	require.NoError(t, command(home, "create", "secret", "K", "the-value").Run())
	require.NoError(t, exec.Command("chown", "-R", strconv.Itoa(uid), home).Run())
	return home
}

// A suiteCase is a test of tini's or dumb-init's own suite, with the result that inject must have.
// The script prints "ready" when it expects a signal.
type suiteCase struct {
	name    string
	script  string
	signals []syscall.Signal
	code    int
	out     string // after "ready"
}

func suiteCases() []suiteCase {
	loop := "; echo ready; while :; do sleep 0.02; done"
	cases := []suiteCase{
		{name: "tini: no such command", script: "", code: 127},
		{
			name:   "tini: stage_1, dumb-init: zombies. Orphans are reaped",
			script: `(sleep 0.05 &) ; (true &); for i in 1 2 3 4 5 6 7 8 9; do sleep 0.1; grep -l "^PPid:.$PPID$" /proc/[0-9]*/status 2>/dev/null | xargs grep -h "^State:.Z" 2>/dev/null || exit 0; done; exit 3`,
		},
		{
			name:    "tini: pgroup, dumb-init: TERM reaches all",
			script:  "sleep 60 & sleep 60 & trap 'exit 5' TERM; echo ready; wait",
			signals: []syscall.Signal{unix.SIGTERM},
			code:    5,
		},
		{
			name:    "tini: TERM of a child that dies of it",
			script:  "echo ready; exec sleep 60",
			signals: []syscall.Signal{unix.SIGTERM},
			code:    143,
		},
		{
			name:   "dumb-init: the working folder is kept, and ours is /",
			script: `test "$PWD" = /usr || exit 2; for i in $(seq 100); do test "$(readlink /proc/$PPID/cwd)" = / && exit 0; sleep 0.02; done; exit 1`,
		},
		{name: "dumb-init: arguments are untouched", script: `echo "$0" "$@"`, out: "sh -x -- a b\n"},
		{name: "dumb-init: stdin is the child's", script: "read x; echo $x", out: "typed\n"},
	}
	for _, n := range []int{0, 1, 2, 32, 64, 127, 254, 255} {
		cases = append(
			cases,
			suiteCase{
				name:   "dumb-init, tini: exit status " + strconv.Itoa(n),
				script: "exit " + strconv.Itoa(n),
				code:   n,
			},
		)
	}
	for _, sig := range []syscall.Signal{
		unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGKILL, unix.SIGUSR1,
		unix.SIGSEGV,
	} {
		cases = append(
			cases,
			suiteCase{
				name:   "dumb-init, tini: ended by " + sig.String(),
				script: fmt.Sprintf("kill -%d $$", sig),
				code:   128 + int(sig),
			},
		)
	}
	for _, sig := range []syscall.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2,
		unix.SIGALRM, unix.SIGTERM, unix.SIGCONT, unix.SIGWINCH, unix.SIGTRAP, unix.SIGABRT, unix.SIGXCPU,
		unix.SIGVTALRM, unix.SIGIO, unix.SIGPWR, unix.SIGSYS,
	} {
		cases = append(cases, suiteCase{
			name:    "dumb-init, tini: passes on " + sig.String(),
			script:  fmt.Sprintf("trap 'echo got; exit 9' %d%s", sig, loop),
			signals: []syscall.Signal{sig},
			code:    9,
			out:     "got\n",
		})
	}
	cases = append(cases, suiteCase{
		name:    "dumb-init: several signals, in turn",
		script:  "trap 'echo usr1' USR1; trap 'echo hup' HUP; trap 'exit 8' TERM" + loop,
		signals: []syscall.Signal{unix.SIGUSR1, unix.SIGHUP, unix.SIGTERM},
		code:    8,
		out:     "usr1\nhup\n",
	})
	return cases
}

// The real binary passes the tests of tini and dumb-init, as an ordinary process and as process 1
// of a PID namespace. With -short each case runs as one of the two, in turn.
func TestSuites(t *testing.T) {
	t.Parallel()
	harness.NeedRoot(t)
	harness.Need(t, "unshare")
	home := homeWithSecret(t)
	for i, c := range suiteCases() {
		for _, one := range []bool{false, true} {
			if testing.Short() && one != (i%2 == 0) {
				continue
			}
			t.Run(fmt.Sprintf("%s, process 1: %v", c.name, one), func(t *testing.T) {
				t.Parallel() // each waits for signals
				suite(t, home, c, one)
			})
		}
	}
}

// suite runs a case, with inject as process 1 of a PID namespace if one is set.
func suite(t *testing.T, home string, c suiteCase, one bool) {
	t.Helper()
	args := []string{binary, "--secret", "K", "--", "sh", "-c", c.script, "sh", "-x", "--", "a", "b"}
	if c.script == "" {
		args = []string{binary, "--secret", "K", "--", "/no/such/command"}
	}
	if one {
		args = append([]string{"unshare", "--pid", "--fork", "--kill-child", "--mount-proc"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdin = "/usr", command(home).Env, strings.NewReader("typed\n")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	timer := time.AfterFunc(20*time.Second, func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })

	lines := bufio.NewReader(out)
	pid := cmd.Process.Pid
	var said strings.Builder
	for _, sig := range c.signals {
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		if line != "ready\n" {
			said.WriteString(line)
		}
		if one { // unshare's child
			pid = onlyChild(t, cmd.Process.Pid)
		}
		require.NoError(t, unix.Kill(pid, sig))
	}

	rest, err := io.ReadAll(lines)
	require.NoError(t, err)
	said.Write(rest)
	err = cmd.Wait()
	timer.Stop()
	require.Equal(t, c.code, cmd.ProcessState.ExitCode(), err)
	require.Equal(t, c.out, strings.ReplaceAll(said.String(), "ready\n", ""))
}

func onlyChild(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	require.NoError(t, err)
	child, err := strconv.Atoi(strings.TrimSpace(string(b)))
	require.NoError(t, err)
	return child
}

// With nothing to mask and nothing to remove, inject replaces itself with the command, which still
// gets its secrets. A file that must be removed at the end keeps inject running.
func TestBecomesTheCommand(t *testing.T) { // not parallel: it places a file in the default folder
	home := homeWithSecret(t)
	for _, c := range []struct {
		args []string
		us   bool
	}{
		{nil, true},
		{[]string{"--secret", "K", "--no-redact"}, true},
		{[]string{"--secret", "K"}, false},
		{[]string{"--secret-file", "K", "--no-redact"}, false},
		{[]string{"--mask", "some-text"}, false},
	} {
		cmd := command(home, append(c.args, "--", "sh", "-c", "echo $$")...)
		var out bytes.Buffer
		cmd.Stdout = &out
		require.NoError(t, cmd.Run())
		require.Equal(t, c.us, strings.TrimSpace(out.String()) == strconv.Itoa(cmd.Process.Pid), c.args)
	}
}

// If output cannot be written, inject says so and exits with 125, unless the command failed, too.
// If the reader of the output ends, the command ends as it would without inject.
func TestOutputThatFails(t *testing.T) {
	t.Parallel()
	home := homeWithSecret(t)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	require.NoError(t, err)
	defer full.Close() //nolint:errcheck // nothing is in it
	for script, code := range map[string]int{"echo x": 125, "echo x; exit 7": 7} {
		cmd := command(home, "--secret", "K", "--", "sh", "-c", script)
		var stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = full, &stderr
		require.Error(t, cmd.Run())
		require.Equal(t, code, cmd.ProcessState.ExitCode())
		require.Contains(t, stderr.String(), "no space left on device")
	}
	r, w, err := os.Pipe()
	require.NoError(t, err)
	cmd := command(home, "--secret", "K", "--", "yes")
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &stderr
	require.NoError(t, cmd.Start())
	require.NoError(t, w.Close())
	_, err = io.ReadFull(r, make([]byte, 100))
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.Error(t, cmd.Wait())
	require.Equal(t, 141, cmd.ProcessState.ExitCode())
	require.Empty(t, stderr.String())
}

// inject checks the size of the command's environment and arguments before it starts the command.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	create := command(home, "create", "secret", "K", "--from-file", "-")
	create.Stdin = strings.NewReader(strings.Repeat("x", 60000))
	require.NoError(t, create.Run())
	cmd := exec.Command("sh", "-c", `ulimit -s 512; exec "$@"`, "sh", binary, "--secret", "K=V", "--", "touch",
		home+"/started")
	cmd.Env = append(command(home).Env, "LARGEST="+strings.Repeat("x", 100000))
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Equal(t, 126, cmd.ProcessState.ExitCode(), string(out))
	require.Contains(t, string(out),
		"and a program takes at most 131072; the largest is the variable LARGEST with 100009")
	require.NoFileExists(t, home+"/started")
	require.Contains(t, string(out), "hint: place large secrets in files with --secret-file")
	require.NotContains(t, string(out), "xxx")
}

// inject runs as any user, without a home, capabilities, new privileges, a writable file system or
// /proc.
func TestHardened(t *testing.T) { // not parallel: see TestChainedEntrypoint
	harness.NeedRoot(t)
	harness.Need(t, "unshare", "setpriv", "busybox")
	const uid = 65534
	home := sharedHome(t, uid)
	store := "--store=file://" + filepath.Join(home, ".local/share/inject/secrets.db")
	key := "--key-file=" + filepath.Join(home, ".config/inject/key.txt")
	drop := fmt.Sprintf(
		"setpriv --reuid %d --regid %d --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all",
		uid,
		uid,
	)
	task := `test "$K" = the-value && test -z "$HOME" && test "$(id -u)" = 65534 && ! touch /tmp/x 2>/dev/null && grep -q "^CapBnd:.0000000000000000" /proc/self/status && grep -q "^NoNewPrivs:.1" /proc/self/status && echo "$K" passed > /dev/stdout`
	script := `mount --make-rprivate / && mount -o remount,bind,ro / 2>/dev/null || mount -o remount,ro /
for d in /tmp /dev/shm /run; do mount -t tmpfs -o ro none $d 2>/dev/null; done
mount --bind /mnt/inject /tmp
exec env -i PATH="$PATH" ` + drop + ` /tmp/bin/inject ` + strings.ReplaceAll(store+" "+key, home, "/tmp/home") + ` --secret K -- sh -c '` + task + `'`
	// The script mounts over the folders of the binary and of the home, so copy both first.
	prepare := `mkdir -p /mnt/inject/bin && mount -t tmpfs none /mnt/inject && mkdir /mnt/inject/bin && cp ` + binary + ` /mnt/inject/bin/inject && cp -a ` + home + ` /mnt/inject/home && mount -o remount,ro /mnt/inject
`
	out, err := exec.Command("unshare", "--mount", "sh", "-c", prepare+script).CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	require.Equal(t, "[REDACTED:K] passed\n", string(out))

	// A root with only the binary, a shell and the store: no /proc, no /dev, no /tmp.
	root, err := os.MkdirTemp("", "inject-root") //nolint:usetesting // as in sharedHome
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	busybox, err := exec.LookPath("busybox")
	require.NoError(t, err)
	for name, from := range map[string]string{
		"inject": binary, "sh": busybox,
		"store": strings.TrimPrefix(store, "--store=file://"), "key": strings.TrimPrefix(key, "--key-file="),
	} {
		data, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(root, name), data, 0o700))
	}
	require.NoError(t, exec.Command("chown", "-R", strconv.Itoa(uid), root).Run())
	cmd := exec.Command("/inject", "--store=file:///store", "--key-file=/key", "--secret", "K", "--", "/sh", "-c",
		`[ "$K" = the-value ] && [ ! -e /proc ] && echo "$K" passed; exit 3`)
	cmd.Path, cmd.Dir, cmd.Env = "/inject", "/", []string{"PATH=/"}
	cmd.Err = nil
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err = cmd.CombinedOutput()
	require.Error(t, err)
	require.Equalf(t, 3, cmd.ProcessState.ExitCode(), "%s", out)
	require.Equal(t, "[REDACTED:K] passed\n", string(out))
}

// inject and the task can open descriptors by name, such as /dev/stdin, although other processes
// may not read inject's /proc entries.
func TestDescriptorsByName(t *testing.T) {
	t.Parallel()
	harness.NeedRoot(t)
	home := sharedHome(t, 65534)
	script := `cd "$HOME"; cp .config/inject/key.txt k
inject --key-file <(cat k) --secret K -- sh -c 'echo key $K'
inject --task <(echo '{"secrets": ["K"]}') -- sh -c 'echo task $K'
inject --secret K -- sh -c 'echo out $K > /dev/stdout; echo err $K > /dev/stderr; \
  echo fd $K > /dev/fd/1; cat /dev/stdin' < <(echo in the-value) 2>&1
inject --termination-log /dev/stderr --secret K -- /no/such 2>&1 | grep -c command_not_found
inject --termination-log /dev/fd/7 --secret K -- /no/such 7>&1 2>/dev/null
inject --termination-log /dev/fd/7 --secret K -- echo lost 7>&1 2>/dev/null > /dev/full`
	cmd := exec.Command("bash", "-c", script)
	cmd.Env = []string{"HOME=" + home, "PATH=" + filepath.Dir(binary) + ":" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out // a pipe that belongs to root
	_ = cmd.Run()                       // the last command fails
	require.Equal(
		t,
		"key [REDACTED:K]\ntask [REDACTED:K]\nout [REDACTED:K]\nerr [REDACTED:K]\n"+
			"fd [REDACTED:K]\nin [REDACTED:K]\n1\n"+
			`{"reason":"command_not_found","retryable":false,"message":"/no/such: command not found"}`+"\n"+
			`{"reason":"failed","retryable":false,"message":"write the task's output: write /dev/stdout: no space left on device; the rest of it is lost"}`+"\n",
		out.String(),
	)
}

// No value is in the environment or arguments of inject, and the task has no descriptor of inject.
func TestNothingOfOurs(t *testing.T) { // not parallel: it places a file in the default folder
	harness.NeedRoot(t)
	home := t.TempDir()
	value := "value " + rand.Text()
	require.NoError(t, command(home, "create", "secret", "K", value).Run())
	// Write to files, because stdout is masked.
	look := `cd "$HOME"; for d in $(seq 0 20); do if [ -e /proc/$$/fd/$d ]; then echo fd $d; fi; done > fds
cat /proc/$PPID/environ /proc/$PPID/cmdline > ours; cat /proc/$$/environ > task`
	run := func(cmd *exec.Cmd) (fds, ours, task string) {
		cmd.Env = append(cmd.Env, "CANARY="+value)
		out, err := cmd.CombinedOutput()
		require.NoErrorf(t, err, "%s", out)
		var texts [3]string
		for i, name := range []string{"fds", "ours", "task"} {
			b, err := os.ReadFile(filepath.Join(home, name))
			require.NoError(t, err)
			texts[i] = string(b)
		}
		return texts[0], texts[1], texts[2]
	}
	plain := exec.Command("bash", "--norc", "-c", look)
	plain.Env = command(home).Env
	want, _, _ := run(plain) // the parent of the tests may have left some open
	require.True(t, strings.HasPrefix(want, "fd 0\nfd 1\nfd 2\n"))
	for _, args := range [][]string{nil, {"--secret-file", "K"}, {"--no-redact", "--secret-file", "K"}} {
		fds, ours, task := run(command(home, append(args, "--secret", "K", "--", "bash", "--norc", "-c", look)...))
		require.Equal(t, want, fds, args)
		require.Equal(t, 1, strings.Count(ours, value), "only the canary has the value")
		require.Equal(t, 3, strings.Count(task, value), "the task has it twice beside the canary")
	}
}

// inject overwrites its copies of a value as soon as the task has it. If nothing is masked, the
// value of a file is nowhere in inject's memory. (With masking it is in the redactor, and the value
// of a variable is in Go's copy for execve.)
func TestForgotten(t *testing.T) { // not parallel: it places a file in the default folder
	harness.NeedRoot(t)
	home := t.TempDir()
	value := rand.Text() + rand.Text()
	require.NoError(t, command(home, "create", "secret", "K", value).Run())
	for _, c := range []struct {
		args  []string
		there bool
	}{
		{[]string{"--no-redact", "--secret-file", "K"}, false},
		{[]string{"--secret-file", "K"}, true}, // to check that the search works
	} {
		cmd := command(home, append(c.args, "--", "sh", "-c", `wc -c < "$FLYTE_SECRETS_DEFAULT_DIR/K"; read x`)...)
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(len(value))+"\n", line)
		require.Equal(t, c.there, inMemory(t, cmd.Process.Pid, []byte(value)), c.args)
		require.NoError(t, in.Close())
		_ = cmd.Wait() // the shell's read fails at the end of stdin
	}
}

// inMemory reports whether text is in the writable memory of a process.
func inMemory(t *testing.T, pid int, text []byte) bool {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	require.NoError(t, err)
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	require.NoError(t, err)
	defer mem.Close() //nolint:errcheck // read only
	found, total := false, 0
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var mode string
		_, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode)
		require.NoError(t, err)
		if !strings.HasPrefix(mode, "rw") || to-from > 256<<20 {
			continue
		}
		b := make([]byte, to-from)
		n, _ := mem.ReadAt(b, int64(from))
		total += n
		found = found || bytes.Contains(b[:n], text)
	}
	require.Greater(t, total, 1<<20, "memory was read")
	return found
}

// If a task reaches its limit of processes, only the task fails: inject returns its exit code and
// removes its files. If the limit is too low for Go's runtime, the task is not started.
func TestProcessLimit(t *testing.T) {
	// Not parallel: on a busy machine Go's runtime may want more threads than inject reserves.
	harness.NeedRoot(t)
	harness.Need(t, "unshare", "setpriv", "prlimit", "python3")
	const uid = 54321 // no other process of this user may count
	home := sharedHome(t, uid)
	script := `
import os, sys, time
# inject reserves its own threads a moment after the start. On a busy machine it may get no CPU
# before the loop has used up all processes.
time.sleep(0.5)
n = 0
try:
    while True:
        if os.fork() == 0: time.sleep(60)
        n += 1
except OSError as e:
    sys.stdout.write("k" * 3000000)
    print("end", n, e.errno, flush=True)
    sys.exit(7)
`
	for _, limit := range []int{40, 64, 200} {
		cmd := exec.Command("unshare", "--pid", "--fork", "--kill-child", "setpriv", fmt.Sprintf("--reuid=%d", uid),
			"--clear-groups", "prlimit", fmt.Sprintf("--nproc=%d", limit), binary, "--secret", "K",
			"--secret-file", "K", "--files-dir", home+"/f", "--", "python3", "-c", script)
		cmd.Env = command(home).Env
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		require.Error(t, err)
		require.Equalf(t, 7, cmd.ProcessState.ExitCode(), "%d: %s", limit, stderr.String())
		require.Regexp(t, `^end [0-9]+ 11\n$`, strings.TrimLeft(string(out), "k"))
		require.Greater(t, len(out), 3000000)
		require.NotContains(t, stderr.String(), "goroutine")
		left, err := filepath.Glob(home + "/f/*")
		require.NoError(t, err)
		require.Empty(t, left)
	}
	cmd := exec.Command("setpriv", fmt.Sprintf("--reuid=%d", uid), "--clear-groups", "prlimit", "--nproc=3", binary,
		"--secret", "K", "--", "echo", "started")
	cmd.Env = command(home).Env
	out, err := cmd.Output()
	require.Error(t, err)
	require.Empty(t, out)
}

// Full-screen programs look the same with inject as without. The test compares the screens of a
// real terminal emulator after the same keys.
func TestFullScreen(t *testing.T) {
	t.Parallel()
	harness.Need(t, "tmux", "vi", "less", "top")
	home := homeWithSecret(t)
	text := filepath.Join(home, "text")
	var b strings.Builder
	for i := range 300 {
		fmt.Fprintf(&b, "line %d of a text that is longer than a screen\n", i)
	}
	require.NoError(t, os.WriteFile(text, []byte(b.String()), 0o600))
	sleeper := exec.Command("sleep", "600")
	require.NoError(t, sleeper.Start())
	t.Cleanup(func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() })
	for _, c := range []struct {
		name, command string
		keys          [][]string
		end           []string
		changes       bool // its numbers differ from run to run
	}{
		// By default vi waits a second after Escape, which may be the first byte of a key.
		{
			"vi", "vi -u NONE -N -n --cmd 'set ttimeout ttimeoutlen=1' " + text,
			[][]string{{"G"}, {"o", "typed text", "Escape"}, {"0"}, {"d", "w"}, {":set number", "Enter"}, {"C-b"}},
			[]string{":q!", "Enter"},
			false,
		},
		{"less", "less -N " + text, [][]string{{"Space"}, {"/line 250", "Enter"}, {"k"}, {"G"}}, []string{"q"}, false},
		{"top", "top -d 600 -p " + strconv.Itoa(sleeper.Process.Pid), [][]string{{"t"}, {"m"}}, []string{"q"}, true},
	} {
		for _, below := range []string{"exec %s", "%s; exit $?"} { // on a terminal of its own, and below a shell
			t.Run(c.name+", as "+below, func(t *testing.T) {
				t.Parallel() // each waits until a screen stands still
				want := screens(t, home, fmt.Sprintf(below, c.command), c.keys, c.end)
				got := screens(t, home, fmt.Sprintf(below, binary+" --secret K -- "+c.command), c.keys, c.end)
				if c.changes {
					want, got = shape(want), shape(got)
				}
				require.Equal(t, want, got)
			})
		}
	}
}

// shape reduces each line of screens to the first word, without the numbers of top.
func shape(screens []string) []string {
	colours, begin := regexp.MustCompile("\x1b\\[[0-9;]*m"), regexp.MustCompile(`^[ 0-9]*[A-Za-z%]*`)
	var all []string
	for _, s := range screens {
		var lines []string
		for line := range strings.Lines(s) {
			lines = append(lines, strings.TrimLeft(begin.FindString(colours.ReplaceAllString(line, "")), " 0123456789"))
		}
		all = append(all, strings.Join(lines, "\n"))
	}
	return all
}

// screens returns the screens of a terminal, with colours and cursor: one after the start of a
// command, and one after each group of keys. The keys in end must end the command.
func screens(t *testing.T, home, command string, keys [][]string, end []string) []string {
	t.Helper()
	server := filepath.Join(t.TempDir(), "tmux") // a new one, because the last server may not have ended yet
	tmux := func(args ...string) string {
		cmd := exec.Command("tmux", append([]string{"-f", "/dev/null", "-S", server}, args...)...)
		cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "TERM=xterm-256color", "LANG=C.UTF-8"}
		out, err := cmd.CombinedOutput()
		require.NoErrorf(t, err, "tmux %v: %s", args, out)
		return string(out)
	}
	tmux("new-session", "-d", "-x", "100", "-y", "30", command)
	defer func() {
		kill := exec.Command("tmux", "-S", server, "kill-server")
		_ = kill.Run() // the server may have ended with its session
	}()
	// Wait until the screen is not empty and has not changed for a while.
	settled := func() string {
		last, still := "", 0
		for range 400 {
			now := tmux("capture-pane", "-p", "-e", ";",
				"display-message", "-p", "cursor #{cursor_x},#{cursor_y} #{cursor_flag} #{alternate_on}")
			screen, _, _ := strings.Cut(now, "cursor ")
			if now != last || strings.TrimSpace(screen) == "" {
				last, still = now, 0
			} else if still++; still == 10 {
				break
			}
			time.Sleep(40 * time.Millisecond) // until the program draws more
		}
		return last
	}
	all := []string{settled()}
	for _, k := range keys {
		tmux(append([]string{"send-keys"}, k...)...)
		all = append(all, settled())
	}
	tmux(append([]string{"send-keys"}, end...)...)
	gone := false
	for range 200 {
		check := exec.Command("tmux", "-S", server, "has-session")
		if _, ok := errors.AsType[*exec.ExitError](check.Run()); ok {
			gone = true
			break
		}
		time.Sleep(25 * time.Millisecond) // until the program ends, and its session with it
	}
	require.True(t, gone, "the keys in end did not end the command")
	return all
}

// A signal that comes while inject replaces itself with the command is not lost.
func TestNoSignalIsLostOnTheWay(t *testing.T) {
	t.Parallel()
	home := homeWithSecret(t)
	for i := 0; i < 150; i += longOrShort(1, 6) {
		cmd := command(home, "--no-redact", "--secret", "K", "--", "sleep", "5")
		require.NoError(t, cmd.Start())
		// Each signal comes a little later in the start than the one before.
		time.Sleep(2*time.Millisecond + time.Duration(i)*40*time.Microsecond)
		require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
		timer := time.AfterFunc(4*time.Second, func() { _ = cmd.Process.Kill() })
		require.Error(t, cmd.Wait(), "the command ran to its end")
		timer.Stop()
		status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
		require.True(t, cmd.ProcessState.ExitCode() == 143 || status.Signal() == unix.SIGTERM,
			cmd.ProcessState.String())
	}
}

// If the command closes a descriptor, its other end sees that, although inject goes on running. If
// the reader of stdout closes it, a command that waits for that, such as tail -f, ends.
func TestClosedIsClosed(t *testing.T) {
	t.Parallel()
	home := homeWithSecret(t)
	for which := range 4 { // stdin, stdout, a reader that closes stdout, another descriptor
		r, w, err := os.Pipe()
		require.NoError(t, err)
		script := fmt.Sprintf("exec %d>&-; sleep 20", which)
		cmd := command(home, "--secret", "K", "--", "sh", "-c", script)
		switch which {
		case 0:
			cmd.Stdin = r
		case 1:
			cmd.Stdout = w
		case 2: // stderr stays open for inject's own messages, so it is not tested
			cmd.Args[len(cmd.Args)-1] = "exec tail -f /dev/null"
			cmd.Stdout = w
		case 3:
			cmd.ExtraFiles = []*os.File{w}
		}
		require.NoError(t, cmd.Start())
		timer := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		start := time.Now()
		switch which {
		case 0:
			require.NoError(t, r.Close())
			for err == nil {
				_, err = w.WriteString("text\n")
			}
			require.ErrorIs(t, err, unix.EPIPE)
		case 2:
			time.Sleep(100 * time.Millisecond) // until tail runs
			require.NoError(t, errors.Join(w.Close(), r.Close()))
			_ = cmd.Wait() // tail chooses the exit code
		default:
			require.NoError(t, w.Close())
			_, err = io.ReadAll(r)
			require.NoError(t, err)
		}
		require.Less(t, time.Since(start), 4*time.Second, which)
		timer.Stop()
		if which != 2 {
			require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
			_ = cmd.Wait() // it ended by the signal
		}
		_, _ = r.Close(), w.Close()
	}
}

// Ctrl-C reaches the whole job, although the command handles it. And a value with tabs is masked
// before the terminal expands tabs to spaces.
func TestTypedForTheJob(t *testing.T) {
	t.Parallel()
	home := homeWithSecret(t)
	require.NoError(t, command(home, "create", "secret", "TAB", "a\tb\tvalue").Run())
	script := `trap 'echo parent' INT; ` + binary +
		` --secret K -- sh -c 'trap "echo child; exit 3" INT; echo ready; while :; do sleep 0.02; done'; echo code $?`
	cmd, tty := onTerminal(t, home, "--", "sh", "-c", script)
	readUntil(t, tty, "ready")
	_, err := tty.WriteString("\x03")
	require.NoError(t, err)
	seen := readUntil(t, tty, "code 3")
	require.Equal(t, 1, strings.Count(seen, "child"))
	require.Equal(t, 1, strings.Count(seen, "parent"))
	require.NoError(t, cmd.Wait())

	cmd, tty = onTerminal(t, home, "--", "sh", "-c",
		"stty tab3; "+binary+` --secret TAB -- sh -c 'printf "<%s>\n" "$TAB"'; echo end`)
	require.Contains(t, readUntil(t, tty, "end"), "<[REDACTED:TAB]>")
	require.NoError(t, cmd.Wait())
}

// Two injects in one job do not take the terminal from each other.
func TestTwoInOneJob(t *testing.T) {
	t.Parallel()
	home := homeWithSecret(t)
	script := `stty -g > ~/before; ` + binary + ` --secret K -- sleep 0.3 & ` + binary +
		` --secret K -- sh -c 'sleep 0.6; echo $K'; wait; stty -g | cmp - ~/before && echo same`
	cmd, tty := onTerminal(t, home, "--", "sh", "-c", script)
	require.Contains(t, readUntil(t, tty, "same"), "[REDACTED:K]")
	require.NoError(t, cmd.Wait())
}

// In a shell's job, with redirected output: if the command stops itself or Ctrl-Z stops it, the job
// stops, and fg continues both.
func TestStoppedJob(t *testing.T) {
	t.Parallel()
	home := homeWithSecret(t)
	do := jobShell(t, home)
	for _, sig := range []string{"STOP", "TSTP"} {
		do("inject --secret K -- sh -c 'kill -"+sig+" $$; echo $K back' > ~/out 2>&1\n", "Stopped", "prompt> ")
		do("fg; cat ~/out; echo do''ne\n", "[REDACTED:K] back", "done", "prompt> ")
	}
	for range 5 {
		do(
			"inject --secret K -- sh -c 'until test -e ~/go; do sleep 0.02; done & echo > ~/started; wait; echo $K " +
				"again' > ~/out 2>&1; echo at-pro''mpt\n",
		)
		require.Eventually(t, func() bool { return os.Remove(home+"/started") == nil }, 5*time.Second, time.Millisecond)
		do("\x1a", "Stopped", "at-prompt", "prompt> ")
		do("touch ~/go; fg; cat ~/out; rm ~/go; echo do''ne\n", "[REDACTED:K] again", "done", "prompt> ")
	}
}

// Linux limits the total size of all pipes of a user. Idle runs use so little of it that a new pipe
// still has the default size. A busy run enlarges its pipes.
func TestPipesOfIdleRuns(t *testing.T) {
	t.Parallel()
	harness.NeedRoot(t) // the budget of a user without other processes
	harness.Need(t, "unshare", "setpriv")
	const uid = 54322
	home := sharedHome(t, uid)
	script := `for i in $(seq 40); do inject --secret K -- sh -c 'echo x >> ~/started; sleep 20' 2>&1 | cat > /dev/null & done
while [ "$(cat ~/started 2> /dev/null | wc -l)" -lt 40 ]; do sleep 0.05; done
python3 -c 'import fcntl, os; r, w = os.pipe(); print(fcntl.fcntl(w, 1032))'
inject --secret K -- sh -c 'dd if=/dev/zero bs=1M count=50 status=none; python3 -c "import fcntl; print(fcntl.fcntl(3, 1032))" 3>&1 >&2' 2>&1 > /dev/null | cat`
	cmd := exec.Command("unshare", "--pid", "--fork", "--kill-child", "setpriv", fmt.Sprintf("--reuid=%d", uid),
		"--clear-groups", "--bounding-set=-all", "bash", "-c", script)
	cmd.Env = []string{"HOME=" + home, "PATH=" + filepath.Dir(binary) + ":" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	require.Equal(t, "65536\n1048576\n", string(out))
}
