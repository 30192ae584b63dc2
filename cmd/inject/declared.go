package main

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"inject/injector/task"
	"inject/resolver/secret"
)

// orgName returns the org of the settings, or the default one.
func (a *app) orgName() string { return cmp.Or(a.set.Scope.Org, secret.DefaultOrg) }

// scope returns the scope of the settings, if it is valid.
func (a *app) scope() (secret.Scope, error) {
	s := secret.Scope{Org: a.orgName(), Project: a.set.Scope.Project, Domain: a.set.Scope.Domain}
	return s, s.Validate()
}

// loadTask returns the declared list and the task's scope, from all their sources, and logs
// where sources disagree.
func (a *app) loadTask() (task.Task, secret.Scope, error) {
	from, in := &a.set.Declare, &a.set.Scope
	if from.PodInfo == "" {
		from.PodInfo = task.FindPodInfo()
	}
	t, warnings, err := task.Load(task.Sources{
		Secrets: from.Secrets, SecretFiles: from.SecretFiles,
		EnvSecrets:     a.settings.Env(task.SecretsEnv) + " " + a.set.Found.Secret,
		EnvSecretFiles: a.settings.Env(task.SecretFilesEnv) + " " + a.set.Found.SecretFile,
		Also:           from.Also, EnvAlso: a.settings.Env(task.AlsoEnv),
		Deadline: time.Now().Add(cmp.Or(a.set.Resolve.Timeout, time.Minute)), // 0 if the verb has no such flag
		File:     from.Task, PodInfo: from.PodInfo, Flyte: task.ReadFlyte(),
		Org: in.Org, Project: in.Project, Domain: in.Domain,
	})
	for _, w := range warnings {
		a.log.Warn(w)
	}
	in.Org, in.Project, in.Domain = t.Org, t.Project, t.Domain
	scope, err2 := a.scope()
	if err := errors.Join(err, err2); err != nil {
		return t, scope, err
	}
	a.log.Debug("declared list", "from", t.Source, "secrets", len(t.Declared), "scope", scope.String())
	return t, scope, nil
}

// sourced returns an error if no source of a declared list exists for a run that requires one, and
// warns in a container of Flyte's: the task would start without its secrets. An inject below
// another one finds no source where that has taken its flags and variables away.
func (a *app) sourced(t task.Task) error {
	if t.Source != task.Nowhere || a.set.Found.Parent != "" {
		return nil
	}
	const what = "no declared list was found: there is no --secret or --task, no INJECT_SECRETS, and no " +
		"pod info in " + task.PodDir + " or " + task.PodInfoDir
	const hint = "mount the pod's labels and annotations at " + task.PodInfoDir + " (a downward-API volume), " +
		"or declare the secrets with --secret"
	switch {
	case a.set.Require.Secrets:
		return secret.WithHint(fmt.Errorf("%w: %s", secret.ErrInvalid, what), hint)
	case task.ReadFlyte().InContainer():
		a.log.Warn("the task starts without secrets: " + what + "; " + hint)
	}
	return nil
}
