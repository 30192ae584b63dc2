package spelling

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNearest(t *testing.T) {
	known := []string{"create", "update", "get", "delete", "secret"}
	for _, c := range []struct{ word, want string }{
		{"create", "create"},
		{"creat", "create"},
		{"secert", "secret"},
		{"gte", "get"},
		{"deletes", "delete"},
		{"up", ""},
		{"dataset", ""},
		{"", ""},
		{strings.Repeat("secret", 100_000), ""},
	} {
		t.Run(c.word[:min(len(c.word), 10)], func(t *testing.T) { require.Equal(t, c.want, Nearest(c.word, known)) })
	}
	require.Empty(t, Nearest("create", nil))
	require.Equal(t, "aa", Nearest("ab", []string{"aa", "bb"}), "the first of equally near ones")
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"secret", "secret", 0},
		{"secert", "secret", 2},
		{"tsk", "task", 1},
		{"kitten", "sitting", 3},
	} {
		t.Run(c.a+" "+c.b, func(t *testing.T) {
			require.Equal(t, c.want, distance(c.a, c.b))
			require.Equal(t, c.want, distance(c.b, c.a))
		})
	}
}
