// Package task knows where a declared list comes from, and the scope of the task that
// declares it: flags, the environment, a file (a Flyte TaskTemplate, SecurityContext or
// TaskEnvironment) and the labels and annotations of a pod. It reads them and checks
// them; it looks no secret up and sets no variable.
package task

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"inject/resolver/secret"
)

// The variables whose texts are [Sources].EnvSecrets and EnvSecretFiles, for messages.
const (
	SecretsEnv     = "INJECT_SECRETS"
	SecretFilesEnv = "INJECT_SECRET_FILES"
)

// Sources are all the places in which a declared list may be.
type Sources struct {
	Secrets     []string // --secret, in the form [GROUP/]KEY[=ENV_VAR]
	SecretFiles []string // --secret-file, in the form [GROUP/]KEY[=PATH]

	// The same from our environment: declarations separated by white space or commas.
	EnvSecrets, EnvSecretFiles string

	File    string // --task
	PodInfo string // --pod-info; "" for none
	Flyte   Flyte

	Org, Project, Domain string // --org, --project, --domain; "" where they do not say
}

// A Task is a declared list and what is known about the task that declares it.
type Task struct {
	Source               string // where the declared list was found, for people
	Name                 string
	Org, Project, Domain string // "" where the source does not say
	Declared             []secret.Declaration
	FilesDir             string // where file secrets are already, by [Flyte]
}

// Load returns the declared list of the first source that has one: the flags, the
// environment, the file, pod info; and each part of the scope from the first that says
// it: the flags, pod info, Flyte's variables, the file. The warnings name every two
// sources that disagree. All errors are reported at once, and none quotes what may be a
// value.
func Load(s Sources) (Task, []string, error) {
	var sources []Task
	var errs []error
	add := func(t Task, err error) {
		errs = append(errs, err)
		sources = append(sources, t)
	}
	add(parse("flags", "--secret", "--secret-file", s.Secrets, s.SecretFiles))
	fromEnv, err := parse("environment", SecretsEnv, SecretFilesEnv, split(s.EnvSecrets), split(s.EnvSecretFiles))
	if list, ok := err.(interface{ Unwrap() []error }); ok {
		// Only the first: what follows a mistake in a list may be the rest of a value
		// with a space in it.
		err = list.Unwrap()[0]
	}
	add(fromEnv, err)
	var file, pod Task
	if s.File != "" {
		file, err = readFile(s.File)
		add(file, err)
	}
	if s.PodInfo != "" {
		pod, err = podInfo(s.PodInfo)
		add(pod, err)
	}
	t, warnings := agree(sources)
	t.Name, t.FilesDir = file.Name, s.Flyte.FilesDir
	warnings = append(warnings, t.locate(
		Task{Source: "flags", Org: s.Org, Project: s.Project, Domain: s.Domain}, pod,
		Task{Source: scopeVars, Project: s.Flyte.Project, Domain: s.Flyte.Domain}, file)...)
	if err := errors.Join(errs...); err != nil {
		return t, warnings, err
	}
	if len(pod.Declared) > 0 && t.Source == pod.Source && (t.Project == "" || t.Domain == "") {
		// Without them the ladder would begin at the org: another secret than in Flyte.
		return t, warnings, secret.WithHint(
			fmt.Errorf("%w: %s declares secrets, and has no labels project and domain", secret.ErrInvalid, s.PodInfo),
			"add metadata.labels to the downward-API volume in a file called labels, or say --project and --domain")
	}
	return t, warnings, Check(t.Declared)
}

// agree returns the first of the sources that declares something, and a warning for
// each that declares something else.
func agree(sources []Task) (Task, []string) {
	used := Task{Source: "nowhere"}
	var warnings []string
	for _, t := range sources {
		switch {
		case len(t.Declared) == 0:
		case len(used.Declared) == 0:
			used = Task{Source: t.Source, Declared: t.Declared}
		case !slices.Equal(used.Declared, t.Declared):
			warnings = append(warnings, fmt.Sprintf(
				"secrets are declared in several places: %s is used, %s is not", used.Source, t.Source))
		}
	}
	return used, warnings
}

// locate sets each part of t's scope to what the first of the sources says, and
// returns a warning for each that says something else. What is said by flags is meant.
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
			case *at != said && from != "flags":
				warnings = append(warnings, fmt.Sprintf(
					"the task's %s is said to be %.80q by %s, which is used, and %.80q by %s",
					level.name, *at, from, said, source.Source))
			}
		}
	}
	return warnings
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(", \t\n\r", r) })
}

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

// ParseSecret reads [GROUP/]KEY[=ENV_VAR]. What follows the = is never quoted in
// an error: API_KEY=hunter2 reads like NAME=VALUE to everyone.
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
	return d, d.Validate()
}

// ParseSecretFile reads [GROUP/]KEY[=PATH]. A relative path is taken from the
// working folder. What follows the = is never quoted in an error.
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

func parseKey(text string) (d secret.Declaration, right string, given bool) {
	left, right, given := strings.Cut(text, "=")
	d.Key = left
	if i := strings.LastIndexByte(left, '/'); i >= 0 {
		d.Group, d.Key = left[:i], left[i+1:]
	}
	return d, right, given
}

// Check returns an error that names every declaration that cannot stand beside
// the others: two for one variable, two for one file.
func Check(declared []secret.Declaration) error {
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
	return errors.Join(errs...)
}

const maxFile = 16 << 20

func readFile(path string) (Task, error) {
	f, err := os.Open(path) //nolint:gosec // the user's own file
	if err != nil {
		return Task{}, fmt.Errorf("%w: --task: %w", secret.ErrInvalid, err)
	}
	defer f.Close() //nolint:errcheck // read only
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Task{}, fmt.Errorf("%w: --task: %w", secret.ErrInvalid, err)
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
