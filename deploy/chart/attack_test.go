package chart_test

import (
	"encoding/json"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAttack has ways to a scoped pod that the rows of the matrix do not have.
func TestAttack(t *testing.T) {
	c := get(t)

	t.Run("as another user", func(t *testing.T) {
		// The role edit may act as each account of its namespace. Those may not claim, and have no pod's token.
		c.want(t, "the account of drivers", driver, posted(theirs), claimTheirs)
		c.want(t, "the account of drivers, stamped", driver, posted(theirs, stamp("parent/1")), stamped)
		// The role admin may bind roles, but RBAC grants none that may do more than the user.
		ada := person("ada")
		c.grant(t, "flyte", "system:aggregate-to-admin", nil, ada)
		for resource, o := range map[string]object{
			"rolebindings": {
				"metadata": object{"name": "steal"},
				"subjects": []any{object{"kind": "User", "apiGroup": rbac, "name": ada.name}},
				"roleRef":  object{"apiGroup": rbac, "kind": "ClusterRole", "name": "inject-claimer"},
			},
			"roles": {"metadata": object{"name": "steal"}, "rules": []any{claims()}},
		} {
			a := c.try(t, ada, post(collection(rbac+"/v1", resource, "flyte"), o))
			require.Equal(t, http.StatusForbidden, a.code, a)
			require.Contains(t, a.message, "attempting to grant RBAC permissions not currently held")
		}
	})

	t.Run("other fields", func(t *testing.T) {
		generated := pod("x", theirs)
		generated["metadata"] = object{"generateName": "x-", "labels": in(generated, "metadata", "labels")}
		c.want(t, "a generated name", stranger, pods.post(generated), claimTheirs)
		for _, k := range kinds {
			if k.kind == "PodTemplate" {
				continue
			}
			old := func(name string) edit { return set(name, "spec", "serviceAccount") }
			c.want(t, k.kind+": the account's old field", flyte, k.post(k.object("new", old("flyte-binary"))), claimer)
			c.want(t, k.kind+": the account's old field", flyte, k.post(k.object("new", old("spark"))), ok)
		}
		// The API server names one of the policies, and not always the same.
		a := c.try(t, stranger, posted(theirs, set(true, "spec", "hostPID")))
		require.Contains(t, []int{http.StatusForbidden, http.StatusUnprocessableEntity}, a.code, a)
		require.Contains(t, a.message, "ValidatingAdmissionPolicy 'inject-")
	})

	t.Run("what another has applied", func(t *testing.T) {
		// Server-side apply takes away what the same manager applied before, and managers' names are anyone's.
		c.do(t, flyte, deployments.apply(deployments.object("applied", theirs)))
		c.want(t, "without labels", stranger, deployments.apply(deployments.object("applied")), claimTheirs)
		c.want(t, "the same", stranger, deployments.apply(deployments.object("applied", theirs)), ok)
	})

	t.Run("while it ends", func(t *testing.T) {
		for _, k := range kinds {
			if k.kind == "PodTemplate" {
				continue
			}
			c.do(t, admin, k.post(edited(k.object("terminating", theirs), set(finalizers, "metadata", "finalizers"))))
			c.do(t, admin, remove(k.path("terminating")))
			for way, r := range c.ways(t, k, "terminating", "", relabel("domain", "development").of(k)) {
				for _, u := range []user{stranger, member} {
					c.want(t, k.kind+" by "+way, u, r, both("fraud/production", "fraud/development"))
				}
			}
		}
	})

	t.Run("by a subresource of another purpose", func(t *testing.T) {
		for _, k := range []kind{pods, deployments} {
			c.do(t, admin, k.post(k.object("sub", mine)))
		}
		c.do(t, admin, taskActions.post(taskActions.with("sub", object{"domain": "development"})))
		for _, row := range []struct {
			kind
			sub  string
			path []string
		}{
			{pods, "ephemeralcontainers", []string{"metadata", "labels", "domain"}},
			{pods, "resize", []string{"metadata", "labels", "domain"}},
			{deployments, "status", []string{"spec", "template", "metadata", "labels", "domain"}},
			{taskActions, "status", []string{"spec", "domain"}},
		} {
			if row.sub == "resize" && !c.has(t, "pods/resize") {
				continue
			}
			for way, r := range c.ways(t, row.kind, "sub", row.sub, to("production", row.path...)) {
				for _, u := range []user{stranger, flyte} {
					if a := c.try(t, u, r); a.ok() { // the API server has left the change out
						require.Equal(t, "development", text(a.object, row.path...), row.sub+" by "+way)
					}
				}
			}
		}
	})

	t.Run("copies", func(t *testing.T) {
		// kubectl create job --from and kubectl debug --copy-to create what the user has read.
		c.do(t, admin, cronJobs.post(cronJobs.object("nightly", theirs)))
		job := jobs.object("copy")
		live := in(c.do(t, admin, fetch(cronJobs.path("nightly"))), "spec", "jobTemplate", "spec")
		job["spec"] = live
		c.want(t, "a job", stranger, jobs.post(job), claimTheirs)
		c.do(t, admin, pods.post(pod("original", theirs)))
		copied := c.do(t, admin, fetch(pods.path("original")))
		copied["metadata"] = object{"name": "copy", "labels": in(copied, "metadata", "labels")}
		c.want(t, "a pod with its labels", stranger, pods.post(copied), claimTheirs)
		copied["metadata"] = object{"name": "copy"}
		c.want(t, "a pod without", stranger, pods.post(copied), ok)
	})

	t.Run("by a patch of another form", func(t *testing.T) {
		// The API server asks the policies about the object that comes of a patch.
		bare := c.do(t, admin, pods.post(pod("patched", theirs, owner)))
		bare["metadata"] = pod("patched")["metadata"]
		replace := object{"$patch": "replace"}
		to := func(scope string) verdict { return both("fraud/production", scope) }
		for name, row := range map[string]struct {
			metadata object
			verdict
		}{
			"labels replaced":      {object{"labels": object{"$patch": "replace", "project": "fraud"}}, to("fraud/-")},
			"labels deleted":       {object{"labels": object{"$patch": "delete"}}, to("-/-")},
			"other keys kept":      {object{"labels": object{"$retainKeys": []any{"app"}, "app": "y"}}, to("-/-")},
			"annotations replaced": {object{"annotations": replace}, claimTheirs},
			"owners replaced":      {object{"ownerReferences": []any{replace}}, owned},
			"an owner deleted":     {object{"ownerReferences": []any{object{"$patch": "delete", "uid": "5"}}}, owned},
		} {
			c.want(t, name, stranger, pods.patch("patched", strategic, object{"metadata": row.metadata}), row.verdict)
		}
		for name, row := range map[string]struct {
			op, from, path string
			value          any
			verdict
		}{
			"a label moved":   {"move", "/metadata/labels/project", "/metadata/labels/x", nil, to("-/production")},
			"a label copied":  {"copy", "/metadata/labels/app", "/metadata/labels/project", nil, to("x/production")},
			"labels replaced": {"replace", "", "/metadata/labels", object{}, to("-/-")},
			"all replaced":    {"replace", "", "", bare, claimTheirs},
			"an escaped name": {"add", "", "/metadata/annotations/flyte.secrets~1s9", "x", claimTheirs},
		} {
			op := object{"op": row.op, "path": row.path}
			if row.from != "" {
				op["from"] = row.from
			} else {
				op["value"] = row.value
			}
			c.want(t, name, stranger, pods.patch("patched", jsonPatch, []object{op}), row.verdict)
		}
	})

	t.Run("by a body of another form", func(t *testing.T) {
		for name, row := range map[string]struct {
			metadata string
			verdict
		}{
			"keys twice":       {`"labels": {"a": "b"}, "labels": {"project": "fraud"}`, claim("fraud/-")},
			"the second empty": {`"labels": {"project": "fraud"}, "labels": {}`, claim("fraud/-")},
			"an escaped key":   {`"labels": {"\u0070roject": "fraud"}`, claim("fraud/-")},
			"another case":     {`"Labels": {"project": "fraud"}`, ok},
		} {
			body := `{"metadata": {"name": "new", ` + row.metadata + `},
				"spec": {"containers": [{"name": "a", "image": "x"}]}}`
			r := post(collection("v1", "pods", "flyte"), json.RawMessage(body))
			if a := c.want(t, name, stranger, r, row.verdict); a.ok() {
				require.Nil(t, at(a.object, "metadata", "labels"), name)
			}
		}
	})

	t.Run("at the same time", func(t *testing.T) {
		// While a pod is made and deleted, it is made with a scope and given one.
		relabelled := pods.patch("race", mergePatch, object{"metadata": object{"labels": object{"project": "fraud"}}})
		var made atomic.Int64
		var wg sync.WaitGroup
		for _, r := range []request{
			pods.post(pod("race")), remove(pods.path("race")), relabelled, pods.apply(pod("race", theirs)),
		} {
			wg.Go(func() {
				for range 50 {
					a, err := c.send(t.Context(), stranger, r, false)
					if err != nil || a.code/100 == 5 {
						t.Errorf("%s: %s, %v", r.method, a, err)
					} else if a.ok() {
						if text(a.object, "metadata", "labels", "project") != "" {
							t.Errorf("%s: a pod with a scope", r.method)
						}
						made.Add(1)
					}
				}
			})
		}
		wg.Wait()
		require.Positive(t, made.Load())
	})

	t.Run("the namespace's label", func(t *testing.T) {
		// The policies find a namespace by it. The API server sets it again after each change.
		path := "/api/v1/namespaces/flyte"
		for _, sub := range []string{"", "/status", "/finalize"} {
			for _, name := range []string{"", "other"} {
				live := c.do(t, admin, fetch(path))
				in(live, "metadata", "labels")["kubernetes.io/metadata.name"] = name
				a := c.want(t, "put"+sub, admin, request{method: http.MethodPut, path: path + sub, body: live}, ok)
				require.Equal(t, "flyte", text(a.object, "metadata", "labels", "kubernetes.io/metadata.name"))
			}
		}
	})

	t.Run("names alike", func(t *testing.T) {
		// None is what injectd reads.
		for _, e := range []edit{
			label("Project", "fraud"), label("x.org/project", "fraud"), annotate("flyte.secrets", "x"),
			annotate("x.flyte.secrets/s0", "x"), annotate("FLYTE.SECRETS/s0", "x"),
		} {
			c.want(t, "a name alike", stranger, posted(e), ok)
		}
	})
}
