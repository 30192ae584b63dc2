package main

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// What a generated part of a page is between.
const (
	beginMark = "<!-- bench:begin -->"
	endMark   = "<!-- bench:end -->"
)

// A look is how a program is drawn: in colours that people who see few of them can
// tell apart, and that stand out on white.
type look struct {
	name   string
	colour color.RGBA
	width  vg.Length
	dashes []vg.Length
}

var looks = []look{
	{progCat, color.RGBA{0x80, 0x80, 0x80, 0xff}, vg.Points(1), []vg.Length{vg.Points(4), vg.Points(3)}},
	{progInject, color.RGBA{0x00, 0x5f, 0x9e, 0xff}, vg.Points(2.5), nil},
	{progPlain, color.RGBA{0x33, 0x33, 0x33, 0xff}, vg.Points(1.2), nil},
	{progSed, color.RGBA{0xc4, 0x50, 0x00, 0xff}, vg.Points(1.2), nil},
	{progGrep, color.RGBA{0x00, 0x85, 0x60, 0xff}, vg.Points(1.2), nil},
	{progBuildkite, color.RGBA{0xa0, 0x30, 0x80, 0xff}, vg.Points(1.2), nil},
}

// drawPlot writes the comparison as an SVG: speed against number of values, both
// in powers of ten, each line with its name at its end.
func drawPlot(r *Report, file string) error {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	plotter.DefaultFont = plot.DefaultFont
	p := plot.New()
	p.Title.Text = fmt.Sprintf("Masking log lines through a pipe, %d cores", r.Cores)
	p.Title.Padding = vg.Points(10)
	p.X.Label.Text = "values"
	p.Y.Label.Text = "MB/s"
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker = plot.ConstantTicks(ticks(counts...))
	p.Y.Tick.Marker = plot.ConstantTicks(ticks(1, 10, 100, 1000, 10000))
	grid := plotter.NewGrid()
	light := color.RGBA{0xe4, 0xe4, 0xe4, 0xff}
	grid.Horizontal.Color, grid.Vertical.Color = light, light
	p.Add(grid)

	var names plotter.XYLabels
	var styles []look
	highest, lowest := 10.0, 1.0
	for _, l := range looks {
		var points plotter.XYs
		for _, row := range r.Rows {
			if row.Section == compareName && row.Name == l.name {
				points = append(points, plotter.XY{X: float64(row.Values), Y: row.Value.Median})
				highest, lowest = max(highest, row.Value.Median), min(lowest, row.Value.Median)
			}
		}
		if len(points) == 0 {
			continue
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return err
		}
		line.Color, line.Width, line.Dashes = l.colour, l.width, l.dashes
		dots.Color, dots.Shape, dots.Radius = l.colour, draw.CircleGlyph{}, l.width+vg.Points(0.8)
		p.Add(line, dots)
		end := points[len(points)-1]
		names.XYs = append(names.XYs, plotter.XY{X: end.X * 1.15, Y: end.Y})
		names.Labels = append(names.Labels, l.name)
		styles = append(styles, l)
	}
	if len(styles) == 0 {
		return errors.New("there is no comparison in the measurement (bench measure without -quick)")
	}
	// Room for the names, at the right.
	p.X.Min, p.X.Max = 0.9, float64(counts[len(counts)-1])*11
	p.Y.Min, p.Y.Max = lowest*0.8, highest*1.4
	apart(names.XYs, math.Pow(p.Y.Max/p.Y.Min, 0.05))
	labels, err := plotter.NewLabels(names)
	if err != nil {
		return err
	}
	for i := range labels.TextStyle {
		labels.TextStyle[i].Color = styles[i].colour
		labels.TextStyle[i].YAlign = draw.YCenter
	}
	p.Add(labels)

	canvas := vgsvg.New(vg.Points(640), vg.Points(400))
	p.Draw(draw.New(canvas)) // on white, which is the plot's background
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return err
	}
	// The typeface that it was laid out with is on few machines. These are as wide.
	out := bytes.ReplaceAll(svg.Bytes(), []byte("font-family:Liberation Sans;"), []byte("font-family:Helvetica,Arial,Liberation Sans,sans-serif;"))
	return os.WriteFile(file, out, 0o644) //nolint:gosec // it is published
}

func ticks(at ...int) []plot.Tick {
	var t []plot.Tick
	for _, n := range at {
		t = append(t, plot.Tick{Value: float64(n), Label: strconv.Itoa(n)})
	}
	return t
}

// apart moves names up until each is at least gap times as high as the one below.
func apart(at plotter.XYs, gap float64) {
	order := make([]int, len(at))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int {
		if at[i].Y < at[j].Y {
			return -1
		}
		return 1
	})
	for k := 1; k < len(order); k++ {
		below := at[order[k-1]].Y
		at[order[k]].Y = max(at[order[k]].Y, below*gap)
	}
}

// rewrite puts the tables of r where the page has its marks.
func rewrite(r *Report, file string) error {
	data, err := os.ReadFile(file) //nolint:gosec // the one that was named
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(data), beginMark)
	_, after, ended := strings.Cut(rest, endMark)
	if !found || !ended {
		return fmt.Errorf("%s has no %s … %s", file, beginMark, endMark)
	}
	var part strings.Builder
	markdown(&part, r)
	return os.WriteFile(file, []byte(before+beginMark+"\n"+part.String()+endMark+after), 0o644) //nolint:gosec // it is published
}

func markdown(out io.Writer, r *Report) {
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format, args...) } // to memory
	say("One run on %s, %d cores, %s, %s. Medians of %d alternating rounds; the quartiles tell the noise. %s.\n\n",
		r.Machine, r.Cores, r.Kernel, r.Go, r.Rounds, r.verdict())
	for _, s := range sections {
		var rows []Row
		for _, row := range r.Rows {
			if row.Section == s.name {
				rows = append(rows, row)
			}
		}
		if len(rows) == 0 {
			continue
		}
		say("### %s\n\n", s.title)
		notes := 0
		for _, n := range r.Notes {
			if n.Section == s.name {
				say("- %s\n", n.Text)
				notes++
			}
		}
		if notes > 0 {
			say("\n")
		}
		if s.name == compareName {
			writeTable(out, pivot(rows))
		} else {
			lines := [][]string{heads(rows)}
			for _, row := range rows {
				lines = append(lines, cells(row))
			}
			writeTable(out, lines)
		}
		say("\n")
	}
}

// pivot is a comparison with a line a program and a column a number of values.
func pivot(rows []Row) [][]string {
	lines := [][]string{{"MB/s"}}
	for _, n := range counts {
		lines[0] = append(lines[0], strconv.Itoa(n))
	}
	for _, l := range looks {
		line := []string{l.name}
		for _, n := range counts {
			cell := "–"
			for _, row := range rows {
				if row.Name == l.name && row.Values == n {
					cell = number(row.Value.Median)
				}
			}
			line = append(line, cell)
		}
		lines = append(lines, line)
	}
	return lines
}

// writeTable writes a table without the columns and lines that are empty.
func writeTable(out io.Writer, lines [][]string) {
	used := make([]bool, len(lines[0]))
	for _, line := range lines[1:] {
		for i, cell := range line {
			used[i] = used[i] || cell != ""
		}
	}
	for k, line := range lines {
		var text, under strings.Builder
		for i, cell := range line {
			if used[i] {
				text.WriteString("| " + strings.ReplaceAll(cell, "|", `\|`) + " ")
				under.WriteString("|---")
			}
		}
		_, _ = fmt.Fprintln(out, text.String()+"|") // to memory
		if k == 0 {
			_, _ = fmt.Fprintln(out, under.String()+"|")
		}
	}
}
