package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"inject/resolver/secret"
	"inject/resolver/serve/policy"
	"inject/resolver/store"
	"inject/resolver/store/kube"
)

// checkQuotas returns an error if the policy has quotas and the store is one whose secrets can be changed
// and not be counted: every change would be refused. p is nil without a policy.
func checkQuotas(s any, at *url.URL, p *policy.Policy) error {
	_, changes := s.(store.Manager)
	_, counts := s.(store.Limiter)
	if p == nil || !p.HasQuotas() || !changes || counts {
		return nil
	}
	return secret.WithHint(
		fmt.Errorf("%w: the policy has quotas (%s), and a %s:// store cannot keep them", secret.ErrInvalid,
			strings.Join(p.QuotaNames(), ", "), at.Scheme),
		"remove them from the policy; a ResourceQuota of the namespace bounds the number of its Secrets")
}

// checkKube is checkStore for a namespace of Kubernetes: it looks at the first secrets of the namespace.
// An error that keeps it from looking does not keep the server from starting.
func (a *app) checkKube(ctx context.Context, s *kube.Store) error {
	if a.set.Orgs.Which == "requested" {
		return nil
	}
	orgs, err := s.Orgs(ctx)
	if err != nil {
		a.log.Warn("it is not known which organizations the secrets in Kubernetes are of", "error", err)
		return nil
	}
	return a.set.checkOrgs(orgs)
}

// The verbs of Kubernetes that a server needs to answer requests, and to change secrets.
var (
	readVerbs   = []string{"get", "list"}
	changeVerbs = []string{"create", "update", "delete"}
)

// mostSkew is by how much the clock of the API server may differ from ours.
const mostSkew = 5 * time.Second

// lookAtKube checks what a server of the namespace at u needs, and every secret.
func (a *app) lookAtKube(ctx context.Context, s *kube.Store, u *url.URL) []finding {
	namespace, who := s.Namespace()
	api := finding{what: "kubernetes", is: "as " + who}
	version, ahead, err := s.Server(ctx)
	if api.err = err; err == nil {
		api.is = version + ", " + api.is
	}
	if ahead.Abs() > mostSkew {
		word := "ahead of"
		if ahead < 0 {
			word = "behind"
		}
		api.warn(fmt.Sprintf("the clock of the API server is %v %s that of this machine",
			ahead.Abs().Round(time.Second), word))
	}
	rights := finding{what: "rights", is: "get, list, create, update and delete secrets in namespace " + namespace}
	missing, err := s.Missing(ctx, slices.Concat(readVerbs, changeVerbs)...)
	cannot := fmt.Sprintf("%s may not %s secrets in namespace %s", who, strings.Join(missing, ", "), namespace)
	switch {
	case err != nil:
		rights.err = err
	case slices.ContainsFunc(missing, func(verb string) bool { return slices.Contains(readVerbs, verb) }):
		rights.err = secret.WithHint(fmt.Errorf("%w: %s", secret.ErrDenied, cannot),
			"add these verbs to its Role: docs/reference/kubernetes.md has one")
	case missing != nil:
		rights.warning = cannot + ", so such changes will be denied"
	}
	return []finding{a.lookAtSecrets(ctx, s, u), api, rights}
}

// lookAtSecrets reads every secret of a namespace once, and names those that cannot be read.
func (a *app) lookAtSecrets(ctx context.Context, s *kube.Store, u *url.URL) finding {
	var mu sync.Mutex
	var errs []error
	n, bad, orgs := 0, 0, map[string]bool{}
	failed := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if bad++; bad <= shownDamage {
			errs = append(errs, err)
		}
	}
	var group errgroup.Group
	group.SetLimit(16)
	err := s.Salvage(ctx, func(info store.Info, err error) error {
		if err != nil {
			failed(err)
			return nil
		}
		n++
		orgs[info.Ref.Org] = true
		group.Go(func() error {
			if _, err := s.Describe(ctx, info.Ref); err != nil && !errors.Is(err, secret.ErrNotFound) {
				failed(err)
			}
			return nil
		})
		return nil
	})
	_ = group.Wait() // the functions return nil
	if more := bad - len(errs); more > 0 {
		errs = append(errs, fmt.Errorf("and %d more", more))
	}
	found := finding{what: "store", is: u.Redacted() + ", " + counted(n), err: errors.Join(append(errs, err)...)}
	if found.err == nil && !a.set.Doctor.StoreOnly {
		found.err = a.set.checkOrgs(firstOrgs(orgs))
	}
	return found
}

// shownDamage is how many secrets that cannot be read are named.
const shownDamage = 20

// firstOrgs returns names in order, shownOrgs of them at most.
func firstOrgs(names map[string]bool) []string {
	all := slices.Sorted(maps.Keys(names))
	return all[:min(len(all), shownOrgs)]
}

// mayChange returns an error unless this user may do what a migration does with the Secrets of a
// namespace.
func mayChange(ctx context.Context, s *kube.Store, verbs ...string) error {
	missing, err := s.Missing(ctx, verbs...)
	if err != nil || missing == nil {
		return err
	}
	namespace, who := s.Namespace()
	return secret.WithHint(
		fmt.Errorf("%w: %s may not %s secrets in namespace %s", secret.ErrDenied, who, strings.Join(missing, ", "),
			namespace), "add these verbs to its Role: docs/reference/kubernetes.md has one")
}
