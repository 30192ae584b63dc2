package harness

import (
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Settings fails the test unless every setting of the struct at settings, which package cli
// describes, has what its flag, its variable and its help need: a variable of prefix and the
// flag's name, a help text that names the argument, a heading, and a default of its type.
func Settings(t *testing.T, settings any, prefix string) {
	t.Helper()
	all := reflect.TypeOf(settings).Elem()
	for group := range all.Fields() {
		if group.Tag.Get("group") == "" {
			t.Errorf("%s has no heading: give it a tag group", group.Name)
		}
		for f := range group.Type.Fields() {
			t.Run(group.Name+"."+f.Name, func(t *testing.T) { setting(t, f, prefix) })
		}
	}
}

func setting(t *testing.T, f reflect.StructField, prefix string) {
	t.Helper()
	flag, variable, help := f.Tag.Get("flag"), f.Tag.Get("env"), f.Tag.Get("help")
	if variable == "" || help == "" {
		t.Error("it needs the tags env and help")
	}
	twin := prefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
	if flag != "" && variable != twin && f.Tag.Get("twin") != "no" {
		t.Errorf("the variable of --%s is %s, or it has the tag twin:\"no\"", flag, twin)
	}
	if !strings.Contains(help, f.Tag.Get("arg")) {
		t.Errorf("the help does not say what %s is", f.Tag.Get("arg"))
	}
	text := f.Tag.Get("default")
	if text == "" {
		return
	}
	var err error
	switch f.Type {
	case reflect.TypeFor[int]():
		_, err = strconv.Atoi(text)
	case reflect.TypeFor[float64]():
		_, err = strconv.ParseFloat(text, 64)
	case reflect.TypeFor[time.Duration]():
		_, err = time.ParseDuration(text)
	case reflect.TypeFor[string]():
		if c := f.Tag.Get("choice"); c != "" && !strings.Contains("|"+c+"|", "|"+text+"|") {
			t.Errorf("the default is none of %s", c)
		}
	default:
		t.Error("a setting of this type has no default")
	}
	if err != nil {
		t.Error(err)
	}
}
