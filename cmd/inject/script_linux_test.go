package main_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"inject/internal/harness"
)

// binary is the path of the real inject. TestMain builds it once.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "inject-test")
	if err != nil {
		panic(err)
	}
	_ = os.Chmod(dir, 0o755) // for the tests that drop to another user
	binary = filepath.Join(dir, "inject")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", tags, "-ldflags",
		"-s -w -X main.version=v0.0.0-test", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s", out)
		panic(err)
	}
	parallel()
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// parallel lets more tests run at the same time than there are cores, unless -parallel is given:
// most of them wait for processes.
func parallel() {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", strconv.Itoa(3*runtime.GOMAXPROCS(0))) // a number is valid
	}
}

// longOrShort returns how often a test repeats something: long, or short with -short.
func longOrShort(long, short int) int {
	if testing.Short() {
		return short
	}
	return long
}

// TestScript runs testdata/*.txtar with the real binary. Besides the commands of testscript there
// are:
//
//	code N CMD...     CMD must exit with N
//	noleak [FILE...]  no value of v/, nor $VALUE, is in stdout, stderr or FILE, in any form of
//	                  harness.Forms
//	same A B          two files are the same, byte for byte
//	nobody CMD...     CMD must exit with 0 when the user 65534 runs it, who owns no file
//	flip FILE N       changes byte N of a file, counted from the end if N is negative
//	repeat N FILE     writes "x" N times to a file
//
// The files in v/ have values that are random in each run and hard to quote. Those of v/a and v/b
// fit in a variable; v/bin has a zero byte and does not.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", filepath.Dir(binary)+":"+os.Getenv("PATH"))
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("XDG_RUNTIME_DIR", filepath.Join(e.WorkDir, "runtime"))
			e.Setenv("STORE", filepath.Join(e.WorkDir, "home/.local/share/inject/secrets.db"))
			e.Setenv("KEYFILE", filepath.Join(e.WorkDir, "home/.config/inject/key.txt"))
			// A value that fits in an argument and does not change when a script expands it.
			e.Setenv("VALUE", "V'\"`\\%s 2"+rand.Text())
			for _, dir := range []string{"home", "v", "runtime", "f"} {
				if err := os.Mkdir(filepath.Join(e.WorkDir, dir), 0o700); err != nil {
					return err
				}
			}
			for name, awkward := range map[string]string{
				"a": "'\"$HOME`\\\n\xff\xfe%s",
				"b": "$(id)\t\xc3'\n", "bin": "\x00\xff\n",
			} {
				if err := os.WriteFile(filepath.Join(e.WorkDir, "v", name), []byte(awkward+rand.Text()),
					0o600); err != nil {
					return err
				}
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				got := 0
				err = ts.Exec(args[1], args[2:]...)
				if exit, ok := errors.AsType[*exec.ExitError](err); ok {
					got = exit.ExitCode()
				} else {
					ts.Check(err)
				}
				if got != want {
					ts.Fatalf("exit code %d instead of %d", got, want)
				}
			},
			"noleak": func(ts *testscript.TestScript, _ bool, args []string) { noLeak(ts, args) },
			"same": func(ts *testscript.TestScript, neg bool, args []string) {
				if (ts.ReadFile(args[0]) == ts.ReadFile(args[1])) == neg {
					ts.Fatalf("%s and %s: same is %v", args[0], args[1], neg)
				}
			},
			"nobody": func(ts *testscript.TestScript, neg bool, args []string) {
				cmd := exec.Command("env", args...)
				cmd.Dir, cmd.Env = ts.MkAbs("."), []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME")}
				if os.Geteuid() == 0 {
					// Only root may enter the folders of testscript.
					for dir := ts.MkAbs("."); dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
						ts.Check(os.Chmod(dir, 0o755))
					}
					cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
				}
				out, err := cmd.CombinedOutput()
				ts.Logf("%s", out)
				ts.Check(os.WriteFile(ts.MkAbs("nobody.out"), out, 0o600))
				if (err != nil) != neg {
					ts.Fatalf("%v", err)
				}
			},
			"flip": func(ts *testscript.TestScript, _ bool, args []string) {
				b := []byte(ts.ReadFile(args[0]))
				i, err := strconv.Atoi(args[1])
				ts.Check(err)
				b[(i+len(b))%len(b)] ^= 0xff
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
			},
			"repeat": func(ts *testscript.TestScript, _ bool, args []string) {
				n, err := strconv.Atoi(args[0])
				ts.Check(err)
				ts.Check(os.WriteFile(ts.MkAbs(args[1]), bytes.Repeat([]byte("x"), n), 0o600))
			},
		},
	})
}

func noLeak(ts *testscript.TestScript, files []string) {
	texts := map[string]string{"stdout": ts.ReadFile("stdout"), "stderr": ts.ReadFile("stderr")}
	for _, f := range files {
		texts[f] = ts.ReadFile(f)
	}
	ts.Check(harness.FindLeak(texts, map[string]string{
		"v/a": ts.ReadFile(
			"v/a",
		),
		"v/b":   ts.ReadFile("v/b"),
		"v/bin": ts.ReadFile("v/bin"),
		"VALUE": ts.Getenv("VALUE"),
	}))
}

// onTerminal starts inject on a terminal of its own, and returns the terminal's other end.
func onTerminal(t *testing.T, home string, args ...string) (*exec.Cmd, *os.File) {
	t.Helper()
	cmd := command(home, args...)
	return cmd, startOnTerminal(t, cmd, nil)
}

// startOnTerminal starts cmd on a terminal of its own, of the default size if size is nil,
// and returns the terminal's other end.
//
// Like the shell of a person, the test keeps the terminal open until its end. If inject
// were the last process to close it, Linux (6.18 at least) could report EIO to the test
// before the last bytes that inject wrote, and only a second read would return them.
func startOnTerminal(t *testing.T, cmd *exec.Cmd, size *pty.Winsize) *os.File {
	t.Helper()
	tty, terminal, err := pty.Open()
	require.NoError(t, err)
	if size != nil {
		require.NoError(t, pty.Setsize(tty, size))
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, cmd.Start())
	timer := time.AfterFunc(60*time.Second, func() { _ = cmd.Process.Kill(); _ = terminal.Close() }) // ends reads, too
	t.Cleanup(func() { timer.Stop(); _ = terminal.Close(); _ = tty.Close() })
	return tty
}

// readUntil reads from the terminal until it has read text. It returns all that it read.
func readUntil(t *testing.T, tty *os.File, text string) string {
	t.Helper()
	var all []byte
	for b := make([]byte, 256); !bytes.Contains(all, []byte(text)); {
		n, err := tty.Read(b)
		all = append(all, b[:n]...)
		require.NoErrorf(t, err, "%q", all)
	}
	return string(all)
}

func echoes(t *testing.T, tty *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	require.NoError(t, err)
	return state.Lflag&unix.ECHO != 0
}

// On a terminal create asks for the value, which the terminal does not show.
func TestPrompt(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	cmd, tty := onTerminal(t, home, "create", "secret", "K")
	readUntil(t, tty, "Enter secret value: ")
	require.Eventually(t, func() bool { return !echoes(t, tty) }, 5*time.Second, time.Millisecond)
	_, err := tty.WriteString("typed value\n")
	require.NoError(t, err)
	require.NotContains(t, readUntil(t, tty, "made the store"), "typed value")
	require.NoError(t, cmd.Wait())

	out, err := command(home, "--secret", "K", "--no-redact", "--", "printenv", "K").Output()
	require.NoError(t, err)
	require.Equal(t, "typed value\n", string(out))

	// A value in an argument is accepted, with a warning that the shell's history keeps it, too, and
	// that all users can read it.
	cmd, tty = onTerminal(t, home, "create", "secret", "ARG", "argument value")
	require.NotContains(t, readUntil(t, tty, "list of processes"), "argument value")
	require.NoError(t, cmd.Wait())
}

// A text to mask that is on the command line is accepted, with the same warning on a terminal; in
// the variable it is not warned of.
func TestMaskHint(t *testing.T) {
	t.Parallel()
	home, text := t.TempDir(), rand.Text()
	cmd, tty := onTerminal(t, home, "--mask", text, "--", "echo", text, "done")
	out := readUntil(t, tty, "[REDACTED:mask-1] done")
	require.NoError(t, cmd.Wait())
	require.Contains(t, out, "list of processes; put a secret in INJECT_MASK")
	require.NotContains(t, out, text)
	cmd = command(home, "--", "echo", text, "done")
	cmd.Env = append(cmd.Env, "INJECT_MASK="+text)
	tty = startOnTerminal(t, cmd, nil)
	out = readUntil(t, tty, "[REDACTED:mask-1] done")
	require.NoError(t, cmd.Wait())
	require.NotContains(t, out, "processes")
}

// After Ctrl-C at the prompt inject exits with 130, the terminal echoes again and nothing is
// created.
func TestPromptInterrupted(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	cmd, tty := onTerminal(t, home, "create", "secret", "K")
	readUntil(t, tty, "Enter secret value: ")
	require.Eventually(t, func() bool { return !echoes(t, tty) }, 5*time.Second, time.Millisecond)
	_, err := tty.WriteString("half a val\x03")
	require.NoError(t, err)
	require.NotContains(t, readUntil(t, tty, "inject: interrupted; nothing was changed"), "half a val")
	require.True(t, echoes(t, tty))
	require.Error(t, cmd.Wait())
	require.Equal(t, 130, cmd.ProcessState.ExitCode())
	entries, err := os.ReadDir(home)
	require.NoError(t, err)
	require.Empty(t, entries)
}

// inject asks for the passphrase of a new store twice, and for that of an existing one once. It
// makes no key file.
func TestPassphrasePrompt(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	cmd, tty := onTerminal(t, home, "create", "secret", "K", "the value", "--passphrase")
	for range 2 {
		readUntil(t, tty, "passphrase of the new store")
		require.Eventually(t, func() bool { return !echoes(t, tty) }, 5*time.Second, time.Millisecond)
		_, err := tty.WriteString("correct horse\n")
		require.NoError(t, err)
	}
	readUntil(t, tty, "made the store")
	require.NoError(t, cmd.Wait())
	require.NoFileExists(t, filepath.Join(home, ".config/inject/key.txt"))

	cmd, tty = onTerminal(t, home, "--secret", "K", "--", "sh", "-c", `test "$K" = "the value" && echo right`)
	readUntil(t, tty, "passphrase of the store: ")
	require.Eventually(t, func() bool { return !echoes(t, tty) }, 5*time.Second, time.Millisecond)
	_, err := tty.WriteString("correct horse\n")
	require.NoError(t, err)
	readUntil(t, tty, "right")
	require.NoError(t, cmd.Wait())
}

// A command on a terminal can read from it and gets Ctrl-C once. A script that runs inject ends
// with Ctrl-C, as it would without inject.
func TestTerminal(t *testing.T) {
	t.Parallel()
	home := homeWithSecret(t)
	script := `trap 'echo int; exit 5' INT; read x; echo "read $x $K"; while :; do sleep 0.05; done`
	cmd, tty := onTerminal(t, home, "--secret", "K", "--", "sh", "-c", script)
	_, err := tty.WriteString("line\n")
	require.NoError(t, err)
	readUntil(t, tty, "read line [REDACTED:K]")
	_, err = tty.WriteString("\x03")
	require.NoError(t, err)
	readUntil(t, tty, "int")
	require.Error(t, cmd.Wait())
	require.Equal(t, 5, cmd.ProcessState.ExitCode())

	cmd = command(home, "--", "sh", "-c", binary+" --secret K -- sh -c 'echo ready; sleep 20'; echo NEXT")
	tty, err = pty.Start(cmd) // does not keep the terminal open, so that io.ReadAll ends
	require.NoError(t, err)
	defer tty.Close() //nolint:errcheck // only read
	readUntil(t, tty, "ready")
	_, err = tty.WriteString("\x03")
	require.NoError(t, err)
	require.Error(t, cmd.Wait())
	rest, _ := io.ReadAll(tty) // until EIO
	require.NotContains(t, string(rest), "NEXT")
}

// A terminal shows a prompt at once, although its end may be the start of a value. If it is, the
// value is still masked. The script turns the echo off, because typed text would split the value.
func TestPromptIsSeen(t *testing.T) {
	t.Parallel()
	home := homeWithSecret(t)
	ask := `stty -echo < /dev/tty; printf "Continue [th"; read x < /dev/tty; printf "e-value]"; echo " got $x"`
	for _, args := range [][]string{
		{"--secret", "K", "--", "sh", "-c", ask},
		{"--", "sh", "-c", "{ " + ask + "; } | " + binary + " redact --secret K"},
	} {
		cmd, tty := onTerminal(t, home, args...)
		readUntil(t, tty, "Continue [th")
		_, err := tty.WriteString("yes\n")
		require.NoError(t, err)
		readUntil(t, tty, "[REDACTED:K]] got yes")
		require.NoError(t, cmd.Wait())
	}
}

// On a terminal without a shell, as in a container, every signal is passed on to the command's
// group once, that of Ctrl-C included. Ctrl-Z has no effect, since no shell could continue the
// command.
func TestOwnTerminal(t *testing.T) {
	t.Parallel()
	home := homeWithSecret(t)
	script := `trap 'echo int' INT; trap 'echo term' TERM; trap 'echo quit; exit 6' QUIT; read x; echo "got $x"; while :; do sleep 0.05; done`
	cmd, tty := onTerminal(t, home, "--secret", "K", "--", "sh", "-c", script)
	_, err := tty.WriteString("line\n")
	require.NoError(t, err)
	readUntil(t, tty, "got line")
	for _, c := range []struct {
		send func() error
		want string
	}{
		{func() error { _, err := tty.WriteString("\x03"); return err }, "int"},
		{func() error { return cmd.Process.Signal(unix.SIGINT) }, "int"},
		{func() error { return cmd.Process.Signal(unix.SIGTERM) }, "term"},
		{func() error {
			_, err := tty.WriteString("\x1a")
			time.Sleep(200 * time.Millisecond) // time for a stop, which must not come
			return errors.Join(err, cmd.Process.Signal(unix.SIGQUIT))
		}, "quit"},
	} {
		require.NoError(t, c.send())
		time.Sleep(100 * time.Millisecond) // time for a second one, which must not come
		require.Equal(t, 1, strings.Count(readUntil(t, tty, c.want+"\r\n"), c.want))
	}
	require.Error(t, cmd.Wait())
	require.Equal(t, 6, cmd.ProcessState.ExitCode())
}

// A signal ends the run at any moment: before the command starts, while it runs and after it. The
// secret is large, so that the start takes longer.
func TestNoSignalIsLost(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	create := command(home, "create", "secret", "K", "--from-file", "-")
	create.Stdin = bytes.NewReader(bytes.Repeat([]byte("0123456789abcdef"), 4000))
	require.NoError(t, create.Run())
	for i := 0; i < 60; i += longOrShort(1, 4) {
		cmd := command(home, "--secret", "K", "--", "sleep", "5")
		require.NoError(t, cmd.Start())
		// Leave Go's runtime time to start: before that a signal ends any program.
		time.Sleep(time.Duration(2+i) * time.Millisecond)
		require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
		err := cmd.Wait()
		require.Error(t, err, "the command ran to its end")
		code := cmd.ProcessState.ExitCode()
		status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
		require.Truef(t, code == 143 || status.Signal() == unix.SIGTERM, "%v after %d ms", err, 2+i)
	}
}

// If no process reads the output of inject and its command, inject still ends when it is asked
// to stop, and leaves no file.
func TestStuck(t *testing.T) {
	t.Parallel()
	home, dir := homeWithSecret(t), t.TempDir()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close() //nolint:errcheck // never read
	cmd := command(home, "--grace", "200ms", "--secret-file", "K", "--files-dir", dir, "--", "cat", "/dev/zero")
	cmd.Stdout, cmd.Stderr = w, w
	require.NoError(t, cmd.Start())
	require.NoError(t, w.Close())
	require.Eventually(t, func() bool { _, err := os.Stat(dir + "/K"); return err == nil }, 5*time.Second,
		time.Millisecond)
	time.Sleep(200 * time.Millisecond) // until the pipe is full, and inject is stuck
	require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
	timer := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	require.Error(t, cmd.Wait())
	require.Equal(t, 143, cmd.ProcessState.ExitCode())
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// jobShell starts an interactive shell on a terminal. The function that it returns types into the
// terminal and waits for texts, one after the other. Wait for the prompt before typing a command:
// the shell loses what is typed while it takes the terminal back.
func jobShell(t *testing.T, home string) func(typed string, wants ...string) {
	t.Helper()
	shell := exec.Command("bash", "--norc", "--noprofile", "-i")
	shell.Env = []string{
		"HOME=" + home,
		"PATH=" + filepath.Dir(binary) + ":" + os.Getenv("PATH"),
		"PS1=prompt> ",
		"TERM=dumb",
	}
	tty, err := pty.Start(shell)
	require.NoError(t, err)
	timer := time.AfterFunc(30*time.Second, func() { _ = shell.Process.Kill() })
	t.Cleanup(func() { timer.Stop(); _ = tty.Close(); _ = shell.Wait() })
	var seen []byte // the output behind the last text that was waited for
	do := func(typed string, wants ...string) {
		_, err := tty.WriteString(typed)
		require.NoError(t, err)
		for _, want := range wants {
			for !bytes.Contains(seen, []byte(want)) {
				b := make([]byte, 256)
				n, err := tty.Read(b)
				seen = append(seen, b[:n]...)
				require.NoErrorf(t, err, "%q", seen)
			}
			_, seen, _ = bytes.Cut(seen, []byte(want))
		}
	}
	do("", "prompt> ")
	return do
}

// In an interactive shell inject is a job like any other: with a pager in the pipeline, stopped and
// continued, in the background and in the foreground again.
func TestJobControl(t *testing.T) {
	t.Parallel()
	home := homeWithSecret(t)
	do := jobShell(t, home)
	// Another program of the pipeline reads from the terminal, as a pager does.
	do("inject --secret K -- sh -c 'echo $K; sleep 0.3' | { cat; read x < /dev/tty; echo got-$x; }\n", "[REDACTED:K]")
	do("typed\n", "got-typed", "prompt> ")
	do("inject --secret K -- sh -c 'echo rea''dy; read x; echo $x-$K'\n", "ready")
	do("\x1a", "Stopped", "prompt> ")
	do("fg\n", "inject --secret")
	do("again\n", "again-[REDACTED:K]", "prompt> ")
	// In the background inject does not change the terminal's modes.
	do(
		"stty -g > ~/modes; inject --secret K -- sh -c 'echo sai''d; sleep 0.4' & sleep 0.2; stty -g | cmp - "+
			"~/modes && wait && stty -g | cmp - ~/modes && echo as-be''fore\n",
		"said",
		"as-before",
		"prompt> ",
	)
	do("inject --secret K -- sh -c 'read x; echo $x-$K' &\n", "prompt> ")
	// The command tries to read, and is stopped.
	do("until jobs | grep -q Stop''ped; do sleep 0.02; done; echo sto''od\n", "stood", "prompt> ")
	do("fg\n", "inject --secret")
	do("back\n", "back-[REDACTED:K]", "prompt> ")
	do("inject --secret K -- sh -c 'echo run''s; exec sleep 20' | cat\n", "runs")
	do("\x03", "prompt> ")
	do("exit\n", "exit")
}

// Only root can read the store's key from the memory of inject; the task cannot.
func TestNotDumpable(t *testing.T) {
	t.Parallel()
	home, err := os.MkdirTemp("", "inject-home") //nolint:usetesting // t.TempDir's own folder is root's alone
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	key := "a passphrase " + rand.Text()
	env := append(command(home).Env, "INJECT_KEY="+key)
	create := command(home, "create", "secret", "K", "the-value")
	create.Env = env
	require.NoError(t, create.Run())
	look := command(home, "--secret", "K", "--", "sh", "-c",
		`cat /proc/self/environ | tr '\0' '\n' | grep -c the-value; cat /proc/$PPID/environ; true`)
	look.Env = env
	if os.Geteuid() == 0 {
		require.NoError(t, exec.Command("chown", "-R", "65534:65534", home).Run())
		look.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := look.CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	require.NotContains(t, string(out), key)
	require.Contains(t, string(out), "denied")
	require.Contains(t, string(out), "2\n", "the task can read its own environment")
}

// A long run shows a progress bar on a terminal. It fits the width, and is removed at the end.
func TestProgress(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/file", bytes.Repeat([]byte("x"), 3000), 0o600))
	require.NoError(t, unix.Mkfifo(dir+"/fifo", 0o600))
	cmd := command(dir, "redact", "--check", dir+"/file", dir+"/fifo")
	cmd.Env = append(cmd.Env, "INJECT_MASK=visible-text")
	tty := startOnTerminal(t, cmd, &pty.Winsize{Rows: 20, Cols: 50})
	fifo, err := os.OpenFile(dir+"/fifo", os.O_WRONLY, 0) // inject is reading the fifo now
	require.NoError(t, err)
	time.Sleep(700 * time.Millisecond) // until a run is long enough for a bar
	_, err = fifo.WriteString("a line\n")
	require.NoError(t, err)
	bar := readUntil(t, tty, "\x1b[K")
	require.True(t, strings.HasPrefix(bar, "\r[########################] 100% of 2.9 KiB  /"), bar)
	require.LessOrEqual(t, strings.Index(bar, "\x1b"), 50)
	_, err = fifo.WriteString("visible-text\n")
	require.NoError(t, err)
	require.NoError(t, fifo.Close())
	require.Contains(t, readUntil(t, tty, "(raw)"), "\r\x1b[K"+dir+"/fifo:7: mask-1 (raw)")
	require.Error(t, cmd.Wait())
	require.Equal(t, 1, cmd.ProcessState.ExitCode())
}

// While inject redact runs, no other process of its user can read its environment.
func TestRedactNotDumpable(t *testing.T) {
	t.Parallel()
	redact := command(t.TempDir(), "redact", "--mask", "visible-text")
	redact.Env = append(redact.Env, "CANARY=here")
	var nobody *syscall.SysProcAttr
	if os.Geteuid() == 0 {
		nobody = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	redact.SysProcAttr = nobody
	in, err := redact.StdinPipe()
	require.NoError(t, err)
	out, err := redact.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, redact.Start())
	_, err = io.WriteString(in, "visible-text")
	require.NoError(t, err)
	b := make([]byte, len("[REDACTED:mask-1]"))
	_, err = io.ReadFull(out, b) // inject has its values now
	require.NoError(t, err)
	require.Equal(t, "[REDACTED:mask-1]", string(b))
	look := exec.Command("cat", fmt.Sprintf("/proc/%d/environ", redact.Process.Pid))
	look.SysProcAttr = nobody
	text, err := look.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(text), "denied")
	require.NoError(t, in.Close())
	require.NoError(t, redact.Wait())
}

// A signal leaves the file either masked or unchanged, and no temporary file.
func TestRedactInterrupted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	whole := append(bytes.Repeat([]byte("0123456789"), 4<<20), "the-value"...)
	stopped, done := 0, false
	// Send the signal later and later, until one stopped inject and one came too late.
	for ms := 0; stopped == 0 || !done; ms = ms*5/4 + 2 {
		require.NoError(t, os.WriteFile(path, whole, 0o600))
		cmd := command(dir, "redact", "--mask", "the-value", "--in-place", path)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		require.NoError(t, cmd.Start())
		// Until inject is in the midst of its work.
		time.Sleep(time.Duration(ms) * time.Millisecond)
		_ = cmd.Process.Signal(unix.SIGTERM) // inject may have ended
		_ = cmd.Wait()
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 1)
		switch code := cmd.ProcessState.ExitCode(); code {
		case 0:
			require.True(t, bytes.HasSuffix(text, []byte("[REDACTED:mask-1]")))
			done, ms = true, 0
		case 143:
			stopped++
			require.Contains(t, stderr.String(),
				"stopped by a signal (terminated); files that were not done yet are as they were")
			require.True(t, bytes.Equal(text, whole))
		default:
			// The signal ended inject before it was handled. If that begins at the same moment, Go's
			// runtime cannot end by the signal, and ends with 2 (dieFromSignal).
			require.Contains(t, []int{-1, 2}, code)
			require.Empty(t, stderr.String())
			require.True(t, bytes.Equal(text, whole))
		}
	}
}

// After a signal n while inject waits for the store, inject exits with 128+n and starts nothing.
func TestStoppedBeforeTheStart(t *testing.T) {
	t.Parallel()
	home := homeWithSecret(t)
	store, err := os.Open(filepath.Join(home, ".local/share/inject/secrets.db"))
	require.NoError(t, err)
	defer store.Close() //nolint:errcheck // only locked
	require.NoError(t, unix.Flock(int(store.Fd()), unix.LOCK_EX))
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT} {
		cmd := command(home, "--secret", "K", "--termination-log", filepath.Join(home, "term"), "--", "echo", "started")
		var out bytes.Buffer
		cmd.Stdout = &out
		stderr, err := cmd.StderrPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		b := make([]byte, 256)
		n, err := stderr.Read(b)
		require.NoError(t, err)
		require.Contains(t, string(b[:n]), "waiting for ")
		require.NoError(t, cmd.Process.Signal(sig))
		rest, err := io.ReadAll(stderr)
		require.NoError(t, err)
		require.Equal(t, "inject: stopped by a signal ("+sig.String()+"); nothing was started\n", string(rest))
		require.Error(t, cmd.Wait())
		require.Equal(t, 128+int(sig), cmd.ProcessState.ExitCode())
		require.Empty(t, out.String())
		term, err := os.ReadFile(filepath.Join(home, "term"))
		require.NoError(t, err)
		require.Contains(t, string(term), `"reason":"stopped"`)
	}
}

// A slow reader gets all output. A reader that never reads does not keep inject from ending after a
// signal to stop.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	home := homeWithSecret(t)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	cmd := command(home, "--secret", "K", "--", "sh", "-c", "head -c 150000 /dev/zero; echo $K")
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &stderr
	require.NoError(t, cmd.Start())
	require.NoError(t, w.Close())
	time.Sleep(3 * time.Second) // longer than package exec reads a pipe that outlives the program
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, cmd.Wait())
	require.Len(t, b, 150000+len("[REDACTED:K]\n"))
	require.Empty(t, stderr.String())

	r, w, err = os.Pipe()
	require.NoError(t, err)
	defer r.Close() //nolint:errcheck // never read
	cmd = command(home, "--secret", "K", "--grace", "300ms", "--", "yes")
	cmd.Stdout = w
	require.NoError(t, cmd.Start())
	require.NoError(t, w.Close())
	time.Sleep(300 * time.Millisecond) // until the pipe is full
	require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the exit code is checked below
		close(done)
	}()
	select {
	case <-done:
		require.Equal(t, 143, cmd.ProcessState.ExitCode())
	case <-time.After(10 * time.Second):
		_ = cmd.Process.Kill()
		<-done
		t.Fatal("still there")
	}
}

// homeWithSecret returns a home whose store has K for the whole org, with the value the-value.
func homeWithSecret(t *testing.T) string {
	t.Helper()
	home := t.TempDir()
	require.NoError(t, command(home, "create", "secret", "K", "the-value").Run())
	return home
}

func command(home string, args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
	return cmd
}

// On a full file system, create fails and says that nothing was changed. The secrets that were
// there can still be read.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	script := `set -e
mkdir -p "$1/full" && mount -t tmpfs -o size=192k none "$1/full"
export XDG_DATA_HOME="$1/full/data" XDG_CONFIG_HOME="$1/full/config"
` + binary + ` create secret FITS the-value-that-fits
head -c 400000 /dev/urandom > "$1/large"
if ` + binary + ` create secret LARGE --from-file "$1/large" 2> "$1/err"; then echo "it fits"; exit 1; else test $? = 1; fi
cat "$1/err"
` + binary + ` --secret FITS -- sh -c 'test "$FITS" = the-value-that-fits'
test "$(` + binary + ` get secret -o name)" = FITS
dd if=/dev/zero of="$1/full/fill" bs=4k 2>/dev/null || true
if XDG_DATA_HOME="$1/full/other" ` + binary + ` create secret NONE value 2>> "$1/err"; then exit 1; else test $? = 1; fi
test -z "$(find "$1/full" -name new)"
test -z "$(XDG_DATA_HOME="$1/full/other" ` + binary + ` get secret -o name)"
tail -n 2 "$1/err"; echo passed`
	args := []string{"-m", "sh", "-c", script, "sh", t.TempDir()}
	if os.Geteuid() != 0 {
		args = append([]string{"--user", "--map-root-user"}, args...)
	}
	if exec.Command("unshare", "-m", "true").Run() != nil && exec.Command("unshare", "-rm", "true").Run() != nil {
		harness.Skip(t, "no mount namespace can be made here")
	}
	out, err := exec.Command("unshare", args...).CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	require.Contains(t, string(out), "nothing was changed")
	require.Contains(t, string(out), "df -h")
	require.Contains(t, string(out), "passed")
}

// A killed run leaves its files, and the next run removes them.
func TestSweep(t *testing.T) { // not parallel: the run of another test would remove the files, too
	home, dir := homeWithSecret(t), t.TempDir()
	start := func(args ...string) *exec.Cmd {
		return command(
			home,
			append(
				[]string{"--files-dir", dir, "--secret-file", "K", "--secret-file", "K=" + filepath.Join(home, "at")},
				args...)...)
	}
	killed := start("--", "sh", "-c", "cat "+dir+"/K; exec sleep 60")
	out, err := killed.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, killed.Start())
	b := make([]byte, 12)
	_, err = out.Read(b) // the masked value: the task has its file
	require.NoError(t, err)
	require.Equal(t, "[REDACTED:K]", string(b))

	// While the first run lives, another run cannot place a file at the same path.
	second, err := start("--", "true").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(second), "another inject, which is running, has its file there")
	require.FileExists(t, dir+"/K")

	require.NoError(t, killed.Process.Kill())
	require.Error(t, killed.Wait())
	target, err := os.Readlink(dir + "/K")
	require.NoError(t, err)
	require.FileExists(t, target, "a killed run leaves its files")
	text, err := start("--", "sh", "-c", "cat "+dir+"/K | wc -c").CombinedOutput()
	require.NoErrorf(t, err, "%s", text)
	require.Equal(t, "9\n", string(text))
	_, err = os.Stat(target)
	require.ErrorIs(t, err, fs.ErrNotExist)
	for _, left := range []string{dir, home} {
		entries, err := os.ReadDir(left)
		require.NoError(t, err)
		for _, e := range entries {
			require.True(t, e.Name() == ".config" || e.Name() == ".local", e.Name())
		}
	}
}
