package guard

import (
	"io"
	"maps"
	"slices"
	"strings"

	"inject/exec/redact"
	"inject/injector/outputs"
	"inject/injector/outputs/content"
)

// What was done about an object, for people.
const (
	masked  = "masked"
	refused = "refused"
	passed  = "stored as it is"
)

// scan returns how often each value is in text, by name.
func (g *Guard) scan(text string) (found map[string]int) {
	w := g.o.Redactor.Writer(io.Discard)
	w.Found = func(f redact.Find) {
		if found == nil {
			found = map[string]int{}
		}
		found[f.Name]++
	}
	_, _ = io.WriteString(w, text) // io.Discard takes everything
	_ = w.Close()
	return found
}

// mask returns text with its values masked.
func (g *Guard) mask(text string) string {
	var b strings.Builder
	w := g.o.Redactor.Writer(&b)
	_, _ = io.WriteString(w, text) // a builder takes everything
	_ = w.Close()
	return b.String()
}

// names returns the names of values for people.
func names(found map[string]int) string {
	return strings.Join(slices.Sorted(maps.Keys(found)), " and ")
}

// refuse records that an object was not stored because of what was found, and returns the answer to
// the task. The answer is a sentence, because the task's author reads it in Flyte. format has one %s,
// for the names of the values.
func (g *Guard) refuse(o object, found map[string]int, format string) error {
	why := strings.Replace(format, "%s", names(found), 1)
	g.found(outputs.Finding{Path: o.String(), Found: found, Why: why, Outcome: refused})
	return refuse(403, "AccessDenied", "inject: %s %s: nothing was stored", o, why)
}

// refuseUnlessWarn refuses an object whose names have values in them, which may be its key.
func (g *Guard) refuseUnlessWarn(o object, found map[string]int, format string) error {
	if len(found) == 0 {
		return nil
	}
	o.key = g.mask(o.key)
	if g.o.Policy == outputs.Warn {
		g.found(outputs.Finding{Path: o.String(), Found: found, Why: "in its names", Outcome: passed})
		return nil
	}
	return g.refuse(o, found, format)
}

// scanners are inspectors of bodies. There are few, because each may need 64 MiB to expand an archive.
type scanners struct {
	redactor *redact.Redactor
	free     chan *content.Inspector // nil for one that is made when it is needed
}

func newScanners(r *redact.Redactor) scanners {
	s := scanners{r, make(chan *content.Inspector, 2)}
	for range cap(s.free) {
		s.free <- nil
	}
	return s
}

// get returns an inspector, which put takes back.
func (s *scanners) get() *content.Inspector {
	if in := <-s.free; in != nil {
		return in
	}
	return content.NewInspector(s.redactor)
}

func (s *scanners) put(in *content.Inspector) { s.free <- in }
