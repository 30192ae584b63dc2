package guard

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"inject/resolver/secret"
)

// The variables by which obstore finds Google's store (object_store 0.14 src/gcp/builder.rs). It takes
// any spelling of what follows GOOGLE_.
const (
	envGoogle       = "GOOGLE_BASE_URL" // wins over the address in the file and the key of an account
	envGoogleKey    = "GOOGLE_SERVICE_ACCOUNT_KEY"
	googleStorage   = "https://storage.googleapis.com"
	maxCredentials  = 1 << 20
	googleResumable = "X-Goog-Resumable"
)

// envGoogleFiles name a file with the key of an account.
var envGoogleFiles = []string{"GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "SERVICE_ACCOUNT"}

// gcs is Google Cloud Storage, by its XML API, which is much like that of S3
// (cloud.google.com/storage/docs/xml-api/reference-methods). Its requests are not signed: they carry a
// token that the task has fetched itself, which passes as it is. So the guard adds nothing to what a
// process could do without it. That other processes of the pod do not come through the guard, and
// have their writes reported as the task's, is seen to by an address that only the task knows.
type gcs struct {
	door
	base   *url.URL
	client *http.Transport
}

// newGCS returns the store that the environment names.
func newGCS(vars map[string]string) (*gcs, error) {
	name, text, err := one(vars, "GOOGLE_", envGoogle)
	if err != nil {
		return nil, err
	}
	if text == "" {
		if name, text, err = googleAccount(vars); err != nil {
			return nil, err
		}
	}
	base, err := serverAt(name, cmp.Or(text, googleStorage))
	if err != nil {
		return nil, err
	}
	return &gcs{door: newDoor(), base: base, client: transport(vars, nil)}, nil
}

// googleAccount returns the address that the key of a service account names, and the variable that
// names the key. The address is for stores other than Google's own.
func googleAccount(vars map[string]string) (name, address string, err error) {
	name, text, err := one(vars, "GOOGLE_", envGoogleKey)
	if err != nil {
		return name, "", err
	}
	for _, file := range envGoogleFiles {
		if text != "" || vars[file] == "" {
			continue
		}
		name = file
		f, err := os.Stat(vars[file])
		if err != nil || f.Size() > maxCredentials {
			return name, "", refusedStart(name, "it names no file with the key of an account")
		}
		b, err := os.ReadFile(vars[file])
		if err != nil {
			return name, "", fmt.Errorf("%w: --storage: %s: %w", secret.ErrInvalid, name, err)
		}
		text = string(b)
	}
	var account struct {
		Address string `json:"gcs_base_url"`
	}
	if text != "" && json.Unmarshal([]byte(text), &account) != nil {
		return name, "", refusedStart(name, "it is not the key of an account, in JSON")
	}
	return name, account.Address, nil
}

// environ implements [store].
func (s *gcs) environ(vars map[string]string, address string) map[string]string {
	set := spellings(vars, "GOOGLE_", envGoogle)
	set[envGoogle] = address + s.path
	return set
}

// read implements [store].
func (s *gcs) read(r *http.Request) (*request, *refusal) {
	req := &request{Request: r, store: s, object: object{scheme: "gs"}, query: r.URL.Query()}
	escaped, refusal := s.enter(r, r.Header.Get("Authorization"), "")
	if refusal == nil {
		refusal = req.locate(escaped)
	}
	if refusal == nil {
		refusal = req.s3Operation()
	}
	if refusal != nil {
		return nil, refusal
	}
	known := req.op != opSetting || r.Method == http.MethodPut && only(req.query, "acl", "tagging", "retention")
	if !known || r.Header.Get(googleResumable) != "" || isChunked(r) || !only(req.query,
		"uploads", "uploadId", "partNumber", "delete", "acl", "tagging", "retention") && req.op != opPass {
		return nil, refuse(http.StatusForbidden, "AccessDenied",
			"inject: a request of this kind cannot be checked: nothing was stored")
	}
	return req, nil
}

// send implements [store].
func (s *gcs) send(ctx context.Context, out sending) (*http.Response, error) {
	r, err := outgoing(ctx, s.base, "/"+out.object.bucket+out.path, out)
	if err != nil {
		return nil, err
	}
	return s.client.RoundTrip(r)
}

// changed implements [store].
func (s *gcs) changed(out *sending, _ []byte) {
	out.header.Del("Content-Md5")
	out.header.Del("X-Goog-Hash")
}

// abort implements [store].
func (s *gcs) abort(ctx context.Context, u *upload) error {
	out := sending{
		method: http.MethodDelete, object: u.object, path: u.path, query: "uploadId=" + url.QueryEscape(u.id),
	}
	if err := s.authorize(&out); err != nil {
		return err
	}
	return aborted(s.send(ctx, out))
}

// put implements [store].
func (s *gcs) put(ctx context.Context, to object, b []byte) error {
	out := own(to, b)
	if err := s.authorize(&out); err != nil {
		return err
	}
	return done(s.send(ctx, out))
}

// one returns the only text of a variable that may be spelled in several ways behind a prefix, or have
// several names, with the name under which it is there. It is an error if it has two texts, because
// the library takes either.
func one(vars map[string]string, prefix string, names ...string) (name, text string, err error) {
	name = names[0]
	for spelled := range spellings(vars, prefix, names...) {
		switch {
		case vars[spelled] == "":
		case text != "" && text != vars[spelled]:
			return name, "", refusedStart(name+" and "+spelled, "they are the same setting, with two values")
		default:
			name, text = spelled, vars[spelled]
		}
	}
	return name, text, nil
}

// spellings returns the variables that object_store reads as one of names: it ignores the case of what
// follows the prefix. Their texts are empty.
func spellings(vars map[string]string, prefix string, names ...string) map[string]string {
	found := map[string]string{}
	for spelled := range vars {
		for _, name := range names {
			if strings.HasPrefix(spelled, prefix) && strings.EqualFold(spelled, name) {
				found[spelled] = ""
			}
		}
	}
	return found
}
