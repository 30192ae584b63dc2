package kube_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/serve/kube"
)

// of returns the account of a pod with the pod's token, as the API server knows it.
func (w *world) of(pod object) *user {
	account := text(pod, "spec", "serviceAccountName")
	return &user{
		name: "system:serviceaccount:" + w.namespace + ":" + account,
		groups: []string{
			"system:serviceaccounts", "system:serviceaccounts:" + w.namespace,
		},
		extra: map[string]string{
			"authentication.kubernetes.io/pod-name": name(pod), "authentication.kubernetes.io/pod-uid": uid(pod),
		},
	}
}

// stamp is what inject-inherits writes; before 1.36 the maker writes it.
func stamp(parent object) func(object) {
	return annotate("inject.flyte.org/inherits", name(parent)+"/"+uid(parent))
}

// TestInherits has pods that the pod of a task makes, such as a driver of Spark its executors.
func TestInherits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, other := newScope(), newScope()
	w.grant(t, "system.serviceaccount."+w.namespace+".spark", []object{{
		"apiGroups": []string{""}, "resources": []string{"pods"}, "verbs": []string{"create"},
	}})
	child := func(parent object, edits ...func(object)) object {
		t.Helper()
		return w.pod(t, w.of(parent), append([]func(object){
			scoped(s), runsAs("spark"), stamp(parent), ownedBy(owner(parent)),
		}, edits...)...)
	}
	driver := w.task(t, s, []string{"A", "B"}, runsAs("spark"))
	w.served(t, w.token(t, driver), s, "A", "B")

	executor := child(driver, declaring("B"))
	id := w.served(t, w.token(t, executor), s, "B")
	maker := name(driver) + "/" + uid(driver)
	require.Equal(t, []string{maker}, id.Attribute("kubernetes.parent"))
	require.Equal(t, []string{name(executor)}, id.Attribute("kubernetes.pod"))
	w.served(t, w.token(t, child(driver)), s) // it declares nothing
	w.served(t, w.token(t, child(driver, declaring("A", "B"))), s, "A", "B")

	w.refused(t, kube.ReasonParentScope, w.token(t, child(driver, scoped(other), declaring("A"))))
	w.refused(t, kube.ReasonParentScope, w.token(t, child(driver, label("domain", "other"), declaring("A"))))
	w.refused(t, kube.ReasonParentScope, w.token(t, child(driver, declaring("A", "C"))))
	// Nor does it help to be owned by the TaskAction of another scope, by way of an object of an operator.
	foreign := w.taskAction(t, other, []string{"C"})
	cluster := w.do(t, nil, http.MethodPost, w.in(ray, "rayclusters"), object{
		"apiVersion": "ray.io/v1", "kind": "RayCluster",
		"metadata": object{"name": "foreign", "ownerReferences": []object{owner(foreign)}},
	})
	thief := newPod(scoped(other), declaring("C"), runsAs("spark"), stamp(driver), ownedBy(owner(cluster)))
	code, _ := w.send(t, w.of(driver), http.MethodPost, w.in(core1, "pods"), thief)
	require.Equal(t, http.StatusForbidden, code)

	// A pod, its child, its grandchild, and one more, each with no more than its parent.
	second := child(executor, declaring("B"))
	third := child(second, declaring("B"))
	w.served(t, w.token(t, second), s, "B")
	id = w.served(t, w.token(t, third), s, "B")
	require.Equal(t, []string{
		name(second) + "/" + uid(second), name(executor) + "/" + uid(executor), maker,
	}, id.Attribute("kubernetes.parent"))
	w.refused(t, kube.ReasonParentScope, w.token(t, child(second, declaring("A"))))
	w.refused(t, kube.ReasonDepth, w.token(t, child(third, declaring("B"))))

	// Without the policy both are made, and the server refuses them.
	_, policy := w.binding(t, "inject-claims")
	w.do(t, nil, http.MethodDelete, policy, nil)
	force := func(o object) string {
		t.Helper()
		var made object
		w.until(t, "the end of the policy", func() bool {
			code, answer := w.send(t, nil, http.MethodPost, w.in(core1, "pods"), o)
			made = answer
			return code == http.StatusCreated
		})
		return w.token(t, made)
	}
	w.refused(t, kube.ReasonParentScope, force(thief))
	for _, stamp := range []string{"x", "/x", name(second) + "/", name(second) + "/" + uid(third), "gone/x"} {
		w.refused(t, kube.ReasonParent,
			force(newPod(scoped(s), declaring("B"), annotate("inject.flyte.org/inherits", stamp))))
	}

	// What they have ends with the driver.
	path := w.in(core1, "pods", name(driver))
	token := w.token(t, third)
	w.do(t, nil, http.MethodDelete, path, nil)
	w.refused(t, kube.ReasonParent, token)
	w.do(t, nil, http.MethodDelete, path+"?gracePeriodSeconds=0", nil)
	w.refused(t, kube.ReasonParent, token)
}
