package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// A Row is one result.
type Row struct {
	Workload string
	Values   int // the number of values, or 0
	Name     string
	Unit     string
	Value    Stat
	Versus   string // the name of the row that Ratio is relative to
	Ratio    *Stat
	Target   *Target
}

// A Target is the value or ratio that a row should reach.
type Target struct {
	Text string
	Met  bool
}

func (r *Row) versus(name string, ratio Stat) { r.Versus, r.Ratio = name, &ratio }

// atLeast sets a lower bound for the ratio; 0 sets none.
func (r *Row) atLeast(ratio float64) {
	if ratio > 0 {
		r.Target = &Target{fmt.Sprintf("≥ %g×", ratio), r.Ratio.Median >= ratio}
	}
}

// atMost sets an upper bound for the value.
func (r *Row) atMost(value float64) {
	text := fmt.Sprintf("≤ %g %s", value, r.Unit)
	if value == 0 {
		text = "none"
	}
	r.Target = &Target{text, r.Value.Median <= value}
}

// A Report has all results of a run, and the machine it ran on.
type Report struct {
	Machine string
	Cores   int
	Kernel  string
	Go      string
	Rounds  int
	Once    bool // the times mean nothing, so no target is held to them
	Checked int  // outputs that were compared
	Rows    []Row
}

func newReport(c config) Report {
	return Report{
		Machine: processor(), Cores: runtime.NumCPU(), Kernel: kernel(),
		Go: runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH, Rounds: c.rounds, Once: c.once,
	}
}

func kernel() string {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	release, _, _ := strings.Cut(strings.TrimSpace(string(text)), "-") // without the suffix of the vendor
	return runtime.GOOS + " " + release
}

func processor() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	defer f.Close() //nolint:errcheck // it was read
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func (r *Report) add(row Row) {
	if r.Once {
		row.Target = nil
	}
	r.Rows = append(r.Rows, row)
}

func (r *Report) note(format string, args ...any) { fmt.Printf("  note: "+format+"\n", args...) }

func (r *Report) about() string {
	return fmt.Sprintf("%s, %d cores, %s, %s; medians of %d alternating rounds, with the quartiles", r.Machine,
		r.Cores, r.Kernel, r.Go, r.Rounds)
}

func (r *Report) verdict() string {
	compared := fmt.Sprintf("%d outputs compared with the plain rule, byte for byte", r.Checked)
	if r.Once {
		return "each benchmark ran; " + compared
	}
	met, all := 0, 0
	for _, row := range r.Rows {
		if row.Target != nil {
			all++
			if row.Target.Met {
				met++
			}
		}
	}
	verdict := fmt.Sprintf("%d of %d targets met", met, all)
	if r.Checked > 0 {
		verdict += "; " + compared
	}
	return verdict
}

// number formats x with about three digits.
func number(x float64) string {
	switch {
	case x == 0:
		return "0"
	case x >= 99.95:
		return fmt.Sprintf("%.0f", x)
	case x >= 9.995:
		return fmt.Sprintf("%.1f", x)
	case x >= 0.0995:
		return fmt.Sprintf("%.2f", x)
	case x >= 0.00995:
		return fmt.Sprintf("%.3f", x)
	default:
		return fmt.Sprintf("%.4f", x)
	}
}

func spread(s Stat) string {
	if s.N < 2 {
		return ""
	}
	return number(s.Low) + "–" + number(s.High)
}

// cells returns the cells of a row in a table.
func cells(r Row) []string {
	ratio, target := "", ""
	if r.Ratio != nil {
		ratio = number(r.Ratio.Median) + "×"
		if s := spread(*r.Ratio); s != "" {
			ratio += " (" + s + ")"
		}
	}
	if r.Target != nil {
		target = r.Target.Text + " NOT MET"
		if r.Target.Met {
			target = r.Target.Text + " met"
		}
	}
	n := ""
	if r.Values > 0 {
		n = fmt.Sprint(r.Values)
	}
	return []string{r.Workload, n, r.Name, number(r.Value.Median) + " " + r.Unit, spread(r.Value), ratio, target}
}

// heads returns the heads of a table, with the name that the rows' ratios are relative to.
func heads(rows []Row) []string {
	versus := "ratio"
	for _, r := range rows {
		if r.Versus == "" {
			continue
		}
		if versus != "ratio" && versus != "to "+r.Versus {
			versus = "ratio" // the rows name different ones
			break
		}
		versus = "to " + r.Versus
	}
	return []string{"text", "values", "what", "median", "quartiles", versus, "target"}
}

// table formats the rows of a section as a table for a terminal.
func table(title string, rows []Row) string {
	if len(rows) == 0 {
		return ""
	}
	lines := [][]string{heads(rows)}
	for _, r := range rows {
		lines = append(lines, cells(r))
	}
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "\n%s\n", title)
	for _, line := range lines {
		var text strings.Builder
		for i, cell := range line {
			pad := strings.Repeat(" ", widths[i]-len([]rune(cell)))
			if i == 1 || i == 3 {
				cell, pad = pad+cell, "" // numbers are aligned to the right
			}
			text.WriteString("  " + cell + pad)
		}
		out.WriteString(strings.TrimRight(text.String(), " ") + "\n")
	}
	return out.String()
}
