package policy_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"inject/resolver/secret"
	"inject/resolver/serve/policy"
)

// rule returns a policy whose second rule, in line 4, is named b and has the fields text.
func rule(text string) string {
	return "version: 1\nrules:\n- {name: a, identity: {token: a}}\n- name: b\n  " + strings.ReplaceAll(
		text, "\n", "\n  ",
	) + "\n"
}

// below returns a policy whose second rule has the capture me in line 5 and the fields text
// from line 6 on.
func below(text string) string { return rule("identity: {token: \"{me}\"}\n" + text) }

var good = []string{
	example,
	"version: 1\nrules: []",
	"{\"version\": 1, \"rules\": [{\"name\": \"x\", \"identity\": {\"token\": \"t\"}}]}",
	"---\n# a comment\nversion: 1\nrules: []\n...\n",
	rule("identity: {token: b}"),
	rule("identity: {token: b}\nmanage: []\nlist: [{}]\nresolve: {}"),
	rule("identity: {dns: '*.a.{b}', token: '*x*'}\nlist: [{org: 'a*', project: '*', domain: '{b}*'}]"),
	rule("identity: {issuer: i}"),
	rule("identity: {issuer: i, subject: '**', audience: 'a/**', claim.x: '*', 'claim.https://x/y.z': a}"),
	rule(
		"identity: {spiffe: 'spiffe://{a}/{b_}/{_c}/x-{d__d}-y'}\nresolve: {org: '{a}', project: 'x{b_}x', " +
			"domain: '{_c}'}\nlist: [{project: '*-{d__d}-*'}]",
	),
	rule("identity: {kubernetes.namespace: '*', kubernetes.project: '{p}', kubernetes.domain: '{d}'}\n" +
		"resolve: {project: '{p}', domain: '{d}', declared: true, also: [A, B]}"),
	rule("identity: {kubernetes.namespace: f, kubernetes.serviceaccount: a, kubernetes.pod: '*', kubernetes.node: n, " +
		"kubernetes.label.a.b/c: x, kubernetes.label.KEY: y}\nresolve: {declared: true, keys: [A]}"),
	rule("identity: {token: &t b}\nlist: &l [&s {project: p}]\nmanage: *l\nresolve: *s"),
	rule("identity: {token: b}\nresolve: {keys: [a, A, -, _]}"),
	rule("identity: {token: 'é \\ $ ^ ( ['}\nlist: [{project: 'é.-$'}]"),
	below("list: [{project: '{me}'}, {project: '*{me}*x*'}]"),
	below("list: [{project: " + strings.Repeat("x", 62) + "*}, {domain: '{me}'}]"),
	"version: 1\nrules: []\nquotas: []",
	quota("{name: q, secrets: 0}"),
	quota("{name: q, bytes: 12}\n- {name: 'r s', org: 'o*', project: '*', domain: d, secrets: 1, bytes: 64Mi}"),
	quota("{name: q, bytes: 0Ki}\n- {name: r, bytes: 8388607Ti, secrets: 9223372036854775807}"),
	rule("identity: {token: b}") + "quotas: [{name: b, project: '*', secrets: 7}]",
}

// quota returns a policy whose first quota is in line 4.
func quota(text string) string { return "version: 1\nrules: []\nquotas:\n- " + text + "\n" }

// beyond marks mistakes that a schema cannot express.
const beyond = "(beyond the schema) "

// noName is the error of a pattern that no name matches.
const noName = `no valid name matches: a name has at most 63 bytes, no "/", "__" or white space, no "_" at its ` +
	`ends, and is not "." or ".."`

// badCount is the error of a quota's secrets that are no number of secrets, badBytes of its bytes.
const (
	badCount = "expected a whole number, such as 100"
	badBytes = "expected a number of bytes, such as 1000000 or 64Mi"
)

// known ends the error of an unknown attribute.
const known = " (known: spiffe, dns, issuer, subject, audience, token, claim.NAME, kubernetes.namespace, " +
	"kubernetes.serviceaccount, kubernetes.pod, kubernetes.node, kubernetes.project, kubernetes.domain, " +
	"kubernetes.label.KEY)"

// bad are invalid files with their errors, without "invalid policy".
var bad = []struct{ text, want string }{
	// Pods.
	{rule("identity: {kubernetes.pod: p}"), ": line 5: rules[1].identity.kubernetes.pod: needs kubernetes.namespace " +
		"beside it: such names are unique in their namespace only"},
	{rule("identity: {issuer: i, kubernetes.label.x: p}"), ": line 5: rules[1].identity.kubernetes.label.x: needs " +
		"kubernetes.namespace beside it: such names are unique in their namespace only"},
	{rule("identity: {kubernetes.namespace: f, kubernetes.declared: p}"), ": line 5: " +
		"rules[1].identity.kubernetes.declared: unknown attribute" + known},
	{rule("identity: {kubernetes.namespace: f, kubernetes.label.: p}"), ": line 5: rules[1].identity." +
		"kubernetes.label.: not the key of a label, which must be ASCII without white space"},
	{beyond + rule("identity: {token: b}\nresolve: {declared: true}"), ": line 6: rules[1].resolve.declared: needs " +
		"kubernetes.namespace in identity: of other callers it is not known what they declare"},
	{rule("identity: {kubernetes.namespace: f}\nresolve: {declared: false}"), ": line 6: rules[1].resolve.declared: " +
		"not true: to allow what is not declared leave it out"},
	{rule("identity: {kubernetes.namespace: f}\nresolve: {declared: 'true'}"), ": line 6: rules[1].resolve.declared: " +
		"not true: to allow what is not declared leave it out"},
	{rule("identity: {kubernetes.namespace: f}\nresolve: {also: [A]}"), ": line 6: rules[1].resolve.also: needs " +
		"declared beside it, to which it adds"},
	{rule("identity: {kubernetes.namespace: f}\nresolve: {declared: true, also: []}"), ": line 6: rules[1].resolve." +
		"also: empty: leave it out"},
	{rule("identity: {kubernetes.namespace: f}\nresolve: {declared: true, also: ['*']}"), ": line 6: " +
		"rules[1].resolve.also[0]: a wildcard is not allowed: name each key, or leave keys out to allow all of the " +
		"scope"},
	// Quotas.
	{"version: 1\nrules: []\nquotas: {}", ": line 3: quotas: expected a list, found fields"},
	{quota("x"), ": line 4: quotas[0]: expected fields, found text"},
	{quota("{secrets: 1}"), ": line 4: quotas[0].name: missing: errors name the quota"},
	{quota("{name: q}"), ": line 4: quotas[0]: neither secrets nor bytes: the quota bounds nothing"},
	{quota("{name: q, secret: 1, bytes: 1}"), ": line 4: quotas[0].secret: unknown field, did you mean secrets? " +
		"(known: name, org, project, domain, secrets, bytes)"},
	{quota("{name: q, secrets: -1}"), ": line 4: quotas[0].secrets: " + badCount},
	{quota("{name: q, secrets: 1.5}"), ": line 4: quotas[0].secrets: " + badCount},
	{quota("{name: q, secrets: 1Ki}"), ": line 4: quotas[0].secrets: " + badCount},
	{quota("{name: q, secrets: '1'}"), ": line 4: quotas[0].secrets: " + badCount},
	{quota("{name: q, bytes: '1'}"), ": line 4: quotas[0].bytes: " + badBytes},
	{quota("{name: q, secrets: [1]}"), ": line 4: quotas[0].secrets: " + badCount},
	{quota("{name: q, secrets: }"), ": line 4: quotas[0].secrets: " + badCount},
	{beyond + quota("{name: q, secrets: 010}"), ": line 4: quotas[0].secrets: " + badCount},
	{beyond + quota("{name: q, secrets: 9223372036854775808}"), ": line 4: quotas[0].secrets: " + badCount},
	{quota("{name: q, bytes: many}"), ": line 4: quotas[0].bytes: " + badBytes},
	{quota("{name: q, bytes: 1M}"), ": line 4: quotas[0].bytes: " + badBytes},
	{quota("{name: q, bytes: Mi}"), ": line 4: quotas[0].bytes: " + badBytes},
	{quota("{name: q, bytes: -1Mi}"), ": line 4: quotas[0].bytes: " + badBytes},
	{beyond + quota("{name: q, bytes: 8388608Ti}"), ": line 4: quotas[0].bytes: " + badBytes},
	{
		quota("{name: q, project: '{p}', secrets: 1}"),
		": line 4: quotas[0].project: a capture is not allowed: a quota has no identity to capture from",
	},
	{quota("{name: q, domain: 'a/b', secrets: 1}"), ": line 4: quotas[0].domain: " + noName},
	{
		beyond + quota("{name: q, secrets: 1}\n- {name: q, secrets: 2}"),
		`: line 5: quotas[1].name: "q" is already the name of the quota in line 4`,
	},
	// The file.
	{"", ": the file is empty"},
	{"# nothing\n", ": the file is empty"},
	{"---\n", ": line 2: expected fields, found nothing"},
	{"[]", ": line 1: expected fields, found a list"},
	{"\xff", ": not YAML: invalid leading UTF-8 octet"},
	{"version: 1\nrules: [\n", ": not YAML: line 2: did not find expected node content"},
	{"version: 1\nrules: []\n---\nversion: 1\nrules: []\n", ": line 3: a second document: only one is allowed"},
	{"version: 1\nrules: []\n---\n[\n", ": not YAML: line 4: did not find expected node content"},
	{"rules: []", ": line 1: version: missing: the version is 1"},
	{"version: 1", `: line 1: rules: missing: to allow nothing, write "rules: []"`},
	{"version: 2\nrules: []", ": line 1: version: not 1, which is the only version"},
	{"version: '1'\nrules: []", ": line 1: version: not 1, which is the only version"},
	{"version: 1\nrules:\n", ": line 2: rules: expected a list, found nothing"},
	{"version: 1\nrules: {a: b}\n", ": line 2: rules: expected a list, found fields"},
	{"version: 1\nrules: [x]\n", ": line 2: rules[0]: expected fields, found text"},
	{"version: 1\nrules: []\nrules: []\n", ": line 3: rules: given twice, first in line 2"},
	{
		"version: 1\nrule: []\n",
		":\n  line 1: rules: missing: to allow nothing, write \"rules: []\"\n  line 2: rule: unknown field, did " +
			"you mean rules? (known: version, rules, quotas)",
	},
	{"version: 1\nrules: []\n1: x\n", ": line 3: a field's name must be text, found a number"},
	{"version: 1\nrules: []\n? [a]\n: x\n", ": line 3: a field's name must be text, found a list"},
	{"version: 1\nrules: []\n\"a\\nb\": x\n", ": line 3: ?: unknown field (known: version, rules, quotas)"},
	{"version: 1\nrules: !!set {}\n", ": line 2: rules: expected a list, found fields"},
	{"version: 1\nrules: []\n<<: {}\n", ": line 3: a field's name must be text, found something else"},

	// A rule.
	{
		rule("manag: []\nidentity: {token: b}"),
		": line 5: rules[1].manag: unknown field, did you mean manage? (known: name, identity, manage, list, resolve)",
	},
	{
		rule("allow: []\nidentity: {token: b}"),
		": line 5: rules[1].allow: unknown field (known: name, identity, manage, list, resolve)",
	},
	{rule("identity: {token: b}\nidentity: {token: c}"), ": line 6: rules[1].identity: given twice, first in line 5"},
	{rule("list: []"), ": line 4: rules[1].identity: missing: it says whom the rule is for"},
	{"version: 1\nrules:\n- identity: {token: a}\n", ": line 3: rules[0].name: missing: the audit log names the rule"},
	{
		"version: 1\nrules:\n- {name: '', identity: {token: a}}\n",
		": line 3: rules[0].name: empty: leave it out or give a text",
	},
	{
		"version: 1\nrules:\n- {name: 7, identity: {token: a}}\n",
		": line 3: rules[0].name: expected text, found a number: it needs quotes",
	},
	{
		"version: 1\nrules:\n- {name: [], identity: {token: a}}\n",
		": line 3: rules[0].name: expected text, found a list",
	},
	{
		"version: 1\nrules:\n- {name: ' a', identity: {token: a}}\n",
		": line 3: rules[0].name: begins or ends with white space, or has a character that cannot be printed",
	},
	{
		"version: 1\nrules:\n- {name: \"a\\nb\", identity: {token: a}}\n",
		": line 3: rules[0].name: begins or ends with white space, or has a character that cannot be printed",
	},
	{
		beyond + "version: 1\nrules:\n- {name: \"a\\u202eb\", identity: {token: a}}\n",
		": line 3: rules[0].name: begins or ends with white space, or has a character that cannot be printed",
	},
	{
		"version: 1\nrules:\n- {name: " + strings.Repeat("x", 101) + ", identity: {token: a}}\n",
		": line 3: rules[0].name: 101 bytes long (at most 100)",
	},
	{
		beyond + "version: 1\nrules:\n- {name: a, identity: {token: a}}\n- {name: a, identity: {token: b}}\n",
		`: line 4: rules[1].name: "a" is already the name of the rule in line 3`,
	},

	// Its identity.
	{rule("identity: {}"), ": line 5: rules[1].identity: empty: it would match every caller"},
	{rule("identity:"), ": line 5: rules[1].identity: expected fields, found nothing"},
	{rule("identity: [token]"), ": line 5: rules[1].identity: expected fields, found a list"},
	{
		rule("identity: {toke: b}"),
		": line 5: rules[1].identity.toke: unknown attribute, did you mean token?" + known,
	},
	{
		rule("identity: {claim.NAME: b, Token: c}"),
		":\n  line 5: rules[1].identity.claim.NAME: needs issuer beside it: without one it would accept the " +
			"word of any issuer\n  line 5: rules[1].identity.Token: unknown attribute, did you mean token?" + known,
	},
	{rule("identity: {token: b, token: c}"), ": line 5: rules[1].identity.token: given twice, first in line 5"},
	{rule("identity: {token: ''}"), ": line 5: rules[1].identity.token: empty: leave it out or give a text"},
	{
		rule("identity: {token: 12}"),
		": line 5: rules[1].identity.token: expected text, found a number: it needs quotes",
	},
	{rule("identity: {token: [a, b]}"), ": line 5: rules[1].identity.token: expected text, found a list"},
	{
		beyond + rule("identity: {token: !!binary aGk=}"),
		": line 5: rules[1].identity.token: expected text, found something else",
	},
	{
		rule("identity: {token: *}"),
		`: not YAML: line 5: did not find expected alphabetic or numeric character (a pattern that begins with ` +
			`* needs quotes: "*")`,
	},
	{
		rule("identity: {token: *all}"),
		`: not YAML: unknown anchor 'all' referenced (a pattern that begins with * needs quotes: "*")`,
	},
	{
		rule("identity: {token: {me}}\nlist: [{project: {me}}]"),
		":\n  line 5: rules[1].identity.token: expected text, found fields: a capture needs quotes, \"{me}\"\n  " +
			"line 6: rules[1].list[0].project: expected text, found fields: a capture needs quotes, \"{me}\"",
	},
	{
		rule("identity: {subject: s}"),
		": line 5: rules[1].identity.subject: needs issuer beside it: without one it would accept the word of " +
			"any issuer",
	},
	{
		rule("identity: {audience: a, token: t}"),
		": line 5: rules[1].identity.audience: needs issuer beside it: without one it would accept the word of " +
			"any issuer",
	},
	{
		rule("identity: {claim.x: a, spiffe: 'spiffe://x/a'}"),
		": line 5: rules[1].identity.claim.x: needs issuer beside it: without one it would accept the word of " +
			"any issuer",
	},
	{
		rule("identity: {issuer: i, claim.: a}"),
		": line 5: rules[1].identity.claim.: not the name of a claim, which must be ASCII without white space",
	},
	{
		rule("identity: {issuer: i, 'claim.a b': a}"),
		": line 5: rules[1].identity.?: not the name of a claim, which must be ASCII without white space",
	},
	{
		rule("identity: {issuer: i, claims: a}"),
		": line 5: rules[1].identity.claims: unknown attribute" + known,
	},
	{
		rule("identity: {issuer: 'https://*.example.org'}"),
		": line 5: rules[1].identity.issuer: an issuer is literal: wildcards and captures are not allowed",
	},
	{
		rule("identity: {issuer: 'https://{a}'}\nlist: [{project: '{a}'}]"),
		": line 5: rules[1].identity.issuer: an issuer is literal: wildcards and captures are not allowed",
	},
	{
		rule("identity: {spiffe: example.org/a}"),
		": line 5: rules[1].identity.spiffe: a SPIFFE ID begins with spiffe://",
	},
	{rule("identity: {spiffe: '**'}"), ": line 5: rules[1].identity.spiffe: a SPIFFE ID begins with spiffe://"},
	{
		rule("identity: {token: 'a**'}"),
		`: line 5: rules[1].identity.token: "**" must be the last segment, alone after a "/"`,
	},
	{
		rule("identity: {token: '**/a'}"),
		`: line 5: rules[1].identity.token: "**" must be the last segment, alone after a "/"`,
	},
	{
		rule("identity: {token: 'a/**{b}'}\nlist: [{project: '{b}'}]"),
		`: line 5: rules[1].identity.token: "**" must be the last segment, alone after a "/"`,
	},
	{rule("identity: {token: '***'}"), `: line 5: rules[1].identity.token: "***" has no meaning`},
	{rule("identity: {dns: '**.a'}"), `: line 5: rules[1].identity.dns: "**" has no meaning in a DNS name`},
	{rule("identity: {dns: '**'}"), `: line 5: rules[1].identity.dns: "**" has no meaning in a DNS name`},
	{
		rule("identity: {token: 'a{'}"),
		`: line 5: rules[1].identity.token: braces are for captures: {name}, with a name of a-z and "_"`,
	},
	{
		rule("identity: {token: 'a}'}"),
		`: line 5: rules[1].identity.token: braces are for captures: {name}, with a name of a-z and "_"`,
	},
	{
		rule("identity: {token: '{}'}"),
		`: line 5: rules[1].identity.token: braces are for captures: {name}, with a name of a-z and "_"`,
	},
	{
		rule("identity: {token: '{A}'}"),
		`: line 5: rules[1].identity.token: braces are for captures: {name}, with a name of a-z and "_"`,
	},
	{
		rule("identity: {token: '{a{b}}'}"),
		`: line 5: rules[1].identity.token: braces are for captures: {name}, with a name of a-z and "_"`,
	},
	{
		rule("identity: {token: '{a}-{b}'}\nlist: [{project: '{a}', domain: '{b}'}]"),
		`: line 5: rules[1].identity.token: a capture must be the only wildcard between two "/", or there would ` +
			`be several ways to match`,
	},
	{
		rule("identity: {token: 'x/{a}*/y'}\nlist: [{project: '{a}'}]"),
		`: line 5: rules[1].identity.token: a capture must be the only wildcard between two "/", or there would ` +
			`be several ways to match`,
	},
	{
		rule("identity: {dns: '*{a}.y'}\nlist: [{project: '{a}'}]"),
		`: line 5: rules[1].identity.dns: a capture must be the only wildcard between two ".", or there would ` +
			`be several ways to match`,
	},
	{
		beyond + rule("identity: {token: '{a}/{a}'}\nlist: [{project: '{a}'}]"),
		": line 5: rules[1].identity.token: {a} is captured twice",
	},
	{
		beyond + rule("identity: {token: '{a}', dns: '{a}'}\nlist: [{project: '{a}'}]"),
		": line 5: rules[1].identity.dns: {a} is captured twice",
	},
	{
		beyond + rule("identity: {token: '{a}/{b}/{c}/{d}/{e}'}"),
		": line 5: rules[1].identity.token: a rule has more than 4 captures",
	},
	{
		beyond + rule("identity: {token: '{a}/{b}'}\nlist: [{project: '{a}'}]"),
		`: line 5: rules[1].identity: capture {b} is not used: write "*" to capture nothing`,
	},
	{
		beyond + rule("identity: {token: '{a}'}"),
		`: line 5: rules[1].identity: capture {a} is not used: write "*" to capture nothing`,
	},

	// Its scopes.
	{
		below("list: [{project: '{me}'}, {projct: p}]"),
		": line 6: rules[1].list[1].projct: unknown field, did you mean project? (known: org, project, domain)",
	},
	{
		below("list: [{project: '{me}'}, {project: p, keys: [K]}]"),
		": line 6: rules[1].list[1].keys: unknown field (known: org, project, domain)",
	},
	{
		below("list: [{project: '{me}'}]\nmanage: {project: p}"),
		": line 7: rules[1].manage: expected a list, found fields",
	},
	{below("list: [{project: '{me}'}]\nmanage:"), ": line 7: rules[1].manage: expected a list, found nothing"},
	{below("list: [{project: '{me}'}]\nmanage: ['*']"), ": line 7: rules[1].manage[0]: expected fields, found text"},
	{
		below("list: [{project: '{me}'}]\nmanage:\n- {project: p}\n-\n"),
		": line 9: rules[1].manage[1]: expected fields, found nothing",
	},
	{
		below("list: [{project: '{me}'}, {project: ''}]"),
		": line 6: rules[1].list[1].project: empty: leave it out or give a text",
	},
	{
		below("list: [{project: '{me}'}, {domain: true}]"),
		": line 6: rules[1].list[1].domain: expected text, found a truth value: it needs quotes",
	},
	{
		below("list: [{project: '{me}'}, {domain: null}]"),
		": line 6: rules[1].list[1].domain: expected text, found nothing",
	},
	{
		below("list: [{project: '{me}'}, {domain: '**'}]"),
		`: line 6: rules[1].list[1].domain: "**" has no meaning here: "*" matches every name, and no name`,
	},
	{
		below("list: [{project: '{me}{me}'}]"),
		": line 6: rules[1].list[0].project: only one capture is allowed: with two it would be ambiguous where " +
			"the first ends",
	},
	{below("list: [{project: '{me}/x'}]"), `: line 6: rules[1].list[0].project: ` + noName},
	{
		below("list: [{project: '{me}'}]\nmanage: [{project: a__b}, {project: '*__a'}]"),
		":\n  line 7: rules[1].manage[0].project: " + noName + "\n  line 7: rules[1].manage[1].project: " + noName,
	},
	{below("list: [{project: '{me}'}, {project: '_*'}]"), ": line 6: rules[1].list[1].project: " + noName},
	{below("list: [{project: '{me}'}, {domain: '*_'}]"), ": line 6: rules[1].list[1].domain: " + noName},
	{below("list: [{project: '{me}'}, {org: '.'}]"), ": line 6: rules[1].list[1].org: " + noName},
	{below("list: [{project: '{me}'}, {project: '..'}]"), ": line 6: rules[1].list[1].project: " + noName},
	{below("list: [{project: '{me}'}, {project: 'a b'}]"), ": line 6: rules[1].list[1].project: " + noName},
	{
		beyond + below(`list: [{project: '{me}'}, {project: "we\u200bb"}]`),
		`: line 6: rules[1].list[1].project: the name "we\u200bb" has the character U+200B, which cannot be seen`,
	},
	{below("list: [{project: '{me}'}, {domain: '{me}__'}]"), ": line 6: rules[1].list[1].domain: " + noName},
	{below("list: [{project: '{me}'}, {project: '_{me}'}]"), ": line 6: rules[1].list[1].project: " + noName},
	{
		below("list: [{project: '{me}'}, {project: " + strings.Repeat("x", 64) + "}]"),
		": line 6: rules[1].list[1].project: " + noName,
	},
	{
		beyond + below("list: [{project: '{you}', domain: '{me}'}]"),
		": line 6: rules[1].list[0].project: {you} is not captured by the rule's identity",
	},
	{
		beyond + below("list: [{project: '{you}'}]"),
		": line 6: rules[1].list[0].project: {you} is not captured by the rule's identity",
	},

	// The scope and keys that it resolves.
	{below("resolve: [{project: '{me}'}]"), ": line 6: rules[1].resolve: expected fields, found a list"},
	{
		below("resolve: {project: '*', domain: '{me}'}"),
		`: line 6: rules[1].resolve.project: a wildcard is not allowed: an identity that resolves is bound to ` +
			`exactly one scope, so write its name or capture it from the identity, as in "{project}"`,
	},
	{
		below("resolve: {project: 'a-*', domain: '{me}'}"),
		`: line 6: rules[1].resolve.project: a wildcard is not allowed: an identity that resolves is bound to ` +
			`exactly one scope, so write its name or capture it from the identity, as in "{project}"`,
	},
	{
		below("resolve: {project: '{me}{me}'}"),
		": line 6: rules[1].resolve.project: only one capture is allowed: with two it would be ambiguous where " +
			"the first ends",
	},
	{below("resolve: {project: a/b, domain: '{me}'}"), `: line 6: rules[1].resolve.project: ` + noName},
	{
		beyond + below("resolve: {project: '{me}', domain: '{domain}'}"),
		": line 6: rules[1].resolve.domain: {domain} is not captured by the rule's identity",
	},
	{
		below("resolve: {project: '{me}', key: [A]}"),
		": line 6: rules[1].resolve.key: unknown field, did you mean keys? " +
			"(known: org, project, domain, keys, declared, also)",
	},
	{
		below("resolve: {project: '{me}', keys: []}"),
		": line 6: rules[1].resolve.keys: empty: to allow all keys of the scope leave keys out, and to allow " +
			"none leave resolve out",
	},
	{below("resolve: {project: '{me}', keys: A}"), ": line 6: rules[1].resolve.keys: expected a list, found text"},
	{
		below("resolve: {project: '{me}', keys: [A, 'DB_*']}"),
		": line 6: rules[1].resolve.keys[1]: a wildcard is not allowed: name each key, or leave keys out to " +
			"allow all of the scope",
	},
	{below("resolve: {project: '{me}', keys: [A, B, A]}"), ": line 6: rules[1].resolve.keys[2]: A is given twice"},
	{
		below("resolve: {project: '{me}', keys: ['a b']}"),
		": line 6: rules[1].resolve.keys[0]: invalid: the key has ' ' at position 2 (only letters, digits, - " +
			"and _ are allowed)",
	},
	{
		below("resolve: {project: '{me}', keys: [1]}"),
		": line 6: rules[1].resolve.keys[0]: expected text, found a number: it needs quotes",
	},
	{
		below("resolve: {project: '{me}', keys: ['']}"),
		": line 6: rules[1].resolve.keys[0]: empty: leave it out or give a text",
	},
}

// TestParseRefuses compares the error of each invalid file to the letter.
func TestParseRefuses(t *testing.T) {
	for i, c := range bad {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			text := strings.TrimPrefix(c.text, beyond)
			p, err := policy.Parse([]byte(text), secret.DefaultOrg)
			require.Nil(t, p, text)
			require.ErrorIs(t, err, secret.ErrInvalid, text)
			require.EqualError(t, err, "invalid policy"+c.want, text)
		})
	}
}

// All mistakes are reported at once, in the order of the file, up to a limit.
func TestParseTellsAll(t *testing.T) {
	_, err := policy.Parse([]byte(`rules:
- name: a
  resolve: {project: "*"}
  identity: {tokn: x}
- name: a
  identity: {subject: s, spiffe: x}
  list: [{project: "{p}"}]
verson: 1
`), secret.DefaultOrg)
	require.EqualError(t, err, `invalid policy:
  line 1: version: missing: the version is 1
  line 3: rules[0].resolve.project: a wildcard is not allowed: an identity that resolves is bound to exactly one `+
		`scope, so write its name or capture it from the identity, as in "{project}"
  line 4: rules[0].identity.tokn: unknown attribute, did you mean token?`+known+`
  line 5: rules[1].name: "a" is already the name of the rule in line 2
  line 6: rules[1].identity.subject: needs issuer beside it: without one it would accept the word of any issuer
  line 6: rules[1].identity.spiffe: a SPIFFE ID begins with spiffe://
  line 8: verson: unknown field, did you mean version? (known: version, rules, quotas)`)

	_, err = policy.Parse([]byte("version: 1\nrules:\n"+strings.Repeat("- x\n", 25)), secret.DefaultOrg)
	lines := strings.Split(err.Error(), "\n")
	require.Len(t, lines, 22)
	require.Equal(t, "  line 22: rules[19]: expected fields, found text", lines[20])
	require.Equal(t, "  and 5 more", lines[21])
}

// A pattern of a token is not quoted, since the token may stand there.
func TestParseQuotesNoToken(t *testing.T) {
	for _, token := range []string{
		"{s3cr3t-t0k3n}", "s3cr3t-t0k3n***", "s3cr3t-t0k3n}", "{a}s3cr3t-t0k3n{b}", "**s3cr3t-t0k3n",
	} {
		_, err := policy.Parse([]byte(rule(fmt.Sprintf("identity: {token: %q}", token))), secret.DefaultOrg)
		require.ErrorContains(t, err, "identity.token: ")
		require.NotContains(t, err.Error(), "s3cr3t")
	}
}

// The size of a file is bounded, with its aliases expanded.
func TestParseIsBounded(t *testing.T) {
	_, err := policy.Parse([]byte("version: 1\nrules: []\n#"+strings.Repeat("x", 1<<20)), secret.DefaultOrg)
	require.EqualError(t, err, "invalid policy: 1048598 bytes (at most 1048576)")
	_, err = policy.Parse([]byte("version: 1\nrules: []\n#"+strings.Repeat("x", 1<<20-22)), secret.DefaultOrg)
	require.NoError(t, err)

	var b strings.Builder
	b.WriteString("version: 1\nrules:\n- {name: a, identity: {token: a}, list: &l [")
	b.WriteString(strings.Repeat("{},", 2000) + "]}\n")
	for i := range 1000 { // two million scopes
		fmt.Fprintf(&b, "- {name: r%d, identity: {token: a}, list: *l}\n", i)
	}
	_, err = policy.Parse([]byte(b.String()), secret.DefaultOrg)
	require.EqualError(
		t, err,
		"invalid policy: line 3: too large: over 200000 texts, lists and maps, aliases counted as what they stand for",
	)
	for _, text := range []string{
		"version: 1\nrules: &a [*a]\n", "version: 1\nrules: &a\n- *a\n- {name: &n [*n], identity: &i {token: *i}}\n",
		"&a {version: 1, rules: [*a]}", strings.Repeat("[", 20000), strings.Repeat("{a: ", 5000),
		"version: 1\nrules: " + strings.Repeat("[", 9000) + strings.Repeat("]", 9000),
	} {
		_, err := policy.Parse([]byte(text), secret.DefaultOrg)
		require.ErrorIs(t, err, secret.ErrInvalid)
	}

	b.Reset()
	b.WriteString("version: 1\nrules:\n")
	for i := range 10000 {
		fmt.Fprintf(&b, "- {name: %d x, identity: {token: t%d}, list: [{project: p}]}\n", i, i)
	}
	p, err := policy.Parse([]byte(b.String()), secret.DefaultOrg)
	require.NoError(t, err)
	require.Equal(t, "9999 x", p.For(subject{"token": {"t9999"}}).Rule())
}

func compiledSchema(t testing.TB) *jsonschema.Schema {
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(policy.Schema()))
	require.NoError(t, err)
	c := jsonschema.NewCompiler()
	require.NoError(t, c.AddResource("policy.json", schema))
	compiled, err := c.Compile("policy.json")
	require.NoError(t, err)
	return compiled
}

// The schema agrees with Parse, as far as a schema can.
func TestSchema(t *testing.T) {
	schema := compiledSchema(t)
	for _, text := range good {
		parse(t, text)
		var doc any
		require.NoError(t, yaml.Unmarshal([]byte(text), &doc), text)
		require.NoError(t, schema.Validate(doc), text)
	}
	refused := 0
	for _, c := range bad {
		text, isBeyond := strings.CutPrefix(c.text, beyond)
		var doc any
		if err := yaml.Unmarshal([]byte(text), &doc); err != nil || strings.Contains(text, "\n---\n") ||
			strings.Contains(c.want, "found something else") && strings.Contains(text, "<<") {
			require.False(t, isBeyond, text) // no YAML, or not what the schema is asked about
			continue
		}
		if err := schema.Validate(doc); isBeyond {
			require.NoError(t, err, text)
		} else {
			require.Error(t, err, text)
			refused++
		}
	}
	require.Greater(t, refused, 60)
	policy.Schema()[0] = 'x'
	require.EqualValues(t, '{', policy.Schema()[0], "a caller's copy is its own")
}

// Every example of the documentation is a valid policy, and the first is that of TestExample.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../../docs/reference/policy.md")
	require.NoError(t, err)
	schema := compiledSchema(t)
	blocks := strings.Split(string(text), "```yaml\n")[1:]
	require.GreaterOrEqual(t, len(blocks), 2)
	for i, block := range blocks {
		block, _, ok := strings.Cut(block, "```")
		require.True(t, ok)
		if !strings.HasPrefix(block, "version:") { // a rule alone
			block = "version: 1\nrules:\n" + block
		}
		parse(t, block)
		var doc, want any
		require.NoError(t, yaml.Unmarshal([]byte(block), &doc))
		require.NoError(t, schema.Validate(doc))
		if i == 0 {
			require.NoError(t, yaml.Unmarshal([]byte(example), &want))
			require.Equal(t, want, doc)
		}
	}
}

// FuzzParse: nothing panics, the schema accepts what Parse accepts, and a subject without
// attributes may do nothing.
func FuzzParse(f *testing.F) {
	for _, text := range good {
		f.Add([]byte(text))
	}
	for _, c := range bad {
		f.Add([]byte(strings.TrimPrefix(c.text, beyond)))
	}
	schema := compiledSchema(f)
	subjects := []subject{
		{
			"token": {"a", "b/c", "*"}, "dns": {"x.a.b"},
		}, {"spiffe": {"spiffe://a/b/c/x-d-y"}}, {"issuer": {"i"}, "subject": {"s"}, "claim.x": {"y"}},
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := policy.Parse(text, secret.DefaultOrg)
		if err != nil {
			if p != nil || !errors.Is(err, secret.ErrInvalid) {
				t.Fatalf("%v", err)
			}
			return
		}
		if g := p.For(subject{}); g != (policy.Grant{}) {
			t.Fatalf("rule %q matches a caller without attributes", g.Rule())
		}
		for _, s := range subjects {
			g := p.For(s)
			scope, err := g.Bind(secret.Scope{})
			if err == nil && scope.Validate() != nil {
				t.Fatalf("bound to %+v", scope)
			}
			g.May(policy.List, scope)
		}
		var doc any
		switch err := yaml.Unmarshal(text, &doc); {
		case err != nil && strings.Contains(err.Error(), "excessive aliasing"): // bounds of its own
		case err != nil:
			t.Fatalf("a policy, and to YAML none: %v", err)
		default:
			if err := schema.Validate(doc); err != nil {
				t.Fatal(err)
			}
		}
	})
}
