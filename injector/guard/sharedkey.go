package guard

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"inject/resolver/secret"
)

// azureVersion is that of Azure's protocol in requests of the guard's own.
const azureVersion = "2021-08-06"

// signedHeaders are the standard headers that a signature of Azure's covers, in its order.
// Content-Length stands between the second and the third.
var signedHeaders = []string{
	"Content-Encoding", "Content-Language", "", "Content-Md5", "Content-Type", "Date", "If-Modified-Since", "If-Match",
	"If-None-Match", "If-Unmodified-Since", "Range",
}

// sharedKey returns the signature of a request with the key of an account
// (learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key, from version 2015-02-21 on).
func sharedKey(r *http.Request, account string, key secret.Value) string {
	h := hmac.New(sha256.New, key.Reveal())
	_, _ = h.Write([]byte(stringToSign(r, account))) // a hash takes everything
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// stringToSign returns the text of a request that its signature covers.
func stringToSign(r *http.Request, account string) string {
	var b strings.Builder
	b.WriteString(r.Method + "\n")
	for _, name := range signedHeaders {
		switch {
		case name == "" && r.ContentLength > 0:
			b.WriteString(strconv.FormatInt(r.ContentLength, 10))
		case name == "Date" && r.Header.Get("X-Ms-Date") != "":
		default:
			b.WriteString(r.Header.Get(name))
		}
		b.WriteString("\n")
	}

	values := map[string][]string{}
	for name, v := range r.Header {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-ms-") {
			values[name] = v
		}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		b.WriteString(name + ":" + strings.Join(values[name], ",") + "\n")
	}

	b.WriteString("/" + account + r.URL.EscapedPath())
	query := map[string][]string{}
	for name, values := range r.URL.Query() {
		name = strings.ToLower(name)
		query[name] = append(query[name], values...)
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		b.WriteString("\n" + name + ":" + strings.Join(slices.Sorted(slices.Values(query[name])), ","))
	}
	return b.String()
}
