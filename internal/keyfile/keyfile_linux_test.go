package keyfile_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"inject/internal/harness"
	"inject/internal/keyfile"
)

const asChild = "INJECT_TEST_KEYFILE_PATHS"

// TestMain checks the paths that it is given instead, as another user or in another mount
// namespace, and prints the errors.
func TestMain(m *testing.M) {
	var paths []string
	if text := os.Getenv(asChild); text != "" {
		if err := json.Unmarshal([]byte(text), &paths); err != nil {
			panic(err)
		}
		for _, path := range paths {
			fmt.Println(path, keyfile.Check(path))
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// file makes a file in a new folder that everyone may enter.
func file(t *testing.T, dirMode, mode fs.FileMode, uid, gid int) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "keyfile") //nolint:usetesting // others may not enter that of the test
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	path := filepath.Join(dir, "a key")
	require.NoError(t, os.WriteFile(path, []byte("x"), 0o600))
	if uid != os.Geteuid() || gid != os.Getegid() {
		require.NoError(t, os.Chown(dir, uid, gid))
		require.NoError(t, os.Chown(path, uid, gid))
	}
	require.NoError(t, os.Chmod(dir, dirMode))
	require.NoError(t, os.Chmod(path, mode))
	return path
}

// refused requires that err is what Check says about a file.
func refused(t *testing.T, err error, path string, mode fs.FileMode) {
	t.Helper()
	require.EqualError(t, err,
		fmt.Sprintf("it is open to others than its owner (mode %04o): run chmod 600 %s", mode, path))
}

func TestOurs(t *testing.T) {
	uid, gid := os.Geteuid(), os.Getegid()
	for mode := range fs.FileMode(0o1000) {
		path := file(t, 0o755, mode, uid, gid)
		if mode&0o077 == 0 {
			require.NoError(t, keyfile.Check(path), "%04o", mode)
			continue
		}
		refused(t, keyfile.Check(path), path, mode)
		require.NoError(t, os.Chmod(path, 0o600)) // as it says
		require.NoError(t, keyfile.Check(path), "%04o", mode)
	}
	path := file(t, 0o755, 0o644, uid, gid)
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(path, link))
	refused(t, keyfile.Check(link), link, 0o644)
}

// On a volume with fsGroup the kubelet opens every file to the group of its folder.
func TestHandedDown(t *testing.T) {
	uid, gid := os.Geteuid(), os.Getegid()
	for _, mode := range []fs.FileMode{0o640, 0o660, 0o670} {
		require.NoError(t, keyfile.Check(file(t, 0o775|fs.ModeSetgid, mode, uid, gid)))
		path := file(t, 0o775, mode, uid, gid)
		refused(t, keyfile.Check(path), path, mode)
	}
	for _, mode := range []fs.FileMode{0o644, 0o664, 0o606, 0o601} {
		path := file(t, 0o775|fs.ModeSetgid, mode, uid, gid)
		refused(t, keyfile.Check(path), path, mode)
	}
	harness.NeedRoot(t)
	path := file(t, 0o775|fs.ModeSetgid, 0o640, uid, gid)
	require.NoError(t, os.Chown(path, uid, 65534)) // not the group of the folder
	require.NoError(t, os.Chmod(path, 0o640))
	refused(t, keyfile.Check(path), path, 0o640)
}

func TestWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	require.NoError(t, unix.Mkfifo(pipe, 0o666))
	require.NoError(t, os.Chmod(pipe, 0o666))
	for _, path := range []string{pipe, dir, filepath.Join(dir, "none"), "", "/dev/null"} {
		require.NoError(t, keyfile.Check(path))
	}
}

// in returns what Check says about paths in another process.
func in(t *testing.T, cmd *exec.Cmd, paths ...string) map[string]string {
	t.Helper()
	text, err := json.Marshal(paths)
	require.NoError(t, err)
	cmd.Env = append(os.Environ(), asChild+"="+string(text))
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	said := map[string]string{}
	for line := range strings.Lines(string(out)) {
		for _, path := range paths {
			if text, ok := strings.CutPrefix(line, path+" "); ok {
				said[path] = strings.TrimSpace(text)
			}
		}
	}
	require.Lenf(t, said, len(paths), "%s", out)
	return said
}

// self returns the path of this test's program in a folder that every user may enter.
func self(t *testing.T) string {
	t.Helper()
	program, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	path := filepath.Join(filepath.Dir(file(t, 0o755, 0o600, os.Geteuid(), os.Getegid())), "test")
	require.NoError(t, os.WriteFile(path, program, 0o755))
	return path
}

// The files of another user pass, whatever their mode: those of root for an unprivileged user, as
// Kubernetes mounts them, also for its fsGroup alone; and those of a user for root.
func TestAnotherOwner(t *testing.T) {
	harness.NeedRoot(t)
	const nobody, group = 65534, 4242
	rootsAll := file(t, 0o755, 0o644, 0, 0)
	rootsGroup := file(t, 0o755, 0o440, 0, group)
	open := file(t, 0o755, 0o644, nobody, nobody)
	groups := file(t, 0o755, 0o440, nobody, group)
	own := file(t, 0o755, 0o400, nobody, nobody)
	for _, path := range []string{open, groups, own} {
		require.NoError(t, keyfile.Check(path), "root looks at the file of a user")
	}
	refused(t, keyfile.Check(rootsAll), rootsAll, 0o644)
	cmd := exec.Command(self(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: nobody, Gid: nobody, Groups: []uint32{group}},
	}
	said := in(t, cmd, rootsAll, rootsGroup, open, groups, own)
	for _, path := range []string{rootsAll, rootsGroup, own} {
		require.Equal(t, "<nil>", said[path])
	}
	require.Contains(t, said[open], "mode 0644")
	require.Contains(t, said[groups], "mode 0440")
}

// A container that runs as root owns the files of its volumes with secrets. They pass because they
// are mounted read-only: as the kubelet does it, with links on a tmpfs; and as docker run -v FILE:ro
// does. The same files on a mount that can be written are refused.
func TestReadOnlyMount(t *testing.T) {
	harness.NeedRoot(t)
	harness.Need(t, "unshare")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	script := `set -e; cd "$1"; umask 022
mkdir secret rw
mount -t tmpfs none secret; mkdir secret/..1; echo x > secret/..1/key
ln -s ..1 secret/..data; ln -s ..data/key secret/key
mount --bind secret rw
mount -o remount,bind,ro secret
echo x > host; echo x > mounted; echo x > writable
mount --bind host mounted; mount -o remount,bind,ro mounted
mount --bind host writable
shift; exec "$@"`
	said := in(t, exec.Command("unshare", "-m", "sh", "-c", script, "sh", dir, self(t)),
		at("secret/key"), at("rw/key"), at("host"), at("mounted"), at("writable"))
	require.Equal(t, "<nil>", said[at("secret/key")])
	require.Equal(t, "<nil>", said[at("mounted")])
	for _, name := range []string{"rw/key", "host", "writable"} {
		require.Contains(t, said[at(name)], "mode 0644", name)
	}
}
