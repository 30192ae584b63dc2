package archive

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// parquetFiles returns files that pyarrow and pandas wrote with a value, by the names that
// deploy/sdk/parquet.py gives them.
func parquetFiles(t *testing.T, value string) map[string][]byte {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command(harness.SDK(t, "python"), "../../../deploy/sdk/parquet.py", dir, value).CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	return filesIn(t, dir)
}

func filesIn(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.parquet"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	files := map[string][]byte{}
	for _, path := range paths {
		files[strings.TrimSuffix(filepath.Base(path), ".parquet")], err = os.ReadFile(path)
		require.NoError(t, err)
	}
	return files
}

// checkParquet compares what a search says about files with what their names say. It returns how
// many values were found only because pages were expanded.
func checkParquet(t *testing.T, in *searching, files map[string][]byte) (inPages int) {
	t.Helper()
	for name, data := range files {
		t.Run(name, func(t *testing.T) {
			if len(in.scan(t, bytes.NewReader(data))) == 0 && strings.HasPrefix(name, "found") {
				inPages++
			}
			got := in.look(t, data)
			zipped := in.look(t, harness.Gzip(t, data))
			switch kind, _, _ := strings.Cut(name, "-"); kind {
			case "found":
				require.Contains(t, got.found, "A")
				require.Equal(t, "a parquet file", got.why)
				require.Contains(t, zipped.found, "A")
				require.False(t, got.unchecked)
			case "clean":
				require.Equal(t, result{why: "a parquet file"}, got)
				require.Equal(t, result{why: "a gzip archive"}, zipped)
			case "unchecked":
				require.True(t, got.unchecked)
				require.True(t, zipped.unchecked)
				require.Contains(t, got.why, ": a parquet file")
			default:
				t.Fatal("an unknown kind of file")
			}
		})
	}
	return inPages
}

// Values in files that pyarrow has written, which are in the repository.
func TestParquet(t *testing.T) {
	files := filesIn(t, "testdata")
	require.Positive(t, checkParquet(t, searches(secret), files))
	require.Equal(t, 1, len(files)-len(slices.DeleteFunc(keysOf(files), func(s string) bool {
		return strings.HasPrefix(s, "unchecked")
	})))
	for name, data := range files { // the same files are clean without the value
		if strings.HasPrefix(name, "found") {
			require.Equal(t, result{why: "a parquet file"}, searches("an0ther-v\"lue").look(t, data))
		}
	}
}

func keysOf(files map[string][]byte) (names []string) {
	for name := range files {
		names = append(names, name)
	}
	return names
}

// Values in the files of pyarrow and pandas with each codec, encoding and version of pages.
func TestParquetOfPyarrow(t *testing.T) {
	t.Parallel()
	value := "v\"\\ä" + rand.Text()
	files := parquetFiles(t, value)
	require.Greater(t, len(files), 40)
	require.GreaterOrEqual(t, checkParquet(t, searches(value), files), 10)
}

// A damaged file is unchecked, or not a parquet file, and never makes the search fail or hold much.
func TestParquetDamaged(t *testing.T) {
	in := searches(secret)
	for name, data := range filesIn(t, "testdata") {
		t.Run(name, func(t *testing.T) {
			got := in.look(t, data[:len(data)-1])
			require.Equal(t, "damaged: a parquet file", got.why)
			require.True(t, got.unchecked)
			step := 1
			if testing.Short() {
				step = 13
			}
			for i := 0; i < len(data); i += step {
				changed := slices.Clone(data)
				changed[i] ^= 0xff
				got := in.look(t, changed)
				if !got.unchecked && got.why == "" {
					require.Truef(t, i < 4 || i >= len(data)-8, "byte %d", i)
				}
			}
		})
	}
	// A text that begins with the same letters is a text.
	require.Equal(t, result{why: "a tar archive"},
		in.look(t, harness.Tar(t, map[string][]byte{"m": []byte("PAR1 is the first part")})))
}

// Encrypted columns and footers cannot be looked into.
func TestParquetEncrypted(t *testing.T) {
	in := searches(secret)
	b := []byte("PARE----" + "\x00\x00\x00\x00PARE")
	require.Equal(t, result{why: "encrypted: a parquet file", unchecked: true}, in.look(t, b))
	// A row group with one column that has the field crypto_metadata, an empty struct.
	footer := "\x49\x1c\x19\x1c\x8c\x00\x00\x00\x00"
	require.Equal(t, result{why: "encrypted: a parquet file", unchecked: true}, in.look(t, footerOf(footer)))
	// The same without that field has no data.
	require.Equal(t, result{why: "a parquet file"}, in.look(t, footerOf("\x49\x1c\x19\x1c\x00\x00\x00")))
	// The columns of another file, as in a _metadata file, are not looked for in this one.
	require.Equal(t, result{why: "a parquet file"},
		in.look(t, footerOf("\x49\x1c\x19\x1c\x18\x01x\x2c\x56\x7f\x26\x7f\x00\x00\x00\x00")))
	require.Equal(t, result{why: "damaged: a parquet file", unchecked: true},
		in.look(t, footerOf("\x49\x1c\x19\x1c\x3c\x76\x7f\x26\x7f\x00\x00\x00\x00")))
}

// footerOf returns a parquet file without pages.
func footerOf(footer string) []byte {
	b := []byte(parquetMagic + footer)
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(footer))), parquetMagic...)
}

// A file may claim any number of columns, pages and bytes.
func TestParquetBombs(t *testing.T) {
	in := searches(secret)
	in.bounds = smallBounds
	columns := func(length string, n int) string {
		return "\x49\x1c\x19\xfc" + length + strings.Repeat("\x00", n) + "\x00\x00"
	}
	for name, c := range map[string]struct{ footer, why string }{
		"a long footer":     {columns("", 1<<20), "the footer of a parquet file in it has more than 1 MiB"},
		"a long list":       {"\x49\xfc\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00", "damaged: a parquet file"},
		"a long name":       {"\x68\xff\xff\xff\xff\x0f", "damaged: a parquet file"},
		"nested too deep":   {strings.Repeat("\x1c", 100_000), "damaged: a parquet file"},
		"deep lists":        {strings.Repeat("\x19", 100_000), "damaged: a parquet file"},
		"many columns":      {columns("\x89\x27", 5001), "there are more than 5000 members in it"},
		"columns, not many": {columns("\x88\x27", 5000), "a parquet file"},
	} {
		t.Run(name, func(t *testing.T) {
			grew := heap(func() { require.Equal(t, c.why, in.look(t, footerOf(c.footer)).why) })
			require.Less(t, grew, uint64(8<<20))
		})
	}
}

// Pages are held up to the bound, and count as bytes that come out of compressed data.
func TestParquetPages(t *testing.T) {
	in := searches("an0ther-v\"lue")
	files := filesIn(t, "testdata")
	for _, codec := range []string{"snappy", "lz4", "gzip", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			data := files["found-"+codec+"-1.0"]
			in.bounds = usualBounds
			require.False(t, in.look(t, data).unchecked)
			if codec == "snappy" || codec == "lz4" {
				in.bounds.held = 1000
				require.Equal(t, "a page of a parquet file in it has more than 0 MiB", in.look(t, data).why)
			}
			in.bounds = usualBounds
			in.bounds.expanded, in.bounds.expansion = 5000, 1
			require.Equal(t, "it expands to more than 0 MiB and 1 times its size", in.look(t, data).why)
			require.Zero(t, in.held)
		})
	}
}

// pagesOf returns a file with a column of texts that has n pages, which are a header and data.
func pagesOf(n int, codec byte, header, data string) []byte {
	pages := strings.Repeat(header+data, n)
	// Row groups, a column, its metadata: type, codec, size and place of the pages.
	footer := "\x49\x1c\x19\x1c\x3c\x15\x0c\x35" + string([]byte{2 * codec}) +
		"\x36" + string(binary.AppendVarint(nil, int64(len(pages)))) + "\x26\x08\x00\x00\x00\x00"
	b := binary.LittleEndian.AppendUint32([]byte(parquetMagic+pages+footer), uint32(len(footer)))
	return append(b, parquetMagic...)
}

// pageHeader returns the header of a data page: its sizes, the number of its values, its encoding.
func pageHeader(expanded, size int, encoding byte) string {
	b := binary.AppendVarint([]byte("\x15\x00\x15"), int64(expanded))
	b = binary.AppendVarint(append(b, 0x15), int64(size))
	return string(append(b, 0x2c, 0x15, 2, 0x15, 2*encoding, 0, 0))
}

// A small file may have millions of pages, and each may claim to be large.
func TestParquetManyPages(t *testing.T) {
	in := searches(secret)
	in.bounds = smallBounds
	const tooMany = "there are more than 5000 members in it"
	for codec, empty := range map[byte]string{
		codecNone: "x", codecGzip: string(harness.Gzip(t, nil)), codecSnappy: "\x00", codecBrotli: "\x3b",
		codecZstd: "\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00", codecLz4: "\x00",
	} {
		t.Run(fmt.Sprint("codec ", codec), func(t *testing.T) {
			h := pageHeader(0, len(empty), 0)
			require.Equal(t, result{why: "a parquet file"}, in.look(t, pagesOf(4000, codec, h, empty)))
			require.Equal(t, tooMany, in.look(t, pagesOf(6000, codec, h, empty)).why)
		})
	}
	for _, codec := range []byte{codecSnappy, codecLz4} {
		grew := heap(func() {
			got := in.look(t, pagesOf(4000, codec, pageHeader(1<<20, 3, 0), "\x80\x80\x40"))
			require.Equal(t, "damaged: a parquet file", got.why)
		})
		require.Less(t, grew, uint64(4<<20))
	}
}

func FuzzParquet(f *testing.F) {
	for _, data := range filesIn(f, "testdata") {
		f.Add(data)
	}
	f.Add(footerOf("\x49\x1c\x19\x1c\x8c\x00\x00\x00\x00"))
	in := searches(secret)
	in.bounds = smallBounds
	f.Fuzz(func(t *testing.T, data []byte) {
		in.look(t, data)
		require.Zero(t, in.held)
		require.Zero(t, in.directories)
	})
}
