// Package place puts the values of a declared list where the task expects them: in variables, in
// files, and in the patterns of the redactor that masks what the task writes.
//
// [Values] places for one run. Its files are in a private folder, on a tmpfs where there is one,
// and links lead to them from where they should appear. The run holds a lock on its folder, so
// the next run can tell the folder of a killed run, which has no lock, and removes it.
//
// [Files] places for other containers of a pod, which read the files after this process has
// ended. It lays them out as kubelet lays out a volume, so that all of them change at once.
package place

import (
	"bytes"
	"cmp"
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

// A Conflict says what happens if a declared variable is already set in the environment.
type Conflict string

// The conflicts.
const (
	Overwrite Conflict = "overwrite" // the secret's value wins, as in Flyte
	Keep      Conflict = "keep"      // the inherited value wins
	Fail      Conflict = "error"     // the task does not start
)

// FlyteDir is the folder in which Flyte promises file secrets to a task.
const FlyteDir = "/etc/flyte/secrets"

// maxVariable is the longest "NAME=value" that execve takes, in bytes: the
// kernel's MAX_ARG_STRLEN, 32 pages, less the final NUL.
var maxVariable = 32*os.Getpagesize() - 1

// IsOwn reports whether a variable is one of inject or injectd. They hold the store's credentials,
// so the task does not get them.
func IsOwn(variable string) bool {
	return strings.HasPrefix(variable, "INJECT_") || strings.HasPrefix(variable, "INJECTD_")
}

// A Secret is a declaration and its value.
type Secret struct {
	Declaration secret.Declaration
	Value       secret.Value
}

// declarations returns the declared list of secrets, in their order.
func declarations(secrets []Secret) []secret.Declaration {
	declared := make([]secret.Declaration, len(secrets))
	for i, s := range secrets {
		declared[i] = s.Declaration
	}
	return declared
}

// A Target says where the values of a task go.
type Target struct {
	// Environ is the environment that the task inherits, in the form of [os.Environ], without
	// duplicate names.
	Environ    []string
	OnConflict Conflict
	// FilesDir is the folder in which file secrets appear. If it is "", that is [FlyteDir] in a
	// container that can write it, and otherwise the run's private folder.
	FilesDir string
	// Scope is the task's scope. With the declared list it tells an inject inside the task which
	// secrets are placed already: see [Placed].
	Scope secret.Scope
	// Masked says that the output of the task is masked. If it is false, an inject inside the
	// task is not told that the secrets are placed, and looks them up and masks them itself.
	Masked bool
	Log    hclog.Logger
}

// Places is where the values of one task are.
type Places struct {
	// Env is the environment of the task, in the form of [os.Environ].
	Env    []string
	values [][]byte // the memory behind those strings of Env that hold a value
	given  []Secret
	files  *folder // nil if there is no file
}

// Forget zeroes the values that were given to [Values] and our copies of them in Env. Call it
// when the task has been started, since Env is empty from then on. Other copies remain: those
// that package syscall made for execve, and the redactor's.
func (p *Places) Forget() {
	for _, b := range p.values {
		clear(b)
	}
	for _, s := range p.given {
		s.Value.Forget()
	}
	p.Env = nil
}

// HasFiles reports whether files were placed, which must be removed when the task has ended.
func (p *Places) HasFiles() bool { return p.files != nil }

// Remove removes the files and the links to them. It logs what it cannot remove; the next run
// tries again.
func (p *Places) Remove(log hclog.Logger) {
	if p.files == nil {
		return
	}
	if err := p.files.remove(); err != nil {
		log.Error("placed files could not be removed", "error", err)
	}
}

// Values puts the value of every secret into its variables or its file. The caller starts the
// task with the environment that it returns, then calls [Places.Forget], and [Places.Remove] when
// the task has ended. If a value cannot be placed, nothing is left, and the error names every
// secret that failed.
func Values(to Target, secrets []Secret) (_ *Places, err error) {
	p := &Places{given: secrets}
	defer func() {
		if err != nil {
			p.Remove(to.Log)
		}
	}()

	declared := declarations(secrets)
	e := inherit(to.Environ, len(secrets) == 0)
	e.conflict = to.OnConflict
	prefix := e.values[secret.PrefixVar]
	further, err := secret.GroupEnvVars(declared, prefix)
	if err != nil {
		return nil, err
	}
	paths := map[string]string{} // of the files that are called as their keys
	for i, s := range secrets {
		d := s.Declaration
		if d.Mount != secret.File {
			e.place(d, s.Value.Reveal(), further[i])
			e.set(secret.PrefixVar, cmp.Or(prefix, secret.EnvPrefix))
		}
		if !d.HasFile() {
			continue
		}
		if p.files == nil {
			if p.files, err = newFolder(to.FilesDir, to.Log); err != nil {
				return nil, err
			}
			e.set("FLYTE_SECRETS_DEFAULT_DIR", p.files.appears)
			e.set("FLYTE_SECRETS_FILE_PREFIX", "")
		}
		path, placed := paths[d.FileName()] // a list may have a key for ANY and as a file
		if !placed {
			if path, err = p.files.place(d, s.Value.Reveal()); err != nil {
				e.errs = append(e.errs, err)
				continue
			}
		}
		if d.Path == "" {
			paths[d.FileName()] = path
		}
		if d.Mount == secret.File {
			e.place(d, []byte(path), nil)
		}
	}

	if p.files != nil && len(e.errs) == 0 {
		aliasAll(declared, p.files.alias, to.Log)
	}
	if len(secrets) > 0 && to.Masked { // an inject inside the task relies on our masking
		e.set(ParentVar, listDigest(declared)+scopeDigest(to.Scope))
	}
	if err := errors.Join(e.errs...); err != nil {
		return nil, err
	}
	p.Env, p.values = e.list()
	return p, nil
}

// environment is the environment of the task while it is put together.
type environment struct {
	conflict  Conflict
	others    []string // entries that are not variables: execve passes them on, so we do
	names     []string // of all variables, in the order in which they were set
	values    map[string]string
	secrets   map[string][]byte // values of secrets; they win over values
	inherited int               // how many of names the task inherits
	errs      []error
}

// inherit returns the environment that the task inherits from environ. Our own variables are left
// out, but for ParentVar if keepParent is set.
func inherit(environ []string, keepParent bool) environment {
	e := environment{values: map[string]string{}, secrets: map[string][]byte{}}
	for _, v := range environ {
		name, value, ok := strings.Cut(v, "=")
		switch {
		case !ok || name == "":
			e.others = append(e.others, v)
		case !IsOwn(name), name == ParentVar && keepParent:
			e.names, e.values[name] = append(e.names, name), value
		}
	}
	e.inherited = len(e.names)
	return e
}

// list returns the environment in the form of [os.Environ], and the memory of those strings that
// hold the value of a secret.
func (e *environment) list() (env []string, memory [][]byte) {
	env = e.others
	for _, name := range e.names {
		value, ok := e.secrets[name]
		if !ok {
			env = append(env, name+"="+e.values[name])
			continue
		}
		// The string shares the bytes of b, so that Forget can zero it.
		b := slices.Concat([]byte(name+"="), value)
		text := unsafe.String(unsafe.SliceData(b), len(b)) //nolint:gosec // b changes only in Forget
		env, memory = append(env, text), append(memory, b)
	}
	return env, memory
}

// set gives the variable a value that is not a secret.
func (e *environment) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.names = append(e.names, name)
	}
	e.values[name] = value
	delete(e.secrets, name)
}

// place sets the variables of d, and those of further that can hold the value. It records in
// errs why it cannot set one of d's, unless d is in a file, too, and names no variable.
func (e *environment) place(d secret.Declaration, value []byte, further []string) {
	names := d.EnvVars()
	needed := len(names)
	if d.Mount == secret.Any && d.EnvVar == "" {
		needed = 0
	}
	for i, name := range append(names, further...) {
		if why := unfit(name, value); why != "" {
			if i < needed {
				e.errs = append(e.errs, secret.WithHint(
					fmt.Errorf("%w: %s: %s", secret.ErrInvalid, d.Key, why),
					"place it in a file: --secret-file %s", d.Key))
				return
			}
			continue
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

// unfit returns why the variable cannot hold the value, "" if it can.
func unfit(name string, value []byte) string {
	switch {
	case bytes.IndexByte(value, 0) >= 0:
		return fmt.Sprintf("the value holds a NUL byte, and the variable %s cannot hold one", name)
	case len(name)+1+len(value) > maxVariable:
		return fmt.Sprintf("the value is %d bytes long, more than the variable %s can hold (%d)",
			len(value), name, maxVariable-len(name)-1)
	}
	return ""
}

// Where returns in which file [Values] would place the value of d, "" for none. The path is
// relative if it is in the private folder of a run, whose name is not known before. filesDir is as
// in [Target].
func Where(d secret.Declaration, filesDir string) string {
	if !d.HasFile() {
		return ""
	}
	return cleanJoin(appearsIn(filesDir), d.FileName())
}

// cleanJoin returns name if it is an absolute path, and otherwise its path in dir.
func cleanJoin(dir, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

// appearsIn returns the folder in which file secrets appear: filesDir if it is set, FlyteDir in a
// container that can write it, or "" for the private folder. It is not FlyteDir if kubelet or
// [Files] placed files there: those change all at once, and another file beside them would not.
func appearsIn(filesDir string) string {
	switch {
	case filesDir != "":
		return absolute(filesDir)
	case inContainer() && writable(FlyteDir) && !isAtomic(FlyteDir):
		return FlyteDir
	}
	return ""
}

// inContainer reports whether this process runs in a container. Outside of one, on a person's
// machine, nothing is placed in FlyteDir unasked.
func inContainer() bool {
	pod := os.Getenv("KUBERNETES_SERVICE_HOST") != "" //nolint:forbidigo // Kubernetes sets it; it is not a setting of inject
	if pod || os.Getpid() == 1 {
		return true
	}
	for _, marker := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(marker); err == nil {
			return true
		}
	}
	return false
}

// writable reports whether dir can be written or, if it does not exist, can be made.
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
