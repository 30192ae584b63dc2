package certs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"inject/resolver/kubeapi"
	"inject/resolver/secret"
)

// A bundle is the authorities that are published, in PEM, and the version of the Secret that has them. It says
// of which state of the cluster they are: a replica that was held up must not publish those from before.
type bundle struct {
	pem             []byte
	secret, version string
}

// errStale is the error of publishing authorities whose Secret has changed since it was read.
var errStale = errors.New("the authorities were changed meanwhile")

// stale returns the conflict that err is if authorities from before would have been published, and nil
// otherwise. After a conflict [again] reads their Secret again.
func stale(err error) error {
	if errors.Is(err, errStale) {
		return fmt.Errorf("%w: %w", kubeapi.ErrConflict, errStale)
	}
	return nil
}

// current returns nil if b is what its Secret has now. It is asked between the reading and the writing of a
// place. A newer bundle that is published later than that changes the version of the place, so that the write
// of b is a conflict.
func (k *Keeper) current(ctx context.Context, c *Config, b bundle) error {
	o, err := kubeapi.Secrets.Get(ctx, k.o.Client, c.Namespace, b.secret)
	switch {
	case errors.Is(err, secret.ErrNotFound), err == nil && o.ResourceVersion != b.version:
		return errStale
	}
	return err
}

// publish brings the authorities to every place where clients find them. held is true if every place had
// them already.
func (k *Keeper) publish(ctx context.Context, c *Config, b bundle) (held bool, err error) {
	held = true
	var errs []error
	add := func(had bool, err error) {
		held = held && had && err == nil
		if err != nil {
			errs = append(errs, err)
		}
	}
	for _, namespace := range append(slices.Clip(c.TaskNamespaces), c.Namespace) {
		add(again(func() (bool, error) { return k.publishTo(ctx, c, namespace, b) }))
	}
	if !c.Given {
		add(k.publishToWebhook(ctx, c, b))
	}
	return held, errors.Join(errs...)
}

// again calls do again if another replica has changed the object since it was read. had is that of the first
// call.
func again(do func() (had bool, err error)) (had bool, err error) {
	for i := range tries {
		now, failed := do()
		if i == 0 {
			had = now
		}
		if err = failed; !errors.Is(err, kubeapi.ErrConflict) && !errors.Is(err, secret.ErrExists) {
			break
		}
	}
	return had, err
}

// publishTo keeps the ConfigMap of a namespace. One that others have made or changed is replaced too: by its
// name it is injectd's, and nothing in it is secret.
func (k *Keeper) publishTo(ctx context.Context, c *Config, namespace string, b bundle) (had bool, err error) {
	o, err := kubeapi.ConfigMaps.Get(ctx, k.o.Client, namespace, c.ConfigMap)
	absent := errors.Is(err, secret.ErrNotFound)
	switch {
	case err != nil && !absent:
		return false, err
	case !absent && !fixed(o) && len(o.Data) == 1 && o.BinaryData == nil &&
		same([]byte(o.Data[authorityEntry]), b.pem):
		return true, nil
	}
	if err := k.current(ctx, c, b); err != nil {
		return false, err
	}
	switch {
	case absent:
		return false, k.make(ctx, namespace, c.ConfigMap, b)
	case fixed(o):
		return false, k.remake(ctx, o, b)
	}
	return false, k.restore(ctx, o, b)
}

// restore gives a ConfigMap the authorities, and nothing else.
func (k *Keeper) restore(ctx context.Context, o *corev1.ConfigMap, b bundle) error {
	certs, err := decode([]byte(o.Data[authorityEntry]))
	if err != nil || certs == nil || len(o.Data) > 1 || o.BinaryData != nil || o.Labels[keptLabel] != keptBy {
		k.o.Log.Warn("the ConfigMap had something else than the authorities, and was restored",
			"configmap", o.Name, "namespace", o.Namespace)
	}
	if o.Labels == nil {
		o.Labels = map[string]string{}
	}
	o.Labels[keptLabel] = keptBy
	// An entry of binaryData with the name of ours would have the API server refuse ours.
	o.Data, o.BinaryData = map[string]string{authorityEntry: string(b.pem)}, nil
	_, err = kubeapi.ConfigMaps.Update(ctx, k.o.Client, o.Namespace, o.Name, o)
	return err
}

// make makes the ConfigMap of a namespace.
func (k *Keeper) make(ctx context.Context, namespace, name string, b bundle) error {
	_, err := kubeapi.ConfigMaps.Create(ctx, k.o.Client, namespace, name, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{keptLabel: keptBy}},
		Data:       map[string]string{authorityEntry: string(b.pem)},
	})
	return err
}

// fixed reports whether an object is immutable. Then the API server refuses each change of what it has, and
// kubelet does not watch it, so that it must go even if it has the authorities of today.
func fixed(o *corev1.ConfigMap) bool { return o.Immutable != nil && *o.Immutable }

// remake deletes an immutable ConfigMap, and makes another one. Between the two there is none: a pod that
// starts then has no authorities, and never those of others, whose Create the policies refuse. If this process
// ends between the two, the next reading of any replica makes it.
func (k *Keeper) remake(ctx context.Context, o *corev1.ConfigMap, b bundle) error {
	err := k.unmake(ctx, o)
	if err != nil && !errors.Is(err, secret.ErrNotFound) { // it was being deleted, and waited for its finalizers
		return err
	}
	k.o.Log.Warn("the ConfigMap was immutable, and another one was made; a node with pods that had mounted it gives "+
		"its content also to new ones until those pods have ended or its kubelet was restarted",
		"configmap", o.Name, "namespace", o.Namespace)
	return k.make(ctx, o.Namespace, o.Name, b)
}

// unmake deletes a ConfigMap. With a finalizer it would stay for as long as others like.
func (k *Keeper) unmake(ctx context.Context, o *corev1.ConfigMap) error {
	if len(o.Finalizers) > 0 {
		o.Finalizers = nil
		now, err := kubeapi.ConfigMaps.Update(ctx, k.o.Client, o.Namespace, o.Name, o)
		if err != nil {
			return err
		}
		o = now
	}
	_, err := kubeapi.ConfigMaps.Delete(ctx, k.o.Client, o.Namespace, o.Name,
		metav1.Preconditions{UID: &o.UID, ResourceVersion: &o.ResourceVersion})
	return err
}

// publishToWebhook keeps the caBundle of every webhook in the webhook's configuration, if there is one. It
// changes nothing else of the object, which the chart makes.
func (k *Keeper) publishToWebhook(ctx context.Context, c *Config, b bundle) (had bool, err error) {
	if c.Webhook.Secret == "" {
		return true, nil
	}
	return again(func() (bool, error) {
		o, err := kubeapi.MutatingWebhooks.Get(ctx, k.o.Client, "", c.Webhook.Configuration)
		if errors.Is(err, secret.ErrNotFound) {
			return true, nil // policies change the pods, and no webhook
		}
		if err != nil {
			return false, err
		}
		had, patch := true, object{"metadata": object{"resourceVersion": o.ResourceVersion}}
		var webhooks []object
		for _, w := range o.Webhooks {
			had = had && same(w.ClientConfig.CABundle, b.pem)
			webhooks = append(webhooks, object{"name": w.Name, "clientConfig": object{"caBundle": b.pem}})
		}
		if had {
			return true, nil
		}
		if err := k.current(ctx, c, b); err != nil {
			return false, err
		}
		patch["webhooks"] = webhooks
		text, err := json.Marshal(patch)
		if err != nil {
			return false, err
		}
		_, err = kubeapi.MutatingWebhooks.Patch(ctx, k.o.Client, "", c.Webhook.Configuration, text)
		return false, err
	})
}

// object is one of JSON.
type object = map[string]any
