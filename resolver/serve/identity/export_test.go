package identity

import "time"

// SetClock makes l take the time from now. It is called before l is used.
func (l *Login) SetClock(now func() time.Time) { l.now = now }
