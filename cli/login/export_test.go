package login

import "time"

// Shorten makes an issuer's answer and a request to the page take a short time at most.
func Shorten() { requestTime, callbackTime = time.Second, time.Second/4 }

// Limit makes the login take a time at most.
func (l *Login) Limit(limit time.Duration) { l.limit = limit }

// Early is how long before its end a token is replaced.
const Early = early

// The limits that tests exceed.
const (
	MaxToken     = maxToken
	MaxCallbacks = maxCallbacks
)
