// Package envfile reads .env files, which have lines KEY=value, to import many secrets.
//
// Programs that read such files disagree on details. The grammar here is the part on which
// they agree. A line that they would read differently is an error, so that no value is
// imported as another one.
package envfile

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"inject/resolver/secret"
	"inject/resolver/store"
)

const (
	// MaxLen is the size limit of a file, in bytes. The whole file is read into memory, and
	// a larger one is there by mistake, such as a device.
	MaxLen = 64 << 20
	// maxRefused is how many bad lines are reported. A file with more is of another kind.
	maxRefused = 100
)

// Parse returns the secrets that the text of an env file assigns, in order, each key once.
// Their scope is not set. The error joins one error for each bad line; name is what they call
// the file. No error quotes anything that may be part of a value. Parse overwrites text.
func Parse(name string, text []byte) ([]store.New, error) {
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		return nil, secret.WithHint(fmt.Errorf("%w: %s is UTF-16", secret.ErrInvalid, name), "save it as UTF-8")
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))       // the byte order mark of some editors
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")) // in quotes, too, as in all such programs
	p := parser{name: name, rest: text, lines: map[string]int{}}
	for len(p.rest) > 0 {
		p.next()
	}
	if more := p.refused - maxRefused; more > 0 {
		p.errs = append(p.errs, fmt.Errorf("%w: %s: %d more lines are refused", secret.ErrInvalid, name, more))
	}
	if p.refused == 0 && p.secrets == nil {
		return nil, secret.WithHint(
			fmt.Errorf("%w: %s assigns no secret", secret.ErrInvalid, name),
			"each line has one: KEY=value",
		)
	}
	return p.secrets, errors.Join(p.errs...)
}

// parser is the state of [Parse].
type parser struct {
	name  string
	rest  []byte         // what is still to be read
	line  int            // how many lines were begun
	lines map[string]int // where a key came first

	secrets []store.New
	refused int
	errs    []error // of the first maxRefused
	// lost is set by a line that cannot be understood. From there on, text that looks like
	// a key may be part of a value, so errors do not name keys.
	lost bool
}

// next reads a line, or several if a value in quotes spans them.
func (p *parser) next() {
	text := p.rest
	line, rest, _ := bytes.Cut(text, []byte("\n"))
	p.rest = rest
	p.line++
	if trimmed := blanks(line); len(trimmed) == 0 || trimmed[0] == '#' {
		return
	}
	before, value, assigns := bytes.Cut(line, []byte("="))
	if !assigns {
		p.lost = true
		p.refuse(p.line, "", refusal("it is not KEY=value", "put a value of several lines in quotes"))
		return
	}
	key, at, shown := envKey(before), p.line, !p.lost
	err := secret.ValidKey(key)
	if err != nil {
		shown = false
	} else if first := p.lines[key]; first > 0 {
		err = fmt.Errorf("%w: line %d has the same key", secret.ErrInvalid, first)
	} else {
		p.lines[key] = at
	}
	var errValue error
	if trimmed := blanks(value); len(trimmed) > 0 && (trimmed[0] == '\'' || trimmed[0] == '"') {
		value, errValue = p.quoted(trimmed[0], text[len(before)+1+bytes.IndexByte(value, trimmed[0])+1:])
	} else {
		value, errValue = unquoted(value)
	}
	if err == nil {
		err = errValue
	}
	if err == nil && len(value) > store.MaxValue {
		err = fmt.Errorf("%w: the value is %d bytes long (at most %d)", secret.ErrInvalid, len(value), store.MaxValue)
	}
	if err == nil {
		p.secrets = append(p.secrets, store.New{Ref: secret.Ref{Key: key}, Value: secret.NewValue(value)})
		return
	}
	if !shown {
		key = ""
	}
	p.refuse(at, key, err)
}

// refuse adds the error of a line.
func (p *parser) refuse(line int, key string, err error) {
	if p.refused++; p.refused > maxRefused {
		return
	}
	where := fmt.Sprintf("%s, line %d", p.name, line)
	if key != "" {
		where += ": " + key
	}
	p.errs = append(p.errs, fmt.Errorf("%s: %w", where, err))
}

func refusal(text, hint string) error {
	return secret.WithHint(fmt.Errorf("%w: %s", secret.ErrInvalid, text), "%s", hint)
}

var (
	errNUL = refusal(
		"the value has a NUL byte",
		"--from-file accepts any bytes: inject create secret NAME --from-file FILE",
	)
	errReturn = refusal(
		"the value has a carriage return inside a line",
		`write it as \r in double quotes`,
	)
	errHash = refusal(
		"programs disagree whether the # begins a comment",
		"put the value in quotes; a comment is white space and #, after a value that has no quotes in it",
	)
	errTick = refusal(
		"the value begins with `, which some programs take for a quote",
		"put it in single or double quotes",
	)
	errEscape = refusal(
		"a backslash is followed by a character that it does not escape",
		"the escapes in double quotes are \\n \\r \\t \\\" \\\\ \\$ \\`; in single quotes a backslash is itself",
	)
	errExpand = refusal(
		"the value has ${ or $(, and many programs replace that when they read the file",
		"single quotes keep it as it is, and so does \\$ in double quotes; or write the value itself",
	)
	errBehind = refusal(
		"the closing quote is followed by more than a comment",
		`write a quote in the value as \" in double quotes`,
	)
	errOpen = refusal("the value's opening quote is never closed", "the rest of the file was not read")
)

// quoted returns the value at the start of text, which ends at the closing quote, and moves
// to the line after it.
func (p *parser) quoted(quote byte, text []byte) (value []byte, err error) {
	value = text[:0] // over what was read: it is never longer
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == quote:
			var behind []byte
			behind, p.rest, _ = bytes.Cut(text[i+1:], []byte("\n"))
			if comment := blanks(behind); len(comment) > 0 && (comment[0] != '#' || behind[0] == '#') {
				p.lost = true
				return nil, errBehind
			}
			return slices.Clip(value), err
		case c == '\\' && quote == '"' && i+1 < len(text):
			i++
			if c = text[i]; c == '\n' {
				p.line++
			}
			if at := bytes.IndexByte([]byte("nrt\"\\$`"), c); at >= 0 {
				c = "\n\r\t\"\\$`"[at]
			} else {
				err = errEscape
			}
		case expands(text[i:]) && quote == '"':
			err = errExpand
		case c == '\n':
			p.line++
		case c == '\r':
			err = errReturn
		case c == 0:
			err = errNUL
		}
		value = append(value, c)
	}
	p.rest = nil
	return nil, errOpen
}

// unquoted returns the value that the rest of a line, without quotes, is.
func unquoted(rest []byte) ([]byte, error) {
	for i, c := range rest {
		switch c {
		case 0:
			return nil, errNUL
		case '\r':
			return nil, errReturn
		case '$':
			if expands(rest[i:]) {
				return nil, errExpand
			}
		case '#':
			// After a quote some programs take the # for a part of the value.
			if i == 0 || rest[i-1] != ' ' && rest[i-1] != '\t' || bytes.ContainsAny(rest[:i], "'\"") {
				return nil, errHash
			}
			return blanks(rest[:i]), nil
		}
	}
	value := blanks(rest)
	if len(value) > 0 && value[0] == '`' {
		return nil, errTick
	}
	return value, nil
}

// expands reports whether text begins with ${ or $(, which shells and many readers of such files
// replace. A bare $name is part of many hashes, and stays.
func expands(text []byte) bool {
	return len(text) > 1 && text[0] == '$' && (text[1] == '{' || text[1] == '(')
}

// envKey returns the key in the text before the = of a line.
func envKey(before []byte) string {
	key := blanks(before)
	exported, ok := bytes.CutPrefix(key, []byte("export"))
	if ok && len(exported) > 0 && len(blanks(exported[:1])) == 0 {
		key = blanks(exported)
	}
	return string(key)
}

// blanks trims spaces and tabs.
func blanks(b []byte) []byte { return bytes.Trim(b, " \t") }
