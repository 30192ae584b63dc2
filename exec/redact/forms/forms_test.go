package forms_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"inject/exec/redact/forms"
)

var pem = "-----BEGIN PRIVATE KEY-----\n" +
	"MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n-----END PRIVATE KEY-----"

// ofKind returns the forms of value of the given kinds, or all forms if no kind is given.
func ofKind(value string, minLength int, kinds ...string) []string {
	var found []string
	for _, f := range forms.Of([]byte(value), minLength) {
		if len(kinds) == 0 || slices.Contains(kinds, f.Kind) {
			found = append(found, string(f.Bytes))
		}
	}
	return found
}

func TestFormsOfValue(t *testing.T) {
	const uuid = "0f8fad5b-d9cb-469f-a165-70867728950e"
	for _, c := range []struct {
		value, kind string
		want        []string // all forms of the kind
	}{
		{"", forms.KindRaw, nil},
		{" \n\t\r\n      ", forms.KindRaw, nil},
		{"12345", forms.KindRaw, nil},
		{"123456", forms.KindRaw, []string{"123456"}},
		{" value-1\r\n", forms.KindRaw, []string{"value-1"}},
		{"abc\n\n\n\n", forms.KindRaw, []string{"abc\n\n\n\n", "abc\r\n\r\n\r\n\r\n", "abc\n\n\n\n\n\n\n\n"}},
		{"a  b\tcdef", forms.KindRaw, []string{"a  b\tcdef", "a b cdef"}},
		{"one two", forms.KindRaw, []string{"one two"}},
		{
			"line 1\n  line 2\n", forms.KindRaw,
			[]string{"line 1\n  line 2", "line 1\r\n  line 2", "line 1  line 2", "line 1\n\n  line 2", "line 1 line 2"},
		},
		{
			"line-1\r\nline-2", forms.KindRaw,
			[]string{"line-1\r\nline-2", "line-1\nline-2", "line-1line-2", "line-1\n\nline-2", "line-1 line-2"},
		},
		{"not \xff UTF-8", forms.KindRaw, []string{"not \xff UTF-8", "not \ufffd UTF-8"}},

		{"{\n  true\n  key: value\n}", forms.KindLines, nil},
		{"enabled: true\n \tpassword: hunter2hunter2 \r\n", forms.KindLines, []string{"password: hunter2hunter2"}},
		{"user\nabcdefgh\nAbcdefgh\nAbcdefg1\nAbc def 1\nAbcdef1", forms.KindLines, []string{"Abcdefg1"}},
		{"only one line of sixteen bytes", forms.KindLines, nil},
		{
			"-----BEGIN KEY-----\nProc-Type: 4,ENCRYPTED\n\nabcdefgh\nijkl\n-----END KEY-----\nshort, behind",
			forms.KindLines,
			[]string{"abcdefgh", "abcdefghijkl"},
		},
		{
			`{"type": "key",` + "\n" + `"key": "-----BEGIN KEY-----\nabcdefgh\nijklmnop\n-----END KEY-----\n"}`,
			forms.KindLines,
			[]string{"abcdefgh", "ijklmnop", "abcdefghijklmnop"},
		},

		{"00112233", forms.KindCase, nil},
		{"deadbee", forms.KindCase, nil},
		{"deadbeeg", forms.KindCase, nil},
		{"deadbeef", forms.KindCase, []string{"DEADBEEF"}},
		{"DeadBeef", forms.KindCase, []string{"deadbeef", "DEADBEEF"}},
		{"de:ad:be:ef", forms.KindCase, []string{"DE:AD:BE:EF"}},
		{"de:ad:bee:f", forms.KindCase, nil},
		{uuid, forms.KindCase, []string{
			strings.ReplaceAll(uuid, "-", ""), strings.ToUpper(uuid),
			strings.ToUpper(strings.ReplaceAll(uuid, "-", "")),
		}},
		{uuid[:35] + "-", forms.KindCase, nil},

		{"123456", forms.KindHex, []string{"313233343536"}},
		{"<<>>;:", forms.KindHex, []string{"3c3c3e3e3b3a", "3C3C3E3E3B3A"}},
		{"line 1\nline 2", forms.KindPercent, []string{
			"line+1%0Aline+2", "line%201%0Aline%202", "line+1%0aline+2", "line%201%0aline%202", "line%201line%202",
			"line+1%0D%0Aline+2", "line%201%0D%0Aline%202", "line+1%0d%0aline+2", "line%201%0d%0aline%202",
		}},
		{"a'b;c}d-e,f", forms.KindQuoted, []string{"a''b;c}d-e,f", "a'b;c}}d-e,f", `a'b;c\}d\-e,f`, `a'b;c\}d-e,f`}}, // \' is a shell's
		{"pass-\xc3\xa9", forms.KindNumbers, nil},
		// Arrays.toString of Java; {:?} of Rust for bytes; BitConverter.ToString of .NET.
		{"pass12\xc3\xa9", forms.KindNumbers, []string{
			"112, 97, 115, 115, 49, 50, 195, 169", "112 97 115 115 49 50 195 169", "112,97,115,115,49,50,195,169",
			"112, 97, 115, 115, 49, 50, -61, -87",
			"70 61 73 73 31 32 c3 a9", "70 61 73 73 31 32 C3 A9", "70:61:73:73:31:32:c3:a9", "70:61:73:73:31:32:C3:A9",
			"70-61-73-73-31-32-C3-A9", "0x70, 0x61, 0x73, 0x73, 0x31, 0x32, 0xc3, 0xa9",
		}},
		// System.out of Java 17 in LC_ALL=C writes a mark for each byte; U+20AC is 0x80 in Windows-1252.
		{"s\u00e4ssw\u20acrd", forms.KindCharset, []string{
			"s\x00\xe4\x00s\x00s\x00w\x00\xac\x20r\x00d",
			"s\x00\xe4\x00s\x00s\x00w\x20\xac\x00r\x00d",
			"sa\u0308ssw\u20acrd", "s\xe4ssw?rd", "s\xe4ssw\x80rd",
			"s\u00c3\u00a4ssw\u00e2\u0082\u00acrd", "s\u00c3\u00a4ssw\u00e2\u201a\u00acrd",
			"s?ssw?rd", "s??ssw???rd", "s\ufffdssw\ufffdrd", "s\ufffd\ufffdssw\ufffd\ufffd\ufffdrd", "ssswrd",
		}},
		{"\u043f\u0430\u0440\u043e\u043b\u044c", forms.KindCharset, []string{
			"\x3f\x04\x30\x04\x40\x04\x3e\x04\x3b\x04\x4c\x04", "\x04\x3f\x04\x30\x04\x40\x04\x3e\x04\x3b\x04\x4c",
			"\u00d0\u00bf\u00d0\u00b0\u00d1\u0080\u00d0\u00be\u00d0\u00bb\u00d1\u008c",
			"\u00d0\u00bf\u00d0\u00b0\u00d1\u20ac\u00d0\u00be\u00d0\u00bb\u00d1\u0152",
		}},
		{"a'b;c}d-e,f", forms.KindCookie, []string{`a'b\073c}d-e\054f`}},
	} {
		t.Run(fmt.Sprintf("%s of %.30q", c.kind, c.value), func(t *testing.T) {
			require.Equal(t, c.want, ofKind(c.value, 6, c.kind))
		})
	}
	require.Equal(t, []string{"1234567"}, ofKind("1234567\n", 7, forms.KindRaw))
	require.Nil(t, forms.Of([]byte("1234567"), 8))
	require.Equal(t, []string{"x"}, ofKind("x", 0), "one byte is never in an encoded form")
	escaped := ofKind(`p"ss12`, 6, forms.KindJSON)
	require.Equal(t, `p\"ss12`, escaped[0], "the shortest value is found escaped")
}

// shortest returns the least length that a form of the kind may have. Escaped forms have no
// limit of their own: they are at least as rare as the value.
func shortest(kind string) int {
	switch kind {
	case forms.KindLines, forms.KindCase, forms.KindBase64, forms.KindBase64URL, forms.KindHex:
		return 8
	}
	return 1
}

// Programs that CI does not install. Each line is what the program printed, or what its
// documentation says.
func TestFormsOfOtherPrograms(t *testing.T) {
	for _, c := range []struct{ program, value, want string }{
		// OpenJDK 17.
		{
			"Properties.store", "v a:b=c!d#e\\f\tg\n\b \u00e9\u20ac\x7f~'\"",
			`v a\:b\=c\!d\#e\\f\tg\n\u0008 \u00E9\u20AC\u007F~'"`,
		},
		{
			"URI.toASCIIString, path", "a^b|c{d}\"e f<g\\h%`'[]\u00e9!(*)~,;:$&+=@/x?y#z.",
			"a%5Eb%7Cc%7Bd%7D%22e%20f%3Cg%5Ch%25%60'%5B%5D%C3%A9!(*)~,;:$&+=@/x%3Fy%23z.",
		},
		{
			"URI.toASCIIString, query", "a^b|c{d}\"e f<g\\h%`'[]\u00e9!(*)~,;:$&+=@/x?y#z.",
			"a%5Eb%7Cc%7Bd%7D%22e%20f%3Cg%5Ch%25%60'[]%C3%A9!(*)~,;:$&+=@/x?y%23z.",
		},
		{"Arrays.toString", "pass\u00e912", "112, 97, 115, 115, -61, -87, 49, 50"},
		// PyYAML 6.0.3: yaml.dump, without and with allow_unicode.
		{
			"PyYAML", "p\u00e4 \u0085\u00a0\u2028\u2029\ufeff\u200b\x01\x1b\x7f\x00\u20ac\U0001f600\\\"/",
			`p\xE4 \N\_\L\P\uFEFF\u200B\x01\e\x7F\0\u20AC\U0001F600\\\"/`,
		},
		{"PyYAML, allow_unicode", "p\u00e4:\x01\"x", "p\u00e4:\\x01\\\"x"},
		// Documentation of std: str::escape_debug.
		{"Rust", "a\"b\\c\td\x01\x7f\u00e9\u200b'", "a\\\"b\\\\c\\td\\u{1}\\u{7f}\u00e9\\u{200b}'"},
		// about_Special_Characters.
		{"PowerShell", "a$b`c\"d\te", "a`$b``c`\"d\te"},
		{"PowerShell", "a$b`c\"d\te", "a`$b``c`\"d`te"},
		// Node 24, where the URL class escapes ^ in paths.
		{"URL.pathname", "a^b|c d\\e", "a%5Eb|c%20d/e"},
		// Python: errors="ignore"; iconv -c.
		{"iconv -c", "p\u00e4sswo\u20acrd-1", "pssword-1"},
	} {
		t.Run(c.program, func(t *testing.T) { require.Contains(t, ofKind(c.value, 6), c.want) })
	}
}

// Text that occurs everywhere is not a form.
func TestFormsAreNotCommon(t *testing.T) {
	for _, value := range []string{"a\"b$c&", "1234567", "  {\n", "x: 1\ny: 2"} {
		for _, f := range forms.Of([]byte(value), 1) {
			require.GreaterOrEqual(t, len(f.Bytes), shortest(f.Kind), "%q: %s %q", value, f.Kind, f.Bytes)
		}
	}
	config := "{\n  \"debug\": true,\n  \"port\": 8080,\n\n  ],\n" + pem +
		"\n  -----BEGIN CERTIFICATE-----\nshort\n-----END CERTIFICATE-----\n}\n"
	found := ofKind(config, 6)
	for _, common := range []string{
		"{", "}", "],", "true", `"debug": true,`, `"port": 8080,`,
		"-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----",
		"-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----", "short", "", " ", "\n",
	} {
		require.NotContains(t, found, common)
	}
	require.NotContains(t, ofKind("\u00e4password\u20ac", 6), "password")
	require.Contains(t, found, "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC")
}

// checkForms checks the properties that the forms of every value have.
func checkForms(t interface {
	require.TestingT
	Helper()
}, value []byte, minLength int,
) {
	t.Helper()
	before := bytes.Clone(value)
	all := forms.Of(value, minLength)
	require.Equal(t, before, value)
	plain := bytes.TrimSpace(before)
	if len(plain) > 0 && len(plain) < minLength {
		plain = before
	}
	if len(bytes.TrimSpace(plain)) == 0 || len(plain) < minLength {
		require.Nil(t, all)
		return
	}
	first := forms.Form{Kind: all[0].Kind, Bytes: bytes.Clone(all[0].Bytes)}
	require.Equal(t, forms.Form{Kind: forms.KindRaw, Bytes: plain}, first)
	for i := range value {
		value[i] ^= 0xff // if a form shares memory with value, it changes as well
	}
	seen := map[string]bool{}
	for _, f := range all {
		require.Falsef(t, seen[string(f.Bytes)], "%q: %s %q is there twice", before, f.Kind, f.Bytes)
		seen[string(f.Bytes)] = true
		require.GreaterOrEqual(t, len(f.Bytes), max(minLength, shortest(f.Kind)))
		_ = append(f.Bytes, "must not go into the next form"...)
	}
	require.Equal(t, forms.Of(before, minLength), all)
}

func TestFormsProperties(t *testing.T) {
	parts := slices.Concat(awkward, binary, []string{
		pem, "\r\n", "\n", " ", "\\n", "-----BEGIN X-----", "-----END X-----", "deadbeef", "-", ":",
	})
	part := rapid.OneOf(rapid.SampledFrom(parts), rapid.StringN(0, 10, -1))
	rapid.Check(t, func(t *rapid.T) {
		var value []byte
		for _, part := range rapid.SliceOfN(part, 0, 6).Draw(t, "parts") {
			value = append(value, part...)
		}
		value = append(value, rapid.SliceOfN(rapid.Byte(), 0, 10).Draw(t, "bytes")...)
		checkForms(t, value, rapid.IntRange(1, 20).Draw(t, "minLength"))
	})
}

func FuzzForms(f *testing.F) {
	for _, v := range slices.Concat(awkward, binary) {
		f.Add([]byte(v), 6)
	}
	f.Add([]byte(pem), 1)
	f.Fuzz(func(t *testing.T, value []byte, minLength int) { checkForms(t, value, min(max(minLength, 1), 100)) })
}

// The forms of a large value are not larger than a fixed multiple of its length, and no more
// than a limit allows.
func TestFormsOfLargeValues(t *testing.T) {
	largest := 256 << 10
	if testing.Short() {
		largest = 64<<10 + 1
	}
	for _, c := range []struct{ name, part string }{
		{"one line", "Zq3rT9bV"},
		{"zeros", "\x00"},
		{"invalid", "\xff"},
		{"newlines", "x\n"},
		{"lines", "Abcdefg1\n"},
		{"blocks", pem + "\n"},
		{"quotes", `'"\`},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, size := range []int{8 << 10, 64 << 10, largest} {
				value := bytes.Repeat([]byte(c.part), size/len(c.part)+1)[:size]
				all, total := forms.Of(value, 6), 0
				for _, f := range all {
					total += len(f.Bytes)
				}
				require.Less(t, total, 300*size, "%d bytes", size)

				for _, limit := range []int{0, size, 3 * size, 20 * size} {
					some, whole := forms.Within(value, 6, limit)
					require.Equal(t, len(some) == len(all), whole)
					require.True(t, slices.EqualFunc(some, all[:len(some)], func(a, b forms.Form) bool {
						return a.Kind == b.Kind && bytes.Equal(a.Bytes, b.Bytes)
					}), "the others are the last")
					total := 0
					for _, f := range some {
						total += len(f.Bytes)
					}
					require.LessOrEqual(t, total, 4*max(limit, size))
				}
			}
		})
	}
}

// Base64 of a text shows only the characters that also hold bits of what surrounds the
// value, and none behind a value that ends the text.
func TestFormsInBase64(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	text := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = '!' + byte(random.IntN(94))
		}
		return string(b)
	}
	step := 1
	if testing.Short() {
		step = 5 // coprime to 3, so all alignments occur
	}
	encodings := []*base64.Encoding{
		base64.StdEncoding, base64.RawStdEncoding,
		base64.URLEncoding, base64.RawURLEncoding,
	}
	for n := 8; n < 100; n += step {
		for k := range 9 {
			value, before, behind := text(n), text(k), text(random.IntN(5))
			for _, e := range encodings {
				encoded := e.EncodeToString([]byte(before + value + behind))
				// All bits of the characters from first to last belong to the value.
				first, last := (8*k+5)/6, 8*(k+n)/6
				require.NotContains(t, encoded, value)
				rest := hidden(value, encoded)
				require.LessOrEqual(t, len(rest), len(encoded)-(last-first), "%q in %q, seed %d", value, encoded, seed)
				require.Equal(t, encoded[:first], rest[:first])

				encoded = e.EncodeToString([]byte(before + value))
				require.Equal(t, encoded[:first], hidden(value, encoded), "%q ends %q, seed %d", value, encoded, seed)
				encoded = e.EncodeToString([]byte(before + value + "\n"))
				require.Equal(t, encoded[:first], hidden(value, encoded), "%q ends %q, seed %d", value, encoded, seed)
				spaced := "\t" + value + " \n\n"
				encoded = e.EncodeToString([]byte(before + spaced))
				require.Equal(t, encoded[:first], hidden(spaced, encoded), "%q ends %q, seed %d", spaced, encoded, seed)
			}
		}
	}
}

func BenchmarkForms(b *testing.B) {
	line := "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n"
	key := "-----BEGIN PRIVATE KEY-----\n" + strings.Repeat(line, 25) + "-----END PRIVATE KEY-----\n"
	for i := range 25 { // so that no two lines are equal
		key = strings.Replace(key, "MIIEv", fmt.Sprintf("%05d", i), 1)
	}
	for _, c := range []struct{ name, value string }{
		{"alphanumeric", "Zq3rT9bVx7LmP2sKd8WnH5yGc4JfA6uE"},
		{"special", "p&<w>\"o'r$d\\ /+=;,:~ %{}!@#^*()|`?.-x123"},
		{"key", key},
	} {
		b.Run(c.name, func(b *testing.B) {
			value := []byte(c.value)
			b.ReportAllocs()
			for b.Loop() {
				forms.Of(value, 6)
			}
			b.ReportMetric(float64(len(forms.Of(value, 6))), "forms")
		})
	}
}
