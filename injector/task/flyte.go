package task

import (
	"path/filepath"
	"slices"

	"github.com/caarlos0/env/v11"

	"inject/resolver/secret"
)

// Flyte has the texts of those variables that Flyte sets in a task's container and that are read
// (flyteplugins/go/tasks/pluginmachinery/flytek8s k8s_resource_adds.go at v2.0.43). Two similar
// ones are not read: FLYTE_INTERNAL_TASK_PROJECT and FLYTE_INTERNAL_TASK_DOMAIN are of the task's
// registration, which may be elsewhere, and _U_ORG_NAME is not the org of any secret.
//
// All fields are strings, because the library quotes the text of a variable that it cannot parse.
type Flyte struct {
	// Project and Domain are where the task runs.
	Project string `env:"FLYTE_INTERNAL_EXECUTION_PROJECT"`
	Domain  string `env:"FLYTE_INTERNAL_EXECUTION_DOMAIN"`
	// Execution is the name of the run that the container is of.
	Execution string `env:"FLYTE_INTERNAL_EXECUTION_ID"`
	// FilesDir is the folder that holds file secrets already. Flyte sets it, and so does an
	// inject that started this process.
	FilesDir string `env:"FLYTE_SECRETS_DEFAULT_DIR"`
	// EnvPrefix begins the variables in which flytekit looks for secrets: see
	// [secret.GroupEnvVars].
	EnvPrefix string `env:"FLYTE_SECRETS_ENV_PREFIX"`
}

// InContainer reports whether this is a container of Flyte's.
func (f Flyte) InContainer() bool { return f.Project != "" || f.Domain != "" || f.Execution != "" }

// IsV1 reports whether a command, as the task's container has it in its args, is one of Flyte v1:
// an entrypoint of flytekit (its pyproject.toml at 1.16.31), by name or by path.
func IsV1(command string) bool { return slices.Contains(v1Entrypoints, filepath.Base(command)) }

var v1Entrypoints = []string{"pyflyte-execute", "pyflyte-fast-execute", "pyflyte-map-execute"}

// ForV1 returns declared as a command of Flyte v1 expects it. A secret for ANY that names a variable is
// a file there, whose path is in the variable: its code opens that path. So it is by those of v1's
// secret managers that set the variable (flytepropeller/pkg/webhook k8s_secrets.go and
// aws_secret_manager.go at v1.16.8).
func ForV1(declared []secret.Declaration) []secret.Declaration {
	declared = slices.Clone(declared)
	for i := range declared {
		if d := &declared[i]; d.Mount == secret.Any && d.EnvVar != "" {
			d.Mount = secret.File
		}
	}
	return declared
}

// scopeVars names the variables of the scope, for messages.
const scopeVars = "FLYTE_INTERNAL_EXECUTION_PROJECT and FLYTE_INTERNAL_EXECUTION_DOMAIN"

// ReadFlyte reads Flyte's variables from the environment of this process.
func ReadFlyte() Flyte {
	var f Flyte
	_ = env.Parse(&f) // a string needs no parsing, so this cannot fail
	return f
}
