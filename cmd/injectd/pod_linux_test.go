package main_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// podStage is a server over TLS, which knows a pod by a token of its issuer, and the folder of that pod.
type podStage struct {
	t      *testing.T
	dir    string
	signer jose.Signer
	server *process
	value  []byte
	volume int // how many times the folder was written
}

const podRules = `version: 1
rules:
  - name: pods
    identity: {issuer: "https://cluster.example.org", claim.scope: "{project}"}
    resolve: {project: "{project}", domain: development}
  - name: platform
    identity: {spiffe: "spiffe://example.org/platform"}
    manage: [{project: "*", domain: "*"}]
`

// Annotations that declare the secrets K and NONE for files: "inject explain -o annotations" makes them.
const (
	declaresK    = `flyte.secrets/s0="nnsxsoraejfsectnn41w34c6ojsxc4ljojsw1zlooq4carsjjrcqu"`
	declaresNone = `flyte.secrets/s0="nnsxsoraejhe5tsfeifg122vnz1f53tfof1ws3tfnvsw34b1ebcu3vs6kzavecq"`
)

func newPodStage(t *testing.T) *podStage {
	t.Helper()
	harness.NeedRoot(t)
	harness.Need(t, "unshare", "mount", "setpriv")
	s := &podStage{t: t, dir: t.TempDir(), value: append(awkward(), rand.Text()...)}
	for d := s.dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		require.NoError(t, os.Chmod(d, 0o755)) // for the user that owns nothing
	}
	require.NoError(t, makePKI(t, s.path("pki")))
	require.NoError(t, os.Chmod(s.path("pki"), 0o755))
	s.signer = must(makeSigner(s.path("pki")))
	s.write("policy.yaml", podRules)
	s.write("value", string(s.value))
	s.server = must(startServer(s.dir, os.Environ(), "--store", "file://"+s.path("secrets.db"),
		"--key-file", s.path("key.txt"), "--cert-file", "pki/server.pem", "--cert-key-file", "pki/server.key",
		"--client-ca-file", "pki/ca.pem", "--policy", "policy.yaml", "--audit-log", "audit.log",
		"--jwt", "issuer=https://cluster.example.org,audience=inject,keys="+s.path("pki/jwks.json")))
	t.Cleanup(func() { _ = s.server.cmd.Process.Kill() })
	for _, project := range []string{"p", "other"} {
		out, err := s.inject("", nil, "create", "secret", "K", "--from-file", s.path("value"), "-p", project,
			"-d", "development", "--store", s.server.store, "--ca-file", s.path("pki/ca.pem"),
			"--cert-file", s.path("pki/platform.pem"), "--cert-key-file", s.path("pki/platform.key"))
		require.NoError(t, err, out)
	}
	return s
}

// in returns s for a subtest.
func (s *podStage) in(t *testing.T) *podStage {
	t.Helper()
	sub := *s
	sub.t = t
	return &sub
}

func (s *podStage) path(name string) string { return filepath.Join(s.dir, name) }

func (s *podStage) write(name, text string) string {
	s.t.Helper()
	require.NoError(s.t, os.WriteFile(s.path(name), []byte(text), 0o600))
	return s.path(name)
}

// token returns a token for a pod of a project that expires after a time.
func (s *podStage) token(project string, expires time.Duration) string {
	s.t.Helper()
	now := time.Now()
	token, err := jwt.Signed(s.signer).Claims(map[string]any{
		"iss": "https://cluster.example.org", "sub": "system:serviceaccount:flyte:default", "aud": "inject",
		"scope": project, "iat": now.Add(-time.Hour).Unix(), "exp": now.Add(expires).Unix(),
	}).Serialize()
	require.NoError(s.t, err)
	return token
}

// ca returns the authorities of the server.
func (s *podStage) ca() string { return string(must(os.ReadFile(s.path("pki/ca.pem")))) }

// pod is what kubelet writes for a pod of project p that declares the secret K.
func (s *podStage) pod(changes ...map[string]string) map[string]string {
	files := map[string]string{
		"token": s.token("p", time.Hour), "ca.crt": s.ca(),
		"labels":      "domain=\"development\"\ninject-flyte-secrets=\"true\"\norganization=\"flyte\"\nproject=\"p\"",
		"annotations": declaresK,
	}
	for _, c := range changes {
		maps.Copy(files, c)
	}
	maps.DeleteFunc(files, func(_, text string) bool { return text == "absent" })
	return files
}

// folder writes files as kubelet writes a projected volume (pkg/volume/util AtomicWriter), in place of
// those that it wrote before, and returns the volume.
func (s *podStage) folder(name string, files map[string]string) string {
	s.t.Helper()
	s.volume++
	dir, version := s.path(name), fmt.Sprintf("..2026_11_29_%d", s.volume)
	require.NoError(s.t, os.MkdirAll(filepath.Join(dir, version), 0o755))
	for _, f := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(dir, version, f)
		require.NoError(s.t, os.WriteFile(path, []byte(files[f]), 0o644))
		_ = os.Symlink("..data/"+f, filepath.Join(dir, f))
	}
	require.NoError(s.t, os.Symlink(version, filepath.Join(dir, "..tmp")))
	require.NoError(s.t, os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")))
	return dir
}

// inject runs the real inject, in a pod with a volume at /run/inject, or in none if that is "".
func (s *podStage) inject(volume string, env []string, args ...string) (string, error) {
	s.t.Helper()
	script := `mount -t tmpfs none /run`
	if volume != "" {
		script += ` && mkdir /run/inject && mount --bind "$0" /run/inject && mount -o remount,bind,ro /run/inject`
	}
	cmd := exec.Command("unshare", append([]string{
		"--mount", "sh", "-c", script + ` && exec "$@"`, volume, filepath.Join(binaries, "inject"),
	}, args...)...)
	cmd.Dir = s.dir
	cmd.Env = append([]string{"HOME=" + s.path("home"), "PATH=" + os.Getenv("PATH")}, env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// gets requires that a task in the pod gets its secret, byte for byte.
func (s *podStage) gets(volume string, env []string, flags ...string) {
	s.t.Helper()
	got := s.path("got")
	_ = os.Remove(got)
	args := slices.Concat([]string{"run"}, flags, []string{"--", "cp", "-L", filesDir + "/K", got})
	out, err := s.inject(volume, append(env, "INJECT_FILES_DIR="+filesDir), args...)
	require.NoError(s.t, err, out)
	require.True(s.t, bytes.Equal(s.value, must(os.ReadFile(got))), "%s", out)
}

const filesDir = "/run/files"

// fails requires that inject does not start the task and says these texts.
func (s *podStage) fails(volume string, env []string, flags []string, says ...string) {
	s.t.Helper()
	out, err := s.inject(volume, env, slices.Concat([]string{"run"}, flags,
		[]string{"--", "touch", s.path("started")})...)
	require.Error(s.t, err)
	require.NoFileExists(s.t, s.path("started"))
	for _, text := range says {
		require.Contains(s.t, out, text)
	}
	require.NotContains(s.t, out, "eyJ", "no token is quoted")
}

// In a pod inject finds the token, the authorities, the labels and the annotations in one folder, and
// flags and variables win.
func TestPodFolder(t *testing.T) {
	s := newPodStage(t)
	whole := s.folder("whole", s.pod())
	env := []string{"INJECT_STORE=" + s.server.store}

	t.Run("a variable gives the address", func(t *testing.T) { s.in(t).gets(whole, env) })
	t.Run("a flag gives the address", func(t *testing.T) { s.in(t).gets(whole, nil, "--store", s.server.store) })
	t.Run("without the folder there is nothing", func(t *testing.T) {
		s := s.in(t)
		out, err := s.inject("", append(env, "INJECT_CA_FILE="+s.path("pki/ca.pem")), "explain", "--secret", "K")
		require.Error(t, err)
		require.Contains(t, out, "no credentials")
	})
	t.Run("whoami names the token", func(t *testing.T) {
		s := s.in(t)
		out, err := s.inject(whole, env, "whoami")
		require.NoError(t, err, out)
		require.Contains(t, out, "token  /run/inject/token, of this pod\n")
		require.Contains(t, out, "resolve as a task of project p, domain development")
	})
	t.Run("explain names the folder", func(t *testing.T) {
		s := s.in(t)
		out, err := s.inject(whole, env, "explain")
		require.NoError(t, err, out)
		require.Contains(t, out, "declared in: pod info /run/inject\n")
	})

	t.Run("renewed", func(t *testing.T) {
		s := s.in(t)
		files := s.pod(map[string]string{"token": s.token("p", -time.Minute*10)})
		volume := s.folder("renewed", files)
		s.fails(volume, env, nil, "the credentials have expired")
		s.folder("renewed", s.pod())
		s.gets(volume, env)
	})

	t.Run("flags and variables win", func(t *testing.T) {
		s := s.in(t)
		other := s.write("other.token", s.token("other", time.Hour))
		for _, given := range [][]string{{"--token-file", other}, {"INJECT_TOKEN_FILE=" + other}} {
			flags, vars := given, env
			if len(given) == 1 {
				flags, vars = nil, append(given, env...)
			}
			s.fails(whole, vars, flags, "and of no other scope")
			s.gets(whole, vars, append(flags, "--project", "other")...)
		}
		s.fails(whole, append(env, "INJECT_TOKEN="+s.token("other", time.Hour)), nil, "and of no other scope")
		s.fails(whole, env, []string{
			"--cert-file", s.path("pki/task.pem"), "--cert-key-file", s.path("pki/task.key"),
		}, "denied")

		require.NoError(t, makePKI(t, s.path("pki2")))
		wrong := s.path("pki2/ca.pem")
		s.fails(whole, env, []string{"--ca-file", wrong}, "none of the authorities in "+wrong)
		s.fails(whole, append(env, "INJECT_CA_FILE="+wrong), nil, "none of the authorities in "+wrong)
		bad := s.folder("bad-ca", s.pod(map[string]string{"ca.crt": string(must(os.ReadFile(wrong)))}))
		s.fails(bad, env, nil, "none of the authorities in /run/inject/ca.crt")
		s.gets(bad, env, "--ca-file", s.path("pki/ca.pem"))

		info := s.folder("info", map[string]string{
			"labels": `project="p"` + "\n" + `domain="development"`, "annotations": declaresNone,
		})
		s.fails(whole, env, []string{"--pod-info", info}, "NONE: secret not found")
		s.fails(whole, append(env, "INJECT_POD_INFO="+info), nil, "NONE: secret not found")
	})

	t.Run("pod info", func(t *testing.T) {
		s := s.in(t)
		// /run/inject is looked at before /etc/podinfo, and only if it has pod info.
		podinfo := s.folder("podinfo", s.pod(map[string]string{"annotations": declaresNone}))
		cmd := func(volume string) string {
			script := `mount -t tmpfs none /etc && mkdir /etc/podinfo && mount --bind "$1" /etc/podinfo &&
				mount -t tmpfs none /run && mkdir /run/inject && mount --bind "$0" /run/inject && exec "$2" explain`
			c := exec.Command("unshare", "--mount", "sh", "-c", script, volume, podinfo,
				filepath.Join(binaries, "inject"))
			c.Env = append([]string{"HOME=" + s.path("home"), "PATH=" + os.Getenv("PATH")}, env...)
			out, _ := c.CombinedOutput()
			return string(out)
		}
		absent := map[string]string{"labels": "absent", "annotations": "absent"}
		require.Contains(t, cmd(s.tight("tight", s.pod())), "declared in: pod info /run/inject\n")
		require.Contains(t, cmd(s.tight("identity", s.pod(absent))), "declared in: pod info /etc/podinfo\n")
	})

	t.Run("half filled", func(t *testing.T) {
		s := s.in(t)
		for name, c := range map[string]struct {
			files map[string]string
			says  []string
		}{
			"no authorities": {
				map[string]string{"ca.crt": "absent"}, []string{"/run/inject/ca.crt is not there", "--ca-file"},
			},
			"no token": {
				map[string]string{"token": "absent"}, []string{"/run/inject/token is not there", "--token-file"},
			},
			"empty authorities": {map[string]string{"ca.crt": ""}, []string{"/run/inject/ca.crt holds no certificate"}},
			"empty token":       {map[string]string{"token": ""}, []string{"the token in /run/inject/token is empty"}},
			"both empty": {
				map[string]string{"token": "", "ca.crt": ""},
				[]string{"/run/inject/ca.crt holds no certificate", "the token in /run/inject/token is empty"},
			},
		} {
			t.Run(name, func(t *testing.T) {
				s := s.in(t)
				volume := s.folder(strings.ReplaceAll(name, " ", "-"), s.pod(c.files))
				hint := "hint: kubelet fills /run/inject: token is a serviceAccountToken for the audience inject"
				s.fails(volume, env, nil, append(c.says, hint, "the ConfigMap inject-ca of the pod's namespace")...)
				s.gets(volume, env, "--ca-file", s.path("pki/ca.pem"),
					"--token-file", s.write("own.token", s.token("p", time.Hour)))
			})
		}
		t.Run("unreadable token", func(t *testing.T) {
			s := s.in(t)
			require.NoError(t, os.Chmod(filepath.Join(s.folder("closed", s.pod()), "token"), 0o600))
			cmd := exec.Command("unshare", "--mount", "sh", "-c", `mount -t tmpfs none /run && mkdir /run/inject &&
				mount --bind "$0" /run/inject && exec setpriv --reuid=65534 --clear-groups "$@"`,
				s.path("closed"), filepath.Join(binaries, "inject"), "run", "--", "true")
			cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
			out, err := cmd.CombinedOutput()
			require.Error(t, err)
			require.Contains(t, string(out), "/run/inject/token: permission denied")
			require.Contains(t, string(out), "which the user of this container must be able to read")
		})
		// An empty folder, and one with other files, are no identity.
		t.Run("nothing of ours", func(t *testing.T) {
			s := s.in(t)
			out, err := s.inject(s.folder("nothing", map[string]string{"sock": ""}),
				append(env, "INJECT_CA_FILE="+s.path("pki/ca.pem")), "run", "--secret", "K", "--", "true")
			require.Error(t, err)
			require.Contains(t, out, "no credentials", err)
			require.NotContains(t, out, "/run/inject")
		})
	})

	// The token is for the server of the environment: a person who controls the command line alone
	// cannot have it sent to a server of their own.
	t.Run("another server", func(t *testing.T) {
		s := s.in(t)
		other := newPodStage(t)
		flags := []string{"--store", other.server.store, "--ca-file", other.path("pki/ca.pem")}
		s.fails(whole, env, flags, "the token in /run/inject/token goes only to the server in INJECT_STORE",
			"hint: leave --store out")
		require.NotContains(t, string(must(os.ReadFile(other.path("audit.log")))), `"verb":"resolve"`)
		other.gets(whole, env, append(flags, "--token-file", other.write("t", other.token("p", time.Hour)))...)
		// Its authorities are not looked for in the folder of the pod either.
		s.fails(whole, env, []string{"--store", other.server.store, "--token-file", other.path("t")},
			"name the authority that signs the server's certificate with --ca-file FILE")
		// A store file and a server without TLS have no use for it.
		out, err := s.inject(whole, nil, "explain")
		require.Error(t, err)
		require.Contains(t, out, "there is no store at")
	})
}

// tight is folder with the token's file open to its owner alone, which is what inject requires of a file
// on a volume that can be written.
func (s *podStage) tight(name string, files map[string]string) string {
	s.t.Helper()
	dir := s.folder(name, files)
	require.NoError(s.t, os.Chmod(filepath.Join(dir, "token"), 0o600))
	return dir
}
