package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// makePKI makes a CA, a server's certificate and some of clients in dir.
func makePKI(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	err = errors.Join(err, os.Mkdir(dir, 0o700), writePEM(filepath.Join(dir, "ca.pem"), "CERTIFICATE", der))
	for name, id := range map[string]string{
		"server": "", "platform": "spiffe://example.org/platform",
		"task": "spiffe://example.org/project/p/domain/d", "other": "spiffe://example.org/other",
	} {
		err = errors.Join(err, issue(dir, name, id, ca, key))
	}
	return errors.Join(err, makeIssuer(dir))
}

// makeIssuer makes the keys of an issuer (jwks.json) and a token of it for a task of the
// repository acme/p (ci.token) in dir.
func makeIssuer(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	const id = "1"
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: id, Algorithm: string(jose.ES256), Use: "sig"}}})
	if err != nil {
		return err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil)
	if err != nil {
		return err
	}
	now := time.Now()
	token, err := jwt.Signed(signer).Claims(map[string]any{
		"iss": "https://ci.example.org", "sub": "job", "aud": "inject", "repository": "acme/p",
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}).Serialize()
	return errors.Join(err, os.WriteFile(filepath.Join(dir, "jwks.json"), keys, 0o600), os.WriteFile(filepath.Join(dir, "ci.token"), []byte(token), 0o600))
}

func issue(dir, name, id string, ca *x509.Certificate, caKey *ecdsa.PrivateKey) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if id == "" {
		template.DNSNames, template.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	} else {
		u, err := url.Parse(id)
		if err != nil {
			return err
		}
		template.URIs = []*url.URL{u}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	return errors.Join(err, writePEM(filepath.Join(dir, name+".pem"), "CERTIFICATE", der), writePEM(filepath.Join(dir, name+".key"), "PRIVATE KEY", pkcs8))
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// encoded returns the forms in which a value is searched for.
func encoded(value string) []string {
	inJSON, _ := json.Marshal(value) // a string
	forms := []string{value, strings.Trim(string(inJSON), `"`), strconv.Quote(value), url.QueryEscape(value), url.PathEscape(value), hex.EncodeToString([]byte(value))}
	for offset := range 3 { // base64 at each alignment, without what its neighbours change
		text := base64.StdEncoding.EncodeToString([]byte("xx"[:offset] + value))
		text = text[(offset*8+5)/6:]
		text = strings.TrimRight(text, "=")
		forms = append(forms, text[:len(text)-1])
		forms = append(forms, strings.NewReplacer("+", "-", "/", "_").Replace(text[:len(text)-1]))
	}
	return forms
}

// leaked returns which of the forms is in text, "" if none is.
func leaked(text string, forms []string) string {
	for _, form := range forms {
		if strings.Contains(text, form) {
			return form
		}
	}
	return ""
}
