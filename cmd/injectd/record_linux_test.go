package main_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"inject/internal/harness"
)

// released is the recording of the last release.
const released = "../../resolver/idl/testdata/released.json"

// A recording is what an inject and an injectd of one release said to each other, made from the
// real programs by record. skew_linux_test.go plays either side to today's programs.
type recording struct {
	Release string `json:"release"` // as injectd version prints it
	// Descriptors are the FileDescriptorSet that the server answered by reflection.
	Descriptors []byte            `json:"descriptors"`
	Files       map[string][]byte `json:"files"` // that the runs read
	Runs        []*run            `json:"runs"`
}

// A run is one of inject.
type run struct {
	As     string   `json:"as"` // the certificate that it runs with
	Args   []string `json:"args"`
	Exit   int      `json:"exit"`
	Stdout string   `json:"stdout"`
	// Now is how this inject ends and what it prints, where that was changed on purpose.
	Now   *ending `json:"now,omitempty"`
	Calls []*call `json:"calls"`
}

type ending struct {
	Exit   int    `json:"exit"`
	Stdout string `json:"stdout"`
}

// now returns what this inject does.
func (r *run) now() ending {
	if r.Now != nil {
		return *r.Now
	}
	return ending{r.Exit, r.Stdout}
}

// A call is a request and its answer, as gRPC has them in HTTP/2. The messages are those of the
// bodies, for people who read a recording; a test compares both.
type call struct {
	Path     string          `json:"path"`
	Header   http.Header     `json:"header"`
	Body     []byte          `json:"body"`
	Request  json.RawMessage `json:"request"`
	Answered http.Header     `json:"answered"` // the header of the answer
	Answer   []byte          `json:"answer"`   // its body
	Response json.RawMessage `json:"response,omitempty"`
	Trailer  http.Header     `json:"trailer,omitempty"`
}

// session returns the runs that are recorded. They use only flags and variables that both sides of
// a release have.
func session() []*run {
	do := func(as string, args ...string) *run { return &run{As: as, Args: args} }
	in := []string{"-p", "p", "-d", "d"}
	with := func(args ...string) []string { return append(args, in...) }
	registry := []string{"--registry", "ghcr.io", "--username", "me", "--password", "pa:'\"$ss"}
	sums := `for v in "$A" "$B" "$M1"; do printf %s "$v" | sha256sum; done`
	return []*run{
		do("platform", "whoami", "-o", "json"),
		do("platform", with("create", "secret", "A", "--from-file", "a")...),
		do("platform", "create", "secret", "B", "--from-file", "b"),
		do("platform", "create", "secret", "B", "--from-file", "b"), // it exists
		do("platform", append([]string{"create", "secret", "PULL", "--type", "image_pull"}, registry...)...),
		do("platform", "create", "secret", "--from-env-file", "many.env", "-p", "p"),
		do("platform", "create", "secret", "--from-env-file", "many.env", "-p", "p"), // they exist
		do("platform", "get", "secret", "-o", "name"),
		do("platform", with("get", "secret", "A", "-o", "json")...),
		do("platform", "get", "secret", "PULL", "-o", "json"),
		do("platform", "get", "secret", "NONE"),
		do("platform", "update", "secret", "B", "--from-file", "a"),
		do("platform", "update", "secret", "NONE", "--from-file", "a"),
		do("task", "whoami", "-o", "json"),
		do("task", "explain", "--secret", "A", "--secret", "M2", "-o", "json"),
		do("task", "explain", "--secret", "A", "--secret", "NONE"),
		do("task", "--secret", "A", "--secret", "B", "--secret", "M1", "--", "sh", "-c", sums),
		do("task", "--secret", "A", "--secret", "NONE", "--", "true"),
		do("task", "-p", "q", "-d", "d", "--secret", "A", "--", "true"), // not its scope
		do("task", "get", "secret"),                                     // denied
		do("other", "whoami", "-o", "json"),
		do("other", "--secret", "A", "--", "true"), // no rule matches it
		do("platform", with("delete", "secret", "A")...),
		do("platform", with("delete", "secret", "A")...), // it is gone
		do("task", "--secret", "A", "--", "true"),
	}
}

// A stage is where inject runs: certificates, and the files of a recording.
type stage struct {
	*harness.Authority

	t     *testing.T
	pairs map[string]tls.Certificate // by the identity of a run
}

// newStage makes the certificates, and writes the files of r.
func newStage(t *testing.T, r *recording) *stage {
	s := &stage{harness.NewAuthority(t, t.TempDir()), t, map[string]tls.Certificate{}}
	s.Issue("server", harness.Local)
	for as, id := range map[string]string{
		"platform": "spiffe://example.org/platform", "task": "spiffe://example.org/project/p/domain/d",
		"other": "spiffe://example.org/other",
	} {
		s.pairs[as] = s.Pair(as, s.SPIFFE(id))
		// One file, because the flag of the key has had two names.
		cert, err := os.ReadFile(s.Path(as + ".pem"))
		require.NoError(t, err)
		key, err := os.ReadFile(s.Path(as + ".key"))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(s.Path(as+".both"), append(cert, key...), 0o600))
	}
	for name, b := range r.Files {
		require.NoError(t, os.WriteFile(s.Path(name), b, 0o600))
	}
	require.NoError(t, os.WriteFile(s.Path("policy.yaml"), []byte(policyFile), 0o600))
	return s
}

// as returns the identity of a caller.
func (s *stage) as(r *http.Request) string {
	for as, pair := range s.pairs {
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 &&
			bytes.Equal(r.TLS.PeerCertificates[0].Raw, pair.Certificate[0]) {
			return as
		}
	}
	return ""
}

// tls returns the configuration of a server that knows the callers.
func (s *stage) tls() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{must(tls.LoadX509KeyPair(s.Path("server.pem"), s.Path("server.key")))},
		ClientCAs:    s.Pool(), ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"},
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// serve starts the injectd of a folder on a new store.
func (s *stage) serve(programs string) *process {
	p, err := startProgram(filepath.Join(programs, "injectd"), s.Dir, s.environ(),
		"--store", "file://"+s.t.TempDir()+"/secrets.db", "--key-file", s.t.TempDir()+"/key",
		"--cert-file", s.Path("server.pem"), "--cert-key-file", s.Path("server.key"), "--client-ca-file", s.CA(),
		"--policy", s.Path("policy.yaml"))
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, p.stop(syscall.SIGTERM)) })
	return p
}

func (s *stage) environ(more ...string) []string {
	return append(more, "PATH="+os.Getenv("PATH"), "HOME="+s.Dir)
}

// serveHTTP serves h over TLS to the callers, and returns its address.
func (s *stage) serveHTTP(h http.HandlerFunc) string {
	server := httptest.NewUnstartedServer(h)
	server.EnableHTTP2, server.TLS = true, s.tls()
	server.StartTLS()
	s.t.Cleanup(server.Close)
	return "grpcs://" + server.Listener.Addr().String()
}

// client returns an HTTP client with the certificate of an identity.
func (s *stage) client(as string) *http.Client {
	var h2 http.Protocols
	h2.SetHTTP2(true)
	transport := &http.Transport{
		Protocols: &h2, DisableCompression: true,
		TLSClientConfig: &tls.Config{RootCAs: s.Pool(), Certificates: []tls.Certificate{s.pairs[as]}},
	}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// at matches the times in the output of inject.
var at = regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`)

// play does a run with the inject of a folder. What it prints has $STORE for the address.
func (s *stage) play(programs, store string, one *run) (exit int, stdout, stderr string) {
	cmd := exec.Command(filepath.Join(programs, "inject"), one.Args...)
	cmd.Dir = s.Dir
	cmd.Env = s.environ("INJECT_STORE="+store, "INJECT_CA_FILE="+s.CA(), "INJECT_CERT_FILE="+s.Path(one.As+".both"))
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		require.NoError(s.t, err)
	}
	return cmd.ProcessState.ExitCode(), strings.ReplaceAll(out.String(), store, "$STORE"), said.String()
}

// record runs the session with the inject and the injectd of a folder, and a proxy between them
// that notes what they say.
func record(t *testing.T, programs string) *recording {
	version := must(exec.Command(filepath.Join(programs, "injectd"), "version").Output())
	r := &recording{Release: strings.TrimSpace(string(version)), Runs: session(), Files: map[string][]byte{
		"a": []byte("'\"$HOME`\\\n\xff\xfe%s" + rand.Text()), "b": []byte("$(id)\t\xc3'\n" + rand.Text()),
		"many.env": []byte("M1=" + rand.Text() + "\nM2='" + rand.Text() + " '\n"),
	}}
	s := newStage(t, r)
	server := s.serve(programs)
	r.Descriptors = s.reflect(server)
	w := r.schema(t)
	clients := map[string]*http.Client{}
	for as := range s.pairs {
		clients[as] = s.client(as)
	}

	var mu sync.Mutex
	var calls []*call
	proxy := s.serveHTTP(func(rw http.ResponseWriter, in *http.Request) {
		c := &call{Path: in.URL.Path, Header: in.Header}
		err := s.pass(clients[s.as(in)], server.host(), c, in.Body)
		mu.Lock()
		calls = append(calls, c)
		mu.Unlock()
		if err != nil {
			t.Errorf("%s: %v", c.Path, err)
		}
		c.reply(rw)
	})
	for _, one := range r.Runs {
		one.Exit, one.Stdout, _ = s.play(programs, proxy, one)
		mu.Lock()
		one.Calls, calls = calls, nil
		mu.Unlock()
		for _, c := range one.Calls {
			c.Request, c.Response = w.json(c.Path, c.Body, true), w.json(c.Path, c.Answer, false)
		}
	}
	return r
}

// pass sends the request c with a body, and fills in the answer.
func (s *stage) pass(client *http.Client, host string, c *call, body io.Reader) (err error) {
	if c.Body, err = io.ReadAll(body); err != nil {
		return err
	}
	out, err := http.NewRequest(http.MethodPost, "https://"+host+c.Path, bytes.NewReader(c.Body))
	if err != nil {
		return err
	}
	out.Header = maps.Clone(c.Header)
	answer, err := client.Do(out)
	if err != nil {
		return err
	}
	defer answer.Body.Close() //nolint:errcheck // it was read to its end
	c.Answer, err = io.ReadAll(answer.Body)
	answer.Header.Del("Date")
	c.Answered, c.Trailer = answer.Header, answer.Trailer
	if answer.StatusCode != http.StatusOK {
		err = errors.Join(err, fmt.Errorf("HTTP status %d", answer.StatusCode))
	}
	return err
}

// reply writes the answer of c.
func (c *call) reply(w http.ResponseWriter) {
	maps.Copy(w.Header(), c.Answered)
	w.Header().Del("Trailer") // net/http writes it
	if len(c.Answer) > 0 {
		_, _ = w.Write(c.Answer)
	}
	for name, values := range c.Trailer {
		w.Header()[http.TrailerPrefix+name] = values
	}
}

// status returns the code and the message of the answer of c.
func (c *call) status() (code, message string) {
	for _, h := range []http.Header{c.Trailer, c.Answered} {
		if code = h.Get("Grpc-Status"); code != "" {
			return code, h.Get("Grpc-Message")
		}
	}
	return "", ""
}

// reflect asks a server for the descriptors of its services.
func (s *stage) reflect(p *process) []byte {
	config := &tls.Config{RootCAs: s.Pool()}
	conn := must(grpc.NewClient(p.host(), grpc.WithTransportCredentials(credentials.NewTLS(config))))
	defer conn.Close() //nolint:errcheck // all was read
	stream, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(context.Background())
	require.NoError(s.t, err)
	set, have := &descriptorpb.FileDescriptorSet{}, map[string]bool{}
	ask := func(q *grpc_reflection_v1.ServerReflectionRequest) *grpc_reflection_v1.ServerReflectionResponse {
		require.NoError(s.t, stream.Send(q))
		return must(stream.Recv())
	}
	services := ask(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
	}).GetListServicesResponse().GetService()
	var add func(files [][]byte)
	add = func(files [][]byte) {
		for _, b := range files {
			f := &descriptorpb.FileDescriptorProto{}
			require.NoError(s.t, proto.Unmarshal(b, f))
			if have[f.GetName()] {
				continue
			}
			have[f.GetName()] = true
			for _, name := range f.GetDependency() {
				add(ask(&grpc_reflection_v1.ServerReflectionRequest{
					MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_FileByFilename{FileByFilename: name},
				}).GetFileDescriptorResponse().GetFileDescriptorProto())
			}
			set.File = append(set.File, f) // after those that it imports
		}
	}
	for _, service := range services {
		if strings.HasPrefix(service.GetName(), "grpc.") {
			continue
		}
		add(ask(&grpc_reflection_v1.ServerReflectionRequest{
			MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_FileContainingSymbol{
				FileContainingSymbol: service.GetName(),
			},
		}).GetFileDescriptorResponse().GetFileDescriptorProto())
	}
	return must(proto.MarshalOptions{Deterministic: true}.Marshal(set))
}

// A schema decodes messages as the programs of a recording do.
type schema struct {
	t     *testing.T
	files *protoregistry.Files
}

func (r *recording) schema(t *testing.T) schema {
	var set descriptorpb.FileDescriptorSet
	require.NoError(t, proto.Unmarshal(r.Descriptors, &set))
	return schema{t, must(protodesc.NewFiles(&set))}
}

// method returns the method of a path, nil if the release did not have it.
func (w schema) method(path string) protoreflect.MethodDescriptor {
	d, err := w.files.FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(strings.Trim(path, "/"), "/", ".")))
	if err != nil {
		return nil
	}
	return d.(protoreflect.MethodDescriptor) //nolint:errcheck // a path names nothing else
}

// decode returns the message in a body, without the fields that the release did not have; nil for an
// empty body.
func (w schema) decode(path string, body []byte, request bool) proto.Message {
	const prefix = 5 // whether it is compressed 1, length 4
	if len(body) == 0 {
		return nil
	}
	require.GreaterOrEqual(w.t, len(body), prefix, path)
	require.Zero(w.t, body[0], "%s: compressed", path)
	require.Equal(w.t, len(body)-prefix, int(binary.BigEndian.Uint32(body[1:])), path)
	kind := w.method(path).Output()
	if request {
		kind = w.method(path).Input()
	}
	m := dynamicpb.NewMessage(kind)
	require.NoError(w.t, proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(body[prefix:], m), path)
	return m
}

// json returns the message in a body as JSON.
func (w schema) json(path string, body []byte, request bool) json.RawMessage {
	m := w.decode(path, body, request)
	if m == nil {
		return nil
	}
	var b bytes.Buffer // protojson varies its white space
	require.NoError(w.t, json.Compact(&b, must(protojson.Marshal(m))))
	return b.Bytes()
}
