package kube

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"inject/resolver/kubeapi"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// A secret of type image_pull is in two Secrets: its own, and its pull Secret, of the type that kubelet
// reads (kubernetes.io/dockerconfigjson) and of the name under which Flyte looks for one when a task
// declares the secret (flyteplugins/go/tasks/pluginmachinery/secret/imagepull_kubernetes_utils.go).
//
// Kubernetes cannot change two objects at once. The pull Secret is a copy: the secret's own Secret says
// what it should be, and it is there only while that one is there. So it is written after it, and
// deleted before it. If a process ends in between, the copy is old or missing, and the next create,
// update or delete of the secret puts it right. Writers at the same time agree because each one
// compares both again after it wrote: the last one to write the copy found it equal.

// pullName returns the name of the pull Secret of ref.
func pullName(ref secret.Ref) string {
	sum := sha256.Sum256([]byte(ref.Org + ":" + ref.Domain + ":" + ref.Project + ":" + ref.Key))
	return "img-pull-" + hex.EncodeToString(sum[:])[:16]
}

// pullLabels returns the labels that Flyte gives pull Secrets.
func pullLabels(ref secret.Ref) map[string]string {
	return map[string]string{ //nolint:gosec // no credentials
		"union.ai/org":         pullLabel(ref.Org),
		"union.ai/domain":      pullLabel(ref.Domain),
		"union.ai/project":     pullLabel(ref.Project),
		"union.ai/secret-name": pullLabel(ref.Key),
		"union.ai/secret-type": "image-pull-secret",
	}
}

var noLabel = regexp.MustCompile(`[^a-zA-Z0-9._-]`)

// pullLabel makes the value of a label of text, as Flyte's sanitizeLabelValue does.
func pullLabel(text string) string {
	if text == "" {
		return "none"
	}
	b := noLabel.ReplaceAllLiteral([]byte(text), []byte("-"))
	b = b[:min(len(b), 63)]
	for _, end := range []*byte{&b[0], &b[len(b)-1]} {
		if bytes.IndexByte([]byte("._-"), *end) >= 0 {
			*end = 'x'
		}
	}
	return string(b)
}

// validPull returns an error that wraps [secret.ErrInvalid] unless v is a Docker config that kubelet can
// use. It does not quote v.
func validPull(v secret.Value) error {
	var config struct {
		Auths map[string]*struct {
			Auth string `json:"auth"`
		} `json:"auths"`
	}
	why := ""
	if json.Unmarshal(v.Reveal(), &config) != nil || len(config.Auths) == 0 {
		why = "it is not JSON with credentials"
	}
	for _, a := range config.Auths {
		if a == nil {
			why = "the credentials of a registry are missing"
		} else if a.Auth != "" {
			plain, err := base64.StdEncoding.DecodeString(a.Auth)
			if err != nil {
				plain, err = base64.RawStdEncoding.DecodeString(a.Auth)
			}
			if err != nil || !bytes.Contains(plain, []byte(":")) {
				why = "an auth is not base64 of USER:PASSWORD"
			}
		}
	}
	if why == "" {
		return nil
	}
	return secret.WithHint(
		fmt.Errorf("%w: Kubernetes takes only a Docker config as an image pull secret: %s", secret.ErrInvalid, why),
		`its form is {"auths":{"REGISTRY":{"auth":"base64 of USER:PASSWORD"}}}`)
}

// getPull returns the pull Secret of ref, nil if there is none. foreign is true if there is one that
// this package did not write: it stays as it is.
func (s *Store) getPull(ctx context.Context, ref secret.Ref) (pull *corev1.Secret, foreign bool, err error) {
	o, err := kubeapi.Secrets.Get(ctx, s.client, s.namespace, pullName(ref))
	switch {
	case errors.Is(err, secret.ErrNotFound):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	case o.Annotations[idAnnotation] != ref.ID():
		return nil, true, nil
	}
	return o, false, nil
}

// pullAllowed returns an error if v cannot be the value of the image pull secret ref.
func (s *Store) pullAllowed(ctx context.Context, ref secret.Ref, v secret.Value) error {
	if err := validPull(v); err != nil {
		return err
	}
	_, foreign, err := s.getPull(ctx, ref)
	if foreign {
		return secret.WithHint(
			fmt.Errorf("%w: its copy for kubelet would be the Secret %s in namespace %s, which exists and is another's",
				secret.ErrInvalid, pullName(ref), s.namespace),
			"keep what it has, and delete it: kubectl -n %s delete secret %s", s.namespace, pullName(ref))
	}
	return err
}

// followPull makes the pull Secret of ref what the secret's own Secret says, after a change of that one.
// The error says that the change was made.
func (s *Store) followPull(ctx context.Context, ref secret.Ref) error {
	for range tries {
		equal, err := s.copyPull(ctx, ref)
		switch {
		case equal && err == nil:
			return nil
		case err != nil && !errors.Is(err, kubeapi.ErrConflict) && !errors.Is(err, secret.ErrExists):
			return secret.WithHint(
				fmt.Errorf("%w: the secret was changed, and its copy for kubelet, %s, was not: %s",
					secret.ErrUnavailable, pullName(ref), err.Error()),
				"update or delete the secret again")
		}
	}
	return fmt.Errorf("%w: the secret was changed, and others change its copy for kubelet, %s, at the same time",
		secret.ErrUnavailable, pullName(ref))
}

// copyPull compares the pull Secret of ref with the secret's own Secret, and changes it if they differ.
// equal is true if they did not.
func (s *Store) copyPull(ctx context.Context, ref secret.Ref) (equal bool, err error) {
	var want []byte
	o, err := s.get(ctx, ref)
	switch {
	case err == nil && isPull(o):
		want = o.Data[ref.ID()]
	case err != nil && !errors.Is(err, secret.ErrNotFound):
		return false, err
	}
	pull, foreign, err := s.getPull(ctx, ref)
	name := pullName(ref)
	switch {
	case err != nil:
		return false, err
	case foreign && want != nil:
		return false, fmt.Errorf("%w: the Secret %s is not inject's", secret.ErrInvalid, name)
	case want == nil && pull == nil:
		return true, nil
	case want == nil:
		return false, s.deletePull(ctx, pull)
	case pull == nil:
		_, err = kubeapi.Secrets.Create(ctx, s.client, s.namespace, name, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Name: name, Labels: pullLabels(ref), Annotations: map[string]string{idAnnotation: ref.ID()},
			},
			Type: corev1.SecretTypeDockerConfigJson,
			Data: map[string][]byte{corev1.DockerConfigJsonKey: want},
		})
		return false, err
	case bytes.Equal(pull.Data[corev1.DockerConfigJsonKey], want):
		return true, nil
	}
	pull.Data = map[string][]byte{corev1.DockerConfigJsonKey: want}
	_, err = kubeapi.Secrets.Update(ctx, s.client, s.namespace, name, pull)
	return false, err
}

// MaxPulls is how many image pull secrets of an org [Store.Pulls] reads, which take at most
// [store.MaxValue] together: they end up in one Secret.
const MaxPulls = 64

// Pulls returns the secrets of type image_pull of an org that are of no domain and no project, in the order
// of their keys, with their values. It finds them by their pull Secrets.
func (s *Store) Pulls(ctx context.Context, org string) (all []store.New, err error) {
	of := pullLabels(secret.Ref{Scope: secret.Scope{Org: org}, Key: "any"})
	delete(of, "union.ai/secret-name")
	o := metav1.ListOptions{LabelSelector: labels.SelectorFromSet(of).String(), Limit: listPage}
	size := 0
	for {
		list, err := s.listMetadata(ctx, o)
		if err != nil {
			return nil, fmt.Errorf("list: %w", err)
		}
		for i := range list.Items {
			item := &list.Items[i]
			ref, err := secret.ParseID(item.Annotations[idAnnotation])
			// Labels are no proof: a project may be called as they call none.
			if err != nil || pullName(ref) != item.Name || ref.Scope != (secret.Scope{Org: org}) {
				continue
			}
			v, info, err := s.Get(ctx, ref)
			if errors.Is(err, secret.ErrNotFound) || err == nil && info.Type != store.ImagePull {
				continue // changed since it was listed
			}
			if err != nil {
				return nil, err
			}
			if size += v.Len(); len(all) == MaxPulls || size > store.MaxValue {
				return nil, secret.WithHint(
					fmt.Errorf("%w: the org has over %d image pull secrets, or over %d bytes of them",
						secret.ErrInvalid, MaxPulls, store.MaxValue), "delete some, or move them to projects")
			}
			all = append(all, store.New{Ref: ref, Value: v, Type: info.Type})
		}
		if o.Continue = list.Continue; o.Continue == "" {
			break
		}
	}
	slices.SortFunc(all, func(a, b store.New) int { return cmp.Compare(a.Ref.Key, b.Ref.Key) })
	return all, nil
}

// deletePull deletes a pull Secret, if it is still the one that was read.
func (s *Store) deletePull(ctx context.Context, pull *corev1.Secret) error {
	_, err := kubeapi.Secrets.Delete(ctx, s.client, s.namespace, pull.Name,
		metav1.Preconditions{UID: &pull.UID})
	if errors.Is(err, secret.ErrNotFound) {
		return nil
	}
	return err
}
