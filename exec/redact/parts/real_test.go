package parts_test

import (
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/exec/redact"
	"inject/internal/harness"
)

// masked returns text as a Redactor of value masks it, with the name K.
func masked(t testing.TB, value, text string) string {
	t.Helper()
	var out strings.Builder
	w := redact.New(6, redact.Pattern{Name: "K", Value: []byte(value)}).Writer(&out)
	_, err := w.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return out.String()
}

const (
	login  = `{"username":"svc-reader","password":"hunter2 'is' \"long\" <é>","host":"db.internal.example","port":5432}`
	config = `
apiVersion: v1
kind: Config
users:
- name: admin-of-it
  user:
    token: hunter2-token-of-it
    client-key-data: LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tCk1JSUV2UUlCQURBTkJna3Foa2lHOXcwQkFRRUZBQVND
`
)

// TestPrograms: programs print parts of the value, and what they decode, from the variable V or
// from the file at F, which has the same text. All else of their output stays readable.
func TestPrograms(t *testing.T) {
	const python = `import os, sys, json
v = os.environ["V"]
`
	const node = `const v = process.env.V; `
	account := `{"type":"service_account","private_key_id":"0a1b2c3d4e5f60718293a4b5c6d7e8f901234567","private_key":` +
		`"-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n-----END PRIVATE KEY-----\n",` +
		`"token_uri":"https://oauth2.example/token"}`
	docker := `{"auths":{"ghcr.example":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("alice:hunter2hunter2")) + `"}}}`
	env := "DB_HOST=db.internal.example\nDB_PASSWORD='hunter2 $hunter2'\nAPI_TOKEN=\"hunter3 hunter3\"\n"
	aws := "[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\n" +
		"aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\nregion = eu-central-1\n"
	const url = "postgres://svc-reader:hunter%202%40hunter2@db.internal.example:5432/app?sslmode=require"
	token := jwt("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
	for _, c := range []struct{ name, value, program, script, want string }{
		// The same document with other white space, or in another order.
		{"jq", login, "bash", `jq . <<< "$V"`, `\[REDACTED:K\]\n`},
		{"jq, sorted and with tabs", login, "bash", `jq -S --tab . <<< "$V"`, `\[REDACTED:K\]\n`},
		{"jq, indented by four", login, "bash", `jq --indent 4 . <<< "$V"`, `\[REDACTED:K\]\n`},
		{"jq, compact", strings.ReplaceAll(login, ",", " ,\n "), "bash", `jq -c . <<< "$V"`, `\[REDACTED:K\]\n`},
		{"json.dumps", login, "python3", python + `print(json.dumps(json.loads(v)))`, `\[REDACTED:K\]\n`},
		{
			"json.dumps, sorted", login, "python3", python + `print(json.dumps(json.loads(v), sort_keys=True, indent=2))`,
			`\[REDACTED:K\]\n`,
		},
		{"json.dumps, compact", login, "python3", python +
			`print(json.dumps(json.loads(v), separators=(",", ":"), ensure_ascii=False))`, `\[REDACTED:K\]\n`},
		{"JSON.stringify", login, "node", node + `console.log(JSON.stringify(JSON.parse(v), null, 2))`, `\[REDACTED:K\]\n`},

		// Fields.
		{
			"a field by jq", login, "bash", `jq .password <<< "$V"; jq -r .password,.host <<< "$V"`,
			`"\[REDACTED:K.password\]"\n\[REDACTED:K.password\]\ndb.internal.example\n`,
		},
		{
			"repr of a dict", login, "python3", python + `print(json.loads(v))`,
			`\{'username': 'svc-reader', 'password': '\[REDACTED:K.password\]', 'host': 'db.internal.example', 'port': 5432\}\n`,
		},
		{
			"console.log", login, "node", node + `console.log(JSON.parse(v))`,
			`\{\n  username: 'svc-reader',\n  password: .\[REDACTED:K.password\].,\n  host: 'db.internal.example',\n  port: 5432\n\}\n`,
		},
		{
			"a key of a service account", account, "bash", `jq -r '.private_key_id,.private_key,.token_uri' <<< "$V"`,
			`\[REDACTED:K.private_key_id\]\n\[REDACTED:K.private_key\]\n+https://oauth2.example/token\n`,
		},
		{"a line of that key", account, "bash", `jq -r .private_key <<< "$V" | sed -n 3p`, `\[REDACTED:K[^]]*\]\n`},
		{
			"a docker config", docker, "bash", `jq -r '.auths[].auth' <<< "$V" | tee >(base64 -d >&2)`,
			`(\[REDACTED:K.auth\]\n?){2}`,
		},
		{
			"the password of a docker config", docker, "bash", `jq -r '.auths[].auth' <<< "$V" | base64 -d | cut -d: -f2`,
			`\[REDACTED:K.password\]\n`,
		},
		{
			"a kubeconfig", config, "bash", `grep token: <<< "$V"; grep data: <<< "$V" | cut -d: -f2 | tr -d ' ' | base64 -d`,
			` *\[REDACTED:K.*\]\n\[REDACTED:K.client-key-data\]\n?`,
		},
		{"a token of a kubeconfig", config, "bash", `grep token: <<< "$V" | cut -d: -f2`, ` \[REDACTED:K.token\]\n`},
		{
			"an environment of a container",
			`{"env":[{"name":"DB_PASSWORD","value":"hunter2-hunter2"},{"name":"DB_HOST","value":"db.internal"}]}`,
			"bash", `jq -r '.env[].value' <<< "$V"; jq . <<< "$V"`,
			`\[REDACTED:K.DB_PASSWORD\]\ndb.internal\n\[REDACTED:K\]\n`,
		},
		{
			".env in a shell", env, "bash", `source "$F"; echo "$DB_PASSWORD, $API_TOKEN, $DB_HOST"`,
			`\[REDACTED:K.DB_PASSWORD\], \[REDACTED:K.API_TOKEN\], db.internal.example\n`,
		},
		{
			"AWS credentials", aws, "python3", `import configparser, os
c = configparser.ConfigParser()
c.read(os.environ["F"])
print(dict(c["default"]))`,
			`\{'aws_access_key_id': '\[REDACTED:K.aws_access_key_id\]',` +
				` 'aws_secret_access_key': '\[REDACTED:K.aws_secret_access_key\]', 'region': 'eu-central-1'\}\n`,
		},
		{
			".netrc", "machine git.example.com login alice-smith password hunter2hunter2\n", "python3",
			`import netrc, os; print(netrc.netrc(os.environ["F"]).hosts)`,
			`\{'git.example.com': \('alice-smith', '?.*'?, '\[REDACTED:K.password\]'\)\}\n`,
		},
		{
			".pgpass", "db.internal.example:5432:app:svc-reader:hunter2hunter2\n" +
				"*:*:*:postgres:hunter3\\:hunter3\n", "bash",
			`IFS=: read -r host port db user password rest < "$F"; echo "$host $user $password"
tail -n 1 "$F" | { IFS=: read host port db user password; echo "$user $password"; }`,
			`db.internal.example svc-reader \[REDACTED:K.password\]\npostgres \[REDACTED:K.password\]\n`,
		},
		{
			"tokens with commas", "ab12cd34ef56,kestrel-4821", "python3", python + `for token in v.split(","): print(token)`,
			`\[REDACTED:K.part\]\n\[REDACTED:K.part\]\n`,
		},
		{
			"the password of a URL", url, "python3", python + `from urllib.parse import *
u = urlsplit(v)
print(u.username, u.password, unquote(u.password), u.hostname)
print(u._replace(scheme="postgresql+psycopg2").geturl())`,
			`svc-reader \[REDACTED:K.password\] \[REDACTED:K.password\] db.internal.example\n.*\n`,
		},
		{
			"the password of a URL in Node", url, "node", node + `console.log(decodeURIComponent(new URL(v).password))`,
			`\[REDACTED:K.password\]\n`,
		},
		{
			"the claims of a JWT", token, "python3", python + `import base64
h, p, s = v.split(".")
print(p)
print(base64.urlsafe_b64decode(p + "==").decode())
print(json.loads(base64.urlsafe_b64decode(p + "==")))
print(s, base64.urlsafe_b64decode(s + "=="))`,
			`\[REDACTED:K.payload\]\n\[REDACTED:K.payload\]\n` +
				`\{'iss': 'https://issuer.example', 'sub': 'alice', 'nonce': '\[REDACTED:K.part\]'\}\n\[REDACTED:K.signature\] b.*\n`,
		},

		// Decodings and dress.
		{
			"base64 -d", base64.StdEncoding.EncodeToString([]byte("hunter2 'hunter2'")), "bash", `base64 -d <<< "$V"`,
			`\[REDACTED:K\]`,
		},
		{
			"base64 -d of a key", base64.StdEncoding.EncodeToString([]byte(key)), "bash", `base64 -d <<< "$V" | sed -n 2p`,
			`\[REDACTED:K\]\n`,
		},
		{
			"xxd -r", "68756e74657232202668756e74657232", "python3", python + `print(json.dumps(bytes.fromhex(v).decode()))`,
			`"\[REDACTED:K\]"\n`,
		},
		{
			"unquote", "hunter2%20%2Bhunter2", "python3", python + `import urllib.parse; print(urllib.parse.unquote(v))`,
			`\[REDACTED:K\]\n`,
		},
		{
			"a header", "Bearer hunter2hunter2", "bash", `echo "${V#Bearer }"; printf %s "${V#Bearer }" | base64`,
			`\[REDACTED:K\]\n\[REDACTED:K\]\n`,
		},
		{"quotes", `"hunter2 hunter2"`, "bash", `eval "echo $V"`, `\[REDACTED:K\]\n`},
		{"a byte order mark", "\ufeffhunter2hunter2;", "python3", python + `print(v.strip("\ufeff;"))`, `\[REDACTED:K\]\n`},
	} {
		t.Run(c.name, func(t *testing.T) {
			harness.Need(t, c.program)
			if strings.Contains(c.script, "jq ") {
				harness.Need(t, "jq")
			}
			file := filepath.Join(t.TempDir(), "value")
			require.NoError(t, os.WriteFile(file, []byte(c.value), 0o600))
			flag := "-c"
			if c.program == "node" {
				flag = "-e"
			}
			cmd := exec.CommandContext(t.Context(), c.program, flag, c.script)
			cmd.Env = append(os.Environ(), "V="+c.value, "F="+file, "LC_ALL=C.UTF-8")
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))
			require.Regexp(t, `\A(?:`+c.want+`)\z`, masked(t, c.value, string(out)))
		})
	}
}
