package envfile

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/cli"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// parsed returns the keys and revealed values that text assigns, and its errors as users see them.
func parsed(text string) (pairs [][2]string, told string) {
	secrets, err := Parse("FILE", []byte(text))
	for _, n := range secrets {
		pairs = append(pairs, [2]string{n.Ref.Key, string(n.Value.Reveal())})
	}
	return pairs, tell(err)
}

// tell returns the messages and hints of err, as users see them.
func tell(err error) string {
	var b strings.Builder
	for _, e := range cli.Each(err) {
		fmt.Fprintf(&b, "%s\n%s\n", e, secret.Hint(e))
	}
	return b.String()
}

func TestEnvFile(t *testing.T) {
	for _, c := range []struct {
		text  string
		pairs [][2]string
	}{
		{"K=v", [][2]string{{"K", "v"}}},
		{"K=v\n", [][2]string{{"K", "v"}}},
		{"\xef\xbb\xbfK=v\r\n", [][2]string{{"K", "v"}}},
		{"\n \t\r\n# c=d\n  # e\nK=v\n\n", [][2]string{{"K", "v"}}},
		{"A=1\nB=2", [][2]string{{"A", "1"}, {"B", "2"}}},
		{" \tK \t= \tv \t", [][2]string{{"K", "v"}}},
		{"export K=v\nexport\tL=v\n export  M = v", [][2]string{{"K", "v"}, {"L", "v"}, {"M", "v"}}},
		{"export=v\nexported=v\nexport export2=v", [][2]string{{"export", "v"}, {"exported", "v"}, {"export2", "v"}}},
		{"lower=v\n1=v\n-=v\n_=v", [][2]string{{"lower", "v"}, {"1", "v"}, {"-", "v"}, {"_", "v"}}},
		{"K=\nL= \nM=''\nN=\"\"\nO= # c", [][2]string{{"K", ""}, {"L", ""}, {"M", ""}, {"N", ""}, {"O", ""}}},
		{"K=a=b==", [][2]string{{"K", "a=b=="}}},
		{"K=a # c\nL=a\t#c\nM=é #é", [][2]string{{"K", "a"}, {"L", "a"}, {"M", "é"}}},
		{`K='$A${B}$(c)` + "`d`'", [][2]string{{"K", "$A${B}$(c)`d`"}}},
		{`K="$A\${B}\$(c)` + "`d`\"", [][2]string{{"K", "$A${B}$(c)`d`"}}},
		{"K=$A$2y$10$x$ # ${B} $(c)\nL=\"$\" # ${B}", [][2]string{{"K", "$A$2y$10$x$"}, {"L", "$"}}},
		{`K=C:\new\`, [][2]string{{"K", `C:\new\`}}},
		{`K=it's "so"`, [][2]string{{"K", `it's "so"`}}},
		{`K={"a": 1}`, [][2]string{{"K", `{"a": 1}`}}},
		{`K='a\n"$# #b' # c`, [][2]string{{"K", `a\n"$# #b`}}},
		{"K=\"a\\n\\r\\t\\\"\\\\\\$\\`'# #b\"\t# c", [][2]string{{"K", "a\n\r\t\"\\$`'# #b"}}},
		{"K='a\nB=c\n\n#d'\nL=v", [][2]string{{"K", "a\nB=c\n\n#d"}, {"L", "v"}}},
		{"K=\"a\r\nb\r\n\"\r\nL=v\r\n", [][2]string{{"K", "a\nb\n"}, {"L", "v"}}},
		{"K=\xff\xc3\xfe\u00a0 \nL='\xff'", [][2]string{{"K", "\xff\xc3\xfe\u00a0"}, {"L", "\xff"}}},
		{"K=  ' v '", [][2]string{{"K", " v "}}},
		{"K=a\vb\x01\x7f", [][2]string{{"K", "a\vb\x01\x7f"}}},
		{"K=" + strings.Repeat("v", store.MaxValue), [][2]string{{"K", strings.Repeat("v", store.MaxValue)}}},
	} {
		pairs, told := parsed(c.text)
		require.Empty(t, told, "%.40q", c.text)
		require.Equal(t, c.pairs, pairs, "%.40q", c.text)
	}
}

// Errors name the line and the key. No error may contain VALUE.
func TestEnvFileRefused(t *testing.T) {
	const escapes = "the escapes in double quotes are \\n \\r \\t \\\" \\\\ \\$ \\`; in single quotes a backslash is itself"
	for _, c := range []struct{ text, told string }{
		{"", "invalid: FILE assigns no secret\neach line has one: KEY=value\n"},
		{"# K=VALUE", "invalid: FILE assigns no secret\neach line has one: KEY=value\n"},
		{"\xff\xfeK\x00=\x00", "invalid: FILE is UTF-16\nsave it as UTF-8\n"},
		{"VALUE", "FILE, line 1: invalid: it is not KEY=value\nput a value of several lines in quotes\n"},
		{"\nexport VALUE\n", "FILE, line 2: invalid: it is not KEY=value\nput a value of several lines in quotes\n"},
		{"=VALUE", "FILE, line 1: invalid: the key is empty\n\n"},
		{"K.L=VALUE", "FILE, line 1: invalid: the key has '.' at position 2 (only letters, digits, - and _ are " +
			"allowed)\n\n"},
		{"declare -x K=VALUE", "FILE, line 1: invalid: the key has ' ' at position 8 (only letters, digits, - and _ " +
			"are allowed)\n\n"},
		{strings.Repeat("K", 254) + "=VALUE", "FILE, line 1: invalid: the key is 254 bytes long (at most 253)\n\n"},
		{"K=\nL='VALUE\n'\nK=VALUE", "FILE, line 4: K: invalid: line 1 has the same key\n\n"},
		{"K=VALUE#VALUE", "FILE, line 1: K: " + tell(errHash)},
		{"K=#VALUE", "FILE, line 1: K: " + tell(errHash)},
		{"K=é#VALUE", "FILE, line 1: K: " + tell(errHash)},
		{`K=it's # VALUE`, "FILE, line 1: K: " + tell(errHash)},
		{"K=`VALUE`", "FILE, line 1: K: " + tell(errTick)},
		{"K=VALUE${VALUE", "FILE, line 1: K: " + tell(errExpand)},
		{"K=$(VALUE)", "FILE, line 1: K: " + tell(errExpand)},
		{`K=\${VALUE}`, "FILE, line 1: K: " + tell(errExpand)}, // a backslash is itself there
		{`K="VALUE\\${VALUE}"`, "FILE, line 1: K: " + tell(errExpand)},
		{"K=\"VALUE\n$(VALUE)\"", "FILE, line 1: K: " + tell(errExpand)},
		{"K=VALUE\x00", "FILE, line 1: K: " + tell(errNUL)},
		{"K='VALUE\n\x00'", "FILE, line 1: K: " + tell(errNUL)},
		{"K=VALUE\rL=VALUE", "FILE, line 1: K: " + tell(errReturn)},
		{"K=\"VALUE\r\"", "FILE, line 1: K: " + tell(errReturn)},
		{`K="VALUE\x"`, "FILE, line 1: K: invalid: a backslash is followed by a character that it does not escape\n" + escapes +
			"\n"},
		{"K=\"VALUE\\\nVALUE\"\nVALUE", "FILE, line 1: K: " + tell(errEscape) +
			"FILE, line 3: invalid: it is not KEY=value\nput a value of several lines in quotes\n"},
		{`K="VALUE" VALUE`, "FILE, line 1: K: " + tell(errBehind)},
		{`K="VALUE"#VALUE`, "FILE, line 1: K: " + tell(errBehind)},
		{`K='VALUE'\''VALUE'`, "FILE, line 1: K: " + tell(errBehind)},
		{"A=\nK='VALUE\nVALUE=VALUE\n", "FILE, line 2: K: " + tell(errOpen)},
		{`K="VALUE\`, "FILE, line 1: K: " + tell(errOpen)},
		{`K="VALUE\"`, "FILE, line 1: K: " + tell(errOpen)},
		// Behind a line that is wrong, a key may be part of a value: the error names only the line.
		{"VALUE\nVALUE=#\n", "FILE, line 1: invalid: it is not KEY=value\n" +
			"put a value of several lines in quotes\nFILE, line 2: " + tell(errHash)},
		{"K='VALUE\nL='VALUE\nVALUE==\nVALUE=#", "FILE, line 1: K: " + tell(errBehind) +
			"FILE, line 4: invalid: line 3 has the same key\n\n"},
		{
			"K=" + strings.Repeat("v", store.MaxValue+1),
			"FILE, line 1: K: invalid: the value is 1048577 bytes long (at most 1048576)\n\n",
		},
	} {
		_, told := parsed(c.text)
		require.Equal(t, c.told, told, "%.40q", c.text)
		require.NotContains(t, told, "VALUE", "%.40q", c.text)
		_, err := Parse("FILE", []byte(c.text))
		require.ErrorIs(t, err, secret.ErrInvalid)
	}
}

// quotings are the ways to write a value. Each returns "" for one that it cannot write.
var quotings = []func(value string) string{
	func(v string) string {
		return `"` + strings.NewReplacer(
			`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`", "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(v) + `"`
	},
	func(v string) string { // only what must be
		v = strings.NewReplacer("${", `\${`, "$(", `\$(`).Replace(strings.ReplaceAll(v, `\`, `\\`))
		return `"` + strings.NewReplacer(`"`, `\"`, "\r", `\r`).Replace(v) + `"`
	},
	func(v string) string {
		if strings.ContainsAny(v, "'\r") {
			return ""
		}
		return "'" + v + "'"
	},
	func(v string) string {
		if strings.ContainsAny(v, "#\r\n") || strings.Trim(v, " \t") != v ||
			v != "" && strings.Contains("'\"`", v[:1]) || strings.Contains(v, "${") || strings.Contains(v, "$(") {
			return ""
		}
		return v
	},
}

func FuzzEnvFile(f *testing.F) {
	for _, value := range []string{
		"", "v", " v ", "it's", "\"$HOME\"", "a#b", "a #b",
		"`x`", "\\", "a\nB=c\n", "\r", "\r\n", "\xff\xc3", "==", "\x00",
	} {
		f.Add("A=b\n", value, "\nC=d\n")
	}
	f.Add("A=\"b\n", "v'", "\"\n")
	f.Add("A='b\n", "v\"x=#", "'\nK=`")
	f.Fuzz(func(t *testing.T, before, value, after string) {
		// No error contains a part of a value, whatever the rest of the file is. The canary is
		// behind the = of its line.
		canary := rand.Text()
		for _, quote := range quotings {
			if quoted := quote(value + canary + value); !strings.Contains(quoted, "\n") {
				_, told := parsed(before + "\nPLANTED=" + quoted + after)
				require.NotContains(t, told, canary)
			}
		}

		// What is accepted is what was written, in each way to write it.
		if !strings.Contains(value, "\x00") {
			var text strings.Builder
			var want [][2]string
			for i, quote := range quotings {
				if quoted := quote(value); quoted != "" || value == "" {
					comment := " # c"
					if quoted == value && strings.ContainsAny(value, "'\"") {
						comment = "" // which it would make ambiguous
					}
					fmt.Fprintf(&text, "export K%d = %s%s\n", i, quoted, comment)
					want = append(want, [2]string{fmt.Sprint("K", i), value})
				}
			}
			for i, quote := range quotings {
				if v := "v" + value + "v"; quote(v) != "" {
					fmt.Fprintf(&text, "L%d=%s\n", i, quote(v))
					want = append(want, [2]string{fmt.Sprint("L", i), v})
				}
			}
			for _, text := range []string{text.String(), strings.ReplaceAll(text.String(), "\n", "\r\n")} {
				pairs, told := parsed(text)
				require.Empty(t, told)
				require.Equal(t, want, pairs)
			}
		}

		// Whatever is accepted is the same once more, in the plainest way to write it.
		if pairs, told := parsed(before + value + after); told == "" {
			var again bytes.Buffer
			seen := map[string]bool{}
			for _, pair := range pairs {
				require.NoError(t, secret.ValidKey(pair[0]))
				require.NotContains(t, pair[1], "\x00")
				require.False(t, seen[pair[0]])
				seen[pair[0]] = true
				fmt.Fprintf(&again, "%s=%s\n", pair[0], quotings[0](pair[1]))
			}
			same, told := parsed(again.String())
			require.Empty(t, told)
			require.Equal(t, pairs, same)
		}
	})
}
