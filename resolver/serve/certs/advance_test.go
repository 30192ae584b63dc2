package certs

import (
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
)

const days = 24 * time.Hour

func usual() *Config {
	return &Config{
		Server:   Leaf{Secret: "injectd-tls", Names: []string{"injectd.inject-system.svc"}},
		LeafTime: 30 * days, RenewTime: 20 * days, AuthorityTime: 365 * days, PublishTime: 7 * days,
	}
}

// reread returns the state as another replica reads it.
func reread(t *testing.T, s *state) *state {
	t.Helper()
	again, wrong := parse(s.data())
	require.Empty(t, wrong)
	again.held = s.held
	return again
}

// Over years, with places that are out of reach for weeks and clocks that are set, every client accepts the
// certificate of the server: one that knows what is published now, what was published up to a week ago, or
// only an authority that the server's certificate before was of.
func TestYears(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	c, s, now := usual(), &state{}, time.Now()
	type published struct {
		at    time.Time
		roots []*x509.Certificate
	}
	var history []published
	var clients []*x509.Certificate // each knows one authority that has signed
	held, renewals, authorities, outage := false, 0, 0, 0
	years := 6
	if testing.Short() {
		years = 3
	}
	for end := now.AddDate(years, 0, 0); now.Before(end); now = now.Add(12 * time.Hour) {
		at := now
		if random.IntN(50) == 0 { // one replica has another time
			at = at.Add(time.Duration(random.IntN(7)-3) * time.Minute)
		}
		if outage--; outage < -200 {
			outage = random.IntN(50) // a place is out of reach for up to 25 days
		}
		before, signs := s.server, s.signs
		_, changed, err := c.advance(at, s, held && outage < 0)
		require.NoError(t, err)
		held = !changed
		if s.server != before {
			renewals++
		}
		if signs == nil || !signs.cert.Equal(s.signs.cert) {
			authorities++
			clients = append(clients, s.signs.cert)
		}
		if outage < 0 {
			history = append(history, published{now, s.trusted()})
		}
		s = reread(t, s)

		require.NoError(t, s.server.good(now, c.Server.Names, s.trusted()))
		require.Greater(t, s.server.end().Sub(now), 9*days)
		history = slices.DeleteFunc(history, func(h published) bool { return now.Sub(h.at) > c.PublishTime })
		if len(history) > 0 {
			h := history[0]
			require.NoError(t, s.server.good(now, c.Server.Names, h.roots), "what was published %v ago", now.Sub(h.at))
		}
		for i, root := range clients {
			if i == len(clients)-2 && now.Before(root.NotAfter.Add(-time.Hour)) {
				err := s.server.good(now, c.Server.Names, []*x509.Certificate{root})
				require.NoError(t, err, "authority %d of %d", i, len(clients))
			}
		}
	}
	t.Log(renewals, "renewals,", authorities, "authorities")
	require.InDelta(t, years*365/20, renewals, 6)
	require.GreaterOrEqual(t, authorities, years)
	require.Less(t, authorities, 2*years)
}

// A new authority signs only after it was held everywhere for the time of publishing, and while it is held.
func TestGrace(t *testing.T) {
	t.Parallel()
	c, s, now := usual(), &state{}, time.Now()
	step := func(at time.Time, held bool) []string {
		did, _, err := c.advance(at, s, held)
		require.NoError(t, err)
		s = reread(t, s)
		return did
	}
	require.Len(t, step(now, false), 2, "an authority and a certificate")
	first := s.signs.cert
	require.Empty(t, step(now.Add(19*days), true))
	require.Len(t, step(now.Add(21*days), true), 1, "the certificate")

	now = now.Add(250 * days)
	require.Len(t, step(now, true), 2, "the next authority and the certificate")
	require.NotNil(t, s.next)
	second := s.next.cert
	for range 3 {
		now = now.Add(7 * days)
		step(now, false)
		require.Equal(t, first, s.signs.cert, "it is not everywhere")
	}
	step(now, true)
	require.Equal(t, now, s.held)
	step(now.Add(-24*time.Hour), true)
	require.Equal(t, now.Add(-24*time.Hour), s.held, "a clock that was set back begins again")
	now = now.Add(-24 * time.Hour)
	step(now.Add(7*days-time.Minute), true)
	require.Equal(t, first, s.signs.cert)
	step(now.Add(7*days), false)
	require.Equal(t, first, s.signs.cert, "one place has lost it")
	step(now.Add(7*days), true)
	require.Equal(t, second, s.signs.cert)
	require.Equal(t, []*x509.Certificate{second, first}, s.trusted())
	require.Equal(t, first.Subject.String(), s.server.tls.Leaf.Issuer.String(), "it has not ended")
	step(now.Add(28*days), true)
	require.Equal(t, second.Subject.String(), s.server.tls.Leaf.Issuer.String())
	step(first.NotAfter.Add(time.Second), true)
	require.NotContains(t, s.trusted(), first)

	// One that cannot be published signs when the one before has ended: nothing could be served otherwise.
	step(second.NotAfter.Add(-time.Minute), false)
	third := s.next.cert
	require.Equal(t, second, s.signs.cert)
	require.Equal(t, second.NotAfter, s.server.end())
	step(second.NotAfter, false)
	require.Equal(t, third, s.signs.cert)
	require.NoError(t, s.server.good(second.NotAfter, c.Server.Names, []*x509.Certificate{third}))
}

// What is damaged in a Secret is named, without a word of what it holds, and made again. What is whole stays.
func TestDamage(t *testing.T) {
	t.Parallel()
	c, now := usual(), time.Now()
	whole := &state{}
	for _, at := range []time.Time{now, now.Add(250 * days)} {
		_, _, err := c.advance(at, whole, false)
		require.NoError(t, err)
	}
	now = now.Add(250 * days)
	other, err := newAuthority(now, days, nil)
	require.NoError(t, err)
	another, next := string(other.key.Reveal()), nextPrefix+authorityEntry
	for name, tc := range map[string]struct {
		entry, text         string
		says                string
		same, signs, server bool // the authority's certificate is published; it signs; the server's stays
	}{
		"no key":              {keyEntry, "", "tls.crt and tls.key: ", true, true, false},
		"no certificate":      {certEntry, "canary", "tls.crt and tls.key: ", true, true, false},
		"another key":         {keyEntry, another, "tls.crt and tls.key: ", true, true, false},
		"authority":           {authorityEntry, "canary", "ca.crt: ", false, false, false},
		"authority's key":     {authorityKeyEntry, "canary", "ca.crt and ca.key: ", true, false, true},
		"another authority's": {authorityKeyEntry, another, "ca.crt and ca.key: ", true, false, true},
		"a server for one":    {authorityEntry, string(whole.server.cert), "ca.crt is not the", false, false, false},
		"next key":            {nextPrefix + authorityKeyEntry, "canary", "next-ca.crt and next-", true, true, true},
		"next":                {next, "canary", "next-ca.crt: ", true, true, true},
		"crossed":             {nextPrefix + crossedEntry, "canary", "next-ca-crossed.crt is not", true, true, true},
		"old":                 {oldEntry, "canary", "old-ca.crt: ", true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := whole.data()
			data[tc.entry] = []byte(tc.text)
			s, wrong := parse(data)
			require.Len(t, wrong, 1)
			require.Contains(t, wrong[0], tc.says)
			require.NotContains(t, wrong[0], "canary")
			_, _, err := c.advance(now, s, false)
			require.NoError(t, err)
			s = reread(t, s)
			require.Equal(t, tc.same, slices.ContainsFunc(s.trusted(), whole.signs.cert.Equal))
			require.Equal(t, tc.signs, s.signs.cert.Equal(whole.signs.cert))
			require.Equal(t, tc.server, same(s.server.cert, whole.server.cert))
			require.NoError(t, s.server.good(now, c.Server.Names, s.trusted()))
		})
	}
	s, wrong := parse(map[string][]byte{"unknown": []byte("canary")})
	require.Empty(t, wrong)
	_, _, err = c.advance(now, s, false)
	require.NoError(t, err)
	require.NotNil(t, s.server)
}

// A certificate is made again for other names, and if its time has not come or is over.
func TestDue(t *testing.T) {
	t.Parallel()
	c, s, now := usual(), &state{}, time.Now()
	_, _, err := c.advance(now, s, false)
	require.NoError(t, err)
	for _, tc := range []struct {
		at    time.Duration
		names []string
		why   string
	}{
		{0, c.Server.Names, ""},
		{19 * days, c.Server.Names, ""},
		{20 * days, c.Server.Names, "it would have ended"},
		{31 * days, c.Server.Names, "expired"},
		{-time.Hour, c.Server.Names, "not yet valid"},
		{0, []string{"a.example.org"}, "not a.example.org"},
		{0, nil, "it had other names"},
	} {
		why := c.due(now.Add(tc.at), s, s.server, Leaf{Names: tc.names})
		require.Equal(t, tc.why == "", why == "", why)
		require.Contains(t, why, tc.why)
	}
}

// The file says all mistakes at once, and takes a good one.
func TestParse(t *testing.T) {
	t.Parallel()
	const good = `version: 1
source: self
namespace: inject-system
taskNamespaces: [flyte, other]
configMap: inject-ca
server: {secret: injectd-tls, names: [injectd.inject-system.svc]}
webhook: {secret: inject-webhook-tls, names: [inject-webhook.inject-system.svc], configuration: inject-webhook}
pullSecret: inject-pull
pullOwner: injectd-pods
lifetimes: {leaf: 720h, renew: 480h, authority: 8760h, publish: 168h}
`
	c, err := Parse([]byte(good))
	require.NoError(t, err)
	want := usual()
	want.Namespace, want.TaskNamespaces = "inject-system", []string{"flyte", "other"}
	want.ConfigMap = "inject-ca"
	want.PullOwner = "injectd-pods"
	want.PullSecret, want.Webhook = "inject-pull", Leaf{
		"inject-webhook-tls", []string{"inject-webhook.inject-system.svc"}, "inject-webhook",
	}
	require.Equal(t, want, c)
	const given = "version: 1\nsource: secret\nnamespace: n\ntaskNamespaces: [a]\nconfigMap: c\n" +
		"server: {secret: mine}\n"
	c, err = Parse([]byte(given))
	require.NoError(t, err)
	want = &Config{
		Given: true, Namespace: "n", TaskNamespaces: []string{"a"}, ConfigMap: "c", Server: Leaf{Secret: "mine"},
	}
	require.Equal(t, want, c)

	const self = "version: 1\nsource: self\nnamespace: n\ntaskNamespaces: []\nconfigMap: c\n" +
		"server: {secret: s, names: [x]}\n"
	for text, says := range map[string][]string{
		"": {"empty"},
		"version: 2\nsource: x\nnamespace: A\ntaskNamespaces: [a, a]\nserver: {secret: B, names: []}\n" +
			"lifetimes: {}\nmore: 1": {
			"version: not 1", "source: neither", "namespace: not", "taskNamespaces[1]: given twice",
			"server.secret: not", "configMap: missing", "server: no names", "lifetimes.leaf: missing", "unknown field",
		},
		self: {"lifetimes: missing"},
	} {
		_, err := Parse([]byte(text))
		require.ErrorIs(t, err, secret.ErrInvalid)
		for _, s := range says {
			require.ErrorContains(t, err, s)
		}
	}
	for lifetimes, says := range map[string]string{
		"leaf: 720, renew: 480h, authority: 8760h, publish: 168h":   "leaf: expected text",
		"leaf: 1ms, renew: 480h, authority: 8760h, publish: 168h":   "leaf: not a time",
		"leaf: 480h, renew: 480h, authority: 8760h, publish: 168h":  "renew: not less than leaf",
		"leaf: 720h, renew: 480h, authority: 2000h, publish: 168h":  "authority: less than",
		"leaf: 720h, renew: 480h, authority: 8760h, publish: -168h": "publish: not a time",
	} {
		_, err := Parse(fmt.Appendf([]byte(self), "lifetimes: {%s}\n", lifetimes))
		require.ErrorContains(t, err, says)
	}
	_, err = Parse([]byte(given + "pullOwner: injectd-pods\n"))
	require.ErrorContains(t, err, "pullOwner: there is no pullSecret")
	_, err = Parse([]byte(given + "lifetimes: {}\n"))
	require.ErrorContains(t, err, "lifetimes: with source secret")
}

// Credentials of the same registry in two secrets are named, and the first ones count.
func TestMerge(t *testing.T) {
	t.Parallel()
	pull := func(key, text string) Pull { return Pull{key, secret.NewValue([]byte(text))} }
	config, errs := merge([]Pull{
		pull("A", `{"auths":{"a.example.org":{"auth":"YTpx"},"b.example.org":{"auth":"YTpy"}}}`),
		pull("B", `{"auths":{"b.example.org":{"auth":"canary"},"c.example.org":{"auth":"YTpz"}}}`),
		pull("C", `canary`),
	})
	require.JSONEq(t, `{"auths":{"a.example.org":{"auth":"YTpx"},"b.example.org":{"auth":"YTpy"},
		"c.example.org":{"auth":"YTpz"}}}`, string(config.Reveal()))
	require.Len(t, errs, 2)
	require.ErrorContains(t, errs[0], "A and B")
	require.ErrorContains(t, errs[1], "C is no Docker config")
	for _, err := range errs {
		require.NotContains(t, err.Error(), "canary")
		require.NotContains(t, err.Error(), "example.org")
	}
	config, errs = merge(nil)
	require.Empty(t, errs)
	require.JSONEq(t, `{"auths":{}}`, string(config.Reveal()))
}
