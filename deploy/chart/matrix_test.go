package chart_test

import (
	"encoding/json"
	"hash/crc32"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A verdict is how a request ends: let through, or refused by a policy with a code and words.
type verdict struct {
	code         int
	policy, text string
}

func forbidden(policy, text string) verdict { return verdict{http.StatusForbidden, policy, text} }

func invalid(policy, text string) verdict {
	return verdict{http.StatusUnprocessableEntity, policy, text}
}

var (
	ok         = verdict{}
	changing   = invalid("inject-claims", "what a pod's labels and annotations say of its scope and its secrets")
	foreign    = invalid("inject-claims", "the label organization is flyte here")
	stamped    = forbidden("inject-claims", "inject.flyte.org/inherits names the pod whose token made this pod")
	asked      = invalid("inject-claims", "whose token made this pod, and no task asks for it")
	owned      = forbidden("inject-claims", "an owner of flyte.org is set by Flyte only")
	isTemplate = forbidden("inject-claims", "Flyte merges PodTemplates")
	isRevision = forbidden("inject-claims", "controllers make pods of ControllerRevisions")
	bound      = forbidden("inject-claims", "a Binding has no label or annotation")
	claimer    = invalid("inject-accounts", "does not run as the account flyte-binary")
	anyScope   = forbidden("inject-workloads", "may not claim all scopes")

	claimMine   = claim("fraud/development")
	claimTheirs = claim("fraud/production")
)

// claim is the verdict for a user who may not claim a scope.
func claim(scope string) verdict {
	return forbidden("inject-claims", "may not claim the scope "+scope+", ")
}

// both is the verdict for a user who may not claim the scopes before and after a change.
func both(before, after string) verdict {
	return forbidden("inject-claims", "may not claim both the scopes "+before+" and "+after+", ")
}

// action is claim for a TaskAction, actions is both.
func action(scope string) verdict {
	return forbidden("inject-workloads", "may not claim the scope "+scope+" (")
}

func actions(before, after string) verdict {
	return forbidden("inject-workloads", "may not claim both the scopes "+before+" and "+after+" (")
}

// is tells whether an answer is the verdict: its code, its reason, and one line that names the policy.
func (v verdict) is(a answer) bool {
	if v == ok {
		return a.ok()
	}
	reason := "Invalid"
	if v.code == http.StatusForbidden {
		reason = "Forbidden"
	}
	return a.code == v.code && a.reason == reason && strings.Contains(a.message, v.text) &&
		strings.Contains(a.message, "ValidatingAdmissionPolicy '"+v.policy+"-") && !strings.Contains(a.message, "\n")
}

// want sends a request as a user and compares the answer.
func (c *cluster) want(t *testing.T, name string, u user, r request, want verdict) answer {
	t.Helper()
	got, err := c.send(t.Context(), u, r, true)
	if err != nil {
		t.Errorf("%s by %s: %v", name, u.name, err)
	} else if !want.is(got) {
		body, _ := json.Marshal(r.body)
		t.Errorf("%s by %s: got %s, want %d %s %q\n%s %s %.300s",
			name, u.name, got, want.code, want.policy, want.text, r.method, r.path, body)
	}
	return got
}

// verdicts are those for users of three sorts: the stranger, who claims nothing; the member, who claims
// fraud/development; and claimers of everything.
type verdicts struct{ stranger, member, claimer verdict }

func all(v verdict) verdicts { return verdicts{v, v, v} }

// but are the verdicts where only claimers of everything have another one.
func but(rest, claimer verdict) verdicts { return verdicts{rest, rest, claimer} }

// wants sends a request as users of each sort, at once.
func (c *cluster) wants(t *testing.T, name string, r request, want verdicts) {
	t.Helper()
	all := map[*user]verdict{&stranger: want.stranger, &member: want.member, &flyte: want.claimer}
	if !testing.Short() {
		all[&unlisted], all[&operator], all[&controller] = want.stranger, want.claimer, want.claimer
	}
	var wg sync.WaitGroup
	for u, v := range all {
		wg.Go(func() { c.want(t, name, *u, r, v) })
	}
	wg.Wait()
}

// changed makes a change to a live object in each way, as users of each sort. The short form takes one of the
// ways, and for the next change or kind another one.
func (c *cluster) changed(t *testing.T, name string, ways map[string]request, want verdicts) {
	t.Helper()
	names := slices.Sorted(maps.Keys(ways))
	if testing.Short() {
		sum := crc32.ChecksumIEEE([]byte(t.Name() + name))
		names = names[sum%uint32(len(names)):][:1]
	}
	for _, way := range names {
		c.wants(t, name+" by "+way, ways[way], want)
	}
}

func TestMatrix(t *testing.T) {
	t.Parallel()
	c := get(t)
	cells := map[string]func(*testing.T){
		"controllerrevisions": c.revisionRows, "taskactions": c.actionRows,
	}
	for _, k := range kinds {
		cells[k.resource] = func(t *testing.T) { c.kindRows(t, k) }
	}
	for _, k := range workloads {
		cells[k.resource+"."+k.apiVersion] = func(t *testing.T) { c.workloadRows(t, k) }
	}
	for name, rows := range cells {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rows(t)
		})
	}
}

// kindRows make and change objects of a kind of Kubernetes' own.
func (c *cluster) kindRows(t *testing.T, k kind) {
	for name, edits := range map[string][]edit{"plain": nil, "mine": {mine}, "theirs": {theirs}} {
		c.do(t, admin, k.post(k.object(name, edits...)))
	}
	c.createRows(t, k)
	c.changeRows(t, k)
	c.outsideRows(t, k)
	if k.kind == "Pod" {
		c.podRows(t)
	}
}

// createRows create objects, by POST and by server-side apply.
func (c *cluster) createRows(t *testing.T, k kind) {
	none, inDevelopment, other := claim("-/-"), claim("-/development"), label("organization", "other")
	fraud, development := label("project", "fraud"), label("domain", "development")
	for name, row := range map[string]struct {
		edits []edit
		verdicts
	}{
		"plain":                   {nil, all(ok)},
		"mine":                    {[]edit{mine}, verdicts{claimMine, ok, ok}},
		"theirs":                  {[]edit{theirs}, but(claimTheirs, ok)},
		"project and domain only": {[]edit{fraud, development}, verdicts{claimMine, ok, ok}},
		"organization only":       {[]edit{label("organization", "flyte")}, but(none, ok)},
		"project only":            {[]edit{fraud}, but(claim("fraud/-"), ok)},
		"domain only":             {[]edit{development}, but(inDevelopment, ok)},
		"empty project":           {[]edit{label("project", ""), development}, but(inDevelopment, ok)},
		"empty domain":            {[]edit{fraud, label("domain", "")}, but(claim("fraud/-"), ok)},
		"inject label only":       {[]edit{label("inject-flyte-secrets", "false")}, but(none, ok)},
		"declaration only":        {[]edit{annotate("flyte.secrets/s0", "x")}, but(none, ok)},
		"inject annotation only":  {[]edit{annotate("inject.flyte.org/entrypoint", "[]")}, but(none, ok)},
		"other labels":            {[]edit{label("flyte.org/project", "x"), annotate("flyte.secret/s0", "x")}, all(ok)},
		"other organization":      {[]edit{mine, other}, verdicts{claimMine, foreign, foreign}},
		"owner":                   {[]edit{owner}, but(owned, ok)},
		"owner and scope":         {[]edit{mine, owner}, verdicts{claimMine, owned, ok}},
		"stamp":                   {[]edit{stamp("a/1")}, but(stamped, asked)},
		"stamp and scope":         {[]edit{mine, stamp("a/1")}, but(stamped, asked)},
		"account of a claimer":    {[]edit{runsAs("flyte-binary")}, all(claimer)},
		"account of none":         {[]edit{runsAs("spark")}, all(ok)},
	} {
		want := row.verdicts
		if k.kind == "PodTemplate" {
			want = templateOf(want)
		}
		o := k.object("new", row.edits...)
		if k.kind == "PodTemplate" && name == "account of a claimer" {
			// Two policies refuse it to others, and which one is named is open.
			c.want(t, name, flyte, k.post(o), want.claimer)
			continue
		}
		c.changed(t, name, map[string]request{"post": k.post(o), "apply": k.apply(o)}, want)
		if !testing.Short() || name == "theirs" {
			c.wants(t, name+", elsewhere", k.post(o).elsewhere(), all(ok))
		}
	}
}

// templateOf are the verdicts of PodTemplates: what others would be allowed, only claimers of everything are.
func templateOf(want verdicts) verdicts {
	for _, v := range []*verdict{&want.stranger, &want.member} {
		if *v == ok {
			*v = isTemplate
		}
	}
	return want
}

// changeRows change live pods and templates, in each way in which an object is changed.
func (c *cluster) changeRows(t *testing.T, k kind) {
	// What a pod says does not change, not even in the hands of claimers. What a template says does.
	fixed := changing
	if len(k.template) > 0 {
		fixed = ok
	}
	one := func(ch change) []change { return []change{ch} }
	scope := []change{relabel("project", "fraud"), relabel("domain", "development")}
	fixedMine, ofMine := verdicts{claimMine, fixed, fixed}, verdicts{claimMine, ok, ok}
	toTheirs, fromTheirs := both("fraud/development", "fraud/production"), both("fraud/production", "fraud/development")
	toRisk, toNone := both("fraud/development", "risk/development"), both("fraud/development", "-/development")
	type row struct {
		on      string
		changes []change
		verdicts
	}
	rows := map[string]row{
		"project":             {"plain", one(relabel("project", "fraud")), but(claim("fraud/-"), fixed)},
		"inject label":        {"plain", one(relabel("inject-flyte-secrets", "true")), but(claim("-/-"), fixed)},
		"organization":        {"plain", one(relabel("organization", "flyte")), but(claim("-/-"), fixed)},
		"declaration":         {"plain", one(note("flyte.secrets/s0", "x")), but(claim("-/-"), fixed)},
		"scope":               {"plain", scope, fixedMine},
		"image":               {"plain", one(newImage), all(ok)},
		"label":               {"plain", one(relabel("other", "y")), all(ok)},
		"other project":       {"mine", one(relabel("project", "risk")), but(toRisk, fixed)},
		"other domain":        {"mine", one(relabel("domain", "production")), but(toTheirs, fixed)},
		"no project":          {"mine", one(relabel("project", nil)), but(toNone, fixed)},
		"no inject label":     {"mine", one(relabel("inject-flyte-secrets", nil)), fixedMine},
		"other inject label":  {"mine", one(relabel("inject-flyte-secrets", "no")), fixedMine},
		"no organization":     {"mine", one(relabel("organization", nil)), fixedMine},
		"other organization":  {"mine", one(relabel("organization", "other")), verdicts{claimMine, foreign, foreign}},
		"declares more":       {"mine", one(note("flyte.secrets/s9", "x")), fixedMine},
		"declares less":       {"mine", one(note("flyte.secrets/s0", nil)), fixedMine},
		"declares else":       {"mine", one(note("flyte.secrets/s0", "x")), fixedMine},
		"inject annotation":   {"mine", one(note("inject.flyte.org/entrypoint", "[]")), fixedMine},
		"a stamp":             {"mine", one(note("inject.flyte.org/inherits", "a/1")), but(stamped, asked)},
		"init image":          {"plain", one(initImage), all(ok)},
		"init image of mine":  {"mine", one(initImage), ofMine},
		"image of mine":       {"mine", one(newImage), ofMine},
		"image of theirs":     {"theirs", one(newImage), but(claimTheirs, ok)},
		"from theirs to mine": {"theirs", one(relabel("domain", "development")), but(fromTheirs, fixed)},
		"no scope": {"mine", []change{
			relabel("project", nil), relabel("domain", nil), relabel("organization", nil),
			relabel("inject-flyte-secrets", nil), note("flyte.secrets/s0", nil),
		}, fixedMine},
	}
	if len(k.template) == 0 {
		rows["other label of mine"] = row{"mine", one(relabel("other", "y")), all(ok)}
		rows["other annotation of mine"] = row{"mine", one(note("note", "y")), all(ok)}
		rows["priority of mine"] = row{"mine", one(to(30, "spec", "activeDeadlineSeconds")), all(ok)}
	} else {
		command := to([]any{"y"}, "spec", "containers", "main", "command")
		variable := to([]any{object{"name": "A"}}, "spec", "containers", "main", "env")
		rows["other label of mine"] = row{"mine", one(relabel("other", "y")), ofMine}
		rows["command of mine"] = row{"mine", one(command), ofMine}
		rows["variable of mine"] = row{"mine", one(variable), ofMine}
		rows["account"] = row{"plain", one(to("flyte-binary", "spec", "serviceAccountName")), all(claimer)}
	}
	for name, row := range rows {
		want := row.verdicts
		switch {
		case k.kind == "Job" && row.changes[0].path[0] == "spec":
			continue // of a Job's template, only what Kueue changes can be changed
		case k.kind == "PodTemplate":
			want = templateOf(want)
		}
		var changes []change
		for _, ch := range row.changes {
			changes = append(changes, ch.of(k))
		}
		ways := c.ways(t, k, row.on, "", changes...)
		if k.kind == "PodTemplate" && name == "account" {
			c.want(t, name, flyte, ways["json"], want.claimer) // as above
			continue
		}
		c.changed(t, name, ways, want)
	}
}

// outsideRows change fields of live objects that do not change their pods. Every user may, but not all owners
// may be changed.
func (c *cluster) outsideRows(t *testing.T, k kind) {
	rows := map[string]change{"finalizer": finalizer}
	if len(k.template) > 0 {
		rows["own label"] = relabel("project", "fraud")
	}
	if k.scale {
		rows["replicas"] = to(7, "spec", "replicas")
	}
	switch k.kind {
	case "Job":
		rows["suspend"] = to(false, "spec", "suspend")
	case "CronJob":
		rows["schedule"] = to("1 * * * *", "spec", "schedule")
	}
	for _, on := range []string{"plain", "mine", "theirs"} {
		for name, ch := range rows {
			c.changed(t, on+": "+name, c.ways(t, k, on, "", ch), all(ok))
		}
		ownedBy := func(version, sub string) map[string]request {
			return c.ways(t, k, on, sub, to([]any{reference(version)}, "metadata", "ownerReferences"))
		}
		c.changed(t, on+": owner", ownedBy("flyte.org/v1", ""), but(owned, ok))
		another := but(owned, ok)
		if on == "plain" && k.kind != "PodTemplate" {
			another = all(ok)
		}
		c.changed(t, on+": another owner", ownedBy("ray.io/v1", ""), another)
		if len(k.template) > 1 { // has a status
			c.changed(t, on+": owner by status", ownedBy("flyte.org/v1", "status"), but(owned, ok))
			c.changed(t, on+": another owner by status", ownedBy("ray.io/v1", "status"), another)
			c.changed(t, on+": note by status", c.ways(t, k, on, "status", note("note", "y")), all(ok))
		}
		if k.scale {
			c.changed(t, on+": scale", c.scaled(k, on), all(ok))
		}
		c.wants(t, on+": deleted", remove(k.path(on)), all(ok))
	}
	c.ownerRows(t, k)
	c.ending(t, k, k.object("ending", theirs))
}

// scaled returns the requests that change the scale of an object.
func (c *cluster) scaled(k kind, name string) map[string]request {
	r := k.patch(name, mergePatch, object{"spec": object{"replicas": 5}})
	r.path += "/scale"
	return map[string]request{"merge": r}
}

// ownerRows change the owners of a live object that says a scope.
func (c *cluster) ownerRows(t *testing.T, k kind) {
	for _, version := range []string{"flyte.org/v1", "ray.io/v1", "apps/v1"} {
		name := "owned-" + strings.NewReplacer("/", "-", ".", "-").Replace(version)
		c.do(t, admin, k.post(k.object(name, mine, ownedBy(version))))
		c.changed(t, version+" gone", c.ways(t, k, name, "", to(nil, "metadata", "ownerReferences")), but(owned, ok))
		more := edited(reference("apps/v1"), set("7", "uid"), set(false, "controller"))
		ways := c.ways(t, k, name, "", to([]any{reference(version), more}, "metadata", "ownerReferences"))
		c.changed(t, version+" and one more", ways, but(owned, ok))
	}
	// An owner of another group is no owner of Flyte's until its group is changed.
	c.do(t, admin, k.post(k.object("disguised", ownedBy("example.org/v1"))))
	undisguised := to([]any{reference("flyte.org/v1")}, "metadata", "ownerReferences")
	c.changed(t, "a disguised owner", c.ways(t, k, "disguised", "", undisguised), but(owned, ok))
	for field, row := range map[string]struct {
		value any
		verdicts
	}{
		"apiVersion":         {"flyte.org/v2", but(owned, ok)},
		"blockOwnerDeletion": {true, all(ok)},
		"controller":         {false, but(owned, ok)},
		"kind":               {"Other", but(owned, ok)},
		"name":               {"y-a0", but(owned, ok)},
		"uid":                {"6", but(owned, ok)},
	} {
		references := []any{edited(reference("flyte.org/v1"), set(row.value, field))}
		ways := c.ways(t, k, "owned-flyte-org-v1", "", to(references, "metadata", "ownerReferences"))
		if field == "uid" { // these would add an owner, since it is the key
			delete(ways, "strategic")
			delete(ways, "apply")
		}
		c.changed(t, "owner's "+field, ways, row.verdicts)
	}
}

// ending deletes an object that a finalizer holds, and takes that away, as the garbage collector does.
func (c *cluster) ending(t *testing.T, k kind, o object) {
	t.Helper()
	name := text(o, "metadata", "name")
	c.do(t, admin, k.post(edited(o, set(finalizers, "metadata", "finalizers"))))
	c.do(t, admin, remove(k.path(name)))
	last := k.patch(name, mergePatch, object{"metadata": object{"finalizers": nil}})
	c.wants(t, "the last finalizer", last, all(ok))
	c.do(t, collector, last)
	require.Equal(t, http.StatusNotFound, c.try(t, admin, fetch(k.path(name))).code)
}

// podRows change live pods by their subresources.
func (c *cluster) podRows(t *testing.T) {
	mineToRisk := both("fraud/development", "risk/development")
	theirsToRisk := both("fraud/production", "risk/production")
	legacy := collection("v1", "bindings", "flyte")
	for on, row := range map[string]struct {
		ephemeral, declares, relabels verdicts
	}{
		"plain":  {all(ok), but(claim("-/-"), changing), but(claim("risk/-"), changing)},
		"mine":   {verdicts{claimMine, ok, ok}, verdicts{claimMine, changing, changing}, but(mineToRisk, changing)},
		"theirs": {but(claimTheirs, ok), but(claimTheirs, changing), but(theirsToRisk, changing)},
	} {
		c.changed(t, on+": ephemeral container", c.ways(t, pods, on, "ephemeralcontainers", debug), row.ephemeral)
		c.changed(t, on+": status", c.ways(t, pods, on, "status", to("Running", "status", "phase")), all(ok))
		c.changed(t, on+": status declares", c.ways(t, pods, on, "status", note("flyte.secrets/s9", "x")), row.declares)
		c.changed(t, on+": status relabels", c.ways(t, pods, on, "status", relabel("project", "risk")), row.relabels)
		if c.has(t, "pods/resize") {
			requests := to("20m", "spec", "containers", "main", "resources", "requests", "cpu")
			c.changed(t, on+": resize", c.ways(t, pods, on, "resize", requests), all(ok))
		}
		eviction := edited(object{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": object{"name": on}}, mine)
		c.wants(t, on+": eviction", post(pods.path(on, "eviction"), eviction), all(ok))
		for name, row := range map[string]struct {
			edits []edit
			verdict
		}{
			"nothing":      {nil, ok},
			"other label":  {[]edit{label("topology.kubernetes.io/zone", "a")}, ok},
			"project":      {[]edit{label("project", "fraud")}, bound},
			"same project": {[]edit{label("project", "fraud"), label("domain", "development")}, bound},
			"declaration":  {[]edit{annotate("flyte.secrets/s9", "x")}, bound},
			"stamp":        {[]edit{stamp("a/1")}, bound},
		} {
			binding := edited(object{
				"apiVersion": "v1", "kind": "Binding",
				"metadata": object{"name": on}, "target": object{"kind": "Node", "name": "node"},
			}, row.edits...)
			c.wants(t, on+": binding of "+name, post(pods.path(on, "binding"), binding), all(row.verdict))
			c.wants(t, on+": legacy binding of "+name, post(legacy, binding), all(row.verdict))
		}
	}
}

// revisionRows make and change ControllerRevisions, from which a controller makes the pods of a StatefulSet or
// a DaemonSet.
func (c *cluster) revisionRows(t *testing.T) {
	revision := func(name string, data object) object {
		o := revisions.empty(name)
		o["data"], o["revision"] = data, 1
		return o
	}
	containers := []any{object{"name": "main", "image": "y:1"}}
	image := edited(object{}, set(containers, "spec", "template", "spec", "containers"))
	for name, data := range map[string]object{
		"an image": image, "a scope": {"spec": object{"template": edited(object{}, theirs)}}, "nothing": {},
	} {
		r := revisions.post(revision("new", data))
		c.wants(t, name, r, but(isRevision, ok))
		c.wants(t, name+" elsewhere", r.elsewhere(), all(ok))
	}
	c.do(t, admin, revisions.post(revision("live", image)))
	c.changed(t, "number", c.ways(t, revisions, "live", "", to(9, "revision")), but(isRevision, ok))
	c.changed(t, "finalizer", c.ways(t, revisions, "live", "", finalizer), all(ok))
	adopted := to([]any{reference("apps/v1")}, "metadata", "ownerReferences")
	c.changed(t, "owner", c.ways(t, revisions, "live", "", adopted), all(ok))
	c.ending(t, revisions, revision("ending", image))
	// Two controllers make them, and not accounts of the same names in other namespaces.
	r := revisions.post(revision("new", image))
	for _, name := range []string{"daemon-set-controller", "statefulset-controller"} {
		for namespace, want := range map[string]verdict{"kube-system": ok, "ray-system": isRevision} {
			u := account(namespace, name)
			c.grant(t, "flyte", "all-but-claim", nil, u)
			c.want(t, "made", u, r, want)
		}
	}
	// Where they have no accounts of their own, they are this user.
	manager := person("system:kube-controller-manager")
	c.grant(t, "flyte", "all-but-claim", nil, manager)
	c.want(t, "made", manager, r, ok)
}

// workloadRows make and change objects of an operator.
func (c *cluster) workloadRows(t *testing.T, k kind) {
	want := but(anyScope, ok)
	spec := object{"replicas": 1, "template": pod("x", mine)}
	c.wants(t, "new", k.post(k.with("new", spec)), want)
	c.wants(t, "new, without a spec", k.post(k.empty("new")), want)
	c.wants(t, "new, elsewhere", k.post(k.with("new", spec)).elsewhere(), all(ok))
	c.wants(t, "new, applied", k.apply(k.with("new", spec)), want)
	c.do(t, admin, k.post(k.with("live", spec)))
	for name, ch := range map[string]change{
		"spec":             to("x", "spec", "entrypoint"),
		"replicas":         to(7, "spec", "replicas"),
		"no template":      to(nil, "spec", "template"),
		"label":            relabel("project", "risk"),
		"other label":      relabel("own", "y"),
		"other annotation": note("note", "y"),
	} {
		c.changed(t, name, c.ways(t, k, "live", "", ch), want)
	}
	c.changed(t, "finalizer", c.ways(t, k, "live", "", finalizer), all(ok))
	c.ownersOf(t, k, spec, want)
	c.changed(t, "status", c.ways(t, k, "live", "status", to(object{"phase": "x"}, "status")), all(ok))
	if k.scale {
		c.changed(t, "scale", c.scaled(k, "live"), all(ok))
	}
	c.wants(t, "deleted", remove(k.path("live")), all(ok))
	c.ending(t, k, k.with("ending", spec))
}

// ownersOf changes the owners of an object of an operator, which is allowed as want says.
func (c *cluster) ownersOf(t *testing.T, k kind, spec any, want verdicts) {
	for _, version := range []string{"flyte.org/v1", "ray.io/v1", "apps/v1"} {
		name := "owned-" + strings.NewReplacer("/", "-", ".", "-").Replace(version)
		c.do(t, admin, k.post(edited(k.with(name, spec), ownedBy(version))))
		c.changed(t, version+" gone", c.ways(t, k, name, "", to(nil, "metadata", "ownerReferences")), want)
		other := edited(reference(version), set("y", "name"))
		c.changed(t, "not "+version, c.ways(t, k, name, "", to([]any{other}, "metadata", "ownerReferences")), want)
	}
}

// actionRows make and change TaskActions.
func (c *cluster) actionRows(t *testing.T) {
	k := taskActions
	spec := func(project, domain any) object {
		return object{"project": project, "domain": domain, "taskTemplate": "eA=="}
	}
	ofMine, ofTheirs := verdicts{action("fraud/development"), ok, ok}, but(action("fraud/production"), ok)
	for name, row := range map[string]struct {
		spec any
		verdicts
	}{
		"mine":           {spec("fraud", "development"), ofMine},
		"theirs":         {spec("fraud", "production"), ofTheirs},
		"no project":     {spec("", "development"), but(action("-/development"), ok)},
		"no domain":      {object{"project": "fraud"}, but(action("fraud/-"), ok)},
		"a slash":        {spec("fraud/development", ""), but(action("fraud/development/-"), ok)},
		"no spec":        {nil, but(action("-/-"), ok)},
		"a text as spec": {"fraud/development", but(action("-/-"), ok)},
		"a list as spec": {[]any{"fraud", "development"}, but(action("-/-"), ok)},
		"a number":       {spec(5, "development"), but(action("-/development"), ok)},
		"a map":          {spec(object{"a": "b"}, []any{"a"}), but(action("-/-"), ok)},
	} {
		c.wants(t, name, k.post(k.with("new", row.spec)), row.verdicts)
		c.wants(t, name+", applied", k.apply(k.with("new", row.spec)), row.verdicts)
		c.wants(t, name+", elsewhere", k.post(k.with("new", row.spec)).elsewhere(), all(ok))
	}
	for _, domain := range []string{"development", "production"} {
		c.do(t, admin, k.post(k.with(domain, spec("fraud", domain))))
	}
	template := to("eQ==", "spec", "taskTemplate")
	toTheirs := actions("fraud/development", "fraud/production")
	fromTheirs := actions("fraud/production", "fraud/development")
	for name, row := range map[string]struct {
		on string
		change
		verdicts
	}{
		"template":        {"development", template, ofMine},
		"annotation":      {"development", note("flyte.secrets/s9", "x"), ofMine},
		"label":           {"development", relabel("project", "risk"), ofMine},
		"to theirs":       {"development", to("production", "spec", "domain"), but(toTheirs, ok)},
		"to mine":         {"production", to("development", "spec", "domain"), but(fromTheirs, ok)},
		"theirs":          {"production", template, ofTheirs},
		"label, theirs":   {"production", relabel("project", "risk"), ofTheirs},
		"finalizer":       {"production", finalizer, all(ok)},
		"no longer, spec": {"production", to(nil, "spec"), but(actions("fraud/production", "-/-"), ok)},
	} {
		c.changed(t, name, c.ways(t, k, row.on, "", row.change), row.verdicts)
	}
	c.ownersOf(t, k, spec("fraud", "production"), ofTheirs)
	c.changed(t, "status", c.ways(t, k, "production", "status", to(object{"phase": "x"}, "status")), all(ok))
	c.ending(t, k, k.with("ending", spec("fraud", "production")))
}
