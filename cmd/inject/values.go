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

// maxValues is the size limit of the file of --values-from, in bytes. It is enough for a
// hundred thousand keys. A larger file is there by mistake, such as a device or a log, and
// a byte of a value may take a hundred bytes of memory, since all its forms are kept.
const maxValues = 4 << 20

// readValues reads patterns from a file or stdin: one a line, or a JSON array of strings. The
// name of a pattern has its line or its place in the array, from 1.
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

// splitValues returns the values in a list. A text that may be of another format is an error,
// because a value that is read wrongly would not be masked.
func splitValues(text []byte) (values [][]byte, err error) {
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		return nil, fmt.Errorf("is UTF-16, and the text to mask may not be: %w", secret.ErrInvalid)
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // the byte order mark of some editors
	trimmed := bytes.TrimSpace(text)
	switch {
	case bytes.HasPrefix(trimmed, []byte("[")):
		var list []*string
		// The error of package json quotes the text. Invalid Unicode is checked for here,
		// since package json would replace it.
		if json.Unmarshal(trimmed, &list) != nil || slices.Contains(list, nil) || !utf8.Valid(trimmed) {
			return nil, secret.WithHint(
				fmt.Errorf("begins with [ and is not a JSON array of strings: %w", secret.ErrInvalid),
				"put a value that begins with [ in such an array",
			)
		}
		for _, s := range list {
			if strings.ContainsRune(*s, utf8.RuneError) {
				return nil, secret.WithHint(
					fmt.Errorf("has a string that is not valid Unicode: %w", secret.ErrInvalid),
					"write values of arbitrary bytes one a line",
				)
			}
			values = append(values, []byte(*s))
		}
	case bytes.HasPrefix(trimmed, []byte("{")) && json.Valid(trimmed):
		return nil, secret.WithHint(
			fmt.Errorf("is a JSON object: %w", secret.ErrInvalid),
			"give the values alone, as an array or one a line: jq '[.[]]'",
		)
	default:
		for line := range bytes.Lines(text) {
			values = append(values, bytes.TrimRight(line, "\r\n"))
		}
	}
	return values, nil
}
