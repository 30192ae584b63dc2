package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"inject/resolver/secret"
)

// A token is a part of the text of a pattern.
type token struct {
	kind tokenKind
	text string // the literal text, or the name of the capture
}

type tokenKind int

const (
	literal tokenKind = iota
	star              // *
	below             // **
	capture           // {name}
)

// lex splits text into tokens. No two literals are adjacent.
func lex(text string) ([]token, error) {
	var tokens []token
	for text != "" {
		i := strings.IndexAny(text, "*{}")
		if i < 0 {
			i = len(text)
		}
		if i > 0 {
			tokens = append(tokens, token{literal, text[:i]})
			text = text[i:]
			continue
		}
		switch stars := len(text) - len(strings.TrimLeft(text, "*")); {
		case stars > 2:
			return nil, fmt.Errorf("%q has no meaning", text[:stars])
		case stars > 0:
			tokens = append(tokens, token{star + tokenKind(stars-1), text[:stars]})
			text = text[stars:]
		default:
			name, after, _ := strings.Cut(strings.TrimPrefix(text, "{"), "}")
			if text[0] == '}' || len(name)+len(after)+2 != len(text) || !validCapture(name) {
				return nil, errors.New(`braces are for captures: {name}, with a name of a-z and "_"`)
			}
			tokens = append(tokens, token{capture, name})
			text = after
		}
	}
	return tokens, nil
}

func validCapture(name string) bool {
	return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") == ""
}

// A pattern matches whole values of an attribute. The separator divides it into segments. A
// segment with a capture has no other wildcard, so there is only one way to match: otherwise
// the scope of an identity could be ambiguous.
type pattern struct {
	sep      string
	prefix   string    // the literal text before the first segment with a wildcard
	segments []segment // from that one on
	below    bool      // ends with **
}

type segment struct {
	pieces  []string // the literal text around the wildcards
	capture int      // the number of the capture that is the wildcard; negative for none
}

// compile returns the pattern of tokens. index returns the number of a capture.
func compile(tokens []token, sep string, index func(name string) int) (pattern, error) {
	p := pattern{sep: sep}
	all := []segment{{pieces: []string{""}, capture: -1}}
	for i, t := range tokens {
		s := &all[len(all)-1]
		switch t.kind {
		case literal:
			for j, part := range strings.Split(t.text, sep) {
				if j > 0 {
					all = append(all, segment{pieces: []string{""}, capture: -1})
					s = &all[len(all)-1]
				}
				s.pieces[len(s.pieces)-1] += part
			}
			continue
		case below:
			if sep == "." {
				return p, errors.New(`"**" has no meaning in a DNS name`)
			}
			if i < len(tokens)-1 || len(s.pieces) > 1 || s.pieces[0] != "" {
				return p, fmt.Errorf(`"**" must be the last segment, alone after a %q`, sep)
			}
			p.below = true
			continue
		case capture:
			if len(s.pieces) > 1 {
				return p, fmt.Errorf(
					"a capture must be the only wildcard between two %q, or there would be several ways to match",
					sep,
				)
			}
			s.capture = index(t.text)
		default:
			if s.capture >= 0 {
				return p, fmt.Errorf(
					"a capture must be the only wildcard between two %q, or there would be several ways to match",
					sep,
				)
			}
		}
		s.pieces = append(s.pieces, "")
	}

	if p.below {
		all = all[:len(all)-1]
	}
	for len(all) > 0 && len(all[0].pieces) == 1 {
		p.prefix += all[0].pieces[0]
		if all = all[1:]; len(all) > 0 || p.below {
			p.prefix += sep
		}
	}
	p.segments = all
	return p, nil
}

// match reports whether v matches p, and stores the captured texts in c, which may be nil if
// p has no captures. An empty v never matches. If v does not match, c may have changed.
func (p *pattern) match(v string, c *captured) bool {
	rest, ok := strings.CutPrefix(v, p.prefix)
	if !ok {
		return false
	}
	if len(p.segments) == 0 && !p.below {
		return rest == ""
	}
	for i := range p.segments {
		text, after, more := strings.Cut(rest, p.sep)
		if last := i == len(p.segments)-1 && !p.below; more == last || !p.segments[i].match(text, c) {
			return false
		}
		rest = after
	}
	if !p.below {
		return true
	}
	if rest == "" {
		return false
	}
	for more := true; more; {
		var text string
		if text, rest, more = strings.Cut(rest, p.sep); dots(text) {
			return false
		}
	}
	return true
}

// dots reports whether text is . or .., which change the meaning of a path. A wildcard never
// matches such a segment.
func dots(text string) bool { return text == "." || text == ".." }

func (s *segment) match(text string, c *captured) bool {
	if len(s.pieces) == 1 {
		return text == s.pieces[0]
	}
	if text == "" || dots(text) || !glob(s.pieces, text) {
		return false
	}
	if s.capture < 0 {
		return true
	}
	name := text[len(s.pieces[0]) : len(text)-len(s.pieces[1])]
	c[s.capture] = name
	return validName(name)
}

// validName reports whether name is valid for an org, a domain or a project.
func validName(name string) bool { return secret.Scope{Org: name}.Validate() == nil }

// glob reports whether text consists of pieces with any text between them. It takes each
// piece at its first occurrence, which suffices because the last piece is fixed at the end.
// So its time is linear.
func glob(pieces []string, text string) bool {
	first, last := pieces[0], pieces[len(pieces)-1]
	if len(pieces) == 1 {
		return text == first
	}
	if len(text) < len(first)+len(last) || !strings.HasPrefix(text, first) || !strings.HasSuffix(text, last) {
		return false
	}
	text = text[len(first) : len(text)-len(last)]
	for _, piece := range pieces[1 : len(pieces)-1] {
		_, after, ok := strings.Cut(text, piece)
		if !ok {
			return false
		}
		text = after
	}
	return true
}

// A level is the pattern of an org, a domain or a project. The zero level matches only the
// empty name.
type level struct {
	any    bool     // matches every name, and the empty one
	pieces []string // the literal text around each *
	hole   *hole
}

// A hole is the position of a capture in the pieces of a level.
type hole struct {
	capture, piece, offset int
}

// compileLevel makes a level of tokens, which has at least one. stars allows wildcards.
func compileLevel(tokens []token, stars bool, index func(name string) int) (level, error) {
	l := level{pieces: []string{""}}
	var example strings.Builder // a shortest name that matches
	for _, t := range tokens {
		last := len(l.pieces) - 1
		switch {
		case t.kind == literal:
			l.pieces[last] += t.text
			example.WriteString(t.text)
			continue
		case t.kind == capture && l.hole != nil:
			return level{}, errors.New(
				"only one capture is allowed: with two it would be ambiguous where the first ends",
			)
		case t.kind == capture:
			l.hole = &hole{index(t.text), last, len(l.pieces[last])}
		case !stars:
			return level{}, errors.New(
				`a wildcard is not allowed: an identity that resolves is bound to exactly one scope, so write ` +
					`its name or capture it from the identity, as in "{project}"`,
			)
		case t.kind == below:
			return level{}, errors.New(`"**" has no meaning here: "*" matches every name, and no name`)
		case len(tokens) == 1:
			return level{any: true}, nil
		default:
			l.pieces = append(l.pieces, "")
		}
		example.WriteByte('x')
	}
	if err := (secret.Scope{Org: example.String()}).Validate(); err != nil {
		return level{}, errors.New(
			`no valid name matches: a name has at most 63 bytes, no "/", "__" or white space, no "_" at its ` +
				`ends, and is not "." or ".."`,
		)
	}
	for _, text := range l.pieces {
		if err := secret.PlainName(text); err != nil {
			return level{}, errors.New(strings.TrimPrefix(err.Error(), secret.ErrInvalid.Error()+": "))
		}
	}
	return l, nil
}

// match reports whether name matches l; "" stands for no name.
func (l *level) match(name string, c *captured) bool {
	switch {
	case l.any:
		return true
	case l.pieces == nil:
		return name == ""
	case l.hole == nil:
		return glob(l.pieces, name)
	case len(l.pieces) == 1 && l.pieces[0] == "":
		return name == c[l.hole.capture]
	}
	pieces := slices.Clone(l.pieces)
	pieces[l.hole.piece] = l.fill(c)
	return glob(pieces, name)
}

// text returns the name that l stands for. l must not have a *.
func (l *level) text(c *captured) string {
	switch {
	case l.pieces == nil:
		return ""
	case l.hole == nil:
		return l.pieces[0]
	}
	return l.fill(c)
}

func (l *level) fill(c *captured) string {
	piece := l.pieces[l.hole.piece]
	return piece[:l.hole.offset] + c[l.hole.capture] + piece[l.hole.offset:]
}
