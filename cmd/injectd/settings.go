package main

import (
	"time"

	"inject/resolver/secret"
)

// settings are all flags and variables of injectd; see [cli.Settings] for the tags.
//
// A struct tag is one literal, which Go cannot break: these lines are long.
type settings struct {
	Listen struct {
		Address    string        `flag:"listen" env:"INJECTD_LISTEN" was:"INJECT_LISTEN" default:"127.0.0.1:8093" arg:"HOST:PORT" help:"HOST:PORT to serve on"`
		Ops        string        `flag:"ops-listen" env:"INJECTD_OPS_LISTEN" was:"INJECT_OPS_LISTEN" default:"127.0.0.1:8094" arg:"HOST:PORT" help:"HOST:PORT of /livez, /readyz and /metrics; empty for none"`
		Cluster    string        `flag:"cluster-name" env:"INJECTD_CLUSTER_NAME" was:"INJECT_CLUSTER_NAME" default:"inject" help:"the name that Flyte's clients are told for the cluster with the secrets"`
		Drain      time.Duration `flag:"drain" env:"INJECTD_DRAIN" was:"INJECT_DRAIN" default:"25s" help:"time for requests that have begun when the server is asked to stop"`
		DrainDelay time.Duration `flag:"drain-delay" env:"INJECTD_DRAIN_DELAY" was:"INJECT_DRAIN_DELAY" default:"0s" help:"time from not being ready to taking no more connections, so that load balancers learn of it"`
	} `group:"listen"`

	Audit struct {
		Log string `flag:"audit-log" env:"INJECTD_AUDIT_LOG" was:"INJECT_AUDIT_LOG" default:"-" arg:"FILE" complete:"file" help:"FILE to append the audit log to; - is stdout of serve, and none of other verbs"`
	} `group:"audit"`

	File struct {
		Store   string `flag:"store" env:"INJECTD_STORE" was:"INJECT_STORE" shared:"yes" arg:"URL" help:"URL of the store: file:///PATH, dir:///PATH, kube://NAMESPACE (default: your own sealed file)"`
		KeyFile string `flag:"key-file" env:"INJECTD_KEY_FILE" was:"INJECT_KEY_FILE" shared:"yes" arg:"FILE" complete:"file" help:"FILE with the age identities that open the store (default: your own); $INJECTD_KEY may hold the identity or the passphrase itself"`
	} `group:"store"`

	// Wait is for verbs that open other stores than that of File, too.
	Wait struct {
		LockTimeout time.Duration `flag:"lock-timeout" env:"INJECTD_LOCK_TIMEOUT" was:"INJECT_LOCK_TIMEOUT" shared:"yes" default:"5s" help:"how long to wait for others who use the store file"`
		LogLevel    string        `flag:"log-level" env:"INJECTD_LOG_LEVEL" was:"INJECT_LOG_LEVEL" shared:"yes" default:"info" help:"what to log on stderr: debug, info, warn, error or off"`
	} `group:"store"`

	// Served is what a store that is served needs besides File.
	Served struct {
		Passphrase bool `flag:"passphrase" env:"INJECTD_PASSPHRASE" was:"INJECT_PASSPHRASE" shared:"yes" help:"protect a new store by the passphrase in $INJECTD_KEY instead of by a key file" hint:"it only says whether a new store gets a passphrase; the passphrase itself goes in INJECTD_KEY"`
	} `group:"store"`

	Org struct {
		Name string `flag:"org" env:"INJECTD_ORG" was:"INJECT_ORG" shared:"yes" default:"flyte" help:"the organization of all secrets, whichever a request that manages secrets names"`
	} `group:"orgs"`

	Orgs struct {
		Which string `flag:"orgs" env:"INJECTD_ORGS" default:"one" arg:"WHICH" choice:"one|requested" help:"WHICH organizations there are: one, that of --org, or those that are requested"`
	} `group:"orgs"`

	Access accessSettings `group:"access"`

	Limits struct {
		Connections int     `flag:"max-connections" env:"INJECTD_MAX_CONNECTIONS" was:"INJECT_MAX_CONNECTIONS" default:"12000" help:"connections at the same time; more wait"`
		OfIdentity  int     `flag:"max-identity-connections" env:"INJECTD_MAX_IDENTITY_CONNECTIONS" default:"0" help:"connections of one identity at the same time; for one more an idle one is closed; 0 for 1000, but at most a quarter of --max-connections"`
		Bodies      int     `flag:"max-identity-bodies" env:"INJECTD_MAX_IDENTITY_BODIES" default:"8388608" arg:"BYTES" help:"BYTES of request bodies of one identity that are held at the same time: from 4194304, which the largest body takes, to 33554432, which all identities share"`
		Resolves    int     `flag:"max-identity-resolves" env:"INJECTD_MAX_IDENTITY_RESOLVES" default:"8" help:"declared lists of one identity that are resolved at the same time, each 256 keys of a list counting as one more: at most 64, which all identities share"`
		Lists       int     `flag:"max-identity-lists" env:"INJECTD_MAX_IDENTITY_LISTS" default:"2" help:"lists of secrets of one identity that are read at the same time: at most 8, which all identities share"`
		Streams     int     `flag:"max-streams" env:"INJECTD_MAX_STREAMS" was:"INJECT_MAX_STREAMS" default:"100" help:"requests at the same time on one connection"`
		Rate        float64 `flag:"rate" env:"INJECTD_RATE" was:"INJECT_RATE" default:"5000" help:"keys a second that one identity may ask for in the long run, a request being one at least; 0 for any number"`
		Burst       int     `flag:"rate-burst" env:"INJECTD_RATE_BURST" was:"INJECT_RATE_BURST" default:"60000" help:"keys that one identity may ask for at once"`
		AuditRate   int     `flag:"audit-rate" env:"INJECTD_AUDIT_RATE" was:"INJECT_AUDIT_RATE" default:"2097152" arg:"BYTES" help:"BYTES of the audit log a second that one identity may cause in the long run; 0 for any number"`
		AuditBurst  int     `flag:"audit-burst" env:"INJECTD_AUDIT_BURST" was:"INJECT_AUDIT_BURST" default:"33554432" arg:"BYTES" help:"BYTES of the audit log that one identity may cause at once"`
	} `group:"limits"`

	// Health is what injectd health asks.
	Health struct {
		Ops string `flag:"ops-listen" env:"INJECTD_OPS_LISTEN" was:"INJECT_OPS_LISTEN" default:"127.0.0.1:8094" arg:"HOST:PORT" help:"HOST:PORT of the server's port for operations"`
	} `group:"ask"`

	Doctor struct {
		StoreOnly bool `flag:"store-only" env:"INJECTD_STORE_ONLY" was:"INJECT_STORE_ONLY" help:"check the store and its key, and nothing else"`
	} `group:"doctor"`

	// Cluster is for doctor --kube.
	Cluster struct {
		Look           bool     `flag:"kube" env:"INJECTD_KUBE" help:"check the cluster in which tasks run, and nothing else"`
		Kubeconfig     string   `flag:"kubeconfig" env:"INJECTD_KUBECONFIG" arg:"FILE" complete:"file" help:"--kube: FILE says how the cluster is reached (default: $KUBECONFIG, else ~/.kube/config if it exists, else as the account of this pod)"`
		Context        string   `flag:"context" env:"INJECTD_CONTEXT" arg:"NAME" help:"--kube: the context NAME of that file (default: its current one)"`
		TaskNamespaces []string `flag:"task-namespace" env:"INJECTD_TASK_NAMESPACE" twin:"words" arg:"NAME" help:"--kube: the namespace NAME has tasks, too (repeat; default: those of the policies)"`
		Subjects       []string `flag:"subject" env:"INJECTD_SUBJECT" twin:"words" arg:"SUBJECT" help:"--kube: ask the API server what SUBJECT may do: user:NAME, group:NAME or account:NAMESPACE/NAME (repeat)"`
	} `group:"cluster"`

	// Webhook is for injectd webhook.
	Webhook struct {
		Config      string        `flag:"config" env:"INJECTD_CONFIG" arg:"FILE" complete:"file" help:"FILE that says what the pods of tasks get, as the chart writes it"`
		CertFile    string        `flag:"cert-file" env:"INJECTD_CERT_FILE" arg:"FILE" complete:"file" help:"FILE with the server's certificate and those between it and its CA, PEM"`
		CertKeyFile string        `flag:"cert-key-file" env:"INJECTD_CERT_KEY_FILE" arg:"FILE" complete:"file" help:"FILE with its private key, PEM (default: that of --cert-file)"`
		Address     string        `flag:"listen" env:"INJECTD_LISTEN" default:":9443" arg:"HOST:PORT" help:"HOST:PORT to serve on"`
		Ops         string        `flag:"ops-listen" env:"INJECTD_OPS_LISTEN" default:"127.0.0.1:8094" arg:"HOST:PORT" help:"HOST:PORT of /livez, /readyz and /metrics; empty for none"`
		Drain       time.Duration `flag:"drain" env:"INJECTD_DRAIN" default:"15s" help:"time for requests that have begun when the server is asked to stop"`
		DrainDelay  time.Duration `flag:"drain-delay" env:"INJECTD_DRAIN_DELAY" default:"0s" help:"time from not being ready to taking no more connections, so that the Service learns of it"`
		LogLevel    string        `flag:"log-level" env:"INJECTD_LOG_LEVEL" default:"info" help:"what to log on stderr: debug, info, warn, error or off"`
	} `group:"webhook"`

	Form struct {
		Output string `flag:"output" short:"o" env:"INJECTD_OUTPUT" was:"INJECT_OUTPUT" shared:"yes" default:"text" arg:"FORM" choice:"text|json" help:"the FORM of what is printed: text or json"`
	} `group:"output"`

	Migrate struct {
		From        string `flag:"from" env:"INJECTD_FROM" arg:"URL" help:"URL of the store that is copied: file:///PATH, dir:///PATH, kube://NAMESPACE?kubeconfig=PATH"`
		FromKeyFile string `flag:"from-key-file" env:"INJECTD_FROM_KEY_FILE" arg:"FILE" complete:"file" help:"FILE with the age identities that open a file:// in --from (default: your own); $INJECTD_KEY may hold the identity or the passphrase itself"`
		To          string `flag:"to" env:"INJECTD_TO" arg:"URL" help:"URL of the store that gets the secrets: file:///PATH, which is made if it does not exist, kube://NAMESPACE?kubeconfig=PATH"`
		ToKeyFile   string `flag:"to-key-file" env:"INJECTD_TO_KEY_FILE" arg:"FILE" complete:"file" help:"FILE with the age identities that open a file:// in --to, or will open a new one (default: your own); $INJECTD_TO_KEY may hold the identity or the passphrase itself (default: $INJECTD_KEY)"`
		Overwrite   string `flag:"overwrite" env:"INJECTD_OVERWRITE" default:"none" arg:"WHICH" choice:"none|older|all" help:"WHICH secrets of the target with another value get the source's: none, those that are older there, or all"`
		DeleteEqual bool   `flag:"delete-equal" env:"INJECTD_DELETE_EQUAL" help:"copy nothing, and delete from --from each secret that --to has with the same value and type"`
		DryRun      bool   `flag:"dry-run" env:"INJECTD_DRY_RUN" help:"change nothing, and print what would be done"`
	} `group:"migrate"`

	// Try is the policy that injectd policy may tries.
	Try struct {
		Policy string `flag:"policy" env:"INJECTD_POLICY" was:"INJECT_POLICY" arg:"FILE" complete:"file" help:"FILE with the policy"`
	} `group:"policy"`

	Rotate struct {
		NewKeyFile string `flag:"new-key-file" env:"INJECTD_NEW_KEY_FILE" was:"INJECT_NEW_KEY_FILE" arg:"FILE" complete:"file" help:"FILE with the age identities that will open the store"`
	} `group:"key"`

	Token struct {
		File string `flag:"tokens-file" env:"INJECTD_TOKENS_FILE" was:"--token-file INJECT_TOKEN_FILE" shared:"yes" arg:"FILE" complete:"file" help:"add the hash to FILE, which is created if it does not exist"`
		Out  string `flag:"out" env:"INJECTD_OUT" was:"INJECT_OUT" arg:"FILE" complete:"file" help:"write the token to the new FILE, which only its owner can read, instead of to stdout"`
	} `group:"token"`

	// What opens the store has no flag: others can read a command line.
	Keys struct {
		Key   secret.Value `env:"INJECTD_KEY" was:"INJECT_KEY" shared:"yes" help:"the age identity or the passphrase that opens the store"`
		ToKey secret.Value `env:"INJECTD_TO_KEY" help:"the age identity or the passphrase of the store in --to of migrate, if it is not that of $INJECTD_KEY"`
	} `group:"keys"`

	// Variables that others set, and injectd reads.
	Found struct {
		DataHome   string `env:"XDG_DATA_HOME" help:"the folder of your own store file, inject/secrets.db (default: ~/.local/share)"`
		ConfigHome string `env:"XDG_CONFIG_HOME" help:"the folder of your own key file, inject/key.txt (default: ~/.config)"`
		Kubeconfig string `env:"KUBECONFIG" help:"the kubeconfig of doctor --kube; one file"`
		GoDebug    string `env:"GODEBUG" help:"settings of Go's runtime; http2debug is taken away, because it would write tokens and values to stderr"`
		GoGC       string `env:"GOGC" help:"by how many percent the memory in use may grow before it is collected, instead of the server's own pace"`
		GoMemLimit string `env:"GOMEMLIMIT" help:"bytes of memory over which Go collects more often, such as 300MiB, or off, instead of the server's own limit"`
	} `group:"variables of others"`
}

// accessSettings say how callers are known and what each may do.
type accessSettings struct {
	CertFile     string        `flag:"cert-file" env:"INJECTD_CERT_FILE" was:"INJECT_CERT_FILE" shared:"yes" arg:"FILE" complete:"file" help:"FILE with the server's certificate and those between it and its CA, PEM"`
	CertKeyFile  string        `flag:"cert-key-file" env:"INJECTD_CERT_KEY_FILE" was:"INJECT_CERT_KEY_FILE" shared:"yes" arg:"FILE" complete:"file" help:"FILE with its private key, PEM (default: that of --cert-file)"`
	Kept         string        `flag:"kube-certificates" env:"INJECTD_KUBE_CERTIFICATES" arg:"FILE" complete:"file" help:"FILE that says which certificates the server makes, publishes and renews in Kubernetes, its own among them (see docs/reference/certificates.md)"`
	KeptConfig   string        `flag:"kube-certificates-kubeconfig" env:"INJECTD_KUBE_CERTIFICATES_KUBECONFIG" arg:"FILE" complete:"file" help:"FILE with the kubeconfig of the API server that has them (default: that of this pod)"`
	ClientCAFile string        `flag:"client-ca-file" env:"INJECTD_CLIENT_CA_FILE" was:"INJECT_CLIENT_CA_FILE" arg:"FILE" complete:"file" help:"FILE with the authorities that sign the certificates of clients, PEM"`
	ClientCRL    string        `flag:"client-crl-file" env:"INJECTD_CLIENT_CRL_FILE" was:"INJECT_CLIENT_CRL_FILE" arg:"FILE" complete:"file" help:"FILE with lists of revoked client certificates (CRL), PEM or DER"`
	JWT          []string      `flag:"jwt" env:"INJECTD_JWT" was:"INJECT_JWT" twin:"words" arg:"issuer=URL,audience=TEXT,keys=FILE|URL" help:"an issuer of tokens (repeat): issuer=URL,audience=TEXT,keys=FILE|URL[,ca=FILE][,token=FILE][,algorithms=RS256+ES256]; the variable may hold several, separated by white space"`
	Login        string        `flag:"login" env:"INJECTD_LOGIN" arg:"client-id=ID" help:"how Flyte's clients and inject login get a token: client-id=ID[,issuer=URL][,audience=TEXT][,scopes=A+B][,redirect-uri=URL]; the issuer may be left out if there is one --jwt"`
	TokenFile    string        `flag:"tokens-file" env:"INJECTD_TOKENS_FILE" was:"--token-file INJECT_TOKEN_FILE" shared:"yes" arg:"FILE" complete:"file" help:"FILE with names and hashes of tokens, as injectd token makes them"`
	Pods         string        `flag:"kube-identity" env:"INJECTD_KUBE_IDENTITY" arg:"FILE" complete:"file" help:"FILE that names the admission policies which vouch for pods of Kubernetes; their tokens for the audience inject are then accepted (see docs/reference/pods.md)"`
	PodsConfig   string        `flag:"kube-identity-kubeconfig" env:"INJECTD_KUBE_IDENTITY_KUBECONFIG" arg:"FILE" complete:"file" help:"FILE with the kubeconfig of the API server that --kube-identity asks (default: that of this pod)"`
	PodsMargin   time.Duration `flag:"kube-identity-margin" env:"INJECTD_KUBE_IDENTITY_MARGIN" default:"1m" help:"by how much a pod must be younger than the admission policies: API servers take a moment to know of them"`
	PodsAnyway   bool          `flag:"kube-accept-unprotected" env:"INJECTD_KUBE_ACCEPT_UNPROTECTED" help:"serve pods although others may reach their secrets: each user of a task namespace with the role edit, or a pod that reaches its node"`
	Policy       string        `flag:"policy" env:"INJECTD_POLICY" was:"INJECT_POLICY" arg:"FILE" complete:"file" help:"FILE that says which identity may do what where (see docs/reference/policy.md)"`
	Insecure     bool          `flag:"insecure" env:"INJECTD_INSECURE" was:"INJECT_INSECURE" help:"for development: no TLS, and everyone on this machine may do everything"`
}
