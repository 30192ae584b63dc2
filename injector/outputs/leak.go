package outputs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A LeakError says that a value was in what the task left, or may have been, so that
// something is missing there or, by the policy, the task has failed.
type LeakError struct {
	Report Report
	// Survived is set when a process of the task could not be ended, and may have
	// changed what had been looked at.
	Survived bool
}

// Error tells of each file on a line of its own.
func (e *LeakError) Error() string { return strings.Join(e.Lines(), "\n") }

// Lines tells of each file: its path, what was found, and what was done.
func (e *LeakError) Lines() []string {
	lines := e.Report.Lines()
	if e.Survived {
		lines = append(lines, "outputs: a process of the task could not be ended, and may have changed them since they were checked")
	}
	return lines
}

// Keys returns the names of the values that were found, sorted.
func (e *LeakError) Keys() []string {
	keys := map[string]bool{}
	for _, f := range e.Report.Findings {
		for key := range f.Found {
			keys[key] = true
		}
	}
	return slices.Sorted(maps.Keys(keys))
}

// Lines tells of each file in r for people, and how many more there are.
func (r Report) Lines() []string {
	var lines []string
	for _, f := range r.Findings {
		line := fmt.Sprintf("outputs: %q: %s", f.Path, f.Outcome)
		if f.Why != "" {
			line += ": " + f.Why
		}
		var found []string
		for _, key := range slices.Sorted(maps.Keys(f.Found)) {
			found = append(found, fmt.Sprintf("%s %d", key, f.Found[key]))
		}
		if found != nil {
			line += " (" + strings.Join(found, ", ") + ")"
		}
		lines = append(lines, line)
	}
	if more := r.Masked + r.Refused + r.Left - len(r.Findings); more > 0 {
		lines = append(lines, fmt.Sprintf("outputs: and %d more; in all %d masked, %d taken out, %d left as they are", more, r.Masked, r.Refused, r.Left))
	}
	return lines
}
