package guard

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"inject/resolver/secret"
)

// The texts that may stand in x-amz-content-sha256 in place of a hash
// (docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html).
const (
	unsignedPayload = "UNSIGNED-PAYLOAD"
	unsignedTrailer = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
	emptyHash       = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

const (
	hashHeader  = "X-Amz-Content-Sha256"
	tokenHeader = "X-Amz-Security-Token" //nolint:gosec // a name
	dateFormat  = "20060102T150405Z"
	maxSkew     = 15 * time.Minute // as S3 itself allows
)

// keyPair is a pair of static keys.
type keyPair struct{ id, secret string }

// s3 is Amazon's S3, or a store that speaks the same. The task gets a random pair of keys, and each of
// its requests must be signed with them, so that nothing else in the pod can write with the task's
// credentials: the guard signs all that it sends with those that the task would have had.
type s3 struct {
	keys        keyPair // of the task
	base        *url.URL
	bucket      place
	region      string // for requests of our own
	platform    keyPair
	credentials *credentials
	// Each keeps the key that it has derived from the last pair, which takes longer than to sign.
	signer, verifier *v4.Signer
	client           *http.Transport
}

// A place is where the bucket stands in the address of a request to the store.
type place int

const (
	inPath place = iota // https://HOST/BUCKET/KEY
	inHost              // https://BUCKET.HOST/KEY
	ofHost              // https://HOST/KEY: the host has one bucket
)

// placeOf returns where the task's own client would put the bucket. The libraries differ about an endpoint
// that is given: that of Flyte v2 (obstore 0.12.1) takes its host for the bucket's. botocore, which flytekit
// (data_persistence.py at 1.16.31) has use this style whatever the text of its variable is, puts the bucket
// in front of it, if it is no IP address.
func placeOf(vars map[string]string, base *url.URL, v1 bool) place {
	if v1 {
		if vars[envStyleV1] != "" && net.ParseIP(base.Hostname()) == nil {
			return inHost
		}
		return inPath
	}
	style := vars[envStyle]
	switch virtual := style == "virtual" || style == "" && truthy(vars["AWS_VIRTUAL_HOSTED_STYLE_REQUEST"]); {
	case !virtual:
		return inPath
	case given(vars) != "":
		return ofHost
	}
	return inHost
}

// newSigner returns a signer of requests to S3.
func newSigner() *v4.Signer {
	return v4.NewSigner(func(o *v4.SignerOptions) {
		o.DisableURIPathEscaping = true // S3 signs a path as it was sent
	})
}

// newS3 returns the upstream that the environment of the task names. It gets the first credentials,
// because a task that cannot upload should not start. v1 is for a task of Flyte v1.
func newS3(ctx context.Context, vars map[string]string, v1 bool) (*s3, error) {
	if err := unguarded(vars); err != nil {
		return nil, err
	}
	base, err := upstream(vars)
	if err != nil {
		return nil, err
	}
	roots, err := authorities(vars["AWS_CA_BUNDLE"])
	if err != nil {
		return nil, err
	}
	s := &s3{
		keys: keyPair{id: "INJECT" + rand.Text()[:14], secret: rand.Text() + rand.Text()},
		base: base, bucket: placeOf(vars, base, v1), region: region(vars),
		platform: keyPair{vars["AWS_ACCESS_KEY_ID"], vars["AWS_SECRET_ACCESS_KEY"]},
		signer:   newSigner(), verifier: newSigner(),
		client: transport(vars, roots),
	}
	s.credentials = newCredentials(vars, s.client)
	if _, err := s.credentials.get(ctx); err != nil {
		return nil, secret.WithHint(
			fmt.Errorf("%w: --storage: credentials for %s: %w", secret.ErrUnavailable, base.Host, err),
			"they are taken from %s, AWS_ACCESS_KEY_ID, AWS_WEB_IDENTITY_TOKEN_FILE,"+
				" AWS_CONTAINER_CREDENTIALS_FULL_URI and the instance's metadata, in this order;"+
				" --storage off starts the task without a check of its outputs",
			envKeyID)
	}
	return s, nil
}

// environ implements [store]. flytekit needs no style: with an IP address it always has the bucket in the path.
func (s *s3) environ(vars map[string]string, address string) map[string]string {
	set := map[string]string{
		envEndpoint: address, envKeyID: s.keys.id, envSecret: s.keys.secret, envStyle: "path",
	}
	if vars[envEndpointS3] != "" { // it wins over envEndpoint
		set[envEndpointS3] = address
	}
	return set
}

// signature is what the header Authorization of a request says.
type signature struct {
	id, date, region, service string
	headers                   []string
	sum                       string
}

// readSignature reads AWS4-HMAC-SHA256 Credential=ID/DATE/REGION/SERVICE/aws4_request,
// SignedHeaders=A;B, Signature=HEX.
func readSignature(text string) (s signature, ok bool) {
	const scheme = "AWS4-HMAC-SHA256"
	rest, ok := strings.CutPrefix(text, scheme)
	if !ok {
		return s, false
	}
	for field := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		switch name {
		case "Credential":
			parts := strings.Split(value, "/")
			if len(parts) != 5 || parts[4] != "aws4_request" {
				return s, false
			}
			s.id, s.date, s.region, s.service = parts[0], parts[1], parts[2], parts[3]
		case "SignedHeaders":
			s.headers = strings.Split(value, ";")
		case "Signature":
			s.sum = value
		}
	}
	return s, s.id != "" && s.sum != "" && slices.Contains(s.headers, "host")
}

// verify reports whether r is signed with pair, by signing it again.
func (s *s3) verify(r *http.Request, sig signature, pair keyPair) bool {
	date, err := time.Parse(dateFormat, r.Header.Get("X-Amz-Date"))
	if err != nil || time.Since(date).Abs() > maxSkew || date.Format("20060102") != sig.date {
		return false
	}
	again := &http.Request{Method: r.Method, Host: r.Host, URL: r.URL, Header: http.Header{}}
	for _, name := range sig.headers {
		switch name {
		case "host":
		case "content-length":
			again.ContentLength = r.ContentLength
		default:
			again.Header[http.CanonicalHeaderKey(name)] = slices.Clone(r.Header.Values(name))
		}
	}
	hash := cmp.Or(r.Header.Get(hashHeader), emptyHash)
	err = s.verifier.SignHTTP(r.Context(), aws.Credentials{AccessKeyID: pair.id, SecretAccessKey: pair.secret},
		again, hash, sig.service, sig.region, date)
	if err != nil {
		return false
	}
	want, ok := readSignature(again.Header.Get("Authorization"))
	return ok && hmac.Equal([]byte(want.sum), []byte(sig.sum))
}

// read implements [store].
func (s *s3) read(r *http.Request) (*request, *refusal) {
	req := &request{
		Request: r, store: s, object: object{scheme: "s3"}, query: r.URL.Query(), chunked: isChunked(r),
	}
	if refusal := req.locate(r.URL.EscapedPath()); refusal != nil {
		return nil, refusal
	}
	if strings.HasSuffix(req.object.bucket, "--x-s3") {
		return nil, refuse(http.StatusForbidden, "AccessDenied",
			"inject: a directory bucket (S3 Express) cannot be checked: nothing was stored")
	}
	if refusal := req.s3Operation(); refusal != nil {
		return nil, refusal
	}
	if r.Header.Get("Authorization") == "" && req.query.Get("X-Amz-Signature") == "" &&
		(r.Method == http.MethodGet || r.Method == http.MethodHead) {
		req.plain = true
		return req, nil
	}
	sig, ok := readSignature(r.Header.Get("Authorization"))
	if !ok {
		return nil, refuse(http.StatusForbidden, "AccessDenied",
			"inject: the request is not signed in its header Authorization (AWS4-HMAC-SHA256)")
	}
	req.region = sig.region
	for _, pair := range []keyPair{s.keys, s.platform} {
		if pair.id == "" || pair.id != sig.id {
			continue
		}
		if s.verify(r, sig, pair) {
			return req, nil
		}
		return nil, refuse(http.StatusForbidden, "SignatureDoesNotMatch", "inject: the request's signature is wrong")
	}
	return nil, refuse(http.StatusForbidden, "InvalidAccessKeyId",
		"inject: the request is signed with other keys than the task's")
}

// s3Operation finds out what a request in the language of S3 does. All that is not known is a setting.
func (r *request) s3Operation() *refusal {
	write, refusal := isWrite(r.Method)
	if refusal != nil {
		return refusal
	}
	_, upload := r.query["uploadId"]
	_, part := r.query["partNumber"]
	_, begins := r.query["uploads"]
	_, deletes := r.query["delete"]
	copies := r.Header.Get("X-Amz-Copy-Source") != "" || r.Header.Get("X-Goog-Copy-Source") != ""
	if write && copies && r.ContentLength != 0 { // a store that does not know the header would take it for an object
		return refuse(http.StatusBadRequest, "InvalidRequest", "inject: a copy has a body")
	}
	r.upload = r.query.Get("uploadId")
	if upload && r.upload == "" {
		return refuse(http.StatusBadRequest, "InvalidArgument", "inject: the upload has no id")
	}
	post := r.Method == http.MethodPost
	switch {
	case !write && upload && r.Method == http.MethodDelete:
		r.op = opAbort
	case !write, post && r.object.key == "" && deletes:
		r.op = opPass
	case post && begins:
		r.op = opBegin
	case post && upload:
		r.op = opComplete
	case part && upload:
		r.op = opPart
		if copies {
			r.op = opCopyPart
		}
		n, err := strconv.Atoi(r.query.Get("partNumber"))
		if err != nil || n < 1 || n > maxParts {
			return refuse(http.StatusBadRequest, "InvalidArgument",
				"inject: a part's number is from 1 to %d", maxParts)
		}
		r.number = n
	case copies:
		r.op = opPass
	case !post && r.object.key != "" && only(r.query, "x-id"): // some SDKs name the operation there
		r.op = opPut
	default:
		r.op = opSetting
	}
	return nil
}

// send implements [store].
func (s *s3) send(ctx context.Context, out sending) (*http.Response, error) {
	u := *s.base
	at := "/" + out.object.bucket + out.path
	if s.bucket != inPath && out.object.bucket != "" {
		at = cmp.Or(out.path, "/")
	}
	if s.bucket == inHost && out.object.bucket != "" {
		u.Host = out.object.bucket + "." + u.Host
	}
	r, err := outgoing(ctx, &u, at, out)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"Authorization", "X-Amz-Date", hashHeader, tokenHeader} {
		r.Header.Del(name) // they belong to the task's signature
	}
	if !out.plain {
		c, err := s.credentials.get(ctx)
		if err != nil {
			return nil, err
		}
		hash := out.hash
		switch {
		case hash != "":
		case out.length == 0:
			hash = emptyHash
		default:
			hash = unsignedPayload
		}
		r.Header.Set(hashHeader, hash)
		if err := s.signer.SignHTTP(ctx, c, r, hash, "s3", cmp.Or(out.region, s.region), time.Now()); err != nil {
			return nil, err
		}
	}
	return s.client.RoundTrip(r)
}

// changed implements [store].
func (s *s3) changed(out *sending, b []byte) {
	sent := false
	for name := range out.header {
		lower := strings.ToLower(name)
		if lower == "content-md5" || lower == "x-amz-sdk-checksum-algorithm" ||
			strings.HasPrefix(lower, "x-amz-checksum-") {
			delete(out.header, name)
			sent = true
		}
	}
	h := sha256.Sum256(b)
	out.hash = hex.EncodeToString(h[:])
	if sent { // some buckets demand one
		out.header.Set("X-Amz-Checksum-Sha256", base64.StdEncoding.EncodeToString(h[:]))
	}
}

// abort implements [store].
func (s *s3) abort(ctx context.Context, u *upload) error {
	return aborted(s.send(ctx, sending{
		method: http.MethodDelete, object: u.object, path: u.path, region: u.region, hash: emptyHash,
		query: "uploadId=" + url.QueryEscape(u.id),
	}))
}

// put implements [store].
func (s *s3) put(ctx context.Context, to object, b []byte) error {
	out := own(to, b)
	out.hash = sum(b)
	return done(s.send(ctx, out))
}
