package task_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"inject/injector/task"
	"inject/internal/annotation"
	"inject/resolver/idl/flyteidl2/core"
	"inject/resolver/secret"
)

// podInfo writes a downward-API volume as kubelet lays it out, with its files behind ..data.
func podInfo(t *testing.T, files map[string]map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "..2026"), 0o755))
	require.NoError(t, os.Symlink("..2026", filepath.Join(dir, "..data")))
	for name, pairs := range files {
		var b strings.Builder
		for k, v := range pairs {
			fmt.Fprintf(&b, "%v=%q\n", k, v)
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, "..2026", name), []byte(b.String()), 0o644))
		require.NoError(t, os.Symlink("..data/"+name, filepath.Join(dir, name)))
	}
	return dir
}

var flyteLabels = map[string]string{
	"organization": "flyte", "project": "flytesnacks", "domain": "development",
	"inject-flyte-secrets": "true", "run": "r1", "task-name": "t\"1",
}

func TestPodInfo(t *testing.T) {
	long := strings.Repeat("x", 1000)
	// s10 comes after s9, and no other annotation is read, even if its name is similar.
	pod := map[string]string{
		"kubectl.kubernetes.io/last-applied-configuration": `{"flyte.secrets/s0":"` + long + "\"}\n",
		"kubernetes.io/config.source":                      "api", "flyte.org/secrets": "x", "xflyte.secrets/s0": "?",
	}
	var want []secret.Declaration
	for i := range 12 {
		d := secret.Declaration{Key: fmt.Sprintf("KEY_%d", i), Mount: secret.EnvVar, EnvVar: fmt.Sprintf("V%d", i)}
		pod[fmt.Sprintf("flyte.secrets/s%d", i)] = annotation.Encode(d)
		want = append(want, d)
	}
	// A declaration that comes twice, as when a task and its environment ask for it.
	pod["flyte.secrets/s12"] = pod["flyte.secrets/s3"]
	dir := podInfo(t, map[string]map[string]string{"labels": flyteLabels, "annotations": pod})
	got, warnings, err := task.Load(task.Sources{PodInfo: dir})
	require.NoError(t, err)
	require.Empty(t, warnings)
	require.Equal(t, task.Task{
		Source: "pod info " + dir, Org: "flyte", Project: "flytesnacks", Domain: "development", Declared: want,
	}, got)

	// Flags come first, without a warning; if two other sources disagree, a warning names both.
	got, warnings, err = task.Load(task.Sources{
		PodInfo: dir, Secrets: []string{"OTHER"}, Org: "acme",
		Flyte: task.Flyte{Project: "another", Domain: "development"},
	})
	require.NoError(t, err)
	require.Equal(t, "acme flytesnacks development", got.Org+" "+got.Project+" "+got.Domain)
	require.Len(t, got.Declared, 1)
	require.Len(t, warnings, 2)
	require.Contains(t, warnings[0], "flags is used, pod info "+dir+" is not")
	require.Contains(t, warnings[1],
		`the task's project is said to be "flytesnacks" by pod info `+dir+`, which is used, and "another"`)

	// A pod without secrets needs no labels.
	dir = podInfo(t, map[string]map[string]string{"annotations": {"a": "b"}})
	got, _, err = task.Load(task.Sources{PodInfo: dir, Flyte: task.Flyte{Project: "p", Domain: "d"}})
	require.NoError(t, err)
	require.Equal(t, task.Task{Source: "pod info " + dir, Project: "p", Domain: "d"}, got)
	got, _, err = task.Load(task.Sources{Flyte: task.Flyte{Project: "p", Domain: "d"}})
	require.NoError(t, err)
	require.Equal(t, task.Task{Source: task.Nowhere, Project: "p", Domain: "d"}, got)
}

func TestBadPodInfo(t *testing.T) {
	good := annotation.Encode(secret.Declaration{Key: "MY_SECRET_KEY", Mount: secret.EnvVar})
	other := annotation.Encode(secret.Declaration{Key: "db-config"})
	long := func(letter, key string) string {
		return annotation.Encode(secret.Declaration{Group: strings.Repeat(letter, 100<<10), Key: key})
	}
	each(t, map[string]map[string]string{
		"s1 is missing; declarations after it: 2":             {"s0": good, "s2": good, "s3": other},
		"flyte.secrets/s0 is missing":                         {"s1": good},
		"\"flyte.secrets/s01\" has no number":                 {"s0": good, "s01": good},
		"\"flyte.secrets/s-1\" has no number":                 {"s-1": good},
		"\"flyte.secrets/sx\" has no number":                  {"sx": good},
		"flyte.secrets/s1: invalid: it is not Flyte's base32": {"s0": good, "s1": "!hunter2"},
		"more than Kubernetes accepts in annotations":         {"s0": long("g", "k"), "s1": long("h", "l")},
	}, func(t *testing.T, want string, pod map[string]string) {
		all := map[string]string{}
		for name, text := range pod {
			all["flyte.secrets/"+name] = text
		}
		dir := podInfo(t, map[string]map[string]string{"labels": flyteLabels, "annotations": all})
		_, _, err := task.Load(task.Sources{PodInfo: dir})
		require.ErrorIs(t, err, secret.ErrInvalid)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "hunter2")
	})
	write := func(text string) string {
		dir := podInfo(t, map[string]map[string]string{"labels": flyteLabels})
		require.NoError(t, os.WriteFile(filepath.Join(dir, "annotations"), []byte(text), 0o600))
		return dir
	}
	each(t, map[string]string{
		"flyte.secrets/s0=\"" + good + "\"\nflyte.secrets/s0=\"" + good + "\"\n": "\"flyte.secrets/s0\" is given twice",
		"a=\"1\"\nhunter2\n":            "annotations:2 is not NAME=\"VALUE\"",
		"a=`1`\n":                       "annotations:1 is not",
		"a=\"1":                         "annotations:1 is not",
		strings.Repeat("a=\"\"\n", 1e6): "is longer than",
	}, func(t *testing.T, text, want string) {
		_, _, err := task.Load(task.Sources{PodInfo: write(text)})
		require.ErrorIs(t, err, secret.ErrInvalid)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "hunter2")
	})
	// An annotation that is ignored may come twice.
	_, _, err := task.Load(task.Sources{PodInfo: write("a=\"1\"\na=\"2\"\nflyte.secrets/s0=\"" + good + "\"\n")})
	require.NoError(t, err)

	// If labels are missing, secrets are not looked up at a wider scope: it is an error.
	dir := podInfo(t, map[string]map[string]string{"annotations": {"flyte.secrets/s0": good}})
	_, _, err = task.Load(task.Sources{PodInfo: dir, Flyte: task.Flyte{Project: "p"}})
	require.ErrorContains(t, err, "declares secrets, and has no labels project and domain")
	for _, s := range []task.Sources{
		{PodInfo: dir, Project: "p", Domain: "d"},
		{PodInfo: dir, Flyte: task.Flyte{Project: "p", Domain: "d"}},
	} {
		got, _, err := task.Load(s)
		require.NoError(t, err)
		require.Equal(t, "p d", got.Project+" "+got.Domain)
	}
	_, _, err = task.Load(task.Sources{PodInfo: t.TempDir()})
	require.ErrorContains(t, err, "holds neither labels nor annotations")
	_, _, err = task.Load(task.Sources{PodInfo: filepath.Join(t.TempDir(), "none")})
	require.ErrorIs(t, err, secret.ErrInvalid)
}

// template returns a TaskTemplate with n secrets, also in binary, with fields as a real one has
// them that our messages leave out, and the declared list.
func template(t *testing.T, n int) (*core.TaskTemplate, []byte, []secret.Declaration) {
	t.Helper()
	m := &core.TaskTemplate{
		Id: &core.Identifier{
			ResourceType: core.ResourceType_TASK, Project: "p", Domain: "d", Name: "env.t1", Version: "v", Org: "local",
		},
		Type: "python", TaskTypeVersion: 1, SecurityContext: &core.SecurityContext{RunAs: &core.Identity{}},
	}
	var want []secret.Declaration
	for i := range n {
		d := secret.Declaration{Key: fmt.Sprintf("KEY_%d", i), Mount: secret.EnvVar, EnvVar: fmt.Sprintf("V%d", i)}
		if i%3 == 2 {
			d.Mount, d.EnvVar = secret.File, ""
		}
		want = append(want, d)
		m.SecurityContext.Secrets = append(m.SecurityContext.Secrets, &core.Secret{
			Key: d.Key, MountRequirement: core.Secret_MountType(d.Mount), EnvVar: d.EnvVar,
		})
	}
	b, err := proto.Marshal(m)
	require.NoError(t, err)
	for _, number := range []protowire.Number{3, 4, 6} { // metadata, interface, container
		b = protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), []byte("\x0a\x03abc"))
	}
	return m, b, want
}

func load(t *testing.T, b []byte) (task.Task, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "task")
	require.NoError(t, os.WriteFile(path, b, 0o600))
	got, _, err := task.Load(task.Sources{File: path})
	return got, err
}

func TestTemplate(t *testing.T) {
	m, binary, want := template(t, 5)
	jsonOf := func(m proto.Message, o protojson.MarshalOptions) []byte {
		b, err := o.Marshal(m)
		require.NoError(t, err)
		return b
	}
	// more adds fields that a real TaskTemplate has.
	more := func(b []byte) []byte {
		return append([]byte(`{"metadata":{"runtime":{"type":"FLYTE_SDK"}},"container":{"args":["a0"]},`), b[1:]...)
	}
	security, err := proto.Marshal(m.GetSecurityContext())
	require.NoError(t, err)
	each(t, map[string][]byte{
		"binary": binary, "JSON": more(jsonOf(m, protojson.MarshalOptions{})),
		"JSON, .proto's names": more(jsonOf(m, protojson.MarshalOptions{UseProtoNames: true, Indent: "\t"})),
		"JSON, numbers":        more(jsonOf(m, protojson.MarshalOptions{UseEnumNumbers: true, EmitUnpopulated: true})),
	}, func(t *testing.T, _ string, b []byte) {
		got, err := load(t, b)
		require.NoError(t, err)
		require.Equal(t, task.Task{Source: got.Source, Name: "env.t1", Project: "p", Domain: "d", Declared: want}, got)
	})
	each(t, map[string][]byte{
		"security, binary": security, "security, JSON": jsonOf(m.GetSecurityContext(), protojson.MarshalOptions{}),
		"security, .proto's names": jsonOf(m.GetSecurityContext(), protojson.MarshalOptions{UseProtoNames: true}),
	}, func(t *testing.T, _ string, b []byte) {
		got, err := load(t, b)
		require.NoError(t, err)
		require.Equal(t, task.Task{Source: got.Source, Declared: want}, got)
	})

	m.SecurityContext.Secrets = nil
	binary, err = proto.Marshal(m)
	require.NoError(t, err)
	for _, b := range [][]byte{
		binary, jsonOf(m, protojson.MarshalOptions{}), []byte(`{"runAs":{"k8sServiceAccount":"sa"}}`),
	} {
		got, err := load(t, b)
		require.NoError(t, err)
		require.Empty(t, got.Declared)
	}

	// A TaskEnvironment in JSON is not taken for a message.
	got, err := load(t, []byte(`{"secrets": [{"key": "K", "group": "g"}, "L"], "project": "q"}`))
	require.NoError(t, err)
	require.Equal(t, task.Task{Source: got.Source, Project: "q", Declared: []secret.Declaration{
		{Group: "g", Key: "K", Mount: secret.EnvVar}, {Key: "L", Mount: secret.EnvVar},
	}}, got)
}

func TestBadTemplate(t *testing.T) {
	_, binary, _ := template(t, 3)
	// A message that is cut short gives an error or the whole list, never a shorter list.
	cut := 0
	for n := 1; n < len(binary); n++ {
		got, err := load(t, binary[:n])
		if err != nil {
			require.ErrorIs(t, err, secret.ErrInvalid)
			cut++
			continue
		}
		require.Contains(t, []int{0, 3}, len(got.Declared), "%d bytes", n)
	}
	require.Greater(t, cut, len(binary)*3/4)

	marshal := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		require.NoError(t, err)
		return b
	}
	outer := func(number protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), b)
	}
	unknown := append(marshal(&core.Secret{Key: "K"}), outer(9, []byte("hunter2"))...)
	// with is a template whose SecurityContext is b.
	with := func(b []byte) []byte { return append(marshal(&core.TaskTemplate{Type: "x"}), outer(8, b)...) }
	each(t, map[string][][]byte{
		"not a TaskTemplate or a SecurityContext with secrets": {
			outer(1, binary), // a TaskSpec
			marshal(&core.LiteralMap{Literals: map[string]*core.Literal{"o": {Hash: "h"}}}),
			marshal(&core.ErrorDocument{Error: &core.ContainerError{Code: "c", Message: "hunter2"}}),
			marshal(&core.Identifier{ResourceType: 1, Project: "p", Name: "n"}),
			outer(40, []byte{1, 2}),
		},
		"is cut short": {{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f}, {0, 1, 2, 3}},
		"it has an unknown field": {
			outer(2, unknown), with(outer(9, []byte("hunter2"))), with(outer(2, unknown)),
			[]byte(`{"securityContext":{"secrets":[{"key":"K","hunter2":1}]}}`),
		},
		"neither text nor a protobuf": {[]byte("\xff\xfehunter2")},
		"TaskTemplate: unknown field": {
			[]byte(`{"type":"x","security__context":{"secrets":[]}}`), []byte(`{"type":"python","securityContxt":{}}`),
		},
		"SecurityContext: unknown field": {[]byte(`{"runAs":{},"secret":[]}`)},
		"id is not an Identifier": {
			[]byte(`{"id":"hunter2"}`), []byte(`{"id":{"projekt":"p","name":"n"}}`),
			[]byte(`{"id":{"project":"p","project":"q"}}`),
		},
		"is given twice": {
			[]byte(`{"type":"x","securityContext":{"secrets":[{"key":"K"},{"key":"L"}]},` +
				`"security_context":{"secrets":[{"key":"K"}]}}`),
			[]byte(`{"type":"x","securityContext":{"secrets":[{"key":"K"},{"key":"L"}],"secrets":[{"key":"K"}]}}`),
			[]byte(`{"secrets":[{"key":"K","envVar":"X"}],"secrets":[],"runAs":{}}`),
			[]byte(`{"id":{"project":"p","name":"n"},"id":{"name":"n"}}`),
		},
		"securityContext is not an object":        {[]byte(`{"securityContext":[]}`)},
		"secrets is not a list":                   {[]byte(`{"type":"x","securityContext":{"secrets":{}}}`)},
		"secrets[1]: invalid: it is not a Secret": {[]byte(`{"securityContext":{"secrets":[{"key":"K"},{"key":1}]}}`)},
		"secrets[0]: invalid: the key": {
			[]byte(`{"secrets":[{"key":"a b","envVar":"X"}]}`), outer(2, marshal(&core.Secret{Key: "../x"})),
		},
	}, func(t *testing.T, want string, all [][]byte) {
		for _, b := range all {
			_, err := load(t, b)
			require.ErrorIs(t, err, secret.ErrInvalid, "%q", b)
			require.ErrorContains(t, err, want)
			require.NotContains(t, err.Error(), "hunter2")
		}
	})
}

// Ten thousand declarations are read. Of ten thousand mistakes, twenty are reported.
func TestMany(t *testing.T) {
	_, binary, want := template(t, 10_000)
	got, err := load(t, binary)
	require.NoError(t, err)
	require.Equal(t, want, got.Declared)
	list := make([]map[string]any, 10_000)
	for i := range list {
		list[i] = map[string]any{"key": "a b", "envVar": "X"}
	}
	b, err := json.Marshal(map[string]any{"secrets": list})
	require.NoError(t, err)
	_, err = load(t, b)
	require.ErrorContains(t, err, "there are 9980 more mistakes")
}

// Every declaration that is accepted, from any file, can be placed.
func FuzzFile(f *testing.F) {
	m := &core.SecurityContext{Secrets: []*core.Secret{{Key: "K", MountRequirement: 2}}}
	b, err := proto.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(protojson.Format(m)))
	f.Add([]byte(`{"id":{"name":"n"},"type":"x","security_context":{"secrets":[{"key":"K"}]}}`))
	f.Add(append([]byte{0x42, byte(len(b))}, b...))
	path := filepath.Join(f.TempDir(), strconv.Itoa(rand.Int()))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, _, err := task.Load(task.Sources{File: path})
		if err != nil {
			return
		}
		for _, d := range got.Declared {
			if err := d.Validate(); err != nil {
				t.Fatalf("accepted %+v of %s: %v", d, base64.StdEncoding.EncodeToString(b), err)
			}
		}
	})
}
