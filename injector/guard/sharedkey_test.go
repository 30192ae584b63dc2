package guard

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
)

// The texts are those of Microsoft's page, learn.microsoft.com/rest/api/storageservices/
// authorize-with-shared-key; the key and the account are those of its emulator. The sum was made with
// OpenSSL. The real server is in the tests of cmd/inject.
func TestSharedKey(t *testing.T) {
	t.Parallel()
	request := func(method, url string, headers ...string) *http.Request {
		r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
		require.NoError(t, err)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		return r
	}
	date := []string{"x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT", "x-ms-version", "2015-02-21"}
	metadata := request(http.MethodGet,
		"https://myaccount.blob.core.windows.net/mycontainer?restype=container&comp=metadata&timeout=20", date...)
	require.Equal(t, "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n"+
		"/myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20", stringToSign(metadata, "myaccount"))

	list := request(http.MethodGet, "https://myaccount.blob.core.windows.net/mycontainer?restype=container&comp=list"+
		"&include=snapshots&include=metadata&include=uncommittedblobs", date...)
	require.True(t, strings.HasSuffix(stringToSign(list, "myaccount"), "\n/myaccount/mycontainer\ncomp:list\n"+
		"include:metadata,snapshots,uncommittedblobs\nrestype:container"))
	secondary := request(http.MethodGet,
		"https://myaccount-secondary.blob.core.windows.net/mycontainer/myblob", date...)
	require.True(t, strings.HasSuffix(stringToSign(secondary, "myaccount"), "\n/myaccount/mycontainer/myblob"))

	// Each header in its place: a length of 0 is none, and Date is none where x-ms-date is.
	full := request(http.MethodPut, "https://a.blob.core.windows.net/c/a%20b+%C3%A4", "Content-Encoding", "1",
		"Content-Language", "2", "Content-MD5", "4", "Content-Type", "5", "Date", "6", "If-Modified-Since", "7",
		"If-Match", "8", "If-None-Match", "9", "If-Unmodified-Since", "10", "Range", "11",
		"x-ms-blob-type", "BlockBlob", "x-ms-meta-b", "two  spaces", "x-ms-meta-B", "two  spaces", "other", "o")
	full.ContentLength = 3
	require.Equal(t, "PUT\n1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\nx-ms-blob-type:BlockBlob\nx-ms-meta-b:two  spaces\n"+
		"/a/c/a%20b+%C3%A4", stringToSign(full, "a"))
	full.Header.Set("X-Ms-Date", "d")
	require.Contains(t, stringToSign(full, "a"), "\n5\n\n7\n")

	key, err := base64.StdEncoding.DecodeString(
		"Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==")
	require.NoError(t, err)
	require.Equal(t, "1u9lui2jDxj0+fpbHjQ5m5NnastJRSYM+PSmfi8TXx4=",
		sharedKey(metadata, "myaccount", secret.NewValue(key)))
}
