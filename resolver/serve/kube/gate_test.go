package kube

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
)

// TestGate fills the places of one namespace: one more is turned away, and another namespace is served.
func TestGate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		var leaves []func()
		enter := func(namespace string, n int) {
			for range n {
				leave, err := g.enter(t.Context(), namespace)
				require.NoError(t, err)
				leaves = append(leaves, leave)
			}
		}
		enter("a", OwnReviews)
		ended := make(chan error, OwnQueue+MaxQueue)
		waits := func(ctx context.Context, namespace string, n int) {
			for range n {
				go func() {
					leave, err := g.enter(ctx, namespace)
					if err == nil {
						leave()
					}
					ended <- err
				}()
			}
			synctest.Wait()
		}
		ctx, cancel := context.WithCancel(t.Context())
		waits(ctx, "a", OwnQueue)
		_, err := g.enter(t.Context(), "a")
		require.ErrorIs(t, err, secret.ErrUnavailable)
		require.ErrorIs(t, err, errBusy)
		enter("b", MaxReviews-OwnReviews) // a namespace with less is served
		cancel()
		for range OwnQueue {
			require.ErrorIs(t, <-ended, secret.ErrUnavailable)
		}

		// All places are taken: whoever comes waits, and not without end.
		waits(t.Context(), "c", OwnReviews+OwnQueue)
		_, err = g.enter(t.Context(), "c")
		require.ErrorIs(t, err, errBusy)
		waits(t.Context(), "d", MaxQueue-OwnReviews-OwnQueue)
		_, err = g.enter(t.Context(), "d")
		require.ErrorIs(t, err, errBusy, "of another namespace, when the queue of all is full")
		for range MaxQueue { // after Patience, by the clock of the test
			require.ErrorIs(t, <-ended, errBusy)
		}

		waits(t.Context(), "c", 1)
		for _, leave := range leaves {
			leave()
		}
		require.NoError(t, <-ended)
		synctest.Wait()
		require.Empty(t, g.of, "a namespace without callers takes nothing")
		require.Empty(t, g.all.slots)
		require.Empty(t, g.all.queue)
	})
}
