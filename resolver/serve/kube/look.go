package kube

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"inject/resolver/serve/identity"
)

const (
	// Audience is that of the tokens which are accepted.
	Audience = "inject"
	// MaxToken is the longest token in bytes that is looked at. Those of Kubernetes have about 1200.
	MaxToken = 4 << 10
	// lateness is by how much a token may seem to have expired and still be reviewed, which decides. The
	// API server itself accepts one for a minute longer (go-jose's leeway).
	lateness = 2 * time.Minute
)

// A ticket is what a token says of itself. Nothing of it is verified.
type ticket struct {
	namespace, account string
	pod, podUID        string
}

// look reads a bearer token without verifying it. now is the API server's time. The error wraps
// [identity.ErrNone] unless it looks like a token of Kubernetes for [Audience].
func look(bearer []byte, now time.Time) (ticket, error) {
	none := fmt.Errorf("%w: not a token of a pod for the audience %s", identity.ErrNone, Audience)
	parts := bytes.SplitN(bearer, []byte("."), 4)
	if len(parts) != 3 || len(bearer) > MaxToken {
		return ticket{}, none
	}
	var header struct {
		Algorithm string `json:"alg"`
	}
	var claims struct {
		Audience   audiences `json:"aud"`
		Expires    float64   `json:"exp"`
		Kubernetes *struct {
			Namespace string `json:"namespace"`
			Pod       struct {
				Name string `json:"name"`
				UID  string `json:"uid"`
			} `json:"pod"`
			Account struct {
				Name string `json:"name"`
			} `json:"serviceaccount"`
		} `json:"kubernetes.io"`
	}
	if !decode(parts[0], &header) || !decode(parts[1], &claims) || claims.Kubernetes == nil ||
		!slices.Contains(claims.Audience, Audience) {
		return ticket{}, none
	}
	k := claims.Kubernetes
	t := ticket{namespace: k.Namespace, account: k.Account.Name, pod: k.Pod.Name, podUID: k.Pod.UID}
	expires := time.Unix(int64(claims.Expires), 0)
	switch {
	case len(claims.Audience) != 1:
		return t, refuse(identity.ReasonAudience, "it is for other audiences than %s, too", Audience)
	case header.Algorithm == "" || header.Algorithm == "none" || len(parts[2]) == 0 || !isWord(parts[2]):
		return t, refuse(identity.ReasonMalformed, "it is not signed")
	case t.pod == "" || t.podUID == "":
		return t, refuse(ReasonUnbound, "it is not bound to a pod")
	case t.namespace == "" || t.account == "":
		return t, refuse(identity.ReasonMalformed, "it names no account")
	case claims.Expires <= 0:
		return t, refuse(identity.ReasonLifetime, "it has no expiry")
	case now.After(expires.Add(lateness)):
		return t, refuse(identity.ReasonExpired, "it has expired (%s)", expires.UTC().Format(time.RFC3339))
	}
	return t, nil
}

// audiences are the claim aud, which is a text or a list of them (RFC 7519, 4.1.3).
type audiences []string

// UnmarshalJSON implements [json.Unmarshaler].
func (a *audiences) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*a = audiences{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(a))
}

// isWord reports whether a part is in the alphabet of base64url. The decoder would ignore line ends.
func isWord(part []byte) bool {
	return !bytes.ContainsFunc(part, func(b rune) bool {
		return b != '-' && b != '_' && (b < '0' || b > '9') && (b < 'a' || b > 'z') && (b < 'A' || b > 'Z')
	})
}

func decode(part []byte, to any) bool {
	if !isWord(part) {
		return false
	}
	text, err := base64.RawURLEncoding.AppendDecode(nil, part)
	return err == nil && json.Unmarshal(text, to) == nil
}
