package certs

import (
	"bytes"
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

// Every pod of a namespace that is under the policies names the same Secret of registries, since neither kind
// of mutation can look up which ones its task declares. Pods of all projects share the namespace, so the
// Secret has what every project may use, and nothing else: the image pull secrets of the org itself.

// A Pull is an image pull secret of the org: its key, and a Docker config in JSON.
type Pull struct {
	Key    string
	Config secret.Value
}

// Pulls returns the image pull secrets of the org, in the order of their keys.
type Pulls func(ctx context.Context) ([]Pull, error)

// pull keeps the Secret of registries in each task namespace. It exists also without any credentials, because
// kubelet warns of each pod whose Secret is missing.
func (k *Keeper) pull(ctx context.Context, c *Config) error {
	k.mu.Lock()
	pulls := k.pulls
	k.mu.Unlock()
	if c.PullSecret == "" || pulls == nil {
		return nil
	}
	all, err := pulls(ctx)
	if err != nil {
		return fmt.Errorf("the image pull secrets of the org: %w", err)
	}
	config, errs := merge(all)
	for _, namespace := range c.TaskNamespaces {
		_, err := again(func() (bool, error) { return false, k.pullTo(ctx, c, namespace, config) })
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (k *Keeper) pullTo(ctx context.Context, c *Config, namespace string, config secret.Value) error {
	owners, err := k.owners(ctx, c, namespace)
	if err != nil {
		return err
	}
	o, err := kubeapi.Secrets.Get(ctx, k.o.Client, namespace, c.PullSecret)
	data := map[string][]byte{corev1.DockerConfigJsonKey: config.Reveal()} // into the Secret
	switch {
	case errors.Is(err, secret.ErrNotFound):
		_, err = kubeapi.Secrets.Create(ctx, k.o.Client, namespace, c.PullSecret, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Name: c.PullSecret, Labels: map[string]string{keptLabel: keptBy}, OwnerReferences: owners,
			},
			Type: corev1.SecretTypeDockerConfigJson, Data: data,
		})
		return err
	case err != nil:
		return err
	case o.Labels[keptLabel] != keptBy:
		return foreign(o)
	case len(o.Data) == 1 && bytes.Equal(o.Data[corev1.DockerConfigJsonKey], config.Reveal()) && // to compare it
		slices.Equal(o.OwnerReferences, owners):
		return nil
	}
	o.Data, o.OwnerReferences = data, owners
	_, err = kubeapi.Secrets.Update(ctx, k.o.Client, namespace, c.PullSecret, o)
	return err
}

// owners returns what owns the Secret of registries in a namespace. A namespace that is no longer one of tasks
// loses the rights of this account together with the Role that gives them, so that only Kubernetes' garbage
// collector can delete the credentials that it was left with.
func (k *Keeper) owners(ctx context.Context, c *Config, namespace string) ([]metav1.OwnerReference, error) {
	if c.PullOwner == "" {
		return nil, nil
	}
	owner := metav1.OwnerReference{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "Role", Name: c.PullOwner}
	role, err := kubeapi.Owner(ctx, k.o.Client, namespace, &owner)
	if errors.Is(err, secret.ErrNotFound) {
		return nil, secret.WithHint(
			fmt.Errorf("%w: there is no Role %s in namespace %s, which would own the Secret %s", secret.ErrUnavailable,
				c.PullOwner, namespace, c.PullSecret),
			"the chart makes it in each of taskNamespaces; without it, leave pullOwner out of the file")
	}
	if err != nil {
		return nil, err
	}
	owner.UID = role.UID
	return []metav1.OwnerReference{owner}, nil
}

// merge makes one Docker config of all. Of two that have the same registry the first one counts; the errors
// name the others, and those that cannot be read.
func merge(all []Pull) (secret.Value, []error) {
	auths, of := map[string]json.RawMessage{}, map[string]string{}
	var errs []error
	for _, p := range all {
		var config struct {
			Auths map[string]json.RawMessage `json:"auths"`
		}
		if json.Unmarshal(p.Config.Reveal(), &config) != nil { // the error might quote it
			errs = append(errs,
				fmt.Errorf("%w: the image pull secret %s is no Docker config", secret.ErrInvalid, p.Key))
		}
		twice := ""
		for registry, auth := range config.Auths {
			if first, has := of[registry]; has {
				twice = first
				continue
			}
			auths[registry], of[registry] = auth, p.Key
		}
		if twice != "" {
			errs = append(errs, secret.WithHint(
				fmt.Errorf("%w: the image pull secrets %s and %s have credentials of the same registry, and those of "+
					"the first are used", secret.ErrInvalid, twice, p.Key),
				"delete one of them, or give it to a project, whose pods name it themselves"))
		}
	}
	text, err := json.Marshal(map[string]any{"auths": auths})
	if err != nil {
		errs = append(errs, fmt.Errorf("%w: image pull secrets", secret.ErrInvalid))
	}
	return secret.NewValue(text), errs
}
