package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"inject/cli"
	"inject/exec"
	"inject/injector"
	"inject/injector/outputs"
	"inject/injector/place"
	"inject/injector/task"
	"inject/internal/spelling"
	"inject/resolver"
	"inject/resolver/secret"
)

// namedVerb is a command below the root.
type namedVerb struct {
	name string
	make func(*app) *cobra.Command
}

func verbs() []namedVerb {
	return []namedVerb{
		{"run", (*app).runCommand},
		{"create", (*app).createCommand},
		{"update", (*app).updateCommand},
		{"get", (*app).getCommand},
		{"delete", (*app).deleteCommand},
		{"explain", (*app).explainCommand},
		{"init", (*app).initCommand},
		{"redact", (*app).redactCommand},
		{"version", (*app).versionCommand},
	}
}

// namedIn returns the verbs that args may name: the words before a -- that are one,
// or all where there may be need of their names. A task is started without making
// the others.
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
	for _, word := range []string{"help", "--help", "-h", "completion", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd} {
		if slices.Contains(args, word) {
			return verbs()
		}
	}
	return named
}

// rootCommand returns the command that args are for.
func (a *app) rootCommand(args []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "inject [flags] -- COMMAND [ARG…]",
		Short: "Run a command with its secrets, masked in what it prints",
		Long: `inject looks up the secrets that a task declares, places them in its variables
or files, runs it, and masks every value in its output. It also manages the store
that the secrets are in.`,
		Example: `  inject create secret MY_SECRET_KEY                    # asks for the value
  inject get secret
  inject --secret MY_SECRET_KEY=MY_SECRET_ENV_VAR -- python3 task.py
  inject -p my_project -d development --task task.yaml -- ./task
  inject explain -p my_project --secret MY_SECRET_KEY`,
		Args:              cobra.ArbitraryArgs,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: a.prepare,
		RunE:              a.run,
	}
	root.SetArgs(args)
	root.SetOut(a.stdout)
	root.SetErr(a.masked(a.stderr))
	root.SetFlagErrorFunc(a.flagError)
	a.runFlags(root)
	for _, v := range namedIn(args) {
		root.AddCommand(v.make(a))
	}
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	return root
}

func (a *app) runCommand() *cobra.Command {
	run := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARG…]",
		Short: "Run a command with its secrets (the same as without run)",
		Args:  cobra.ArbitraryArgs,
		RunE:  a.run,
	}
	a.runFlags(run)
	return run
}

// runFlags gives a command the flags of running one. They end at the first word
// that is none: the rest is the command, untouched.
func (a *app) runFlags(cmd *cobra.Command) {
	s := &a.set
	a.settings.AddFlags(cmd,
		&s.Declare, &s.Scope, &s.Store, &s.Resolve, &s.Place, &s.Mask, &s.Outputs, &s.Run, &s.Message)
	cmd.Flags().SetInterspersed(false)
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveDefault
	}
}

func (a *app) run(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return secret.WithHint(fmt.Errorf("%w: no command to run", secret.ErrInvalid), "inject [flags] -- COMMAND [ARG…]; inject --help tells more")
	}
	s := &a.set
	t, scope, err := a.loadTask()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	o := injector.Options{
		Scope: scope, Declared: t.Declared,
		Environ: os.Environ(), OnConflict: place.Conflict(s.Place.OnConflict), FilesDir: s.Place.FilesDir,
		Redactor: a.redactor, NoRedact: s.Outputs.NoRedact,
		Command: args, Stdin: a.stdin, Stdout: a.stdout, Stderr: a.stderr,
		Grace: s.Run.Grace, Log: a.log,
	}
	if len(t.Declared) > 0 && !a.hasOwnWork(cmd) {
		said := t.Org+t.Project+t.Domain != ""
		placed, err := place.Placed(o.Environ, t.FilesDir, s.Place.FilesDir, scope, said, t.Declared)
		if err != nil {
			return err
		}
		if placed {
			a.log.Debug("the secrets are placed already, by an inject above this one")
			o.Declared = nil
		}
	}
	o.Policy = outputs.Policy(s.Outputs.OnLeak)
	for _, dir := range s.Outputs.Dirs {
		folder, err := outputs.OpenFolder(dir, a.redactor, o.Policy)
		if err != nil {
			return fmt.Errorf("%w: --outputs: %w", secret.ErrInvalid, err)
		}
		o.Outputs = append(o.Outputs, folder)
	}
	if len(o.Declared) > 0 || o.Outputs != nil {
		// From before there is anything to clean up.
		ctx, o.Signals = exec.TakeSignals(ctx)
		defer o.Signals.Release()
		a.stopped = ctx.Done()
	}
	if len(o.Declared) > 0 {
		opening, cancel := context.WithTimeout(ctx, s.Resolve.Timeout)
		defer cancel()
		r, err := a.openReader(opening)
		if err != nil {
			return stopped(ctx, err)
		}
		o.Resolver, o.Release = r, r.Close
	}
	// Not from before the store was opened: a person may have been asked for a key.
	o.Deadline = time.Now().Add(s.Resolve.Timeout)
	if a.message == nil { // a descriptor of ours is not the command's to write a message to
		o.TerminationMessage = a.messagePath()
	}
	a.status, err = injector.Run(ctx, o)
	return stopped(ctx, explainStart(err))
}

// hasOwnWork reports whether we were told to do something that an inject above us, which
// has placed our declared list, was perhaps not.
func (a *app) hasOwnWork(cmd *cobra.Command) (has bool) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		has = has || f.Changed && a.settings.Tag(f).Get("nested") == "work"
	})
	return has
}

// explainStart adds what was probably meant to a command that was not found, and
// what to do to one that is too large.
func explainStart(err error) error {
	if _, ok := errors.AsType[*exec.SizeError](err); ok {
		return secret.WithHint(err, "place large secrets in files with --secret-file, or raise the limit: ulimit -s")
	}
	e, ok := errors.AsType[*exec.StartError](err)
	if !ok || e.Code != exec.CodeNotFound {
		return err
	}
	if name, _, assigned := strings.Cut(e.Name, "="); assigned {
		// env(1) would take it for a variable, and what follows for its value.
		return secret.WithHint(&exec.StartError{Name: name + "=… (not shown)", Code: e.Code, Err: e.Err},
			"a variable is declared with --secret KEY=VARIABLE, or set before inject")
	}
	for _, v := range verbs() {
		if spelling.Nearest(e.Name, []string{v.name}) != "" {
			return secret.WithHint(err, "did you mean: inject %s", v.name)
		}
	}
	return err
}

// stopped returns why we stopped, if err is because we did, else err.
func stopped(ctx context.Context, err error) error {
	if e, ok := errors.AsType[*exec.StoppedError](context.Cause(ctx)); ok {
		if _, told := errors.AsType[*exec.StoppedError](err); told || errors.Is(err, context.Canceled) || errors.Is(err, cli.ErrInterrupted) {
			return e
		}
	}
	return err
}

func (*app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Tell which inject this is",
		Args:  cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "inject %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

func (a *app) explainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain [flags]",
		Short: "Show where each declared secret is looked for, is found and would go",
		Long: `explain climbs the ladder for every declared secret as a run would, and shows each
rung: whether the secret is there, which one wins, and where the value would be
placed. It never shows a value. It fails if a run would.

With -o annotations it looks nothing up, and writes the declared list as the
annotations of a pod by which Flyte declares it.`,
		Example: `  inject explain -p my_project -d development --secret MY_SECRET_KEY=MY_SECRET_ENV_VAR
  inject explain --task task.yaml -o json
  inject explain --secret-file tls-key -o annotations   # for a pod's metadata`,
		Args: cli.NoArgs,
	}
	s := &a.set
	a.settings.AddFlags(cmd, &s.Declare, &s.Scope, &s.Store, &s.Resolve, &s.Place, &s.Explain)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.explain(cmd, s.Explain.Output) }
	return cmd
}

func (a *app) explain(cmd *cobra.Command, output string) error {
	t, scope, err := a.loadTask()
	if err != nil {
		return err
	}
	if len(t.Declared) == 0 {
		return secret.WithHint(fmt.Errorf("%w: no secret is declared", secret.ErrInvalid), "declare one with --secret KEY, in INJECT_SECRETS or in a --task file")
	}
	if output == "annotations" {
		if i := slices.IndexFunc(t.Declared, func(d secret.Declaration) bool { return d.Path != "" }); i >= 0 {
			return fmt.Errorf("%w: %s: a path is nothing that Flyte can declare", secret.ErrInvalid, t.Declared[i].Key)
		}
		return printAs(a.stdout, "yaml", annotations(t.Declared))
	}
	climbs, err := a.explainNow(cmd.Context(), scope, t.Declared)
	if err != nil {
		return err
	}
	if tried := climbs[0].Tried; len(tried) > 0 {
		scope = tried[0].Scope // the caller's own, if the task says none and a server knows it
	}
	explained := make([]explanation, len(climbs))
	var failed []resolver.Climb
	for i, c := range climbs {
		explained[i] = explain(scope, c, a.set.Place.FilesDir)
		explained[i].Source = t.Source
		if c.Err != nil {
			failed = append(failed, c)
		}
	}
	if output == "text" {
		err = printExplanations(a.stdout, t.Source, scope, explained)
	} else {
		err = printAs(a.stdout, output, explained)
	}
	if err != nil {
		return err
	}
	if failed != nil {
		return &resolver.Error{Failed: failed}
	}
	return nil
}

// annotations returns what declares the list in a pod, in order.
func annotations(declared []secret.Declaration) *yaml.Node {
	m := &yaml.Node{Kind: yaml.MappingNode}
	for name, value := range task.Annotations(declared) {
		var pair [2]yaml.Node
		pair[0].SetString(name)
		pair[1].SetString(value)
		m.Content = append(m.Content, &pair[0], &pair[1])
	}
	return m
}

// explanation is a climb for people and programs.
type explanation struct {
	Key    string   `json:"key" yaml:"key"`
	Mount  string   `json:"mount" yaml:"mount"`
	Place  []string `json:"place" yaml:"place"`
	Rungs  []rung   `json:"rungs" yaml:"rungs"`
	Winner string   `json:"winner,omitempty" yaml:"winner,omitempty"`
	Source string   `json:"declared_in" yaml:"declared_in"`
	Error  string   `json:"error,omitempty" yaml:"error,omitempty"`
}

type rung struct {
	Scope  string `json:"scope" yaml:"scope"`
	Result string `json:"result" yaml:"result"` // found, not found, not tried, or why it failed
}

func explain(task secret.Scope, c resolver.Climb, filesDir string) explanation {
	e := explanation{Key: c.Declaration.Key, Mount: c.Declaration.Mount.String(), Place: place.Where(c.Declaration, filesDir)}
	for _, tried := range c.Tried {
		r := rung{Scope: tried.Scope.String()}
		switch {
		case tried.Err == nil:
			r.Result, e.Winner = "found", r.Scope
		case errors.Is(tried.Err, secret.ErrNotFound):
			r.Result = "not found"
		default:
			r.Result = c.Err.Error()
		}
		e.Rungs = append(e.Rungs, r)
	}
	for _, scope := range task.Ladder() {
		if !slices.ContainsFunc(c.Tried, func(tried resolver.Rung) bool { return tried.Scope == scope }) {
			e.Rungs = append(e.Rungs, rung{scope.String(), "not tried"})
		}
	}
	if c.Err != nil {
		e.Error = c.Err.Error()
	}
	return e
}

func printExplanations(w io.Writer, source string, scope secret.Scope, explained []explanation) error {
	var b strings.Builder
	fmt.Fprintf(&b, "declared in: %s\ntask scope:  %s\n", source, scope)
	for _, e := range explained {
		fmt.Fprintf(&b, "\n%s (%s) → %s\n", e.Key, e.Mount, strings.Join(e.Place, ", "))
		for i, r := range e.Rungs {
			mark := " "
			if r.Scope == e.Winner {
				mark = "*"
			}
			fmt.Fprintf(&b, "%s %d  %-44s %s\n", mark, i+1, r.Scope, r.Result)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
