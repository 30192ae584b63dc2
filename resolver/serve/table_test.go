package serve

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/resolver/serve/kube"
	"inject/resolver/serve/kube/evidence"
	"inject/resolver/serve/transport"
	"inject/resolver/store"
	storekube "inject/resolver/store/kube"
)

// size writes bytes as the page does.
func size(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%g s", d.Seconds()) }

// bounds are the rows of the table, made from the constants that the code uses.
func bounds() []string {
	flag := func(what, bound, flag string) string { return fmt.Sprintf("| %s | %s | %s |", what, bound, flag) }
	row := func(what, bound string) string { return flag(what, bound, "fixed") }
	f := fmt.Sprintf
	return []string{
		row("requests under way, in any state", f("%d; %d of one identity. As many more are answered with "+
			"an error, and those beyond are dropped", maxRequests, ownRequests)),
		row("requests whose caller is not yet known", f("%d; %d of one network. As many more are answered "+
			"with an error, and those beyond are dropped", maxArrivals, netArrivals)),
		row("a request that needs no credentials (health, reflection)", f("%s, %s; a message of %s",
			size(openBody), seconds(openTime), size(openMessage))),
		row("such requests at the same time", f("%d; %d of one network", maxOpenBodies/openBody,
			maxNetBodies/openBody)),
		flag("bodies of requests that are held at the same time", f("%s; %s of one identity. A body counts "+
			"as %s, %s or %s, and a compressed one as %s", size(MaxBodies), size(OwnBodies), size(int(bodySteps[0])),
			size(int(bodySteps[1])), size(int(bodySteps[2])), size(MaxMessage)),
			"`--max-identity-bodies`"),
		row("a declared list, an import", f("%d secrets, counted before they are decoded", maxDeclared)),
		row("a message", f("%d fields in all its parts, %d messages deep, counted before they are decoded",
			maxFields, maxDepth)),
		row("the header of a request", size(transport.MaxHeader)),
		flag("connections", "12000, 100 requests at the same time on each", "`--max-connections`, `--max-streams`"),
		flag("connections of one identity", f("%d, and at most a quarter of `--max-connections`; for one more "+
			"an idle one is closed", transport.OfIdentity), "`--max-identity-connections`"),
		row("from a connection to the first good credentials", seconds(transport.NewcomerTime)+", and "+
			fmt.Sprint(transport.MaxRefused)+" refused requests"),
		row("connections of one network without good credentials", f("%d, and at most a quarter of "+
			"`--max-connections`; more are closed", transport.Newcomers)),
		row("TLS handshakes of one network that are computed at the same time", fmt.Sprint(transport.Handshakes)),
		row("input that is neither a good request nor its body, such as frames of a flood", f("%s at once and "+
			"%s a second of one identity; %s and %s of a connection without good credentials. A request that its "+
			"client takes back counts as %s. More is read later", size(transport.InputBurst),
			size(transport.InputRate), size(transport.NewcomerBurst), size(transport.NewcomerRate),
			size(transport.TakenBackInput))),
		row("bytes that a client may send before they are read", f("%s on a connection, %s of a request, %s "+
			"in a frame", size(transport.MaxConnInput), size(transport.MaxStreamInput), size(transport.MaxFrame))),
		row("headers that each side of a connection remembers", size(transport.HeaderTable)),
		row("time for a request", f("%s for its header, %s for its body, %s until it is answered, %s more to "+
			"read the answer", seconds(transport.HeaderTime), seconds(transport.RequestTime), seconds(maxTime),
			seconds(transport.AnswerTime))),
		row("time for a connection", f("%s without a request; %s without reading what was sent; %s without "+
			"an answer to a ping, which is sent after %s of silence", seconds(transport.IdleTime),
			seconds(transport.UnreadTime), seconds(transport.PingTime), seconds(transport.PingAfter))),
		flag("keys that one identity asks for", "60000 at once, 5000 a second", "`--rate-burst`, `--rate`"),
		row("a line of the audit log", size(maxLine)+"; `omitted` counts the secrets that are left out"),
		flag("the audit log of one identity", "33554432 bytes at once, 2097152 a second. A request counts as "+
			size(lineCost)+" and what its keys take", "`--audit-burst`, `--audit-rate`"),
		row("identities and networks whose rates are remembered", fmt.Sprint(maxLimiters)),
		flag("declared lists that are resolved at the same time", f("%d; %d of one identity. Each %d keys count "+
			"as one more", MaxResolves, OwnResolves, climbKeys), "`--max-identity-resolves`"),
		row("reads of a store over a network that are under way at the same time, and their values", f("%d, of up to "+
			"%s; %d of one identity and of one declared list, which are 16 secrets at four scopes. Further ones wait "+
			"as long as their request may take. One that was given up counts until it ends",
			maxReads, size(store.MaxValue), ownReads)),
		flag("lists of secrets that are read at the same time", f("%d; %d of one identity", MaxLists, OwnLists),
			"`--max-identity-lists`"),
		row("values in one answer", size(maxAnswer)+"; reading stops there"),
		row(f("pods whose tokens are checked at the same time, and that wait for it for %s", seconds(kube.Patience)),
			f("%d, and %d; %d and %d of one namespace. Each takes a TokenReview and up to a dozen reads, one object "+
				"of 1.5 MiB at a time", kube.MaxReviews, kube.MaxQueue, kube.OwnReviews, kube.OwnQueue)),
		row("a token of a pod", size(kube.MaxToken)+". What does not look like one causes no call of the API server"),
		row("reads of the admission policies", f("one at a time, and then a pause as long as it took, up to "+
			"%d ms; all pods that wait share one", evidence.MaxPause.Milliseconds())),
		row("image pull secrets of the org that every pod of the task namespaces may use", f("%d, of %s together",
			storekube.MaxPulls, size(store.MaxValue))),
		flag("secrets at one scope, and the bytes of their values", "none", "[`quotas`](policy.md#quotas) of the policy"),
		row("answers that are read or sent at the same time", f("%s; %s of one identity. Values count twice, "+
			"and each key as %s", size(maxAnswers), size(ownAnswers), size(keyAnswer))),
		row("lines about callers without rights", f("%d at once and %d a second for each network; %d and %d "+
			"for all", strangerBurst, strangerRate, allStrangersBurst, allStrangersRate)),
	}
}

// The table of the bounds is what the code does, and the defaults of flags are those of the page of
// flags, which other tests compare with the programs.
func TestTableOfBounds(t *testing.T) {
	page, err := os.ReadFile("../../docs/reference/limits.md")
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(page), "\n| | bound | flag |\n|---|---|---|\n")
	require.True(t, ok, "the page has the table")
	table, _, _ := strings.Cut(rest, "\n\n")
	require.Equal(t, strings.Join(bounds(), "\n"), table)

	flags, err := os.ReadFile("../../docs/reference/cli.md")
	require.NoError(t, err)
	for _, row := range []string{
		"| `--max-connections N` | `12000` |", "| `--max-streams N` | `100` |",
		"| `--max-identity-connections N` | `0` |",
		fmt.Sprintf("| `--max-identity-bodies BYTES` | `%d` |", OwnBodies),
		fmt.Sprintf("| `--max-identity-resolves N` | `%d` |", OwnResolves),
		fmt.Sprintf("| `--max-identity-lists N` | `%d` |", OwnLists),
		"| `--rate N`, `--rate-burst N` | `5000`, `60000` |",
		"| `--audit-rate BYTES`, `--audit-burst BYTES` | `2097152`, `33554432` |",
	} {
		require.Contains(t, string(flags), row)
	}
}
