package redact_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"html"
	"io"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/exec/redact"
)

// key is a private key in PEM, of usual length, with its final newline.
var key = func() string {
	random := rand.NewChaCha8([32]byte{'k', 'e', 'y'})
	der := make([]byte, 1217)
	_, _ = random.Read(der)
	return "-----BEGIN PRIVATE KEY-----\n" + wrap(base64.StdEncoding.EncodeToString(der), 64) +
		"-----END PRIVATE KEY-----\n"
}()

// wrap splits text into lines of n bytes, each with a newline.
func wrap(text string, n int) string {
	var b strings.Builder
	for len(text) > n {
		b.WriteString(text[:n] + "\n")
		text = text[n:]
	}
	return b.String() + text + "\n"
}

func b64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

const (
	specials = `p"a\s's&w<o>r d/+=?%#é`
	token    = "tok-5J8fPq2xR7"
	unicode  = "пароль-密码-🔑-ключ"
)

// prefixed puts prefix in front of each line, as docker compose does.
func prefixed(prefix, text string) string {
	return prefix + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n"+prefix) + "\n"
}

// vectors are texts on which known redactors leak a value, or mask what is not one. want is
// the whole output.
var vectors = []struct {
	name   string
	values []redact.Pattern
	text   string
	want   string
}{
	{"plain", values("s3cr3t-value"), "the s3cr3t-value is", "the [REDACTED:A] is"},
	{"adjacent twice", values("s3cr3t-value"), "x s3cr3t-values3cr3t-value y", "x [REDACTED:A] y"},
	{"overlap A|B share 4", values("abcdefgh", "efghijkl"), "1abcdefghijkl2", "1[REDACTED:A]2"},
	{"A prefix of B, B printed", values("abcdefgh", "abcdefghijklmno"), "1abcdefghijklmno2", "1[REDACTED:B]2"},
	{"A prefix of B, A printed", values("abcdefgh", "abcdefghijklmno"), "1abcdefgh2", "1[REDACTED:A]2"},
	{"A prefix of B, A and half of B", values("abcdefgh", "abcdefghijklmno"), "1abcdefghijk2", "1[REDACTED:A]ijk2"},
	{"A suffix of B, B printed", values("ijklmno", "abcdefghijklmno"), "1abcdefghijklmno2", "1[REDACTED:B]2"},
	{"A inside B, B printed", values("defghi", "abcdefghijklmno"), "1abcdefghijklmno2", "1[REDACTED:B]2"},
	{"A inside B, near-B printed", values("defghi", "abcdefghijklmno"), "1abcdefghijklmnX2", "1abc[REDACTED:A]jklmnX2"},
	{"A inside B at the end, B cut", values("defghi", "abcdefghijklmno"), "1abcdefghijk", "1abc[REDACTED:A]jk"},
	{"self-overlap", values("abcabc"), "1abcabcabc2", "1[REDACTED:A]2"},
	{"restart a^7b in a^10b", values("aaaaaaab"), "1aaaaaaaaaab2", "1aaa[REDACTED:A]2"},
	{"restart abababac", values("abababac"), "1abababababac2", "1abab[REDACTED:A]2"},
	{"restart via other secret", values("abcdeXYZ", "cdefghij"), "1abcdefghij2", "1ab[REDACTED:B]2"},
	{"first byte repeats", values("ssecret-token"), "1sssecret-token2", "1s[REDACTED:A]2"},
	{"PEM plain", values(key), "key:\n" + key + "end", "key:\n[REDACTED:A]\nend"},
	{"PEM without final newline", values(key), strings.TrimSpace(key), "[REDACTED:A]"},
	{"PEM with CRLF", values(key), strings.ReplaceAll(key, "\n", "\r\n"), "[REDACTED:A]\r\n"},
	{
		"PEM, every line prefixed", values(key), prefixed("app-1 | ", key),
		"app-1 | -----BEGIN PRIVATE KEY-----\n" +
			strings.Repeat("app-1 | [REDACTED:A]\n", strings.Count(key, "\n")-2) +
			"app-1 | -----END PRIVATE KEY-----\n",
	},
	{"PEM, one line of it", values(key), "x " + strings.Split(key, "\n")[5] + " y", "x [REDACTED:A] y"},
	{"PEM JSON-escaped", values(key), `{"k":"` + strings.ReplaceAll(key, "\n", `\n`) + `"}`, `{"k":"[REDACTED:A]\n"}`},
	{"PEM joined by spaces", values(key), "K=" + strings.Join(strings.Fields(key), " ") + ".", "K=[REDACTED:A]."},
	{"PEM base64 in one line", values(key), "x " + b64(key) + " y", "x [REDACTED:A] y"},
	{"PEM base64 wrapped at 76", values(key), wrap(b64(key), 76), "[REDACTED:A]\n"},
	{
		"PEM base64 wrapped at 64",
		values(key),
		prefixed("> ", wrap(b64(key), 64)),
		prefixed("> ", strings.Repeat("[REDACTED:A]\n", (len(b64(key))+63)/64)),
	},
	{"final newline, printed bare", values("s3cr3t-value\n"), "x s3cr3t-value y", "x [REDACTED:A] y"},
	{"spaces around, printed bare", values("  s3cr3t-value\t"), "xs3cr3t-valuey", "x[REDACTED:A]y"},
	{"unicode", values(unicode), "x" + unicode + "y", "x[REDACTED:A]y"},
	{
		"unicode JSON \\u",
		values(unicode),
		`{"k":"\u043f\u0430\u0440\u043e\u043b\u044c-\u5bc6\u7801-\ud83d\udd11-\u043a\u043b\u044e\u0447"}`,
		`{"k":"[REDACTED:A]"}`,
	},
	{"specials JSON.stringify", values(specials), `{"k":"p\"a\\s's&w<o>r d/+=?%#é"}`, `{"k":"[REDACTED:A]"}`},
	{
		"specials JSON of Go",
		values(specials),
		func() string { b, _ := json.Marshal(specials); return string(b) }(),
		`"[REDACTED:A]"`,
	},
	{"specials Go %q", values(specials), strconv.Quote(specials), `"[REDACTED:A]"`},
	{
		"specials URL component",
		values(specials),
		"?k=" + strings.ReplaceAll(url.QueryEscape(specials), "+", "%20") + "&x",
		"?k=[REDACTED:A]&x",
	},
	{"specials URL form", values(specials), "?k=" + url.QueryEscape(specials) + "&x", "?k=[REDACTED:A]&x"},
	{
		"specials URL lower hex",
		values(specials),
		"?k=p%22a%5cs%27s%26w%3co%3er%20d%2f%2b%3d%3f%25%23%c3%a9&x",
		"?k=[REDACTED:A]&x",
	},
	{"specials XML/HTML", values(specials), "<k>" + html.EscapeString(specials) + "</k>", "<k>[REDACTED:A]</k>"},
	{"shell quoted", values(specials), `+ echo 'p"a\s'\''s&w<o>r d/+=?%#é'`, `+ echo '[REDACTED:A]'`},
	{"base64 aligned", values(token), b64(token), "[REDACTED:A]"},
	{"base64 user:tok (shift 2)", values(token), "Basic " + b64("user:"+token), "Basic dXNlcjp[REDACTED:A]"},
	{"base64 me:tok (shift 0) and tail", values(token), b64("me:" + token + ":tail"), "bWU6[REDACTED:A]6dGFpbA=="},
	{"base64 user1:tok and tail", values(token), b64("user1:" + token + ":tail"), "dXNlcjE6[REDACTED:A]6dGFpbA=="},
	{"base64 usr:tok and tail (shift 1)", values(token), b64("usr:" + token + ":tail"), "dXNyOn[REDACTED:A]OnRhaWw="},
	{
		"base64url",
		values("\xfb\xff\xfe>>??~~\xff\xfb"),
		"x " + base64.RawURLEncoding.EncodeToString([]byte("\xfb\xff\xfe>>??~~\xff\xfb")) + " y",
		"x [REDACTED:A] y",
	},
	{
		"hex",
		values(token),
		hex.EncodeToString([]byte(token)) + " " + strings.ToUpper(hex.EncodeToString([]byte(token))),
		"[REDACTED:A] [REDACTED:A]",
	},
	{
		"upper-cased UUID",
		values("7f3c2a10-9b4e-4d1f-8a6b-0c5d9e8f7a61"),
		"7F3C2A10-9B4E-4D1F-8A6B-0C5D9E8F7A61 7f3c2a109b4e4d1f8a6b0c5d9e8f7a61",
		"[REDACTED:A] [REDACTED:A]",
	},
	{"lower-cased hex", values("DEADBEEF0123"), "x deadbeef0123", "x [REDACTED:A]"},
	{"empty secret", values(""), "a b", "a b"},
	{"newline-only secret", values("\n\n\n\n\n\n"), "a\n\n\n\n\n\n\nb", "a\n\n\n\n\n\n\nb"},
	{"space secret", values("        "), "a                b", "a                b"},
	{"1-char secret", values("a"), "banana", "banana"},
	{"3-char secret", values("abc"), "abc", "abc"}, // it is in Unmasked: see TestForms
	{"8-char secret", values("abcdefgh"), "1abcdefgh2", "1[REDACTED:A]2"},
	{
		"the mask is a secret",
		values("s3cr3t-value", "[REDACTED:A]"),
		"1s3cr3t-value2[REDACTED:A]3",
		"1[REDACTED:A]2[REDACTED:B]3",
	},
	{
		"mask and tail are a secret",
		values("s3cr3t-value", "[REDACTED:A]tail"),
		"1s3cr3t-valuetail2",
		"1[REDACTED:A]tail2",
	},
	{"partial secret at the end is not lost", values("s3cr3t-value"), "the s3cr3t-va", "the s3cr3t-va"},
	{
		"two-line secret, blanks between",
		values("First-l1ne-0f-it\nSecond-l1ne-0f-it"),
		"x First-l1ne-0f-it  \n\t Second-l1ne-0f-it y",
		"x [REDACTED:A]  \n\t [REDACTED:A] y",
	},
	{"innocent: first line alone", values("first-line\nsecond-line"), "the first-line of", "the first-line of"},
	// Out of reach, as the documentation says.
	{"ANSI colour inside", values("s3cr3t-value"), "s3cr3t\x1b[1m-value", "s3cr3t\x1b[1m-value"},
	{"upper-cased", values("s3cr3t-value"), "S3CR3T-VALUE", "S3CR3T-VALUE"},
	{"reversed", values("s3cr3t-value"), "eulav-t3rc3s", "eulav-t3rc3s"},
}

func TestVectors(t *testing.T) {
	for _, c := range vectors {
		t.Run(c.name, func(t *testing.T) {
			r := redact.New(6, c.values...)
			want := c.want
			require.Equal(t, want, masked(t, r, c.text))
			require.Equal(t, want, masked(t, r, bytewise(c.text)...), "byte by byte")
			for i := 0; i < len(c.text); i += 1 + len(c.text)/300 {
				require.Equalf(t, want, masked(t, r, c.text[:i], c.text[i:]), "cut at %d", i)
			}
			var chunks []string
			for rest := c.text; rest != ""; {
				n := min(len(rest), 1024)
				chunks, rest = append(chunks, rest[:n]), rest[n:]
			}
			require.Equal(t, want, masked(t, r, chunks...), "in writes of 1 KiB")
		})
	}
}

// TestHalfOnEach: a value that is split between two streams is not found.
func TestHalfOnEach(t *testing.T) {
	r := redact.New(6, values("s3cr3t-value")...)
	var both bytes.Buffer
	out, err := r.Writer(&both), r.Writer(&both)
	_, _ = io.WriteString(out, "s3cr3t")
	_, _ = io.WriteString(err, "-value")
	require.Equal(t, "-value", both.String(), "the first half is held")
}

// TestVisible: prompts are written at once, except for bytes that may begin a value, and the
// first line of a value holds back nothing behind it.
func TestVisible(t *testing.T) {
	for _, c := range []struct {
		name       string
		values     []redact.Pattern
		text, seen string
	}{
		{"prompt", values("s3cr3t"), "Name [s]: ", "Name [s]: "},
		{"first byte of a value", values("s3cr3t"), "Password: s", "Password: "},
		{"whole value", values("s3cr3t"), "Password: s3cr3t", "Password: [REDACTED:A]"},
		{
			"first line and a megabyte", values("key-1\nkey-2"),
			"key-1" + strings.Repeat(" ", 1<<20), "key-1" + strings.Repeat(" ", 1<<20),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			w := redact.New(1, c.values...).Writer(&out)
			_, err := io.WriteString(w, c.text)
			require.NoError(t, err)
			if out.String() != c.seen {
				t.Errorf("%.40q is seen of %.40q", out.String(), c.text)
			}
			require.NoError(t, w.Close())
		})
	}
}

// TestErrorCounts: an error of the destination stays, and no byte is written twice.
func TestErrorCounts(t *testing.T) {
	for _, c := range []struct {
		name      string
		err, want error
	}{{"an error", errors.ErrUnsupported, errors.ErrUnsupported}, {"a short write", nil, io.ErrShortWrite}} {
		t.Run(c.name, func(t *testing.T) {
			for left := range 20 {
				dst := &broken{left: left, err: c.err}
				w := redact.New(1, values("s3cr3t-value")...).Writer(dst)
				_, err := io.WriteString(w, "held: s3cr")
				if err == nil {
					_, err = io.WriteString(w, "xx and this is too long to be written")
				}
				require.ErrorIs(t, err, c.want)
				n, err := io.WriteString(w, "again")
				require.ErrorIs(t, err, c.want)
				require.Zero(t, n)
				want := "held: s3crxx and this is too long"[:left]
				require.Equal(t, want, dst.wrote.String(), "a true beginning, once")
			}
		})
	}
}
