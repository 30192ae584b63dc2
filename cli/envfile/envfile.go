// Package envfile reads .env files, of lines KEY=value, for an import of many secrets.
//
// The grammar is what the programs that read such files agree on. What they read
// differently is refused, so that no value becomes another one on its way.
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
	// MaxLen is the longest env file, in bytes. What is there by mistake, such as
	// a device, is longer; and an import is in memory as a whole.
	MaxLen = 64 << 20
	// maxRefused is how many lines are told of that are none. A file with more is
	// another kind of file.
	maxRefused = 100
)

// Parse returns what an env file called name assigns, in order: keys that are
// valid, each once, with values that can be stored. They have no scope yet. Its error joins
// one for each line that is none of that; no error quotes what may be of a value. The text
// is Parse's from then on.
func Parse(name string, text []byte) ([]store.New, error) {
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		return nil, secret.WithHint(fmt.Errorf("%w: %s is UTF-16", secret.ErrInvalid, name), "save it as UTF-8")
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))       // as some editors begin a file
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")) // in quotes, too, as everybody does
	p := parser{name: name, rest: text, lines: map[string]int{}}
	for len(p.rest) > 0 {
		p.next()
	}
	if more := p.refused - maxRefused; more > 0 {
		p.errs = append(p.errs, fmt.Errorf("%w: %s: %d more lines are refused", secret.ErrInvalid, name, more))
	}
	if p.refused == 0 && p.secrets == nil {
		return nil, secret.WithHint(
			fmt.Errorf("%w: there is no secret in %s", secret.ErrInvalid, name),
			"a line holds one: KEY=value",
		)
	}
	return p.secrets, errors.Join(p.errs...)
}

// parser reads an env file.
type parser struct {
	name  string
	rest  []byte         // what is still to be read
	line  int            // how many lines were begun
	lines map[string]int // where a key came first

	secrets []store.New
	refused int
	errs    []error // of the first maxRefused
	// lost is set by a line that makes no sense. What looks like a key from there on
	// may be part of a value, and is not shown.
	lost bool
}

// next reads a line, or the lines of a value in quotes.
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
		p.refuse(p.line, "", refusal("it is not KEY=value", "a value of more than one line is put in quotes"))
		return
	}
	key, at, shown := envKey(before), p.line, !p.lost
	err := secret.ValidKey(key)
	if err != nil {
		shown = false
	} else if first := p.lines[key]; first > 0 {
		err = fmt.Errorf("%w: line %d has this key, too", secret.ErrInvalid, first)
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

// refuse notes what is wrong with a line.
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
		"there is a NUL byte in the value",
		"--from-file takes any bytes: inject create secret NAME --from-file FILE",
	)
	errReturn = refusal(
		"there is a carriage return in the value, at no line's end",
		`in double quotes it is written \r`,
	)
	errHash = refusal(
		"some would read a comment from the # on, and some would not",
		"put the value in quotes; a comment begins with white space and #, behind a value without quotes in it",
	)
	errTick   = refusal("the value begins with `, which some take for a quote", "put it in single or double quotes")
	errEscape = refusal(
		"a backslash is before what has no meaning with it",
		"in double quotes they are \\n \\r \\t \\\" \\\\ \\$ \\`; in single quotes a backslash is one",
	)
	errBehind = refusal(
		"more than a comment is behind the closing quote",
		`a quote in a value is written \" in double quotes`,
	)
	errOpen = refusal("the quote that begins the value does not end", "what is behind it was not read")
)

// quoted returns the value that is at the beginning of text and ends with quote, and
// makes the line after it the next one.
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

// unquoted returns the value of the rest of a line.
func unquoted(rest []byte) ([]byte, error) {
	for i, c := range rest {
		switch c {
		case 0:
			return nil, errNUL
		case '\r':
			return nil, errReturn
		case '#':
			// With a quote before it, some take it for a part of the value.
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

// envKey returns the key of what is before a =.
func envKey(before []byte) string {
	key := blanks(before)
	exported, ok := bytes.CutPrefix(key, []byte("export"))
	if ok && len(exported) > 0 && len(blanks(exported[:1])) == 0 {
		key = blanks(exported)
	}
	return string(key)
}

// blanks returns b without the white space around it.
func blanks(b []byte) []byte { return bytes.Trim(b, " \t") }
