package redact_test

import (
	"bytes"
	"encoding/base64"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"inject/exec/redact"
	"inject/exec/redact/redacttest"
	"inject/internal/harness"
)

// TestWrapped compares texts in which values are broken in many ways with the plain rule, after
// each write and silence. Some breaks are too early, too long or without a line end.
func TestWrapped(t *testing.T) {
	rounds := 4000
	if testing.Short() {
		rounds = 300
	}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	margins := []string{
		" ", "  ", "\t", "|", " \u2502 ", "\u2502", "\u2500\u257f", "\r", "\x1b[0m", "\x1b[1;38:5:31m", "\x1b[m", "",
		strings.Repeat(" ", 80), "\x1b[", "\xe2\x94", "\xe2", "\x1b[3", "\n",
	}
	margin := func() string {
		m := ""
		for range random.IntN(4) {
			m += margins[random.IntN(len(margins))]
		}
		if random.IntN(30) == 0 {
			m += strings.Repeat(" ", 450+random.IntN(100))
		}
		return m
	}
	wrapped := 0
	for round := range rounds {
		alphabet := []string{
			"ab", "abc", "abcdefghijklmnopqrstuvwxyz0123456789m[;", "abcdefghijklmnopqrstuvwxyz\xe2\x80",
		}[random.IntN(4)]
		word := func(n int) string {
			b := make([]byte, n)
			for i := range b {
				b[i] = alphabet[random.IntN(len(alphabet))]
			}
			return string(b)
		}
		base := word(150)
		var v []string
		for range 1 + random.IntN(3) {
			n := 20 + random.IntN(80)
			at := random.IntN(len(base) - n + 1)
			v = append(v, base[at:at+n])
		}
		patterns := values(v...)
		all := allForms(1, patterns...)
		text := ""
		for len(text) < 100+random.IntN(300) {
			form := string(all[random.IntN(len(all))].Value)
			text += word(random.IntN(4))
			for form != "" {
				n := min(len(form), []int{1, 10, 15, 16, 17, 30, 60}[random.IntN(7)])
				if random.IntN(3) > 0 {
					n = min(len(form), 16+random.IntN(40))
				}
				text, form = text+form[:n], form[n:]
				if text += margin(); random.IntN(8) > 0 {
					text += "\n"
				}
				text += margin()
				if random.IntN(12) == 0 {
					break // half of a value
				}
			}
		}
		want := redacttest.Mask([]byte(text), all)
		if strings.Count(string(want), "[REDACTED") > 1 {
			wrapped++
		}
		for _, chunks := range [][]string{{text}, chunked(text, 100, random), bytewise(text)} {
			r := redact.New(1, patterns...).Stubs(1 + random.IntN(100))
			if got := masked(t, r, chunks...); got != string(want) {
				t.Fatalf("seed %d, round %d: %q in %q as %q:\n%q instead of\n%q",
					seed, round, v, text, chunks, got, want)
			}
		}
		if round%20 > 0 {
			continue
		}
		synctest.Test(t, func(t *testing.T) {
			l := &live{t: t, rule: redacttest.Live{Patterns: all}}
			l.w = redact.New(1, patterns...).Stubs(1 + random.IntN(100)).LiveWriter(&l.out)
			defer func() {
				if t.Failed() {
					t.Logf("seed %d, round %d: %q", seed, round, v)
				}
			}()
			for _, chunk := range chunked(text, 30, random) {
				l.write([]byte(chunk))
				if random.IntN(4) == 0 {
					l.wait([]time.Duration{short, long}[random.IntN(2)])
				}
			}
			require.NoError(t, l.w.Close())
		})
	}
	require.Greater(t, wrapped, rounds/10)
}

// TestWrappedByPrograms: values that programs wrap at the width of a terminal are masked, in plain
// text, tables, panels, tracebacks with locals, and in colours.
func TestWrappedByPrograms(t *testing.T) {
	python := harness.SDK(t, "python3")
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	letters := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"[random.IntN(62)]
		}
		return string(b)
	}
	key := make([]byte, 1200)
	for i := range key {
		key[i] = byte(random.Uint32())
	}
	jwt := "eyJhbGciOiJIUzI1NiJ9." + letters(120) + "." + letters(43)
	ends := "-----BEGIN PRIVATE KEY-----END PRIVATE KEY-----"
	pem := "-----BEGIN PRIVATE KEY-----\n" + regexp.MustCompile(`.{64}`).ReplaceAllString(
		base64.StdEncoding.EncodeToString(key), "$0\n") + "-----END PRIVATE KEY-----"
	script := `
import os, sys, rich.table, rich.panel, rich.console
v, way, width, colour = os.environ["V"], sys.argv[1], int(sys.argv[2]), sys.argv[3] == "colour"
system = "truecolor" if colour else None
c = rich.console.Console(width=width, force_terminal=colour, color_system=system, highlight=False)
style = "bold red" if colour else ""
if way == "print": c.print("the token is", v, style=style)
if way == "panel": c.print(rich.panel.Panel(v, border_style=style), style=style)
if way == "table":
    t = rich.table.Table("name"); t.add_column("value", overflow="fold"); t.add_row("TOKEN", v, style=style); c.print(t)
if way == "pretty": c.print({"token": v, "other": [v]})
if way == "log": c.log("token", v)
if way == "typer":
    import typer
    app = typer.Typer(pretty_exceptions_show_locals=True)
    @app.command()
    def main(): typer.echo(v); import textwrap; print(textwrap.fill(v, width)); rich.print(rich.panel.Panel(v))
    app(args=[])
`
	for _, v := range []struct{ name, value string }{
		{"token", letters(40)},
		{"jwt", jwt},
		{"long", letters(700)},
		{"pem", pem},
		{"url", "https://u:" + letters(60) + "@h.example/" + letters(20)},
	} {
		r := redact.New(6, redact.Pattern{Name: "V", Value: []byte(v.value)})
		for _, way := range []string{"print", "panel", "table", "pretty", "log", "typer"} {
			if v.name == "pem" && (way == "pretty" || way == "typer") {
				continue // repr and textwrap join the lines of a key, and it breaks behind fewer than 16 bytes of one
			}
			for _, width := range []string{"60", "80", "121", "200"} {
				for _, colour := range []string{"plain", "colour"} {
					if testing.Short() && random.IntN(10) > 0 {
						continue
					}
					cmd := exec.Command(python, "-c", script, way, width, colour)
					cmd.Env = append(os.Environ(), "V="+v.value, "COLUMNS="+width, "TERM=xterm-256color",
						"PYTHONIOENCODING=utf-8")
					out, err := cmd.CombinedOutput()
					require.NoErrorf(t, err, "%s", out)
					got := masked(t, r, chunked(string(out), 50, random)...)
					require.Contains(t, got, "[REDACTED:V", "%s %s %s %s: %s", v.name, way, width, colour, out)
					for i := 0; i+12 <= len(v.value); i++ {
						part := v.value[i : i+12]
						if strings.Contains(part, "\n") || strings.Contains(ends, part) {
							continue // the first and last lines of a key stay
						}
						require.NotContains(t, got, part, "seed %d: %s %s %s %s: %s",
							seed, v.name, way, width, colour, out)
					}
				}
			}
		}
	}
	// fold breaks at bytes.
	for range 20 {
		v := letters(32 + random.IntN(300))
		cmd := exec.Command("fold", "-b", "-w", "16")
		cmd.Stdin = strings.NewReader(v + "\n")
		out, err := cmd.Output()
		require.NoError(t, err)
		got := masked(t, redact.New(6, redact.Pattern{Name: "V", Value: []byte(v)}), string(out))
		require.Equal(t, strings.Repeat("[REDACTED:V]\n", (len(v)+15)/16), got)
	}
}

// TestColoursAtEdges: colour codes directly before and behind a value are no part of it, in whatever
// form it is, and stay as they are. A code ends with a letter, and a value may begin with what a code has.
func TestColoursAtEdges(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	codes := []string{
		"\x1b[31m", "\x1b[0m", "\x1b[m", "\x1b[1;31m", "\x1b[38;5;208m", "\x1b[38;2;255;100;0m",
		"\x1b[48:2::1:2:3m", "\x1b[K", "\x1b[01;31m\x1b[K", "\x1b(B\x1b[m",
	}
	values := redacttest.Values(20, seed)
	values = append(values, []byte("31mB1ue"), []byte("m0ntag3"), []byte("[REDACTED"), []byte("0mN1ce;1m"))
	for _, v := range values {
		r := redact.New(6, redact.Pattern{Name: "V", Value: v})
		for _, form := range redact.Forms(6, redact.Pattern{Name: "V", Value: v}) {
			before, behind := codes[random.IntN(len(codes))], codes[random.IntN(len(codes))]
			text := "token=" + before + string(form.Bytes) + behind + "\n"
			want := "token=" + before + redact.Mask(form.Name) + behind + "\n"
			for _, chunks := range [][]string{{text}, bytewise(text), chunked(text, 20, random)} {
				require.Equalf(t, want, masked(t, r, chunks...), "seed %d: %q", seed, v)
			}
		}
	}
}

// TestWrappedSilences: a value behind which a line ends is shown at a silence, although a longer one
// may go on in the next line. A value that is printed line by line with pauses shows its first bytes
// at most.
func TestWrappedSilences(t *testing.T) {
	v := "Q29ycmVjdEhvcnNlQmF0dGVyeVN0YXBsZTEyMzQ1Njc4"
	synctest.Test(t, func(t *testing.T) {
		var out screen
		w := redact.New(6, values(v[:32], v)...).LiveWriter(&out)
		expect := func(write string, pause time.Duration, want string) {
			_, err := w.Write([]byte(write))
			require.NoError(t, err)
			time.Sleep(pause)
			synctest.Wait()
			require.Equal(t, want, out.String())
		}
		expect("a "+v[:32]+"\n", short, "a [REDACTED:A]\n")
		expect("b\n", 0, "a [REDACTED:A]\nb\n")
		out.b.Reset()
		expect(v[:8], long, v[:8])
		expect(v[8:20]+" \n", year, v[:8])
		expect(v[20:]+".", 0, v[:8]+"[REDACTED:A] \n[REDACTED:B].") // the first piece belongs to both
		require.NoError(t, w.Close())
	})
}

// TestWrappedRepeats: a value that repeats itself may begin at each byte of a text that repeats it.
// The text is searched to its end, and nothing of it is lost.
func TestWrappedRepeats(t *testing.T) {
	for _, n := range []int{40, 1000, 60_000} {
		r := redact.New(6, values(strings.Repeat("a", n)+"b")...)
		text := strings.Repeat(strings.Repeat("a", 100)+" \u2502\n\u2502 ", 300)
		if masked(t, r, text, text) != text+text {
			t.Error("something is lost") // not shown: it is long
		}
	}
}

// What is found of a wrapped value stays found when another value makes the writer search again, be
// it in this stream or in another one: its beginning may have been written by then.
func TestWrappedStaysFound(t *testing.T) {
	const x = "aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xY1zA3bC5dE7fH9gK2mP4qR6sT8uV0wX"
	patterns := values("zz"+x[:40], x)
	all := allForms(1, patterns...)
	text := "zz" + x[:20] + "\n" + x[20:48] + " end\n"
	want := string(redacttest.Mask([]byte(text), all))
	require.Contains(t, want, "[REDACTED:A]\n[REDACTED:A]")
	for stub := 30; stub < 70; stub++ {
		r := redact.New(1, patterns...).Stubs(stub)
		require.Equal(t, want, masked(t, r, bytewise(text)...), "%d bytes of each form", stub)

		for at := range text {
			r := redact.New(1, patterns...).Stubs(stub)
			var out, other bytes.Buffer
			w, w2 := r.Writer(&out), r.Writer(&other)
			for i := range text {
				if i == at {
					_, err := w2.Write([]byte(x))
					require.NoError(t, err)
				}
				_, err := w.Write([]byte{text[i]})
				require.NoError(t, err)
			}
			require.NoError(t, w.Close())
			require.NoError(t, w2.Close())
			require.Equal(t, want, out.String(), "%d bytes of each form, the other stream at %d", stub, at)
		}
	}
}
