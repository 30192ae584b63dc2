package forms_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"html"
	"html/template"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/exec/redact/forms"
	"inject/internal/harness"
)

// awkward are values that encoders change. Those in binary are not UTF-8.
var awkward, binary = []string{
	`it's "both" quotes`, `back\slash\n and \\`, "two\nlines of it", "windows\r\nline ends", "tab\tand  blanks",
	`<a href="x">&amp;</a>`, "a/b+c==d/e+f", "semi;colon,comma",
	"$HOME `id` $(id) !1", "h\u00e9llo w\u00f6rld", "\u4f60\u597d, world",
	"smile \U0001f600 \U0001f511", `"quoted"`, `'quoted'`, "~tilde:~x=~y",
	"#hash#a#b", "100%25 %s %d", "{curly}[square]|^*?",
	"bell\a\b\v\f\x1b[31m", "nul-like\x01\x02\x7f!",
	"line\u2028sep\u2029arated", "in\u00a0\u00ad\u0085\u009f\u200bvisible", "p@ss:w0rd/with?all#",
	"C:\\Users\\x\\n'", "`back'tick\"s`",
	"it's only one", "more than fifty bytes, so that a Buffer cuts off th\u00e9 end", `say "only" double`, "-leading-dash'", "=equals=&and=", "\ufffdreplaced\ufffd",
}, []string{"\xff\xfe\x80binary\xc3", "half\xe4\xbd of one '\"\\", "\xed\xa0\x80surrogate&", "\xf0\x9f\x98cut<\xc0\xaf"}

// samples returns the awkward values and random ones, which differ in each run.
func samples(t testing.TB, alsoBinary bool) []string {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	values := awkward
	if alsoBinary {
		values = append(slices.Clip(values), binary...)
	}
	marks := []rune("'\"\\$`&<>/+=;,:~#!%{}[]()*?^|@ \n\t\u00e9\u4f60\U0001f600aZ09-._")
	n := 40
	if testing.Short() {
		n = 5
	}
	for range n {
		text := []rune{'x'}
		for range 8 + random.IntN(40) {
			if r := marks[random.IntN(len(marks))]; random.IntN(2) == 0 {
				text = append(text, r)
			} else {
				text = append(text, '!'+rune(random.IntN('~'-'!'+1)))
			}
		}
		values = append(slices.Clip(values), string(text)+"y")
	}
	return values
}

// hidden returns the bytes of text that no form of value covers.
func hidden(value, text string) string {
	covered := make([]bool, len(text))
	for _, f := range forms.Of([]byte(value), 6) {
		for i, form := 0, string(f.Bytes); ; i++ {
			at := strings.Index(text[i:], form)
			if at < 0 {
				break
			}
			i += at
			for j := range len(form) {
				covered[i+j] = true
			}
		}
	}
	var rest strings.Builder
	for i := range len(text) {
		if !covered[i] {
			rest.WriteByte(text[i])
		}
	}
	return rest.String()
}

// covers checks the outputs of an encoder, one for each of values: outside of the value's
// forms there must be nothing but what the regular expression frame matches. The encoder
// must have changed at least one value, because one that it leaves as it is proves nothing.
func covers(t testing.TB, frame string, values, outputs []string) {
	t.Helper()
	require.Len(t, outputs, len(values))
	changed, re := 0, regexp.MustCompile(`\A(?s:`+frame+`)\z`)
	for i, v := range values {
		if !strings.Contains(outputs[i], v) {
			changed++
		}
		if rest := hidden(v, outputs[i]); !re.MatchString(rest) {
			t.Errorf("%q became %q, which still shows %q", v, outputs[i], rest)
		}
	}
	require.NotZero(t, changed)
}

func TestFormsOfGo(t *testing.T) {
	must := func(b []byte, err error) string {
		require.NoError(t, err)
		return string(b)
	}
	unescaped := func(v string) string {
		var out bytes.Buffer
		e := json.NewEncoder(&out)
		e.SetEscapeHTML(false)
		require.NoError(t, e.Encode(v))
		return strings.TrimSuffix(out.String(), "\n")
	}
	inHTML := template.Must(template.New("").Parse(`<p title="{{.}}">`))
	basic := func(user, password string) string {
		r, err := http.NewRequest(http.MethodGet, "http://localhost/", http.NoBody)
		require.NoError(t, err)
		r.SetBasicAuth(user, password)
		return r.Header.Get("Authorization")
	}
	for _, e := range []struct {
		name, frame string
		encode      func(v string) string
	}{
		{"json", `""`, func(v string) string { return must(json.Marshal(v)) }},
		{"json without HTML", `""`, unescaped},
		{"json in json", `"\\"\\""`, func(v string) string { return must(json.Marshal(must(json.Marshal(v)))) }},
		{"quote", `""`, strconv.Quote},
		{"quote to ASCII", `""`, strconv.QuoteToASCII},
		{"%x", ``, func(v string) string { return fmt.Sprintf("%x", v) }},
		{"%X", ``, func(v string) string { return fmt.Sprintf("%X", v) }},
		{"%v", `\{\[\]\}`, func(v string) string { return fmt.Sprint(struct{ T []byte }{[]byte(v)}) }},
		{"%#v", `\[\]byte\{\}`, func(v string) string { return fmt.Sprintf("%#v", []byte(v)) }},
		{"% x", ``, func(v string) string { return fmt.Sprintf("% x", v) }},
		{"% X", ``, func(v string) string { return fmt.Sprintf("% X", v) }},
		{"slog", `time=\S+ level=INFO msg=m v="\{T:\[\]\}"\n`, func(v string) string {
			var out bytes.Buffer
			slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", struct{ T []byte }{[]byte(v)})
			return out.String()
		}},
		{"hex", ``, func(v string) string { return hex.EncodeToString([]byte(v)) }},
		{"query", `a=`, func(v string) string { return url.Values{"a": {v}}.Encode() }},
		{"path segment", ``, url.PathEscape},
		{"path", `/(\./)?`, func(v string) string { return (&url.URL{Path: "/" + v}).EscapedPath() }},
		{"user", `:x`, func(v string) string { return url.UserPassword(v, "x").String() }},
		{"password", `x:`, func(v string) string { return url.UserPassword("x", v).String() }},
		{"html", ``, html.EscapeString},
		{"html/template", `<p title="">`, func(v string) string {
			var out bytes.Buffer
			require.NoError(t, inHTML.Execute(&out, v))
			return out.String()
		}},
		{"xml", ``, func(v string) string {
			var out bytes.Buffer
			require.NoError(t, xml.EscapeText(&out, []byte(v)))
			return out.String()
		}},
		{"base64", ``, func(v string) string { return base64.StdEncoding.EncodeToString([]byte(v)) }},
		{"base64 raw", ``, func(v string) string { return base64.RawStdEncoding.EncodeToString([]byte(v)) }},
		{"base64url", ``, func(v string) string { return base64.URLEncoding.EncodeToString([]byte(v)) }},
		{"base64url raw", ``, func(v string) string { return base64.RawURLEncoding.EncodeToString([]byte(v)) }},
		{"echo | base64", ``, func(v string) string { return base64.StdEncoding.EncodeToString([]byte(v + "\n")) }},
		{"basic, 1", `Basic .{3}`, func(v string) string { return basic("u", v) }},
		{"basic, 2", `Basic .{4}`, func(v string) string { return basic("us", v) }},
		{"basic, 3", `Basic .{6}`, func(v string) string { return basic("use", v) }},
		{"basic, 4", `Basic .{7}`, func(v string) string { return basic("user", v) }},
		{"basic, 5", `Basic .{8}`, func(v string) string { return basic("user1", v) }},
		{"basic, 6", `Basic .{10}`, func(v string) string { return basic("user12", v) }},
		{"basic, 7", `Basic .{11}`, func(v string) string { return basic("user123", v) }},
		{"basic, the user", `Basic .{1,4}`, func(v string) string { return basic(v, "") }},
		{"regexp", ``, regexp.QuoteMeta},
		{"SQL", `''`, func(v string) string { return "'" + strings.ReplaceAll(v, "'", "''") + "'" }},
		{"CSV", `""`, func(v string) string { return `"` + strings.ReplaceAll(v, `"`, `""`) + `"` }},
		{"ODBC", `\{\}`, func(v string) string { return "{" + strings.ReplaceAll(v, "}", "}}") + "}" }},
		{"libpq", `''`, func(v string) string {
			return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(v) + "'"
		}},
	} {
		t.Run(e.name, func(t *testing.T) {
			values := samples(t, true)
			outputs := make([]string, len(values))
			for i, v := range values {
				outputs[i] = e.encode(v)
			}
			covers(t, e.frame, values, outputs)
		})
	}
}

// program returns the command of a program that the test needs.
func program(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	return exec.Command(harness.Need(t, name), args...)
}

// answers runs cmd, which reads a value in hexadecimal from each line of its stdin. For each
// value and way it prints the number of the way, a space, and the encoded value in
// hexadecimal. answers returns the encoded values by way.
func answers(t *testing.T, cmd *exec.Cmd, values []string, ways int) [][]string {
	t.Helper()
	var in bytes.Buffer
	for _, v := range values {
		fmt.Fprintf(&in, "%x\n", v)
	}
	cmd.Stdin = &in
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	outputs := make([][]string, ways)
	for line := range strings.Lines(string(out)) {
		number, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		way, err := strconv.Atoi(number)
		require.NoError(t, err)
		decoded, err := hex.DecodeString(text)
		require.NoError(t, err)
		outputs[way] = append(outputs[way], string(decoded))
	}
	return outputs
}

// A way is an expression that encodes the variable v, and the frame of what it returns.
type way struct{ expression, frame string }

func TestFormsOfPython(t *testing.T) {
	const repr = `b?(''|"")`
	for _, c := range []struct {
		name    string
		binary  bool
		prepare string
		ways    []way
	}{
		{"text", false, "v = v.decode()", []way{
			{"json.dumps(v)", `""`},
			{"json.dumps(v, ensure_ascii=False)", `""`},
			{"json.dumps(json.dumps(v, ensure_ascii=False), ensure_ascii=False)", `"\\"\\""`},
			{"json.dumps(json.dumps({'k': v}))", `"\{\\"k\\": \\"\\"\}"`},
			{"re.escape(v)", ``},
			{"v.encode('ascii', 'replace').decode()", `.*`},
			{"v.encode('ascii', 'ignore').decode()", `.*`},
			{"v.encode('cp1252', 'replace')", `.*`},
			{"v.encode('utf-16be')", `(\x00|)`},
			{"v.encode('utf-16')", `..\x00?`},
			{"v.encode().decode('latin-1')", ``},
			{"unicodedata.normalize('NFD', v)", ``},
			{"v.encode('ascii', 'xmlcharrefreplace')", ``},
			{"xml.etree.ElementTree.tostring(element(v))", `<e a="">(</e>|( />))`},
			{"repr([v])", `\[(''|"")\]`},
			{"html.escape(v)", ``},
			{"html.escape(v, quote=False)", ``},
			{"xml.sax.saxutils.escape(v)", ``},
			{"xml.sax.saxutils.quoteattr(v)", `''|""`},
			{"shlex.quote(v)", `(''|)`},
			{"http.cookies.SimpleCookie().value_encode(v)[1]", `(""|)`},
			{"urllib.parse.urlencode({'a': v})", `a=`},
			{"csv_of(v)", `(""|)\r\n`},
		}},
		{"surrogates", true, "v = v.decode('utf-8', 'surrogateescape')", []way{
			{"json.dumps(v)", `""`},
			{"repr(v)", repr},
			{"ascii(v)", repr},
		}},
		{"bytes", true, "", []way{
			{"repr(v)", repr},
			{"urllib.parse.quote(v)", ``},
			{"urllib.parse.quote(v, safe='')", ``},
			{"urllib.parse.quote_plus(v)", ``},
			{"base64.b64encode(v)", ``},
			{"base64.urlsafe_b64encode(v)", ``},
			{"base64.encodebytes(v)", `\n`},
			{"base64.encodebytes(v * 10)", `.*`},
			{"v.hex()", ``},
			{"str(list(v))", `\[\]`},
			{"v.hex(' ')", ``},
			{"v.hex(':').upper()", ``},
			{"v.hex().upper()", ``},
			{"v.decode('utf-8', 'replace')", `.*`},
		}},
	} {
		script := `
import base64, csv, html, http.cookies, io, json, re, shlex, sys, unicodedata, urllib.parse
import xml.etree.ElementTree, xml.sax.saxutils
def csv_of(v):
    out = io.StringIO()
    csv.writer(out).writerow([v])
    return out.getvalue()
def element(v):
    e = xml.etree.ElementTree.Element('e', a=v)
    e.text = v
    return e
def show(i, out):
    print(i, (out if isinstance(out, bytes) else out.encode()).hex())
for line in sys.stdin:
    v = bytes.fromhex(line)
    ` + c.prepare + "\n"
		for i, w := range c.ways {
			script += fmt.Sprintf("    show(%d, %s)\n", i, w.expression)
		}
		values := samples(t, c.binary)
		for i, outputs := range answers(t, program(t, "python3", "-c", script), values, len(c.ways)) {
			t.Run(c.name+" "+c.ways[i].expression, func(t *testing.T) {
				covers(t, c.ways[i].frame, values, outputs)
			})
		}
	}
}

func TestFormsOfNode(t *testing.T) {
	ways := []way{
		{"JSON.stringify(v)", `""`},
		{"JSON.stringify(JSON.stringify(v))", `"\\"\\""`},
		{"JSON.stringify({a: [v]})", `\{"a":\[""\]\}`},
		{"encodeURIComponent(v)", ``},
		{"encodeURI(v)", ``},
		{"escape(v)", ``},
		{"new URLSearchParams({a: v}).toString()", `a=`},
		{"user(v)", "https://x:@h/"},
		{"url('pathname', v)", "https://h/"},
		{"url('search', v)", `https://h/\?`},
		{"url('hash', '#' + v)", "https://h/#"},
		{"util.inspect(v)", "(''|\"\"|``)"},
		{"util.inspect([v.replaceAll('\\n', '')])", "\\[ (''|\"\"|``) \\]"},
		{"Buffer.from(v).toString('base64')", ``},
		{"Buffer.from(v).toString('base64url')", ``},
		{"Buffer.from(v).toString('hex')", ``},
		{"util.inspect(Buffer.from(v))", `<Buffer ( \.\.\. \d+ more bytes?)?>`},
		{"JSON.stringify(Buffer.from(v))", `\{"type":"Buffer","data":\[\]\}`},
		{"'[' + [...Buffer.from(v)].join(', ') + ']'", `\[\]`},
		{"Buffer.from(v).toString('latin1')", ``},
		{"v.normalize('NFD')", ``},
	}
	script := `
const util = require("util")
function user(v) { const u = new URL("https://h/"); u.username = "x"; u.password = v; return u.toString() }
function url(part, v) { const u = new URL("https://h/"); u[part] = v; return u.href }
for (const line of require("fs").readFileSync(0, "utf8").trim().split("\n")) {
	const v = Buffer.from(line, "hex").toString()
`
	for i, w := range ways {
		script += fmt.Sprintf("console.log(%d, Buffer.from(%s).toString('hex'))\n", i, w.expression)
	}
	values := samples(t, false)
	for i, outputs := range answers(t, program(t, "node", "-e", script+"}"), values, len(ways)) {
		inputs := values
		if strings.Contains(ways[i].expression, "replaceAll") {
			inputs = make([]string, len(values))
			for j, v := range values {
				inputs[j] = strings.ReplaceAll(v, "\n", "")
			}
		}
		t.Run(ways[i].expression, func(t *testing.T) { covers(t, ways[i].frame, inputs, outputs) })
	}
}

func TestFormsOfRuby(t *testing.T) {
	for _, c := range []struct {
		binary bool
		ways   []way
	}{
		{false, []way{
			{"v.inspect", `""`},
			{"[v].to_s", `\[""\]`},
			{"Regexp.escape(v)", ``},
			{"JSON.generate(v)", `""`},
			{"URI.encode_www_form(a: v)", `a=`},
			{"v.encode('utf-16le')", `\x00?`},
		}},
		{true, []way{{"v.inspect", `""`}, {"v.b.inspect", `""`}, {"v.bytes.inspect", `\[\]`}}},
	} {
		script := `
require "json"; require "uri"
def show(i, out) = puts("#{i} #{out.unpack1("H*")}")
$stdin.each_line do |line|
  v = [line.chomp].pack("H*").force_encoding("UTF-8")
`
		for i, w := range c.ways {
			script += fmt.Sprintf("  show(%d, %s)\n", i, w.expression)
		}
		values := samples(t, c.binary)
		cmd := program(t, "ruby", "-EUTF-8", "-e", script+"end")
		for i, outputs := range answers(t, cmd, values, len(c.ways)) {
			t.Run(c.ways[i].expression, func(t *testing.T) { covers(t, c.ways[i].frame, values, outputs) })
		}
	}
}

func TestFormsOfShells(t *testing.T) {
	const quoted = `\$?''|`
	for _, c := range []struct{ shell, script, frame string }{
		{"bash", `set -x; : "$V"`, `\+ : (` + quoted + `)\n`},
		{"bash", `set -x; [[ x == "$V" ]] || [[ x = *"$V"* ]] || :`, `\+ \[\[ x ==  \]\]\n\+ \[\[ x = \*\* \]\]\n\+ :\n`},
		{"bash", `set -x; [[ x =~ "$V" ]] || :`, `\+ \[\[ x =~  \]\]\n\+ :\n`},
		{"bash", `cat "/$V" || :`, `cat: ('|"|)/(''\$)?('|"|): (No such file or|Is a) directory\n`},
		{"bash", `printf %s "$V" | cat -v >&2`, ``},
		{"bash", `set -x; W=$V`, `\+ W=(` + quoted + `)\n`},
		{"bash", `printf %q "$V" >&2`, `(` + quoted + `|\\)`},
		{"bash", `printf '%s\n' "${V@Q}" >&2`, `(` + quoted + `)\n`},
		{"bash", `printf %s "$V" | /usr/bin/env base64 -w 64 >&2`, `\n`},
		{"bash", `printf %s "$V" | /usr/bin/env base64 >&2`, `\n`},
		{"bash", `echo "$V" | /usr/bin/env base64 -w 0 >&2`, ``},
	} {
		t.Run(c.shell+" "+c.script, func(t *testing.T) {
			for _, locale := range []string{"C", "C.UTF-8"} {
				t.Log("locale", locale)
				values := samples(t, true)
				outputs := make([]string, len(values))
				for i, v := range values {
					cmd := program(t, c.shell, "-c", c.script)
					cmd.Env = append(os.Environ(), "LC_ALL="+locale, "V="+v)
					var stderr bytes.Buffer
					cmd.Stderr = &stderr
					require.NoError(t, cmd.Run())
					outputs[i] = stderr.String()
				}
				covers(t, c.frame, values, outputs)
			}
		})
	}
}

// A message of protobuf's, as Flyte's runtime logs an exception of a task.
func TestFormsOfProtobuf(t *testing.T) {
	values := samples(t, false)
	ways := []way{
		{"text_format.MessageToString(Value(string_value=v))", `string_value: ""\n`},
		{"str(Value(string_value=v))", `string_value: ""\n`},
		{"str(Value(string_value='but got ' + repr([v])))", `string_value: "but got \[(\\'\\'|\\"\\")\]"\n`},
	}
	script := `
import sys
from google.protobuf import text_format
from google.protobuf.struct_pb2 import Value
for line in sys.stdin:
    v = bytes.fromhex(line).decode()
`
	for i, w := range ways {
		script += fmt.Sprintf("    print(%d, %s.encode().hex())\n", i, w.expression)
	}
	all := answers(t, exec.Command(harness.SDK(t, "python"), "-c", script), values, len(ways))
	for i, w := range ways {
		t.Run(w.expression, func(t *testing.T) { covers(t, w.frame, values, all[i]) })
	}
}

// Programs escape the lines of a value one by one, or break it at its line ends.
func TestFormsOfLines(t *testing.T) {
	value := ""
	for _, v := range samples(t, false) {
		if v = strings.Join(strings.Fields(v), " "); len(v) >= 16 {
			value += "> " + v + "\n"
		}
	}
	for _, c := range []struct{ program, script, frame string }{
		{"python3", `import os, json
for line in os.environ["V"].splitlines(): print(json.dumps(line))`, `""`},
		{"python3", `import os
for line in os.environ["V"].split("\n")[:-1]: print(repr(line))`, `(''|"")`},
		{"python3", `import os, pprint; pprint.pp(os.environ["V"], width=200)`, `\(?(''|"")\)?`},
		{"node", `console.log([process.env.V])`, "(\\[)?( *(''|\"\"|``)(\\+| |)*)*(\\])?"},
		{"jq", `env.V | split("\n")[] | select(. != "")`, `""`},
	} {
		t.Run(c.program+" "+c.script, func(t *testing.T) {
			args := []string{"-c", c.script}
			switch c.program {
			case "node":
				args[0] = "-e"
			case "jq":
				args[0] = "-n"
			}
			cmd := program(t, c.program, args...)
			cmd.Env = append(os.Environ(), "V="+value, "LC_ALL=C.UTF-8")
			out, err := cmd.Output()
			require.NoError(t, err)
			// A line end between two lines is a part of the whole value, and of no line.
			rest := strings.ReplaceAll(hidden(value, string(out)), `\n`, "")
			require.Regexp(t, `\A((`+c.frame+`)\s*)*\z`, rest)
		})
	}
}

func TestFormsOfJQ(t *testing.T) {
	for _, c := range []way{
		{"@uri", ``},
		{"@html", ``},
		{"@sh", `''`},
		{"[.]|@csv", `""`},
		{"@base64", ``},
		{"@json", `""`},
	} {
		t.Run(c.expression, func(t *testing.T) {
			values := samples(t, false)
			in, err := json.Marshal(values)
			require.NoError(t, err)
			cmd := program(t, "jq", "[.[]|"+c.expression+"]")
			cmd.Stdin = bytes.NewReader(in)
			out, err := cmd.Output()
			require.NoError(t, err)
			var outputs []string
			require.NoError(t, json.Unmarshal(out, &outputs))
			covers(t, c.frame, values, outputs)
		})
	}
}

// TestFormsOfKeys: a private key of many lines, as shells and tools print and encode it.
func TestFormsOfKeys(t *testing.T) {
	var body strings.Builder
	for range 25 {
		b := make([]byte, 48)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		body.WriteString(base64.StdEncoding.EncodeToString(b) + "\n")
	}
	key := "-----BEGIN PRIVATE KEY-----\n" + body.String() + "-----END PRIVATE KEY-----\n"
	for _, c := range []struct{ script, frame string }{
		{`printf %s "$V"`, `\n`},
		{`echo $V`, `\n`},
		{`printf %s "$V" | tr -d '\n'`, ``},
		{`printf %s "$V" | sed 's/$/\r/'`, `\r\n`},
		{`printf %s "$V" | sed 's/^/web-1 | /'`, `(web-1 \| (-----(BEGIN|END) PRIVATE KEY-----)?\n){27}`},
		{`printf %s "$V" | sed -n 5p`, `\n`},
		{`printf %s "$V" | grep -v -e ---`, `\n+`},
		{`printf %s "$V" | grep -v -e --- | tr -d '\n'`, ``},
		{`printf %s "$V" | base64`, `\n`},
		{`printf %s "$V" | base64 -w 64`, `\n`},
		{`printf %s "$V" | base64 -w 0`, ``},
		{`printf %s "$V" | head -c -1 | base64 -w 64`, `\n`},
		{`printf %s "$V" | head -c -1 | base64 -w 64 | sed 's/$/\r/'`, `\r\n`},
		{`printf %s "$V" | head -c -1 | base64 -w 0`, ``},
		{`printf %s "$V" | openssl base64`, `\n`},
		{
			`printf %s "$V" | sed 's/^/    /' | sed 's/$/  /'`,
			` +(-----BEGIN PRIVATE KEY-----)\s+(-----END PRIVATE KEY-----)\s+`,
		},
	} {
		t.Run(c.script, func(t *testing.T) {
			cmd := program(t, "bash", "-c", c.script)
			cmd.Env = append(os.Environ(), "V="+key)
			out, err := cmd.Output()
			require.NoError(t, err)
			require.Greater(t, len(out), 32)
			require.Regexp(t, `\A(`+c.frame+`)\z`, hidden(key, string(out)), c.script)
			// One line of the key is found, too, if the value is the JSON of a service account.
			account, err := json.Marshal(map[string]string{"private_key": key})
			require.NoError(t, err)
			if strings.Contains(c.script, "sed -n") {
				require.Regexp(t, `\A(`+c.frame+`)\z`, hidden(string(account), string(out)), c.script)
			}
		})
	}
	spaced := " \t" + key + "\n \n"
	cmd := program(t, "base64", "-w", "64")
	cmd.Stdin = strings.NewReader(spaced)
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, "\n", hidden(spaced, string(out)))
}
