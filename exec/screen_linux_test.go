package exec_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"inject/exec"
)

func init() {
	// on-screen runs its arguments as inject does on a terminal: each output that is a terminal
	// is replaced by the pseudo-terminal, and any other by a pipe.
	roles["on-screen"] = func(args []string) int {
		p := exec.Process{Args: args, Env: os.Environ(), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
		for _, f := range []struct {
			file *os.File
			to   *io.Writer
		}{{os.Stdout, &p.Stdout}, {os.Stderr, &p.Stderr}} {
			if _, err := unix.IoctlGetTermios(int(f.file.Fd()), unix.TCGETS); err == nil {
				p.Terminal = func(person io.Writer) io.Writer { return writer{person} }
			} else {
				*f.to = writer{f.file}
			}
		}
		if file := os.Getenv("EXEC_TEST_PID"); file != "" {
			_ = os.WriteFile(file, []byte(strconv.Itoa(os.Getpid())), 0o600)
		}
		if os.Getenv("EXEC_TEST_PANIC") != "" {
			p.Started = func() {
				time.AfterFunc(200*time.Millisecond, func() { panic("as it was told") })
			}
		}
		status, err := exec.Run(ctx, p)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 125
		}
		if status.NoTerminal != nil {
			fmt.Fprintln(os.Stderr, status.NoTerminal)
		}
		return status.Code
	}
	// descriptors prints which of 0, 1 and 2 are terminals into the file that it is given.
	roles["descriptors"] = func(args []string) int {
		var b strings.Builder
		for fd := range 3 {
			if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil {
				fmt.Fprint(&b, fd)
			}
		}
		if os.WriteFile(args[0], []byte(b.String()), 0o600) != nil {
			return 1
		}
		return 3
	}
}

// screenOf starts cmd on a new terminal of size 33x99, as the leader of its session or below a
// shell. It returns our end of the terminal, and the terminal's modes from before.
func screenOf(t *testing.T, shared bool, cmd *osexec.Cmd) (tty *os.File, before *unix.Termios) {
	t.Helper()
	ours, theirs, err := pty.Open()
	require.NoError(t, err)
	before, err = unix.IoctlGetTermios(int(ours.Fd()), unix.TCGETS)
	require.NoError(t, err)
	require.NoError(t, pty.Setsize(ours, &pty.Winsize{Rows: 33, Cols: 99}))
	if cmd.Stdin == nil {
		cmd.Stdin = theirs
	}
	if cmd.Stdout == nil {
		cmd.Stdout = theirs
	}
	if cmd.Stderr == nil {
		cmd.Stderr = theirs
	}
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 3}
	if shared { // sh leads the session, and cmd is its child
		cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", `"$@"; exit $?`, "sh"}, cmd.Args...)
	}
	require.NoError(t, cmd.Start())
	require.NoError(t, theirs.Close())
	timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() { timer.Stop(); _ = ours.Close() })
	return ours, before
}

// kinds are the two kinds of terminal on which there is a screen.
var kinds = []struct {
	name   string
	shared bool
}{{"own terminal", false}, {"terminal of a shell", true}}

// Each of the descriptors 0, 1 and 2 is a terminal for the program if and only if it is one for the
// supervisor.
func TestEightCombinations(t *testing.T) {
	for _, kind := range kinds {
		for bits := range 8 {
			t.Run(fmt.Sprintf("%s, %03b", kind.name, bits), func(t *testing.T) {
				t.Parallel()
				want := ""
				cmd := osexec.Command(os.Args[0])
				file := t.TempDir() + "/descriptors"
				cmd.Args = append([]string{os.Args[0], "role", "on-screen"}, self("descriptors", file)...)
				other, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
				require.NoError(t, err)
				if bits&1 == 0 {
					cmd.Stdin = other
				} else {
					want += "0"
				}
				if bits&2 == 0 {
					cmd.Stdout = other
				} else {
					want += "1"
				}
				if bits&4 == 0 {
					cmd.Stderr = other
				} else {
					want += "2"
				}
				screenOf(t, kind.shared, cmd)
				require.Error(t, cmd.Wait())
				require.Equal(t, 3, cmd.ProcessState.ExitCode())
				got, err := os.ReadFile(file)
				require.NoError(t, err)
				require.Equal(t, want, string(got))
				require.NoError(t, other.Close())
			})
		}
	}
}

// requireGone waits until the process has ended.
func requireGone(t *testing.T, pid int) {
	t.Helper()
	require.Eventually(t, func() bool {
		return unix.Kill(pid, 0) != nil || processState(pid) == "Z"
	}, 10*time.Second, time.Millisecond)
}

// readScreen reads until text has appeared, and returns all that was read.
func readScreen(t *testing.T, tty *os.File, text string) string {
	t.Helper()
	var all []byte
	for b := make([]byte, 256); !bytes.Contains(all, []byte(text)); {
		n, err := tty.Read(b)
		all = append(all, b[:n]...)
		require.NoErrorf(t, err, "%q", all)
	}
	return string(all)
}

// The pseudo-terminal has the size of the person's terminal and follows it, and typed keys go to
// the program. However the program ends, the person's terminal is restored.
func TestScreen(t *testing.T) {
	for _, kind := range kinds {
		for _, end := range []struct {
			command string
			code    int
		}{{"exit 0", 0}, {"kill -KILL $$", 137}, {"kill -TERM $$", 143}} {
			t.Run(kind.name+", "+end.command, func(t *testing.T) {
				t.Parallel()
				script := `trap 'stty size' WINCH; stty size; stty raw -echo; echo ready; read x
					while [ -z "$y" ]; do y=$(stty size | grep 44); sleep 0.01; done; ` + end.command
				cmd := osexec.Command(os.Args[0])
				cmd.Args = []string{os.Args[0], "role", "on-screen", "/bin/sh", "-c", script}
				tty, before := screenOf(t, kind.shared, cmd)
				require.Contains(t, readScreen(t, tty, "ready"), "33 99")
				now, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
				require.NoError(t, err)
				require.NotEqual(t, before, now, "keys are handed on as they are typed")
				_, err = tty.WriteString("typed\n")
				require.NoError(t, err)
				require.NoError(t, pty.Setsize(tty, &pty.Winsize{Rows: 44, Cols: 111}))
				readScreen(t, tty, "44 111")
				_, _ = io.ReadAll(tty) // to its end: EIO
				_ = cmd.Wait()
				require.Equal(t, end.code, cmd.ProcessState.ExitCode())
				after, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
				require.NoError(t, err)
				require.Equal(t, before, after)
			})
		}
	}
}

// When the supervisor is killed or panics, the shell's terminal is restored and the program is
// killed.
func TestTerminalSurvivesUs(t *testing.T) {
	for _, how := range []string{"kill", "panic"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			file := t.TempDir() + "/pid"
			cmd := osexec.Command(os.Args[0])
			const script = "stty raw -echo; echo ready $$; exec sleep 60"
			cmd.Args = []string{os.Args[0], "role", "on-screen", "/bin/sh", "-c", script}
			cmd.Env = append(os.Environ(), "EXEC_TEST_PID="+file)
			if how == "panic" {
				cmd.Env = append(cmd.Env, "EXEC_TEST_PANIC=1")
			}
			tty, before := screenOf(t, true, cmd)
			var program int
			text := readScreen(t, tty, "\n")
			_, err := fmt.Sscanf(text, "ready %d", &program)
			require.NoErrorf(t, err, "%q", text)
			now, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
			require.NoError(t, err)
			require.NotEqual(t, before, now)
			code := 2 // Go's for a panic
			if how == "kill" {
				b, err := os.ReadFile(file)
				require.NoError(t, err)
				us, err := strconv.Atoi(string(b))
				require.NoError(t, err)
				require.NoError(t, unix.Kill(us, unix.SIGKILL))
				code = 137
			}
			_, _ = io.ReadAll(tty) // until the shell ends: EIO
			require.Error(t, cmd.Wait())
			require.Equal(t, code, cmd.ProcessState.ExitCode())
			require.Eventually(t, func() bool {
				now, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
				return err == nil && *now == *before
			}, 5*time.Second, time.Millisecond, how)
			requireGone(t, program)
		})
	}
}

// When the terminal is hung up, the program ends, as without a supervisor.
func TestHangUp(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			cmd := osexec.Command(os.Args[0])
			cmd.Args = []string{os.Args[0], "role", "on-screen", "/bin/sh", "-c", "echo ready $$; exec sleep 60"}
			tty, _ := screenOf(t, kind.shared, cmd)
			var program int
			text := readScreen(t, tty, "\n")
			_, err := fmt.Sscanf(text, "ready %d", &program)
			require.NoErrorf(t, err, "%q", text)
			require.NoError(t, tty.Close())
			require.Error(t, cmd.Wait())
			if !kind.shared {
				require.Equal(t, 129, cmd.ProcessState.ExitCode())
			}
			requireGone(t, program)
		})
	}
}

// A variable that names the person's terminal names the program's own, whatever the variable is
// called. In a pipeline it does not: there the program does not get the typed keys at once, and
// another process of the job may read them. Other variables stay as they are.
func TestVariablesNameTheTerminal(t *testing.T) {
	const (
		export = `export GPG_TTY=$(tty) SSH_TTY=$(tty) ANY=$(tty) NULL=/dev/null TTY=/dev/tty NONE=/dev/none PART=$(tty)x; `
		report = `own=$(tty </dev/stderr); for v in GPG_TTY SSH_TTY ANY NULL TTY NONE PART; do eval "value=\$$v"; ` +
			`case $value in $own) echo own;; /dev/pts/*x) echo part;; /dev/pts/*) echo other;; *) echo "$value";; esac; ` +
			`done | paste -sd, >&2; echo end >&2`
		rest = ",/dev/null,/dev/tty,/dev/none,part"
	)
	for _, c := range []struct{ name, run, want string }{
		{"own terminal", `exec "$@"`, "own,own,own" + rest},
		{"terminal of a shell", `"$@"; exit $?`, "own,own,own" + rest},
		{"pipeline", `"$@" | cat`, "other,other,other" + rest},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			args := []string{"-c", export + c.run, "sh", os.Args[0], "role", "on-screen", "sh", "-c", report}
			cmd := osexec.Command("/bin/sh", args...)
			tty, _ := screenOf(t, false, cmd)
			require.Contains(t, readScreen(t, tty, "end"), c.want)
			_ = cmd.Wait()
		})
	}
}
