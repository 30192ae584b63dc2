// Package disktest rebuilds the states in which a power cut could have left the disk of a process
// that was recorded with strace: everything that was synced, and any choice of the writes that
// were not. It is for tests. It knows files and folders only, and starts no process.
package disktest

import (
	"bufio"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Strace returns the options with which strace writes a record for EverySyncPoint to the file log.
func Strace(log string) []string {
	return []string{
		"-f", "-y", "-xx", "-s", "100000000", "-o", log,
		"-e", "trace=write,pwrite64,ftruncate,fsync,fdatasync,linkat,mkdirat,renameat,renameat2",
	}
}

// EverySyncPoint rebuilds the folder root as a power cut could have left it after each system call
// in the record in the file log: with none, with all and with random choices of the writes that
// were not synced. The folder must have been empty when the record began.
//
// It calls check with each such state of the folder and with the number of acknowledgements that
// the process had given by then. acknowledged counts them in data that was written to the
// descriptor fd, whose file is path. EverySyncPoint fails the test if check returns an error, or
// if there are not acks acknowledgements in all.
//
// A failed sync may have written nothing, and syncs after it do not write its data either.
func EverySyncPoint(
	t *testing.T, root, log string, acks int,
	acknowledged func(fd int, path string, data []byte) int, check func(dir string, acked int) error,
) {
	t.Helper()
	text, err := os.ReadFile(log) //nolint:gosec // a test's
	require.NoError(t, err)
	d := disk{root: root, acknowledged: acknowledged, files: map[string]*file{}}
	checked := 0
	for _, call := range calls(t, string(text)) {
		if !d.do(t, call) {
			continue // the call changed neither the disk nor what must be on it
		}
		for variant := range 4 {
			dir := t.TempDir()
			d.crash(t, dir, variant)
			require.NoErrorf(t, check(dir, d.acked), "variant %d after %.200s", variant, call)
			require.NoError(t, os.RemoveAll(dir))
			checked++
		}
	}
	require.Equal(t, acks, d.acked, "every acknowledgement was recorded")
	require.Greater(t, checked, acks*4)
	t.Logf("%d states of the disk", checked)
}

// disk is the state of the files under root, as far as the recorded process has come.
type disk struct {
	root         string
	acknowledged func(fd int, path string, data []byte) int
	files        map[string]*file
	links        []link // names of files and folders, in the order in which they were made
	acked        int
}

type file struct {
	content []byte
	synced  []byte
	writes  []write // since then; after a failed sync also some that were synced
}

// A write is kept if it was synced. It is lost if a sync of it failed: the kernel then marks its
// pages as clean, so a later sync succeeds without writing them.
type write struct {
	do         func([]byte) []byte
	kept, lost bool
}

type link struct {
	path   string
	target *file // nil if the name is of a folder
	synced bool
}

var (
	callLine = regexp.MustCompile(`^(\d+) +(.*)$`)
	hexByte  = regexp.MustCompile(`\\x[0-9a-f]{2}`)
	// pwrite64(5</path>, "\x00…", 4096, 8192) = 4096
	callForm   = regexp.MustCompile(`^(\w+)\((.*)\) += (-?\d+)`)
	descriptor = regexp.MustCompile(`^(\d+)<([^>]*)>`)
	quotedText = regexp.MustCompile(`"((?:\\x[0-9a-f]{2})*)"`)
	numberForm = regexp.MustCompile(`, (\d+)`)
)

// calls returns the successful calls and the failed syncs in a log of strace, in the order in which
// they returned.
func calls(t *testing.T, log string) []string {
	t.Helper()
	var all []string
	begun := map[string]string{}
	lines := bufio.NewScanner(strings.NewReader(log))
	lines.Buffer(nil, 1<<30)
	for lines.Scan() {
		m := callLine.FindStringSubmatch(lines.Text())
		require.NotNil(t, m)
		pid, call := m[1], m[2]
		if before, ok := strings.CutSuffix(call, " <unfinished ...>"); ok {
			begun[pid] = before
			continue
		}
		if strings.HasPrefix(call, "<... ") {
			_, rest, _ := strings.Cut(call, "resumed>")
			call = begun[pid] + rest
		}
		form := callForm.FindStringSubmatch(call)
		if form != nil && (!strings.HasPrefix(form[3], "-") || strings.HasSuffix(form[1], "sync")) {
			all = append(all, call)
		}
	}
	require.NoError(t, lines.Err())
	return all
}

func unhex(s string) []byte {
	return []byte(hexByte.ReplaceAllStringFunc(s, func(h string) string {
		n, _ := strconv.ParseUint(h[2:], 16, 8)
		return string([]byte{byte(n)})
	}))
}

// do applies one call. It reports whether the call changed the disk or gave an acknowledgement.
func (d *disk) do(t *testing.T, call string) bool {
	t.Helper()
	form := callForm.FindStringSubmatch(call)
	name, args := form[1], form[2]

	quoted := quotedText.FindAllStringSubmatch(args, -1)
	fd, path := -1, ""
	if m := descriptor.FindStringSubmatch(args); m != nil {
		fd, _ = strconv.Atoi(m[1])
		path = string(unhex(m[2]))
	}

	numbers := numberForm.FindAllStringSubmatch(args, -1)
	number := func(i int) int {
		n, err := strconv.Atoi(numbers[i][1])
		require.NoError(t, err, call)
		return n
	}

	inside := strings.HasPrefix(path, d.root+"/")

	switch name {
	case "write":
		data := unhex(quoted[0][1])
		if inside {
			d.file(path).write(func(b []byte) []byte { return append(b, data...) })
			break
		}
		n := d.acknowledged(fd, path, data)
		d.acked += n
		return n > 0
	case "pwrite64":
		require.True(t, inside, call)
		data, at := unhex(quoted[0][1]), number(len(numbers)-1)
		d.file(path).write(func(b []byte) []byte {
			if len(b) < at+len(data) {
				b = append(b, make([]byte, at+len(data)-len(b))...)
			}
			copy(b[at:], data)
			return b
		})
	case "ftruncate":
		size := number(0)
		d.file(path).write(func(b []byte) []byte {
			if len(b) > size {
				return b[:size]
			}
			return append(b, make([]byte, size-len(b))...)
		})
	case "fsync", "fdatasync":
		failed := strings.HasPrefix(form[3], "-")
		if f := d.files[path]; f != nil {
			f.sync(failed)
			break
		}
		require.False(t, failed, call) // a sync of a folder, which no test makes fail
		for i, l := range d.links {
			if filepath.Dir(l.path) == path {
				d.links[i].synced = true
			}
		}
	case "mkdirat":
		if p := string(unhex(quoted[0][1])); strings.HasPrefix(p, d.root+"/") {
			d.links = append(d.links, link{path: p})
		}
	case "linkat", "renameat2":
		from, to := string(unhex(quoted[0][1])), string(unhex(quoted[1][1]))
		d.files[to] = d.file(from)
		d.links = append(d.links, link{path: to, target: d.files[to]})
	default:
		require.Fail(t, "an unexpected call", call)
	}
	return true
}

func (d *disk) file(path string) *file {
	f := d.files[path]
	if f == nil {
		f = &file{}
		d.files[path] = f
	}
	return f
}

func (f *file) write(do func([]byte) []byte) {
	f.content = do(f.content)
	f.writes = append(f.writes, write{do: do})
}

func (f *file) sync(failed bool) {
	whole := !failed
	for i, w := range f.writes {
		f.writes[i].kept = w.kept || !w.lost && !failed
		f.writes[i].lost = !f.writes[i].kept
		whole = whole && f.writes[i].kept
	}
	if whole {
		f.synced, f.writes = slices.Clone(f.content), nil
	}
}

// crash writes to dir what a power cut now could leave: everything that was synced and, of the
// rest, nothing (variant 0), everything (1) or a random choice (others).
func (d *disk) crash(t *testing.T, dir string, variant int) {
	t.Helper()
	lucky := func() bool { return variant == 1 || variant > 1 && rand.IntN(2) == 0 } //nolint:gosec // chance, no secret
	made := map[string]bool{d.root: true}
	for _, l := range d.links {
		if !made[filepath.Dir(l.path)] || !l.synced && !lucky() {
			continue
		}
		path := dir + strings.TrimPrefix(l.path, d.root)
		if l.target == nil {
			made[l.path] = true
			require.NoError(t, os.Mkdir(path, 0o700))
			continue
		}
		b := slices.Clone(l.target.synced)
		for _, w := range l.target.writes {
			if w.kept || lucky() {
				b = w.do(b)
			}
		}
		require.NoError(t, os.WriteFile(path, b, 0o600))
	}
}
