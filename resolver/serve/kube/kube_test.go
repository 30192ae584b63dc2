package kube_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/internal/annotation"
	"inject/resolver/secret"
	"inject/resolver/serve/identity"
	"inject/resolver/serve/kube"
)

// TestTask asks as the pod of a task.
func TestTask(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newScope()
	pod := w.task(t, s, []string{"OPENAI_KEY", "odd-name_x", "OPENAI_KEY"}, label("team", "x"), runsAs("spark"))
	token := w.token(t, pod)
	for range 2 { // there is nothing that one request uses up
		id := w.served(t, token, s, "OPENAI_KEY", "odd-name_x")
		require.Equal(t, w.namespace+"/"+name(pod), id.Name)
		for attribute, want := range map[string]string{
			"pod": name(pod), "uid": uid(pod), "node": "node-1", "serviceaccount": "spark", "label.team": "x",
			"label.project": s.project,
		} {
			require.Equal(t, []string{want}, id.Attribute("kubernetes."+attribute))
		}
		require.Nil(t, id.Attribute("kubernetes.parent"))
		require.Nil(t, id.Attribute("kubernetes.protection"))
	}
	// Its pod declares nothing, so that it may have nothing.
	w.served(t, w.token(t, w.task(t, s, nil)), s)
	// Annotations are for people, too. Those of a pod have 256 KiB at most.
	w.served(t, w.token(t, w.task(t, s, []string{"K"}, annotate("note", strings.Repeat("x", 250<<10)))), s, "K")
	var many []string
	for i := range 4000 {
		many = append(many, fmt.Sprintf("KEY_%d", i))
	}
	w.served(t, w.token(t, w.task(t, s, many)), s, many...)
}

// TestTokens has tokens that are not those of a live pod, each beside one that is.
func TestTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newScope()
	own := func(t *testing.T, edits ...func(object)) (pod object, token string) {
		t.Helper()
		pod = w.task(t, s, []string{"K"}, edits...)
		token = w.token(t, pod)
		w.served(t, token, s, "K")
		return pod, token
	}
	remove := func(t *testing.T, o object, resource, query string) {
		t.Helper()
		w.do(t, nil, http.MethodDelete, w.in(core1, resource, name(o))+query, nil)
	}

	t.Run("from elsewhere", func(t *testing.T) {
		// A token is for its pod, whoever sends it: the other pod gets what the first may have.
		pod, token := own(t)
		_, other := own(t)
		require.NotEqual(t, token, other)
		require.Equal(t, []string{name(pod)}, w.served(t, token, s, "K").Attribute("kubernetes.pod"))
	})
	t.Run("of a deleted pod", func(t *testing.T) {
		pod, token := own(t)
		remove(t, pod, "pods", "?gracePeriodSeconds=0")
		w.refused(t, kube.ReasonPod, token)
		// Nor is it that of the next pod with the name.
		again := w.pod(t, nil, called(name(pod)), scoped(s), declaring("K"), ownedBy(
			at(pod, "metadata", "ownerReferences").([]any)[0].(object))) //nolint:errcheck // of this test
		w.refused(t, kube.ReasonPod, token)
		w.served(t, w.token(t, again), s, "K")
	})
	t.Run("while the pod is being deleted", func(t *testing.T) {
		pod, token := own(t)
		remove(t, pod, "pods", "")
		w.refused(t, kube.ReasonEnded, token)
	})
	t.Run("of a pod that has ended", func(t *testing.T) {
		for _, phase := range []string{"Succeeded", "Failed"} {
			pod, token := own(t)
			path := w.in(core1, "pods", name(pod), "status")
			w.do(t, nil, http.MethodPatch, path, object{"status": object{"phase": "Running"}})
			w.served(t, token, s, "K")
			w.do(t, nil, http.MethodPatch, path, object{"status": object{"phase": phase}})
			w.refused(t, kube.ReasonEnded, token)
		}
	})
	t.Run("of a deleted account", func(t *testing.T) {
		account := object{"metadata": object{"name": "short-lived"}}
		w.do(t, nil, http.MethodPost, w.in(core1, "serviceaccounts"), account)
		_, token := own(t, runsAs("short-lived"))
		remove(t, account, "serviceaccounts", "")
		w.until(t, "the account's end", func() bool { _, err := w.ask(token); return err != nil })
		w.refused(t, kube.ReasonReview, token)
		w.do(t, nil, http.MethodPost, w.in(core1, "serviceaccounts"), account) // another uid
		w.refused(t, kube.ReasonReview, token)
	})
	t.Run("minted by an administrator", func(t *testing.T) {
		pod, _ := own(t)
		path := w.in(core1, "serviceaccounts", "default", "token")
		code, answer := w.send(t, nil, http.MethodPost, path, tokenFor(pod, "inject"))
		require.Equal(t, http.StatusForbidden, code)
		require.Contains(t, answer["message"], "requested by kubelet")
	})
	t.Run("forged", func(t *testing.T) {
		pod, _ := own(t)
		w.served(t, w.forge(t, pod, func(object) {}), s, "K") // so that the others are refused for what is changed
		set := func(value any, path ...string) func(object) {
			last := len(path) - 1
			return func(claims object) {
				o := within(claims, path[:last]...)
				if o[path[last]] = value; value == nil {
					delete(o, path[last])
				}
			}
		}
		const own = "kubernetes.io"
		exp := func(after time.Duration) func(object) { return set(time.Now().Add(after).Unix(), "exp") }
		other := w.task(t, s, nil)
		for says, row := range map[string]struct {
			reason string
			change func(object)
		}{
			"no node":                 {kube.ReasonNode, set(nil, own, "node")},
			"another account":         {kube.ReasonReview, set("spark", own, "serviceaccount", "name")},
			"another pod":             {kube.ReasonPod, set(uid(other), own, "pod", "uid")},
			"the name of another pod": {kube.ReasonPod, set(name(other), own, "pod", "name")},
			"no pod":                  {kube.ReasonUnbound, set(nil, own, "pod")},
			"a moment ago":            {identity.ReasonExpired, exp(-90 * time.Second)},
			"long ago":                {identity.ReasonExpired, exp(-time.Hour)},
			"no expiry":               {identity.ReasonLifetime, set(nil, "exp")},
			"two audiences":           {identity.ReasonAudience, set([]string{"inject", "vault"}, "aud")},
			"no account":              {identity.ReasonMalformed, set(nil, own, "serviceaccount")},
			"elsewhere":               {kube.ReasonNamespace, set("kube-system", own, "namespace")},
		} {
			t.Run(says, func(t *testing.T) { w.refused(t, row.reason, w.forge(t, pod, row.change)) })
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		w.refused(t, kube.ReasonReview, sign(t, key, w.keyID(t), w.claims(t, pod, func(object) {})))
	})
	t.Run("of another audience", func(t *testing.T) {
		pod, _ := own(t)
		for _, audience := range []string{"vault", "inject2", "https://kubernetes.default.svc"} {
			other := w.forge(t, pod, func(c object) { c["aud"] = []string{audience} })
			w.proxy.calls.Store(0)
			_, err := w.ask(other)
			require.ErrorIs(t, err, identity.ErrNone, "another authenticator may know it")
			require.Zero(t, w.proxy.calls.Load())
		}
	})
}

// TestGarbage sends what is no token of a pod. Nothing of it causes a call of the API.
func TestGarbage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newScope()
	pod := w.task(t, s, []string{"K"})
	token := w.token(t, pod)
	w.served(t, token, s, "K")
	parts := strings.Split(token, ".")
	w.proxy.calls.Store(0)
	for _, bad := range []string{
		"", ".", "..", "...", "inj_" + rand.Text(), rand.Text(), parts[0], parts[0] + "." + parts[1],
		parts[0] + "." + parts[1] + ".", token + "." + parts[2], "." + parts[1] + "." + parts[2],
		parts[0] + ".e30." + parts[2], parts[0] + ".bnVsbA." + parts[2], parts[0] + ".W10." + parts[2],
		parts[0] + "." + parts[1] + "\n." + parts[2], parts[0] + "." + parts[1] + "." + parts[2] + "\n",
		token + strings.Repeat("A", 4<<10), "eyJhbGciOiJub25lIn0." + parts[1] + "." + parts[2],
		strings.Repeat("a.", 1<<20), strings.Repeat("\xff", 3000),
	} {
		_, err := w.ask(bad)
		require.Error(t, err)
	}
	for range 20_000 {
		var junk [600]byte
		_, _ = rand.Read(junk[:])
		_, err := w.ask(parts[0] + "." + string(junk[:]) + "." + parts[2])
		require.ErrorIs(t, err, identity.ErrNone)
	}
	require.Zero(t, w.proxy.calls.Load())
	w.served(t, token, s, "K")
	require.Positive(t, w.proxy.calls.Load())
}

// TestScopes has pods that say something else than what they are made of.
func TestScopes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, other := newScope(), newScope()
	action := w.taskAction(t, s, []string{"A", "B"})
	attempt := 0
	own := func(edits ...func(object)) string {
		attempt++
		return w.token(t, w.pod(t, nil, append([]func(object){
			called(fmt.Sprintf("%s-%d", name(action), attempt)), scoped(s), declaring("A", "B"), ownedBy(owner(action)),
		}, edits...)...))
	}
	without := func(keys ...string) func(object) {
		return func(o object) {
			for _, key := range keys {
				delete(within(o, "metadata", "labels"), key)
			}
		}
	}
	const declares = "flyte.secrets/"
	encoded := annotation.Encode(secret.Declaration{Key: "A"})
	forged := owner(action)
	forged["uid"] = "00000000-0000-0000-0000-000000000000"
	gone := owner(action)
	gone["name"] = "gone-a0"
	for says, row := range map[string]struct {
		reason string // "" if it is served
		edits  []func(object)
	}{
		"as it is":                          {"", nil},
		"fewer declared":                    {"", []func(object){declaring("B", "A")}},
		"no label inject-flyte-secrets":     {"", []func(object){without("inject-flyte-secrets")}},
		"no label organization":             {"", []func(object){without("organization")}},
		"no labels":                         {kube.ReasonLabels, []func(object){without("project", "domain")}},
		"no project":                        {kube.ReasonLabels, []func(object){without("project")}},
		"no domain":                         {kube.ReasonLabels, []func(object){without("domain")}},
		"another project":                   {kube.ReasonLabels, []func(object){label("project", other.project)}},
		"another domain":                    {kube.ReasonLabels, []func(object){label("domain", "other")}},
		"a longer name of the project":      {kube.ReasonLabels, []func(object){label("project", s.project+"x")}},
		"more declared":                     {kube.ReasonDeclared, []func(object){declaring("A", "B", "C")}},
		"declared in another form":          {kube.ReasonDeclared, []func(object){annotate(declares+"s2", "!")}},
		"declared under another name":       {kube.ReasonDeclared, []func(object){annotate(declares+"x", encoded)}},
		"an owner with another uid":         {kube.ReasonOwner, []func(object){ownedBy(forged)}},
		"an owner that is gone":             {kube.ReasonOwner, []func(object){ownedBy(gone)}},
		"a name that Flyte does not give":   {kube.ReasonTask, []func(object){called(name(action) + "-x")}},
		"the name of another task's pod":    {kube.ReasonTask, []func(object){called("r00-a0-0")}},
		"the name of the TaskAction itself": {kube.ReasonTask, []func(object){called(name(action))}},
	} {
		t.Run(says, func(t *testing.T) {
			token := own(row.edits...)
			if row.reason == "" {
				w.served(t, token, s, "A", "B")
				return
			}
			err := w.refusal(t, row.reason, token)
			require.NotEmpty(t, identity.Advice(err), "its caller is known, and can do something")
		})
	}

	// A TaskAction decides beside a controller, too, which a pod without one can be made to have.
	loose := owner(action)
	delete(loose, "controller")
	adopter := w.do(t, nil, http.MethodPost, w.in(apps, "replicasets"), object{
		"metadata": object{"name": "adopter"},
		"spec": object{
			"selector": object{"matchLabels": object{"a": "b"}},
			"template": object{"metadata": object{"labels": object{"a": "b"}}, "spec": newPod()["spec"]},
		},
	})
	adopter["apiVersion"], adopter["kind"] = "apps/v1", "ReplicaSet"
	w.served(t, own(ownedBy(owner(adopter), loose)), s, "A", "B")
	w.refused(t, kube.ReasonDeclared, own(ownedBy(owner(adopter), loose), declaring("A", "B", "C")))

	// The scope is that of the TaskAction, whatever its maker called it.
	for says, row := range map[string]struct {
		reason string
		edit   func(object)
	}{
		"another project":   {kube.ReasonLabels, func(o object) { within(o, "spec")["project"] = other.project }},
		"no project":        {kube.ReasonTask, func(o object) { within(o, "spec")["project"] = "" }},
		"no task template":  {kube.ReasonDeclared, func(o object) { delete(within(o, "spec"), "taskTemplate") }},
		"a broken template": {kube.ReasonTask, func(o object) { within(o, "spec")["taskTemplate"] = []byte{0xff} }},
	} {
		t.Run("TaskAction: "+says, func(t *testing.T) {
			action := w.taskAction(t, s, []string{"A"}, row.edit)
			w.refused(t, row.reason, w.token(t, w.pod(t, nil, called(name(action)+"-0"), scoped(s), declaring("A"),
				ownedBy(owner(action)))))
		})
	}
}

// TestParents has TaskActions that other ones have started.
func TestParents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, other := newScope(), newScope()
	start := func(of object, s scope) string {
		ref := owner(of)
		delete(ref, "controller") // as Flyte writes it
		child := w.taskAction(t, s, []string{"K"}, ownedBy(ref))
		return w.token(t, w.pod(t, nil, called(name(child)+"-0"), scoped(s), declaring("K"), ownedBy(owner(child))))
	}
	parent := w.taskAction(t, s, nil)
	w.served(t, start(parent, s), s, "K")
	w.refused(t, kube.ReasonParentScope, start(parent, other))
	sameProject := s
	sameProject.domain = "other"
	w.refused(t, kube.ReasonParentScope, start(parent, sameProject))
	gone := object{
		"apiVersion": "flyte.org/v1", "kind": "TaskAction", "metadata": object{"name": "gone-a0", "uid": "x"},
	}
	w.refused(t, kube.ReasonOwner, start(gone, s))
}

// TestOperators has pods that operators make of objects which Flyte has made.
func TestOperators(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := newScope()
	made := func(group, version, kind string, of object) object {
		return w.do(t, nil, http.MethodPost, w.in("/apis/"+group+"/"+version, strings.ToLower(kind)+"s"), object{
			"apiVersion": group + "/" + version, "kind": kind,
			"metadata": object{"generateName": "x-", "ownerReferences": []object{owner(of)}},
		})
	}
	pod := func(of object) string {
		return w.token(t, w.pod(t, nil, scoped(s), declaring("K"), ownedBy(owner(of))))
	}
	action := w.taskAction(t, s, []string{"K"})
	job := made("ray.io", "v1", "RayJob", action)
	w.served(t, pod(job), s, "K")
	cluster := made("ray.io", "v1", "RayCluster", job)
	w.served(t, pod(cluster), s, "K")
	last := cluster
	for range 3 { // these, the two above and the TaskAction are six
		last = made("jobset.x-k8s.io", "v1", "Layer", last)
		w.served(t, pod(last), s, "K")
	}
	w.refused(t, kube.ReasonOwner, pod(made("jobset.x-k8s.io", "v1", "Layer", last)))

	// Owners that no object can be.
	for _, change := range []func(object){
		func(o object) { o["uid"] = "00000000-0000-0000-0000-000000000000" },
		func(o object) { o["name"] = "gone" },
		func(o object) { o["name"] = "a%2fb" },
	} {
		ref := owner(cluster)
		change(ref)
		w.refused(t, kube.ReasonOwner, w.token(t, w.pod(t, nil, scoped(s), declaring("K"), ownedBy(ref))))
	}
	// A group that the API server does not know may come back.
	ref := owner(cluster)
	ref["apiVersion"] = "unknown.example.org/v1"
	_, err := w.ask(w.token(t, w.pod(t, nil, scoped(s), ownedBy(ref))))
	require.ErrorIs(t, err, secret.ErrUnavailable)
}

// TestClaims has pods that no TaskAction owns: their makers may claim the scope that they say.
func TestClaims(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, other := newScope(), newScope()
	w.grant(t, "fran", []object{
		{"apiGroups": []string{""}, "resources": []string{"pods"}, "verbs": []string{"create"}},
		{
			"apiGroups": []string{"inject.flyte.org"}, "resources": []string{"scopes"}, "verbs": []string{"claim"},
			"resourceNames": []string{s.project + "/" + s.domain},
		},
	})
	fran := &user{name: "fran"}
	w.served(t, w.token(t, w.pod(t, fran, scoped(s), declaring("K"))), s, "K")
	code, answer := w.send(t, fran, http.MethodPost, w.in(core1, "pods"), newPod(scoped(other)))
	require.Equal(t, http.StatusForbidden, code)
	require.Contains(t, answer["message"], "may not claim the scope "+other.project)

	w.refused(t, kube.ReasonUnclaimed, w.token(t, w.pod(t, fran)))
	project := func(o object) { within(o, "metadata", "labels")["project"] = s.project }
	w.refused(t, kube.ReasonUnclaimed, w.token(t, w.pod(t, nil, project)))

	// One that a controller makes of a Deployment, whose maker was allowed to claim.
	template := object{"metadata": object{"labels": object{"a": "b"}}, "spec": newPod()["spec"]}
	deployment := w.do(t, nil, http.MethodPost, w.in(apps, "deployments"), object{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": object{"name": "d"},
		"spec": object{"selector": object{"matchLabels": object{"a": "b"}}, "template": template},
	})
	set := w.do(t, nil, http.MethodPost, w.in(apps, "replicasets"), object{
		"apiVersion": "apps/v1", "kind": "ReplicaSet",
		"metadata": object{"name": "d-1", "ownerReferences": []object{owner(deployment)}},
		"spec":     object{"selector": object{"matchLabels": object{"a": "b"}}, "template": template},
	})
	w.served(t, w.token(t, w.pod(t, nil, scoped(s), declaring("K"), ownedBy(owner(set)))), s, "K")
}

// grant lets a user do what rules say in the namespace.
func (w *world) grant(t testing.TB, user string, rules []object) {
	t.Helper()
	const rbac = "/apis/rbac.authorization.k8s.io/v1"
	who := strings.ReplaceAll(user, ".", ":") // which the name of a role cannot have
	w.do(t, nil, http.MethodPost, w.in(rbac, "roles"), object{"metadata": object{"name": user}, "rules": rules})
	w.do(t, nil, http.MethodPost, w.in(rbac, "rolebindings"), object{
		"metadata": object{"name": user},
		"roleRef":  object{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
		"subjects": []object{
			{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": who},
		},
	})
}
