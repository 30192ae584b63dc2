package forms

import "bytes"

// unix returns text with \n in place of \r\n.
func unix(text []byte) []byte {
	if !bytes.Contains(text, []byte("\r\n")) {
		return text
	}
	return bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
}

// raw adds the text as it is and with other white space between its lines and words.
func (b *builder) raw(text []byte) {
	b.copy(KindRaw, text)
	if text = unix(text); bytes.IndexByte(text, '\n') >= 0 {
		for _, by := range []string{"\n", "\r\n", "", "\n\n"} {
			b.copy(KindRaw, bytes.ReplaceAll(text, []byte("\n"), []byte(by)))
		}
	}
	if bytes.ContainsAny(text, " \t\n") {
		words := bytes.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' })
		b.copy(KindRaw, bytes.Join(words, []byte(" ")))
	}
}

// lines adds the lines of a text, and for a PEM block also all of its lines joined.
func (b *builder) lines(text []byte) { b.eachLine(text, false) }

// eachLine adds the lines of a text as they are, or those outside of PEM blocks as programs escape
// them, which print a line alone or break a text at its line ends.
func (b *builder) eachLine(text []byte, escaped bool) {
	begin, end := []byte("-----BEGIN"), []byte("-----END")
	text = unix(text)
	if bytes.Contains(text, begin) {
		text = bytes.ReplaceAll(text, []byte(`\n`), []byte("\n"))
	}
	if bytes.IndexByte(text, '\n') < 0 {
		return
	}
	var body []byte // the joined lines of the current PEM block
	block := false
	for line := range bytes.SplitSeq(text, []byte{'\n'}) {
		switch line = bytes.TrimSpace(line); {
		case bytes.Contains(line, begin):
			block, body = true, body[:0]
		case bytes.HasPrefix(line, end):
			if !escaped {
				b.key(body)
			}
			block, body = false, body[:0]
		case !block:
			if len(line) < minLine && !Random(line) {
				continue
			}
			if escaped {
				b.escape(line)
			} else {
				b.copy(KindLines, line)
			}
		case escaped:
		case !bytes.Contains(line, []byte(": ")): // not a header, such as DEK-Info: AES-256-CBC
			b.copy(KindLines, line)
			body = append(body, line...)
		}
	}
}

// key adds the body of a PEM block in one line, and in lines of the usual widths: of PEM, of OpenSSH,
// and of MIME; all of them also escaped.
func (b *builder) key(body []byte) {
	b.copy(KindLines, body)
	for _, width := range []int{64, 70, 76} {
		for from := 0; from < len(body); from += width {
			b.copy(KindLines, body[from:min(from+width, len(body))])
		}
	}
	b.escape(body)
	for _, width := range []int{64, 70, 76} {
		for from := 0; from+minEncoded <= len(body); from += width {
			b.escape(body[from:min(from+width, len(body))])
		}
	}
}

// Random reports whether text has 8 bytes or more and looks generated rather than written by
// a person: no white space, and a digit, a capital and a small letter in it.
func Random(text []byte) bool {
	return len(text) >= minEncoded && !bytes.ContainsAny(text, " \t\v\f\r") &&
		bytes.ContainsAny(text, "0123456789") &&
		bytes.ContainsAny(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") &&
		bytes.ContainsAny(text, "abcdefghijklmnopqrstuvwxyz")
}

// otherCase adds a text of hexadecimal digits in small letters and in capitals. The digits
// may be one run, pairs with colons between them (a fingerprint), or a UUID.
func (b *builder) otherCase(text []byte) {
	uuid := len(text) == 36
	run, pairs := true, len(text)%3 == 2
	for i, c := range text {
		digit := '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f'
		run = run && digit
		pairs = pairs && (digit && i%3 < 2 || c == ':' && i%3 == 2)
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if uuid = uuid && (digit && !dash || c == '-' && dash); !run && !pairs && !uuid {
			return
		}
	}
	for _, text := range [][]byte{bytes.ToLower(text), bytes.ToUpper(text)} {
		b.copy(KindCase, text)
		if uuid {
			b.copy(KindCase, bytes.ReplaceAll(text, []byte("-"), nil))
		}
	}
}
