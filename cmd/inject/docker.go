package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"inject/cli"
	"inject/exec"
	"inject/injector/place"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// dockerConfig is a config.json of Docker, which is also the value of an image pull secret.
type dockerConfig struct {
	Auths map[string]dockerAuth `json:"auths"`

	CredHelpers map[string]string `json:"credHelpers,omitempty"`
	CredsStore  string            `json:"credsStore,omitempty"`
}

type dockerAuth struct {
	Auth string `json:"auth,omitempty"` // base64 of "user:password"
}

func newDockerAuth(user, password string) dockerAuth {
	return dockerAuth{base64.StdEncoding.EncodeToString([]byte(user + ":" + password))}
}

// registry builds the value of an image pull secret.
type registry struct {
	set      *typeSettings
	home     string        // docker's folder; "" for the usual one
	terminal *cli.Terminal // nil if there is none
}

// imagePull returns the value of an image pull secret, the JSON that Flyte's command writes:
// {"auths":{REGISTRY:{"auth":base64("user:password")}}}.
func (r *registry) imagePull(ctx context.Context, sources []string) (secret.Value, error) {
	if len(sources) == 1 && sources[0] != "--registry" && sources[0] != "--from-docker-config" {
		return secret.Value{}, secret.WithHint(
			fmt.Errorf("%w: %s is not for image pull secrets", secret.ErrInvalid, sources[0]),
			"give --registry, --username and --password, or --from-docker-config",
		)
	}
	if !r.set.FromDockerConfig && (r.set.DockerConfigPath != "" || r.set.Registries != "") {
		return secret.Value{}, fmt.Errorf(
			"%w: --docker-config-path and --registries need --from-docker-config",
			secret.ErrInvalid,
		)
	}
	config := dockerConfig{Auths: map[string]dockerAuth{}}
	if r.set.FromDockerConfig {
		if err := r.readConfig(ctx, config.Auths); err != nil {
			return secret.Value{}, err
		}
	} else if err := r.ask(config.Auths); err != nil {
		return secret.Value{}, err
	}
	b, err := json.Marshal(config)
	return secret.NewValue(b), err
}

// ask adds the credentials of the flags, and asks for those that are missing.
func (r *registry) ask(auths map[string]dockerAuth) error {
	var missing []string
	for _, q := range []struct {
		flag   string
		answer *string
		ask    func() (string, error)
	}{
		{"registry", &r.set.Registry, func() (string, error) {
			return r.terminal.Line("Registry (e.g., ghcr.io, docker.io): ")
		}},
		{"username", &r.set.Username, func() (string, error) { return r.terminal.Line("Username: ") }},
		{"password", &r.set.Password, func() (string, error) {
			value, err := r.terminal.Ask("Password: ", store.MaxValue)
			return string(value.Reveal()), err
		}},
	} {
		if *q.answer != "" {
			continue
		}
		if r.terminal == nil {
			missing = append(missing, "--"+q.flag)
			continue
		}
		var err error
		if *q.answer, err = q.ask(); err != nil {
			return secret.WithHint(err, "give --%s, or let docker have the credentials: --from-docker-config", q.flag)
		}
	}
	if missing != nil {
		return fmt.Errorf("%w: an image pull secret needs %s, and there is no terminal to ask on", secret.ErrInvalid,
			strings.Join(missing, ", "))
	}
	auths[r.set.Registry] = newDockerAuth(r.set.Username, r.set.Password)
	return nil
}

// readConfig adds the credentials in docker's configuration, and those that its credential
// helpers return.
func (r *registry) readConfig(ctx context.Context, auths map[string]dockerAuth) error {
	path := r.set.DockerConfigPath
	if path == "" {
		dir := r.home
		if dir == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return fmt.Errorf("%w: docker's configuration: %w", secret.ErrInvalid, err)
			}
			dir = filepath.Join(home, ".docker")
		}
		path = filepath.Join(dir, "config.json")
	}

	b, err := os.ReadFile(path) //nolint:gosec // the user's own file
	if err != nil {
		return fmt.Errorf("%w: docker's configuration: %w", secret.ErrInvalid, err)
	}
	var config dockerConfig
	if json.Unmarshal(b, &config) != nil { // whose error may quote the file
		return fmt.Errorf("%w: docker's configuration: %s is not JSON", secret.ErrInvalid, path)
	}

	var registries []string
	if r.set.Registries != "" {
		registries = strings.Split(r.set.Registries, ",")
	} else {
		for name := range config.Auths {
			registries = append(registries, name)
		}
		for name := range config.CredHelpers {
			if _, ok := config.Auths[name]; !ok {
				registries = append(registries, name)
			}
		}
		slices.Sort(registries)
	}

	var errs []error
	for _, name := range registries {
		name = strings.TrimSpace(name)
		auth, err := config.credentials(ctx, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		auths[name] = auth
	}
	if len(registries) == 0 {
		return fmt.Errorf("%w: docker's configuration: %s has no credentials", secret.ErrInvalid, path)
	}
	return errors.Join(errs...)
}

// credentials returns docker's credentials for a registry: those in the file, else those that
// a credential helper returns.
func (c *dockerConfig) credentials(ctx context.Context, registry string) (dockerAuth, error) {
	if auth, ok := c.Auths[registry]; ok && auth.Auth != "" {
		return auth, nil
	}
	helper := c.CredHelpers[registry]
	if helper == "" {
		helper = c.CredsStore
	}
	if helper == "" || strings.ContainsAny(helper, "/\x00") {
		return dockerAuth{}, fmt.Errorf("%w: docker has no credentials for %s", secret.ErrInvalid, registry)
	}
	// The helper does not get the variables that open the store.
	env := slices.DeleteFunc(os.Environ(), place.IsOwn)
	out, err := exec.Output(ctx, env, registry, "docker-credential-"+helper, "get")
	if err != nil {
		return dockerAuth{}, fmt.Errorf("%w: credentials for %s: %w", secret.ErrInvalid, registry, err)
	}
	var got struct{ Username, Secret string }
	if json.NewDecoder(bytes.NewReader(out)).Decode(&got) != nil {
		return dockerAuth{}, fmt.Errorf("%w: credentials for %s: docker-credential-%s gave no JSON",
			secret.ErrInvalid, registry, helper)
	}
	return newDockerAuth(got.Username, got.Secret), nil
}
