package main_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	mrand "math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	connectrpc "connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"inject/internal/harness"
	secretpb "inject/resolver/idl/flyteidl2/secret"
	"inject/resolver/idl/flyteidl2/secret/secretconnect"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/kube"
)

// A rolling is two servers behind one address. One after the other ends and is replaced while clients
// ask. No client notices but by requests that fail as unavailable, which it sends again.
type rolling struct {
	*replicas
	*searcher

	t       *testing.T
	proxy   *proxy
	logs    []*process // all that there ever were
	answers atomic.Int64
	ended   chan struct{}

	mu      sync.Mutex
	behind  []*process     // the address: a new connection goes to one of them, also if that is dead
	repeats map[string]int // requests that were sent again, by kind
	refused int            // all of them
	lost    int            // changes that were found to be made when they were sent again
}

// next returns the server of the next connection.
func (r *rolling) next() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.behind[mrand.IntN(len(r.behind))].host()
}

// replace puts another server in the place of number i, which it returns.
func (r *rolling) replace(i int, by *process) (old *process) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, r.behind[i] = r.behind[i], by
	return old
}

func (r *rolling) launch() *process {
	r.t.Helper()
	p := r.start(r.t, "--drain-delay", "200ms")
	r.logs = append(r.logs, p)
	return p
}

// request sends a request until its error is not that something is unavailable. It is given the number of
// the attempt, from 0.
func (r *rolling) request(ctx context.Context, kind string, do func(attempt int) error) error {
	for attempt := 0; ; attempt++ {
		err := do(attempt)
		if err == nil {
			r.answers.Add(1)
		}
		if !errors.Is(err, secret.ErrUnavailable) {
			return err
		}
		r.mu.Lock()
		r.repeats[kind]++
		r.refused++
		r.mu.Unlock()
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20*time.Millisecond + time.Duration(mrand.IntN(50))*time.Millisecond):
		}
	}
}

// repeat calls do until the clients shall end.
func (r *rolling) repeat(ctx context.Context, do func(context.Context) error) error {
	for {
		select {
		case <-r.ended:
			return nil
		default:
		}
		if err := do(ctx); err != nil {
			return err
		}
	}
}

// write changes one of flips. A change that was made, but whose answer was lost, is found to be made when it
// is sent again: what it creates exists, or what it deletes does not.
func (r *rolling) write(ctx context.Context, kind string, m changer, flips []*flip) error {
	f := flips[mrand.IntN(len(flips))]
	v := r.value()
	if f.typ == store.ImagePull {
		v = docker(v)
	}
	c := f.change(v)
	err := r.request(ctx, kind+" "+c.verb, func(attempt int) error {
		err := c.do(ctx, m)
		made := c.verb == "create" && errors.Is(err, secret.ErrExists) ||
			c.verb == "delete" && errors.Is(err, secret.ErrNotFound)
		if attempt > 0 && made {
			r.mu.Lock()
			r.lost++
			r.mu.Unlock()
			err = nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	f.acknowledge()
	return nil
}

// flyteClient calls Flyte's SecretService as Flyte's clients do. It has the errors of package secret.
type flyteClient struct {
	secretconnect.SecretServiceClient

	kind string // overJSON or overGRPC
}

// How Flyte's clients call: its web console over HTTP/1.1, and its command line over HTTP/2.
const overJSON, overGRPC = "Flyte's JSON", "Flyte's gRPC"

func (c flyteClient) Create(ctx context.Context, ref secret.Ref, v secret.Value, t store.Type) error {
	_, err := c.CreateSecret(ctx, &secretpb.CreateSecretRequest{Id: flyteID(ref), SecretSpec: spec(v, t)})
	return flyteError(err)
}

func (c flyteClient) Update(ctx context.Context, ref secret.Ref, v secret.Value) error {
	_, err := c.UpdateSecret(ctx, &secretpb.UpdateSecretRequest{Id: flyteID(ref), SecretSpec: spec(v, store.Regular)})
	return flyteError(err)
}

func (c flyteClient) Delete(ctx context.Context, ref secret.Ref) error {
	_, err := c.DeleteSecret(ctx, &secretpb.DeleteSecretRequest{Id: flyteID(ref)})
	return flyteError(err)
}

func flyteID(r secret.Ref) *secretpb.SecretIdentifier {
	return &secretpb.SecretIdentifier{Organization: r.Org, Domain: r.Domain, Project: r.Project, Name: r.Key}
}

func spec(v secret.Value, t store.Type) *secretpb.SecretSpec {
	return &secretpb.SecretSpec{
		Value: &secretpb.SecretSpec_BinaryValue{BinaryValue: v.Reveal()}, Type: secretpb.SecretType(t),
	}
}

// flyteError gives an error the kind that its code stands for. One that no server has sent is of a
// connection that ended.
func flyteError(err error) error {
	var kind error
	switch code := connectrpc.CodeOf(err); {
	case err == nil:
		return nil
	case code == connectrpc.CodeNotFound:
		kind = secret.ErrNotFound
	case code == connectrpc.CodeAlreadyExists:
		kind = secret.ErrExists
	case code == connectrpc.CodeUnavailable, code == connectrpc.CodeResourceExhausted,
		code == connectrpc.CodeDeadlineExceeded, !connectrpc.IsWireError(err):
		kind = secret.ErrUnavailable
	default:
		return err
	}
	return fmt.Errorf("%w: %w", kind, err)
}

// flyte returns a client with connections of its own.
func (r *rolling) flyte(address, kind string) flyteClient {
	pki := filepath.Join(r.dir, "pki")
	pair, err := tls.LoadX509KeyPair(pki+"/platform.pem", pki+"/platform.key")
	require.NoError(r.t, err)
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: r.roots(), MinVersion: tls.VersionTLS13,
	}, ForceAttemptHTTP2: kind == overGRPC}
	r.t.Cleanup(transport.CloseIdleConnections)
	form := connectrpc.WithProtoJSON()
	if kind == overGRPC {
		form = connectrpc.WithGRPC()
	}
	c := &http.Client{Timeout: 30 * time.Second, Transport: transport}
	return flyteClient{secretconnect.NewSecretServiceClient(c, "https://"+address, form), kind}
}

// describe asks for a secret as Flyte's clients do: whether it is there must be as it was when the request
// began, or as it is since.
func (r *rolling) describe(ctx context.Context, c flyteClient, f *flip) error {
	return r.request(ctx, c.kind+" get", func(int) error {
		told, _ := f.mark()
		_, err := c.GetSecret(ctx, &secretpb.GetSecretRequest{Id: flyteID(f.narrow)})
		err = flyteError(err)
		if errors.Is(err, secret.ErrUnavailable) {
			return err
		}
		absent := errors.Is(err, secret.ErrNotFound)
		if err != nil && !absent || !f.may(told, func(v []byte) bool { return (v == nil) == absent }) {
			return fmt.Errorf("get %v: it may not be so: %w", f.narrow, cmp.Or(err, errors.New("it is there")))
		}
		return nil
	})
}

// list lists all secrets of the org, which stay, each once.
func (r *rolling) list(ctx context.Context, c flyteClient, flips []*flip) error {
	listed := map[string]int{}
	for token := ""; ; {
		var page *secretpb.ListSecretsResponse
		err := r.request(ctx, c.kind+" list", func(int) (err error) {
			page, err = c.ListSecrets(ctx,
				&secretpb.ListSecretsRequest{Organization: task.Org, Limit: 10, Token: token})
			return flyteError(err)
		})
		if err != nil {
			return fmt.Errorf("list: %w", err)
		}
		for _, s := range page.GetSecrets() {
			if id := s.GetId(); id.GetProject() == "" && id.GetDomain() == "" {
				listed[id.GetName()]++
			}
		}
		if token = page.GetToken(); token == "" {
			break
		}
	}
	for _, f := range flips {
		if n := listed[f.wide.Key]; n != 1 {
			return fmt.Errorf("%v was listed %d times", f.wide, n)
		}
	}
	return nil
}

// progress waits until the clients have had that many more answers, or until ctx has ended: a client has
// found a mistake.
func (r *rolling) progress(ctx context.Context, n int64) {
	r.t.Helper()
	from := r.answers.Load()
	r.until(ctx, func() bool { return r.answers.Load() >= from+n })
}

func (r *rolling) until(ctx context.Context, is func() bool) {
	r.t.Helper()
	end := time.After(3 * time.Minute)
	for !is() {
		select {
		case <-ctx.Done():
			require.NoError(r.t, context.Cause(ctx))
		case <-end:
			require.FailNow(r.t, "the clients do not get on")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Servers on one namespace are killed, restarted and replaced under load, and so is the API server.
// Nothing that was acknowledged is lost, and a request that fails does so as unavailable: no client ever
// sees another value than the last, or that a secret is absent which is there.
func TestRolling(t *testing.T) {
	t.Parallel()
	rounds, answers := 3, int64(250)
	if testing.Short() {
		rounds, answers = 1, 60
	}
	r := &rolling{
		replicas: newReplicas(t, harness.StartKubernetes(t, harness.KubernetesOptions{})), searcher: newSearcher(),
		t: t, ended: make(chan struct{}), repeats: map[string]int{},
	}
	r.behind = []*process{r.launch(), r.launch()}
	r.proxy = newProxy(t, r.next)
	t.Cleanup(r.proxy.close)
	address := r.proxy.port.Addr().String()

	group, ctx := errgroup.WithContext(t.Context())
	var flips []*flip
	client := func(n int, do func(i int) func(context.Context) error) {
		for i := range n {
			one := do(i)
			group.Go(func() error { return r.repeat(ctx, one) })
		}
	}
	client(6, func(i int) func(context.Context) error {
		kind, m := "inject", changer(r.client(t, address, "platform"))
		if i%2 == 1 {
			kind = []string{overJSON, overGRPC}[i/2%2]
			m = r.flyte(address, kind)
		}
		var own []*flip
		for k := range 5 {
			typ, stays := store.Regular, r.value()
			if k == 4 {
				typ, stays = store.ImagePull, docker(stays)
			}
			f, err := newFlip(ctx, m, fmt.Sprintf("K_%d_%d", i, k), task.Ladder()[(i+k)%3], typ, stays)
			require.NoError(t, err)
			own = append(own, f)
		}
		flips = append(flips, own...)
		return func(ctx context.Context) error { return r.write(ctx, kind, m, own) }
	})
	client(5, func(int) func(context.Context) error {
		c := r.client(t, address, "task")
		return func(ctx context.Context) error {
			var some []*flip
			for _, i := range mrand.Perm(len(flips))[:1+mrand.IntN(5)] {
				some = append(some, flips[i])
			}
			return r.request(ctx, "inject resolve", func(int) error { return resolveFlips(ctx, c, some) })
		}
	})
	client(2, func(i int) func(context.Context) error {
		c := r.flyte(address, []string{overJSON, overGRPC}[i])
		return func(ctx context.Context) error { return r.describe(ctx, c, flips[mrand.IntN(len(flips))]) }
	})
	client(1, func(int) func(context.Context) error {
		c := r.flyte(address, overJSON)
		return func(ctx context.Context) error { return r.list(ctx, c, flips) }
	})

	drained := func(old *process) {
		require.NoError(t, old.stop(syscall.SIGTERM), "it drains, and ends with 0")
	}
	faults := []struct {
		name string
		make func(which int)
	}{
		{"nothing", func(int) {}},
		// Behind a Service of Kubernetes a server that is to end gets no new connections any more.
		{"rolled", func(which int) { drained(r.replace(which, r.launch())) }},
		{"killed", func(which int) {
			require.Error(t, r.behind[which].stop(syscall.SIGKILL))
			r.progress(ctx, answers/4) // by the other one
			r.replace(which, r.launch())
		}},
		{"restarted", func(which int) {
			drained(r.replace(which, r.behind[1-which]))
			r.progress(ctx, answers/4)
			r.replace(which, r.launch())
		}},
		{"answers lost", func(int) {
			r.proxy.cutting.Store(true)
			from := r.proxy.cuts.Load()
			r.until(ctx, func() bool { return r.proxy.cuts.Load() > from+30 })
			r.proxy.cutting.Store(false)
		}},
		{"API server killed", func(int) {
			r.KillAPI()
			from := r.count()
			r.until(ctx, func() bool { return r.count() > from+30 })
			require.NoError(t, r.StartAPI())
		}},
		{"API server killed, and one killed meanwhile", func(which int) {
			r.KillAPI()
			require.Error(t, r.behind[which].stop(syscall.SIGKILL))
			from := r.count()
			r.until(ctx, func() bool { return r.count() > from+10 })
			require.NoError(t, r.StartAPI())
			r.replace(which, r.launch())
		}},
	}
	for i := range rounds * len(faults) {
		fault := faults[i%len(faults)]
		r.progress(ctx, answers)
		r.mu.Lock()
		clear(r.repeats)
		r.mu.Unlock()
		fault.make(i % 2) // not the last one, from which the clients have gone to this one
		r.progress(ctx, answers)
		r.mu.Lock()
		t.Logf("%s: sent again: %v", fault.name, r.repeats)
		for kind := range r.repeats {
			if slices.Contains([]string{"nothing", "rolled", "restarted"}, fault.name) {
				// Only HTTP/1.1 cannot say that a connection takes no more requests.
				require.True(t, strings.HasPrefix(kind, overJSON), "%s: %v", fault.name, r.repeats)
			}
		}
		r.mu.Unlock()
	}
	close(r.ended)
	require.NoError(t, group.Wait())
	t.Logf("%d requests were sent again, %d changes had been made before", r.refused, r.lost)

	r.checkStore(flips)
	for _, p := range r.behind {
		drained(p)
	}
	var logs, audits strings.Builder
	for _, p := range r.logs {
		logs.WriteString(p.stderr.String())
		audits.WriteString(p.stdout.String())
	}
	r.clean(t, "the logs", []byte(logs.String()))
	r.clean(t, "the audit logs", []byte(audits.String()))
}

func (r *rolling) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused
}

// checkStore compares what is in the namespace with what the clients know: nothing is lost, and nothing
// else is there.
func (r *rolling) checkStore(flips []*flip) {
	t := r.t
	s, err := kube.Open(t.Context(), kube.Options{Kubeconfig: r.Kubeconfig(), Namespace: r.namespace})
	require.NoError(t, err)
	defer s.Close() //nolint:errcheck // only read
	want := map[string][]byte{}
	for _, f := range flips {
		told, known := f.mark()
		require.Equal(t, known-1, told, "every change was acknowledged")
		for ref, v := range map[secret.Ref][]byte{f.wide: f.stays, f.narrow: f.values[told]} {
			got, _, err := s.Get(t.Context(), ref)
			if v == nil {
				require.ErrorIs(t, err, secret.ErrNotFound)
				continue
			}
			require.NoError(t, err, ref)
			require.True(t, got.Equal(secret.NewValue(v)), "%v", ref)
			want[name(ref)] = v
			if f.typ == store.ImagePull {
				require.True(t, r.equalCopy(t, ref))
				want[pullName(ref)] = v
			}
		}
	}
	require.ElementsMatch(t, slices.Collect(maps.Keys(want)), r.names(t), "nothing else is there")
}
