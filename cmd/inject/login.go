package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"inject/cli"
	"inject/cli/login"
	"inject/exec"
	"inject/exec/redact"
	"inject/injector/place"
	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/store"
)

func loginCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "login [flags]",
		Short: "Log in to a server in a browser, or with a code for another device",
		Long: `Log in to the server in --store or --profile. The server tells where: its operator has
started it with --login. The other verbs then use the login for this server, and renew its
token, where no token and no certificate is given.

The login opens a browser. Without a display, over ssh, or with --device it shows a code to
enter in a browser of any machine. BROWSER names another browser.`,
		Example: `  inject login --profile work
  inject login --store grpcs://example.org:8093 --device`,
		Args: cli.NoArgs,
	}
	a.settings.AddFlags(cmd, &a.set.Login, &a.set.Store)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.login(cmd.Context()) }
	return cmd
}

func logoutCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "logout [flags]",
		Short: "Delete the tokens of a login, and have the issuer revoke them",
		Long: `Delete the tokens that inject login keeps for the server in --store or --profile, and ask
their issuer to revoke them, if it has a way to do that.`,
		Example: `  inject logout --profile work`,
		Args:    cli.NoArgs,
	}
	a.settings.AddFlags(cmd, &a.set.Store)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.logout(cmd.Context()) }
	return cmd
}

// login logs the person in. The tokens are kept only when the server has accepted them.
func (a *app) login(ctx context.Context) error {
	u, keep, err := a.loginServer()
	if err != nil {
		return err
	}
	if given := a.ownCredential(); given != "" {
		return secret.WithHint(
			fmt.Errorf("%w: %s identifies you to %s, and a login would not be used", secret.ErrInvalid, given, u.Host),
			"leave it out to log in, also in the other verbs")
	}
	ctx, stop := untilSignal(ctx, "nothing was stored")
	defer stop()
	tokens, provider, err := a.logIn(ctx, u, keep)
	if err == nil {
		a.hide(tokens.Access, tokens.Refresh)
		err = a.keepAccepted(ctx, u, keep, provider, tokens)
	}
	if sig, ok := errors.AsType[*interruptedError](context.Cause(ctx)); ok && err != nil {
		return sig
	}
	return err
}

// logIn asks the server where to log in, and gets tokens there.
func (a *app) logIn(ctx context.Context, u *url.URL, keep login.Keep) (login.Tokens, login.Provider, error) {
	provider, err := a.provider(ctx, u)
	if err != nil {
		return login.Tokens{}, provider, err
	}
	switch before, err := keep.Issuer(); {
	case errors.Is(err, login.ErrNone):
	case err != nil:
		return login.Tokens{}, provider, err
	case before != provider.Issuer:
		return login.Tokens{}, provider, secret.WithHint(
			fmt.Errorf("%w: %s now names the issuer %.300q, and your login is at %.300q", secret.ErrDenied, u.Host,
				provider.Issuer, before),
			"ask the operator of the server; if the new one is right, run %s first",
			strings.Replace(keep.Again, "login", "logout", 1))
	}
	l := &login.Login{Provider: provider, CAFile: keep.CAFile, Show: a.say}
	browser := a.browser()
	if browser != nil {
		l.Open = func(address string) bool { return a.openWith(browser, address) }
	}
	device := a.set.Login.Device || browser == nil && provider.DeviceEndpoint != "" ||
		provider.AuthorizationEndpoint == "" && provider.DeviceEndpoint != ""
	var tokens login.Tokens
	if device {
		tokens, err = l.Device(ctx)
	} else {
		tokens, err = l.Browser(ctx)
	}
	return tokens, provider, err
}

// provider asks the server at u, without credentials, where people log in.
func (a *app) provider(ctx context.Context, u *url.URL) (login.Provider, error) {
	c, err := a.dial(u, rpc.Options{})
	if err != nil {
		return login.Provider{}, err
	}
	defer c.Close() //nolint:errcheck // read only
	p, err := c.Provider(ctx)
	return login.Provider(p), err
}

// keepAccepted keeps tokens if the server at u accepts them, and prints the name by which it knows the
// person.
func (a *app) keepAccepted(
	ctx context.Context, u *url.URL, keep login.Keep, p login.Provider, tokens login.Tokens,
) error {
	c, err := a.dial(u, rpc.Options{
		Token: tokens.Access, Again: "the tokens that its --login leads to must be those that its --jwt accepts: " +
			"tell its operator; nothing was stored",
	})
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // read only
	k := &known{Store: u.Redacted(), Profile: a.profile, May: []permitted{}}
	if err := k.ask(ctx, c); err != nil {
		return err
	}
	if err := keep.Save(ctx, p, tokens); err != nil {
		return err
	}
	k.Login = keep.Path()
	a.say("logged in to " + u.Host)
	_, err = io.WriteString(a.stdout, k.text())
	return err
}

func (a *app) logout(ctx context.Context) error {
	u, keep, err := a.loginServer()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	revoked, err := keep.Remove(ctx)
	switch {
	case errors.Is(err, login.ErrNone):
		a.say("there is no login for " + u.Host)
		return nil
	case err != nil:
		return err
	case revoked:
		a.say("logged out of " + u.Host + ": the tokens are deleted, and revoked by their issuer")
	default:
		a.say("logged out of " + u.Host + ": the tokens are deleted; their issuer has no way to revoke them, " +
			"so they end when they expire")
	}
	return nil
}

// loginServer returns the server that the settings name, and where the login for it is kept.
func (a *app) loginServer() (*url.URL, login.Keep, error) {
	u, err := a.storeURL()
	if err != nil {
		return nil, login.Keep{}, err
	}
	if u.Scheme != store.SchemeGRPCS {
		what := "is " + u.Path
		if isServer(u) {
			what = "has no TLS, without which no token is sent"
		}
		return nil, login.Keep{}, secret.WithHint(
			fmt.Errorf("%w: a login is for a server, and the store %s", secret.ErrInvalid, what),
			"name the server: --store grpcs://host:port, or --profile NAME")
	}
	keep, err := a.keep(u)
	return u, keep, err
}

// keep returns where the login for the server at u is kept.
func (a *app) keep(u *url.URL) (login.Keep, error) {
	dir, err := cli.UserPath(a.set.Found.StateHome, ".local/state", "logins")
	again := "inject login --store " + u.Redacted()
	if a.profile != "" {
		again = "inject login --profile " + a.profile
	}
	return login.Keep{Dir: dir, Address: u.Scheme + "://" + u.Host, CAFile: a.set.Store.CAFile, Again: again}, err
}

// keptLogin returns the login for the server at u, if there is one and nothing else identifies the
// caller. A task without a home folder, or in that of another user, has none.
func (a *app) keptLogin(u *url.URL) (login.Keep, bool) {
	if u.Scheme != store.SchemeGRPCS || a.ownCredential() != "" {
		return login.Keep{}, false
	}
	keep, err := a.keep(u)
	if err != nil {
		return login.Keep{}, false
	}
	_, err = os.Lstat(keep.Path())
	return keep, err == nil
}

// ownCredential names the credential that identifies the caller to a server without a login, "" for none.
func (a *app) ownCredential() string {
	f := &a.set.Store
	switch {
	case f.TokenFile != "":
		return "--token-file (or " + cli.Twin("token-file") + ")"
	case a.set.Keys.Token.Len() > 0:
		return tokenVar
	case f.CertFile != "":
		return "--cert-file (or " + cli.Twin("cert-file") + ")"
	}
	return ""
}

// hide masks tokens in all messages.
func (a *app) hide(tokens ...secret.Value) {
	for _, v := range tokens {
		if v.Len() > 0 {
			_ = a.key.Add(redact.Pattern{Name: "login", Value: v.Reveal()}) // it is far from the limit
		}
	}
}

// tokenOf returns a function that returns the token of a kept login, and renews it in time.
func (a *app) tokenOf(keep login.Keep) func(context.Context) (secret.Value, error) {
	var mu sync.Mutex
	var last secret.Value
	return func(ctx context.Context) (secret.Value, error) {
		mu.Lock()
		defer mu.Unlock()
		token, err := keep.Token(ctx)
		if err == nil && !token.Equal(last) {
			a.hide(token)
			last = token
		}
		return token, err
	}
}

// browser returns the commands that may open a browser for a person at this machine, nil for none.
func (a *app) browser() []string {
	f := &a.set.Found
	switch {
	case f.Browser != "": // several are separated by colons, as other programs take it
		return strings.Split(f.Browser, ":")
	case f.SSH != "":
		return nil
	case runtime.GOOS == "darwin":
		return []string{"open"}
	case f.Display != "" || f.Wayland != "":
		return []string{"xdg-open"}
	}
	return nil
}

// openWith opens an address, which begins with http, with the first of the commands that starts.
func (a *app) openWith(commands []string, address string) bool {
	env := slices.DeleteFunc(os.Environ(), place.IsOwn)
	for _, command := range commands {
		words := strings.Fields(strings.TrimSuffix(strings.TrimSpace(command), "&"))
		if len(words) == 0 {
			continue
		}
		if !strings.Contains(command, "%s") {
			words = append(words, "%s")
		}
		for i := range words {
			words[i] = strings.ReplaceAll(words[i], "%s", address)
		}
		if err := exec.Detach(env, words...); err == nil {
			return true
		}
	}
	return false
}
