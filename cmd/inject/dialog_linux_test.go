package main_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/exec/redact"
	"inject/exec/redact/redacttest"
	"inject/internal/harness"
)

// dialogTime bounds a dialog that takes seconds on a busy machine.
const dialogTime = 2 * time.Minute

// manySecrets returns the environment of a task that declares 20 random secrets, and
// their values. They are in the letters in which protocols speak, so that much of what a program
// says may begin one of them.
func manySecrets(t *testing.T, random *rand.Rand) (env, values []string) {
	t.Helper()
	store := t.TempDir()
	var names []string
	for i := range 20 {
		b := make([]byte, 16+random.IntN(24))
		for i := range b {
			b[i] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ}]:,\""[random.IntN(67)]
		}
		switch {
		case i%4 == 0:
			b = []byte(hex.EncodeToString(b))
		case i == 1: // as a message of the Language Server Protocol ends
			b[0] = '}'
		case i == 2: // as a section of git's protocol ends
			b[0] = '0'
		}
		name := fmt.Sprintf("S%d", i)
		require.NoError(t, os.WriteFile(filepath.Join(store, name), b, 0o600))
		names, values = append(names, name), append(values, string(b))
	}
	return []string{
		"HOME=" + store, "PATH=" + filepath.Dir(binary) + ":" + os.Getenv("PATH"),
		"INJECT_STORE=dir://" + store, "INJECT_SECRETS=" + strings.Join(names, ","), "INJECT_LOG_LEVEL=error",
	}, values
}

// rounds returns how many dialogs a test has.
func rounds(all, share int) int {
	if testing.Short() {
		return share
	}
	return all
}

// TestDialogGit: git clones through a real ssh under inject, whose output is git's protocol. With
// 20 secrets, two of three clones hung when inject held back the last byte of an answer.
func TestDialogGit(t *testing.T) {
	t.Parallel()
	harness.NeedRoot(t) // of sshd
	sshd := harness.Need(t, "/usr/sbin/sshd", "ssh", "ssh-keygen", "git")
	require.NoError(t, os.MkdirAll("/run/sshd", 0o755))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	dir := t.TempDir()
	script := `set -e; cd "$1"
ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f user; cp user.pub authorized
printf '%s\n' "HostKey $1/host" "AuthorizedKeysFile $1/authorized" 'StrictModes no' 'UsePAM no' \
  'PermitRootLogin yes' > sshd
git init -q repo; cd repo; for i in 1 2 3; do seq $i 999 > $i; git add .; git -c user.name=a -c user.email=a@b commit -qm $i; done`
	out, err := exec.Command("sh", "-c", script, "sh", dir).CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	ssh := fmt.Sprintf("ssh -q -F none -i %[1]s/user -o IdentitiesOnly=yes -o StrictHostKeyChecking=no "+
		"-o UserKnownHostsFile=/dev/null -o ControlPath=none -o ProxyCommand='%[2]s -i -f %[1]s/sshd'", dir, sshd)
	for i := range rounds(100, 8) {
		ctx, cancel := context.WithTimeout(t.Context(), dialogTime)
		env, values := manySecrets(t, random)
		clone := fmt.Sprintf("%s/clone%d", dir, i)
		cmd := exec.CommandContext(ctx, "git", "clone", "-q", "root@host:"+dir+"/repo", clone)
		cmd.Env = append(env, "GIT_SSH_VARIANT=ssh", "GIT_CONFIG_NOSYSTEM=1", "GIT_SSH_COMMAND=inject -- "+ssh)
		cmd.WaitDelay = time.Second
		out, err := cmd.CombinedOutput()
		cancel()
		require.NoErrorf(t, err, "run %d, with %q: %s", i, values, out)
		got, err := os.ReadFile(filepath.Join(clone, "3"))
		require.NoError(t, err)
		require.Len(t, strings.Fields(string(got)), 997)
	}
}

// TestDialogLSP: a client speaks the Language Server Protocol with a server under inject. Its
// messages end with braces and no line end, and each waits for the one before it.
func TestDialogLSP(t *testing.T) {
	t.Parallel()
	python := harness.SDK(t, "python3")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	client := `
import json, subprocess, sys
p = subprocess.Popen(["inject", "--", sys.executable, "-m", "pylsp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def send(**m):
    b = json.dumps({"jsonrpc": "2.0", **m}).encode()
    p.stdin.write(b"Content-Length: %d\r\n\r\n" % len(b) + b); p.stdin.flush()
def answer(id):
    while True:
        n = 0
        while (line := p.stdout.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"): n = int(line[15:])
        m = json.loads(p.stdout.read(n))
        if m.get("id") == id and "method" not in m: return m["result"]
send(id=1, method="initialize", params={"processId": None, "rootUri": None, "capabilities": {}})
assert answer(1)["capabilities"]
send(method="initialized", params={})
doc = {"uri": "file:///x.py"}
text = "".join("def f%d(): pass\n" % i for i in range(40))
doc1 = {**doc, "languageId": "python", "version": 1, "text": text}
send(method="textDocument/didOpen", params={"textDocument": doc1})
for i in range(2, 42):
    at = {"line": i - 2, "character": 4}
    send(id=i, method="textDocument/definition", params={"textDocument": doc, "position": at})
    assert answer(i)[0]["range"]["start"]["line"] == i - 2
send(id=99, method="shutdown"); answer(99); send(method="exit"); sys.exit(p.wait())`
	for i := range rounds(20, 2) {
		ctx, cancel := context.WithTimeout(t.Context(), dialogTime)
		env, values := manySecrets(t, random)
		cmd := exec.CommandContext(ctx, python, "-c", client)
		cmd.Env = env
		cmd.WaitDelay = time.Second
		out, err := cmd.CombinedOutput()
		cancel()
		require.NoErrorf(t, err, "run %d, with %q: %s", i, values, out)
	}
}

// goesOut reports whether a text goes out at a silence, by the plain rule.
func goesOut(text string, patterns []redacttest.Pattern) bool {
	rule := redacttest.Live{Patterns: patterns}
	rule.Write([]byte(text))
	rule.Silence(true)
	return string(rule.Output()) == text
}

// TestDialogPrompt: a driver waits for prompts that end within a secret, up to a quarter of it, answers,
// and gets the next one. Then the task prints the secret, which is masked. A prompt may end beyond the
// quarter of a part of the secret that begins there, too: then the driver takes a shorter one.
func TestDialogPrompt(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	prompts, shorter := 0, 0
	for i := range rounds(80, 20) {
		env, values := manySecrets(t, random)
		var patterns []redacttest.Pattern
		for i, v := range values {
			for _, f := range redact.Forms(6, redact.Pattern{Name: fmt.Sprintf("S%d", i), Value: []byte(v)}) {
				patterns = append(patterns, redacttest.Pattern{
					Mask: redact.Mask(f.Name), Value: f.Bytes, Numbers: f.Kind == "numbers",
				})
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), dialogTime)
		cmd := exec.CommandContext(ctx, binary, "--", "sh", "-c",
			`while read -r n prompt; do printf %s "$prompt"; read -r _; eval "echo \"\$S$n\""; done`)
		cmd.Env, cmd.WaitDelay = env, time.Second
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		for range 3 {
			n := random.IntN(len(values))
			v := values[n]
			most := 1 + random.IntN(max(3, min(len(v)/4, 16)))
			prompts++
			for n := most; !goesOut("the answer, please: "+v[:most], patterns); most-- {
				if most == n {
					shorter++
				}
			}
			prompt := "the answer, please: " + v[:most]
			_, err := fmt.Fprintf(in, "%d %s\n", n, prompt)
			require.NoError(t, err)
			got := make([]byte, len(prompt))
			_, err = io.ReadFull(out, got)
			require.NoErrorf(t, err, "run %d: %q of %q, with %q", i, got, prompt, values)
			require.Equal(t, prompt, string(got))
			_, err = io.WriteString(in, "answer\n")
			require.NoError(t, err)
			want := fmt.Sprintf("[REDACTED:S%d]\n", n)
			got = make([]byte, len(want))
			_, err = io.ReadFull(out, got)
			require.NoError(t, err)
			require.Equal(t, want, string(got))
		}
		require.NoError(t, in.Close())
		rest, err := io.ReadAll(out)
		require.NoError(t, err)
		require.Empty(t, string(bytes.TrimSpace(rest)))
		require.NoError(t, cmd.Wait())
		cancel()
	}
	require.Less(t, shorter, 1+prompts/4)
}
