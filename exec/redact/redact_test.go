package redact_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"inject/exec/redact"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// oracle masks by the plain rule: mark every occurrence of every value, and
// replace each maximal run of marked bytes by the mask of the value that begins
// it, the longest of those that begin there.
func oracle(text string, values map[string]string) string { return oracleUpTo(text, values, len(text)) }

// oracleUpTo is what of the masked text is about text[:decided].
func oracleUpTo(text string, values map[string]string, decided int) string {
	covered := make([]bool, len(text))
	begins := map[int]string{}
	for name, v := range values {
		for i := range len(text) {
			if v == "" || !strings.HasPrefix(text[i:], v) {
				continue
			}
			for j := range len(v) {
				covered[i+j] = true
			}
			if old, ok := begins[i]; !ok || len(values[old]) < len(v) {
				begins[i] = name
			}
		}
	}
	var out strings.Builder
	for i := range decided {
		switch {
		case !covered[i]:
			out.WriteByte(text[i])
		case i == 0 || !covered[i-1]:
			out.WriteString("[redacted:" + begins[i] + "]")
		}
	}
	return out.String()
}

func patterns(values map[string]string) []redact.Pattern {
	var p []redact.Pattern
	for name, v := range values {
		p = append(p, redact.Pattern{Name: name, Value: []byte(v)})
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

// bytewise cuts text into its bytes.
func bytewise(text string) []string {
	chunks := make([]string, len(text))
	for i := range len(text) {
		chunks[i] = text[i : i+1]
	}
	return chunks
}

func values(v ...string) map[string]string {
	m := map[string]string{}
	for i, v := range v {
		m[string(rune('A'+i))] = v
	}
	return m
}

var pem = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n-----END PRIVATE KEY-----"

var table = []struct {
	name   string
	values map[string]string
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
	{"the mask is a value", values("[redacted:A]"), "1[redacted:A]2"},
	{"mask and tail is a value", values("secret-1", "[redacted:A]tail"), "1secret-1tail2"},
	{"binary", values("\x00\xff\xfe\x00bin"), "1\x00\xff\xfe\x00bin\x00\xff2"},
	{"only the value", values("s3cr3t-value"), "s3cr3t-value"},
	{"none", values("s3cr3t-value"), "nothing here s3cr3t_value"},
}

func TestTable(t *testing.T) {
	for _, c := range table {
		r := redact.New(1, patterns(c.values)...)
		want := oracle(c.text, c.values)
		require.Equal(t, want, masked(t, r, c.text), c.name)
		for i := range len(c.text) {
			require.Equalf(t, want, masked(t, r, c.text[:i], c.text[i:]), "%s, cut at %d", c.name, i)
			for j := i; j < len(c.text) && len(c.text) < 40; j++ {
				require.Equalf(t, want, masked(t, r, c.text[:i], c.text[i:j], c.text[j:]), "%s, cut at %d and %d", c.name, i, j)
			}
		}
		require.Equal(t, want, masked(t, r, bytewise(c.text)...), "%s, byte by byte", c.name)
	}
}

// Every set of up to two patterns and every text over two letters, up to a
// length, in one write and byte by byte.
func TestExhaustive(t *testing.T) {
	words := func(n int) []string {
		all := []string{""}
		for i := 0; len(all[i]) < n; i++ {
			all = append(all, all[i]+"a", all[i]+"b")
		}
		return all[1:]
	}
	texts := words(9)
	sets := words(4)
	for i, p := range sets {
		for _, q := range sets[i:] {
			v := values(p, q)
			r := redact.New(1, redact.Pattern{Name: "A", Value: []byte(p)}, redact.Pattern{Name: "B", Value: []byte(q)})
			if p == q {
				delete(v, "B") // equal values: the first name
			}
			for _, text := range texts[len(texts)-512:] {
				want := oracle(text, v)
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

func FuzzWriter(f *testing.F) {
	for _, c := range table {
		f.Add(c.values["A"], c.values["B"], c.text, uint64(1))
	}
	f.Fuzz(func(t *testing.T, a, b, text string, seed uint64) {
		if strings.TrimSpace(a) != a || strings.TrimSpace(b) != b || strings.Contains(a+b, "\n") {
			return // such values have several forms: see TestForms
		}
		v := values(a, b)
		if a == b {
			delete(v, "B")
		}
		for name, value := range v {
			if value == "" {
				delete(v, name)
			}
		}
		r := redact.New(1, redact.Pattern{Name: "A", Value: []byte(a)}, redact.Pattern{Name: "B", Value: []byte(b)})
		want := oracle(text, v)
		random := rand.New(rand.NewPCG(seed, 0))
		var chunks []string
		for rest := text; rest != ""; {
			n := 1 + random.IntN(min(len(rest), 1+random.IntN(20)))
			chunks, rest = append(chunks, rest[:n]), rest[n:]
		}
		if got := masked(t, r, chunks...); got != want {
			t.Fatalf("%q, %q in %q as %q: %q instead of %q", a, b, text, chunks, got, want)
		}
	})
}

// What is held back is exactly the longest end that may begin a pattern.
func TestHeldBack(t *testing.T) {
	for _, c := range table {
		r := redact.New(1, patterns(c.values)...)
		var out strings.Builder
		w := r.Writer(&out)
		for i := range len(c.text) {
			_, err := w.Write([]byte{c.text[i]})
			require.NoError(t, err)
			held := 0
			for n := 1; n <= i+1; n++ {
				for _, v := range c.values {
					if n < len(v) && strings.HasPrefix(v, c.text[i+1-n:i+1]) {
						held = n
					}
				}
			}
			require.Equalf(t, oracleUpTo(c.text[:i+1], c.values, i+1-held), out.String(), "%s after %q", c.name, c.text[:i+1])
		}
		require.NoError(t, w.Close())
	}
	var out strings.Builder
	w := redact.New(1, redact.Pattern{Name: "K", Value: []byte("s3cr3t")}).Writer(&out)
	_, _ = io.WriteString(w, "Password: s3cr3t")
	require.Equal(t, "Password: [redacted:K]", out.String(), "the mask appears with the value's last byte")
}

func TestForms(t *testing.T) {
	for _, c := range []struct{ value, text, want string }{
		{"value-1\n", "x value-1 y value-1\nz", "x [redacted:K] y [redacted:K]\nz"},
		{" \tvalue-1 ", "xvalue-1y", "x[redacted:K]y"},
		{"line-1\nline-2\n", "x line-1\r\nline-2\r\n line-1\nline-2\n", "x [redacted:K]\r\n [redacted:K]\n"},
		{"line-1\r\nline-2", "x line-1\nline-2 line-1\r\nline-2", "x [redacted:K] [redacted:K]"},
		{"ab\n\n\n\n", "ab\n\n\n\n", "[redacted:K]"},
	} {
		r := redact.New(6, redact.Pattern{Name: "K", Value: []byte(c.value)})
		require.Empty(t, r.Unmasked())
		require.Equal(t, c.want, masked(t, r, c.text))
	}
	r := redact.New(6,
		redact.Pattern{Name: "SHORT", Value: []byte("12345")}, redact.Pattern{Name: "EMPTY"},
		redact.Pattern{Name: "BLANK", Value: []byte("\n \t      \n")}, redact.Pattern{Name: "OK", Value: []byte("123456")})
	require.Equal(t, []string{"SHORT", "EMPTY", "BLANK"}, r.Unmasked())
	require.Equal(t, "12345 \n \t      \n [redacted:OK]", masked(t, r, "12345 \n \t      \n 123456"))
	require.True(t, redact.New(6).Empty())
	require.False(t, r.Empty())
}

// broken fails, or writes short, after some bytes.
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
	for _, c := range []struct{ err, want error }{{full, full}, {nil, io.ErrShortWrite}} {
		dst := &broken{left: 5, err: c.err}
		w := redact.New(1, redact.Pattern{Name: "K", Value: []byte("s3cr3t")}).Writer(dst)
		n, err := w.Write([]byte("0123456789 s3"))
		require.ErrorIs(t, err, c.want)
		require.Zero(t, n)
		_, err = w.Write([]byte("more"))
		require.ErrorIs(t, err, c.want)
		require.ErrorIs(t, w.Close(), c.want)
		require.Equal(t, "01234", dst.wrote.String(), "nothing is written twice")
	}
	w := redact.New(1).Writer(io.Discard)
	require.NoError(t, w.Close())
	_, err := w.Write([]byte("x"))
	require.ErrorIs(t, err, io.ErrClosedPipe)
}

// Patterns are added while writers run: old values stay masked all the time, new
// ones are from the next write on, also if half of one is held back.
func TestAdd(t *testing.T) {
	r := redact.New(1, redact.Pattern{Name: "OLD", Value: []byte("old-value")})
	var out strings.Builder
	w := r.Writer(&out)
	_, _ = io.WriteString(w, "a old-val")
	r.Add(redact.Pattern{Name: "NEW", Value: []byte("old-valve")}, redact.Pattern{Name: "X", Value: []byte("xyz")})
	_, _ = io.WriteString(w, "ve b old-val")
	r.Add(redact.Pattern{Name: "Y", Value: []byte("yyy")})
	_, _ = io.WriteString(w, "ue xyyyz xyz")
	require.NoError(t, w.Close())
	require.Equal(t, "a [redacted:NEW] b [redacted:OLD] x[redacted:Y]z [redacted:X]", out.String())

	// A shown run goes on across the change.
	out.Reset()
	r = redact.New(1, redact.Pattern{Name: "A", Value: []byte("abab")})
	w = r.Writer(&out)
	_, _ = io.WriteString(w, "1ababab")
	r.Add(redact.Pattern{Name: "B", Value: []byte("zzz")})
	_, _ = io.WriteString(w, "abzzz2")
	require.NoError(t, w.Close())
	require.Equal(t, "1[redacted:A]2", out.String())

	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				r.Add(redact.Pattern{Name: "N", Value: fmt.Appendf(nil, "new-%d-%d", i, j)})
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
			if bytes.Contains(out.Bytes(), []byte("abab")) || bytes.Count(out.Bytes(), []byte("[redacted:A]")) != 2000 {
				t.Error("an old value was shown")
			}
		})
	}
	wg.Wait()
}
