// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// pair is a key with its certificate.
type pair struct {
	name    string
	bits    int  // of RSA; 0 is P-256
	trusted bool // by the firmware
	authority,
	expired,
	bare bool // without a subject key identifier, the kernel names it by its serial number
	issuer string // "" for a certificate that is signed by its own key
	twin   string // has that one's issuer and serial number
}

// pairs are those of the lab. The owner's key is of the platform and signs nothing.
func pairs() []pair {
	return []pair{
		{name: "owner", bits: 2048},
		{name: "trusted", bits: 2048, trusted: true},
		{name: "trusted-large", bits: 4096, trusted: true},
		{name: "trusted-ec", trusted: true},
		{name: "trusted-expired", bits: 2048, trusted: true, expired: true},
		{name: "trusted-bare", bits: 2048, trusted: true, bare: true},
		{name: "trusted-authority", bits: 2048, trusted: true, authority: true},
		{name: "issued", bits: 2048, issuer: "trusted-authority"},
		{name: "foreign", bits: 2048},
		{name: "foreign-ec"},
		{name: "twin", bits: 2048, twin: "trusted"},
	}
}

// made is a pair that was made.
type made struct {
	key         crypto.Signer
	certificate *x509.Certificate
}

// makeKeys writes all pairs, and gives the owner's certificate and the trusted ones.
func makeKeys(dir string) (owner *x509.Certificate, trusted []*x509.Certificate, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, err
	}
	all := make(map[string]made)
	for _, p := range pairs() {
		m, err := p.make(all)
		if err != nil {
			return nil, nil, fmt.Errorf("make key %s: %w", p.name, err)
		}
		all[p.name] = m
		der, err := x509.MarshalPKCS8PrivateKey(m.key)
		if err != nil {
			return nil, nil, err
		}
		if err := writePEM(filepath.Join(dir, p.name+".key"), "PRIVATE KEY", der); err != nil {
			return nil, nil, err
		}
		if err := writePEM(filepath.Join(dir, p.name+".crt"), "CERTIFICATE", m.certificate.Raw); err != nil {
			return nil, nil, err
		}
		if p.trusted {
			trusted = append(trusted, m.certificate)
		}
	}
	return all["owner"].certificate, trusted, nil
}

func (p *pair) make(all map[string]made) (made, error) {
	key, err := p.generate()
	if err != nil {
		return made{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(p.name),
		Subject:      pkix.Name{Organization: []string{"kmmd lab"}, CommonName: "module signing key " + p.name},
		NotBefore:    time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		BasicConstraintsValid: true, IsCA: p.authority,
	}
	if p.authority {
		template.KeyUsage |= x509.KeyUsageCertSign
	}
	if p.expired {
		template.NotBefore, template.NotAfter = time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2011, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if !p.bare {
		public, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return made{}, err
		}
		id := sha1.Sum(public)
		template.SubjectKeyId = id[:]
	}
	if other, ok := all[p.twin]; ok {
		template.SerialNumber, template.Subject = other.certificate.SerialNumber, other.certificate.Subject
	}
	by := made{key, template}
	if issuer, ok := all[p.issuer]; ok {
		by = issuer
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.certificate, key.Public(), by.key)
	if err != nil {
		return made{}, err
	}
	certificate, err := x509.ParseCertificate(der)
	return made{key, certificate}, err
}

func (p *pair) generate() (crypto.Signer, error) {
	if p.bits == 0 {
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	return rsa.GenerateKey(rand.Reader, p.bits)
}

// serial has its highest bit set: DER puts a zero before it, which the kernel takes for a part of it here and not there.
func serial(name string) *big.Int {
	sum := sha1.Sum([]byte(name))
	sum[0] |= 0x80
	return new(big.Int).SetBytes(sum[:19])
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
