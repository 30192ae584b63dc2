package place

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"inject/internal/harness"
	"inject/resolver/secret"
)

// A file appears where it was asked for, only its user can read it, and it is removed completely.
func TestPlaceFile(t *testing.T) {
	for _, c := range []struct {
		name   string
		path   func(dir string) string // "" for the folder's default
		before func(t *testing.T, at string)
		err    string
		hint   string
	}{
		{name: "in the folder for files"},
		{name: "at a path", path: func(dir string) string { return filepath.Join(dir, "elsewhere") }},
		{
			name: "over the link of a run whose folder is gone", before: func(t *testing.T, at string) {
				require.NoError(t, os.Symlink("/dev/shm/.inject-0-1-2-gone/K", at))
			},
		},
		{
			name: "where a file is", before: func(t *testing.T, at string) {
				require.NoError(t, os.WriteFile(at, nil, 0o600))
			},
			err: "file exists", hint: "nothing may be in its place",
		},
		{
			name: "where another link is", before: func(t *testing.T, at string) {
				require.NoError(t, os.Symlink("/nowhere", at))
			},
			err: "file exists", hint: "nothing may be in its place",
		},
		{
			name: "where a run has its file", before: func(t *testing.T, at string) {
				startChild(t, "holds", filepath.Dir(at))
			},
			err: "file exists", hint: "another inject, which is running",
		},
		{
			name: "where init has its files", before: func(t *testing.T, at string) {
				theirs := []Secret{fileSecret("K", "theirs")}
				require.NoError(t, Files(filepath.Dir(at), -1, theirs, hclog.NewNullLogger()))
			},
			err: "file exists", hint: "inject init has placed its files there",
		},
		{
			name: "below a folder that does not exist", path: func(dir string) string {
				return filepath.Join(dir, "none", "file")
			},
			err: "no such file", hint: "its folder must be there",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			base, dir := inMemoryDir(t), t.TempDir()
			d, at := secret.Declaration{Key: "K", Mount: secret.File}, filepath.Join(dir, "K")
			if c.path != nil {
				d.Path = c.path(dir)
				at = d.Path
			}
			if c.before != nil {
				c.before(t, at)
			}
			before, private := list(t, dir), list(t, base)

			f, err := newFolder(dir, hclog.NewNullLogger())
			require.NoError(t, err)
			got, err := f.place(d, []byte("value"))
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				require.Contains(t, secret.Hint(err), c.hint)
				require.NotContains(t, err.Error(), "value")
			} else {
				require.NoError(t, err)
				require.Equal(t, at, got)
				b, err := os.ReadFile(at)
				require.NoError(t, err)
				require.Equal(t, "value", string(b))
				info, err := os.Stat(at)
				require.NoError(t, err)
				require.Equal(t, os.FileMode(0o400), info.Mode())
				info, err = os.Stat(f.path)
				require.NoError(t, err)
				require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
				require.Equal(t, base, filepath.Dir(f.path), "on a tmpfs where there is one")
			}

			require.NoError(t, f.remove())
			if c.err == "" && len(before) > 0 {
				before = nil // the link that was left is gone, too
			}
			require.ElementsMatch(t, before, list(t, dir))
			require.ElementsMatch(t, private, list(t, base))
		})
	}
}

// A run removes the folders that it had to make, unless there is something else in them.
func TestMadeFolders(t *testing.T) {
	for _, c := range []struct {
		name string
		add  string
		want []string
	}{
		{"empty", "", []string{}},
		{"with a file of the task", "new/file", []string{"new"}},
		{"with a file deeper", "new/deep/file", []string{"new"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inMemoryDir(t)
			dir := t.TempDir()
			f, err := newFolder(filepath.Join(dir, "new", "deep"), hclog.NewNullLogger())
			require.NoError(t, err)
			_, err = f.place(secret.Declaration{Key: "K", Mount: secret.File}, nil)
			require.NoError(t, err)
			if c.add != "" {
				require.NoError(t, os.WriteFile(filepath.Join(dir, c.add), nil, 0o600))
			}
			require.NoError(t, f.remove())
			require.Equal(t, c.want, list(t, dir))
		})
	}
}

// The next run removes the folder of a run that was killed, and never that of one that is alive.
func TestKilledRun(t *testing.T) {
	for _, c := range []struct {
		name   string
		signal syscall.Signal
		wait   bool
		swept  bool
	}{
		{"alive", 0, false, false},
		{"stopped", syscall.SIGSTOP, false, false},
		{"killed", syscall.SIGKILL, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			base, dir := inMemoryDir(t), t.TempDir()
			child, at := startChild(t, "holds", dir)
			require.NoError(t, child.Process.Signal(c.signal))
			if c.wait {
				require.Error(t, child.Wait())
			}
			require.FileExists(t, at)
			require.Len(t, list(t, base), 1)

			sweep(bases(dir), hclog.NewNullLogger())
			if c.swept {
				require.Empty(t, list(t, base))
				require.Empty(t, list(t, dir))
				return
			}
			b, err := os.ReadFile(at)
			require.NoError(t, err)
			require.Equal(t, "value", string(b))
		})
	}
}

// A sweep removes the folders that killed runs of this user left, with the links into them, and
// leaves everything that only looks like them.
func TestSweep(t *testing.T) {
	mine := fmt.Sprintf("%s%d-1-2-dead", folderPrefix, os.Geteuid())
	for _, c := range []struct {
		name string
		// make puts something into base or dir; folder is a path in base with a name of ours.
		make    func(t *testing.T, base, dir, folder string)
		inBase  []string // the names that are left
		inDir   []string
		needSet bool // the owner of a folder must be changed
	}{
		{
			name: "the folder of a run that was killed before it marked it",
			make: func(t *testing.T, _, _, folder string) {
				require.NoError(t, os.Mkdir(folder, 0o700))
			},
		},
		{
			name: "a folder without our mark", inBase: []string{mine},
			make: func(t *testing.T, _, dir, folder string) {
				leave(t, folder, dir)
				require.NoError(t, os.Remove(filepath.Join(folder, markFile)))
				require.NoError(t, os.Remove(filepath.Join(dir, "K")))
			},
		},
		{
			name: "a folder that others may write", inBase: []string{mine},
			make: func(t *testing.T, _, dir, folder string) {
				leave(t, folder, dir)
				require.NoError(t, os.Chmod(folder, 0o722))
				require.NoError(t, os.Remove(filepath.Join(dir, "K")))
			},
		},
		{
			name: "another user's mark", inBase: []string{mine}, needSet: true,
			make: func(t *testing.T, _, dir, folder string) {
				leave(t, folder, dir)
				require.NoError(t, os.Chown(filepath.Join(folder, markFile), 65534, 65534))
				require.NoError(t, os.Remove(filepath.Join(dir, "K")))
			},
		},
		{
			name: "a pipe with such a name", inBase: []string{mine},
			make: func(t *testing.T, _, _, folder string) {
				require.NoError(t, unix.Mkfifo(folder, 0o600))
			},
		},
		{
			name: "its link",
			make: func(t *testing.T, _, dir, folder string) {
				leave(t, folder, dir)
			},
		},
		{
			name: "a file in the place of its link", inDir: []string{"K"},
			make: func(t *testing.T, _, dir, folder string) {
				leave(t, folder, dir)
				require.NoError(t, os.Remove(filepath.Join(dir, "K")))
				require.NoError(t, os.WriteFile(filepath.Join(dir, "K"), nil, 0o600))
			},
		},
		{
			name: "another's link in the place of its link", inDir: []string{"K"},
			make: func(t *testing.T, _, dir, folder string) {
				leave(t, folder, dir)
				require.NoError(t, os.Remove(filepath.Join(dir, "K")))
				require.NoError(t, os.Symlink("/dev/shm/.inject-0-1-2-other/K", filepath.Join(dir, "K")))
			},
		},
		{
			name: "a list of links that is a pipe", inDir: []string{"K"},
			make: func(t *testing.T, _, dir, folder string) {
				leave(t, folder, dir)
				require.NoError(t, os.Remove(filepath.Join(folder, linksFile)))
				require.NoError(t, unix.Mkfifo(filepath.Join(folder, linksFile), 0o600))
			},
		},
		{
			name: "a list of links that is a link", inDir: []string{"K", "list"},
			make: func(t *testing.T, _, dir, folder string) {
				leave(t, folder, dir)
				require.NoError(t, os.Rename(filepath.Join(folder, linksFile), filepath.Join(dir, "list")))
				require.NoError(t, os.Symlink(filepath.Join(dir, "list"), filepath.Join(folder, linksFile)))
			},
		},
		{
			name: "a file with such a name", inBase: []string{mine},
			make: func(t *testing.T, _, _, folder string) {
				require.NoError(t, os.WriteFile(folder, nil, 0o600))
			},
		},
		{
			name: "a link with such a name", inBase: []string{mine}, inDir: []string{"file"},
			make: func(t *testing.T, _, dir, folder string) {
				require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
				require.NoError(t, os.Symlink(dir, folder))
			},
		},
		{
			name: "another user's name", inBase: []string{".inject-12345678-1-2-x"},
			make: func(t *testing.T, base, _, _ string) {
				require.NoError(t, os.Mkdir(filepath.Join(base, ".inject-12345678-1-2-x"), 0o700))
			},
		},
		{
			name: "another user's folder with our name", inBase: []string{mine}, needSet: true,
			make: func(t *testing.T, _, _, folder string) {
				require.NoError(t, os.Mkdir(folder, 0o700))
				require.NoError(t, os.Chown(folder, 65534, 65534))
			},
		},
		{
			name: "any other folder", inBase: []string{"inject-" + strconv.Itoa(os.Geteuid()) + "-x"},
			make: func(t *testing.T, base, _, _ string) {
				require.NoError(t, os.Mkdir(filepath.Join(base, "inject-"+strconv.Itoa(os.Geteuid())+"-x"), 0o700))
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.needSet {
				harness.NeedRoot(t)
			}

			base, dir := t.TempDir(), t.TempDir()
			c.make(t, base, dir, filepath.Join(base, mine))
			sweep([]string{base, filepath.Join(base, "none")}, hclog.NewNullLogger())
			require.ElementsMatch(t, c.inBase, list(t, base))
			require.ElementsMatch(t, c.inDir, list(t, dir))
		})
	}
}

// leave makes the folder of a killed run, with a file K, and a link to that in dir.
func leave(t *testing.T, private, dir string) {
	t.Helper()
	require.NoError(t, os.Mkdir(private, 0o700))
	in, err := os.OpenRoot(private)
	require.NoError(t, err)
	defer in.Close() //nolint:errcheck // a folder
	require.NoError(t, mark(in))
	f := &folder{path: private, in: in, appears: dir, above: map[string]*os.Root{}}
	_, err = f.place(secret.Declaration{Key: "K", Mount: secret.File}, nil)
	require.NoError(t, err)
}

// Sweeps go on while runs make, use and remove their folders. They never remove the files of a
// run that is alive.
func TestSweepSparesTheLiving(t *testing.T) {
	rounds := 200
	if testing.Short() {
		rounds = 40
	}
	base := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", base)
	t.Setenv("TMPDIR", base)

	done := make(chan struct{})
	var sweeps, runs sync.WaitGroup
	for range 2 {
		sweeps.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					sweep(bases(base), hclog.NewNullLogger())
				}
			}
		})
	}

	value := []byte("value")
	for i := range 4 {
		dir := filepath.Join(base, string(rune('a'+i)))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		runs.Go(func() {
			for range rounds {
				f := &folder{appears: dir, above: map[string]*os.Root{}}
				if err := f.makeIn(base); err != nil {
					t.Error(err)
					return
				}
				at, err := f.place(secret.Declaration{Key: "K", Mount: secret.File}, value)
				if err != nil {
					t.Error(err)
					return
				}
				for range 3 {
					if b, err := os.ReadFile(at); err != nil || !bytes.Equal(b, value) {
						t.Errorf("a living run's file: %v", err)
						return
					}
				}
				if err := f.remove(); err != nil {
					t.Error(err)
				}
			}
		})
	}

	runs.Wait()
	close(done)
	sweeps.Wait()
	left, err := filepath.Glob(filepath.Join(base, folderPrefix+"*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// Only links of root and of this user are followed on the way to a folder, wherever they stand.
func TestLinksOnTheWay(t *testing.T) {
	harness.NeedRoot(t)
	dir := t.TempDir()
	deep := filepath.Join(dir, "real", "deep")
	require.NoError(t, os.MkdirAll(deep, 0o755))
	for _, c := range []struct {
		name, target string
		foreign      bool
		err          string
	}{
		{name: "absolute", target: filepath.Join(dir, "real")},
		{name: "relative", target: "real/../real/."},
		{name: "to a link of root", target: "absolute"},
		{name: "foreign", target: filepath.Join(dir, "real"), foreign: true, err: "belongs to another user"},
		{name: "to a foreign link", target: "foreign/.", err: "belongs to another user"},
		{name: "to itself", target: "to itself", err: "too many levels"},
		{name: "to nothing", target: "nothing", err: "no such file"},
	} {
		link := filepath.Join(dir, c.name)
		require.NoError(t, os.Symlink(c.target, link))
		if c.foreign {
			require.NoError(t, os.Lchown(link, 65534, 65534))
		}
		for _, path := range []string{link, link + "//deep/", filepath.Join(link, "deep")} {
			root, err := openRoot(path)
			if c.err != "" {
				require.ErrorContains(t, err, c.err, path)
				continue
			}
			require.NoError(t, err, path)
			want, err := os.Stat(path)
			require.NoError(t, err)
			is, err := root.Stat(".")
			require.NoError(t, err)
			require.True(t, os.SameFile(want, is), path)
			require.NoError(t, root.Close())
		}
	}
	t.Chdir(dir)
	root, err := openRoot("real/deep")
	require.NoError(t, err)
	require.NoError(t, root.Close())
}
