package webhook_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/injector/webhook"
)

// A pod is changed up to the bound of a review's values, at any depth. What is in a text is no value.
func TestValuesAreBounded(t *testing.T) {
	t.Parallel()
	s := serve(t)
	changed := func(values int, text string) bool {
		pod, first := newPod()
		first["future"] = append(slices.Repeat(list{json.Number("1")}, values-1), text)
		return len(s.review(t, webhook.MutatePath, reviewed(pod))) > 0
	}
	for _, text := range []string{"x", strings.Repeat(`",[{\`, webhook.MaxValues), `\`} {
		require.True(t, changed(webhook.MaxValues-200, text))
		require.False(t, changed(webhook.MaxValues, text))
	}
	require.Contains(t, s.log.String(), string(webhook.Large))

	// Neither may a pod that another made have more.
	pod, first := newPod()
	by := func(r object) {
		r["userInfo"] = object{"username": "system:serviceaccount:flyte:default", "extra": object{
			"authentication.kubernetes.io/pod-name": list{"driver"}, "authentication.kubernetes.io/pod-uid": list{"7"},
		}}
	}
	require.NotEmpty(t, s.review(t, webhook.InheritPath, reviewed(pod, by)))
	first["future"] = slices.Repeat(list{"x"}, webhook.MaxValues)
	require.Empty(t, s.review(t, webhook.InheritPath, reviewed(pod, by)))
}
