package certs

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"inject/resolver/kubeapi"
	"inject/resolver/secret"
)

// publish brings the authorities to every place where clients find them. held is true if every place had
// them already.
func (k *Keeper) publish(ctx context.Context, c *Config, bundle []byte) (held bool, err error) {
	held = true
	var errs []error
	add := func(had bool, err error) {
		held = held && had && err == nil
		if err != nil {
			errs = append(errs, err)
		}
	}
	for _, namespace := range append(slices.Clip(c.TaskNamespaces), c.Namespace) {
		add(again(func() (bool, error) { return k.publishTo(ctx, namespace, c.ConfigMap, bundle) }))
	}
	if !c.Given {
		add(k.publishToWebhook(ctx, c, bundle))
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
func (k *Keeper) publishTo(ctx context.Context, namespace, name string, bundle []byte) (had bool, err error) {
	o, err := kubeapi.ConfigMaps.Get(ctx, k.o.Client, namespace, name)
	switch {
	case errors.Is(err, secret.ErrNotFound):
		return false, k.make(ctx, namespace, name, bundle)
	case err != nil:
		return false, err
	case fixed(o):
		return false, k.remake(ctx, o, bundle)
	case len(o.Data) == 1 && o.BinaryData == nil && same([]byte(o.Data[authorityEntry]), bundle):
		return true, nil
	}
	certs, err := decode([]byte(o.Data[authorityEntry]))
	if err != nil || certs == nil || len(o.Data) > 1 || o.BinaryData != nil || o.Labels[keptLabel] != keptBy {
		k.o.Log.Warn("the ConfigMap had something else than the authorities, and was restored",
			"configmap", name, "namespace", namespace)
	}
	if o.Labels == nil {
		o.Labels = map[string]string{}
	}
	o.Labels[keptLabel] = keptBy
	// An entry of binaryData with the name of ours would have the API server refuse ours.
	o.Data, o.BinaryData = map[string]string{authorityEntry: string(bundle)}, nil
	_, err = kubeapi.ConfigMaps.Update(ctx, k.o.Client, namespace, name, o)
	return false, err
}

// make makes the ConfigMap of a namespace.
func (k *Keeper) make(ctx context.Context, namespace, name string, bundle []byte) error {
	_, err := kubeapi.ConfigMaps.Create(ctx, k.o.Client, namespace, name, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{keptLabel: keptBy}},
		Data:       map[string]string{authorityEntry: string(bundle)},
	})
	return err
}

// fixed reports whether an object is immutable. Then the API server refuses each change of what it has, and
// kubelet does not watch it, so that it must go even if it has the authorities of today.
func fixed(o *corev1.ConfigMap) bool { return o.Immutable != nil && *o.Immutable }

// remake deletes an immutable ConfigMap, and makes another one. Between the two there is none: a pod that
// starts then has no authorities, and never those of others, whose Create the policies refuse. If this process
// ends between the two, the next reading of any replica makes it.
func (k *Keeper) remake(ctx context.Context, o *corev1.ConfigMap, bundle []byte) error {
	err := k.unmake(ctx, o)
	if err != nil && !errors.Is(err, secret.ErrNotFound) { // it was being deleted, and waited for its finalizers
		return err
	}
	k.o.Log.Warn("the ConfigMap was immutable, and another one was made; a node with pods that had mounted it gives "+
		"its content also to new ones until those pods have ended or its kubelet was restarted",
		"configmap", o.Name, "namespace", o.Namespace)
	return k.make(ctx, o.Namespace, o.Name, bundle)
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
func (k *Keeper) publishToWebhook(ctx context.Context, c *Config, bundle []byte) (had bool, err error) {
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
			had = had && same(w.ClientConfig.CABundle, bundle)
			webhooks = append(webhooks, object{"name": w.Name, "clientConfig": object{"caBundle": bundle}})
		}
		if had {
			return true, nil
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
