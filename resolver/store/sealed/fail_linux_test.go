package sealed_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/storetest"
)

// A commit that fails beside a backup that nothing reads waits for the backup, since bbolt may reuse
// its pages afterwards. Readers do not wait with it.
func TestFailedCommitBesideStalledBackup(t *testing.T) {
	t.Parallel()
	o := options(t.TempDir())
	s := open(t, o)
	ref := secret.Ref{Scope: storetest.Scopes[0], Key: "KEY"}
	v := secret.NewValue(storetest.Value(t, 77))
	require.NoError(t, s.Create(t.Context(), ref, v, store.Regular))
	w := &stalled{begun: make(chan struct{}), end: make(chan struct{})}
	backup, changed := make(chan error, 1), make(chan error, 1)
	go func() { backup <- s.BackupTo(t.Context(), w) }()
	<-w.begun

	repair := refuseWrites(t, s.Descriptor(), o.Path)
	go func() { changed <- s.Update(t.Context(), ref, secret.NewValue(storetest.Value(t, 78))) }()
	read := make(chan error, 1)
	time.Sleep(300 * time.Millisecond) // until the change has failed
	go func() {
		_, _, err := s.Get(t.Context(), ref)
		read <- err
	}()
	select {
	case err := <-read:
		require.NoError(t, err)
	case <-time.After(30 * time.Second):
		close(w.end)
		require.Fail(t, "readers wait for the backup")
	}
	select {
	case err := <-changed:
		require.Fail(t, "the change did not wait", err)
	default:
	}
	close(w.end)
	require.NoError(t, <-backup)
	err := <-changed
	require.ErrorIs(t, err, unix.EBADF)
	require.ErrorIs(t, err, secret.ErrUnavailable)
	repair()
	require.NoError(t, s.Update(t.Context(), ref, v))
	got, _, err := s.Get(t.Context(), ref)
	require.NoError(t, err)
	require.True(t, got.Equal(v))
}

// refuseWrites makes every write to the file of the descriptor fd fail until repair is called.
func refuseWrites(t *testing.T, fd int, path string) (repair func()) {
	t.Helper()
	kept, err := unix.Dup(fd)
	require.NoError(t, err)
	reading, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Dup3(reading, fd, unix.O_CLOEXEC))
	require.NoError(t, unix.Close(reading))
	return func() {
		require.NoError(t, unix.Dup3(kept, fd, unix.O_CLOEXEC))
		require.NoError(t, unix.Close(kept))
	}
}
