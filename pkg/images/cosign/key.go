// SPDX-License-Identifier: Apache-2.0

// Package cosign verifies that one of a few public keys has signed an image, in
// the two formats of the tool of that name: classic ("simple signing") and the
// sigstore bundle. It needs nothing but the key, the image's manifest and the
// signature: no transparency log, no certificate authority, no clock.
//
// It never fetches anything, and knows no identities but keys: signatures made
// with short-lived certificates ("keyless") are not accepted.
package cosign

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

const (
	minRSABits = 2048
	maxRSABits = 8192 // a larger one only costs time
	maxKeys    = 64   // in one file
)

// Key is a public key that may sign images. ParseKeys makes it; the zero value
// has signed nothing.
type Key struct {
	name string
	id   string
	pub  crypto.PublicKey
}

// ParseKeys reads the public keys of a PEM file, as `cosign generate-key-pair`
// and openssl write them: ECDSA on P-256, P-384 or P-521, RSA of at least 2048
// bits, Ed25519. name is where they come from, for messages. There is at least
// one key when err is nil.
func ParseKeys(name string, data []byte) ([]Key, error) {
	var out []Key
	for rest := data; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			if len(out) == 0 || len(bytes.TrimSpace(rest)) > 0 {
				return nil, fmt.Errorf("parse %s: it has to hold public keys in PEM and nothing else (-----BEGIN PUBLIC KEY-----)", name)
			}
			return out, nil
		}
		if len(out) == maxKeys {
			return nil, fmt.Errorf("parse %s: more than %d keys", name, maxKeys)
		}
		k, err := parseKey(name, block)
		if err != nil {
			return nil, fmt.Errorf("parse %s: %w", name, err)
		}
		out = append(out, k)
	}
}

func parseKey(name string, block *pem.Block) (Key, error) {
	var pub crypto.PublicKey
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		pub, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		pub, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		err = errors.New("a certificate is no key: take the key out with openssl x509 -pubkey -noout")
	default:
		err = fmt.Errorf("a block of type %q is no public key: give cosign.pub, or what openssl pkey -pubout prints", block.Type)
	}
	if err == nil {
		err = checkKey(pub)
	}
	if err != nil {
		return Key{}, err
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return Key{}, err
	}
	sum := sha256.Sum256(der)
	return Key{name: name, id: hex.EncodeToString(sum[:]), pub: pub}, nil
}

func checkKey(pub crypto.PublicKey) error {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		if pub.Curve != elliptic.P256() && pub.Curve != elliptic.P384() && pub.Curve != elliptic.P521() {
			return fmt.Errorf("an ECDSA key on %s: only P-256, P-384 and P-521 are accepted", pub.Curve.Params().Name)
		}
		return nil
	case *rsa.PublicKey:
		if n := pub.N.BitLen(); n < minRSABits || n > maxRSABits {
			return fmt.Errorf("an RSA key of %d bits: only %d to %d are accepted", n, minRSABits, maxRSABits)
		}
		return nil
	case ed25519.PublicKey:
		return nil
	}
	return fmt.Errorf("a key of type %T: only ECDSA, RSA and Ed25519 are accepted", pub)
}

// ID is the SHA-256 of the key's DER form, in hex: what
// `openssl pkey -pubin -in KEY -outform DER | sha256sum` prints.
func (k Key) ID() string { return k.id }

// String is the file the key came from and the begin of its ID.
func (k Key) String() string {
	if k.pub == nil {
		return "no key"
	}
	return fmt.Sprintf("%s (sha256:%.12s…)", k.name, k.id)
}

// verifies says whether k has signed message. Which hash an ECDSA or RSA key was
// used with is up to the signer: cosign took SHA-256 for all keys, and now the
// one of the curve's size; key management services have their own.
func (k Key) verifies(message, signature []byte) bool {
	if pub, ok := k.pub.(ed25519.PublicKey); ok {
		return ed25519.Verify(pub, message, signature)
	}
	s256, s384, s512 := sha256.Sum256(message), sha512.Sum384(message), sha512.Sum512(message)
	for _, h := range []struct {
		hash crypto.Hash
		sum  []byte
	}{{crypto.SHA256, s256[:]}, {crypto.SHA384, s384[:]}, {crypto.SHA512, s512[:]}} {
		switch pub := k.pub.(type) {
		case *ecdsa.PublicKey:
			if ecdsa.VerifyASN1(pub, h.sum, signature) {
				return true
			}
		case *rsa.PublicKey:
			if rsa.VerifyPKCS1v15(pub, h.hash, h.sum, signature) == nil {
				return true
			}
		}
	}
	return false
}

// verifiesPrehashed is verifies for a message that a bundle is about without
// having it: an Ed25519 key may then have signed its SHA-512 (RFC 8032, Ed25519ph).
func (k Key) verifiesPrehashed(message, signature []byte) bool {
	if pub, ok := k.pub.(ed25519.PublicKey); ok {
		sum := sha512.Sum512(message)
		if ed25519.VerifyWithOptions(pub, sum[:], signature, &ed25519.Options{Hash: crypto.SHA512}) == nil {
			return true
		}
	}
	return k.verifies(message, signature)
}
