package main

import (
	"os"
	"reflect"
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"inject/cli"
	"inject/injector/outputs"
	"inject/injector/place"
	"inject/injector/task"
	"inject/internal/harness"
	"inject/resolver/secret"
	"inject/resolver/store"
)

func newApp(t *testing.T) *app {
	t.Helper()
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	var err error
	a.settings, err = cli.Load(&a.set)
	require.NoError(t, err)
	return a
}

func TestSettings(t *testing.T) { harness.Settings(t, &settings{}, "INJECT_") }

// The variables that are constants in the code are settings, too.
func TestKnownVariables(t *testing.T) {
	known := newApp(t).settings.Known("INJECT_")
	for _, name := range []string{keyVar, tokenVar, "INJECT_PARENT", task.SecretsEnv, task.SecretFilesEnv} {
		require.Contains(t, known, name)
	}
}

// The defaults in help texts are the real ones.
func TestDefaultsInHelp(t *testing.T) {
	flags := newApp(t).rootCommand(nil).Flags()
	require.Contains(t, flags.Lookup("org").Usage, "default: "+secret.DefaultOrg+")")
	require.Contains(t, flags.Lookup("pod-info").Usage, "default: "+task.PodDir+" ")
	require.Contains(t, flags.Lookup("pod-info").Usage, " else "+task.PodInfoDir+" ")
	require.Contains(t, flags.Lookup("files-dir").Usage, "default: "+place.FlyteDir+" ")
	require.Contains(t, flags.Lookup("on-conflict").Usage, "default: "+string(onConflict("", "a0"))+", or keep ")
	require.Equal(t, string(outputs.Mask), flags.Lookup("on-leak").DefValue)
	f, _ := reflect.TypeFor[settings]().FieldByName("Type")
	f, _ = f.Type.FieldByName("Type")
	require.Equal(t, store.Regular.String()+"|"+store.ImagePull.String(), f.Tag.Get("choice"))
}

// Every flag of a run says what it means to an inject below another one, so that no flag
// disables itself by being forgotten.
func TestNested(t *testing.T) {
	a := newApp(t)
	n := 0
	a.rootCommand(nil).Flags().VisitAll(func(f *pflag.Flag) {
		n++
		require.Contains(t, []string{"work", "pass"}, a.settings.Tag(f).Get("nested"), "--%s", f.Name)
	})
	require.Greater(t, n, 20)
	for args, want := range map[string]bool{"--mask=text": true, "--grace=1s": false, "--store=dir:///s": true} {
		t.Run(args, func(t *testing.T) {
			a := newApp(t)
			cmd := a.rootCommand(nil)
			require.NoError(t, cmd.ParseFlags([]string{args}))
			require.Equal(t, want, (&runVerb{a}).hasOwnWork(cmd))
		})
	}
}

// The help of each command fits a terminal of 80 columns.
func TestHelpWidth(t *testing.T) { harness.HelpWidth(t, newApp(t).rootCommand([]string{"help"})) }

func TestManPages(t *testing.T) {
	harness.ManPages(t, "../../docs/man", newApp(t).rootCommand([]string{"help"}), &settings{})
}
