package redact

import (
	"bytes"
	"cmp"
	"slices"

	"inject/exec/redact/forms"
	"inject/exec/redact/parts"
)

// The memory of the automaton, in bytes, for one value and for all. A task runs beside it in
// the same container, and what a secret is may be decided by someone else.
//
// A node takes nodeMemory in trie.next, links and outs. A form takes formMemory in the other
// tables. The table of pieces of the filter has at most 1 MiB, which is left free.
const (
	maxValueMemory = 15 << 20
	maxMemory      = 63 << 20
	nodeMemory     = 14
	formMemory     = 128
	// maxFound is how many bytes of forms are looked at for one value: six times as many as
	// fit, because many forms share their beginnings.
	maxFound = 8 << 20
)

// order is the order in which the forms of a value are kept if not all of them fit: by the place
// of their kind here, of one kind those of the whole value before those of its parts, and then the
// shorter ones first. The plain value is always kept.
// base64url has the place of base64.
var order = []string{
	forms.KindRaw, parts.KindPart, parts.KindBare, parts.KindDecoded, forms.KindLines, forms.KindCase, forms.KindHex,
	forms.KindBase64, forms.KindPercent, forms.KindJSON, parts.KindDocument, forms.KindPython,
	forms.KindShell, forms.KindGo, forms.KindXML, forms.KindQuoted, forms.KindCookie,
	forms.KindCharset, forms.KindNumbers,
}

func rank(kind string) int {
	if kind == forms.KindBase64URL {
		kind = forms.KindBase64
	}
	if i := slices.Index(order, kind); i >= 0 {
		return i
	}
	return len(order)
}

// A Form is a byte string that is masked, and the name and the kind that its finds have.
type Form struct {
	Name  string
	Kind  string // one of the kinds of packages forms and parts
	Bytes []byte
}

// Forms returns what a Redactor of patterns searches for.
func Forms(minLength int, patterns ...Pattern) []Form {
	e := newExpansion(max(minLength, 1), patterns)
	all := make([]Form, len(e.forms))
	for i, f := range e.forms {
		all[i] = Form{e.names[f.owner], f.kind, f.bytes}
	}
	return all
}

// expansion is what patterns are made into: all forms of the values and of their parts.
type expansion struct {
	forms     []form
	described bool
	longest   int      // the length of the longest form
	names     []string // by form.owner
	// The names of patterns that are not masked; of those that are words which every log has;
	// and of those of which some forms or parts are left out.
	unmasked, common, reduced []string
}

// found are the forms of one pattern.
type found struct {
	name    string
	forms   []form
	bytes   int  // of the forms
	memory  int  // at most what they take in the automaton
	sorted  bool // the forms are in the order in which they are kept, and memory is exact
	reduced bool // some are left out
}

func newExpansion(minLength int, patterns []Pattern) *expansion {
	e := &expansion{}
	var all []*found
	total, limit, full := 0, maxValueMemory, false
	for _, p := range patterns {
		f := e.find(p, minLength)
		if f == nil {
			e.unmasked = append(e.unmasked, p.Name)
			continue
		}
		if parts.Common(p.Value) {
			e.common = append(e.common, p.Name)
		}
		if full || f.memory > limit {
			f.keep(limit)
		}
		all, total = append(all, f), total+f.memory
		// If the estimates are too high together, measure. If that is too much, halve the limit
		// of each value until all fit, or only the raw values are left.
		for total > maxMemory && limit > formMemory {
			if full {
				limit /= 2
			}
			full, total = true, 0
			for _, f := range all {
				f.keep(limit)
				total += f.memory
			}
		}
	}
	n := 0
	for _, f := range all {
		n += len(f.forms)
	}
	e.forms = make([]form, 0, n)
	for _, f := range all {
		for _, form := range f.forms {
			e.longest = max(e.longest, len(form.bytes))
		}
		e.forms = append(e.forms, f.forms...)
		if f.reduced {
			e.reduced = append(e.reduced, f.name)
		}
	}
	return e
}

// describe sets what a writer needs to know of the forms. It does so once: writers read it.
func (e *expansion) describe() {
	if e.described {
		return
	}
	e.described = true
	for i := range e.forms {
		f := &e.forms[i]
		f.describe()
		f.wraps = wrappable(f.bytes)
	}
}

// find returns the forms of a pattern and of its parts; nil if it is not masked.
func (e *expansion) find(p Pattern, minLength int) *found {
	own, whole := forms.Within(p.Value, minLength, maxFound)
	if len(own) == 0 {
		return nil
	}
	f := &found{name: p.Name, forms: make([]form, 0, len(own)), reduced: !whole}
	owner := e.owner(p.Name)
	f.add(own, owner, 0)

	inside, whole := parts.Of(p.Value)
	f.reduced = f.reduced || !whole
	if len(inside) == 0 {
		return f
	}
	if n := readable(own[0].Bytes, inside); n > 0 {
		for i := range f.forms {
			form := &f.forms[i]
			if len(form.bytes) >= int(n)+longLimit && bytes.HasPrefix(form.bytes, own[0].Bytes[:n]) {
				form.public = n
			}
		}
	}
	owners := map[string]int32{"": owner}
	for _, part := range inside {
		owner, known := owners[part.Name]
		if !known {
			owner = e.owner(p.Name + "." + part.Name)
			owners[part.Name] = owner
		}
		if part.Kind == parts.KindDocument {
			f.add([]forms.Form{{Kind: part.Kind, Bytes: part.Value}}, owner, 1)
			continue
		}
		all, whole := forms.Within(part.Value, minLength, max(0, maxFound-f.bytes))
		f.reduced = f.reduced || !whole
		if len(all) > 0 {
			all[0].Kind = part.Kind
			f.add(all, owner, 1)
		}
	}
	return f
}

// owner returns the index of a new name.
func (e *expansion) owner(name string) int32 {
	e.names = append(e.names, name)
	return int32(len(e.names) - 1) //nolint:gosec // far fewer than 2^31
}

func (f *found) add(all []forms.Form, owner int32, ofPart int8) {
	for _, one := range all {
		f.forms = append(f.forms, form{bytes: one.Bytes, kind: one.Kind, owner: owner, ofPart: ofPart})
		f.bytes += len(one.Bytes)
	}
	f.memory = nodeMemory*f.bytes + formMemory*len(f.forms)
}

// keep leaves out the forms that do not fit into so many bytes of memory. The first form, which
// is the value itself, stays.
func (f *found) keep(memory int) {
	if f.sorted && f.memory <= memory {
		return
	}
	if !f.sorted {
		f.sorted = true
		slices.SortStableFunc(f.forms[1:], func(a, b form) int {
			return cmp.Or(rank(a.kind)-rank(b.kind), int(a.ofPart-b.ofPart), len(a.bytes)-len(b.bytes))
		})
	}
	kept := make([]form, 0, len(f.forms))
	f.memory, f.bytes = 0, 0
	for _, form := range f.forms {
		// A form shares the nodes of its beginning with those before it. All variants of one
		// base64 are near to each other.
		shared := 0
		for _, other := range kept[max(0, len(kept)-window):] {
			shared = max(shared, sharedPrefix(form.bytes, other.bytes))
		}
		takes := formMemory + nodeMemory*(len(form.bytes)-shared)
		if len(kept) > 0 && f.memory+takes > memory {
			continue
		}
		f.memory += takes
		f.bytes += len(form.bytes)
		kept = append(kept, form)
	}
	if len(kept) == len(f.forms) {
		return
	}
	// Copies, so that the memory of what is left out is free.
	f.reduced, f.forms = true, slices.Clip(kept)
	arena := make([]byte, 0, f.bytes)
	for i, form := range f.forms {
		from := len(arena)
		arena = append(arena, form.bytes...)
		f.forms[i].bytes = arena[from:len(arena):len(arena)]
	}
}

// window is how many forms a form is compared with to see what it shares.
const window = 32
