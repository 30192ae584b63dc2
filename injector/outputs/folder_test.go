package outputs

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"inject/exec/redact"
	"inject/injector/outputs/content"
)

// leak is the value that a task must not leave: awkward, and new in each run.
var leak = "v\"'\\$ " + rand.Text()

func leakRedactor() *redact.Redactor {
	return redact.New(6, redact.Pattern{Name: "KEY", Value: []byte(leak)})
}

func folderOf(t *testing.T, dir string, p Policy) *Folder {
	t.Helper()
	f, err := OpenFolder(dir, leakRedactor(), p)
	require.NoError(t, err)
	return f
}

func checkFolder(t *testing.T, f *Folder) Report {
	t.Helper()
	r, err := f.Check(t.Context())
	require.NoError(t, err)
	return r
}

func put(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
}

func get(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

// outcomes returns the outcome for each path.
func outcomes(r Report) map[string]string {
	all := map[string]string{}
	for _, f := range r.Findings {
		what, _, _ := strings.Cut(f.Outcome, " to ")
		all[f.Path] = what
		if f.Why != "" {
			all[f.Path] += ": " + f.Why
		}
	}
	return all
}

func TestFolder(t *testing.T) {
	parent := t.TempDir()
	dir, outside := parent+"/outputs", parent+"/outside"
	put(t, outside, "outside "+leak)
	put(t, dir+"/plain", "nothing")
	put(t, dir+"/_ERROR", "it failed with "+leak+"\n")
	put(t, dir+"/a/b/c/deep.txt", leak)
	inJSON, err := json.Marshal(map[string]any{"token": leak, "n": 1})
	require.NoError(t, err)
	put(t, dir+"/o.json", string(inJSON))
	put(t, dir+"/binary", "\x00\x01"+leak)
	put(t, dir+"/one", leak)
	require.NoError(t, os.Link(dir+"/one", parent+"/two"))
	require.NoError(t, os.Symlink(outside, dir+"/link"))
	require.NoError(t, os.Symlink("..", dir+"/up"))
	require.NoError(t, os.Symlink("/x/"+leak, dir+"/told"))
	require.NoError(t, syscall.Mkfifo(dir+"/fifo", 0o644))
	put(t, dir+"/"+strings.ReplaceAll("name-"+leak, "/", "-"), "nothing")
	require.NoError(t, os.Mkdir(dir+"/folder "+leak, 0o755))

	then := time.Date(2020, 1, 2, 3, 4, 5, 6000, time.UTC)
	require.NoError(t, os.Chmod(dir+"/_ERROR", 0o640))
	require.NoError(t, os.Chtimes(dir+"/_ERROR", then, then))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(dir+"/_ERROR", 65534, 65533))
	}
	plain, err := os.Stat(dir + "/plain")
	require.NoError(t, err)

	r := checkFolder(t, folderOf(t, dir, Mask))
	require.True(t, r.Leaks(Mask))
	require.Equal(t, map[string]string{
		"_ERROR": "masked", "a/b/c/deep.txt": "masked", "o.json": "masked",
		"binary":         "moved: binary data, which cannot be masked",
		"one":            "moved: it has other names (hard links)",
		"told":           "moved: the target of this link holds a value",
		"name-" + leak:   "moved: its name holds a value",
		"folder " + leak: "moved: its name holds a value",
	}, outcomes(r))
	require.Equal(t, [4]int{6, 3, 5, 0}, [4]int{r.Files, r.Masked, r.Refused, r.Left})

	require.Equal(t, "it failed with [REDACTED:KEY]\n", get(t, dir+"/_ERROR"))
	require.Equal(t, "[REDACTED:KEY]", get(t, dir+"/a/b/c/deep.txt"))
	require.JSONEq(t, `{"token":"[REDACTED:KEY]","n":1}`, get(t, dir+"/o.json"))
	require.Equal(t, "outside "+leak, get(t, outside))
	info, err := os.Stat(dir + "/_ERROR")
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode())
	require.True(t, info.ModTime().Equal(then))
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		require.Equal(t, [2]uint32{65534, 65533}, [2]uint32{owner.Uid, owner.Gid})
	}
	again, err := os.Stat(dir + "/plain")
	require.NoError(t, err)
	require.True(t, os.SameFile(plain, again), "a file without values is not touched")

	// No temporary file is left; refused files are beside the folder, unreadable for others.
	var there []string
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		there = append(there, e.Name())
	}
	require.Equal(t, []string{"_ERROR", "a", "fifo", "link", "o.json", "plain", "up"}, there)
	aside, err := filepath.Glob(parent + "/.inject-refused-*")
	require.NoError(t, err)
	require.Len(t, aside, 1)
	info, err = os.Stat(aside[0])
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700)|os.ModeDir, info.Mode())
	kept, err := os.ReadDir(aside[0])
	require.NoError(t, err)
	require.Len(t, kept, 5)

	// A second check finds nothing.
	r = checkFolder(t, folderOf(t, dir, Fail))
	require.False(t, r.Leaks(Fail))
	require.Empty(t, r.Findings)
}

func TestPolicies(t *testing.T) {
	dir := t.TempDir() + "/o"
	put(t, dir+"/text", leak)
	put(t, dir+"/binary", "\x00"+leak)
	r := checkFolder(t, folderOf(t, dir, Warn))
	require.False(t, r.Leaks(Warn))
	require.Len(t, r.Findings, 2)
	require.Equal(t, leak, get(t, dir+"/text"))
	require.Equal(t, "\x00"+leak, get(t, dir+"/binary"))
	require.NoError(t, os.Remove(dir+"/binary"))
	r = checkFolder(t, folderOf(t, dir, Fail))
	require.True(t, r.Leaks(Fail))
	require.False(t, r.Leaks(Mask))
	require.Equal(t, "[REDACTED:KEY]", get(t, dir+"/text"))
}

// A binary value in a text does not make the file binary.
func TestTextAroundAValue(t *testing.T) {
	value := "\xff\x00\x01" + rand.Text() + "\xc3"
	dir := t.TempDir() + "/o"
	put(t, dir+"/text", "é "+value+"€ and more")
	put(t, dir+"/binary", "\x02 "+value)
	f, err := OpenFolder(dir, redact.New(6, redact.Pattern{Name: "KEY", Value: []byte(value)}), Mask)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"text": "masked", "binary": "moved: binary data, which cannot be masked"},
		outcomes(checkFolder(t, f)))
	require.Equal(t, "é [REDACTED:KEY]€ and more", get(t, dir+"/text"))
}

// Files that are not checked in time are taken out, and folders as a whole.
func TestOutOfTime(t *testing.T) {
	dir := t.TempDir() + "/o"
	for i := range 2000 {
		put(t, fmt.Sprintf("%s/f%d", dir, i), "x")
	}
	put(t, dir+"/sub/sub/f", "x")
	require.NoError(t, os.Symlink("x", dir+"/link"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, err := folderOf(t, dir, Mask).Check(ctx)
	require.NoError(t, err)
	require.Equal(t, 2002, r.Refused)
	require.Len(t, r.Findings, maxFindings)
	require.Contains(t, r.Findings[0].Why, "not checked in time")
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)

	// Time may also end in the middle of a large file.
	for asked := range 40 {
		put(t, dir+"/large", strings.Repeat("x", 4<<20)+leak)
		r, err = folderOf(t, dir, Mask).Check(&ending{t.Context(), asked})
		require.NoError(t, err)
		if r.Masked == 1 {
			require.Greater(t, asked, 20)
			require.Equal(t, "[REDACTED:KEY]", get(t, dir+"/large")[4<<20:])
			return
		}
		require.Equal(t, 1, r.Refused)
		require.NoFileExists(t, dir+"/large")
		entries, err = os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, entries)
	}
	t.Fatal("it was never checked in time")
}

// ending is a context that ends when it has been asked left times.
type ending struct {
	context.Context //nolint:containedctx // it is a context itself

	left int
}

func (e *ending) Err() error {
	if e.left--; e.left < 0 {
		return context.Canceled
	}
	return nil
}

func TestNoFolder(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/file", leak)
	_, err := OpenFolder(dir+"/file", leakRedactor(), Mask)
	require.ErrorContains(t, err, "not a directory")
	_, err = OpenFolder(dir+"/file/x", leakRedactor(), Mask)
	require.Error(t, err)

	// A task that leaves no folder has no outputs, and the report tells it.
	for _, none := range []string{"/none/either", "/none"} {
		require.Equal(t, Report{Missing: []string{dir + none}}, checkFolder(t, folderOf(t, dir+none, Mask)))
	}
	// A task may make the folder, or a file or a link in its place.
	f := folderOf(t, dir+"/made", Mask)
	put(t, dir+"/made/x", leak)
	require.Equal(t, 1, checkFolder(t, f).Masked)
	require.NoError(t, os.RemoveAll(dir+"/made"))
	put(t, dir+"/made", leak)
	require.Equal(t, map[string]string{".": "moved: it is no longer a folder"}, outcomes(checkFolder(t, f)))
	require.NoFileExists(t, dir+"/made")
	put(t, dir+"/elsewhere/x", leak)
	require.NoError(t, os.Symlink("elsewhere", dir+"/made"))
	require.Equal(t, map[string]string{".": "moved: it is no longer a folder"}, outcomes(checkFolder(t, f)))
	require.Equal(t, leak, get(t, dir+"/elsewhere/x"))
	// A link that existed before the task is the operator's.
	require.NoError(t, os.Symlink("elsewhere", dir+"/alias"))
	require.Equal(t, 1, checkFolder(t, folderOf(t, dir+"/alias", Mask)).Masked)
	require.Equal(t, "[REDACTED:KEY]", get(t, dir+"/elsewhere/x"))
}

func TestDepth(t *testing.T) {
	dir := t.TempDir() + "/o"
	require.NoError(t, os.Mkdir(dir, 0o755))
	fd, err := unix.Open(dir, unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	for range 1500 { // together with the folders above, longer than a path can be
		require.NoError(t, unix.Mkdirat(fd, "d", 0o755))
		next, err := unix.Openat(fd, "d", unix.O_DIRECTORY, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Close(fd))
		fd = next
	}
	require.NoError(t, unix.Close(fd))
	r := checkFolder(t, folderOf(t, dir, Mask))
	require.Equal(t, 1, r.Refused)
	require.Contains(t, r.Findings[0].Why, "nested too deep")
	require.Contains(t, r.Findings[0].Outcome, "moved")
}

// Another process replaces files by links to the outside and back while they are checked and
// masked: the outside is unchanged.
func TestSwapping(t *testing.T) {
	parent := t.TempDir()
	dir, outside := parent+"/o", parent+"/outside"
	put(t, outside, leak)
	put(t, parent+"/folder/x", leak)
	require.NoError(t, os.Chmod(outside, 0o604))
	require.NoError(t, os.Mkdir(dir, 0o755))
	before, err := os.Stat(outside)
	require.NoError(t, err)

	most := int64(10_000)
	if testing.Short() {
		most = 300
	}
	var swaps atomic.Int64
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for swaps.Load() < most {
			_ = os.WriteFile(dir+"/.new", []byte("text "+leak), 0o600)
			_ = os.Rename(dir+"/.new", dir+"/x")
			_ = os.Symlink(outside, dir+"/.link")
			_ = os.Rename(dir+"/.link", dir+"/x")
			_ = os.Mkdir(dir+"/sub", 0o755)
			_ = os.WriteFile(dir+"/sub/x", []byte("text "+leak), 0o600)
			_ = os.Rename(dir+"/sub", fmt.Sprintf("%s/moved-%d", parent, swaps.Load()%4))
			_ = os.Symlink("../folder", dir+"/sub")
			_ = os.Remove(dir + "/sub")
			swaps.Add(1)
		}
	})
	masked, checks := 0, 0
	for swaps.Load() < most {
		r := checkFolder(t, folderOf(t, dir, Mask))
		masked += r.Masked
		checks++
	}
	swapping.Wait()
	t.Logf("%d checks, %d masked", checks, masked)
	require.Positive(t, masked, "it was really masked meanwhile")
	require.Equal(t, leak, get(t, outside))
	require.Equal(t, leak, get(t, parent+"/folder/x"))
	after, err := os.Stat(outside)
	require.NoError(t, err)
	require.Equal(t, before.Mode(), after.Mode())
	require.True(t, before.ModTime().Equal(after.ModTime()))
}

// A million small files take time, but no memory each. They are a million names of a thousand
// files, on a tmpfs if there is one, because creating so many takes longer than the check.
func TestManyFiles(t *testing.T) {
	dir := t.TempDir()
	var room unix.Statfs_t
	if unix.Statfs("/dev/shm", &room) == nil && room.Ffree > 1_200_000 {
		var err error
		dir, err = os.MkdirTemp("/dev/shm", "outputs") //nolint:usetesting // not where tests are
		require.NoError(t, err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a test's
	folders, files := 1000, 1000
	if testing.Short() {
		folders = 20
	}
	for i := range files {
		put(t, fmt.Sprintf("%s/0/%d", dir, i), "a small output")
	}
	for i := 1; i < folders; i++ {
		sub := fmt.Sprintf("%s/%d", dir, i)
		require.NoError(t, os.Mkdir(sub, 0o755))
		for j := range files {
			require.NoError(t, os.Link(fmt.Sprintf("%s/0/%d", dir, j), fmt.Sprintf("%s/%d", sub, j)))
		}
	}
	put(t, dir+"/5/last", leak)
	f := folderOf(t, dir, Mask)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	r := checkFolder(t, f)
	t.Logf("%d files in %v", r.Files, time.Since(start))
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Equal(t, [2]int{folders*files + 1, 1}, [2]int{r.Files, r.Masked})
	require.Less(t, after.HeapAlloc, before.HeapAlloc+8<<20)
	require.Less(t, int(after.TotalAlloc-before.TotalAlloc)/(folders*files), 4096, "bytes a file")
}

// A sparse file of a terabyte is checked quickly, and a value in it is found.
func TestSparse(t *testing.T) {
	dir := t.TempDir() + "/o"
	put(t, dir+"/empty", "")
	if err := os.Truncate(dir+"/empty", 1<<40); err != nil {
		// The file system allows less.
		require.NoError(t, os.Truncate(dir+"/empty", 1<<34))
	}
	info, err := os.Stat(dir + "/empty")
	require.NoError(t, err)
	start := time.Now()
	require.Empty(t, checkFolder(t, folderOf(t, dir, Mask)).Findings)
	require.Less(t, time.Since(start), 5*time.Second)
	for _, at := range []int64{0, 3, 1<<20 - 5, info.Size() / 2, info.Size() - int64(len(leak))} {
		f, err := os.OpenFile(dir+"/empty", os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte(leak), at)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		r := checkFolder(t, folderOf(t, dir, Warn))
		require.Lenf(t, r.Findings, 1, "at %d", at)
		require.Equal(t, map[string]int{"KEY": 1}, r.Findings[0].Found)
		f, err = os.OpenFile(dir+"/empty", os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = f.WriteAt(make([]byte, len(leak)), at)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
}

// Archives with holes are searched, and files of two archives are refused.
func TestOddArchives(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/leak", strings.Repeat(leak+"\n", 3))
	put(t, dir+"/clean", "nothing")
	script := `cd "$1" && gzip -k leak && mkdir o &&
		cp leak.gz o/holes.gz && truncate -s 1100M o/holes.gz &&
		tar czf o/holes.tgz leak && truncate -s 1100M o/holes.tgz &&
		tar cf a.tar clean && tar cf b.tar leak.gz &&
		cat a.tar b.tar > o/two.tar && cat a.tar b.tar | gzip > o/two.tar.gz &&
		python3 -c 'import sys, zipfile
for name, text in ("a", "leak"), ("b", "clean"):
    with zipfile.ZipFile(name + ".zip", "w", zipfile.ZIP_DEFLATED) as z: z.write(text)' &&
		cat a.zip b.zip > o/two.zip && cat b.zip a.zip > o/owt.zip && cat b.zip > o/one.zip && cat a.tar > o/one.tar`
	out, err := exec.Command("sh", "-c", script, "sh", dir).CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	require.Equal(t, map[string]string{
		"holes.gz":   "moved: a gzip archive, which cannot be masked",
		"holes.tgz":  "moved: a gzip archive, which cannot be masked",
		"two.tar":    "moved: there are several tar archives in it, one behind the other",
		"two.tar.gz": "moved: there are several tar archives in it, one behind the other",
		"two.zip":    "moved: damaged: a zip archive that may be read in two ways",
		"owt.zip":    "moved: damaged: a zip archive that may be read in two ways",
	}, outcomes(checkFolder(t, folderOf(t, dir+"/o", Mask))))
}

// A value with a slash in it is found in a path.
func TestPath(t *testing.T) {
	dir := t.TempDir() + "/o"
	put(t, dir+"/plain/secret+value==", "nothing")
	put(t, dir+"/plain/other", "nothing")
	f, err := OpenFolder(dir, redact.New(6, redact.Pattern{Name: "KEY", Value: []byte("plain/secret+value==")}), Mask)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"plain/secret+value==": "moved: its name holds a value"},
		outcomes(checkFolder(t, f)))
	require.FileExists(t, dir+"/plain/other")
}

// A folder that cannot be moved is removed with everything in it, and nothing else is.
func TestRemove(t *testing.T) {
	parent := t.TempDir()
	dir := parent + "/o"
	put(t, dir+"/f "+leak+"/sub/x", "x")
	put(t, parent+"/outside/x", "x")
	require.NoError(t, os.Symlink("../../outside", dir+"/f "+leak+"/link"))
	f := folderOf(t, dir, Mask)
	c := checker{Folder: f, ctx: t.Context(), away: quarantine{none: true}, in: content.NewInspector(f.redactor)}
	fd, err := unix.Open(dir, unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	c.folder(fd, "", 0)
	require.Equal(t, map[string]string{"f " + leak: "removed: its name holds a value"}, outcomes(c.report))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
	require.FileExists(t, parent+"/outside/x")
}
