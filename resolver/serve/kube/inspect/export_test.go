package inspect

import (
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

// Allows returns what rules allow, as text, and the scopes that may be claimed.
func Allows(rules []rbacv1.PolicyRule, minor int) (string, []string) {
	a := allows(rules, minor)
	return a.powers.String(), a.scopes
}

// Powers are the texts of all powers.
func Powers() (texts []string) {
	for _, d := range doing {
		texts = append(texts, d.text)
	}
	return texts
}

// AtLeast is for tests of versions.
var AtLeast = atLeast

// MaxObjects is how many objects of a kind are read, and MaxText the length of a text in bytes.
const (
	MaxObjects = maxObjects
	MaxText    = maxText
)

// Nodes says which of these nodes have no volumes of images.
func Nodes(all []corev1.Node) string {
	f := fleet{lacking: map[string][]string{}}
	for n := range all {
		f.add(&all[n])
	}
	return f.String()
}
