package outputs_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"inject/exec/redact"
	"inject/injector/outputs"
	"inject/resolver/idl/flyteidl2/core"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const value = "s3cr3t-value"

func scanner() *outputs.Scanner {
	return &outputs.Scanner{Redactor: redact.New(6, redact.Pattern{Name: "K", Value: []byte(value)})}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

// only asserts that a folder has exactly these names: no temporary file is left.
func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var there []string
	for _, e := range entries {
		there = append(there, e.Name())
	}
	require.Equal(t, names, there)
}

func TestList(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/b/2", "22")
	write(t, dir+"/b/1", "1")
	write(t, dir+"/a", "a")
	require.NoError(t, os.Symlink("b", dir+"/link"))
	require.NoError(t, os.Symlink("../a", dir+"/b/to-a"))
	require.NoError(t, syscall.Mkfifo(dir+"/b/fifo", 0o600))
	files, err := outputs.List([]string{dir + "/b", dir + "/a"})
	require.NoError(t, err)
	require.Equal(t, []outputs.File{{dir + "/b/1", 1}, {dir + "/b/2", 2}, {dir + "/a", 1}}, files)
	files, err = outputs.List([]string{dir + "/link", dir + "/b/to-a", dir + "/b/fifo"})
	require.NoError(t, err)
	require.Equal(t, []outputs.File{
		{dir + "/link/1", 1},
		{dir + "/link/2", 2},
		{dir + "/b/to-a", 1},
		{dir + "/b/fifo", 0},
	}, files)
	files, err = outputs.List([]string{dir + "/none", dir + "/a", dir + "/nor"})
	require.ErrorContains(t, err, "/none")
	require.ErrorContains(t, err, "/nor")
	require.Len(t, files, 1)
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	// The value crosses the end of a read.
	write(t, dir+"/f", strings.Repeat("x", 256<<10-5)+value)
	s := scanner()
	var found []redact.Find
	s.Found = func(f outputs.File, find redact.Find) {
		require.Equal(t, dir+"/f", f.Path)
		found = append(found, find)
	}
	n := 0
	s.Read = func(more int) { n += more }
	require.NoError(t, s.Check(t.Context(), outputs.File{Path: dir + "/f"}))
	require.Equal(t, []redact.Find{{Offset: 256<<10 - 5, Name: "K", Kind: "raw"}}, found)
	require.Equal(t, 256<<10-5+len(value), n)
	require.ErrorIs(t, s.Check(t.Context(), outputs.File{Path: dir + "/none"}), os.ErrNotExist)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Check(ctx, outputs.File{Path: dir + "/f"}), context.Canceled)
}

func TestMask(t *testing.T) {
	dir := t.TempDir()
	f := outputs.File{Path: dir + "/f"}
	write(t, f.Path, "1 "+value+" 2")
	require.NoError(t, os.Chmod(f.Path, os.ModeSetuid|0o751))
	root := os.Geteuid() == 0
	if root {
		require.NoError(t, os.Chown(f.Path, 65534, 65533))
		require.NoError(t, os.Chmod(f.Path, os.ModeSetuid|0o751))
	}
	before, err := os.Open(f.Path)
	require.NoError(t, err)
	defer before.Close() //nolint:errcheck // read only
	require.NoError(t, scanner().Mask(t.Context(), f))
	require.Equal(t, "1 [REDACTED:K] 2", read(t, f.Path))
	old, err := io.ReadAll(before)
	require.NoError(t, err)
	require.Equal(t, "1 "+value+" 2", string(old), "who had it open reads on: it was replaced")
	info, err := os.Stat(f.Path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o751)|os.ModeSetuid, info.Mode())
	if root {
		owner, ok := info.Sys().(*syscall.Stat_t)
		require.True(t, ok)
		require.Equal(t, [2]uint32{65534, 65533}, [2]uint32{owner.Uid, owner.Gid})
	}
	only(t, dir, "f")

	// A file without values is not touched.
	require.NoError(t, scanner().Mask(t.Context(), f))
	again, err := os.Stat(f.Path)
	require.NoError(t, err)
	require.True(t, os.SameFile(info, again))

	// A link stays a link.
	write(t, dir+"/sub/target", value)
	require.NoError(t, os.Symlink("sub/target", dir+"/link"))
	require.NoError(t, scanner().Mask(t.Context(), outputs.File{Path: dir + "/link"}))
	require.Equal(t, "[REDACTED:K]", read(t, dir+"/sub/target"))
	target, err := os.Readlink(dir + "/link")
	require.NoError(t, err)
	require.Equal(t, "sub/target", target)

	// A second name of the file keeps the value, which is an error.
	write(t, dir+"/one", value)
	require.NoError(t, os.Link(dir+"/one", dir+"/two"))
	require.ErrorIs(t, scanner().Mask(t.Context(), outputs.File{Path: dir + "/one"}), outputs.ErrLinks)
	require.Equal(t, "[REDACTED:K]", read(t, dir+"/one"))
	require.Equal(t, value, read(t, dir+"/two"))
	only(t, dir, "f", "link", "one", "sub", "two")

	require.NoError(t, syscall.Mkfifo(dir+"/fifo", 0o600))
	require.ErrorContains(t, scanner().Mask(t.Context(), outputs.File{Path: dir + "/fifo"}), "not a regular file")
	require.ErrorContains(t, scanner().Mask(t.Context(), outputs.File{Path: dir}), "not a regular file")
}

// The form of a file decides how its values are masked, as in a task's outputs.
func TestMaskForms(t *testing.T) {
	const number = "12345678"
	message := func(text string) string {
		b, err := proto.Marshal(&core.ErrorDocument{Error: &core.ContainerError{Code: "USER", Message: text}})
		require.NoError(t, err)
		return string(b)
	}
	var gzipped bytes.Buffer
	z := gzip.NewWriter(&gzipped)
	_, err := io.WriteString(z, "it is "+number)
	require.NoError(t, err)
	require.NoError(t, z.Close())

	for _, c := range []struct {
		name, data, want string
		finds            int
		err              string // if set, the file is unchanged
	}{
		{"text", "pin " + number, "pin [REDACTED:PIN]", 1, ""},
		{"o.json", `{"pin": 12345678}`, `{"pin": "[REDACTED:PIN]"}`, 1, ""},
		{
			"lines.json", "[12345678]\n{\"a\": \"12345678\"}\n", "[\"[REDACTED:PIN]\"]\n{\"a\": \"[REDACTED:PIN]\"}\n",
			2, "",
		},
		{"error.pb", message("it is " + number), message("it is [REDACTED:PIN]"), 1, ""},
		{"bytes", "\x00\xff" + number + "\xff", "\x00\xff[REDACTED:PIN]\xff", 1, ""},
		{"a.gz", gzipped.String(), "", 0, "a gzip archive, which cannot be masked"},
		{"cut.gz", gzipped.String()[:gzipped.Len()-5], "", 0, "damaged: a gzip archive"},
		{"unknown.pb", message("it is " + number), "", 0, "a .pb file of an unknown kind"},
		{"no values", "nothing", "nothing", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := outputs.File{Path: t.TempDir() + "/" + c.name}
			write(t, f.Path, c.data)
			finds := 0
			s := &outputs.Scanner{
				Redactor: redact.New(6, redact.Pattern{Name: "PIN", Value: []byte(number)}),
				Found:    func(outputs.File, redact.Find) { finds++ },
			}
			err := s.Mask(t.Context(), f)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				c.want = c.data
			} else {
				require.NoError(t, err)
			}
			require.Equal(t, c.want, read(t, f.Path))
			require.Equal(t, c.finds, finds)
			only(t, filepath.Dir(f.Path), c.name)
		})
	}
}

// The termination message is masked in place, or removed.
func TestMaskMessage(t *testing.T) {
	r := scanner().Redactor
	for _, c := range []struct{ name, data, want string }{
		{"text", "it was " + value, "it was [REDACTED:K]"},
		{"JSON", `{"reason": "` + value + `"}`, `{"reason": "[REDACTED:K]"}`},
		{"nothing", "it was nothing", "it was nothing"},
		{"empty", "", ""},
		{"long", strings.Repeat(value+" ", 100_000) + "end", "[REDACTED:K] end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := t.TempDir() + "/message"
			write(t, path, c.data)
			before, err := os.Stat(path)
			require.NoError(t, err)
			require.NoError(t, outputs.MaskMessage(t.Context(), path, r))
			require.True(t, strings.HasSuffix(read(t, path), c.want))
			require.Less(t, len(read(t, path)), 256<<10)
			require.NotContains(t, read(t, path), value)
			after, err := os.Stat(path)
			require.NoError(t, err)
			require.True(t, os.SameFile(before, after), "it is masked in place")
		})
	}
	t.Run("link", func(t *testing.T) {
		dir := t.TempDir()
		write(t, dir+"/elsewhere", value)
		require.NoError(t, os.Symlink("elsewhere", dir+"/message"))
		require.ErrorIs(t, outputs.MaskMessage(t.Context(), dir+"/message", r), outputs.ErrRemoved)
		only(t, dir, "elsewhere")
		require.Equal(t, value, read(t, dir+"/elsewhere"))
	})
	t.Run("none", func(t *testing.T) {
		require.NoError(t, outputs.MaskMessage(t.Context(), t.TempDir()+"/message", r))
	})
}

// A file that grows or is replaced while it is being masked is unchanged. So is a file if ctx
// ends at any read.
func TestMaskIsAllOrNothing(t *testing.T) {
	dir := t.TempDir()
	f := outputs.File{Path: dir + "/f"}
	text := strings.Repeat(strings.Repeat("x", 100<<10)+value, 8)
	for name, change := range map[string]func(){
		"grows": func() {
			g, err := os.OpenFile(f.Path, os.O_APPEND|os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = g.WriteString("more")
			require.NoError(t, err)
			require.NoError(t, g.Close())
		},
		"is replaced": func() {
			write(t, dir+"/new", text+"more")
			require.NoError(t, os.Rename(dir+"/new", f.Path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, f.Path, text)
			s := scanner()
			changed := false
			s.Read = func(int) {
				if !changed {
					change()
					changed = true
				}
			}
			require.ErrorContains(t, s.Mask(t.Context(), f), "it changed", name)
			require.Equal(t, text+"more", read(t, f.Path), name)
			only(t, dir, "f")
		})
	}
	write(t, f.Path, text)
	for reads := 1; ; reads++ {
		s := scanner()
		finds := 0
		s.Found = func(outputs.File, redact.Find) { finds++ }
		err := s.Mask(&countdown{t.Context(), reads}, f)
		only(t, dir, "f")
		if err == nil {
			require.Greater(t, reads, 8, "two passes of several reads")
			require.Equal(t, 8, finds)
			break
		}
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, text, read(t, f.Path))
		require.Zero(t, finds, "nothing was masked")
	}
	require.Equal(t, strings.ReplaceAll(text, value, "[REDACTED:K]"), read(t, f.Path))
}

// countdown is a context that ends when it has been asked left times.
type countdown struct {
	context.Context //nolint:containedctx // it is a context itself

	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

func TestCopy(t *testing.T) {
	var out bytes.Buffer
	s := scanner()
	require.NoError(t, s.Copy(t.Context(), outputs.File{Path: "-"}, strings.NewReader("1"+value), &out))
	require.Equal(t, "1[REDACTED:K]", out.String())
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	require.NoError(t, err)
	defer full.Close() //nolint:errcheck // nothing is in it
	require.ErrorIs(t, s.Copy(t.Context(), outputs.File{}, strings.NewReader(value), full), syscall.ENOSPC)
}
