package inspect

import (
	"context"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"inject/resolver/kubeapi"
)

// flyte says what no policy of the cluster can close.
func (i *inspection) flyte() {
	i.found("flyte", OK, "", "Flyte's own API checks no caller: a user who reaches it past the proxy that "+
		"authenticates, or from a pod, runs tasks in every project, and they get its secrets")
}

// flyteWebhook is how Flyte calls the webhook that writes values into pods
// (executor/pkg/webhook/pod.go at v2.0.43). The name of its configuration is that of a Service.
const flyteWebhook = "flyte-pod-webhook.flyte.org"

// webhooks reports whether Flyte's own webhook is still called. Its configuration stays when it is
// switched off in Flyte's settings.
func (i *inspection) webhooks(ctx context.Context) {
	var on, off []string
	err := each(ctx, i.client, "", metav1.ListOptions{}, kubeapi.MutatingWebhooks.List,
		func(l *admissionv1.MutatingWebhookConfigurationList) int {
			for n := range l.Items {
				for _, w := range l.Items[n].Webhooks {
					switch {
					case w.Name != flyteWebhook:
					case i.selects(w.NamespaceSelector):
						on = append(on, l.Items[n].Name)
					default:
						off = append(off, l.Items[n].Name)
					}
				}
			}
			return len(l.Items)
		})
	if err != nil {
		i.unseen("webhook", err)
		return
	}
	for _, name := range on {
		i.found("webhook", Warning, "set webhook.disableCreateMutatingWebhookConfig in Flyte's configuration, then "+
			"kubectl delete mutatingwebhookconfiguration "+name,
			"Flyte's own webhook (%s) writes the values of secrets into the specs of pods, in clear text", name)
	}
	if on == nil {
		text := "there is no webhook of Flyte's that writes values into pods"
		if off != nil {
			text = "Flyte's own webhook (" + some(off) + ") selects no namespace of tasks"
		}
		i.found("webhook", OK, "", "%s", text)
	}
}

// selects reports whether a selector may select a namespace of tasks.
func (i *inspection) selects(s *metav1.LabelSelector) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if s == nil || err != nil || i.labels == nil || len(i.tasks) == 0 {
		return true
	}
	return slices.ContainsFunc(i.tasks, func(name string) bool { return selector.Matches(labels.Set(i.labels[name])) })
}

// scoped reports whether metadata of pods says a scope or declares secrets.
func scoped(o *metav1.ObjectMeta) bool {
	for _, name := range []string{"project", "domain", "organization", "inject-flyte-secrets"} {
		if _, ok := o.Labels[name]; ok {
			return true
		}
	}
	for name := range o.Annotations {
		if strings.HasPrefix(name, "flyte.secrets/") || strings.HasPrefix(name, "inject.flyte.org/") {
			return true
		}
	}
	return false
}

// older reports what says a scope and is older than the policies: they did not look at who made it.
func (i *inspection) older(ctx context.Context) {
	since, err := i.since()
	if err != nil {
		i.found("older", Warning, "mend the policies first",
			"pods and templates from before the policies are not known: the policies are not in force")
		return
	}
	const older = "in namespace %s, older than the policies, so without secrets for pods"
	bad := false
	look := func(err error) bool {
		if err != nil {
			i.unseen("older", err)
			bad = true
		}
		return err == nil
	}
	before := func(o *metav1.ObjectMeta) bool { return o.CreationTimestamp.Time.Before(since.Add(settles)) }
	for _, namespace := range i.tasks {
		for _, kind := range kubeapi.Workloads {
			var names []string
			err := each(ctx, i.client, namespace, metav1.ListOptions{}, kind.List, func(l *kubeapi.WorkloadList) int {
				for n := range l.Items {
					w := &l.Items[n]
					made, top := w.Pods(), metav1.GetControllerOf(&w.ObjectMeta) == nil
					if top && scoped(&made) && before(&w.ObjectMeta) {
						names = append(names, w.Name)
					}
				}
				return len(l.Items)
			})
			if look(err) && names != nil {
				bad = true
				i.found("older", Warning, "look at who made them, then make them again",
					older+": %s %s", namespace, kind, some(names))
			}
		}
		pods, actions := 0, 0
		err := each(ctx, i.client, namespace, metav1.ListOptions{
			FieldSelector: "status.phase!=Succeeded,status.phase!=Failed",
		}, kubeapi.Pods.ListMetadata, func(l *metav1.PartialObjectMetadataList) int {
			for n := range l.Items {
				if o := &l.Items[n].ObjectMeta; scoped(o) && before(o) {
					pods++
				}
			}
			return len(l.Items)
		})
		if look(err) && pods > 0 {
			bad = true
			i.found("older", Warning, "let them end, or delete them",
				older+": %s", namespace, counted(pods, "pod"))
		}
		err = each(ctx, i.client, namespace, metav1.ListOptions{}, kubeapi.TaskActions.ListMetadata,
			func(l *metav1.PartialObjectMetadataList) int {
				for n := range l.Items {
					if before(&l.Items[n].ObjectMeta) {
						actions++
					}
				}
				return len(l.Items)
			})
		switch {
		case apierrors.IsNotFound(err): // there is no such kind: Flyte is not installed yet
		case look(err) && actions > 0:
			bad = true
			i.found("older", Warning, "start the runs again that are not at their end",
				older+": %s", namespace, counted(actions, "TaskAction"))
		}
	}
	if !bad {
		i.found("older", OK, "", "nothing that says a scope is older than the policies (%s)",
			since.UTC().Format(time.RFC3339))
	}
}

// encryption reports whether the API servers encrypt what they write to etcd, if their pods can be seen.
func (i *inspection) encryption(ctx context.Context) {
	servers, encrypt := 0, 0
	err := each(ctx, i.client, "kube-system", metav1.ListOptions{LabelSelector: "component=kube-apiserver"},
		kubeapi.Pods.List, func(l *corev1.PodList) int {
			for n := range l.Items {
				servers++
				for _, c := range l.Items[n].Spec.Containers {
					if slices.ContainsFunc(slices.Concat(c.Command, c.Args), func(arg string) bool {
						return strings.HasPrefix(arg, "--encryption-provider-config")
					}) {
						encrypt++
						break
					}
				}
			}
			return len(l.Items)
		})
	const next = "https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/"
	switch {
	case err != nil:
		i.unseen("encryption", err)
	case servers == 0:
		i.found("encryption", OK, "", "of Secrets in etcd is not known, because no pod of an API server can be seen "+
			"here: the provider of the cluster tells")
	case encrypt < servers:
		i.found("encryption", Warning, next,
			"Secrets are in etcd in clear text: %d of %s without --encryption-provider-config",
			servers-encrypt, counted(servers, "API server"))
	default:
		i.found("encryption", OK, "", "of Secrets in etcd is set (--encryption-provider-config of %s)",
			counted(servers, "API server"))
	}
}
