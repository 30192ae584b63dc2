package parts

import (
	"bytes"
	"regexp"
	"slices"

	"inject/exec/redact/forms"
)

// token looks into a JSON Web Token, signed (RFC 7515) or encrypted (RFC 7516). Its header is
// the same in all tokens of an issuer, so it is no part.
func (f *finder) token(text []byte, depth int) bool {
	if !bytes.HasPrefix(text, []byte("eyJ")) || !encoded(bytes.ReplaceAll(text, []byte("."), nil)) {
		return false
	}
	segments := bytes.Split(text, []byte("."))
	switch len(segments) {
	case 3:
		f.part("payload", segments[1], depth)
		f.part("signature", segments[2], depth)
	case 5:
		for _, s := range segments[1:] {
			f.part("part", s, depth)
		}
	default:
		return false
	}
	return true
}

// part adds a part whose name is not that of a field, and looks into it.
func (f *finder) part(name string, value []byte, depth int) {
	f.add(name, KindPart, value)
	f.inspect(name, value, len(value) >= minPart, depth+1)
}

// minSegment is how many bytes a segment of a path has that may be secret. Shorter ones that look
// random are often names, such as MyProject2.
const minSegment = 16

// url looks into a URL: its password, its query, and what looks random of its user and its path,
// such as the path of a webhook.
func (f *finder) url(text []byte, depth int) bool {
	scheme, rest, ok := bytes.Cut(text, []byte("://"))
	if !ok || len(scheme) == 0 || len(scheme) > 40 || bytes.ContainsAny(text, " \t\n\"") {
		return false
	}
	for i, c := range scheme {
		if !letter(c) && (i == 0 || bytes.IndexByte([]byte("0123456789+-.:"), c) < 0) {
			return false
		}
	}
	authority := rest
	if end := bytes.IndexAny(rest, "/?#"); end >= 0 {
		authority = rest[:end]
	}
	at := bytes.LastIndexByte(authority, '@')
	if _, port, ok := bytes.Cut(authority, []byte(":")); at < 0 && ok && !digits(port) {
		at = bytes.LastIndexByte(rest, '@') // a password with a slash, as some libraries take it
	}
	if at >= 0 {
		user, password, _ := bytes.Cut(rest[:at], []byte(":"))
		f.part("password", password, depth)
		f.field("user", user, depth)
		rest = rest[at+1:]
	}
	rest, _, _ = bytes.Cut(rest, []byte("#"))
	rest, query, ok := bytes.Cut(rest, []byte("?"))
	for i, segment := range bytes.Split(rest, []byte("/")) {
		// Behind the host. A number at the end makes no name random.
		if i > 0 && len(segment) >= minSegment && forms.Random(bytes.TrimRight(segment, "0123456789")) {
			f.field("", segment, depth)
		}
	}
	if ok {
		for pair := range bytes.SplitSeq(query, []byte("&")) {
			if name, value, ok := bytes.Cut(pair, []byte("=")); ok {
				f.field(string(name), value, depth)
			}
		}
	}
	return true
}

func digits(text []byte) bool { return len(bytes.Trim(text, "0123456789")) == 0 }

// login looks into user:password. Behind a name of a secret, as auth of a docker config, the
// password is one; else it must look random.
func (f *finder) login(name string, text []byte, depth int) bool {
	at := bytes.IndexAny(text, "=:")
	if at <= 0 || at > 100 || text[at] != ':' || bytes.ContainsAny(text, " \t\n") {
		return false
	}
	password := text[at+1:]
	if name != "" && secretName(name) {
		f.part("password", password, depth)
	} else if word(text[:at]) {
		f.field("", password, depth)
	}
	return true
}

// isName reports whether text may be a name in an assignment, and not a piece of a password.
func isName(text []byte) bool {
	for i, c := range text {
		if !letter(c) && c != '_' && (i == 0 || bytes.IndexByte([]byte("0123456789.@+-/ "), c) < 0) {
			return false
		}
	}
	return len(text) > 0 && len(text) <= 100
}

// word reports whether text may be the name of one value alone, or of a user: all of its letters
// but the first are small, or all are capitals; or it is the name of a secret.
func word(text []byte) bool {
	return isName(text) && len(text) >= 3 && (bytes.Equal(text, bytes.ToUpper(text)) ||
		bytes.Equal(text[1:], bytes.ToLower(text[1:])) || showable(string(text)))
}

// netrc looks into a .netrc file (machine, login and password, in words).
func (f *finder) netrc(text []byte, depth int) bool {
	if !bytes.HasPrefix(text, []byte("machine")) && !bytes.HasPrefix(text, []byte("default")) {
		return false
	}
	fields := bytes.Fields(text)
	for i := 1; i < len(fields); i++ {
		switch string(fields[i-1]) {
		case "password", "account":
			f.part(string(fields[i-1]), fields[i], depth)
		case "login":
			f.field("login", fields[i], depth)
		}
	}
	return bytes.Equal(fields[0], []byte("machine")) || bytes.Equal(fields[0], []byte("default"))
}

// pgpass looks into a .pgpass file (host:port:database:user:password, with a backslash before a colon
// or a backslash in one of them; the first four may be a star).
func (f *finder) pgpass(text []byte, depth int) bool {
	var passwords [][]byte
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		if line = bytes.TrimSpace(line); len(line) == 0 || line[0] == '#' {
			continue
		}
		var fields [][]byte
		from := 0
		for i := 0; i < len(line); i++ {
			switch line[i] {
			case '\\':
				i++
			case ':':
				fields = append(fields, line[from:i])
				from = i + 1
			}
		}
		if len(fields) != 4 || len(fields[1]) == 0 || !digits(fields[1]) && string(fields[1]) != "*" {
			return false
		}
		passwords = append(passwords, line[from:])
	}
	for _, p := range passwords {
		f.part("password", p, depth)
		f.part("password", pgEscape.ReplaceAll(p, []byte("$1")), depth)
	}
	return len(passwords) > 0
}

var pgEscape = regexp.MustCompile(`\\(.)`)

// assignments looks into texts of name=value or name: value: .env, ini, properties and htpasswd
// files, one a line, and connection strings, with semicolons or blanks between them. It reports
// whether there is one.
func (f *finder) assignments(text []byte, depth int) bool {
	lines := bytes.IndexByte(text, '\n') >= 0
	if bytes.HasPrefix(text, []byte("-----BEGIN")) || !lines && bytes.IndexByte(text, '=') < 0 {
		return false
	}
	found := false
	text, exported := bytes.CutPrefix(text, []byte("export "))
	separator := []byte("\n")
	if !lines {
		separator = []byte(";")
		if bytes.IndexByte(text, ';') < 0 {
			separator, text = []byte(" "), bytes.Join(bytes.Fields(text), []byte(" "))
		}
		if !allAssign(bytes.Split(text, separator)) {
			if !exported && (separator[0] != ' ' || !allAssign([][]byte{text})) {
				return false
			}
			separator = []byte("\n") // a value with blanks in it
		}
	}
	for len(text) > 0 {
		item, rest, _ := bytes.Cut(text, separator)
		item = bytes.TrimPrefix(bytes.TrimSpace(item), []byte("export "))
		at := bytes.IndexAny(item, "=:")
		if at <= 0 {
			text = rest
			continue
		}
		name, value := bytes.TrimSpace(item[:at]), bytes.TrimSpace(item[at+1:])
		if bytes.HasPrefix(item[at:], []byte("://")) {
			name, value = nil, item
		} else if !isName(name) { // a comment, too
			text = rest
			continue
		}
		// A value in quotes may go on in the next lines.
		if len(value) > 0 && (value[0] == '"' || value[0] == '\'') {
			if end := bytes.LastIndexByte(value, value[0]); end > 0 {
				value = value[:end+1] // a comment may follow
			} else if end := bytes.IndexByte(rest, value[0]); end >= 0 {
				value = slices.Concat(value, separator, rest[:end+1])
				rest = rest[end+1:]
			}
			value = undress(value)
		} else if end := bytes.Index(value, []byte(" #")); end >= 0 {
			value = value[:end]
		}
		f.field(string(name), value, depth)
		found, text = true, rest
	}
	return found
}

// list looks into lines that are one word each, and into tokens in one line.
func (f *finder) list(text []byte, depth int) bool {
	if bytes.HasPrefix(text, []byte("-----")) {
		return false
	}
	lines := bytes.IndexByte(text, '\n') >= 0
	items := bytes.Split(text, []byte("\n"))
	if !lines {
		separator := " "
		if at := bytes.IndexAny(text, ",;"); at >= 0 {
			separator = string(text[at : at+1])
		}
		items = bytes.Split(text, []byte(separator))
	}
	for i, s := range items {
		s = bytes.TrimSpace(s)
		if items[i] = s; bytes.ContainsAny(s, " \t") || !lines && (len(s) < minPart || !isToken(s)) {
			return false
		}
	}
	if len(items) < 2 {
		return false
	}
	for _, s := range items {
		f.field(item, s, depth)
	}
	return true
}

// allAssign reports whether all items are name=value; one alone must have a usual name.
func allAssign(items [][]byte) bool {
	for _, item := range items {
		name, _, ok := bytes.Cut(item, []byte("="))
		name = bytes.TrimSpace(name)
		if len(bytes.TrimSpace(item)) > 0 && (!ok || !isName(name) || len(items) == 1 && !word(name)) {
			return false
		}
	}
	return true
}
