package harness

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// Chart renders deploy/chart, as the release inject in the namespace inject-system, for a version of Kubernetes
// such as v1.37.2. values are the chart's as YAML; the registry of the images is inject.test unless they have
// one. args are further arguments of helm template. It returns what Helm writes, and an error if Helm fails. It
// skips the test if Helm is missing, and fails it in CI.
func Chart(t testing.TB, version, values string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	return ChartBy(t, Bin(t, "helm"), version, values, args...)
}

// ChartBy is [Chart] by another Helm than that of bin.
func ChartBy(t testing.TB, helm, version, values string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	registry := filepath.Join(t.TempDir(), "registry.yaml")
	check(t, os.WriteFile(registry, []byte("images: {registry: inject.test}\n"), 0o600))
	return Helm(t, helm, values, append([]string{
		"template", "inject", filepath.Join(Root(t), "deploy", "chart"), "--namespace", "inject-system",
		"--kube-version", version, "--values", registry, "--values", "-",
	}, args...)...)
}

// Helm runs a Helm, which has no settings of this machine, with stdin and args. It returns what Helm writes, and
// an error if Helm fails.
func Helm(t testing.TB, helm, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), helm, args...) //nolint:gosec // the repository's own
	dir := t.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+dir, "HELM_CONFIG_HOME="+dir, "HELM_CACHE_HOME="+dir, "HELM_DATA_HOME="+dir)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// ChartObjects returns the objects that [Chart] renders, with the types of JSON. It fails the test if Helm fails.
func ChartObjects(t testing.TB, version, values string, args ...string) (objects []map[string]any) {
	t.Helper()
	out, stderr, err := Chart(t, version, values, args...)
	if err != nil {
		t.Fatal(err, stderr)
	}
	return Objects(t, out)
}

// Objects returns the objects in a text of YAML, with the types of JSON.
func Objects(t testing.TB, text string) (objects []map[string]any) {
	t.Helper()
	for d := yaml.NewDecoder(strings.NewReader(text)); ; {
		var o map[string]any
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return objects
		}
		check(t, err)
		if o == nil { // a template that renders nothing
			continue
		}
		data, err := json.Marshal(o)
		check(t, err)
		var object map[string]any
		check(t, json.Unmarshal(data, &object))
		objects = append(objects, object)
	}
}
