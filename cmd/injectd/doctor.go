package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"inject/cli"
	"inject/resolver/secret"
	"inject/resolver/serve/identity"
	"inject/resolver/store"
)

func (a *app) doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor [flags]",
		Short: "Check everything that serve would need, and every secret of the store",
		Long: `doctor takes the flags of serve and checks everything that they name: certificates and
when they expire, policy, tokens, issuers' keys, the audit log and the store. It opens
every secret once. It changes nothing, and may run beside a server. It exits with 1 if
serve would fail or a secret is damaged.`,
		Example: `  injectd doctor --store file:///var/lib/inject/secrets.db \
      --policy policy.yaml --client-ca-file ca.crt --cert-file tls.pem`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.doctor(cmd.Context()) },
	}
	s := &a.set
	a.settings.AddFlags(cmd, &s.Listen, &s.File, &s.Served, &s.Access, &s.Limits)
	return cmd
}

// finding is the result of one check. It is good if it has neither an error nor a warning.
type finding struct {
	what, is string
	warning  string
	err      error
}

// soon is how long before its expiry a certificate is warned of.
const soon = 14 * 24 * time.Hour

func (a *app) doctor(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.log.SetLevel(hclog.Off) // the findings below say it
	findings := slices.Concat(a.lookAtAccess(ctx), []finding{lookAtAudit(a.set.Listen.Audit)}, a.lookAtStore(ctx))
	var b strings.Builder
	bad := 0
	for _, x := range findings {
		state := "ok"
		switch {
		case x.err != nil:
			state, x.is = "fail", strings.ReplaceAll(x.err.Error(), "\n", "; ")
			bad++
		case x.warning != "":
			state, x.is = "warn", x.warning
		}
		fmt.Fprintf(&b, "%-5s %-14s %s\n", state, x.what, x.is)
		if hint := secret.Hint(x.err); hint != "" {
			fmt.Fprintf(&b, "%20s hint: %s\n", "", hint)
		}
	}
	if _, err := io.WriteString(&messages{a.key, a.stdout}, b.String()); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%w: %d of %d checks failed", secret.ErrInvalid, bad, len(findings))
	}
	return nil
}

func (a *app) lookAtAccess(ctx context.Context) []finding {
	f := &a.set.Access
	if f.Insecure {
		found := finding{what: "access", warning: "--insecure: everyone on this machine may do everything"}
		found.err = a.set.check()
		return []finding{found}
	}
	err := a.set.check()
	var who *access
	if err == nil {
		who, err = f.open(ctx, a.log)
	}
	if err != nil {
		var all []finding
		for _, e := range cli.Each(err) {
			all = append(all, finding{what: "access", err: e})
		}
		return all
	}
	all := []finding{{what: "policy", is: f.Policy}}
	left := time.Until(who.certificates.NotAfter())
	certificate := finding{what: "certificate", is: "expires " + who.certificates.NotAfter().Format(time.RFC3339)}
	switch {
	case left <= 0:
		certificate.err = errors.New("has expired " + who.certificates.NotAfter().Format(time.RFC3339))
	case left < soon:
		certificate.warning = certificate.is
	}
	all = append(all, certificate)
	if f.ClientCAFile != "" {
		all = append(all, finding{what: "mtls", is: f.ClientCAFile})
	}
	if f.ClientCRL != "" {
		n, warnings := who.certificates.Revoked()
		all = append(all, finding{
			what: "revoked", is: fmt.Sprintf("%s, %d certificates", f.ClientCRL, n),
			warning: strings.Join(warnings, "; "),
		})
	}
	if f.TokenFile != "" {
		all = append(all, finding{what: "tokens", is: f.TokenFile})
	}
	for _, one := range who.chain {
		if j, ok := one.(*identity.JWT); ok {
			found := finding{what: "jwt", is: j.Issuer()}
			if err := j.Err(); err != nil {
				found.err = err
			}
			all = append(all, found)
		}
	}
	return all
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

// keyCanBeMade returns nil if the store's key exists, is not a file, or can be created.
func (a *app) keyCanBeMade() error {
	key, err := a.keyOf(a.set.File.KeyFile)
	if err != nil || key.File == "" || key.Text.Len() > 0 || key.Passphrase {
		return err
	}
	if _, err := os.Stat(key.File); err == nil {
		return nil
	}
	return canBeMade(key.File)
}

// lookAtStore opens every secret once: through the server if one runs, else by itself. The server
// has a key in memory, so the key of the settings is tried, too: the next start needs it.
func (a *app) lookAtStore(ctx context.Context) []finding {
	u, err := a.url()
	if err != nil {
		return []finding{{what: "store", err: err}}
	}
	found := finding{what: "store", is: u.Redacted()}
	if u.Scheme != store.SchemeFile {
		s, _, err := a.openServed(ctx, "")
		n := 0
		if err == nil {
			for _, e := range store.All(ctx, s, store.Filter{}) {
				n, err = n+1, errors.Join(err, e)
			}
			err = errors.Join(err, s.Close())
		}
		found.is, found.err = fmt.Sprintf("%s, %d secrets", found.is, n), err
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
		found.err = errors.Join(canBeMade(path), a.keyCanBeMade())
		return []finding{found}
	case err == nil && info.Mode().Perm()&0o077 != 0:
		found.warning = fmt.Sprintf("%s may be read by others (mode %v): chmod 600", found.is, info.Mode().Perm())
	}
	w := &work{Do: "verify"}
	served, err := a.maintain(ctx, w)
	found.is, found.err = fmt.Sprintf("%s, %d secrets", found.is, w.Secrets), err
	all := []finding{found}
	if served && w.Wrapped != nil {
		all = append(all, a.lookAtKey(w.Wrapped))
	}
	return all
}

// lookAtKey tries whether the key of the settings opens the store that a server has open.
func (a *app) lookAtKey(wrapped []byte) finding {
	key, err := a.keyOf(a.set.File.KeyFile)
	found := finding{what: "key", is: ownKeyName(key) + " opens the store", err: err}
	if err != nil {
		return found
	}
	tried, err := key.Opens(wrapped)
	if found.err = err; !tried {
		found.warning = ownKeyName(key) + " was not tried: it asks for a passphrase, or for a device"
	}
	return found
}
