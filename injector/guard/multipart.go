package guard

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"inject/exec/redact"
	"inject/injector/outputs"
)

// Parts of a multipart upload arrive in any order, many at a time, and the store only joins them at the
// end. So a part is searched alone while it is sent, and its edges are kept: the first bytes, and those
// last ones that may begin a value. Where two parts meet, the edges are searched as one text. Two parts
// with consecutive numbers stay neighbours, so that their edges are searched, and forgotten, as soon as
// both are there; all others are searched when the upload is completed, in the order of its list.
//
// An edge has at most maxEdge bytes. A value that is longer is found all the same: a part that ends
// with maxEdge bytes of its beginning is refused, and so is an edge that goes on with one for that long.

const (
	maxEdge    = 64 << 10
	maxUploads = 1000
	maxParts   = 10_000 // as in S3
	partMemory = 512    // what a part takes beside its edges
)

// uploads are those that are open.
type uploads struct {
	memory *memory
	mu     sync.Mutex
	all    map[string]*upload // by bucket, key and id
}

// upload is a multipart upload of one object.
type upload struct {
	store  store
	object object
	path   string
	id     string
	region string

	aborting sync.Mutex // held while the store is asked to throw it away

	mu      sync.Mutex
	parts   map[int]*part
	blocks  map[string]int // the numbers of parts that have names
	refusal error          // the answer to all its requests, once a value was found in it
	busy    int            // the requests for it that are under way
	taken   int64          // of the memory for edges
	ended   bool           // the store has it no more
}

var errEnded = refuse(http.StatusNotFound, "NoSuchUpload", "inject: the upload has ended")

// enter begins a request for an upload, which leave ends.
func (g *Guard) enter(r *request) (up *upload, leave func(), err error) {
	if up, err = g.uploads.get(r); err != nil {
		return nil, nil, err
	}
	up.mu.Lock()
	defer up.mu.Unlock()
	switch {
	case up.refusal != nil:
		return nil, nil, up.refusal
	case up.ended:
		return nil, nil, errEnded
	}
	up.busy++
	return up, func() {
		up.mu.Lock()
		up.busy--
		last := up.refusal != nil && up.busy == 0
		up.mu.Unlock()
		if last {
			_ = g.abort(r.Context(), up) // End reports what is still open
		}
	}, nil
}

// abort throws a refused upload away, when no request for it is under way: a store may keep a part
// that arrives at the same time. A store that is still busy with the part that was cut refuses, so it
// is asked again; if all of that fails, End tries once more.
func (g *Guard) abort(ctx context.Context, up *upload) error {
	up.aborting.Lock()
	defer up.aborting.Unlock()
	up.mu.Lock()
	ended := up.ended
	up.mu.Unlock()
	if ended {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ownTimeout)
	defer cancel()
	err := up.store.abort(ctx, up)
	for wait := 50 * time.Millisecond; err != nil && wait < time.Second; wait *= 2 {
		time.Sleep(wait)
		err = up.store.abort(ctx, up)
	}
	if err == nil {
		g.uploads.end(up)
	}
	return err
}

// part is a part that the store has.
type part struct {
	copied     bool // from another object: nothing of it is known
	head, tail []byte
	whole      bool // head is all of it
	// edges is the hash of head and tail, of which those are gone that have met a neighbour's.
	edges          [sha256.Size]byte
	noHead, noTail bool
}

func uploadKey(o object, id string) string { return o.String() + "\x00" + id }

// get returns the upload that a request names. One that this guard has not seen begin may be of an
// earlier attempt.
func (u *uploads) get(r *request) (*upload, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	key := uploadKey(r.object, r.upload)
	if up := u.all[key]; up != nil {
		return up, nil
	}
	if len(u.all) >= maxUploads {
		return nil, refuse(http.StatusServiceUnavailable, "SlowDown", "inject: %d uploads are open", maxUploads)
	}
	if u.all == nil {
		u.all = map[string]*upload{}
	}
	up := r.newUpload()
	u.all[key] = up
	return up, nil
}

func (r *request) newUpload() *upload {
	return &upload{
		store: r.store, object: r.object, path: r.path, id: r.upload, region: r.region, parts: map[int]*part{},
	}
}

// end forgets an upload that the store has no more. One that was refused is remembered: the task may
// go on with it.
func (u *uploads) end(up *upload) {
	up.mu.Lock()
	up.ended = true
	u.memory.freeEdge(up.taken)
	up.taken, up.parts = 0, nil
	refused := up.refusal != nil
	up.mu.Unlock()
	if !refused || up.id == "" { // a blob's next upload has the same name, so its blocks must not be confused
		u.mu.Lock()
		delete(u.all, uploadKey(up.object, up.id))
		u.mu.Unlock()
	}
}

// open returns the uploads that may be open. Those that were refused are among them: a store may have
// gone on with a part whose request was cut, and keep it when the upload has been aborted.
func (u *uploads) open() (open []*upload) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, up := range u.all {
		up.mu.Lock()
		if !up.ended || up.refusal != nil {
			open = append(open, up)
		}
		up.mu.Unlock()
	}
	return open
}

// createUpload begins an upload. Its metadata have been checked.
func (g *Guard) createUpload(w http.ResponseWriter, r *request) error {
	if r.ContentLength != 0 {
		return refuse(http.StatusBadRequest, "InvalidRequest", "inject: a request for an upload has no body")
	}
	resp, err := r.store.send(r.Context(), g.sending(r))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 == 2 {
		b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		resp.Body.Close() //nolint:errcheck // all is read
		if err != nil {
			return err
		}
		var created struct {
			UploadID string `xml:"UploadId"`
		}
		if err := xml.Unmarshal(b, &created); err != nil || created.UploadID == "" {
			return errors.New("its answer to a request for an upload has no UploadId")
		}
		r.upload = created.UploadID
		if _, err := g.uploads.get(r); err != nil {
			_ = r.store.abort(r.Context(), r.newUpload()) // it is empty
			return err
		}
		resp.Body = io.NopCloser(bytes.NewReader(b))
	}
	g.answer(w, resp)
	return nil
}

// abortUpload throws an upload away. That of one which has been refused, and is gone for that reason,
// succeeds: the error that a client would report instead would hide the refusal.
func (g *Guard) abortUpload(w http.ResponseWriter, r *request) error {
	up, err := g.uploads.get(r)
	if err != nil {
		return err
	}
	if up.explained(nil) != nil { // a second abort would be told that there is no such upload
		if err := g.abort(r.Context(), up); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	resp, err := r.store.send(r.Context(), g.sending(r))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 == 2 || resp.StatusCode == http.StatusNotFound {
		g.uploads.end(up)
	}
	g.answer(w, resp)
	return nil
}

// copyPart copies a part from another object.
func (g *Guard) copyPart(w http.ResponseWriter, r *request) error {
	up, leave, err := g.enter(r)
	if err != nil {
		return err
	}
	defer leave()
	resp, err := r.store.send(r.Context(), g.sending(r))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 == 2 {
		if err := g.addPart(up, r, &part{copied: true}); err != nil {
			resp.Body.Close() //nolint:errcheck // nothing of it is needed
			return err
		}
	}
	g.answer(w, resp)
	return nil
}

// putPart stores a part. It is never masked: a store wants parts of a certain size, and the task has
// the sum of each.
func (g *Guard) putPart(w http.ResponseWriter, r *request) error {
	b, err := bodyOf(r)
	if err != nil {
		return err
	}
	up, leave, err := g.enter(r)
	if err != nil {
		return err
	}
	defer leave()
	s := &searched{r: g.o.Redactor, src: b, warn: g.o.Policy == outputs.Warn, edge: int(min(int64(g.edge()), b.size))}
	resp, err := g.stream(r, b, s)
	if s.found == nil && len(s.tail) >= maxEdge {
		s.found = map[string]int{longValue: 1}
	}
	if err := g.judge(up, s.found, "part "+strconv.Itoa(r.number)); err != nil {
		return err
	}
	if err != nil {
		return up.explained(err)
	}
	if resp.StatusCode/100 == 2 {
		p := &part{head: s.head, tail: s.tail, whole: int64(len(s.head)) == s.n}
		p.edges = sha256.Sum256(fmt.Appendf(nil, "%d %s%s", len(s.head), s.head, s.tail))
		if r.number == 1 && r.block == "" && !p.whole {
			p.head = nil // nothing comes before it
		}
		if err := g.addPart(up, r, p); err != nil {
			return err
		}
	}
	g.answer(w, resp)
	return nil
}

// longValue stands for the name of a value that is longer than an edge, when a part of it was found.
const longValue = "a long value"

// explained returns the refusal of an upload in place of the error of a request that it has ended.
func (u *upload) explained(err error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return cmp.Or(u.refusal, err)
}

// edge returns how many bytes at the beginning of a part may belong to a value that another part
// begins. A value that a program has wrapped is longer than its form.
func (g *Guard) edge() int { return min(2*g.o.Redactor.Longest()+1024, maxEdge) }

// judge refuses an upload in which values have been found. Its other requests go on, because a store may
// keep what it has of one that is cut.
func (g *Guard) judge(up *upload, found map[string]int, where string) error {
	if len(found) == 0 {
		return nil
	}
	if g.o.Policy == outputs.Warn {
		g.found(outputs.Finding{Path: up.object.String(), Found: found, Why: where, Outcome: passed})
		return nil
	}
	up.mu.Lock()
	defer up.mu.Unlock()
	if up.refusal == nil { // one finding for each object
		up.refusal = g.refuse(up.object, found,
			"holds the value of %s, and was uploaded in parts, which cannot be masked")
	}
	return up.refusal
}

// addPart records the part that a request has written, and searches where it meets its neighbours.
func (g *Guard) addPart(up *upload, r *request, p *part) error {
	needs := int64(partMemory + len(p.head) + len(p.tail))
	if err := g.memory.takeEdge(r.Context(), needs); err != nil {
		return err
	}
	up.mu.Lock()
	if up.ended {
		up.mu.Unlock()
		g.memory.freeEdge(needs)
		return errEnded
	}
	n, known := r.number, r.block == ""
	if !known {
		n, known = up.blocks[r.block]
	}
	if !known {
		if up.blocks == nil {
			up.blocks = map[string]int{}
		}
		if n = r.number; n == 0 || up.parts[n] != nil {
			n = -2 * (len(up.blocks) + 1) // none are neighbours: only the list tells
		}
		up.blocks[r.block] = n
	}
	up.taken += needs
	if old := up.parts[n]; old != nil && old.edges == p.edges {
		p.noHead, p.noTail = old.noHead, old.noTail
	} else {
		g.outdate(up, n)
	}
	g.forget(up, n)
	up.parts[n] = p
	found := map[string]int{}
	g.join(up, n-1, found)
	g.join(up, n, found)
	up.mu.Unlock()
	return g.judge(up, found, "across two parts")
}

// outdate forgets the neighbours of a part that comes with edges of its own if theirs are gone: they have to
// come again, too, as they do when a client begins anew.
func (g *Guard) outdate(up *upload, n int) {
	if before := up.parts[n-1]; before != nil && before.noTail {
		g.forget(up, n-1)
	}
	if next := up.parts[n+1]; next != nil && next.noHead {
		g.forget(up, n+1)
	}
}

func (g *Guard) forget(up *upload, n int) {
	if p := up.parts[n]; p != nil {
		g.free(up, partMemory+int64(len(p.head)+len(p.tail)))
		delete(up.parts, n)
	}
}

// free gives memory for edges back.
func (g *Guard) free(up *upload, n int64) {
	up.taken -= n
	g.memory.freeEdge(n)
}

// join searches where part n and the next number meet, if both are there, and forgets their edges. A
// part that is shorter than an edge may be in the middle of a value, so it keeps them.
func (g *Guard) join(up *upload, n int, found map[string]int) {
	a, b := up.parts[n], up.parts[n+1]
	if a == nil || b == nil || a.whole || b.whole || a.copied || b.copied || a.tail == nil && b.head == nil {
		return
	}
	g.searchEdges(found, a.tail, b.head)
	g.free(up, int64(len(a.tail)+len(b.head)))
	a.tail, b.head = nil, nil
	a.noTail, b.noHead = true, true
}

// searchEdges searches texts that follow each other.
func (g *Guard) searchEdges(found map[string]int, texts ...[]byte) {
	var out counter
	w := g.o.Redactor.Writer(&out)
	w.Found = func(f redact.Find) { found[f.Name]++ }
	n := int64(0)
	for _, text := range texts {
		_, _ = w.Write(text) // a counter takes everything
		n += int64(len(text))
	}
	if len(found) == 0 && n-out.n >= maxEdge {
		found[longValue]++
	}
	_ = w.Close()
}

// counter counts what is written to it.
type counter struct{ n int64 }

// Write implements [io.Writer].
func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// completeUpload joins the parts of an upload, if no value is where they meet and the list has every
// part: a part that is left out would have its neighbours meet.
func (g *Guard) completeUpload(w http.ResponseWriter, r *request) error {
	text, free, err := g.small(r)
	if err != nil {
		return err
	}
	defer free()
	up, leave, err := g.enter(r)
	if err != nil {
		return err
	}
	defer leave()
	numbers, err := up.listed(text)
	if err != nil {
		return err
	}
	found := map[string]int{}
	if err := g.searchUpload(up, numbers, found); err != nil {
		return err
	}
	if err := g.judge(up, found, "across two parts"); err != nil {
		return err
	}

	out := g.sending(r)
	out.body, out.length = bytes.NewReader(text), int64(len(text))
	resp, err := r.store.send(r.Context(), out)
	if err != nil {
		return err
	}
	said := &beginning{}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.TeeReader(resp.Body, said), resp.Body}
	g.answer(w, resp)
	// S3 begins to answer before it knows how it ends.
	if resp.StatusCode/100 == 2 && !bytes.Contains(said.text, []byte("<Error")) {
		g.uploads.end(up)
		g.stored(up.object)
	}
	return nil
}

// A beginning keeps the first bytes that are written to it.
type beginning struct{ text []byte }

// Write implements [io.Writer].
func (b *beginning) Write(p []byte) (int, error) {
	b.text = append(b.text, p[:min(len(p), maxAnswer-len(b.text))]...)
	return len(p), nil
}

// searchUpload searches where the parts of an upload meet.
func (g *Guard) searchUpload(up *upload, numbers []int, found map[string]int) error {
	up.mu.Lock()
	defer up.mu.Unlock()
	var run [][]byte // texts that follow each other without a gap
	for i, n := range numbers {
		p := up.parts[n]
		if p == nil {
			return refuse(http.StatusBadRequest, "InvalidPart",
				"inject: %s: part %d was not uploaded through the guard", up.object, n)
		}
		if p.noTail && (i+1 == len(numbers) || numbers[i+1] != n+1) || p.noHead && (i == 0 || numbers[i-1] != n-1) {
			return refuse(http.StatusBadRequest, "InvalidBlockList",
				"inject: %s: the blocks are listed in another order than that of their numbers", up.object)
		}
		run = append(run, p.head)
		if p.whole {
			continue
		}
		g.searchEdges(found, run...)
		run = [][]byte{p.tail}
	}
	g.searchEdges(found, run...)
	return nil
}

// listed returns the numbers of the parts in a request to complete an upload, in the order in which
// they meet.
func (u *upload) listed(text []byte) (numbers []int, err error) {
	var list struct {
		Parts []struct {
			PartNumber int
		} `xml:"Part"`
		Blocks []struct { // Uncommitted, Latest or Committed
			XMLName xml.Name
			Name    string `xml:",chardata"`
		} `xml:",any"`
	}
	err = xml.Unmarshal(text, &list) //nolint:gosec // numbers and names only, and the text is bounded
	if err != nil || len(list.Parts) > maxParts {
		return nil, refuse(http.StatusBadRequest, "MalformedXML", "inject: the list of parts cannot be read")
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.id == "" {
		for _, block := range list.Blocks {
			n, known := u.blocks[block.Name]
			if !known || block.XMLName.Local == "Committed" { // of the blob that is there
				return nil, refuse(http.StatusBadRequest, "InvalidBlockList",
					"inject: %s: a block of the list was not uploaded through the guard", u.object)
			}
			numbers = append(numbers, n)
		}
		return numbers, nil
	}
	for _, p := range list.Parts {
		numbers = append(numbers, p.PartNumber)
	}
	if !slices.IsSorted(numbers) || len(slices.Compact(numbers)) != len(u.parts) || len(list.Parts) != len(u.parts) {
		return nil, refuse(http.StatusBadRequest, "InvalidPart",
			"inject: %s: the list has %d parts, and %d were uploaded through the guard: it needs all of them, in order",
			u.object, len(list.Parts), len(u.parts))
	}
	return numbers, nil
}
