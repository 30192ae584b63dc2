package kube_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/serve/identity"
	"inject/resolver/serve/kube"
	"inject/resolver/serve/kube/evidence"
)

// binding returns the binding of a policy, and its path.
func (w *world) binding(t testing.TB, base string) (o object, path string) {
	t.Helper()
	for _, o := range w.bindings {
		if strings.HasPrefix(name(o), base+"-") {
			return o, home(o) + "/" + name(o)
		}
	}
	require.FailNow(t, "no binding", base)
	return nil, ""
}

// later waits until the second of an object's creation has passed, so that what is made now is younger.
func later(t testing.TB) {
	t.Helper()
	time.Sleep(1100 * time.Millisecond) // creationTimestamps have whole seconds
}

// TestBinding deletes a policy's binding, and makes it again. What was made in between is never served, nor
// is what was there before: it may have been changed in between.
func TestBinding(t *testing.T) {
	t.Parallel()
	const margin = 3 * time.Second
	w := newWorld(t, func(o *kube.Options) { o.Margin = margin })
	s := newScope()
	mallory := &user{name: "mallory"}
	w.grant(t, "mallory", []object{{
		"apiGroups": []string{""}, "resources": []string{"pods"}, "verbs": []string{"create", "patch", "get"},
	}})
	forged := newPod(scoped(s), declaring("K"))
	code, _ := w.send(t, mallory, http.MethodPost, w.in(core1, "pods"), forged)
	require.Equal(t, http.StatusForbidden, code)

	refused := func(reason string, tokens ...string) {
		t.Helper()
		for _, token := range tokens {
			w.refused(t, reason, token)
		}
	}
	early := w.token(t, w.task(t, s, []string{"K"}))
	refused(kube.ReasonOlder, early)
	time.Sleep(margin + time.Second)
	refused(kube.ReasonOlder, early)
	before := w.token(t, w.task(t, s, []string{"K"}))
	w.served(t, before, s, "K")
	plain := w.pod(t, mallory)
	relabelled := w.token(t, plain)
	refused(kube.ReasonUnclaimed, relabelled)
	template := w.do(t, nil, http.MethodPost, w.in(ray, "rayclusters"), object{
		"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": object{"name": "old"},
	})

	binding, path := w.binding(t, "inject-claims")
	w.do(t, nil, http.MethodDelete, path, nil)
	refused(kube.ReasonPolicies, before)
	var made object
	w.until(t, "the end of the policy", func() bool {
		code, made = w.send(t, mallory, http.MethodPost, w.in(core1, "pods"), forged)
		return code == http.StatusCreated
	})
	between := w.token(t, made)
	labels := newPod(scoped(s), declaring("K"))
	delete(labels, "spec")
	delete(within(labels, "metadata"), "name")
	w.do(t, mallory, http.MethodPatch, w.in(core1, "pods", name(plain)), labels)
	refused(kube.ReasonPolicies, before, between, relabelled)
	later(t)

	w.do(t, nil, http.MethodPost, home(binding), binding)
	refused(kube.ReasonOlder, before, between, relabelled)
	young := w.token(t, w.task(t, s, []string{"K"}))
	refused(kube.ReasonOlder, young)
	time.Sleep(margin + time.Second)
	refused(kube.ReasonOlder, before, between, relabelled, young)
	w.served(t, w.token(t, w.task(t, s, []string{"K"})), s, "K")
	w.served(t, w.token(t, w.pod(t, nil, scoped(s), declaring("K"))), s, "K")
	// Nor is a young pod that is made of something older.
	refused(kube.ReasonOlder, w.token(t, w.pod(t, nil, scoped(s), ownedBy(owner(template)))))
	action := w.taskAction(t, s, nil)
	w.served(t, w.token(t, w.pod(t, nil, called(name(action)+"-0"), scoped(s), ownedBy(owner(action)))), s)
}

// TestMinted takes away the policy on tokens, so that an administrator can mint one.
func TestMinted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newScope()
	pod := w.task(t, s, []string{"K"})
	w.served(t, w.token(t, pod), s, "K")
	binding, path := w.binding(t, "inject-tokens")
	w.do(t, nil, http.MethodDelete, path, nil)
	mint := w.in(core1, "serviceaccounts", "default", "token")
	minted := text(w.do(t, nil, http.MethodPost, mint, tokenFor(pod, "inject")), "status", "token")
	err := w.refusal(t, kube.ReasonPolicies, minted)
	require.ErrorContains(t, err, "binding "+name(binding)+": missing")
	require.NotContains(t, identity.Advice(err), name(binding), "the log names it, and the answer does not")
	later(t)
	w.do(t, nil, http.MethodPost, home(binding), binding)
	w.refused(t, kube.ReasonOlder, minted)
	w.served(t, w.token(t, w.task(t, s, []string{"K"})), s, "K")
}

// TestUnprotected has a claimer in the task namespace.
func TestUnprotected(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newScope()
	token := w.token(t, w.task(t, s, []string{"K"}))
	w.served(t, token, s, "K")
	w.config.Claimers = []evidence.Account{{Namespace: w.namespace, Name: "flyte-binary"}}
	err := w.refusal(t, kube.ReasonUnprotected, token)
	require.ErrorContains(t, err, w.namespace+"/flyte-binary may claim every scope")
	require.NotContains(t, identity.Advice(err), "flyte-binary")

	w.options.AcceptUnprotected = true
	w.Authenticator = kube.New(w.options)
	id := w.served(t, token, s, "K")
	require.Equal(t, []string{"unprotected"}, id.Attribute("kubernetes.protection"))
	// The policies must be in force all the same.
	_, path := w.binding(t, "inject-hosts")
	w.do(t, nil, http.MethodDelete, path, nil)
	w.refused(t, kube.ReasonPolicies, token)
}

// TestOutage cuts the connections to the API server, and then lets calls hang.
func TestOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newScope()
	token := w.token(t, w.task(t, s, []string{"K"}))
	w.served(t, token, s, "K")

	w.proxy.down.Store(true)
	_, err := w.ask(token)
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.NotErrorIs(t, err, identity.ErrUnauthenticated)
	require.Equal(t, identity.ReasonUnavailable, identity.Reason(err))
	_, err = w.ask("garbage")
	require.ErrorIs(t, err, identity.ErrNone, "which needs no API server")
	w.proxy.down.Store(false)
	w.served(t, token, s, "K")

	held := make(chan struct{})
	w.proxy.hold.Store(&held)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = w.Authenticate(ctx, bearer(token))
	require.ErrorIs(t, err, secret.ErrUnavailable)
	close(held)
	w.proxy.hold.Store(nil)
	w.served(t, token, s, "K")

	// What this user may not do says nothing of the pod.
	denied := w.options
	cluster := w.User(t, w.namespace, nil)
	denied.Objects = connect(t, cluster)
	w.Authenticator = kube.New(denied)
	_, err = w.ask(token)
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.NotErrorIs(t, err, secret.ErrDenied)
	require.ErrorContains(t, err, "get pods")
}

// TestClocks has an API server whose clock is an hour apart.
func TestClocks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newScope()
	pod := w.task(t, s, []string{"K"})
	token := w.token(t, pod)
	lasts := w.forge(t, pod, func(c object) { c["exp"] = time.Now().Add(90 * time.Minute).Unix() })
	for _, ahead := range []int64{0, -3600} {
		w.proxy.date.Store(ahead)
		w.served(t, token, s, "K")
		w.served(t, token, s, "K") // now the difference is known
	}
	w.proxy.date.Store(3600)
	w.served(t, lasts, s, "K")
	w.served(t, lasts, s, "K")
	w.proxy.calls.Store(0)
	w.refused(t, identity.ReasonExpired, token)
	require.Zero(t, w.proxy.calls.Load())
}
