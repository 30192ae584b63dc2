package secret

import (
	"fmt"
	"path/filepath"
	"strings"
)

// A Mount says how a declared secret reaches the task. The numbers are those of
// flyteidl2.core.Secret.MountType.
type Mount int

// The three mounts.
const (
	Any    Mount = 0 // Flyte may choose: v1 takes a file and v2 a variable, so we place both
	EnvVar Mount = 1
	File   Mount = 2
)

// String returns Flyte's name of m: ANY, ENV_VAR or FILE.
func (m Mount) String() string {
	switch m {
	case Any:
		return "ANY"
	case EnvVar:
		return "ENV_VAR"
	case File:
		return "FILE"
	}
	return fmt.Sprintf("Mount(%d)", int(m))
}

// A Declaration is one secret that a task asks for.
type Declaration struct {
	// Group only shapes names of variables and files; stores ignore it, as Flyte v2's does.
	Group string
	// Key is the name of the secret.
	Key string
	// Version is Flyte's group_version. Stores that keep no versions refuse it.
	Version string
	// Mount is how the value is placed.
	Mount Mount
	// EnvVar is the variable that gets the value or, with File, the path. Empty:
	// the default names, or none with File.
	EnvVar string
	// Path is where a File is placed; empty: Key in the folder for files.
	Path string
}

// EnvVars returns the variables that hold d's value or path: EnvVar if there is
// one, else Flyte's two defaults for a mount that is not a file: the SDK's
// GROUP_KEY upper-cased with - as _ (flyte-sdk src/flyte/_secret.py), and the
// webhook's _UNION_ with the upper-cased key. The first is left out if the group
// keeps it from being a name and Flyte v1 finds the secret without it: by one of
// the [GroupEnvVars], or in a file.
func (d Declaration) EnvVars() []string {
	switch {
	case d.EnvVar != "":
		return []string{d.EnvVar}
	case d.Mount == File:
		return nil
	}
	sdk := strings.ToUpper(strings.ReplaceAll(d.groupKey(), "-", "_"))
	webhook := EnvPrefix + strings.ToUpper(d.Key)
	if d.Group != "" && !ValidEnvVar(sdk) && (d.HasFile() || isKubeName(d.Group)) {
		return []string{webhook}
	}
	return []string{sdk, webhook}
}

// groupKey returns GROUP_KEY, or the key if there is no group.
func (d Declaration) groupKey() string {
	if d.Group == "" {
		return d.Key
	}
	return d.Group + "_" + d.Key
}

// HasFile reports whether d is placed in a file, whether or not it is placed in
// a variable, too.
func (d Declaration) HasFile() bool { return d.Mount != EnvVar }

// FileName returns the path of d's file: as declared, or its key, which is a
// name in the folder for files.
func (d Declaration) FileName() string {
	if d.Path != "" {
		return filepath.Clean(d.Path)
	}
	return d.Key
}

// ValidEnvVar reports whether name is a variable that a declaration may ask for
// by Flyte's rule, ^[A-Z_][A-Z0-9_]*$.
func ValidEnvVar(name string) bool {
	for i, r := range name {
		if r != '_' && (r < 'A' || r > 'Z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return name != ""
}

// steers reports whether the variable steers the search for programs, the loader
// or inject.
func steers(name string) bool {
	return name == "PATH" || strings.HasPrefix(name, "LD_") || strings.HasPrefix(name, "INJECT_")
}

// Validate returns an error that wraps [ErrInvalid] when d cannot be placed as
// declared, whatever its value: the key is not one, the name of the variable is
// not one or would steer inject or the loader (PATH, INJECT_*, LD_*), or there is
// a path although the mount is not [File].
func (d Declaration) Validate() error {
	if err := ValidKey(d.Key); err != nil {
		return err
	}
	names := d.EnvVars()
	switch {
	case d.EnvVar == "" && len(names) == 2 && !ValidEnvVar(names[0]):
		return WithHint(
			fmt.Errorf("%w: %s: this key cannot be turned into the name of a variable", ErrInvalid, d.Key),
			"name one: --secret %s=VARIABLE", d.Key)
	case d.EnvVar != "" && !ValidEnvVar(d.EnvVar):
		// Not quoted: it may be a value that was given in place of a name.
		return WithHint(
			fmt.Errorf("%w: %s: what follows is not the name of a variable (not shown)", ErrInvalid, d.Key),
			"a declaration names the variable, never the value: %s=MY_VARIABLE, of A-Z, 0-9 and _", d.Key)
	}
	for _, name := range names {
		if steers(name) {
			return WithHint(
				fmt.Errorf("%w: %s: a secret may not be placed in the variable %s", ErrInvalid, d.Key, name),
				"PATH, LD_* and INJECT_* steer the loader and inject; choose another name")
		}
	}
	if d.Mount != File && d.Path != "" {
		return fmt.Errorf("%w: %s: a path is for secrets that are placed in a file", ErrInvalid, d.Key)
	}
	return nil
}
