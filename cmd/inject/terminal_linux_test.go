package main_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

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
