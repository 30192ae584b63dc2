package redact_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"inject/exec/redact"
	"inject/exec/redact/redacttest"
)

const (
	// The silences after which something is shown.
	short = 30 * time.Millisecond
	long  = time.Second
	// In a year without a write a timer that goes on would fire so often that no test ends.
	year = 365 * 24 * time.Hour
)

// live is a live stream with a clock of its own, and what the plain rule says of it.
type live struct {
	t    *testing.T
	out  screen
	w    *redact.Writer
	rule redacttest.Live
	log  []string // what has been written, with a point for a silence and a colon for a long one
}

// write writes b and checks the output.
func (l *live) write(b []byte) {
	_, err := l.w.Write(b)
	require.NoError(l.t, err)
	l.rule.Write(b)
	l.log = append(l.log, string(b))
	l.check()
}

// wait lets d pass, and checks the output just before and after each silence.
func (l *live) wait(d time.Duration) {
	for _, s := range []time.Duration{short, long - short} {
		if d < s {
			break
		}
		time.Sleep(s - 1)
		synctest.Wait()
		l.check()
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		l.rule.Silence(s != short)
		l.log = append(l.log, map[bool]string{true: ".", false: ":"}[s == short])
		d -= s
		l.check()
	}
	time.Sleep(d)
	synctest.Wait()
	l.check()
}

func (l *live) check() {
	want := string(l.rule.Output())
	if got := l.out.String(); got != want {
		l.t.Fatalf("%q instead of %q after %q", got, want, l.log)
	}
}

// TestSilences takes texts of parts of values, in writes and silences of any length, and compares
// the output with that of the plain rule after each of them.
func TestSilences(t *testing.T) {
	rounds := 10_000
	if testing.Short() {
		rounds = 300
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
		alphabet := []string{"a", "ab", "abc", "abcdefghijklmnop"}[random.IntN(4)]
		base := word(alphabet, 120)
		piece := func(most int) string {
			n := 1 + random.IntN(most)
			at := random.IntN(len(base) - n + 1)
			return base[at : at+n]
		}
		var v []string
		for range 1 + random.IntN(4) {
			v = append(v, piece(70))
		}
		patterns := values(v...)
		all := allForms(1, patterns...)
		text := ""
		for len(text) < 10+random.IntN(100) {
			form := string(all[random.IntN(len(all))].Value)
			switch random.IntN(4) {
			case 0:
				text += form
			case 1:
				text += form[:random.IntN(min(len(form), 20)+1)]
			case 2:
				text += form[:random.IntN(len(form)+1)]
			default:
				text += piece(10)
			}
		}
		most := 1 + random.IntN(20)
		synctest.Test(t, func(t *testing.T) {
			l := &live{t: t, rule: redacttest.Live{Patterns: all}}
			l.w = redact.New(1, patterns...).Stubs(1 + random.IntN(40)).LiveWriter(&l.out)
			defer func() {
				if t.Failed() {
					t.Logf("seed %d, round %d: %q", seed, round, v)
				}
			}()
			for _, chunk := range chunked(text, most, random) {
				l.write([]byte(chunk))
				if random.IntN(2) == 0 {
					l.wait([]time.Duration{1, short - 1, short, long - 1, long, year}[random.IntN(6)])
				}
			}
			require.NoError(t, l.w.Close())
		})
	}
}

var masks = regexp.MustCompile(`\[REDACTED:[^]]*\]`)

// TestSilencesShowLittle: a task that prints a value byte by byte, with any pauses, shows no more
// of it than the limit, in whatever form, and the rest is masked.
func TestSilencesShowLittle(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	patterns := []redact.Pattern{{Name: "PEM", Value: []byte(pem)}}
	for i, v := range redacttest.Values(30, seed) {
		if !testing.Short() || random.IntN(4) == 0 {
			patterns = append(patterns, redact.Pattern{Name: "V", Value: v[:min(len(v), 6+2*i)]})
		}
	}
	for _, p := range patterns {
		r := redact.New(6, p)
		for _, form := range allForms(6, p) {
			synctest.Test(t, func(t *testing.T) {
				var out screen
				w := r.LiveWriter(&out)
				_, _ = io.WriteString(w, "<\x00")
				for _, b := range form.Value {
					_, _ = w.Write([]byte{b})
					time.Sleep([]time.Duration{0, 1, short, short, long, year}[random.IntN(6)])
					synctest.Wait()
				}
				require.NoError(t, w.Close())

				pieces := masks.Split(out.String()[2:], -1)
				require.Greaterf(t, len(pieces), 1, "seed %d: %q became %q", seed, form.Value, out.String())
				require.Truef(t, bytes.HasPrefix(form.Value, []byte(pieces[0])), "%q of %q", pieces[0], form.Value)
				shown := strings.Join(pieces, "")
				form.Public = publicPart(string(form.Value))
				limit := form.Limit(true)
				require.LessOrEqualf(t, len(shown), limit, "seed %d: %q is shown of %q", seed, pieces, form.Value)
			})
		}
	}
}

// TestValueAfterPrompt: a prompt ends as a value begins, and the value follows it on a line of its own.
// Together they may begin a longer form, such as one with doubled braces, and the mask comes all the same.
func TestValueAfterPrompt(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	check := func(prompt, value string) {
		patterns := values(value)
		synctest.Test(t, func(t *testing.T) {
			l := &live{t: t, rule: redacttest.Live{Patterns: allForms(6, patterns...)}}
			l.w = redact.New(6, patterns...).LiveWriter(&l.out)
			for _, text := range []string{prompt, value + "\n", "and: " + prompt, value} {
				l.write([]byte(text))
				l.wait(long)
			}
			want := prompt + "[REDACTED:A]\nand: " + prompt + "[REDACTED:A]"
			require.Equal(t, want, l.out.String(), "seed %d: %q", seed, value)
			require.NoError(t, l.w.Close())
		})
	}
	check("}", `}uCK"JBFik"xTOd7txVK5VJ"8js3aTN}`)
	for range 300 {
		value := make([]byte, 32+random.IntN(24))
		for i := range value {
			value[i] = "abcdefgh{}{}\"'\\%&<$"[random.IntN(19)]
		}
		value[0] = "{}\"'\\%&<$"[random.IntN(9)]
		check(string(value[:1]), string(value))
	}
}

// publicPart returns how much of a value is no secret.
func publicPart(v string) int {
	if label, _, ok := strings.Cut(strings.TrimPrefix(v, "-----"), "-----"); ok && strings.HasPrefix(label, "BEGIN") {
		return len(label) + 10
	}
	for _, p := range []string{"ghp_", "AKIA", "sk_live_", "xoxb-", "LS0tLS1CRUdJTi"} {
		if strings.HasPrefix(v, p) && len(v) >= len(p)+16 {
			return len(p)
		}
	}
	return 0
}

// TestPublicBeginnings: what everybody prints is shown after the short silence, even if a value
// begins so, and no more than that and three bytes.
func TestPublicBeginnings(t *testing.T) {
	random := rand.New(rand.NewPCG(rand.Uint64(), 0))
	secret := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "BCDFGHJKLMNPQRSTVWXZ"[random.IntN(20)]
		}
		return string(b)
	}
	key := "-----BEGIN RSA PRIVATE KEY-----\n" + secret(64) + "\n" + secret(64) + "\n-----END RSA PRIVATE KEY-----\n"
	for _, c := range []struct{ value, public string }{
		{key, "-----BEGIN RSA PRIVATE KEY-----"},
		{strings.ReplaceAll(key, "\n", `\n`), "-----BEGIN RSA PRIVATE KEY-----"},
		{base64.StdEncoding.EncodeToString([]byte(key)), "LS0tLS1CRUdJTi"},
		{"ghp_" + secret(36), "ghp_"},
		{"eyJhbGciOiJIUzI1NiJ9." + secret(40), "eyJhbGciOi"},
		{"AKIA" + secret(16), "AKIA"},
		{"sk-" + secret(40), "sk-"},
		{"sk-ant-api03-" + secret(90), "sk-ant-api03-"},
		{"postgres://" + secret(40), "postgres://"},
	} {
		t.Run(c.public, func(t *testing.T) {
			for _, more := range []int{0, 3, 4} {
				text := c.value[:len(c.public)+more]
				synctest.Test(t, func(t *testing.T) {
					var out screen
					w := redact.New(6, redact.Pattern{Name: "K", Value: []byte(c.value)}).LiveWriter(&out)
					_, _ = io.WriteString(w, "\n"+text)
					time.Sleep(short)
					synctest.Wait()
					if more <= 3 {
						require.Equal(t, "\n"+text, out.String())
					} else {
						require.Equal(t, "\n", out.String())
					}
					_, _ = io.WriteString(w, strings.TrimRight(c.value[len(text):], "\n")+".")
					require.NoError(t, w.Close())
					require.True(t, strings.HasSuffix(out.String(), "[REDACTED:K]."), out.String())
					require.NotContains(t, out.String(), c.value[len(text):])
				})
			}
		})
	}

	// A host and a user stay readable, also in front of a secret.
	for _, c := range []struct{ value, public string }{
		{"postgres://orders:" + secret(8) + "7a@db.example:5432/orders", "postgres://orders:"},
		{"https://hooks.example/services/T0/B0/" + secret(12) + "x7abcd", "https://hooks.example/services/T0/B0/"},
		{"https://login.example/token?client_secret=" + secret(24), "https://login.example/token?client_secret="},
	} {
		t.Run(c.public, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out screen
				w := redact.New(6, redact.Pattern{Name: "K", Value: []byte(c.value)}).LiveWriter(&out)
				_, _ = io.WriteString(w, c.public)
				time.Sleep(short)
				synctest.Wait()
				require.Equal(t, c.public, out.String())
				_, _ = io.WriteString(w, c.value[len(c.public):len(c.public)+7])
				time.Sleep(year)
				synctest.Wait()
				require.Equal(t, c.public, out.String(), "no more than a quarter of the part")
				_, _ = io.WriteString(w, c.value[len(c.public)+7:]+".")
				require.NoError(t, w.Close())
				require.Equal(t, c.public+"[REDACTED:K].", out.String())
			})
		})
	}

	// A short value has no public part, and another value with the same beginning may be short.
	for _, v := range [][]redact.Pattern{values("AKIAxy"), values(key, "-----BEGIN!")} {
		synctest.Test(t, func(t *testing.T) {
			var out screen
			w := redact.New(1, v...).LiveWriter(&out)
			_, _ = w.Write(v[len(v)-1].Value[:4])
			time.Sleep(time.Hour)
			synctest.Wait()
			require.Empty(t, out.String())
			require.NoError(t, w.Close())
		})
	}
}

// TestCommonTextIsShown: what many programs print before they wait goes out, although lists of the
// bytes of values begin so. The values are of the least length that has such forms.
func TestCommonTextIsShown(t *testing.T) {
	random := rand.New(rand.NewPCG(rand.Uint64(), 0))
	for _, begin := range []string{"12", "09", "af", "gh", "z!", "(1", "Zz", "{}", "01", "AB"} {
		var patterns []redact.Pattern
		for i := range 20 {
			v := []byte(begin)
			for len(v) < 8+i {
				v = append(v, '!'+byte(random.IntN(94)))
			}
			patterns = append(patterns, redact.Pattern{Name: "V", Value: v})
		}
		r := redact.New(6, patterns...)
		a, b := begin[0], begin[1]
		for _, text := range []string{
			"[", "0x", ", ", "[y/N] ", "Password: ", "> ", "\n", "(1, 2", "50%",
			"06:31:32", "2026-11-29", "127.0.0.1", begin,
			fmt.Sprintf("%d", a), fmt.Sprintf("[%d, %d", a, b), fmt.Sprintf("[%d, %d, ", a, b),
			fmt.Sprintf("[%d %d", a, b), fmt.Sprintf("[%d %d ", a, b),
			fmt.Sprintf("%d,%d", a, b), fmt.Sprintf("%d,%d,", a, b), fmt.Sprintf("%x:%x", a, b),
			fmt.Sprintf("% X ", begin), fmt.Sprintf("%X-%X-", a, b),
			fmt.Sprintf("%#x, %#x", a, b), fmt.Sprintf("%x", begin[:1]),
		} {
			synctest.Test(t, func(t *testing.T) {
				var out screen
				w := r.LiveWriter(&out)
				_, _ = io.WriteString(w, text)
				time.Sleep(long)
				synctest.Wait()
				require.Equal(t, text, out.String(), "%q", patterns)
				require.NoError(t, w.Close())
			})
		}
	}
}

// TestSilenceOfReadFrom: silences in the middle of ReadFrom write what is held back, and values
// that are added then are masked. The reader writes behind what is held back at that time.
func TestSilenceOfReadFrom(t *testing.T) {
	in, feed, err := os.Pipe()
	require.NoError(t, err)
	from, to, err := os.Pipe()
	require.NoError(t, err)
	r := redact.New(1, values("0123456789abcdefghijklmnopqrstuvwxyz")...)
	w := r.LiveWriter(to)
	done := make(chan error, 1)
	go func() {
		_, err := w.ReadFrom(in)
		done <- errors.Join(err, w.Close(), to.Close())
	}()
	reader := bufio.NewReader(from)
	expect := func(write, want string) {
		_, err := io.WriteString(feed, write)
		require.NoError(t, err)
		got := make([]byte, len(want))
		_, err = io.ReadFull(reader, got)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	expect("the end is 012", "the end is 012") // it would never come without a silence
	expect("3456x", "3456x")
	expect("01234567", "01234567") // after the long one
	require.NoError(t, r.Add(redact.Pattern{Name: "B", Value: []byte("67-secret")}))
	expect("-sec", "") // nothing can be shown: it may begin B
	expect("ret.", "[REDACTED:B].")
	long := strings.Repeat("x", 1<<20)
	go func() { _, _ = io.WriteString(feed, long+"0123456789abcdefghijklmnopqrstuvwxyz0"); _ = feed.Close() }()
	rest, err := io.ReadAll(reader)
	require.NoError(t, err)
	require.NoError(t, <-done)
	require.True(t, bytes.Equal([]byte(long+"[REDACTED:A]0"), rest))
	require.NoError(t, in.Close())
	require.NoError(t, from.Close())
}
