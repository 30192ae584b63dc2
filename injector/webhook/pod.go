package webhook

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// An object is one of JSON, with its fields as they stand there. Names are compared exactly, as the API
// server does; decoding into a struct would ignore their case. Of a field that is given twice the last
// counts.
type object = map[string]json.RawMessage

// many reports whether a text of JSON has more than MaxValues values, counted before one of them is held:
// each follows a comma, or the bracket that opens its object or list. A text that is no JSON has any result.
func many(text []byte) bool {
	n, quoted := 0, false
	for i := 0; i < len(text) && n <= MaxValues; i++ {
		switch c := text[i]; {
		case c == '"':
			quoted = !quoted
		case quoted:
			if c == '\\' {
				i++ // the next is no quote that ends
			}
		case c == ',', c == '[', c == '{':
			n++
		}
	}
	return n > MaxValues
}

// A pod is the part of one that decides what is changed.
type pod struct {
	metadata, spec, labels, annotations     object
	containers, inits, volumes, pullSecrets []object
}

// read returns the parts of a pod. It is false if one of them has another type than Kubernetes gives it.
func read(text []byte) (p *pod, ok bool) {
	all, ok := fields(text)
	if !ok {
		return nil, false
	}
	p = &pod{}
	for _, o := range []struct {
		to   *object
		from json.RawMessage
	}{{&p.metadata, all["metadata"]}, {&p.spec, all["spec"]}} {
		if *o.to, ok = fields(o.from); !ok {
			return nil, false
		}
	}
	labels, ok := fields(p.metadata["labels"])
	annotations, ok2 := fields(p.metadata["annotations"])
	p.labels, p.annotations = labels, annotations
	if !ok || !ok2 {
		return nil, false
	}
	for _, l := range []struct {
		to   *[]object
		name string
	}{
		{&p.containers, "containers"},
		{&p.inits, "initContainers"},
		{&p.volumes, "volumes"},
		{&p.pullSecrets, "imagePullSecrets"},
	} {
		if *l.to, ok = objects(p.spec[l.name]); !ok {
			return nil, false
		}
	}
	return p, true
}

// A task is a container in which inject is to run a task.
type task struct {
	fields        object
	command, args []json.RawMessage // of texts
	env, mounts   []object
}

// container returns the parts of a container that decide what is changed in it.
func container(o object) (c task, ok bool) {
	c.fields = o
	command, ok := texts(o["command"])
	args, ok2 := texts(o["args"])
	env, ok3 := objects(o["env"])
	mounts, ok4 := objects(o["volumeMounts"])
	c.command, c.args, c.env, c.mounts = command, args, env, mounts
	return c, ok && ok2 && ok3 && ok4
}

// word returns a word of the command, nil if there are fewer.
func (t task) word(i int) json.RawMessage {
	if i >= len(t.command) {
		return nil
	}
	return t.command[i]
}

// message returns the file that kubelet reads when the container has ended, as a word of its command.
func (t task) message() string {
	if path, ok := text(t.fields["terminationMessagePath"]); ok {
		return literal(path)
	}
	return "/dev/termination-log" // of Kubernetes
}

// literal returns the word of a container's command as which a program gets word. Of the words of a command
// kubelet makes a value of $(NAME) and $ of $$ (k8s.io/kubernetes third_party/forked/golang/expansion).
func literal(word string) string { return strings.ReplaceAll(word, "$", "$$") }

// absent reports whether a field is missing or null, which for Kubernetes is the same.
func absent(value json.RawMessage) bool { return len(value) == 0 || string(value) == "null" }

// fields returns the fields of an object, nil if it is absent. It is false for anything else.
func fields(value json.RawMessage) (all object, ok bool) {
	if absent(value) {
		return nil, true
	}
	if json.Unmarshal(value, &all) != nil {
		return nil, false
	}
	return all, true
}

// items returns the items of a list, none if it is absent. It is false for anything else.
func items(value json.RawMessage) (all []json.RawMessage, ok bool) {
	if absent(value) {
		return nil, true
	}
	return all, json.Unmarshal(value, &all) == nil
}

// objects returns a list of objects, none if it is absent. It is false for anything else.
func objects(value json.RawMessage) (all []object, ok bool) {
	if absent(value) {
		return nil, true
	}
	if json.Unmarshal(value, &all) != nil || slices.ContainsFunc(all, func(o object) bool { return o == nil }) {
		return nil, false
	}
	return all, true
}

// texts returns a list of texts as they stand there, none if it is absent. It is false for anything else.
func texts(value json.RawMessage) (all []json.RawMessage, ok bool) {
	all, ok = items(value)
	return all, ok && !slices.ContainsFunc(all, func(v json.RawMessage) bool { _, ok := text(v); return !ok })
}

// text returns a text. It is false for anything else, and if it is absent.
func text(value json.RawMessage) (s string, ok bool) {
	if len(value) == 0 || value[0] != '"' {
		return "", false
	}
	return s, json.Unmarshal(value, &s) == nil
}

// named returns whether an object has this name.
func named(name string) func(object) bool {
	return func(o object) bool {
		has, ok := text(o["name"])
		return ok && has == name
	}
}

// encode returns the JSON of v, which is of texts, numbers and what was decoded. A < stays one byte: as
// \u003c, which is for pages of HTML, a command of 4 MiB would become one of 24 MiB.
func encode(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(v) != nil {
		panic("webhook: not JSON") // no type that is given here fails
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func encodeAll(words []string) (all []json.RawMessage) {
	for _, w := range words {
		all = append(all, encode(w))
	}
	return all
}
