package main_test

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"inject/internal/harness"
	"inject/internal/harness/attack"
)

// binaries is a folder with the real injectd and inject, which are built once.
var binaries string

func TestMain(m *testing.M) {
	if attack.Main() {
		return
	}
	dir, err := os.MkdirTemp("", "injectd-test")
	if err != nil {
		panic(err)
	}
	_ = os.Chmod(dir, 0o755) // for the tests that drop to another user
	binaries = dir
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "grpcnotrace",
		"-ldflags", "-s -w -X main.version=v0.0.0-test", "-o", dir+"/", "inject/cmd/inject", "inject/cmd/injectd")
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

// process is a running server.
type process struct {
	cmd    *exec.Cmd
	store  string // its address, as a --store
	ops    string // the address of its port for operations
	stdout *harness.Buffer
	stderr *harness.Buffer
	serves chan struct{} // closed when it serves
	ended  chan struct{} // closed when it has, with the error in err
	err    error
}

// startServer starts injectd serve. It returns when the server is ready or has failed.
func startServer(dir string, environ []string, args ...string) (*process, error) {
	return startProgram(filepath.Join(binaries, "injectd"), dir, environ, args...)
}

// startProgram is startServer for the injectd at path.
func startProgram(path, dir string, environ []string, args ...string) (*process, error) {
	return startVerb(path, "serve", dir, environ, args...)
}

// startVerb is startProgram for another verb that serves.
func startVerb(path, verb, dir string, environ []string, args ...string) (*process, error) {
	p, err := launch(path, verb, dir, environ, args...)
	if err == nil {
		err = p.wait()
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// launch is startVerb that does not wait. Until wait has returned, only the output of the process may be read.
func launch(path, verb, dir string, environ []string, args ...string) (*process, error) {
	cmd := exec.Command(path,
		append([]string{verb, "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"}, args...)...)
	cmd.Dir, cmd.Env = dir, environ
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p := &process{
		cmd: cmd, stdout: &harness.Buffer{}, stderr: &harness.Buffer{},
		serves: make(chan struct{}), ended: make(chan struct{}),
	}
	cmd.Stdout = p.stdout
	said, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.ended)
		lines := bufio.NewReader(said)
		for {
			line, err := lines.ReadString('\n')
			_, _ = io.WriteString(p.stderr, line)
			var l struct {
				Message string `json:"@message"`
				Address string `json:"address"`
			}
			if json.Unmarshal([]byte(line), &l) == nil {
				switch l.Message {
				case "operations are served":
					p.ops = l.Address
				case "serving":
					p.store = l.Address
					close(p.serves)
				}
			}
			if err != nil {
				break
			}
		}
		p.err = cmd.Wait()
	}()
	return p, nil
}

// wait waits until the process serves, and returns an error if it does not.
func (p *process) wait() error {
	select {
	case <-p.serves:
		return nil
	case <-p.ended:
		return fmt.Errorf("injectd %s: %w: %s", p.cmd.Args[1], p.err, p.stderr)
	case <-time.After(time.Minute):
		_ = p.cmd.Process.Kill()
		return fmt.Errorf("injectd %s does not serve: %s", p.cmd.Args[1], p.stderr)
	}
}

// host returns the address of p, without a scheme.
func (p *process) host() string {
	u, err := url.Parse(p.store)
	if err != nil {
		panic(err)
	}
	return u.Host
}

// stop sends p a signal and waits until it has ended.
func (p *process) stop(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.ended:
		return p.err
	case <-time.After(time.Minute):
		_ = p.cmd.Process.Kill()
		return fmt.Errorf("injectd does not stop: %s", p.stderr)
	}
}

// TestScript runs testdata/*.txtar on the real binaries. Beside testscript's own
// commands there are:
//
//	serve NAME FLAG...    starts injectd serve; $NAME is its --store, $NAME_HOST its host:port,
//	                      $NAME_OPS its port for operations
//	down NAME [SIGNAL]    asks it to stop (TERM) and expects exit code 0; its stdout and stderr
//	                      are in NAME.out and NAME.err
//	                      (testscript's own "stop" ends the script, as one that has passed)
//	noleak [FILE...]      no value of v/ is in stdout, stderr or FILE in any form of harness.Forms
//	nobody CMD...         runs CMD as the user 65534, who owns no file; it must exit with 0
//	flip FILE N           changes byte N of each page of a store but its first two, the meta pages
//	issuer NAME           serves pki/jwks.json at $NAME to callers with the bearer token that is in
//	                      pki/reader.token
//	namespace NAME [VERB...]
//	                      makes a namespace of Kubernetes, and a user who may do VERBs (all that a store
//	                      needs) with its Secrets; $NAME is the namespace, $NAME_URL its address as a
//	                      --store, $NAME_CONFIG the kubeconfig, $NAME_ADMIN that of an administrator
//	api NAME METHOD PATH [FILE]
//	                      calls the API server below the namespace's path; FILE has objects in YAML, such
//	                      as flyte-secrets.yaml, which Flyte's service wrote
//	rows, pages, audited  send requests by other projects' clients: see wire_linux_test.go
//
// v/a and v/b are values that are random per run and awkward. pki/ has a CA (ca.pem), a
// certificate of the server (server.pem, server.key) and of clients: platform, task (of
// project p, domain d) and other, whose SPIFFE IDs are those of policy.yaml; and an
// issuer's keys (jwks.json) and token (ci.token).
func TestScript(t *testing.T) {
	t.Cleanup(func() { ranWires(t) })
	testscript.Run(t, testscript.Params{
		Dir:       "testdata",
		Condition: has,
		Setup: func(e *testscript.Env) error {
			made, err := filepath.Abs("../../bin") // grpcurl
			if err != nil {
				return err
			}
			e.Setenv("PATH", binaries+":"+os.Getenv("PATH")+":"+made)
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("XDG_RUNTIME_DIR", filepath.Join(e.WorkDir, "runtime"))
			for _, dir := range []string{"home", "v", "runtime"} {
				if err := os.Mkdir(filepath.Join(e.WorkDir, dir), 0o700); err != nil {
					return err
				}
			}
			for name, awkward := range map[string]string{"a": "'\"$HOME`\\\n\xff\xfe%s", "b": "$(id)\t\xc3'\n"} {
				if err := os.WriteFile(filepath.Join(e.WorkDir, "v", name), []byte(awkward+rand.Text()),
					0o600); err != nil {
					return err
				}
			}
			if err := os.WriteFile(filepath.Join(e.WorkDir, "policy.yaml"), []byte(policyFile), 0o600); err != nil {
				return err
			}
			flyteSecrets, err := os.ReadFile("../../resolver/store/kube/testdata/flyte-secrets.yaml")
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(e.WorkDir, "flyte-secrets.yaml"), flyteSecrets, 0o600); err != nil {
				return err
			}
			return makePKI(e.T(), filepath.Join(e.WorkDir, "pki"))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve": func(ts *testscript.TestScript, neg bool, args []string) {
				p, err := startServer(ts.MkAbs("."), scriptEnv(ts), args[1:]...)
				if neg {
					if err == nil {
						ts.Fatalf("it serves")
					}
					ts.Check(os.WriteFile(ts.MkAbs(args[0]+".err"), []byte(err.Error()), 0o600))
					return
				}
				ts.Check(err)
				ts.Setenv(args[0], p.store)
				ts.Setenv(args[0]+"_HOST", p.host())
				ts.Setenv(args[0]+"_OPS", p.ops)
				servers.Store(ts.MkAbs(args[0]), p)
				ts.Defer(func() { _ = p.cmd.Process.Kill() })
			},
			"down": func(ts *testscript.TestScript, neg bool, args []string) {
				sig := syscall.SIGTERM
				if len(args) > 1 && args[1] == "KILL" {
					sig = syscall.SIGKILL
				}
				v, ok := servers.Load(ts.MkAbs(args[0]))
				if !ok {
					ts.Fatalf("no server %s", args[0])
				}
				p, ok := v.(*process)
				if !ok {
					ts.Fatalf("no server %s", args[0])
				}
				err := p.stop(sig)
				ts.Check(os.WriteFile(ts.MkAbs(args[0]+".out"), []byte(p.stdout.String()), 0o600))
				ts.Check(os.WriteFile(ts.MkAbs(args[0]+".err"), []byte(p.stderr.String()), 0o600))
				if (err != nil) != neg {
					ts.Fatalf("it ended with %v: %s", err, p.stderr)
				}
			},
			"issuer": issuer,
			"namespace": func(ts *testscript.TestScript, _ bool, args []string) {
				makeNamespace(t, ts, args[0], args[1:]...)
			},
			"api":     func(ts *testscript.TestScript, _ bool, args []string) { callAPI(t, ts, args) },
			"rows":    rows,
			"pages":   pages,
			"audited": audited,
			"noleak":  func(ts *testscript.TestScript, _ bool, args []string) { noLeak(ts, args) },
			"nobody": func(ts *testscript.TestScript, neg bool, args []string) {
				cmd := exec.Command("env", args...)
				cmd.Dir, cmd.Env = ts.MkAbs("."), scriptEnv(ts)
				if os.Geteuid() == 0 {
					// testscript's folders are root's alone.
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
				page := os.Getpagesize()
				for i += 2 * page; i < len(b); i += page {
					b[i] ^= 0xff
				}
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
			},
		},
	})
}

// servers holds the servers that scripts have started, by the script's folder and their name.
var servers sync.Map

func scriptEnv(ts *testscript.TestScript) []string {
	var environ []string
	for _, name := range []string{"PATH", "HOME", "XDG_RUNTIME_DIR", "INJECTD_KEY", "GODEBUG"} {
		if v := ts.Getenv(name); v != "" {
			environ = append(environ, name+"="+v)
		}
	}
	return environ
}

func noLeak(ts *testscript.TestScript, files []string) {
	texts := map[string]string{"stdout": ts.ReadFile("stdout"), "stderr": ts.ReadFile("stderr")}
	for _, f := range files {
		texts[f] = ts.ReadFile(f)
	}
	ts.Check(harness.FindLeak(texts, map[string]string{"v/a": ts.ReadFile("v/a"), "v/b": ts.ReadFile("v/b")}))
}

// policyFile is the policy of the scripts.
const policyFile = `version: 1
rules:
  - name: platform
    identity: {spiffe: "spiffe://example.org/platform"}
    manage: [{project: "*", domain: "*"}]
    list: [{project: "*", domain: "*"}]
  - name: tasks
    identity: {spiffe: "spiffe://example.org/project/{project}/domain/{domain}"}
    resolve: {project: "{project}", domain: "{domain}"}
  - name: alice
    identity: {token: alice}
    manage: [{project: "alice", domain: "*"}]
    list: [{project: "alice", domain: "*"}]
`

func TestVersion(t *testing.T) {
	out, err := exec.Command(filepath.Join(binaries, "injectd"), "version").Output()
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(out), "injectd version v0.0.0-test ("), "%s", out)
}
