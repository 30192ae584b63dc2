package main_test

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"inject/internal/harness"
	"inject/resolver/idl/flyteidl2/core"
)

// startExecutor starts the part of Flyte's control plane that runs the tasks which another task awaits,
// each below inject, and returns the variables by which the SDK finds it, and what it and all of them say.
func startExecutor(t *testing.T, g *gateway, home string) ([]string, *harness.Buffer) {
	t.Helper()
	cmd := inPod(exec.CommandContext(t.Context(), harness.SDK(t, "python"), "executor.py",
		binary, "run", "--secret", "V", "--", harness.SDK(t, "a0")),
		append([]string{"HOME=" + home}, g.env...)...)
	var said harness.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	port, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err, &said)
	return []string{"_U_EP_OVERRIDE=127.0.0.1:" + strings.TrimSpace(port), "_U_INSECURE=1"}, &said
}

// A task that awaits fifty others at once uploads the inputs of each, and each uploads outputs of its own
// through a guard of its own, below one run's prefix; fifty traces at once do so through one guard.
func TestGuardMap(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it takes fifty starts of Python")
	}
	ranFlyte(t, "a0: flyte.map over fifty tasks, and fifty traces at once, in a bucket, through the guard")
	g := startGateway(t)
	value := "\"ä\\ <&" + rand.Text()
	home := homeWith(t, value)
	type counts struct{ outputs, masked, clean, refused int } // of the fifty
	for _, c := range []struct {
		task string
		want counts
	}{
		{"traces", counts{50, 17, 33, 0}},
		{"mapped", counts{45, 10, 35, 5}},
	} {
		t.Run(c.task, func(t *testing.T) {
			control, executor := startExecutor(t, g, home)
			code, said := g.ranIn(home, nil, inBucket(t, "mapped", c.task, c.task), control...)
			if !abortedAtEnd(code, said) {
				require.Zero(t, code, said)
			}
			at := filepath.Join(c.task, "*")
			if c.task == "mapped" {
				at = filepath.Join(at, "1")
			}
			var got counts
			files := g.files(t, c.task)
			for name, text := range files {
				dir, file := filepath.Split(name)
				if match, _ := filepath.Match(at+"/", dir); !match || dir == c.task+"/out/" {
					continue
				}
				switch file {
				case "outputs.pb":
					got.outputs++
					if strings.Contains(text, " of "+mask) {
						got.masked++
					}
					if strings.Contains(text, " of none") {
						got.clean++
					}
				case "error.pb":
					var doc core.ErrorDocument
					require.NoError(t, proto.Unmarshal([]byte(text), &doc))
					assert.Equal(t, "SecretInOutput", doc.GetError().GetCode())
					assert.Contains(t, doc.GetError().GetMessage(), "raw/binary holds the value of V")
					got.refused++
				}
			}
			require.Equal(t, c.want, got, said)
			// The task reads what the others have left, masks and the reasons of refusals.
			all := files[c.task+"/out/outputs.pb"]
			require.Equal(t, c.want.masked, strings.Count(all, " of "+mask))
			require.Equal(t, c.want.clean, strings.Count(all, " of none"))
			require.Equal(t, c.want.refused, strings.Count(all, "raw/binary holds the value of V in binary data"))
			g.noLeak(t, said+executor.String(), value)
		})
	}
}

// The parts of an upload meet in the order of their numbers, which may be far apart, and many parts take
// no more of the guard's memory than few.
func TestGuardParts(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("TestParts and TestCompleteLists have a store in memory")
	}
	harness.Ran(t, "boto3", harness.StorageVersion(t, "boto3"), "parts 1 and 10 000, and 1500 parts, through the guard")
	for what, value := range map[string]string{
		"far": "\"ä\\ <&" + rand.Text(),
		// The edges of the parts are as long as they can be. All of them would take 190 MB, and there is room
		// for 12 MiB.
		"many": strings.Repeat(rand.Text(), 800),
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			var g *gateway
			env := startMoto(t, "S3_UPLOAD_PART_MIN_SIZE=1")
			if what == "far" {
				g = startGateway(t)
				env = g.env
			}
			cmd := command(homeWith(t, value), "run", "--secret", "V", "--storage", "guard", "--",
				harness.Storage(t, "python"), "parts.py", what)
			cmd.Dir = "../../deploy/storage"
			cmd.Env = append(cmd.Env, append(env, "PYTHONDONTWRITEBYTECODE=1", "AWS_EC2_METADATA_DISABLED=true")...)
			out, _ := cmd.CombinedOutput() // the exit code is compared
			require.Equal(t, 125, cmd.ProcessState.ExitCode(), "refusals are reported: %s", out)
			require.Contains(t, string(out), "all is as it should be")
			require.NotContains(t, string(out), value)
			if g != nil {
				g.noLeak(t, string(out), value)
				return
			}
			var took int
			_, says, _ := strings.Cut(string(out), "memory: ")
			_, err := fmt.Sscan(says, &took)
			require.NoError(t, err)
			t.Logf("the guard has taken %d KiB", took)
			require.Less(t, took, 64<<10)
		})
	}
}
