// Package docs_test runs the commands in the Markdown pages of the repository, and compares the
// pages with the code.
//
// One bash runs a page from top to bottom. It has an empty home, starts in a copy of the
// repository, and finds the built inject and injectd first in PATH. Two kinds of block hold
// commands:
//
//	sh       commands without a prompt. Each must end with 0. Their output is not compared.
//	console  commands after "$ ", with further lines after "> ", and their whole output
//
// If a command in a console block fails, the next one must be "$ echo $?" with its exit code.
// In an output
//
//	…                     matches any text; alone on a line, any number of lines
//	2026-01-02T03:04:05Z  matches any time of this form
//	/home/me              is the home
//	8093, 8094            are the ports of the server; the test replaces them by free ports
//
// $KUBECONFIG is that of an administrator of a Kubernetes without nodes. The pages in onNodes need nodes:
// deploy/e2e/tests/tutorial.sh runs their commands. At the prompt "Enter secret
// value:" the test types my_secret_value. Blocks of other kinds are not run. They must be in a language
// without commands; contents lists those languages.
package docs_test

import (
	"errors"
	"fmt"
	"go/format"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"inject/internal/harness"
	"inject/resolver/secret"
	"inject/resolver/serve/policy"
)

// bin is the folder of the real binaries, built once.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "inject-docs")
	if err != nil {
		panic(err)
	}
	bin = dir
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "grpcnotrace",
		"-o", dir, "../cmd/inject", "../cmd/injectd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s", out)
		panic(err)
	}
	code := m.Run()
	kubernetes.Stop()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// kubernetes is the API server of pages whose commands need one.
var kubernetes harness.SharedKubernetes

// contents are the languages of blocks without commands, each with the check of its text.
var contents = map[string]func(*testing.T, string){
	"text": func(*testing.T, string) {},
	"yaml": func(t *testing.T, text string) {
		t.Helper()
		var into any
		require.NoError(t, yaml.Unmarshal([]byte(text), &into))
		fields, ok := into.(map[string]any)
		if ok && fields["rules"] != nil && fields["apiVersion"] == nil { // a Role has rules, too
			_, err := policy.Parse([]byte(text), secret.DefaultOrg)
			require.NoError(t, err)
		}
	},
	"go": func(t *testing.T, text string) {
		t.Helper()
		_, err := format.Source([]byte(text))
		require.NoError(t, err)
	},
	// flytekit runs it: its names and arguments are real ones.
	"python": func(t *testing.T, text string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), harness.Flytekit(t, "python"), "-c", text)
		cmd.Env = []string{"HOME=" + t.TempDir()}
		out, err := cmd.CombinedOutput()
		require.NoErrorf(t, err, "%s", out)
	},
	// deploy/docker builds the example, so lines that it does not have were never tried.
	"dockerfile": func(t *testing.T, text string) {
		t.Helper()
		example, err := os.ReadFile("../examples/Dockerfile")
		require.NoError(t, err)
		for line := range strings.Lines(text) {
			require.Contains(t, string(example), line)
		}
	},
}

// TestKinds checks that every block is run or has no commands, and that no code is outside of
// blocks, where no test would see it.
func TestKinds(t *testing.T) {
	for _, p := range pages(t) {
		t.Run(p.name, func(t *testing.T) {
			for _, b := range p.blocks {
				if b.language == "sh" || b.language == "console" {
					continue
				}
				check := contents[b.language]
				require.NotNil(t, check, "%s:%d: a block of the unknown kind %q", p.name, b.line, b.language)
				require.NotContains(t, "\n"+b.text, "\n$ ", "%s:%d: commands in a block that is not run", p.name,
					b.line)
				check(t, b.text)
			}
			prose := p.prose()
			for n, line := range prose {
				before, blank := prose[n-1]
				indented := strings.HasPrefix(line, "    ") && blank && before == ""
				require.False(t, indented, "%s:%d: an indented block is not run", p.name, n)
			}
		})
	}
}

// onNodes are the pages whose commands need a Kubernetes with nodes, and Flyte's command line. They are run if
// INJECT_TEST_NODES is the path of a kubeconfig of its administrator, and then no other page is.
var onNodes = []string{"docs/tutorial-kubernetes.md"}

// TestCommands runs the commands of each page.
func TestCommands(t *testing.T) {
	nodes := os.Getenv("INJECT_TEST_NODES")
	for _, p := range pages(t) {
		if slices.Contains(onNodes, p.name) != (nodes != "") {
			continue
		}
		var commands string
		for _, b := range p.blocks {
			if b.language == "sh" || b.language == "console" {
				commands += b.text
			}
		}
		if commands == "" {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			harness.Need(t, "bash")
			for _, program := range []string{"openssl", "python3", "curl", "jq", "make"} {
				if regexp.MustCompile(`\b` + program + `\b`).MatchString(commands) {
					harness.Need(t, program)
				}
			}
			var more []string
			if nodes != "" {
				more = append(more, "KUBECONFIG="+nodes)
			} else if strings.Contains(commands, "$KUBECONFIG") {
				more = append(more, "KUBECONFIG="+kubernetes.Get(t).Kubeconfig())
				need(t, "kubectl")
				if regexp.MustCompile(`(?m)^(\$ )?helm `).MatchString(commands) {
					need(t, "helm")
				}
			}
			if strings.Contains(commands, "crane ") {
				need(t, "crane")
			}
			sh := newShell(t, more...)
			for _, b := range p.blocks {
				switch b.language {
				case "sh":
					out, status, failed := sh.run(t, b.text, false)
					require.Equal(t, [2]int{}, [2]int{status, failed}, "%s:%d: a command fails:\n%s", p.name, b.line,
						out)
				case "console":
					sh.session(t, p.name, b)
				}
			}
		})
	}
}

// A shell is a bash that runs one command after another, in a home of its own.
type shell struct {
	dir, home string
	ports     [2]string // replace 8093 and 8094
	commands  io.Writer
	statuses  io.Reader
	terminal  *os.File
	shown     chan string // the text that the terminal shows
	runs      int
}

// driver runs commands. For each it reads from descriptor 3 the path of stdin, the path of
// stdout and the command, and writes two numbers to descriptor 4: the exit status, and the last
// failure of a part of the command, which the status of an sh block alone would not show.
const driver = `
set -E
status=0
while IFS= read -r -d '' -u 3 stdin && IFS= read -r -d '' -u 3 stdout && IFS= read -r -d '' -u 3 command; do
  failed=0
  trap 'failed=$?' ERR
  (exit "$status") # what $? is for the command
  eval "$command" <>"$stdin" >"$stdout" 2>&1 3<&- 4>&-
  status=$?
  trap - ERR
  echo "$status $failed" >&4
done
`

// need makes a program of make kubernetes or make wire available to pages. It skips the test without it, and fails it
// in CI.
func need(t *testing.T, program string) {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(root, "bin", program))
	require.NoError(t, err)
	if _, err := os.Stat(path); err != nil {
		harness.Need(t, program)
		return
	}
	if err := os.Symlink(path, filepath.Join(bin, program)); err != nil {
		require.ErrorIs(t, err, os.ErrExist)
	}
}

// newShell starts a shell with more variables than it mostly has.
func newShell(t *testing.T, more ...string) *shell {
	t.Helper()
	dir, err := os.MkdirTemp("", "docs") //nolint:usetesting // the path of a store's socket has at most 107 bytes
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &shell{dir: dir, home: filepath.Join(dir, "home")}
	checkout := filepath.Join(dir, "inject")
	require.NoError(t, os.Mkdir(s.home, 0o700))
	for _, path := range files(t) {
		copyFile(t, filepath.Join(root, path), filepath.Join(checkout, path))
	}
	s.ports = [2]string{freePort(t), freePort(t)}

	in, commands, err := os.Pipe()
	require.NoError(t, err)
	statuses, out, err := os.Pipe()
	require.NoError(t, err)
	master, slave, err := pty.Open()
	require.NoError(t, err)

	bash := exec.Command("bash", "--noprofile", "--norc", "-c", driver)
	bash.Dir = checkout
	bash.Stdin, bash.Stdout, bash.Stderr = slave, os.Stderr, os.Stderr
	bash.ExtraFiles = []*os.File{in, out}
	bash.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	bash.Env = append(goEnv(t),
		"HOME="+s.home, "TMPDIR="+dir, "LANG=C.UTF-8", "TERM=dumb", "PATH="+bin+":"+os.Getenv("PATH"),
		// The ports of a server whose command names none.
		"INJECTD_LISTEN=127.0.0.1:"+s.ports[0], "INJECTD_OPS_LISTEN=127.0.0.1:"+s.ports[1])
	bash.Env = append(bash.Env, more...)
	require.NoError(t, bash.Start())
	for _, f := range []*os.File{in, out, slave} {
		require.NoError(t, f.Close())
	}
	t.Cleanup(func() {
		// The group of bash includes the servers that the page has left running.
		_ = syscall.Kill(-bash.Process.Pid, syscall.SIGKILL)
		_ = bash.Wait()
		_, _, _ = commands.Close(), statuses.Close(), master.Close()
	})
	s.commands, s.statuses, s.terminal, s.shown = commands, statuses, master, make(chan string, 100)
	go func() {
		defer close(s.shown)
		for b := make([]byte, 4096); ; {
			n, err := master.Read(b)
			if err != nil {
				return
			}
			s.shown <- string(b[:n])
		}
	}()
	return s
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	return port
}

// goEnv returns the variables that let make build use this machine's caches.
func goEnv(t *testing.T) []string {
	t.Helper()
	names := []string{"GOCACHE", "GOMODCACHE", "GOPROXY", "GOSUMDB", "GOFLAGS", "GOTOOLCHAIN"}
	values, err := exec.CommandContext(t.Context(), "go", append([]string{"env"}, names...)...).Output()
	require.NoError(t, err)
	env := strings.Split(strings.TrimSuffix(string(values), "\n"), "\n")
	require.Len(t, env, len(names))
	for i, name := range names {
		env[i] = name + "=" + env[i]
	}
	return env
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	info, err := os.Stat(from)
	require.NoError(t, err)
	b, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o750))
	require.NoError(t, os.WriteFile(to, b, info.Mode().Perm()))
}

// run runs a command and returns its output, its exit status, and the last failure of a part of
// it. With prompt the command's stdin is a terminal, and run types a value at the prompt.
func (s *shell) run(t *testing.T, command string, prompt bool) (out string, status, failed int) {
	t.Helper()
	s.runs++
	stdin, stdout := os.DevNull, filepath.Join(s.dir, "out"+strconv.Itoa(s.runs))
	if prompt {
		stdin = "/dev/tty"
	}
	text := strings.NewReplacer("8093", s.ports[0], "8094", s.ports[1]).Replace(command)
	_, err := fmt.Fprintf(s.commands, "%s\x00%s\x00%s\x00", stdin, stdout, text)
	require.NoError(t, err)

	shown := ""
	if prompt {
		shown = s.answer(t)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := fmt.Fscan(s.statuses, &status, &failed)
		ended <- err
	}()
	select {
	case err := <-ended:
		require.NoError(t, err, "bash ended in: %s", command)
	case <-time.After(3 * time.Minute):
		require.Fail(t, "a command does not end", command)
	}

	b, err := os.ReadFile(stdout)
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(t, err)
	}
	out = strings.ReplaceAll(shown+string(b), s.home, "/home/me")
	return strings.NewReplacer(s.ports[0], "8093", s.ports[1], "8094").Replace(out), status, failed
}

// answer waits for the prompt, types a value, and returns the line of the prompt.
func (s *shell) answer(t *testing.T) string {
	t.Helper()
	shown := ""
	for timeout := time.After(time.Minute); !strings.HasSuffix(shown, ": "); {
		select {
		case part, ok := <-s.shown:
			require.True(t, ok, "bash ended at a prompt; shown: %s", shown)
			shown += part
		case <-timeout:
			require.Fail(t, "no prompt is shown", shown)
		}
	}
	_, err := s.terminal.WriteString("my_secret_value\n")
	require.NoError(t, err)
	// Lines above the prompt belong to an earlier command.
	return shown[strings.LastIndexByte(shown, '\n')+1:] + "\n"
}

// session runs the commands of a console block and compares their output.
func (s *shell) session(t *testing.T, name string, b block) {
	t.Helper()
	last := 0
	lines := strings.Split(strings.TrimSuffix(b.text, "\n"), "\n")
	for i := 0; i < len(lines); {
		at := fmt.Sprintf("%s:%d", name, b.line+1+i)
		command, ok := strings.CutPrefix(lines[i], "$ ")
		require.True(t, ok, "%s: a console block begins with a command", at)
		require.True(t, last == 0 || command == "echo $?", "%s: the command above ended with %d", at, last)
		for i++; i < len(lines) && strings.HasPrefix(lines[i], "> "); i++ {
			command += "\n" + lines[i][2:]
		}
		want := ""
		for ; i < len(lines) && !strings.HasPrefix(lines[i], "$ "); i++ {
			want += lines[i] + "\n"
		}

		var got string
		got, last, _ = s.run(t, command, strings.HasPrefix(want, "Enter secret value:"))
		require.Regexp(t, pattern(want), plain(got), "%s: %s\nprinted\n%s", at, command, got)
	}
	require.Zero(t, last, "%s:%d: the last command fails", name, b.line)
}

// TestShell checks that commands share one shell, and that the failure of a part of an sh block
// is noticed.
func TestShell(t *testing.T) {
	t.Parallel()
	harness.Need(t, "bash")
	sh := newShell(t)
	_, status, failed := sh.run(t, "cd ~\nfalse\nx=kept\n", false)
	require.Equal(t, [2]int{0, 1}, [2]int{status, failed})
	_, status, _ = sh.run(t, "(exit 3)", false)
	require.Equal(t, 3, status)
	out, status, failed := sh.run(t, `echo "$? $x" && pwd`, false)
	require.Equal(t, [2]int{0, 3}, [2]int{status, failed}, "the status before is a part of the command")
	require.Equal(t, "3 kept\n/home/me\n", out)
	require.Regexp(t, pattern("a … c\n…\n2026-11-23T04:20:48Z\n"), plain("a b c\n1\n2\n2027-01-01T00:00:00Z"))
	require.NotRegexp(t, pattern("one\n"), plain("one\ntwo\n"))
}

var date = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)

// plain returns an output with one fixed time, and without spaces at the ends of lines.
func plain(text string) string {
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	text = date.ReplaceAllString(text, "2026-01-02T03:04:05Z")
	return regexp.MustCompile(`(?m)[ \r]+$`).ReplaceAllString(text, "")
}

// pattern returns the regular expression for an output in a page.
func pattern(want string) string {
	var re strings.Builder
	for line := range strings.Lines(plain(want)) {
		line = strings.TrimSuffix(line, "\n")
		if line == "…" {
			re.WriteString(`(?:.*\n)*?`)
			continue
		}
		re.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*") + `\n`)
	}
	return `\A` + re.String() + `\z`
}
