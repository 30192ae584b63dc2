package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"inject/exec/redact"
)

// finding is a find in the JSON output.
type finding struct {
	File   string `json:"file"`
	Offset int64  `json:"offset"`
	Key    string `json:"key"`
	Form   string `json:"form"`
}

// finds counts the finds by name and form.
type finds struct {
	total  int
	counts map[string]map[string]int
}

func (f *finds) add(find redact.Find) {
	f.total++
	if f.counts == nil {
		f.counts = map[string]map[string]int{}
	}
	if f.counts[find.Name] == nil {
		f.counts[find.Name] = map[string]int{}
	}
	f.counts[find.Name][find.Kind]++
}

// tell prints the counts, the highest first.
func (f *finds) tell(w io.Writer, onlyFound bool) {
	sums := map[string]int{}
	for name, kinds := range f.counts {
		for _, n := range kinds {
			sums[name] += n
		}
	}
	var rows strings.Builder
	for _, name := range byCount(sums) {
		var kinds []string
		for _, kind := range byCount(f.counts[name]) {
			kinds = append(kinds, fmt.Sprintf("%s %d", kind, f.counts[name][kind]))
		}
		fmt.Fprintf(&rows, "  %s\t%d\t%s\n", name, sums[name], strings.Join(kinds, ", "))
	}
	var b bytes.Buffer
	what := "masked"
	if onlyFound {
		what = "found"
	}
	fmt.Fprintf(&b, "inject: %s %d\n", what, f.total)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, err := io.WriteString(t, rows.String())
	if err = errors.Join(err, t.Flush()); err == nil { // always, in memory
		_, _ = w.Write(b.Bytes())
	}
}

// byCount returns the keys, the highest count first.
func byCount(counts map[string]int) []string {
	return slices.SortedFunc(maps.Keys(counts), func(x, y string) int {
		return cmp.Or(cmp.Compare(counts[y], counts[x]), strings.Compare(x, y))
	})
}
