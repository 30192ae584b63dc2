package task

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"inject/internal/annotation"
	"inject/resolver/secret"
)

// The folders in which pod info is looked for by default: the pod's metadata.labels in a file called
// labels, and its metadata.annotations in one called annotations.
const (
	PodDir     = "/run/inject"  // a projected volume, which may hold what identifies the pod to a server, too
	PodInfoDir = "/etc/podinfo" // a downward-API volume
)

// FindPodInfo returns the default folder that this container has its pod info in: [PodDir] if one of
// the two files is there, else [PodInfoDir] if that is a folder, else "".
func FindPodInfo() string {
	for _, name := range []string{"labels", "annotations"} {
		if _, err := os.Lstat(filepath.Join(PodDir, name)); err == nil || errors.Is(err, fs.ErrPermission) {
			return PodDir
		}
	}
	if info, err := os.Stat(PodInfoDir); err == nil && info.IsDir() {
		return PodInfoDir
	}
	return ""
}

// declaresLabel is the label that Flyte gives the pods of tasks that declare secrets, with the text
// true (flyteplugins/go/tasks/pluginmachinery/utils/secrets at v2.0.43).
const declaresLabel = "inject-flyte-secrets"

// maxPodInfo is the longest file of pod info that is read, in bytes: the most that Kubernetes
// accepts in annotations, with each byte quoted as \x00.
const maxPodInfo = 4 * annotation.MaxBytes

// podInfo returns the task that the pod info in dir describes: the scope from the labels that
// Flyte gives its pods, and the declared list from the annotations. It ignores all other labels
// and annotations. One of the two files may be missing.
func podInfo(dir string, deadline time.Time) (Task, error) {
	labels, err := readPodInfo(dir, "labels", deadline)
	annotations, err2 := readPodInfo(dir, "annotations", deadline)
	if errors.Is(err, fs.ErrNotExist) && errors.Is(err2, fs.ErrNotExist) {
		return Task{}, secret.WithHint(
			fmt.Errorf("%w: %s holds neither labels nor annotations", secret.ErrInvalid, dir),
			"it is a downward-API volume with metadata.labels and metadata.annotations in files of those names")
	}
	t := Task{Source: "pod info " + dir}
	for _, e := range []error{err, err2} {
		if e != nil && !errors.Is(e, fs.ErrNotExist) {
			return t, e
		}
	}
	at := map[string]*string{"organization": &t.Org, "project": &t.Project, "domain": &t.Domain}
	var errs []error
	for name, value := range labels.all {
		if to := at[name]; to != nil {
			*to = value
		}
	}
	errs = append(errs, labels.twice(func(name string) bool { return at[name] != nil })...)
	errs = append(errs, annotations.twice(isDeclaration)...)
	var all error
	t.Declared, all = declaredBy(annotations)
	if all == nil && len(t.Declared) == 0 && labels.all[declaresLabel] == "true" {
		all = secret.WithHint(
			fmt.Errorf("%w: %s: the label %s says that the task declares secrets, and there is no annotation %s0",
				secret.ErrInvalid, dir, declaresLabel, annotation.Prefix),
			"the downward-API volume needs metadata.annotations in a file called annotations")
	}
	return t, joinSome(append(errs, all))
}

// pairs are the lines of a file of pod info.
type pairs struct {
	path    string
	all     map[string]string // values by name
	doubled []string          // names that have two lines
}

// twice returns an error for each name that has two lines and that matters.
func (p *pairs) twice(matters func(name string) bool) (errs []error) {
	for _, name := range p.doubled {
		if matters(name) {
			errs = append(errs, fmt.Errorf("%w: %s: %.100q is given twice", secret.ErrInvalid, p.path, name))
		}
	}
	return errs
}

// readPodInfo reads the file name in dir, of lines NAME="VALUE" with the value quoted as in Go.
// Kubelet writes it (k8s.io/kubernetes pkg/fieldpath FormatMap).
func readPodInfo(dir, name string, deadline time.Time) (*pairs, error) {
	p := &pairs{path: filepath.Join(dir, name), all: map[string]string{}}
	b, err := read("--pod-info", p.path, maxPodInfo, deadline)
	if err != nil {
		return p, err
	}
	if len(b) > maxPodInfo {
		return p, fmt.Errorf("%w: %s is longer than the %d bytes that Kubernetes accepts",
			secret.ErrInvalid, p.path, maxPodInfo)
	}

	n := 0
	for line := range bytes.Lines(b) {
		n++
		line = bytes.TrimSuffix(line, []byte("\n"))
		if len(line) == 0 {
			continue
		}
		key, quoted, ok := strings.Cut(string(line), "=")
		value, err := strconv.Unquote(quoted)
		if !ok || err != nil || !strings.HasPrefix(quoted, `"`) {
			return p, fmt.Errorf("%w: %s:%d is not NAME=\"VALUE\", as kubelet writes it", secret.ErrInvalid, p.path, n)
		}
		if _, there := p.all[key]; there {
			p.doubled = append(p.doubled, key)
		}
		p.all[key] = value
	}
	return p, nil
}

// isDeclaration reports whether the annotation declares a secret.
func isDeclaration(name string) bool { return strings.HasPrefix(name, annotation.Prefix) }

// declaredBy returns the declared list of annotations, in the order of their numbers. A number
// that is missing is an error: Flyte writes them without a gap, so a secret has been lost.
func declaredBy(p *pairs) ([]secret.Declaration, error) {
	var l list
	wrong := func(format string, args ...any) {
		l.errs = append(l.errs, fmt.Errorf("%w: %s: "+format, append([]any{secret.ErrInvalid, p.path}, args...)...))
	}

	total := 0
	texts := map[int]string{}
	for name, text := range p.all {
		if !isDeclaration(name) {
			continue
		}
		total += len(name) + len(text)
		digits := strings.TrimPrefix(name, annotation.Prefix)
		n, err := strconv.Atoi(digits)
		if err != nil || n < 0 || strconv.Itoa(n) != digits {
			wrong("the annotation %.100q has no number", name)
			continue
		}
		texts[n] = text
	}

	if total > annotation.MaxBytes {
		wrong("the declarations have %d bytes, more than Kubernetes accepts in annotations (%d)", total,
			annotation.MaxBytes)
	}
	for n, left := 0, len(texts); left > 0; n, left = n+1, left-1 {
		text, ok := texts[n]
		if !ok {
			wrong("%s%d is missing; declarations after it: %d", annotation.Prefix, n, left)
			break
		}
		d, err := annotation.Decode(text)
		l.add(fmt.Sprintf("%s: %s%d", p.path, annotation.Prefix, n), d, err)
	}
	return l.declared, joinSome(l.errs)
}
