// Command injectbench copies stdin to stdout through the replacer of the
// buildkite agent, which masks the values of a file, one a line. Its module's
// path is inside buildkite's, because that package is internal. It is there to
// be measured beside inject redact and does nothing else.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/buildkite/agent/v3/internal/replacer"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "injectbench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: injectbench VALUES-FILE")
	}
	values, err := os.ReadFile(args[0]) //nolint:gosec // the one that was named
	if err != nil {
		return err
	}
	needles := strings.Split(strings.TrimSuffix(string(values), "\n"), "\n")
	mask := []byte("[redacted]")
	w := replacer.New(os.Stdout, needles, func([]byte) []byte { return mask })
	// As large as a pipe, so that buildkite is not measured by io.Copy's half of it.
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{os.Stdin}, make([]byte, 64<<10)); err != nil {
		return err
	}
	return w.Flush()
}
