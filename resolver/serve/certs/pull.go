package certs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

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
		_, err := again(func() (bool, error) { return false, k.pullTo(ctx, namespace, c.PullSecret, config) })
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (k *Keeper) pullTo(ctx context.Context, namespace, name string, config secret.Value) error {
	o, err := kubeapi.Secrets.Get(ctx, k.o.Client, namespace, name)
	data := map[string][]byte{corev1.DockerConfigJsonKey: config.Reveal()} // into the Secret
	switch {
	case errors.Is(err, secret.ErrNotFound):
		_, err = kubeapi.Secrets.Create(ctx, k.o.Client, namespace, name, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{keptLabel: keptBy}},
			Type:       corev1.SecretTypeDockerConfigJson, Data: data,
		})
		return err
	case err != nil:
		return err
	case o.Labels[keptLabel] != keptBy:
		return foreign(o)
	case len(o.Data) == 1 && bytes.Equal(o.Data[corev1.DockerConfigJsonKey], config.Reveal()): // to compare it
		return nil
	}
	o.Data = data
	_, err = kubeapi.Secrets.Update(ctx, k.o.Client, namespace, name, o)
	return err
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
