package certs

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"inject/resolver/kubeapi"
	"inject/resolver/secret"
)

const (
	// keptLabel marks the objects that this package makes. A Secret without it is a person's.
	keptLabel, keptBy = "inject.flyte.org/kept-by", "injectd"
	// heldAnnotation is since when every place holds the next authority, in the format of RFC 3339.
	heldAnnotation = "inject.flyte.org/next-ca-held"

	// every is how often all objects are read, at least. Changes of others are undone within this time.
	every = time.Minute
	// passTime is how long one reading of all objects may take.
	passTime = 2 * time.Minute
	// tries is how often an object is read again because another replica has written it.
	tries = 5
)

// Options are those of a [Keeper].
type Options struct {
	Config func() *Config
	Client *kubeapi.Client
	Log    hclog.Logger
}

// A Keeper keeps the objects of this package as they should be. It is safe for concurrent use.
type Keeper struct {
	o     Options
	first chan struct{} // closed once there is a certificate
	soon  chan struct{} // asks for a pass

	mu     sync.Mutex
	pulls  Pulls
	pair   *pair
	spans  map[string]Span
	failed map[Part]error
}

// A Part is one of the things that are kept, as a metric names it.
type Part string

// The parts.
const (
	PartServer    Part = "server"    // the authority, and the certificate of injectd
	PartWebhook   Part = "webhook"   // the certificate of the webhook
	PartPublished Part = "published" // the authorities in task namespaces and in the webhook's configuration
	PartPull      Part = "pull"      // the credentials of registries
)

// Parts are all parts.
var Parts = []Part{PartServer, PartWebhook, PartPublished, PartPull}

// A Span is how long a certificate is valid.
type Span struct{ Begin, End time.Time }

// New returns a Keeper that does nothing before [Keeper.Run].
func New(o Options) *Keeper {
	k := &Keeper{
		o: o, first: make(chan struct{}), soon: make(chan struct{}, 1), spans: map[string]Span{},
		failed: map[Part]error{},
	}
	for _, p := range Parts {
		k.failed[p] = errFirst
	}
	return k
}

var errFirst = fmt.Errorf("%w: the API server has not been asked yet", secret.ErrUnavailable)

// First returns a channel that is closed once there is a certificate.
func (k *Keeper) First() <-chan struct{} { return k.first }

// Certificate returns the certificate of the server, nil if there is none yet. The error says why it may be
// an old one.
func (k *Keeper) Certificate() (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pair == nil {
		return nil, k.failed[PartServer]
	}
	return k.pair.tls, k.failed[PartServer]
}

// Status returns how long each certificate is valid, by name: server, webhook and authority, which is the
// newest one. failed has each part, with the reason why it may not be as it should be, or nil.
func (k *Keeper) Status() (spans map[string]Span, failed map[Part]error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.spans), maps.Clone(k.failed)
}

// Pull begins to keep the Secret of registries, with the credentials that pulls returns.
func (k *Keeper) Pull(pulls Pulls) {
	k.mu.Lock()
	k.pulls = pulls
	k.mu.Unlock()
	select {
	case k.soon <- struct{}{}:
	default:
	}
}

// Run keeps the objects until ctx ends. Replicas do not do it at the same moment, and after a failure it is
// tried again soon.
func (k *Keeper) Run(ctx context.Context) {
	failures := 0
	for {
		period := k.o.Config().period()
		if k.pass(ctx); k.anyFailed() {
			failures++
		} else {
			failures = 0
		}
		wait := period
		if failures > 0 { // 1 s, 2 s, 4 s …
			wait = min(period, time.Second<<min(failures-1, 10))
		}
		select {
		case <-ctx.Done():
			return
		case <-k.soon:
		case <-time.After(wait - wait/4 + rand.N(wait/2)): //nolint:gosec // no secret
		}
	}
}

// period is how often the objects are read. Short lifetimes, as those of tests, need it more often.
func (c *Config) period() time.Duration {
	if c.Given {
		return every
	}
	return max(200*time.Millisecond, min(every, (c.LeafTime-c.RenewTime)/10, c.PublishTime/10))
}

func (k *Keeper) anyFailed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, err := range k.failed {
		if err != nil {
			return true
		}
	}
	return false
}

// pass reads all objects, and writes those that are not as they should be.
func (k *Keeper) pass(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, passTime)
	defer cancel()
	c := k.o.Config()
	var s *state
	var published error
	_, err := again(func() (_ bool, err error) {
		s, published, err = k.server(ctx, c)
		return false, cmp.Or(err, stale(published))
	})
	if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
		return // the process ends
	}
	k.report(PartServer, err)
	if err == nil {
		k.report(PartPublished, published)
		k.report(PartWebhook, k.webhook(ctx, c, s))
	}
	k.report(PartPull, k.pull(ctx, c))
}

// now is the time at the API server, so that all replicas go by the same clock.
func (k *Keeper) now() time.Time { return time.Now().Add(k.o.Client.Skew()) }

// server keeps the authority and the certificate of the server, and publishes the authorities. published is
// the error of publishing.
func (k *Keeper) server(ctx context.Context, c *Config) (s *state, published, err error) {
	o, err := k.read(ctx, c, c.Server.Secret)
	if err != nil {
		return nil, nil, err
	}
	if c.Given {
		s, wrong := parseGiven(o.Data)
		if s.server != nil {
			k.use(s.server)
			k.span("server", s.server)
		}
		if len(s.roots) > 0 {
			_, published = k.publish(ctx, c, s.bundle(o))
		}
		if wrong != nil {
			return nil, published, damaged(o, wrong)
		}
		return s, published, nil
	}

	s, wrong := &state{}, []string(nil)
	if o != nil {
		s, wrong = parse(o.Data)
		s.held, _ = time.Parse(time.RFC3339Nano, o.Annotations[heldAnnotation])
	}
	held := false
	if len(s.trusted()) > 0 {
		held, published = k.publish(ctx, c, s.bundle(o))
	}
	did, changed, err := c.advance(k.now(), s, held)
	if err != nil {
		return nil, published, fmt.Errorf("%w: certificates: %w", secret.ErrUnavailable, err)
	}
	if changed || wrong != nil {
		if o, err = k.write(ctx, c, c.Server.Secret, o, s.data(), s.held); err != nil {
			return nil, published, err
		}
		if wrong != nil {
			k.o.Log.Error("the Secret was damaged, and what was wrong was made again", "secret", c.Server.Secret,
				"namespace", c.Namespace, "wrong", listed(wrong))
		}
		for _, what := range did {
			k.o.Log.Info(what, "secret", c.Server.Secret, "ends", s.server.end(), "authority_ends",
				s.signs.cert.NotAfter)
		}
		_, published = k.publish(ctx, c, s.bundle(o))
	}
	k.use(s.server)
	k.span("server", s.server)
	newest := s.signs.cert
	if s.next != nil {
		newest = s.next.cert
	}
	k.spanOf("authority", Span{newest.NotBefore, newest.NotAfter})
	return s, published, nil
}

// webhook keeps the certificate of the webhook, which an authority of s signs.
func (k *Keeper) webhook(ctx context.Context, c *Config, s *state) error {
	if c.Webhook.Secret == "" {
		return nil
	}
	_, err := again(func() (bool, error) {
		err := k.webhookOnce(ctx, c, s)
		return false, cmp.Or(stale(err), err)
	})
	return err
}

func (k *Keeper) webhookOnce(ctx context.Context, c *Config, s *state) error {
	o, err := k.read(ctx, c, c.Webhook.Secret)
	if err != nil {
		return err
	}
	if c.Given {
		given, wrong := parseGiven(o.Data)
		if given.server != nil {
			k.span("webhook", given.server)
		}
		if wrong != nil {
			return damaged(o, wrong)
		}
		_, err := k.publishToWebhook(ctx, c, given.bundle(o))
		return err
	}
	var p *pair
	var wrong []string
	if o != nil {
		p, wrong = parsePair(o.Data)
	}
	now := k.now()
	why := c.due(now, s, p, c.Webhook)
	if why == "" {
		k.span("webhook", p)
		return nil
	}
	if p, err = s.signs.issue(now, c.LeafTime, c.Webhook.Names); err != nil {
		return fmt.Errorf("%w: certificates: %w", secret.ErrUnavailable, err)
	}
	data := map[string][]byte{certEntry: p.cert, keyEntry: p.key.Reveal()} // into the Secret
	if _, err := k.write(ctx, c, c.Webhook.Secret, o, data, time.Time{}); err != nil {
		return err
	}
	if wrong != nil {
		why = listed(wrong)
	}
	k.o.Log.Info("the certificate of the webhook was made: "+why, "secret", c.Webhook.Secret, "ends", p.end())
	k.span("webhook", p)
	return nil
}

// read returns a Secret of certificates. It is nil if there is none, unless others make it.
func (k *Keeper) read(ctx context.Context, c *Config, name string) (*corev1.Secret, error) {
	o, err := kubeapi.Secrets.Get(ctx, k.o.Client, c.Namespace, name)
	switch {
	case errors.Is(err, secret.ErrNotFound) && c.Given:
		return nil, secret.WithHint(
			fmt.Errorf("%w: there is no Secret %s in namespace %s", secret.ErrUnavailable, name, c.Namespace),
			"make it, with tls.crt, tls.key and ca.crt, or set certificates.source to self")
	case errors.Is(err, secret.ErrNotFound):
		return nil, nil //nolint:nilnil // as said above
	case err != nil:
		return nil, err
	case !c.Given && o.Labels[keptLabel] != keptBy:
		return nil, foreign(o)
	}
	return o, nil
}

// foreign is the error of a Secret that this package did not make, and does not replace.
func foreign(o *corev1.Secret) error {
	return secret.WithHint(
		fmt.Errorf("%w: the Secret %s in namespace %s is not injectd's: it has not the label %s: %s", secret.ErrInvalid,
			o.Name, o.Namespace, keptLabel, keptBy),
		"keep what it has, and delete it: kubectl -n %s delete secret %s", o.Namespace, o.Name)
}

// damaged is the error of a Secret that others make.
func damaged(o *corev1.Secret, wrong []string) error {
	return secret.WithHint(
		fmt.Errorf("%w: the Secret %s in namespace %s: %s", secret.ErrInvalid, o.Name, o.Namespace, listed(wrong)),
		"injectd does not change it: put it right, and the certificate before it stays in use until then")
}

// write replaces the data of a Secret of this package, or makes the Secret if was is nil. It returns the Secret
// as it is then.
func (k *Keeper) write(
	ctx context.Context, c *Config, name string, was *corev1.Secret, data map[string][]byte, held time.Time,
) (now *corev1.Secret, err error) {
	o := was
	if was == nil {
		o = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{keptLabel: keptBy}},
			Type:       corev1.SecretTypeTLS,
		}
	}
	if o.Annotations == nil {
		o.Annotations = map[string]string{}
	}
	if delete(o.Annotations, heldAnnotation); !held.IsZero() {
		o.Annotations[heldAnnotation] = held.UTC().Format(time.RFC3339Nano)
	}
	o.Data = data
	if was == nil {
		now, err = kubeapi.Secrets.Create(ctx, k.o.Client, c.Namespace, name, o)
	} else {
		now, err = kubeapi.Secrets.Update(ctx, k.o.Client, c.Namespace, name, o)
	}
	if errors.Is(err, secret.ErrNotFound) { // it was deleted since it was read
		err = fmt.Errorf("%w: %w", kubeapi.ErrConflict, err)
	}
	return now, err
}

// use makes p the certificate of new connections.
func (k *Keeper) use(p *pair) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pair != nil && same(k.pair.cert, p.cert) {
		return
	}
	if k.pair == nil {
		close(k.first)
	}
	k.pair = p
	k.o.Log.Info("the certificate is in use", "expires", p.end(), "serial", p.tls.Leaf.SerialNumber.Text(16))
}

func (k *Keeper) span(name string, p *pair) { k.spanOf(name, Span{p.begin(), p.end()}) }

func (k *Keeper) spanOf(name string, s Span) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.spans[name] = s
}

// report notes whether a part is as it should be, and logs it if that has changed.
func (k *Keeper) report(p Part, err error) {
	k.mu.Lock()
	was := k.failed[p]
	k.failed[p] = err
	until := k.spans["server"].End
	k.mu.Unlock()
	switch {
	case err == nil && was == nil, err == nil && was == errFirst: //nolint:errorlint // itself
	case err == nil:
		k.o.Log.Info("kept again", "part", p)
	case was != nil && was.Error() == err.Error():
	case p == PartServer && !until.IsZero():
		k.o.Log.Error("the certificates cannot be kept; the present one stays in use until it ends", "part", p,
			"ends", until, "error", err)
	default:
		k.o.Log.Error("this cannot be kept as it should be", "part", p, "error", err)
	}
}
