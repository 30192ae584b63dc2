package kube_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"inject/internal/harness"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/kube"
	"inject/resolver/store/storetest"
)

var shared harness.SharedKubernetes

func TestMain(m *testing.M) {
	runChild() // this binary is also the child process whose memory is measured
	code := m.Run()
	shared.Stop()
	os.Exit(code)
}

// open opens a namespace as the administrator.
func open(t *testing.T, k *harness.Kubernetes, namespace string) *kube.Store {
	t.Helper()
	return openAs(t, k.Kubeconfig(), namespace)
}

func openAs(t *testing.T, kubeconfig, namespace string) *kube.Store {
	t.Helper()
	s, err := kube.Open(t.Context(), kube.Options{Kubeconfig: kubeconfig, Namespace: namespace})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func TestConformance(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, k, k.Namespace(t)) },
		storetest.OnlyLabels, storetest.OnlyDockerConfigs)
}

// object is a Secret as JSON or YAML has it.
type object struct {
	APIVersion string            `json:"apiVersion" yaml:"apiVersion"`
	Kind       string            `json:"kind" yaml:"kind"`
	Metadata   metadata          `json:"metadata" yaml:"metadata"`
	Type       string            `json:"type" yaml:"type"`
	Data       map[string]string `json:"data" yaml:"data"`
}

type metadata struct {
	Name              string            `json:"name" yaml:"name"`
	Labels            map[string]string `json:"labels" yaml:"labels"`
	Annotations       map[string]string `json:"annotations,omitempty" yaml:"annotations"`
	CreationTimestamp string            `json:"creationTimestamp,omitempty" yaml:"creationTimestamp"`
	ManagedFields     []any             `json:"managedFields,omitempty" yaml:"-"`
}

// flyteSecrets are the Secrets that Flyte 2.0.43's SecretService wrote, without what is of a cluster.
func flyteSecrets(t *testing.T) map[secret.Ref]object {
	t.Helper()
	f, err := os.Open("testdata/flyte-secrets.yaml")
	require.NoError(t, err)
	defer f.Close() //nolint:errcheck // read only
	all := map[secret.Ref]object{}
	for d := yaml.NewDecoder(f); ; {
		var o object
		if d.Decode(&o) != nil {
			break
		}
		for id := range o.Data {
			all[refOf(id)] = o
		}
	}
	require.Len(t, all, 8)
	return all
}

// refOf reads an id in another way than the store does.
func refOf(id string) secret.Ref {
	id = strings.TrimPrefix(id, "u__org__")
	org, id, _ := strings.Cut(id, "__domain__")
	domain, id, _ := strings.Cut(id, "__project__")
	project, key, _ := strings.Cut(id, "__key__")
	return secret.Ref{Scope: secret.Scope{Org: org, Domain: domain, Project: project}, Key: key}
}

func secrets(namespace string) string { return "/api/v1/namespaces/" + namespace + "/secrets" }

// objects returns the Secrets of a namespace by name.
func objects(t *testing.T, k *harness.Kubernetes, namespace string) map[string]object {
	t.Helper()
	var list struct{ Items []object }
	require.NoError(t, json.Unmarshal(k.Call(t, http.MethodGet, secrets(namespace), nil), &list))
	all := map[string]object{}
	for _, o := range list.Items {
		all[o.Metadata.Name] = o
	}
	return all
}

// The Secrets that Flyte wrote are read to the byte, and those that the store writes are equal to them
// in name, type, labels and data.
func TestFlyte(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	theirs, ours := k.Namespace(t), k.Namespace(t)
	a, b := open(t, k, theirs), open(t, k, ours)
	for ref, o := range flyteSecrets(t) {
		k.Call(t, http.MethodPost, secrets(theirs), o)
		v, info, err := a.Get(t.Context(), ref)
		require.NoError(t, err)
		var want []byte
		require.NoError(t, json.Unmarshal([]byte(`"`+o.Data[ref.ID()]+`"`), &want))
		require.Equal(t, want, v.Reveal())
		require.Equal(t, store.Regular, info.Type, "Flyte stores no type")
		require.False(t, info.Created.IsZero())
		if secret.ValidKey(ref.Key) != nil { // Flyte's odd.name_x
			require.ErrorIs(t, b.Create(t.Context(), ref, v, store.Regular), secret.ErrInvalid)
			continue
		}
		require.NoError(t, b.Create(t.Context(), ref, v, store.Regular))
	}
	flytes, own := objects(t, k, theirs), objects(t, k, ours)
	require.Len(t, own, len(flytes)-1)
	for name, o := range own {
		require.Equal(t, []string{"inject.flyte.org/type", "inject.flyte.org/updated"},
			slices.Sorted(maps.Keys(o.Metadata.Annotations)))
		o.Metadata.Annotations, o.Metadata.CreationTimestamp, o.Metadata.ManagedFields = nil, "", nil
		f := flytes[name]
		f.Metadata.CreationTimestamp, f.Metadata.ManagedFields = "", nil
		require.Equal(t, f, o)
	}
	var refs []secret.Ref
	for info, err := range store.All(t.Context(), a, store.Filter{}) {
		require.NoError(t, err)
		refs = append(refs, info.Ref)
	}
	require.ElementsMatch(t, slices.Collect(maps.Keys(flyteSecrets(t))), refs)
}
