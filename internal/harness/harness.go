// Package harness is what the tests of several packages need: a test PKI, the search for
// leaked values, programs that a test cannot do without, and a logger whose lines a test
// can read. Only tests import it.
package harness

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// T is the part of a test that the harness needs. Both [testing.TB] and the T of a
// testscript have it.
type T interface {
	Fatal(args ...any)
}

// check ends the test if err is an error.
func check(t T, err error) {
	if h, ok := t.(interface{ Helper() }); ok {
		h.Helper()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// NoSkip reports whether a test that cannot run here must fail. CI says so with
// INJECT_TEST_NO_SKIP, because it installs everything that the tests need.
func NoSkip() bool { return os.Getenv("INJECT_TEST_NO_SKIP") != "" }

// Skip skips the test, and fails it in CI. The arguments are the reason.
func Skip(t testing.TB, reason ...any) {
	t.Helper()
	if NoSkip() {
		t.Fatal(reason...)
	}
	t.Skip(reason...)
}

// Need returns the path of the first program. It skips the test if one of the programs is
// not installed, and fails it in CI.
func Need(t testing.TB, programs ...string) string {
	t.Helper()
	var first string
	for i, name := range programs {
		path, err := exec.LookPath(name)
		if err != nil {
			Skip(t, err)
		}
		if i == 0 {
			first = path
		}
	}
	return first
}

// Bin returns the path of a program that a target of make puts into the repository's bin, or which PATH
// has. It skips the test if neither is so, and fails it in CI.
func Bin(t testing.TB, name string) string {
	t.Helper()
	path, err := findProgram(Root(t), name)
	if err != nil {
		Skip(t, err)
	}
	return path
}

// findProgram returns the path of a program in bin below root, or in PATH.
func findProgram(root, name string) (string, error) {
	path := filepath.Join(root, "bin", name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return exec.LookPath(name)
}

// NeedRoot skips a test that needs root, and fails it in CI, which runs as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "needs root")
	}
}

// Buffer is a bytes.Buffer that one goroutine may read while others write to it.
type Buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write appends p.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String returns what was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Logger returns a logger of every level, and what it has written.
func Logger() (hclog.Logger, *Buffer) {
	out := &Buffer{}
	return hclog.New(&hclog.LoggerOptions{Output: out, Level: hclog.Trace}), out
}

// Root returns the folder of the repository.
func Root(t testing.TB) string {
	t.Helper()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; root != filepath.Dir(root); root = filepath.Dir(root) {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			break
		}
	}
	return root
}

// SDK returns the path of a program that make sdk installs: Python with Flyte's SDK, pyarrow, rich
// and others, or a0, the SDK's runtime. It skips the test without it, and fails it in CI. If
// INJECT_TEST_SDK is set, the programs are those of the virtual environment in that folder, as make
// newest needs it.
func SDK(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("INJECT_TEST_SDK")
	if dir == "" {
		dir = filepath.Join(Root(t), "bin", "sdk")
	}
	return installed(t, "sdk", dir, name)
}

// Flytekit returns the path of a program that make flytekit installs: Python with flytekit, the SDK
// of Flyte v1, or one of its entrypoints, such as pyflyte-execute. It skips the test without it,
// and fails it in CI.
func Flytekit(t testing.TB, name string) string {
	t.Helper()
	return installed(t, "flytekit", filepath.Join(Root(t), "bin", "flytekit"), name)
}

// Storage returns the path of a program that make storage installs: Python with boto3, the AWS command
// line aws, or moto_server. It skips the test without it, and fails it in CI.
func Storage(t testing.TB, name string) string {
	t.Helper()
	return installed(t, "storage", filepath.Join(Root(t), "bin", "storage"), name)
}

// Azurite returns the path of azurite-blob, the object store of Azure that make storage installs. It skips
// the test without it, and fails it in CI. It needs node.
func Azurite(t testing.TB) string {
	t.Helper()
	return filepath.Join(filepath.Dir(installed(t, "storage", filepath.Join(Root(t), "bin", "azurite"), "")),
		"node_modules", ".bin", "azurite-blob")
}

// installed returns the path of a program of the virtual environment in dir, which make target
// installs.
func installed(t testing.TB, target, dir, name string) string {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, "installed")); err != nil { //nolint:gosec // the caller's own
		Skip(t, "run make ", target, ": ", err)
	}
	return filepath.Join(dir, "bin", name)
}
