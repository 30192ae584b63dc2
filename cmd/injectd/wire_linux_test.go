package main_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"inject/internal/harness"
	_ "inject/resolver/idl/flyteidl2/cluster" // the messages of the tables
	_ "inject/resolver/idl/flyteidl2/secret"
	_ "inject/resolver/idl/inject/v1"
)

// The wire as other projects' clients see it. The requests, and the answers that they must get,
// are in the tables testdata/wire/*.rows. Each client sends the same tables:
//
//	curl-json, curl2-json      Connect, JSON, with HTTP/1.1 and HTTP/2
//	curl-proto, curl2-proto    Connect as the flyte command speaks it: binary (by protoc), gzipped
//	grpcurl                    gRPC, by reflection
//	node-connect, node-grpc, node-grpc-web   Flyte's own generated client (deploy/wire/client.js)
//
// A row is a method with its request in JSON, and on the next line the HTTP status (the
// one that Connect has; gRPC has its code only) with the answer in JSON, or the code and
// message of an error. In a table
//
//	$A, $B, $TEXT       are v/a, v/b and the text $A, in base64
//	$MIB, $MORE, $OVER  are 1 MiB, 1 MiB and a byte, 4 MiB, in base64
//	<K o d p TYPE>      is the description of a secret; - stands for an unset field
//	TIME                is a time of the last hour
//	...                 ends a message whose rest is not compared, because it differs by protocol
//
// The secrets of a list have no order.

// deployWire holds the node client and the pinned version of grpcurl.
const deployWire = "../../deploy/wire"

// has is a condition of scripts: a client is installed. In CI all are.
func has(cond string) (bool, error) {
	name, ok := strings.CutPrefix(cond, "has:")
	if !ok {
		return false, fmt.Errorf("unknown condition %s", cond)
	}
	var err error
	switch name {
	case "flyteidl2":
		if _, err = exec.LookPath("node"); err == nil {
			_, err = os.Stat(filepath.Join(deployWire, "node_modules", "@flyteorg", name))
		}
	case "grpcurl":
		_, err = os.Stat("../../bin/grpcurl")
	case "kubernetes":
		err = harness.HasKubernetes("../..")
	default:
		_, err = exec.LookPath(name)
	}
	if err != nil && harness.NoSkip() {
		return false, err
	}
	return err == nil, nil
}

// A row is a request, and the answer that it must get.
type row struct {
	line    int
	method  string // SERVICE/METHOD
	request string // JSON
	want    reply
	begins  bool // want.message is its beginning
}

// A reply is the answer that a client got.
type reply struct {
	Status  int    `json:"status,omitempty"` // of HTTP; 0 where the client does not tell
	Code    string `json:"code,omitempty"`   // as Connect writes it, "" for none
	Message string `json:"message,omitempty"`
	Answer  any    `json:"answer,omitempty"` // JSON
}

func (r reply) String() string {
	b, _ := json.Marshal(r) // texts and numbers
	return string(b)
}

var toldOf = regexp.MustCompile(`<(\S+) (\S+) (\S+) (\S+) (\S+)>`)

// described returns the description of a secret in JSON, for a match of toldOf.
func described(match string) string {
	f := toldOf.FindStringSubmatch(match)
	id := fmt.Sprintf(`{"name":%q,"organization":%q`, f[1], f[2])
	for i, level := range []string{"domain", "project"} {
		if f[3+i] != "-" {
			id += fmt.Sprintf(`,%q:%q`, level, f[3+i])
		}
	}
	metadata := `{"createdTime":"TIME","secretStatus":{"overallStatus":"FULLY_PRESENT",
		"clusterStatus":[{"cluster":{"organization":"` + f[2] + `","name":"inject"},"presenceStatus":"PRESENT"}]}`
	if f[5] != "-" {
		metadata += `,"type":"` + f[5] + `"`
	}
	return `{"id":` + id + `},"secretMetadata":` + metadata + `}}`
}

// readTable reads testdata/wire/NAME.rows.
func readTable(ts *testscript.TestScript, name string) []row {
	b, err := os.ReadFile(filepath.Join("testdata", "wire", name+".rows"))
	ts.Check(err)
	value := func(name string) []byte { return []byte(ts.ReadFile("v/" + name)) }
	long := func(n int) string {
		return base64.StdEncoding.EncodeToString(bytes.Repeat(value("a"), n/len(value("a"))+1)[:n])
	}
	a := base64.StdEncoding.EncodeToString(value("a"))
	expand := strings.NewReplacer(
		"$A", a, "$B", base64.StdEncoding.EncodeToString(value("b")),
		"$TEXT", base64.StdEncoding.EncodeToString([]byte(a)),
		"$MIB", long(1<<20), "$MORE", long(1<<20+1), "$OVER", long(4<<20))
	var rows []row
	var open bool // the last row has no answer yet
	for i, line := range strings.Split(string(b), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		first, rest, ok := strings.Cut(line, " ")
		if !ok {
			ts.Fatalf("%s:%d: %s", name, i+1, line)
		}
		if !open {
			rows = append(rows, row{line: i + 1, method: first, request: expand.Replace(rest)})
			open = true
			continue
		}
		r := &rows[len(rows)-1]
		open = false
		r.want.Status, err = strconv.Atoi(first)
		ts.Check(err)
		if r.want.Status == http.StatusOK {
			rest = expand.Replace(toldOf.ReplaceAllStringFunc(rest, described))
			r.want.Answer = sorted(ts, []byte(rest))
			continue
		}
		r.want.Code, r.want.Message, _ = strings.Cut(rest, " ")
		r.want.Message, r.begins = strings.CutSuffix(r.want.Message, "...")
	}
	if open || len(rows) == 0 {
		ts.Fatalf("%s: the last row has no answer", name)
	}
	return rows
}

// sorted reads an answer; what differs from run to run is taken out of it.
func sorted(ts *testscript.TestScript, b []byte) any {
	var answer any
	if err := json.Unmarshal(b, &answer); err != nil {
		ts.Fatalf("%v: %q", err, b)
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, name := range []string{"createdTime", "updatedTime"} {
				text, ok := v[name].(string)
				if !ok || text == "TIME" {
					continue
				}
				at, err := time.Parse(time.RFC3339Nano, text)
				ts.Check(err)
				if age := time.Since(at); age < 0 || age > time.Hour {
					ts.Fatalf("%s is %s", name, text)
				}
				v[name] = "TIME"
			}
			for name, child := range v {
				walk(child)
				if list, ok := child.([]any); ok && name == "secrets" {
					slices.SortFunc(list, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
				}
			}
		case []any:
			for _, child := range v {
				walk(child)
			}
		}
	}
	walk(answer)
	return answer
}

// rows sends the rows of a table: rows TABLE CLIENT URL [IDENTITY].
func rows(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: rows TABLE CLIENT URL [IDENTITY]")
	}
	table := readTable(ts, args[0])
	w := newWire(ts, args[1:])
	defer w.close()
	for _, row := range table {
		got := w.send(row.method, row.request)
		want := row.want
		if got.Status == 0 {
			want.Status = 0
		}
		if row.begins && strings.HasPrefix(got.Message, want.Message) {
			want.Message = got.Message
		}
		if !reflect.DeepEqual(got, want) {
			ts.Fatalf("%s.rows:%d: %s %.200s\ngot  %.2000s\nwant %.2000s", args[0], row.line, row.method, row.request,
				got, want)
		}
	}
	ts.Logf("%d rows", len(table))
}

// pages goes through a list by its tokens, while secrets are created and deleted:
// pages CLIENT URL [IDENTITY]. A secret that exists all the time must be listed exactly
// once.
func pages(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("pages has no opposite")
	}
	w := newWire(ts, args)
	defer w.close()
	do := func(method, name string) {
		id := fmt.Sprintf(`{"id":{"name":%q,"domain":"d","project":"pages"}`, name)
		if method == "CreateSecret" {
			id += `,"secretSpec":{"binaryValue":"AA=="}`
		}
		if r := w.send("flyteidl2.secret.SecretService/"+method, id+"}"); r.Code != "" {
			ts.Fatalf("%s %s: %s", method, name, r)
		}
	}
	stays, goes := map[string]int{}, []string{}
	for i := range 9 {
		name := fmt.Sprintf("K%d", i)
		do("CreateSecret", name)
		if i < 6 {
			stays[name] = 0
		} else {
			goes = append(goes, name)
		}
	}
	const limit = 2
	token, n := "", 0
	for ; n == 0 || token != ""; n++ {
		if n > 100 {
			ts.Fatalf("the list has no end")
		}
		request, err := json.Marshal(map[string]any{"domain": "d", "project": "pages", "limit": limit, "token": token})
		ts.Check(err)
		r := w.send("flyteidl2.secret.SecretService/ListSecrets", string(request))
		b, err := json.Marshal(r.Answer)
		ts.Check(err)
		var page struct {
			Secrets []struct{ ID struct{ Name string } }
			Token   string
		}
		ts.Check(json.Unmarshal(b, &page))
		if r.Code != "" || len(page.Secrets) > limit {
			ts.Fatalf("page %d: %s", n, r)
		}
		for _, s := range page.Secrets {
			if _, ok := stays[s.ID.Name]; ok {
				stays[s.ID.Name]++
			}
		}
		token = page.Token
		if n < len(goes) {
			do("DeleteSecret", goes[n])
			do("CreateSecret", "N"+goes[n])
		}
	}
	if n < 3 {
		ts.Fatalf("there were %d pages", n)
	}
	for name, times := range stays {
		if times != 1 {
			ts.Fatalf("%s was told %d times", name, times)
		}
		do("DeleteSecret", name)
	}
	for _, name := range goes {
		do("DeleteSecret", "N"+name)
	}
}

// A note is a request that was sent.
type note struct {
	id, method, code, identity string
	namesOnly                  bool
}

// sent are the requests of each script, by its folder.
var sent sync.Map

// verbs are the words of the audit log for methods. injectd has no other methods: they are answered
// with "unimplemented" and have no line.
var verbs = map[string]string{
	"CreateSecret": "create", "UpdateSecret": "update", "DeleteSecret": "delete", "GetSecret": "get",
	"ListSecrets": "list", "Import": "import", "Resolve": "resolve", "UserInfo": "whoami", "SelectCluster": "cluster",
}

// audited compares audit logs with all that the script has sent: audited LOG...
func audited(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: audited LOG...")
	}
	type line struct{ Event, Request, Client, Verb, Decision, Outcome string }
	lines := map[string][]line{}
	for _, log := range args {
		for text := range strings.Lines(ts.ReadFile(log)) {
			var l line
			ts.Check(json.Unmarshal([]byte(text), &l))
			lines[l.Client] = append(lines[l.Client], l)
		}
	}
	notes, _ := sent.LoadAndDelete(ts.MkAbs("."))
	list, ok := notes.(*[]note)
	if !ok {
		ts.Fatalf("nothing was sent")
	}
	for _, n := range *list {
		_, method, _ := strings.Cut(n.method, "/")
		verb := verbs[method]
		if n.namesOnly {
			verb = "explain"
		}
		want := []line{{Event: "decision", Verb: verb}}
		switch {
		case n.code == "unauthenticated": // without credentials: counted, not audited
			want = nil
		case verb == "":
			want = nil
		case n.identity == "other": // no rule matches it, so its requests are not read
			want[0].Verb, want[0].Decision = n.method, "denied"
		case n.code == "resource_exhausted": // it was too large to be read
			want[0].Verb, want[0].Decision = n.method, "invalid"
		case n.code == "invalid_argument":
			want[0].Decision = "invalid"
		case n.code == "permission_denied", n.code == "not_found" && n.identity != "" && n.identity != "platform":
			want[0].Decision = "denied"
		default:
			want[0].Decision = "allowed"
			ended := map[string]string{"": "done", "already_exists": "exists", "not_found": "not found"}[n.code]
			switch verb {
			case "whoami", "cluster": // have none
			case "resolve", "explain": // tell it of each secret
			case "get", "list":
				want[0].Outcome = ended
			default: // one line of the decision, and one of its outcome
				want = append(want, line{Event: "outcome", Verb: verb, Outcome: ended})
			}
		}
		got := lines[n.id]
		delete(lines, n.id)
		for i := range got {
			if i < len(want) {
				want[i].Client, want[i].Request = n.id, got[0].Request
			}
		}
		if !slices.Equal(got, want) {
			ts.Fatalf("%s of %s, answered with %q\ngot  %+v\nwant %+v", n.method, n.identity, n.code, got, want)
		}
	}
	for id, l := range lines {
		ts.Fatalf("the audit log has a request that was not sent: %q: %+v", id, l)
	}
	ts.Logf("%d requests", len(*list))
}
