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

// Real-time signals come as often as they were sent, the first of them and SIGPROF
// included, which os/signal hands to nobody. The child takes them out of the
// kernel's queue, because a Go program would merge them.
func TestRealTime(t *testing.T) {
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
	sent := map[syscall.Signal]int{unix.SIGPROF: 1}
	for i := range 20 {
		for sig := syscall.Signal(34); sig <= 64; sig++ {
			if i > int(sig)%20 {
				continue
			}
			require.NoError(t, cmd.Process.Signal(sig))
			sent[sig]++
		}
	}
	require.NoError(t, cmd.Process.Signal(unix.SIGPROF))
	all := 0
	for _, n := range sent {
		all += n
	}
	got := map[syscall.Signal]int{}
	for range all {
		line, err := out.ReadString('\n')
		require.NoError(t, err)
		var sig int
		_, err = fmt.Sscanf(line, "got %d", &sig)
		require.NoError(t, err)
		got[syscall.Signal(sig)]++
	}
	require.Equal(t, sent, got)
	require.NoError(t, cmd.Process.Signal(unix.SIGUSR2))
	require.Error(t, cmd.Wait())
	require.Equal(t, 9, cmd.ProcessState.ExitCode())
}

// signalsOf returns a set of signals of a process: SigBlk or SigIgn, see proc(5).
func signalsOf(t *testing.T, status, set string) uint64 {
	t.Helper()
	_, text, found := strings.Cut(status, set+":\t")
	require.True(t, found)
	var bits uint64
	_, err := fmt.Sscanf(text, "%x", &bits)
	require.NoError(t, err)
	return bits
}

// What was blocked or ignored when we were started stays so in the program; but for
// what Go's runtime takes away before main begins: of the blocked signals those by
// which it dies, and of the ignored ones all but a few. README says which.
func TestBlockedAndIgnored(t *testing.T) {
	const script = `
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGCONT, signal.SIGTERM, 40})
for n in signal.SIGHUP, signal.SIGINT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, 34, signal.SIGTERM, signal.SIGPIPE: signal.signal(n, signal.SIG_IGN)
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
	ignored := bit(unix.SIGHUP, unix.SIGINT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, 34)
	all := ignored | bit(unix.SIGTERM, unix.SIGPIPE) // whoever runs the tests may ignore others
	require.Equal(t, all, signalsOf(t, states["without"], "SigIgn")&all)
	require.Equal(t, ignored, signalsOf(t, states["with"], "SigIgn")&all)

	// A signal that is blocked when we are started is forwarded all the same.
	cmd := osexec.Command(python, "-c", script, os.Args[0], "role", "supervise", python, "-c", `
import signal
print("ready", flush=True)
for n in range(2): print("got", int(signal.sigwait({signal.SIGUSR1, signal.SIGCONT})), flush=True)
`)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
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

// Whoever stops us finds the program stopped, and us; and continues both. (The program
// makes no process meanwhile: a shell that is in the midst of that does not stop.)
func TestStopAndContinue(t *testing.T) {
	for _, sig := range []syscall.Signal{unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU} {
		cmd := osexec.Command(os.Args[0], append([]string{"role", "supervise"}, "sh", "-c", `echo ready $$; exec sleep 60`)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal, wherever the tests run
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		t.Cleanup(func() { timer.Stop() })
		var pid int
		_, err = fmt.Fscanf(stdout, "ready %d", &pid)
		require.NoError(t, err)
		require.NoError(t, cmd.Process.Signal(sig))
		var status unix.WaitStatus
		_, err = unix.Wait4(cmd.Process.Pid, &status, unix.WUNTRACED, nil)
		require.NoError(t, err)
		require.True(t, status.Stopped())
		require.Equal(t, "T", processState(pid))
		require.NoError(t, cmd.Process.Signal(unix.SIGCONT))
		require.Eventually(t, func() bool { return processState(pid) != "T" }, 5*time.Second, time.Millisecond)
		require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
		require.Error(t, cmd.Wait())
		require.Equal(t, 143, cmd.ProcessState.ExitCode())
	}
}

// processState returns the letter by which proc(5) tells what a process does; "" if
// there is none.
func processState(pid int) string {
	b, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	_, rest, _ := strings.Cut(string(b), ") ")
	return rest[:min(1, len(rest))]
}

// A program that is stopped is killed after the grace, as any other.
func TestStoppedIsKilled(t *testing.T) {
	cmd, out := supervised(t, []string{"EXEC_TEST_GRACE=200ms"}, "sh", "-c", "echo ready; echo $$; kill -STOP $$")
	var pid int
	_, err := fmt.Fscan(out, &pid)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return processState(pid) == "T" }, 5*time.Second, time.Millisecond)
	require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
	require.Error(t, cmd.Wait())
	require.Equal(t, 137, cmd.ProcessState.ExitCode())
}

// A fault of ours is Go's to turn into a panic while signals are caught; the same
// signal from somebody else is forwarded (TestSignals).
func TestFaultsStayOurs(t *testing.T) {
	cmd, _ := supervised(t, []string{"EXEC_TEST_FAULT=1"}, "sh", "-c", "trap 'exit 4' USR1; echo ready; while :; do sleep 0.02; done")
	require.NoError(t, cmd.Process.Signal(unix.SIGUSR1))
	require.Error(t, cmd.Wait())
	require.Equal(t, 4, cmd.ProcessState.ExitCode())
}

// Of signals that come together the last one counts: stopped and continued is
// continued. On a machine with much to do the thread that has the first may be
// overtaken (see isJob), which is to be rare; another SIGCONT continues us then.
func TestStopThenContinue(t *testing.T) {
	overtaken := 0
	for i := range 30 {
		cmd := osexec.Command(os.Args[0], append([]string{"role", "supervise"}, "sh", "-c", `echo ready $$; exec sleep 60`)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		var pid int
		_, err = fmt.Fscanf(stdout, "ready %d", &pid)
		require.NoError(t, err)
		// What they are in the end counts, not between the two signals: so they are to run
		// for a while.
		run := func() bool {
			end, running := time.Now().Add(3*time.Second), time.Now()
			for time.Since(running) < 100*time.Millisecond && time.Now().Before(end) {
				if processState(pid) == "T" || processState(cmd.Process.Pid) == "T" {
					running = time.Now()
				}
				time.Sleep(time.Millisecond)
			}
			return time.Since(running) >= 100*time.Millisecond
		}
		require.NoError(t, cmd.Process.Signal(unix.SIGTSTP))
		time.Sleep(time.Duration(i) * 50 * time.Microsecond)
		require.NoError(t, cmd.Process.Signal(unix.SIGCONT))
		if !run() {
			overtaken++
			require.NoError(t, cmd.Process.Signal(unix.SIGCONT))
			require.True(t, run(), i)
		}
		require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
		require.Error(t, cmd.Wait())
		timer.Stop()
	}
	require.LessOrEqual(t, overtaken, 3)
}
