package serve

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// Requests that are turned away take no place in which those of others are served, and all places
// are given back.
func TestCrowd(t *testing.T) {
	const callers, each = 4, 3
	c := newCrowd(callers*each, each)
	var leave []func()
	enter := func(who string) place {
		at, left := c.enter(who)
		if at != dropped {
			leave = append(leave, left)
		}
		return at
	}
	for i := range callers - 1 {
		for n := range 5 * each {
			require.Equal(t, min(place(n/each), dropped), enter(fmt.Sprint("greedy ", i)))
		}
	}
	for range each {
		require.Equal(t, served, enter("modest"))
	}
	for i := range callers * each { // all places are taken
		require.Equal(t, map[bool]place{true: turnedAway, false: dropped}[i < each], enter(fmt.Sprint("late ", i)))
	}
	require.Len(t, c.by, callers+each)
	for _, left := range leave {
		left()
	}
	require.Empty(t, c.by)
	require.Zero(t, c.n)
	require.Equal(t, served, enter("modest"))
}
