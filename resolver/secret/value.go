package secret

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// mask is what a Value prints as.
const mask = "[REDACTED]"

// A Value is the bytes of a secret. It prints as [REDACTED] under every fmt verb,
// logger and encoder. It wraps a closure because reflection cannot reach the
// variables of a closure, while fmt prints bytes in an unexported field under %v and
// pointers under %q, whatever methods the type has. The zero Value is empty. It is
// safe for concurrent use.
type Value struct{ reveal func() []byte }

// NewValue returns a Value of b, which belongs to the Value from then on: the
// caller must neither keep nor change it.
func NewValue(b []byte) Value { return Value{func() []byte { return b }} }

// Reveal returns the bytes of v. It is the only way to them, so a search for its
// name finds every place that handles a value in the clear. The bytes are v's own
// and must not be changed.
func (v Value) Reveal() []byte {
	if v.reveal == nil {
		return nil
	}
	return v.reveal()
}

// Forget overwrites the bytes of v, and so those of every copy of v and of every
// slice that Reveal has returned, with zeros. Copies of the bytes stay. The caller
// must make sure that no other goroutine uses them at the same time.
func (v Value) Forget() { clear(v.Reveal()) }

// Len returns how many bytes v has.
func (v Value) Len() int { return len(v.Reveal()) }

// Equal reports whether v and w hold the same bytes, in time that depends on
// their lengths only.
func (v Value) Equal(w Value) bool { return subtle.ConstantTimeCompare(v.Reveal(), w.Reveal()) == 1 }

// Format implements [fmt.Formatter] for every verb and flag.
func (Value) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, mask) }

// String implements [fmt.Stringer], which the runtime uses when it prints a panic.
func (Value) String() string { return mask }

// MarshalText implements [encoding.TextMarshaler], which XML, YAML and map keys use.
func (Value) MarshalText() ([]byte, error) { return []byte(mask), nil }

// MarshalJSON implements [encoding/json.Marshaler].
func (Value) MarshalJSON() ([]byte, error) { return []byte(`"` + mask + `"`), nil }

// MarshalBinary implements [encoding.BinaryMarshaler], which gob uses.
func (Value) MarshalBinary() ([]byte, error) { return []byte(mask), nil }

// LogValue implements [slog.LogValuer].
func (Value) LogValue() slog.Value { return slog.StringValue(mask) }
