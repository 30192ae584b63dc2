package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"inject/cli"
	"inject/internal/durable"
	"inject/internal/tty"
	"inject/resolver/secret"
	"inject/resolver/serve"
	"inject/resolver/serve/identity"
	"inject/resolver/store/sealed"
)

func (a *app) keysCommand() *cobra.Command {
	keys := &cobra.Command{
		Use:   "keys",
		Short: "Change the key that opens the store",
		Args:  knownVerb,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	a.settings.AddFlags(keys)
	rotate := &cobra.Command{
		Use:   "rotate --new-key-file FILE",
		Short: "Replace the key that opens the store",
		Long: `rotate wraps the store's data key for the identities in --new-key-file, which is created
if it does not exist. The secrets themselves stay sealed as they are.

It may run while the store is served. A server opens the store with its own key at its
next start, so it refuses an identity that its key file does not hold. The safe order:
make the new key (a refused rotate makes it), add it to the server's key file with
cat key-2.txt >> key.txt, rotate, and then remove the old identity from key.txt. Backups
made before still need the old key: keep it as long as you keep them.

Someone with the old key and an old copy of the store can still read that copy's data
key. To lock them out, create the secrets anew in a new store.`,
		Example: "  injectd keys rotate --store file:///var/lib/inject/secrets.db \\\n" +
			"      --new-key-file /etc/inject/key-2.txt",
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			to := a.set.Rotate.NewKeyFile
			if to == "" {
				return secret.WithHint(fmt.Errorf("%w: --new-key-file is missing", secret.ErrInvalid),
					"%s --new-key-file key-2.txt; it is created if it does not exist", cmd.CommandPath())
			}
			if _, err := a.maintain(cmd.Context(), &work{Do: "rotate", Path: to}); err != nil {
				return err
			}
			a.say("the store now opens with --key-file %s", to)
			return nil
		},
	}
	a.settings.AddFlags(rotate, &a.set.Rotate, &a.set.File, &a.set.Wait, &a.set.Audit)
	keys.AddCommand(rotate)
	return keys
}

func (a *app) backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup [flags] FILE|-",
		Short: "Copy the store, still sealed, to a new file",
		Long: `backup writes a copy of the store as it is at one moment, even while it is served. The
copy is sealed for the same key, so keep the key somewhere else. FILE must not exist, but
its folder must. - writes the copy to stdout; it is whole only if the exit code is 0, and
restore refuses one that is cut short.`,
		Example: `  injectd backup --store file:///var/lib/inject/secrets.db /backups/2.db
  kubectl exec injectd-0 -- /injectd backup - > secrets-2.db`,
		Args: oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "-" {
				return a.backupToStdout(cmd.Context())
			}
			if _, err := a.maintain(cmd.Context(), &work{Do: "backup", Path: args[0]}); err != nil {
				return err
			}
			if tty.Is(a.stderr) {
				a.say("copied the store to %s", args[0])
			}
			return nil
		},
	}
	a.settings.AddFlags(cmd, &a.set.File, &a.set.Wait, &a.set.Audit)
	return cmd
}

// backupToStdout writes the copy of the store to stdout.
func (a *app) backupToStdout(ctx context.Context) error {
	if tty.Is(a.stdout) {
		return secret.WithHint(fmt.Errorf("%w: backup: stdout is a terminal, and the copy is not text",
			secret.ErrInvalid), "injectd backup - > FILE")
	}
	if _, err := a.maintain(ctx, &work{Do: "copy", out: a.stdout}); err != nil {
		return err
	}
	if tty.Is(a.stderr) {
		a.say("copied the store to stdout")
	}
	return nil
}

func (a *app) restoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore [flags] FILE|-",
		Short: "Restore the store from a backup, after checking every secret",
		Long: `restore puts a backup where the store should be. It refuses if a store exists there. It
opens every secret of the backup first, and restores nothing if one is damaged or the key
is another. - reads the backup from stdin.`,
		Example: `  injectd restore --store file:///var/lib/inject/secrets.db /backups/2.db
  kubectl exec -i injectd-0 -- /injectd restore - < secrets-2.db`,
		Args: oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := a.filePath()
			if err != nil {
				return err
			}
			o, err := a.sealedOptions(path, "")
			if err != nil {
				return err
			}
			from, name := args[0], args[0]
			if from == "-" {
				name = "on stdin"
				var drop func()
				if from, drop, err = a.spool(path); err != nil {
					return fmt.Errorf("restore: %w", err)
				}
				defer drop()
			}
			n := 0
			m := serve.Maintenance{Verb: "restore", User: os.Getuid(), Path: args[0]}
			err = a.recorded(cmd.Context(), m, func() (err error) {
				n, err = sealed.Restore(cmd.Context(), o, from, name)
				return err
			})
			if err != nil {
				return err
			}
			a.say("restored %s", counted(n))
			return nil
		},
	}
	a.settings.AddFlags(cmd, &a.set.File, &a.set.Wait, &a.set.Audit)
	return cmd
}

// spool copies stdin to a file beside store, because a backup is not read from its first byte to
// its last. drop removes the file.
func (a *app) spool(store string) (path string, drop func(), err error) {
	if tty.Is(a.stdin) {
		return "", nil, secret.WithHint(fmt.Errorf("%w: stdin is a terminal", secret.ErrInvalid),
			"injectd restore - < FILE")
	}
	if _, err := os.Lstat(store); err == nil { // said before a large backup is read
		return store, func() {}, nil
	}
	if err := os.MkdirAll(filepath.Dir(store), 0o700); err != nil {
		return "", nil, fmt.Errorf("%w: %w", secret.ErrUnavailable, err)
	}
	f, err := os.CreateTemp(filepath.Dir(store), "."+filepath.Base(store)+"-stdin-*")
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", secret.ErrUnavailable, err)
	}
	drop = func() { _ = os.Remove(f.Name()) }
	_, err = io.Copy(f, a.stdin)
	if err = errors.Join(err, f.Close()); err != nil {
		drop()
		return "", nil, fmt.Errorf("%w: copy stdin: %w", secret.ErrUnavailable, err)
	}
	return f.Name(), drop, nil
}

func oneFile(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return secret.WithHint(fmt.Errorf("%w: %s takes one file", secret.ErrInvalid, cmd.CommandPath()),
			"%s", cmd.UseLine())
	}
	return nil
}

func (a *app) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token [flags] NAME",
		Short: "Make a token for the tokens file of serve",
		Long: `token makes a token and prints it once, on stdout, or writes it to a new file that only
its owner can read (--out). The line that lets its holder in as NAME, with the token's
hash, goes to stderr, or to the end of --tokens-file.`,
		Example: "  injectd token --tokens-file tokens --out alice.token alice",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return secret.WithHint(fmt.Errorf("%w: a token has one name", secret.ErrInvalid), "%s", cmd.UseLine())
			}
			token, line, err := identity.NewToken(args[0])
			if err != nil {
				return err
			}
			m := serve.Maintenance{Verb: "token", User: os.Getuid(), Path: a.set.Token.File, Token: args[0]}
			return a.recorded(cmd.Context(), m, func() error { return a.handOut(token, line) })
		},
	}
	a.settings.AddFlags(cmd, &a.set.Token, &a.set.Audit)
	return cmd
}

// handOut writes a new token to --out or stdout, and its line to --tokens-file or stderr.
func (a *app) handOut(token secret.Value, line string) error {
	text := append(token.Reveal(), '\n')   // the token is made to be shown once
	if out := a.set.Token.Out; out != "" { // before its hash is added, which would be of no use alone
		if err := writeToken(out, text); err != nil {
			return err
		}
	}
	if a.set.Token.File == "" {
		a.say("add this line to the tokens file:\n%s", line)
	} else if err := addToken(a.set.Token.File, line); err != nil {
		if a.set.Token.Out != "" {
			err = errors.Join(err, os.Remove(a.set.Token.Out))
		}
		return fmt.Errorf("--tokens-file: %w", err)
	}
	if a.set.Token.Out == "" {
		_, err := a.stdout.Write(text)
		return err
	}
	return nil
}

// writeToken writes a token to a new file for its owner alone, whatever the umask.
func writeToken(path string, text []byte) error {
	err := durable.WriteNew(path, func(f *os.File) error { _, err := f.Write(text); return err })
	if errors.Is(err, fs.ErrExist) {
		return secret.WithHint(fmt.Errorf("--out: %w: %s", secret.ErrExists, path), "choose another file")
	}
	if err != nil {
		return fmt.Errorf("--out: %w: %w", secret.ErrUnavailable, err)
	}
	return nil
}

// addToken adds the line of a token to a tokens file. It refuses if the file is invalid before
// or after, because a running server would then ignore the whole edit.
func addToken(path, line string) error {
	there, err := os.ReadFile(path) //nolint:gosec // the operator's file
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", secret.ErrUnavailable, err)
	}
	if err := identity.CheckTokens(there); err != nil {
		return err
	}
	if err := identity.CheckTokens([]byte(string(there) + "\n" + line)); err != nil {
		return secret.WithHint(err, "delete the line of the old token first, or choose another name")
	}
	if n := len(there); n > 0 && there[n-1] != '\n' {
		line = "\n" + line
	}
	if err := appendLine(path, line); err != nil {
		return fmt.Errorf("%w: %w", secret.ErrUnavailable, err)
	}
	return nil
}

// appendLine adds a line to a file and syncs it.
func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600) //nolint:gosec // the operator's file
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // synced
	if _, err := f.WriteString(line + "\n"); err != nil {
		return err
	}
	return f.Sync()
}
