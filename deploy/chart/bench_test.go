package chart_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkAdmission reports what the policies cost the creation of a pod (dry-run, by Flyte's account). Each
// ratio is of two contenders: the time in a task namespace over that in one without policies, for a pod that
// wants secrets and for one that does not; and of a pod that wants secrets, the time with mutation over that
// without it, and over that of the pod that does not. The contenders take turns, and a ratio is the median of
// the rounds' own.
func BenchmarkAdmission(b *testing.B) {
	c := get(b)
	if c.mutating {
		c.tasks(b, "unmutated", nil)
		c.grant(b, "unmutated", "all-but-claim", nil, flyte)
		c.grant(b, "unmutated", "inject-claimer", nil, flyte)
		c.bind(b, "--set", "taskNamespaces={unmutated},mutation.mode=off")
	}
	task := read(b, "testdata/pods/python-mount.yaml")
	labelled := pods.post(task)
	plain := pods.post(edited(clone(b, task), func(o object) {
		delete(in(o, "metadata"), "ownerReferences")
		delete(in(o, "metadata"), "labels")
		delete(in(o, "metadata"), "annotations")
	}))
	contenders := map[string]request{
		"plain": plain, "plain without": plain.elsewhere(),
		"labelled": labelled, "labelled without": labelled.elsewhere(),
	}
	pairs := map[string][2]string{
		"plain/without":    {"plain", "plain without"},
		"labelled/without": {"labelled", "labelled without"},
		"labelled/plain":   {"labelled", "plain"},
	}
	if c.mutating {
		contenders["unmutated"] = created("unmutated", task)
		pairs["labelled/unmutated"] = [2]string{"labelled", "unmutated"}
	}
	names := slices.Sorted(maps.Keys(contenders))
	ratios := map[string][]float64{}
	for round := 0; b.Loop(); round++ {
		times := map[string]time.Duration{}
		for i := range names {
			name := names[(round+i)%len(names)]
			start := time.Now()
			a, err := c.send(b.Context(), flyte, contenders[name], true)
			times[name] = time.Since(start)
			require.NoError(b, err)
			require.True(b, a.ok(), a)
		}
		for name, pair := range pairs {
			ratios[name] = append(ratios[name], float64(times[pair[0]])/float64(times[pair[1]]))
		}
	}
	b.ReportMetric(0, "ns/op") // what counts is the ratio
	for name, all := range ratios {
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2], name)
	}
}
