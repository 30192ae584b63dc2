package kubeapi

import "time"

// MaxBody is for tests of the bound.
const MaxBody = maxBody

// WithCallTime returns c with another limit of the time of a call.
func WithCallTime(c *Client, limit time.Duration) *Client {
	c.callTime = limit
	return c
}
