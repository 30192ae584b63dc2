package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"inject/internal/printable"
	"inject/resolver/secret"
	"inject/resolver/store/migrate"
)

// A migration is one that is under way: it prints each result when it is known, because all of them
// may be too many to be kept, and sums them up.
type migration struct {
	a        *app
	from, to string // addresses
	out      *bufio.Writer
	json     bool
	printed  bool // something is on out
	counts   map[migrate.State]int
	names    map[migrate.State][]string // the first shownNames of each
	all      int
	told     time.Time // when the log was told how far it is
}

const (
	// shownNames is how many secrets an error at the end names; all have their lines on stdout.
	shownNames = 20
	// tellsEvery is the time between two lines of the log that say how far a migration is.
	tellsEvery = 10 * time.Second
)

func (a *app) newMigration(from, to side) *migration {
	return &migration{
		a: a, from: from.url.String(), to: to.url.String(), json: a.set.Form.Output == "json",
		out: bufio.NewWriter(&messages{a.key, a.stdout}), told: time.Now(),
		counts: map[migrate.State]int{}, names: map[migrate.State][]string{},
	}
}

// states are all, in the order in which their numbers are told.
var states = []migrate.State{
	migrate.Created, migrate.Updated, migrate.Deleted, migrate.Equal, migrate.Differs, migrate.Refused, migrate.Missing,
	migrate.Failed, migrate.Gone,
}

// word returns how a state is printed: in a dry run as what would be done.
func (m *migration) word(s migrate.State) string {
	if m.a.set.Migrate.DryRun {
		switch s {
		case migrate.Created:
			return "create"
		case migrate.Updated:
			return "update"
		case migrate.Deleted:
			return "delete"
		}
	}
	return string(s)
}

// sum returns the numbers of secrets, such as: 3 secrets: 2 created, 1 equal.
func (m *migration) sum() string {
	var parts []string
	for _, s := range states {
		if n := m.counts[s]; n > 0 {
			word := m.word(s)
			if word != string(s) { // in a dry run
				word = "to " + word
			}
			parts = append(parts, fmt.Sprintf("%d %s", n, word))
		}
	}
	text := counted(m.all)
	if parts != nil {
		text += ": " + strings.Join(parts, ", ")
	}
	if n := m.counts[migrate.Lost]; n > 0 {
		text += fmt.Sprintf("; damaged parts of the source: %d", n)
	}
	return text
}

// add counts and prints one result. Equal secrets are only counted.
func (m *migration) add(r migrate.Result) error {
	m.counts[r.State]++
	if r.State != migrate.Lost {
		m.all++
	}
	if time.Since(m.told) >= tellsEvery {
		m.told = time.Now()
		m.a.log.Info("so far", "secrets", m.sum())
	}
	if r.State == migrate.Equal {
		return nil
	}
	name, why := printable.Text(r.Ref.Key+r.Ref.Scope.Flags(), 1<<10), ""
	if r.Err != nil {
		why = printable.Text(strings.ReplaceAll(r.Err.Error(), "\n", "; "), 4<<10)
	}
	if r.State == migrate.Lost { // names of secrets are not known
		name, why = why, ""
	}
	if len(m.names[r.State]) < shownNames {
		m.names[r.State] = append(m.names[r.State], name)
	}
	if m.json {
		return m.addJSON(r)
	}
	line := fmt.Sprintf("%-8s %s", m.word(r.State), name)
	if why != "" {
		line += ": " + why
	}
	_, err := m.out.WriteString(line + "\n")
	return err
}

// identified is the name of a secret, as in Flyte's messages.
type identified struct {
	Name         string `json:"name"`
	Organization string `json:"organization"`
	Domain       string `json:"domain,omitempty"`
	Project      string `json:"project,omitempty"`
}

// addJSON prints one result into the list of the object that finish ends.
func (m *migration) addJSON(r migrate.Result) error {
	why := ""
	if r.Err != nil {
		why = r.Err.Error()
	}
	b, err := json.Marshal(struct {
		ID     identified `json:"id,omitzero"` // there is none if damage hides it
		State  string     `json:"state"`
		Reason string     `json:"reason,omitempty"`
	}{identified{r.Ref.Key, r.Ref.Org, r.Ref.Domain, r.Ref.Project}, m.word(r.State), why})
	if err != nil {
		return err
	}
	before := ",\n    "
	if !m.printed {
		before = "{\n  \"secrets\": [\n    "
	}
	m.printed = true
	_, err = fmt.Fprintf(m.out, "%s%s", before, b)
	return err
}

// finish prints the sum of a migration that has ended with err. Its error says everything that
// keeps the target from having all that the source has.
func (m *migration) finish(ended error) error {
	err := m.err(ended)
	if m.json {
		return errors.Join(err, m.finishJSON(err == nil), m.out.Flush())
	}
	failed := m.out.Flush() // before the sum, which is on the same terminal
	m.a.say("%s", m.sum())
	return errors.Join(err, failed)
}

func (m *migration) finishJSON(ok bool) error {
	counts := map[string]int{}
	for s, n := range m.counts {
		counts[m.word(s)] = n
	}
	b, err := json.MarshalIndent(struct {
		From   string         `json:"from"`
		To     string         `json:"to"`
		DryRun bool           `json:"dryRun"`
		Counts map[string]int `json:"counts"`
		OK     bool           `json:"ok"`
	}{m.from, m.to, m.a.set.Migrate.DryRun, counts, ok}, "", "  ")
	if err != nil {
		return err
	}
	begin := "\n  ],"
	if !m.printed {
		begin = "{\n  \"secrets\": [],"
	}
	_, err = fmt.Fprintf(m.out, "%s%s\n", begin, strings.TrimPrefix(string(b), "{"))
	return err
}

// list names the first secrets of a state.
func (m *migration) list(s migrate.State) string {
	list := strings.Join(m.names[s], ", ")
	if more := m.counts[s] - len(m.names[s]); more > 0 {
		list += fmt.Sprintf(" and %d more, which are on stdout", more)
	}
	return list
}

// err returns the error of a migration that has ended with ended: nil if every secret is where it
// should be.
func (m *migration) err(ended error) error {
	var errs []error
	add := func(s migrate.State, what, hint string) {
		if n := m.counts[s]; n > 0 {
			errs = append(errs, secret.WithHint(fmt.Errorf("%s %s: %s", counted(n), what, m.list(s)), "%s", hint))
		}
	}
	if m.a.set.Migrate.DeleteEqual {
		add(migrate.Differs, "kept in the source, because the target has another value or type",
			"migrate without --delete-equal, and with --overwrite")
		add(migrate.Missing, "kept in the source, because the target does not have it",
			"migrate without --delete-equal")
		add(migrate.Failed, "not compared or not deleted", "run it again: it goes on")
	} else {
		add(migrate.Differs, "with another value or type in the target, which kept it",
			"--overwrite older takes values that are newer in the source, --overwrite all takes all; one of another "+
				"type must be deleted in the target first")
		add(migrate.Refused, "that the target cannot hold",
			"stdout has the reasons; create them anew under names that the target can hold")
		add(migrate.Failed, "not copied", "what is copied stays: run it again, and it goes on; what is damaged in the "+
			"source must come from a backup, or be created anew")
	}
	if n := m.counts[migrate.Lost]; n > 0 {
		errs = append(errs, secret.WithHint(
			fmt.Errorf("%w: %d parts of the source with secrets whose names cannot be read: %s", secret.ErrCorrupt, n,
				m.list(migrate.Lost)),
			"all others were copied; these must come from a backup, or be created anew"))
	}
	if ended != nil {
		errs = append(errs, secret.WithHint(fmt.Errorf("not all secrets were looked at: %w", ended),
			"run it again: it goes on"))
	}
	return errors.Join(errs...)
}
