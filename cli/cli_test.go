package cli_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"inject/cli"
	"inject/resolver/secret"
)

// two is the settings of a program with two groups of flags.
type two struct {
	First struct {
		HowMany    int           `flag:"how-many" short:"n" env:"INJECT_HOW_MANY" default:"1" help:"how many"`
		Passphrase bool          `flag:"passphrase" env:"INJECT_PASSPHRASE" help:"ask" hint:"the passphrase goes in INJECT_KEY"`
		Wait       time.Duration `flag:"wait" env:"INJECT_WAIT" default:"90s" help:"how long to wait"`
		Share      float64       `flag:"share" env:"INJECT_SHARE" help:"how much"`
		Color      string        `flag:"color" env:"INJECT_COLOR" default:"red" choice:"red|green|blue" help:"the color"`
	} `group:"first"`
	Other struct {
		Names []string `flag:"name" env:"INJECT_NAMES" twin:"no" arg:"NAME" help:"a NAME (repeat)"`
		Texts []string `flag:"text" env:"INJECT_TEXT" help:"a text (repeat)"`
		File  string   `flag:"file" env:"INJECT_FILE" arg:"FILE" complete:"file" help:"a FILE with a description that is so long that it does not fit in the eighty columns of a line"`
	} `group:"other"`
	Keys struct {
		Key  secret.Value `env:"INJECT_KEY" help:"the key"`
		Home string       `env:"SOME_HOME" help:"the home"`
	} `group:"keys"`
}

// command returns one with the settings of two and a verb below it that has no flags.
func command(t *testing.T) (*cobra.Command, *two, *cli.Settings) {
	t.Helper()
	set := &two{}
	s, err := cli.Load(set)
	require.NoError(t, err)
	cmd := &cobra.Command{Use: "it", Run: func(*cobra.Command, []string) {}, SilenceErrors: true, SilenceUsage: true}
	s.AddFlags(cmd, &set.First, &set.Other)
	cmd.SetFlagErrorFunc(cli.FlagError)
	cmd.AddCommand(&cobra.Command{Use: "below", Args: cli.NoArgs, Run: func(*cobra.Command, []string) {}})
	return cmd, set, s
}

func TestHelp(t *testing.T) {
	cmd, _, _ := command(t)
	var b bytes.Buffer
	cmd.SetOut(&b)
	cmd.SetErr(&b)
	require.NoError(t, cmd.Usage())
	require.Regexp(
		t,
		`(?s)\nFirst:\n +-n, --how-many int\n +how many \[\$INJECT_HOW_MANY\] \(default 1\).*--passphrase.*\n\nOther:\n +--name NAME\n +a NAME \(repeat\) \[\$INJECT_NAMES\]\n`,
		b.String(),
	)
	require.Regexp(t, `--color red\|green\|blue\n +the color`, b.String())
	require.Regexp(t, `--file FILE`, b.String())
	for line := range strings.Lines(b.String()) {
		require.LessOrEqual(t, len(line), 81, line)
	}
	b.Reset()
	cmd.Long = "A text of words that is much longer than the eighty columns of a line, and so it is filled.\n" +
		"  as it is\nand more"
	cmd.SetHelpFunc(cli.Help)
	require.NoError(t, cmd.Help())
	filled := "A text of words that is much longer than the eighty columns of a line, and so it\nis filled.\n" +
		"  as it is\nand more\n\nUsage:\n"
	require.True(t, strings.HasPrefix(b.String(), filled), b.String())

	b.Reset()
	require.NoError(t, cmd.Commands()[0].Usage())
	require.NotContains(t, b.String(), "First", "of another verb")
}

func TestTwins(t *testing.T) {
	require.Equal(t, "INJECT_HOW_MANY", cli.Twin("how-many"))
	for name, text := range map[string]string{
		"INJECT_HOW_MANY": "7", "INJECT_NAMES": "x", "INJECT_TEXT": "a, b", "INJECT_PASSPHRASE": "",
		"INJECT_HELP": "true", "INJECT_WAIT": "2m", "INJECT_SHARE": ".5", "INJECT_COLOR": "blue",
		"INJECT_KEY": "the key", "SOME_HOME": "/home",
	} {
		t.Setenv(name, text)
	}
	cmd, set, s := command(t)
	require.NoError(t, cmd.ParseFlags(nil))
	require.Equal(t, 1, set.First.HowMany, "the default")
	require.NoError(t, s.Apply(cmd))
	require.Equal(t, 7, set.First.HowMany)
	require.Equal(t, 2*time.Minute, set.First.Wait)
	require.InDelta(t, .5, set.First.Share, 0)
	require.Equal(t, "blue", set.First.Color)
	require.Equal(t, []string{"a, b"}, set.Other.Texts, "one text, whatever is in it")
	require.True(t, cmd.Flags().Changed("how-many"))
	for _, name := range []string{"name", "passphrase", "help"} {
		require.False(t, cmd.Flags().Changed(name), name)
	}
	require.Equal(t, "x", s.Env("INJECT_NAMES"), "for the program to read")
	require.Equal(t, "the key", string(set.Keys.Key.Reveal()))
	require.Equal(t, "/home", set.Keys.Home)
	require.Contains(t, s.Known("INJECT_"), "INJECT_KEY")
	require.NotContains(t, s.Known("INJECT_"), "SOME_HOME")
	require.Equal(t, "red|green|blue", s.Tag(cmd.Flags().Lookup("color")).Get("choice"))

	cmd, set, s = command(t)
	require.NoError(t, cmd.ParseFlags([]string{"--how-many", "2", "--color", ""}))
	require.NoError(t, s.Apply(cmd))
	require.Equal(t, 2, set.First.HowMany, "a flag before its variable")
	require.Equal(t, "red", set.First.Color, "an empty argument is the default")

	for _, name := range []string{"INJECT_HOW_MANY", "INJECT_PASSPHRASE", "INJECT_COLOR", "INJECT_SHARE"} {
		t.Setenv(name, "canary")
	}
	t.Setenv("INJECT_WAIT", "-1s")
	cmd, _, s = command(t)
	err := s.Apply(cmd)
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.NotContains(t, err.Error(), "canary")
	each := cli.Each(err)
	require.Len(t, each, 5, "all are told")
	require.EqualError(t, each[0], "invalid: INJECT_HOW_MANY is not a whole number, as --how-many needs (not shown)")
	require.EqualError(t, each[1],
		"invalid: INJECT_PASSPHRASE is neither true nor false, as --passphrase needs (not shown)")
	require.Contains(t, secret.Hint(each[1]), "INJECT_KEY")
	require.EqualError(t, each[2], "invalid: --wait is not negative")
	require.EqualError(t, each[3], "invalid: INJECT_SHARE is not a number, as --share needs (not shown)")
	require.EqualError(t, each[4], "invalid: INJECT_COLOR is red, green or blue, as --color needs (not shown)")
}

// A shell completes the argument of a flag with files where it names one, with the choices
// where there are some, and else with nothing.
func TestCompletion(t *testing.T) {
	for flag, want := range map[string]string{
		"--file": ":0\n", "--color": "red\ngreen\nblue\n:4\n", "--text": ":4\n",
	} {
		t.Run(flag, func(t *testing.T) {
			cmd, _, _ := command(t)
			var b bytes.Buffer
			cmd.SetOut(&b)
			cmd.SetArgs([]string{cobra.ShellCompNoDescRequestCmd, flag, ""})
			require.NoError(t, cmd.Execute())
			require.Equal(t, want, b.String())
		})
	}
}

// The errors do not repeat what was typed, because it may be a value.
func TestMistakes(t *testing.T) {
	for args, want := range map[string]string{
		"--how-mny canary":  "invalid: an unknown flag: --how-mny; did you mean --how-many?",
		"--Canary":          "invalid: an unknown flag",
		"--canary1":         "invalid: an unknown flag",
		"--canary=canary":   "invalid: an unknown flag: --canary",
		"-canary":           "invalid: an unknown flag",
		"--how-many canary": "invalid: the argument of --how-many is not a whole number (not shown)",
		"--color canary":    "invalid: --color is red, green or blue (not shown)",
		"--name":            "invalid: no argument for --name",
		"below canary":      "invalid: it below takes no arguments",
	} {
		cmd, _, _ := command(t)
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
	for base, want := range map[string]string{
		"":         "/home/me/.config/inject/key.txt",
		"relative": "/home/me/.config/inject/key.txt", "/config": "/config/inject/key.txt",
	} {
		path, err := cli.UserPath(base, ".config", "key.txt")
		require.NoError(t, err)
		require.Equal(t, want, path)
	}
	t.Setenv("HOME", "")
	_, err := cli.UserPath("", ".config", "key.txt")
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.Contains(t, secret.Hint(err), "set HOME")
}
