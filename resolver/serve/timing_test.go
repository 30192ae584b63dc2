package serve_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
)

// One caller may list the secret, and the other may not.
const hiddenPolicy = `
version: 1
rules:
  - name: blind
    identity: {spiffe: "spiffe://example.org/blind"}
    resolve: {project: web, domain: development, keys: [ANOTHER]}
  - name: seeing
    identity: {spiffe: "spiffe://example.org/seeing"}
    manage: [{project: web, domain: development}]
    list: [{project: web, domain: development}]
    resolve: {project: web, domain: development, keys: [ANOTHER, WHERE]}
`

// BenchmarkDenied measures the answer "not found" for a secret that exists but is hidden from
// the caller. Its metric absents is the ratio of its median to that of BenchmarkAbsent, whose
// request it sends after each of its own. It should be 1, or the time would reveal the secret.
func BenchmarkDenied(b *testing.B) {
	benchmarkHidden(b, func(b *testing.B, denied, absent func()) {
		b.Helper()
		var took [2][]time.Duration
		for b.Loop() {
			for i, call := range []func(){denied, absent} {
				start := time.Now()
				call()
				took[i] = append(took[i], time.Since(start))
			}
		}
		median := func(all []time.Duration) float64 {
			slices.Sort(all)
			return float64(all[len(all)/2])
		}
		b.ReportMetric(median(took[0]), "ns/op")
		b.ReportMetric(median(took[0])/median(took[1]), "absents")
	})
}

// BenchmarkAbsent measures the answer "not found" for an absent secret.
func BenchmarkAbsent(b *testing.B) {
	benchmarkHidden(b, func(b *testing.B, _, absent func()) {
		b.Helper()
		for b.Loop() {
			absent()
		}
	})
}

func benchmarkHidden(b *testing.B, run func(b *testing.B, denied, absent func())) {
	b.Helper()
	r := start(b, hiddenPolicy, nil)
	r.seedAt(secret.Ref{Scope: webDevelopment, Key: "THERE"})
	blind := r.client(certOf(r.Authority, "blind", "spiffe://example.org/blind"))
	seeing := r.client(certOf(r.Authority, "seeing", "spiffe://example.org/seeing"))
	const id = `{"id":{"project":"web","domain":"development","name":`
	for _, test := range []struct{ name, method, denied, absent string }{
		{"get", secrets + "GetSecret", id + `"THERE"}}`, id + `"WHERE"}}`},
		{
			"update", secrets + "UpdateSecret", id + `"THERE"},"secretSpec":{"stringValue":"v"}}`,
			id + `"WHERE"},"secretSpec":{"stringValue":"v"}}`,
		},
		{"resolve", resolve, `{"secrets":[{"key":"THERE"}]}`, `{"secrets":[{"key":"WHERE"}]}`},
	} {
		b.Run(test.name, func(b *testing.B) {
			denied := func() answered { return r.ask(blind, test.method, test.denied) }
			absent := func() answered { return r.ask(seeing, test.method, test.absent) }
			require.Equal(b, absent().status, denied().status)
			run(b, func() { denied() }, func() { absent() })
		})
	}
}
