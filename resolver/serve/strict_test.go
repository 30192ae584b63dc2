package serve_test

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	"inject/resolver/secret"
)

// scopedCalls are requests about the secret named in the %s, each with the part that says where it
// is in the other %s.
var scopedCalls = map[string]string{
	"flyteidl2.secret.SecretService/CreateSecret": `{"id":{"name":"NEW",%s},"secretSpec":{"stringValue":"v"}}`,
	"flyteidl2.secret.SecretService/UpdateSecret": `{"id":{"name":"K",%s},"secretSpec":{"stringValue":"w"}}`,
	"flyteidl2.secret.SecretService/GetSecret":    `{"id":{"name":"K",%s}}`,
	"flyteidl2.secret.SecretService/DeleteSecret": `{"id":{"name":"K",%s}}`,
	"flyteidl2.secret.SecretService/ListSecrets":  `{%s}`,
	"inject.v1.ResolveService/Resolve":            `{"scope":{%s},"secrets":[{"key":"K"}]}`,
	"inject.v1.ImportService/Import":              `{"scope":{%s},"secrets":[{"name":"NEW","value":"dg=="}]}`,
}

// A field that is misspelt where a request says which secret it means is refused by name, in every
// request and both forms of JSON, and nothing is done. Ignored, it would mean a secret of the
// whole organization.
func TestMisspeltScope(t *testing.T) {
	for method, body := range scopedCalls {
		t.Run(method, func(t *testing.T) {
			r := start(t, wirePolicy, nil)
			c := r.client(certOf(r.Authority, "admin", "spiffe://example.org/admin"))
			at := secret.Scope{Org: secret.DefaultOrg, Project: "p", Domain: "d"}
			wide := secret.Ref{Scope: secret.Scope{Org: secret.DefaultOrg}, Key: "K"}
			original := secret.NewValue([]byte(rand.Text()))
			require.NoError(t, r.backend.Create(t.Context(), wide, original, 0))
			for wrong, fields := range map[string]string{
				"projct":       `"projct":"p","domain":"d"`,
				"Project":      `"Project":"p","domain":"d"`,
				"org":          `"org":"acme","project":"p","domain":"d"`,
				"domain_name":  `"project":"p","domain_name":"d"`,
				"organisation": `"organisation":"acme"`,
			} {
				a := r.ask(c, method, fmt.Sprintf(body, fields))
				require.Equal(t, http.StatusBadRequest, a.status, a.raw)
				require.Contains(t, a.raw, fmt.Sprintf(`the unknown field \"%s\"`, wrong))
				require.Contains(t, a.raw, "organization, domain, project")
				require.Contains(t, a.raw, "nothing was done")
				if wrong == "projct" {
					require.Contains(t, a.raw, `did you mean \"project\"?`)
				}
			}
			v, _, err := r.backend.Get(t.Context(), wide)
			require.NoError(t, err)
			require.Equal(t, original.Reveal(), v.Reveal(), "the one of the whole organization is as it was")
			require.NotContains(t, r.audit.String(), "NEW")

			// The same request with the right names is answered, and so is a field of a newer client
			// that is not about the scope.
			if method != "flyteidl2.secret.SecretService/CreateSecret" && method != "inject.v1.ImportService/Import" {
				require.NoError(t, r.backend.Create(t.Context(), secret.Ref{Scope: at, Key: "K"}, original, 0))
			}
			right := fmt.Sprintf(body, `"project":"p","domain":"d"`)
			if strings.HasPrefix(method, "flyteidl2.") {
				right = strings.TrimSuffix(right, "}") + `,"sortBy":{"projct":1},"newer":[1]}`
			}
			a := r.ask(c, method, right)
			require.Equal(t, http.StatusOK, a.status, a.raw)
		})
	}
}

// Our own requests have no newer clients that send JSON, so a misspelt scope is not left out as a
// whole, nor the value of an imported secret.
func TestMisspeltRequest(t *testing.T) {
	r := start(t, wirePolicy, nil)
	c := r.client(certOf(r.Authority, "admin", "spiffe://example.org/admin"))
	for _, one := range []struct{ method, body, name string }{
		{"inject.v1.ImportService/Import", `{"scop":{"project":"p"},"secrets":[{"name":"A","value":"dg=="}]}`, "scop"},
		{"inject.v1.ImportService/Import", `{"at":{"project":"p"},"secrets":[{"name":"A","value":"dg=="}]}`, "at"},
		{"inject.v1.ImportService/Import", `{"secrets":[{"name":"A","value":"dg=="},{"name":"B","valu":"dg=="}]}`, "valu"},
		{"inject.v1.ResolveService/Resolve", `{"scop":{"project":"p"},"secrets":[{"key":"A"}]}`, "scop"},
		{"inject.v1.ResolveService/Resolve", `{"secrets":[{"key":"A"},{"gruop":"g","key":"B"}]}`, "gruop"},
		{"inject.v1.ResolveService/Resolve", `{"secrets":[{"kye":"A"}]}`, "kye"},
		{"flyteidl2.secret.SecretService/CreateSecret", `{"id":{"name":"A"},"secretSpec":{"stringValu":"v"}}`, "stringValu"},
		{"flyteidl2.secret.SecretService/CreateSecret", `{"id":{"name":"A"},"secretSpec":{"value":"v"}}`, "value"},
	} {
		a := r.ask(c, one.method, one.body)
		require.Equal(t, http.StatusBadRequest, a.status, a.raw)
		require.Contains(t, a.raw, `\"`+one.name+`\"`)
	}
	// What cannot be a name of a field is not repeated.
	value := "s3cr3t " + rand.Text()
	a := r.ask(c, "flyteidl2.secret.SecretService/GetSecret", `{"id":{"name":"K","`+value+`":"p"}}`)
	require.Equal(t, http.StatusBadRequest, a.status, a.raw)
	require.Contains(t, a.raw, "has an unknown field")
	require.NotContains(t, a.raw+r.log.String()+r.audit.String(), value)
}

// In the binary form a field with an unknown number, or a known one of another type, may narrow the
// scope, so it is refused where it says which secret is meant, and ignored elsewhere.
func TestUnknownFieldOfScope(t *testing.T) {
	text := func(b []byte, number protowire.Number, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), s)
	}
	id := text(nil, 1, "K")
	scope := text(nil, 3, "p")
	spec := text(nil, 1, "v")
	declared := text(nil, 2, "K")
	imported := text(text(nil, 1, "NEW"), 2, "v")
	odd := func(b []byte) map[string][]byte {
		return map[string][]byte{
			"field number 9": text(b, 9, "narrower"),
			"field number 4": protowire.AppendVarint(protowire.AppendTag(b, 4, protowire.VarintType), 7),
		}
	}
	for _, one := range []struct {
		method string
		at     []byte // says which secret is meant
		rest   []byte // of the request
	}{
		{"flyteidl2.secret.SecretService/CreateSecret", id, text(nil, 2, string(spec))},
		{"flyteidl2.secret.SecretService/UpdateSecret", id, text(nil, 2, string(spec))},
		{"flyteidl2.secret.SecretService/GetSecret", id, nil},
		{"flyteidl2.secret.SecretService/DeleteSecret", id, nil},
		{"inject.v1.ResolveService/Resolve", scope, text(nil, 2, string(declared))},
		{"inject.v1.ImportService/Import", scope, text(nil, 2, string(imported))},
	} {
		r := start(t, wirePolicy, nil)
		c := r.client(certOf(r.Authority, "admin", "spiffe://example.org/admin"))
		send := func(at, more []byte) (int, string) {
			t.Helper()
			body := append(append(text(nil, 1, string(at)), one.rest...), more...)
			request := r.request(one.method, string(body), "Content-Type", "application/proto")
			answer, err := c.Do(request)
			require.NoError(t, err)
			defer answer.Body.Close() //nolint:errcheck // read whole
			b, err := io.ReadAll(answer.Body)
			require.NoError(t, err)
			return answer.StatusCode, string(b)
		}
		for name, at := range odd(one.at) {
			status, answer := send(at, nil)
			require.Equal(t, http.StatusBadRequest, status, answer)
			require.Contains(t, answer, name)
			require.Contains(t, answer, "nothing was done")
		}
		for _, line := range r.audit.lines(t, 0) {
			require.Equal(t, "invalid", line["decision"], "nothing was decided")
		}
		_, answer := send(one.at, text(nil, 15, "newer"))
		require.NotContains(t, answer, "field number", one.method)
		require.NotEmpty(t, r.audit.String(), "it was decided")
	}
}
