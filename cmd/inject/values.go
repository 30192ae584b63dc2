package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"inject/cli/envfile"
	"inject/exec/redact"
	"inject/resolver/secret"
)

// maxValues is the size limit of the file of --values-from, in bytes. It is enough for a
// hundred thousand keys. A larger file is there by mistake, such as a device or a log, and
// a byte of a value may take a hundred bytes of memory, since all its forms are kept.
const maxValues = 4 << 20

// readValues reads patterns from a file or stdin: one a line, as a text or a JSON string, a JSON
// array of strings, or the values of a .env file. The name of a pattern is that in the .env file,
// else its line or its place in the array, from 1.
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
	if line := assignment(text); line > 0 {
		return readAssignments(path, text, line)
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

// assignment returns the number of the first line that looks like NAME=value, which a line of a
// .env file does, and 0 if there is none. The = at the end of base64 is none.
func assignment(text []byte) int {
	n := 0
	for line := range bytes.Lines(bytes.TrimPrefix(text, bom)) {
		n++
		name, value, ok := strings.Cut(strings.TrimSpace(string(line)), "=")
		if ok && strings.Trim(value, "=") != "" && variable.MatchString(name) {
			return n
		}
	}
	return 0
}

var bom = []byte("\xef\xbb\xbf") // the byte order mark of some editors

var variable = regexp.MustCompile(`^(export\s+)?[A-Za-z_][A-Za-z0-9_]*\s*$`)

// readAssignments returns the values of a .env file, in which the given line is an assignment.
func readAssignments(path string, text []byte, line int) ([]redact.Pattern, error) {
	secrets, err := envfile.Parse(path, text)
	if err != nil {
		err = fmt.Errorf("%w: line %d of %s assigns a value, as in a .env file, and the file is none",
			secret.ErrInvalid, line, path)
		return nil, secret.WithHint(err, "inject create secret --from-env-file tells what is wrong in a .env file; "+
			"a value that looks so goes in a JSON array")
	}
	var patterns []redact.Pattern
	for _, s := range secrets {
		patterns = append(patterns, redact.Pattern{Name: s.Ref.Key, Value: s.Value.Reveal()})
	}
	return patterns, nil
}

// splitValues returns the values in a list. A text that may be of another format is an error,
// because a value that is read wrongly would not be masked.
func splitValues(text []byte) (values [][]byte, err error) {
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		return nil, fmt.Errorf("is UTF-16, and the text to mask may not be: %w", secret.ErrInvalid)
	}
	text = bytes.TrimPrefix(text, bom)
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
	case bytes.IndexByte(text, 0) >= 0:
		return nil, secret.WithHint(
			fmt.Errorf("has NUL bytes, which separate values in some lists and are in values in others: %w",
				secret.ErrInvalid),
			"tr '\\0' '\\n' makes lines of it; values with line breaks go in a JSON array")
	default:
		for line := range bytes.Lines(text) {
			value := bytes.TrimRight(line, "\r\n")
			var text string
			switch {
			case !json.Valid(value) || !utf8.Valid(value):
			case value[0] == '{' || value[0] == '[':
				return nil, secret.WithHint(
					fmt.Errorf("has JSON in line %d that is not a string: %w", len(values)+1, secret.ErrInvalid),
					"give the values alone: jq -c '.[]'")
			case json.Unmarshal(value, &text) == nil && !strings.ContainsRune(text, utf8.RuneError):
				value = []byte(text)
			}
			values = append(values, value)
		}
	}
	return values, nil
}
