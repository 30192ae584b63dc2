package secret_test

import (
	"bytes"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"inject/resolver/secret"
)

// held is a struct like those in the code: a Value among other fields, exported,
// unexported and behind a pointer, an interface, a slice and a map.
type held struct {
	Name string
	V    secret.Value
	P    *secret.Value
	I    any
	S    []secret.Value
	M    map[string]secret.Value
	v    secret.Value
}

func hold(v secret.Value) held {
	return held{"n", v, &v, v, []secret.Value{v}, map[string]secret.Value{"k": v}, v}
}

const canary = "c4n4ry-V4lue"

// shows reports whether text holds the value raw, as hex or as fmt prints bytes.
func shows(text string) bool {
	raw := []byte(canary)
	for _, form := range []string{
		canary, hex.EncodeToString(raw), strings.ToUpper(hex.EncodeToString(raw)),
		strings.Trim(fmt.Sprint(raw), "[]"), //nolint:staticcheck // as fmt prints bytes, not a string
		fmt.Sprintf("% x", raw), strings.Trim(fmt.Sprintf("%#v", raw), "[]byte{}"),
		strings.Trim(fmt.Sprintf("%o", raw), "[]"), strings.Trim(fmt.Sprintf("%b", raw), "[]"),
	} {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}

func TestValueIsNeverPrinted(t *testing.T) {
	for _, verb := range []string{"%s", "%v", "%x", "%X", "% x", "%o", "%b", "%d", "%#v"} {
		require.True(t, shows(fmt.Sprintf(verb, []byte(canary))), "the search must find a planted value under %s", verb)
	}
	value := secret.NewValue([]byte(canary))
	type printer struct {
		name  string
		print func(any) string
	}
	var printers []printer
	for _, flags := range []string{"", "+", "#", " ", "0", "-", "20", ".3", "+#"} {
		for c := 'A'; c <= 'z'; c++ {
			verb := "%" + flags + string(c)
			printers = append(printers, printer{verb, func(x any) string { return fmt.Sprintf(verb, x) }})
		}
	}
	encoder := func(encode func(*bytes.Buffer, any) error) func(any) string {
		return func(x any) string {
			var b bytes.Buffer
			if err := encode(&b, x); err != nil {
				return b.String() + err.Error()
			}
			return b.String()
		}
	}
	printers = append(printers,
		printer{"Println", func(x any) string { return fmt.Sprintln(x) }},
		printer{"error", func(x any) string { return fmt.Errorf("%w: %v", errors.ErrUnsupported, x).Error() }},
		printer{"json", encoder(func(b *bytes.Buffer, x any) error { return json.NewEncoder(b).Encode(x) })},
		printer{"xml", encoder(func(b *bytes.Buffer, x any) error { return xml.NewEncoder(b).Encode(x) })},
		printer{"gob", encoder(func(b *bytes.Buffer, x any) error { return gob.NewEncoder(b).Encode(x) })},
		printer{"yaml", encoder(func(b *bytes.Buffer, x any) error { return yaml.NewEncoder(b).Encode(x) })},
		printer{"slog text", encoder(func(b *bytes.Buffer, x any) error {
			slog.New(slog.NewTextHandler(b, nil)).Info("m", "x", x)
			return nil
		})},
		printer{"slog json", encoder(func(b *bytes.Buffer, x any) error {
			slog.New(slog.NewJSONHandler(b, nil)).Info("m", "x", x)
			return nil
		})},
		printer{"hclog text", encoder(func(b *bytes.Buffer, x any) error {
			hclog.New(&hclog.LoggerOptions{Output: b}).Info("m", "x", x)
			return nil
		})},
		printer{"hclog json", encoder(func(b *bytes.Buffer, x any) error {
			hclog.New(&hclog.LoggerOptions{Output: b, JSONFormat: true}).Info("m", "x", x)
			return nil
		})},
		printer{"testify diff", func(x any) string {
			var r recorder
			require.Equal(&r, struct{}{}, x)
			return r.String()
		}},
	)
	for _, p := range printers {
		for _, x := range []any{value, &value, hold(value), []any{hold(value)}} {
			require.Falsef(t, shows(p.print(x)), "%s of a %T shows the value", p.name, x)
		}
	}
	require.Equal(t, "[REDACTED]", fmt.Sprint(value))
	require.Equal(
		t, `"[REDACTED]"`,
		encoder(func(b *bytes.Buffer, x any) error { return json.NewEncoder(b).Encode(x) })(value)[:12],
	)
	_, err := xml.Marshal(value)
	require.NoError(t, err)
}

// recorder is a testing.T that keeps what an assertion prints.
type recorder struct{ strings.Builder }

func (r *recorder) Errorf(format string, args ...any) { _, _ = fmt.Fprintf(r, format, args...) }
func (r *recorder) FailNow()                          {}

// TestPanic panics with a value, and with a value in the arguments of the
// panicking function, in a process of its own.
func TestPanic(t *testing.T) {
	if os.Getenv("SECRET_TEST_PANIC") != "" {
		value := secret.NewValue([]byte(canary))
		if os.Getenv("SECRET_TEST_PANIC") == "struct" {
			panic(hold(value))
		}
		panic(value)
	}
	for _, what := range []string{"value", "struct"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestPanic$")
		cmd.Env = append(os.Environ(), "SECRET_TEST_PANIC="+what, "GOTRACEBACK=all")
		out, err := cmd.CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "panic: ")
		require.Falsef(t, shows(string(out)), "a panic with a %s shows the value", what)
	}
}

func TestValue(t *testing.T) {
	v := secret.NewValue([]byte("abc"))
	require.Equal(t, []byte("abc"), v.Reveal())
	require.True(t, v.Equal(secret.NewValue([]byte("abc"))))
	require.False(t, v.Equal(secret.NewValue([]byte("abd"))))
	require.Equal(t, 3, v.Len())
	require.Zero(t, secret.Value{}.Len())
	require.Empty(t, secret.Value{}.Reveal())
	require.True(t, secret.Value{}.Equal(secret.NewValue(nil)))
	require.False(t, reflect.TypeFor[secret.Value]().Comparable(), "== on values would compare closures")
}
