package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

// Version skew: an inject and an injectd of which one is of the last release. A recording of that
// release stands for its programs, so that a clone without history tests all of it. "make record"
// makes a recording from the real programs. TestSkew also makes one of today's programs, so that
// the recorder is tested, too.
func TestSkew(t *testing.T) {
	var last recording
	require.NoError(t, json.Unmarshal(must(os.ReadFile(released)), &last))
	require.Len(t, last.Runs, len(session()), "make record")
	for name, r := range map[string]*recording{"the last release": &last, "today": record(t, binaries)} {
		t.Run(name, func(t *testing.T) {
			t.Run("its messages are those of its bytes", r.readable)
			t.Run("its inject, this injectd", r.playClient)
			t.Run("this inject, its injectd", r.playServer)
		})
	}
}

// readable checks that people who review the recording read what its bytes say, and that it has
// every method that inject calls, answered and refused.
func (r *recording) readable(t *testing.T) {
	w, answered, refused := r.schema(t), map[string]bool{}, map[string]bool{}
	for _, one := range r.Runs {
		require.NotEmpty(t, one.Calls, one.Args)
		for _, c := range one.Calls {
			require.JSONEq(t, string(w.json(c.Path, c.Body, true)), string(c.Request), one.Args)
			method := c.Path[strings.LastIndex(c.Path, "/")+1:]
			if code, _ := c.status(); code != "0" {
				refused[method] = true
				continue
			}
			require.JSONEq(t, string(w.json(c.Path, c.Answer, false)), string(c.Response), one.Args)
			answered[method] = true
		}
	}
	methods := map[string]bool{
		"CreateSecret": true, "UpdateSecret": true, "DeleteSecret": true, "GetSecret": true, "ListSecrets": true,
		"Resolve": true, "Import": true, "WhoAmI": true,
	}
	require.Equal(t, methods, answered)
	delete(methods, "WhoAmI") // all who have credentials are answered,
	delete(methods, "Import") // and this answer has the reasons
	require.Equal(t, methods, refused)
}

// playClient sends what the recorded inject sent to this injectd. The answers must have what they
// had then, as far as the recorded inject understands them.
func (r *recording) playClient(t *testing.T) {
	s, w := newStage(t, r), r.schema(t)
	server := s.serve(binaries)
	clients := map[string]*http.Client{}
	for _, one := range r.Runs {
		if clients[one.As] == nil {
			clients[one.As] = s.client(one.As)
		}
		for _, then := range one.Calls {
			now := &call{Path: then.Path, Header: then.Header}
			require.NoError(t, s.pass(clients[one.As], server.host(), now, bytes.NewReader(then.Body)), one.Args)
			code, _ := then.status()
			got, message := now.status()
			require.Equal(t, code, got, "%v: %s: %s", one.Args, then.Path, message)
			if code == "0" {
				require.Equal(t, lasting(t, then.Response), lasting(t, w.json(now.Path, now.Answer, false)), one.Args)
			}
		}
	}
}

// lasting returns a message without what differs between two runs of a session: times, the order of
// a list, and texts for people.
func lasting(t *testing.T, message json.RawMessage) any {
	var walk func(v any) any
	walk = func(v any) any {
		switch v := v.(type) {
		case map[string]any:
			for key, value := range v {
				switch key {
				case "createdTime", "updatedTime", "message":
					v[key] = "given"
				default:
					v[key] = walk(value)
				}
			}
			if list, ok := v["secrets"].([]any); ok {
				slices.SortFunc(list, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
			}
		case []any:
			for i := range v {
				v[i] = walk(v[i])
			}
		}
		return v
	}
	var v any
	require.NoError(t, json.Unmarshal(message, &v), "%s", message)
	return walk(v)
}

// playServer runs the session with this inject against the answers of the recorded injectd. As far
// as that injectd understood requests, they must be those that it was asked.
func (r *recording) playServer(t *testing.T) {
	s, w := newStage(t, r), r.schema(t)
	var mu sync.Mutex
	var as string
	var expected []*call
	answer := func(rw http.ResponseWriter, in *http.Request) error {
		body, err := io.ReadAll(in.Body)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if w.method(in.URL.Path) == nil { // it answers what it does not know
			rw.Header().Set("Content-Type", "application/grpc")
			rw.Header().Set("Grpc-Status", "12") // unimplemented
			return nil
		}
		if got := s.as(in); got != as {
			return fmt.Errorf("%s is asked as %q, not as %s", in.URL.Path, got, as)
		}
		if len(expected) == 0 || in.URL.Path != expected[0].Path || !proto.Equal(
			w.decode(in.URL.Path, body, true), w.decode(in.URL.Path, expected[0].Body, true)) {
			return fmt.Errorf("the recorded server was not asked this: %s %s", in.URL.Path,
				w.json(in.URL.Path, body, true))
		}
		expected[0].reply(rw)
		expected = expected[1:]
		return nil
	}
	store := s.serveHTTP(func(rw http.ResponseWriter, in *http.Request) {
		if err := answer(rw, in); err != nil {
			t.Error(err)
			rw.WriteHeader(http.StatusInternalServerError)
		}
	})
	for _, one := range r.Runs {
		mu.Lock()
		as, expected = one.As, one.Calls
		mu.Unlock()
		exit, stdout, stderr := s.play(binaries, store, one)
		if got := (ending{exit, stdout}); os.Getenv("INJECT_TEST_UPDATE") != "" && got != one.now() {
			one.Now = &got
		}
		require.Equal(t, one.now().Exit, exit, "%v: %s", one.Args, stderr)
		// If an output was changed on purpose, INJECT_TEST_UPDATE writes the new one into the recording,
		// which belongs into the same commit.
		require.Equal(t, one.now().Stdout, stdout, one.Args)
		mu.Lock()
		left := expected
		mu.Unlock()
		require.Empty(t, left, "%v: calls that were not made", one.Args)
	}
	if os.Getenv("INJECT_TEST_UPDATE") != "" {
		r.save(t)
	}
}

// TestSkewPrograms runs the session with the real programs of the last release where the clone has
// its commit. TestSkew tests the same without them. With INJECT_TEST_RECORD (make record), it first
// records that release.
func TestSkewPrograms(t *testing.T) {
	var r *recording
	rev := os.Getenv("INJECT_TEST_RECORD")
	if rev == "" {
		if testing.Short() {
			t.Skip("TestSkew plays the recording")
		}
		require.NoError(t, json.Unmarshal(must(os.ReadFile(released)), &r))
		rev = strings.Fields(r.Release)[1]
		if exec.Command("git", "cat-file", "-e", rev+"^{commit}").Run() != nil {
			t.Skip("this clone does not have the commit of the last release: TestSkew plays the recording")
		}
	}
	last := build(t, rev)
	if r == nil {
		r = record(t, last)
		r.save(t)
	}
	for name, programs := range map[string][2]string{
		"its inject, this injectd": {last, binaries}, "this inject, its injectd": {binaries, last},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, r)
			store := s.serve(programs[1]).store
			for _, one := range r.Runs {
				exit, stdout, stderr := s.play(programs[0], store, one)
				want := ending{one.Exit, one.Stdout}
				if programs[0] == binaries {
					want = one.now()
				}
				require.Equal(t, want.Exit, exit, "%v: %s", one.Args, stderr)
				require.ElementsMatch(t, timeless(want.Stdout), timeless(stdout), one.Args)
			}
		})
	}
}

// timeless returns the lines of an output, which may be those of a list, without times.
func timeless(text string) []string { return strings.Split(at.ReplaceAllString(text, "TIME"), "\n") }

// build builds the programs of a commit and returns their folder.
func build(t *testing.T, rev string) string {
	dir := t.TempDir()
	script := `git -C ../.. archive "$REV" | tar -x -C "$DIR" && cd "$DIR" && make build VERSION="$REV"`
	cmd := exec.Command("bash", "-o", "pipefail", "-c", script)
	cmd.Env = append(os.Environ(), "REV="+rev, "DIR="+dir)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return filepath.Join(dir, "bin")
}

// save writes the recording of the last release.
func (r *recording) save(t *testing.T) {
	t.Helper()
	b := must(json.MarshalIndent(r, "", " "))
	require.NoError(t, os.WriteFile(released, append(b, '\n'), 0o600))
}
