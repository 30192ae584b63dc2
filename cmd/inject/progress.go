package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/term"

	"inject/injector/outputs"
	"inject/internal/printable"
)

// progress is a bar on stderr, if that is a terminal, for work that takes a while.
//
// It is sixty lines of our own because inject is part of every task's image: a library such as
// schollz/progressbar would link tables for the width of Unicode text and colors into it.
type progress struct {
	w           io.Writer
	width       int
	total, done int64 // bytes; a total of 0 is not known
	path        string
	next        time.Time // when to draw it; zero for never
	visible     bool
}

const (
	barPatience = 500 * time.Millisecond // work that ends before needs no bar
	barEvery    = 100 * time.Millisecond
	barCells    = 24
)

func newProgress(a *app, files []outputs.File) *progress {
	p := &progress{w: a.masked(a.stderr)}
	for _, f := range files {
		p.total += f.Size
	}
	width, _, err := term.GetSize(int(a.stderr.Fd()))
	if err == nil && width > 0 && a.set.Found.Terminal != "dumb" {
		p.width, p.next = width, time.Now().Add(barPatience)
	}
	return p
}

// at sets the file that is being read.
func (p *progress) at(f outputs.File) { p.path = printable.Name(f.Path) }

// add adds n bytes that were read.
func (p *progress) add(n int) {
	p.done += int64(n)
	if p.total == 0 || p.next.IsZero() || time.Now().Before(p.next) {
		return
	}
	part := min(float64(p.done)/float64(p.total), 1) // more than all if a file has grown
	full := int(part * barCells)
	bar := strings.Repeat("#", full) + strings.Repeat(" ", barCells-full)
	p.draw(fmt.Sprintf("[%s] %3.0f%% of %s  %s", bar, 100*part, size(p.total), p.path))
}

// during calls fn and returns its error. The progress of fn is not known, so that a mark moves
// to and fro in the bar.
func (p *progress) during(what string, fn func() error) error {
	if p.next.IsZero() {
		return fn()
	}
	defer p.clear()
	done := make(chan error, 1)
	go func() { done <- fn() }()
	const mark, way = "###", barCells - len("###")
	for at := 0; ; at = (at + 1) % (2 * way) {
		select {
		case err := <-done:
			return err
		case <-time.After(time.Until(p.next)):
			left := min(at, 2*way-at)
			p.draw(fmt.Sprintf("[%s%s%s] %s", strings.Repeat(" ", left), mark, strings.Repeat(" ", way-left), what))
		}
	}
}

// draw draws line in the place of the bar.
func (p *progress) draw(line string) {
	p.next, p.visible = time.Now().Add(barEvery), true
	runes := []rune(line)
	_, _ = fmt.Fprintf(p.w, "\r%s\x1b[K", string(runes[:min(len(runes), p.width-1)]))
}

// clear removes the bar, before output is printed in its place.
func (p *progress) clear() {
	if p.visible {
		_, _ = io.WriteString(p.w, "\r\x1b[K")
		p.visible = false
	}
}

// size returns a number of bytes with a unit, such as 2.9 KiB.
func size(n int64) string {
	f, units := float64(n), "BKMGTPE"
	for f >= 1024 {
		f, units = f/1024, units[1:]
	}
	if units[0] == 'B' {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %ciB", f, units[0])
}
