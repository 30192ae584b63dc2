package place

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
)

// pair is two file secrets with the same long text, by which a test can tell half a file, or
// files of different calls, from whole ones.
func pair(text string) []Secret {
	text = strings.Repeat(text, 1000)
	return []Secret{fileSecret("A", text), fileSecret("B", text)}
}

// The names and contents of a folder after a call of Files, or after one that failed.
func TestFiles(t *testing.T) {
	old := []Secret{fileSecret("OLD", "old"), fileSecret("K", "old")}
	for _, c := range []struct {
		name    string
		before  func(t *testing.T, dir string)
		secrets []Secret
		want    map[string]string // the content of each name that can be read
		err     string
	}{
		{
			name: "a new folder", secrets: []Secret{fileSecret("K", "value")},
			before: func(t *testing.T, dir string) { require.NoError(t, os.Remove(dir)) },
			want:   map[string]string{"K": "value", "k": "value"},
		},
		{
			name: "other names", secrets: []Secret{{
				Declaration: secret.Declaration{Group: "G", Key: "K", Mount: secret.File},
				Value:       secret.NewValue([]byte("value")),
			}},
			want: map[string]string{"K": "value", "k": "value", "G/K": "value", "G/k": "value", "g/k": "value"},
		},
		{
			name: "over an earlier call", secrets: []Secret{fileSecret("K", "value")},
			before: func(t *testing.T, dir string) { require.NoError(t, Files(dir, -1, old, hclog.NewNullLogger())) },
			want:   map[string]string{"K": "value", "k": "value"},
		},
		{
			name: "over a call that was killed", secrets: []Secret{fileSecret("K", "value")},
			before: func(t *testing.T, dir string) {
				require.NoError(t, os.Mkdir(filepath.Join(dir, "..2020_01_01_00_00_00.1"), 0o700))
				require.NoError(t, os.Symlink("..2020_01_01_00_00_00.1", filepath.Join(dir, dataLink+"_tmp")))
				require.NoError(t, os.Symlink(dataLink+"/DEAD", filepath.Join(dir, "DEAD")))
			},
			want: map[string]string{"K": "value", "k": "value"},
		},
		{
			name: "beside files of others", secrets: []Secret{fileSecret("K", "value")},
			before: func(t *testing.T, dir string) {
				require.NoError(t, os.WriteFile(filepath.Join(dir, "theirs"), []byte("theirs"), 0o600))
				// At a name that is only an alias.
				require.NoError(t, os.WriteFile(filepath.Join(dir, "k"), []byte("theirs"), 0o600))
			},
			want: map[string]string{"K": "value", "k": "theirs", "theirs": "theirs"},
		},
		{
			name: "where a file of others is", secrets: []Secret{fileSecret("K", "value"), fileSecret("MINE", "value")},
			before: func(t *testing.T, dir string) {
				require.NoError(t, Files(dir, -1, old, hclog.NewNullLogger()))
				require.NoError(t, os.WriteFile(filepath.Join(dir, "MINE"), []byte("theirs"), 0o600))
			},
			want: map[string]string{"OLD": "old", "old": "old", "K": "old", "k": "old", "MINE": "theirs"},
			err:  "something else is at",
		},
		{
			name: "where ..data is not a link", secrets: []Secret{fileSecret("K", "value")},
			before: func(t *testing.T, dir string) {
				require.NoError(t, os.Mkdir(filepath.Join(dir, dataLink), 0o700))
			},
			err: "is not a link",
		},
		{
			name: "where the folder is a file", secrets: []Secret{fileSecret("K", "value")},
			before: func(t *testing.T, dir string) {
				require.NoError(t, os.Remove(dir))
				require.NoError(t, os.WriteFile(dir, nil, 0o600))
			},
			err: "not a directory",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "files")
			require.NoError(t, os.Mkdir(dir, 0o700))
			if c.before != nil {
				c.before(t, dir)
			}
			err := Files(dir, -1, c.secrets, hclog.NewNullLogger())
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				require.NotContains(t, err.Error(), "value")
			} else {
				require.NoError(t, err)
				require.Len(t, versions(t, dir), 1)
			}

			got := map[string]string{}
			_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
				name, _ := filepath.Rel(dir, path)
				if err != nil || name == "." || strings.HasPrefix(name, "..") {
					return nil //nolint:nilerr // the folders of calls are read through the names only
				}
				// A link to a folder is one by which more names are read.
				below, _ := os.ReadDir(path)
				for _, e := range below {
					read(t, got, dir, filepath.Join(name, e.Name()))
				}
				if below == nil {
					read(t, got, dir, name)
				}
				return nil
			})

			if c.want == nil {
				c.want = map[string]string{}
			}
			require.Equal(t, c.want, got)
		})
	}
}

// read adds to got what can be read as name in dir.
func read(t *testing.T, got map[string]string, dir, name string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if !errors.Is(err, fs.ErrNotExist) { // a name that leads nowhere is none
		require.NoError(t, err)
		got[name] = string(b)
	}
}

// versions returns the folders of calls in dir.
func versions(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "..2*"))
	require.NoError(t, err)
	return all
}

func TestFilesModes(t *testing.T) {
	for _, c := range []struct {
		name  string
		group int
		dir   os.FileMode
		want  os.FileMode
	}{
		{"the owner's alone", -1, 0o755, 0o400},
		{"for a group", os.Getegid(), 0o755, 0o440},
		{"for the folder's group", -1, 0o755 | os.ModeSetgid, 0o440},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.Chmod(dir, c.dir))
			require.NoError(t, Files(dir, c.group, []Secret{fileSecret("K", "value")}, hclog.NewNullLogger()))
			info, err := os.Stat(filepath.Join(dir, "K"))
			require.NoError(t, err)
			require.Equal(t, c.want, info.Mode())
			info, err = os.Stat(filepath.Join(dir, dataLink))
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o755), info.Mode().Perm())
		})
	}
}

// Two processes place files in one folder at the same time, and are killed at any moment. The
// files in ..data are always whole and of one call, and the next call cleans up.
func TestFilesKilled(t *testing.T) {
	kills := 60
	if testing.Short() {
		kills = 8
	}
	dir := t.TempDir()
	for range kills {
		one, _ := startChild(t, "publishes", dir)
		two, _ := startChild(t, "publishes", dir)
		time.Sleep(time.Duration(rand.IntN(10_000)) * time.Microsecond) // they place files meanwhile
		consistent(t, dir)
		require.NoError(t, one.Process.Kill())
		require.Error(t, one.Wait())
		consistent(t, dir)
		require.NoError(t, two.Process.Kill())
		require.Error(t, two.Wait())
		consistent(t, dir)
	}
	require.NoError(t, Files(dir, -1, pair("last "), hclog.NewNullLogger()))
	require.Len(t, versions(t, dir), 1)
	require.ElementsMatch(t, []string{dataLink, filepath.Base(versions(t, dir)[0]), "A", "B", "a", "b"}, list(t, dir))
}

// consistent reads the folder as a container does that looks at one version.
func consistent(t *testing.T, dir string) {
	t.Helper()
	for {
		version, err := filepath.EvalSymlinks(filepath.Join(dir, dataLink))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has been replaced since
		}
		require.NoError(t, err)
		a, err := os.ReadFile(filepath.Join(version, "A"))
		b, err2 := os.ReadFile(filepath.Join(version, "B"))
		if err := errors.Join(err, err2); errors.Is(err, fs.ErrNotExist) {
			continue // as above
		}
		require.NoError(t, errors.Join(err, err2))
		require.Equal(t, string(a), string(b))
		require.Len(t, strings.Fields(string(a)), 3000, "%.20q", a) // see publishes
		return
	}
}
