package guard

import (
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An operation is what a request does, as far as the guard is concerned.
type operation int

const (
	opPass     operation = iota // a read, a deletion or a copy: it passes as it is
	opPut                       // writes an object
	opSetting                   // writes a small document, such as the tags of an object
	opBegin                     // begins an upload in parts
	opPart                      // uploads a part
	opCopyPart                  // copies a part from another object
	opComplete                  // joins the parts
	opAbort                     // throws the parts away
)

// A request is one of the task's.
type request struct {
	*http.Request
	store   store
	op      operation
	object  object
	path    string // of the object, escaped
	query   url.Values
	upload  string // the id of the upload, for requests about one
	number  int    // of the part; stores that name their parts have
	block   string // the name
	region  string // that the request is signed for
	chunked bool   // the body is in frames (aws-chunked)
	plain   bool   // it is a read that is not signed: the bucket may be open to all
	// rewrite changes the body of a setting that has no value in it, because all of it is names. nil
	// for none.
	rewrite func(body []byte) ([]byte, error)
}

// ServeHTTP implements [http.Handler].
func (g *Guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	closed := g.closed
	g.mu.Unlock()
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if closed || local == nil || g.fronts[local.String()] == nil {
		refuse(http.StatusForbidden, "AccessDenied", "inject: the task has ended").write(w, r)
		return
	}
	if r.Body != http.NoBody {
		r.Body = &patient{r.Body, http.NewResponseController(w), g.stall}
	}
	req, refusal := g.fronts[local.String()].read(r)
	if refusal != nil {
		refusal.write(w, r)
		return
	}
	if err := g.serve(w, req); err != nil {
		answerError(w, r, err)
	}
}

// patient is the body of a request, of which each piece must come in time: the memory for it is not kept
// for a client that has stopped.
type patient struct {
	io.ReadCloser
	conn  *http.ResponseController
	stall time.Duration
}

// Read implements [io.Reader].
func (p *patient) Read(b []byte) (int, error) {
	_ = p.conn.SetReadDeadline(time.Now().Add(p.stall)) // connections of TCP have one
	n, err := p.ReadCloser.Read(b)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = refuse(http.StatusServiceUnavailable, "RequestTimeout",
			"inject: the rest of the body has not come in time")
	case err != nil:
		_ = p.conn.SetReadDeadline(time.Time{}) // the store may take longer
	}
	return n, err
}

// serve answers a request. Its errors are [*refusal] and those of the upstream.
func (g *Guard) serve(w http.ResponseWriter, r *request) error {
	if r.Method == http.MethodPut || r.Method == http.MethodPost {
		if err := g.checkNames(r); err != nil {
			return err
		}
	}
	switch r.op {
	case opPut:
		return g.putObject(w, r)
	case opSetting:
		return g.putSetting(w, r)
	case opBegin:
		return g.createUpload(w, r)
	case opPart:
		return g.putPart(w, r)
	case opCopyPart:
		return g.copyPart(w, r)
	case opComplete:
		return g.completeUpload(w, r)
	case opAbort:
		return g.abortUpload(w, r)
	default:
		return g.pass(w, r)
	}
}

// locate finds the object of a request, whose path is /BUCKET/KEY.
func (r *request) locate(escaped string) *refusal {
	bucket, key, _ := strings.Cut(strings.TrimPrefix(escaped, "/"), "/")
	if key != "" || strings.HasSuffix(escaped, "/") && bucket != "" {
		r.path = "/" + key
	}
	var errBucket, errKey error
	r.object.bucket, errBucket = url.PathUnescape(bucket)
	r.object.key, errKey = url.PathUnescape(key)
	switch {
	case errBucket != nil || errKey != nil:
		return refuse(http.StatusBadRequest, "InvalidURI", "inject: the path cannot be read")
	case bucket != "" && !isBucket(r.object.bucket):
		return refuse(http.StatusBadRequest, "InvalidBucketName", "inject: the bucket's name is not valid")
	case slices.Contains(strings.Split(r.object.key, "/"), ".."):
		return refuse(http.StatusBadRequest, "InvalidURI",
			"inject: the key has .. in it, which servers read as another key")
	}
	// Servers differ in what they make of a query that cannot be read, or has a name twice.
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return refuse(http.StatusBadRequest, "InvalidURI", "inject: the query cannot be read")
	}
	for name, values := range query {
		if len(values) > 1 && (r.Method == http.MethodPut || r.Method == http.MethodPost) {
			return refuse(http.StatusBadRequest, "InvalidArgument", "inject: the query has %.40q twice", name)
		}
	}
	return nil
}

// isWrite reports whether a method is one of those that may write, and refuses those that no object
// store has.
func isWrite(method string) (bool, *refusal) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodDelete:
		return false, nil
	case http.MethodPut, http.MethodPost:
		return true, nil
	}
	return false, refuse(http.StatusMethodNotAllowed, "MethodNotAllowed",
		"inject: %s is no request to an object store", method)
}

// only reports whether a query has no other names than these.
func only(query url.Values, names ...string) bool {
	for name := range query {
		if !slices.Contains(names, name) {
			return false
		}
	}
	return true
}

// checkNames returns a refusal if a value is in a key, in metadata, in tags or in the query of a write.
func (g *Guard) checkNames(r *request) error {
	texts := []string{r.object.key, r.path}
	for name, values := range r.query {
		if name != "sig" { // of a shared access signature
			texts = append(append(texts, name), values...)
		}
	}
	for name, values := range r.Header {
		if !credential(name) {
			texts = append(append(texts, name), values...)
		}
	}
	found := g.scan(strings.Join(texts, "\x00")) // which none of them has
	return g.refuseUnlessWarn(r.object, found, "holds the value of %s in its name, its metadata or its tags")
}

// credential reports whether a header has something by which the store knows the task, or a key that
// it encrypts with, and so is not stored.
func credential(name string) bool {
	switch name {
	case "Authorization", tokenHeader,
		"X-Ms-Encryption-Key", "X-Ms-Source-Encryption-Key", "X-Ms-Copy-Source-Authorization",
		"X-Amz-Server-Side-Encryption-Customer-Key", "X-Amz-Copy-Source-Server-Side-Encryption-Customer-Key",
		"X-Goog-Encryption-Key", "X-Goog-Copy-Source-Encryption-Key":
		return true
	}
	return false
}

// sending returns the request as it goes upstream with the body of the task.
func (g *Guard) sending(r *request) sending {
	return sending{
		method: r.Method, object: r.object, path: r.path, query: r.URL.RawQuery, header: r.Header.Clone(),
		body: r.Body, length: r.ContentLength, hash: r.Header.Get(hashHeader), region: r.region, plain: r.plain,
	}
}

// pass sends a request upstream as it is.
func (g *Guard) pass(w http.ResponseWriter, r *request) error {
	if r.ContentLength < 0 {
		return errNoLength
	}
	ctx := r.Context()
	if r.Method == http.MethodGet {
		ctx = relayed(ctx)
	}
	resp, err := r.store.send(ctx, g.sending(r))
	if err != nil {
		return err
	}
	g.answer(w, resp)
	return nil
}

// maxSetting bounds the bodies of small requests: tags, access lists and the lists of parts.
const maxSetting = 2 << 20

// putSetting passes a small document, such as the tags of an object, unless a value is in it.
func (g *Guard) putSetting(w http.ResponseWriter, r *request) error {
	body, free, err := g.small(r)
	if err != nil {
		return err
	}
	defer free()
	if r.rewrite != nil {
		if body, err = r.rewrite(body); err != nil {
			return err
		}
	} else if err := g.refuseUnlessWarn(r.object, g.scan(string(body)),
		"holds the value of %s in its tags or its settings"); err != nil {
		return err
	}
	out := g.sending(r)
	out.body, out.length = strings.NewReader(string(body)), int64(len(body))
	resp, err := r.store.send(r.Context(), out)
	if err != nil {
		return err
	}
	g.answer(w, resp)
	return nil
}

// small reads the body of a small request into memory that is counted until free is called.
func (g *Guard) small(r *request) (body []byte, free func(), err error) {
	if r.ContentLength > maxSetting || r.ContentLength < 0 || r.chunked {
		return nil, nil, refuse(http.StatusBadRequest, "EntityTooLarge",
			"inject: the document has more than %d bytes, or no length", maxSetting)
	}
	holds := r.ContentLength
	if r.rewrite != nil {
		holds *= 3 // the new body is held, too, and may have longer addresses
	}
	free, err = g.memory.take(r.Context(), holds, 0)
	if err != nil {
		return nil, nil, err
	}
	body = make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, body); err != nil {
		free()
		return nil, nil, errShort
	}
	return body, free, nil
}

// answer gives the task the upstream's answer, byte for byte.
func (g *Guard) answer(w http.ResponseWriter, resp *http.Response) {
	defer resp.Body.Close() //nolint:errcheck // the copy has reported errors
	head(w, resp)
	buf := g.buffers.get()
	defer g.buffers.put(buf)
	var to io.Writer = struct{ io.Writer }{w} // its own ReadFrom would copy in smaller pieces
	if resp.ContentLength < 0 {
		to = flushed{w} // its bytes may be there to keep the task waiting
	}
	err := relay(w, resp, buf)
	if err == nil {
		_, err = io.CopyBuffer(to, resp.Body, buf)
	}
	if err != nil {
		panic(http.ErrAbortHandler) // cuts the connection, so that the task does not take a part for the whole
	}
}

// flushed is an answer of which each piece is sent at once.
type flushed struct{ w http.ResponseWriter }

// Write implements [io.Writer].
func (f flushed) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	return n, cmp.Or(err, http.NewResponseController(f.w).Flush())
}

// head writes the head of an answer.
func head(w http.ResponseWriter, resp *http.Response) {
	h := w.Header()
	for name, values := range resp.Header {
		switch name {
		case "Connection", "Keep-Alive", "Proxy-Authenticate", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		default:
			h[spelled(name)] = values
		}
	}
	if resp.ContentLength >= 0 && h.Get("Content-Length") == "" {
		h.Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	}
	w.WriteHeader(resp.StatusCode)
}

var (
	errShort    = refuse(http.StatusBadRequest, "IncompleteBody", "inject: the body is shorter than its length")
	errLong     = refuse(http.StatusBadRequest, "IncompleteBody", "inject: the body is longer than its length")
	errNoLength = refuse(http.StatusLengthRequired, "MissingContentLength", "inject: the request has no Content-Length")
)

// A refusal is an answer of the guard's own, in the form of the errors of all three.
type refusal struct {
	status        int
	code, message string
}

// Error implements error.
func (r *refusal) Error() string { return r.message }

func refuse(status int, code, format string, args ...any) *refusal {
	return &refusal{status, code, fmt.Sprintf(format, args...)}
}

// write answers with the refusal. The rest of the request's body is not read, so the connection ends.
func (r *refusal) write(w http.ResponseWriter, req *http.Request) {
	// The request's path is not repeated: it may have a value in it, and clients print the answer escaped
	// in ways that are not masked.
	text, _ := xml.Marshal(struct { // texts only
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}{Code: r.code, Message: r.message})
	w.Header().Set("Content-Type", "application/xml")
	if req.Header.Get("X-Ms-Version") != "" { // clients of Azure read it there
		w.Header().Set("X-Ms-Error-Code", r.code)
	}
	if r.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(r.status)
	_, _ = w.Write(append([]byte(xml.Header), text...))
}

// answerError answers with the error of a request that has not been answered.
func answerError(w http.ResponseWriter, r *http.Request, err error) {
	answer, ok := errors.AsType[*refusal](err)
	if !ok {
		answer = refuse(http.StatusServiceUnavailable, "ServiceUnavailable",
			"inject: the object store cannot be asked: %s", err)
	}
	answer.write(w, r)
}
