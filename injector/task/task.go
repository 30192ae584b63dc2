// Package task knows where a declared list comes from: flags, the environment,
// and a file shaped as a Flyte TaskEnvironment. It reads them and checks them;
// it looks no secret up and sets no variable.
package task

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"inject/resolver/secret"
)

// The environment's twins of --secret and --secret-file: declarations separated
// by white space or commas.
const (
	SecretsEnv     = "INJECT_SECRETS"
	SecretFilesEnv = "INJECT_SECRET_FILES"
)

// Sources are all the places in which a declared list may be.
type Sources struct {
	Secrets     []string // --secret, in the form [GROUP/]KEY[=ENV_VAR]
	SecretFiles []string // --secret-file, in the form [GROUP/]KEY[=PATH]
	File        string   // --task
	Getenv      func(string) string
}

// A Task is a declared list and what is known about the task that declares it.
type Task struct {
	Source          string // where the declared list was found, for people
	Name            string
	Project, Domain string // "" where the source does not say
	Declared        []secret.Declaration
}

// Load returns the declared list of the first source that has one: the flags,
// the environment, the file. Project and domain are those of the file, if one is
// given, wherever the list comes from. The warnings name every source that was
// passed over although it declares something else. All errors are reported at
// once, and none quotes what may be a value.
func Load(s Sources) (Task, []string, error) {
	var found []Task
	var errs []error
	add := func(t Task, err error) {
		errs = append(errs, err)
		if len(t.Declared) > 0 {
			found = append(found, t)
		}
	}
	add(parse("flags", "--secret", "--secret-file", s.Secrets, s.SecretFiles))
	fromEnv, err := parse("environment", SecretsEnv, SecretFilesEnv, split(s.Getenv(SecretsEnv)), split(s.Getenv(SecretFilesEnv)))
	if list, ok := err.(interface{ Unwrap() []error }); ok {
		// Only the first: what follows a mistake in a list may be the rest of a value
		// with a space in it.
		err = list.Unwrap()[0]
	}
	add(fromEnv, err)
	var file Task
	if s.File != "" {
		var err error
		file, err = readFile(s.File)
		add(file, err)
	}
	if err := errors.Join(errs...); err != nil {
		return Task{}, nil, err
	}
	if len(found) == 0 {
		file.Source = "nowhere"
		return file, nil, nil
	}
	t := found[0]
	t.Name, t.Project, t.Domain = file.Name, file.Project, file.Domain
	var warnings []string
	for _, other := range found[1:] {
		if !slices.Equal(t.Declared, other.Declared) {
			warnings = append(warnings, fmt.Sprintf("secrets are declared in several places: %s is used, %s is not", t.Source, other.Source))
		}
	}
	return t, warnings, Check(t.Declared)
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' || r == '\r' })
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
			return d, secret.WithHint(fmt.Errorf("%w: %s: what follows the = is not a file's path (not shown)", secret.ErrInvalid, d.Key),
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
			take("the file "+FileName(d), d.Key)
		}
	}
	return errors.Join(errs...)
}

// FileName returns the path of d's file: as declared, or its key, which is a
// name in the folder for files.
func FileName(d secret.Declaration) string {
	if d.Path != "" {
		return filepath.Clean(d.Path)
	}
	return d.Key
}

const maxFile = 16 << 20

func readFile(path string) (Task, error) {
	b, err := os.ReadFile(path) //nolint:gosec // the user's own file
	if err != nil {
		return Task{}, fmt.Errorf("%w: --task: %w", secret.ErrInvalid, err)
	}
	if len(b) > maxFile {
		return Task{}, fmt.Errorf("%w: --task: %s is over %d bytes", secret.ErrInvalid, path, maxFile)
	}
	t, err := Parse(path, b)
	t.Source = "--task " + path
	return t, err
}
