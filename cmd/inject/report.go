package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"inject/cli"
	"inject/injector/outputs"
	"inject/resolver"
	"inject/resolver/secret"
)

// report prints every failure in err, with the scopes that were searched and a hint.
func (a *app) report(err error) {
	var b strings.Builder
	for _, f := range failures(err) {
		fmt.Fprintf(&b, "inject: %s\n", f.text)
		if f.lookedIn != nil {
			fmt.Fprintf(&b, "looked in: %s\n", strings.Join(f.lookedIn, "; "))
		}
		if f.hint != "" {
			fmt.Fprintf(&b, "hint: %s\n", f.hint)
		}
	}
	_, _ = io.WriteString(a.masked(a.stderr), b.String())
}

// failure is one error of those that err joins.
type failure struct {
	text, hint string
	lookedIn   []string
	key        string // "" if it is not about one secret
	err        error
}

// failures returns the failures in err: the failed lookups of a declared list, the leaks of a
// task, and every error that was joined.
func failures(err error) []failure {
	var all []failure
	for _, err := range cli.Each(err) {
		switch e := err.(type) { //nolint:errorlint // each level is handled in turn
		case *resolver.Error:
			for _, c := range e.Failed {
				all = append(all, climbFailure(c))
			}
		case *outputs.LeakError:
			for _, line := range e.Lines() {
				all = append(all, failure{text: line, err: e})
			}
		default:
			f := failure{text: err.Error(), hint: secret.Hint(err), err: err}
			if e, ok := errors.AsType[*secret.Error](err); ok {
				f.key = e.Ref.Key
			}
			all = append(all, f)
		}
	}
	return all
}

func climbFailure(c resolver.Climb) failure {
	key := c.Declaration.Key
	f := failure{text: key + ": " + c.Err.Error(), hint: secret.Hint(c.Err), key: key, err: c.Err}
	for _, r := range c.Tried {
		f.lookedIn = append(f.lookedIn, r.Scope.String())
	}
	if !errors.Is(c.Err, secret.ErrNotFound) {
		return f
	}
	create := "inject create secret " + key + " (for the whole org; -p and -d narrow it)"
	switch {
	case len(c.Elsewhere) > 0:
		f.hint = "it is at " + scopes(c.Elsewhere) + ", which this task does not reach: " +
			"run it there (-p, -d), or create the secret where it looks"
	case f.hint != "": // from suggest
		f.hint += " Or create it: " + create
	default:
		f.hint = create
	}
	return f
}

// scopes names the first few scopes and says how many more there are.
func scopes(all []secret.Scope) string {
	var names []string
	for i, s := range all {
		if i == 5 {
			names = append(names, fmt.Sprintf("%d more", len(all)-i))
			break
		}
		names = append(names, s.String())
	}
	return strings.Join(names, "; ")
}
