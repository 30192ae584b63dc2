package main_test

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"inject/internal/harness"
	"inject/resolver/idl/flyteidl2/core"
)

// gateway is versitygw, an object store that checks each signature and keeps objects as plain files.
type gateway struct {
	dir   string // of the bucket bkt
	addr  string
	env   []string // of a pod that has it as its object store
	keys  []string // its own environment
	flags []string
	cmd   *exec.Cmd
}

// startGateway starts an object store with the bucket bkt. The flags are its own.
func startGateway(t *testing.T, flags ...string) *gateway {
	t.Helper()
	root := t.TempDir()
	g := &gateway{dir: filepath.Join(root, "bkt"), flags: flags}
	require.NoError(t, os.Mkdir(g.dir, 0o700))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g.addr = l.Addr().String()
	require.NoError(t, l.Close())
	access, key := "ID"+rand.Text(), rand.Text()
	g.keys = []string{"ROOT_ACCESS_KEY=" + access, "ROOT_SECRET_KEY=" + key, "HOME=" + root}
	g.start(t)
	t.Cleanup(g.kill)
	g.env = []string{
		"FLYTE_AWS_ENDPOINT=http://" + g.addr, "FLYTE_AWS_ACCESS_KEY_ID=" + access,
		"FLYTE_AWS_SECRET_ACCESS_KEY=" + key, "AWS_REGION=eu-north-1",
	}
	return g
}

// start starts the store, with the objects that it had.
func (g *gateway) start(t *testing.T) {
	t.Helper()
	program := filepath.Join(harness.Root(t), "bin", "versitygw")
	if _, err := os.Stat(program); err != nil {
		harness.Skip(t, "run make storage: ", err)
	}
	var log harness.Buffer
	args := slices.Concat([]string{"--port", g.addr, "--region", "eu-north-1"}, g.flags,
		[]string{"posix", filepath.Dir(g.dir)})
	g.cmd = exec.CommandContext(t.Context(), program, args...)
	g.cmd.Env = g.keys
	g.cmd.Stdout, g.cmd.Stderr = &log, &log
	require.NoError(t, g.cmd.Start())
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", g.addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, 20*time.Second, 20*time.Millisecond, "%s", &log)
}

// kill ends the store as a crash does.
func (g *gateway) kill() {
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait()
}

// files returns the objects below a prefix by their keys.
func (g *gateway) files(t *testing.T, prefix string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(filepath.Join(g.dir, prefix), func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, g.dir+"/")] = string(b)
		return err
	})
	require.NoError(t, err)
	return all
}

// noLeak fails the test if there is a value in an object, also in one that was refused.
func (g *gateway) noLeak(t *testing.T, said, value string) {
	t.Helper()
	all := g.files(t, "")
	all["log"] = said
	require.NoError(t, harness.FindLeak(all, map[string]string{"V": value}))
	require.Empty(t, g.files(t, ".sgwtmp/multipart"), "an upload is open")
}

// object returns one object.
func (g *gateway) object(t *testing.T, key string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(g.dir, key))
	require.NoError(t, err)
	return string(b)
}

// inBucket returns an action whose paths are below a prefix of the bucket bkt.
func inBucket(t *testing.T, module, prefix, task string) []string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "inputs.pb"), nil, 0o600))
	at := "s3://bkt/" + prefix
	return []string{
		harness.SDK(t, "a0"), "--inputs", dir + "/inputs.pb", "--outputs-path", at + "/out", "--version", "v1",
		"--run-base-dir", at, "--raw-data-path", at + "/raw", "--checkpoint-path", at + "/checkpoint",
		"--prev-checkpoint", at + "/previous", "--run-name", "r1", "--name", "a1",
		"--resolver", "flyte._internal.resolvers.default.DefaultTaskResolver", "mod", module, "instance", task,
	}
}

// ranIn runs a command below inject with the secret V in a pod that has the gateway, and returns its
// exit code and what it wrote.
func (g *gateway) ranIn(home string, flags, argv []string, env ...string) (int, string) {
	cmd := inPod(command(home, slices.Concat([]string{"run", "--secret", "V"}, flags, []string{"--"}, argv)...),
		append(slices.Clone(g.env), env...)...)
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	_ = cmd.Run() // the exit code is compared
	return cmd.ProcessState.ExitCode(), b.String()
}

// reason returns the error that a task's author reads in Flyte.
func (g *gateway) reason(t *testing.T, prefix string) *core.ContainerError {
	t.Helper()
	var doc core.ErrorDocument
	require.NoError(t, proto.Unmarshal([]byte(g.object(t, prefix+"/out/error.pb")), &doc))
	return doc.GetError()
}

// What the runtime of a Python task uploads itself is masked on its way to the bucket, or refused with a
// sentence that its author reads.
func TestGuard(t *testing.T) {
	t.Parallel()
	g := startGateway(t)
	ranFlyte(t, "a0: outputs, errors, reports and data in a bucket, through the guard")
	harness.Ran(t, "versitygw", gatewayVersion(t), "the object store behind the guard, with a0")
	value := "\"ä\\ <&" + rand.Text()
	home := homeWith(t, value)
	// The search finds what it looks for where nothing guards.
	code, said := g.ranIn(home, []string{"--storage", "off"}, inBucket(t, "job", "unguarded", "everything"))
	require.Zero(t, code, said)
	require.Error(t, harness.FindLeak(g.files(t, ""), map[string]string{"V": value}))
	require.NoError(t, os.RemoveAll(g.dir))
	require.NoError(t, os.Mkdir(g.dir, 0o700))

	const outputs, failed, report = "out/outputs.pb", "out/error.pb", "out/report.html"
	cases := []struct {
		module, task, how string
		code              int
		files             []string // that are left
		refused           string   // why a file was refused
		short             bool     // also run by make test
	}{
		{"job", "everything", "", 0, []string{outputs}, "", true},
		{"job", "ends", "raised", 0, []string{failed}, "", true},
		{"job", "ends", "caused", 0, []string{failed}, "", false},
		{"job", "ends", "reported", 0, []string{outputs, report}, "", true},
		{"job", "ends", "sys.exit(3)", 3, nil, "", false},
		{"job", "ends", "killed", 137, []string{report}, "", false},
		{"job", "clean", "", 0, []string{outputs}, "", false},
		{"job", "pickled_set", "", 0, []string{failed}, "out/outputs.pb holds the value of V", true},
		{"job", "pickled_large", "", 0, []string{failed}, "holds the value of V", false},
		{"job", "retried", "", 0, []string{failed}, "", false},
		{"raw", "text_file", "", 0, []string{outputs, "raw/*"}, "", false},
		{"raw", "binary_file", "", 0, []string{failed}, "holds the value of V in binary data", false},
		{"raw", "folder", "", 0, []string{outputs, "raw/*"}, "", false},
		{"raw", "clean_frame", "", 0, []string{outputs, "raw/*"}, "", false},
		{"raw", "frame", "", 0, []string{failed}, "holds the value of V in a parquet file", true},
		{"raw", "flyte_frame", "", 0, []string{failed}, "holds the value of V in a parquet file", false},
	}
	for i, c := range cases {
		if testing.Short() && !c.short {
			continue
		}
		t.Run(c.task+" "+c.how, func(t *testing.T) {
			t.Parallel()
			prefix := fmt.Sprintf("r%d", i)
			argv := inBucket(t, c.module, prefix, c.task)
			code, said := g.ranIn(home, nil, argv, "HOW="+c.how, "FLYTE_ATTEMPT_NUMBER=0")
			if !abortedAtEnd(code, said) {
				require.Equal(t, c.code, code, said)
			}
			files := slices.Sorted(maps.Keys(g.files(t, prefix)))
			for _, want := range c.files {
				at := slices.IndexFunc(files, func(name string) bool {
					ok, _ := filepath.Match(prefix+"/"+want, name)
					return ok || strings.HasSuffix(want, "*") && strings.HasPrefix(name, prefix+"/raw/")
				})
				require.GreaterOrEqual(t, at, 0, "%s is not among %q: %s", want, files, said)
			}
			if slices.Contains(c.files, outputs) != slices.Contains(files, prefix+"/"+outputs) {
				t.Errorf("outputs.pb: %q: %s", files, said)
			}
			if c.refused != "" {
				e := g.reason(t, prefix)
				assert.Equal(t, "SecretInOutput", e.GetCode())
				assert.Equal(t, core.ContainerError_NON_RECOVERABLE, e.GetKind())
				assert.Contains(t, e.GetMessage(), c.refused)
				assert.Contains(t, said, "refused: ")
			}
			require.NoError(t, harness.FindLeak(map[string]string{"log": said}, map[string]string{"V": value}))
		})
	}
	t.Cleanup(func() { g.noLeak(t, "", value) }) // when all have ended
}

// abortedAtEnd reports whether a0 has aborted when all its work was done. At 2.12.1 it does so in one of
// thirty exits, with and without the guard.
func abortedAtEnd(code int, said string) bool {
	return code == 134 && strings.Contains(said, "Flyte runtime completed")
}

func gatewayVersion(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "version", "-m",
		filepath.Join(harness.Root(t), "bin", "versitygw")).Output()
	require.NoError(t, err)
	for line := range strings.Lines(string(out)) {
		if words := strings.Fields(line); len(words) > 2 && words[1] == "github.com/versity/versitygw" {
			return strings.TrimPrefix(words[2], "v")
		}
	}
	t.Fatal("versitygw has no version")
	return ""
}

// flytekit, the SDK of Flyte v1, writes to its bucket by s3fs, which reads the same variables.
func TestGuardFlytekit(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("TestGuard has the runtime of Flyte v2")
	}
	g := startGateway(t)
	version := harness.FlytekitVersion(t)
	harness.Ran(t, "flytekit", version, "pyflyte-execute: outputs, deck and error in a bucket, through the guard")
	j := newV1Job(t)
	for _, c := range []struct{ task, file string }{
		{"answers", "outputs.pb"}, {"answers", "deck.html"}, {"fails", "error.pb"},
	} {
		cmd := g.v1Cmd(t, j, c.task)
		out, err := cmd.CombinedOutput()
		require.NoErrorf(t, err, "%s", out)
		require.Contains(t, g.object(t, c.task+"/out/"+c.file), "[REDACTED:db-env-var]", "%s", out)
		all := g.files(t, "")
		all["log"] = string(out)
		require.NoError(t, harness.FindLeak(all, j.values))
	}
}

// v1Cmd returns the command of a task of flytekit's below inject whose paths are in the bucket.
func (g *gateway) v1Cmd(t *testing.T, j v1Job, task string, flags ...string) *exec.Cmd {
	t.Helper()
	cmd := j.cmd(t, task, append(flags, "--task", filepath.Join(j.dir, task, "template.pb"))...)
	for i, arg := range cmd.Args {
		for _, place := range []string{"out", "raw", "checkpoint"} {
			if i > slices.Index(cmd.Args, "--") && arg == filepath.Join(j.dir, task, place) {
				cmd.Args[i] = "s3://bkt/" + task + "/" + place
			}
		}
	}
	cmd.Env = append(cmd.Env, g.env...)
	return cmd
}

// The clients that other code of a task uses find the store behind the guard as it is without it.
func TestGuardClients(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("TestGuard writes through the guard, too")
	}
	python, aws := harness.Storage(t, "python"), harness.Storage(t, "aws")
	harness.Ran(t, "boto3", harness.StorageVersion(t, "boto3"), "writes, parts and reads through the guard")
	harness.Ran(t, "AWS CLI", harness.StorageVersion(t, "awscli"), "copies 64 MiB through the guard")
	harness.Ran(t, "moto", harness.StorageVersion(t, "moto"), "the object store behind the guard, with boto3")
	value := "\"ä\\ <&" + rand.Text()
	home := homeWith(t, value)
	for _, store := range []string{"versitygw", "moto"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			env := startMoto(t)
			var g *gateway
			if store == "versitygw" {
				g = startGateway(t)
				env = g.env
			}
			cmd := command(home, "run", "--secret", "V", "--storage", "guard", "--", python, "clients.py", aws)
			cmd.Dir = "../../deploy/storage"
			cmd.Env = append(cmd.Env, append(env, "PYTHONDONTWRITEBYTECODE=1", "AWS_EC2_METADATA_DISABLED=true",
				"V_HEX="+hex.EncodeToString([]byte(value)))...)
			out, err := cmd.CombinedOutput()
			require.Error(t, err, "refusals are reported")
			require.Equal(t, 125, cmd.ProcessState.ExitCode(), "%s", out)
			require.Contains(t, string(out), "all is as it should be")
			require.NotContains(t, string(out), value)
			if g != nil {
				g.noLeak(t, string(out), value)
			}
		})
	}
}

// A task that is stopped in the middle of an upload leaves neither an object nor an upload in the store.
func TestGuardStopped(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("TestOpenUploads has a store in memory")
	}
	g := startGateway(t)
	home := homeWith(t, rand.Text())
	cmd := command(home, "run", "--secret", "V", "--storage", "guard", "--", harness.SDK(t, "python"), "-c", `
import os, time
import obstore

env = lambda name: os.environ["FLYTE_AWS_" + name]
store = obstore.store.S3Store(
    "bkt", endpoint=env("ENDPOINT"), access_key_id=env("ACCESS_KEY_ID"), secret_access_key=env("SECRET_ACCESS_KEY"),
    client_options={"allow_http": True},
)

def pieces():
    for i in range(1000):
        yield os.urandom(6 << 20)
        if i == 4:
            print("uploading", flush=True)
        if i >= 4:
            time.sleep(0.1)

obstore.put(store, "half", pieces(), chunk_size=5 << 20, max_concurrency=4)
`)
	cmd.Env = append(cmd.Env, g.env...)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var stderr harness.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err, &stderr)
	require.Equal(t, "uploading\n", line)
	require.NotEmpty(t, slices.Collect(maps.Keys(g.files(t, ".sgwtmp/multipart"))), "parts are in the store")
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	_ = cmd.Wait() // the exit code is compared
	require.Equal(t, 143, cmd.ProcessState.ExitCode(), &stderr)
	require.Empty(t, slices.Collect(maps.Keys(g.files(t, ""))), "neither an object nor a part")
}

// startMoto starts moto's server, with some variables of its own, and returns the environment of a pod
// that has it as its store.
func startMoto(t *testing.T, env ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), harness.Storage(t, "moto_server"), "-H", "127.0.0.1", "-p", "0")
	cmd.Env = append(os.Environ(), env...)
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if _, addr, ok := strings.Cut(lines.Text(), "Running on "); ok {
			go func() {
				for lines.Scan() { // otherwise its log would fill the pipe
				}
			}()
			return []string{
				"FLYTE_AWS_ENDPOINT=" + strings.TrimSpace(addr),
				"FLYTE_AWS_ACCESS_KEY_ID=" + rand.Text(), "FLYTE_AWS_SECRET_ACCESS_KEY=" + rand.Text(),
			}
		}
	}
	t.Fatal(cmp.Or(lines.Err(), fs.ErrClosed))
	return nil
}

// A task that could write without the guard does not start, and the message names the variable or the
// argument.
func TestGuardRefusesToStart(t *testing.T) {
	t.Parallel()
	value := rand.Text()
	home := homeWith(t, value)
	a0 := filepath.Join(t.TempDir(), "a0")
	require.NoError(t, os.WriteFile(a0, []byte("#!/bin/sh\necho started\n"), 0o755))
	pair := []string{"FLYTE_AWS_ACCESS_KEY_ID=id", "FLYTE_AWS_SECRET_ACCESS_KEY=key"}
	ran := func(out string, env ...string) (int, string) {
		cmd := command(home, "run", "--secret", "V", "--", a0, "--outputs-path", out)
		cmd.Env = append(cmd.Env, append(env, "AWS_EC2_METADATA_DISABLED=true")...)
		b, _ := cmd.CombinedOutput() // the exit code is compared
		return cmd.ProcessState.ExitCode(), string(b)
	}
	for _, c := range []struct {
		named, out string
		env        []string
	}{
		{"--outputs-path", "ftp://host/x", pair},
		{"--outputs-path", "s3://zone--x-s3/x", pair},
		{"AWS_SKIP_SIGNATURE", "s3://bkt/x", append(pair, "AWS_SKIP_SIGNATURE=true")},
		{"AWS_S3_EXPRESS", "s3://bkt/x", append(pair, "AWS_S3_EXPRESS=1")},
		{"AWS_PROFILE", "s3://bkt/x", []string{"AWS_PROFILE=p", "AWS_CONFIG_FILE=/f"}},
		{"AWS_ENDPOINT_URL_S3", "s3://bkt/x", []string{
			"AWS_ENDPOINT_URL_S3=http://127.0.0.1:1", "AWS_WEB_IDENTITY_TOKEN_FILE=/f", "AWS_ROLE_ARN=a",
		}},
		{"FLYTE_AWS_ENDPOINT", "s3://bkt/x", append(pair, "FLYTE_AWS_ENDPOINT=127.0.0.1:9000")},
		{"AWS_CA_BUNDLE", "s3://bkt/x", append(pair, "AWS_CA_BUNDLE=/no/such/file")},
		{"credentials for", "s3://bkt/x", []string{"AWS_WEB_IDENTITY_TOKEN_FILE=/no/such/file", "AWS_ROLE_ARN=a"}},
	} {
		code, said := ran(c.out, c.env...)
		assert.Equal(t, 125, code, said)
		assert.Contains(t, said, "--storage: ")
		assert.Contains(t, said, c.named)
		assert.Contains(t, said, "--storage off")
		assert.NotContains(t, said, "started")
	}
	// The same command starts where its outputs go to no bucket, and ends as one that wrote nothing if they do.
	code, said := ran("/tmp/x", append(pair, "AWS_SKIP_SIGNATURE=true")...)
	require.Zero(t, code, said)
	code, said = ran("s3://bkt/x", pair...)
	require.Equal(t, 125, code, said)
	require.Contains(t, said, "started")
	require.Contains(t, said, "neither outputs.pb nor error.pb has come through the guard")
}
