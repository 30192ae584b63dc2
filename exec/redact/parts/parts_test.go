package parts_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/exec/redact/parts"
)

// found returns the parts of value as "name=part", and those of a kind other than part as
// "kind:name=part". Documents are left out.
func found(t testing.TB, value string) []string {
	t.Helper()
	all, whole := parts.Of([]byte(value))
	require.True(t, whole)
	var texts []string
	for _, p := range all {
		switch text := p.Name + "=" + string(p.Value); p.Kind {
		case parts.KindDocument:
		case parts.KindPart:
			texts = append(texts, text)
		default:
			texts = append(texts, p.Kind+":"+text)
		}
	}
	return texts
}

// claims and jwt are a token with the claims.
const claims = `{"iss":"https://issuer.example","sub":"alice","nonce":"n-0S6_WzA2Mj"}`

func jwt(signature string) string {
	e := base64.RawURLEncoding
	return e.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + e.EncodeToString([]byte(claims)) + "." + signature
}

const key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----"

func TestParts(t *testing.T) {
	encode := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	signature := "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	for _, c := range []struct {
		name, value string
		want        []string // all parts; every other field stays readable
	}{
		{"a token", "ghp_Ab12Cd34Ef56Gh78Ij90Kl12Mn34Op56Qr78", nil},
		{"a password", `p"ss w0rd+1: it's`, nil},
		{"a password that looks like an assignment", "aZK0Vm%pbe=BDC8XbTm*4Kg", nil},
		{"a password that looks like several", "v)ClxKgp/Lsd%)1&=2uUaq;ZngWgI1D=xYz12345;", []string{
			"bare:=v)ClxKgp/Lsd%)1&=2uUaq;ZngWgI1D=xYz12345",
		}},
		{"a password that looks like a login", "tJjQZW):HJqq:u8cyPJ_@aCKSjJ1cZ3", nil},
		{"an assignment of a shell", "export GH=Ab12Cd34Ef", []string{"part=Ab12Cd34Ef"}},
		{"one assignment", "API_KEY=hunter2 hunter2", []string{"API_KEY=hunter2 hunter2"}},
		{"text", "The quick brown fox: jumps, over = the lazy dog", nil},
		{"login of a database", `{"username":"svc-reader","password":"hunter2 is long","host":"db.internal.example",` +
			`"port":5432,"engine":"postgres-15"}`, []string{"password=hunter2 is long"}},
		{"names of secrets", `{"apiKey":"lower-case","DB_PASSWD":"lower-case-2","authToken":["list-item-1","list-item-2"],` +
			`"a":{"client-secret":"lower-case-3"},"pin_secret":12345678,"keystone":"lower-case-4","author":"Jane Doe II",` +
			`"smtp_pass":"lower-case-5","authorization":"lower-case-6"}`, []string{
			"apiKey=lower-case", "DB_PASSWD=lower-case-2", "authToken=list-item-1", "authToken=list-item-2",
			"client-secret=lower-case-3", "pin_secret=12345678", "smtp_pass=lower-case-5", "authorization=lower-case-6",
		}},
		{"short, common, or about a secret", `{"password":"short-1","token":"postgres","secret":"LocalHost",` +
			`"key_type":"service_account","token_uri":"https://oauth2.example/token","secretName":"my-app-secret",` +
			`"password_file":"/run/secrets/password","auth":true,"key":null}`, nil},
		{
			"identifiers", `{"key_id":"alias/my-app-2","accessKeyId":"key-1 of it","key_vault":"my-vault-prod1","kms_key_arn":"arn:aws:kms:key",` +
				`"token_ids":"1234567890","keyVaultUrl":"https://my-vault.vault.example/","key_store":"/etc/ssl/app1.jks",` +
				`"auth_provider":"google-oauth2","auth_scopes":"openid profile"}`, nil,
		},
		{
			"identifiers that are secret", `{"secret_id":"0f8fad5b-d9cb-469f-a165-70867728950e","access_key_id":"AKIAIOSFODNN7EXAMPLE",` +
				`"client_id":"0f8fad5b-d9cb-469f-a165-708677289501","KeyVault":"Ab12Cd34Ef","tokenId":"ab12cd34ef"}`, []string{
				"secret_id=0f8fad5b-d9cb-469f-a165-70867728950e", "access_key_id=AKIAIOSFODNN7EXAMPLE",
				"KeyVault=Ab12Cd34Ef", "tokenId=ab12cd34ef",
			},
		},
		{"placeholders", `{"password":"********","pass":"xxxxxxxx","token":"--------------------"}`, nil},
		{"names with such a word in another", `{"organization":"acme-corporation","serialization":"json-lines","bypass":"nothing-at-all",` +
			`"sort_key":"created_at","hockeyTeam":"red-wings","public-key":"ssh-ed25519 short","authorized":"everybody",` +
			`"pass_phrase":"lower-case","x-authorization":"lower-case-2"}`, []string{
			"pass_phrase=lower-case", "x-authorization=lower-case-2",
		}},
		{
			"random under any name", `{"id":"Ab12Cd34Ef","etag":"0123456789abcdef0","word":"abcdefgh1234"}`,
			[]string{"part=Ab12Cd34Ef", "part=0123456789abcdef0"},
		},
		{
			"names that may be secret", `{"Ab12Cd34Ef":"hunter2-is-Long","a b key":"hunter3-is-Long"}`,
			[]string{"part=hunter2-is-Long", "part=hunter3-is-Long"},
		},
		{
			"values beside their names", `{"env":[{"name":"DB_PASSWORD","value":"lower-case"},{"value":"lower-case-2","key":"api_token"},` +
				`{"name":"DB_HOST","value":"db.internal.example"}],"db_password":{"value":"lower-case-3","sensitive":true},` +
				`"endpoint":{"value":"api.example.org"},"value":"lower-case-4"}`,
			[]string{"DB_PASSWORD=lower-case", "api_token=lower-case-2", "db_password=lower-case-3"},
		},
		{
			"values beside their names in YAML", "env:\n- name: DB_PASSWORD\n  value: lower-case\n" +
				"- name: HOST\n  value: db.internal\noutputs:\n  client_secret: {value: lower-case-2}\n",
			[]string{"DB_PASSWORD=lower-case", "client_secret=lower-case-2"},
		},
		{"escapes in JSON", `[{"password":"a\"b\\c\u00e9\u2028d/e\/f"}]`, []string{"password=a\"b\\cé\u2028d/e/f"}},
		{
			"two documents", `{"password":"password-1"}` + "\n" + `{"password":"password-2"}`,
			[]string{"password=password-1", "password=password-2"},
		},
		{"JSON in JSON", `{"config":"{\"password\":\"hunter2-long\"}"}`, []string{"password=hunter2-long"}},
		{
			"a service account", `{"type":"service_account","project_id":"my-project-1","private_key_id":"0a1b2c3d4e5f60718293",` +
				`"private_key":"-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n",` +
				`"client_email":"x@my-project-1.iam.example","auth_uri":"https://accounts.example/o/oauth2/auth"}`,
			[]string{"private_key_id=0a1b2c3d4e5f60718293", "private_key=" + key},
		},
		{"a docker config", `{"auths":{"ghcr.example":{"auth":"` + encode("alice:hunter2hunter2") + `"}}}`, []string{
			"auth=" + encode("alice:hunter2hunter2"), "decoded:auth=alice:hunter2hunter2", "password=hunter2hunter2",
		}},
		{"a kubeconfig", "apiVersion: v1\nkind: Config\nclusters:\n" +
			"- cluster:\n    server: https://10.0.0.1:6443\nusers:\n" +
			"- name: admin-of-it\n  user:\n    token: 'hunter2-token'\n" +
			"    client-key-data: " + encode(key) + "\n", []string{
			"token=hunter2-token", "client-key-data=" + encode(key), "decoded:client-key-data=" + key,
		}},
		{"YAML", "---\n# comment\nhost: db.internal.example\npassword: >-\n  folded password\n  of two lines\n" +
			"other: &a\n" +
			"  secret: aliased-secret\nagain: *a\n---\ntoken: !!binary aHVudGVyMmh1bnRlcjI=\n", []string{
			"password=folded password of two lines", "secret=aliased-secret",
			"token=aHVudGVyMmh1bnRlcjI=", "decoded:token=hunter2hunter2",
		}},
		{".env", "# DB\nexport DB_PASSWORD='hunter2 hunter2' # old: hunter1hunter1\nKEY=\"" + key + "\"\n" +
			"HOST=db.internal.example\n" +
			`ESCAPED_KEY="a\nb \"quoted\""` + "\nURL=postgres://app:hunter3hunter3@db/x\nRANDOM=Ab12Cd34Ef\n", []string{
			"DB_PASSWORD=hunter2 hunter2", "KEY=" + key, "ESCAPED_KEY=a\nb \"quoted\"", "password=hunter3hunter3",
			"part=Ab12Cd34Ef",
		}},
		{"AWS credentials", "[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\n" +
			"aws_secret_access_key=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\nregion = eu-central-1\n", []string{
			"aws_access_key_id=AKIAIOSFODNN7EXAMPLE",
			"aws_secret_access_key=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
		}},
		{
			".netrc", "machine git.example.com\n  login alice-smith\n  password hunter2hunter2\n",
			[]string{"password=hunter2hunter2"},
		},
		{
			".pgpass", "# of it\ndb.internal.example:5432:app:svc-reader:hunter2\\:hunter2\n\n" +
				"*:*:*:postgres:hunter3 hunter3\n",
			[]string{`password=hunter2\:hunter2`, "password=hunter2:hunter2", "password=hunter3 hunter3"},
		},
		{".pgpass in one line", "::1:5432:app:svc:hunter2hunter2", nil},
		{`.pgpass with an IPv6 address`, `\:\:1:5432:app:svc:hunter2hunter2`, []string{"password=hunter2hunter2"}},
		{"a time and more", "begin:at:00:until:tomorrow", nil},
		{".netrc in one line", "machine git.example.com login ghp_Ab12Cd34 password x", []string{"part=ghp_Ab12Cd34"}},
		{
			"a manifest of a secret", "apiVersion: v1\nkind: Secret\nmetadata:\n  name: pull-secret-of-it\ndata:\n" +
				"  .dockerconfigjson: " + encode(`{"auths":{"h":{"auth":"`+encode("alice:hunter2%20hunter2")+`"}}}`) + "\n",
			[]string{
				"part=" + encode(`{"auths":{"h":{"auth":"`+encode("alice:hunter2%20hunter2")+`"}}}`),
				`decoded:part={"auths":{"h":{"auth":"` + encode("alice:hunter2%20hunter2") + `"}}}`,
				"auth=" + encode("alice:hunter2%20hunter2"), "decoded:auth=alice:hunter2%20hunter2",
				"decoded:auth=alice:hunter2 hunter2", "password=hunter2%20hunter2", "decoded:password=hunter2 hunter2",
			},
		},
		{
			"tokens, one a line", "kestrel-4821\nab12cd34ef56\n\nlong-words-only\nshort-1\n",
			[]string{"part=kestrel-4821", "part=ab12cd34ef56"},
		},
		{"words, one a line", "kestrel-4821 and\nab12cd34ef56", nil},
		{
			"tokens in an array", `["kestrel-4821", {"id": "kestrel-4822"}, ["kestrel-4823"]]`,
			[]string{"part=kestrel-4821", "part=kestrel-4823"},
		},
		{
			"names in an array", `["worker-01.example.com", "ip-10-0-1-23.ec2.internal", "eu-west-1a", "m5.2xlarge", "db1.internal",` +
				`"python3.11", "x86_64-linux", "https://api.example/v2"]`, nil,
		},
		{"tokens with commas", "ab12cd34ef56, kestrel-4821,q9w8e7r6t5y4", []string{
			"part=ab12cd34ef56", "part=kestrel-4821", "part=q9w8e7r6t5y4",
		}},
		{"tokens with blanks", "Ab12Cd34Ef ab12cd34ef57", []string{"part=Ab12Cd34Ef", "part=ab12cd34ef57"}},
		{"tokens in a field", `{"api_keys":"ab12cd34ef56;ab12cd34ef57"}`, []string{
			"api_keys=ab12cd34ef56;ab12cd34ef57", "part=ab12cd34ef56", "part=ab12cd34ef57",
		}},
		{"a token beside words", "ab12cd34ef56 of worker-01", nil},
		{"a pass phrase", "correct horse 4 battery staple", nil},
		{"a public key", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI user@host1", nil},
		{"tokens in YAML", "- kestrel-4821\n- id: kestrel-4822\n", []string{"part=kestrel-4821"}},
		{
			"htpasswd", "alice:$apr1$Ab12Cd34$xyz\nbob:{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=\n",
			[]string{"part=$apr1$Ab12Cd34$xyz", "part={SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE="},
		},
		{
			"a URL", "postgresql+psycopg2://svc-reader:hunter2hunter2@db.internal.example:5432/app?sslmode=require",
			[]string{"password=hunter2hunter2"},
		},
		{"a URL that is encoded", "amqp://u:hunter%2F2%2Blong@mq.example/", []string{
			"decoded:=amqp://u:hunter/2+long@mq.example/", "password=hunter/2+long", "password=hunter%2F2%2Blong",
		}},
		{"a token in a URL", "https://ghp_Ab12Cd34Ef@git.example.com/x.git", []string{"part=ghp_Ab12Cd34Ef"}},
		{
			"a query", "https://store.example/blob?sv=2024-01-01&sig=Ab12Cd34Ef&client_secret=hunter2long#top",
			[]string{"part=Ab12Cd34Ef", "client_secret=hunter2long"},
		},
		{"a webhook", "https://hooks.example/services/T0AB12CD3/B0EF45GH6/Ab12Cd34Ef56Gh78#Ab12Cd34Ef56Gh79", []string{
			"part=Ab12Cd34Ef56Gh78",
		}},
		{"a token in a path", "https://api.example/bot123456:Ab12-Cd34_Ef/getUpdates?x=y", []string{
			"part=bot123456:Ab12-Cd34_Ef", "part=Ab12-Cd34_Ef",
		}},
		{"a path", "https://Db12-host-of-It.example/v1beta1/MyProject2/my-build-12-of-it.tgz/Nightly-Build-2024", nil},
		{"a slash in a password", "redis://:hunter2/hunter3@cache.example/0", []string{"password=hunter2/hunter3"}},
		{"no password in a URL", "http://proxy.example:3128/x@y", nil},
		{"a JWT", jwt(signature), []string{
			"payload=" + strings.Split(jwt(""), ".")[1], "decoded:payload=" + claims, "part=n-0S6_WzA2Mj",
			"signature=" + signature,
		}},
		{
			"a connection string", "Server=tcp:db.example,1433;User Id=reader;Password=hunter2 hunter2;Encrypt=True",
			[]string{"Password=hunter2 hunter2"},
		},
		{"libpq", "host=db.internal user=svc-reader password=hunter2hunter2", []string{"password=hunter2hunter2"}},
		{"user and password", "svc-reader:Hunter2hunter2", []string{"part=Hunter2hunter2"}},
		{"user and no random password", "svc-reader:hunter2hunter2", nil},
		{"base64", encode("hunter2 & hunter3"), []string{"decoded:=hunter2 & hunter3"}},
		{
			"base64 for URLs", base64.RawURLEncoding.EncodeToString([]byte("hunter2?>hunter2")),
			[]string{"decoded:=hunter2?>hunter2"},
		},
		{"base64 in lines", encode(key)[:40] + "\n" + encode(key)[40:], []string{"decoded:=" + key}},
		{
			"base64 twice", encode(encode("hunter2 & hunter3")),
			[]string{"decoded:=" + encode("hunter2 & hunter3"), "decoded:=hunter2 & hunter3"},
		},
		{"base64 of bytes", base64.StdEncoding.EncodeToString([]byte("\x00\xffhunter2 hunter2")), nil},
		{"base64 of a common word", encode("kubernetes"), nil},
		{"base64 of little", encode("hunter2"), nil},
		{"hexadecimal", hex.EncodeToString([]byte("hunter2 & hunter3")), []string{"decoded:=hunter2 & hunter3"}},
		{"percent", "hunter2%20%26%2bhunter+x", []string{"decoded:=hunter2 &+hunter+x", "decoded:=hunter2 &+hunter x"}},
		{"a percent sign", "100%hunter2", nil},
		{"percent of a byte that is no text", "EbTD%15gXk}r6zk{Ojb(Xr?g}", nil},
		{"quotes", ` "hunter2 \"x\"" `, []string{`bare:=hunter2 "x"`}},
		{"other quotes", "'hunter2'", []string{"bare:=hunter2"}},
		{"a header", "Bearer hunter2hunter2", []string{"bare:=hunter2hunter2"}},
		{"Basic", "Basic " + encode("alice:Hunter2hunter2"), []string{
			"bare:=" + encode("alice:Hunter2hunter2"), "decoded:=alice:Hunter2hunter2", "part=Hunter2hunter2",
		}},
		{
			"a byte order mark and more", "\ufeff\"hunter2\";",
			[]string{`bare:="hunter2";`, `bare:="hunter2"`, "bare:=hunter2"},
		},
		{"a line end of two characters", `hunter2\n`, []string{"bare:=hunter2"}},
		{"a common word in quotes", `"localhost"`, nil},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, found(t, c.value)) })
	}
}

// A document that is too large, too deep, or full of aliases costs little, is told, and its
// first parts are there.
func TestPartsOfHostileValues(t *testing.T) {
	many := strings.Repeat(`{"password":"hunter2hunter2"},`, 50_000)
	bomb := "a0: &a0 [hunter2hunter2, x]\n"
	for i := range 40 {
		bomb += fmt.Sprintf("a%d: &a%d [%s*a%d]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*a%d, ", i), 9), i)
	}
	nested := "a password: hunter2"
	for range 12 {
		nested = base64.StdEncoding.EncodeToString([]byte(nested))
	}
	const deep = 100_000
	for _, c := range []struct {
		name, value string
		whole       bool
		at          int // the least number of parts
	}{
		{"many passwords", "[" + many + "0]", false, 0},
		{"many different passwords", func() string {
			var b strings.Builder
			for i := range 30_000 {
				fmt.Fprintf(&b, "PASSWORD_%d=hunter%d-hunter\n", i, i)
			}
			return b.String()
		}(), false, 4096},
		{"large passwords", "PASSWORD=hunter2hunter2\nKEY=" + strings.Repeat("xy", 3<<19), false, 1},
		{"deep JSON", strings.Repeat("[", deep) + strings.Repeat("]", deep), false, 0},
		{"deep JSON objects", strings.Repeat(`{"a":`, deep) + "1" + strings.Repeat("}", deep), false, 0},
		{"JSON that ends too early", strings.Repeat(`[{"password":"hunter2hunter2"},`, deep), false, 0},
		{"deep YAML", "a: " + strings.Repeat("[", 9000), true, 0},
		{"deeper YAML", "a: " + strings.Repeat("[", 9000) + strings.Repeat("]", 9000), false, 0},
		{"deep blocks", strings.Repeat("- ", 30_000) + "x", true, 0},
		{"aliases of aliases", "password: hunter2hunter2\n" + bomb, true, 1},
		{"large YAML", "a: b\n" + strings.Repeat("c: d\n", 100_000), false, 0},
		{"comments", "a: b\n" + strings.Repeat("# c\n", 20_000), true, 0},
		{"encoded many times", nested, false, 5},
		{"dressed many times", strings.Repeat("Bearer ", 100) + "hunter2hunter2", false, 5},
		{"percent signs", strings.Repeat("%25", 300_000), true, 0},
		{"quotes without an end", strings.Repeat("A=\"b\n", 10_000), true, 0},
		{"separators", strings.Repeat(";=", 200_000), true, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			begin := time.Now()
			all, whole := parts.Of([]byte(c.value))
			require.Equal(t, c.whole, whole)
			require.GreaterOrEqual(t, len(all), c.at)
			total := 0
			for _, p := range all {
				total += len(p.Value)
			}
			require.LessOrEqual(t, len(all), 4096)
			require.LessOrEqual(t, total, 2<<20)
			t.Log(time.Since(begin))
		})
	}
}

// check checks the properties of the parts of every value.
func check(t require.TestingT, value []byte) {
	before := bytes.Clone(value)
	all, _ := parts.Of(value)
	require.Equal(t, before, value)
	seen := map[string]bool{string(bytes.TrimSpace(value)): true}
	for _, p := range all {
		require.NotEmpty(t, p.Value)
		require.False(t, seen[string(p.Value)], "%q is there twice", p.Value)
		require.False(t, parts.Common(p.Value))
		require.Equal(t, bytes.TrimSpace(p.Value), p.Value)
		if p.Kind != parts.KindBare {
			require.GreaterOrEqual(t, len(p.Value), 8)
		}
		seen[string(p.Value)] = true
	}
	again, _ := parts.Of(before)
	require.Equal(t, again, all)
}

// seeds are values of all formats.
var seeds = []string{
	`{"password":"hunter2 is long","a":[1.5e3,{"b":"\u00e9\ud83d\ude00"}],"c":{}}`, "- a: b\n  token: &x 'y z'\n- *x\n",
	"A=\"b\nc\"\nexport D='e' # f\n", "machine a login b password hunter2hunter2", jwt("abc"), "a://b:c%20d@e/?f=g#h",
	"\ufeff\"Bearer x\";", "6a6b6c6d6e6f7071", "aHVudGVyMmh1bnRlcjI=", "a:b=c;d={e};f", key, "%41%42%43%44%45%46%47%48",
}

func TestPartsAtRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 3000 {
		var value []byte
		for range 1 + random.IntN(3) {
			s := seeds[random.IntN(len(seeds))]
			from := random.IntN(len(s))
			value = append(value, s[from:from+random.IntN(len(s)-from)+1]...)
		}
		if random.IntN(4) == 0 {
			value[random.IntN(len(value))] ^= byte(1 + random.IntN(255))
		}
		check(t, value)
	}
}

func FuzzParts(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, value []byte) { check(t, value) })
}

func TestCommon(t *testing.T) {
	for _, word := range []string{"docker", " Docker\n", "true", "localhost", "PASSWORD", "********"} {
		require.True(t, parts.Common([]byte(word)), word)
	}
	for _, value := range []string{"", "docker1", "hunter2", "passwords", "***x****", strings.Repeat("docker", 3)} {
		require.False(t, parts.Common([]byte(value)), value)
	}
}

// The password that a library writes into a URL is a part.
func TestPasswordsOfURLs(t *testing.T) {
	for _, password := range []string{"hunter2hunter2", "hunter 2@hunter2", "p%ss:w0rd/x?y#z", "ünïcödé-pässword"} {
		u := url.URL{Scheme: "https", User: url.UserPassword("user", password), Host: "h.example:1", Path: "/p"}
		require.True(t, slices.ContainsFunc(found(t, u.String()), func(part string) bool {
			return strings.TrimPrefix(part, parts.KindDecoded+":") == "password="+password
		}), u.String())
	}
}

func BenchmarkOf(b *testing.B) {
	for name, value := range map[string]string{
		"token": "ghp_Ab12Cd34Ef56Gh78Ij90Kl12Mn34Op56Qr78", "UUID": "0f8fad5b-d9cb-469f-a165-70867728950e",
		"JSON": seeds[0], "YAML": "a: b\nc: d\npassword: hunter2hunter2",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				parts.Of([]byte(value))
			}
		})
	}
}

// Documents: see real_test.go for those of programs.
func TestDocuments(t *testing.T) {
	all, _ := parts.Of([]byte("{ \"b\" : [1.0, {}], \"a\":\"<\u00e9\" }"))
	var documents []string
	for _, p := range all {
		if p.Kind == parts.KindDocument {
			require.Empty(t, p.Name)
			documents = append(documents, string(p.Value))
		}
	}
	for _, want := range []string{
		"{\"b\":[1.0,{}],\"a\":\"<é\"}", "{\"b\":[1.0,{}],\"a\":\"\\u003cé\"}",
		"{\"b\": [1.0, {}], \"a\": \"<\\u00e9\"}",
		"{\n  \"b\": [\n    1.0,\n    {}\n  ],\n  \"a\": \"<é\"\n}", "{\"a\":\"<é\",\"b\":[1.0,{}]}",
	} {
		require.True(t, slices.Contains(documents, want), "%s is missing", want)
	}
}
