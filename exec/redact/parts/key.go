package parts

import (
	"bytes"
	"encoding/base64"
	"regexp"
)

var (
	pemBlock = regexp.MustCompile(`-----BEGIN[ +]?([A-Z0-9 +]+)-----([^-]+(?:-[^-]+)*)-----END`)
	pemWord  = regexp.MustCompile(`PRIVATE|PUBLIC|ENCRYPTED|CERTIFICATE|OPENSSH|RSA|DSA|EC|KEY`)
	// pemEscape is a line end, a tab, or one of the characters of base64, as JSON writes it, in
	// JSON any number of times.
	pemEscape = regexp.MustCompile(`\\+(?:[nrt/]|u00(?:3[dD]|2[bBfF]))`)
	// pemHeader is a header of an encrypted key, such as DEK-Info.
	pemHeader = regexp.MustCompile(`[A-Za-z][A-Za-z-]*: \S+`)
)

// keys adds the keys of text in the layout of RFC 7468, whatever has become of their line ends: in
// lines of 64 characters, and in lines of 70 if OpenSSH has written it.
func (f *finder) keys(name string, text []byte, secret bool) {
	if !bytes.Contains(text, []byte("-----BEGIN")) {
		return
	}
	for _, block := range pemBlock.FindAllSubmatch(text, maxParts) {
		label := bytes.Join(pemWord.FindAll(block[1], -1), []byte(" "))
		if !secret && !bytes.Contains(label, []byte("PRIVATE KEY")) {
			continue
		}
		body := unescapePEM(block[2])
		if bytes.IndexByte(block[1], '+') >= 0 { // it is sent in a form
			body = bytes.ReplaceAll(body, []byte("+"), []byte(" "))
		}
		body = pemHeader.ReplaceAll(body, nil)
		kept := body[:0]
		for _, c := range body {
			if letter(c) || '0' <= c && c <= '9' || c == '+' || c == '/' || c == '=' {
				kept = append(kept, c)
			}
		}
		if _, err := base64.StdEncoding.AppendDecode(nil, kept); err != nil || len(kept) == 0 {
			continue
		}
		width := 64
		if bytes.HasPrefix(label, []byte("OPENSSH")) {
			width = 70
		}
		var pem bytes.Buffer
		pem.WriteString("-----BEGIN " + string(label) + "-----\n")
		for len(kept) > 0 {
			n := min(width, len(kept))
			pem.Write(kept[:n])
			pem.WriteByte('\n')
			kept = kept[n:]
		}
		pem.WriteString("-----END " + string(label) + "-----")
		f.add(name, KindDecoded, pem.Bytes())
	}
}

// unescapePEM returns a copy of text with pemEscape undone.
func unescapePEM(text []byte) []byte {
	return pemEscape.ReplaceAllFunc(text, func(escape []byte) []byte {
		switch escape[len(escape)-1] {
		case 'd', 'D':
			return []byte("=")
		case 'b', 'B':
			return []byte("+")
		case 'f', 'F', '/':
			return []byte("/")
		}
		return []byte("\n")
	})
}
