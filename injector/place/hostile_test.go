package place

import (
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"inject/internal/harness"
	"inject/resolver/secret"
)

// As root we place files in a folder that another user may write, without sticky bit, as an
// emptyDir is. A process of that user moves our folders and puts links, pipes and folders of root
// in their place, as fast as it can. We may fail then, and must change nothing that it could not
// have changed itself, nor hang, nor leave the value of a run anywhere.
func TestHostileProcess(t *testing.T) {
	harness.NeedRoot(t)
	rounds := 400
	if testing.Short() {
		rounds = 60
	}
	volume := inMemoryDir(t)
	require.NoError(t, os.Chmod(volume, 0o777))

	// A folder of root beside the volume and one in it, which the other user may rename, not enter.
	outside := t.TempDir()
	keep(t, outside)
	require.NoError(t, os.Chmod(outside, 0o700))
	keep(t, filepath.Join(volume, "data"))
	before := look(t, outside)

	program, err := os.ReadFile(os.Args[0])
	require.NoError(t, err)
	self := filepath.Join(inMemoryDir(t), "self")
	require.NoError(t, os.Chmod(filepath.Dir(self), 0o755))
	require.NoError(t, os.WriteFile(self, program, 0o755))
	t.Setenv("XDG_RUNTIME_DIR", volume)
	t.Setenv("TMPDIR", volume)
	t.Setenv("INJECT_TEST_OUTSIDE", outside)
	hostile := osexec.Command(self)
	hostile.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	start(t, hostile, "disturbs", volume)

	value := rand.Text()
	var published, ran, failed int
	count := func(err error, done *int) {
		if err != nil {
			failed++
			require.NotContains(t, err.Error(), value)
			return
		}
		*done++
	}
	for range rounds {
		var many []Secret
		for i := range 20 {
			many = append(many, fileSecret(fmt.Sprintf("K%d", i), "published"))
		}
		count(Files(volume, 4242, many, hclog.NewNullLogger()), &published)

		f, err := newFolder(filepath.Join(volume, "sub", "deep"), hclog.NewNullLogger())
		if err == nil {
			_, err = f.place(secret.Declaration{Key: "RUN", Mount: secret.File}, []byte(value))
			at := secret.Declaration{Key: "AT", Mount: secret.File, Path: filepath.Join(volume, "sub", "AT")}
			if _, err2 := f.place(at, []byte(value)); err == nil {
				err = err2
			}
			_ = f.remove() // it may have to leave a folder that was moved, not what is in it
		}
		count(err, &ran)
	}
	require.NoError(t, hostile.Process.Kill())
	_ = hostile.Wait()

	require.Equal(t, before, look(t, outside))
	moved, disturbed := "", 0
	require.NoError(t, filepath.WalkDir(volume, func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		disturbed += strings.Count(d.Name(), "moved-")
		if d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NotEqual(t, value, string(b), "%s is left of a run", path)
			if string(b) == "theirs" {
				moved = filepath.Dir(path)
			}
		}
		return nil
	}))
	require.NotEmpty(t, moved, "root's folder in the volume has lost its file")
	require.Equal(t, before, look(t, moved))
	t.Logf("published %d, ran %d, failed %d, moved %d", published, ran, failed, disturbed)
	require.Positive(t, disturbed, "the other process has moved nothing: the test shows nothing")
	require.Positive(t, failed)
}

// keep makes a folder with a file that is not ours to change.
func keep(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "K0"), []byte("theirs"), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "below"), 0o700))
}

// look returns what is in dir: names, modes and owners.
func look(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		require.NoError(t, err)
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(path, &st))
		name, _ := filepath.Rel(dir, path)
		fmt.Fprintf(&b, "%s %o %d:%d\n", name, st.Mode, st.Uid, st.Gid)
		return nil
	}))
	return b.String()
}

// disturb moves what root makes in the working folder, and puts something else in its place.
func disturb() error {
	fmt.Println("begun")
	outside, data := os.Getenv("INJECT_TEST_OUTSIDE"), "data"
	for n := 0; ; n++ {
		entries, err := os.ReadDir(".")
		if err != nil {
			return err
		}
		for _, e := range entries {
			name := e.Name()
			ours := strings.HasPrefix(name, "..2") || strings.HasPrefix(name, folderPrefix) ||
				name == "sub" || name == dataLink
			if !ours || name == data || e.IsDir() && name != "sub" && n%2 == 0 && n%3 > 0 { // let some live
				continue
			}
			if e.Type()&(fs.ModeSymlink|fs.ModeNamedPipe) != 0 {
				_ = os.Remove(name)
				continue
			}
			if os.Rename(name, "moved-"+strconv.Itoa(n)) != nil {
				continue
			}
			switch n % 4 {
			case 0:
				_ = os.Symlink(outside, name)
			case 1: // the folder of root
				if os.Rename(data, name) == nil {
					data = name
				}
			case 2:
				_ = unix.Mkfifo(name, 0o666)
			case 3:
				_ = os.Symlink(data, name)
			}
		}
		// Names that a sweep looks for.
		for _, bait := range []string{"..2020_01_01_00_00_00.x", folderPrefix + "0-1-1-x"} {
			if n%16 == 0 && os.Rename(data, bait) == nil {
				data = bait
			}
		}
	}
}
