package cli

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"inject/resolver/secret"
)

// Settings are all flags and environment variables of a program, as one struct
// declares them. Its fields are groups: structs whose fields are one setting each.
//
//	type settings struct {
//		Store struct {
//			URL  string        `flag:"store" env:"INJECT_STORE" arg:"URL" help:"URL of the store"`
//			Wait time.Duration `flag:"wait" env:"INJECT_WAIT" default:"10s" help:"time to wait"`
//		} `group:"store"`
//	}
//
// A group has the tag group: the heading of its flags in --help. A setting has the tags
//
//	flag     the name of its flag; without it the setting is a variable only
//	short    the flag's one-letter name
//	env      the name of its variable
//	default  its value if neither the flag nor the variable gives one
//	help     what it is for, in one sentence
//	arg      what the flag's argument is called in --help; a word of the help text
//	choice   the texts that it may be, separated by |
//	complete what a shell completes its argument with: file, dir, texts separated by |, or a word
//	         for [Settings.Complete]
//	hint     what to do about a variable whose text does not fit
//	twin     "no" if the variable does not stand for one argument of the flag; the program
//	         reads it by [Settings.Env]; "words" if it holds several, separated by white space
//	was      old names that still work, with a warning: a flag with its --, a variable, or both
//	         with a space between
//	shared   "yes" if the old variable is also one of another program, so that it may well be
//	         set beside the new one
//
// and other tags that only the program reads. The type of a setting is string,
// [secret.Value] (of a variable without a flag), bool, int, float64, [time.Duration], or
// []string for a flag that may be repeated.
type Settings struct {
	// Complete returns the texts with which a shell completes the argument of a flag of cmd. word is in
	// the flag's tag. A program that has such tags sets Complete.
	Complete func(cmd *cobra.Command, word string) []string

	groups   []group
	env      map[string]string // the text of every variable; "" for one that is not set
	flags    map[*pflag.Flag]field
	warnings []string
}

type group struct {
	address any // of the struct
	heading string
	fields  []field
}

type field struct {
	address any
	tag     reflect.StructTag
}

// was returns the old names of the setting, "" for none; the flag's is without its --.
func (f field) was() (flag, variable string) {
	for name := range strings.FieldsSeq(f.tag.Get("was")) {
		if old, ok := strings.CutPrefix(name, "--"); ok {
			flag = old
		} else {
			variable = name
		}
	}
	return flag, variable
}

// Load returns the settings that the struct at settings declares, after it has read the
// environment, and sets those that are variables without a flag. The others are set by
// [Settings.AddFlags], the flags themselves and [Settings.Apply].
//
// The environment is read as text only. The error of a bad text would quote it, and a
// list would be split at its commas; [Settings.Apply] does neither.
func Load(settings any) (*Settings, error) {
	s := &Settings{env: map[string]string{}, flags: map[*pflag.Flag]field{}}
	var variables []reflect.StructField
	all := reflect.ValueOf(settings).Elem()
	for i := range all.NumField() {
		part := all.Field(i)
		g := group{address: part.Addr().Interface(), heading: all.Type().Field(i).Tag.Get("group")}
		for j := range part.NumField() {
			f := field{part.Field(j).Addr().Interface(), part.Type().Field(j).Tag}
			g.fields = append(g.fields, f)
			_, old := f.was()
			for _, name := range []string{f.tag.Get("env"), old} {
				if _, twice := s.env[name]; twice || name == "" {
					continue
				}
				s.env[name] = ""
				// To make the struct of all variables takes 0.1 ms of each start, and few are set.
				if _, set := os.LookupEnv(name); set { //nolint:forbidigo // the library reads it
					tag := reflect.StructTag(`env:"` + name + `"`)
					variables = append(variables,
						reflect.StructField{Name: name, Type: reflect.TypeFor[string](), Tag: tag})
				}
			}
		}
		s.groups = append(s.groups, g)
	}

	texts := reflect.New(reflect.StructOf(variables))
	if err := env.Parse(texts.Interface()); err != nil {
		return nil, err
	}
	for i, v := range variables {
		s.env[v.Name] = texts.Elem().Field(i).String()
	}
	for _, g := range s.groups {
		for _, f := range g.fields {
			if f.tag.Get("flag") != "" {
				continue
			}
			_, text := s.variable(f)
			if text == "" {
				continue
			}
			switch p := f.address.(type) {
			case *secret.Value:
				*p = secret.NewValue([]byte(text))
			case *string:
				*p = text
			}
		}
	}
	return s, nil
}

// variable returns the variable that gives the setting f, which may be its old one, and its
// text: "" if neither is set. An old variable beside the new one is not used: the new one is
// certainly meant for this program. Each old one that is used, or that only this program has
// and that says something else, is a warning.
func (s *Settings) variable(f field) (name, text string) {
	name = f.tag.Get("env")
	_, old := f.was()
	text, before := s.env[name], s.env[old]
	switch {
	case before == "":
	case text == "":
		s.warn("%s is the old name of %s, and the next release does not read it", old, name)
		return old, before
	case text != before && f.tag.Get("shared") == "":
		s.warn("%s is the old name of %s and not used, because both are set: unset %s", old, name, old)
	}
	return name, text
}

// warn adds a warning, which quotes no text of a variable.
func (s *Settings) warn(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(s.warnings, text) {
		s.warnings = append(s.warnings, text)
	}
}

// Warnings returns a sentence for each old name that [Load] and [Settings.Apply] found in use.
// It names the new name and quotes no text.
func (s *Settings) Warnings() []string { return s.warnings }

// Env returns the text of a variable of the settings, "" if it is not set.
func (s *Settings) Env(name string) string { return s.env[name] }

// Known returns the variables of the settings whose names begin with prefix, in order.
func (s *Settings) Known(prefix string) []string {
	var known []string
	for name := range s.env {
		if strings.HasPrefix(name, prefix) {
			known = append(known, name)
		}
	}
	slices.Sort(known)
	return known
}

// Unknown returns the names of the variables in environ, whose entries are NAME=TEXT, that begin with
// prefix and are of no setting: mistyped ones, which would be ignored without a word.
func (s *Settings) Unknown(environ []string, prefix string) (names []string) {
	for _, v := range environ {
		name, _, _ := strings.Cut(v, "=")
		if _, known := s.env[name]; !known && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// AddFlags gives cmd the flags of groups, which are addresses of groups of the settings,
// and sets the settings to their defaults. The help of cmd shows the flags of each
// group under its heading, in this order.
func (s *Settings) AddFlags(cmd *cobra.Command, groups ...any) {
	cmd.Flags().SortFlags = false
	var sections []section
	for _, address := range groups {
		g := s.groups[slices.IndexFunc(s.groups, func(g group) bool { return g.address == address })]
		if last := len(sections) - 1; last < 0 || sections[last].heading != g.heading {
			flags := pflag.NewFlagSet(g.heading, pflag.ContinueOnError)
			flags.SortFlags = false
			sections = append(sections, section{g.heading, flags})
		}
		for _, f := range g.fields {
			flag := f.newFlag(sections[len(sections)-1].flags)
			if name, _ := f.was(); name != "" {
				old := *flag // with the same value, and before the new one, as Apply needs
				old.Name, old.Shorthand, old.Hidden = name, "", true
				cmd.Flags().AddFlag(&old)
				s.flags[&old] = f
			}
			cmd.Flags().AddFlag(flag)
			s.complete(cmd, flag.Name, f)
			s.flags[flag] = f
		}
	}
	cmd.SetUsageFunc(func(c *cobra.Command) error {
		if c != cmd { // a command below inherits this function, but not the flags
			return writeUsage(c, nil)
		}
		return writeUsage(c, sections)
	})
}

// newFlag defines the flag of f in set.
func (f field) newFlag(set *pflag.FlagSet) *pflag.Flag {
	name, short, text := f.tag.Get("flag"), f.tag.Get("short"), f.tag.Get("default")
	usage := f.tag.Get("help") + " [$" + f.tag.Get("env") + "]"
	if arg := f.tag.Get("arg"); arg != "" {
		usage = strings.Replace(usage, arg, "`"+arg+"`", 1) // pflag's way to name the argument
	}
	switch p := f.address.(type) {
	case *string:
		set.StringVarP(p, name, short, text, usage)
	case *[]string:
		set.StringArrayVarP(p, name, short, nil, usage)
	case *bool:
		set.BoolVarP(p, name, short, false, usage)
	case *int:
		set.IntVarP(p, name, short, 0, usage)
	case *float64:
		set.Float64VarP(p, name, short, 0, usage)
	case *time.Duration:
		set.DurationVarP(p, name, short, 0, usage)
	}
	flag := set.Lookup(name)
	if text != "" {
		_ = flag.Value.Set(text) // a test sets every default
		flag.DefValue = flag.Value.String()
	}
	if texts := f.choices(); texts != nil {
		flag.Value = &choice{flag.Value, texts, text}
	}
	return flag
}

// choices returns the texts that the setting may be, nil if it may be any.
func (f field) choices() []string {
	if f.tag.Get("choice") == "" {
		return nil
	}
	return strings.Split(f.tag.Get("choice"), "|")
}

// complete tells shells what the argument of a flag of cmd may be.
func (s *Settings) complete(cmd *cobra.Command, flag string, f field) {
	complete := cobra.FixedCompletions(f.choices(), cobra.ShellCompDirectiveNoFileComp)
	switch what := f.tag.Get("complete"); {
	case what == "file":
		complete = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
	case what == "dir":
		complete = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs)
	case strings.Contains(what, "|"):
		complete = cobra.FixedCompletions(strings.Split(what, "|"), cobra.ShellCompDirectiveNoFileComp)
	case what != "":
		complete = func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return s.Complete(cmd, what), cobra.ShellCompDirectiveNoFileComp
		}
	}
	_ = cmd.RegisterFlagCompletionFunc(flag, complete) // cmd has the flag
}

// choice is the value of a flag whose argument is one of a few texts. An empty argument
// stands for the default, which may depend on more than the flag: then usual is "".
type choice struct {
	pflag.Value
	texts []string
	usual string
}

func (c *choice) Type() string { return strings.Join(c.texts, "|") }

func (c *choice) Set(text string) error {
	text = cmp.Or(text, c.usual)
	if text != "" && !slices.Contains(c.texts, text) {
		return errors.New("it is none of the choices")
	}
	return c.Value.Set(text)
}

// Twin returns the variable of inject that stands for a flag.
func Twin(flag string) string {
	return "INJECT_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Tag returns the tags of the setting that flag sets, none if it sets none.
func (s *Settings) Tag(flag *pflag.Flag) reflect.StructTag { return s.flags[flag].tag }

// Apply sets every flag of cmd that was not given from its variable. An empty variable
// counts as unset. The error names every variable that does not fit, every flag that took the --
// behind it for its argument, and every duration that is negative; it quotes no text, and wraps [secret.ErrInvalid].
func (s *Settings) Apply(cmd *cobra.Command) error {
	var errs []error
	refuse := func(hint, format string, args ...any) {
		err := fmt.Errorf("%w: "+format, append([]any{secret.ErrInvalid}, args...)...)
		if hint != "" {
			err = secret.WithHint(err, "%s", hint)
		}
		errs = append(errs, err)
	}
	cmd.Flags().VisitAll(func(flag *pflag.Flag) {
		f, ok := s.flags[flag]
		tag := f.tag
		if name := tag.Get("flag"); ok && flag.Name != name { // its old name
			if flag.Changed {
				s.warn("--%s is the old name of --%s, and the next release does not have it", flag.Name, name)
				cmd.Flags().Lookup(name).Changed = true
			}
			return
		}
		if ok && flag.Changed && swallows(flag.Value) {
			refuse("give its argument before the --", "no argument for --%s", flag.Name)
			return
		}
		if ok && !flag.Changed && tag.Get("twin") != "no" {
			variable, text := s.variable(f)
			var texts []string
			switch {
			case tag.Get("twin") == "words":
				texts = strings.Fields(text)
			case text != "":
				texts = []string{text}
			}
			for _, text := range texts {
				if flag.Value.Set(text) != nil { // its error quotes the text
					refuse(tag.Get("hint"), "%s, as --%s needs (not shown)", mismatch(variable, flag.Value), flag.Name)
					return
				}
			}
			flag.Changed = texts != nil
		}
		if flag.Value.Type() == "duration" && strings.HasPrefix(flag.Value.String(), "-") {
			refuse("", "--%s is not negative", flag.Name)
		}
	})
	return errors.Join(errs...)
}

// swallows reports whether v was set to --, which was meant to end the flags.
func swallows(v pflag.Value) bool {
	if list, ok := v.(pflag.SliceValue); ok {
		return slices.Contains(list.GetSlice(), "--")
	}
	return v.String() == "--"
}

// mismatch says that name is not what v may be set to.
func mismatch(name string, v pflag.Value) string {
	if c, ok := v.(*choice); ok {
		last := len(c.texts) - 1
		return name + " is " + strings.Join(c.texts[:last], ", ") + " or " + c.texts[last]
	}
	switch v.Type() {
	case "bool":
		return name + " is neither true nor false"
	case "int":
		return name + " is not a whole number"
	case "float64":
		return name + " is not a number"
	case "duration":
		return name + " is not a duration such as 5s or 2m"
	}
	return name + " is not a " + v.Type()
}
