package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const webhookName = "webhook"

// reviewRate is how many reviews a second are sent, whether the ones before are answered or not.
const reviewRate = 200

// The targets of webhook: of the 99th percentile of the time of an answer, and of the memory.
const (
	reviewTarget         = 10 // ms
	reviewResidentTarget = 40 // MiB
)

// reviewLength is how long the pod of a review is, in bytes.
const reviewLength = 4 << 10

// mutation is the file of injectd webhook, as the chart writes it.
const mutation = `version: 1
taskNamespaces: [flyte]
image: registry.example.org/inject:1
pullPolicy: IfNotPresent
delivery: init
command: [/inject/inject, run, --store, "grpcs://injectd.inject-system.svc:8093", --token-file, /run/inject/token]
outputs: [/var/outputs]
files: true
pullSecret: inject-pull
pythonEntrypoint: none
rawEntrypoint: none
entrypoints: []
resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {memory: 64Mi}}
`

// hollow is a server that reads each review and allows it without a look. It ends with the context.
func hollow(ctx context.Context, cert, key string) error {
	answer := []byte(`{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
		"response": {"uid": "1", "allowed": true}}`)
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, `{"@message": "serving", "address": %q}`+"\n", l.Addr())
	s := &http.Server{ReadHeaderTimeout: limit, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err == nil {
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write(answer)
			}
		})}
	context.AfterFunc(ctx, func() { _ = s.Close() })
	if err := s.ServeTLS(l, cert, key); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// A reviewer sends reviews to a server on one connection of HTTP/2, as an API server does.
type reviewer struct {
	*server

	client *http.Client
	url    string
	body   []byte
	holds  string // what each answer contains
	rounds []answered
	own    []float64 // MiB of memory, at the end of each round
}

// newReview returns a review of a pod as Flyte makes it.
func newReview() ([]byte, error) {
	type object = map[string]any
	var env []object
	for n := 0; n < reviewLength; n += 90 { // 90 bytes each, about
		env = append(env, object{"name": "K_" + rand.Text(), "value": rand.Text() + rand.Text()})
	}
	return json.Marshal(object{
		"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": object{
			"uid": "1", "kind": object{"group": "", "version": "v1", "kind": "Pod"}, "namespace": "flyte",
			"operation": "CREATE", "object": object{
				"apiVersion": "v1", "kind": "Pod", "metadata": object{
					"name":        "run-a0-0",
					"labels":      object{"project": "fraud", "domain": "development", "inject-flyte-secrets": "true"},
					"annotations": object{"primary_container_name": "run-a0-0"},
				},
				"spec": object{"containers": []object{{
					"name": "run-a0-0", "image": "task:1", "args": []string{"a0", "--inputs", "s3://x"}, "env": env,
				}}},
			},
		},
	})
}

// once sends one review.
func (r *reviewer) once(ctx context.Context) error {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, bytes.NewReader(r.body))
	if err != nil {
		return err
	}
	q.Header.Set("Content-Type", "application/json")
	a, err := r.client.Do(q)
	if err != nil {
		return err
	}
	defer a.Body.Close() //nolint:errcheck // was read
	text, err := io.ReadAll(a.Body)
	if err == nil && (a.StatusCode != http.StatusOK || !bytes.Contains(text, []byte(r.holds))) {
		err = fmt.Errorf("wrong answer: %d %s", a.StatusCode, text)
	}
	return err
}

// round sends reviews for a while. The time of an answer begins when its review is due, so that one slow answer
// counts in those that wait for it.
func (r *reviewer) round(ctx context.Context, while time.Duration) error {
	group, ctx := errgroup.WithContext(ctx)
	var mu sync.Mutex
	all := answered{took: while}
	begin := time.Now()
	for at := time.Duration(0); at < while; at += time.Second / reviewRate {
		due := begin.Add(at)
		time.Sleep(time.Until(due))
		group.Go(func() error {
			err := r.once(ctx)
			took := time.Since(due)
			mu.Lock()
			defer mu.Unlock()
			all.times = append(all.times, took)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	slices.Sort(all.times)
	own, files, err := r.resident()
	r.rounds, r.own = append(r.rounds, all), append(r.own, own+files)
	return err
}

// quantiles returns a quantile of each round.
func (r *reviewer) quantiles(q float64) (all []time.Duration) {
	for _, a := range r.rounds {
		all = append(all, a.quantile(q))
	}
	return all
}

// reviewers starts the two servers: injectd webhook, and a hollow one.
func (b *bench) reviewers() (ours, theirs *reviewer, err error) {
	a, err := b.newAuthority()
	if err != nil {
		return nil, nil, err
	}
	cert, err := b.issue(a, "webhook", "")
	if err != nil {
		return nil, nil, err
	}
	config, err := b.file("mutation.yaml", []byte(mutation))
	if err != nil {
		return nil, nil, err
	}
	body, err := newReview()
	if err != nil {
		return nil, nil, err
	}
	ca, err := os.ReadFile(a.file)
	if err != nil {
		return nil, nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	start := func(holds string, command ...string) (*reviewer, error) {
		r := &reviewer{server: &server{}, body: body, holds: holds, client: &http.Client{
			Timeout: limit, Transport: &http.Transport{
				TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, ForceAttemptHTTP2: true,
			},
		}}
		r.cmd = exec.CommandContext(b.ctx, command[0], command[1:]...) //nolint:gosec // a server that is measured
		err := r.serve()
		r.url = "https://" + r.address + "/mutate"
		return r, err
	}
	ours, err = start(`"patch"`, b.injectd, "webhook", "--config", config, "--listen", "127.0.0.1:0",
		"--ops-listen", "127.0.0.1:0", "--cert-file", cert.cert, "--cert-key-file", cert.key)
	theirs, err2 := start(`"allowed"`, b.self, hollowVerb, cert.cert, cert.key)
	return ours, theirs, errors.Join(err, err2)
}

// webhook compares the answers of injectd webhook to reviews with those of a hollow server, and looks at its
// memory.
func (b *bench) webhook() (err error) {
	ours, theirs, err := b.reviewers()
	defer func() {
		for _, r := range []*reviewer{ours, theirs} {
			if r != nil {
				err = errors.Join(err, r.stop())
			}
		}
	}()
	if err != nil {
		return err
	}
	contend := func(name string, r *reviewer) contender {
		return contender{name, func() (time.Duration, error) { return 0, r.round(b.ctx, b.review) }}
	}
	contenders := []contender{contend("injectd webhook", ours), contend("a server that does nothing", theirs)}
	if _, err := alternate(1, contenders); err != nil { // to warm up, and for the handshakes
		return err
	}
	ours.rounds, theirs.rounds, ours.own = nil, nil, nil
	before, err := ours.cpu()
	if err != nil {
		return err
	}
	if _, err := alternate(b.rounds, contenders); err != nil {
		return err
	}
	after, err := ours.cpu()
	if err != nil {
		return err
	}
	n := 0
	for _, a := range ours.rounds {
		n += len(a.times)
	}
	for _, q := range []struct {
		name   string
		at     float64
		target float64
	}{{"median", 0.5, 0}, {"99th percentile", 0.99, reviewTarget}} {
		mine, plain := ours.quantiles(q.at), theirs.quantiles(q.at)
		row := Row{Workload: q.name, Name: contenders[1].name, Unit: "ms", Value: millis(plain)}
		b.report.add(row)
		row.Name, row.Value = contenders[0].name, millis(mine)
		row.versus(contenders[1].name, ratios(plain, mine))
		if q.target > 0 {
			row.atMost(q.target)
		}
		b.report.add(row)
	}
	b.report.add(Row{
		Workload: "all", Name: "CPU time of injectd for a review", Unit: "µs",
		Value: micros([]time.Duration{(after - before) / time.Duration(n)}),
	})
	row := Row{
		Workload: "all", Name: "memory of injectd, at its most", Unit: "MiB",
		Value: statOf([]float64{slices.Max(ours.own)}),
	}
	row.atMost(reviewResidentTarget)
	b.report.add(row)
	b.report.note("%d reviews, each answered with a patch", n)
	return nil
}
