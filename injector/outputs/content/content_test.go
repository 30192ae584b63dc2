package content

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"inject/exec/redact"
	"inject/exec/redact/redacttest"
	"inject/internal/harness"
)

const secret = "s3cr3t-v\"lue"

// knows returns an inspector for values with the names A, B, …
func knows(values ...string) *Inspector {
	var patterns []redact.Pattern
	for i, v := range values {
		patterns = append(patterns, redact.Pattern{Name: string(rune('A' + i)), Value: []byte(v)})
	}
	return NewInspector(redact.New(6, patterns...))
}

// look inspects data, in reads of at most n bytes.
func look(t testing.TB, in *Inspector, name string, data []byte, n int) Content {
	t.Helper()
	c, err := in.Inspect(t.Context(), name, &chunks{bytes.NewReader(data), func() int { return n }},
		bytes.NewReader(data), int64(len(data)))
	require.NoError(t, err)
	return c
}

// whole is a size of reads that returns all data at once.
const whole = 1 << 30

// mask rewrites data, in reads of n() bytes.
func mask(t testing.TB, in *Inspector, c Content, data []byte, n func() int) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := in.Rewrite(t.Context(), c, &chunks{bytes.NewReader(data), n}, &out)
	return out.String(), err
}

// chunks returns at most n() bytes a read.
type chunks struct {
	r io.Reader
	n func() int
}

func (c *chunks) Read(p []byte) (int, error) { return c.r.Read(p[:min(len(p), max(c.n(), 1))]) }

func every(n int) func() int { return func() int { return n } }

// finds searches data again, with its masks taken out.
func finds(t testing.TB, in *Inspector, data string) []redact.Find {
	t.Helper()
	var found []redact.Find
	w := in.redactor.Writer(io.Discard)
	w.Found = func(f redact.Find) { found = append(found, f) }
	for _, name := range "ABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		data = strings.ReplaceAll(data, "[REDACTED:"+string(name)+"]", "\x00")
	}
	_, err := io.WriteString(w, data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return found
}

var textFiles = map[string]bool{
	"":                       true,
	"a":                      true,
	"\t\n\v\f\r\b\x1b[0m":    true,
	"\x7f\u0080\u009f":       true,
	"\ufeffwith a mark":      true,
	"ÄÖ €uro \U0001f600\n":   true,
	"\x00":                   false,
	"\x01":                   false,
	"\x07":                   false,
	"\x0e":                   false,
	"\x1a":                   false,
	"\x1c":                   false,
	"\x1f":                   false,
	"\xff":                   false,
	"\xc3":                   false,
	"\xc3a":                  false,
	"\xa4":                   false,
	"\xe2\x82":               false,
	"\xe2\x82a":              false,
	"\xed\xa0\x80":           false, // a surrogate
	"\xf4\x90\x80\x80":       false, // beyond the last character
	"\xc0\x80":               false, // a NUL in two bytes
	"\xf0\x9f\x98":           false,
	"\xf0\x9f\x98\x80\x9f":   false,
	"\xff\xfea\x00":          false, // UTF-16
	"binary \x00 in between": false,
}

// Whether bytes are a text does not depend on where the writes are cut.
func TestTextCheck(t *testing.T) {
	check := func(parts ...string) bool {
		var c textCheck
		for _, p := range parts {
			c.write([]byte(p))
		}
		return c.valid()
	}
	for s, want := range textFiles {
		t.Run(fmt.Sprintf("%q", s), func(t *testing.T) {
			for _, before := range []string{
				"", "x", strings.Repeat("x", 31), strings.Repeat("\n y\n", 50), "ä",
				strings.Repeat("ä", 40),
			} {
				for _, behind := range []string{"", strings.Repeat("z", 40), "ö"} {
					all := before + s + behind
					require.Equalf(t, want, check(all), "%q", all)
					for i := range len(all) + 1 {
						require.Equalf(t, want, check(all[:i], all[i:]), "%q | %q", all[:i], all[i:])
					}
					require.Equalf(t, want, check(strings.Split(all, "")...), "%q in runes", all)
					var bytewise []string
					for i := range len(all) {
						bytewise = append(bytewise, all[i:i+1])
					}
					require.Equalf(t, want, check(bytewise...), "%q in bytes", all)
				}
			}
		})
	}
	// The same rule, said plainly.
	for c := range 256 {
		p := bytes.Repeat([]byte("text ä\n"), 9)
		p[20] = byte(c)
		want := utf8.Valid(p) && (c >= ' ' || strings.IndexByte("\b\t\n\v\f\r\x1b", byte(c)) >= 0)
		require.Equalf(t, want, check(string(p)), "%#x", c)
	}
}

func TestInspect(t *testing.T) {
	in := knows(secret, "123456789")
	escaped := `s3cr3t-v\"lue`
	for name, c := range map[string]struct {
		file, data string
		want       Content
	}{
		"nothing": {"a", "", Content{kind: text}},
		"a text":  {"a", "some text\n", Content{kind: text}},
		"found": {
			"a", secret + " " + secret + " 123456789",
			Content{kind: text, Found: map[string]int{"A": 2, "B": 1}},
		},
		"JSON": {
			"a.txt", `{"a": "` + escaped + `"}`,
			Content{kind: jsonText, Found: map[string]int{"A": 1}},
		},
		"JSON Lines": {
			"a", `{"a": "` + escaped + `"}` + "\n[1]\n",
			Content{kind: jsonText, Found: map[string]int{"A": 1}},
		},
		"no JSON": {"a.json", `{"a": "` + escaped + `"`, Content{kind: text, Found: map[string]int{"A": 1}}},
		"binary": {
			"a.json", "\x00" + secret,
			Content{kind: rawBytes, Found: map[string]int{"A": 1}, Why: "binary data"},
		},
		"binary, clean": {"a", "\x00", Content{kind: rawBytes, Why: "binary data"}},
		"cut in a rune": {
			"a", secret + "\xc3",
			Content{kind: rawBytes, Found: map[string]int{"A": 1}, Why: "binary data"},
		},
		"a .pb": {
			"x/other.pb", secret,
			Content{kind: opaque, Found: map[string]int{"A": 1}, Why: "a .pb file of an unknown kind"},
		},
		"inputs of another task": {
			"a1/inputs.pb", secret,
			Content{
				kind: opaque, Found: map[string]int{"A": 1},
				Why: "the inputs of another task, which would compute with the mask: give it the secret's name",
			},
		},
		"no outputs": {
			"outputs.pb", secret,
			Content{kind: opaque, Found: map[string]int{"A": 1}, Why: "not the Flyte message that its name promises"},
		},
		"outputs.pb.txt":  {"outputs.pb.txt", secret, Content{kind: text, Found: map[string]int{"A": 1}}},
		"a folder of .pb": {"dir.pb/a", secret, Content{kind: text, Found: map[string]int{"A": 1}}},
		"begins like gzip": {
			"a.gz", "\x1f\x8b\x08" + secret,
			Content{kind: rawBytes, Found: map[string]int{"A": 1}, Why: "binary data"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, n := range []int{1, 3, whole} {
				require.Equal(t, c.want, look(t, in, c.file, []byte(c.data), n), name)
			}
		})
	}
}

// In a file that is longer than the buffer, a value or a binary byte may be anywhere.
func TestInspectLong(t *testing.T) {
	in := knows(secret)
	for _, size := range []int{bufferSize - 1, bufferSize, bufferSize + 1, 3*bufferSize + 17} {
		data := bytes.Repeat([]byte("text ä\n"), size/8+1)[:size-1]
		data = append(data[:len(data)-begun(data)], '\n')
		require.Equal(t, Content{kind: text}, look(t, in, "f", data, whole), size)
		for _, at := range []int{0, bufferSize - 5, len(data) - len(secret)} {
			if at+len(secret) > len(data) {
				continue
			}
			with := append(append(slices.Clone(data[:at]), secret...), data[at:]...)
			c := look(t, in, "f", with, whole)
			require.Equal(t, map[string]int{"A": 1}, c.Found)
			with[len(with)-1] = 0
			c = look(t, in, "f", with, whole)
			require.Equal(t, Content{kind: rawBytes, Found: map[string]int{"A": 1}, Why: "binary data"}, c)
		}
		long := []byte(`["` + strings.Repeat("x", size) + `", "` + strings.ReplaceAll(secret, `"`, `\"`) + `"]`)
		c := look(t, in, "f", long, whole)
		require.Equal(t, Content{kind: jsonText, Found: map[string]int{"A": 1}}, c)
		out, err := mask(t, in, c, long, every(whole))
		require.NoError(t, err)
		require.Equal(t, `["`+strings.Repeat("x", size)+`", "[REDACTED:A]"]`, out)
		c = look(t, in, "f", long[:len(long)-1], whole)
		require.Equal(t, Content{kind: text, Found: map[string]int{"A": 1}}, c)
	}
}

// Values in an archive cannot be masked: the error names the kind of archive.
func TestInspectArchives(t *testing.T) {
	in := knows(secret)
	long := []byte(strings.Repeat("some text ", 30) + secret)
	for why, data := range map[string][]byte{
		"a gzip archive":                              harness.Gzip(t, long),
		"member 1 of a zip archive":                   zipped(t, "m", string(long)),
		"a tar archive":                               harness.Tar(t, map[string][]byte{"m": long}),
		"a gzip archive in member 1 of a tar archive": harness.Tar(t, map[string][]byte{"m": harness.Gzip(t, long)}),
	} {
		t.Run(why, func(t *testing.T) {
			for _, n := range []int{7, whole} {
				c := look(t, in, "f.txt", data, n)
				require.Equal(t, Content{kind: opaque, Found: map[string]int{"A": 1}, Why: why}, c)
			}
			_, err := mask(t, in, look(t, in, "f", data, whole), data, every(whole))
			require.ErrorIs(t, err, ErrStill)
			require.ErrorContains(t, err, why)
		})
	}
	c := look(t, in, "f", harness.Gzip(t, long)[:30], whole)
	require.Equal(t, Content{kind: opaque, Why: "damaged: a gzip archive", Unchecked: true}, c)
}

// The result for a file does not depend on the files inspected before it.
func TestInspectMany(t *testing.T) {
	in := knows(secret)
	archive := zipped(t, "m", secret)
	for range 3 {
		require.Equal(t, Content{kind: text, Found: map[string]int{"A": 1}}, look(t, in, "f", []byte(secret), whole))
		require.Equal(t, Content{kind: text}, look(t, in, "f", []byte("{}"), whole))
		require.Equal(t, map[string]int{"A": 1}, look(t, in, "f", archive, whole).Found)
		require.Equal(t, Content{kind: rawBytes, Why: "binary data"}, look(t, in, "f", []byte{0}, whole))
	}
}

func TestInspectFails(t *testing.T) {
	in := knows(secret)
	data := bytes.Repeat([]byte(secret), bufferSize/4)
	at := bytes.NewReader(data)
	broken := iotest.ErrReader(errors.ErrUnsupported)
	for _, n := range []int64{0, 1, bufferSize, bufferSize + 1} {
		_, err := in.Inspect(t.Context(), "f", io.MultiReader(io.LimitReader(bytes.NewReader(data), n), broken), at,
			at.Size())
		require.ErrorIs(t, err, errors.ErrUnsupported)
	}
	// A read of the second pass may fail, too.
	for _, begin := range []string{`[ "s3cr3t-v\"lue",`, "\x1f\x8b\x08\x00"} {
		long := append([]byte(begin), data...)
		_, err := in.Inspect(t.Context(), "f", bytes.NewReader(long), brokenAt{}, int64(len(long)))
		require.ErrorIs(t, err, errors.ErrUnsupported)
	}
	c := look(t, in, "f", data, whole)
	require.ErrorIs(t, in.Rewrite(t.Context(), c, io.MultiReader(bytes.NewReader(data), broken), io.Discard),
		errors.ErrUnsupported)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	require.NoError(t, err)
	defer full.Close() //nolint:errcheck // nothing is in it
	require.Error(t, in.Rewrite(t.Context(), c, bytes.NewReader(data), full))
	require.Error(t, in.Rewrite(t.Context(), c, bytes.NewReader([]byte(secret)), full))
	c.kind = opaque
	_, err = mask(t, in, c, data, every(whole))
	require.ErrorIs(t, err, ErrStill)
}

type brokenAt struct{}

func (brokenAt) ReadAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }

// until is a context that ends when it has been asked left times.
type until struct {
	context.Context //nolint:containedctx // it is a context itself

	left int
}

func (c *until) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// Inspecting and rewriting end with the context, whenever that ends.
func TestCanceled(t *testing.T) {
	in := knows(secret)
	random := rand.New(rand.NewPCG(1, 1))
	noise := make([]byte, bufferSize)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	tarred := harness.Tar(t, map[string][]byte{"a": noise, "z.zip": zipped(t, "m", string(noise)+secret)})
	for name, data := range map[string][]byte{
		"text": bytes.Repeat([]byte(secret+"\n"), bufferSize/10),
		"JSON": []byte("[" + strings.Repeat(`"s3cr3t-v\"lue", `, bufferSize/12) + "1]"),
		"gzip": harness.Gzip(t, tarred),
		"tar":  tarred,
	} {
		t.Run(name, func(t *testing.T) {
			for n := 0; ; n++ {
				ctx := &until{t.Context(), n}
				c, err := in.Inspect(ctx, name, bytes.NewReader(data), bytes.NewReader(data), int64(len(data)))
				if err == nil && c.kind != opaque {
					err = in.Rewrite(ctx, c, bytes.NewReader(data), io.Discard)
				}
				if err == nil {
					require.Greater(t, n, 4, name)
					require.Contains(t, c.Found, "A", name)
					break
				}
				require.ErrorIs(t, err, context.Canceled, name)
			}
		})
	}
}

func TestMaskText(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 2))
	values := redacttest.Values(6, seed)
	values = append(values, []byte("line one\nand \"two\" \\\n"), []byte("Ä€\U0001f600-secret"), []byte("password"))
	var named []string
	var patterns []redact.Pattern
	for i, v := range values {
		named = append(named, string(v))
		patterns = append(patterns, redact.Pattern{Name: string(rune('A' + i)), Value: v})
	}
	var all []redacttest.Pattern
	for _, f := range redact.Forms(6, patterns...) {
		if utf8.Valid(f.Bytes) && !bytes.ContainsRune(f.Bytes, 0) {
			all = append(all, redacttest.Pattern{Mask: redact.Mask(f.Name), Value: f.Bytes})
		}
	}
	in := knows(named...)
	for range 300 {
		var b []byte
		for range random.IntN(20) {
			form := all[random.IntN(len(all))].Value
			b = append(b, form...)
			b = append(b, strings.Repeat("tä\n", random.IntN(20))...)
		}
		c := look(t, in, "f", b, whole)
		if len(c.Found) == 0 {
			continue
		}
		c.kind = text // even if it is JSON
		want := string(redacttest.Mask(b, all))
		for _, n := range []func() int{every(1), every(whole), func() int { return random.IntN(50) }} {
			out, err := mask(t, in, c, b, n)
			require.NoErrorf(t, err, "seed %d", seed)
			require.Equalf(t, want, out, "seed %d", seed)
		}
	}
}

// A mask that holds the bytes of a value is not a find.
func TestMaskEqualsValue(t *testing.T) {
	in := NewInspector(redact.New(6,
		redact.Pattern{Name: "password", Value: []byte("password")}, redact.Pattern{
			Name:  "q\"\\",
			Value: []byte("REDACTED"),
		}))
	for data, want := range map[string]string{
		"my password":                          "my [REDACTED:password]",
		`{"password": 1, "x": "not REDACTED"}`: `{"[REDACTED:password]": 1, "x": "not [REDACTED:q\"\\]"}`,
	} {
		t.Run(data, func(t *testing.T) {
			c := look(t, in, "f", []byte(data), whole)
			out, err := mask(t, in, c, []byte(data), every(whole))
			require.NoError(t, err)
			require.Equal(t, want, out)
		})
	}
}

// A value may begin and end within a character; what is left is valid UTF-8.
func TestMaskTextInRunes(t *testing.T) {
	in := knows("\xa4secret\xe2\x82", "\x98\x80 whole", "aaaaaa")
	for data, want := range map[string]string{
		"xäsecret€y":                      "x[REDACTED:A]y",
		"äsecret€":                        "[REDACTED:A]",
		"ää\xc3\xa4secret€€":              "ää[REDACTED:A]€",
		"\U0001f600 whole\U0001f600":      "[REDACTED:B]\U0001f600",
		"äsecret€aaaaaa\U0001f600 wholeä": "[REDACTED:A][REDACTED:C][REDACTED:B]ä",
		"\xf0\x9f\x98\x80 whol":           "\U0001f600 whol",
	} {
		t.Run(fmt.Sprintf("%q", data), func(t *testing.T) {
			for _, n := range []int{1, 2, 3, 5, whole} {
				c := look(t, in, "f", []byte(data), n)
				require.Equal(t, text, c.kind)
				out, err := mask(t, in, c, []byte(data), every(n))
				require.NoError(t, err)
				require.Equal(t, want, out)
				out, err = mask(t, in, Content{kind: jsonText}, []byte(`["`+data+`"]`), every(n))
				require.NoError(t, err)
				require.Equal(t, `["`+want+`"]`, out)
			}
		})
	}
}

// A binary value in a text is masked as in a text.
func TestMaskBinaryValues(t *testing.T) {
	in := knows("\xffsecret\xfe\xe2", "\x00\x01secret\x02", "\xf0\x9fsecret\xf0")
	for data, want := range map[string]string{
		"a \xffsecret\xfe\xe2 b":               "a [REDACTED:A] b",
		"a \xffsecret\xfe\xe2\x82\xac b":       "a [REDACTED:A] b",
		"a \xffsecret\xfe\xe2\x82€ b":          "a [REDACTED:A]€ b",
		"\x00\x01secret\x02\xffsecret\xfe\xe2": "[REDACTED:B]",
		"\xf0\x9fsecret\xf0":                   "[REDACTED:C]",
		"\xf0\x9fsecret\xf0\x9f\x98\x80":       "[REDACTED:C]",
	} {
		t.Run(fmt.Sprintf("%q", data), func(t *testing.T) {
			for n := 1; n < len(data)+1; n++ {
				c := look(t, in, "f", []byte(data), n)
				require.Equalf(t, text, c.kind, "%q", data)
				out, err := mask(t, in, c, []byte(data), every(n))
				require.NoError(t, err)
				require.Equalf(t, want, out, "%q", data)
				data, want := `["`+data+`", "ä"]`, `["`+want+`", "ä"]`
				if strings.Contains(data, "\x00") {
					continue // JSON has no NUL
				}
				c = look(t, in, "f", []byte(data), n)
				require.Equalf(t, jsonText, c.kind, "%q", data)
				out, err = mask(t, in, c, []byte(data), every(n))
				require.NoError(t, err)
				require.Equalf(t, want, out, "%q", data)
			}
		})
	}
	// Bytes behind a value that do not complete its last character make the file binary.
	for _, data := range []string{
		"\xffsecret\xfe\xe2\x82\xac\x82", "\xf0\x9fsecret\xf0\x9f\x98\x80\x80",
		"\x00\x01secret\x02\x80", "\xffsecret\xfe\xe2\xff", "\xe2\xffsecret\xfe\xe2",
	} {
		for n := 1; n < len(data)+1; n++ {
			require.Equalf(t, rawBytes, look(t, in, "f", []byte(data), n).kind, "%q", data)
		}
	}
}

// A small file needs hardly any new memory, because there may be a million.
func TestInspectAllocates(t *testing.T) {
	in := knows(secret)
	ctx := t.Context()
	var raw, at bytes.Reader
	for name, data := range map[string][]byte{
		"text": []byte(strings.Repeat("some text\n", 20)), "JSON": []byte(`{"a": [1, 2, 3]}`),
		"binary": bytes.Repeat([]byte{0, 1, 2}, 100), "long": bytes.Repeat([]byte("some text\n"), 20_000),
	} {
		t.Run(name, func(t *testing.T) {
			inspect := func() {
				raw.Reset(data)
				at.Reset(data)
				_, err := in.Inspect(ctx, "f", &raw, &at, int64(len(data)))
				require.NoError(t, err)
			}
			inspect()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range 1000 {
				inspect()
			}
			runtime.ReadMemStats(&after)
			require.Less(t, (after.TotalAlloc-before.TotalAlloc)/1000, uint64(1024), name)
		})
	}
}

func BenchmarkInspectSmall(b *testing.B) {
	in := knows("hunter2-hunter2", secret, "0123456789abcdef")
	data := []byte(strings.Repeat("a line of 20 letters", 10))
	path := filepath.Join(b.TempDir(), "f")
	require.NoError(b, os.WriteFile(path, data, 0o600))
	for _, kind := range []string{"text", "binary"} {
		b.Run(kind, func(b *testing.B) {
			ctx := b.Context()
			var raw, at bytes.Reader
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				raw.Reset(data)
				at.Reset(data)
				if _, err := in.Inspect(ctx, "f", &raw, &at, int64(len(data))); err != nil {
					b.Fatal(err)
				}
			}
		})
		data = append(data[:199:199], 0)
	}
}

// BenchmarkInspect inspects 64 MiB, and compares that with the redactor alone.
func BenchmarkInspect(b *testing.B) {
	values := redacttest.Values(10, 1)
	var named []string
	for _, v := range values {
		named = append(named, string(v))
	}
	in := knows(named...)
	const size = 64 << 20
	json := []byte("[\n")
	for i := 0; len(json) < size; i++ {
		json = fmt.Appendf(json, "  {\"id\": %d, \"name\": \"somebody %d\", \"tags\": [\"one\", \"two\\n\", null], "+
			"\"score\": %d.5e-3, \"on\": true},\n", i, i%77, i%1000)
	}
	found := bytes.Replace(json, []byte("somebody 5"), values[0], 1) // so that there is a second pass
	texts := map[string][]byte{
		"text":       redacttest.Text("A", size, values, 1),
		"umlauts":    bytes.Repeat([]byte("Größe und Maß, über alles geprüft: ja\n"), size/40),
		"JSON":       append(json, "0]"...),
		"JSON found": append(found, "0]"...),
		"binary":     redacttest.Text("E", size, values, 1),
	}
	ctx := b.Context()
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		data := texts[name]
		b.Run("redactor/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				w := in.redactor.Writer(io.Discard)
				if _, err := w.ReadFrom(struct{ io.Reader }{bytes.NewReader(data)}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("inspect/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := in.Inspect(ctx, "f", bytes.NewReader(data), bytes.NewReader(data),
					int64(len(data))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for name, c := range map[string]Content{"text": {kind: text}, "JSON found": {kind: jsonText}} {
		data := texts[name]
		b.Run("rewrite/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if err := in.Rewrite(ctx, c, bytes.NewReader(data), io.Discard); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// zipped returns a zip archive with one compressed member.
func zipped(t testing.TB, name, data string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	f, err := w.Create(name)
	require.NoError(t, err)
	_, err = io.WriteString(f, data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}
