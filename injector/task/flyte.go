package task

import "github.com/caarlos0/env/v11"

// Flyte is what Flyte's own variables tell a task container: where it is executed, and
// where its file secrets are (flyteplugins/go/tasks/pluginmachinery/flytek8s
// k8s_resource_adds.go at v2.0.43). The variables of the task's registration,
// FLYTE_INTERNAL_TASK_*, may differ from these. _U_ORG_NAME is not read, because it is
// not the org of any secret.
//
// All fields are strings: the library's error for a variable that it cannot parse quotes
// the value.
type Flyte struct {
	Project string `env:"FLYTE_INTERNAL_EXECUTION_PROJECT"`
	Domain  string `env:"FLYTE_INTERNAL_EXECUTION_DOMAIN"`
	// FilesDir is set by Flyte, or by an inject above this one.
	FilesDir string `env:"FLYTE_SECRETS_DEFAULT_DIR"`
}

// scopeVars names the variables that say the scope, for people.
const scopeVars = "FLYTE_INTERNAL_EXECUTION_PROJECT and FLYTE_INTERNAL_EXECUTION_DOMAIN"

// ReadFlyte reads Flyte's variables from the environment of this process.
func ReadFlyte() Flyte {
	var f Flyte
	_ = env.Parse(&f) // a string needs no parsing, so this cannot fail
	return f
}
