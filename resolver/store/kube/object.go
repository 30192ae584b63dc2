package kube

import (
	"crypto/md5" //nolint:gosec // Flyte's names of Secrets
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"inject/resolver/secret"
	"inject/resolver/store"
)

// The labels and annotations of a Secret.
const (
	managedLabel = "app.flyte.org/managed"
	domainLabel  = "app.flyte.org/domain"
	projectLabel = "app.flyte.org/project"

	typeAnnotation    = "inject.flyte.org/type"    // of store.Type's names
	updatedAnnotation = "inject.flyte.org/updated" // in the format of RFC 3339
	idAnnotation      = "inject.flyte.org/id"      // of pull Secrets: which secret they copy
)

// nameOf returns the name of the Secret with an id.
func nameOf(id string) string {
	sum := md5.Sum([]byte(id)) //nolint:gosec // as above
	return hex.EncodeToString(sum[:])
}

func labelsOf(s secret.Scope) map[string]string {
	labels := map[string]string{managedLabel: "true"}
	if s.Domain != "" {
		labels[domainLabel] = s.Domain
	}
	if s.Project != "" {
		labels[projectLabel] = s.Project
	}
	return labels
}

// newObject returns the Secret for a new secret.
func newObject(ref secret.Ref, v secret.Value, t store.Type) *corev1.Secret {
	o := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: nameOf(ref.ID()), Labels: labelsOf(ref.Scope),
			Annotations: map[string]string{typeAnnotation: t.String()},
		},
		Type: corev1.SecretTypeOpaque,
	}
	setValue(o, ref, v)
	return o
}

// setValue replaces the value of the Secret of ref.
func setValue(o *corev1.Secret, ref secret.Ref, v secret.Value) {
	o.Data = map[string][]byte{ref.ID(): v.Reveal()}
	if o.Annotations == nil {
		o.Annotations = map[string]string{}
	}
	o.Annotations[updatedAnnotation] = time.Now().UTC().Format(time.RFC3339Nano)
}

// storable returns an error that wraps [secret.ErrInvalid] and names everything that keeps ref from
// being stored as Flyte does it.
func storable(ref secret.Ref) error {
	var errs []error
	for _, part := range []struct{ level, name string }{{"domain", ref.Domain}, {"project", ref.Project}} {
		if len(validation.IsValidLabelValue(part.name)) > 0 {
			errs = append(errs, fmt.Errorf("%w: the %s %.80q cannot be the value of a label of Kubernetes: that has "+
				"letters, digits, -, _ and dots, and begins and ends with a letter or digit",
				secret.ErrInvalid, part.level, part.name))
		}
	}
	id, limit := ref.ID(), validation.DNS1123SubdomainMaxLength
	switch {
	case len(id) > limit:
		errs = append(errs, secret.WithHint(
			fmt.Errorf("%w: the id in Kubernetes, %sKEY, would be %d bytes long (at most %d)", secret.ErrInvalid,
				strings.TrimSuffix(id, ref.Key), len(id), limit),
			"the key may be %d bytes long at this scope", max(0, limit-len(id)+len(ref.Key))))
	case len(errs) == 0 && len(validation.IsConfigMapKey(id)) > 0:
		errs = append(errs, fmt.Errorf("%w: the org %.80q cannot be part of a key of a Secret: that has letters, "+
			"digits, -, _ and dots", secret.ErrInvalid, ref.Org))
	}
	return errors.Join(errs...)
}

// checkMeta returns what is wrong with the metadata of the Secret of ref, one sentence each.
func checkMeta(o *metav1.ObjectMeta, ref secret.Ref) (wrong []string) {
	want := labelsOf(ref.Scope)
	for _, label := range []string{managedLabel, domainLabel, projectLabel} {
		got, has := o.Labels[label]
		value, wanted := want[label]
		switch {
		case wanted && got != value:
			wrong = append(wrong, fmt.Sprintf("its label %s is %.80q and not %q", label, got, value))
		case !wanted && has:
			wrong = append(wrong, fmt.Sprintf("it has the label %s, which a secret of this scope has not", label))
		}
	}
	if _, err := parseType(o); err != nil {
		wrong = append(wrong, err.Error())
	}
	return wrong
}

// shownEntries is how many entries of a Secret's data an error names. A Secret has room for thousands, and the
// error goes into a header of an answer and into lines of logs.
const shownEntries = 3

// check returns what is wrong with the Secret of ref.
func check(o *corev1.Secret, ref secret.Ref) []string {
	wrong := checkMeta(&o.ObjectMeta, ref)
	if _, ok := o.Data[ref.ID()]; !ok || len(o.Data) != 1 {
		names, more := slices.Sorted(maps.Keys(o.Data)), ""
		if n := len(names) - shownEntries; n > 0 {
			names, more = names[:shownEntries], fmt.Sprintf(" and %d more", n)
		}
		wrong = append(wrong, fmt.Sprintf("its data has the entries %.200q%s and not only %q", names, more, ref.ID()))
	}
	return wrong
}

func parseType(o *metav1.ObjectMeta) (store.Type, error) {
	switch text := o.Annotations[typeAnnotation]; text {
	case "", store.Regular.String():
		return store.Regular, nil
	case store.ImagePull.String():
		return store.ImagePull, nil
	default:
		return 0, fmt.Errorf("its annotation %s is %.80q, which is no type", typeAnnotation, text)
	}
}

// isPull reports whether a Secret is that of a secret of type image_pull.
func isPull(o *corev1.Secret) bool {
	t, err := parseType(&o.ObjectMeta)
	return err == nil && t == store.ImagePull
}

// infoOf returns what the metadata of the Secret of ref says.
func infoOf(o *metav1.ObjectMeta, ref secret.Ref) store.Info {
	t, _ := parseType(o) // was checked
	info := store.Info{Ref: ref, Type: t, Created: o.CreationTimestamp.UTC(), Updated: o.CreationTimestamp.UTC()}
	later := func(t time.Time) {
		if t.After(info.Updated) {
			info.Updated = t.UTC()
		}
	}
	if t, err := time.Parse(time.RFC3339Nano, o.Annotations[updatedAnnotation]); err == nil {
		later(t)
	}
	// Flyte keeps the annotation as it is. The time of a change of something else, such as a label, is no time
	// of the value: a migration would take the value for a newer one.
	for _, f := range o.ManagedFields {
		if _, ok := notedEntries(f)["f:"+ref.ID()]; ok && f.Time != nil {
			later(f.Time.Time)
		}
	}
	return info
}
