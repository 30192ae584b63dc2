package task_test

import (
	"fmt"

	"inject/injector/task"
)

// A task whose flags declare secrets, and which Flyte runs.
func ExampleLoad() {
	t, warnings, err := task.Load(task.Sources{
		Secrets:     []string{"OPENAI_KEY", "aws/s3-token=S3_TOKEN"},
		SecretFiles: []string{"TLS_CERT"},
		Flyte:       task.Flyte{Project: "fraud", Domain: "production"},
	})
	if err != nil || warnings != nil {
		fmt.Println(warnings, err)
		return
	}
	fmt.Printf("declared in %s, for project %s in %s\n", t.Source, t.Project, t.Domain)
	for _, d := range t.Declared {
		fmt.Println(d.Key, d.Mount, d.EnvVars())
	}
	// Output:
	// declared in flags, for project fraud in production
	// OPENAI_KEY ENV_VAR [OPENAI_KEY _UNION_OPENAI_KEY]
	// s3-token ENV_VAR [S3_TOKEN]
	// TLS_CERT FILE []
}

// A task file in YAML, with the fields of a flyte.TaskEnvironment, and one with a mistake.
func ExampleParse() {
	t, err := task.Parse("task.yaml", []byte(`
name: train
secrets:
  - OPENAI_KEY
  - {key: s3-token, group: aws}
  - {key: TLS_CERT, mount: /etc/flyte/secrets}
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, d := range t.Declared {
		fmt.Println(d.Key, d.Mount, d.EnvVars())
	}
	_, err = task.Parse("wrong.yaml", []byte("secrets: [{group: aws}]\n"))
	fmt.Println(err)
	// Output:
	// OPENAI_KEY ENV_VAR [OPENAI_KEY _UNION_OPENAI_KEY]
	// s3-token ENV_VAR [AWS_S3_TOKEN _UNION_S3-TOKEN]
	// TLS_CERT FILE []
	// invalid: wrong.yaml:1: secrets[0]: the key is missing
}
