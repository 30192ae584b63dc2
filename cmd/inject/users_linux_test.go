package main_test

import (
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// Two parts of Flyte's SDK that read secrets from the environment get them from inject: the server of
// an app (flyteorg/flyte#7600) and the builder of images (flyteorg/flyte-sdk#11). Others that users
// asked for are in testdata/users.txtar.
func TestFlyteUsers(t *testing.T) {
	if testing.Short() {
		t.Skip("in the long tests: the SDK takes a second to start")
	}
	t.Parallel()
	home, value := awkwardHome(t)
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(value)))
	run := func(declaration string, argv ...string) string {
		cmd := inPod(command(home, append([]string{"run", "--secret", declaration, "--"}, argv...)...))
		cmd.Dir = t.TempDir() // fserve writes a file there
		out, err := cmd.CombinedOutput()
		require.NoErrorf(t, err, "%s", out)
		return string(out)
	}

	t.Run("app", func(t *testing.T) {
		ranFlyte(t, "fserve")
		out := run("K=V", harness.SDK(t, "fserve"), "--version", "v1", `printenv V; printf %s "$V" | sha256sum`)
		require.Contains(t, out, "[REDACTED:K]\n"+sum+"  -\n")
		require.NotContains(t, out, value)
	})

	t.Run("image", func(t *testing.T) {
		ranFlyte(t, "secrets of image builds")
		out := run("aws/K", harness.SDK(t, "python"), "-c", `
import os
import flyte
from flyte._internal.imagebuild import docker_builder
image = flyte.Image.from_debian_base(registry="registry.example", name="n").with_commands(
    ["true"], secret_mounts=[flyte.Secret("k", group="aws")])
print(docker_builder._get_secret_commands(image._layers))
del os.environ["AWS_K"]
try:
    docker_builder._get_secret_commands(image._layers)
except FileNotFoundError as e:
    print("without it:", e)`)
		require.Contains(t, out, "env=AWS_K']\n")
		require.Contains(t, out, "without it: Secret not found in Env Var AWS_K")
	})
}
