package main_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/exec/redact"
	"inject/exec/redact/forms"
	"inject/internal/harness"
)

// A searcher finds values in every form that exec/redact/forms knows.
type searcher struct {
	cores    [][]byte // each value begins and ends with one of them
	redactor *redact.Redactor
	forms    [][]string // of each core, made by others than the redactor
	canary   []byte
	planted  int
}

func newSearcher() *searcher {
	binary := make([]byte, 24)
	_, _ = rand.Read(binary)
	s := &searcher{cores: [][]byte{
		[]byte("'\"$HOME`\\\n\xff\xfe%s" + rand.Text()), []byte(rand.Text() + "$(id)\t\xc3'\n"),
		[]byte("p@ss w+rd/=&<" + rand.Text()), binary,
	}}
	s.redactor = redact.New(1)
	var canary bytes.Buffer
	for i, core := range s.cores {
		if err := s.redactor.Add(redact.Pattern{Name: fmt.Sprint(i), Value: core}); err != nil {
			panic(err)
		}
		s.forms = append(s.forms, harness.Forms(string(core)))
		for _, f := range forms.Of(core, 1) {
			s.planted++
			_, _ = fmt.Fprintf(&canary, "\n-- %s --\n", f.Bytes)
		}
	}
	s.canary = canary.Bytes()
	return s
}

// value returns a unique value. The searcher recognizes even its first bytes in a text.
func (s *searcher) value() []byte {
	sizes := []int{16, 16, 16, 200, 200, 3000, 30_000}
	b := make([]byte, sizes[mrand.IntN(len(sizes))])
	_, _ = rand.Read(b)
	core := s.cores[mrand.IntN(len(s.cores))]
	return slices.Concat(core, b, core)
}

// finds returns where text holds a value.
func (s *searcher) finds(text []byte) []redact.Find {
	var found []redact.Find
	w := s.redactor.Writer(io.Discard)
	w.Found = func(f redact.Find) { found = append(found, f) }
	_, _ = w.Write(text) // to nowhere
	_ = w.Close()
	for i, forms := range s.forms {
		if form := harness.Leaked(string(text), forms); form != "" {
			at := int64(bytes.Index(text, []byte(form)))
			found = append(found, redact.Find{Offset: at, Name: fmt.Sprint(i), Kind: "encoded"})
		}
	}
	return found
}

// clean fails the test if text holds a value, or if the search misses a canary planted in it.
func (s *searcher) clean(t *testing.T, where string, text []byte) {
	t.Helper()
	require.NotEmptyf(t, text, "%s says nothing", where)
	middle := len(text) / 2
	require.GreaterOrEqualf(t, len(s.finds(slices.Concat(text[:middle], s.canary, text[middle:]))), s.planted,
		"the search of %s finds nothing", where)
	for i, core := range s.cores { // one alone, as it is
		require.NotEmptyf(t, s.finds(slices.Concat(text[:middle], core, text[middle:])),
			"the search of %s does not find %d", where, i)
	}
	require.Emptyf(t, s.finds(text), "a value is in %s", where)
}

func (s *searcher) cleanFile(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	s.clean(t, path, b)
}
