package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"time"

	"inject/resolver"
	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed"
)

const (
	resolveName = "resolve"
	manyName    = "many"
)

// The targets of resolve and many.
const (
	rateTarget     = 1   // the rate, as a multiple of that of etcd
	tailTarget     = 3   // the 99th percentile, as a multiple of the median
	manyTarget     = 1.5 // a resolve among many secrets, as a multiple of one among few
	residentTarget = 100 // MiB of memory beside the mapped store
)

const (
	few = 1000 // secrets of the smaller store
	// projects is the number of projects. Each has secrets and one task. The task has its own
	// certificate, and the policy lets it resolve in its own project and domain only.
	projects = 40
	// importSize is the number of secrets in one import.
	importSize = 100_000
)

// A list is five names that a task declares. Two of the secrets are at the first rung of the
// ladder, and one at each of the others, so that it takes eleven lookups to find them.
type list struct{ project, number int }

var rungs = [...]int{0, 0, 1, 2, 3}

var domains = [...]string{"development", "staging", "production"}

// task returns the scope of the task of a project.
func task(project int) secret.Scope {
	return secret.Scope{
		Org: secret.DefaultOrg, Domain: domains[project%len(domains)], Project: fmt.Sprint("project-", project),
	}
}

// refs returns the refs of the secrets of l.
func (l list) refs() (refs [len(rungs)]secret.Ref) {
	ladder := task(l.project).Ladder()
	for i, rung := range rungs {
		refs[i] = secret.Ref{Scope: ladder[rung], Key: fmt.Sprintf("TASK_%d_%d_SECRET_%d", l.project, l.number, i)}
	}
	return refs
}

// A filling is the n secrets of a store. Their values differ in each run.
type filling struct {
	n    int
	salt string
}

func newFilling(n int) filling {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (Go 1.24)
	return filling{n, hex.EncodeToString(b[:])}
}

// value returns the value of the secret at ref.
func (f filling) value(ref secret.Ref) []byte { return []byte(f.salt + ref.ID()) }

// perProject returns the number of lists of a project.
func (f filling) perProject() int { return f.n / len(rungs) / projects }

// choose returns a random list of a project.
func (f filling) choose(r *mathrand.Rand, project int) list {
	return list{project, r.IntN(f.perProject())}
}

// refs yields the refs of all secrets.
func (f filling) refs(yield func(secret.Ref) bool) {
	for project := range projects {
		for number := range f.perProject() {
			for _, ref := range (list{project, number}).refs() {
				if !yield(ref) {
					return
				}
			}
		}
	}
}

// seal makes a store at path with secrets.
func (f filling) seal(ctx context.Context, path, key string, refs iter.Seq[secret.Ref]) (err error) {
	s, err := sealed.Open(ctx, sealed.Options{Path: path, Write: true, Key: sealed.Key{File: key}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	var secrets []store.New
	for ref := range refs {
		secrets = append(secrets, store.New{Ref: ref, Value: secret.NewValue(f.value(ref))})
		if len(secrets) == importSize {
			if err := s.Import(ctx, secrets); err != nil {
				return err
			}
			secrets = secrets[:0]
		}
	}
	return s.Import(ctx, secrets)
}

// A comparison has the certificates and the policy that all servers of a run share.
type comparison struct {
	*bench

	authority *authority
	server    pair
	tasks     [projects]pair
	policy    string
}

func (b *bench) newComparison() (*comparison, error) {
	if _, err := os.Stat(b.injectd); err != nil {
		return nil, fmt.Errorf("%w (make build)", err)
	}
	a, err := b.newAuthority()
	if err != nil {
		return nil, err
	}
	c := &comparison{bench: b, authority: a}
	if c.server, err = b.issue(a, "server", ""); err != nil {
		return nil, err
	}
	for i := range projects {
		id := fmt.Sprintf("spiffe://example.org/project/%s/domain/%s", task(i).Project, task(i).Domain)
		if c.tasks[i], err = b.issue(a, task(i).Project, id); err != nil {
			return nil, err
		}
	}
	c.policy, err = b.file("policy.yaml", []byte(`version: 1
rules:
- name: tasks
  identity: {spiffe: "spiffe://example.org/project/{project}/domain/{domain}"}
  resolve: {project: "{project}", domain: "{domain}"}
`))
	return c, err
}

// serve makes a store with the secrets of f and starts injectd on it.
func (c *comparison) serve(section string, f filling) (*server, error) {
	name := fmt.Sprintf("%s-%d", section, f.n)
	path, key := c.path(name+".db"), c.path(name+".key")
	begin := time.Now()
	if err := f.seal(c.ctx, path, key, f.refs); err != nil {
		return nil, err
	}
	c.report.note("%d secrets were imported in %.0f s", f.n, time.Since(begin).Seconds())
	return c.startInjectd(c.authority, c.server, c.policy, name, "--store", "file://"+path, "--key-file", key)
}

// clients connects n clients to a server, each as one of the tasks.
func (c *comparison) clients(n int, open func(project int) (*client, error)) ([]*client, error) {
	var all []*client
	for i := range n {
		one, err := open(i % projects)
		if err != nil {
			return nil, errors.Join(err, closeClients(all))
		}
		one.rand = mathrand.New(mathrand.NewPCG(seed, uint64(i))) //nolint:gosec // it chooses, and keeps nothing secret
		all = append(all, one)
	}
	if err := connect(c.ctx, all); err != nil {
		return nil, errors.Join(err, closeClients(all))
	}
	return all, nil
}

func closeClients(all []*client) error {
	var errs []error
	for _, c := range all {
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}

// injectdClient returns a client that resolves as inject does.
func (c *comparison) injectdClient(s *server, f filling, project int) (*client, error) {
	return c.resolving(s, f, project, func(r *mathrand.Rand) [len(rungs)]secret.Ref {
		return f.choose(r, project).refs()
	})
}

// resolving returns a client of the task of a project that resolves the secrets that choose returns.
func (c *comparison) resolving(
	s *server, f filling, project int, choose func(*mathrand.Rand) [len(rungs)]secret.Ref,
) (*client, error) {
	opened, err := rpc.Open(rpc.Options{
		Address: s.address, TLS: true, CAFile: c.authority.file,
		CertFile: c.tasks[project].cert, KeyFile: c.tasks[project].key, Timeout: limit,
	})
	if err != nil {
		return nil, err
	}
	ask := func(ctx context.Context, r *mathrand.Rand) error {
		refs := choose(r)
		declared := make([]secret.Declaration, len(refs))
		for i, ref := range refs {
			declared[i].Key = ref.Key
		}
		resolved, err := opened.Resolve(ctx, task(project), declared)
		if err != nil {
			return err
		}
		return right(f, refs[:], resolved)
	}
	return &client{ask: ask, close: opened.Close}, nil
}

// right returns an error unless resolved has the refs and values that are stored.
func right(f filling, refs []secret.Ref, resolved []resolver.Resolved) error {
	if len(resolved) != len(refs) {
		return fmt.Errorf("wrong answer: %d secrets, not %d", len(resolved), len(refs))
	}
	for i, ref := range refs {
		got := resolved[i] // its value was made up a moment ago, so it may be revealed
		if got.Info.Ref != ref || !bytes.Equal(got.Value.Reveal(), f.value(ref)) {
			return fmt.Errorf("wrong answer: not the secret at %s %s", ref.Scope, ref.Key)
		}
	}
	return nil
}

// resolve compares the rate of injectd with that of etcd, which has the same secrets in the
// clear, and the tail of its answers with their median.
func (b *bench) resolve() (err error) {
	c, err := b.newComparison()
	if err != nil {
		return err
	}
	f := newFilling(few)
	ours, err := c.serve(resolveName, f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.stop()) }()
	theirs, err := c.startEtcd(c.authority, c.server)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, theirs.stop()) }()
	if err := c.fillEtcd(theirs, f); err != nil {
		return err
	}
	for _, l := range c.loads {
		rounds := (c.rounds + l.every - 1) / l.every
		if err := c.besideEtcd(ours, theirs, f, l.clients, rounds, l.while); err != nil {
			return fmt.Errorf("%s: %w", workload(l.clients), err)
		}
	}
	return nil
}

func (c *comparison) besideEtcd(ours, theirs *server, f filling, n, rounds int, while time.Duration) (err error) {
	clients, err := c.clients(n, func(project int) (*client, error) { return c.injectdClient(ours, f, project) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeClients(clients)) }()
	readers, err := c.etcdClients(n, theirs, f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, readers.close()) }()

	injectd := &side{name: "injectd", server: ours, clients: clients, while: while}
	atOnce := &side{name: "etcd, five at once", server: theirs, clients: readers.atOnce, while: while}
	inTurn := &side{name: "etcd, in sequence", server: theirs, clients: readers.inTurn, while: while}
	together := &side{name: "etcd, one transaction", server: theirs, clients: readers.together, while: while}
	all := []*side{injectd, atOnce, inTurn, together}
	if err := c.compete(rounds, all...); err != nil {
		return err
	}
	etcd := atOnce // or the other if it is faster, as a user would choose it
	if median(inTurn.of(each)) < median(atOnce.of(each)) {
		etcd = inTurn
	}
	row := func(name, unit string, value Stat) Row {
		return Row{Workload: workload(n), Name: name, Unit: unit, Value: value}
	}
	for _, s := range all {
		r := row(s.name+": rate, to etcd's faster reads", "/s", perSecond(s.of(each)))
		r.versus("etcd's faster reads", ratios(s.of(each), etcd.of(each)))
		if s == injectd {
			r.atLeast(rateTarget)
		}
		c.report.add(r)
	}
	for _, s := range []*side{injectd, etcd} {
		r := row(s.name+": CPU time of the server, to etcd's", "ms", millis(s.of(cpu)))
		r.versus("etcd's", ratios(etcd.of(cpu), s.of(cpu)))
		c.report.add(r)
	}
	for _, s := range []*side{injectd, etcd} {
		r := row(s.name+": 99th percentile, to the median", "ms", millis(s.of(p99)))
		r.versus("the median", ratios(s.of(p50), s.of(p99)))
		if s == injectd {
			r.Target = &Target{fmt.Sprintf("< %d×", tailTarget), r.Ratio.Median < tailTarget}
		}
		c.report.add(r)
	}
	for _, s := range []*side{injectd, etcd} {
		own, _, err := s.server.resident()
		if err != nil {
			return err
		}
		c.report.add(row(s.name+": private memory", "MiB", statOf([]float64{own})))
	}
	return nil
}

// many compares resolves among many secrets with those among few, and measures the memory of
// the server with many.
func (b *bench) many() (err error) {
	c, err := b.newComparison()
	if err != nil {
		return err
	}
	var sides []*side
	fillings := []filling{newFilling(few), newFilling(b.scale.many)}
	for _, f := range fillings {
		s, err2 := c.serve(manyName, f)
		if err2 != nil {
			return err2
		}
		defer func() { err = errors.Join(err, s.stop()) }() //nolint:revive // at the end of all
		clients, err2 := c.clients(64, func(project int) (*client, error) { return c.injectdClient(s, f, project) })
		if err2 != nil {
			return err2
		}
		defer func() { err = errors.Join(err, closeClients(clients)) }() //nolint:revive // at the end of all
		name := fmt.Sprintf("among %d", f.n)
		sides = append(sides, &side{name: name, server: s, clients: clients, while: 500 * time.Millisecond})
	}
	// Run until the caches of the server with many are filled.
	for range 5 {
		if err := sides[1].run(c.ctx); err != nil {
			return err
		}
	}
	if err := c.compete(c.rounds, sides...); err != nil {
		return err
	}
	for _, measured := range []struct {
		name string
		time func(round) time.Duration
	}{{"time of a resolve", each}, {"CPU time of the server", cpu}} {
		for i, s := range sides {
			r := Row{Workload: workload(len(s.clients)), Values: fillings[i].n, Name: measured.name, Unit: "ms"}
			r.Value = millis(s.of(measured.time))
			r.versus("few", ratios(sides[0].of(measured.time), s.of(measured.time)))
			if i > 0 {
				r.Target = &Target{fmt.Sprintf("≤ %g×", manyTarget), r.Ratio.Median <= manyTarget}
			}
			c.report.add(r)
		}
	}
	if err := c.memoryOf(sides[1].server, fillings[1], sides[1].clients); err != nil {
		return err
	}
	most := c.loads[len(c.loads)-1].clients
	clients, err := c.clients(most, func(project int) (*client, error) {
		return c.injectdClient(sides[1].server, fillings[1], project)
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeClients(clients)) }()
	return c.memoryOf(sides[1].server, fillings[1], clients)
}

// resident returns the memory of a server in MiB, private and of mapped files, again and again while
// clients ask.
func (c *comparison) resident(s *server, clients []*client) (own, files []float64, err error) {
	done := make(chan error, 1)
	go func() {
		_, err := drive(c.ctx, clients, c.peak)
		done <- err
	}()
	for asking := true; asking; {
		select {
		case err := <-done:
			if err != nil {
				return nil, nil, err
			}
			asking = false
		case <-time.After(100 * time.Millisecond):
		}
		o, f, err := s.resident()
		if err != nil {
			return nil, nil, err
		}
		own, files = append(own, o), append(files, f)
	}
	return own, files, nil
}

// memoryOf reports the memory of a server while clients ask.
func (c *comparison) memoryOf(s *server, f filling, clients []*client) error {
	program, err := os.Stat(c.injectd)
	if err != nil {
		return err
	}
	own, files, err := c.resident(s, clients)
	if err != nil {
		return err
	}
	// The mapped files are the program and the store. At most the size of the program
	// belongs to it, the rest is the store.
	beside := slices.Clone(own)
	for i := range files {
		beside[i] += min(files[i], float64(program.Size())/(1<<20))
	}
	row := func(name string, value []float64) Row {
		return Row{Workload: workload(len(clients)), Values: f.n, Name: name, Unit: "MiB", Value: statOf(value)}
	}
	peak := row("peak of memory beside the mapped store", []float64{slices.Max(beside)})
	peak.atMost(residentTarget)
	c.report.add(peak)
	c.report.add(row("private memory", own))
	c.report.add(row("memory of mapped files", files))
	return nil
}

func workload(clients int) string {
	if clients == 1 {
		return "1 client"
	}
	return fmt.Sprintf("%d clients", clients)
}
