package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"inject/cli"
	"inject/exec/redact"
	"inject/injector/outputs"
	"inject/injector/place"
	"inject/injector/task"
	"inject/resolver/secret"
)

// flags are all flags that several verbs share.
type flags struct {
	secrets, secretFiles []string
	task, podInfo        string
	org, project, domain string

	store, keyFile, tokenFile, caFile, certFile string
	passphrase                                  bool
	resolveTimeout                              time.Duration
	lockTimeout                                 time.Duration

	onConflict, filesDir string

	mask      []string
	minLength int
	noRedact  bool
	outputs   []string
	onLeak    string

	grace          time.Duration
	terminationLog string
	logLevel       string
}

func (f *flags) declareGroup() cli.Group {
	return cli.NewGroup("declare", func(s *pflag.FlagSet) {
		s.StringArrayVar(&f.secrets, "secret", nil, "declare a `[GROUP/]KEY[=ENV_VAR]` (repeat) [$"+task.SecretsEnv+"]")
		s.StringArrayVar(&f.secretFiles, "secret-file", nil, "declare a `[GROUP/]KEY[=PATH]` that is placed in a file (repeat) [$"+task.SecretFilesEnv+"]")
		s.StringVar(&f.task, "task", "", "declared list in `FILE`: a TaskEnvironment in YAML or JSON, or Flyte's TaskTemplate or SecurityContext, binary or JSON")
		s.StringVar(&f.podInfo, "pod-info", "", "declared list and scope in the downward-API `DIR` with labels and annotations (default: "+task.PodInfoDir+" if there)")
	})
}

func (f *flags) scopeGroup() cli.Group {
	return cli.NewGroup("scope", func(s *pflag.FlagSet) {
		s.StringVar(&f.org, "org", "", "the organization (default: "+secret.DefaultOrg+")")
		s.StringVarP(&f.project, "project", "p", "", "the project")
		s.StringVarP(&f.domain, "domain", "d", "", "the domain")
	})
}

func (f *flags) storeGroup() cli.Group {
	return cli.NewGroup("store", func(s *pflag.FlagSet) {
		s.StringVar(&f.store, "store", "", "`URL` of the store: file:///PATH, dir:///PATH, grpcs://HOST:PORT, grpc://127.0.0.1:PORT (default: your own sealed file)")
		s.StringVar(&f.keyFile, "key-file", "", "the key of the store, in `FILE`: of a file age identities that open it (default: your own), or the identity or passphrase itself in $INJECT_KEY; of a server the private key of --cert-file")
		s.StringVar(&f.tokenFile, "token-file", "", "a bearer token that tells a server who you are, in `FILE`; or the token itself in $INJECT_TOKEN; what a variable says goes only to the server in $INJECT_STORE")
		s.StringVar(&f.certFile, "cert-file", "", "a certificate that tells a server who you are, in `FILE`, with its private key there or in --key-file")
		s.StringVar(&f.caFile, "ca-file", "", "the authorities that a server's certificate may be of, in `FILE` (default: the system's)")
		s.DurationVar(&f.lockTimeout, "lock-timeout", 10*time.Second, "how long to wait for others who use the store file")
		s.StringVar(&f.logLevel, "log-level", "warn", "what to say on stderr: debug, info, warn, error, off")
	})
}

func (f *flags) resolveGroup() cli.Group {
	return cli.NewGroup("resolve", func(s *pflag.FlagSet) {
		s.DurationVar(&f.resolveTimeout, "resolve-timeout", time.Minute, "for all secrets together")
	})
}

func (f *flags) placeGroup() cli.Group {
	return cli.NewGroup("place", func(s *pflag.FlagSet) {
		s.StringVar(&f.onConflict, "on-conflict", string(place.Overwrite), "a variable that is already set: overwrite, keep or error")
		s.StringVar(&f.filesDir, "files-dir", "", "`DIR` in which files appear (default: "+place.FlyteDir+" in a container where it can be written, else a private folder)")
	})
}

func (f *flags) maskGroup() cli.Group {
	return cli.NewGroup("mask", func(s *pflag.FlagSet) {
		s.StringArrayVar(&f.mask, "mask", nil, "mask this `TEXT`, too (repeat)")
		s.IntVar(&f.minLength, "redact-min-length", 6, "shorter values are not masked, in `BYTES`")
		s.BoolVar(&f.noRedact, "no-redact", false, "mask nothing")
		s.StringArrayVar(&f.outputs, "outputs", nil, "check what the command leaves in `DIR`, too (repeat)")
		s.StringVar(&f.onLeak, "on-leak", string(outputs.Mask), "a value in the outputs: mask it, or remove the file; fail, too; or only warn")
	})
}

func (f *flags) runGroup() cli.Group {
	return cli.NewGroup("run", func(s *pflag.FlagSet) {
		s.DurationVar(&f.grace, "grace", 20*time.Second, "from SIGTERM to SIGKILL, once we were asked to stop")
		f.messageFlag(s)
	})
}

func (f *flags) messageFlag(s *pflag.FlagSet) {
	s.StringVar(&f.terminationLog, "termination-log", "", "`FILE` that gets the reason of a failure as a line of JSON (default: /dev/termination-log if there)")
}

// applyTwins sets every flag that was not given from its variable. Those of the
// declared list are lists of their own, which package task reads.
func applyTwins(cmd *cobra.Command) error { return cli.ApplyTwins(cmd, "secret", "secret-file") }

// prepare is called before every verb, when its flags are parsed.
func (a *app) prepare(cmd *cobra.Command, _ []string) error {
	a.runs(cmd)
	if err := applyTwins(cmd); err != nil {
		return err
	}
	if err := a.keepMessage(); err != nil {
		return fmt.Errorf("%w: --termination-log: %w", secret.ErrInvalid, err)
	}
	if a.flags.grace < 0 || a.flags.lockTimeout < 0 || a.flags.resolveTimeout < 0 {
		return fmt.Errorf("%w: a duration is not negative", secret.ErrInvalid)
	}
	if cmd.Flags().Lookup("log-level") != nil {
		level := hclog.LevelFromString(a.flags.logLevel)
		if level == hclog.NoLevel {
			return fmt.Errorf("%w: --log-level is debug, info, warn, error or off", secret.ErrInvalid)
		}
		a.log.SetLevel(level)
	}
	switch c := place.Conflict(a.flags.onConflict); c {
	case "", place.Overwrite, place.Keep, place.Fail:
	default:
		return fmt.Errorf("%w: --on-conflict is overwrite, keep or error", secret.ErrInvalid)
	}
	if f := cmd.Flags().Lookup("org"); f != nil && f.Changed && a.flags.org == "" {
		return fmt.Errorf("%w: the org is empty", secret.ErrInvalid)
	}
	switch p := outputs.Policy(a.flags.onLeak); p {
	case "", outputs.Mask, outputs.Fail, outputs.Warn:
	default:
		return fmt.Errorf("%w: --on-leak is mask, fail or warn", secret.ErrInvalid)
	}
	if a.flags.outputs != nil && a.flags.noRedact {
		return fmt.Errorf("%w: --outputs and --no-redact exclude each other: give one", secret.ErrInvalid)
	}
	if cmd.Flags().Lookup("redact-min-length") != nil {
		if a.flags.minLength < 1 {
			return fmt.Errorf("%w: --redact-min-length is at least 1", secret.ErrInvalid)
		}
		a.redactor = redact.New(a.flags.minLength)
	}
	var patterns []redact.Pattern
	for i, text := range a.flags.mask {
		patterns = append(patterns, redact.Pattern{Name: fmt.Sprintf("mask-%d", i+1), Value: []byte(text)})
	}
	if err := a.redactor.Add(patterns...); err != nil {
		return fmt.Errorf("%w: --mask: %w", secret.ErrInvalid, err)
	}
	return nil
}

// runs notes that cmd is one that a container starts: its failures go to the
// termination message, those of its flags, too.
func (a *app) runs(cmd *cobra.Command) {
	a.running = !cmd.HasParent() || !cmd.Parent().HasParent() && (cmd.Name() == "run" || cmd.Name() == "init")
}

// orgName returns the org that the flags name.
func (f *flags) orgName() string { return cmp.Or(f.org, secret.DefaultOrg) }

// scope returns the scope that the flags name.
func (a *app) scope() (secret.Scope, error) {
	s := secret.Scope{Org: a.flags.orgName(), Project: a.flags.project, Domain: a.flags.domain}
	return s, s.Validate()
}

// loadTask returns the declared list and the task's scope, wherever they are said.
func (a *app) loadTask() (task.Task, secret.Scope, error) {
	f := &a.flags
	if f.podInfo == "" {
		if info, err := os.Stat(task.PodInfoDir); err == nil && info.IsDir() {
			f.podInfo = task.PodInfoDir
		}
	}
	t, warnings, err := task.Load(task.Sources{
		Secrets: f.secrets, SecretFiles: f.secretFiles, EnvSecrets: os.Getenv(task.SecretsEnv), EnvSecretFiles: os.Getenv(task.SecretFilesEnv),
		File: f.task, PodInfo: f.podInfo, Flyte: task.ReadFlyte(),
		Org: f.org, Project: f.project, Domain: f.domain,
	})
	for _, w := range warnings {
		a.log.Warn(w)
	}
	f.org, f.project, f.domain = t.Org, t.Project, t.Domain
	scope, err2 := a.scope()
	if err := errors.Join(err, err2); err != nil {
		return t, scope, err
	}
	a.log.Debug("declared list", "from", t.Source, "secrets", len(t.Declared), "scope", scope.String())
	return t, scope, nil
}

// flagError is [cli.FlagError] that knows whose failure it is.
func (a *app) flagError(cmd *cobra.Command, err error) error {
	a.runs(cmd)
	return cli.FlagError(cmd, err)
}
