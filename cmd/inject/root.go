package main

import (
	"fmt"
	"runtime"
	"slices"

	"github.com/spf13/cobra"

	"inject/cli"
)

// namedVerb is a command below the root.
type namedVerb struct {
	name string
	make func(*app) *cobra.Command
}

func verbs() []namedVerb {
	return []namedVerb{
		{"run", runCommand},
		{"create", createCommand},
		{"update", updateCommand},
		{"get", getCommand},
		{"delete", deleteCommand},
		{"explain", explainCommand},
		{"whoami", whoamiCommand},
		{"status", statusCommand},
		{"login", loginCommand},
		{"logout", logoutCommand},
		{"init", initCommand},
		{"redact", redactCommand},
		{"version", versionCommand},
	}
}

// namedIn returns the verbs that occur in args before a --, or all verbs if their list may be
// shown. Other verbs are not created, which makes the start of a task faster.
func namedIn(args []string) []namedVerb {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	var named []namedVerb
	for _, v := range verbs() {
		if slices.Contains(args, v.name) {
			named = append(named, v)
		}
	}
	for _, word := range []string{
		"help", "--help", "-h", "completion", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd,
	} {
		if slices.Contains(args, word) {
			return verbs()
		}
	}
	return named
}

// rootCommand returns the root of the command tree, with the verbs that args may name.
func (a *app) rootCommand(args []string) *cobra.Command {
	run := &runVerb{a}
	root := &cobra.Command{
		Use:   "inject [flags] -- COMMAND [ARG…]",
		Short: "Run a command with its secrets, masked in what it prints",
		Long: `inject looks up the secrets that a task declares, places them in environment variables
or files, runs the task, and masks every value in its output. It also manages the store
with the secrets.`,
		Example: `  inject create secret MY_SECRET_KEY                    # asks for the value
  inject get secret
  inject --secret MY_SECRET_KEY=MY_SECRET_ENV_VAR -- python3 task.py
  inject -p my_project -d development --task task.yaml -- ./task
  inject explain -p my_project --secret MY_SECRET_KEY`,
		Args:              cobra.ArbitraryArgs,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: a.prepare,
		RunE:              run.run,
	}
	root.SetArgs(args)
	root.SetOut(a.stdout)
	root.SetErr(a.masked(a.stderr))
	root.SetFlagErrorFunc(cli.FlagError)
	root.SetHelpFunc(cli.Help)
	run.addFlags(root)
	named := namedIn(args)
	for _, v := range named {
		root.AddCommand(v.make(a))
	}
	root.CompletionOptions.DisableDefaultCmd = true
	if len(named) == len(verbs()) {
		cli.AddVerbs(root)
	}
	root.Version = versionText()
	return root
}

func versionCommand(*app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of inject, as --version does",
		Args:  cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "inject version", versionText())
			return err
		},
	}
}

// versionText returns the version of this build, and of Go and the platform that it was built with.
func versionText() string {
	return fmt.Sprintf("%s (%s, %s/%s)", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
