// Package guard stands between a task and its object store, because the runtime of a Python task
// uploads outputs, errors, reports and data itself, where no wrapper sees them on stdout or on a disk.
//
// # How it works
//
// Flyte's SDK reads the address of its object store and the keys for it from variables whenever it
// makes a client. So the guard listens on loopback, and gives the task that address in place of the
// store's ([Guard.Environ]). It searches the bodies that are written, masks or refuses them, and sends
// the request to the one server that the task would have used. All else passes as it is, byte for byte.
//
// The guard has one listener for each provider whose addresses are in the command: see [s3], [gcs] and
// [azure] for what each of them signs, and how other processes of the pod, which share its loopback,
// are kept out.
//
// # What happens to a write
//
// An object of up to 16 MiB is held, inspected by package content, and masked by the same rules as a
// file of --outputs. A larger object, and a part of a multipart upload, is searched while it is sent
// and never masked: at the first value the connection upstream is cut, so that the object never
// exists. Values across two parts are found when both are there, at the latest when the upload is to
// be completed, which is then refused; see multipart.go.
//
// # Bounds
//
// All bodies that are held, and the edges of parts, share 32 MiB; a request that finds no room waits.
// The number of requests is bounded by that of connections, that of findings by package outputs.
package guard

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"

	"inject/exec/redact"
	"inject/injector/outputs"
	"inject/resolver/idl/flyteidl2/core"
	"inject/resolver/secret"
)

// A Mode says when the guard stands in front of the object store.
type Mode string

// The modes. Auto is on for Flyte's runtimes whose outputs go to a bucket.
const (
	Auto Mode = "auto"
	On   Mode = "guard"
	Off  Mode = "off"
)

// Options say which task is guarded, and how.
type Options struct {
	Mode    Mode
	Command []string
	Environ []string // of the task
	// Redactor has the values. Values may be added as long as the task has not started.
	Redactor *redact.Redactor
	Policy   outputs.Policy
	Log      hclog.Logger
}

// A store is the object store of one provider: what its requests mean, and how they are sent.
type store interface {
	// environ returns the variables that put the guard at address, http://HOST:PORT, in the place of the
	// store. One without a text is to be taken away.
	environ(vars map[string]string, address string) map[string]string
	// read says what a request does, and refuses one that is not the task's.
	read(r *http.Request) (*request, *refusal)
	// send sends a request to the store, with the credentials that belong there.
	send(ctx context.Context, out sending) (*http.Response, error)
	// changed puts a masked body into a write, with checksums that are right for it.
	changed(out *sending, b []byte)
	// abort throws an upload away.
	abort(ctx context.Context, u *upload) error
	// put stores an object of the guard's own.
	put(ctx context.Context, to object, b []byte) error
}

// A Guard is an object store in front of another one. Its methods are safe for concurrent use.
type Guard struct {
	o       Options
	plan    plan
	server  *http.Server
	stores  map[string]store // by scheme
	fronts  map[string]store // by the address of the listener
	memory  *memory
	uploads uploads
	scans   scanners
	buffers copyBuffers

	mu     sync.Mutex
	report outputs.Report
	wrote  map[string]bool // the names of Flyte's messages in plan.outputs that have been stored
	closed bool

	stall time.Duration // how long a client may pause in a body
}

// maxConnections bounds the connections of the task to the guard. A runtime has twelve uploads at a
// time and a few downloads for each of its files.
const maxConnections = 512

// Start makes a guard for a task and begins to listen. The guard is nil if the task needs none: it is
// no runtime of Flyte's, or its outputs do not go to a bucket. It is an error, which names the variable
// or the argument, if the task needs a guard and could write without it.
func Start(ctx context.Context, o Options) (*Guard, error) {
	p, err := planFor(o)
	if err != nil || len(p.schemes) == 0 {
		return nil, err
	}
	g := &Guard{
		o: o, plan: p, memory: newMemory(), buffers: newCopyBuffers(), scans: newScanners(o.Redactor),
		wrote: map[string]bool{}, fronts: map[string]store{}, stall: time.Minute,
	}
	g.uploads.memory = g.memory
	for _, at := range addresses(o.Command) {
		if found := g.scan(at.value); len(found) > 0 && o.Policy != outputs.Warn {
			return nil, refusedStart(at.flag, "the value of "+names(found)+
				" is in it, so that the guard would have to mask the address, and refuse what is written there")
		}
	}
	if g.stores, err = p.open(ctx, variables(o.Environ)); err != nil {
		return nil, err
	}
	g.server = &http.Server{
		Handler:           g,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute, // clients keep them for up to 90 seconds, and there are only so many
		MaxHeaderBytes:    64 << 10,        // S3 allows 8 KiB of headers and 2 KiB of metadata
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	var listeners []net.Listener
	for _, s := range g.stores {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
		if err != nil {
			for _, l := range listeners {
				_ = l.Close()
			}
			return nil, fmt.Errorf("%w: --storage: listen for the task: %w", secret.ErrUnavailable, err)
		}
		g.fronts[l.Addr().String()] = s
		listeners = append(listeners, l)
	}
	free := make(chan struct{}, maxConnections)
	for _, l := range listeners {
		go func() { _ = g.server.Serve(&limited{Listener: l, free: free}) }()
	}
	return g, nil
}

// Environ returns the task's environment with the guard in place of the object store.
func (g *Guard) Environ(environ []string) []string {
	vars, set := variables(environ), map[string]string{}
	for address, s := range g.fronts {
		maps.Copy(set, s.environ(vars, "http://"+address))
	}
	// A proxy for http would get the requests to the guard, too: the library that the SDK uses makes
	// no exception for loopback.
	if slices.ContainsFunc(environ, isProxy) {
		for _, name := range []string{"NO_PROXY", "no_proxy"} {
			set[name] = cmp.Or(vars[name], vars["NO_PROXY"], vars["no_proxy"])
			if set[name] != "*" { // which means all hosts only by itself
				set[name] = strings.Trim(set[name]+",127.0.0.1", ",")
			}
		}
	}
	environ = slices.DeleteFunc(slices.Clone(environ), func(line string) bool {
		name, _, _ := strings.Cut(line, "=")
		_, ours := set[name]
		return ours
	})
	for name, value := range set {
		if value != "" {
			environ = append(environ, name+"="+value)
		}
	}
	return environ
}

func isProxy(line string) bool {
	name, value, _ := strings.Cut(line, "=")
	switch strings.ToLower(name) {
	case "http_proxy", "all_proxy":
		return value != ""
	}
	return false
}

// An End is what the guard knows when the task has ended.
type End struct {
	Report outputs.Report
	// Explained is set if something was refused, the task has left no outputs, and its error in
	// Flyte now says why: the guard has written error.pb.
	Explained bool
}

// linger is how long requests of the task may take to finish when the task has ended.
const linger = 2 * time.Second

// End ends the guard when the task has ended, well or not. It waits two seconds for requests that are
// under way, aborts the uploads that are open, and, if something was refused and the task has left no
// outputs.pb, writes an error.pb that says so. It is an error if a runtime has ended well and none of
// its messages has passed: then it has written to its store without the guard, or not at all.
func (g *Guard) End(ctx context.Context, well bool) (End, error) {
	waiting, cancel := context.WithTimeout(ctx, linger)
	_ = g.server.Shutdown(waiting)
	cancel()
	_ = g.server.Close()

	g.mu.Lock()
	g.closed = true
	end := End{Report: g.report}
	stored := len(g.wrote) > 0
	hasOutputs := g.wrote["outputs.pb"]
	g.mu.Unlock()

	ctx, cancel = context.WithTimeout(ctx, ownTimeout) // for all of it
	defer cancel()
	defer func() {
		for _, u := range g.uploads.open() {
			if err := u.store.abort(ctx, u); err != nil {
				g.o.Log.Warn("an upload in parts stays in the store, and can be aborted there",
					"object", u.object, "error", err)
			}
		}
	}()
	switch refused := end.Report.Refused > 0; {
	case g.plan.outputs.bucket == "":
	case refused && !hasOutputs:
		if err := g.explain(ctx, g.sentence(end.Report)); err != nil {
			return end, fmt.Errorf("%w: write error.pb to %s: %w", secret.ErrUnavailable, g.plan.outputs, err)
		}
		end.Explained = true
	case well && !stored:
		return end, secret.WithHint(
			fmt.Errorf("%w: --storage: the task has ended well, and neither outputs.pb nor error.pb has come"+
				" through the guard", secret.ErrInvalid),
			"it has written them without the guard: by an obstore older than 0.9, or by an object store that its"+
				" code has set up itself; --storage off leaves its outputs unchecked")
	}
	return end, nil
}

// explain stores an error.pb beside the outputs that says why there are none. Its kind keeps Flyte from
// trying again, which would lead to the same.
func (g *Guard) explain(ctx context.Context, sentence string) error {
	b, err := proto.Marshal(&core.ErrorDocument{Error: &core.ContainerError{
		Code: "SecretInOutput", Message: sentence, Kind: core.ContainerError_NON_RECOVERABLE,
	}})
	if err != nil {
		return err
	}
	to := g.plan.outputs
	to.key = path.Join(to.key, "error.pb")
	return g.stores[to.scheme].put(ctx, to, b)
}

// sentence says for a task's author what was refused.
func (g *Guard) sentence(r outputs.Report) string {
	for _, f := range r.Findings {
		if f.Outcome == refused {
			text := "inject: " + f.Path + " " + f.Why + ": nothing was stored"
			if more := r.Refused - 1; more > 0 {
				text += fmt.Sprintf(" (and %d more, which the log names)", more)
			}
			return text
		}
	}
	return "inject: an output holds a secret's value, and was not stored"
}

// found records what was done about an object that holds values, or may hold some.
func (g *Guard) found(f outputs.Finding) {
	g.mu.Lock()
	defer g.mu.Unlock()
	one := outputs.Report{Findings: []outputs.Finding{f}}
	switch f.Outcome {
	case masked:
		one.Masked++
	case refused:
		one.Refused++
	default:
		one.Left++
	}
	g.report.Add(one)
}

// stored records that an object is there.
func (g *Guard) stored(o object) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.report.Files++
	dir, name := path.Split(o.key)
	if name != "outputs.pb" && name != "error.pb" {
		return
	}
	at := object{o.scheme, o.bucket, path.Clean(dir)}
	if _, err := strconv.Atoi(path.Base(at.key)); err == nil && at != g.plan.outputs {
		at.key = path.Dir(at.key) // the folder of one task of a map task of Flyte 1
	}
	if at == g.plan.outputs {
		g.wrote[name] = true
	}
}

// limited is a listener with a bounded number of connections.
type limited struct {
	net.Listener
	free chan struct{}
}

// Accept implements [net.Listener].
func (l *limited) Accept() (net.Conn, error) {
	l.free <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.free
		return nil, err
	}
	return &counted{Conn: c, done: sync.OnceFunc(func() { <-l.free })}, nil
}

type counted struct {
	net.Conn
	done func()
}

// ReadFrom implements [io.ReaderFrom], without which relay could not pass anything in the kernel.
func (c *counted) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// Close implements [net.Conn].
func (c *counted) Close() error {
	defer c.done()
	return c.Conn.Close()
}
