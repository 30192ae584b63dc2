package main_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"inject/internal/harness"
	_ "inject/resolver/idl/flyteidl2/cluster" // the messages of the tables
	_ "inject/resolver/idl/flyteidl2/secret"
	_ "inject/resolver/idl/inject/v1"
)

// A wire is a client of another project that sends requests, one after the other.
type wire struct {
	ts       *testscript.TestScript
	kind     string
	base     string // http://HOST:PORT or https://HOST:PORT
	identity string // whose certificate of pki/, "" for none
	node     *nodeClient
}

// newWire returns the client of args: KIND BASE [IDENTITY].
func newWire(ts *testscript.TestScript, args []string) *wire {
	if len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: CLIENT URL [IDENTITY]")
	}
	w := &wire{ts: ts, kind: args[0], base: args[1]}
	if len(args) == 3 {
		w.identity = args[2]
	}
	used.Store(w.kind, true)
	if protocol, ok := strings.CutPrefix(w.kind, "node-"); ok {
		w.node = startNode(w, protocol)
	}
	return w
}

// used are the kinds of clients that scripts have used.
var used sync.Map

// ranWires notes the clients that the scripts of a test have used.
func ranWires(t *testing.T) {
	for kind := range used.Range {
		switch kind {
		case "grpcurl":
			harness.Ran(t, "grpcurl", grpcurlVersion(t), "gRPC, by reflection")
		case "node-connect":
			harness.Ran(t, "@flyteorg/flyteidl2", nodeVersion(t), "Connect of @connectrpc/connect-node")
		case "node-grpc":
			harness.Ran(t, "@flyteorg/flyteidl2", nodeVersion(t), "gRPC of @connectrpc/connect-node")
		case "node-grpc-web":
			harness.Ran(t, "@flyteorg/flyteidl2", nodeVersion(t), "gRPC-Web of @connectrpc/connect-node")
		case "curl-json", "curl2-json":
			harness.Ran(t, "curl", curlVersion(t), "Connect in JSON")
		case "curl-proto", "curl2-proto":
			harness.Ran(t, "curl", curlVersion(t), "Connect in gzipped protobuf")
		}
	}
}

// curlVersion returns the version of the curl that is installed, which is not pinned. It does not end
// the test, nor do the two below: the message of a test that ends in its cleanup is lost.
func curlVersion(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("curl", "--version").Output()
	if words := strings.Fields(string(out)); err == nil && len(words) > 1 {
		return words[1] + "*"
	}
	t.Errorf("%v: %s", err, out)
	return ""
}

// grpcurlVersion returns the version in the build information of bin/grpcurl.
func grpcurlVersion(t *testing.T) string {
	t.Helper()
	info, err := buildinfo.ReadFile("../../bin/grpcurl")
	if err != nil {
		t.Error(err)
		return ""
	}
	return strings.TrimPrefix(info.Main.Version, "v")
}

// nodeVersion returns the version of Flyte's npm package that is installed, and of its transport.
func nodeVersion(t *testing.T) string {
	t.Helper()
	var versions []any
	for _, name := range []string{"@flyteorg/flyteidl2", "@connectrpc/connect-node"} {
		var pkg struct{ Version string }
		b, err := os.ReadFile(filepath.Join(deployWire, "node_modules", name, "package.json"))
		if err := errors.Join(err, json.Unmarshal(b, &pkg)); err != nil {
			t.Error(err)
		}
		versions = append(versions, pkg.Version)
	}
	return fmt.Sprintf("%s on %s", versions...)
}

func (w *wire) close() {
	if w.node != nil {
		w.ts.Check(w.node.close())
	}
}

// send sends a request and returns the reply, and notes that there was one.
func (w *wire) send(method, request string) reply {
	uuid, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	w.ts.Check(err)
	id := strings.TrimSpace(string(uuid))
	var r reply
	switch {
	case w.node != nil:
		r = w.node.send(w.ts, id, method, request)
	case w.kind == "grpcurl":
		r = w.grpcurl(id, method, request)
	default:
		r = w.curl(id, method, request)
	}
	notes, _ := sent.LoadOrStore(w.ts.MkAbs("."), &[]note{})
	if list, ok := notes.(*[]note); ok { // of one script, which sends one after the other
		n := note{
			id: id, method: method, code: r.Code, identity: w.identity,
			namesOnly: strings.Contains(request, `"namesOnly":true`),
		}
		if answer, ok := r.Answer.(map[string]any); ok && answer["failures"] != nil {
			n.code = "already_exists" // of an import, which tells it in its answer
		}
		*list = append(*list, n)
	}
	return r
}

// program runs a program and returns its output and exit status.
func (w *wire) program(stdin []byte, name string, args ...string) (stdout, stderr []byte, status int) {
	cmd := exec.Command(name, args...)
	cmd.Dir = w.ts.MkAbs(".")
	cmd.Stdin = bytes.NewReader(stdin)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	if ended, ok := errors.AsType[*exec.ExitError](err); ok {
		return out.Bytes(), said.Bytes(), ended.ExitCode()
	}
	w.ts.Check(err)
	return out.Bytes(), said.Bytes(), 0
}

// must is program, and fails the script unless the program exits with 0.
func (w *wire) must(stdin []byte, name string, args ...string) []byte {
	stdout, stderr, status := w.program(stdin, name, args...)
	if status != 0 {
		w.ts.Fatalf("%s %q: status %d: %s", name, args, status, stderr)
	}
	return stdout
}

func (w *wire) curl(id, method, request string) reply {
	args := []string{
		"-sS", "--max-time", "60", "-o", "curl.body", "-D", "curl.head", "--data-binary", "@-",
		"-w", "%{http_version} %{http_code}", "-H", "x-request-id: " + id, "-H", "connect-protocol-version: 1",
	}
	secure := strings.HasPrefix(w.base, "https:")
	version := "1.1"
	switch {
	case !strings.HasPrefix(w.kind, "curl2-"):
		args = append(args, "--http1.1")
	case secure:
		args, version = append(args, "--http2"), "2"
	default:
		args, version = append(args, "--http2-prior-knowledge"), "2"
	}
	if secure {
		args = append(args, "--cacert", "pki/ca.pem")
		if w.identity != "" {
			args = append(args, "--cert", "pki/"+w.identity+".pem", "--key", "pki/"+w.identity+".key")
		}
	}
	body := []byte(request)
	binary := strings.HasSuffix(w.kind, "-proto")
	if binary {
		body = w.must(w.encode(method, request), "gzip")
		args = append(args, "-A", "connectrpc/0.9", "-H", "content-type: application/proto",
			"-H", "content-encoding: gzip", "-H", "accept-encoding: gzip")
	} else {
		args = append(args, "-H", "content-type: application/json")
	}
	told := string(w.must(body, "curl", append(args, w.base+"/"+method)...))
	spoke, code, _ := strings.Cut(told, " ")
	if spoke != version {
		w.ts.Fatalf("HTTP %s was spoken, not %s", spoke, version)
	}
	status, err := strconv.Atoi(code)
	w.ts.Check(err)
	answer := []byte(w.ts.ReadFile("curl.body"))
	head, err := http.ReadResponse(bufio.NewReader(strings.NewReader(w.head())), nil)
	w.ts.Check(err)
	_ = head.Body.Close()
	if head.Header.Get("Content-Encoding") == "gzip" {
		if !binary {
			w.ts.Fatalf("the answer is gzipped, unasked")
		}
		unzip, err := gzip.NewReader(bytes.NewReader(answer))
		w.ts.Check(err)
		answer, err = io.ReadAll(unzip)
		w.ts.Check(err)
	} else if binary && status == http.StatusOK && len(answer) > 0 {
		w.ts.Fatalf("the answer is not gzipped: %q", answer)
	}
	return w.answered(method, status, head.Header, answer, binary)
}

// head returns the last header of an answer, because that of 100 Continue may come before it.
func (w *wire) head() string {
	heads := strings.Split(strings.TrimSpace(strings.ReplaceAll(w.ts.ReadFile("curl.head"), "\r\n", "\n")), "\n\n")
	last := strings.ReplaceAll(heads[len(heads)-1], "\n", "\r\n") + "\r\n\r\n"
	return strings.Replace(last, "HTTP/2 ", "HTTP/2.0 ", 1)
}

// answered parses an answer of the Connect protocol.
func (w *wire) answered(method string, status int, header http.Header, body []byte, binary bool) reply {
	if id := header.Get("X-Request-Id"); len(id) != 16 {
		w.ts.Fatalf("the answer has the number %q", id)
	}
	kind := header.Get("Content-Type")
	if status == http.StatusOK && binary {
		if kind != "application/proto" {
			w.ts.Fatalf("the answer is %q", kind)
		}
		return reply{Status: status, Answer: sorted(w.ts, w.decode(method, body))}
	}
	if kind != "application/json" {
		w.ts.Fatalf("the answer is %q: %q", kind, body)
	}
	if status == http.StatusOK {
		return reply{Status: status, Answer: sorted(w.ts, body)}
	}
	r := reply{Status: status}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields() // an error is its code and its message
	if err := decoder.Decode(&r); err != nil || r.Status != status || r.Answer != nil {
		w.ts.Fatalf("%v: %q", err, body)
	}
	return r
}

// messages returns the messages of a method, and the .proto file that declares it.
func (w *wire) messages(method string) (in, out protoreflect.MessageDescriptor, file string) {
	service, name, _ := strings.Cut(method, "/")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	w.ts.Check(err)
	s, ok := d.(protoreflect.ServiceDescriptor)
	if !ok || s.Methods().ByName(protoreflect.Name(name)) == nil {
		w.ts.Fatalf("no method %s", method)
	}
	m := s.Methods().ByName(protoreflect.Name(name))
	return m.Input(), m.Output(), d.ParentFile().Path()
}

func (w *wire) protoc(flag string, message protoreflect.MessageDescriptor, file string, stdin []byte) []byte {
	idl, err := filepath.Abs("../../resolver/idl")
	w.ts.Check(err)
	return w.must(stdin, "protoc", "-I", idl, flag+"="+string(message.FullName()), file)
}

// encode returns the bytes of a request. It rewrites JSON to the text format, which protoc encodes.
func (w *wire) encode(method, request string) []byte {
	in, _, file := w.messages(method)
	kind, err := protoregistry.GlobalTypes.FindMessageByName(in.FullName())
	w.ts.Check(err)
	m := kind.New().Interface()
	w.ts.Check(protojson.Unmarshal([]byte(request), m))
	text, err := prototext.Marshal(m)
	w.ts.Check(err)
	return w.protoc("--encode", in, file, text)
}

// decode returns an answer, which protoc decodes, in JSON.
func (w *wire) decode(method string, answer []byte) []byte {
	_, out, file := w.messages(method)
	kind, err := protoregistry.GlobalTypes.FindMessageByName(out.FullName())
	w.ts.Check(err)
	m := kind.New().Interface()
	w.ts.Check(prototext.Unmarshal(w.protoc("--decode", out, file, answer), m))
	b, err := protojson.Marshal(m)
	w.ts.Check(err)
	return b
}

var grpcurlError = regexp.MustCompile(`(?s)^ERROR:\n  Code: (\w+)\n  Message: (.*)\n$`)

// capital is a letter that begins a word of a code's name, as gRPC writes it.
var capital = regexp.MustCompile(`([a-z])([A-Z])`)

func (w *wire) grpcurl(id, method, request string) reply {
	args := []string{"-max-time", "60", "-H", "x-request-id: " + id, "-d", "@"}
	host, secure := strings.CutPrefix(w.base, "https://")
	if secure {
		args = append(args, "-cacert", "pki/ca.pem")
		if w.identity != "" {
			args = append(args, "-cert", "pki/"+w.identity+".pem", "-key", "pki/"+w.identity+".key")
		}
	} else {
		host = strings.TrimPrefix(w.base, "http://")
		args = append(args, "-plaintext")
	}
	bin, err := filepath.Abs("../../bin/grpcurl")
	w.ts.Check(err)
	stdout, stderr, status := w.program([]byte(request), bin, append(args, host, method)...)
	if status == 0 {
		return reply{Answer: sorted(w.ts, stdout)}
	}
	m := grpcurlError.FindSubmatch(stderr)
	if m == nil {
		w.ts.Fatalf("grpcurl: status %d: %s", status, stderr)
	}
	return reply{Code: strings.ToLower(capital.ReplaceAllString(string(m[1]), "${1}_$2")), Message: string(m[2])}
}

// A nodeClient is deploy/wire/client.js, which reads one request a line.
type nodeClient struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	answers *bufio.Reader
	stderr  bytes.Buffer
}

// bundled bundles the client and Flyte's generated TypeScript into one file.
var bundled = sync.OnceValues(func() (string, error) {
	out := filepath.Join(binaries, "client.mjs")
	cmd := exec.Command("node", "node_modules/esbuild/bin/esbuild",
		"client.js", "--bundle", "--platform=node", "--format=esm", "--log-level=warning", "--outfile="+out)
	cmd.Dir = deployWire
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("esbuild: %w: %s", err, said)
	}
	return out, nil
})

func startNode(w *wire, protocol string) *nodeClient {
	program, err := bundled()
	w.ts.Check(err)
	args := []string{program, protocol, w.base}
	if strings.HasPrefix(w.base, "https:") {
		args = append(args, w.ts.MkAbs("pki/ca.pem"))
		if w.identity != "" {
			args = append(args, w.ts.MkAbs("pki/"+w.identity+".pem"), w.ts.MkAbs("pki/"+w.identity+".key"))
		}
	}
	n := &nodeClient{cmd: exec.Command("node", args...)}
	n.cmd.Stderr = &n.stderr
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	n.stdin, err = n.cmd.StdinPipe()
	w.ts.Check(err)
	stdout, err := n.cmd.StdoutPipe()
	w.ts.Check(err)
	n.answers = bufio.NewReader(stdout)
	w.ts.Check(n.cmd.Start())
	return n
}

func (n *nodeClient) send(ts *testscript.TestScript, id, method, request string) reply {
	line, err := json.Marshal(map[string]any{"id": id, "method": method, "request": json.RawMessage(request)})
	ts.Check(err)
	_, err = n.stdin.Write(append(line, '\n'))
	ts.Check(err)
	told, err := n.answers.ReadBytes('\n')
	if err != nil {
		_ = n.close()
		ts.Fatalf("node: %v: %s", err, n.stderr.String())
	}
	var r struct {
		Code, Message string
		Answer        json.RawMessage
	}
	ts.Check(json.Unmarshal(told, &r))
	if r.Code != "" {
		return reply{Code: r.Code, Message: r.Message}
	}
	return reply{Answer: sorted(ts, r.Answer)}
}

func (n *nodeClient) close() error {
	return errors.Join(n.stdin.Close(), n.cmd.Wait())
}
