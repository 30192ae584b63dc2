package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"inject/resolver/kubeapi"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// This file has what copies of whole stores need: see package migrate.

// Salvage calls yield for each secret, and goes on past Secrets that are damaged or whose id names no
// secret: for each of these yield gets an error in place of a secret. It returns the first error of
// yield, or that of a call.
func (s *Store) Salvage(ctx context.Context, yield func(store.Info, error) error) error {
	all := metav1.ListOptions{LabelSelector: managedLabel + "=true", Limit: listPage}
	for {
		list, err := s.listMetadata(ctx, all)
		if err != nil {
			return fmt.Errorf("list: %w", err)
		}
		refs, wrong, err := s.refs(ctx, list.Items)
		if err != nil {
			return fmt.Errorf("list: %w", err)
		}
		for i := range list.Items {
			o, info := &list.Items[i].ObjectMeta, store.Info{}
			switch id := notedID(o); {
			case wrong[i] != nil:
			case refs[i] != (secret.Ref{}):
				info = infoOf(o, refs[i])
			case id != "":
				wrong[i] = fmt.Errorf("%w: the Secret %s in namespace %s has the id %.300q, which names no secret",
					secret.ErrInvalid, o.Name, s.namespace, id)
			default:
				continue // deleted since it was listed
			}
			if err := yield(info, wrong[i]); err != nil {
				return err
			}
		}
		if all.Continue = list.Continue; all.Continue == "" {
			if err := s.stands(ctx); err != nil {
				return fmt.Errorf("list: %w", err)
			}
			return nil
		}
	}
}

// Holds returns why the store cannot hold n, which is a copy of another store's, and nil if it can.
func (*Store) Holds(n store.New) error {
	err := store.Writable(n.Ref, n.Value)
	if err == nil {
		err = storable(n.Ref)
	}
	if err == nil && n.Type == store.ImagePull {
		err = validPull(n.Value)
	}
	return err
}

// CreateCopy is Create for a secret that exists in another store: its key may have dots, as those that
// Flyte made. Its times are those of the call, because Kubernetes sets them.
func (s *Store) CreateCopy(ctx context.Context, n store.New) error {
	err := store.Writable(n.Ref, n.Value)
	if err == nil {
		err = s.create(ctx, n.Ref, n.Value, n.Type)
	}
	if err != nil {
		return &secret.Error{Op: "create", Ref: n.Ref, Err: err}
	}
	return nil
}

// errOther ends a change of a secret that has another value than it should have.
var errOther = errors.New("it has another value")

// UpdateFrom is Update of a secret that has the value was. done is false if it has another one, also by
// a change at the same time.
func (s *Store) UpdateFrom(ctx context.Context, ref secret.Ref, was, v secret.Value) (done bool, err error) {
	err = s.update(ctx, ref, v, func(o *corev1.Secret) error { return hasValue(o, ref, was) })
	if errors.Is(err, errOther) {
		return false, nil
	}
	return err == nil, err
}

// DeleteFrom is Delete of a secret that has the value was. done is false if it has another one, also by
// a change at the same time.
func (s *Store) DeleteFrom(ctx context.Context, ref secret.Ref, was secret.Value) (done bool, err error) {
	err = s.delete(ctx, ref, func(o *corev1.Secret) (metav1.Preconditions, error) {
		return metav1.Preconditions{UID: &o.UID, ResourceVersion: &o.ResourceVersion}, hasValue(o, ref, was)
	})
	if errors.Is(err, errOther) {
		return false, nil
	}
	return err == nil, err
}

func hasValue(o *corev1.Secret, ref secret.Ref, want secret.Value) error {
	if !secret.NewValue(o.Data[ref.ID()]).Equal(want) {
		return errOther
	}
	return nil
}

// SameAs reports whether s and other are the same namespace of the same cluster, which may have several
// addresses: the namespace itself tells, or else, if one of the users may not read it, a Secret in it. Where
// neither can be read, the addresses decide.
func (s *Store) SameAs(ctx context.Context, other *Store) bool {
	if s.namespace != other.namespace {
		return false
	}
	a, errA := kubeapi.Namespaces.Get(ctx, s.client, "", s.namespace)
	b, errB := kubeapi.Namespaces.Get(ctx, other.client, "", other.namespace)
	if errA == nil && errB == nil {
		return a.UID == b.UID
	}
	first, err := s.listMetadata(ctx, metav1.ListOptions{LabelSelector: managedLabel + "=true", Limit: 1})
	if err != nil || len(first.Items) == 0 {
		return s.host == other.host
	}
	o, err := kubeapi.Secrets.Get(ctx, other.client, other.namespace, first.Items[0].Name)
	return err == nil && o.UID == first.Items[0].UID
}

// Orgs returns the organizations of the first secrets of the store, in order: of as many as one call
// lists. Damaged Secrets have none.
func (s *Store) Orgs(ctx context.Context) ([]string, error) {
	list, err := s.listMetadata(ctx, metav1.ListOptions{LabelSelector: managedLabel + "=true", Limit: listPage})
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	refs, _, err := s.refs(ctx, list.Items)
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	orgs := map[string]bool{}
	for _, ref := range refs {
		if ref != (secret.Ref{}) {
			orgs[ref.Org] = true
		}
	}
	return slices.Sorted(maps.Keys(orgs)), nil
}
