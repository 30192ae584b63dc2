package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/md5" //nolint:gosec // the names of the Secrets
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/store"
)

const kubeName = "kube"

// The targets of kube.
const (
	kubeTarget         = 0.8 // the rate of GETs, as a multiple of that of plain GETs
	kubeResidentTarget = 60  // MiB, while all secrets are listed and many are resolved
)

const (
	kubeNamespace = "bench"
	rungsOfTask   = 4
	// gets is how many reads the store has for a list: of five secrets at four scopes each, all at once.
	gets = len(rungs) * rungsOfTask
	// ours and admin are the users of the API server, who have tokens of these names.
	ours, admin = "injectd", "admin"
)

// A shape is where the secrets of a list are: all at the same rung of the ladder.
type shape struct {
	name string
	rung int
}

var shapes = [...]shape{
	{"at the org", rungsOfTask - 1},  // all rungs have to be asked
	{"at the project and domain", 0}, // the first decides, but the others were asked as well
}

// refs returns the refs of a list of a project.
func (s shape) refs(l list) (refs [len(rungs)]secret.Ref) {
	for i := range refs {
		refs[i] = secret.Ref{
			Scope: task(l.project).Ladder()[s.rung],
			Key:   fmt.Sprintf("TASK_%d_%d_SECRET_%d_%d", l.project, l.number, s.rung, i),
		}
	}
	return refs
}

// A namespace is an API server with the secrets of some lists, and what is compared on it.
type namespace struct {
	*comparison

	filling // its values

	lists     int // of each project, in each shape
	roots     *x509.CertPool
	api, etcd *server
	injectd   *server // on the API server
	sealed    *server // injectd on a file with the same secrets
}

// refs yields the refs of all secrets.
func (n *namespace) refs(yield func(secret.Ref) bool) {
	for project := range projects {
		for number := range n.lists {
			for _, s := range shapes {
				for _, ref := range s.refs(list{project, number}) {
					if !yield(ref) {
						return
					}
				}
			}
		}
	}
}

// kube compares the reads that injectd makes of an API server with plain GETs of the same Secrets, and
// measures the memory of injectd.
func (b *bench) kube() (err error) {
	program, err := filepath.Abs("../bin/kube-apiserver")
	if err != nil {
		return err
	}
	if _, err := os.Stat(program); err != nil {
		b.report.note("skipped: %s (make kubernetes)", err)
		return nil
	}
	n := &namespace{filling: newFilling(b.kept), lists: b.kept / len(rungs) / len(shapes) / projects}
	if n.comparison, err = b.newComparison(); err != nil {
		return err
	}
	defer func() {
		for _, s := range []*server{n.injectd, n.sealed, n.api, n.etcd} {
			if s != nil {
				err = errors.Join(err, s.stop())
			}
		}
	}()
	if err := n.start(program); err != nil {
		return err
	}
	for _, l := range n.loads[:2] {
		for _, s := range shapes {
			if err := n.compare(s, l); err != nil {
				return fmt.Errorf("%s, %s: %w", workload(l.clients), s.name, err)
			}
		}
	}
	return n.memory()
}

// start starts the servers and gives them the secrets.
func (n *namespace) start(program string) (err error) {
	if n.etcd, err = n.comparison.etcd("http"); err != nil {
		return err
	}
	if n.api, err = n.startAPI(program); err != nil {
		return err
	}
	ca, err := os.ReadFile(n.authority.file)
	if err != nil {
		return err
	}
	n.roots = x509.NewCertPool()
	n.roots.AppendCertsFromPEM(ca)
	if err := n.prepare(); err != nil {
		return err
	}
	policy, err := os.ReadFile(n.policy)
	if err != nil {
		return err
	}
	if n.policy, err = n.file("policy-kube.yaml", append(policy, `- name: manager
  identity: {spiffe: "spiffe://example.org/manager"}
  manage: [{project: "*", domain: "*"}]
  list: [{project: "*", domain: "*"}]
`...)); err != nil {
		return err
	}
	kubeconfig, err := n.file("kubeconfig", fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: bench, cluster: {server: "https://%s", certificate-authority: %q}}]
users: [{name: bench, user: {token: %s}}]
contexts: [{name: bench, context: {cluster: bench, user: bench}}]
current-context: bench
`, n.api.address, n.authority.file, ours))
	if err != nil {
		return err
	}
	n.injectd, err = n.startInjectd(n.authority, n.server, n.policy, "kube",
		"--store", "kube://"+kubeNamespace+"?kubeconfig="+kubeconfig)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := n.fill(); err != nil {
		return err
	}
	n.report.note("%d secrets were created in %.0f s", n.secrets(), time.Since(begin).Seconds())
	path, key := n.path("kube.db"), n.path("kube.key")
	if err := n.seal(n.ctx, path, key, n.refs); err != nil {
		return err
	}
	n.sealed, err = n.startInjectd(n.authority, n.server, n.policy, "kube-sealed",
		"--store", "file://"+path, "--key-file", key)
	return err
}

// secrets is how many secrets there are.
func (n *namespace) secrets() int { return projects * n.lists * len(shapes) * len(rungs) }

// startAPI starts an API server with its defaults, and with RBAC. As pods do, its users have tokens: it
// would verify the chain of a client certificate for each request.
func (n *namespace) startAPI(program string) (*server, error) {
	ports, err := freePorts(n.ctx, 1)
	if err != nil {
		return nil, err
	}
	tokens, err := n.file("tokens.csv", fmt.Appendf(nil, "%s,%s,1,system:masters\n%s,%s,2\n", admin, admin, ours, ours))
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	accounts, err := n.file("accounts.key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(ports[0], ":")
	cert := n.server
	s := &server{address: ports[0]}
	s.cmd = exec.CommandContext(n.ctx, program, //nolint:gosec // the server that is compared
		"--bind-address", "127.0.0.1", "--secure-port", port, "--advertise-address", "127.0.0.1",
		"--endpoint-reconciler-type", "none", "--service-cluster-ip-range", "10.96.0.0/16",
		"--etcd-servers", "http://"+n.etcd.address,
		"--tls-cert-file", cert.cert, "--tls-private-key-file", cert.key, "--token-auth-file", tokens,
		"--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-signing-key-file", accounts, "--service-account-key-file", accounts,
		"--authorization-mode", "RBAC", "--disable-admission-plugins", "ServiceAccount")
	said, err := s.start()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(n.path("kube-apiserver.log"))
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	go io.Copy(log, said) //nolint:errcheck // until it ends
	return s, nil
}

// prepare waits until the API server is ready, and makes the namespace and the role of our user.
func (n *namespace) prepare() error {
	ctx, cancel := context.WithTimeout(n.ctx, limit)
	defer cancel()
	client := n.http()
	defer client.CloseIdleConnections()
	for {
		once, stop := context.WithTimeout(ctx, time.Second)
		code, text, err := n.call(once, client, admin, "/readyz", "", nil)
		stop()
		if err == nil && code == http.StatusOK {
			break
		}
		if ctx.Err() != nil {
			log, _ := os.ReadFile(n.path("kube-apiserver.log"))
			return fmt.Errorf("kube-apiserver does not serve: %d: %s: %w\n%s", code, text, err,
				log[max(0, len(log)-2000):])
		}
		time.Sleep(100 * time.Millisecond)
	}
	const group = "rbac.authorization.k8s.io"
	of := "/apis/" + group + "/v1/namespaces/" + kubeNamespace
	type object = map[string]any
	for _, o := range []struct {
		path string
		body object
	}{
		{"/api/v1/namespaces", object{"metadata": object{"name": kubeNamespace}}},
		{of + "/roles", object{"metadata": object{"name": ours}, "rules": []object{{
			"apiGroups": []string{""}, "resources": []string{"secrets"},
			"verbs": []string{"get", "list", "create", "update", "delete"},
		}}}},
		{of + "/rolebindings", object{
			"metadata": object{"name": ours}, "roleRef": object{"apiGroup": group, "kind": "Role", "name": ours},
			"subjects": []object{{"apiGroup": group, "kind": "User", "name": ours}},
		}},
	} {
		text, err := json.Marshal(o.body)
		if err != nil {
			return err
		}
		code, answer, err := n.call(ctx, client, admin, o.path, "application/json", text)
		if err != nil || code != http.StatusCreated {
			return errors.Join(fmt.Errorf("%s: %d: %s", o.path, code, answer), err)
		}
	}
	return nil
}

// http returns an HTTP client with one connection of HTTP/2.
func (n *namespace) http() *http.Client {
	return &http.Client{Timeout: limit, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: n.roots, MinVersion: tls.VersionTLS13}, ForceAttemptHTTP2: true,
	}}
}

// call calls the API server as a user, and returns the answer. Without a body it is a GET that accepts a
// format.
func (n *namespace) call(
	ctx context.Context, c *http.Client, user, path, format string, body []byte,
) (code int, answer []byte, err error) {
	method := http.MethodGet
	if body != nil {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(ctx, method, "https://"+n.api.address+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	r.Header["Authorization"] = []string{"Bearer " + user}
	r.Header["Accept"] = []string{format}
	r.Header["Content-Type"] = []string{format}
	resp, err := c.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // was read
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// manager opens a client that may create and list secrets.
func (n *namespace) manager() (*rpc.Client, error) {
	cert, err := n.issue(n.authority, "manager", "spiffe://example.org/manager")
	if err != nil {
		return nil, err
	}
	return rpc.Open(rpc.Options{
		Address: n.injectd.address, TLS: true, CAFile: n.authority.file, CertFile: cert.cert, KeyFile: cert.key,
		Timeout: limit,
	})
}

// fill creates the secrets through injectd.
func (n *namespace) fill() error {
	manager, err := n.manager()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(n.ctx)
	group.SetLimit(32)
	for ref := range n.refs {
		group.Go(func() error { return manager.Create(ctx, ref, secret.NewValue(n.value(ref)), store.Regular) })
	}
	return errors.Join(group.Wait(), manager.Close())
}

// own returns a random list that no other of some clients chooses, so that no two read the same secret at
// the same time: injectd would read it once.
func (n *namespace) own(r *mathrand.Rand, client, clients int) list {
	together := (clients + projects - 1) / projects // clients of a project
	return list{client % projects, r.IntN(n.lists/together)*together + client/projects}
}

// resolver returns a client of an injectd that resolves lists of a shape.
func (n *namespace) resolver(s *server, sh shape, i, clients int) (*client, error) {
	return n.resolving(s, n.filling, i%projects, func(r *mathrand.Rand) [len(rungs)]secret.Ref {
		return sh.refs(n.own(r, i, clients))
	})
}

// A plain reads lists straight from the API server.
type plain struct {
	*namespace

	format string
	rungs  int // how many of each secret are read, from the narrowest on
	https  []*http.Client
	under  chan struct{} // the reads under way, as many as injectd has at most
}

const protobuf, asJSON = "application/vnd.kubernetes.protobuf", "application/json"

// readsAtOnce is how many reads of its store injectd has under way.
const readsAtOnce = 128

func (n *namespace) plain(format string, rungs, connections int) *plain {
	p := &plain{namespace: n, format: format, rungs: rungs, under: make(chan struct{}, readsAtOnce)}
	for range connections {
		p.https = append(p.https, n.http())
	}
	return p
}

// clients returns n clients.
func (p *plain) clients(n int, s shape) []*client {
	var all []*client
	for i := range n {
		all = append(all, &client{
			rand: mathrand.New(mathrand.NewPCG(seed, uint64(i))), //nolint:gosec // which are read is no secret
			ask: func(ctx context.Context, r *mathrand.Rand) error {
				group, ctx := errgroup.WithContext(ctx)
				for _, ref := range s.refs(p.own(r, i, n)) {
					for rung, at := range task(i % projects).Ladder()[:p.rungs] {
						at := secret.Ref{Scope: at, Key: ref.Key}
						p.under <- struct{}{}
						group.Go(func() error {
							defer func() { <-p.under }()
							return p.get(ctx, p.https[i%len(p.https)], at, rung == s.rung)
						})
					}
				}
				return group.Wait()
			},
			close: func() error { p.https[i%len(p.https)].CloseIdleConnections(); return nil },
		})
	}
	return all
}

// get gets the Secret of ref, which is there or not.
func (p *plain) get(ctx context.Context, c *http.Client, ref secret.Ref, there bool) error {
	sum := md5.Sum([]byte(ref.ID())) //nolint:gosec // as above
	path := "/api/v1/namespaces/" + kubeNamespace + "/secrets/" + hex.EncodeToString(sum[:])
	code, answer, err := p.call(ctx, c, ours, path, p.format, nil)
	if err != nil {
		return err
	}
	value := p.value(ref)
	if p.format == asJSON {
		value = []byte(base64.StdEncoding.EncodeToString(value))
	}
	if there && code == http.StatusOK && bytes.Contains(answer, value) || !there && code == http.StatusNotFound {
		return nil
	}
	return fmt.Errorf("wrong answer: %d for %v", code, ref)
}

// compare compares the ways to read lists of a shape.
func (n *namespace) compare(s shape, l load) (err error) {
	var opened []*client
	defer func() { err = errors.Join(err, closeClients(opened)) }()
	direct := func(name string, p *plain) *side {
		clients := p.clients(l.clients, s)
		opened = append(opened, clients...)
		return &side{name: name, server: n.api, behind: []*server{n.etcd}, clients: clients, while: l.while}
	}
	served := func(name string, by *server, behind ...*server) (*side, error) {
		clients, err := n.clients(l.clients, func(i int) (*client, error) { return n.resolver(by, s, i, l.clients) })
		opened = append(opened, clients...)
		return &side{name: name, server: by, behind: behind, clients: clients, while: l.while}, err
	}
	plainly := direct("plain GETs", n.plain(protobuf, rungsOfTask, 1))
	several := direct("plain GETs by four connections", n.plain(protobuf, rungsOfTask, 4))
	inJSON := direct("plain GETs as JSON", n.plain(asJSON, rungsOfTask, 1))
	deciding := direct("plain GETs of what decides", n.plain(protobuf, s.rung+1, 1))
	resolves, err := served("injectd", n.injectd, n.api, n.etcd)
	if err != nil {
		return err
	}
	sealed, err := served("injectd on a file", n.sealed)
	if err != nil {
		return err
	}
	rounds := (n.rounds + l.every - 1) / l.every
	if err := n.compete(rounds, plainly, several, inJSON, deciding, resolves, sealed); err != nil {
		return err
	}

	of := workload(l.clients) + ", " + s.name
	row := func(name, unit string, value Stat) Row {
		return Row{Workload: of, Name: name, Unit: unit, Value: value}
	}
	// The rate of one client is that of messages to and fro, more than of work.
	target := func(r *Row, one *side) {
		if one == resolves && l.clients > 1 {
			r.atLeast(kubeTarget)
		}
	}
	for _, one := range []*side{plainly, several, inJSON, resolves} {
		r := row(one.name+": GETs", "/s", perSecond(one.of(perGet(each))))
		r.versus(plainly.name, ratios(one.of(each), plainly.of(each)))
		target(&r, one)
		n.report.add(r)
	}
	for _, one := range []*side{plainly, inJSON, resolves} {
		r := row(one.name+": GETs for a second of the CPU time of all", "", perSecond(one.of(perGet(all))))
		r.versus(plainly.name, ratios(one.of(all), plainly.of(all)))
		target(&r, one)
		n.report.add(r)
	}
	api := func(r round) time.Duration { return r.behind } // of the API server and etcd
	theirs := func(r round) time.Duration { return r.cpu + r.behind }
	r := row("injectd: CPU time of the API server and etcd for a GET", "µs", micros(resolves.of(perGet(api))))
	r.versus(plainly.name, ratios(plainly.of(theirs), resolves.of(api)))
	n.report.add(r)
	r = row("injectd: its CPU time for a GET, to the API server's", "µs", micros(resolves.of(perGet(cpu))))
	r.versus("the API server's", ratios(resolves.of(api), resolves.of(cpu)))
	n.report.add(r)
	if s.rung < rungsOfTask-1 { // the wider scopes are asked in vain, so that a round trip is enough
		r = row("injectd: lists, to plain GETs of what decides alone", "/s", perSecond(resolves.of(each)))
		r.versus(deciding.name, ratios(resolves.of(each), deciding.of(each)))
		n.report.add(r)
	}
	r = row("injectd: lists, to a file", "/s", perSecond(resolves.of(each)))
	r.versus(sealed.name, ratios(resolves.of(each), sealed.of(each)))
	n.report.add(r)
	return nil
}

// micros returns microseconds.
func micros(times []time.Duration) Stat {
	v := make([]float64, len(times))
	for i, t := range times {
		v[i] = float64(t) / float64(time.Microsecond)
	}
	return statOf(v)
}

// all is the CPU time of all processes in a round, divided by n.
func all(r round) time.Duration { return r.cpu + r.behind + r.client }

// perGet returns a time of a round, divided by the GETs of a list.
func perGet(of func(round) time.Duration) func(round) time.Duration {
	return func(r round) time.Duration { return of(r) / time.Duration(gets) }
}

// memory reports how much memory injectd takes while all secrets are listed, and while lists are resolved.
func (n *namespace) memory() error {
	manager, err := n.manager()
	if err != nil {
		return err
	}
	defer manager.Close() //nolint:errcheck // has been used
	list := func(context.Context, *mathrand.Rand) error {
		count := 0
		for _, err := range store.All(n.ctx, manager, store.Filter{}) {
			if err != nil {
				return err
			}
			count++
		}
		if count != n.secrets() {
			return fmt.Errorf("wrong answer: %d secrets are listed, not %d", count, n.secrets())
		}
		return nil
	}
	most := n.loads[1].clients
	for _, one := range []struct {
		name string
		open func() ([]*client, error)
	}{
		{"listing all", func() ([]*client, error) {
			return []*client{{ask: list, close: func() error { return nil }}}, nil
		}},
		{"resolving", func() ([]*client, error) {
			return n.clients(most, func(i int) (*client, error) { return n.resolver(n.injectd, shapes[0], i, most) })
		}},
	} {
		clients, err := one.open()
		if err != nil {
			return err
		}
		own, files, err := n.resident(n.injectd, clients)
		if err := errors.Join(err, closeClients(clients)); err != nil {
			return err
		}
		for i := range own {
			own[i] += files[i]
		}
		r := Row{
			Workload: workload(len(clients)), Values: n.secrets(), Name: "peak of memory of injectd, " + one.name,
			Unit: "MiB", Value: statOf([]float64{slices.Max(own)}),
		}
		r.atMost(kubeResidentTarget)
		n.report.add(r)
	}
	return nil
}
