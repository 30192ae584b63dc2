package rpc

import "time"

// RetryAfter is the first wait before a call is repeated.
func RetryAfter() time.Duration { return retryAfter }

// Hasten makes every wait between repeated calls a tenth as long. It must be called before
// clients are opened.
func Hasten() { retryAfter /= 10 }
