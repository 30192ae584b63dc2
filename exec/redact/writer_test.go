package redact_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"inject/exec/redact"
	"inject/exec/redact/redacttest"
)

// named gives values the names A to Z, and again from A on.
func named(values [][]byte) []redact.Pattern {
	var p []redact.Pattern
	for i, v := range values {
		p = append(p, redact.Pattern{Name: string(rune('A' + i%26)), Value: v})
	}
	return p
}

func TestReadFrom(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	patterns := named(redacttest.Values(5, seed))
	all := allForms(1, patterns...)
	var text []byte
	for len(text) < 1<<20 {
		text = append(text, all[random.IntN(len(all))].Value...)
		text = append(text, strings.Repeat("text ", random.IntN(2000))...)
	}
	want := redacttest.Mask(text, all)
	r := redact.New(1, patterns...)
	for _, c := range []struct {
		name string
		src  io.Reader
	}{
		{"whole", bytes.NewReader(text)},
		{"halves", iotest.HalfReader(bytes.NewReader(text))},
		{"end with data", iotest.DataErrReader(bytes.NewReader(text))},
		{"random", &randomReader{bytes.NewReader(text), random}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			w := r.Writer(&out)
			n, err := io.Copy(w, struct{ io.Reader }{c.src})
			require.NoError(t, err)
			require.EqualValues(t, len(text), n)
			require.NoError(t, w.Close())
			require.Truef(t, bytes.Equal(want, out.Bytes()), "seed %d", seed)
		})
	}

	// What the source returned before its error is written, and the stream can go on.
	var out bytes.Buffer
	w := r.Writer(&out)
	_, err := w.ReadFrom(io.MultiReader(strings.NewReader("before "), iotest.ErrReader(errors.ErrUnsupported)))
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = io.WriteString(w, "after")
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.Equal(t, "before after", out.String())

	// An error of the destination stays, and nothing more is read.
	src := strings.NewReader(strings.Repeat("x", 1<<20))
	w = r.Writer(&broken{left: 5, err: errors.ErrUnsupported})
	_, err = w.ReadFrom(src)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	left := src.Len()
	require.Positive(t, left)
	_, err = w.ReadFrom(src)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.Equal(t, left, src.Len())
}

type randomReader struct {
	io.Reader
	random *rand.Rand
}

func (r *randomReader) Read(p []byte) (int, error) {
	return r.Reader.Read(p[:min(len(p), r.random.IntN(100_000))])
}

// TestLongWrite: a Write of many pieces masks values at the ends of pieces, too.
func TestLongWrite(t *testing.T) {
	patterns := named(redacttest.Values(3, 1))
	unit := append(bytes.Repeat([]byte("0123456789"), 30_000), patterns[0].Value...)
	text := bytes.Repeat(unit, 20) // 6 MiB; each value is at another place of its piece
	var out bytes.Buffer
	w := redact.New(1, patterns...).Writer(&out)
	n, err := w.Write(text)
	require.NoError(t, err)
	require.Len(t, text, n)
	require.NoError(t, w.Close())
	want := bytes.ReplaceAll(text, patterns[0].Value, []byte("[REDACTED:A]"))
	require.True(t, bytes.Equal(want, out.Bytes()))

	// With an error, the number of bytes is that of the whole pieces before it.
	w = redact.New(1, patterns...).Writer(&broken{left: 5 << 19, err: errors.ErrUnsupported})
	n, err = w.Write(bytes.Repeat([]byte("x"), 6<<20))
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.Equal(t, 2<<20, n)
}

// screen is a buffer that may be read while it is written to.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) Len() int { return len(s.String()) }

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestLiveWriter: on a terminal the short beginning of a value is shown when nothing
// follows for a while, and the rest of the value is masked all the same.
func TestLiveWriter(t *testing.T) {
	const idle = 30 * time.Millisecond
	run := func(name string, do func(t *testing.T, out *screen, w *redact.Writer, write func(string))) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out screen
				w := redact.New(1, values("s3cr3t", "3cabcdef")...).LiveWriter(&out)
				do(t, &out, w, func(s string) {
					_, err := io.WriteString(w, s)
					require.NoError(t, err)
				})
				_ = w.Close() // the cases that care check its error themselves
			})
		})
	}
	wait := func(d time.Duration) { time.Sleep(d); synctest.Wait() }

	run("typed slowly", func(t *testing.T, out *screen, _ *redact.Writer, write func(string)) {
		write("Password: s")
		wait(idle - 1)
		require.Equal(t, "Password: ", out.String())
		wait(1)
		require.Equal(t, "Password: s", out.String())
		write("3")
		wait(idle)
		write("c")
		wait(idle)
		require.Equal(t, "Password: s3c", out.String())
		write("r")
		wait(time.Hour)
		require.Equal(t, "Password: s3c", out.String(), "four bytes of six stay held")
		write("3")
		wait(time.Hour)
		write("t!")
		require.Equal(t, "Password: s3c[REDACTED:A]!", out.String())
	})
	run("never idle", func(t *testing.T, out *screen, _ *redact.Writer, write func(string)) {
		for _, c := range "s3cr3t." {
			write(string(c))
			wait(idle - 1)
		}
		require.Equal(t, "[REDACTED:A].", out.String())
	})
	run("no value after all", func(t *testing.T, out *screen, _ *redact.Writer, write func(string)) {
		write("s3c")
		wait(idle)
		require.Equal(t, "s3c", out.String())
		write("x")
		require.Equal(t, "s3cx", out.String())
		write("s3")
		wait(idle)
		write("3")
		require.Equal(t, "s3cxs3", out.String(), "the end of what is shown may begin the other value")
		wait(idle)
		require.Equal(t, "s3cxs33", out.String())
	})
	run("the other value", func(t *testing.T, out *screen, _ *redact.Writer, write func(string)) {
		write("s3c")
		wait(idle)
		write("abcde")
		require.Equal(t, "s3c", out.String())
		write("f-")
		require.Equal(t, "s3c[REDACTED:B]-", out.String())
	})
	run("behind a mask", func(t *testing.T, out *screen, _ *redact.Writer, write func(string)) {
		write("s3cr3ts")
		require.Equal(t, "[REDACTED:A]", out.String())
		wait(idle)
		require.Equal(t, "[REDACTED:A]s", out.String())
		write("3cr3t")
		write(".")
		require.Equal(t, "[REDACTED:A]s[REDACTED:A].", out.String(), "they touch, and what is shown stands between")
	})
	run("closed", func(t *testing.T, out *screen, w *redact.Writer, write func(string)) {
		write("s3")
		wait(idle)
		write("c")
		require.NoError(t, w.Close())
		require.Equal(t, "s3c", out.String())
		wait(time.Hour)
		require.Equal(t, "s3c", out.String())
		_, err := io.WriteString(w, "x")
		require.ErrorIs(t, err, io.ErrClosedPipe)
	})

	// A whole value that may be the beginning of another is masked at a silence.
	synctest.Test(t, func(t *testing.T) {
		var out screen
		w := redact.New(1, values("ab", "abcd")...).LiveWriter(&out)
		_, _ = io.WriteString(w, "-ab")
		wait(time.Hour)
		require.Equal(t, "-[REDACTED:A]", out.String())
		_, _ = io.WriteString(w, "cx")
		require.Equal(t, "-[REDACTED:A]cx", out.String())
		_, _ = io.WriteString(w, "abca")
		wait(time.Hour)
		require.NoError(t, w.Close())
		require.Equal(t, "-[REDACTED:A]cx[REDACTED:A]ca", out.String())
	})

	// A stream that is not a live one shows nothing before it is decided.
	synctest.Test(t, func(t *testing.T) {
		var out screen
		w := redact.New(1, values("s3cr3t")...).Writer(&out)
		_, _ = io.WriteString(w, "s")
		wait(time.Hour)
		require.Empty(t, out.String())
		require.NoError(t, w.Close())
	})
}

// TestFound: a Find has the offset of its run, and the name and form of the first value.
func TestFound(t *testing.T) {
	patterns := values("first-value", "value-and-more")
	text := "1 first-value 2 first-value-and-more 3 Zmlyc3QtdmFsdWU= 4"
	for _, chunks := range [][]string{{text}, bytewise(text)} {
		w := redact.New(6, patterns...).Writer(io.Discard)
		var found []redact.Find
		w.Found = func(f redact.Find) { found = append(found, f) }
		for _, c := range chunks {
			_, err := io.WriteString(w, c)
			require.NoError(t, err)
		}
		require.NoError(t, w.Close())
		require.Equal(t, []redact.Find{{2, "A", "raw"}, {16, "A", "raw"}, {39, "A", "base64"}}, found)
	}
}

// TestCovered: what Covered is called with and what is written are together the text, in
// order. With the masks in place of the former, they are the masked text.
func TestCovered(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	patterns := named(redacttest.Values(8, seed))
	all := allForms(1, patterns...)
	r := redact.New(1, patterns...)
	for range 300 {
		var text []byte
		for range 1 + random.IntN(20) {
			form := all[random.IntN(len(all))].Value
			text = append(text, form[:random.IntN(len(form)+1)]...)
			text = append(text, strings.Repeat("x", random.IntN(40))...)
		}
		want := redacttest.Mask(text, all)
		var whole, masked bytes.Buffer
		w := r.Writer(io.MultiWriter(&whole, &masked))
		w.Covered = func(text []byte, mask string) error {
			require.NotEmpty(t, text)
			whole.Write(text)
			masked.WriteString(mask)
			return nil
		}
		for _, chunk := range chunked(string(text), 1+random.IntN(50), random) {
			_, err := io.WriteString(w, chunk)
			require.NoError(t, err)
		}
		require.NoError(t, w.Close())
		require.Equalf(t, string(text), whole.String(), "seed %d", seed)
		require.Equalf(t, string(want), masked.String(), "seed %d", seed)
	}
	w := r.Writer(io.Discard)
	w.Covered = func([]byte, string) error { return errors.ErrUnsupported }
	_, err := w.Write(slices.Concat(all[0].Value, []byte("\x00\x01 and what follows")))
	if err == nil {
		err = w.Close()
	}
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = w.Write([]byte("x"))
	require.ErrorIs(t, err, errors.ErrUnsupported, "it stays")
}

// TestNoAllocations: after their first writes, writers allocate nothing.
func TestNoAllocations(t *testing.T) {
	for _, n := range []int{1, 10, 300} {
		patterns := named(redacttest.Values(n, 1))
		r := redact.New(6, patterns...)
		plain := bytes.Repeat([]byte("2026-11-23 a line without any\n"), 2000)
		full := bytes.Repeat(append([]byte("a line with "), append(bytes.Clone(patterns[0].Value), '\n')...), 1000)
		almost := bytes.Repeat(patterns[0].Value[:len(patterns[0].Value)-1], 1000)
		for _, text := range [][]byte{plain, full, almost} {
			w := r.Writer(io.Discard)
			write := func() {
				for i := 0; i < len(text); i += 777 {
					_, _ = w.Write(text[i:min(i+777, len(text))])
				}
				_, _ = w.Write(text)
			}
			write()
			require.Zero(t, testing.AllocsPerRun(20, write))
			src := bytes.NewReader(text)
			read := func() { src.Reset(text); _, _ = w.ReadFrom(src) }
			read()
			require.Zero(t, testing.AllocsPerRun(20, read))
			require.NoError(t, w.Close())
		}
	}
}

// heap returns the bytes of the heap in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestMemory(t *testing.T) {
	patterns := named(redacttest.Values(1000, 1))
	before := heap()
	r := redact.New(6, patterns...)
	require.Less(t, heap()-before, int64(16<<20), "1000 values in all their forms")
	text := make([]byte, 0, 1<<20)
	for _, p := range allForms(6, patterns...) {
		text = append(text, p.Value...) // so that every state is visited
	}
	w := r.Writer(io.Discard)
	_, err := w.Write(text)
	require.NoError(t, err)
	require.Less(t, heap()-before, int64(24<<20), "and a stream that has all of them")
	runtime.KeepAlive(r)

	// An endless run needs no memory, and neither does a text without line ends.
	w = redact.New(1, values("abcabc")...).Writer(io.Discard)
	_, _ = io.WriteString(w, "abc")
	before = heap()
	for range 10_000 {
		_, err := w.Write([]byte("abcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabc"))
		require.NoError(t, err)
	}
	for range 100 {
		_, err := w.Write(bytes.Repeat([]byte("x"), 1<<20))
		require.NoError(t, err)
	}
	require.Less(t, heap()-before, int64(1<<20))
}

// TestExtremes: many values, long values and odd values are masked, and no text is lost.
func TestExtremes(t *testing.T) {
	n, size := 50_000, 1<<20
	if testing.Short() {
		n, size = 1500, 32<<10
	}
	many := named(redacttest.Values(n, 7))
	r := redact.New(6, many...)
	var text, want bytes.Buffer
	for i := 0; i < len(many); i += 501 {
		text.WriteString("<")
		text.Write(many[i].Value)
		text.WriteString(">\n")
		want.WriteString("<[REDACTED:" + many[i].Name + "]>\n")
	}
	require.Equal(t, want.String(), masked(t, r, text.String()))

	random := rand.New(rand.NewPCG(1, 2))
	long := make([]byte, size)
	for i := range long {
		long[i] = byte(random.Uint32())&0x7f | 0x80 // no line end: lines would be forms of their own
	}
	r = redact.New(6, redact.Pattern{Name: "LONG", Value: long})
	require.Equal(t, "1[REDACTED:LONG]2", masked(t, r, "1"+string(long[:1000]), string(long[1000:])+"2"))
	almost := "1" + string(long[:size-1])
	if masked(t, r, almost[:1000], almost[1000:]) != almost {
		t.Error("something is lost") // not shown: it is a megabyte
	}

	for _, v := range []string{
		"[REDACTED:A]", "REDACTED", "[REDACTED:", "A]", "]", "REDACTED:A]x[REDACTED",
		"\x00", "\xff\xfe", "\u2028", "aaaa", strings.Repeat("a", 5_000),
	} {
		r := redact.New(1, values(v, "another-value")...)
		text := "1" + v + "2 another-value " + v + v + "\x00\xff\xfe[REDACTED:A][redact"
		want := oracle(text, values(v, "another-value")...)
		require.Equal(t, want, masked(t, r, text), "%.20q", v)
		if len(text) < 1000 {
			require.Equal(t, want, masked(t, r, bytewise(text)...), "%.20q", v)
		}
	}
	for _, v := range []string{"", " ", "\n\t \r\n", "\v\f"} {
		r := redact.New(1, values(v)...)
		require.True(t, r.Empty())
		require.Equal(t, []string{"A"}, r.Unmasked())
		require.Equal(t, "a \n\t b", masked(t, r, "a \n\t b"))
	}
}

// TestStreamsTogether: streams of one redactor make the links of its automaton at the same
// time, without getting in each other's way.
func TestStreamsTogether(t *testing.T) {
	for range 20 {
		patterns := values("aabaabaaab", "abaabaaaba", "baaabaabaab")
		r := redact.New(1, patterns...)
		random := rand.New(rand.NewPCG(rand.Uint64(), 0))
		text := make([]byte, 5000)
		for i := range text {
			text[i] = "aab"[random.IntN(3)]
		}
		want := oracle(string(text), patterns...)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				var out bytes.Buffer
				w := r.Writer(&out)
				_, _ = w.Write(text)
				_ = w.Close()
				if out.String() != want {
					t.Error("another stream was in the way")
				}
			})
		}
		wg.Wait()
	}
}

// A stream that comes late to a link, because another one has made it meanwhile, takes that one.
// It went on from the root instead, so that the value which it was in was shown.
func TestLateLink(t *testing.T) {
	require.True(t, redact.New(1, values("aabaabaaab", "abaabaaaba", "baaabaabaab")...).Relinked())
}
