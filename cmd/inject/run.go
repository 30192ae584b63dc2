package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"inject/cli"
	"inject/exec"
	"inject/injector"
	"inject/injector/guard"
	"inject/injector/outputs"
	"inject/injector/place"
	"inject/injector/task"
	"inject/internal/spelling"
	"inject/resolver/secret"
)

// runVerb is inject run, and inject without a verb.
type runVerb struct{ *app }

func runCommand(app *app) *cobra.Command {
	a := &runVerb{app}
	run := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARG…]",
		Short: "Run a command with its secrets (the same as without run)",
		Args:  cobra.ArbitraryArgs,
		RunE:  a.run,
	}
	a.addFlags(run)
	return run
}

// addFlags adds the flags of a run to cmd. Flags end at the first word that is not one: the
// rest is the command, whose own flags must stay as they are.
func (a *runVerb) addFlags(cmd *cobra.Command) {
	s := &a.set
	a.settings.AddFlags(cmd,
		&s.Declare, &s.Require, &s.Scope, &s.Store, &s.Resolve, &s.Place, &s.Mask, &s.Outputs, &s.Run, &s.Message)
	cmd.Flags().SetInterspersed(false)
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveDefault
	}
}

func (a *runVerb) run(cmd *cobra.Command, args []string) error {
	if !cmd.HasParent() && len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
		return notVerb(args)
	}
	if len(args) == 0 {
		return secret.WithHint(
			fmt.Errorf("%w: no command to run", secret.ErrInvalid),
			"inject [flags] -- COMMAND [ARG…]; inject --help tells more",
		)
	}
	s := &a.set
	t, scope, err := a.loadTask()
	if err != nil {
		return err
	}
	if err := a.sourced(t); err != nil {
		return err
	}
	if task.IsV1(args[0]) {
		t.Declared = task.ForV1(t.Declared)
	}

	ctx := cmd.Context()
	o := injector.Options{
		Scope: scope, Declared: t.Declared,
		Environ: os.Environ(), OnConflict: onConflict(s.Place.OnConflict, args[0]), FilesDir: s.Place.FilesDir,
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

	o.NeedOutputs = a.outputsFlag
	o.Policy, o.Storage = outputs.Policy(s.Outputs.OnLeak), guard.Mode(s.Outputs.Storage)
	for _, dir := range s.Outputs.Dirs {
		folder, err := outputs.OpenFolder(dir, a.redactor, o.Policy)
		if err != nil {
			return fmt.Errorf("%w: --outputs: %w", secret.ErrInvalid, err)
		}
		o.Outputs = append(o.Outputs, folder)
	}

	if len(o.Declared) > 0 || o.Outputs != nil {
		// Take signals before anything is created that must be cleaned up.
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

	// The time to resolve begins now: a person may have been asked for a passphrase before.
	o.Deadline = time.Now().Add(s.Resolve.Timeout)
	if a.message.file == nil { // the command cannot write to a descriptor of inject
		o.TerminationMessage = a.message.place()
	}
	a.status, err = injector.Run(ctx, o)
	return stopped(ctx, explainStart(err))
}

// onConflict returns the policy for a variable that is already set: the given one, or else Flyte's. The
// webhook of v1 keeps the variable, and that of v2 replaces it.
func onConflict(given, command string) place.Conflict {
	switch {
	case given != "":
		return place.Conflict(given)
	case task.IsV1(command):
		return place.Keep
	}
	return place.Overwrite
}

// hasOwnWork reports whether a flag asks for something that an inject above this one, which
// has placed the same declared list, may not do.
func (a *runVerb) hasOwnWork(cmd *cobra.Command) (has bool) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		has = has || f.Changed && a.settings.Tag(f).Get("nested") == "work"
	})
	return has
}

// explainStart adds a hint to the error of a command that was not found, if it looks like a
// mistyped verb, and to that of one whose environment is too large.
func explainStart(err error) error {
	if _, ok := errors.AsType[*exec.SizeError](err); ok {
		return secret.WithHint(err, "place large secrets in files with --secret-file, or raise the limit: ulimit -s")
	}
	e, ok := errors.AsType[*exec.StartError](err)
	if !ok || e.Code != exec.CodeNotFound {
		return err
	}
	if name, _, assigned := strings.Cut(e.Name, "="); assigned {
		// The user meant a variable, as for env(1); the text after = may be a secret value.
		return secret.WithHint(&exec.StartError{Name: name + "=… (not shown)", Code: e.Code, Err: e.Err},
			"a variable is declared with --secret KEY=VARIABLE, or set before inject")
	}
	return err
}

// otherVerbs are the names that verbs have elsewhere.
var otherVerbs = map[string]string{
	"add": "create", "set": "create", "put": "create", "new": "create", "import": "create",
	"edit": "update", "change": "update", "replace": "update",
	"list": "get", "ls": "get", "show": "get", "describe": "get", "read": "get",
	"rm": "delete", "remove": "delete", "del": "delete", "unset": "delete",
	"signin": "login", "auth": "login", "signout": "logout",
	"exec": "run", "mask": "redact", "scan": "redact", "why": "explain",
}

// word is what may be shown of an argument that is no verb: it is hardly a value.
var word = regexp.MustCompile(`^[a-z][a-z-]{0,19}$`)

// notVerb returns the error of a command line whose first argument is no verb. It is not run as a
// command: inject rm secret KEY would remove files.
func notVerb(args []string) error {
	first := args[0]
	known := verbs()
	at := slices.IndexFunc(known, func(v namedVerb) bool { return spelling.Nearest(first, []string{v.name}) != "" })
	hint := "inject --help lists the verbs."
	switch other := otherVerbs[first]; {
	case first == "secret" || first == "secrets":
		hint = "The verb comes before the noun: inject get secret."
	case other != "":
		hint = "did you mean inject " + other + "?"
	case at >= 0:
		hint = "did you mean inject " + known[at].name + "?"
	}
	shown := "the first argument"
	if word.MatchString(first) {
		shown = first
		hint += " To run the program " + first + ", put -- before it: inject -- " + first + " …"
	} else {
		hint += " To run a program, put -- before it: inject -- COMMAND [ARG…]"
	}
	return secret.WithHint(fmt.Errorf("%w: %s is not a verb of inject", secret.ErrInvalid, shown), "%s", hint)
}

// stopped returns the error that names the signal, if a signal is the cause of err, else err.
func stopped(ctx context.Context, err error) error {
	if e, ok := errors.AsType[*exec.StoppedError](context.Cause(ctx)); ok {
		_, told := errors.AsType[*exec.StoppedError](err)
		_, asked := errors.AsType[*cli.InterruptedError](err)
		if told || asked || errors.Is(err, context.Canceled) {
			return e
		}
	}
	return err
}
