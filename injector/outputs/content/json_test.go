package content

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"inject/exec/redact/forms"
)

// check reports whether data is JSON, in reads of n bytes.
func check(t testing.TB, data string, n int) bool {
	t.Helper()
	is, err := isJSON(&chunks{strings.NewReader(data), every(n)})
	require.NoError(t, err)
	return is
}

// several reports whether encoding/json decodes data as one or more values.
func several(data string) bool {
	data = strings.TrimPrefix(data, mark)
	d := json.NewDecoder(strings.NewReader(data))
	for n := 0; ; n++ {
		var v json.RawMessage
		if err := d.Decode(&v); err == io.EOF {
			return n > 0
		} else if err != nil {
			return false
		}
	}
}

var jsonFiles = map[string]bool{
	`{}`: true, ` [ ] `: true, `""`: true, `0`: true, `-0`: true, `true`: true, "\tfalse\r\n": true, `null`: true,
	`{"a":1,"b":[1,2,{"c":null}],"":""}`:         true,
	`"\"\\\/\b\f\n\r\t\u00e9\uD83d\uDE00\ud800"`: true,
	`1.5e+10`:              true,
	`-1E-2`:                true,
	`1e5`:                  true,
	`0.0`:                  true,
	"{}\n{}\n":             true,
	"1 2\n\"a\"":           true,
	`{}{}`:                 true,
	`[]"a"[]`:              true,
	mark + `{}`:            true,
	mark + " 1":            true,
	`["` + "\x7fä€" + `"]`: true,

	``: false, ` `: false, mark: false, `{} ` + mark: false, mark[:2] + `{}`: false,
	`{`: false, `[`: false, `}`: false, `]`: false, `{]`: false, `[}`: false, `[1}`: false, `{"a":1]`: false,
	`{"a"}`: false, `{"a":}`: false, `{"a":1,}`: false, `{,}`: false,
	`{1:2}`: false, `{"a" 1}`: false, `{"a"::1}`: false,
	`[1,]`: false, `[,1]`: false, `[1 2]`: false, `[1,,2]`: false,
	`01`: false, `1.`: false, `.5`: false, `-`: false, `+1`: false, `1e`: false,
	`1e+`: false, `--1`: false, `1.5.2`: false, `1e5e5`: false,
	`1e1.5`: false, `-a`: false, `0x10`: false, `NaN`: false, `Infinity`: false, `[1a]`: false,
	`tru`: false, `truE`: false, `truee`: false, `nul`: false, `falsy`: false,
	`truefalse`: false, `true"a"`: false, `1"a"`: false, `1{}`: false,
	`"`: false, `"a`: false, `"\`: false, `"\x"`: false, `"\u12"`: false, `"\u12g4"`: false, `'a'`: false,
	"\"a\nb\"": false, "\"a\tb\"": false, "\"\x1b\"": false,
	`// comment`: false, `{} x`: false, `{a:1}`: false, "\u00a0{}": false, "\v1": false, "{}\f": false,
	`1,2`: false, `{}]`: false, `{}:1`: false,
}

func TestJSONCheck(t *testing.T) {
	for data, want := range jsonFiles {
		t.Run(fmt.Sprintf("%q", data), func(t *testing.T) {
			for n := 1; n <= len(data)+1; n++ {
				require.Equalf(t, want, check(t, data, n), "%q", data)
			}
			if want {
				require.Truef(t, several(data), "%q", data)
			}
		})
	}
	for depth, want := range map[int]bool{1: true, 64: true, 65: true, maxNesting: true, maxNesting + 1: false} {
		t.Run(fmt.Sprint("depth ", depth), func(t *testing.T) {
			deep := strings.Repeat("[", depth) + strings.Repeat("]", depth)
			require.Equal(t, want, check(t, deep, whole), depth)
			require.Equal(t, want, json.Valid([]byte(deep)), depth)
			mixed := strings.Repeat(`[{"a":`, depth/2) + "1" + strings.Repeat("}]", depth/2)
			require.Equal(t, depth/2*2 <= maxNesting, check(t, mixed, 7), depth)
			require.False(t, check(t, mixed[:len(mixed)-1]+"}", 7))
		})
	}
	require.True(t, check(t, "["+strings.Repeat("1", maxNumber-1)+"]", 100))
	require.False(t, check(t, "["+strings.Repeat("1", maxNumber+1)+"]", 100))
	require.True(t, check(t, `["`+strings.Repeat("x", maxToken)+`"]`, 32<<10))
	require.False(t, check(t, `["`+strings.Repeat("x", 3*maxToken)+`"]`, 32<<10))
}

// isJSON agrees with encoding/json about documents with small mistakes.
func TestJSONCheckLikeGo(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 3))
	const changes = "{}[]\",:\\ \n01-.eEtfnu/\x01a\xc3"
	for range 5000 {
		b := []byte(document(random, []string{secret}))
		for range random.IntN(3) {
			if len(b) == 0 {
				break
			}
			i := random.IntN(len(b))
			switch random.IntN(3) {
			case 0:
				b[i] = changes[random.IntN(len(changes))]
			case 1:
				b = append(b[:i], b[i+1:]...)
			case 2:
				b = append(b[:i], append([]byte{b[i]}, b[i:]...)...)
			}
		}
		likeGo(t, string(b), 1+random.IntN(40))
	}
}

// likeGo compares isJSON with encoding/json, which also decodes `1"a"`, as two values.
func likeGo(t testing.TB, data string, n int) {
	t.Helper()
	got := check(t, data, n)
	if json.Valid([]byte(data)) {
		require.Truef(t, got, "%q", data)
	}
	if got {
		require.Truef(t, several(data), "%q", data)
	}
}

func TestMaskJSON(t *testing.T) {
	service := "{\n  \"type\": \"service_account\",\n  \"id\": 12345678901,\n  \"on\": true\n}"
	in := knows("sec\"ret\\\n", "87654321", "Ä€\U0001f600ä", `a": 12345`, service,
		"\U0001f511\U0001f511", "\"quoted\"")
	for data, want := range map[string]string{
		// Strings, plain and escaped.
		`{"a": "x sec\"ret\\\n y"}`:            `{"a": "x [REDACTED:A]\n y"}`, // the final white space stays
		`["87654321", "x87654321"]`:            `["[REDACTED:B]", "x[REDACTED:B]"]`,
		`["\u00c4\u20ac\ud83d\ude00\u00e4"]`:   `["[REDACTED:C]"]`,
		`["Ä€` + "\U0001f600" + `ä", "Ä€"]`:    `["[REDACTED:C]", "Ä€"]`,
		`["87654321 87654321", "8765432"]`:     `["[REDACTED:B] [REDACTED:B]", "8765432"]`,
		`["8765432187654321"]`:                 `["[REDACTED:B]"]`,
		`{"87654321": {"x87654321": []}}`:      `{"[REDACTED:B]": {"x[REDACTED:B]": []}}`,
		mark + `"87654321"` + "\n{}\n":         mark + `"[REDACTED:B]"` + "\n{}\n",
		`["sec\"ret\\"]`:                       `["[REDACTED:A]"]`,
		`["\"quoted\"", "quoted"]`:             `["[REDACTED:G]", "[REDACTED:G]"]`,
		`["\ud83d\udd11\ud83d\udd11\ud83d"]`:   `["[REDACTED:F]\ud83d"]`,
		"[\"\\ud83d\U0001f511\U0001f511\\n\"]": `["\ud83d[REDACTED:F]\n"]`,

		// Numbers and literals.
		`87654321`:                    `"[REDACTED:B]"`,
		"87654321\n1 87654321":        "\"[REDACTED:B]\"\n1 \"[REDACTED:B]\"",
		`[-87654321.5e3,1]`:           `["[REDACTED:B]",1]`,
		`{"x":187654321,"y":8765432}`: `{"x":"[REDACTED:B]","y":8765432}`,
		`[876543210087654321,1]`:      `["[REDACTED:B]",1]`,
		`[1.87654321,87654321]`:       `["[REDACTED:B]","[REDACTED:B]"]`,
		`{"a":123456789.50,"b":[1.0E+05,-0.0,1000000000000000000000000.10],"c":"87654321"}`: `{"a":123456789.50,` +
			`"b":[1.0E+05,-0.0,1000000000000000000000000.10],"c":"[REDACTED:B]"}`,
		`{"a": 12345, "b": 1}`:   `{"[REDACTED:D]": "[REDACTED:D]", "b": 1}`,
		`{"ba": 123456, "b": 1}`: `{"b[REDACTED:D]": "[REDACTED:D]", "b": 1}`,
		service: "{\n  \"[REDACTED:E]\": \"[REDACTED:E]\",\n  \"[REDACTED:E]-2\": \"[REDACTED:E]\",\n" +
			"  \"[REDACTED:E]-3\": \"[REDACTED:E]\"\n}",
		`{"k": ` + service + `, "x": [1]}`: "{\"k\": {\n  \"[REDACTED:E]\": \"[REDACTED:E]\",\n" +
			"  \"[REDACTED:E]-2\": \"[REDACTED:E]\",\n  \"[REDACTED:E]-3\": \"[REDACTED:E]\"\n}, \"x\": [1]}",

		// Names stay different.
		`{"87654321": 1, "ODc2NTQzMjE=": 2, "87654321 ": 3, ` +
			`"x": {"87654321": 4}, "3837363534333231": 5}`: `{"[REDACTED:B]": 1, "[REDACTED:B]-2": 2, ` +
			`"[REDACTED:B] ": 3, "x": {"[REDACTED:B]": 4}, "[REDACTED:B]-3": 5}`,
		"{\"87654321\": 1}\n{\"87654321\": 1}": `{"[REDACTED:B]": 1}` + "\n" + `{"[REDACTED:B]": 1}`,
		`[{"87654321": "87654321", "87654321-2": "87654321"}]`: `[{"[REDACTED:B]": "[REDACTED:B]", ` +
			`"[REDACTED:B]-2": "[REDACTED:B]"}]`,
		`{"87654321\u00e9x": 1, "ODc2NTQzMjE=éx": 2, "87654321\u00e9\u0078": 3}`: `{` +
			`"[REDACTED:B]\u00e9x": 1, "[REDACTED:B]éx-2": 2, "[REDACTED:B]\u00e9\u0078-3": 3}`,
		`[{"87654321-2": 1, "87654321": 2, "ODc2NTQzMjE=": 3}]`: `[{"[REDACTED:B]-2": 1, ` +
			`"[REDACTED:B]": 2, "[REDACTED:B]-3": 3}]`,
	} {
		t.Run(data, func(t *testing.T) {
			for n := 1; n < len(data); n++ {
				c := look(t, in, "f", []byte(data), n)
				require.Equalf(t, jsonText, c.kind, "%s", data)
				out, err := mask(t, in, c, []byte(data), every(n))
				require.NoErrorf(t, err, "%s", data)
				require.Equalf(t, want, out, "%s", data)
			}
		})
	}
	// A value of JSON's own signs cannot be masked: the signs must stay.
	in = knows(`", "", "`, `": ""}`)
	for data, name := range map[string]string{`["x", "", "", "y"]`: "A", `{"a": ""}`: "B", `[{"a": ""}, 1]`: "B"} {
		t.Run(data, func(t *testing.T) {
			c := look(t, in, "f", []byte(data), whole)
			require.Equal(t, Content{kind: jsonText, Found: map[string]int{name: 1}}, c)
			_, err := mask(t, in, c, []byte(data), every(whole))
			require.ErrorIs(t, err, ErrStill)
		})
	}
}

// A file may have changed since it was inspected.
func TestMaskJSONThatChanged(t *testing.T) {
	in := knows(secret)
	for _, data := range []string{"[" + strings.Repeat("1", 2*maxNumber) + "]", strings.Repeat("[", maxNesting+2)} {
		_, err := mask(t, in, Content{kind: jsonText}, []byte(data), every(whole))
		require.ErrorIs(t, err, ErrStill)
	}
	for data := range jsonFiles {
		t.Run(fmt.Sprintf("%q", data), func(t *testing.T) {
			out, err := mask(t, in, Content{kind: jsonText}, []byte(data), every(1))
			require.NoError(t, err)
			require.Equal(t, data, out)
		})
	}
}

// Masked names are remembered only while their object is open.
func TestMaskManyNames(t *testing.T) {
	in := knows(secret)
	var b strings.Builder
	for i := range maxMaskedKeys + 1 {
		fmt.Fprintf(&b, `{"s3cr3t-v\"lue%d": 1}`, i)
	}
	out, err := mask(t, in, Content{kind: jsonText}, []byte(b.String()), every(whole))
	require.NoError(t, err)
	require.Equal(t, maxMaskedKeys+1, strings.Count(out, "[REDACTED:A]"))
	one := strings.ReplaceAll(b.String(), "}{", ",")
	_, err = mask(t, in, Content{kind: jsonText}, []byte(one), every(whole))
	require.ErrorIs(t, err, ErrStill)
	// Many equal names cost no more than different ones.
	equal := "{" + strings.Repeat(`"s3cr3t-v\"lue": 1,`, 20_000) + `"": 0}`
	out, err = mask(t, in, Content{kind: jsonText}, []byte(equal), every(whole))
	require.NoError(t, err)
	require.Contains(t, out, `"[REDACTED:A]-20000"`)
}

// The same rules as the masker's, said plainly: mark what is covered, then go by tokens and
// characters.
var (
	tokens  = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^{}\[\],:"\s\x{feff}]+|[\s\x{feff}]+`)
	escapes = regexp.MustCompile(`^(?:\\u[dD][89abAB][[:xdigit:]]{2}\\(?:u[[:xdigit:]]{4}|[^u])|` +
		`\\u[[:xdigit:]]{4}|\\[^u])`)
)

// characters returns where the characters of a string begin and end.
func characters(inside string) (all [][2]int) {
	for from, to := 0, 0; from < len(inside); from = to {
		to = from + max(1, len(escapes.FindString(inside[from:])))
		need := from + length(inside[from])
		for inside[from] >= 0x80 && to < min(need, len(inside)) && !utf8.RuneStart(inside[to]) {
			to++
		}
		all = append(all, [2]int{from, to})
	}
	return all
}

// coverage returns, for each byte, the mask and the number of the run that covers it.
func coverage(t testing.TB, in *Inspector, data string) (masks []string, runs []int) {
	t.Helper()
	w := in.redactor.Writer(writeFunc(func(p []byte) (int, error) {
		masks, runs = append(masks, make([]string, len(p))...), append(runs, make([]int, len(p))...)
		return len(p), nil
	}))
	run, mask := 0, ""
	w.Covered = func(p []byte, m string) error {
		if m != "" {
			run++
			mask = m
		}
		for range p {
			masks, runs = append(masks, mask), append(runs, run)
		}
		return nil
	}
	_, err := io.WriteString(w, data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return masks, runs
}

type writeFunc func([]byte) (int, error)

func (f writeFunc) Write(p []byte) (int, error) { return f(p) }

// plainJSON masks JSON by the plain rules.
func plainJSON(t testing.TB, in *Inspector, data string) string {
	t.Helper()
	masks, runs := coverage(t, in, data)
	var out strings.Builder
	var names []map[string]bool // names in the open objects; nil for arrays
	key := false
	for _, at := range tokens.FindAllStringIndex(data, -1) {
		token := data[at[0]:at[1]]
		switch token[0] {
		case '{', '[':
			key = token == "{"
			names = append(names, nil)
			if key {
				names[len(names)-1] = map[string]bool{}
			}
			out.WriteString(token)
			continue
		case '}', ']':
			names, key = names[:len(names)-1], false
			out.WriteString(token)
			continue
		case ',':
			key = len(names) > 0 && names[len(names)-1] != nil
			out.WriteString(token)
			continue
		case ':', ' ', '\n', '\r', '\t', mark[0]:
			out.WriteString(token)
			continue
		case '"':
		default:
			for i := at[0]; i < at[1]; i++ {
				if runs[i] > 0 {
					token = `"` + masks[i] + `"`
					break
				}
			}
			out.WriteString(token)
			continue
		}
		inside, base, last, masked := data[at[0]+1:at[1]-1], at[0]+1, 0, false
		var content strings.Builder
		for _, c := range characters(inside) {
			stays := true
			for i := base + c[0]; i < base+c[1]; i++ {
				if runs[i] == 0 {
					continue
				}
				if stays = false; runs[i] != last {
					content.WriteString(masks[i])
					last, masked = runs[i], true
				}
			}
			if stays {
				content.WriteString(inside[c[0]:c[1]])
			}
		}
		name := content.String()
		if key {
			taken := names[len(names)-1]
			for n := 2; masked && taken[meant(t, name)]; n++ {
				name = fmt.Sprintf("%s-%d", content.String(), n)
			}
			if masked {
				taken[meant(t, name)] = true
			}
			key = false
		}
		out.WriteString(`"` + name + `"`)
	}
	return out.String()
}

// meant returns the text that a string stands for.
func meant(t testing.TB, inside string) (s string) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(`"`+inside+`"`), &s))
	return s
}

// same reports whether after has the same values as before, at the same places. Names that
// were equal may have become different.
func same(before, after any) bool {
	switch before := before.(type) {
	case map[string]any:
		after, ok := after.(map[string]any)
		if !ok || len(after) < len(before) {
			return false
		}
		for name, v := range before {
			if other, ok := after[name]; ok && len(after) == len(before) && !same(v, other) {
				return false
			}
		}
		return true
	case []any:
		after, ok := after.([]any)
		if !ok || len(after) != len(before) {
			return false
		}
		for i, v := range before {
			if !same(v, after[i]) {
				return false
			}
		}
		return true
	case string:
		_, ok := after.(string)
		return ok
	}
	if _, ok := after.(string); ok {
		return true
	}
	return before == after
}

func decoded(t testing.TB, data string) (all []any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(strings.TrimPrefix(data, mark)))
	d.UseNumber()
	for {
		var v any
		err := d.Decode(&v)
		if err == io.EOF {
			return all
		}
		require.NoErrorf(t, err, "%q", data)
		all = append(all, v)
	}
}

// holds asserts what must be true of every masked document.
func holds(t testing.TB, in *Inspector, data string, sizes ...func() int) {
	t.Helper()
	c := look(t, in, "f", []byte(data), whole)
	if c.kind != jsonText {
		return
	}
	want := plainJSON(t, in, data)
	still := len(finds(t, in, want)) > 0
	for _, n := range sizes {
		out, err := mask(t, in, c, []byte(data), n)
		if still {
			require.ErrorIsf(t, err, ErrStill, "%q", data)
			continue
		}
		require.NoErrorf(t, err, "%q", data)
		require.Equalf(t, want, out, "%q", data)
	}
	if still {
		return
	}
	require.Truef(t, several(want), "%q became %q", data, want)
	require.True(t, utf8.ValidString(want))
	before, after := decoded(t, data), decoded(t, want)
	require.Len(t, after, len(before))
	for i := range before {
		require.Truef(t, same(before[i], after[i]), "%q became %q", data, want)
	}
}

// awkward returns a value that JSON can hold in many ways.
func awkward(random *rand.Rand) string {
	parts := []string{
		`"`, `\`, "\n", "/", "<", "é", "€", "\U0001f600", "\x7f", "\u2028",
		"a", "secret", "0123", `": `, `, `, `{"`, `"}`, `[1,`, "true", "null",
		`\n`, `\u00`, `\ud83d`, "'", "\t", "u00e9", "ud83d",
	}
	switch random.IntN(8) {
	case 0:
		return fmt.Sprint(100_000 + random.IntN(1_000_000_000))
	case 1:
		return fmt.Sprintf(`%c": %d`, 'a'+random.IntN(3), 1000+random.IntN(100_000))
	case 2: // a pasted file
		b, _ := json.MarshalIndent(map[string]any{
			"type": "account", "id": random.IntN(1 << 40), "on": true, "key": "k\n" + fmt.Sprint(random.Uint64()),
		}, "", strings.Repeat(" ", random.IntN(3)))
		return string(b)
	case 3:
		return []string{`", "`, `},{"`, `": [`}[random.IntN(3)] + []string{"x", `", "`, "1"}[random.IntN(3)]
	}
	var s strings.Builder
	for range 2 + random.IntN(6) {
		s.WriteString(parts[random.IntN(len(parts))])
	}
	return s.String()
}

// document returns JSON that holds values in various forms.
func document(random *rand.Rand, values []string) string {
	var b strings.Builder
	w := writer{random, values, &b}
	for range 1 + random.IntN(3)/2 {
		w.value(0)
		b.WriteString("\n")
	}
	return b.String()
}

type writer struct {
	random *rand.Rand
	values []string
	b      *strings.Builder
}

func (w writer) space() { w.b.WriteString(strings.Repeat(" ", w.random.IntN(3)/2)) }

func (w writer) value(depth int) {
	n := w.random.IntN(10)
	if depth > 4 {
		n = 4 + n%6
	}
	one := w.values[w.random.IntN(len(w.values))]
	switch n {
	case 0, 1:
		w.b.WriteString("{")
		for i := range w.random.IntN(4) {
			if i > 0 {
				w.b.WriteString(",")
				w.space()
			}
			w.text()
			w.b.WriteString(":")
			w.space()
			w.value(depth + 1)
		}
		w.b.WriteString("}")
	case 2, 3:
		w.b.WriteString("[")
		for i := range w.random.IntN(4) {
			if i > 0 {
				w.b.WriteString(",")
				w.space()
			}
			w.value(depth + 1)
		}
		w.b.WriteString("]")
	case 4:
		w.b.WriteString([]string{"true", "false", "null"}[w.random.IntN(3)])
	case 5:
		if json.Valid([]byte(one)) { // a number, or a pasted file
			if '0' <= one[0] && one[0] <= '9' && w.random.IntN(2) == 0 {
				w.b.WriteString("1" + one + "7") // within a longer number, or twice
			}
			w.b.WriteString(one)
			return
		}
		fmt.Fprint(w.b, w.random.IntN(100_000))
	case 6:
		fmt.Fprintf(w.b, "-%d.%de%d", w.random.IntN(1000), w.random.IntN(1000), w.random.IntN(10))
	default:
		w.text()
	}
}

// text writes a string.
func (w writer) text() {
	w.b.WriteString(`"`)
	for range w.random.IntN(4) {
		one := w.values[w.random.IntN(len(w.values))]
		all := forms.Of([]byte(one), 6)
		switch w.random.IntN(6) {
		case 0:
			w.b.WriteString(strings.ToValidUTF8(escape(one, w.random), ""))
		case 1: // in a form that fits into a string
			if len(all) == 0 {
				continue
			}
			form := string(all[w.random.IntN(len(all))].Bytes)
			if json.Valid([]byte(`"`+form+`"`)) && utf8.ValidString(form) {
				w.b.WriteString(form)
			}
		case 2:
			w.b.WriteString([]string{`\ud83d`, `\ude00`, `\\`, `\u0041`, `\n`, "\U0001f600", "ä"}[w.random.IntN(7)])
		default:
			w.b.WriteString([]string{"a", "text ", "0123", "xyz"}[w.random.IntN(4)])
		}
	}
	w.b.WriteString(`"`)
}

// escape escapes the characters that must be escaped, and some others.
func escape(s string, random *rand.Rand) string {
	var b strings.Builder
	often := random.IntN(3)
	for _, r := range s {
		switch {
		case r > 0xffff && random.IntN(3) < often:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		case r <= 0xffff && random.IntN(6) < often:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			quoted := new(bytes.Buffer)
			e := json.NewEncoder(quoted)
			e.SetEscapeHTML(false)
			_ = e.Encode(string(r))
			b.WriteString(strings.Trim(strings.TrimSuffix(quoted.String(), "\n"), `"`))
			if r == '"' {
				b.WriteString(`"`) // Trim has removed it from its escape
			}
		}
	}
	return b.String()
}

func TestMaskJSONAtRandom(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 4))
	t.Logf("seed %d", seed)
	rounds := 400
	if testing.Short() {
		rounds = 60
	}
	for range rounds {
		var values []string
		for range 1 + random.IntN(5) {
			values = append(values, awkward(random))
		}
		in := knows(values...)
		for range 5 {
			data := document(random, values)
			require.Truef(t, several(data), "%q", data)
			sizes := []func() int{every(whole), every(1), func() int { return 1 + random.IntN(20) }}
			if len(data) < 60 {
				for n := 2; n < len(data); n++ {
					sizes = append(sizes, every(n))
				}
			}
			holds(t, in, data, sizes...)
		}
	}
}

func FuzzJSON(f *testing.F) {
	for data := range jsonFiles {
		f.Add([]byte(data), []byte(secret), 1)
	}
	random := rand.New(rand.NewPCG(1, 1))
	for range 50 {
		v := awkward(random)
		f.Add([]byte(document(random, []string{v})), []byte(v), 1+random.IntN(9))
	}
	f.Fuzz(func(t *testing.T, data, value []byte, n int) {
		likeGo(t, string(data), max(n, 1))
		holds(t, knows(string(value)), string(data), every(n), every(whole))
	})
}
