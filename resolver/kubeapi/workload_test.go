package kubeapi_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"inject/resolver/kubeapi"
)

// What each kind with a template says of its pods is read, whatever else is in it.
func TestWorkloads(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	c := connect(t, kubeapi.Options{Kubeconfig: k.Kubeconfig()})
	type object = map[string]any
	template := func(policy string) object {
		return object{
			"metadata": object{
				"labels": object{"a": "b", "project": "p"}, "annotations": object{"flyte.secrets/s0": "x"},
			},
			"spec": object{"restartPolicy": policy, "containers": []object{{"name": "c", "image": "i"}}},
		}
	}
	always, never := template("Always"), template("Never")
	selector := object{"matchLabels": object{"a": "b"}}
	spec := func(fields object) object { return object{"spec": fields} }
	job := object{"template": never}
	bodies := map[string]object{
		"daemonsets.apps":        spec(object{"selector": selector, "template": always}),
		"deployments.apps":       spec(object{"selector": selector, "template": always}),
		"replicasets.apps":       spec(object{"selector": selector, "template": always}),
		"statefulsets.apps":      spec(object{"selector": selector, "template": always, "serviceName": "s"}),
		"cronjobs.batch":         spec(object{"schedule": "* * * * *", "jobTemplate": object{"spec": job}}),
		"jobs.batch":             spec(job),
		"podtemplates":           {"template": always},
		"replicationcontrollers": spec(object{"selector": object{"a": "b"}, "template": always}),
	}
	paths := map[string]string{"apps": "/apis/apps/v1", "batch": "/apis/batch/v1", "": "/api/v1"}
	require.Len(t, kubeapi.Workloads, len(bodies))
	for _, kind := range kubeapi.Workloads {
		name, group := kind.String(), ""
		for g := range paths {
			if cut := len(name) - len(g) - 1; g != "" && cut > 0 && name[cut:] == "."+g {
				name, group = name[:cut], g
			}
		}
		body := bodies[kind.String()]
		require.NotNil(t, body, kind.String())
		body["metadata"] = object{"name": "one"}
		k.Call(t, http.MethodPost, paths[group]+"/namespaces/"+ns+"/"+name, body)
		list, err := kind.List(t.Context(), c, ns, metav1.ListOptions{})
		require.NoError(t, err, kind.String())
		require.Len(t, list.Items, 1, kind.String())
		one := &list.Items[0]
		require.Equal(t, "one", one.Name)
		require.False(t, one.CreationTimestamp.IsZero())
		made := one.Pods()
		require.Equal(t, "p", made.Labels["project"], kind.String())
		require.Equal(t, "x", made.Annotations["flyte.secrets/s0"], kind.String())
		again, ok := one.DeepCopyObject().(*kubeapi.Workload)
		require.True(t, ok)
		before, err := json.Marshal(one)
		require.NoError(t, err)
		after, err := json.Marshal(again)
		require.NoError(t, err)
		require.JSONEq(t, string(before), string(after))
	}
	var none kubeapi.Workload
	made := none.Pods()
	require.Empty(t, made.Labels)
}

// The right that is missing is named only for what the authorizer refused.
func TestMissing(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	c := connect(t, kubeapi.Options{Kubeconfig: k.User(t, ns, nil)})
	_, err := kubeapi.Pods.List(t.Context(), c, ns, metav1.ListOptions{})
	require.Equal(t, "list pods in namespace "+ns, kubeapi.Missing(err))
	admin := connect(t, kubeapi.Options{Kubeconfig: k.Kubeconfig()})
	_, err = kubeapi.Pods.Get(t.Context(), admin, ns, "none")
	require.Error(t, err)
	require.Empty(t, kubeapi.Missing(err))
	require.Empty(t, kubeapi.Missing(nil))
}
