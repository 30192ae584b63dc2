package redact_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"inject/exec/redact"
	"inject/exec/redact/forms"
	"inject/exec/redact/redacttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// allForms returns the forms of all patterns, each as a pattern of the plain rule.
func allForms(minLength int, patterns ...redact.Pattern) []redacttest.Pattern {
	var all []redacttest.Pattern
	for _, f := range redact.Forms(minLength, patterns...) {
		all = append(all, redacttest.Pattern{
			Mask: redact.Mask(f.Name), Value: f.Bytes, Numbers: f.Kind == forms.KindNumbers,
		})
	}
	return all
}

// oracle returns text as the plain rule masks it.
func oracle(text string, patterns ...redact.Pattern) string {
	return string(redacttest.Mask([]byte(text), allForms(1, patterns...)))
}

// values returns patterns with the names A, B, …
func values(values ...string) []redact.Pattern {
	var p []redact.Pattern
	for i, v := range values {
		p = append(p, redact.Pattern{Name: string(rune('A' + i)), Value: []byte(v)})
	}
	return p
}

func masked(t testing.TB, r *redact.Redactor, chunks ...string) string {
	t.Helper()
	var out strings.Builder
	w := r.Writer(&out)
	for _, c := range chunks {
		n, err := w.Write([]byte(c))
		require.NoError(t, err)
		require.Equal(t, len(c), n)
	}
	require.NoError(t, w.Close())
	return out.String()
}

// bytewise splits text into its bytes.
func bytewise(text string) []string {
	chunks := make([]string, len(text))
	for i := range len(text) {
		chunks[i] = text[i : i+1]
	}
	return chunks
}

var pem = "-----BEGIN PRIVATE KEY-----\n" +
	"MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n-----END PRIVATE KEY-----"

var table = []struct {
	name   string
	values []redact.Pattern
	text   string
}{
	{"plain", values("s3cr3t-value"), "the s3cr3t-value is"},
	{"adjacent twice", values("s3cr3t-value"), "x s3cr3t-values3cr3t-value y"},
	{"overlap", values("abcdefgh", "efghijkl"), "1abcdefghijkl2"},
	{"A prefix of B, B printed", values("abcdefgh", "abcdefghijklmno"), "1abcdefghijklmno2"},
	{"A prefix of B, A printed", values("abcdefgh", "abcdefghijklmno"), "1abcdefgh2"},
	{"A prefix of B, half of B", values("abcdefgh", "abcdefghijklmno"), "1abcdefghijk2"},
	{"A suffix of B", values("ijklmno", "abcdefghijklmno"), "1abcdefghijklmno2"},
	{"A inside B", values("defghi", "abcdefghijklmno"), "1abcdefghijklmno2"},
	{"A inside B, near B", values("defghi", "abcdefghijklmno"), "1abcdefghijklmnX2"},
	{"A inside B at the end, B cut", values("defghi", "abcdefghijklmno"), "1abcdefghijk"},
	{"overlaps itself", values("abcabc"), "1abcabcabc2"},
	{"restart", values("aaaaaaab"), "1aaaaaaaaaab2"},
	{"restart abababac", values("abababac"), "1abababababac2"},
	{"restart via another", values("abcdeXYZ", "cdefghij"), "1abcdefghij2"},
	{"first byte repeats", values("ssecret-token"), "1sssecret-token2"},
	{"a chain of overlaps", values("aabbcc", "bbccdd", "ccddee"), "1aabbccddee2"},
	{"a bridge between two", values("abcdef", "ghijkl", "efgh"), "1abcdefghijkl2"},
	{"a match that reaches back over another", values("bcd", "abcdef"), "1bcdabcdef2bcd3abcde"},
	{"PEM", values(pem), "key:\n" + pem + "\nend"},
	{"half at the end is not lost", values("s3cr3t-value"), "the s3cr3t-va"},
	{"the mask is a value", values("[REDACTED:A]"), "1[REDACTED:A]2"},
	{"mask and tail is a value", values("secret-1", "[REDACTED:A]tail"), "1secret-1tail2"},
	{"binary", values("\x00\xff\xfe\x00bin"), "1\x00\xff\xfe\x00bin\x00\xff2"},
	{"only the value", values("s3cr3t-value"), "s3cr3t-value"},
	{"none", values("s3cr3t-value"), "nothing here s3cr3t_value"},
}

func TestTable(t *testing.T) {
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			r := redact.New(1, c.values...)
			want := oracle(c.text, c.values...)
			require.Equal(t, want, masked(t, r, c.text))
			for i := range len(c.text) {
				require.Equalf(t, want, masked(t, r, c.text[:i], c.text[i:]), "cut at %d", i)
				for j := i; j < len(c.text) && len(c.text) < 40; j++ {
					require.Equalf(t, want, masked(t, r, c.text[:i], c.text[i:j], c.text[j:]), "cut at %d and %d", i, j)
				}
			}
			require.Equal(t, want, masked(t, r, bytewise(c.text)...), "%s, byte by byte")

			// Check the plain automaton, too: other tests use it where the rule is too slow.
			var plain strings.Builder
			w := redacttest.NewPlain(allForms(1, c.values...)).Writer(&plain)
			for _, b := range bytewise(c.text) {
				_, err := io.WriteString(w, b)
				require.NoError(t, err)
			}
			require.NoError(t, w.Close())
			require.Equal(t, want, plain.String())
		})
	}
}

// TestExhaustive takes every set of one or two patterns and every text over two letters, up
// to a length, and writes the text at once and byte by byte.
func TestExhaustive(t *testing.T) {
	words := func(n int) []string {
		all := []string{""}
		for i := 0; len(all[i]) < n; i++ {
			all = append(all, all[i]+"a", all[i]+"b")
		}
		return all[1:]
	}
	longest := 8
	if testing.Short() {
		longest = 6 // a quarter of the texts
	}
	texts := words(longest)
	sets := words(4)
	for i, p := range sets {
		for _, q := range sets[i:] {
			v := values(p, q)
			whole := redact.New(1, v...)
			for j, text := range texts {
				r := whole
				if j%3 == 0 {
					r = redact.New(1, v...).Stubs(1 + i%5)
				}
				want := oracle(text, v...)
				if got := masked(t, r, text); got != want {
					t.Fatalf("%q, %q in %q: %q instead of %q", p, q, text, got, want)
				}
				if got := masked(t, r, bytewise(text)...); got != want {
					t.Fatalf("%q, %q in %q, byte by byte: %q instead of %q", p, q, text, got, want)
				}
			}
		}
	}
}

// chunked splits text at random. No piece is longer than most bytes.
func chunked(text string, most int, random *rand.Rand) []string {
	var chunks []string
	most = 1 + random.IntN(most)
	for text != "" {
		n := 1 + random.IntN(min(len(text), most))
		chunks, text = append(chunks, text[:n]), text[n:]
	}
	return chunks
}

// TestRandom takes values that overlap, nest and repeat, in texts that consist of parts of
// them. The lengths make the filter work in each of its ways.
func TestRandom(t *testing.T) {
	rounds := 1500
	if testing.Short() {
		rounds = 600
	}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	word := func(alphabet string, n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = alphabet[random.IntN(len(alphabet))]
		}
		return string(b)
	}
	for round := range rounds {
		alphabet := []string{"a", "ab", "abc", "abcdefghijklmnop", "\x00\xff\x80é+/&\"'\\ \n"}[random.IntN(5)]
		shortest := 1 + random.IntN(30)
		base := word(alphabet, 200)
		piece := func(least int) string {
			n := min(least+random.IntN(40), len(base))
			at := random.IntN(len(base) - n + 1)
			return base[at : at+n]
		}
		var v []string
		most := 12
		if len(alphabet) > 16 {
			most = 3 // each has about a hundred forms
		}
		for range 1 + random.IntN(most) {
			s := piece(shortest)
			if random.IntN(3) == 0 {
				s += word(alphabet, 1+random.IntN(5))
			}
			v = append(v, s)
		}
		patterns := values(v...)
		all := allForms(1, patterns...)
		var b strings.Builder
		for b.Len() < 20+random.IntN(3000) {
			switch random.IntN(5) {
			case 0:
				b.WriteString(v[random.IntN(len(v))])
			case 1:
				s := v[random.IntN(len(v))]
				b.WriteString(s[:random.IntN(len(s)+1)])
			case 2:
				b.WriteString(strings.Repeat("x", random.IntN(100)))
			case 3:
				b.WriteString(piece(1))
			default:
				if len(all) > 0 {
					b.Write(all[random.IntN(len(all))].Value)
				}
			}
		}
		text := b.String()
		r := redact.New(1, patterns...).Stubs(1 + random.IntN(60))
		want := string(redacttest.Mask([]byte(text), all))
		for _, chunks := range [][]string{{text}, chunked(text, 200, random), chunked(text, 200, random)} {
			if got := masked(t, r, chunks...); got != want {
				t.Fatalf("seed %d, round %d: %q in %q as %q:\n%q instead of\n%q",
					seed, round, v, text, chunks, got, want)
			}
		}
	}
}

// TestEveryPlace puts a value at every place relative to the blocks of the filter, for every
// stride, with parts of other values around it.
func TestEveryPlace(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	letters := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "abcdefghijklmnopqrstuvwxyz"[random.IntN(26)]
		}
		return string(b)
	}
	for shortest := 4; shortest <= 24; shortest++ {
		v := []string{letters(shortest), letters(shortest + 1 + random.IntN(40)), letters(2*shortest + random.IntN(60))}
		patterns := values(v...)
		all := allForms(1, patterns...)
		r := redact.New(1, patterns...).Stubs(1 + random.IntN(60))
		for before := range 300 {
			value := all[random.IntN(len(all))].Value
			part := v[random.IntN(3)]
			part = part[random.IntN(len(part)):]
			text := strings.Repeat(".", before) + part + string(value) +
				part[:random.IntN(len(part))] + strings.Repeat("-", random.IntN(300))
			want := string(redacttest.Mask([]byte(text), all))
			require.Equalf(t, want, masked(t, r, text), "seed %d: %q", seed, v)
			cut := random.IntN(len(text))
			require.Equalf(t, want, masked(t, r, text[:cut], text[cut:]), "seed %d: %q, cut at %d", seed, v, cut)
		}
	}
}

// TestLargeSets takes enough values for every size of the filter's table. It compares with
// the plain automaton, because the plain rule would be too slow.
func TestLargeSets(t *testing.T) {
	length := 100_000
	if testing.Short() {
		length = 10_000
	}
	for _, c := range []struct{ n, shortest int }{
		{10, 4}, {10, 8}, {10, 20}, {150, 5}, {150, 8}, {150, 13}, {150, 33}, {600, 7}, {600, 9}, {600, 20}, {3000, 8},
	} {
		if testing.Short() && c.n > 150 {
			continue // building the plain automaton takes minutes under the race detector
		}
		t.Run(fmt.Sprintf("%d values of at least %d bytes", c.n, c.shortest), func(t *testing.T) {
			n, shortest := c.n, c.shortest
			random := rand.New(rand.NewPCG(uint64(n), uint64(shortest)))
			v := redacttest.Values(n, uint64(shortest))
			for i := range v {
				switch {
				case i%50 == 0 && len(v[i]) > shortest:
					v[i] = v[i][:shortest]
				case i%7 == 3:
					v[i] = append(bytes.Clone(v[i-1][:min(len(v[i-1]), 12)]), v[i]...)
				}
			}
			patterns := named(v)
			all := allForms(1, patterns...)
			var text []byte
			for len(text) < length {
				form := all[random.IntN(len(all))].Value
				if bytes.IndexByte(form, '\n') >= 0 {
					continue // it may be another form with a line break inside, which the plain automaton does not find
				}
				switch random.IntN(4) {
				case 0:
					text = append(text, form...)
				case 1:
					text = append(text, form[random.IntN(len(form)):]...)
				case 2:
					text = append(text, form[:random.IntN(len(form))]...)
				default:
					for range random.IntN(200) {
						text = append(text, byte(' '+random.IntN(90)))
					}
				}
			}
			var want bytes.Buffer
			plain := redacttest.NewPlain(all).Writer(&want)
			_, err := plain.Write(text)
			require.NoError(t, err)
			require.NoError(t, plain.Close())
			if masked(t, redact.New(1, patterns...), chunked(string(text), 5000, random)...) != want.String() {
				t.Error("the plain automaton masks it otherwise") // not shown: it is 100 KB
			}
		})
	}
}

func FuzzWriter(f *testing.F) {
	for _, c := range table {
		v := append(c.values, values("", "", "")...)
		f.Add(string(v[0].Value), string(v[1].Value), string(v[2].Value), c.text, uint64(1))
	}
	f.Fuzz(func(t *testing.T, a, b, c, text string, seed uint64) {
		if len(a)+len(b)+len(c) > 4096 || len(text) > 1<<16 {
			return
		}
		v := values(a, b, c)
		r := redact.New(1, v...).Stubs(1 + int(seed>>32)%64)
		want := oracle(text, v...)
		chunks := chunked(text, 200, rand.New(rand.NewPCG(seed, 0)))
		if got := masked(t, r, chunks...); got != want {
			t.Fatalf("%q in %q as %q: %q instead of %q", v, text, chunks, got, want)
		}
	})
}

// TestHeldBack: exactly the longest suffix that may begin a form is held back.
func TestHeldBack(t *testing.T) {
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			r := redact.New(1, c.values...)
			all := allForms(1, c.values...)
			var out strings.Builder
			w := r.Writer(&out)
			for i := range len(c.text) {
				_, err := w.Write([]byte{c.text[i]})
				require.NoError(t, err)
				require.Equalf(t, decidedPart(c.text[:i+1], all), out.String(), "after %q", c.text[:i+1])
			}
			require.NoError(t, w.Close())
		})
	}
	var out strings.Builder
	w := redact.New(1, redact.Pattern{Name: "K", Value: []byte("s3cr3t")}).Writer(&out)
	_, _ = io.WriteString(w, "Password: s3cr3t")
	require.Equal(t, "Password: [REDACTED:K]", out.String(), "the mask appears with the value's last byte")
	require.NoError(t, w.Close())

	// The same behind texts that the filter skips, split anywhere.
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		v := redacttest.Values(1+random.IntN(8), random.Uint64())
		var patterns []redact.Pattern
		for i, v := range v {
			patterns = append(patterns, redact.Pattern{Name: string(rune('A' + i)), Value: v})
		}
		all := allForms(1, patterns...)
		var text string
		for range 4 {
			text += strings.Repeat(". ", random.IntN(100))
			p := all[random.IntN(len(all))].Value
			text += string(p[:random.IntN(len(p)+1)])
		}
		out.Reset()
		w := redact.New(1, patterns...).Writer(&out)
		at := 0
		for _, chunk := range chunked(text, 200, random) {
			_, _ = io.WriteString(w, chunk)
			at += len(chunk)
			require.Equalf(t, decidedPart(text[:at], all), out.String(), "seed %d: %q after %q", seed, v, text[:at])
		}
		require.NoError(t, w.Close())
	}
}

// decidedPart returns what must have been written after text.
func decidedPart(text string, all []redacttest.Pattern) string {
	held := 0
	for _, p := range all {
		for n := min(len(p.Value)-1, len(text)); n > held; n-- {
			if strings.HasSuffix(text, string(p.Value[:n])) {
				held = n
			}
		}
	}
	return string(redacttest.MaskUpTo([]byte(text), all, len(text)-held))
}

func TestForms(t *testing.T) {
	for _, c := range []struct{ name, value, text, want string }{
		{"newline behind", "value-1\n", "x value-1 y value-1\nz", "x [REDACTED:K] y [REDACTED:K]\nz"},
		{"blanks around", " \tvalue-1 ", "xvalue-1y", "x[REDACTED:K]y"},
		{
			"two lines", "line-1\nline-2\n",
			"x line-1\r\nline-2\r\n line-1\nline-2\n", "x [REDACTED:K]\r\n [REDACTED:K]\n",
		},
		{"two lines with CRLF", "line-1\r\nline-2", "x line-1\nline-2 line-1\r\nline-2", "x [REDACTED:K] [REDACTED:K]"},
		{"long enough only with its newlines", "ab\n\n\n\n", "ab\n\n\n\n", "[REDACTED:K]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := redact.New(6, redact.Pattern{Name: "K", Value: []byte(c.value)})
			require.Empty(t, r.Unmasked())
			require.Equal(t, c.want, masked(t, r, c.text))
		})
	}
	r := redact.New(6,
		redact.Pattern{Name: "SHORT", Value: []byte("12345")}, redact.Pattern{Name: "EMPTY"},
		redact.Pattern{Name: "BLANK", Value: []byte("\n \t      \n")},
		redact.Pattern{Name: "OK", Value: []byte("123456")})
	require.Equal(t, []string{"SHORT", "EMPTY", "BLANK"}, r.Unmasked())
	require.Equal(t, "12345 \n \t      \n [REDACTED:OK]", masked(t, r, "12345 \n \t      \n 123456"))
	require.True(t, redact.New(6).Empty())
	require.False(t, r.Empty())
}

// A mask must not be markup of Python's rich, through which Flyte's CLI prints: rich shows
// nothing in its place. The expression is RE_TAGS of rich/markup.py (version 14).
func TestMaskIsNotMarkup(t *testing.T) {
	tags := regexp.MustCompile(`((\\*)\[([a-z#/@][^[]*?)])`)
	require.Regexp(t, tags, "token=[redacted:K]")
	for _, name := range []string{"K", "key", "value-1", "k.password", "/etc/key", "#1", "@x", `\`, "a]b"} {
		require.NotRegexp(t, tags, "token="+redact.Mask(name)+" and more]")
	}
}

// The forms and parts of documents lie in each other, begin in the same way and touch. They are
// masked as by the plain rule, however the text is cut.
func TestPartsByPlainRule(t *testing.T) {
	patterns := values(
		`{"username":"svc-reader","password":"hunter2 \"long\"","nested":[{"token":"aHVudGVyMyBodW50ZXI0"}]}`,
		"postgres://svc-reader:hunter%202%40long@db.example/app",
		"DB_PASSWORD='hunter2 long'\nAPI_KEY=hunter2\n",
		`"Bearer hunter2-long";`,
	)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	all := allForms(6, patterns...)
	r := redact.New(6, patterns...)
	require.Empty(t, r.Reduced())
	for range 200 {
		text := ""
		for range 1 + random.IntN(6) {
			form := string(all[random.IntN(len(all))].Value)
			switch random.IntN(4) {
			case 0:
				form = form[:random.IntN(len(form))]
			case 1:
				form = form[random.IntN(len(form)):]
			case 2:
				form += " "
			}
			text += form
		}
		want := string(redacttest.Mask([]byte(text), all))
		require.Equal(t, want, masked(t, r, text), "seed %d", seed)
		require.Equal(t, want, masked(t, r, chunked(text, 20, random)...), "seed %d", seed)
	}
}

// The masks of files that were masked before the word was in capitals stay as they are.
func TestOldMasks(t *testing.T) {
	r := redact.New(6, redact.Pattern{Name: "KEY", Value: []byte("s3cr3t-value")})
	old := `{"password": "[redacted:KEY]", "[redacted:KEY] 2": 1} token=[redacted:KEY.token]`
	require.Equal(t, old+"[REDACTED:KEY]", masked(t, r, old+"s3cr3t-value"))
}

// broken is a writer that fails, or writes too little, after left bytes.
type broken struct {
	left  int
	err   error
	wrote bytes.Buffer
}

func (b *broken) Write(p []byte) (int, error) {
	if len(p) > b.left {
		n := b.left
		b.wrote.Write(p[:n])
		b.left = 0
		return n, b.err
	}
	b.left -= len(p)
	return b.wrote.Write(p)
}

func TestErrorsStay(t *testing.T) {
	full := errors.New("full")
	for _, c := range []struct {
		name      string
		err, want error
	}{{"an error", full, full}, {"a short write", nil, io.ErrShortWrite}} {
		t.Run(c.name, func(t *testing.T) {
			dst := &broken{left: 5, err: c.err}
			w := redact.New(1, redact.Pattern{Name: "K", Value: []byte("s3cr3t")}).Writer(dst)
			n, err := w.Write([]byte("0123456789 s3"))
			require.ErrorIs(t, err, c.want)
			require.Zero(t, n)
			_, err = w.Write([]byte("more"))
			require.ErrorIs(t, err, c.want)
			require.ErrorIs(t, w.Close(), c.want)
			require.Equal(t, "01234", dst.wrote.String(), "nothing is written twice")
		})
	}
	w := redact.New(1).Writer(io.Discard)
	require.NoError(t, w.Close())
	_, err := w.Write([]byte("x"))
	require.ErrorIs(t, err, io.ErrClosedPipe)
}

// TestAdd adds patterns while writers are in use. Old values stay masked all the time. New
// ones are masked from the next write on, even if the first half of one is held back.
func TestAdd(t *testing.T) {
	r := redact.New(1, redact.Pattern{Name: "OLD", Value: []byte("old-value")})
	var out strings.Builder
	w := r.Writer(&out)
	_, _ = io.WriteString(w, "a old-val")
	require.NoError(t, r.Add(
		redact.Pattern{Name: "NEW", Value: []byte("old-valve")},
		redact.Pattern{Name: "X", Value: []byte("xyz")}))
	_, _ = io.WriteString(w, "ve b old-val")
	require.NoError(t, r.Add(redact.Pattern{Name: "Y", Value: []byte("yyy")}))
	_, _ = io.WriteString(w, "ue xyyyz xyz")
	require.NoError(t, w.Close())
	require.Equal(t, "a [REDACTED:NEW] b [REDACTED:OLD] x[REDACTED:Y]z [REDACTED:X]", out.String())

	// A run whose mask has been written goes on across the change.
	out.Reset()
	r = redact.New(1, redact.Pattern{Name: "A", Value: []byte("abab")})
	w = r.Writer(&out)
	_, _ = io.WriteString(w, "1ababab")
	require.NoError(t, r.Add(redact.Pattern{Name: "B", Value: []byte("zzz")}))
	_, _ = io.WriteString(w, "abzzz2")
	require.NoError(t, w.Close())
	require.Equal(t, "1[REDACTED:A]2", out.String())

	// What was covered before stays covered. Close looks for the new values, too.
	out.Reset()
	r = redact.New(1, values("12345abc", "abcdefgh")...)
	w = r.Writer(&out)
	_, _ = io.WriteString(w, "<12345abc")
	require.NoError(t, r.Add(redact.Pattern{Name: "C", Value: []byte("ab")}))
	_, _ = io.WriteString(w, "x> <abcd")
	require.NoError(t, r.Add(redact.Pattern{Name: "D", Value: []byte("abcd")}))
	require.NoError(t, w.Close())
	require.Equal(t, "<[REDACTED:A]x> <[REDACTED:D]", out.String())

	r = redact.New(1, values("abab")...)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				if r.Add(redact.Pattern{Name: "N", Value: fmt.Appendf(nil, "new-%d-%d", i, j)}) != nil {
					t.Error("it could not be added")
				}
			}
		})
		wg.Go(func() {
			var out bytes.Buffer
			w := r.Writer(&out)
			for range 2000 {
				_, _ = io.WriteString(w, "x ab")
				_, _ = io.WriteString(w, "ab y")
			}
			_ = w.Close()
			if bytes.Contains(out.Bytes(), []byte("abab")) || bytes.Count(out.Bytes(), []byte("[REDACTED:A]")) != 2000 {
				t.Error("an old value was shown")
			}
		})
	}
	wg.Wait()
}
