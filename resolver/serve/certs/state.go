package certs

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"inject/resolver/secret"
)

// The entries of the Secret of the server. Those of the certificate are Kubernetes' names of a Secret of type
// kubernetes.io/tls.
const (
	certEntry = "tls.crt"
	keyEntry  = "tls.key"
	// The authority that signs, and with the prefix next- the one after it.
	authorityEntry    = "ca.crt"
	authorityKeyEntry = "ca.key"
	crossedEntry      = "ca-crossed.crt"
	nextPrefix        = "next-"
	oldEntry          = "old-ca.crt" // those from before that have not ended
)

// A state is what the Secret of the server holds. Parts that are missing or damaged are nil.
type state struct {
	signs *authority
	next  *authority // published, and does not sign yet
	old   []*x509.Certificate
	// held is since when every place holds next, zero if not all have it yet.
	held   time.Time
	server *pair
	roots  []*x509.Certificate // of a Secret that others make
}

// parse reads the entries of a Secret that this package writes. wrong has what is damaged, by entry.
func parse(data map[string][]byte) (s *state, wrong []string) {
	s = &state{}
	s.signs, wrong = parseAuthority(data, "")
	next, also := parseAuthority(data, nextPrefix)
	s.next, wrong = next, append(wrong, also...)
	var err error
	if s.old, err = decode(data[oldEntry]); err != nil {
		wrong = append(wrong, oldEntry+": "+err.Error())
	}
	server, also := parsePair(data)
	s.server = server
	return s, append(wrong, also...)
}

// parseGiven reads the entries of a Secret that others make.
func parseGiven(data map[string][]byte) (s *state, wrong []string) {
	s = &state{}
	var err error
	s.roots, err = decode(data[authorityEntry])
	switch {
	case err != nil:
		wrong = append(wrong, authorityEntry+": "+err.Error())
	case len(s.roots) == 0:
		wrong = append(wrong, authorityEntry+" is missing, by which pods know the server")
	}
	server, also := parsePair(data)
	s.server = server
	if server == nil && also == nil {
		also = []string{certEntry + " is missing"}
	}
	return s, append(wrong, also...)
}

// parsePair returns the certificate with its key, nil if there is none.
func parsePair(data map[string][]byte) (p *pair, wrong []string) {
	if len(data[certEntry]) == 0 && len(data[keyEntry]) == 0 {
		return nil, nil
	}
	p, err := newPair(data[certEntry], secret.NewValue(data[keyEntry]))
	if err != nil {
		return nil, []string{certEntry + " and " + keyEntry + ": " + err.Error()}
	}
	return p, nil
}

// parseAuthority returns an authority, nil if there is none. One without a good key has no key.
func parseAuthority(data map[string][]byte, prefix string) (a *authority, wrong []string) {
	text, key := data[prefix+authorityEntry], data[prefix+authorityKeyEntry]
	if len(text) == 0 && len(key) == 0 {
		return nil, nil
	}
	certs, err := decode(text)
	switch {
	case err != nil:
		return nil, []string{prefix + authorityEntry + ": " + err.Error()}
	case len(certs) != 1 || !certs[0].IsCA:
		return nil, []string{prefix + authorityEntry + " is not the certificate of one authority"}
	}
	a = &authority{cert: certs[0]}
	if pair, err := newPair(text, secret.NewValue(key)); err != nil {
		wrong = append(wrong, prefix+authorityEntry+" and "+prefix+authorityKeyEntry+": "+err.Error())
	} else {
		a.key = pair.key
	}
	crossed, err := decode(data[prefix+crossedEntry])
	switch {
	case err != nil || len(crossed) > 1:
		wrong = append(wrong, prefix+crossedEntry+" is not one certificate")
	case len(crossed) == 1:
		a.crossed = crossed[0]
	}
	return a, wrong
}

// data is the inverse of parse.
func (s *state) data() map[string][]byte {
	data := map[string][]byte{}
	for prefix, a := range map[string]*authority{"": s.signs, nextPrefix: s.next} {
		if a == nil {
			continue
		}
		data[prefix+authorityEntry] = encode(a.cert)
		data[prefix+authorityKeyEntry] = a.key.Reveal() // into the Secret
		if a.crossed != nil {
			data[prefix+crossedEntry] = encode(a.crossed)
		}
	}
	if len(s.old) > 0 {
		data[oldEntry] = encode(s.old...)
	}
	if s.server != nil {
		data[certEntry], data[keyEntry] = s.server.cert, s.server.key.Reveal() // into the Secret
	}
	return data
}

// trusted returns the authorities that are published.
func (s *state) trusted() (all []*x509.Certificate) {
	all = append(all, s.roots...)
	for _, a := range []*authority{s.signs, s.next} {
		if a != nil {
			all = append(all, a.cert)
		}
	}
	return append(all, s.old...)
}

// bundle is what is published of the state that the Secret o has.
func (s *state) bundle(o *corev1.Secret) bundle {
	return bundle{encode(s.trusted()...), o.Name, o.ResourceVersion}
}

// signing reports whether clients accept at a time what an authority signs then.
func (a *authority) signing(now time.Time) bool {
	return a != nil && a.key.Len() > 0 && !now.Before(a.cert.NotBefore) && now.Before(a.cert.NotAfter)
}

// advance makes s what it should be at a time. held says that every place had all of s.trusted before. It
// returns what it did, in sentences for the log; changed is true if s must be written.
//
// The errors are those of making keys and signing, none of which is expected.
func (c *Config) advance(now time.Time, s *state, held bool) (did []string, changed bool, err error) {
	before := len(s.old)
	s.old = slices.DeleteFunc(s.old, func(old *x509.Certificate) bool { return !now.Before(old.NotAfter) })
	changed = len(s.old) != before
	note := func(format string, args ...any) {
		did, changed = append(did, fmt.Sprintf(format, args...)), true
	}
	retire := func() {
		if s.signs != nil && now.Before(s.signs.cert.NotAfter) {
			s.old = append(s.old, s.signs.cert)
		}
		s.signs, s.next, s.held = s.next, nil, time.Time{}
	}

	if s.next != nil && !s.next.signing(now) {
		s.next, s.held = nil, time.Time{}
		note("the next authority is damaged or has ended, so another one is made")
	}
	if s.signs != nil && !s.signs.signing(now) && s.next != nil {
		note("the authority is damaged or has ended, so the next one signs before its time")
		retire()
	}
	if !s.signs.signing(now) {
		retire()
		if s.signs, err = newAuthority(now, c.AuthorityTime, nil); err != nil {
			return nil, false, err
		}
		note("an authority was made, and signs at once, because there is none")
	}

	last := max(c.AuthorityTime/3, c.replace())
	switch {
	case s.next == nil && !now.Before(s.signs.cert.NotAfter.Add(-last)):
		if s.next, err = newAuthority(now, c.AuthorityTime, s.signs); err != nil {
			return nil, false, err
		}
		note("the next authority was made, and is published")
	case s.next == nil:
	case s.held.IsZero() && held:
		s.held = now
		note("every place has the next authority, which signs in %v", c.PublishTime)
	case s.held.After(now): // a clock was set back
		s.held, changed = now, true
	case !s.held.IsZero() && held && now.Sub(s.held) >= c.PublishTime:
		retire()
		note("the next authority signs from now on")
	}

	if why := c.due(now, s, s.server, c.Server); why != "" {
		if s.server, err = s.signs.issue(now, c.LeafTime, c.Server.Names); err != nil {
			return nil, false, err
		}
		note("the certificate of the server was made: %s", why)
	}
	return did, changed, nil
}

// due returns why the certificate of a server must be made again, "" if it need not.
func (c *Config) due(now time.Time, s *state, p *pair, l Leaf) string {
	if p == nil {
		return "there was none"
	}
	if err := p.good(now, l.Names, s.trusted()); err != nil {
		return err.Error()
	}
	left := c.LeafTime - c.RenewTime
	end := earlier(now.Add(c.LeafTime), s.signs.cert.NotAfter)
	switch {
	case !p.has(l.Names):
		return "it had other names"
	case now.Before(p.end().Add(-left)) || end.Sub(p.end()) < left/10: // the authority itself ends
		return ""
	}
	return "it would have ended " + p.end().UTC().Format(time.RFC3339)
}

// same reports whether two texts hold the same certificates.
func same(a, b []byte) bool { return bytes.Equal(bytes.TrimSpace(a), bytes.TrimSpace(b)) }

// listed makes one sentence of what is wrong with an object.
func listed(wrong []string) string { return strings.Join(wrong, "; ") }
