package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// compatibility is the page whose last lines are the table of what ran with which client.
const compatibility = "docs/reference/compatibility.md"

// Ran says that the test runs a real client of another project. Once the test has passed, the table in
// docs/reference/compatibility.md must have the row client, version, what and test; otherwise the test
// fails. With INJECT_TEST_UPDATE the row is written instead. version is what the program itself says; a
// * behind it is for a program whose version this repository does not pin, so that every version
// matches. Tests of all packages may call it at the same time. With INJECT_TEST_SDK it does nothing,
// because the SDK is not the one that is pinned.
func Ran(t testing.TB, client, version, what string) {
	t.Helper()
	if strings.Trim(version, "*") == "" || strings.ContainsAny(client+version+what, "|\n") {
		t.Errorf("%q has the version %q, and ran %q", client, version, what)
		return
	}
	if os.Getenv("INJECT_TEST_SDK") != "" {
		return
	}
	root, dir := Root(t), ""
	if here, err := os.Getwd(); err == nil {
		dir, _ = filepath.Rel(root, here)
	}
	test, _, _ := strings.Cut(t.Name(), "/")
	row := fmt.Sprintf("| %s | %s | %s | `%s %s` |\n", client, version, what, filepath.ToSlash(dir), test)
	t.Cleanup(func() {
		if t.Failed() || t.Skipped() {
			return
		}
		if err := note(root, row, os.Getenv("INJECT_TEST_UPDATE") != ""); err != nil {
			t.Errorf("%v", err)
		}
	})
}

// note checks that the table has a row, or writes it.
func note(root, row string, write bool) error {
	path := filepath.Join(root, compatibility)
	folder, err := os.Open(filepath.Dir(path)) // is locked, so that no file of the lock is left
	if err != nil {
		return err
	}
	defer folder.Close() //nolint:errcheck // also unlocks it
	if err := syscall.Flock(int(folder.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", folder.Name(), err)
	}
	text, err := os.ReadFile(path) //nolint:gosec // of the repository
	if err != nil {
		return err
	}
	const rule = "|---|---|---|---|\n"
	prose, table, ok := strings.Cut(string(text), rule)
	if !ok {
		return fmt.Errorf("%s has no table", path)
	}
	rows := slices.Collect(strings.Lines(table))
	same := func(other string) bool { return versionless(other) == versionless(row) }
	at := slices.IndexFunc(rows, same)
	if at >= 0 && (rows[at] == row || strings.Contains(row, "* |") && strings.Contains(rows[at], "* |")) {
		return nil
	}
	if !write {
		return fmt.Errorf("%s does not have this row: run make sdk flytekit wire keycloak, and then this test with "+
			"INJECT_TEST_UPDATE=1\n%s", path, row)
	}
	rows = append(slices.DeleteFunc(rows, same), row)
	slices.Sort(rows)
	return os.WriteFile(path, []byte(prose+rule+strings.Join(rows, "")), 0o644) //nolint:gosec // a page is for everyone
}

// versionless returns a row without its second cell.
func versionless(row string) string {
	cells := strings.Split(row, " | ")
	return strings.Join(slices.Delete(cells, min(1, len(cells)), min(2, len(cells))), " | ")
}

// SDKVersion returns the version of a Python package, as the SDK's Python knows it.
func SDKVersion(t testing.TB, name string) string {
	t.Helper()
	return packageVersion(t, SDK(t, "python"), name)
}

// FlytekitVersion returns the version of the SDK of Flyte v1, as its Python knows it.
func FlytekitVersion(t testing.TB) string {
	t.Helper()
	return packageVersion(t, Flytekit(t, "python"), "flytekit")
}

// StorageVersion returns the version of a Python package that make storage installs.
func StorageVersion(t testing.TB, name string) string {
	t.Helper()
	return packageVersion(t, Storage(t, "python"), name)
}

func packageVersion(t testing.TB, python, name string) string {
	t.Helper()
	const program = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
	out, err := exec.CommandContext(t.Context(), python, "-c", program, name).Output() //nolint:gosec // the repository's own
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
