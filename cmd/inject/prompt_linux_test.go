package main_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// aPrompt is a question for a secret, and how the answer is read back.
type aPrompt struct {
	name, prompt string
	args         []string
	stored       func(t *testing.T, home string) (string, error)
}

func prompts() []aPrompt {
	raw := func(home string) (string, error) {
		dir := filepath.Join(home, "files")
		out, err := command(home, "--files-dir", dir, "--secret-file", "K", "--no-redact",
			"--", "cat", filepath.Join(dir, "K")).Output()
		return string(out), err
	}
	return []aPrompt{
		{
			"value", "Enter secret value: ",
			[]string{"create", "secret", "K"},
			func(_ *testing.T, home string) (string, error) { return raw(home) },
		},
		{
			"password", "Password: ",
			[]string{"create", "secret", "K", "--type", "image_pull", "--registry", "r", "--username", "u"},
			func(t *testing.T, home string) (string, error) {
				t.Helper()
				text, err := raw(home)
				if err != nil {
					return "", err
				}
				var config struct {
					Auths map[string]struct{ Auth []byte }
				}
				require.NoError(t, json.Unmarshal([]byte(text), &config))
				return strings.TrimPrefix(string(config.Auths["r"].Auth), "u:"), nil
			},
		},
	}
}

// typeable returns a random line of n bytes with all that a person can type.
func typeable(n int) string {
	const hard = `'"$(id)` + "`\\%s &;é€\t 𝄞~#"
	b := []byte(hard)[:min(n, len(hard))]
	for len(b) < n {
		b = append(b, rand.Text()...)
	}
	return strings.ToValidUTF8(string(b[:n]), "?")
}

// pem returns random lines of a key, of n bytes or a line more.
func pem(n int) string {
	var b strings.Builder
	b.WriteString("-----BEGIN PRIVATE KEY-----\n")
	for b.Len() < n {
		b.WriteString(base64.StdEncoding.EncodeToString([]byte(typeable(48))) + "\n")
	}
	b.WriteString("-----END PRIVATE KEY-----\n")
	return b.String()
}

func bracketed(text string) string {
	return "\x1b[200~" + strings.ReplaceAll(text, "\n", "\r") + "\x1b[201~"
}

// The prompt takes what is typed and what is pasted, at any length.
func TestPromptTakesAll(t *testing.T) {
	t.Parallel()
	for _, p := range prompts() {
		for _, n := range []int{1, 100, 5000, 70000} {
			line, lines := typeable(n), pem(n)
			crlf := "\x1b[200~" + strings.ReplaceAll(lines, "\n", "\r\n") + "\x1b[201~\r"
			for _, c := range []struct{ name, input, want string }{
				{"typed", line + "\n", line},
				{"typed on a terminal that keeps returns", line + "\r", line},
				{"pasted", bracketed(line) + "\r", line},
				{"pasted with its line end", bracketed(line+"\n") + "\r", line},
				{"several lines pasted", bracketed(lines) + "\r", lines},
				{"several lines with CRLF pasted", crlf, lines},
				{"pasted in two parts", bracketed(line) + "-" + bracketed(line) + "\r", line + "-" + line},
				{"corrected", "x\x7f" + line + "é\x7f\n", line},
				{"typed anew", "other\x15" + line + " word \x17\n", line + " "},
			} {
				t.Run(fmt.Sprintf("%s of %d bytes, %s", p.name, n, c.name), func(t *testing.T) {
					t.Parallel()
					home := t.TempDir()
					cmd, tty := onTerminal(t, home, p.args...)
					readUntil(t, tty, p.prompt)
					_, err := tty.WriteString(c.input)
					require.NoError(t, err)
					out := readUntil(t, tty, ")\r\n")
					require.Contains(t, out, "created secret K at org flyte (")
					require.NoError(t, cmd.Wait())
					require.True(t, echoes(t, tty))
					if p.name == "value" {
						require.Contains(t, out, fmt.Sprintf("(%d byte", len(c.want)))
					}
					if n >= 100 {
						shown, values := map[string]string{"screen": out}, map[string]string{"K": c.want}
						require.NoError(t, harness.FindLeak(shown, values))
					}
					got, err := p.stored(t, home)
					require.NoError(t, err)
					if c.want != got { // a difference of 70000 bytes would be shown by require.Equal
						t.Fatalf("%.200q instead of %.200q", got, c.want)
					}
				})
			}
		}
	}
}

// What is not a value stores nothing, and says what to do.
func TestPromptRefuses(t *testing.T) {
	t.Parallel()
	for _, p := range prompts() {
		for _, c := range []struct{ name, input, want string }{
			{"Enter alone", "\n", "nothing was entered"},
			{"Ctrl-D", "\x04", "nothing was entered"},
			{"Ctrl-D after some text", "partial\x04", "nothing was entered"},
			{"a paste of nothing", bracketed("\n") + "\r", "nothing was entered"},
			{"all of it deleted", "ab\x7f\x7f\x7f\n", "nothing was entered"},
			{"several lines without brackets", pem(5000), "several lines were entered"},
			{"lines that begin with an empty one", "\n" + pem(500), "nothing was entered"},
			{"an arrow key", "ab\x1b[D\n", "a control character was typed"},
			{"more than a store takes", strings.Repeat("x", 1<<20+1) + "\n", "more than 1048576 bytes were entered"},
			{
				"more than a store takes, pasted", bracketed(strings.Repeat("x\n", 1<<19+1)) + "\r",
				"more than 1048576 bytes were entered",
			},
		} {
			t.Run(p.name+", "+c.name, func(t *testing.T) {
				t.Parallel()
				home := t.TempDir()
				cmd, tty := onTerminal(t, home, p.args...)
				readUntil(t, tty, p.prompt)
				_, err := tty.WriteString(c.input)
				require.NoError(t, err)
				out := readUntil(t, tty, "hint: ")
				require.Contains(t, out, c.want)
				require.Error(t, cmd.Wait())
				require.True(t, echoes(t, tty))
				entries, err := os.ReadDir(home)
				require.NoError(t, err)
				require.Empty(t, entries)
			})
		}
	}
}

// A key that is pasted at the prompt never reaches the shell below it, which would run its lines. A
// terminal that tells no pastes sends it as if it were typed.
func TestPromptAndShell(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash --norc --noprofile -i", "zsh -f -i", "fish --no-config -i"} {
		t.Run(strings.Fields(shell)[0], func(t *testing.T) {
			t.Parallel()
			harness.Need(t, strings.Fields(shell)[0])
			home := t.TempDir()
			cmd := exec.Command("sh", "-c", "exec "+shell)
			cmd.Dir, cmd.Env = home, append(command(home).Env, "TERM=xterm", "PS1=> ")
			p := watch(t, startOnTerminal(t, cmd, nil))
			t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }) // or it writes files while they are removed
			p.say(`printf '%s\n' re""ady`+"\r", "ready\r\n")
			p.say(binary+" create secret PASTED\r", "Enter secret value: ")
			var lines string
			for i := range 40 {
				lines += fmt.Sprintf("touch ran-%d\r", i)
			}
			p.say(lines, "several lines were entered")
			p.say(`printf '%s\n' go""es-on`+"\r", "goes-on\r\n")

			// Ctrl-Z stops the question, and with fg it begins anew.
			p.say(binary+" create secret TYPED\r", "Enter secret value: ")
			p.say("one \x1a", "\n")
			p.say(`printf '%s\n' sto""pped`+"\r", "stopped\r\n")
			p.say("fg\r", "Enter secret value: ")
			p.say("two\r", "created secret TYPED")
			p.say(binary+` --secret TYPED --no-redact -- sh -c 'echo "[$TYPED]"'`+"\r", "[two]")

			ran, err := filepath.Glob(filepath.Join(home, "ran-*"))
			require.NoError(t, err)
			require.Empty(t, ran)
		})
	}
}

// Shells complete verbs, files and the names of secrets, each driven through a terminal.
func TestCompletionInShells(t *testing.T) {
	t.Parallel()
	for shell, load := range map[string]string{
		"bash --norc --noprofile -i": "source <(inject completion bash)",
		"zsh -f -i":                  "autoload -U compinit; compinit -u; source <(inject completion zsh)",
		"fish --no-config -i":        "inject completion fish | source",
	} {
		t.Run(strings.Fields(shell)[0], func(t *testing.T) {
			t.Parallel()
			harness.Need(t, strings.Fields(shell)[0])
			home := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(home, "some-file.pem"), []byte("the value"), 0o600))
			cmd := exec.Command("sh", "-c", "exec "+shell)
			cmd.Dir = home
			path := filepath.Dir(binary) + ":" + os.Getenv("PATH")
			cmd.Env = []string{"HOME=" + home, "PATH=" + path, "TERM=xterm", "PS1=> "}
			p := watch(t, startOnTerminal(t, cmd, nil))
			t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
			p.say(`printf '%s\n' re""ady`+"\r", "ready\r\n")
			p.say(load+`; printf '%s\n' lo""aded`+"\r", "loaded\r\n")
			p.say("inject cre\tsec\tLONG_NAME --from-file some\t\r", "created secret LONG_NAME at org flyte (9 bytes)")
			p.say("inject create secret OTHER --from-file ./so\t\r", "created secret OTHER at org flyte (9 bytes)")
			p.say("inject del\tsec\tLONG\t\r", "deleted secret LONG_NAME at org flyte")
		})
	}
}

// watched is a terminal whose output is read all the time.
type watched struct {
	t   *testing.T
	tty *os.File

	mu   sync.Mutex
	text string // what has been shown and not yet waited for
}

func watch(t *testing.T, tty *os.File) *watched {
	t.Helper()
	w := &watched{t: t, tty: tty}
	go func() {
		for b := make([]byte, 4096); ; {
			n, err := tty.Read(b)
			if err != nil {
				return
			}
			w.mu.Lock()
			w.text += string(b[:n])
			w.mu.Unlock()
		}
	}()
	return w
}

// say types text, waits until answer is shown, and returns all that was shown before it.
func (w *watched) say(text, answer string) (before string) {
	w.t.Helper()
	_, err := w.tty.WriteString(text)
	require.NoError(w.t, err)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		w.mu.Lock()
		shown := w.text
		before, rest, found := strings.Cut(shown, answer)
		if found {
			w.text = rest
		}
		w.mu.Unlock()
		if found {
			return before
		}
		require.Truef(w.t, time.Now().Before(end), "%q is not in %q", answer, shown)
	}
}
