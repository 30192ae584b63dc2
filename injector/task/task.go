// Package task reads which secrets a task declares, and the scope that the task runs in. Both may
// come from flags, variables, a file (a Flyte TaskTemplate, SecurityContext or TaskEnvironment)
// or the labels and annotations of a pod. The package reads and checks them. It looks up no
// secret and sets no variable.
package task

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"inject/resolver/secret"
)

// The variables whose texts are in EnvSecrets and EnvSecretFiles of [Sources]. Messages name
// them.
const (
	SecretsEnv     = "INJECT_SECRETS"
	SecretFilesEnv = "INJECT_SECRET_FILES"
	AlsoEnv        = "INJECT_ALSO_SECRETS"
)

// The Source of a list that flags and variables declare.
const (
	flagsSource = "flags"
	envSource   = "environment"
)

// Nowhere is the Source of a task for which no source of a declared list exists.
const Nowhere = "nowhere"

// Sources are all places that may hold a declared list or a part of the scope. The zero value of
// a field stands for a place that was not given.
type Sources struct {
	Secrets     []string // --secret, in the form [GROUP/]KEY[=ENV_VAR]
	SecretFiles []string // --secret-file, in the form [GROUP/]KEY[=PATH]

	// The texts of $INJECT_SECRETS and $INJECT_SECRET_FILES, in which declarations of the same
	// forms are separated by white space or commas.
	EnvSecrets, EnvSecretFiles string

	// What is added to the declared list, wherever that is from: --also-secret, in the form of
	// Secrets, and the text of $INJECT_ALSO_SECRETS, in the form of EnvSecrets.
	Also    []string
	EnvAlso string

	Deadline time.Time // when File and PodInfo must have been read; the zero Time for no limit

	File    string // the path given with --task
	PodInfo string // the folder given with --pod-info
	Flyte   Flyte

	Org, Project, Domain string // --org, --project and --domain
}

// A Task is a declared list and the task that declares it.
type Task struct {
	Source               string // the place that has the declared list, for messages, or Nowhere
	Name                 string // "" if it is not known
	Org, Project, Domain string // the scope; "" for a part that is not known
	Declared             []secret.Declaration
	FilesDir, EnvPrefix  string // as in [Flyte]
}

// Load returns the declared list of the first source that has one, in the order flags,
// environment, file, pod info, and what is to be added to it. Equal declarations are one. It takes
// each part of the scope from the first source that has it, in the order flags, pod info, Flyte's
// variables, file. The warnings are for people, and name every two sources that disagree. The error
// names everything that is wrong with all sources, and quotes no text that may be a value.
func Load(s Sources) (Task, []string, error) {
	var sources []Task
	var errs []error
	add := func(t Task, err error) {
		errs = append(errs, err)
		sources = append(sources, t)
	}

	add(parse(flagsSource, "--secret", "--secret-file", s.Secrets, s.SecretFiles))
	fromEnv, err := parse(envSource, SecretsEnv, SecretFilesEnv, split(s.EnvSecrets), split(s.EnvSecretFiles))
	add(fromEnv, firstMistake(err))

	var file, pod Task
	if s.File != "" {
		file, err = readFile(s.File, s.Deadline)
		add(file, err)
	}
	if s.PodInfo != "" {
		pod, err = podInfo(s.PodInfo, s.Deadline)
		add(pod, err)
	}

	t, warnings := agree(sources)
	also, err := parse(flagsSource, "--also-secret", "", s.Also, nil)
	alsoEnv, err2 := parse(envSource, AlsoEnv, "", split(s.EnvAlso), nil)
	errs = append(errs, err, firstMistake(err2))
	t.Declared = once(slices.Concat(t.Declared, also.Declared, alsoEnv.Declared))
	t.Name, t.FilesDir, t.EnvPrefix = file.Name, s.Flyte.FilesDir, s.Flyte.EnvPrefix
	warnings = append(warnings, t.locate(
		Task{Source: flagsSource, Org: s.Org, Project: s.Project, Domain: s.Domain}, pod,
		Task{Source: scopeVars, Project: s.Flyte.Project, Domain: s.Flyte.Domain}, file)...)

	if err := errors.Join(errs...); err != nil {
		return t, warnings, err
	}
	if len(pod.Declared) > 0 && t.Source == pod.Source && (t.Project == "" || t.Domain == "") {
		// Without a project and domain, the lookup would begin at the org, and could find another
		// secret than Flyte does.
		return t, warnings, secret.WithHint(
			fmt.Errorf("%w: %s declares secrets, and has no labels project and domain", secret.ErrInvalid, s.PodInfo),
			"add metadata.labels to the downward-API volume as a file called labels, or give --project and --domain")
	}
	return t, warnings, Check(t.Declared, t.EnvPrefix)
}

// firstMistake returns the first error that err joins: the texts after it in a variable may be the
// rest of a value that has a space in it.
func firstMistake(err error) error {
	if list, ok := err.(interface{ Unwrap() []error }); ok {
		return list.Unwrap()[0]
	}
	return err
}

// once returns the declarations without those that equal an earlier one.
func once(declared []secret.Declaration) (list []secret.Declaration) {
	for _, d := range declared {
		if !slices.Contains(list, d) {
			list = append(list, d)
		}
	}
	return list
}

// agree returns the declared list of the first source that has one, and a warning for each later
// source whose list differs.
func agree(sources []Task) (Task, []string) {
	used := Task{Source: Nowhere}
	var warnings []string
	for _, t := range sources {
		switch {
		case len(t.Declared) == 0:
			if isFile := t.Source != flagsSource && t.Source != envSource; isFile && used.Source == Nowhere {
				used.Source = t.Source // a list that is empty
			}
		case len(used.Declared) == 0:
			used = Task{Source: t.Source, Declared: t.Declared}
		case !slices.Equal(used.Declared, t.Declared):
			warnings = append(warnings, fmt.Sprintf(
				"secrets are declared in several places: %s is used, %s is not", used.Source, t.Source))
		}
	}
	return used, warnings
}

// locate takes each part of the scope of t from the first source that has it. It returns a
// warning for each later source that differs, but for those that differ from a flag, which was
// given on purpose.
func (t *Task) locate(sources ...Task) []string {
	var warnings []string
	for _, level := range []struct {
		name string
		of   func(*Task) *string
	}{
		{"org", func(t *Task) *string { return &t.Org }},
		{"project", func(t *Task) *string { return &t.Project }},
		{"domain", func(t *Task) *string { return &t.Domain }},
	} {
		at, from := level.of(t), ""
		for _, source := range sources {
			switch said := *level.of(&source); {
			case said == "":
			case *at == "":
				*at, from = said, source.Source
			case *at != said && from != flagsSource:
				warnings = append(warnings, fmt.Sprintf(
					"the task's %s is said to be %.80q by %s, which is used, and %.80q by %s",
					level.name, *at, from, said, source.Source))
			}
		}
	}
	return warnings
}

// split returns the words of list, which are separated by white space or commas.
func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(", \t\n\r", r) })
}

// parse returns the task that the declarations in secrets and files make. The names are those of
// the flag or variable of each list, for errors.
func parse(source, secretName, fileName string, secrets, files []string) (Task, error) {
	t := Task{Source: source}
	var errs []error
	for i, text := range secrets {
		d, err := ParseSecret(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %d: %w", secretName, i+1, err))
		}
		t.Declared = append(t.Declared, d)
	}
	for i, text := range files {
		d, err := ParseSecretFile(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %d: %w", fileName, i+1, err))
		}
		t.Declared = append(t.Declared, d)
	}
	return t, errors.Join(errs...)
}

// ParseSecret reads [GROUP/]KEY[=ENV_VAR]. No error quotes the text after the =, since people
// take API_KEY=hunter2 for NAME=VALUE.
func ParseSecret(text string) (secret.Declaration, error) {
	d, variable, given := parseKey(text)
	d.Mount, d.EnvVar = secret.EnvVar, variable
	if given && !secret.ValidEnvVar(variable) {
		name := "KEY"
		if secret.ValidKey(d.Key) == nil {
			name = d.Key
		}
		return d, secret.WithHint(
			fmt.Errorf("%w: %s: what follows the = is not a variable's name (not shown)", secret.ErrInvalid, name),
			"the right side names the variable, never the value: --secret %s=MY_VARIABLE, of A-Z, 0-9 and _", name)
	}
	err := d.Validate()
	if err == nil && !given && len(d.EnvVars()) == 1 { // a person expects GROUP_KEY
		err = secret.WithHint(
			fmt.Errorf("%w: %s: this group cannot be turned into the name of a variable", secret.ErrInvalid, d.Key),
			"name one: --secret %s=VARIABLE", text)
	}
	return d, err
}

// ParseSecretFile reads [GROUP/]KEY[=PATH]. A relative path is taken from the working folder. No
// error quotes the text after the =.
func ParseSecretFile(text string) (secret.Declaration, error) {
	d, path, given := parseKey(text)
	d.Mount = secret.File
	if err := d.Validate(); err != nil {
		return d, err
	}
	if given {
		if path == "" || strings.HasSuffix(path, "/") || strings.ContainsAny(path, "\x00\n") {
			return d, secret.WithHint(
				fmt.Errorf("%w: %s: what follows the = is not a file's path (not shown)", secret.ErrInvalid, d.Key),
				"the right side names the file, never the value: --secret-file %s=/path/to/file", d.Key)
		}
		abs, err := filepath.Abs(path)
		if err != nil {
			return d, fmt.Errorf("%s: the working folder is not known: %w", d.Key, err)
		}
		d.Path = abs
	}
	return d, nil
}

// parseKey reads [GROUP/]KEY[=RIGHT] and reports whether there is a =.
func parseKey(text string) (d secret.Declaration, right string, given bool) {
	left, right, given := strings.Cut(text, "=")
	d.Key = left
	if i := strings.LastIndexByte(left, '/'); i >= 0 {
		d.Group, d.Key = left[:i], left[i+1:]
	}
	return d, right, given
}

// Check returns an error that names every declaration that is invalid, and every two that declare
// the same variable or the same file. envPrefix is as in [Flyte].
func Check(declared []secret.Declaration, envPrefix string) error {
	var errs []error
	taken := map[string]string{}
	take := func(what, key string) {
		if other, ok := taken[what]; ok {
			errs = append(errs, secret.WithHint(
				fmt.Errorf("%w: %s and %s are both declared for %s", secret.ErrInvalid, other, key, what),
				"give one of them another name: %s=OTHER_NAME", key))
			return
		}
		taken[what] = key
	}
	for _, d := range declared {
		if err := d.Validate(); err != nil {
			errs = append(errs, err)
			continue
		}
		for _, name := range d.EnvVars() {
			take("the variable "+name, d.Key)
		}
		if d.Mount == secret.File {
			take("the file "+d.FileName(), d.Key)
		}
	}
	if len(errs) == 0 {
		_, err := secret.GroupEnvVars(declared, envPrefix)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// read returns the content of a file, at most limit bytes and one more, until the deadline. A pipe
// that no program writes, and a file system that does not answer, would keep us waiting for ever.
// Errors name the flag.
func read(flag, path string, limit int64, deadline time.Time) ([]byte, error) {
	type result struct {
		b   []byte
		err error
	}
	done := make(chan result, 1)
	go func() { // it is left behind at the deadline: a system call that waits cannot be ended
		f, err := os.Open(path) //nolint:gosec // the user's own file
		if err != nil {
			done <- result{err: err}
			return
		}
		defer f.Close() //nolint:errcheck // read only
		b, err := io.ReadAll(io.LimitReader(f, limit+1))
		done <- result{b, err}
	}()
	var over <-chan time.Time
	if !deadline.IsZero() {
		over = time.After(time.Until(deadline))
	}
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("%w: %s: %w", secret.ErrInvalid, flag, r.err)
		}
		return r.b, nil
	case <-over:
		return nil, secret.WithHint(
			fmt.Errorf("%w: %s: %s could not be read in time", secret.ErrInvalid, flag, path),
			"if it is a pipe, a program must write it; --resolve-timeout is how long that may take")
	}
}

// maxFile is the longest task file that is read, in bytes.
const maxFile = 16 << 20

// readFile reads the file given with --task, in any of its forms.
func readFile(path string, deadline time.Time) (Task, error) {
	b, err := read("--task", path, maxFile, deadline)
	if err != nil {
		return Task{}, err
	}
	if len(b) > maxFile {
		return Task{}, fmt.Errorf("%w: --task: %s is over %d bytes", secret.ErrInvalid, path, maxFile)
	}
	parse := Parse
	if isBinary(b) {
		parse = parseBinary
	}
	t, err := parse(path, b)
	t.Source = "--task " + path
	return t, err
}
