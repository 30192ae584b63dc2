package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"inject/cli"
	"inject/injector/place"
	"inject/internal/annotation"
	"inject/resolver"
	"inject/resolver/secret"
)

// explainVerb is inject explain.
type explainVerb struct{ *app }

func explainCommand(app *app) *cobra.Command {
	a := &explainVerb{app}
	cmd := &cobra.Command{
		Use:   "explain [flags]",
		Short: "Show where each declared secret is looked for, is found and would go",
		Long: `explain looks up every declared secret as a run would: from the task's own scope to wider
ones. It shows for each scope whether the secret is there, which scope wins, and where the
value would be placed. It never shows a value. It fails if a run would fail.

With -o annotations it looks nothing up. It writes the declared list as pod annotations,
in the form in which Flyte declares secrets.`,
		Example: `  inject explain -p my_project -d development --secret MY_SECRET_KEY=TOKEN
  inject explain --task task.yaml -o json
  inject explain --secret-file tls-key -o annotations   # for a pod's metadata`,
		Args: cli.NoArgs,
	}
	s := &a.set
	a.settings.AddFlags(cmd, &s.Declare, &s.Scope, &s.Store, &s.Resolve, &s.Place, &s.Explain)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.run(cmd, s.Explain.Output) }
	return cmd
}

func (a *explainVerb) run(cmd *cobra.Command, output string) error {
	t, scope, err := a.loadTask()
	if err != nil {
		return err
	}
	if len(t.Declared) == 0 {
		return secret.WithHint(
			fmt.Errorf("%w: no secret is declared", secret.ErrInvalid),
			"declare one with --secret KEY, in INJECT_SECRETS or in a --task file",
		)
	}
	if output == "annotations" {
		if i := slices.IndexFunc(t.Declared, func(d secret.Declaration) bool { return d.Path != "" }); i >= 0 {
			return fmt.Errorf("%w: %s: Flyte cannot declare a path", secret.ErrInvalid, t.Declared[i].Key)
		}
		return printAs(a.stdout, "yaml", annotations(t.Declared))
	}

	climbs, err := a.explainNow(cmd.Context(), scope, t.Declared)
	if err != nil {
		return err
	}
	if tried := climbs[0].Tried; len(tried) > 0 {
		scope = tried[0].Scope // the server knows the scope of a task that names none
	}

	further, err := secret.GroupEnvVars(t.Declared, t.EnvPrefix)
	if err != nil {
		return err
	}
	explained := make([]explanation, len(climbs))
	var failed []resolver.Climb
	for i, c := range climbs {
		explained[i] = explain(scope, c, further[i], a.set.Place.FilesDir)
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

// annotations returns the pod annotations that declare the list, in order.
func annotations(declared []secret.Declaration) *yaml.Node {
	m := &yaml.Node{Kind: yaml.MappingNode}
	for name, value := range annotation.Of(declared) {
		var pair [2]yaml.Node
		pair[0].SetString(name)
		pair[1].SetString(value)
		m.Content = append(m.Content, &pair[0], &pair[1])
	}
	return m
}

// explanation is the lookup of one secret, as it is printed.
type explanation struct {
	Key       string   `json:"key" yaml:"key"`
	Mount     string   `json:"mount" yaml:"mount"`
	place     []string // as people read it
	Variables []string `json:"variables,omitempty" yaml:"variables,omitempty"`
	Files     []string `json:"files,omitempty" yaml:"files,omitempty"`
	Rungs     []rung   `json:"rungs" yaml:"rungs"`
	Winner    *scopeID `json:"winner,omitempty" yaml:"winner,omitempty"`
	Source    string   `json:"declared_in" yaml:"declared_in"`
	Error     string   `json:"error,omitempty" yaml:"error,omitempty"`
}

type rung struct {
	Scope  scopeID `json:"scope" yaml:"scope"`
	Result string  `json:"result" yaml:"result"` // found, not found, not tried, or why it failed
}

// scopeID is a scope with the names that Flyte's messages have for its parts.
type scopeID struct {
	Org     string `json:"organization" yaml:"organization"`
	Domain  string `json:"domain,omitempty" yaml:"domain,omitempty"`
	Project string `json:"project,omitempty" yaml:"project,omitempty"`
}

func (s scopeID) String() string {
	return secret.Scope{Org: s.Org, Domain: s.Domain, Project: s.Project}.String()
}

func idOf(s secret.Scope) scopeID { return scopeID{Org: s.Org, Domain: s.Domain, Project: s.Project} }

func explain(task secret.Scope, c resolver.Climb, further []string, filesDir string) explanation {
	e := explanation{
		Key:   c.Declaration.Key,
		Mount: c.Declaration.Mount.String(),
	}
	switch file := place.Where(c.Declaration, filesDir); {
	case filepath.IsAbs(file):
		e.Files, e.place = []string{file}, []string{"file " + file}
	case file != "":
		e.place = []string{"file a private folder/" + file}
	}
	e.Variables = append(c.Declaration.EnvVars(), further...)
	for _, name := range e.Variables {
		e.place = append(e.place, "$"+name)
	}
	for _, tried := range c.Tried {
		r := rung{Scope: idOf(tried.Scope)}
		switch {
		case tried.Err == nil:
			r.Result, e.Winner = "found", &r.Scope
		case errors.Is(tried.Err, secret.ErrNotFound):
			r.Result = "not found"
		default:
			r.Result = c.Err.Error()
		}
		e.Rungs = append(e.Rungs, r)
	}
	for _, scope := range task.Ladder() {
		if !slices.ContainsFunc(c.Tried, func(tried resolver.Rung) bool { return tried.Scope == scope }) {
			e.Rungs = append(e.Rungs, rung{idOf(scope), "not tried"})
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
		fmt.Fprintf(&b, "\n%s (%s) → %s\n", e.Key, e.Mount, strings.Join(e.place, ", "))
		for i, r := range e.Rungs {
			mark := " "
			if e.Winner != nil && r.Scope == *e.Winner {
				mark = "*"
			}
			fmt.Fprintf(&b, "%s %d  %-44s %s\n", mark, i+1, r.Scope, r.Result)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
