package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"inject/cli"
	"inject/resolver/secret"
	"inject/resolver/serve/identity"
	"inject/resolver/serve/policy"
	"inject/resolver/store/sealed"
)

func (a *app) keysCommand() *cobra.Command {
	keys := &cobra.Command{
		Use:   "keys",
		Short: "Change what opens the store",
		Args:  knownVerb,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cli.AddGroups(keys)
	var to string
	rotate := &cobra.Command{
		Use:   "rotate --new-key-file FILE",
		Short: "Let another key open the store, and the old one no longer",
		Long: `rotate wraps the store's data key for the identity in --new-key-file, which is made if
it is not there; secrets stay as they are sealed. It works while the store is served,
which goes on. From then on the new key is needed: change --key-file of what starts
the server. Backups from before are still opened by the old key: keep it as long as
them.

Who had the old key and a copy of the store may still have the data key. To be rid
of them, create the secrets anew in a new store.`,
		Example: "  injectd keys rotate --store file:///var/lib/inject/secrets.db --new-key-file /etc/inject/key-2.txt",
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if to == "" {
				return secret.WithHint(fmt.Errorf("%w: --new-key-file is missing", secret.ErrInvalid), "%s --new-key-file key-2.txt; it is made if it is not there", cmd.CommandPath())
			}
			if _, err := a.maintain(cmd.Context(), work{Do: "rotate", Path: to}); err != nil {
				return err
			}
			a.say("from now on the store is opened with --key-file %s", to)
			return nil
		},
	}
	cli.AddGroups(rotate, cli.NewGroup("key", func(s *pflag.FlagSet) {
		s.StringVar(&to, "new-key-file", "", "age identities that open the store from then on, in `FILE`")
	}), a.fileGroup())
	keys.AddCommand(rotate)
	return keys
}

func (a *app) backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup [flags] FILE",
		Short: "Copy the store, still sealed, to a new file",
		Long: `backup writes a copy of the store as it is at one moment, also while it is served. It
is still sealed: what opens the store opens it, so keep the key elsewhere.`,
		Example: "  injectd backup --store file:///var/lib/inject/secrets.db /backups/secrets-2.db",
		Args:    oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := a.maintain(cmd.Context(), work{Do: "backup", Path: args[0]})
			return err
		},
	}
	cli.AddGroups(cmd, a.fileGroup())
	return cmd
}

func (a *app) restoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore [flags] FILE",
		Short: "Make the store from a backup, after every secret in it was opened",
		Long: `restore puts a backup in the place of the store, where none may be. Before, every
secret in it is opened once: what is damaged, or of another key, is not restored.`,
		Example: "  injectd restore --store file:///var/lib/inject/secrets.db /backups/secrets-2.db",
		Args:    oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := a.filePath()
			if err != nil {
				return err
			}
			o, err := a.sealedOptions(path, "")
			if err != nil {
				return err
			}
			n, err := sealed.Restore(cmd.Context(), o, args[0])
			if err != nil {
				return err
			}
			a.say("%d secrets were restored", n)
			return nil
		},
	}
	cli.AddGroups(cmd, a.fileGroup())
	return cmd
}

func oneFile(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return secret.WithHint(fmt.Errorf("%w: %s takes one file", secret.ErrInvalid, cmd.CommandPath()), "%s", cmd.UseLine())
	}
	return nil
}

func (a *app) tokenCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "token [flags] NAME",
		Short: "Make a token for the token file of serve",
		Long: `token makes a token, which it prints once, on stdout, and the line with its hash that
lets its holder in as NAME: on stderr, or at the end of --token-file.`,
		Example: "  injectd token --token-file tokens alice > alice.token",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return secret.WithHint(fmt.Errorf("%w: a token has one name", secret.ErrInvalid), "%s", cmd.UseLine())
			}
			token, line, err := identity.NewToken(args[0])
			if err != nil {
				return err
			}
			if file == "" {
				a.say("the line for the token file is\n%s", line)
			} else if err := addToken(file, line); err != nil {
				return fmt.Errorf("--token-file: %w", err)
			}
			_, err = a.stdout.Write(append(token.Reveal(), '\n')) // to whom it is made for
			return err
		},
	}
	cli.AddGroups(cmd, cli.NewGroup("token", func(s *pflag.FlagSet) {
		s.StringVar(&file, "token-file", "", "add the hash to `FILE`, which is made if it is not there")
	}))
	return cmd
}

// addToken adds the line of a token to a file that is good with it: of one that is not a
// server takes nothing, neither what is new nor what is missing.
func addToken(path, line string) error {
	there, err := os.ReadFile(path) //nolint:gosec // the operator's file
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", secret.ErrUnavailable, err)
	}
	if err := identity.CheckTokens(there); err != nil {
		return err
	}
	if err := identity.CheckTokens([]byte(string(there) + "\n" + line)); err != nil {
		return secret.WithHint(err, "who has a token gets another one when its line is deleted, or under another name")
	}
	if n := len(there); n > 0 && there[n-1] != '\n' {
		line = "\n" + line
	}
	if err := appendLine(path, line); err != nil {
		return fmt.Errorf("%w: %w", secret.ErrUnavailable, err)
	}
	return nil
}

// appendLine adds a line to a file, and makes it durable.
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

func (*app) policyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "policy",
		Short: "Print the JSON Schema of a policy file, for editors",
		Args:  cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(policy.Schema())
			return err
		},
	}
}
