// Package parts finds what else is secret if a value is: the fields of a document, the
// password of a URL, what the value decodes to, what it is without the quotes around it.
// Programs print these alone, and then no form of the whole value is in the text. This
// package is pure: [Of] depends on its argument only, and is safe for concurrent use.
//
// # What is looked into
//
//   - JSON, YAML (several documents, too), .env and ini files, with those of AWS, .netrc and
//     .pgpass. So service accounts, kubeconfigs, docker configs and manifests of secrets are.
//   - URLs: the userinfo, the path and the query. Connection strings of name=value. user:password.
//   - Tokens: payload and signature of a JWT, and its claims.
//   - Keys in PEM, whatever has become of their line ends, in the layout of RFC 7468.
//   - Encodings of text: base64 and base64url, hexadecimal, percent. What comes out is
//     looked into again, so auth of a docker config is.
//   - Values in quotes, behind Bearer, with a byte order mark or a semicolon around.
//
// # Which fields are secret
//
// An item of a list that is the whole value, one a line or an array, is secret if it may be a token: it
// has a run of letters and digits that is not as in names (see isToken). So is each item of a list with
// commas, semicolons or blanks between them if all items may be.
//
// A field of 8 bytes or more, which is no common word, is secret if it looks random (see
// [forms.Random]), is a number of 16 hexadecimal digits or more, or is a private key; or if
// its name has one of the words password, passwd, pwd, passphrase, secret, token, key, auth
// or credential in it. A name that ends in a word such as type, file or url is about a
// secret and not the name of one. If it ends in id, alias, arn or ref, the value must be such as
// that of an item. A host or a user stays readable.
package parts

import (
	"bytes"
	"slices"
	"strings"

	"inject/exec/redact/forms"
)

// The kinds of parts. They are shown to users.
const (
	KindPart     = "part"     // a field
	KindDocument = "document" // the whole value as JSON with other white space
	KindDecoded  = "decoded"  // what it is an encoding of: base64, hexadecimal, percent, a key in one line
	KindBare     = "bare"     // without quotes and the like around it
)

// A Part is a value that is secret because it is inside another one.
type Part struct {
	// Name is that of the field if it is safe to show: it has one of the words of secret
	// names in it. Else it is "part". It is "" if the part is the whole value in another shape.
	Name  string
	Kind  string
	Value []byte
}

const (
	// minPart is the length in bytes of the shortest part: shorter ones are equal to innocent
	// words. It does not hold for [KindBare], which is the value itself.
	minPart = 8
	// maxDepth is how deep encodings and documents may lie in each other.
	maxDepth = 8
	// maxWork is how many bytes are looked into, counted again for each encoding and document.
	maxWork = 8 << 20
	// maxParts and maxBytes bound the parts of one value, and maxFields all that is looked at.
	maxParts  = 4096
	maxFields = 20_000
	maxBytes  = 2 << 20
)

// Of returns the parts of value, none twice and none equal to value. whole is false if value
// is too large or too deep to find all of them: then the first ones are returned. The parts
// may share memory with value.
func Of(value []byte) (parts []Part, whole bool) {
	f := &finder{value: bytes.TrimSpace(value)}
	f.inspect("", value, true, 0)
	return f.parts, !f.lost
}

// finder is the state of [Of].
type finder struct {
	value               []byte
	parts               []Part
	seen                map[string]bool // what is in parts
	fields, work, bytes int
	lost                bool // something was left out
}

// add adds a part, unless it is there already, or equals text that is everywhere.
func (f *finder) add(name, kind string, value []byte) {
	value = bytes.TrimSpace(value)
	if len(value) == 0 || kind != KindBare && len(value) < minPart || f.seen[string(value)] ||
		bytes.Equal(value, f.value) || Common(value) {
		return
	}
	if len(f.parts) == maxParts || f.bytes+len(value) > maxBytes {
		f.lost = true
		return
	}
	if f.seen == nil {
		f.seen = map[string]bool{}
	}
	f.seen[string(value)] = true
	f.bytes += len(value)
	f.parts = append(f.parts, Part{name, kind, value})
}

// field adds the value of a field if it is secret, and looks into it.
func (f *finder) field(name string, value []byte, depth int) {
	if f.fields++; f.fields > maxFields {
		f.lost = true
		return
	}
	value = bytes.TrimSpace(value)
	secret := secretName(name) || forms.Random(value) || longHex(value) || privateKey(value) ||
		(name == item || identifierName(name)) && isToken(value)
	label := "part"
	if showable(name) {
		label = name
	}
	if secret {
		f.add(label, KindPart, value)
	}
	f.inspect(label, value, secret && len(value) >= minPart, depth+1)
}

// inspect looks into a text, which is the value of a field, or the whole value if name is "".
// secret says that the text itself is masked: then other shapes of it are, too.
func (f *finder) inspect(name string, text []byte, secret bool, depth int) {
	text = bytes.TrimSpace(text)
	if len(text) < minPart {
		return
	}
	if f.work += len(text); f.work > maxWork || depth > maxDepth {
		f.lost = true
		return
	}
	if bare := undress(text); len(bare) < len(text) {
		if secret {
			f.add(name, KindBare, bare)
		}
		f.inspect(name, bare, secret, depth+1)
		return
	}
	for _, decoded := range decode(text) {
		if secret {
			f.add(name, KindDecoded, decoded)
		}
		f.inspect(name, decoded, secret, depth+1)
	}
	_ = f.token(text, depth) || f.url(text, depth) || f.json(name, text, secret, depth) ||
		f.yaml(text, depth) || f.netrc(text, depth) || f.pgpass(text, depth) || f.login(name, text, depth) ||
		f.assignments(text, depth) || (name == "" || secret && bytes.IndexByte(text, '\n') < 0) && f.list(text, depth)
	f.keys(name, text, secret)
}

// item is the name of the items of a list that has no name.
const item = "[]"

// isToken reports whether text may be a token, though it has no capitals: it has letters, no white
// space, and a run of letters and digits that names do not have. Those of names are letters, in front
// of at most three digits, as in db1 or worker-001; digits in front of a letter, as in eu-west-1a; and
// a digit in front of letters, as in 2xlarge.
func isToken(text []byte) bool {
	letters, odd := false, false
	for len(text) > 0 {
		rest := bytes.TrimLeftFunc(text, func(r rune) bool { return r < 0x80 && alphanumeric(byte(r)) }) //nolint:gosec // ASCII
		run := text[:len(text)-len(rest)]
		if len(run) == 0 {
			if bytes.IndexByte([]byte(" \t\r\n"), text[0]) >= 0 {
				return false
			}
			text = text[1:]
			continue
		}
		text = rest
		tail := bytes.TrimLeft(run, "0123456789") // behind the digits in front
		front := len(run) - len(tail)
		behind := len(tail) - len(bytes.TrimRight(tail, "0123456789"))
		middle := tail[:len(tail)-behind]
		letters = letters || len(middle) > 0
		switch {
		case bytes.ContainsAny(middle, "0123456789"), front > 3, behind > 3,
			front > 0 && behind > 0, front > 1 && len(middle) > 1:
			odd = true
		}
	}
	return letters && odd
}

func alphanumeric(c byte) bool { return letter(c) || '0' <= c && c <= '9' }

// words are in the names of secrets.
var words = []string{"password", "passwd", "pwd", "passphrase", "secret", "token", "key", "auth", "credential"}

// innocent are words that have one of words in them, or end in pass.
var innocent = []string{
	"authenticator", "authority", "bypass", "compass", "foreignkey", "hockey", "jockey", "keyboard", "keycloak",
	"keyspace", "keystone", "keyword", "monkey", "partitionkey", "publickey", "sortkey", "tokeniz", "turkey",
}

// about ends the names of what a secret has, such as key_type or password-file.
var about = []string{
	"algorithm", "dir", "domain", "email", "enabled", "endpoint", "expires", "expiry", "file", "format", "host",
	"issuer", "label", "length", "method", "mode", "name", "namespace", "path", "port", "provider", "realm", "region",
	"scope", "scopes", "server", "size", "store", "timeout", "ttl", "type", "uri", "url", "user", "vault", "version",
}

// identifiers ends the names of identifiers, such as key_id or KeyArn. They may be secret, as the
// secret_id of a login is, or stand in every log, as the alias of a key does.
var identifiers = []string{"alias", "arn", "id", "ids", "ref"}

// secretName reports whether a field of that name is secret whatever its value is.
func secretName(name string) bool {
	if len(name) < 3 || len(name) > 100 {
		return false
	}
	name = strings.ToLower(name)
	return !endsIn(name, about) && !endsIn(name, identifiers) && hasWord(name)
}

// identifierName reports whether a field of that name is secret if its value may be a token.
func identifierName(name string) bool {
	name = strings.ToLower(name)
	return len(name) <= 100 && endsIn(name, identifiers) && hasWord(name)
}

func endsIn(name string, ends []string) bool {
	return slices.ContainsFunc(ends, func(end string) bool { return strings.HasSuffix(name, end) })
}

// joined joins the words of a name.
var joined = strings.NewReplacer("_", "", "-", "", ".", "", " ", "")

// hasWord reports whether name, in small letters, has a word of secret names in it.
func hasWord(name string) bool {
	name = joined.Replace(name)
	if strings.Contains(name, "authorization") {
		return true
	}
	for _, w := range innocent {
		name = strings.ReplaceAll(name, w, "")
	}
	name = strings.ReplaceAll(name, "author", "")
	if strings.HasSuffix(name, "pass") {
		return true
	}
	for _, w := range words {
		if strings.Contains(name, w) {
			return true
		}
	}
	return false
}

// showable reports whether name may be shown in a mask. The names of a document may be as
// secret as its values, such as tokens that lead to users. A name with one of the words in it
// is not.
func showable(name string) bool {
	for _, c := range []byte(name) {
		if !letter(c) && (c < '0' || c > '9') && c != '_' && c != '-' && c != '.' {
			return false
		}
	}
	return len(name) <= 40 && hasWord(strings.ToLower(name))
}

func letter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// longHex reports whether text is a number of 16 hexadecimal digits or more.
func longHex(text []byte) bool {
	digits, letters := 0, 0
	for _, c := range text {
		switch {
		case '0' <= c && c <= '9':
			digits++
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			letters++
		default:
			return false
		}
	}
	return digits+letters >= 16 && digits > 0 && letters > 0
}

func privateKey(text []byte) bool {
	return bytes.Contains(text, []byte("-----BEGIN")) && bytes.Contains(text, []byte("PRIVATE KEY"))
}
