package guard

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"inject/resolver/secret"
)

// The variables by which obstore finds Azure's store (object_store 0.14 src/azure/builder.rs). It takes
// any spelling of what follows AZURE_.
const (
	envAccount       = "AZURE_STORAGE_ACCOUNT_NAME"
	envAzure         = "AZURE_STORAGE_ENDPOINT"
	envAzureKey      = "AZURE_STORAGE_ACCOUNT_KEY"
	envAzureHTTP     = "AZURE_ALLOW_HTTP"
	envEmulator      = "AZURE_STORAGE_USE_EMULATOR"
	envFabric        = "AZURE_USE_FABRIC_ENDPOINT"
	azureDomain      = ".blob.core.windows.net"
	maxBatch         = 256 // requests, as in Azure
	maxBlocks        = 50_000
	headerCopySource = "X-Ms-Copy-Source"
)

var (
	envAzureNames    = []string{envAzure, "AZURE_ENDPOINT"}
	envAzureKeyNames = []string{envAzureKey, "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_MASTER_KEY"}
)

// isAccount reports whether a text has the form of an account's name, which becomes a part of a host's
// name (learn.microsoft.com/azure/storage/common/storage-account-overview).
func isAccount(text string) bool {
	return len(text) >= 3 && len(text) <= 24 && strings.Trim(text, lowers) == ""
}

// azure is Azure Blob Storage (learn.microsoft.com/rest/api/storageservices/blob-service-rest-api).
//
// A request with a token, or with a shared access signature, carries what the task has by itself, and
// passes with it as in [gcs]. Where the platform gives the task the key of the account, the task gets a
// random one instead: what it signs with that is only of use here, and the guard signs it again. So
// clients of the task's own that take the key from the same variable, and do not come through the
// guard, are refused by the store.
//
// A blob in parts consists of blocks with names. A list of names joins them, in its own order, and may
// leave some out: those never become a part of a blob. So where blocks meet is known, and searched,
// only when the list comes; but for names that are numbers, which have to be listed in their order if they
// meet. Azure drops blocks that no list has named after a week, and has no request to drop them earlier.
type azure struct {
	door
	account  string
	key      secret.Value // of the task; empty if the platform has none
	platform secret.Value // of the account
	base     *url.URL
	client   *http.Transport
}

// newAzure returns the store that the environment names. account is that of the command's addresses,
// which a variable of the SDK's takes precedence of.
func newAzure(vars map[string]string, account string) (*azure, error) {
	for _, name := range []string{envEmulator, envFabric} {
		spelled, text, err := one(vars, "AZURE_", name)
		if err != nil {
			return nil, err
		}
		if truthy(text) {
			return nil, refusedStart(spelled, "it names a server that "+envAzure+" does not lead away from")
		}
	}
	account = cmp.Or(vars[envAccount], account)
	if !isAccount(account) {
		return nil, refusedStart(envAccount, "it has no name of an account")
	}
	name, text, err := one(vars, "AZURE_", envAzureNames...)
	if err != nil {
		return nil, err
	}
	base, err := serverAt(name, cmp.Or(text, "https://"+account+azureDomain))
	if err != nil {
		return nil, err
	}
	s := &azure{door: newDoor(), account: account, base: base, client: transport(vars, nil)}
	if name, text, err = one(vars, "AZURE_", envAzureKeyNames...); err != nil {
		return nil, err
	}
	if text != "" {
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(key) == 0 {
			return nil, refusedStart(name, "it is not a key in base64")
		}
		random := make([]byte, 64) // as those of Azure
		_, _ = rand.Read(random)   // it never fails
		s.platform, s.key = secret.NewValue(key), secret.NewValue(random)
	}
	return s, nil
}

// environ implements [store].
func (s *azure) environ(vars map[string]string, address string) map[string]string {
	set := spellings(vars, "AZURE_", append(slices.Clone(envAzureNames), envAzureHTTP)...)
	if s.key.Len() > 0 {
		for name := range spellings(vars, "AZURE_", envAzureKeyNames...) {
			set[name] = ""
		}
		set[envAzureKey] = base64.StdEncoding.EncodeToString(s.key.Reveal())
	}
	set[envAzure], set[envAzureHTTP] = address+s.path, "true"
	return set
}

// sasNames are the parameters of a shared access signature
// (learn.microsoft.com/rest/api/storageservices/create-account-sas, create-service-sas,
// create-user-delegation-sas).
var sasNames = []string{
	"sv", "ss", "srt", "sp", "st", "se", "sip", "spr", "sr", "si", "sig", "sdd", "ses", "skoid", "sktid", "skt", "ske",
	"sks", "skv", "saoid", "suoid", "scid",
}

// azureSettings are the writes, by the parameter comp, whose bodies are small documents or empty.
var azureSettings = []string{
	"acl", "copy", "expiry", "immutabilityPolicies", "lease", "legalhold", "metadata", "properties", "snapshot", "tags",
	"tier", "undelete",
}

// read implements [store].
func (s *azure) read(r *http.Request) (*request, *refusal) {
	req := &request{Request: r, store: s, object: object{scheme: "abfss"}, query: r.URL.Query()}
	header, sas := r.Header.Get("Authorization"), url.Values{}
	for _, name := range sasNames {
		if values := req.query[name]; len(values) > 0 && req.query.Get("sig") != "" {
			sas[name] = values
		}
	}
	signed := strings.HasPrefix(header, "SharedKey")
	if signed {
		header = "" // it is good for one request only
	}
	escaped, refusal := s.enter(r, header, sas.Encode())
	if refusal == nil && signed {
		refusal = s.verify(r)
	}
	if refusal == nil {
		refusal = req.locate(escaped)
	}
	if refusal == nil {
		refusal = s.operation(req)
	}
	if refusal != nil {
		return nil, refusal
	}
	return req, nil
}

// operation finds out what a request does, and refuses the kinds of writes that the guard cannot check:
// blobs that grow or that are written in pages, and requests to a file system (Data Lake).
func (s *azure) operation(r *request) *refusal {
	write, refusal := isWrite(r.Method)
	if !write || refusal != nil {
		return refusal
	}
	cannot := refuse(http.StatusForbidden, "AccessDenied",
		"inject: a request of this kind cannot be checked: nothing was stored")
	comp, put := r.query.Get("comp"), r.Method == http.MethodPut
	copies := r.Header.Get(headerCopySource) != ""
	if copies && r.ContentLength != 0 { // a kind of write that does not know the header would store it
		return cannot
	}
	// The addresses of the task's own copies lead to the guard.
	if rest, ok := strings.CutPrefix(r.Header.Get(headerCopySource), "http://"+r.Host+s.path); ok {
		r.Header.Set(headerCopySource, s.base.String()+rest)
	}
	switch {
	case r.Header.Get("X-Ms-Structured-Body") != "": // frames, as those of aws-chunked
		return cannot
	case !put && comp == "batch":
		r.op, r.rewrite = opSetting, func(body []byte) ([]byte, error) { return s.batch(r, body) }
	case !put:
		return cannot
	case comp == "block":
		if r.op = opPart; copies {
			r.op = opCopyPart
		}
		if r.block = r.query.Get("blockid"); r.block == "" || len(r.block) > 88 { // 64 bytes in base64
			return refuse(http.StatusBadRequest, "InvalidQueryParameterValue", "inject: the block has no valid blockid")
		}
		r.number = blockNumber(r.block)
	case comp == "blocklist":
		r.op = opComplete
	case slices.Contains(azureSettings, comp), comp == "" && r.query.Get("restype") == "container":
		r.op = opSetting
	case comp != "" || r.object.key == "" || r.query.Has("resource"):
		return cannot
	case copies:
		r.op = opPass
	case r.Header.Get("X-Ms-Blob-Type") == "BlockBlob":
		r.op = opPut
	default:
		return cannot
	}
	return nil
}

// blockNumber returns the number, from 1, of a block whose name is its place in the blob, as in object_store
// and thus in the SDK; 0 for another name.
func blockNumber(name string) int {
	text, _ := base64.StdEncoding.DecodeString(name) // a name that is none has no number
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || n < 0 || n >= maxBlocks {
		return 0
	}
	return n + 1
}

// send implements [store].
func (s *azure) send(ctx context.Context, out sending) (*http.Response, error) {
	at := "/" + out.object.bucket + out.path
	if out.object.bucket == "" {
		at = "/"
	}
	r, err := outgoing(ctx, s.base, at, out)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(r.Header.Get("Authorization"), "SharedKey") {
		s.sign(r)
	}
	return s.client.RoundTrip(r)
}

// sign signs a request with the key of the account.
func (s *azure) sign(r *http.Request) {
	r.Header.Del("Date")
	r.Header.Set("X-Ms-Date", time.Now().UTC().Format(http.TimeFormat))
	r.Header.Set("Authorization", "SharedKey "+s.account+":"+sharedKey(r, s.account, s.platform))
}

// verify refuses a request that is not signed with the task's key.
func (s *azure) verify(r *http.Request) *refusal {
	account, sum, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Authorization"), "SharedKey "), ":")
	date, err := http.ParseTime(cmp.Or(r.Header.Get("X-Ms-Date"), r.Header.Get("Date")))
	switch {
	case account != s.account:
		return refuse(http.StatusForbidden, "AuthenticationFailed",
			"inject: the request is for the account %.24q, and the guard stands in front of %s", account, s.account)
	case s.key.Len() == 0 || err != nil || time.Since(date).Abs() > maxSkew ||
		!hmac.Equal([]byte(sum), []byte(sharedKey(r, account, s.key))):
		return refuse(http.StatusForbidden, "AuthenticationFailed", "inject: the request's signature is wrong")
	}
	return nil
}

// changed implements [store].
func (s *azure) changed(out *sending, _ []byte) {
	for _, name := range []string{"Content-Md5", "X-Ms-Content-Crc64", "X-Ms-Blob-Content-Md5"} {
		out.header.Del(name)
	}
}

// abort implements [store]. Azure has no such request.
func (s *azure) abort(context.Context, *upload) error { return nil }

// put implements [store].
func (s *azure) put(ctx context.Context, to object, b []byte) error {
	out := own(to, b)
	out.header.Set("X-Ms-Blob-Type", "BlockBlob")
	out.header.Set("X-Ms-Version", azureVersion)
	if s.platform.Len() > 0 {
		out.header.Set("Authorization", "SharedKey") // send signs it
	} else if err := s.authorize(&out); err != nil {
		return err
	}
	return done(s.send(ctx, out))
}

// batch returns a batch of deletions as it goes to the store: each of them has an address and a
// signature of its own (learn.microsoft.com/rest/api/storageservices/blob-batch).
func (s *azure) batch(r *request, body []byte) ([]byte, error) {
	bad := refuse(http.StatusBadRequest, "InvalidInput",
		"inject: the batch cannot be read, or does other things than to delete")
	_, boundary, _ := strings.Cut(r.Header.Get("Content-Type"), "boundary=")
	boundary, _, _ = strings.Cut(boundary, ";")
	if boundary = strings.Trim(boundary, ` "`); boundary == "" {
		return nil, bad
	}
	boundary = "--" + boundary
	var b bytes.Buffer
	pieces := bytes.Split(body, []byte("\r\n"+boundary))
	pieces[0] = bytes.TrimPrefix(pieces[0], []byte(boundary))
	last := len(pieces) - 1
	if last > maxBatch || !bytes.HasPrefix(pieces[last], []byte("--")) {
		return nil, bad
	}
	for _, piece := range pieces[:last] {
		in := bufio.NewReader(bytes.NewReader(bytes.TrimPrefix(piece, []byte("\r\n"))))
		header, err := textproto.NewReader(in).ReadMIMEHeader()
		if err != nil {
			return nil, bad
		}
		one, err := http.ReadRequest(in)
		if err != nil || one.Method != http.MethodDelete || one.ContentLength != 0 {
			return nil, bad
		}
		one.Host = r.Host
		inner, refusal := s.read(one)
		if refusal != nil {
			return nil, refusal
		}
		out, err := outgoing(r.Context(), s.base, "/"+inner.object.bucket+inner.path, sending{
			method: one.Method, query: one.URL.RawQuery, header: one.Header,
		})
		if err != nil {
			return nil, err
		}
		out.Header.Del("User-Agent")
		if strings.HasPrefix(out.Header.Get("Authorization"), "SharedKey") {
			s.sign(out)
		}
		// Azure wants these names in this spelling.
		fmt.Fprintf(&b, "%s\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n"+
			"Content-ID: %s\r\n\r\nDELETE %s HTTP/1.1\r\nContent-Length: 0\r\n",
			boundary, header.Get("Content-Id"), out.URL.RequestURI())
		_ = out.Header.Write(&b) // a buffer takes everything
		b.WriteString("\r\n\r\n")
	}
	b.WriteString(boundary + "--\r\n")
	return b.Bytes(), nil
}
