package main_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"inject/internal/harness"
)

// shells are interactive shells, with arguments that keep the configuration of the machine away.
var shells = map[string][]string{
	"bash": {"--norc", "--noprofile", "-i"},
	"zsh":  {"-f", "-i"},
	"fish": {"--no-config", "-i", "-C", "function fish_prompt; echo -n 'prompt> '; end"},
	"dash": {"-i"},
}

// A session is an interactive shell on a terminal, in which inject is the real one.
type session struct {
	t    *testing.T
	tty  *os.File
	cmd  *exec.Cmd
	seen []byte // the output behind the last text that was waited for
	all  []byte // the whole output
}

// newSession starts a shell of shells and waits for its prompt.
func newSession(t *testing.T, shell, home string) *session {
	t.Helper()
	cmd := exec.Command(harness.Need(t, shell), shells[shell]...)
	cmd.Dir = home
	cmd.Env = []string{
		"HOME=" + home, "PATH=" + filepath.Dir(binary) + ":" + os.Getenv("PATH"), "PS1=prompt> ", "TERM=dumb",
	}
	tty, err := pty.Start(cmd)
	require.NoError(t, err)
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() { timer.Stop(); _ = tty.Close(); _ = cmd.Wait() })
	s := &session{t: t, tty: tty, cmd: cmd}
	s.wait("prompt> ")
	return s
}

// do types a text and waits for others, one after the other. A text that is waited for must not be
// in what is typed, because the terminal echoes that. Wait for the prompt before typing a command:
// the shell loses what is typed while it takes the terminal back.
func (s *session) do(typed string, wants ...string) {
	s.t.Helper()
	_, err := s.tty.WriteString(typed)
	require.NoError(s.t, err)
	s.wait(wants...)
}

func (s *session) wait(wants ...string) {
	s.t.Helper()
	for _, want := range wants {
		for !bytes.Contains(s.seen, []byte(want)) {
			b := make([]byte, 4096)
			n, err := s.tty.Read(b)
			s.seen, s.all = append(s.seen, b[:n]...), append(s.all, b[:n]...)
			require.NoErrorf(s.t, err, "%q is missing in %q", want, s.all)
		}
		_, s.seen, _ = bytes.Cut(s.seen, []byte(want))
	}
}

// A command that a shell substitutes can read the terminal, although a shell may ignore the signals
// of job control there. It gets the terminal when it uses it and not before, so that another
// program of the same substitution can read instead. Ctrl-Z then does what it does without inject.
func TestSubstitution(t *testing.T) {
	t.Parallel()
	for shell := range shells {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			s := newSession(t, shell, homeWithSecret(t))
			substitute := `x=$(%s); echo "ha""ve $x"` + "\n"
			if shell == "fish" {
				substitute = `set x (%s); echo "ha""ve $x"` + "\n"
			}
			for _, command := range []string{
				`inject --secret K -- sh -c 'echo as""ks >&2; read v; echo got-$v-$K'`,
				`inject --secret K -- sh -c 'echo as""ks >&2; read v </dev/tty; echo got-$v-$K'`,
				`inject --secret K -- bash -c 'read -rp as""ks v; echo got-$v-$K'`,
				`inject --secret K -- sh -c 'stty -echo; echo as""ks >&2; read v; stty echo; echo got-$v-$K'`,
				`inject --secret K -- python3 -c 'import os, sys; print("as" "ks", file=sys.stderr); print("got-"+input()+"-"+os.environ["K"])'`,
				`inject --secret K -- echo $K | sh -c 'echo as""ks >&2; read v </dev/tty; echo got-$v-; cat'`,
			} {
				s.do(fmt.Sprintf(substitute, command), "asks")
				s.do("typed\n", "have got-typed-", "prompt> ")
			}
			if shell == "bash" { // where nothing could continue a stopped command
				s.do(fmt.Sprintf(substitute, `inject --secret K -- sh -c 'echo as""ks >&2; read v; echo got-$v-$K'`), "asks")
				s.do("\x1atyped\n", "have got-", "prompt> ")
			}
			s.do("exit\n")
		})
	}
}

// In each shell Ctrl-Z stops the command and fg continues it; a background job that reads is stopped,
// and reads after fg. The terminal's modes are as before at each prompt.
func TestJobsInShells(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish"} {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			home := homeWithSecret(t)
			s := newSession(t, shell, home)
			s.do("stty -g > before; echo ke''pt\n", "kept", "prompt> ")
			same := "stty -g | cmp - before; and echo as-be''fore\n"
			if shell != "fish" {
				same = strings.Replace(same, "; and", " &&", 1)
			}
			s.do("inject --secret K -- sh -c 'echo rea\"\"dy; read x; echo $x-$K'\n", "ready")
			s.do("\x1a", "prompt> ")
			s.do(same, "as-before", "prompt> ")
			s.do("fg\n", "inject")
			s.do("again\n", "again-[REDACTED:K]", "prompt> ")
			s.do(same, "as-before", "prompt> ")

			s.do("inject --secret K -- sh -c 'echo $$ > pid; read x; echo $x-$K' &\n", "prompt> ")
			require.Eventually(t, func() bool {
				pid, _ := os.ReadFile(filepath.Join(home, "pid"))
				stat, _ := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
				return strings.Contains(string(stat), ") T ")
			}, 30*time.Second, time.Millisecond)
			s.do(same, "as-before", "prompt> ")
			s.do("fg\n", "inject")
			s.do("back\n", "back-[REDACTED:K]", "prompt> ")
			s.do(same, "as-before", "prompt> ")
			s.do("exit\n")
		})
	}
}

// While a command has the terminal, the lines of others on that terminal begin in the first column:
// those of a background job, of the other jobs of make, of the rest of a pipeline and of a script that
// waits for the command.
func TestOthersOnTheTerminal(t *testing.T) {
	t.Parallel()
	harness.Need(t, "make", "python3")
	home := homeWithSecret(t)
	file := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(home, name), []byte(text), 0o600))
	}
	// Each waits for the other by way of files, so that they write at the same time.
	file("task", "echo $K; touch runs; until test -e other; do sleep 0.01; done; echo en''d; rm -f runs other")
	file("other.sh", "until test -e runs; do sleep 0.01; done; printf '1\\n2\\n3\\n'; touch other")
	file("Makefile", "all: a b\na:\n\t@inject --secret K -- sh ./task\nb:\n\t@sh ./other.sh\n")
	file("parent.py", "import subprocess as s\n"+
		"p = s.Popen(['inject', '--secret', 'K', '--', 'sh', './task'])\n"+
		"s.run(['sh', './other.sh'])\np.wait()\n")
	for _, shell := range []string{"bash", "zsh", "fish"} {
		t.Run(shell, func(t *testing.T) { // in turn, because they use the same files
			for name, command := range map[string]string{
				"background job": "sh ./other.sh & inject --secret K -- sh ./task",
				"make":           "make -s -j2",
				"script":         "python3 parent.py",
				"pipeline": `inject --secret K -- sh -c 'read x </dev/tty; touch runs; sh ./task; echo "$x"' | ` +
					`sh -c 'sh ./other.sh; cat'`,
			} {
				s := newSession(t, shell, home)
				s.do(command + "; echo ov''er\n")
				if name == "pipeline" {
					s.do("typed\n", "typed")
				}
				s.wait("over")
				_, shown, _ := strings.Cut(string(s.all), "ov''er")
				require.Contains(t, shown, "[REDACTED:K]\r\n", name)
				for _, line := range []string{"1\r\n", "2\r\n", "3\r\n", "end\r\n"} {
					require.Contains(t, shown, line, name)
				}
				require.Equal(t, strings.Count(shown, "\n"), strings.Count(shown, "\r\n"), "%s: %q", name, shown)
				s.do("exit\n")
			}
		})
	}
}

// driven runs a script that drives a terminal. The script gets the arguments that run a command in
// inject.
func driven(t *testing.T, home string, args ...string) {
	t.Helper()
	cmd := exec.Command(args[0], append(args[1:], binary, "--secret", "K", "--")...)
	cmd.Env = command(home).Env
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
}

// Programs that drive a terminal see whether the command echoes, and can turn the echo off, as they
// would without inject.
func TestDrivers(t *testing.T) {
	t.Parallel()
	python := harness.Need(t, "python3")
	if err := exec.Command(python, "-c", "import pexpect").Run(); err != nil {
		harness.Skip(t, "python3 has no pexpect: install python3-pexpect")
	}
	expect := harness.Need(t, "expect")
	home := homeWithSecret(t)
	t.Run("pexpect", func(t *testing.T) {
		t.Parallel()
		driven(t, home, python, "-c", pexpectScript)
	})
	t.Run("expect", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "script")
		require.NoError(t, os.WriteFile(file, []byte(expectScript), 0o600))
		driven(t, home, expect, "-f", file)
	})
}

const (
	pexpectScript = `
import pexpect, sys
def spawn(*program):
    return pexpect.spawn(sys.argv[1], sys.argv[2:] + list(program), encoding='utf-8', timeout=60)
def secret(child, password):
    assert child.waitnoecho(60)
    child.sendline(password)
    child.expect('got (.*) bytes')
    assert password not in child.before, child.before
    assert child.match.group(1).strip() == str(len(password)), child.match.group(1)
    child.expect(pexpect.EOF)
# The password is sent as soon as the echo is off, with and without a prompt.
secret(spawn('python3', '-c', 'import getpass; print("got", len(getpass.getpass()), "bytes")'), 'tops3cret')
child = spawn('python3', '-c', 'import getpass; print("got", len(getpass.getpass()), "bytes")')
child.expect('Password: ')
secret(child, 'another')
for delay in '0', '0.1', '0.5':
    secret(spawn('sh', '-c', 'sleep ' + delay + '; stty -echo; read p; stty echo; echo got ${#p} bytes'), 'p4ss')
# The driver turns the echo off, before the command is there and while it runs.
for early in True, False:
    child = spawn('sh', '-c', 'echo rea""dy; while read x; do echo "<$x>"; done')
    if not early: child.expect('ready')
    child.setecho(False)
    assert child.waitnoecho(60)
    child.sendline('hidden')
    child.sendline('and more')
    child.expect('<and more>')
    assert child.before.count('hidden') == 1, child.before
    child.sendeof()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0, child.exitstatus
`
	expectScript = `
set timeout 60
proc wrong {what} { puts "wrong: $what"; exit 1 }
expect_after timeout { wrong timeout }
eval spawn -noecho $argv [list sh -c {echo rea""dy; read x; echo "<$x>"}]
expect ready
stty -echo < $spawn_out(slave,name)
send "hidden\r"
expect -re {(.*)<hidden>}
if {[string first hidden $expect_out(1,string)] >= 0} { wrong "the echo is on" }
expect eof
eval spawn -noecho $argv [list sh -c {stty -echo; printf "Password: "; read x; stty echo; echo "got ${#x}"}]
expect "Password: "
send "tops3cret\r"
expect -re {(.*)got 9}
if {[string first tops3cret $expect_out(1,string)] >= 0} { wrong "a password is shown" }
expect eof
exit 0
`
)

// A background job that its shell has let go lives on when the shell and its terminal are gone, at
// whatever moment of its start that is. Its writes to the terminal fail then.
func TestDisowned(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish"} {
		for round := range longOrShort(8, 3) {
			t.Run(fmt.Sprint(shell, " ", round), func(t *testing.T) {
				t.Parallel()
				home := homeWithSecret(t)
				s := newSession(t, shell, home)
				script := `i=0; while [ $i -lt 20 ]; do echo tick $K; i=$((i+1)); sleep 0.02; done; `
				if round%2 == 0 {
					s.do("inject --secret K -- sh -c '" + script + "echo alive > alive' & disown; exit\n")
					_, _ = io.ReadAll(s.tty) // until the job has ended: EIO
				} else {
					s.do("inject --secret K -- sh -c '" + script + "echo tock || echo alive > alive' & disown; exit\n")
					_ = s.cmd.Wait() // it exits with the status of its last job
				}
				require.NoError(t, s.tty.Close())
				require.Eventually(t, func() bool {
					_, err := os.Stat(filepath.Join(home, "alive"))
					return err == nil
				}, 30*time.Second, 10*time.Millisecond)
			})
		}
	}
}

// readToEnd reads from a terminal until no process has it open any more. Linux may report that before
// the last bytes, as startOnTerminal says, so the second report counts.
func readToEnd(tty *os.File) string {
	var all []byte
	b := make([]byte, 4096)
	for ends := 0; ends < 2; {
		n, err := tty.Read(b)
		all = append(all, b[:n]...)
		if err != nil {
			ends++
		}
	}
	return string(all)
}

// The cases of dumb-init's and tini's suites that need a terminal: what a driver types at once is read,
// also the ends of input, and the command is in the foreground of a terminal with job control.
func TestSuitesOnTerminal(t *testing.T) {
	t.Parallel()
	home := homeWithSecret(t)
	for _, c := range []struct {
		name, typed, want string
		command           []string
	}{
		{"dumb-init: tac", "1\n2\n3\n\x04\x04", "3\n2\n1\n", []string{"tac"}},
		{"dumb-init: job control", "echo \"flags [[$-]]\"\nexit 0\n", "m", []string{"bash", "--norc", "-m"}},
		{
			"tini: the foreground", "", "in it\n",
			[]string{"sh", "-c", `set -- $(cat /proc/$$/stat); test $5 = $8 && test $5 = $$ && echo in it`},
		},
		{"a line at once", "1\n2\n\x04", "2\n1\n", []string{"tac"}},
		{"only the end", "\x04", "", []string{"cat"}},
	} {
		for _, below := range []bool{false, true} { // on a terminal of its own, and below a shell
			t.Run(fmt.Sprint(c.name, ", below a shell: ", below), func(t *testing.T) {
				t.Parallel()
				args := append([]string{binary, "--secret", "K", "--"}, c.command...)
				if below {
					args = append([]string{"/bin/sh", "-c", `"$@"; exit $?`, "sh"}, args...)
				}
				cmd := exec.Command(args[0], args[1:]...)
				cmd.Env = command(home).Env
				ours, theirs, err := pty.Open()
				require.NoError(t, err)
				t.Cleanup(func() { _ = ours.Close() })
				m, err := unix.IoctlGetTermios(int(ours.Fd()), unix.TCGETS)
				require.NoError(t, err)
				m.Oflag, m.Lflag = m.Oflag&^unix.OPOST, m.Lflag&^unix.ECHO
				require.NoError(t, unix.IoctlSetTermios(int(ours.Fd()), unix.TCSETS, m))
				_, err = ours.WriteString(c.typed)
				require.NoError(t, err)
				cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
				cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
				require.NoError(t, cmd.Start())
				require.NoError(t, theirs.Close())
				timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
				defer timer.Stop()
				shown := readToEnd(ours)
				require.NoErrorf(t, cmd.Wait(), "%q", shown)
				if c.want == "m" {
					require.Regexp(t, `flags \[\[[a-zA-Z]*m[a-zA-Z]*\]\]`, shown)
				} else {
					require.Equal(t, c.want, shown)
				}
			})
		}
	}
}
