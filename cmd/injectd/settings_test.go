package main

import (
	"bytes"
	"crypto/rand"
	"io"
	mathrand "math/rand/v2"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"inject/cli"
	"inject/exec/redact"
	"inject/internal/harness"
	"inject/resolver/secret"
)

func TestSettings(t *testing.T) {
	harness.Settings(t, &settings{}, "INJECTD_")
	s, err := cli.Load(&settings{})
	require.NoError(t, err)
	require.Contains(t, s.Known("INJECTD_"), keyVariable)
	f, _ := reflect.TypeFor[settings]().FieldByName("Org")
	f, _ = f.Type.FieldByName("Name")
	require.Equal(t, secret.DefaultOrg, f.Tag.Get("default"))
}

// oldNames are the names that settings had, each with its present one. They work for one release.
var oldNames = map[string]string{
	"--token-file":           "--tokens-file",
	"INJECT_AUDIT_BURST":     "INJECTD_AUDIT_BURST",
	"INJECT_AUDIT_LOG":       "INJECTD_AUDIT_LOG",
	"INJECT_AUDIT_RATE":      "INJECTD_AUDIT_RATE",
	"INJECT_CERT_FILE":       "INJECTD_CERT_FILE",
	"INJECT_CERT_KEY_FILE":   "INJECTD_CERT_KEY_FILE",
	"INJECT_CLIENT_CA_FILE":  "INJECTD_CLIENT_CA_FILE",
	"INJECT_CLIENT_CRL_FILE": "INJECTD_CLIENT_CRL_FILE",
	"INJECT_CLUSTER_NAME":    "INJECTD_CLUSTER_NAME",
	"INJECT_DRAIN":           "INJECTD_DRAIN",
	"INJECT_DRAIN_DELAY":     "INJECTD_DRAIN_DELAY",
	"INJECT_INSECURE":        "INJECTD_INSECURE",
	"INJECT_JWT":             "INJECTD_JWT",
	"INJECT_KEY":             "INJECTD_KEY",
	"INJECT_KEY_FILE":        "INJECTD_KEY_FILE",
	"INJECT_LISTEN":          "INJECTD_LISTEN",
	"INJECT_LOCK_TIMEOUT":    "INJECTD_LOCK_TIMEOUT",
	"INJECT_LOG_LEVEL":       "INJECTD_LOG_LEVEL",
	"INJECT_MAX_CONNECTIONS": "INJECTD_MAX_CONNECTIONS",
	"INJECT_MAX_STREAMS":     "INJECTD_MAX_STREAMS",
	"INJECT_NEW_KEY_FILE":    "INJECTD_NEW_KEY_FILE",
	"INJECT_OPS_LISTEN":      "INJECTD_OPS_LISTEN",
	"INJECT_ORG":             "INJECTD_ORG",
	"INJECT_OUT":             "INJECTD_OUT",
	"INJECT_OUTPUT":          "INJECTD_OUTPUT",
	"INJECT_PASSPHRASE":      "INJECTD_PASSPHRASE",
	"INJECT_POLICY":          "INJECTD_POLICY",
	"INJECT_RATE":            "INJECTD_RATE",
	"INJECT_RATE_BURST":      "INJECTD_RATE_BURST",
	"INJECT_STORE":           "INJECTD_STORE",
	"INJECT_STORE_ONLY":      "INJECTD_STORE_ONLY",
	"INJECT_TOKEN_FILE":      "INJECTD_TOKENS_FILE",
}

// Each old name works in each verb that has the setting, warns once, names the new name and not
// the value, and is in no help and no completion.
func TestOldNames(t *testing.T) {
	all := map[string]string{}
	for group := range reflect.TypeFor[settings]().Fields() {
		for f := range group.Type.Fields() {
			for old := range strings.FieldsSeq(f.Tag.Get("was")) {
				all[old] = f.Tag.Get("env")
				if strings.HasPrefix(old, "--") {
					all[old] = "--" + f.Tag.Get("flag")
				}
			}
		}
	}
	require.Equal(t, oldNames, all)
	inject, err := os.ReadFile("../inject/settings.go")
	require.NoError(t, err)
	tried := map[string]bool{"INJECT_KEY": true} // has no flag; below

	walk := func(visit func(verb []string, flag *pflag.Flag, tag reflect.StructTag)) {
		a := load(t)
		var below func(cmd *cobra.Command, path []string)
		below = func(cmd *cobra.Command, path []string) {
			cmd.Flags().VisitAll(func(f *pflag.Flag) {
				if tag := a.settings.Tag(f); tag.Get("was") != "" && tag.Get("flag") == f.Name {
					visit(path, f, tag)
				}
			})
			for _, c := range cmd.Commands() {
				below(c, append(slices.Clip(path), c.Name()))
			}
		}
		below(a.rootCommand(), nil)
	}
	walk(func(verb []string, flag *pflag.Flag, tag reflect.StructTag) {
		text := rand.Text() + "=" + rand.Text() // of any form
		switch flag.Value.Type() {
		case "int":
			text = strconv.Itoa(1e6 + mathrand.IntN(1e6))
		case "float64":
			text = strconv.Itoa(1e4+mathrand.IntN(1e4)) + ".5"
		case "duration":
			text = time.Duration(1e15 + mathrand.Int64N(1e15)).String()
		case "bool":
			text = "true"
		case "string", "stringArray":
		default: // a choice
			text = strings.Split(tag.Get("choice"), "|")[1]
		}
		for old := range strings.FieldsSeq(tag.Get("was")) {
			tried[old] = true
			name := strings.Join(verb, " ") + " " + old
			// run returns the setting and the warnings with these variables and flags.
			run := func(t *testing.T, variables map[string]string, args ...string) (string, []string) {
				for name, text := range variables {
					t.Setenv(name, text)
				}
				a := load(t)
				cmd, _, err := a.rootCommand().Find(verb)
				require.NoError(t, err)
				require.NoError(t, cmd.ParseFlags(args))
				require.NoError(t, a.settings.Apply(cmd))
				return cmd.Flags().Lookup(flag.Name).Value.String(), a.settings.Warnings()
			}
			warns := func(t *testing.T, got string, warnings []string) {
				require.Contains(t, got, text)
				require.Len(t, warnings, 1)
				require.Contains(t, warnings[0], old+" is the old name of "+oldNames[old])
				if flag.Value.Type() != "bool" && tag.Get("choice") == "" {
					require.NotContains(t, warnings[0], text)
				}
			}
			t.Run(name+" is not shown", func(t *testing.T) {
				a := load(t)
				root := a.rootCommand()
				cmd, _, err := root.Find(verb)
				require.NoError(t, err)
				usage := regexp.MustCompile(`[\w$-]+`).FindAllString(cmd.UsageString(), -1)
				require.Contains(t, usage, "--"+flag.Name)
				require.NotContains(t, usage, old)
				require.NotContains(t, usage, "$"+old)
				var b bytes.Buffer
				root.SetOut(&b)
				root.SetErr(io.Discard)
				root.SetArgs(append(append([]string{cobra.ShellCompNoDescRequestCmd}, verb...), "--"))
				require.NoError(t, root.Execute())
				require.Contains(t, strings.Fields(b.String()), "--"+flag.Name)
				require.NotContains(t, strings.Fields(b.String()), old)
			})
			if strings.HasPrefix(old, "--") {
				t.Run(name, func(t *testing.T) {
					got, warnings := run(t, nil, old+"="+text)
					warns(t, got, warnings)
				})
				continue
			}
			variable := tag.Get("env")
			t.Run(name, func(t *testing.T) {
				got, warnings := run(t, map[string]string{old: text})
				warns(t, got, warnings)
			})
			t.Run(name+" with an empty "+variable, func(t *testing.T) {
				got, warnings := run(t, map[string]string{old: text, variable: ""})
				warns(t, got, warnings)
			})
			t.Run(name+" beside the flag", func(t *testing.T) {
				got, warnings := run(t, map[string]string{old: "canary"}, "--"+flag.Name+"="+text)
				require.Contains(t, got, text)
				require.Empty(t, warnings)
			})
			t.Run(name+" and "+variable+" alike", func(t *testing.T) {
				got, warnings := run(t, map[string]string{old: text, variable: text})
				require.Contains(t, got, text)
				require.Empty(t, warnings)
			})
			t.Run(name+" unlike "+variable, func(t *testing.T) {
				got, warnings := run(t, map[string]string{old: "canary", variable: text})
				require.Contains(t, got, text)
				require.NotContains(t, strings.Join(warnings, "\n"), "canary")
				// A variable of inject is no mistake beside one of injectd.
				if strings.Contains(string(inject), `env:"`+old+`"`) {
					require.Empty(t, warnings)
				} else {
					require.Len(t, warnings, 1)
					require.Contains(t, warnings[0], old+" is the old name of "+variable+" and not used")
				}
			})
		}
	})
	for old := range oldNames {
		require.True(t, tried[old], old)
	}
}

// The key has no flag.
func TestOldNameOfKey(t *testing.T) {
	old, present := rand.Text(), rand.Text()
	t.Setenv("INJECT_KEY", old)
	a := load(t)
	require.Equal(t, old, string(a.set.Keys.Key.Reveal()))
	require.Len(t, a.settings.Warnings(), 1)
	require.Contains(t, a.settings.Warnings()[0], "INJECT_KEY is the old name of INJECTD_KEY")
	require.NotContains(t, a.settings.Warnings()[0], old)
	t.Setenv("INJECTD_KEY", present)
	a = load(t)
	require.Equal(t, present, string(a.set.Keys.Key.Reveal()))
	require.Empty(t, a.settings.Warnings(), "INJECT_KEY is of inject")
}

func load(t *testing.T) *app {
	t.Helper()
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	var err error
	a.settings, err = cli.Load(&a.set)
	require.NoError(t, err)
	a.log, a.key = hclog.NewNullLogger(), redact.New(1)
	return a
}

func TestManPages(t *testing.T) {
	harness.ManPages(t, "../../docs/man", load(t).rootCommand(), &settings{})
}

// The help of each command fits a terminal of 80 columns.
func TestHelpWidth(t *testing.T) { harness.HelpWidth(t, load(t).rootCommand()) }
