package secret

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// mask is what every printed form of a Value is.
const mask = "[redacted]"

// A Value is the bytes of a secret. It prints as [redacted] under every fmt
// verb, logger and encoder. It wraps a closure because bytes in an unexported
// field print under %v and a pointer prints under %q, through reflection and
// whatever methods the type has; what a closure has captured, reflection cannot
// reach. The zero Value is empty. A Value may be used by several goroutines.
type Value struct{ reveal func() []byte }

// NewValue returns a Value of b, which belongs to the Value from then on: the
// caller must neither keep nor change it.
func NewValue(b []byte) Value { return Value{func() []byte { return b }} }

// Reveal takes the bytes out of v: the one way out, so that a search for its
// name finds every place where a value is in the open. The bytes are v's own
// and must not be changed.
func (v Value) Reveal() []byte {
	if v.reveal == nil {
		return nil
	}
	return v.reveal()
}

// Forget overwrites the bytes of v, and so those of every copy of v and of every
// slice that Reveal has returned, with zeros. What was copied out of those stays.
// The caller makes sure that nobody uses them meanwhile.
func (v Value) Forget() { clear(v.Reveal()) }

// Len returns how many bytes v has, without taking them out.
func (v Value) Len() int { return len(v.Reveal()) }

// Equal reports whether v and w hold the same bytes, in time that depends on
// their lengths only.
func (v Value) Equal(w Value) bool { return subtle.ConstantTimeCompare(v.Reveal(), w.Reveal()) == 1 }

// Format implements [fmt.Formatter] for every verb and flag.
func (Value) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, mask) }

// String implements [fmt.Stringer]: the runtime uses it to print a panic.
func (Value) String() string { return mask }

// MarshalText implements [encoding.TextMarshaler], which XML, YAML and map keys use.
func (Value) MarshalText() ([]byte, error) { return []byte(mask), nil }

// MarshalJSON implements [encoding/json.Marshaler].
func (Value) MarshalJSON() ([]byte, error) { return []byte(`"` + mask + `"`), nil }

// MarshalBinary implements [encoding.BinaryMarshaler], which gob uses.
func (Value) MarshalBinary() ([]byte, error) { return []byte(mask), nil }

// LogValue implements [slog.LogValuer].
func (Value) LogValue() slog.Value { return slog.StringValue(mask) }
