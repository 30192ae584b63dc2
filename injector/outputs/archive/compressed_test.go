package archive

import (
	"archive/zip"
	"bytes"
	"compress/zlib"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// compressors are the programs whose formats are looked into.
var compressors = map[Format][]string{
	formatGzip: {"gzip"}, formatBzip2: {"bzip2"}, formatXz: {"xz"}, formatZstd: {"zstd", "-q"},
	formatLz4: {"lz4", "-q"},
}

// compress returns data as a program compresses it.
func compress(t testing.TB, program []string, data []byte) []byte {
	t.Helper()
	harness.Need(t, program[0])
	cmd := exec.Command(program[0], append(program[1:], "-c")...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	require.NoError(t, err)
	return out
}

// noise returns bytes that no compressor makes smaller, so that what is behind them is not stored as
// it is.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails
	return b
}

// behindText returns a value behind so much text that it is compressed with the text.
func behindText(value string) []byte {
	return []byte(strings.Repeat("some text with "+value[:4]+" in it\n", 9000) + value[:6] + "x\n" + value + "\nmore")
}

// What programs compress is searched to its end, in all its parts and wherever it is.
func TestCompressed(t *testing.T) {
	value := "k_" + rand.Text()
	in := searches(value)
	for f, program := range compressors {
		t.Run(program[0], func(t *testing.T) {
			text := compress(t, program, behindText(value))
			clean := compress(t, program, behindText("k_"+rand.Text()))
			require.NotContains(t, string(text), value)
			require.Equal(t, result{map[string]int{"A": 1}, f.String(), false}, in.look(t, text))
			require.Equal(t, result{why: f.String()}, in.look(t, clean))
			require.Equal(t, result{map[string]int{"A": 1}, f.String(), false}, in.look(t, slices.Concat(clean, text)),
				"its readers read all members")
			require.Equal(t, map[string]int{"A": 2}, in.look(t, slices.Concat(text, clean, text)).found)

			packed := harness.Tar(t, map[string][]byte{"a": []byte("x"), "b": text})
			require.Equal(t, f.String()+" in member 2 of a tar archive", in.look(t, packed).why)
			require.Equal(t, f.String()+" in member 2 of a tar archive in "+f.String(),
				in.look(t, compress(t, program, packed)).why)
			require.Equal(t, f.String()+" in member 1 of a zip archive", in.look(t, zipped(t, "m", string(text))).why)

			// Of what was cut short, something can be extracted if there is a whole block.
			long := compress(t, program, bytes.Repeat(behindText(value), 20))
			got := in.look(t, long[:len(long)*9/10])
			require.True(t, got.unchecked)
			require.Equal(t, "damaged: "+f.String(), got.why)
			got = in.look(t, text[:len(text)-1])
			require.True(t, got.unchecked)
			require.Equal(t, "damaged: "+f.String(), got.why)
			for n := range 40 { // so little may not even begin
				require.Empty(t, in.look(t, clean[:n]).found)
			}
			// If nothing can be expanded here, another program may still find the later blocks.
			if f != formatGzip {
				got = in.look(t, slices.Concat(text[:14], noise(20), text[34:]))
				require.Equal(t, "damaged: "+f.String(), got.why)
				require.True(t, got.unchecked)
			}
			// Behind two bytes of the beginning, which a text may have, these are other bytes.
			require.Equal(t, result{}, in.look(t, slices.Concat(text[:2], noise(5000))))

			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := in.search(ctx, bytes.NewReader(text), int64(len(text)))
			require.Error(t, err)
		})
	}
}

// What cat puts behind an archive is searched, too: readers of gzip, zlib, zip and tar stop at the end
// of theirs.
func TestBehindTheEnd(t *testing.T) {
	value := "k_" + rand.Text()
	in := searches(value)
	first := func(text string) map[string][]byte {
		return map[string][]byte{
			"gzip": harness.Gzip(t, []byte(text)), "zlib": deflated(t, []byte(text), 6),
			"zip": zipped(t, "m", text), "tar": harness.Tar(t, map[string][]byte{"m": []byte(text)}),
			"gzip, zeros": append(harness.Gzip(t, []byte(text)), make([]byte, 5000)...),
			"gzip, gzip":  append(harness.Gzip(t, []byte(text)), harness.Gzip(t, []byte(text))...),
		}
	}
	second := func(text []byte) map[string][]byte {
		all := map[string][]byte{"zlib": deflated(t, text, 6), "tar": harness.Tar(t, map[string][]byte{"m": text})}
		for f, program := range compressors {
			all[string(f)] = compress(t, program, text)
		}
		all["zip in xz"] = compress(t, []string{"xz"}, zipped(t, "m", string(text)))
		return all
	}
	for a, front := range first("some text") {
		require.Empty(t, in.look(t, front).found)
		for b, data := range second(behindText(value)) {
			t.Run(a+" and "+b, func(t *testing.T) {
				for _, file := range [][]byte{
					slices.Concat(front, data), harness.Gzip(t, slices.Concat(front, data)),
				} {
					got := in.look(t, file)
					// Readers of tar differ, and the end of a zip archive is near the end of the file.
					if a == "tar" || a == "zip" && b == "tar" {
						require.True(t, got.unchecked)
						continue
					}
					require.NotEmpty(t, got.found)
					require.False(t, got.unchecked)
				}
			})
		}
		for b, data := range second([]byte("more text")) {
			got := in.look(t, slices.Concat(front, data))
			require.Equal(t, a == "tar", got.unchecked, "%s and %s: %s", a, b, got.why)
		}
		got := in.look(t, slices.Concat(front, []byte("text, which programs ignore")))
		require.False(t, got.unchecked, got.why)
	}
	cut := compress(t, []string{"gzip"}, behindText(value))
	got := in.look(t, slices.Concat(first("some text")["gzip"], cut[:len(cut)-9]))
	require.Equal(t, "damaged: a gzip archive", got.why)
	// A million small ones take neither the stack nor the time of as many archives.
	in.bounds = smallBounds
	small := deflated(t, nil, 6)
	require.False(t, in.look(t, bytes.Repeat(small, 4000)).unchecked)
	require.Equal(t, "there are more than 5000 members in it", in.look(t, bytes.Repeat(small, 6000)).why)
}

// A gzip archive of which nothing can be expanded does not pass: other programs find its later blocks.
func TestDamagedGzip(t *testing.T) {
	in := searches(secret)
	damaged := result{why: "damaged: a gzip archive", unchecked: true}
	for level := 1; level <= 9; level++ {
		text := compress(t, []string{"gzip", fmt.Sprintf("-%d", level)}, behindText(secret))
		broken := slices.Concat(text[:10], []byte("\xff\xff"), text[12:]) // a block of a type that is not there
		require.Equal(t, damaged, in.look(t, broken))
		require.Equal(t, damaged, in.look(t, harness.Gzip(t, broken)).withoutPlace())
		require.Equal(t, damaged, in.look(t, text[:12]))
	}
	require.Equal(t, result{}, in.look(t, slices.Concat([]byte("\x1f\x8b\x08\xff"), noise(1000))), "no header of gzip")
}

// withoutPlace returns r without the archive in which the one is that it is about.
func (r result) withoutPlace() result {
	r.why, _, _ = strings.Cut(r.why, " in ")
	return r
}

// The format before xz has no magic number.
func TestLzma(t *testing.T) {
	in := searches(secret)
	for level := range 10 {
		text := compress(t, []string{"xz", "--format=lzma", fmt.Sprintf("-%d", level)}, behindText(secret))
		require.Equal(t, result{why: "an lzma archive, which cannot be looked into", unchecked: true}, in.look(t, text))
	}
	require.Equal(t, result{}, in.look(t, []byte("] a text that begins like one")))
}

// deflated returns data as a zlib stream.
func deflated(t testing.TB, data []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zlib.NewWriterLevel(&b, level)
	require.NoError(t, err)
	_, err = w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

// A stream of zlib has only two bytes that tell it, so it is one if it expands to its end.
func TestZlib(t *testing.T) {
	value := "k_" + rand.Text()
	in := searches(value)
	for level := -2; level < 10; level++ {
		text := deflated(t, behindText(value), level)
		require.Contains(t, in.look(t, text).found, "A")
		require.Equal(t, "a zlib stream", in.look(t, text).why)
		require.Equal(t, "damaged: a zlib stream", in.look(t, text[:len(text)-5]).why)
		small := deflated(t, []byte("short"), level)
		require.Equal(t, result{why: "a zlib stream"}, in.look(t, small))
		require.Equal(t, result{}, in.look(t, small[:len(small)-5]), "too little to tell")
		require.Equal(t, result{}, in.look(t, slices.Concat(text[:2], noise(100_000))))
	}
	// Texts in an archive may begin like this, too.
	for c := range 256 {
		text := "x" + string([]byte{byte(c)}) + " text"
		packed := harness.Tar(t, map[string][]byte{"m": []byte(text)})
		require.Equal(t, result{why: "a tar archive"}, in.look(t, packed), text)
	}
}

// Compressed data behind a script or a program is searched, if it is that.
func TestBehindStub(t *testing.T) {
	value := "k_" + rand.Text()
	in := searches(value)
	stub := []byte("#!/bin/sh\ntail -c +100 \"$0\" | unpack\nexit\n\x00")
	for f, program := range compressors {
		t.Run(program[0], func(t *testing.T) {
			text := compress(t, program, behindText(value))
			want := result{map[string]int{"A": 1}, f.String(), false}
			if f == formatLz4 { // its readers have no such use
				want = result{}
			}
			require.Equal(t, want, in.look(t, slices.Concat(stub, text)))
			require.Equal(t, want, in.look(t, slices.Concat(noise(maxStub-20), text)))
			require.Equal(t, result{}, in.look(t, slices.Concat(noise(maxStub), text)), "the stub is too long")
			// What only begins so is no compressed data.
			require.Equal(t, result{}, in.look(t, slices.Concat(stub, text[:10], noise(10_000))))
			require.Equal(t, result{}, in.look(t, bytes.Repeat(slices.Concat(stub, text[:10]), 3000)))
			if f != formatLz4 {
				require.Equal(t, "damaged: "+f.String(), in.look(t, slices.Concat(stub, text[:len(text)-5])).why)
				packed := harness.Tar(t, map[string][]byte{"b": zipped(t, "m", string(behindText(value)))})
				require.Equal(t, "member 1 of a zip archive in member 1 of a tar archive in "+f.String(),
					in.look(t, slices.Concat(stub, compress(t, program, packed))).why)
			}
		})
	}
	// Each of several is searched, and a program that has the bytes of the formats in it is none.
	many := stub
	for _, program := range [][]string{{"gzip"}, {"xz"}, {"gzip"}} {
		many = slices.Concat(many, compress(t, program, behindText(value)), noise(10))
	}
	require.Equal(t, map[string]int{"A": 3}, in.look(t, many).found)
	for _, b := range begins {
		require.Equal(t, result{}, in.look(t, slices.Concat(stub, []byte(b.with+b.with), stub)))
	}
}

// A text in UTF-16 is searched for values in the forms that they have there.
func TestUTF16(t *testing.T) {
	value := "ä\"k_" + rand.Text()
	in := searches(value)
	for name, order := range map[string]binary.AppendByteOrder{"LE": binary.LittleEndian, "BE": binary.BigEndian} {
		t.Run(name, func(t *testing.T) {
			encode := func(s string) (b []byte) {
				for _, unit := range utf16.Encode([]rune("\ufeff" + s)) {
					b = order.AppendUint16(b, unit)
				}
				return b
			}
			text := encode("\U0001f600 {\"key\": " + fmt.Sprintf("%q", value) + "}\n" + value)
			require.Equal(t, "a UTF-16 text", in.look(t, text).why)
			require.GreaterOrEqual(t, in.look(t, text).found["A"], 2)
			require.GreaterOrEqual(t, in.look(t, harness.Gzip(t, text)).found["A"], 2)
			require.Equal(t, result{why: "a UTF-16 text"}, in.look(t, encode("nothing")))
			require.Equal(t, result{why: "a UTF-16 text"}, in.look(t, append(encode("odd"), 0xdc)))
		})
	}
	require.Equal(t, result{why: "a UTF-16 text"}, in.look(t, append([]byte("\xff\xfe"), noise(1000)...)))
}

// A file that no library here can look into is unchecked, also in an archive.
func TestOpaque(t *testing.T) {
	in := searches(secret)
	opaque := 0
	for _, b := range begins {
		if !strings.Contains(string(b.format), "archive") || b.format == formatZip || compressors[b.format] != nil {
			continue
		}
		opaque++
		t.Run(string(b.format), func(t *testing.T) {
			data := append([]byte(b.with), noise(1000)...)
			want := result{why: "a " + string(b.format) + ", which cannot be looked into", unchecked: true}
			require.Equal(t, want, in.look(t, data))
			require.Equal(t, want, in.look(t, harness.Gzip(t, data)))
			require.Equal(t, want, in.look(t, harness.Tar(t, map[string][]byte{"m": data})))
		})
	}
	require.Equal(t, 7, opaque)
}

// Decoders are bounded in what they make and in what they hold.
func TestCompressedBombs(t *testing.T) {
	in := searches(secret)
	in.bounds = smallBounds
	in.bounds.expanded = 4 << 20
	zeros := make([]byte, 8<<20)
	for f, program := range compressors {
		t.Run(program[0], func(t *testing.T) {
			bomb := compress(t, program, zeros)
			for name, data := range map[string][]byte{
				"bomb": bomb, "in gzip": harness.Gzip(t, bomb), "behind a stub": append([]byte("MZ\x00"), bomb...),
			} {
				if name == "behind a stub" && f == formatLz4 {
					continue
				}
				grew := heap(func() {
					require.Equal(t, "it expands to more than 4 MiB and 2 times its size", in.look(t, data).why)
				})
				require.Less(t, grew, uint64(24<<20), name)
			}
			require.Equal(t, result{why: f.String()}, in.look(t, compress(t, program, zeros[:3<<20])))
		})
	}
	for f, programs := range map[Format][2][]string{
		formatXz:   {{"xz", "--lzma2=dict=16MiB"}, {"xz", "--lzma2=dict=8MiB"}},
		formatZstd: {{"zstd", "-q", "--long=24"}, {"zstd", "-q", "--long=23"}},
	} {
		t.Run(string(f)+" window", func(t *testing.T) {
			data := behindText(secret)
			got := in.look(t, compress(t, programs[0], data))
			require.Equal(t, "it takes more than 8 MiB to expand: "+f.String(), got.why)
			require.Equal(t, f.String(), in.look(t, compress(t, programs[1], data)).why)
		})
	}
}

// A small file with many beginnings of compressed data takes neither the time nor the memory that as
// many decoders would.
func TestManyBeginnings(t *testing.T) {
	in := searches(secret)
	in.bounds = smallBounds
	in.bounds.expanded, in.bounds.expansion = 4<<20, 1
	most := int(in.bounds.expanded / bzip2Start)
	members := func(program []string, n int) []byte {
		m := []string{"m", string(compress(t, program, []byte("some text")))}
		return zipOf(t, zip.Store, slices.Repeat(m, n)...)
	}
	stub := func(program []string, n int) []byte {
		begin := append([]byte("MZ\x00"), compress(t, program, []byte("some text"))[:24]...)
		return bytes.Repeat(begin, n)
	}
	const tooMuch = "it expands to more than 4 MiB and 1 times its size"
	for _, make := range []func([]string, int) []byte{members, stub} {
		require.Equal(t, tooMuch, in.look(t, make([]string{"bzip2"}, most+1)).why)
		require.False(t, in.look(t, make([]string{"bzip2"}, most/2)).unchecked)

		xz := make([]string{"xz", "--lzma2=dict=8MiB"}, 100)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		require.False(t, in.look(t, xz).unchecked)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20))
	}
}

// What only other decoders can expand is unchecked, also where nothing comes out here.
func TestUnknownFilters(t *testing.T) {
	in := searches(secret)
	text := behindText(secret)
	var withDictionary bytes.Buffer
	w, err := zstd.NewWriter(&withDictionary, zstd.WithEncoderDictRaw(7, noise(1000)))
	require.NoError(t, err)
	_, err = w.Write(text)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	for name, c := range map[string]struct {
		data []byte
		why  string
		stub bool // found behind one, too
	}{
		"a filter of xz": {
			compress(t, []string{"xz", "--arm64", "--lzma2"}, text),
			"compressed with an unknown filter or dictionary: an xz archive", true,
		},
		"a window of xz": {
			compress(t, []string{"xz", "--lzma2=dict=128MiB"}, text),
			"it takes more than 64 MiB to expand: an xz archive", true,
		},
		"a dictionary of zstd": {
			withDictionary.Bytes(),
			"compressed with an unknown filter or dictionary: a zstd archive", false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.NotContains(t, string(c.data), secret)
			want := result{why: c.why, unchecked: true}
			require.Equal(t, want, in.look(t, c.data))
			if c.stub {
				require.Equal(t, want, in.look(t, append([]byte("#!/bin/sh\n"), c.data...)))
			}
			packed := in.look(t, harness.Tar(t, map[string][]byte{"m": c.data}))
			require.Equal(t, c.why+" in member 1 of a tar archive", packed.why)
			require.True(t, packed.unchecked)
		})
	}
}

// The page about outputs names every format, and the ones that cannot be looked into as such.
func TestFormatsInDocs(t *testing.T) {
	page, err := os.ReadFile("../../../docs/reference/outputs.md")
	require.NoError(t, err)
	rows := map[bool]string{} // by whether a file without a value is taken out
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "|") {
			rows[strings.HasSuffix(line, "| taken out |\n")] += line
		}
	}
	named := func(f Format, opaque bool) {
		name, _, _ := strings.Cut(string(f), " ")
		require.Contains(t, rows[opaque], name)
	}
	for _, b := range begins {
		_, program := compressors[b.format]
		named(b.format, !program && !slices.Contains([]Format{formatZip, formatUTF16, formatParquet}, b.format))
	}
	for _, f := range []Format{formatTar, formatZlib, formatBzip2} {
		named(f, false)
	}
	named(formatLzma, true)
}

// Decoders of others meet any bytes: none may panic, or take more than the bounds.
func FuzzCompressed(f *testing.F) {
	for _, program := range compressors {
		for _, data := range [][]byte{nil, []byte(hidden), behindText(secret)} {
			f.Add(compress(f, program, data))
		}
	}
	f.Add(compress(f, []string{"xz", "--x86", "--lzma2=preset=0", "--check=sha256"}, []byte(hidden)))
	f.Add(compress(f, []string{"xz", "--delta=dist=4", "--lzma2", "--check=none"}, []byte(hidden)))
	f.Add(compress(f, []string{"lz4", "-q", "-B4", "-BD", "--content-size"}, behindText(secret)))
	f.Add(compress(f, []string{"zstd", "-q", "-19"}, behindText(secret)))
	for _, program := range [][]string{{"bzip2"}, {"xz", "--lzma2=dict=8MiB"}} {
		f.Add(bytes.Repeat(append([]byte("MZ\x00"), compress(f, program, []byte(hidden))[:24]...), 100))
	}
	in := searches(secret)
	in.bounds = smallBounds
	f.Fuzz(func(t *testing.T, data []byte) { seen(t, in, data) })
}
