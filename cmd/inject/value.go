package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"inject/cli"
	"inject/internal/tty"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// value returns the value and type for create or update, from its argument, flag, file, stdin
// or a question.
func (a *secretsVerb) value(cmd *cobra.Command, args []string, ref secret.Ref) (secret.Value, store.Type, error) {
	typ, err := a.storeType(ref.Scope)
	if err != nil {
		return secret.Value{}, typ, err
	}
	var sources []string
	if len(args) > 0 {
		sources = append(sources, "VALUE")
	}
	for _, name := range []string{"value", "from-file", "registry", "from-docker-config"} {
		if given(cmd, name) {
			sources = append(sources, "--"+name)
		}
	}
	if len(sources) > 1 {
		return secret.Value{}, typ, fmt.Errorf("%w: the value comes from one place, not from %v", secret.ErrInvalid,
			sources)
	}
	if typ == store.ImagePull {
		r := registry{&a.set.Type, a.set.Found.DockerConfig, a.terminal()}
		value, err := r.imagePull(cmd.Context(), sources)
		return value, typ, err
	}
	if len(sources) == 1 && (sources[0] == "--registry" || sources[0] == "--from-docker-config") {
		return secret.Value{}, typ, secret.WithHint(
			fmt.Errorf("%w: %s is for image pull secrets", secret.ErrInvalid, sources[0]),
			"add --type image_pull",
		)
	}
	value, err := a.plainValue(cmd, args, sources)
	return value, typ, err
}

// storeType returns the type of the settings, if a secret of that type may be at scope.
func (a *secretsVerb) storeType(scope secret.Scope) (store.Type, error) {
	if a.set.Type.Type != store.ImagePull.String() {
		return store.Regular, nil
	}
	if scope.Project != "" || scope.Domain != "" {
		return 0, fmt.Errorf(
			"%w: project and domain must not be set when creating an image pull secret",
			secret.ErrInvalid,
		)
	}
	return store.ImagePull, nil
}

func (a *secretsVerb) plainValue(cmd *cobra.Command, args []string, sources []string) (secret.Value, error) {
	switch {
	case len(args) > 0:
		a.historyHint()
		return secret.NewValue([]byte(args[0])), nil
	case cmd.Flags().Changed("value"):
		if a.settings.Env(cli.Twin("value")) == "" {
			a.historyHint()
		}
		return secret.NewValue([]byte(a.set.Value.Text)), nil
	case a.set.Value.FromFile == "-":
		return readValue(a.stdin, "stdin")
	case len(sources) > 0:
		f, err := os.Open(a.set.Value.FromFile)
		if err != nil {
			return secret.Value{}, fmt.Errorf("%w: --from-file: %w", secret.ErrInvalid, err)
		}
		defer f.Close() //nolint:errcheck // read only
		return readValue(f, a.set.Value.FromFile)
	case tty.Is(a.stdin):
		t := a.terminal()
		if t == nil {
			break
		}
		a.asked = true
		value, err := t.Ask("Enter secret value: ", store.MaxValue)
		if errors.Is(err, secret.ErrInvalid) {
			err = secret.WithHint(err, "--from-file FILE stores the bytes of a file, and --value '' an empty value; "+
				"a pipe works, too")
		}
		return value, err
	default:
		value, err := readValue(a.stdin, "stdin")
		if err != nil || value.Len() > 0 {
			return value, err
		}
	}
	return secret.Value{}, secret.WithHint(fmt.Errorf("%w: no value was given: stdin is empty", secret.ErrInvalid),
		"pipe it in, name a file with --from-file, or store an empty value with --value ''")
}

// stored tells a person at a terminal what has been stored: a value that was not shown may not be all
// that was meant.
func (a *secretsVerb) stored(what string, ref secret.Ref, value secret.Value) {
	if !a.asked && !tty.Is(a.stdout) {
		return
	}
	size := fmt.Sprintf("%d bytes", value.Len())
	if value.Len() == 1 {
		size = "1 byte"
	}
	if n := bytes.Count(value.Reveal(), []byte("\n")); n > 0 {
		size += fmt.Sprintf(", %d line ends", n)
	}
	_, _ = fmt.Fprintf(a.stdout, "%s secret %s at %s (%s)\n", what, ref.Key, ref.Scope, size)
}

// readValue reads all of r as a value. name is what errors call it.
func readValue(r io.Reader, name string) (secret.Value, error) {
	b, err := io.ReadAll(io.LimitReader(r, store.MaxValue+1))
	if err != nil {
		return secret.Value{}, fmt.Errorf("%w: read the value from %s: %w", secret.ErrInvalid, name, err)
	}
	if len(b) > store.MaxValue {
		return secret.Value{}, fmt.Errorf("%w: the value in %s is over %d bytes long", secret.ErrInvalid, name,
			store.MaxValue)
	}
	return secret.NewValue(b), nil
}

// historyHint warns a person at a terminal that a shell keeps arguments in its history, and that
// other users see them while the program runs.
func (a *secretsVerb) historyHint() {
	if tty.Is(a.stderr) {
		_, _ = fmt.Fprintln(
			a.stderr,
			"hint: the value is in your shell's history now, and all users could read it in the list of processes; "+
				"inject asks for it if the command line has none",
		)
	}
}
