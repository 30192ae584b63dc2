// Package attack sends a server more of everything than it may hold, from a process of its own with
// the lowest priority, so that a test or a benchmark can look at the server and its other clients
// meanwhile. Only tests and benchmarks import it.
package attack

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Target is a server, with the certificate of the identity that attacks it. The identity must be
// allowed to resolve the keys LARGE_0 to LARGE_31, of 1 MiB each, and to list.
type Target struct {
	Address                   string // HOST:PORT
	CAFile, CertFile, KeyFile string // PEM
}

// A Result is what an attack has done so far.
type Result struct {
	Sent    int64            // requests, or frames of an attack that sends no requests
	Ended   int64            // connections that the server has ended
	Open    int64            // connections that are open
	Bytes   int64            // of frames, as far as the kernel took them
	Answers map[string]int64 // by HTTP status, or "reset"
}

// An Attack exceeds one bound.
type Attack struct {
	Name string
	// Stranger is true for an attack without credentials.
	Stranger bool
	// Bound is the resource that inject_exhausted_total counts when the bound holds. It is "" if the
	// server ends connections, or holds back what it reads from them.
	Bound string

	run func(ctx context.Context, a *attacker)
}

// All are the attacks.
var All = slices.Concat(requests, frames)

// variable has the attack that a process is started for.
const variable = "INJECT_TEST_ATTACK"

type order struct {
	Target Target
	Attack string
}

// Main attacks, in a process that [Start] has started, and reports true at the end: then the program
// must end. In other processes it does nothing. The program must call it first of all.
func Main() bool {
	text := os.Getenv(variable)
	if text == "" {
		return false
	}
	if err := attack(text); err != nil {
		fmt.Fprintln(os.Stderr, "attack:", err)
	}
	return true
}

func attack(text string) error {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, 19); err != nil {
		return err
	}
	i := slices.IndexFunc(All, func(a Attack) bool { return a.Name == o.Attack })
	if i < 0 {
		return fmt.Errorf("no attack %q", o.Attack)
	}
	a, err := newAttacker(o.Target, All[i].Stranger)
	if err != nil {
		return err
	}
	go All[i].run(context.Background(), a)                   // until the process ends, and with it the connections
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); { // each asks for the result so far
		if err := json.NewEncoder(os.Stdout).Encode(a.result()); err != nil {
			return err
		}
	}
	return nil
}

// A Running is an attack that is under way.
type Running struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *json.Decoder
	stderr bytes.Buffer
}

// Start begins the attack in another process of this program, which must call [Main].
func Start(ctx context.Context, t Target, name string) (*Running, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(order{t, name})
	if err != nil {
		return nil, err
	}
	r := &Running{cmd: exec.CommandContext(ctx, self)} //nolint:gosec // this program
	r.cmd.Env = append(os.Environ(), variable+"="+string(text))
	r.cmd.Stderr = &r.stderr
	in, err := r.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	r.in, r.out = in, json.NewDecoder(out)
	return r, r.cmd.Start()
}

// Result returns what the attack has done so far.
func (r *Running) Result() (Result, error) {
	var so Result
	if _, err := io.WriteString(r.in, "\n"); err != nil {
		return so, fmt.Errorf("%w: %s", err, r.stderr.String())
	}
	if err := r.out.Decode(&so); err != nil {
		return so, fmt.Errorf("%w: %s", err, r.stderr.String())
	}
	return so, nil
}

// Stop ends the attack.
func (r *Running) Stop() error {
	err := r.in.Close()
	if failed := r.cmd.Wait(); failed != nil {
		return fmt.Errorf("%w: %s", failed, r.stderr.String())
	}
	return err
}

type attacker struct {
	Target

	tls                      *tls.Config
	sent, ended, open, bytes atomic.Int64

	mu      sync.Mutex
	answers map[string]int64
}

func newAttacker(t Target, stranger bool) (*attacker, error) {
	ca, err := os.ReadFile(t.CAFile)
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return nil, err
	}
	a := &attacker{Target: t, answers: map[string]int64{}}
	a.tls = &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost", MinVersion: tls.VersionTLS13}
	if !a.tls.RootCAs.AppendCertsFromPEM(ca) {
		return nil, errors.New("the file of the CA holds no certificate")
	}
	if !stranger {
		a.tls.Certificates = []tls.Certificate{pair}
	}
	return a, nil
}

func (a *attacker) answered(status string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers[status]++
}

func (a *attacker) result() Result {
	a.mu.Lock()
	defer a.mu.Unlock()
	return Result{
		Sent: a.sent.Load(), Ended: a.ended.Load(), Open: a.open.Load(), Bytes: a.bytes.Load(),
		Answers: maps.Clone(a.answers),
	}
}

// dialer connects from another address than other clients on this machine: an attacker is elsewhere.
var dialer = &net.Dialer{Timeout: 30 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}

// client returns an HTTP client with at most n connections.
func (a *attacker) client(n int) *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: a.tls, ForceAttemptHTTP2: true, MaxConnsPerHost: n, MaxIdleConnsPerHost: n,
		DisableCompression: true, DialContext: dialer.DialContext,
	}}
}

// soon waits for a moment, so that an attacker that is refused does not measure only itself.
func soon(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
