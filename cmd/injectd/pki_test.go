package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"inject/internal/harness"
)

// makePKI makes a CA, certificates of a server and of clients, and an issuer of tokens in dir; and
// for doctor, certificates that are good for a year (year, yearca) and others with a flaw.
func makePKI(t harness.T, dir string) error {
	a := harness.NewAuthority(t, dir)
	a.Issue("server", harness.Local)
	a.Issue("platform", a.SPIFFE("spiffe://example.org/platform"))
	a.Issue("task", a.SPIFFE("spiffe://example.org/project/p/domain/d"))
	a.Issue("other", a.SPIFFE("spiffe://example.org/other"))
	old := time.Now().Add(-time.Hour)
	year := harness.Expires(time.Now().AddDate(1, 0, 0))
	a.Issue("year", harness.Local, year)
	a.Issue("clientonly", harness.Local, year, func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	a.Issue("nameless", year)
	a.Issue("expired", harness.Local, harness.Expires(old))
	ca := func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.ExtKeyUsage = true, true, nil
		c.KeyUsage = x509.KeyUsageCertSign
	}
	a.Issue("yearca", ca, year)
	a.Issue("ownca", ca, harness.Local, year)
	a.Issue("expiredca", ca, harness.Expires(old))
	return makeIssuer(dir)
}

// makeIssuer writes the keys of an issuer (jwks.json) and its token for a CI job of the
// repository acme/p (ci.token) to dir.
func makeIssuer(dir string) error {
	signer, err := makeSigner(dir)
	if err != nil {
		return err
	}
	now := time.Now()
	token, err := jwt.Signed(signer).Claims(map[string]any{
		"iss": "https://ci.example.org", "sub": "job", "aud": "inject", "repository": "acme/p",
		"name": "CI job", "email": "ci@example.org",
		"kubernetes.io": map[string]any{"pod": map[string]any{"name": "pod-1"}}, "unnamed": "left out",
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}).Serialize()
	return errors.Join(err, os.WriteFile(filepath.Join(dir, "ci.token"), []byte(token), 0o600))
}

// makeSigner returns the signer of an issuer's tokens, and writes the issuer's keys to jwks.json in dir.
func makeSigner(dir string) (jose.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	const id = "1"
	public := jose.JSONWebKey{Key: key.Public(), KeyID: id, Algorithm: string(jose.ES256), Use: "sig"}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public}})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "jwks.json"), keys, 0o600); err != nil {
		return nil, err
	}
	return jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil)
}
