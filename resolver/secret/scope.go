package secret

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// DefaultOrg is the organization of a secret for which no other is named. Flyte's
// server stores all secrets under this name, whatever _U_ORG_NAME says.
const DefaultOrg = "flyte"

const (
	// maxScopeName is the longest name of an org, domain or project: that of a
	// Kubernetes label value, which is how Flyte hands them to a pod.
	maxScopeName = 63
	// maxKey is the longest key: that of a Kubernetes data key.
	maxKey = 253
)

// A Scope says how widely a secret is shared. An empty Project means every
// project, an empty Domain every domain; Org is never empty in a valid Scope.
type Scope struct{ Org, Domain, Project string }

// Ladder returns the scopes that a task running at s may read, narrowest
// first: project and domain, project, domain, org. Rungs that need a name s
// does not have are left out, so a task without a project reads no project's
// secrets. Flyte climbs the same way; the project rung, which its documentation
// promises and its server refuses, comes before the domain's because its owner
// is nearer to the task.
func (s Scope) Ladder() []Scope {
	var rungs []Scope
	if s.Project != "" && s.Domain != "" {
		rungs = append(rungs, s)
	}
	if s.Project != "" {
		rungs = append(rungs, Scope{Org: s.Org, Project: s.Project})
	}
	if s.Domain != "" {
		rungs = append(rungs, Scope{Org: s.Org, Domain: s.Domain})
	}
	return append(rungs, Scope{Org: s.Org})
}

// String names s for people: "project p, domain d", "org flyte". The org is
// left out of narrower scopes when it is [DefaultOrg].
func (s Scope) String() string {
	var parts []string
	if s.Project != "" {
		parts = append(parts, "project "+s.Project)
	}
	if s.Domain != "" {
		parts = append(parts, "domain "+s.Domain)
	}
	if len(parts) == 0 || s.Org != DefaultOrg {
		parts = append(parts, "org "+s.Org)
	}
	return strings.Join(parts, ", ")
}

// Flags returns the command-line flags that select s, with a leading space
// each, for hints that can be pasted: " -p my_project -d development".
func (s Scope) Flags() string {
	var b strings.Builder
	if s.Org != DefaultOrg {
		b.WriteString(" --org " + s.Org)
	}
	if s.Project != "" {
		b.WriteString(" -p " + s.Project)
	}
	if s.Domain != "" {
		b.WriteString(" -d " + s.Domain)
	}
	return b.String()
}

// Validate returns an error that wraps [ErrInvalid] and names every part of s
// that is not a valid name. Names that contain "__", or begin or end with "_",
// are refused because Flyte's stored id would not be one-to-one for them.
func (s Scope) Validate() error {
	var errs []error
	if s.Org == "" {
		errs = append(errs, fmt.Errorf("%w: the org is empty", ErrInvalid))
	}
	for _, part := range []struct{ level, name string }{{"org", s.Org}, {"domain", s.Domain}, {"project", s.Project}} {
		if why := badScopeName(part.name); why != "" {
			errs = append(errs, fmt.Errorf("%w: %s %.80q %s", ErrInvalid, part.level, part.name, why))
		}
	}
	return errors.Join(errs...)
}

func badScopeName(name string) string {
	switch {
	case len(name) > maxScopeName:
		return fmt.Sprintf("is %d bytes long (at most %d)", len(name), maxScopeName)
	case !utf8.ValidString(name):
		return "is not UTF-8"
	case strings.Contains(name, "__"):
		return `contains "__"`
	case strings.HasPrefix(name, "_") || strings.HasSuffix(name, "_"):
		return `begins or ends with "_"`
	case strings.Contains(name, "/"):
		return `contains "/"`
	case name == "." || name == "..":
		return "is not a name"
	case strings.ContainsFunc(name, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }):
		return "contains white space or a control character"
	}
	return ""
}

// A Ref names exactly one stored secret: a key at a scope.
type Ref struct {
	Scope

	Key string
}

// ID returns the stored id of r, as Flyte encodes it (EncodeSecretName of
// flyteplugins/go/tasks/pluginmachinery/secret). It is one-to-one for valid refs.
func (r Ref) ID() string {
	return "u__org__" + r.Org + "__domain__" + r.Domain + "__project__" + r.Project + "__key__" + r.Key
}

// ParseID returns the ref with an id, and an error that wraps [ErrInvalid] for a text that is not the
// id of a valid ref. It is the inverse of [Ref.ID].
func ParseID(id string) (Ref, error) {
	const parts = 9 // u, org, ORG, domain, DOMAIN, project, PROJECT, key, KEY; the key may contain "__"
	p := strings.SplitN(id, "__", parts)
	if len(p) != parts || p[0] != "u" || p[1] != "org" || p[3] != "domain" || p[5] != "project" || p[7] != "key" {
		return Ref{}, fmt.Errorf("%w: it is not the id of a secret", ErrInvalid)
	}
	r := Ref{Scope{Org: p[2], Domain: p[4], Project: p[6]}, p[8]}
	return r, r.Validate()
}

// String names r for people: "MY_KEY at project p, domain d".
func (r Ref) String() string { return r.Key + " at " + r.Scope.String() }

// Validate returns an error that wraps [ErrInvalid] and names everything that
// is wrong with r's key and scope. The key may be any [StoredKey].
func (r Ref) Validate() error { return errors.Join(StoredKey(r.Key), r.Scope.Validate()) }

// StoredKey returns nil if a secret that exists may have the key: a [ValidKey], or one with dots too,
// which Flyte's server accepts on Kubernetes although its messages do not allow them. It must not
// begin with "..", because it is also the name of a file. Like the error of ValidKey, this one does
// not quote key.
func StoredKey(key string) error {
	if strings.HasPrefix(key, "..") || key == "." {
		return fmt.Errorf("%w: the key is that of no secret: it begins with dots", ErrInvalid)
	}
	if len(key) > maxKey {
		return ValidKey(key)
	}
	return ValidKey(strings.ReplaceAll(key, ".", "_"))
}

// ValidKey returns nil when key matches ^[-a-zA-Z0-9_]+$ (the pattern that
// flyteidl2.secret declares) and is at most 253 bytes long, else an error that
// wraps [ErrInvalid]. The error does not quote key: it may be a value that was
// given in place of a key.
func ValidKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: the key is empty", ErrInvalid)
	case len(key) > maxKey:
		return fmt.Errorf("%w: the key is %d bytes long (at most %d)", ErrInvalid, len(key), maxKey)
	}
	for i, r := range key {
		if !isWord(r) && r != '-' {
			return fmt.Errorf(
				"%w: the key has %q at position %d (only letters, digits, - and _ are allowed)", ErrInvalid, r,
				i+1,
			)
		}
	}
	return nil
}

func isWord(r rune) bool {
	return r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}
