package task_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"inject/injector/task"
	"inject/resolver/secret"
)

// each runs test for every row of table as a subtest, in the order of the keys.
func each[V any](t *testing.T, table map[string]V, test func(t *testing.T, text string, want V)) {
	t.Helper()
	for _, text := range slices.Sorted(maps.Keys(table)) {
		name := strings.TrimSpace(fmt.Sprintf("%.60q", text))
		t.Run(name, func(t *testing.T) { test(t, text, table[text]) })
	}
}

func TestParseSecret(t *testing.T) {
	each(t, map[string]secret.Declaration{
		"KEY":             {Key: "KEY", Mount: secret.EnvVar},
		"KEY=VAR":         {Key: "KEY", Mount: secret.EnvVar, EnvVar: "VAR"},
		"group/key=VAR":   {Group: "group", Key: "key", Mount: secret.EnvVar, EnvVar: "VAR"},
		"a/b/key=V":       {Group: "a/b", Key: "key", Mount: secret.EnvVar, EnvVar: "V"},
		"MY-key_1=_X9":    {Key: "MY-key_1", Mount: secret.EnvVar, EnvVar: "_X9"},
		"aws/s3-token":    {Group: "aws", Key: "s3-token", Mount: secret.EnvVar},
		"/leading":        {Key: "leading", Mount: secret.EnvVar},
		"_UNDER=__UNDER_": {Key: "_UNDER", Mount: secret.EnvVar, EnvVar: "__UNDER_"},
	}, func(t *testing.T, text string, want secret.Declaration) {
		d, err := task.ParseSecret(text)
		require.NoError(t, err)
		require.Equal(t, want, d)
	})
	for _, text := range []string{
		"", "=", "=VAR", "KEY=", "KEY=hunter2", "KEY=Hunter 2", "KEY=A=B", "a b", "KEY\n=VAR", "1KEY", "KEY=PATH",
		"KEY=LD_PRELOAD", "KEY=INJECT_KEY", "KEY=VAR\n", "KEY=9A", "group/", "a/b/key", "sp ace/", "a.b/k",
	} {
		_, err := task.ParseSecret(text)
		require.ErrorIs(t, err, secret.ErrInvalid, text)
		require.NotContains(t, strings.ToLower(err.Error()+secret.Hint(err)), "hunter")
	}
}

func TestParseSecretFile(t *testing.T) {
	wd, err := os.Getwd()
	require.NoError(t, err)
	each(t, map[string]secret.Declaration{
		"KEY":           {Key: "KEY", Mount: secret.File},
		"g/KEY=/a/b":    {Group: "g", Key: "KEY", Mount: secret.File, Path: "/a/b"},
		"KEY=./x=y.pem": {Key: "KEY", Mount: secret.File, Path: filepath.Join(wd, "x=y.pem")},
		"1KEY":          {Key: "1KEY", Mount: secret.File},
	}, func(t *testing.T, text string, want secret.Declaration) {
		d, err := task.ParseSecretFile(text)
		require.NoError(t, err)
		require.Equal(t, want, d)
	})
	for _, text := range []string{"", "KEY=", "KEY=dir/", "KEY=-----BEGIN hunter2\nx", "a b"} {
		_, err := task.ParseSecretFile(text)
		require.ErrorIs(t, err, secret.ErrInvalid, text)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "t.yaml")
	require.NoError(t, os.WriteFile(file, []byte("project: p\ndomain: d\nsecrets: [FILE]\n"), 0o600))

	got, warnings, err := task.Load(task.Sources{})
	require.NoError(t, err)
	require.Empty(t, got.Declared)
	require.Empty(t, warnings)

	s := task.Sources{File: file}
	got, warnings, err = task.Load(s)
	require.NoError(t, err)
	require.Empty(t, warnings)
	require.Equal(t, task.Task{
		Source: "--task " + file, Project: "p", Domain: "d",
		Declared: []secret.Declaration{{Key: "FILE", Mount: secret.EnvVar}},
	}, got)

	s.EnvSecrets, s.EnvSecretFiles = " A=X, g/B\n", "C=/c"
	got, warnings, err = task.Load(s)
	require.NoError(t, err)
	require.Len(t, warnings, 1)
	require.Equal(t, "environment", got.Source)
	require.Equal(t, "p", got.Project)
	require.Len(t, got.Declared, 3)

	s.Secrets = []string{"FLAG"}
	got, warnings, err = task.Load(s)
	require.NoError(t, err)
	require.Len(t, warnings, 2)
	require.Equal(t, "flags", got.Source)
	require.Len(t, got.Declared, 1)

	// One error names everything that is wrong.
	s = task.Sources{
		Secrets: []string{"OK", "A=hunter2", "a b"}, SecretFiles: []string{"="},
		File: file + "x", EnvSecrets: "B=some 1hunter2",
	}
	_, _, err = task.Load(s)
	for _, part := range []string{"--secret 2", "--secret 3", "--secret-file 1", "INJECT_SECRETS 1", "t.yamlx"} {
		require.ErrorContains(t, err, part)
	}
	require.NotContains(t, err.Error(), "hunter2")
}

func TestReadFlyte(t *testing.T) {
	for _, c := range []struct {
		name, variable, value string
		want                  task.Flyte
	}{
		{"nothing", "_U_ORG_NAME", "o", task.Flyte{}}, // it is not the org of any secret
		{"registration", "FLYTE_INTERNAL_TASK_PROJECT", "p", task.Flyte{}},
		{"project", "FLYTE_INTERNAL_EXECUTION_PROJECT", "p", task.Flyte{Project: "p"}},
		{"domain", "FLYTE_INTERNAL_EXECUTION_DOMAIN", "d", task.Flyte{Domain: "d"}},
		{"execution", "FLYTE_INTERNAL_EXECUTION_ID", "r1", task.Flyte{Execution: "r1"}},
		{"files", "FLYTE_SECRETS_DEFAULT_DIR", "/etc/x", task.Flyte{FilesDir: "/etc/x"}},
		{"prefix", "FLYTE_SECRETS_ENV_PREFIX", "_FSEC_", task.Flyte{EnvPrefix: "_FSEC_"}},
		{"as it is", "FLYTE_INTERNAL_EXECUTION_PROJECT", " a,b=${HOME}\n", task.Flyte{Project: " a,b=${HOME}\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(c.variable, c.value)
			require.Equal(t, c.want, task.ReadFlyte())
		})
	}
}

func TestCollisions(t *testing.T) {
	for _, c := range []struct {
		name           string
		secrets, files []string
		text           string
	}{
		{"a variable", []string{"A=X", "B=X"}, nil, "A and B are both declared for the variable X"},
		{"a secret twice", []string{"A", "A"}, []string{"A", "A", "A=/a", "A=/a"}, ""}, // equal ones are one
		{"a secret in two groups", []string{"A", "g/A", "A=A"}, nil, "the variable A"},
		{"a default name", []string{"a-b=V", "a_b", "a-b"}, nil, "a_b and a-b are both declared for the variable A_B"},
		{"the webhook's variable", []string{"g/a=X", "a", "A=Y", "A"}, nil, "_UNION_A"},
		{"a file", nil, []string{"A", "g/A"}, "the file A"},
		{"a path", nil, []string{"A=/x/y", "B=/x/../x/y"}, "the file /x/y"},
		{"a variable and a file", []string{"B=A"}, []string{"A=/a"}, ""},
		{"two groups", []string{"a/b_c=X", "a_b/c=Y"}, nil, "b_c and c would both be in the variable _UNION_A_B_C"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := task.Load(task.Sources{Secrets: c.secrets, SecretFiles: c.files})
			if c.text == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, secret.ErrInvalid)
			require.ErrorContains(t, err, c.text)
		})
	}
}

// The prefix of flytekit's variables is checked before a secret is looked up.
func TestBadPrefix(t *testing.T) {
	s := task.Sources{Secrets: []string{"g/K"}, Flyte: task.Flyte{EnvPrefix: "hunter2"}}
	_, _, err := task.Load(s)
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.ErrorContains(t, err, "FLYTE_SECRETS_ENV_PREFIX")
	require.NotContains(t, err.Error(), "hunter2")
	s.Flyte.EnvPrefix = "_FSEC_"
	loaded, _, err := task.Load(s)
	require.NoError(t, err)
	require.Equal(t, "_FSEC_", loaded.EnvPrefix)
}

func TestIsV1(t *testing.T) {
	for command, want := range map[string]bool{
		"pyflyte-execute": true, "/opt/venv/bin/pyflyte-fast-execute": true, "./pyflyte-map-execute": true,
		"pyflyte": false, "pyflyte-execute.sh": false, "/pyflyte-execute/a0": false, "a0": false, "": false,
	} {
		require.Equal(t, want, task.IsV1(command), command)
	}
}

// A variable that a secret for ANY names holds a path in Flyte v1. The list of the caller stays as it is.
func TestForV1(t *testing.T) {
	t.Parallel()
	declared := []secret.Declaration{
		{Group: "g", Key: "named", EnvVar: "A"},
		{Group: "g", Key: "plain"},
		{Key: "variable", Mount: secret.EnvVar, EnvVar: "B"},
		{Key: "file", Mount: secret.File, EnvVar: "C"},
	}
	before := slices.Clone(declared)
	want := slices.Clone(declared)
	want[0].Mount = secret.File
	require.Equal(t, want, task.ForV1(declared))
	require.Equal(t, before, declared)
}

const good = `# a comment
name: my_task_env
project: my_project
domain: development
secrets:
  - BARE
  - {key: MY_SECRET_KEY, as_env_var: MY_SECRET_ENV_VAR}
  - key: s3-token
    group: aws
  - {key: tls, mount: /etc/flyte/secrets}
  - {key: both, as_env_var: BOTH, mount: /etc/flyte/secrets, group: null}
`

func TestParse(t *testing.T) {
	want := task.Task{Name: "my_task_env", Project: "my_project", Domain: "development", Declared: []secret.Declaration{
		{Key: "BARE", Mount: secret.EnvVar},
		{Key: "MY_SECRET_KEY", Mount: secret.EnvVar, EnvVar: "MY_SECRET_ENV_VAR"},
		{Key: "s3-token", Group: "aws", Mount: secret.EnvVar},
		{Key: "tls", Mount: secret.File},
		{Key: "both", Mount: secret.EnvVar, EnvVar: "BOTH"}, // Flyte's rule: as_env_var wins
	}}
	got, err := task.Parse("t.yaml", []byte(good))
	require.NoError(t, err)
	require.Equal(t, want, got)

	var fields map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(good), &fields))
	for _, indent := range []string{"", "\t", "  "} {
		b, err := json.MarshalIndent(fields, "", indent)
		require.NoError(t, err)
		got, err = task.Parse("t.json", b)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	each(t, map[string]int{
		"secrets: K": 1, "secrets: {key: K}": 1, "secrets: []": 0, "name: x": 0, "secrets:": 0,
		"x: &a {key: K}\nsecrets: [*a]": -1,
	}, func(t *testing.T, text string, n int) {
		got, err := task.Parse("t", []byte(text))
		if n < 0 {
			require.ErrorContains(t, err, "unknown field")
			return
		}
		require.NoError(t, err)
		require.Len(t, got.Declared, n)
	})
}

var bad = map[string]string{
	"":                         "is empty",
	"a: b\nc: d: e":            "t is neither YAML nor JSON: line 2",
	"\x0a\x04\x08\x96\x01\x12": "neither YAML nor JSON",
	"[]":                       "t:1: the task: expected fields, found a list",
	"hunter2":                  "t:1: the task: expected fields, found text",
	"name: a\nsecret: [K]": "t:2: secret: unknown field, did you mean secrets?" +
		" (known: domain, name, project, secrets)",
	"name: a\nname: b":                                  "t:2: name: given twice",
	"project: 12":                                       "t:1: project: expected text, found a number",
	"secrets: [{as_env_var: A}]":                        "t:1: secrets[0]: the key is missing",
	"secrets:\n- K\n- {key: 1}":                         "t:3: secrets[1].key: expected text, found a number",
	"secrets:\n- {key: K, env: X}":                      "t:2: secrets[0].env: unknown field",
	"secrets: [{key: K, as_env_var: hunter2}]":          "t:1: secrets[0].as_env_var: not a variable's name",
	"secrets:\n\n- {key: K, mount: /tmp}":               "t:3: secrets[0].mount: unsupported mount",
	"secrets: [[K]]":                                    "secrets[0]: expected fields, found a list",
	"secrets: [\"a b\"]":                                "t:1: secrets[0]: invalid: the key has ' '",
	"secrets: [true]":                                   "expected text, found a truth value",
	"name: a\n---\nname: b":                             "t:2: more than one document",
	"hunter2 is not a field: x":                         "t:1: ?: unknown field",
	"{\"secrets\": [\"K\", {\"key\": \"J\", \"k\": 1}]": "neither YAML nor JSON",
	"secrets: [{key: K, as_env_var: PATH}]":             "PATH",
}

func TestParseBad(t *testing.T) {
	each(t, bad, func(t *testing.T, text, want string) {
		_, err := task.Parse("t", []byte(text))
		require.ErrorIs(t, err, secret.ErrInvalid)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "hunter2")
	})
	_, err := task.Parse("t", []byte("secrets:\n"+strings.Repeat("- {k: 1}\n", 1000)))
	require.ErrorContains(t, err, "there are 980 more mistakes")
	require.Less(t, len(err.Error()), 5000)
	_, err = task.Parse("t", []byte("name: 2024-01-01"))
	require.ErrorContains(t, err, "expected text, found something else")
	_, err = task.Parse("t", []byte("nam: a\nsecrets: [{key: K, mont: x}, {}]"))
	for _, part := range []string{"nam: unknown", "secrets[0].mont", "secrets[1]: the key is missing"} {
		require.ErrorContains(t, err, part)
	}
}

// The schema accepts and refuses the same files as Parse, as far as a schema can tell.
func TestSchema(t *testing.T) {
	text, err := os.ReadFile("task.schema.json")
	require.NoError(t, err)
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	require.NoError(t, err)
	c := jsonschema.NewCompiler()
	require.NoError(t, c.AddResource("task.json", schema))
	compiled, err := c.Compile("task.json")
	require.NoError(t, err)
	var doc any
	require.NoError(t, yaml.Unmarshal([]byte(good), &doc))
	require.NoError(t, compiled.Validate(doc))
	refused := 0
	for text := range bad {
		var doc any
		hasMore := strings.Contains(text, "---") || strings.Contains(text, "PATH") // no schema can tell
		if yaml.Unmarshal([]byte(text), &doc) != nil || hasMore {
			continue
		}
		require.Error(t, compiled.Validate(doc), text)
		refused++
	}
	require.Greater(t, refused, 10)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	for text := range bad {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := task.Parse("t", text)
		if err != nil {
			return
		}
		for _, d := range got.Declared {
			if err := d.Validate(); err != nil {
				t.Fatalf("accepted %+v: %v", d, err)
			}
		}
	})
}
