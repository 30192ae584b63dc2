package guard

import (
	"cmp"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// credentials are those that the task itself would use: the static pair of Flyte's variables, that of
// AWS's, and else the chain of web identity (IRSA), container credentials (EKS Pod Identity) and the
// instance's metadata, which is the order of the library that Flyte's SDK uses (object_store 0.14
// src/aws/builder.rs). The last three end, and are fetched again when 80 % of their time are over.
type credentials struct {
	vars   map[string]string
	client *http.Client
	fetch  func(context.Context) (aws.Credentials, error) // nil for a static pair

	mu    sync.Mutex
	now   aws.Credentials
	fresh time.Time // until when they are not fetched again
}

func newCredentials(vars map[string]string, transport http.RoundTripper) *credentials {
	c := &credentials{vars: vars, client: &http.Client{Transport: transport, Timeout: 10 * time.Second}}
	for _, names := range [][2]string{{envKeyID, envSecret}, {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}} {
		if vars[names[0]] != "" && vars[names[1]] != "" {
			// The SDK's store reads the token of AWS's variables beside Flyte's pair, too.
			c.now = aws.Credentials{
				AccessKeyID: vars[names[0]], SecretAccessKey: vars[names[1]], SessionToken: vars["AWS_SESSION_TOKEN"],
			}
			return c
		}
	}
	switch {
	case vars["AWS_WEB_IDENTITY_TOKEN_FILE"] != "":
		c.fetch = c.webIdentity
	case vars["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"] != "", vars["AWS_CONTAINER_CREDENTIALS_FULL_URI"] != "":
		c.fetch = c.container
	default:
		c.fetch = c.instance
	}
	return c
}

// get returns credentials that are valid now.
func (c *credentials) get(ctx context.Context) (aws.Credentials, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fetch == nil || time.Now().Before(c.fresh) {
		return c.now, nil
	}
	got, err := c.fetch(ctx)
	switch {
	case err == nil && got.AccessKeyID != "" && got.SecretAccessKey != "":
		c.now, c.fresh = got, time.Now().Add(time.Until(got.Expires)*4/5)
		return got, nil
	case time.Now().Before(c.now.Expires): // each attempt may take long, so not every request tries
		c.fresh = time.Now().Add(time.Minute)
		return c.now, nil
	case err == nil:
		err = errors.New("the answer has no keys")
	}
	return aws.Credentials{}, err
}

// webIdentity exchanges the pod's token for credentials of a role
// (docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html).
func (c *credentials) webIdentity(ctx context.Context) (aws.Credentials, error) {
	token, err := os.ReadFile(c.vars["AWS_WEB_IDENTITY_TOKEN_FILE"])
	if err != nil {
		return aws.Credentials{}, err
	}
	at := "https://sts." + region(c.vars) + ".amazonaws.com"
	if strings.HasPrefix(region(c.vars), "cn-") {
		at += ".cn"
	}
	body, err := c.ask(ctx, http.MethodPost, cmp.Or(c.vars["AWS_ENDPOINT_URL_STS"], at), url.Values{
		"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "RoleArn": {c.vars["AWS_ROLE_ARN"]},
		"RoleSessionName":  {cmp.Or(c.vars["AWS_ROLE_SESSION_NAME"], "inject")},
		"WebIdentityToken": {string(token)},
	}.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	if err != nil {
		return aws.Credentials{}, err
	}
	var answer struct {
		Keys struct {
			ID         string    `xml:"AccessKeyId"`
			Secret     string    `xml:"SecretAccessKey"`
			Token      string    `xml:"SessionToken"`
			Expiration time.Time `xml:"Expiration"`
		} `xml:"AssumeRoleWithWebIdentityResult>Credentials"`
	}
	if xml.Unmarshal(body, &answer) != nil {
		return aws.Credentials{}, errors.New("the answer of STS cannot be read")
	}
	k := answer.Keys
	return aws.Credentials{
		AccessKeyID: k.ID, SecretAccessKey: k.Secret, SessionToken: k.Token, Expires: k.Expiration,
	}, nil
}

// container asks the agent of the pod or the task
// (docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html).
func (c *credentials) container(ctx context.Context) (aws.Credentials, error) {
	at := c.vars["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
	if relative := c.vars["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"]; relative != "" {
		at = "http://169.254.170.2" + relative
	}
	token := c.vars["AWS_CONTAINER_AUTHORIZATION_TOKEN"]
	if file := c.vars["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]; file != "" {
		b, err := os.ReadFile(file) //nolint:gosec // the operator names it
		if err != nil {
			return aws.Credentials{}, err
		}
		token = strings.TrimSpace(string(b))
	}
	body, err := c.ask(ctx, http.MethodGet, at, "", "Authorization", token)
	return keysIn(body, err)
}

// instance asks the metadata service, by its version 2
// (docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-security-credentials.html).
func (c *credentials) instance(ctx context.Context) (aws.Credentials, error) {
	at := strings.TrimSuffix(cmp.Or(c.vars["AWS_METADATA_ENDPOINT"], c.vars["AWS_EC2_METADATA_SERVICE_ENDPOINT"],
		"http://169.254.169.254"), "/")
	token, err := c.ask(ctx, http.MethodPut, at+"/latest/api/token", "", "X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "600")
	if err != nil {
		return aws.Credentials{}, err
	}
	at += "/latest/meta-data/iam/security-credentials/"
	ask := func(at string) ([]byte, error) {
		return c.ask(ctx, http.MethodGet, at, "", "X-Aws-Ec2-Metadata-Token", string(token))
	}
	role, err := ask(at)
	if err != nil {
		return aws.Credentials{}, err
	}
	name, _, _ := strings.Cut(strings.TrimSpace(string(role)), "\n")
	return keysIn(ask(at + url.PathEscape(name)))
}

// keysIn reads the answer of an agent or of the metadata service.
func keysIn(body []byte, err error) (aws.Credentials, error) {
	if err != nil {
		return aws.Credentials{}, err
	}
	var k struct {
		AccessKeyID     string `json:"AccessKeyId"`
		SecretAccessKey string
		Token           string
		Expiration      time.Time
	}
	if json.Unmarshal(body, &k) != nil { // its text may have a key in it
		return aws.Credentials{}, errors.New("the answer with the keys cannot be read")
	}
	return aws.Credentials{
		AccessKeyID: k.AccessKeyID, SecretAccessKey: k.SecretAccessKey, SessionToken: k.Token, Expires: k.Expiration,
	}, nil
}

// ask sends a request with one header, if that has a text, and returns the body of an answer with
// success.
func (c *credentials) ask(ctx context.Context, method, at, body, header, text string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, at, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if text != "" {
		r.Header.Set(header, text)
	}
	resp, err := c.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", r.URL.Host, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 64<<10))
}
