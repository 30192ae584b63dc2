package archive

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"cmp"
	"compress/flate"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/exec/redact"
	"inject/internal/harness"
)

const secret = "s3cr3t-v\"lue"

// searching is a Searcher that keeps what it finds.
type searching struct {
	*Searcher

	found map[string]int
	first string // where the first value is
}

// result is the result of a search.
type result struct {
	found     map[string]int
	why       string // where the first value is, else the format, or why the file is unchecked
	unchecked bool
}

// searches returns a Searcher for values that are called A, B, …
func searches(values ...string) *searching {
	var patterns []redact.Pattern
	for i, v := range values {
		patterns = append(patterns, redact.Pattern{Name: string(rune('A' + i)), Value: []byte(v)})
	}
	in := &searching{}
	in.Searcher = New(redact.New(6, patterns...), func(f redact.Find, where string) {
		in.count(f)
		in.first = cmp.Or(in.first, where)
	})
	return in
}

func (in *searching) count(f redact.Find) {
	if in.found == nil {
		in.found = map[string]int{}
	}
	in.found[f.Name]++
}

// scan counts the values in the bytes of a file itself.
func (in *searching) scan(t testing.TB, r io.Reader) map[string]int {
	t.Helper()
	in.found, in.first = nil, ""
	w := in.redactor.Writer(io.Discard)
	w.Found = in.count
	_, err := w.ReadFrom(r)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return in.found
}

// look scans a file and searches it, as package content does.
func (in *searching) look(t testing.TB, data []byte) result {
	t.Helper()
	in.scan(t, bytes.NewReader(data))
	got, err := in.search(t.Context(), bytes.NewReader(data), int64(len(data)))
	require.NoError(t, err)
	return got
}

func (in *searching) search(ctx context.Context, at io.ReaderAt, size int64) (result, error) {
	f, err := in.Search(ctx, at, size, size)
	if reason, ok := errors.AsType[UncheckedError](err); ok {
		return result{in.found, reason.Error(), true}, nil
	}
	why := in.first
	if why == "" && f != "" {
		why = f.String()
	}
	return result{found: in.found, why: why}, err
}

// zipped returns a zip archive of compressed members, given as pairs of name and content.
func zipped(t testing.TB, members ...string) []byte {
	t.Helper()
	return zipOf(t, zip.Deflate, members...)
}

func zipOf(t testing.TB, method uint16, members ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i := 0; i < len(members); i += 2 {
		f, err := w.CreateHeader(&zip.FileHeader{Name: members[i], Method: method})
		require.NoError(t, err)
		_, err = io.WriteString(f, members[i+1])
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

var hidden = strings.Repeat("some text ", 30) + secret + strings.Repeat(" and more", 30)

func TestArchives(t *testing.T) {
	in := searches(secret)
	gz := func(data []byte) []byte { return harness.Gzip(t, data) }
	one := func(name string, data []byte) []byte {
		return harness.Tar(t, map[string][]byte{"a": []byte("x"), name: data})
	}
	for why, data := range map[string][]byte{
		"a gzip archive":                              gz([]byte(hidden)),
		"member 2 of a zip archive":                   zipped(t, "a", "nothing", "b", hidden, "c", "", "d/", ""),
		"a zip archive":                               zipOf(t, zip.Store, "a", hidden),
		"a tar archive":                               one("b", []byte(hidden)),
		"a gzip archive in a gzip archive":            gz(gz([]byte(hidden))),
		"a gzip archive in member 2 of a tar archive": one("b", gz([]byte(hidden))),
		"a gzip archive in member 2 of a tar archive in a gzip archive": gz(one("b", gz([]byte(hidden)))),
		"member 1 of a zip archive in member 2 of a tar archive":        one("b", zipped(t, "m", hidden)),
		"member 1 of a zip archive in member 2 of a tar archive in a gzip archive": gz(
			one("b", zipped(t, "m", hidden))),
		"member 2 of a zip archive in member 1 of a zip archive": zipped(t, "m",
			string(zipped(t, "1", "1", "m", hidden))),
		"member 1 of a zip archive in member 1 of a zip archive": zipOf(t, zip.Store, "m",
			string(zipped(t, "m", hidden))),
		"a gzip archive in a gzip archive in a gzip archive in a gzip archive": gz(gz(gz(gz([]byte(hidden))))),
	} {
		t.Run(why, func(t *testing.T) {
			c := in.look(t, data)
			require.Equal(t, why, c.why)
			require.Equal(t, []string{"A"}, slices.Collect(maps.Keys(c.found)), why)
			require.False(t, c.unchecked)
		})
	}
	// A tar archive inside of compressed data is scanned as part of that.
	c := in.look(t, gz(one("b", []byte(hidden))))
	require.Equal(t, result{found: map[string]int{"A": 1}, why: "a gzip archive"}, c)
	// Archives without values.
	for why, data := range map[string][]byte{
		"a gzip archive": gz(one("b", zipped(t, "a", "b"))), "a tar archive": one("a",
			gz(gz(gz([]byte("x"))))), "a zip archive": zipped(t),
	} {
		t.Run("nothing in "+why, func(t *testing.T) {
			require.Equal(t, result{why: why}, in.look(t, data))
		})
	}
}

// A tar archive of each format is recognized by its first header.
func TestTarFormats(t *testing.T) {
	in := searches(secret)
	z := zipped(t, "m", hidden)
	for _, f := range []tar.Format{tar.FormatUSTAR, tar.FormatPAX, tar.FormatGNU} {
		t.Run(fmt.Sprint(f), func(t *testing.T) {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			require.NoError(t, w.WriteHeader(&tar.Header{Name: "m", Size: int64(len(z)), Format: f, Mode: 0o600}))
			_, err := w.Write(z)
			require.NoError(t, err)
			require.NoError(t, w.Close())
			require.Equal(t, "member 1 of a zip archive in member 1 of a tar archive", in.look(t, b.Bytes()).why, f)
		})
	}
	// The oldest format has no mark, and some programs summed signed bytes.
	b := harness.Tar(t, map[string][]byte{"m": z})
	clear(b[257:512])
	for name, want := range map[string]bool{"m": true, "\xe4": true, "": false} {
		t.Run(fmt.Sprintf("old, name %q", name), func(t *testing.T) {
			for _, unsigned := range []bool{true, false} {
				b[0] = 0
				copy(b, name)
				copy(b[148:], "        ")
				sum := 0
				for _, c := range b[:512] {
					if sum += int(c); c >= 0x80 && !unsigned {
						sum -= 256
					}
				}
				copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
				require.Equal(t, want, isTar(b[:512]))
				if want {
					require.Equal(t, "member 1 of a zip archive in member 1 of a tar archive", in.look(t, b).why)
				}
				b[100]++
				require.False(t, isTar(b[:512]))
				b[100]--
			}
		})
	}
}

// A value may begin in one member of a gzip archive and end in the next: gzip joins them.
func TestGzipMembers(t *testing.T) {
	in := searches(secret)
	data := slices.Concat(harness.Gzip(t, []byte("a "+secret[:4])), harness.Gzip(t, nil),
		harness.Gzip(t, []byte(secret[4:]+" b")))
	require.Equal(t, result{found: map[string]int{"A": 1}, why: "a gzip archive"}, in.look(t, data))
	// The same holds for a tar archive that is compressed in parts.
	tarred := harness.Tar(t, map[string][]byte{"m": zipped(t, "m", hidden)})
	data = nil
	for part := range slices.Chunk(tarred, 100) {
		data = append(data, harness.Gzip(t, part)...)
	}
	require.Equal(t, "member 1 of a zip archive in member 1 of a tar archive in a gzip archive", in.look(t, data).why)
	// Bytes behind the last member are searched, too.
	for _, behind := range []string{"garbage " + secret, strings.Repeat("\x00", 600) + secret, "\x1f\x8b" + secret} {
		c := in.look(t, append(harness.Gzip(t, []byte("text")), behind...))
		require.Equal(t, result{found: map[string]int{"A": 1}, why: "a gzip archive"}, c)
	}
	// A damaged member is a member: the archive is unchecked.
	c := in.look(t, slices.Concat(harness.Gzip(t, []byte("text")), harness.Gzip(t, []byte(hidden))[:40]))
	require.True(t, c.unchecked)
}

// Names, links and comments are searched, and a name that is stored in two parts as a whole.
func TestArchiveNames(t *testing.T) {
	in := searches("s3cr3t/in/the/middle")
	long := strings.Repeat("d", 143) + "/s3cr3t/in/the/middle/" + strings.Repeat("n", 40)
	for _, f := range []tar.Format{tar.FormatUSTAR, tar.FormatPAX, tar.FormatGNU} {
		t.Run(fmt.Sprint(f), func(t *testing.T) {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			require.NoError(t, w.WriteHeader(&tar.Header{Name: long, Format: f, Mode: 0o600}))
			require.NoError(t, w.Close())
			if f == tar.FormatUSTAR {
				require.NotContains(t, b.String(), "s3cr3t/in/the/middle")
			}
			require.Contains(t, in.look(t, b.Bytes()).found, "A", f)
			require.Contains(t, in.look(t, harness.Gzip(t, b.Bytes())).found, "A", f)
		})
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	require.NoError(t, w.WriteHeader(&tar.Header{
		Name: "l", Linkname: "to/s3cr3t/in/the/middle",
		Typeflag: tar.TypeSymlink,
	}))
	require.NoError(t, w.Close())
	require.Contains(t, in.look(t, harness.Gzip(t, b.Bytes())).found, "A")
	require.Contains(t, in.look(t, zipped(t, "s3cr3t/in/the/middle", "")).found, "A")
	require.Contains(t, in.look(t, zipped(t, "in", string(zipped(t, "s3cr3t/in/the/middle", "")))).found, "A")
	b.Reset()
	z := zip.NewWriter(&b)
	require.NoError(t, z.SetComment("s3cr3t/in/the/middle"))
	require.NoError(t, z.Close())
	require.Contains(t, in.look(t, b.Bytes()).found, "A")
	b.Reset()
	g := gzip.NewWriter(&b)
	g.Comment = "s3cr3t/in/the/middle"
	require.NoError(t, g.Close())
	require.Contains(t, in.look(t, harness.Gzip(t, b.Bytes())).found, "A")
}

// A zip archive with a member that cannot be read is unchecked, for the reason that is given.
func TestZipThatCannotBeRead(t *testing.T) {
	in := searches(secret)
	patch := func(change func(entry []byte)) []byte {
		b := zipped(t, "a", "x", "b", hidden)
		change(b[bytes.LastIndex(b, []byte(directoryHeader)):])
		return b
	}
	for _, c := range []struct {
		name, why string
		data      []byte
	}{
		{"encrypted", "encrypted: member 2 of a zip archive", patch(func(e []byte) { e[8] |= 1 })},
		{"another method", "compressed by method 12: member 2 of a zip archive", patch(func(e []byte) { e[10] = 12 })},
		{"another sum", "damaged: member 2 of a zip archive", patch(func(e []byte) { e[16]++ })},
		{"another compressed size", "damaged: member 2 of a zip archive", patch(func(e []byte) { e[20]-- })},
		{"another size", "damaged: member 2 of a zip archive", patch(func(e []byte) { e[24]++ })},
		{"another place", "damaged: member 2 of a zip archive", patch(func(e []byte) { e[42]++ })},
		{"a place behind the end", "damaged: member 2 of a zip archive", patch(func(e []byte) { e[45]++ })},
		{"no entry", "damaged: a zip archive", patch(func(e []byte) { e[0]++ })},
		{"cut short", "damaged: a zip archive", zipped(t, "a", hidden)[:120]},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := in.look(t, c.data)
			require.Equal(t, c.why, got.why)
			require.True(t, got.unchecked)
			got = in.look(t, harness.Gzip(t, c.data))
			require.Equal(t, c.why+" in a gzip archive", got.why)
			require.True(t, got.unchecked)
		})
	}
	// The end record claims another number of members.
	b := zipped(t, "a", "x", "b", hidden)
	b[len(b)-12]++
	c := in.look(t, b)
	require.Equal(t, "damaged: a zip archive", c.why)
	require.True(t, c.unchecked)
}

// A program in front of a zip archive, and a comment or other bytes behind it, are common.
func TestZipAround(t *testing.T) {
	in := searches(secret)
	b := zipped(t, "a", "x", "b", hidden)
	for name, data := range map[string][]byte{
		"before": append([]byte("#!/usr/bin/env python3\n\x00"), b...),
		"behind": append(slices.Clone(b), strings.Repeat("\x00", 100)...),
		"both":   slices.Concat([]byte("MZ\x00 a program"), b, []byte("a signature")),
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, result{found: map[string]int{"A": 1}, why: "member 2 of a zip archive"},
				in.look(t, data), name)
		})
	}
	// Two directories: different programs would use different ones.
	offset := binary.LittleEndian.Uint32(b[len(b)-6:])
	two := append(slices.Clone(b), b[offset:]...)
	binary.LittleEndian.PutUint32(two[len(two)-6:], offset)
	c := in.look(t, two)
	require.True(t, c.unchecked)
}

// zip64 returns a zip archive with one member, behind the bytes of before, that has the
// records for large archives.
func zip64(t testing.TB, before string, data string) []byte {
	t.Helper()
	var deflated bytes.Buffer
	w, err := flate.NewWriter(&deflated, -1)
	require.NoError(t, err)
	_, err = io.WriteString(w, data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	b := []byte(localHeader)
	b = append(b, make([]byte, localHeaderSize-4)...)
	b[26] = 1
	b = append(append(b, 'n'), deflated.Bytes()...)
	begin := len(b)
	e := make([]byte, directoryHeaderSize)
	copy(e, directoryHeader)
	e[10], e[28], e[30] = 8, 1, 28
	le.PutUint32(e[16:], crc32.ChecksumIEEE([]byte(data)))
	for _, at := range []int{20, 24, 42} {
		le.PutUint32(e[at:], 1<<32-1)
	}
	e = slices.Concat(e, []byte{'n', 1, 0, 24, 0})
	e = le.AppendUint64(e, uint64(len(data)))
	e = le.AppendUint64(e, uint64(deflated.Len()))
	e = le.AppendUint64(e, 0)
	b = append(b, e...)
	at := len(b)
	b = append(b, directory64End...)
	b = le.AppendUint64(b, directory64EndSize-12)
	b = append(b, make([]byte, 12)...)
	b = le.AppendUint64(b, 1)
	b = le.AppendUint64(b, 1)
	b = le.AppendUint64(b, uint64(len(e)))
	b = le.AppendUint64(b, uint64(begin))
	b = append(append(b, directory64Locate...), 0, 0, 0, 0)
	b = le.AppendUint64(b, uint64(at))
	b = append(b, 1, 0, 0, 0)
	b = append(append(b, directoryEnd...), 0, 0, 0, 0)
	b = append(b, bytes.Repeat([]byte{0xff}, 12)...)
	return append([]byte(before), append(b, 0, 0)...)
}

func TestZip64(t *testing.T) {
	in := searches(secret)
	b := zip64(t, "", hidden)
	r, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	require.Len(t, r.File, 1)
	want := result{found: map[string]int{"A": 1}, why: "member 1 of a zip archive"}
	require.Equal(t, want, in.look(t, b))
	require.Equal(t, want, in.look(t, zip64(t, "a program\x00", hidden)))
	require.Equal(t, result{why: "a zip archive"}, in.look(t, zip64(t, "", "x")))
	at := bytes.Index(b, []byte(directory64Locate))
	for i := at - directory64EndSize; i < len(b); i++ { // every byte of the last records
		c := slices.Clone(b)
		c[i] ^= 0x55
		got := in.look(t, c)
		require.Truef(t, got.unchecked || got.found["A"] == 1 || i >= len(b)-22 && i < len(b)-18, "%d: %+v", i, got)
	}
}

// read returns everything that the standard library can extract from an archive.
func read(data []byte) (all []byte) {
	if z, err := gzip.NewReader(bytes.NewReader(data)); err == nil {
		b, _ := io.ReadAll(io.LimitReader(z, 1<<20))
		all = append(all, b...)
	}
	if z, err := zip.NewReader(bytes.NewReader(data), int64(len(data))); err == nil {
		for _, f := range z.File {
			if r, err := f.Open(); err == nil {
				b, _ := io.ReadAll(io.LimitReader(r, 1<<20))
				all = append(append(all, 0), b...)
			}
		}
	}
	return all
}

// seen asserts that a value that can be extracted from an archive is found, unless the archive
// is unchecked.
func seen(t testing.TB, in *searching, data []byte) {
	t.Helper()
	c := in.look(t, data)
	if c.unchecked || len(c.found) > 0 {
		return
	}
	require.Emptyf(t, in.scan(t, bytes.NewReader(read(data))), "%q", data)
}

// A value that can still be extracted from a damaged archive is found.
func TestDamagedArchives(t *testing.T) {
	in := searches(secret)
	for name, data := range map[string][]byte{
		"gzip": harness.Gzip(t, []byte(hidden)), "zip": zipped(t, "a", "x", "b", hidden),
		"members":    slices.Concat(harness.Gzip(t, []byte("x")), harness.Gzip(t, []byte(hidden))),
		"zip in tgz": harness.Gzip(t, harness.Tar(t, map[string][]byte{"m": zipped(t, "m", hidden)})),
		"tar":        harness.Tar(t, map[string][]byte{"a": harness.Gzip(t, []byte(hidden)), "b": []byte("x")}),
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, in.look(t, data).found, "A")
			for i := range data {
				cut := data[:i]
				seen(t, in, cut)
				c := in.look(t, cut)
				if name == "gzip" && i > 40 {
					require.Truef(t, c.unchecked, "%s, %d of %d", name, i, len(data))
				}
				if testing.Short() && i%7 != 0 {
					continue
				}
				for _, change := range []byte{1, 0x80, 0xff} {
					b := slices.Clone(data)
					b[i] ^= change
					seen(t, in, b)
				}
			}
		})
	}
	// A file with a damaged first header is not an archive.
	for name, data := range map[string][]byte{
		"gzip":                 harness.Gzip(t, []byte("x"))[:9],
		"gzip, another method": []byte("\x1f\x8b\x07\x00garbage\x00"), "zip": []byte("PK\x03\x04 \x00"),
		"zip, an end somewhere": append([]byte(strings.Repeat("\x00noise", 100)),
			"PK\x05\x06 and more noise, which is no directory"...),
		"zip, no name": append([]byte("PK\x03\x04"), make([]byte, 100)...), "zip, end": []byte("PK\x05\x06\x00\x00"),
		"tar": func() []byte {
			b := harness.Tar(t, map[string][]byte{"a": []byte("x")})
			b[0]++
			return b
		}(),
		"tar, cut": harness.Tar(t, map[string][]byte{"a": []byte("x")})[:400],
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, result{}, in.look(t, data), name)
		})
	}
	c := in.look(t, harness.Tar(t, map[string][]byte{"a": []byte(strings.Repeat("x", 1000))})[:1000])
	require.Equal(t, result{why: "damaged: member 1 of a tar archive", unchecked: true}, c)
}

// repeat is a file with the same bytes many times.
type repeat struct {
	data  []byte
	times int64
}

func (r repeat) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) && off < r.size() {
		more := copy(p[n:], r.data[off%int64(len(r.data)):])
		n, off = n+more, off+int64(more)
	}
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (r repeat) size() int64 { return int64(len(r.data)) * r.times }

// heap returns how many bytes the heap grew at its peak while f ran.
func heap(f func()) uint64 {
	var before, now runtime.MemStats
	defer debug.SetGCPercent(debug.SetGCPercent(10)) // so that garbage hardly counts
	runtime.GC()
	runtime.ReadMemStats(&before)
	var most atomic.Uint64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			runtime.ReadMemStats(&now)
			most.Store(max(most.Load(), now.HeapAlloc))
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	f()
	close(stop)
	<-stopped
	return max(most.Load(), before.HeapAlloc) - before.HeapAlloc
}

// smallBounds are bounds that a test can exceed quickly.
var smallBounds = bounds{
	expanded: 32 << 20, expansion: 2, members: 5000, held: 8 << 20, window: 8 << 20, directories: 1 << 20,
}

// A search of an archive that was made to fill the memory, or to take for ever, ends early.
func TestBombs(t *testing.T) {
	require.Equal(t, bounds{
		expanded: 1 << 30, expansion: 100, members: 1_000_000, held: 64 << 20, window: 64 << 20,
		directories: 16 << 20,
	}, usualBounds)
	in := searches(secret)
	in.bounds = smallBounds
	zeros := harness.Gzip(t, make([]byte, 64<<20))
	ten := repeat{zeros, 160} // 10 GiB
	quine := []byte(hidden)   // as deep as one likes
	for range 2 * (maxDepth + 1) {
		quine = harness.Gzip(t, quine)
	}
	deep := []byte(hidden)
	for range maxDepth + 1 {
		deep = zipped(t, "m", string(deep))
	}
	large := harness.Gzip(t, zipOf(t, zip.Store, "m", strings.Repeat("\x00", 8<<20)))
	many := sameMember(t, in.bounds.members+1)
	member := harness.Tar(t, map[string][]byte{"z": nil})[:512]
	for name, c := range map[string]struct {
		at   repeat
		grew uint64
		why  string
	}{
		"10 GiB":    {ten, 0, "it expands to more than 32 MiB and 2 times its size"},
		"deep gzip": {repeat{quine, 1}, 0, "archives are nested more than 4 deep"},
		"deep zip":  {repeat{deep, 1}, 0, "archives are nested more than 4 deep"},
		"held":      {repeat{large, 1}, 8 << 20, "a zip archive in it has 8 MiB or more"},
		// Package archive/zip keeps some hundred bytes for each member.
		"many": {repeat{many, 1}, 4 << 20, "there are more than 5000 members in it"},
		"directory": {
			repeat{sameMember(t, 30_000), 1},
			0,
			"a list of the members of a zip archive in it has more than 1 MiB",
		},
		"a million": {
			repeat{sameMember(t, 1_000_000), 1},
			0,
			"a list of the members of a zip archive in it has more than 1 MiB",
		},
		"many in tar": {repeat{member, 5001}, 0, "there are more than 5000 members in it"},
	} {
		t.Run(name, func(t *testing.T) {
			grew := heap(func() {
				got, err := in.search(t.Context(), c.at, c.at.size())
				require.NoError(t, err)
				require.True(t, got.unchecked, name)
				require.Equal(t, c.why, got.why, name)
			})
			require.Less(t, grew, c.grew+8<<20, name)
		})
	}
	// Up to the bounds, archives are checked.
	for _, data := range [][]byte{
		zipped(t, "m", strings.Repeat("\x00", 31<<20)), sameMember(t, 5000),
		bytes.Repeat(member, 5000),
	} {
		require.False(t, in.look(t, data).unchecked)
	}

	// Even as many members as the usual bounds allow need little memory.
	in.bounds = usualBounds
	if !testing.Short() {
		most := sameMember(t, int(usualBounds.directories/directoryHeaderSize))
		grew := heap(func() { require.False(t, in.look(t, most).unchecked) })
		require.Less(t, grew, uint64(8*usualBounds.directories))
	}

	// The search ends when the context does.
	ctx, cancel := context.WithCancel(t.Context())
	left := int64(-1)
	at := readerAtFunc(func(p []byte, off int64) (int, error) {
		if off > 64<<10 && left < 0 {
			left = in.left
			cancel()
		}
		return ten.ReadAt(p, off)
	})
	_, err := in.search(ctx, at, ten.size())
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, left-in.left, int64(1<<20))
}

type readerAtFunc func([]byte, int64) (int, error)

func (f readerAtFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

// sameMember returns a zip archive that lists the same member n times.
func sameMember(t testing.TB, n int) []byte {
	t.Helper()
	b := zipped(t, "", "x")
	begin := bytes.Index(b, []byte(directoryHeader))
	e := b[begin : len(b)-directoryEndSize]
	all := append(slices.Clone(b[:begin]), bytes.Repeat(e, n)...)
	end := slices.Clone(b[len(b)-directoryEndSize:])
	le.PutUint16(end[10:], uint16(n&0xffff))
	le.PutUint32(end[12:], uint32(len(e)*n))
	return append(all, end...)
}

// A zip archive in a tar archive, or stored uncompressed in another one, may have any size: it
// is read in place.
func TestLargeNestedZip(t *testing.T) {
	in := searches(secret)
	in.bounds.held = 1 << 20
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	f, err := w.CreateHeader(&zip.FileHeader{Name: "big"})
	require.NoError(t, err)
	_, err = f.Write(big)
	require.NoError(t, err)
	f, err = w.Create("n")
	require.NoError(t, err)
	_, err = io.WriteString(f, hidden)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.True(t, in.look(t, harness.Gzip(t, b.Bytes())).unchecked)
	for why, data := range map[string][]byte{
		"member 2 of a zip archive in member 1 of a tar archive": harness.Tar(t,
			map[string][]byte{"model.pt": b.Bytes()}),
		"member 2 of a zip archive in member 1 of a zip archive": zipOf(t, zip.Store, "model.pt", b.String()),
	} {
		t.Run(why, func(t *testing.T) {
			require.Equal(t, result{found: map[string]int{"A": 1}, why: why}, in.look(t, data))
		})
	}
}

// A sparse member of a tar archive is searched as the tar reader returns it.
func TestSparseTar(t *testing.T) {
	in := searches(secret)
	const hole = 8 << 10
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	f, err := w.CreateHeader(&zip.FileHeader{Name: "zeros"})
	require.NoError(t, err)
	_, err = f.Write(make([]byte, hole))
	require.NoError(t, err)
	f, err = w.Create("m")
	require.NoError(t, err)
	_, err = io.WriteString(f, hidden)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	begin := bytes.Index(b.Bytes(), make([]byte, hole))
	there := slices.Concat(b.Bytes()[:begin], b.Bytes()[begin+hole:])
	want := result{found: map[string]int{"A": 1}, why: "member 2 of a zip archive in member 1 of a tar archive"}

	// In the old format the header lists the parts of the file that are stored. In the later
	// format, records in front of the header and the first block of the data do.
	old := tarHeader(tar.TypeGNUSparse, len(there), 0, begin, begin+hole, len(there)-begin)
	require.Equal(t, want, in.look(t, slices.Concat(old, padded(there), make([]byte, 1024))))
	records := "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n" + fmt.Sprintf("30 GNU.sparse.realsize=%06d\n", b.Len())
	begins := padded(fmt.Appendf(nil, "2\n0\n%d\n%d\n%d\n", begin, begin+hole, len(there)-begin))
	later := slices.Concat(tarHeader(tar.TypeXHeader, len(records)), padded([]byte(records)),
		tarHeader(tar.TypeReg, len(begins)+len(there)), begins)
	require.Equal(t, want, in.look(t, slices.Concat(later, padded(there), make([]byte, 1024))))
}

// tarHeader returns a header for a member of size bytes. parts are the places and lengths of
// the stored parts of a sparse file.
func tarHeader(kind byte, size int, parts ...int) []byte {
	h := make([]byte, 512)
	octal := func(at, n int) { copy(h[at:], fmt.Sprintf("%011o\x00", n)) }
	copy(h, "sparse")
	copy(h[100:], "0000600\x000000000\x000000000\x00")
	octal(124, size)
	octal(136, 0)
	copy(h[148:], "        ")
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	if len(parts) > 0 {
		copy(h[257:], "ustar  \x00")
		for i, n := range parts {
			octal(386+12*i, n)
		}
		octal(483, parts[2]+parts[3])
	}
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

// padded returns b, padded to whole blocks of 512 bytes.
func padded(b []byte) []byte { return append(slices.Clone(b), make([]byte, (512-len(b)%512)%512)...) }

func TestArchivesAtRandom(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 6))
	in := searches(secret)
	for range 300 {
		data := []byte(strings.Repeat("x", random.IntN(100)) + secret + strings.Repeat("y", random.IntN(100_000)))
		compressed := false
		for range random.IntN(5) {
			switch random.IntN(4) {
			case 0:
				data = harness.Gzip(t, data)
				compressed = true
			case 1:
				data = harness.Tar(t, map[string][]byte{"a": []byte("1"), "f": data, "g": {}})
			case 2:
				data = zipped(t, "a", "", "f", string(data))
				compressed = true
			case 3:
				data = zipOf(t, zip.Store, "a", "", "f", string(data))
			}
		}
		c := in.look(t, data)
		require.Containsf(t, c.found, "A", "seed %d", seed)
		require.Falsef(t, c.unchecked, "seed %d", seed)
		if compressed {
			require.NotEmptyf(t, c.why, "seed %d", seed)
		}
	}
}

func FuzzArchive(f *testing.F) {
	f.Add(harness.Gzip(f, []byte(hidden)))
	f.Add(zipped(f, "a", "x", "b", hidden))
	f.Add(zipOf(f, zip.Store, "a", string(zipped(f, "b", hidden))))
	f.Add(harness.Tar(f, map[string][]byte{"m": harness.Gzip(f, []byte(hidden))}))
	f.Add(harness.Gzip(f, harness.Tar(f, map[string][]byte{"m": zipped(f, "m", hidden)})))
	f.Add(zip64(f, "x", hidden))
	f.Add(deflated(f, []byte(hidden), 9))
	f.Add(slices.Concat([]byte("MZ\x00"), harness.Gzip(f, []byte(hidden))))
	f.Add([]byte("\xff\xfea\x00b\x00"))
	for _, b := range begins {
		f.Add([]byte(b.with + hidden))
	}
	f.Fuzz(func(t *testing.T, data []byte) { seen(t, searches(secret), data) })
}
