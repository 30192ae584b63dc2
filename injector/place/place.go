// Package place puts the values of a declared list where the task looks for them: in
// variables, and in files of a private folder or of one that a pod's containers share.
package place

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"github.com/hashicorp/go-hclog"

	"inject/resolver/secret"
)

// A Conflict says what becomes of a variable that is already set.
type Conflict string

// The conflicts. Overwrite is what Flyte does.
const (
	Overwrite Conflict = "overwrite"
	Keep      Conflict = "keep"
	Fail      Conflict = "error"
)

// FlyteDir is where Flyte promises file secrets to a task.
const FlyteDir = "/etc/flyte/secrets"

// maxVariable is the longest "NAME=value" that execve takes, in bytes: the
// kernel's MAX_ARG_STRLEN, 32 pages, less the final NUL.
var maxVariable = 32*os.Getpagesize() - 1

// OwnPrefix begins our own variables, which hold the store's credentials and are
// nobody else's.
const OwnPrefix = "INJECT_"

// A Secret is a declaration with the value that is placed for it.
type Secret struct {
	Declaration secret.Declaration
	Value       secret.Value
}

// declarations returns the declared list of secrets.
func declarations(secrets []Secret) []secret.Declaration {
	declared := make([]secret.Declaration, len(secrets))
	for i, s := range secrets {
		declared[i] = s.Declaration
	}
	return declared
}

// Target is where the values of a task go.
type Target struct {
	// Environ is what the task inherits, without duplicate names.
	Environ    []string
	OnConflict Conflict
	// FilesDir is where file secrets appear; "" for the default.
	FilesDir string
	// Scope is the task's.
	Scope secret.Scope
	// Masked is set if what the task writes is masked, on which an inject that it
	// starts may rely.
	Masked bool
	Log    hclog.Logger
}

// Places is where the values went.
type Places struct {
	Env    []string
	values [][]byte // what holds the values in Env
	given  []Secret // whose values they are
	files  *folder  // nil if no file was placed
}

// Forget overwrites the values that were given and our copies of them in Env, once the
// task has its own. Others remain: those that package syscall made for execve, and the
// redactor's.
func (p *Places) Forget() {
	for _, b := range p.values {
		clear(b)
	}
	for _, s := range p.given {
		s.Value.Forget()
	}
	p.Env = nil
}

// HasFiles reports whether there are files to remove.
func (p *Places) HasFiles() bool { return p.files != nil }

// Remove removes the files.
func (p *Places) Remove(log hclog.Logger) {
	if p.files == nil {
		return
	}
	if err := p.files.remove(); err != nil {
		log.Error("placed files could not be removed", "error", err)
	}
}

// Values puts every value into its variables or its file. It reports everything
// that cannot be placed at once, and then has placed nothing.
func Values(to Target, secrets []Secret) (_ *Places, err error) {
	p := &Places{given: secrets}
	e := environment{conflict: to.OnConflict, values: map[string]string{}, secrets: map[string][]byte{}}
	for _, v := range to.Environ {
		name, value, ok := strings.Cut(v, "=")
		switch {
		case !ok || name == "":
			p.Env = append(p.Env, v) // no variable, but the task's all the same
		case !strings.HasPrefix(name, OwnPrefix), name == ParentVar && len(secrets) == 0: // what it says stays true
			e.names, e.values[name] = append(e.names, name), value
		}
	}
	e.inherited = len(e.names)

	defer func() {
		if err != nil {
			p.Remove(to.Log)
		}
	}()
	for _, s := range secrets {
		d := s.Declaration
		if d.Mount != secret.File {
			e.place(d, s.Value.Reveal())
			e.set("FLYTE_SECRETS_ENV_PREFIX", secret.EnvPrefix)
			continue
		}
		if p.files == nil {
			if p.files, err = newFolder(to.FilesDir, to.Log); err != nil {
				return nil, err
			}
			e.set("FLYTE_SECRETS_DEFAULT_DIR", p.files.appears)
			e.set("FLYTE_SECRETS_FILE_PREFIX", "")
		}
		path, err := p.files.place(d, s.Value.Reveal())
		if err != nil {
			e.errs = append(e.errs, err)
			continue
		}
		e.place(d, []byte(path))
	}
	declared := declarations(secrets)
	if p.files != nil && len(e.errs) == 0 {
		aliasAll(declared, p.files.alias, to.Log)
	}
	if len(secrets) > 0 && to.Masked { // else an inner inject would take it that we mask
		e.set(ParentVar, listDigest(declared)+scopeDigest(to.Scope))
	}
	if err := errors.Join(e.errs...); err != nil {
		return nil, err
	}
	for _, name := range e.names {
		if value, ok := e.secrets[name]; ok {
			b := slices.Concat([]byte(name+"="), value)
			p.values = append(p.values, b)
			// A string of our own bytes, so that they can be overwritten: see Forget.
			text := unsafe.String(unsafe.SliceData(b), len(b)) //nolint:gosec // they do not change while Env is used
			p.Env = append(p.Env, text)
			continue
		}
		p.Env = append(p.Env, name+"="+e.values[name])
	}
	return p, nil
}

// environment is the task's, in the order in which the names came.
type environment struct {
	conflict  Conflict
	names     []string
	values    map[string]string
	secrets   map[string][]byte // those in the place of values
	inherited int
	errs      []error
}

func (e *environment) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.names = append(e.names, name)
	}
	e.values[name] = value
	delete(e.secrets, name)
}

// place sets the variables of d.
func (e *environment) place(d secret.Declaration, value []byte) {
	for _, name := range d.EnvVars() {
		if bytes.IndexByte(value, 0) >= 0 {
			e.fail(d, "the value holds a NUL byte, which the variable %s cannot", name)
			return
		}
		if len(name)+1+len(value) > maxVariable {
			e.fail(d, "the value is %d bytes long, more than the variable %s can hold (%d)",
				len(value), name, maxVariable-len(name)-1)
			return
		}
		if slices.Contains(e.names[:e.inherited], name) {
			switch e.conflict {
			case Keep:
				continue
			case Fail:
				e.errs = append(e.errs, secret.WithHint(
					fmt.Errorf("%w: %s: the variable %s is already set", secret.ErrInvalid, d.Key, name),
					"unset it, or choose with --on-conflict overwrite or keep"))
				continue
			case Overwrite:
			}
		}
		e.set(name, "")
		e.secrets[name] = value
	}
}

func (e *environment) fail(d secret.Declaration, format string, args ...any) {
	e.errs = append(e.errs, secret.WithHint(
		fmt.Errorf("%w: %s: "+format, append([]any{secret.ErrInvalid, d.Key}, args...)...),
		"place it in a file: --secret-file %s", d.Key))
}

// Where returns where the value of d would go, for people: variables as
// $NAME, files by their path.
func Where(d secret.Declaration, filesDir string) []string {
	var where []string
	if d.Mount == secret.File {
		dir := appearsIn(filesDir)
		if dir == "" {
			dir = "a private folder"
		}
		where = append(where, "file "+cleanJoin(dir, d.FileName()))
	}
	for _, name := range d.EnvVars() {
		where = append(where, "$"+name)
	}
	return where
}

// cleanJoin is filepath.Join for a name that may be a path of its own.
func cleanJoin(dir, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

// appearsIn returns the folder in which file secrets appear: the one asked for,
// Flyte's in a container where it can be written and Files has not done so, or ""
// for our private one.
func appearsIn(filesDir string) string {
	switch {
	case filesDir != "":
		return absolute(filesDir)
	case inContainer() && writable(FlyteDir) && !isAtomic(FlyteDir):
		return FlyteDir
	}
	return ""
}

// inContainer reports whether this file system is a container's, not a person's.
func inContainer() bool {
	if os.Getpid() == 1 || os.Getenv("KUBERNETES_SERVICE_HOST") != "" { //nolint:forbidigo // it says where we are; it sets nothing
		return true
	}
	for _, marker := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(marker); err == nil {
			return true
		}
	}
	return false
}

// writable reports whether dir, or the folder in which it would be made, can be
// written.
func writable(dir string) bool {
	for {
		info, err := os.Stat(dir)
		if err == nil {
			return info.IsDir() && canWrite(dir)
		}
		if !errors.Is(err, os.ErrNotExist) {
			return false
		}
		dir = filepath.Dir(dir)
	}
}
