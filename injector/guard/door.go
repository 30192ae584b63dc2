package guard

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"
	"sync"

	"inject/resolver/secret"
)

// A door lets the task's requests in to a store where they carry a token of the task's own. It is a
// path in front of that of each request, which only the task has been told. It keeps the last token,
// in memory and nowhere else, for the few requests that the guard makes itself: it could fetch none.
type door struct {
	path string // /TEXT

	mu    *sync.Mutex
	token *token
}

// A token is by what a store knows the task.
type token struct {
	header  secret.Value // Authorization
	query   string       // a shared access signature, in Azure
	written bool         // it came with a write
}

func newDoor() door { return door{"/" + rand.Text(), &sync.Mutex{}, &token{}} }

// enter returns the path of the task's request behind the door, escaped. header and query are its
// token.
func (d *door) enter(r *http.Request, header, query string) (string, *refusal) {
	escaped := r.URL.EscapedPath()
	n := len(d.path)
	if len(escaped) < n || subtle.ConstantTimeCompare([]byte(escaped[:n]), []byte(d.path)) == 0 ||
		escaped[n:] != "" && escaped[n] != '/' {
		return "", refuse(http.StatusForbidden, "AccessDenied", "inject: the request is not the task's")
	}
	write := r.Method == http.MethodPut || r.Method == http.MethodPost
	d.mu.Lock()
	defer d.mu.Unlock()
	if (header != "" || query != "") && (write || !d.token.written) {
		d.token.header.Forget()
		*d.token = token{secret.NewValue([]byte(header)), query, write}
	}
	return strings.TrimPrefix(escaped[n:], "/"), nil
}

var errNoToken = errors.New("the task has sent no request with a token that could be used for this one, too")

// authorize puts the task's last token into a request of the guard's own.
func (d *door) authorize(out *sending) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.token.query == "" && d.token.header.Len() == 0 {
		return errNoToken
	}
	if out.header == nil {
		out.header = http.Header{}
	}
	if d.token.header.Len() > 0 {
		out.header.Set("Authorization", string(d.token.header.Reveal()))
	}
	out.query = strings.Trim(out.query+"&"+d.token.query, "&")
	return nil
}
