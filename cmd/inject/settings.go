package main

import (
	"time"

	"inject/resolver/secret"
)

// settings are all flags and variables of inject; see [cli.Settings] for the tags.
//
// A flag of inject run says by the tag nested what it means to an inject whose secrets an
// inject above it has placed already. "work": the flag asks for something that the inject
// above may not do, so this one does its work again. "pass": it does not, and this one
// becomes its command.
//
// A struct tag is one literal, which Go cannot break: these lines are long.
type settings struct {
	Declare struct {
		Secrets     []string `flag:"secret" env:"INJECT_SECRETS" twin:"no" nested:"pass" arg:"[GROUP/]KEY[=ENV_VAR]" complete:"key" help:"declare the secret [GROUP/]KEY[=ENV_VAR], placed in a variable (repeat)"`
		SecretFiles []string `flag:"secret-file" env:"INJECT_SECRET_FILES" twin:"no" nested:"pass" arg:"[GROUP/]KEY[=PATH]" complete:"key" help:"declare the secret [GROUP/]KEY[=PATH], placed in a file (repeat)"`
		Also        []string `flag:"also-secret" env:"INJECT_ALSO_SECRETS" twin:"no" nested:"pass" arg:"[GROUP/]KEY[=ENV_VAR]" complete:"key" help:"add the secret [GROUP/]KEY[=ENV_VAR] to the declared list, wherever that is from (repeat)"`
		Task        string   `flag:"task" env:"INJECT_TASK" nested:"pass" arg:"FILE" complete:"file" help:"declared list in FILE: a TaskEnvironment in YAML or JSON, or Flyte's TaskTemplate or SecurityContext, binary or JSON"`
		PodInfo     string   `flag:"pod-info" env:"INJECT_POD_INFO" nested:"pass" arg:"DIR" complete:"dir" help:"declared list and scope in the downward-API volume DIR, with files labels and annotations (default: /run/inject if it has them, else /etc/podinfo if it exists)"`
	} `group:"declare"`

	Require struct {
		Secrets bool `flag:"require-secrets" env:"INJECT_REQUIRE_SECRETS" nested:"pass" help:"fail if no source of a declared list is there: no flag, variable, file or pod info"`
	} `group:"declare"`

	Scope struct {
		Org     string `flag:"org" env:"INJECT_ORG" nested:"pass" help:"the organization (default: flyte)"`
		Project string `flag:"project" short:"p" env:"INJECT_PROJECT" nested:"pass" complete:"project" help:"the project"`
		Domain  string `flag:"domain" short:"d" env:"INJECT_DOMAIN" nested:"pass" complete:"development|staging|production" help:"the domain"`
	} `group:"scope"`

	Store struct {
		URL         string        `flag:"store" env:"INJECT_STORE" nested:"work" arg:"URL" help:"URL of the store: file:///PATH, dir:///PATH, grpcs://HOST:PORT, grpc://127.0.0.1:PORT (default: your own sealed file)"`
		Profile     string        `flag:"profile" env:"INJECT_PROFILE" nested:"work" arg:"NAME" help:"the store and the identity of the profile NAME in inject/config.yaml in $XDG_CONFIG_HOME (default: ~/.config)"`
		KeyFile     string        `flag:"key-file" env:"INJECT_KEY_FILE" nested:"work" arg:"FILE" complete:"file" help:"FILE with the age identities that open a store file (default: your own); $INJECT_KEY may hold the identity or the passphrase itself"`
		TokenFile   string        `flag:"token-file" env:"INJECT_TOKEN_FILE" nested:"work" arg:"FILE" complete:"file" help:"FILE with the bearer token for a server; $INJECT_TOKEN may hold the token itself; a token from a variable goes only to the server in $INJECT_STORE (default: /run/inject/token if it exists)"`
		CertFile    string        `flag:"cert-file" env:"INJECT_CERT_FILE" nested:"work" arg:"FILE" complete:"file" help:"FILE with your certificate for a server, PEM"`
		CertKeyFile string        `flag:"cert-key-file" env:"INJECT_CERT_KEY_FILE" nested:"work" arg:"FILE" complete:"file" help:"FILE with its private key, PEM (default: that of --cert-file)"`
		CAFile      string        `flag:"ca-file" env:"INJECT_CA_FILE" nested:"work" arg:"FILE" complete:"file" help:"FILE with the authorities that may sign the certificate of a server (default: /run/inject/ca.crt if it exists, else the system's)"`
		LockTimeout time.Duration `flag:"lock-timeout" env:"INJECT_LOCK_TIMEOUT" nested:"pass" default:"10s" help:"how long to wait for others who use the store file"`
		LogLevel    string        `flag:"log-level" env:"INJECT_LOG_LEVEL" nested:"pass" default:"warn" help:"what to log on stderr: debug, info, warn, error or off"`
	} `group:"store"`

	// Secrets of the store itself, which have no flag: others can read a command line.
	Keys struct {
		Key   secret.Value `env:"INJECT_KEY" help:"the age identity or the passphrase that opens a store file"`
		Token secret.Value `env:"INJECT_TOKEN" help:"the bearer token for the server in $INJECT_STORE"`
	} `group:"keys"`

	Resolve struct {
		Timeout time.Duration `flag:"resolve-timeout" env:"INJECT_RESOLVE_TIMEOUT" nested:"pass" default:"1m" help:"how long resolving all secrets may take together"`
	} `group:"resolve"`

	Place struct {
		OnConflict string `flag:"on-conflict" env:"INJECT_ON_CONFLICT" nested:"work" choice:"overwrite|keep|error" help:"what to do about a variable that is already set (default: overwrite, or keep for a command of Flyte v1: pyflyte-execute, pyflyte-fast-execute and pyflyte-map-execute)"`
		FilesDir   string `flag:"files-dir" env:"INJECT_FILES_DIR" nested:"pass" arg:"DIR" complete:"dir" help:"DIR in which files appear (default: /etc/flyte/secrets in a container where it can be written, else a private folder)"`
	} `group:"place"`

	Mask struct {
		Texts     []string `flag:"mask" env:"INJECT_MASK" nested:"work" arg:"TEXT" help:"mask this TEXT, too (repeat); all users can read it in the list of processes, but not in $INJECT_MASK"`
		MinLength int      `flag:"redact-min-length" env:"INJECT_REDACT_MIN_LENGTH" nested:"work" default:"6" arg:"BYTES" help:"values shorter than BYTES are not masked"`
	} `group:"mask"`

	Outputs struct {
		NoRedact bool     `flag:"no-redact" env:"INJECT_NO_REDACT" nested:"work" help:"mask nothing, neither output nor uploads; not with --outputs or --storage guard"`
		Dirs     []string `flag:"outputs" env:"INJECT_OUTPUTS" nested:"work" arg:"DIR" complete:"dir" help:"check the files that the command leaves in DIR, too (repeat)"`
		Storage  string   `flag:"storage" env:"INJECT_STORAGE" nested:"work" default:"auto" choice:"auto|guard|off" help:"check what the command writes to its bucket: auto for Flyte's runtimes (a0, pyflyte-execute), guard for any command"`
		OnLeak   string   `flag:"on-leak" env:"INJECT_ON_LEAK" nested:"pass" default:"mask" choice:"mask|fail|warn" help:"what to do about a value in the outputs: mask it, or remove a file in which it cannot be masked; fail, too; or only warn"`
	} `group:"mask"`

	Run struct {
		Grace time.Duration `flag:"grace" env:"INJECT_GRACE" nested:"pass" default:"20s" help:"time from SIGTERM to SIGKILL, once inject is asked to stop"`
	} `group:"run"`

	Message struct {
		TerminationLog string `flag:"termination-log" env:"INJECT_TERMINATION_LOG" nested:"work" arg:"FILE" complete:"file" help:"FILE that gets the reason of a failure as a line of JSON (default: /dev/termination-log if it exists)"`
	} `group:"message"`

	Value struct {
		Text     string `flag:"value" env:"INJECT_VALUE" help:"the value itself (like VALUE, it stays in your shell's history)"`
		FromFile string `flag:"from-file" env:"INJECT_FROM_FILE" arg:"FILE" complete:"file" help:"the bytes of FILE, unchanged; - for stdin"`
	} `group:"value"`

	Many struct {
		FromEnvFile string `flag:"from-env-file" env:"INJECT_FROM_ENV_FILE" arg:"FILE" complete:"file" help:"all secrets of FILE, of lines KEY=value; - for stdin"`
	} `group:"many at once"`

	Upsert struct {
		Upsert bool `flag:"upsert" env:"INJECT_UPSERT" help:"replace the value of a secret that exists"`
	} `group:"value"`

	Type typeSettings `group:"type"`

	NewStore struct {
		Passphrase bool `flag:"passphrase" env:"INJECT_PASSPHRASE" help:"protect a new store by a passphrase, which inject asks for, instead of a key file" hint:"it only says whether a new store gets a passphrase; the passphrase itself goes in INJECT_KEY"`
	} `group:"key of a new store"`

	Get struct {
		Output string `flag:"output" short:"o" env:"INJECT_OUTPUT" default:"table" choice:"table|wide|json|yaml|name" help:"the format of the list"`
	} `group:"output"`

	Known struct {
		Output string `flag:"output" short:"o" env:"INJECT_OUTPUT" default:"text" choice:"text|json|yaml" help:"the format of the answer"`
	} `group:"output"`

	Login struct {
		Device bool `flag:"device" env:"INJECT_DEVICE" help:"show a code to enter in a browser of any machine, and open none here"`
	} `group:"login"`

	Explain struct {
		Output string `flag:"output" short:"o" env:"INJECT_OUTPUT" default:"text" choice:"text|json|yaml|annotations" help:"the format of the explanation"`
	} `group:"output"`

	Init struct {
		CopyTo   string `flag:"copy-to" env:"INJECT_COPY_TO" arg:"PATH" complete:"file" help:"copy this program to PATH, a file or a folder"`
		Files    bool   `flag:"files" env:"INJECT_FILES" help:"place the file secrets in --files-dir (default: /etc/flyte/secrets)"`
		Group    int    `flag:"files-group" env:"INJECT_FILES_GROUP" default:"-1" arg:"GID" help:"let the group GID read them, too (default: the folder's group, where new files get that)"`
		FilesDir string `flag:"files-dir" env:"INJECT_FILES_DIR" arg:"DIR" complete:"dir" help:"DIR for --files"`
	} `group:"prepare"`

	Values struct {
		From string `flag:"values-from" env:"INJECT_VALUES_FROM" arg:"FILE" complete:"file" help:"mask the values in FILE, too: one a line, a JSON array of texts, or a .env file; - for stdin"`
	} `group:"mask"`

	Redact struct {
		Check   bool   `flag:"check" env:"INJECT_CHECK" help:"only tell where values are; exit with 1 if there are any"`
		Output  string `flag:"output" short:"o" env:"INJECT_OUTPUT" default:"text" choice:"text|json" help:"the format of --check"`
		InPlace bool   `flag:"in-place" env:"INJECT_IN_PLACE" help:"replace each file that holds a value by a masked one"`
		Stats   bool   `flag:"stats" env:"INJECT_STATS" help:"tell on stderr what was found: how often, by name and form"`
	} `group:"what to do"`

	// Variables that others set, and inject reads.
	Found struct {
		Secret       string `env:"INJECT_SECRET" help:"read as INJECT_SECRETS is, and added to it"`
		SecretFile   string `env:"INJECT_SECRET_FILE" help:"read as INJECT_SECRET_FILES is, and added to it"`
		Parent       string `env:"INJECT_PARENT" help:"set by inject for its command: which secrets are placed already; package place reads it"`
		DataHome     string `env:"XDG_DATA_HOME" help:"the folder of your own store file, inject/secrets.db (default: ~/.local/share)"`
		ConfigHome   string `env:"XDG_CONFIG_HOME" help:"the folder of your own key file, inject/key.txt (default: ~/.config)"`
		StateHome    string `env:"XDG_STATE_HOME" help:"the folder of your logins, inject/logins (default: ~/.local/state)"`
		Browser      string `env:"BROWSER" help:"the command with which inject login opens an address"`
		SSH          string `env:"SSH_CONNECTION" help:"set over ssh, where inject login opens no browser"`
		Display      string `env:"DISPLAY" help:"set where inject login can open a browser on Linux"`
		Wayland      string `env:"WAYLAND_DISPLAY" help:"the same"`
		DockerConfig string `env:"DOCKER_CONFIG" help:"the folder of docker's config.json (default: ~/.docker)"`
		Terminal     string `env:"TERM" help:"dumb for a terminal on which nothing can be drawn over"`
	} `group:"variables of others"`
}

// typeSettings are the type of a new secret, and the credentials of a registry.
type typeSettings struct {
	Type             string `flag:"type" env:"INJECT_TYPE" default:"regular" choice:"regular|image_pull" help:"image_pull for the credentials of a registry"`
	Registry         string `flag:"registry" env:"INJECT_REGISTRY" help:"image_pull: the registry, such as ghcr.io"`
	Username         string `flag:"username" env:"INJECT_USERNAME" help:"image_pull: the user"`
	Password         string `flag:"password" env:"INJECT_PASSWORD" help:"image_pull: the password (inject asks for it if it is not given)"`
	FromDockerConfig bool   `flag:"from-docker-config" env:"INJECT_FROM_DOCKER_CONFIG" help:"image_pull: the credentials that docker has"`
	DockerConfigPath string `flag:"docker-config-path" env:"INJECT_DOCKER_CONFIG_PATH" arg:"FILE" complete:"file" help:"image_pull: FILE with docker's configuration (default: $DOCKER_CONFIG/config.json, else ~/.docker/config.json)"`
	Registries       string `flag:"registries" env:"INJECT_REGISTRIES" arg:"REGISTRIES" help:"image_pull: only these REGISTRIES of docker's, separated by commas"`
}
