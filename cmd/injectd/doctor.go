package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"inject/cli"
	"inject/internal/keyfile"
	"inject/resolver/secret"
	"inject/resolver/serve/identity"
	"inject/resolver/serve/policy"
	"inject/resolver/store"
	"inject/resolver/store/kube"
	"inject/resolver/store/sealed"
)

func (a *app) doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor [flags]",
		Short: "Check everything that serve would need, and every secret of the store",
		Long: `doctor takes the flags of serve and checks everything that they name, in one pass:
certificates, their use and when they expire, policy, tokens, issuers' keys, the audit
log, the modes of files, the key and the store; of a store in Kubernetes also the API
server, its clock and the rights there. It opens every secret once. It changes
nothing, and may run beside a server. It exits with 1 if serve would fail, clients would
refuse the server, or a secret is damaged.

With --store-only it checks the store and its key alone, as a drill of a restore needs.

With --kube it checks the cluster in which tasks run, and nothing else: who may claim
scopes and run commands in pods, whether the admission policies are in force, and what
goes around them. It needs rights to list there, as an administrator has; what it may
not see it names.`,
		Example: `  injectd doctor --store file:///var/lib/inject/secrets.db \
      --policy policy.yaml --client-ca-file ca.crt --cert-file tls.pem
  injectd doctor --store-only --store file:///tmp/restored.db --key-file key.txt
  injectd doctor --kube --store kube://inject-secrets`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.doctor(cmd.Context()) },
	}
	s := &a.set
	a.settings.AddFlags(cmd, &s.Doctor, &s.Cluster, &s.Form, &s.Listen, &s.Audit, &s.File, &s.Wait, &s.Served, &s.Org,
		&s.Orgs, &s.Access, &s.Limits)
	return cmd
}

// finding is the result of one check. It is good if it has neither an error nor a warning.
type finding struct {
	what, is string
	warning  string
	err      error
	hint     string // what to do next, unless err has a hint
}

// warn adds a warning, unless it is empty.
func (f *finding) warn(text string) {
	if f.warning != "" && text != "" {
		text = f.warning + "; " + text
	}
	f.warning = cmp.Or(text, f.warning)
}

// soon is how long before its expiry a certificate is warned of.
const soon = 14 * 24 * time.Hour

func (a *app) doctor(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.log.SetLevel(hclog.Off) // the findings below say it
	if err := a.set.checkCluster(); err != nil {
		return err
	}
	if a.set.Cluster.Look {
		findings, err := a.lookAtCluster(ctx)
		if err != nil {
			return err
		}
		return a.tell(findings)
	}
	var findings []finding
	var rules *policy.Policy
	if !a.set.Doctor.StoreOnly {
		findings, rules = a.lookAtAccess(ctx)
		findings = append(findings, lookAtAudit(a.set.Audit.Log))
	}
	return a.tell(append(findings, a.lookAtStore(ctx, rules)...))
}

// tell prints findings. It returns an error if one of them is a failure.
func (a *app) tell(findings []finding) error {
	type result struct {
		Check string `json:"check"`
		State string `json:"state"` // ok, warn or fail
		Text  string `json:"text"`
		Hint  string `json:"hint,omitempty"`
	}
	results := make([]result, 0, len(findings))
	bad := 0
	for _, x := range findings {
		r := result{x.what, "ok", x.is, cmp.Or(secret.Hint(x.err), x.hint)}
		switch {
		case x.err != nil:
			r.State, r.Text = "fail", strings.ReplaceAll(x.err.Error(), "\n", "; ")
			bad++
		case x.warning != "":
			r.State, r.Text = "warn", x.warning
		}
		results = append(results, r)
	}
	var b bytes.Buffer
	if a.set.Form.Output == "json" {
		encoder := json.NewEncoder(&b)
		encoder.SetIndent("", "  ")
		answer := map[string]any{"ok": bad == 0, "checks": results}
		if err := encoder.Encode(answer); err != nil {
			return err
		}
	} else {
		for _, r := range results {
			fmt.Fprintf(&b, "%-5s %-14s %s\n", r.State, r.Check, r.Text)
			if r.Hint != "" {
				fmt.Fprintf(&b, "%20s hint: %s\n", "", r.Hint)
			}
		}
	}
	if _, err := (&messages{a.key, a.stdout}).Write(b.Bytes()); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%w: %d of %d checks failed", secret.ErrInvalid, bad, len(findings))
	}
	return nil
}

// lookAtAccess checks everything that is given, whatever is missing or wrong beside it. rules is the
// policy, nil if there is none.
func (a *app) lookAtAccess(ctx context.Context) (all []finding, rules *policy.Policy) {
	f := &a.set.Access
	failed := func(err error) {
		for _, e := range cli.Each(err) {
			all = append(all, finding{what: "access", err: e})
		}
	}
	failed(a.set.check())
	if f.Insecure {
		warning := "--insecure: everyone on this machine may do everything"
		return append(all, finding{what: "access", warning: warning}), nil
	}
	who, err := f.load(ctx, a.set.Org.Name, a.log)
	failed(err)
	if who.policy != nil {
		rules = who.policy.Current()
		all = append(all, finding{what: "policy", is: f.Policy, warning: writableByOthers(f.Policy)})
	}
	if who.certificates != nil || keyfile.Check(cmp.Or(f.CertKeyFile, f.CertFile)) != nil {
		all = append(all, lookAtCertificate(f.CertFile))
	}
	if f.ClientCAFile != "" {
		if ca, ok := lookAtAuthorities(f.ClientCAFile, time.Now()); ok {
			all = append(all, ca)
		}
	}
	if f.ClientCRL != "" && who.certificates != nil {
		n, warnings := who.certificates.Revoked()
		all = append(all, finding{
			what: "revoked", is: fmt.Sprintf("%s, %d certificates", f.ClientCRL, n),
			warning: strings.Join(warnings, "; "),
		})
	}
	if who.sources["tokens-file"] != nil {
		all = append(all, finding{what: "tokens", is: f.TokenFile})
	}
	if who.login != nil {
		all = append(all, lookAtLogin(ctx, who.login))
	}
	for _, one := range who.chain {
		if j, ok := one.(*identity.JWT); ok {
			found := finding{what: "jwt", is: j.Issuer(), err: j.Err()}
			o := j.Options() // Stat finds no file of a URL
			if found.warn(writableByOthers(o.Keys)); o.CAFile != "" {
				found.warn(writableByOthers(o.CAFile))
			}
			all = append(all, found)
		}
	}
	return all, rules
}

// lookAtLogin asks the issuer what clients will ask it. An issuer that is down does not keep the
// server from starting.
func lookAtLogin(ctx context.Context, login *identity.Login) finding {
	found := finding{what: "login", is: login.Options().Issuer}
	m, err := login.Metadata(ctx)
	switch {
	case err != nil:
		found.warn(err.Error())
	case m.DeviceAuthorizationEndpoint == "":
		found.is += ", without a login for machines that have no browser (no device_authorization_endpoint)"
	}
	return found
}

// lookAtAudit checks that the audit log can be appended to, without creating it.
func lookAtAudit(path string) finding {
	found := finding{what: "audit log", is: path}
	if path == "-" {
		found.is = "on stdout"
		return found
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0) //nolint:gosec // the operator's file
	if err == nil {
		err = file.Close()
	} else if errors.Is(err, os.ErrNotExist) {
		found.is += ", which serve will create"
		_, err = os.Stat(filepath.Dir(path))
	}
	found.err = err
	return found
}

// canBeMade returns nil if this user may create a file at path and the folders above it.
func canBeMade(path string) error {
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	for err != nil && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		info, err = os.Stat(dir)
	}
	if err == nil && !info.IsDir() {
		err = unix.ENOTDIR
	}
	if err == nil {
		err = unix.Access(dir, unix.W_OK|unix.X_OK)
	}
	if err != nil {
		return secret.WithHint(fmt.Errorf("%w: %s cannot be created in %s: %w", secret.ErrUnavailable,
			filepath.Base(path), dir, err), "give that folder to the user that runs injectd")
	}
	return nil
}

// keyCanBeMade returns nil if key exists, is not a file, or can be created.
func keyCanBeMade(key sealed.Key) error {
	if key.File == "" || key.Text.Len() > 0 || key.Passphrase {
		return nil
	}
	if _, err := os.Stat(key.File); err == nil {
		return nil
	}
	return canBeMade(key.File)
}

// lookAtStore opens every secret once: through the server if one runs, else by itself. The server
// has a key in memory, so the key of the settings is tried, too: the next start needs it. rules is the
// policy, nil if it is not looked at.
func (a *app) lookAtStore(ctx context.Context, rules *policy.Policy) []finding {
	u, err := a.url()
	if err != nil {
		return []finding{{what: "store", err: err}}
	}
	found := finding{what: "store", is: u.Redacted()}
	if u.Scheme != store.SchemeFile {
		s, _, err := a.openServed(ctx, "")
		if err != nil {
			found.err = err
			return []finding{found}
		}
		defer s.Close() //nolint:errcheck // nothing was changed
		if s, ok := s.(*kube.Store); ok {
			all := a.lookAtKube(ctx, s, u)
			all[0].err = errors.Join(all[0].err, checkQuotas(s, u, rules))
			return all
		}
		n := 0
		for _, e := range store.All(ctx, s, store.Filter{}) {
			n, err = n+1, errors.Join(err, e)
		}
		found.is, found.err = found.is+", "+counted(n), err
		return []finding{found}
	}
	path, err := a.filePath()
	if err != nil {
		return []finding{{what: "store", err: err}}
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		found.warning = found.is + " does not exist yet: the first secret creates it"
		key, err := a.keyOf(a.set.File.KeyFile)
		if err == nil {
			err = keyCanBeMade(key)
		}
		found.err = errors.Join(canBeMade(path), err)
		return []finding{found}
	case err == nil && info.Mode().Perm()&0o077 != 0:
		found.warning = fmt.Sprintf("%s may be read by others (mode %v): chmod 600", found.is, info.Mode().Perm())
	}
	w := &work{Do: "verify"}
	served, err := a.maintain(ctx, w)
	found.is, found.err = found.is+", "+counted(w.Secrets), err
	if err == nil && !a.set.Doctor.StoreOnly {
		found.err = a.set.checkOrgs(w.Orgs)
	}
	return []finding{found, a.lookAtKey(served, w.Wrapped)}
}

// lookAtKey checks the key of the settings. If the store is served, the server has opened it, so
// the key is tried here; wrapped is nil if the store could not be read.
func (a *app) lookAtKey(served bool, wrapped []byte) finding {
	key, err := a.keyOf(a.set.File.KeyFile)
	name := ownKeyName(key)
	found := finding{what: "key", is: name, err: err}
	if err != nil {
		return found
	}
	if key.Text.Len() == 0 {
		if err := keyfile.Check(key.File); err != nil { // serve would say the same
			found.err = fmt.Errorf("%w: %s: %w", secret.ErrInvalid, name, err)
			return found
		}
	}
	if wrapped == nil {
		found.warn(name + " was not tried, because the store could not be read")
		return found
	}
	found.is += " opens the store"
	if !served {
		return found // reading the store has tried it
	}
	tried, err := key.Opens(wrapped)
	if found.err = err; !tried {
		found.warn(name + " was not tried: it asks for a passphrase, or for a device")
	}
	return found
}
