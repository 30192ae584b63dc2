package secret

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// Plain returns an error that wraps [ErrInvalid] and names every part of s that could be taken
// for another name; see [PlainName]. It is for new secrets: those that exist at other scopes can
// still be read, changed and deleted.
func (s Scope) Plain() error {
	var errs []error
	for _, part := range []struct{ level, name string }{{"org", s.Org}, {"domain", s.Domain}, {"project", s.Project}} {
		if why := misleading(part.name); why != "" {
			errs = append(errs, fmt.Errorf("%w: %s %.80q %s", ErrInvalid, part.level, part.name, why))
		}
	}
	return errors.Join(errs...)
}

// confusable are the scripts with letters that look like Latin ones.
var confusable = []*unicode.RangeTable{unicode.Cyrillic, unicode.Greek, unicode.Armenian, unicode.Cherokee}

// PlainName returns nil if the name of an org, a domain or a project looks like no other name,
// and otherwise an error that wraps [ErrInvalid]. It refuses
//
//   - characters that cannot be seen: all but letters, marks, numbers, punctuation and symbols
//     (the categories L, M, N, P and S of Unicode), so also those of the category Cf, such as
//     U+200B and the controls of writing direction (U+202A to U+202E, U+2066 to U+2069);
//     Other_Default_Ignorable_Code_Point and Variation_Selector; the blank U+2800
//   - the forms of U+FF00 to U+FFEF, which look like other letters and digits
//   - the characters *, { and }, which are wildcards of a policy
//   - Latin letters beside Cyrillic, Greek, Armenian or Cherokee ones, some of which look like them
func PlainName(name string) error {
	if why := misleading(name); why != "" {
		return fmt.Errorf("%w: the name %.80q %s", ErrInvalid, name, why)
	}
	return nil
}

func misleading(name string) string {
	latin, others := false, false
	for _, r := range name {
		switch {
		case !unicode.In(r, unicode.L, unicode.M, unicode.N, unicode.P, unicode.S),
			unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector), r == 0x2800:
			return fmt.Sprintf("has the character %U, which cannot be seen", r)
		case 0xFF00 <= r && r <= 0xFFEF:
			return fmt.Sprintf("has the character %U, which looks like another one", r)
		case strings.ContainsRune("*{}", r):
			return fmt.Sprintf("has the character %q, which is a wildcard of policies", r)
		}
		latin = latin || unicode.Is(unicode.Latin, r)
		others = others || unicode.In(r, confusable...)
	}
	if latin && others {
		return "has Latin letters beside Cyrillic, Greek, Armenian or Cherokee ones, which look like them"
	}
	return ""
}
