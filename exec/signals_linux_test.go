package exec_test

import (
	"bufio"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"inject/internal/harness"
)

// Each real-time signal arrives, at least once and no more often than it was sent: package
// os/signal merges those that come together. The first one and SIGPROF do not arrive. The child
// takes them out of the kernel's queue, because a Go program would merge them, too.
func TestRealTime(t *testing.T) {
	t.Parallel()
	const script = `
import signal, sys
all = set(range(34, 65)) | {signal.SIGPROF, signal.SIGUSR2}
signal.pthread_sigmask(signal.SIG_BLOCK, all)
print("ready", flush=True)
while True:
    n = signal.sigwait(all)
    print("got", int(n), flush=True)
    if n == signal.SIGUSR2: sys.exit(9)
`
	cmd, out := supervised(t, nil, harness.Need(t, "python3"), "-c", script)
	sent := map[syscall.Signal]int{lastTaken: allTaken(t, cmd, out)}
	for i := range 20 {
		for sig := syscall.Signal(35); sig <= lastTaken; sig++ {
			if i > int(sig)%20 {
				continue
			}
			require.NoError(t, cmd.Process.Signal(sig))
			sent[sig]++
		}
	}
	require.NoError(t, cmd.Process.Signal(unix.SIGPROF))
	got := map[syscall.Signal]int{lastTaken: 1}
	for len(got) < len(sent) {
		got[nextSignal(t, out)]++
	}
	require.NoError(t, cmd.Process.Signal(unix.SIGUSR2))
	for sig := nextSignal(t, out); sig != unix.SIGUSR2; sig = nextSignal(t, out) {
		got[sig]++
	}
	for sig, n := range got {
		require.LessOrEqual(t, n, sent[sig], sig)
	}
	require.NotContains(t, got, unix.SIGPROF)
	require.Error(t, cmd.Wait())
	require.Equal(t, 9, cmd.ProcessState.ExitCode())
}

// signalsOf returns a set of signals from /proc/PID/status: SigBlk or SigIgn, see proc(5).
func signalsOf(t *testing.T, status, set string) uint64 {
	t.Helper()
	_, text, found := strings.Cut(status, set+":\t")
	require.True(t, found)
	var bits uint64
	_, err := fmt.Sscanf(text, "%x", &bits)
	require.NoError(t, err)
	return bits
}

// A signal that was blocked or ignored when the supervisor started stays so in the program, with
// exceptions that are Go's: it unblocks the signals by which it dies, and of the ignored ones it
// keeps SIGHUP, SIGINT and the first real-time signal only. docs/reference/limits.md says so.
func TestBlockedAndIgnored(t *testing.T) {
	t.Parallel()
	const script = `
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGCONT, signal.SIGTERM, 40})
for n in (signal.SIGHUP, signal.SIGINT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, 34,
          signal.SIGTERM, signal.SIGPIPE):
    signal.signal(n, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
`
	python := harness.Need(t, "python3")
	states := map[string]string{}
	for how, args := range map[string][]string{
		"without": {"/bin/cat", "/proc/self/status"},
		"with":    {os.Args[0], "role", "supervise", "/bin/cat", "/proc/self/status"},
	} {
		out, err := osexec.Command(python, append([]string{"-c", script}, args...)...).Output()
		require.NoError(t, err)
		states[how] = string(out)
	}

	bit := func(sigs ...syscall.Signal) (bits uint64) {
		for _, sig := range sigs {
			bits |= 1 << (sig - 1)
		}
		return bits
	}
	require.Equal(t, bit(unix.SIGUSR1, unix.SIGCONT, unix.SIGTERM, 40), signalsOf(t, states["without"], "SigBlk"))
	require.Equal(t, bit(unix.SIGUSR1, unix.SIGCONT, 40), signalsOf(t, states["with"], "SigBlk"))

	ignored := bit(unix.SIGHUP, unix.SIGINT, 34)
	// Other signals may be ignored in the tests, too.
	all := ignored | bit(unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGTERM, unix.SIGPIPE)
	require.Equal(t, all, signalsOf(t, states["without"], "SigIgn")&all)
	require.Equal(t, ignored, signalsOf(t, states["with"], "SigIgn")&all)

	// A signal that was blocked when the supervisor started is forwarded all the same.
	cmd := osexec.Command(python, "-c", script, os.Args[0], "role", "supervise", python, "-c", `
import signal
print("ready", flush=True)
for n in range(2): print("got", int(signal.sigwait({signal.SIGUSR1, signal.SIGCONT})), flush=True)
`)

	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() { timer.Stop() })
	out := bufio.NewReader(stdout)
	line, err := out.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)

	for _, sig := range []syscall.Signal{unix.SIGUSR1, unix.SIGCONT} {
		require.NoError(t, cmd.Process.Signal(sig))
		line, err = out.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("got %d\n", sig), line)
	}
	require.NoError(t, cmd.Wait())
}

// Every signal that was blocked when the supervisor started is blocked for the program, but for those
// that Go's runtime unblocks. docs/reference/limits.md has the same list.
func TestBlockedSignals(t *testing.T) {
	t.Parallel()
	const script = `
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, set(range(1, 65)) - {9, 19, 32, 33})
os.execv(sys.argv[1], sys.argv[1:])
`
	python := harness.Need(t, "python3")
	var blocked [2]uint64
	for i, args := range [][]string{
		{"/bin/cat", "/proc/self/status"},
		{os.Args[0], "role", "supervise", "/bin/cat", "/proc/self/status"},
	} {
		out, err := osexec.Command(python, append([]string{"-c", script}, args...)...).Output()
		require.NoError(t, err)
		blocked[i] = signalsOf(t, string(out), "SigBlk")
	}
	require.NotZero(t, blocked[0]&blocked[1])
	var not []syscall.Signal
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		if (blocked[0]&^blocked[1])>>(sig-1)&1 != 0 {
			not = append(not, sig)
		}
	}
	require.ElementsMatch(t, []syscall.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGABRT, unix.SIGILL, unix.SIGTRAP, unix.SIGBUS,
		unix.SIGFPE, unix.SIGSEGV, unix.SIGSYS, unix.SIGSTKFLT, unix.SIGCHLD, unix.SIGURG, unix.SIGPROF, 34,
	}, not)
}

// A signal that stops the supervisor stops the program first, so that the sender finds both
// stopped. SIGCONT continues both.
func TestStopAndContinue(t *testing.T) {
	for _, sig := range []syscall.Signal{unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			cmd, program := stoppable(t)
			require.NoError(t, cmd.Process.Signal(sig))
			var status unix.WaitStatus
			_, err := unix.Wait4(cmd.Process.Pid, &status, unix.WUNTRACED, nil)
			require.NoError(t, err)
			require.True(t, status.Stopped())
			require.Equal(t, "T", processState(program))
			require.NoError(t, cmd.Process.Signal(unix.SIGCONT))
			require.Eventually(t, func() bool { return processState(program) != "T" }, 5*time.Second, time.Millisecond)
			require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
			require.Error(t, cmd.Wait())
			require.Equal(t, 143, cmd.ProcessState.ExitCode())
		})
	}
}

// processState returns the letter in /proc/PID/stat for the state of a process, or "" if there is
// no such process: see proc(5).
func processState(pid int) string {
	b, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	_, rest, _ := strings.Cut(string(b), ") ")
	return rest[:min(1, len(rest))]
}

// A stopped program is killed after the grace, as any other.
func TestStoppedIsKilled(t *testing.T) {
	t.Parallel()
	cmd, out := supervised(t, []string{"EXEC_TEST_GRACE=200ms"}, "sh", "-c", "echo ready; echo $$; kill -STOP $$")
	var pid int
	_, err := fmt.Fscan(out, &pid)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return processState(pid) == "T" }, 5*time.Second, time.Millisecond)
	require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
	require.Error(t, cmd.Wait())
	require.Equal(t, 137, cmd.ProcessState.ExitCode())
}

// Go turns a fault of the supervisor into a panic although signals are caught. The same signal from
// another process is forwarded: see TestSignals.
func TestFaultsStayOurs(t *testing.T) {
	t.Parallel()
	const script = "trap 'exit 4' USR1; echo ready; while :; do sleep 0.02; done"
	cmd, _ := supervised(t, []string{"EXEC_TEST_FAULT=1"}, "sh", "-c", script)
	require.NoError(t, cmd.Process.Signal(unix.SIGUSR1))
	require.Error(t, cmd.Wait())
	require.Equal(t, 4, cmd.ProcessState.ExitCode())
}

// SIGTSTP and then SIGCONT leave the program running. Package os/signal may swap two signals that
// come within a moment; another SIGCONT continues the program then.
func TestStopThenContinue(t *testing.T) {
	for _, c := range []struct {
		name  string
		pause time.Duration
		again bool
	}{
		{"at once", 0, true},
		{"after 0.3 ms", 300 * time.Microsecond, true},
		{"after 1 ms", time.Millisecond, true},
		{"after 500 ms", 500 * time.Millisecond, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cmd, program := stoppable(t)
			require.NoError(t, cmd.Process.Signal(unix.SIGTSTP))
			time.Sleep(c.pause)
			require.NoError(t, cmd.Process.Signal(unix.SIGCONT))
			if c.again {
				time.Sleep(200 * time.Millisecond) // the supervisor stops 50 ms after the program
				require.NoError(t, cmd.Process.Signal(unix.SIGCONT))
			}
			stopped := time.Now()
			require.Eventually(t, func() bool {
				if processState(program) == "T" || processState(cmd.Process.Pid) == "T" {
					stopped = time.Now()
				}
				return time.Since(stopped) > 100*time.Millisecond
			}, 10*time.Second, time.Millisecond)
			require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
			require.Error(t, cmd.Wait())
			require.Equal(t, 143, cmd.ProcessState.ExitCode())
		})
	}
}

// stoppable starts a supervisor without a terminal, and returns it and the process ID of its
// program. The program starts no other process, because a shell that is doing so does not stop.
func stoppable(t *testing.T) (cmd *osexec.Cmd, program int) {
	t.Helper()
	cmd = osexec.Command(os.Args[0], "role", "supervise", "sh", "-c", `echo ready $$; exec sleep 60`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() { timer.Stop() })
	_, err = fmt.Fscanf(stdout, "ready %d", &program)
	require.NoError(t, err)
	return cmd, program
}
