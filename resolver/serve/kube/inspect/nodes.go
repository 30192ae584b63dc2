package inspect

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"inject/resolver/kubeapi"
)

// kubeletMinor is the first minor version of kubelet 1 that has volumes of images without being told to, and
// gatedMinor the first that has them by a feature gate, which no object of the API shows (ImageVolume in
// Kubernetes' pkg/features/kube_features.go).
const (
	kubeletMinor = 35
	gatedMinor   = 33
)

// runtimes are the first versions of container runtimes with volumes of images, by their names in nodes. No
// version of others, such as docker, is known to have them.
// https://kubernetes.io/blog/2025/04/29/kubernetes-v1-33-image-volume-beta
var runtimes = map[string]struct{ major, minor int }{"containerd": {2, 1}, "cri-o": {1, 31}}

// maxNodes is how many nodes a text names.
const maxNodes = 100

var version = regexp.MustCompile(`(\d+)\.(\d+)`)

// atLeast reports whether the first version in text is major.minor or later.
func atLeast(text string, major, minor int) bool {
	m := version.FindStringSubmatch(text)
	if m == nil {
		return false
	}
	a, err := strconv.Atoi(m[1])
	b, err2 := strconv.Atoi(m[2])
	return err == nil && err2 == nil && (a > major || a == major && b >= minor)
}

// lacks says what keeps a node from having volumes of images, "" for nothing. perhaps reports that a feature
// gate may give them to it.
func lacks(info *corev1.NodeSystemInfo) (what string, perhaps bool) {
	var all []string
	name, is, _ := strings.Cut(info.ContainerRuntimeVersion, "://")
	if first, known := runtimes[name]; !known || !atLeast(is, first.major, first.minor) {
		all = append(all, strings.TrimSpace(name+" "+is))
	}
	if !atLeast(info.KubeletVersion, 1, kubeletMinor) {
		perhaps = all == nil && atLeast(info.KubeletVersion, 1, gatedMinor)
		text := "kubelet " + info.KubeletVersion
		if perhaps {
			text += " unless it has the feature gate ImageVolume"
		}
		all = append(all, text)
	}
	return strings.Join(all, " and "), perhaps
}

// A fleet is what the nodes of a cluster have.
type fleet struct {
	linux, windows int
	lacking        map[string][]string // what is missing -> the nodes without volumes of images
	surely         bool                // whether one of them has none whatever its feature gates are
}

func (f *fleet) add(n *corev1.Node) {
	if n.Status.NodeInfo.OperatingSystem == "windows" {
		f.windows++
		return
	}
	f.linux++
	what, perhaps := lacks(&n.Status.NodeInfo)
	if what == "" {
		return
	}
	f.lacking[what] = append(f.lacking[what], n.Name)
	f.surely = f.surely || !perhaps
}

// String says which nodes have no volumes of images.
func (f *fleet) String() string {
	windows := ""
	if f.windows > 0 {
		windows = fmt.Sprintf("; left out, because no task gets secrets there: %s", counted(f.windows, "Windows node"))
	}
	if len(f.lacking) == 0 {
		return counted(f.linux, "node") + ", all with volumes of images" + windows
	}
	count, left := 0, maxNodes
	var groups []string
	for _, what := range slices.Sorted(maps.Keys(f.lacking)) {
		names := f.lacking[what]
		count += len(names)
		groups = append(groups, fmt.Sprintf("%s (%s)", atMost(max(left, 1), names), what))
		left -= len(names)
	}
	return fmt.Sprintf("%d of %s have no volumes of images: %s%s", count, counted(f.linux, "node"),
		strings.Join(groups, ", "), windows)
}

// nodes reports which nodes have no volumes of images. Where such a volume delivers inject, no pod of a task
// starts on them.
func (i *inspection) nodes(ctx context.Context) {
	f := fleet{lacking: map[string][]string{}}
	err := each(ctx, i.client, "", metav1.ListOptions{}, kubeapi.Nodes.List, func(l *corev1.NodeList) int {
		for n := range l.Items {
			f.add(&l.Items[n])
		}
		return len(l.Items)
	})
	if err != nil {
		i.unseen("nodes", err)
		return
	}
	if len(f.lacking) == 0 {
		i.found("nodes", OK, "", "%s", &f)
		return
	}
	needed, err := i.imagesNeeded(ctx)
	const next = "upgrade them, keep tasks away from them, or set mutation.delivery to init in the chart's values"
	switch {
	case err != nil:
		i.unseen("nodes", err)
		i.found("nodes", OK, "", "%s", &f)
	case !needed:
		i.found("nodes", OK, "", "mutation.delivery has to stay init: %s", &f)
	case f.surely:
		i.found("nodes", Failure, next, "pods of tasks do not start on all nodes: %s", &f)
	default:
		i.found("nodes", Warning, "look at featureGates in the configuration of their kubelets, or "+next,
			"pods of tasks may not start on all nodes: %s", &f)
	}
}

// imagesNeeded reports whether the chart, as it is installed, delivers inject by a volume of its image.
func (i *inspection) imagesNeeded(ctx context.Context) (bool, error) {
	o := metav1.ListOptions{LabelSelector: "inject.flyte.org/delivery=image", Limit: 1}
	hooks, err := kubeapi.MutatingWebhooks.ListMetadata(ctx, i.client, "", o)
	if err != nil || len(hooks.Items) > 0 || i.minor < inherits {
		return err == nil && len(hooks.Items) > 0, err
	}
	bindings, err := kubeapi.MutatingBindings.ListMetadata(ctx, i.client, "", o)
	return err == nil && len(bindings.Items) > 0, err
}
