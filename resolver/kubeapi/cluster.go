package kubeapi

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"inject/resolver/secret"
)

// Options say which cluster is called, and as which user.
type Options struct {
	// Kubeconfig is the path of a kubeconfig, in the format of kubectl. If it is empty, this process
	// runs in a pod, and calls the cluster of that pod as its service account.
	Kubeconfig string
	// Context is the context of the kubeconfig; empty: its current one.
	Context string
	// Namespace is the namespace that [Cluster.Namespace] returns; empty: that of the context, or that
	// of the pod.
	Namespace string
}

// A Cluster is how an API server is reached. It is safe for concurrent use.
type Cluster struct {
	config    *rest.Config
	namespace string
	who       string // for errors: where the credentials are from
}

const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// quiet keeps client-go from writing to standard error: its log has the server's warnings and, at a high
// level, the bodies of answers.
var quiet = sync.OnceFunc(func() { klog.SetLogger(logr.Discard()) })

// Find reads how the API server is reached, and does not call it. The error wraps
// [secret.ErrInvalid] if the kubeconfig or one of its parts does not exist or cannot be read.
func Find(o Options) (*Cluster, error) {
	quiet()
	c := &Cluster{namespace: o.Namespace}
	err := c.inPod()
	if o.Kubeconfig != "" {
		err = c.fromFile(o)
	}
	if err != nil {
		return nil, err
	}
	c.config.QPS = -1 // no limit: client-go's of 5 a second lets callers wait for minutes, and the server has fairness
	c.config.UserAgent = "inject"
	return c, nil
}

func (c *Cluster) inPod() error {
	config, err := rest.InClusterConfig()
	if err != nil {
		return secret.WithHint(
			fmt.Errorf("%w: Kubernetes: this process is in no pod with a service account: %w", secret.ErrInvalid, err),
			"outside of a cluster name a kubeconfig: kube://NAMESPACE?kubeconfig=PATH")
	}
	c.config, c.who = config, "the service account of this pod"
	if c.namespace == "" {
		b, err := os.ReadFile(namespaceFile)
		if err != nil {
			return fmt.Errorf("%w: Kubernetes: the namespace of this pod: %w", secret.ErrInvalid, err)
		}
		c.namespace = strings.TrimSpace(string(b))
	}
	return nil
}

func (c *Cluster) fromFile(o Options) error {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: o.Kubeconfig}
	file, err := rules.Load()
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: kubeconfig %s: %w", secret.ErrInvalid, o.Kubeconfig, errors.Unwrap(err))
	case err != nil: // may quote what it cannot parse
		return secret.WithHint(fmt.Errorf("%w: kubeconfig %s cannot be parsed", secret.ErrInvalid, o.Kubeconfig),
			"kubectl --kubeconfig %s config view shows why", o.Kubeconfig)
	}
	name := o.Context
	if name == "" {
		name = file.CurrentContext
	}
	if _, ok := file.Contexts[name]; !ok {
		return secret.WithHint(
			fmt.Errorf("%w: kubeconfig %s has no context %q", secret.ErrInvalid, o.Kubeconfig, name),
			"kubectl --kubeconfig %s config get-contexts lists them", o.Kubeconfig)
	}
	config := clientcmd.NewNonInteractiveClientConfig(*file, name, &clientcmd.ConfigOverrides{}, rules)
	if c.config, err = config.ClientConfig(); err != nil {
		if used := file.Clusters[file.Contexts[name].Cluster]; used != nil && used.ProxyURL != "" {
			err = errors.New("its proxy-url or another part is not valid") // client-go quotes it with its password
		}
		return fmt.Errorf("%w: kubeconfig %s, context %s: %w", secret.ErrInvalid, o.Kubeconfig, name, err)
	}
	c.who = fmt.Sprintf("context %s of %s", name, o.Kubeconfig)
	if err := checkServer(c.config); err != nil {
		return fmt.Errorf("%w: kubeconfig %s, context %s: %w", secret.ErrInvalid, o.Kubeconfig, name, err)
	}
	if c.namespace == "" {
		c.namespace, _, err = config.Namespace()
	}
	return err
}

// checkServer returns an error unless values may be sent to the server of a kubeconfig, and errors may name its
// address, which must have no password for that.
func checkServer(config *rest.Config) error {
	u, _, err := rest.DefaultServerUrlFor(config)
	switch {
	case err != nil:
		return errors.New("the server is not a URL")
	case u.User != nil:
		return errors.New("the address of the server has a user, which belongs under users")
	case u.Scheme == "http" && u.Hostname() != "localhost" && !net.ParseIP(u.Hostname()).IsLoopback():
		return secret.WithHint(errors.New("the address of the server has http://, which would send values over the "+
			"network in the clear"), "only this machine may be named so; use https://%s", u.Host)
	}
	return nil
}

// Namespace returns the namespace of [Options], never "".
func (c *Cluster) Namespace() string { return c.namespace }

// Host returns the address of the API server.
func (c *Cluster) Host() string { return c.config.Host }

// String names the credentials, for messages.
func (c *Cluster) String() string { return c.who }

// expired returns a sentence on the certificate with which this process authenticates, if it has
// expired, and "" otherwise.
func (c *Cluster) expired() string {
	text := c.config.CertData
	if len(text) == 0 && c.config.CertFile != "" {
		text, _ = os.ReadFile(c.config.CertFile) // one that cannot be read is reported by the call
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return ""
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || time.Now().Before(cert.NotAfter) {
		return ""
	}
	return "the client certificate expired on " + cert.NotAfter.UTC().Format(time.RFC3339)
}

// A Client calls the API server of a cluster. It is safe for concurrent use.
type Client struct {
	cluster  *Cluster
	http     *http.Client
	callTime time.Duration
	slots    chan struct{} // one for each call under way
	clock    *clock

	mu     sync.Mutex
	groups map[schema.GroupVersion]*rest.RESTClient
}

// Connect returns a client with connections of its own. At most limit of its calls are under way,
// further ones wait. It does not call the server. The caller closes it.
func (c *Cluster) Connect(limit int) (*Client, error) {
	config := rest.CopyConfig(c.config)
	// client-go shares connections among clients that have the same Dial, and it compares pointers to it.
	config.Dial = (&net.Dialer{Timeout: dialTime, KeepAlive: dialTime}).DialContext
	clock := &clock{}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return limited{next, clock} })
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("%w: Kubernetes: %s: %w", secret.ErrInvalid, c.who, err)
	}
	// client-go would send the credentials and the value to wherever an answer leads.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if p := config.ExecProvider; p != nil {
		client.Transport = &credentialed{client.Transport, p.Command, make(chan struct{}, limit)}
	}
	return &Client{
		cluster: c, http: client, callTime: maxCall, slots: make(chan struct{}, limit), clock: clock,
		groups: map[schema.GroupVersion]*rest.RESTClient{},
	}, nil
}

const dialTime = 10 * time.Second

// Close closes the connections that are not in use.
func (c *Client) Close() error {
	utilnet.CloseIdleConnectionsFor(c.http.Transport)
	return nil
}

// group returns the client of one group of the API.
func (c *Client) group(g schema.GroupVersion) (*rest.RESTClient, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, ok := c.groups[g]; ok {
		return r, nil
	}
	config := rest.CopyConfig(c.cluster.config)
	config.GroupVersion, config.APIPath = &g, "/apis"
	if g.Group == "" {
		config.APIPath = "/api"
	}
	const protobuf = "application/vnd.kubernetes.protobuf"
	config.ContentType, config.AcceptContentTypes = protobuf, protobuf+",application/json"
	config.NegotiatedSerializer = codecs.WithoutConversion()
	r, err := rest.RESTClientForConfigAndClient(config, c.http)
	if err != nil {
		return nil, fmt.Errorf("%w: Kubernetes: %s: %w", secret.ErrInvalid, c.cluster.who, err)
	}
	c.groups[g] = r
	return r, nil
}

// enter waits until a call may begin. The caller calls leave once if err is nil.
func (c *Client) enter(ctx context.Context) (leave func(), err error) {
	select {
	case c.slots <- struct{}{}:
		return func() { <-c.slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
