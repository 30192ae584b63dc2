package redacttest

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strconv"
)

// A Workload is a text and the values to search for in it. The same arguments of [New] make
// the same workload on every machine, so that a measurement can be repeated.
type Workload struct {
	Name   string
	Values [][]byte
	Text   []byte
	Write  int // the length in bytes of one write of the text
}

// nested is the number of values of D4, whatever number is asked for.
const nested = 56

// New returns a workload by its name, with n values and a text of size bytes. D1 to D4 are the
// worst cases of one algorithm or another:
//
//	A   log lines without a value
//	B   log lines with a value in one of 1000
//	C   log lines with a value in each
//	D1  all a, and a value of 15 a and a b
//	D2  values that lack their last byte
//	D3  all a, and a value of 3000 a and a b
//	D4  all a, and 56 values of a and a b that are suffixes of each other
//	E   random bytes
//	F   A in writes of 80 bytes
//
// It panics if there is no workload of that name.
func New(name string, n, size int, seed uint64) Workload {
	w := Workload{Name: name, Write: 64 << 10}
	switch name {
	case "D1":
		w.Values = append([][]byte{almost(15)}, Values(n-1, seed)...)
	case "D3":
		w.Values = append([][]byte{almost(3000)}, Values(n-1, seed)...)
	case "D4":
		for k := range nested {
			w.Values = append(w.Values, almost(k+8))
		}
	case "F":
		w.Write = 80
		w.Values = Values(n, seed)
	default:
		w.Values = Values(n, seed)
	}
	w.Text = Text(name, size, w.Values, seed)
	return w
}

// almost returns a value that a text of nothing but a always seems about to hold, and never
// does.
func almost(n int) []byte { return append(bytes.Repeat([]byte("a"), n), 'b') }

// Text returns the text of a workload, of size bytes, which must be at least 1. B, C and D2
// need at least one value. The text ends with a newline, which no value of [Values] contains.
// So if a text is repeated, no value lies across two copies, and the masked text is that of
// one copy, repeated. Text panics if there is no workload of that name.
func Text(workload string, size int, values [][]byte, seed uint64) []byte {
	r := source(seed, "text")
	text := make([]byte, 0, size+512)
	switch workload {
	case "A", "F":
		for len(text) < size {
			text = appendLine(text, r, nil)
		}
	case "B", "C":
		each := 1
		if workload == "B" {
			each = 1000
		}
		for line := 0; len(text) < size; line++ {
			var value []byte
			if line%each == each/2 {
				value = values[line/each%len(values)]
			}
			text = appendLine(text, r, value)
		}
	case "D1", "D3", "D4":
		text = append(text, bytes.Repeat([]byte("a"), size)...)
	case "D2":
		for missing := byte(0); len(text) < size; {
			v := values[r.IntN(len(values))]
			if v[0] == missing {
				text = append(text, ' ') // else its first byte would complete the value before it
			}
			text, missing = append(text, v[:len(v)-1]...), v[len(v)-1]
		}
	case "E":
		for len(text) < size {
			text = binary.LittleEndian.AppendUint64(text, r.Uint64())
		}
	default:
		panic("redacttest: no workload " + strconv.Quote(workload))
	}
	text = text[:size]
	text[size-1] = '\n'
	return text
}

// source returns a random source that depends on its arguments only. The purpose keeps the
// text from being made of the same numbers as the values.
func source(seed uint64, purpose string) *rand.Rand {
	h := uint64(14695981039346656037) // FNV-1a
	for _, c := range []byte(purpose) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return rand.New(rand.NewPCG(seed, h)) //nolint:gosec // it is to be repeatable
}

// Values returns n different values as services issue and people choose them: tokens, keys,
// hexadecimal, UUIDs, passwords. None contains a newline, or begins or ends with a space.
// They have 20 to 64 bytes, except the last, which is the shortest: 40 bytes of one value, 13
// of fewer than 100, 8 of more. The shortest decides how fast a search can be, and among
// more secrets a short one is more likely.
func Values(n int, seed uint64) [][]byte {
	if n <= 0 {
		return nil
	}
	r := source(seed, "values")
	values := make([][]byte, 0, n)
	seen := map[string]bool{}
	for len(values) < n {
		v := appendValue(nil, r, len(values))
		if len(values) == n-1 {
			v = last(n, r)
		}
		if !seen[string(v)] {
			seen[string(v)] = true
			values = append(values, v)
		}
	}
	return values
}

// last returns the last and shortest of n values.
func last(n int, r *rand.Rand) []byte {
	switch {
	case n == 1:
		return append([]byte("ghp_"), chars(r, letters, 36)...)
	case n < 100:
		return chars(r, specials, 13)
	default:
		return chars(r, specials, 8)
	}
}

// The characters that values are made of.
const (
	letters  = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	upper    = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	specials = letters + letters + "!#$%&()*+,-./:;<=>?@[]^_{|}~" // with letters twice, as people mix them
)

func chars(r *rand.Rand, of string, n int) []byte {
	v := make([]byte, n)
	for i := range v {
		v[i] = of[r.IntN(len(of))]
	}
	return v
}

func randomBytes(r *rand.Rand, n int) []byte {
	v := make([]byte, n)
	for i := range v {
		v[i] = byte(r.Uint32()) //nolint:gosec // the low byte
	}
	return v
}

// appendValue appends a value. kind chooses one of ten usual kinds.
func appendValue(v []byte, r *rand.Rand, kind int) []byte {
	switch kind % 10 {
	case 0: // a personal access token
		return append(append(v, "ghp_"...), chars(r, letters, 36)...)
	case 1: // a cloud's secret key
		return append(v, base64.StdEncoding.EncodeToString(randomBytes(r, 30))...)
	case 2: // a password
		return append(v, chars(r, specials, 20+r.IntN(12))...)
	case 3: // a digest, or a session key
		return hex.AppendEncode(v, randomBytes(r, 16+r.IntN(17)))
	case 4: // a UUID
		b := randomBytes(r, 16)
		return fmt.Appendf(v, "%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	case 5: // the password of a connection string
		return append(v, chars(r, letters, 24+r.IntN(9))...)
	case 6: // a cloud's key ID
		return append(append(v, "AKIA"...), chars(r, upper, 16)...)
	case 7: // a live API key
		return append(append(v, "sk_live_"...), chars(r, letters, 24)...)
	case 8: // a chat bot's token
		return fmt.Appendf(v, "xoxb-%d-%d-%s", 1e10+r.Int64N(1e10), 1e11+r.Int64N(1e11), chars(r, letters, 24))
	default: // a key, base64 for URLs
		return append(v, base64.RawURLEncoding.EncodeToString(randomBytes(r, 32+r.IntN(16)))...)
	}
}

var (
	levels = []string{"INFO ", "INFO ", "INFO ", "DEBUG", "WARN ", "ERROR"}
	parts  = []string{
		"scheduler", "executor", "http.server", "storage.s3",
		"db.pool", "auth.session", "queue.consumer", "metrics",
	}
	methods = []string{"GET", "GET", "GET", "POST", "PUT", "DELETE"}
	paths   = []string{
		"/api/v1/projects/%d/executions", "/api/v1/users/%d", "/healthz?n=%d",
		"/v2/blobs/%d/parts", "/api/v1/tasks/%d/logs",
	}
	events = []string{
		"request finished, connection kept alive", "retrying after a timeout of the upstream",
		"wrote checkpoint to the bucket", "epoch finished, loss is going down",
		"cache miss, loading from the database", "lease renewed for the next period",
	}
)

// appendLine appends a log line of 165 bytes on average, with value in it unless that is nil.
func appendLine(text []byte, r *rand.Rand, value []byte) []byte {
	text = fmt.Appendf(text, "2026-03-%02dT%02d:%02d:%02d.%03dZ %s [%s-%d] ",
		1+r.IntN(28), r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(1000),
		levels[r.IntN(len(levels))], parts[r.IntN(len(parts))], r.IntN(64))
	text = fmt.Appendf(text, "%s ", methods[r.IntN(len(methods))])
	text = fmt.Appendf(text, paths[r.IntN(len(paths))], r.IntN(100000))
	text = fmt.Appendf(text, " status=%d bytes=%d ms=%.2f", 200+100*r.IntN(4), r.IntN(1<<20), 500*r.Float64())
	if value != nil {
		text = append(append(text, " token="...), value...)
	}
	return fmt.Appendf(text, " req=%016x %s\n", r.Uint64(), events[r.IntN(len(events))])
}
