package main

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/cli"
	"inject/internal/harness"
	"inject/resolver/secret"
)

func TestSettings(t *testing.T) {
	harness.Settings(t, &settings{})
	s, err := cli.Load(&settings{})
	require.NoError(t, err)
	require.Contains(t, s.Known("INJECT_"), keyVariable)
	f, _ := reflect.TypeFor[settings]().FieldByName("Served")
	f, _ = f.Type.FieldByName("Org")
	require.Equal(t, secret.DefaultOrg, f.Tag.Get("default"))
}

func TestManPages(t *testing.T) {
	a := &app{}
	var err error
	a.settings, err = cli.Load(&a.set)
	require.NoError(t, err)
	harness.ManPages(t, "../../docs/man", a.rootCommand(), &settings{})
}
