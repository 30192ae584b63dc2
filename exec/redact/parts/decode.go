package parts

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"unicode"
	"unicode/utf8"
)

// pairs are what stands around a value that was copied with what was around it.
var pairs = []string{`""`, `''`, "``", "“”", "‘’"}

// before and behind are what may stand on one side. The marks are U+FEFF, which is also the
// byte order mark, and U+200B.
var (
	before = []string{"\ufeff", "\u200b", "Bearer ", "bearer ", "Basic ", "basic ", "Token ", "token "}
	behind = []string{"\ufeff", "\u200b", ";", ",", `\n`, `\r`}
)

// undress returns text without one thing that stands around it; text if there is none.
func undress(text []byte) []byte {
	for _, s := range before {
		if bytes.HasPrefix(text, []byte(s)) {
			return bytes.TrimSpace(text[len(s):])
		}
	}
	for _, s := range behind {
		if bytes.HasSuffix(text, []byte(s)) {
			return bytes.TrimSpace(text[:len(text)-len(s)])
		}
	}
	for _, p := range pairs {
		n := len(p) / 2
		if len(text) < len(p) || !bytes.HasPrefix(text, []byte(p[:n])) || !bytes.HasSuffix(text, []byte(p[n:])) {
			continue
		}
		var s string
		if p == `""` && json.Unmarshal(text, &s) == nil { // a string of JSON, with what it escapes
			return bytes.TrimSpace([]byte(s))
		}
		return bytes.TrimSpace(text[n : len(text)-n])
	}
	return text
}

// decode returns the texts that text is an encoding of.
func decode(text []byte) (decoded [][]byte) {
	if bytes.IndexByte(text, '%') >= 0 {
		if out, ok := unpercent(text, false); ok && readable(out) {
			decoded = append(decoded, out)
			if bytes.IndexByte(text, '+') >= 0 {
				out, _ = unpercent(text, true)
				decoded = append(decoded, out)
			}
		}
		return decoded
	}
	if len(text) < 12 || !encoded(text) {
		return nil
	}
	joined := bytes.Join(bytes.Fields(text), nil)
	if out := make([]byte, hex.DecodedLen(len(joined))); len(joined)%2 == 0 {
		if _, err := hex.Decode(out, joined); err == nil && readable(out) {
			return [][]byte{out}
		}
	}
	joined = bytes.TrimRight(joined, "=")
	for i, c := range joined {
		switch c {
		case '-':
			joined[i] = '+'
		case '_':
			joined[i] = '/'
		}
	}
	out := make([]byte, base64.RawStdEncoding.DecodedLen(len(joined)))
	if n, err := base64.RawStdEncoding.Decode(out, joined); err == nil && readable(out[:n]) {
		return [][]byte{out[:n]}
	}
	return nil
}

// encoded reports whether text has only characters of hexadecimal and base64, in both
// alphabets, and line ends.
func encoded(text []byte) bool {
	text = bytes.TrimRight(text, "=")
	for _, c := range text {
		if !letter(c) && (c < '0' || c > '9') && bytes.IndexByte([]byte("+/-_\r\n"), c) < 0 {
			return false
		}
	}
	return true
}

// readable reports whether text looks like text: eight random bytes do once in 3000 times.
func readable(text []byte) bool {
	if len(text) < minPart || !utf8.Valid(text) {
		return false
	}
	for _, r := range string(text) {
		if !unicode.IsPrint(r) && r != '\n' && r != '\r' && r != '\t' {
			return false
		}
	}
	return true
}

// unpercent returns text with what follows each % decoded, and with plus a space for each +.
// It reports whether text has an encoded byte, and none that is encoded wrongly.
func unpercent(text []byte, plus bool) ([]byte, bool) {
	out, some := make([]byte, 0, len(text)), false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '+' && plus:
			out = append(out, ' ')
		case c == '%':
			var b [1]byte
			if i+3 > len(text) {
				return nil, false
			} else if _, err := hex.Decode(b[:], text[i+1:i+3]); err != nil {
				return nil, false
			}
			out, some = append(out, b[0]), true
			i += 2
		default:
			out = append(out, c)
		}
	}
	return out, some
}
