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

// A Workload is a text and the values that are looked for in it. The same
// arguments of [New] make the same workload everywhere, so that what was measured
// can be measured again.
type Workload struct {
	Name   string
	About  string // what the text is, for people
	Values [][]byte
	Text   []byte
	Write  int // the bytes of one write by which the text comes
}

// Names are the workloads there are, in the order in which they are shown. D1 to
// D4 are what is worst for one algorithm or another.
var Names = []string{"A", "B", "C", "D1", "D2", "D3", "D4", "E", "F"}

var about = map[string]string{
	"A":  "log lines, no value in them",
	"B":  "log lines, a value in one of 1000",
	"C":  "log lines, a value in each",
	"D1": "all a, and a value a…ab of 16 bytes",
	"D2": "values that lack their last byte",
	"D3": "all a, and a value a…ab of 3001 bytes",
	"D4": "all a, and 56 values a…ab that end each other",
	"E":  "random bytes",
	"F":  "A in writes of 80 bytes",
}

// nested is how many values D4 has, whatever it is asked for.
const nested = 56

// New returns the workload of that name with n values and a text of size bytes;
// D4 has 56 values always. It panics if there is no such workload.
func New(name string, n, size int, seed uint64) Workload {
	w := Workload{Name: name, About: about[name], Write: 64 << 10}
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

// almost is a value that a text of nothing but a never holds, and always seems
// to be about to.
func almost(n int) []byte { return append(bytes.Repeat([]byte("a"), n), 'b') }

// Text returns the text of the workload of that name: size bytes, at least one.
// B, C and D2 are made of values and need one. The text ends with a newline, which
// no value of [Values] holds: no value lies across the end of one text and the
// beginning of the next, so a text that is repeated masks to its masked text,
// repeated. Text panics if there is no such workload.
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
				text = append(text, ' ') // else it would complete the one before
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

// source returns chance that is the same for the same arguments, and another for
// another purpose: a text must not be made of the same numbers as the values.
func source(seed uint64, purpose string) *rand.Rand {
	h := uint64(14695981039346656037) // FNV-1a
	for _, c := range []byte(purpose) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return rand.New(rand.NewPCG(seed, h)) //nolint:gosec // it is to be repeatable
}

// Values returns n different values such as services give out and people choose:
// tokens, keys, hexadecimal, UUIDs, passwords. None holds a newline or begins or
// ends with a space. They are 20 to 64 bytes long but for the last one, which is
// the shortest: 40 for one value, 13 for fewer than 100, 8 for more. How fast a
// search can be depends on the shortest, and the more secrets there are the likelier
// is a short one.
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

// last is the shortest of n values.
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
	specials = letters + letters + "!#$%&()*+,-./:;<=>?@[]^_{|}~" // as people mix them
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

// appendValue appends a value of one of the usual kinds, one kind after another.
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

// appendLine appends a log line of 165 bytes in the mean, with value in it if there
// is one.
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
