package exec_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"inject/exec"
	"inject/internal/harness"
)

// The tests start this binary again as a supervisor or a program. The arguments name its role.
func TestMain(m *testing.M) {
	if exec.Monitor() {
		return
	}
	if len(os.Args) > 2 && os.Args[1] == "role" {
		os.Exit(roles[os.Args[2]](os.Args[3:]))
	}
	goleak.VerifyTestMain(m)
}

var roles = map[string]func(args []string) int{
	// supervise runs its arguments as inject does, with the output through pipes.
	"supervise": func(args []string) int {
		grace, _ := time.ParseDuration(os.Getenv("EXEC_TEST_GRACE"))
		reserve, _ := time.ParseDuration(os.Getenv("EXEC_TEST_RESERVE"))
		p := exec.Process{
			Args: args, Env: os.Environ(), Stdin: os.Stdin,
			Stdout: writer{os.Stdout}, Stderr: writer{os.Stderr}, Grace: grace, Reserve: reserve,
			EndAll: os.Getenv("EXEC_TEST_END_ALL") != "",
		}
		if os.Getenv("EXEC_TEST_FAULT") != "" {
			p.Started = func() {
				if err := fault(); err != nil {
					panic(err)
				}
			}
		}
		status, err := exec.Run(ctx, p)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 125
		}
		if status.Leaked {
			fmt.Fprintln(os.Stderr, "leaked")
		}
		if status.OutputErr != nil {
			fmt.Fprintln(os.Stderr, "output:", status.OutputErr)
		}
		if status.Survived {
			fmt.Fprintln(os.Stderr, "survived")
		}
		if reserve > 0 {
			fmt.Println("asked", !status.Asked.IsZero())
		}
		return status.Code
	},
	"replace": func(args []string) int {
		fmt.Fprintln(os.Stderr, exec.Replace(exec.Process{Args: args, Env: os.Environ()}))
		return 125
	},
	// replace-after gets a signal before it becomes its other arguments.
	"replace-after": func(args []string) int {
		_, signals := exec.TakeSignals(ctx)
		time.Sleep(100 * time.Millisecond) // until all are taken that are taken early
		sig, _ := strconv.Atoi(args[0])
		_ = unix.Kill(os.Getpid(), syscall.Signal(sig))
		time.Sleep(100 * time.Millisecond) // until it has been delivered
		err := exec.Replace(exec.Process{Args: args[1:], Env: os.Environ(), Signals: signals})
		if _, ok := errors.AsType[*exec.StoppedError](err); ok {
			return 124
		}
		return 125
	},
	"exit": func(args []string) int {
		n, _ := strconv.Atoi(args[0])
		return n
	},
	"die": func(args []string) int {
		n, _ := strconv.Atoi(args[0])
		signal.Reset()
		_ = unix.Kill(os.Getpid(), syscall.Signal(n))
		select {}
	},
	// signals prints the signals that it gets, and ends at a SIGUSR2.
	"signals": func([]string) int {
		ch := make(chan os.Signal, 4096)
		signal.Notify(ch)
		fmt.Println("ready")
		for sig := range ch {
			if sig == unix.SIGURG || sig == unix.SIGCHLD {
				continue
			}
			fmt.Printf("got %d\n", sig)
			if sig == unix.SIGUSR2 {
				return 9
			}
		}
		return 0
	},
	"ignore-term": func([]string) int {
		signal.Ignore(unix.SIGTERM)
		fmt.Println("ready")
		time.Sleep(time.Minute) // until it is killed
		return 0
	},
	// orphan leaves a process behind that ends a moment later, and waits until the supervisor
	// has reaped it.
	"orphan": func([]string) int {
		out, err := osexec.Command("/bin/sh", "-c", "sleep 0.1 & echo $!").Output()
		if err != nil {
			return 1
		}
		pid, _ := strconv.Atoi(strings.TrimSpace(string(out)))
		for range 500 {
			if unix.Kill(pid, 0) != nil {
				return 0
			}
			time.Sleep(10 * time.Millisecond) // until the orphan has been reaped
		}
		return 2
	},
	// leak leaves a process behind that holds our output for a while.
	"leak": func(args []string) int {
		cmd := osexec.Command(os.Args[0], append([]string{"role"}, args...)...)
		cmd.Stdout = os.Stdout
		if err := cmd.Start(); err != nil {
			return 1
		}
		fmt.Println("left", cmd.Process.Pid)
		return 4
	},
	"sleep": func([]string) int {
		time.Sleep(time.Minute) // until it is killed
		return 0
	},
	"chatter": func([]string) int {
		for range 3000 {
			if _, err := fmt.Println("chatter"); err != nil {
				return 1
			}
			time.Sleep(10 * time.Millisecond) // so that the output is never quiet
		}
		return 0
	},
	"flood": func(args []string) int {
		n, _ := strconv.Atoi(args[0])
		w := bufio.NewWriter(os.Stdout)
		for i := range n {
			_, _ = fmt.Fprintln(w, i)
		}
		_ = w.Flush()
		return 5
	},
	"alternate": func([]string) int {
		for i := range 2000 {
			f := os.Stdout
			if i%2 == 1 {
				f = os.Stderr
			}
			_, _ = fmt.Fprintln(f, i)
		}
		return 0
	},
	// state prints what it has inherited.
	"state": func([]string) int {
		b, _ := io.ReadAll(os.Stdin)
		wd, _ := os.Getwd()
		mask := unix.Umask(0)
		var limit unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
		entries, _ := os.ReadDir("/proc/self/fd")
		var fds []string
		for _, e := range entries {
			link, err := os.Readlink("/proc/self/fd/" + e.Name())
			if err == nil && !strings.Contains(link, "/proc/") && !strings.Contains(link, "anon_inode") {
				fds = append(fds, e.Name())
			}
		}
		fmt.Printf("stdin=%s wd=%s umask=%o nofile=%d fds=%s\n", b, wd, mask, limit.Cur, strings.Join(fds, ","))
		return 0
	},
}

var ctx = context.Background()

// writer hides that a writer is a file, so that Run uses a pipe.
type writer struct{ io.Writer }

func self(role string, args ...string) []string {
	return append([]string{os.Args[0], "role", role}, args...)
}

func run(t *testing.T, p exec.Process) (exec.Status, string, string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	p.Env, p.Stdout, p.Stderr = os.Environ(), &stdout, &stderr
	status, err := exec.Run(t.Context(), p)
	require.NoError(t, err)
	return status, stdout.String(), stderr.String()
}

func TestStatus(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want int
	}{
		{"exit 0", self("exit", "0"), 0},
		{"exit 3", self("exit", "3"), 3},
		{"exit 125", self("exit", "125"), 125},
		{"exit 255", self("exit", "255"), 255},
		{"SIGKILL", self("die", "9"), 137},
		{"SIGTERM", self("die", "15"), 143},
		{"SIGINT", self("die", "2"), 130},
		{"SIGUSR1", []string{"sh", "-c", "kill -USR1 $$"}, 138},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, _, _ := run(t, exec.Process{Args: c.args})
			require.Equal(t, exec.Status{Code: c.want}, status)
		})
	}
}

func TestNotStarted(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), mode))
		return path
	}
	for _, c := range []struct {
		name    string
		command string
		code    int
		text    string
	}{
		{"no such command", "no-such-command-here", 127, "command not found"},
		{"no such file", filepath.Join(dir, "absent"), 127, "command not found"},
		{"below a file", write("file", "x", 0o755) + "/below", 127, "command not found"},
		{"no name", "", 127, "command not found"},
		{"folder", dir, 126, "is a folder"},
		{"file without x", write("plain", "#!/bin/sh\n", 0o644), 126, "is not executable"},
		{"command without x", "plain", 126, "is not executable"},
		{"no such interpreter", write("bad-interpreter", "#!/no/such/interpreter\n", 0o755), 126, "interpreter"},
		{"no interpreter", write("no-shebang", "echo hello\n", 0o755), 126, "#!"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := exec.Process{
				Args: []string{c.command}, Env: []string{"PATH=" + os.Getenv("PATH") + ":" + dir},
				Stdout: io.Discard, Stderr: io.Discard,
			}
			_, runErr := exec.Run(t.Context(), p)
			for _, err := range []error{runErr, exec.Replace(p)} {
				var e *exec.StartError
				require.ErrorAs(t, err, &e)
				require.Equal(t, c.code, e.Code, err)
				require.ErrorContains(t, err, c.text)
			}
		})
	}
}

// A later folder of PATH has the program; "." and "" are the working folder.
func TestPath(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sh"), 0o755))
	t.Chdir(dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "local"), []byte("#!/bin/sh\nexit 7\n"), 0o755))
	for _, path := range []string{dir + ":/bin:/usr/bin", "/bin:/usr/bin:.", "/bin:/usr/bin:"} {
		for name, want := range map[string]int{"sh": 0, "local": 7} {
			if name == "local" && strings.HasPrefix(path, dir) {
				continue
			}
			status, err := exec.Run(t.Context(), exec.Process{
				Args: []string{name, "-c", "exit 0"}, Env: []string{"PATH=" + path},
				Stdout: io.Discard, Stderr: io.Discard,
			})
			require.NoError(t, err)
			require.Equal(t, want, status.Code)
		}
	}
}

func TestReplace(t *testing.T) {
	t.Parallel()
	cmd := osexec.Command(os.Args[0], append([]string{"role", "replace"}, self("exit", "6")...)...)
	require.NoError(t, cmd.Start())
	require.Error(t, cmd.Wait())
	require.Equal(t, 6, cmd.ProcessState.ExitCode())
}

// A signal that came before Replace asks us to stop, or does what it would have done to the
// program.
func TestReplaceAfterSignal(t *testing.T) {
	for _, c := range []struct {
		sig  syscall.Signal
		code int // -1: the signal has ended the process
	}{
		{unix.SIGTERM, 124},
		{unix.SIGQUIT, 124},
		{unix.SIGUSR1, -1},
		{unix.SIGWINCH, 6},
		{unix.SIGPIPE, 6},
		{unix.SIGCONT, 6},
	} {
		t.Run(c.sig.String(), func(t *testing.T) {
			t.Parallel()
			args := append([]string{"role", "replace-after", strconv.Itoa(int(c.sig))}, self("exit", "6")...)
			cmd := osexec.Command(os.Args[0], args...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			require.Error(t, cmd.Run())
			require.Equal(t, c.code, cmd.ProcessState.ExitCode())
			if c.code < 0 {
				status := cmd.ProcessState.Sys().(syscall.WaitStatus) //nolint:errcheck,forcetypeassert // of Linux
				require.Equal(t, c.sig, status.Signal())
			}
		})
	}
}

// supervised starts a supervisor of args and returns it once args said "ready".
func supervised(t *testing.T, env []string, args ...string) (cmd *osexec.Cmd, out *bufio.Reader) {
	t.Helper()
	cmd = osexec.Command(os.Args[0], append([]string{"role", "supervise"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	out = bufio.NewReader(stdout)
	// Nothing here takes long. A supervisor that hangs is killed, and its output ends.
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() { timer.Stop() })
	line, err := out.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	return cmd, out
}

// lastTaken is the signal that is taken last.
const lastTaken = syscall.Signal(64)

// allTaken waits until the supervisor takes all signals: it sends the last one again and again
// until that arrives. It returns how often it was sent.
func allTaken(t *testing.T, cmd *osexec.Cmd, out *bufio.Reader) int {
	t.Helper()
	arrived, sent := make(chan struct{}), make(chan int)
	go func() {
		for n := 1; ; n++ {
			_ = cmd.Process.Signal(lastTaken)
			select {
			case <-arrived:
				sent <- n
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	require.Equal(t, lastTaken, nextSignal(t, out))
	close(arrived)
	return <-sent
}

// nextSignal returns the next signal that the program says it got.
func nextSignal(t *testing.T, out *bufio.Reader) syscall.Signal {
	t.Helper()
	line, err := out.ReadString('\n')
	require.NoError(t, err)
	var sig int
	_, err = fmt.Sscanf(line, "got %d", &sig)
	require.NoError(t, err, line)
	return syscall.Signal(sig)
}

func TestSignals(t *testing.T) {
	t.Parallel()
	cmd, out := supervised(t, nil, self("signals")...)
	allTaken(t, cmd, out)
	for sig := syscall.Signal(1); sig <= 31; sig++ {
		switch sig {
		// The first two cannot be caught, and the next three are not forwarded. Go's runtime
		// keeps SIGPROF. SIGUSR2 ends the program.
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE, unix.SIGPROF, unix.SIGUSR2:
			continue
		}
		require.NoError(t, cmd.Process.Signal(sig))
		got := lastTaken
		for got == lastTaken { // sent by allTaken
			got = nextSignal(t, out)
		}
		require.Equal(t, sig, got)
	}
	// None of these may arrive, and none may end the supervisor.
	for _, sig := range []syscall.Signal{unix.SIGURG, unix.SIGCHLD, unix.SIGPIPE} {
		require.NoError(t, cmd.Process.Signal(sig))
	}
	// In a burst signals are merged, but the last of each number arrives.
	for i := range 1000 {
		burst := []syscall.Signal{unix.SIGUSR1, unix.SIGHUP, unix.SIGWINCH, unix.SIGTERM}
		require.NoError(t, cmd.Process.Signal(burst[i%4]))
	}
	seen := ""
	for _, sig := range []syscall.Signal{unix.SIGUSR1, unix.SIGHUP, unix.SIGWINCH, unix.SIGTERM, unix.SIGUSR2} {
		if sig == unix.SIGUSR2 {
			require.NoError(t, cmd.Process.Signal(sig))
		}
		for !strings.Contains(seen, fmt.Sprintf("got %d\n", sig)) {
			line, err := out.ReadString('\n')
			require.NoErrorf(t, err, "%v has not arrived", sig)
			seen += line
		}
	}
	for _, sig := range []syscall.Signal{unix.SIGURG, unix.SIGCHLD, unix.SIGPIPE} {
		require.NotContains(t, seen, fmt.Sprintf("got %d\n", sig))
	}
	require.Error(t, cmd.Wait())
	require.Equal(t, 9, cmd.ProcessState.ExitCode())
}

// A signal goes to the whole group of the program.
func TestSignalsReachTheGroup(t *testing.T) {
	t.Parallel()
	cmd, _ := supervised(t, nil, "sh", "-c", "sleep 60 & echo ready; wait")
	require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
	require.Error(t, cmd.Wait())
	require.Equal(t, 143, cmd.ProcessState.ExitCode())
}

// A SIGHUP that was ignored when the supervisor started stays ignored in the program.
func TestIgnored(t *testing.T) {
	t.Parallel()
	cmd := osexec.Command("nohup", os.Args[0], "role", "supervise", "sh", "-c", "kill -HUP $$; echo survived")
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, "survived\n", string(out))
}

func TestGrace(t *testing.T) {
	// Only a signal that asks to stop begins the grace.
	cmd, _ := supervised(t, []string{"EXEC_TEST_GRACE=100ms"}, self("signals")...)
	require.NoError(t, cmd.Process.Signal(unix.SIGUSR1))
	time.Sleep(300 * time.Millisecond) // for a SIGKILL that must not come
	require.NoError(t, cmd.Process.Signal(unix.SIGUSR2))
	require.Error(t, cmd.Wait())
	require.Equal(t, 9, cmd.ProcessState.ExitCode())

	cmd, _ = supervised(t, []string{"EXEC_TEST_GRACE=300ms"}, self("ignore-term")...)
	start := time.Now()
	require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
	require.Error(t, cmd.Wait())
	require.Equal(t, 137, cmd.ProcessState.ExitCode())
	require.GreaterOrEqual(t, time.Since(start), 300*time.Millisecond)

	// The end of the context asks to stop in the same way.
	c, cancel := context.WithCancel(t.Context())
	ready := &notify{text: "ready", then: cancel}
	status, err := exec.Run(c, exec.Process{
		Args: self("ignore-term"), Env: os.Environ(), Stdout: ready, Stderr: io.Discard, Grace: 50 * time.Millisecond,
	})
	require.NoError(t, err)
	require.Equal(t, 137, status.Code)
}

// notify calls then when text is written.
type notify struct {
	text string
	then func()
}

func (n *notify) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(n.text)) {
		n.then()
	}
	return len(p), nil
}

func TestOrphansAreReaped(t *testing.T) {
	status, _, stderr := run(t, exec.Process{Args: self("orphan")})
	require.Equal(t, exec.Status{}, status, stderr)
}

func TestOutput(t *testing.T) {
	// The output is larger than a pipe, and its reader is slower than the program.
	var out bytes.Buffer
	slow := writer{io.MultiWriter(&out, delay{})}
	status, err := exec.Run(t.Context(), exec.Process{
		Args: self("flood", "100000"), Env: os.Environ(), Stdout: slow, Stderr: io.Discard,
	})
	require.NoError(t, err)
	require.Equal(t, 5, status.Code)
	require.Equal(t, 100000, bytes.Count(out.Bytes(), []byte("\n")))
	require.True(t, bytes.HasSuffix(out.Bytes(), []byte("\n99999\n")))

	// The reader is so slow that the program has ended long before, while the pipe still held
	// output.
	out.Reset()
	slow = writer{io.MultiWriter(&out, crawl{})}
	status, err = exec.Run(t.Context(), exec.Process{
		Args: self("flood", "30000"), Env: os.Environ(), Stdout: slow, Stderr: io.Discard,
	})
	require.NoError(t, err)
	require.Equal(t, exec.Status{Code: 5}, status)
	require.True(t, bytes.HasSuffix(out.Bytes(), []byte("\n29999\n")))

	// One writer for stdout and stderr keeps the order of the two.
	out.Reset()
	w := writer{&out}
	both := &w
	_, err = exec.Run(t.Context(), exec.Process{Args: self("alternate"), Env: os.Environ(), Stdout: both, Stderr: both})
	require.NoError(t, err)
	var want strings.Builder
	for i := range 2000 {
		fmt.Fprintln(&want, i)
	}
	require.Equal(t, want.String(), out.String())
}

// crawl takes longer for a write than Run waits for a silent pipe that outlives the program.
type crawl struct{}

func (crawl) Write(p []byte) (int, error) {
	time.Sleep(400 * time.Millisecond) // longer than a pipe must be quiet
	return len(p), nil
}

type delay struct{}

func (delay) Write(p []byte) (int, error) {
	time.Sleep(5 * time.Millisecond) // so that the pipe is full
	return len(p), nil
}

// A process that outlives the program and holds its output does not keep Run from returning,
// whether the process is silent or not. All that the program itself wrote arrives.
func TestLeakedPipe(t *testing.T) {
	for _, role := range []string{"sleep", "chatter"} {
		t.Run(role, func(t *testing.T) {
			start := time.Now()
			status, out, _ := run(t, exec.Process{Args: self("leak", role)})
			require.Equal(t, 4, status.Code)
			require.True(t, status.Leaked)
			require.Less(t, time.Since(start), 10*time.Second)
			var pid int
			_, err := fmt.Sscanf(out[strings.Index(out, "left"):], "left %d", &pid)
			require.NoError(t, err)
			require.NoError(t, unix.Kill(pid, unix.SIGKILL))
			_, err = unix.Wait4(pid, nil, 0, nil) // we are its subreaper
			require.NoError(t, err)
		})
	}
}

// When the output cannot be written, the program gets a SIGPIPE as from a closed pipe.
// A program that is let go is in a session of its own, without our files, and the environment is the
// given one.
func TestDetach(t *testing.T) {
	said := filepath.Join(t.TempDir(), "said")
	script := `exec > "$1.new"; ps -o sid= -p $$ | tr -d ' '; readlink /proc/$$/fd/0 /proc/$$/fd/2; echo "$A$HOME"; ` +
		`echo $$; mv "$1.new" "$1"`
	require.NoError(t, exec.Detach([]string{"A=b", "PATH=" + os.Getenv("PATH")}, "sh", "-c", script, "sh", said))
	var lines []string
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(said)
		lines = strings.Fields(string(b))
		return err == nil
	}, time.Minute, 10*time.Millisecond)
	require.Len(t, lines, 5)
	require.Equal(t, []string{lines[4], "/dev/null", "/dev/null", "b"}, lines[:4])
	require.ErrorContains(t, exec.Detach(nil, "/no/such/browser"), "/no/such/browser: ")
}

func TestOutputError(t *testing.T) {
	for _, c := range []struct{ err, want error }{{unix.EPIPE, nil}, {unix.ENOSPC, unix.ENOSPC}} {
		t.Run(c.err.Error(), func(t *testing.T) {
			status, err := exec.Run(t.Context(), exec.Process{
				Args: []string{"sh", "-c", "while echo x; do :; done"}, Env: os.Environ(),
				Stdout: failing{c.err}, Stderr: io.Discard,
			})
			require.NoError(t, err)
			require.Equal(t, 141, status.Code)
			require.Equal(t, c.want, status.OutputErr)
		})
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// The program inherits the same as without a supervisor.
func TestInherited(t *testing.T) {
	old := unix.Umask(0o27)
	defer unix.Umask(old)
	input := filepath.Join(t.TempDir(), "input")
	require.NoError(t, os.WriteFile(input, []byte("input"), 0o600))
	open := func() *os.File {
		f, err := os.Open(input)
		require.NoError(t, err)
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	plain := osexec.Command(os.Args[0], self("state")[1:]...)
	plain.Stdin, plain.Stderr = open(), os.Stderr
	want, err := plain.Output()
	require.NoError(t, err)
	require.Contains(t, string(want), "stdin=input ")
	require.Contains(t, string(want), " umask=27 ")
	status, out, _ := run(t, exec.Process{Args: self("state"), Stdin: open()})
	require.Zero(t, status.Code)
	require.Equal(t, string(want), out)
}

// When the supervisor is killed, so is the program.
func TestParentDeath(t *testing.T) {
	t.Parallel()
	cmd, out := supervised(t, nil, "sh", "-c", "echo ready; echo $$; exec sleep 60")
	line, err := out.ReadString('\n')
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || bytes.Contains(b, []byte(") Z "))
	}, 5*time.Second, 10*time.Millisecond)
}

// Orphans are reaped by a supervisor that is process 1 of a PID namespace.
func TestProcessOne(t *testing.T) {
	args := append([]string{"--pid", "--fork", "--mount-proc", "--kill-child"}, self("supervise")...)
	if os.Geteuid() != 0 {
		args = append([]string{"--user", "--map-root-user"}, args...)
	}
	if err := osexec.Command("unshare", append(args, "true")...).Run(); err != nil {
		harness.Skip(t, "no PID namespace can be made here: ", err)
	}
	for role, want := range map[string]int{"orphan": 0, "leak": 4} {
		t.Run(role, func(t *testing.T) {
			cmd := osexec.Command("unshare", append(args, self(role, "sleep")...)...)
			out, err := cmd.CombinedOutput()
			var exit *osexec.ExitError
			require.True(t, err == nil || errors.As(err, &exit), "%v", err)
			require.Equalf(t, want, cmd.ProcessState.ExitCode(), "%s", out)
		})
	}
}

func TestOutputHelper(t *testing.T) {
	out, err := exec.Output(t.Context(), os.Environ(), "in", "cat")
	require.NoError(t, err)
	require.Equal(t, "in", string(out))
	_, err = exec.Output(t.Context(), nil, "", "false")
	require.ErrorContains(t, err, "false: exit status 1")
}

var nowhere *int

// fault uses a nil pointer and recovers from the panic. It fails if there was none.
func fault() (err error) {
	defer func() {
		if recover() != nil {
			err = nil
		}
	}()
	*nowhere = 1
	return errors.New("no panic")
}
