package outputs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A LeakError says that the outputs of a task held a value, or may have. Then either a file is
// missing from them, or the policy says that the task has failed.
type LeakError struct {
	Report Report
	// Survived is set if a process of the task could not be ended. It may have changed files
	// after they were checked.
	Survived bool
}

// Error returns Lines as one text.
func (e *LeakError) Error() string { return strings.Join(e.Lines(), "\n") }

// Lines returns a line for each file: its path, what was found, and what was done.
func (e *LeakError) Lines() []string {
	lines := e.Report.Lines()
	if e.Survived {
		lines = append(lines,
			"outputs: a process of the task could not be ended, and may have changed them since they were checked")
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

// Lines returns a line for people for each finding in r, and one for those that are not listed.
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
		lines = append(lines, fmt.Sprintf("outputs: and %d more; in all %d masked, %d taken out, %d left as they are",
			more, r.Masked, r.Refused, r.Left))
	}
	return lines
}
