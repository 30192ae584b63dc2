package secret

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The beginnings of the variables in which Flyte places secrets.
const (
	// EnvPrefix begins the variable that Flyte v2's webhook gives a secret without a
	// declared one. It is the value of PrefixVar, unless the task inherits another.
	EnvPrefix = "_UNION_"
	// v1Prefix is what Flyte v1's webhook has in its place (flytepropeller/pkg/webhook
	// k8s_secrets.go at v1.16.8). Code that was written for v1 may read its variables by name.
	v1Prefix = "_FSEC_"
)

// PrefixVar is the variable in which flytekit, the SDK of Flyte v1, looks for the prefix of
// the variables with secrets.
const PrefixVar = "FLYTE_SECRETS_ENV_PREFIX"

// GroupEnvVars returns, for each declaration, the variables that hold its value beside those
// of [Declaration.EnvVars]: PREFIX with the upper-cased GROUP_KEY, in which - is kept. There
// flytekit looks for the secret (flytekit core/context_manager.py SecretsManager at 1.16.31),
// and there the webhook of v1 and those managers of v2 that know groups place it. PREFIX is
// each of _UNION_, _FSEC_ and prefix, which is the text of [PrefixVar], "" if that is not
// set. The variables of a declaration without a group are those of EnvVars, and one with
// another prefix if EnvVar is empty.
//
// A variable that a declaration names as its EnvVar is left out, and so is one whose name
// Kubernetes would refuse. The error names every two keys that would be in the same variable,
// because flytekit would then find the value of another secret. It also names a prefix that
// is not a usable one. It wraps [ErrInvalid].
func GroupEnvVars(declared []Declaration, prefix string) ([][]string, error) {
	named, owner := map[string]bool{}, map[string]string{}
	variables := false
	for _, d := range declared {
		variables = variables || d.Mount != File
		for _, name := range d.EnvVars() {
			if d.EnvVar != "" {
				named[name] = true
			} else {
				owner[name] = d.Key
			}
		}
	}
	if !variables {
		return make([][]string, len(declared)), nil
	}
	prefix = cmp.Or(prefix, EnvPrefix)
	errs := []error{validPrefix(prefix)}

	all := make([][]string, len(declared))
	for i, d := range declared {
		for _, name := range d.groupEnvVars(prefix) {
			key, taken := owner[name]
			switch {
			case named[name]:
			case !taken:
				owner[name] = d.Key
				all[i] = append(all[i], name)
			case key != d.Key:
				errs = append(errs, WithHint(
					fmt.Errorf("%w: %s and %s would both be in the variable %s", ErrInvalid, key, d.Key, name),
					"flytekit looks there for a group and a key: give one of the two another group"))
			}
		}
	}
	return all, errors.Join(errs...)
}

// groupEnvVars returns the names of [GroupEnvVars] for one declaration.
func (d Declaration) groupEnvVars(prefix string) []string {
	key := strings.ToUpper(d.groupKey())
	switch {
	case d.Mount == File, !isPrintable(d.Group):
		return nil
	case d.Group != "":
		names := []string{EnvPrefix + key, v1Prefix + key, prefix + key}
		slices.Sort(names)
		return slices.Compact(names)
	case d.EnvVar == "" && prefix != EnvPrefix:
		return []string{prefix + key}
	}
	return nil
}

// validPrefix returns an error unless every name that begins with prefix is one of a variable
// and steers nothing, which the _ at its end makes sure of: L would make LD_PRELOAD of D_PRELOAD.
func validPrefix(prefix string) error {
	if ValidEnvVar(strings.ToUpper(prefix)) && isKubeName(prefix) && strings.HasSuffix(prefix, "_") &&
		!steers(prefix) && !strings.HasPrefix(prefix, "INJECTD_") {
		return nil
	}
	return WithHint(
		fmt.Errorf("%w: %s, which this process inherits, is not the beginning of variables with secrets (not shown)",
			ErrInvalid, PrefixVar),
		"it consists of letters, digits and _, ends in _ and does not begin with a digit, LD_ or INJECT_: "+
			"Flyte v1 has %s, v2 has %s; or unset it", v1Prefix, EnvPrefix)
}

// isKubeName reports whether name has only the characters of names in Kubernetes.
func isKubeName(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool { return !isWord(r) && r != '-' && r != '.' })
}

// isPrintable reports whether name has only the characters that Kubernetes allows in the name of
// a variable: printable ASCII without =.
func isPrintable(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' || r == '=' })
}
