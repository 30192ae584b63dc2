package content

import (
	"archive/zip"
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
	"inject/resolver/idl/flyteidl2/core"
)

// A sample is a file for a row of the page about outputs.
type sample struct {
	name string
	data func(s string) []byte
}

func samples(t *testing.T) map[string][]sample {
	pack := func(s string) []byte { return harness.Gzip(t, []byte(strings.Repeat("a text ", 90)+s)) }
	stored := func(method uint16, flags byte) func(s string) []byte {
		return func(s string) []byte {
			var b bytes.Buffer
			w := zip.NewWriter(&b)
			f, err := w.Create("member")
			require.NoError(t, err)
			_, err = f.Write([]byte(strings.Repeat("a text ", 90) + s))
			require.NoError(t, err)
			require.NoError(t, w.Close())
			entry := b.Bytes()[bytes.Index(b.Bytes(), []byte("PK\x01\x02")):]
			entry[8] |= flags
			binary.LittleEndian.PutUint16(entry[10:], method)
			return b.Bytes()
		}
	}
	parquet := func(codec string) func(s string) []byte {
		return func(s string) []byte {
			b, err := os.ReadFile("../archive/testdata/" + codec + ".parquet")
			require.NoError(t, err)
			if s != secret { // a value of the same length, so that nothing else changes
				b = bytes.ReplaceAll(b, []byte(secret), []byte(strings.Repeat("x", len(secret))))
			}
			return b
		}
	}
	text := func(s string) []byte { return []byte("a text with " + s) }
	begins := func(magic string) []sample {
		return []sample{{"a", func(s string) []byte { return []byte(magic + "\x00\x01 " + s) }}}
	}
	return map[string][]sample{
		"`inputs.pb` of a task that this one has started: it would compute with the mask": {
			{"inputs.pb", func(s string) []byte { return encode(t, everywhere(s)) }},
		},
		"a text, JSON, `outputs.pb`, `error.pb`": {
			{"a.txt", text},
			{"a.json", func(s string) []byte { return []byte(`{"a": ["` + strings.ReplaceAll(s, `"`, `\"`) + `"]}`) }},
			{"outputs.pb", func(s string) []byte { return encode(t, everywhere(s)) }},
			{"error.pb", func(s string) []byte {
				return encode(t, &core.ErrorDocument{Error: &core.ContainerError{Message: s}})
			}},
		},
		"gzip, bzip2, xz, zstd, lz4, zlib, tar, zip": {
			{"a.gz", pack},
			{"a.tar", func(s string) []byte { return harness.Tar(t, map[string][]byte{"a": []byte(s)}) }},
			{"a.zip", stored(zip.Deflate, 0)},
			{"a.zlib", func(s string) []byte {
				var b bytes.Buffer
				w := zlib.NewWriter(&b)
				_, err := w.Write([]byte(strings.Repeat("a text ", 90) + s))
				require.NoError(t, err)
				require.NoError(t, w.Close())
				return b.Bytes()
			}},
		},
		"a script or program with gzip, bzip2, xz, zstd or zip behind it": {
			{"a.run", func(s string) []byte { return append([]byte("#!/bin/sh\nunpack\n\x00"), pack(s)...) }},
			{"a.exe", func(s string) []byte { return append([]byte("MZ\x00"), stored(zip.Deflate, 0)(s)...) }},
		},
		"a text in UTF-16 with a byte order mark": {{"a.txt", func(s string) (b []byte) {
			for _, unit := range utf16.Encode([]rune("\ufeffa text with " + s)) {
				b = binary.LittleEndian.AppendUint16(b, unit)
			}
			return b
		}}},
		"parquet: not compressed, or by snappy, gzip, zstd, brotli or lz4": {
			{"a.parquet", parquet("found-none-1.0")},
		},
		"7z, rar, lzip, lzma, lzop, compress, cab, legacy lz4": slices.Concat(begins("7z\xbc\xaf\x27\x1c"),
			begins("Rar!\x1a\x07"), begins("LZIP\x01"), begins("\x5d\x00\x00\x80\x00"+strings.Repeat("\xff", 8)),
			begins("\x89LZO\x00\r\n\x1a\n"), begins("\x1f\x9d\x90"), begins("MSCF\x00\x00\x00\x00"),
			begins("\x02\x21\x4c\x18")),
		"zip or parquet that is encrypted or compressed in another way": {
			{"a.zip", stored(zip.Deflate, 1)},
			{"a.zip", stored(14, 0)}, // LZMA
			{"a.parquet", func(string) []byte { return []byte("PARE some bytes \x04\x00\x00\x00PARE") }},
		},
		"anything else, if its bytes show the value": {
			{"a.png", func(s string) []byte { return []byte("\x89PNG\r\n\x1a\n\x00" + s) }},
			{"a.pkl", func(s string) []byte { return []byte("\x80\x05\x95\x00\x8c\x0b" + s + "\x94.") }},
		},
	}
}

// Each row of the table on the page about outputs is true.
func TestTableOfFiles(t *testing.T) {
	page, err := os.ReadFile("../../../docs/reference/outputs.md")
	require.NoError(t, err)
	table := string(page)
	table = table[strings.Index(table, "| a file | with a value | without one |\n|---|---|---|\n"):]
	table, _, _ = strings.Cut(table, "\n\n")
	all := samples(t)
	in := knows(secret)
	for _, row := range strings.Split(table, "\n")[2:] {
		cells := strings.Split(strings.Trim(row, "| "), " | ")
		require.Len(t, cells, 3)
		require.NotEmpty(t, all[cells[0]], "a row without samples: %s", cells[0])
		for _, s := range all[cells[0]] {
			t.Run(cells[0]+" "+s.name, func(t *testing.T) {
				for value, want := range map[string]string{secret: cells[1], "something": cells[2]} {
					c := look(t, in, s.name, s.data(value), whole)
					got := "taken out"
					switch {
					case len(c.Found) == 0 && !c.Unchecked:
						got = "stays"
					case c.Maskable():
						got = "masked"
					}
					require.Equal(t, want, got, value)
				}
			})
		}
		delete(all, cells[0])
	}
	require.Empty(t, all, "samples without a row")
}
