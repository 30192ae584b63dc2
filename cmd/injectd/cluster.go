package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"inject/resolver/secret"
	"inject/resolver/serve/kube/evidence"
	"inject/resolver/serve/kube/inspect"
	"inject/resolver/store"
)

// checkCluster returns an error for flags of doctor that do not fit together.
func (f *settings) checkCluster() error {
	c := &f.Cluster
	if c.Look {
		if f.Doctor.StoreOnly {
			return fmt.Errorf("%w: --kube and --store-only exclude each other: each checks nothing else",
				secret.ErrInvalid)
		}
		return nil
	}
	var errs []error
	for _, flag := range []struct {
		name  string
		given bool
	}{
		{"kubeconfig", c.Kubeconfig != ""},
		{"context", c.Context != ""},
		{"task-namespace", c.TaskNamespaces != nil},
		{"subject", c.Subjects != nil},
	} {
		if flag.given {
			errs = append(errs, secret.WithHint(fmt.Errorf("%w: --%s is for --kube", secret.ErrInvalid, flag.name),
				"injectd doctor --kube checks the cluster in which tasks run"))
		}
	}
	return errors.Join(errs...)
}

// lookAtCluster checks the cluster in which tasks run.
func (a *app) lookAtCluster(ctx context.Context) ([]finding, error) {
	o, err := a.clusterOptions()
	if err != nil {
		return nil, err
	}
	found, err := inspect.Run(ctx, o)
	if err != nil {
		return []finding{{what: "kubernetes", err: err}}, nil //nolint:nilerr // it is a finding
	}
	all := make([]finding, 0, len(found))
	for _, f := range found {
		one := finding{what: f.Check, is: f.Text, hint: f.Hint}
		switch f.Level {
		case inspect.Warning:
			one.warning = f.Text
		case inspect.Failure:
			one.err = errors.New(f.Text)
		case inspect.OK:
		}
		all = append(all, one)
	}
	return all, nil
}

func (a *app) clusterOptions() (o inspect.Options, err error) {
	c := &a.set.Cluster
	o.Context, o.TaskNamespaces = c.Context, c.TaskNamespaces
	var errs []error
	o.Kubeconfig, err = a.kubeconfig()
	errs = append(errs, err)
	if file := a.set.Access.Pods; file != "" {
		o.Config, err = evidence.LoadOnce(file)
		if err != nil {
			errs = append(errs, fmt.Errorf("--kube-identity: %w", err))
		}
	}
	for _, text := range c.Subjects {
		subject, err := inspect.ParseSubject(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("--subject: %w", err))
		}
		o.Subjects = append(o.Subjects, subject)
	}
	if a.set.File.Store != "" {
		u, err := a.url()
		if errs = append(errs, err); err == nil && u.Scheme == store.SchemeKube {
			o.Store = u.Host
		}
	}
	return o, errors.Join(errs...)
}

// kubeconfig returns the path of the kubeconfig, "" in a pod that has none.
func (a *app) kubeconfig() (string, error) {
	if path := a.set.Cluster.Kubeconfig; path != "" {
		return path, nil
	}
	if path := a.set.Found.Kubeconfig; path != "" {
		if list := filepath.SplitList(path); len(list) > 1 {
			return "", secret.WithHint(fmt.Errorf("%w: KUBECONFIG names %d files", secret.ErrInvalid, len(list)),
				"give one with --kubeconfig FILE; kubectl config view --flatten writes all into one")
		}
		return path, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", nil //nolint:nilerr // a pod may have none
	}
	path := filepath.Join(home, ".kube", "config")
	if _, err := os.Stat(path); err != nil {
		return "", nil //nolint:nilerr // the cluster of this pod is asked
	}
	return path, nil
}
