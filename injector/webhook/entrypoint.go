package webhook

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// runtimes are programs that Flyte itself has in a container's args without a command. The entrypoints of
// their images do not matter: Flyte's own image builder writes none.
var runtimes = []string{
	"a0", "clustered", "fserve", // v2
	"dask-scheduler", "dask-worker", // of flyteplugins/go/tasks/plugins/k8s/dask/dask.go
	"pyflyte-execute", "pyflyte-fast-execute", "pyflyte-map-execute", // v1
}

// MaxEntrypoint is how many characters the annotation of an entrypoint has at most.
const MaxEntrypoint = 4096

// entrypointPattern is the form of that annotation: a JSON list of strings without escapes, of which the first is
// not empty. The policies of the chart read it with the same pattern, since CEL has no parser of JSON.
const entrypointPattern = `^[ \t\r\n]*\[[ \t\r\n]*("[^"\\\x00-\x1f]+"([ \t\r\n]*,[ \t\r\n]*"[^"\\\x00-\x1f]*")*` +
	`[ \t\r\n]*)?\][ \t\r\n]*$`

var isEntrypoint = regexp.MustCompile(entrypointPattern)

// command returns what runs in the task's container before its args: its command as it is, or else the
// entrypoint of its image, as words of a command. A bad annotation is an error in either case, so that it is
// seen.
func (c *Config) command(p *pod, one task) (words []json.RawMessage, why Reason) {
	value, given := p.annotations[entrypointAnnotation]
	if given {
		list, ok := text(value)
		if !ok || utf8.RuneCountInString(list) > MaxEntrypoint || !isEntrypoint.MatchString(list) ||
			json.Unmarshal([]byte(literal(list)), &words) != nil { // the list has no $ but in its words
			return nil, Annotation
		}
	}
	if len(one.command) > 0 {
		return one.command, ""
	}
	if !given {
		if words, why = c.entrypoint(one); why != "" {
			return nil, why
		}
	}
	if len(words)+len(one.args) == 0 {
		return nil, NoEntrypoint
	}
	return words, ""
}

// entrypoint returns that of the image of a container without a command, if no annotation says it.
func (c *Config) entrypoint(one task) (words []json.RawMessage, why Reason) {
	if image, ok := text(one.fields["image"]); ok {
		for _, e := range c.Entrypoints {
			if strings.HasPrefix(image, e.Image) {
				for _, word := range e.Command {
					words = append(words, encode(literal(word)))
				}
				return words, ""
			}
		}
	}
	first := ""
	if len(one.args) > 0 {
		first, _ = text(one.args[0])
	}
	none := strings.HasPrefix(first, "/") && !c.DenyRaw
	if slices.Contains(runtimes, first[strings.LastIndexByte(first, '/')+1:]) {
		none = !c.DenyPython
	}
	if !none {
		return nil, NoEntrypoint
	}
	return nil, ""
}
