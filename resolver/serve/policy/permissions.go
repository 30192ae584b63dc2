package policy

import (
	"maps"
	"slices"
	"strings"
)

// A Permission is a verb that a grant allows at the scopes that its patterns match: * is any
// name and none, "" is none.
type Permission struct {
	Verb                 Verb
	Org, Domain, Project string
	Keys                 []string // of Resolve, sorted; nil for all
}

// IsEverything reports whether g is the grant of [Everything].
func (g Grant) IsEverything() bool { return g.rule != nil && g.rule.all }

// Permissions returns what g allows, in the order of the rule's fields. It is empty for the
// zero Grant and for that of [Everything], which has no patterns.
func (g Grant) Permissions() []Permission {
	if g.rule == nil {
		return nil
	}
	var all []Permission
	for _, verb := range []Verb{Manage, List} {
		for i := range g.rule.scopes[verb] {
			s := &g.rule.scopes[verb][i]
			all = append(all, Permission{
				Verb: verb, Org: s.org.shown(&g.captured), Domain: s.domain.shown(&g.captured),
				Project: s.project.shown(&g.captured),
			})
		}
	}
	if t := g.rule.resolve; t != nil {
		p := Permission{Verb: Resolve, Org: g.task.Org, Domain: g.task.Domain, Project: g.task.Project}
		switch {
		case t.declared:
			keys := maps.Clone(t.also)
			if keys == nil {
				keys = map[string]bool{}
			}
			for key := range g.declared.keys {
				if g.MayResolve(key) {
					keys[key] = true
				}
			}
			if len(keys) == 0 {
				return all // no keys would stand for all of them
			}
			p.Keys = slices.Sorted(maps.Keys(keys))
		case t.keys != nil:
			p.Keys = slices.Sorted(maps.Keys(t.keys))
		}
		all = append(all, p)
	}
	return all
}

// shown returns l as it is written in a policy, with the capture filled in.
func (l *level) shown(c *captured) string {
	if l.any {
		return "*"
	}
	pieces := slices.Clone(l.pieces)
	if l.hole != nil {
		pieces[l.hole.piece] = l.fill(c)
	}
	return strings.Join(pieces, "*")
}
