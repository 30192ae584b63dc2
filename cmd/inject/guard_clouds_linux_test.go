package main_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"inject/internal/harness"
	"inject/resolver/idl/flyteidl2/core"
)

// azuriteKey is that of the account which Azurite has, and which its documentation names.
const (
	azuriteAccount = "devstoreaccount1"
	azuriteKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// cloud is an object store that speaks as that of a cloud.
type cloud struct {
	url string   // of a bucket
	env []string // of a pod that has it as its object store
}

// startGCS starts moto's server as Google's store: its XML API is that of S3. Moto wants a signature of
// S3's form, which it does not check, where Google wants a token, so the token has that form.
func startGCS(t *testing.T) []cloud {
	t.Helper()
	address := strings.TrimPrefix(startMoto(t)[0], "FLYTE_AWS_ENDPOINT=")
	token := rand.Text() + "/20260101/us-east-1/s3/aws4_request"
	ask(t, http.DefaultTransport, address+"/bkt", "Authorization", "Bearer "+token)
	return []cloud{{"gs://bkt", []string{"GOOGLE_BASE_URL=" + address, "GOOGLE_BEARER_TOKEN=" + token}}}
}

// startAzure starts Azurite with TLS, as pods see it that have the key of the account, and as those that
// have a token.
func startAzure(t *testing.T) []cloud {
	t.Helper()
	harness.Need(t, "node")
	program := harness.Azurite(t)
	authority := harness.NewAuthority(t, t.TempDir())
	cert, key := authority.Issue("azurite", harness.Local)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	require.NoError(t, l.Close())
	var log harness.Buffer
	cmd := exec.CommandContext(t.Context(), program, "--blobPort", port, "--inMemoryPersistence", "--silent",
		"--skipApiVersionCheck", "--disableTelemetry", "--oauth", "basic", "--cert", cert, "--key", key)
	cmd.Dir = t.TempDir()
	cmd.Stdout, cmd.Stderr = &log, &log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, time.Minute, 50*time.Millisecond, "%s", &log)

	// Azurite does not check the signature of a token.
	now := time.Now().Unix()
	part := func(v any) string {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	token := part(map[string]string{"alg": "none", "typ": "JWT"}) + "." + part(map[string]any{
		"aud": "https://storage.azure.com", "iss": "https://sts.windows.net/00000000-0000-0000-0000-000000000000/",
		"nbf": now - 60, "iat": now - 60, "exp": now + 3600,
	}) + "." + rand.Text()
	address := "https://127.0.0.1:" + port + "/" + azuriteAccount
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authority.Pool(), MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	for _, container := range []string{"keyed", "token"} {
		ask(t, transport, address+"/"+container+"?restype=container", "Authorization", "Bearer "+token,
			"X-Ms-Version", "2021-08-06")
	}
	env := []string{
		"AZURE_STORAGE_ACCOUNT_NAME=" + azuriteAccount, "AZURE_STORAGE_ENDPOINT=" + address,
		"SSL_CERT_FILE=" + authority.CA(),
	}
	return []cloud{
		{"abfss://keyed", append(slices.Clone(env), "AZURE_STORAGE_ACCOUNT_KEY="+azuriteKey)},
		{"abfs://token", append(env, "AZURE_STORAGE_TOKEN="+token)},
	}
}

// ask makes a bucket.
func ask(t *testing.T, transport http.RoundTripper, url string, headers ...string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, nil)
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := transport.RoundTrip(r)
	require.NoError(t, err)
	defer resp.Body.Close() //nolint:errcheck // nothing of it is needed
	require.Equal(t, 2, resp.StatusCode/100)
}

// objects returns those of the bucket by their keys, read without the guard.
func (c cloud) objects(t *testing.T) map[string]string {
	t.Helper()
	cmd := inPod(exec.CommandContext(t.Context(), harness.SDK(t, "python"), "uploads.py", "dump", c.url),
		append(slices.Clone(c.env), "HOME="+t.TempDir())...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoErrorf(t, err, "%s", &stderr)
	var coded map[string][]byte
	require.NoError(t, json.Unmarshal(out, &coded))
	objects := map[string]string{}
	for name, b := range coded {
		objects[name] = string(b)
	}
	return objects
}

// What the runtime of a Python task uploads itself to Google's and to Azure's store is masked on its way,
// or refused with a sentence that its author reads, whether it comes in one piece or in many.
func TestGuardClouds(t *testing.T) {
	t.Parallel()
	ranFlyte(t, "a0: outputs, errors and data in GCS and in Azure, through the guard")
	harness.Ran(t, "moto", harness.StorageVersion(t, "moto"),
		"the XML API of GCS behind the guard, with a0 and obstore")
	harness.Ran(t, "azurite", azuriteVersion(t), "Azure's store behind the guard, with a0 and obstore")
	harness.Ran(t, "obstore", harness.SDKVersion(t, "obstore"), "all operations in GCS and in Azure, through the guard")
	value := "\"ä\\ <&" + rand.Text()
	home := homeWith(t, value)
	tasks := []struct {
		module, task, how string
		refused           string // why a file was refused
		short             bool   // run in any case
	}{
		{"job", "everything", "", "", true},
		{"job", "ends", "raised", "", false},
		{"job", "pickled_set", "", "out/outputs.pb holds the value of V", false},
		{"uploads", "clean", "", "", false},
		{"uploads", "in_part", "", "large.bin holds the value of V, and was uploaded in parts", false},
		{"uploads", "across_parts", "", "large.bin holds the value of V, and was uploaded in parts", true},
		{"uploads", "in_name", "", "holds the value of V in its name", false},
		{"raw", "text_file", "", "", false},
		{"raw", "frame", "", "holds the value of V in a parquet file", false},
	}
	for _, c := range append(startGCS(t), startAzure(t)...) {
		scheme, _, _ := strings.Cut(c.url, ":")
		if testing.Short() && scheme == "abfs" {
			continue
		}
		few := testing.Short() || scheme == "abfs" // a token is all that differs from abfss
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			said := map[string]string{}
			ran := func(name string, argv []string, env ...string) int {
				argv = append([]string{"run", "--secret", "V", "--storage", "guard", "--"}, argv...)
				env = append(slices.Clone(c.env), append(env, "HTTP_PROXY=http://127.0.0.1:1")...)
				cmd := inPod(command(home, argv...), env...)
				b, _ := cmd.CombinedOutput() // the exit code is compared
				said[name] = string(b)
				return cmd.ProcessState.ExitCode()
			}
			for _, run := range tasks {
				if few && !run.short {
					continue
				}
				argv := inBucket(t, run.module, run.task, run.task)
				for i := range argv {
					argv[i] = strings.Replace(argv[i], "s3://bkt", c.url, 1)
				}
				code := ran(run.task, argv, "HOW="+run.how)
				if !abortedAtEnd(code, said[run.task]) {
					require.Zero(t, code, said[run.task])
				}
			}
			check := []string{harness.SDK(t, "python"), "uploads.py", "check", c.url + "/check"}
			require.Equal(t, 125, ran("check", check), said["check"])
			require.Contains(t, said["check"], "all is as it should be")

			all := c.objects(t)
			for _, run := range tasks {
				if few && !run.short {
					continue
				}
				_, hasOutputs := all[run.task+"/out/outputs.pb"]
				text, hasError := all[run.task+"/out/error.pb"]
				assert.Equal(t, run.refused == "" && run.how == "", hasOutputs, run.task)
				assert.NotEqual(t, hasOutputs, hasError, run.task)
				var doc core.ErrorDocument
				require.NoError(t, proto.Unmarshal([]byte(text), &doc))
				if run.refused != "" {
					assert.Equal(t, "SecretInOutput", doc.GetError().GetCode(), run.task)
					assert.Contains(t, doc.GetError().GetMessage(), run.refused, run.task)
				}
			}
			for name, text := range all {
				if strings.HasPrefix(name, "clean/raw/") {
					assert.Len(t, text, 4*5<<20+7)
				}
			}
			for name, text := range said {
				all["log of "+name] = text
			}
			require.NoError(t, harness.FindLeak(all, map[string]string{"V": value}))
		})
	}
}

func azuriteVersion(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(filepath.Dir(harness.Azurite(t)), "..", "azurite", "package.json"))
	require.NoError(t, err)
	var about struct{ Version string }
	require.NoError(t, json.Unmarshal(b, &about))
	return about.Version
}

// A task that could write to another provider without the guard does not start, and the message names
// the variable or the argument.
func TestGuardCloudsRefuseToStart(t *testing.T) {
	t.Parallel()
	home := homeWith(t, rand.Text())
	dir := t.TempDir()
	for _, name := range []string{"a0", "pyflyte-execute"} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\necho started\n"), 0o755))
	}
	account := "AZURE_STORAGE_ACCOUNT_NAME=acct1"
	for _, c := range []struct {
		named, program, out string
		env                 []string
	}{
		{"gcs://", "a0", "gcs://b/x", nil},
		{"az://", "a0", "az://b/x", nil},
		{"flytekit (Flyte 1)", "pyflyte-execute", "gs://b/x", nil},
		{"AZURE_STORAGE_ACCOUNT_NAME", "a0", "abfs://b/x", nil},
		{"AZURE_STORAGE_USE_EMULATOR", "a0", "abfs://b/x", []string{account, "AZURE_STORAGE_USE_EMULATOR=true"}},
		{"AZURE_ENDPOINT", "a0", "abfs://b/x", []string{
			account, "AZURE_ENDPOINT=http://a", "AZURE_STORAGE_ENDPOINT=http://b",
		}},
		{"onelake.dfs.fabric.microsoft.com", "a0", "abfss://w@onelake.dfs.fabric.microsoft.com/x", []string{account}},
		{"GOOGLE_BASE_URL", "a0", "gs://b/x", []string{"GOOGLE_BASE_URL=storage"}},
		{"GOOGLE_SERVICE_ACCOUNT", "a0", "gs://b/x", []string{"GOOGLE_SERVICE_ACCOUNT=/no/such/file"}},
	} {
		cmd := command(home, "run", "--secret", "V", "--", filepath.Join(dir, c.program), "--outputs-path", c.out)
		cmd.Env = append(cmd.Env, c.env...)
		b, _ := cmd.CombinedOutput() // the exit code is compared
		assert.Equal(t, 125, cmd.ProcessState.ExitCode(), "%s", b)
		for _, want := range []string{"--storage: ", "--storage off", c.named} {
			assert.Contains(t, string(b), want)
		}
		assert.NotContains(t, string(b), "started")
	}
	// The allowed twin: it starts, and ends as one that wrote nothing.
	cmd := command(home, "run", "--secret", "V", "--", filepath.Join(dir, "a0"), "--outputs-path", "gs://b/x")
	b, _ := cmd.CombinedOutput() // the exit code is compared
	require.Equal(t, 125, cmd.ProcessState.ExitCode())
	require.Contains(t, string(b), "started")
	require.Contains(t, string(b), "neither outputs.pb nor error.pb has come through the guard")
}
