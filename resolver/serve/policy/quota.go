package policy

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"inject/internal/strictyaml"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// A Quota is the most that the secrets stored at one scope may take.
type Quota struct {
	Name    string
	Secrets int64 // [math.MaxInt64] if their number has no limit
	Bytes   int64 // of all values; [math.MaxInt64] if they have no limit

	scopes scopes
}

// Quota returns the first quota of the policy that matches the scope at, or nil if none does.
func (p *Policy) Quota(at secret.Scope) *Quota {
	for i := range p.quotas {
		if p.quotas[i].scopes.match(at, nil) {
			return &p.quotas[i]
		}
	}
	return nil
}

// HasQuotas reports whether the policy bounds any scope.
func (p *Policy) HasQuotas() bool { return len(p.quotas) > 0 }

// QuotaNames returns the names of the policy's quotas, in their order.
func (p *Policy) QuotaNames() []string {
	names := make([]string, len(p.quotas))
	for i := range p.quotas {
		names[i] = p.quotas[i].Name
	}
	return names
}

// String returns what q allows, such as: 10 secrets and 100 bytes of values.
func (q *Quota) String() string {
	var limits []string
	if q.Secrets != math.MaxInt64 {
		limits = append(limits, fmt.Sprintf("%d secrets", q.Secrets))
	}
	if q.Bytes != math.MaxInt64 {
		limits = append(limits, fmt.Sprintf("%d bytes of values", q.Bytes))
	}
	return strings.Join(limits, " and ")
}

// Check returns nil if the secrets at the scope at may take as much as then. Otherwise its error
// wraps [secret.ErrQuota]: then has more of something than now, and more of it than q allows.
func (q *Quota) Check(at secret.Scope, now, then store.Usage) error {
	for _, c := range []struct {
		of              string
		most, now, then int64
	}{
		{"secrets", q.Secrets, now.Secrets, then.Secrets},
		{"bytes of values", q.Bytes, now.Bytes, then.Bytes},
	} {
		if c.then > c.now && c.then > c.most {
			return secret.WithHint(
				fmt.Errorf("%w: the quota %q allows %d %s at %v, which has %d, and this would make %d",
					secret.ErrQuota, q.Name, c.most, c.of, at, c.now, c.then),
				"delete secrets there that are no longer needed, or ask the operator to raise the quota in the policy")
		}
	}
	return nil
}

func (p *parser) quota(n strictyaml.Node) {
	got, ok := n.Known("name", "org", "project", "domain", "secrets", "bytes")
	if !ok {
		return
	}
	q := Quota{Secrets: math.MaxInt64, Bytes: math.MaxInt64}
	if name, given := got["name"]; given {
		q.Name = p.name(name, "quota", p.quotaNames)
	} else {
		n.Below("name").Fail("missing: errors name the quota")
	}
	for _, name := range []string{"org", "project", "domain"} {
		if n, given := got[name]; given && n.Kind == yaml.ScalarNode && strings.ContainsAny(n.Value, "{}") {
			n.Fail("a capture is not allowed: a quota has no identity to capture from")
			delete(got, name)
		}
	}
	q.scopes = p.scopes(got, true, nil, true)
	secrets, bounded := got["secrets"]
	if bounded {
		q.Secrets = count(secrets, "")
	}
	bytes, given := got["bytes"]
	if given {
		q.Bytes = count(bytes, "KMGT")
	}
	if !bounded && !given {
		n.Fail("neither secrets nor bytes: the quota bounds nothing")
	}
	p.policy.quotas = append(p.policy.quotas, q)
}

// count returns the number n, which may have one of units and an i behind it: Ki, Mi and so on, as
// in Kubernetes.
func count(n strictyaml.Node, units string) int64 {
	text, shift := n.Value, 0
	if digits, ok := strings.CutSuffix(text, "i"); ok && digits != "" {
		if at := strings.IndexByte(units, digits[len(digits)-1]); at >= 0 {
			text, shift = digits[:len(digits)-1], 10*(at+1)
		}
	}
	v, err := strconv.ParseUint(text, 10, 63)
	decimal := strings.Trim(text, "0123456789") == "" && (text == "0" || !strings.HasPrefix(text, "0")) &&
		(shift > 0 || n.ShortTag() == "!!int")
	if n.Kind != yaml.ScalarNode || err != nil || !decimal || v > math.MaxInt64>>shift {
		expected := "a whole number, such as 100"
		if units != "" {
			expected = "a number of bytes, such as 1000000 or 64Mi"
		}
		n.Fail("expected %s", expected)
		return 0
	}
	return int64(v) << shift
}
