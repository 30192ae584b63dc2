package exec_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"inject/exec"
)

func init() {
	// orphans gives its parent that many children, which end at once, and waits until they have
	// been reaped.
	roles["orphans"] = func(args []string) int {
		n, _ := strconv.Atoi(args[0])
		for range n {
			pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_PARENT|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
			if errno != 0 {
				fmt.Fprintln(os.Stderr, errno)
				return 1
			}
			if pid == 0 {
				_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
			}
		}
		for range 3000 {
			if len(childrenOf(os.Getppid())) == 1 { // this process
				return 0
			}
			time.Sleep(10 * time.Millisecond) // until they have been reaped
		}
		return 2
	}
	// close-stdout closes its outputs and ends a while later.
	roles["close-stdout"] = func([]string) int {
		_, _ = os.Stdout.WriteString("said\n")
		_, _ = os.Stdout.Close(), os.Stderr.Close()
		time.Sleep(300 * time.Millisecond) // so that its outputs end first
		return 6
	}
	// inherited prints what a program inherits.
	roles["inherited"] = func([]string) int {
		wd, _ := os.Getwd()
		nice, _ := unix.Getpriority(unix.PRIO_PROCESS, 0)
		fmt.Printf("wd=%s umask=%o nice=%d", wd, unix.Umask(0), 20-nice)
		// Go's runtime has raised the soft limit of open files. A shell gets the original one.
		limits, _ := osexec.Command("/bin/sh", "-c", "ulimit -n; ulimit -c; ulimit -s").Output()
		fmt.Printf(" limits=%s", strings.ReplaceAll(string(limits), "\n", ","))
		for fd := range 64 {
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
				fmt.Printf(" fd%d", fd)
			}
		}
		fmt.Println()
		return 0
	}
}

// childrenOf returns the children of all threads of a process.
func childrenOf(pid int) []string {
	var all []string
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, task := range tasks {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		all = append(all, strings.Fields(string(b))...)
	}
	return all
}

// A hundred thousand orphans (5,000 in short tests) are reaped while the program runs.
func TestManyOrphans(t *testing.T) {
	n := "100000"
	if raced || testing.Short() {
		n = "5000" // with the race detector each is a copy of all that it keeps
	}
	cmd := osexec.Command(os.Args[0], append([]string{"role", "supervise"}, self("orphans", n)...)...)
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
}

// Ten thousand programs later (a thousand in short tests) there is no zombie, no descriptor and
// no goroutine more, and no thread for each.
func TestSoak(t *testing.T) {
	n := 10000
	if raced || testing.Short() {
		n = 1000
	}
	kept := func() (goroutines, descriptors, children int) {
		entries, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return runtime.NumGoroutine(), len(entries), len(childrenOf(os.Getpid()))
	}

	once := func(i int) {
		c, cancel := context.WithCancel(t.Context())
		defer cancel()
		p := exec.Process{Args: []string{"/bin/true"}, Env: os.Environ(), Stdout: io.Discard, Stderr: io.Discard}
		want := 0
		switch i % 4 {
		case 1:
			p.Args, want = []string{"/bin/sleep", "60"}, 143
			p.Started = cancel
		case 2:
			p.Args, want = []string{"/bin/sh", "-c", "kill -KILL $$"}, 137
		case 3:
			p.Args = []string{"/no/such/program"}
		}
		status, err := exec.Run(c, p)
		if i%4 == 3 {
			require.Error(t, err)
			return
		}
		require.NoError(t, err)
		status.Asked = time.Time{} // set in case 1
		require.Equal(t, exec.Status{Code: want}, status)
	}

	for i := range 100 { // afterwards all that is made only once exists
		once(i)
	}

	time.Sleep(100 * time.Millisecond) // for the last goroutines to end
	goroutines, descriptors, children := kept()
	for i := range n {
		once(i)
	}
	for range 5000 {
		if runtime.NumGoroutine() <= goroutines {
			break
		}
		time.Sleep(time.Millisecond) // as above
	}

	more, now, left := kept()
	require.LessOrEqual(t, more, goroutines)
	require.Equal(t, descriptors, now)
	require.Equal(t, children, left)

	b, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	_, text, _ := strings.Cut(string(b), "Threads:")
	var threads int
	_, err = fmt.Sscan(text, &threads)
	require.NoError(t, err)
	require.Less(t, threads, 100)
}

// A program that closes its output goes on, and Run returns its exit status.
func TestOutputClosedEarly(t *testing.T) {
	start := time.Now()
	status, out, _ := run(t, exec.Process{Args: self("close-stdout")})
	require.Equal(t, exec.Status{Code: 6}, status)
	require.Equal(t, "said\n", out)
	require.GreaterOrEqual(t, time.Since(start), 300*time.Millisecond)
}

// The program has the same descriptors and limits as without a supervisor, and none of the
// supervisor's own.
func TestInheritedAll(t *testing.T) {
	t.Parallel()
	// The test may inherit descriptors and a niceness itself, as from a wrapper that holds a lock.
	script := `for fd in /proc/self/fd/*; do fd=${fd##*/}; if [ $fd -gt 2 ]; then eval "exec $fd<&-"; fi; done
		cd /; umask 27; ulimit -S -n 333; ulimit -S -c 0; ulimit -S -s 4096
		exec 7</dev/null 9>&1; exec nice -n 7 "$@"`
	priority, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	require.NoError(t, err)
	nice := min(20-priority+7, 19)
	outs := map[string]string{}
	for how, args := range map[string][]string{
		"without": self("inherited"),
		"with":    append([]string{os.Args[0], "role", "supervise"}, self("inherited")...),
	} {
		out, err := osexec.Command("bash", append([]string{"-c", script, "bash"}, args...)...).Output()
		require.NoError(t, err)
		outs[how] = string(out)
	}
	require.Contains(t, outs["without"], ", fd0 fd1 fd2 fd7 fd9\n")
	require.Contains(t, outs["without"], fmt.Sprintf(" nice=%d ", nice))
	require.Equal(t, outs["without"], outs["with"])
}

// Arguments and variables that are too large for execve(2) are refused before, by name. All
// others are accepted.
func TestSize(t *testing.T) {
	old := limitStack(t, 1<<20) // 256 KiB together
	defer limitStack(t, old)
	start := func(env []string, args ...string) (*exec.SizeError, error) {
		direct := &osexec.Cmd{Path: "/bin/true", Args: args, Env: env}
		directErr := direct.Run()
		_, err := exec.Run(t.Context(), exec.Process{Args: args, Env: env, Stdout: io.Discard, Stderr: io.Discard})
		size, _ := errors.AsType[*exec.SizeError](err)
		if size == nil {
			require.NoError(t, err)
			return nil, directErr
		}
		e, ok := errors.AsType[*exec.StartError](err)
		require.True(t, ok)
		require.Equal(t, exec.CodeNotExecutable, e.Code)
		return size, directErr
	}
	edge := 0
	for total := 262144 - 400; total < 262144+100; total++ {
		env := []string{"A=" + strings.Repeat("a", 100000), "LARGEST=" + strings.Repeat("b", 120000)}
		env = append(env, "C="+strings.Repeat("c", total-220000-100))
		size, direct := start(env, "/bin/true", "x")
		if direct == nil {
			require.Nil(t, size, "%d bytes start without us", total)
			continue
		}
		require.ErrorIs(t, direct, unix.E2BIG)
		require.NotNilf(t, size, "%d bytes do not start without us", total)
		if edge++; edge == 1 {
			require.Equal(t, size.Limit+1, size.Total, "the first that is too large")
		}
		require.Equal(t, "the variable LARGEST", size.Largest)
		require.Equal(t, len("LARGEST=")+120000+1, size.Bytes)
	}
	require.Positive(t, edge)
	for length, refused := range map[int]bool{131071: false, 131072: true} {
		size, direct := start(nil, "/bin/true", strings.Repeat("x", length))
		require.Equal(t, refused, direct != nil)
		require.Equal(t, refused, size != nil)
		if refused {
			require.ErrorContains(t, size, "argument 1 is 131073 bytes long, and a program takes at most 131072")
		}
	}
}

// limitStack sets the soft limit of the stack, which Go does not use, and returns the former one.
func limitStack(t *testing.T, n uint64) uint64 {
	t.Helper()
	var limit unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_STACK, &limit))
	old := limit.Cur
	limit.Cur = n
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_STACK, &limit))
	return old
}

// No process that the program leaves behind exists when Run returns, not even one that has a
// session of its own, ignores SIGTERM or is stopped. A process that handles SIGTERM can do so,
// and output that is on its way arrives.
func TestEndAll(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script := `
		: > ` + dir + `/pids
		(trap '' TERM HUP; setsid sh -c 'trap "" TERM; echo $$ >> ` + dir + `/pids; while :; do sleep 0.01; done' &)
		(setsid sh -c 'echo $$ >> ` + dir + `/pids; kill -STOP $$' > /dev/null 2>&1 &)
		(setsid sh -c 'trap "echo heard > ` + dir + `/heard; exit" TERM; echo $$ >> ` + dir + `/pids
			while :; do sleep 0.01; done' > /dev/null 2>&1 &)
		(sleep 0.2; echo late) &
		while [ "$(wc -l < ` + dir + `/pids)" != 3 ]; do sleep 0.01; done
		echo done; exit 7`
	cmd := osexec.Command(os.Args[0], "role", "supervise", "sh", "-c", script)
	cmd.Env = append(os.Environ(), "EXEC_TEST_END_ALL=1")
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Equal(t, 7, cmd.ProcessState.ExitCode(), "%s", out)
	require.Contains(t, string(out), "done\nlate\n")
	require.NotContains(t, string(out), "survived")
	pids, err := os.ReadFile(dir + "/pids")
	require.NoError(t, err)
	require.Len(t, strings.Fields(string(pids)), 3)
	for pid := range strings.FieldsSeq(string(pids)) {
		n, err := strconv.Atoi(pid)
		require.NoError(t, err)
		require.ErrorIs(t, unix.Kill(n, 0), unix.ESRCH)
	}
	require.FileExists(t, dir+"/heard")

	// Without EndAll such a process lives on.
	script = `(setsid sh -c 'echo $$ > ` + dir + `/alive; exec sleep 60' > /dev/null 2>&1 &)
		while [ ! -s ` + dir + `/alive ]; do sleep 0.01; done`
	require.NoError(t, osexec.Command(os.Args[0], "role", "supervise", "sh", "-c", script).Run())
	pid, err := os.ReadFile(dir + "/alive")
	require.NoError(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	require.NoError(t, err)
	require.NoError(t, unix.Kill(n, unix.SIGKILL))
}

// Processes that were there before the program are spared, as those of a script that has become the
// supervisor by exec.
func TestEndAllSparesOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script := `sleep 60 & echo $! > "$1/before"; shift; exec "$@"`
	left := `setsid sleep 60 & echo $! > ` + dir + `/left`
	cmd := osexec.Command("sh", "-c", script, "sh", dir, os.Args[0], "role", "supervise", "sh", "-c", left)
	cmd.Env = append(os.Environ(), "EXEC_TEST_END_ALL=1")
	require.NoError(t, cmd.Run())
	pidIn := func(name string) int {
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		require.NoError(t, err)
		return n
	}
	require.NoError(t, unix.Kill(pidIn("before"), unix.SIGKILL))
	require.ErrorIs(t, unix.Kill(pidIn("left"), 0), unix.ESRCH)
}

// The program is killed early enough to leave the caller its reserve.
func TestReserve(t *testing.T) {
	t.Parallel()
	cmd, out := supervised(t, []string{"EXEC_TEST_GRACE=3s", "EXEC_TEST_RESERVE=2900ms"}, self("ignore-term")...)
	start := time.Now()
	require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
	rest, err := io.ReadAll(out)
	require.NoError(t, err)
	require.Contains(t, string(rest), "asked true")
	require.Error(t, cmd.Wait())
	require.Equal(t, 137, cmd.ProcessState.ExitCode())
	// The reserve is at most half of the grace.
	require.Greater(t, time.Since(start), 1400*time.Millisecond)
	require.Less(t, time.Since(start), 2800*time.Millisecond)
}

func TestDeadline(t *testing.T) {
	_, signals := exec.TakeSignals(t.Context())
	defer signals.Release()
	_, err := exec.Run(t.Context(), exec.Process{
		Args: []string{"true"}, Env: os.Environ(), Stdout: io.Discard, Stderr: io.Discard, Signals: signals,
	})
	require.NoError(t, err)

	// A signal has asked us to stop before.
	ctx, cancel := signals.Deadline(t.Context(), time.Now().Add(-time.Second), time.Second+50*time.Millisecond)
	require.NoError(t, ctx.Err())
	<-ctx.Done()
	cancel()
	// Two signals ask us to stop. A SIGUSR1 does not.
	ctx, cancel = signals.Deadline(t.Context(), time.Time{}, time.Hour)
	for _, sig := range []syscall.Signal{unix.SIGUSR1, unix.SIGTERM} {
		require.NoError(t, unix.Kill(unix.Getpid(), sig))
		time.Sleep(20 * time.Millisecond) // for the signal to be taken
		require.NoError(t, ctx.Err())
	}
	require.NoError(t, unix.Kill(unix.Getpid(), unix.SIGINT))
	<-ctx.Done()
	cancel()
	// One signal asks us to stop, and the grace ends.
	ctx, cancel = signals.Deadline(t.Context(), time.Time{}, 50*time.Millisecond)
	time.Sleep(100 * time.Millisecond) // longer than the grace, which has not begun
	require.NoError(t, ctx.Err())
	require.NoError(t, unix.Kill(unix.Getpid(), unix.SIGTERM))
	<-ctx.Done()
	cancel()
	ctx, cancel = signals.Deadline(t.Context(), time.Time{}, time.Hour)
	cancel()
	require.Error(t, ctx.Err())
}
