package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"inject/cli"
	"inject/exec"
	"inject/exec/harden"
	"inject/injector/place"
	"inject/internal/durable"
	"inject/resolver/secret"
)

// initVerb is inject init.
type initVerb struct{ *app }

func initCommand(app *app) *cobra.Command {
	a := &initVerb{app}
	cmd := &cobra.Command{
		Use:   "init [--copy-to PATH] [--files] [flags]",
		Short: "Prepare a pod: copy inject to a shared volume, place file secrets for others",
		Long: `init is for a pod's init container. It needs no shell and no other file in its image.

With --copy-to it copies itself to PATH, or into PATH if that is a folder, so that all users
can execute it: a task's container mounts that volume and starts through the copy. With
--files it places the file secrets of the declared list in --files-dir, in the layout of a
Kubernetes secret volume, so that the pod's other containers can read them. Both remain when
init ends, so that a container can restart without it.`,
		Example: `  inject init --copy-to /copy
  inject init --files --files-dir /etc/flyte/secrets --pod-info /etc/podinfo`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.run(cmd.Context()) },
	}
	s := &a.set
	a.settings.AddFlags(cmd, &s.Init, &s.Declare, &s.Require, &s.Scope, &s.Store, &s.Resolve, &s.Message)
	return cmd
}

func (a *initVerb) run(ctx context.Context) error {
	f := &a.set.Init
	if f.CopyTo == "" && !f.Files {
		return secret.WithHint(
			fmt.Errorf("%w: nothing to prepare", secret.ErrInvalid),
			"--copy-to PATH copies inject there, --files places file secrets; inject init --help tells more",
		)
	}
	if f.CopyTo != "" {
		if err := copySelf(f.CopyTo); err != nil {
			return fmt.Errorf("--copy-to: %w", err)
		}
	}
	if !f.Files {
		return nil
	}

	t, scope, err := a.loadTask()
	if err != nil {
		return err
	}
	if err := a.sourced(t); err != nil {
		return err
	}
	// Only files outlive this container: the one that starts the task sets the variables.
	declared := slices.DeleteFunc(t.Declared, func(d secret.Declaration) bool { return !d.HasFile() })
	var errs []error
	for i, d := range declared {
		if d.Path != "" {
			err := fmt.Errorf("%w: %s: --files places it in --files-dir only", secret.ErrInvalid, d.Key)
			errs = append(errs, secret.WithHint(err, "--secret-file %s", d.Key))
		}
		declared[i].EnvVar = "" // no command runs here that could read it
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}

	if len(declared) == 0 {
		a.log.Info("no file secret is declared: there is nothing to place")
		return nil
	}
	secrets, err := a.resolveNow(ctx, scope, declared)
	if err != nil {
		return err
	}
	harden.Process(a.log.Debug)
	return place.Files(cmp.Or(f.FilesDir, place.FlyteDir), f.Group, secrets, a.log)
}

// copySelf copies this program to path, or into path if that is a folder, so that all users
// may execute it. It replaces an older copy atomically. It copies in small chunks: on a volume
// in memory the copy counts against the container's memory limit already.
func copySelf(path string) (err error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() || strings.HasSuffix(path, "/") {
		path = filepath.Join(path, "inject")
	}
	dir := filepath.Dir(path)
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return err
	}

	self, err := os.Open(exec.SelfPath())
	if err != nil {
		return fmt.Errorf("read this program: %w", err)
	}
	defer self.Close() //nolint:errcheck // read only

	// Remove the temporary files of killed runs, which would fill a small volume.
	const prefix = ".inject-copy-"
	entries, _ := os.ReadDir(dir) // a folder that cannot be listed is not swept
	for _, e := range entries {
		if info, err := e.Info(); strings.HasPrefix(e.Name(), prefix) && err == nil &&
			time.Since(info.ModTime()) > time.Minute {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}

	temp := filepath.Join(dir, prefix+rand.Text())
	w, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700) //nolint:gosec // to execute
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp)
		}
	}()

	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{self}, make([]byte, 64<<10))
	if err == nil {
		err = w.Chmod(0o755) // the umask may have removed bits
	}
	if err == nil {
		err = w.Sync()
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}

	if noexec(temp) {
		return secret.WithHint(
			fmt.Errorf("%w: nothing in %s can be executed: it is mounted noexec", secret.ErrInvalid, dir),
			"copy to a volume without that mount option, such as an emptyDir",
		)
	}
	return os.Rename(temp, path)
}

// noexec reports whether path cannot be executed although its mode allows it.
func noexec(path string) bool { return errors.Is(unix.Access(path, unix.X_OK), unix.EACCES) }
