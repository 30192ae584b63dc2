package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"inject/resolver/kubeapi"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// Options say which namespace of which cluster is the store, and as which user it is read.
type Options = kubeapi.Options

// Store is a namespace of Kubernetes. It is safe for concurrent use.
type Store struct {
	client    *kubeapi.Client
	namespace string
	host, who string // the address of the API server, and the credentials, for messages

	stood atomic.Pointer[time.Time] // when the namespace was last asked for and not being deleted
}

var (
	_ store.Store  = (*Store)(nil)
	_ store.Remote = (*Store)(nil)
	_ io.Closer    = (*Store)(nil)
)

const (
	// calls is how many calls of the API server are under way at most: the 128 reads that injectd has
	// under way, and others. Further ones wait.
	calls = 256
	// tries is how often a change is tried that others come before.
	tries = 5
)

// Open opens a namespace as a store and makes sure that it exists, if this user may know that. It
// keeps nothing but connections, so any number of processes may have the same namespace open. The
// caller closes the store.
func Open(ctx context.Context, o Options) (*Store, error) {
	cluster, err := kubeapi.Find(o)
	if err != nil {
		return nil, err
	}
	client, err := cluster.Connect(calls)
	if err != nil {
		return nil, err
	}
	s := &Store{client: client, namespace: cluster.Namespace(), host: cluster.Host(), who: cluster.String()}
	if _, err := s.exists(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// exists returns an error if the namespace does not exist. In such a namespace the API server says of
// every Secret that it is not there. leaving is true if the namespace is being deleted.
func (s *Store) exists(ctx context.Context) (leaving bool, err error) {
	o, err := kubeapi.Namespaces.Get(ctx, s.client, "", s.namespace)
	switch {
	case err == nil:
		return o.DeletionTimestamp != nil, nil
	case errors.Is(err, secret.ErrNotFound):
		return false, secret.WithHint(
			fmt.Errorf("%w: Kubernetes has no namespace %s", secret.ErrUnavailable, s.namespace),
			"create it (kubectl create namespace %s), or name another one: kube://NAMESPACE", s.namespace)
	case apierrors.IsForbidden(err):
		return false, nil // a user without a ClusterRole cannot read Secrets of a namespace that is not there
	}
	return false, err
}

// standsFor is how long it is known that a namespace stands. Kubernetes deletes nothing in a namespace until
// 5 s after it was told to delete it (namespaceDeletionGracePeriod, in pkg/controller/namespace of
// k8s.io/kubernetes 1.30 to 1.37).
const standsFor = 2 * time.Second

// stands returns an error if the namespace does not exist or is being deleted. Its Secrets go one after the
// other then: that one of them is not there says nothing, and a wider scope's must not take its place.
func (s *Store) stands(ctx context.Context) error {
	now := time.Now()
	if last := s.stood.Load(); last != nil && now.Sub(*last) < standsFor {
		return nil
	}
	leaving, err := s.exists(ctx)
	switch {
	case err != nil:
		return err
	case leaving:
		return secret.WithHint(fmt.Errorf("%w: the namespace %s is being deleted", secret.ErrUnavailable, s.namespace),
			"copy what is left of it into another store: injectd migrate")
	}
	s.stood.Store(&now)
	return nil
}

// Remote implements [store.Remote]: each read is a call of the API server.
func (*Store) Remote() bool { return true }

// Close closes the connections that are not in use.
func (s *Store) Close() error { return s.client.Close() }

// get returns the Secret of ref, which is what it should be.
func (s *Store) get(ctx context.Context, ref secret.Ref) (*corev1.Secret, error) {
	if err := errors.Join(ctx.Err(), ref.Validate()); err != nil {
		return nil, err
	}
	o, err := kubeapi.Secrets.Get(ctx, s.client, s.namespace, nameOf(ref.ID()))
	switch {
	case errors.Is(err, secret.ErrNotFound):
		return nil, cmp.Or(s.stands(ctx), err)
	case err != nil:
		return nil, err
	case o.DeletionTimestamp != nil:
		return nil, s.leaving(o.Name)
	}
	if wrong := check(o, ref); len(wrong) > 0 {
		return nil, s.damaged(o.Name, wrong)
	}
	return o, nil
}

// leaving is the error of a Secret that is deleted and still there. It is neither given out, nor is a wider
// scope's in its place, and a change of it would be lost.
func (s *Store) leaving(name string) error {
	return fmt.Errorf("%w: the Secret %s in namespace %s is being deleted, and stays until its finalizers have ended",
		secret.ErrUnavailable, name, s.namespace)
}

// damaged is the error of a Secret that is not what Flyte or this package writes.
func (s *Store) damaged(name string, wrong []string) error {
	return secret.WithHint(
		fmt.Errorf("%w: the Secret %s in namespace %s: %s", secret.ErrCorrupt, name, s.namespace,
			strings.Join(wrong, ", ")),
		"it was changed by something other than Flyte and inject: kubectl -n %s describe secret %s shows it",
		s.namespace, name)
}

// Get implements [store.Reader].
func (s *Store) Get(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
	o, err := s.get(ctx, ref)
	if err != nil {
		return secret.Value{}, store.Info{}, &secret.Error{Op: "get", Ref: ref, Err: err}
	}
	return secret.NewValue(o.Data[ref.ID()]), infoOf(&o.ObjectMeta, ref), nil
}

// Describe implements [store.Lister].
func (s *Store) Describe(ctx context.Context, ref secret.Ref) (store.Info, error) {
	o, err := s.get(ctx, ref)
	if err != nil {
		return store.Info{}, &secret.Error{Op: "describe", Ref: ref, Err: err}
	}
	return infoOf(&o.ObjectMeta, ref), nil
}

// Create implements [store.Manager]. It refuses secrets that Kubernetes cannot keep: with a domain or
// a project that cannot be the value of a label, or with an id of over 253 bytes. A secret of type
// image_pull must be a Docker config.
func (s *Store) Create(ctx context.Context, ref secret.Ref, v secret.Value, t store.Type) error {
	err := store.Creatable(ref, v)
	if err == nil {
		err = s.create(ctx, ref, v, t)
	}
	if err != nil {
		return &secret.Error{Op: "create", Ref: ref, Err: err}
	}
	return nil
}

func (s *Store) create(ctx context.Context, ref secret.Ref, v secret.Value, t store.Type) error {
	if err := errors.Join(ctx.Err(), storable(ref)); err != nil {
		return err
	}
	if t == store.ImagePull {
		if err := s.pullAllowed(ctx, ref, v); err != nil {
			return err
		}
	}
	o := newObject(ref, v, t)
	_, err := kubeapi.Secrets.Create(ctx, s.client, s.namespace, o.Name, o)
	if t != store.ImagePull {
		return err
	}
	switch {
	case err == nil:
		return s.followPull(ctx, ref)
	case errors.Is(err, secret.ErrExists):
		_ = s.followPull(ctx, ref) // a create that was cut off may have left it like this
	}
	return err
}

// Update implements [store.Manager].
func (s *Store) Update(ctx context.Context, ref secret.Ref, v secret.Value) error {
	return s.update(ctx, ref, v, func(*corev1.Secret) error { return nil })
}

// update is Update of a Secret for which allowed returns nil. It returns the error of allowed.
func (s *Store) update(ctx context.Context, ref secret.Ref, v secret.Value, allowed func(*corev1.Secret) error) error {
	pull := false
	err := store.Writable(ref, v)
	if err == nil {
		err = s.change(ctx, ref, func(o *corev1.Secret) error {
			if err := allowed(o); err != nil {
				return err
			}
			if pull = isPull(o); pull {
				if err := s.pullAllowed(ctx, ref, v); err != nil {
					return err
				}
			}
			setValue(o, ref, v)
			_, err := kubeapi.Secrets.Update(ctx, s.client, s.namespace, o.Name, o)
			return err
		})
	}
	if err == nil && pull {
		err = s.followPull(ctx, ref)
	}
	if err != nil {
		return &secret.Error{Op: "update", Ref: ref, Err: err}
	}
	return nil
}

// Delete implements [store.Manager].
func (s *Store) Delete(ctx context.Context, ref secret.Ref) error {
	return s.delete(ctx, ref, func(o *corev1.Secret) (metav1.Preconditions, error) {
		return metav1.Preconditions{UID: &o.UID}, nil
	})
}

// delete is Delete of a Secret with what allowed returns for it. It returns the error of allowed.
func (s *Store) delete(
	ctx context.Context, ref secret.Ref, allowed func(*corev1.Secret) (metav1.Preconditions, error),
) error {
	pull := false
	err := s.change(ctx, ref, func(o *corev1.Secret) error {
		only, err := allowed(o)
		if err != nil {
			return err
		}
		if pull = isPull(o); pull {
			p, _, err := s.getPull(ctx, ref)
			if err == nil && p != nil {
				err = s.deletePull(ctx, p)
			}
			if err != nil {
				return err
			}
		}
		gone, err := kubeapi.Secrets.Delete(ctx, s.client, s.namespace, o.Name, only)
		if err == nil && !gone {
			err = s.leaving(o.Name)
		}
		return err
	})
	if pull { // an update at the same time may have written the copy again, or have kept the secret
		err = cmp.Or(err, s.followPull(ctx, ref))
	}
	if err != nil {
		return &secret.Error{Op: "delete", Ref: ref, Err: err}
	}
	return nil
}

// change calls fn with the Secret of ref, again if others changed it meanwhile.
func (s *Store) change(ctx context.Context, ref secret.Ref, fn func(*corev1.Secret) error) error {
	for try := 1; ; try++ {
		o, err := s.get(ctx, ref)
		if err == nil {
			err = fn(o)
		}
		if !errors.Is(err, kubeapi.ErrConflict) {
			return err
		}
		if try == tries {
			return fmt.Errorf("%w: others changed it each time (%d tries): %w", secret.ErrUnavailable, tries, err)
		}
		select {
		case <-time.After(rand.N(time.Duration(try) * 10 * time.Millisecond)): //nolint:gosec // only spreads the tries
		case <-ctx.Done():
		}
	}
}
