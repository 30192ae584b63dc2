// Injectd is the platform's end of inject. It serves the scoped store to people and tasks, and
// does the maintenance of the store file. See docs/how-to/server.md.
//
// This package holds settings, files and the lifetime of the process. Package serve decides what
// each caller is answered; package store and its backends keep the secrets. It has more than 1500
// lines, because its verbs (serve, doctor, maintenance, policy) share the settings, the control
// socket and the messages, and no package above them could be of use without those.
package main

import (
	"cmp"
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

// withoutHTTP2Debug starts the program again, as the same process, if debug, which is $GODEBUG, has
// http2debug: with it package net/http writes the headers and bodies of requests to stderr, tokens
// and values among them. The package reads the variable before main, so it is too late to change it
// here.
func withoutHTTP2Debug(debug string) error {
	const variable, unwanted = "GODEBUG", "http2debug="
	var kept []string
	for setting := range strings.SplitSeq(debug, ",") {
		if !strings.HasPrefix(setting, unwanted) {
			kept = append(kept, setting)
		}
	}
	if without := strings.Join(kept, ","); without != debug {
		program, err := os.Executable()
		if err == nil {
			err = os.Setenv(variable, without)
		}
		if err == nil {
			err = unix.Exec(program, os.Args, os.Environ())
		}
		return fmt.Errorf("it cannot start without %s in %s, which would write tokens and values to stderr: %w",
			unwanted, variable, err)
	}
	return nil
}

// app is one run of the program.
type app struct {
	stdin, stdout, stderr *os.File

	set      settings
	settings *cli.Settings // the flags and variables of set
	// key masks the stores' keys in everything that injectd prints. The values of the store are
	// not masked: there may be a million, and no message is made of them.
	key *redact.Redactor
	log hclog.Logger
}

// main runs the program and returns its exit code.
func (a *app) main(ctx context.Context, args []string) int {
	var err error
	if a.settings, err = cli.Load(&a.set); err == nil {
		err = withoutHTTP2Debug(a.set.Found.GoDebug)
	}
	if err != nil {
		_, _ = fmt.Fprintln(a.stderr, "injectd:", err)
		return 1
	}
	a.key = redact.New(1, redact.Pattern{Name: keyVariable, Value: a.set.Keys.Key.Reveal()},
		redact.Pattern{Name: toKeyVariable, Value: a.set.Keys.ToKey.Reveal()})
	a.log = hclog.New(&hclog.LoggerOptions{
		Name: "injectd", Level: hclog.Info, Output: &messages{a.key, a.stderr},
		JSONFormat: !tty.Is(a.stderr),
	})
	// Values and the store's key are in our memory, and the key may be in our environment. Other
	// processes of the same user must not read either, and no core file may hold them. The limit
	// does not stop a core that the kernel pipes to a program; package harden stops that one.
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

// messages writes whole messages to w with the store's key masked.
type messages struct {
	key *redact.Redactor
	w   io.Writer
}

func (m *messages) Write(p []byte) (int, error) {
	w := m.key.Writer(m.w)
	n, err := w.Write(p)
	return n, errors.Join(err, w.Close())
}

// say prints a message for people on stderr.
func (a *app) say(format string, args ...any) {
	_, _ = fmt.Fprintf(&messages{a.key, a.stderr}, "injectd: "+format+"\n", args...)
}

// counted returns how many secrets there are.
func counted(n int) string {
	if n == 1 {
		return "1 secret"
	}
	return fmt.Sprintf("%d secrets", n)
}

// report prints every error with its hint.
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
		Long: `injectd serves a store of secrets. People manage it with Flyte's own commands, and
tasks resolve the secrets that they declare. A policy decides what each caller may do,
and every decision is a line of the audit log.`,
		Example: `  injectd serve --insecure      # to develop: your own store, this machine only
  injectd serve --listen :8093 --store file:///var/lib/inject/secrets.db \
      --cert-file tls.crt --cert-key-file tls.key \
      --client-ca-file ca.crt --policy policy.yaml
  injectd doctor --store file:///var/lib/inject/secrets.db \
      --cert-file tls.crt --cert-key-file tls.key \
      --client-ca-file ca.crt --policy policy.yaml
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
	root.SetHelpFunc(cli.Help)
	a.settings.AddFlags(root)
	root.AddCommand(a.serveCommand(), a.webhookCommand(), a.healthCommand(), a.doctorCommand(), a.keysCommand(),
		a.backupCommand(), a.restoreCommand(), a.migrateCommand(), a.tokenCommand(), a.policyCommand(),
		a.versionCommand())
	root.Version = versionText()
	cli.AddVerbs(root)
	return root
}

// knownVerb refuses arguments of a command that only has verbs below it.
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

// prepare runs before every verb, when its flags are parsed.
func (a *app) prepare(cmd *cobra.Command, _ []string) error {
	// Old names of variables that have no flag are known already: those of the key. INJECT_KEY is
	// right in the shell of a person who uses inject, and a verb that opens no store does not read it.
	known := len(a.settings.Warnings())
	if cmd.Flags().Lookup("store") != nil {
		known = 0
	}
	defer func() {
		for _, text := range a.settings.Warnings()[known:] {
			a.log.Warn(text)
		}
	}()
	if err := a.settings.Apply(cmd); err != nil {
		return err
	}
	if text := cmp.Or(a.set.Wait.LogLevel, a.set.Webhook.LogLevel); text != "" { // of one verb each
		level := hclog.LevelFromString(text)
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
		Short: "Print the version of injectd, as --version does",
		Args:  cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "injectd version", versionText())
			return err
		},
	}
}

// versionText returns the version of this build, and of Go and the platform that it was built with.
func versionText() string {
	return fmt.Sprintf("%s (%s, %s/%s)", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
