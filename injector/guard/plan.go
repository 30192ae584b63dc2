package guard

import (
	"context"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"inject/injector/task"
	"inject/resolver/secret"
)

// The variables by which Flyte's SDK finds its object store (flyte/storage/_config.py at 2.12.1).
const (
	envEndpoint = "FLYTE_AWS_ENDPOINT"
	envKeyID    = "FLYTE_AWS_ACCESS_KEY_ID"
	envSecret   = "FLYTE_AWS_SECRET_ACCESS_KEY" //nolint:gosec // a name
	envStyle    = "FLYTE_AWS_S3_ADDRESSING_STYLE"
	// envStyleV1 is what flytekit reads instead (configuration/internal.py at 1.16.31).
	envStyleV1 = "FLYTE_AWS_ADDRESSING_STYLE"
	// envEndpointS3 wins over envEndpoint in the library that the SDK uses, object_store from 0.13.2.
	envEndpointS3 = "AWS_ENDPOINT_URL_S3"
)

// envS3 are variables that a task has if it has credentials for S3.
var envS3 = []string{
	envEndpoint, envEndpointS3, envKeyID, "AWS_ACCESS_KEY_ID", "AWS_ROLE_ARN", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
	"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
}

// isRuntime reports whether a program is one by which Flyte runs a task, of version 2 or 1.
func isRuntime(program string) bool {
	return program == "a0" || program == "clustered" || task.IsV1(program)
}

// outputFlags are the options of the runtimes whose values are addresses that they write to. The first
// two are where outputs.pb goes.
var outputFlags = []string{
	"--outputs-path", "--output-prefix", "--run-base-dir", "--raw-data-path", "--raw-output-data-prefix",
	"--checkpoint-path",
}

// An object is a place in a bucket: a key or the beginning of one.
type object struct {
	scheme      string // s3, gs or abfss
	bucket, key string
}

// String returns the place as an address.
func (o object) String() string { return o.scheme + "://" + o.bucket + "/" + o.key }

// A plan says whether a task needs a guard.
type plan struct {
	schemes map[string]bool // of the stores that it stands in front of
	account string          // that the addresses in Azure name
	outputs object          // where outputs.pb goes; empty if that is not known or is no bucket
	v1      bool            // the command is one of Flyte v1
}

// planFor finds out whether a task needs a guard. The error names the flag or the variable that keeps
// the guard from being sure.
func planFor(o Options) (plan, error) {
	p := plan{schemes: map[string]bool{}}
	if o.Mode == Off || len(o.Command) == 0 && o.Mode != On {
		return p, nil
	}
	program := ""
	if len(o.Command) > 0 {
		program = filepath.Base(o.Command[0])
	}
	if o.Mode != On && !isRuntime(program) {
		return p, nil
	}
	p.v1 = task.IsV1(program)
	for _, at := range addresses(o.Command) {
		if scheme, rest, isURL := strings.Cut(at.value, "://"); isURL && scheme != "file" {
			if err := p.add(at.flag, scheme, rest); err != nil {
				return p, err
			}
		}
	}
	if o.Mode == On && len(p.schemes) == 0 {
		p.guess(variables(o.Environ))
	}
	return p, nil
}

// add takes an address of the task's into the plan.
func (p *plan) add(flag, scheme, rest string) error {
	bucket, key, _ := strings.Cut(rest, "/")
	at := object{bucket: bucket, key: path.Clean(key)}
	switch scheme {
	case "s3", "s3a":
		if strings.HasSuffix(bucket, "--x-s3") {
			return refusedStart(flag, "requests to a directory bucket (S3 Express) cannot be checked")
		}
		at.scheme = "s3"
	case "gs", "abfs", "abfss":
		if p.v1 {
			return refusedStart(flag, "what flytekit (Flyte 1) writes to "+scheme+":// cannot be checked")
		}
		at.scheme = "gs"
		if scheme != "gs" {
			at.scheme = "abfss"
			var err error
			if at.bucket, err = p.azureContainer(flag, bucket); err != nil {
				return err
			}
		}
	default: // among them gcs:// and az://, which the SDK does not write by obstore
		return refusedStart(flag, "what is written to "+scheme+":// cannot be checked")
	}
	p.schemes[at.scheme] = true
	if slices.Index(outputFlags, flag) < 2 {
		p.outputs = at
	}
	return nil
}

// azureContainer returns the container of CONTAINER or CONTAINER@ACCOUNT.dfs.core.windows.net.
func (p *plan) azureContainer(flag, host string) (string, error) {
	container, server, found := strings.Cut(host, "@")
	if !found {
		return container, nil
	}
	account, domain, _ := strings.Cut(server, ".")
	switch {
	case domain != "dfs.core.windows.net" && domain != "blob.core.windows.net":
		return "", refusedStart(flag, "what is written to "+server+" cannot be checked")
	case p.account != "" && p.account != account:
		return "", refusedStart(flag, "the task writes to two accounts, "+p.account+" and "+account+
			", and the guard stands in front of one")
	}
	p.account = account
	return container, nil
}

// guess chooses the stores of a command that names none, by the variables: S3 if no other is named.
func (p *plan) guess(vars map[string]string) {
	for name := range vars {
		switch {
		case slices.Contains(envS3, name):
			p.schemes["s3"] = true
		case strings.HasPrefix(name, "GOOGLE_"):
			p.schemes["gs"] = true
		case name == envAccount:
			p.schemes["abfss"] = true
		}
	}
	if len(p.schemes) == 0 {
		p.schemes["s3"] = true
	}
}

// open returns the stores of the plan by scheme, with their first credentials.
func (p *plan) open(ctx context.Context, vars map[string]string) (map[string]store, error) {
	stores := map[string]store{}
	for scheme := range p.schemes {
		var s store
		var err error
		switch scheme {
		case "s3":
			s, err = newS3(ctx, vars, p.v1)
		case "gs":
			s, err = newGCS(vars)
		default:
			s, err = newAzure(vars, p.account)
		}
		if err != nil {
			return nil, err
		}
		stores[scheme] = s
	}
	return stores, nil
}

// refusedStart returns the error for a task that could write without the guard.
func refusedStart(name, why string) error {
	return secret.WithHint(fmt.Errorf("%w: --storage: %s: %s", secret.ErrInvalid, name, why),
		"--storage off starts the task, and leaves its outputs unchecked")
}

// unguarded returns an error that names a variable by which the SDK would go around the guard.
func unguarded(vars map[string]string) error {
	static := vars[envKeyID] != "" && vars[envSecret] != "" ||
		vars["AWS_ACCESS_KEY_ID"] != "" && vars["AWS_SECRET_ACCESS_KEY"] != ""
	switch {
	case truthy(vars["AWS_SKIP_SIGNATURE"]):
		return refusedStart("AWS_SKIP_SIGNATURE", "a write that is not signed cannot be told from another process's")
	case truthy(vars["AWS_S3_EXPRESS"]):
		return refusedStart("AWS_S3_EXPRESS", "requests to a directory bucket cannot be checked")
	case vars["AWS_PROFILE"] != "" && vars["AWS_CONFIG_FILE"] != "" && !static:
		return refusedStart("AWS_PROFILE", "credentials of a profile in AWS_CONFIG_FILE are not read")
	case vars[envEndpointS3] != "" && !static:
		return refusedStart(envEndpointS3, "it must lead to the guard, and then other clients of the task do, too,"+
			" whose credentials the guard only knows if they are in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	return nil
}

// truthy reports whether object_store takes the text of a variable for true.
func truthy(text string) bool {
	switch strings.ToLower(text) {
	case "1", "true", "on", "yes", "y":
		return true
	}
	return false
}

// An address is the value of an option of a runtime.
type address struct{ flag, value string }

// addresses returns the addresses that the command writes to.
func addresses(command []string) (all []address) {
	for i, arg := range command {
		name, value, given := strings.Cut(arg, "=")
		if !slices.Contains(outputFlags, name) {
			continue
		}
		if !given && i+1 < len(command) {
			value = command[i+1]
		}
		all = append(all, address{name, value})
	}
	return all
}

// variables returns an environment as a map.
func variables(environ []string) map[string]string {
	vars := make(map[string]string, len(environ))
	for _, line := range environ {
		// A copy: the texts of placed values are overwritten once the task has started.
		name, value, _ := strings.Cut(strings.Clone(line), "=")
		vars[name] = value
	}
	return vars
}

const (
	lowers    = "abcdefghijklmnopqrstuvwxyz0123456789"
	alphabets = lowers + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// isBucket reports whether a text has the form of a bucket's name: it becomes a part of a host's name. S3
// itself allows 3 to 63 characters (docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html);
// older buckets may have more, capitals and _. A regular expression would take longer to be compiled, in
// each start of inject, than all else that this package needs.
func isBucket(text string) bool {
	return len(text) >= 3 && len(text) <= 255 && strings.Trim(text, alphabets+"._-") == "" &&
		strings.Trim(text[:1]+text[len(text)-1:], alphabets) == ""
}

// upstream returns the server that the SDK would use without the guard, and the region that the
// environment names.
func upstream(vars map[string]string) (*url.URL, error) {
	if name := given(vars); name != "" {
		return serverAt(name, vars[name])
	}
	region := region(vars)
	host := "s3." + region + ".amazonaws.com"
	if strings.HasPrefix(region, "cn-") {
		host += ".cn"
	}
	return &url.URL{Scheme: "https", Host: host}, nil
}

// given returns the name of the variable that gives the server, "" if none does.
func given(vars map[string]string) string {
	for _, name := range []string{envEndpointS3, envEndpoint, "AWS_ENDPOINT_URL", "AWS_ENDPOINT"} {
		if vars[name] != "" {
			return name
		}
	}
	return ""
}

// region returns the region of the environment.
func region(vars map[string]string) string {
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION"} {
		if vars[name] != "" {
			return vars[name]
		}
	}
	return "us-east-1"
}
