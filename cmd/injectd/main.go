// Injectd is the platform's end of inject: it serves the scoped store to people and
// tasks, and looks after the file that the store is in. See docs/how-to/server.md.
//
// This package is flags, files and processes. What is answered to whom is package
// serve's, what a store is package store's.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"inject/cli"
	"inject/exec/harden"
	"inject/exec/redact"
	"inject/internal/spelling"
	"inject/internal/tty"
	"inject/resolver/secret"
)

// version is set by the linker.
var version = "dev"

func main() {
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(a.main(context.Background(), os.Args[1:]))
}

// app is one run of the program.
type app struct {
	stdin, stdout, stderr *os.File

	set      settings
	settings *cli.Settings // the flags and variables of set
	// key is what opens the store; all that we say passes it. Nothing that we say holds
	// the values of the store: there may be a million, and they are sealed.
	key *redact.Redactor
	log hclog.Logger
}

// main runs the program and returns its exit code.
func (a *app) main(ctx context.Context, args []string) int {
	var err error
	if a.settings, err = cli.Load(&a.set); err != nil {
		_, _ = fmt.Fprintln(a.stderr, "injectd:", err)
		return 1
	}
	a.key = redact.New(1, redact.Pattern{Name: keyVariable, Value: a.set.Keys.Key.Reveal()})
	a.log = hclog.New(&hclog.LoggerOptions{
		Name: "injectd", Level: hclog.Info, Output: &messages{a.key, a.stderr},
		JSONFormat: !tty.Is(a.stderr),
	})
	// Values and what opens the store come into our memory by many ways, and the latter is
	// in our environment. Neither is for others of our user, nor for a core. Where a core
	// goes to a program that limit says nothing; the kernel then makes none because of package harden.
	harden.Process(a.log.Debug)
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}) // less is always allowed
	root := a.rootCommand()
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		a.report(err)
		return 1
	}
	return 0
}

// messages masks what opens the store in whole messages to w.
type messages struct {
	key *redact.Redactor
	w   io.Writer
}

func (m *messages) Write(p []byte) (int, error) {
	w := m.key.Writer(m.w)
	n, err := w.Write(p)
	return n, errors.Join(err, w.Close())
}

// say tells a person something, on stderr.
func (a *app) say(format string, args ...any) {
	_, _ = fmt.Fprintf(&messages{a.key, a.stderr}, "injectd: "+format+"\n", args...)
}

// report tells everything that failed, each with what to do.
func (a *app) report(err error) {
	var b strings.Builder
	for _, e := range cli.Each(err) {
		fmt.Fprintf(&b, "injectd: %s\n", e)
		if hint := secret.Hint(e); hint != "" {
			fmt.Fprintf(&b, "hint: %s\n", hint)
		}
	}
	_, _ = io.WriteString(&messages{a.key, a.stderr}, b.String())
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "injectd",
		Short: "Serve a scoped store of secrets",
		Long: `injectd serves a store of secrets: people manage it with Flyte's own commands, and
tasks resolve what they declare from it. Each is told what the policy says, and
every decision is a line of the audit log.`,
		Example: `  injectd serve --insecure                                    # to develop: your own store, this machine only
  injectd serve --listen :8093 --store file:///var/lib/inject/secrets.db \
      --cert-file tls.crt --cert-key-file tls.key --client-ca-file ca.crt --policy policy.yaml
  injectd doctor --store file:///var/lib/inject/secrets.db \
      --cert-file tls.crt --cert-key-file tls.key --client-ca-file ca.crt --policy policy.yaml
  injectd backup --store file:///var/lib/inject/secrets.db /backups/secrets.db`,
		Args:              knownVerb,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: a.prepare,
	}
	root.SetOut(a.stdout)
	root.SetErr(&messages{a.key, a.stderr})
	root.SetFlagErrorFunc(cli.FlagError)
	a.settings.AddFlags(root)
	root.AddCommand(a.serveCommand(), a.doctorCommand(), a.keysCommand(), a.backupCommand(), a.restoreCommand(),
		a.tokenCommand(), a.policyCommand(), a.versionCommand())
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	return root
}

// knownVerb refuses an argument of a command that only has verbs.
func knownVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := cmd.CommandPath() + " --help lists them"
	for _, v := range cmd.Commands() {
		if spelling.Nearest(args[0], []string{v.Name()}) != "" {
			hint = "did you mean: " + v.CommandPath()
		}
	}
	return secret.WithHint(fmt.Errorf("%w: %s has no such verb", secret.ErrInvalid, cmd.CommandPath()), "%s", hint)
}

// prepare is called before every verb, when its flags are parsed.
func (a *app) prepare(cmd *cobra.Command, _ []string) error {
	if err := a.settings.Apply(cmd); err != nil {
		return err
	}
	if a.set.File.LogLevel != "" {
		level := hclog.LevelFromString(a.set.File.LogLevel)
		if level == hclog.NoLevel {
			return fmt.Errorf("%w: --log-level is debug, info, warn, error or off", secret.ErrInvalid)
		}
		a.log.SetLevel(level)
	}
	return nil
}

func (*app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Tell which injectd this is",
		Args:  cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "injectd %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
