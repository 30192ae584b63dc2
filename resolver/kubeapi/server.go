package kubeapi

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Version returns the version of the API server, such as v1.37.2. Every user may ask for it.
func (c *Client) Version(ctx context.Context) (string, error) {
	what := call{verb: "get", resource: resource{name: "version"}}
	r, err := c.group(corev1.SchemeGroupVersion)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.callTime, errSlow)
	defer cancel()
	leave, err := c.enter(ctx)
	if err != nil {
		return "", c.failed(ctx, what, err)
	}
	defer leave()
	text, err := r.Get().MaxRetries(0).AbsPath("/version").Do(ctx).Raw()
	if err != nil {
		return "", c.failed(ctx, what, err)
	}
	var version struct {
		Version string `json:"gitVersion"`
	}
	if json.Unmarshal(text, &version) != nil || version.Version == "" {
		return "", c.failed(ctx, what, errOtherKind)
	}
	return version.Version, nil
}

// Skew returns how far the clock of the API server is at least ahead of ours, negative if it is
// behind, as its last answer told. It is 0 if the clocks may be equal, or before the first answer.
func (c *Client) Skew() time.Duration { return c.clock.skew() }

// A clock is what answers tell of the time at the server. It is safe for concurrent use.
type clock struct {
	mu   sync.Mutex
	ours time.Duration // ours is behind by that
}

// note takes the header Date of an answer to a call that began at began. The server wrote the header
// between then and now, and cut it to whole seconds.
func (c *clock) note(began time.Time, date string) {
	at, err := http.ParseTime(date)
	if err != nil {
		return
	}
	var behind time.Duration
	switch ended := time.Now(); {
	case at.After(ended):
		behind = at.Sub(ended)
	case at.Add(time.Second).Before(began):
		behind = -began.Sub(at.Add(time.Second))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ours = behind
}

func (c *clock) skew() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ours
}
