package chart_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDigests compares the names of the live policies with what the API server says of their specs, so
// that a name says what its object does.
func TestDigests(t *testing.T) {
	c := get(t)
	n := 0
	for _, o := range c.objects {
		if !isPolicy(o) {
			continue
		}
		live := c.do(t, admin, fetch(home(o)+"/"+text(o, "metadata", "name")))
		require.Equal(t, called(o)+"-"+digest(t, live["spec"]), text(live, "metadata", "name"), live["spec"])
		require.EqualValues(t, 1, at(live, "metadata", "generation"))
		require.Nil(t, at(live, "spec", "paramKind"))
		n++
	}
	// The mutating one is there from 1.36 on, and the chart renders it there.
	mutating := c.try(t, admin, fetch(collection("admissionregistration.k8s.io/v1", "mutatingadmissionpolicies", "")))
	if c.mutating {
		require.True(t, mutating.ok(), mutating)
		require.Equal(t, 20, n)
	} else {
		require.Equal(t, http.StatusNotFound, mutating.code, mutating)
		require.Equal(t, 14, n)
	}
}

// TestChanged patches a policy's binding and patches it back, and deletes it and makes it again. The first
// leaves a later generation behind, the second another uid.
func TestChanged(t *testing.T) {
	c := get(t)
	var o object
	for _, one := range c.objects {
		if called(one) == "inject-hosts" && at(one, "spec", "policyName") != nil {
			o = one
		}
	}
	path := home(o) + "/" + text(o, "metadata", "name")
	forged := posted(volume(object{"hostPath": object{"path": "/"}}))
	answer := func() string { return c.try(t, stranger, forged).String() }
	require.Contains(t, answer(), "inject-hosts")

	before := c.do(t, admin, fetch(path))
	patch := func(action string) object {
		body := object{"spec": object{"validationActions": []string{action}}}
		return c.do(t, admin, request{method: http.MethodPatch, path: path, media: mergePatch, body: body})
	}
	patched := patch("Audit")
	require.NotEqual(t, text(o, "metadata", "name"), called(o)+"-"+digest(t, patched["spec"]))
	c.until(t, "audit", answer, "201")
	back := patch("Deny")
	require.Equal(t, before["spec"], back["spec"])
	require.Equal(t, at(before, "metadata", "creationTimestamp"), at(back, "metadata", "creationTimestamp"))
	require.EqualValues(t, 1, at(before, "metadata", "generation"))
	require.EqualValues(t, 3, at(back, "metadata", "generation"))
	c.until(t, "deny", answer, "inject-hosts")

	c.do(t, admin, remove(path))
	c.until(t, "no binding", answer, "201")
	again := c.do(t, admin, post(home(o), o))
	require.NotEqual(t, at(before, "metadata", "uid"), at(again, "metadata", "uid"))
	require.EqualValues(t, 1, at(again, "metadata", "generation"))
	since := func(o object) string { return text(o, "metadata", "creationTimestamp") }
	require.GreaterOrEqual(t, since(again), since(before))
	c.until(t, "deny again", answer, "inject-hosts")
}

// bind makes the validating policies' bindings of a rendered chart, and the policies that are not there yet.
func (c *cluster) bind(t testing.TB, args ...string) (bindings []object) {
	t.Helper()
	for _, o := range render(t, c.version, args...) {
		if !strings.HasPrefix(text(o, "kind"), "ValidatingAdmissionPolicy") {
			continue
		}
		if at(o, "spec", "policyName") != nil {
			bindings = append(bindings, o)
		}
		c.ensure(t, o)
	}
	return bindings
}

// ensure makes an object of the chart unless it is there: a policy is the same for all namespaces.
func (c *cluster) ensure(t testing.TB, o object) {
	t.Helper()
	a, err := c.send(t.Context(), admin, post(home(o)+"?fieldValidation=Strict", o), false)
	require.NoError(t, err)
	require.True(t, a.ok() || a.reason == "AlreadyExists", a)
}

// TestAudited binds the policies with enforce: audit to a namespace of their own: they let everything pass
// there, with a warning.
func TestAudited(t *testing.T) {
	c := get(t)
	c.tasks(t, "audited", nil)
	c.grant(t, "audited", "all-but-claim", nil, stranger)
	for _, o := range c.bind(t, "--set", "policies.enforce=audit,taskNamespaces={audited}") {
		require.Equal(t, []any{"Audit", "Warn"}, at(o, "spec", "validationActions"))
	}
	r := post(collection("v1", "pods", "audited"), pod("x", mine))
	c.until(t, "a warning", func() string { return c.try(t, stranger, r).warning }, "inject-claims")
	require.True(t, c.try(t, stranger, r).ok())

	// No pod is changed, and a warning says which could not be.
	for _, g := range golds(t, "testdata/pods") {
		a := c.try(t, admin, created("audited", g.pod))
		require.True(t, a.ok(), a)
		require.NotContains(t, fmt.Sprint(a.object), "/inject/inject", g.name)
		if g.want != nil {
			require.NotContains(t, a.warning, "inject-injected", g.name)
			continue
		}
		require.Contains(t, strings.ReplaceAll(a.warning, `\"`, `"`), g.message, g.name)
	}
}

// TestUnprotected renders the chart for Flyte in the namespace of its tasks. Flyte's own pods run as its
// account, and a controller makes them; what Flyte itself makes does not.
func TestUnprotected(t *testing.T) {
	c := get(t)
	c.tasks(t, "one", nil)
	one := account("one", "flyte-binary")
	c.grant(t, "one", "all-but-claim", nil, one, controller)
	c.grant(t, "one", "inject-claimer", nil, one, controller)
	c.bind(t, "--set", "taskNamespaces={one},claimers.accounts[0].namespace=one,policies.acceptUnprotected=true")
	in := func(o object) request { return post(collection("v1", "pods", "one"), o) }
	r := in(pod("x", runsAs("flyte-binary")))
	c.until(t, "made by Flyte", func() string { return c.try(t, one, r).String() }, "inject-accounts")
	c.want(t, "made by a controller", controller, r, ok)
	c.want(t, "of another account", one, in(pod("x", runsAs("spark"))), ok)
}
