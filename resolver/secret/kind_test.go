package secret_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
)

// Each kind has a sentinel, a name and a status of its own.
func TestKinds(t *testing.T) {
	statuses := map[uint32]secret.Kind{}
	numbers := map[secret.Kind]bool{}
	for _, kind := range secret.Kinds() {
		numbers[kind] = true
		t.Run(kind.String(), func(t *testing.T) {
			require.Error(t, kind.Err())
			require.Equal(t, kind, secret.KindOf(kind.Err()))
			require.Equal(t, kind, secret.KindOf(fmt.Errorf("wrapped: %w", kind.Err())))
			require.Equal(t, kind, secret.KindNamed(kind.String()))
			require.Equal(t, kind, secret.KindOfStatus(kind.Status()))
			require.NotContains(t, statuses, kind.Status(), "two kinds of one status look the same to a client")
			statuses[kind.Status()] = kind
		})
	}
	for n := range len(numbers) { // without gaps, since a constant may have no line in the table
		require.True(t, numbers[secret.Kind(n+1)], "no line for the number %d", n+1)
	}
	require.Equal(t, secret.KindUnknown, secret.KindOf(nil))
	require.Equal(t, secret.KindUnknown, secret.KindOf(errors.New("other")))
	require.Equal(t, secret.KindUnknown, secret.KindNamed("other"))
	require.Equal(t, secret.KindUnknown, secret.KindOfStatus(0))
	require.NoError(t, secret.KindUnknown.Err())

	newer := secret.Kind(99) // as a newer server may send it
	require.NoError(t, newer.Err())
	require.Equal(t, "failed", newer.String())
	require.Equal(t, secret.KindUnknown.Status(), newer.Status())
}

// An error that wraps several sentinels is of the worst kind.
func TestKindOfSeveral(t *testing.T) {
	all := secret.Kinds()
	for i, worse := range all {
		for _, other := range all[i:] {
			require.Equal(t, worse, secret.KindOf(errors.Join(other.Err(), worse.Err())), "%v and %v", worse, other)
		}
	}
	var known []secret.Kind // whose order must stay: it decides what callers see
	for _, kind := range all {
		if kind <= secret.KindInvalid {
			known = append(known, kind)
		}
	}
	require.Equal(t, []secret.Kind{
		secret.KindCorrupt, secret.KindDenied, secret.KindInvalid,
		secret.KindExists, secret.KindNotFound, secret.KindUnavailable,
	}, known)
}
