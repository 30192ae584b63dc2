package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"inject/exec/redact"
	"inject/resolver/secret"
)

// maxValues is how much may be given by --values-from, in bytes: a hundred
// thousand keys. What is there by mistake, such as a device or a log, is larger,
// and one byte of a value may take a hundred with all its forms.
const maxValues = 4 << 20

// readValues reads patterns from a file, or from stdin: one a line, or a JSON
// array of strings. They are called by their line, or their place in the array.
func (a *redactVerb) readValues(path string) ([]redact.Pattern, error) {
	f, err := a.open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	text, err := io.ReadAll(io.LimitReader(f, maxValues+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxValues {
		return nil, fmt.Errorf("%w: %s has more than %d MiB", secret.ErrInvalid, path, maxValues>>20)
	}
	values, err := splitValues(text)
	if err != nil {
		return nil, fmt.Errorf("%s %w", path, err)
	}
	var patterns []redact.Pattern
	for i, v := range values {
		if len(v) > 0 { // an empty line is no value
			patterns = append(patterns, redact.Pattern{Name: "value-" + strconv.Itoa(i+1), Value: v})
		}
	}
	if len(patterns) == 0 {
		return nil, fmt.Errorf("%w: there is no value in %s", secret.ErrInvalid, path)
	}
	return patterns, nil
}

// splitValues takes a list of values apart. What looks as if it were meant in
// another way is refused: a value that is read wrongly is not masked.
func splitValues(text []byte) (values [][]byte, err error) {
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		return nil, fmt.Errorf("is UTF-16, and the text may not be: %w", secret.ErrInvalid)
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // as some editors begin a file
	trimmed := bytes.TrimSpace(text)
	switch {
	case bytes.HasPrefix(trimmed, []byte("[")):
		var list []*string
		// Whose error quotes; and which replaces what is no Unicode.
		if json.Unmarshal(trimmed, &list) != nil || slices.Contains(list, nil) || !utf8.Valid(trimmed) {
			return nil, secret.WithHint(
				fmt.Errorf("begins with [ and is not a JSON array of strings: %w", secret.ErrInvalid),
				"a value that begins with [ can be in such an array, too",
			)
		}
		for _, s := range list {
			if strings.ContainsRune(*s, utf8.RuneError) {
				return nil, secret.WithHint(
					fmt.Errorf("has a string that is no Unicode: %w", secret.ErrInvalid),
					"bytes as they are go one value a line",
				)
			}
			values = append(values, []byte(*s))
		}
	case bytes.HasPrefix(trimmed, []byte("{")) && json.Valid(trimmed):
		return nil, secret.WithHint(
			fmt.Errorf("is a JSON object: %w", secret.ErrInvalid),
			"the values alone, as an array or one a line: jq '[.[]]'",
		)
	default:
		for line := range bytes.Lines(text) {
			values = append(values, bytes.TrimRight(line, "\r\n"))
		}
	}
	return values, nil
}
