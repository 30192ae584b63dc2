package serve

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"

	secretpb "inject/resolver/idl/flyteidl2/secret"
	"inject/resolver/idl/flyteidl2/secret/secretconnect"
)

// A message that is too large is not read to its end, even if it is small on the wire. One
// that cannot be decoded is not quoted, since it may contain a value.
func TestMessages(t *testing.T) {
	path, handler := secretconnect.NewSecretServiceHandler(
		secretconnect.UnimplementedSecretServiceHandler{}, messageOptions(MaxMessage),
	)
	mux := http.NewServeMux()
	mux.Handle(path, handler)
	server := httptest.NewTLSServer(mux)
	defer server.Close()
	send := func(kind, encoding, body string) (*http.Response, string) {
		request, err := http.NewRequestWithContext(
			t.Context(), http.MethodPost, server.URL+secretconnect.SecretServiceCreateSecretProcedure,
			strings.NewReader(body),
		)
		require.NoError(t, err)
		request.Header.Set("Content-Type", kind)
		if encoding != "" {
			request.Header.Set(encoding, "gzip")
		}
		answer, err := server.Client().Do(request)
		require.NoError(t, err)
		defer answer.Body.Close() //nolint:errcheck // read whole
		b, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		return answer, string(b)
	}
	understood := func(body string) bool { return strings.Contains(body, connect.CodeUnimplemented.String()) }
	member := func(b []byte) []byte {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		_, err := w.Write(b)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return z.Bytes()
	}
	// zip returns a message with a field of n zeros. Concatenated gzip streams are one stream.
	block := make([]byte, 1<<20)
	zipped := member(block)
	zip := func(n int) string {
		b := member(binary.AppendUvarint([]byte{0x7a}, uint64(n)))
		b = append(b, bytes.Repeat(zipped, n/len(block))...)
		return string(append(b, member(block[:n%len(block)])...))
	}
	enveloped := func(s string) string {
		return string(binary.BigEndian.AppendUint32([]byte{1}, uint32(len(s)))) + s
	}
	const header = 5
	for n, want := range map[int]bool{
		1: true, MaxMessage - header: true, MaxMessage - header + 1: false, 4 * MaxMessage: false,
	} {
		small := zip(n)
		for range 2 { // the second time with what the first has left in pools
			answer, body := send("application/proto", "Content-Encoding", small)
			require.Equalf(t, want, understood(body), "%d: %s", n, body)
			if !want {
				require.Equal(t, http.StatusTooManyRequests, answer.StatusCode)
				require.Contains(t, body, errTooLong.Error())
			}
			answer, body = send("application/grpc", "Grpc-Encoding", enveloped(small))
			status := answer.Header.Get("Grpc-Status") + answer.Trailer.Get("Grpc-Status")
			require.Equalf(t, map[bool]string{true: "12", false: "8"}[want], status, "%d: %s", n, body)
		}
	}
	// An endless message is read up to the limit only.
	i := &inflater{limit: MaxMessage}
	endless := &counting{r: strings.NewReader(zip(8 * MaxMessage))}
	require.NoError(t, i.Reset(endless))
	n, err := io.Copy(io.Discard, i)
	require.ErrorIs(t, err, errTooLong)
	require.EqualValues(t, MaxMessage+1, n)
	require.Less(t, 2*endless.n, len(zip(8*MaxMessage)))

	value := rand.Text()
	_, body := send("application/json", "", `{"id":{"name":"K"},"unknown":1,"secretSpec":{"stringValue":"`+value+`"}}`)
	require.True(t, understood(body), body)
	for _, json := range []string{
		value, `{"secretSpec":{"stringValue":` + value + `}}`,
		`{"secretSpec":{"binaryValue":"` + value + `!"}}`, `{"secretSpec":"` + value + `"}`,
		`{"id":{"name":"K","name":"` + value + `"}}`, `{"secretSpec":{"stringValue":"` + value + `\x"}}`,
	} {
		for _, kind := range []string{"application/json", "application/json; charset=utf-8"} {
			answer, body := send(kind, "", json)
			require.Equal(t, http.StatusBadRequest, answer.StatusCode, body)
			require.Contains(t, body, "not JSON of the message flyteidl2.secret.CreateSecretRequest (line 1:")
			require.NotContains(t, body, value)
		}
	}
	_, body = send("application/json", "", "")
	require.Contains(t, body, "not JSON of the message flyteidl2.secret.CreateSecretRequest")
}

// counting counts the bytes that are read from r.
type counting struct {
	r io.Reader
	n int
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// plainlyMisspelt is misspelt for a value that encoding/json has decoded.
func plainlyMisspelt(value any, d protoreflect.MessageDescriptor) bool {
	switch v := value.(type) {
	case []any:
		return slices.ContainsFunc(v, func(one any) bool { return plainlyMisspelt(one, d) })
	case map[string]any:
		for name, one := range v {
			if inner, err := within(d, name); err != nil || plainlyMisspelt(one, inner) {
				return true
			}
		}
	}
	return false
}

// Every JSON that decoding takes can be walked, however it is spaced, nested and escaped.
func FuzzMisspelt(f *testing.F) {
	for _, seed := range []string{
		`{"id":{"name":"K","projct":"p"}}`, " {\t\"id\" :\n{ \"name\" : \"\\\"}\" , \"pro\\u006aect\":null } , \"x\" : [ ] }\r\n",
		`{"new":[[{"id":{"projct":1}}],-1e9,true,"]"],"secretSpec":{"stringValue":"\\"}}`, `null`, `{}`,
	} {
		f.Add(seed)
	}
	f.Add(`{"new":[[{"id":{"projct":1}}]],"secretSpec":{"stringVasue":"\\"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		err := jsonCodec("json").Unmarshal([]byte(text), &secretpb.CreateSecretRequest{})
		var loose secretpb.CreateSecretRequest
		if (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(text), &loose) != nil {
			require.Error(t, err)
			return
		}
		var value any
		plain := json.NewDecoder(strings.NewReader(text))
		plain.UseNumber() // any number that JSON may have
		require.NoError(t, plain.Decode(&value))
		d := loose.ProtoReflect().Descriptor()
		want := plainlyMisspelt(value, d)
		require.Equal(t, want, misspelt([]byte(text), d) != nil)
		if want {
			require.Error(t, err)
		}
	})
}
