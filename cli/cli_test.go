package cli_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"inject/cli"
	"inject/resolver/secret"
)

// command returns one with two groups of flags and a verb below it that has none.
func command() *cobra.Command {
	cmd := &cobra.Command{Use: "it", Run: func(*cobra.Command, []string) {}, SilenceErrors: true, SilenceUsage: true}
	cli.AddGroups(cmd,
		cli.NewGroup("first", func(s *pflag.FlagSet) {
			s.Int("how-many", 1, "how many")
			s.Bool("passphrase", false, "ask")
		}),
		cli.NewGroup("other", func(s *pflag.FlagSet) { s.StringArray("name", nil, "a `NAME` (repeat) [$INJECT_NAMES]") }))
	cmd.SetFlagErrorFunc(cli.FlagError)
	cmd.AddCommand(&cobra.Command{Use: "below", Args: cli.NoArgs, Run: func(*cobra.Command, []string) {}})
	return cmd
}

func TestHelp(t *testing.T) {
	cmd := command()
	var b bytes.Buffer
	cmd.SetOut(&b)
	cmd.SetErr(&b)
	require.NoError(t, cmd.Usage())
	require.Regexp(t, `(?s)\nFirst:\n +--how-many int +how many \[\$INJECT_HOW_MANY\].*--passphrase.*\n\nOther:\n +--name NAME +a NAME \(repeat\) \[\$INJECT_NAMES\]\n`, b.String())
	b.Reset()
	require.NoError(t, cmd.Commands()[0].Usage())
	require.NotContains(t, b.String(), "First", "of another verb")
}

func TestTwins(t *testing.T) {
	require.Equal(t, "INJECT_HOW_MANY", cli.Twin("how-many"))
	t.Setenv("INJECT_HOW_MANY", "7")
	t.Setenv("INJECT_NAME", "x")
	t.Setenv("INJECT_PASSPHRASE", "")
	t.Setenv("INJECT_HELP", "true")
	cmd := command()
	require.NoError(t, cmd.ParseFlags(nil))
	require.NoError(t, cli.ApplyTwins(cmd, "name"))
	require.Equal(t, "7", cmd.Flags().Lookup("how-many").Value.String())
	require.True(t, cmd.Flags().Changed("how-many"))
	for _, name := range []string{"name", "passphrase", "help"} {
		require.False(t, cmd.Flags().Changed(name), name)
	}
	cmd = command()
	require.NoError(t, cmd.ParseFlags([]string{"--how-many", "2"}))
	require.NoError(t, cli.ApplyTwins(cmd))
	require.Equal(t, "2", cmd.Flags().Lookup("how-many").Value.String(), "a flag before its variable")
	require.Equal(t, "[x]", cmd.Flags().Lookup("name").Value.String())

	t.Setenv("INJECT_HOW_MANY", "canary")
	t.Setenv("INJECT_PASSPHRASE", "canary")
	err := cli.ApplyTwins(command())
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.NotContains(t, err.Error(), "canary")
	each := cli.Each(err)
	require.Len(t, each, 2, "both are told")
	require.EqualError(t, each[0], "invalid: INJECT_HOW_MANY is not a int, as --how-many needs (not shown)")
	require.Contains(t, secret.Hint(each[1]), "INJECT_KEY")
}

// What is wrong is told without what was typed.
func TestMistakes(t *testing.T) {
	for args, want := range map[string]string{
		"--how-mny canary":  "invalid: an unknown flag; did you mean --how-many?",
		"--canary":          "invalid: an unknown flag",
		"-canary":           "invalid: an unknown flag",
		"--how-many canary": "invalid: the argument of --how-many is not a int (not shown)",
		"--name":            "invalid: no argument for --name",
		"below canary":      "invalid: it below takes no arguments",
	} {
		cmd := command()
		cmd.SetArgs(strings.Fields(args))
		err := cmd.Execute()
		require.ErrorIs(t, err, secret.ErrInvalid)
		require.EqualError(t, err, want)
		require.Contains(t, secret.Hint(err), "--help")
	}
}

func TestEach(t *testing.T) {
	a, b, c := errors.New("a"), errors.New("b\nof two lines"), errors.New("c")
	require.Empty(t, cli.Each(nil))
	require.Equal(t, []error{a}, cli.Each(a))
	require.Equal(t, []error{a, b, c}, cli.Each(errors.Join(errors.Join(a, b), nil, c)))
	both := fmt.Errorf("%w: %w", a, c)
	require.Equal(t, []error{both, c}, cli.Each(errors.Join(both, c)), "one text with two causes")
}

func TestUserPath(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	for base, want := range map[string]string{"": "/home/me/.config/inject/key.txt", "relative": "/home/me/.config/inject/key.txt", "/config": "/config/inject/key.txt"} {
		t.Setenv("XDG_CONFIG_HOME", base)
		path, err := cli.UserPath("XDG_CONFIG_HOME", ".config", "key.txt")
		require.NoError(t, err)
		require.Equal(t, want, path)
	}
	t.Setenv("HOME", "")
	t.Setenv("XDG_CONFIG_HOME", "")
	_, err := cli.UserPath("XDG_CONFIG_HOME", ".config", "key.txt")
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.Contains(t, secret.Hint(err), "set HOME")
}
