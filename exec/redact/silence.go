package redact

import (
	"bytes"
	"slices"
	"time"

	"inject/exec/redact/forms"
	"inject/exec/redact/parts"
)

// What may be shown of a form at a silence, apart from its public part. See the package comment.
const (
	shortSilence = 30 * time.Millisecond
	longSilence  = time.Second

	shortLimit = 3 // bytes, after shortSilence
	longShare  = 4 // one in four bytes, after longSilence,
	longLimit  = 16
)

// publicBeginnings are beginnings that many values share, by their first byte: they are printed
// without the value, too, and tell nothing of it. They are as the vendors document them.
var publicBeginnings = func() (by [256][]string) {
	for _, p := range []string{
		pemBegin, "LS0tLS1CRUdJTi", // the latter is the former in base64
		"b3BlbnNzaC1rZXktdjEAAAAA", "AGE-SECRET-KEY-1", // a line of an OpenSSH key; age
		"eyJ", "eyJhbGciOi", "eyJ0eXAiOi", "eyJraWQiOi", // JSON in base64, as a JWT begins
		"ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", // GitHub
		"glpat-", "gldt-", "glrt-", "glptt-", "glsa_", // GitLab, Grafana
		"AKIA", "ASIA", "AIza", "ya29.", "GOCSPX-", // AWS, Google
		"sk-", "sk-proj-", "sk-ant-", "sk-ant-api03-", "hf_", // OpenAI, Anthropic, Hugging Face
		"sk_live_", "sk_test_", "pk_live_", "pk_test_", "rk_live_", "rk_test_", "whsec_", // Stripe
		"xoxb-", "xoxp-", "xoxa-", "xapp-", "xoxe.", "SG.", // Slack, SendGrid
		"npm_", "pypi-AgE", "dckr_pat_", "shpat_", "dop_v1_", "hvs.", "hvb.",
		"Bearer ", "Basic ", "token ", "{\"", "http://", "https://", "ssh://",
		"postgres://", "postgresql://", "mysql://", "mongodb://", "mongodb+srv://", "redis://", "rediss://", "amqp://",
	} {
		by[p[0]] = append(by[p[0]], p)
	}
	return by
}()

const (
	pemBegin = "-----BEGIN"
	pemLabel = 64 // the bytes of the longest first line of a PEM block
)

// publicPart returns the length of the beginning of a form that is no secret. It is 0 if fewer
// than 16 bytes follow it.
func publicPart(form []byte) int32 {
	n := 0
	for _, p := range publicBeginnings[form[0]] {
		if len(p) > n && len(form) >= len(p) && string(form[:len(p)]) == p {
			n = len(p)
		}
	}
	if form[0] == '-' && n > 0 { // the kind of key, and the dashes behind it
		if end := bytes.Index(form[n:min(len(form), pemLabel)], []byte("-----")); end >= 0 {
			n += end + len("-----")
		}
	}
	if len(form) < n+longLimit {
		return 0
	}
	return int32(n)
}

// await starts the timer of silence if there are bytes that it might write, else stops it.
func (w *Writer) await(held int) {
	if held > w.shown {
		w.long, w.armed = false, true
		w.timer.Reset(shortSilence)
	} else if w.armed {
		w.armed = false
		w.timer.Stop()
	}
}

// silence writes what is held back, if that may be shown. The timer calls it: after
// shortSilence, and again after longSilence if it wrote nothing.
func (w *Writer) silence() {
	w.mu.Lock()
	defer w.mu.Unlock()
	long := w.long
	if w.err != nil {
		return
	}
	// Values may have been added since. The bytes stay where they are in the buffer: ReadFrom
	// may be reading behind them at this moment.
	decided, err := w.mask(w.buf[w.begin:], w.held())
	w.begin += decided
	held := w.held()
	w.armed = false
	w.timer.Stop()
	if err != nil || held == w.shown {
		return // in the latter case a Write came first
	}
	masked := w.maskedUpTo(held)
	if !w.mayShow(masked, long) {
		if !long {
			w.long, w.armed = true, true
			w.timer.Reset(longSilence - shortSilence)
		}
		return
	}
	if w.emit(w.buf[w.begin:], held) != nil {
		return
	}
	w.masked = masked
	// The bytes stay, because the state reaches back to them. A run goes on only if its mask
	// is the last that was written: behind bytes that are shown, the rest of a value needs a
	// mask of its own, or they would stand next to what follows the value.
	w.shown = held
	for i := range w.runs {
		w.runs[i].start += held
		w.runs[i].end += held
	}
}

// A span is bytes of what is held back that are masked.
type span struct {
	start, end int
	before     int // masked bytes before start
}

// maskedUpTo returns the spans of what is held back up to held: those that silences have written, and
// those of the runs behind them.
func (w *Writer) maskedUpTo(held int) []span {
	spans, n := w.masked, 0
	if len(spans) > 0 {
		last := spans[len(spans)-1]
		n = last.before + last.end - last.start
	}
	for _, r := range w.runs {
		s := span{max(r.start, w.shown), min(r.end, held), n}
		if s.start < s.end {
			spans = append(spans, s)
			n += s.end - s.start
		}
	}
	return spans
}

// forget drops the first n bytes of the text of spans.
func forget(spans []span, n int) []span {
	if n == 0 {
		return spans
	}
	kept := spans[:0]
	for _, s := range spans {
		if s.end > n {
			cut := max(n-s.start, 0)
			kept = append(kept, span{s.start + cut - n, s.end - n, s.before + cut})
		}
	}
	return kept
}

// bare returns how many bytes from start to end are in no span.
func bare(spans []span, start, end int) int {
	before := func(at int) int {
		i, _ := slices.BinarySearchFunc(spans, at, func(s span, at int) int { return s.start - at })
		if i > 0 {
			last := spans[i-1]
			return last.before + min(at, last.end) - last.start
		}
		if len(spans) > 0 {
			return spans[0].before
		}
		return 0
	}
	return end - start - (before(end) - before(start))
}

// mayShow reports whether what is held back may be shown: the prefix of a form that the state
// stands for, all of its suffixes that are prefixes of forms, and what has been seen of wrapped
// forms. Bytes that are masked do not count, because showing a mask tells nothing of a longer form
// around it: a value in doubled braces begins with a brace and the value. masked is what maskedUpTo returns.
func (w *Writer) mayShow(masked []span, long bool) bool {
	held := w.held()
	for _, f := range w.folds {
		end := f.at
		if f.gap >= 0 {
			end = f.gap
		}
		shown := bare(masked, f.piece, end)
		for _, p := range f.pieces {
			shown += bare(masked, p[0], p[1])
		}
		if !w.a.within(f.s, shown, long, true) {
			return false
		}
	}
	for s := w.state; s.depth > shortLimit; s = fail(w.a.link(s.node)) {
		if !w.a.within(s, bare(masked, held-int(s.depth), held), long, false) {
			return false
		}
	}
	return true
}

// within reports whether so many bytes of the prefix that s stands for may be shown of each form that
// begins with it, or of each that may be wrapped.
func (a *automaton) within(s state, shown int, long, wrapped bool) bool {
	segment, _ := slices.BinarySearch(a.last, s.node)
	for i := segment; i < len(a.ids); i++ {
		id := a.ids[i]
		length, nodes := a.lengths[id], a.last[i]-a.start(int32(i))+1 //nolint:gosec // a segment
		if i > segment && min(length, a.limit)-nodes < s.depth {
			break // the forms from here on do not begin with the prefix
		}
		if wrapped && !a.forms[id].wraps {
			continue
		}
		if length > s.depth && shown > int(a.forms[id].mayShow(long)) {
			return false
		}
	}
	return true
}

// describe sets how many bytes of a form may be shown. Of a list of numbers it is also a quarter of
// the numbers, with what stands between them: short lists of few digits are common text.
func (f *form) describe() {
	f.public = max(f.public, publicPart(f.bytes))
	f.most = f.public + max(shortLimit, min((int32(len(f.bytes))-f.public)/longShare, longLimit)) //nolint:gosec // see maxBytes
	if f.kind == forms.KindNumbers {
		f.most = max(f.most, quarterOfNumbers(f.bytes))
	}
}

// quarterOfNumbers returns the length of the first quarter of a list, and of 16 numbers at most, up to
// the next number. Between the numbers is a space, a comma, both, a colon or a dash. A dash may also
// be the first byte, as the sign of a number.
func quarterOfNumbers(list []byte) int32 {
	n := 1 + bytes.IndexAny(list[1:], " ,:-")
	between := list[n : n+1]
	if list[n] == ',' && list[n+1] == ' ' {
		between = list[n : n+2]
	}
	end := 0
	for range min((1+bytes.Count(list, between))/longShare, longLimit) {
		end += bytes.Index(list[end:], between) + len(between)
	}
	return int32(end)
}

// readable returns the length of the beginning of a URL in front of the first part that is secret: the
// host and the user are printed alone, and stay readable. It is 0 if text is no URL, has no such
// part, or writes one in another way.
func readable(text []byte, inside []parts.Part) int32 {
	scheme := bytes.Index(text[:min(len(text), maxScheme)], []byte("://"))
	if scheme < 1 || len(text) > maxReadable {
		return 0
	}
	n := len(text)
	for _, p := range inside {
		n = min(n, bytes.Index(text, p.Value))
	}
	if n < scheme || n == len(text) {
		return 0
	}
	return int32(n) //nolint:gosec // at most maxReadable
}

const (
	maxScheme   = 32
	maxReadable = 4 << 10 // URLs are shorter than that
)

// mayShow returns how many bytes of a form may be shown.
func (f *form) mayShow(long bool) int32 {
	if long {
		return f.most
	}
	return f.public + shortLimit
}
