// SPDX-License-Identifier: Apache-2.0

package secureboot

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/sign"
)

// pair is a key with its certificate.
type pair struct {
	key  crypto.Signer
	cert *x509.Certificate
}

// readPair reads one of those that the lab has made.
func readPair(t *testing.T, name string) pair {
	t.Helper()
	key, err := os.ReadFile("/kmmd-test/keys/" + name + ".key")
	require.NoError(t, err, "the lab's keys are missing: run test/vm/setup")
	cert, err := os.ReadFile("/kmmd-test/keys/" + name + ".crt")
	require.NoError(t, err)
	var p pair
	p.key, err = sign.ReadKey(key, "")
	require.NoError(t, err)
	p.cert, err = sign.ReadCertificate(cert)
	require.NoError(t, err)
	return p
}

// Object identifiers.
var (
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidRSA        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidSHA256RSA  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
	oidSHA256     = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidSHA1       = asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}
	oidSHA224     = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 4}
	oidSHA3       = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 8}
	oidECDSA256   = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidNothing    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}
)

// form is how a signature is made, other than as sign-file does. The zero value is
// as that does, with SHA-256.
type form struct {
	hash         crypto.Hash           // 0 is SHA-256
	hashOID      asn1.ObjectIdentifier // nil is that of SHA-256
	algorithm    asn1.ObjectIdentifier // nil is that of the key
	contentType  asn1.ObjectIdentifier // nil is data
	attached     []byte                // content of its own
	attributes   bool                  // signs those
	keyID        bool                  // names the signer by it
	version      int                   // of the SignedData; 0 is the right one
	certificates []pair                // that come along
	second       *pair                 // signs as well
}

type signerInfo struct {
	Version    int
	Signer     asn1.RawValue
	Digest     pkix.AlgorithmIdentifier
	Attributes asn1.RawValue `asn1:"optional"`
	Algorithm  pkix.AlgorithmIdentifier
	Value      []byte
}

type signedData struct {
	Version      int
	Digests      []pkix.AlgorithmIdentifier `asn1:"set"`
	Content      asn1.RawValue
	Certificates asn1.RawValue `asn1:"optional"`
	Signers      []signerInfo  `asn1:"set"`
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	require.NoError(t, err)
	return der
}

// sequence is a constructed value.
func constructed(t *testing.T, class, tag int, parts ...[]byte) []byte {
	t.Helper()
	return marshal(t, asn1.RawValue{Class: class, Tag: tag, IsCompound: true, Bytes: slices.Concat(parts...)})
}

// append gives the module with a signature behind it, whatever it has there already.
func (f form) append(t *testing.T, module []byte, by pair) []byte {
	t.Helper()
	der := f.encode(t, module, by)
	return slices.Concat(module, der, tail(2, len(der)))
}

// tail is struct module_signature and the mark behind it.
func tail(kind byte, length int) []byte {
	h := binary.BigEndian.AppendUint32([]byte{0, 0, kind, 0, 0, 0, 0, 0}, uint32(length))
	return append(h, "~Module signature appended~\n"...)
}

func (f form) encode(t *testing.T, content []byte, by pair) []byte {
	t.Helper()
	if f.hash == 0 {
		f.hash = crypto.SHA256
	}
	if f.hashOID == nil {
		f.hashOID = oidSHA256
	}
	if f.contentType == nil {
		f.contentType = oidData
	}
	signers := []signerInfo{f.signer(t, content, by)}
	if f.second != nil {
		signers = append(signers, f.signer(t, content, *f.second))
	}
	inner := [][]byte{marshal(t, f.contentType)}
	if f.attached != nil {
		inner = append(inner, constructed(t, asn1.ClassContextSpecific, 0, marshal(t, f.attached)))
	}
	data := signedData{
		Version: signers[0].Version, Digests: []pkix.AlgorithmIdentifier{{Algorithm: f.hashOID}},
		Content: asn1.RawValue{FullBytes: constructed(t, asn1.ClassUniversal, asn1.TagSequence, inner...)}, Signers: signers,
	}
	if f.version != 0 {
		data.Version = f.version
	}
	var certificates [][]byte
	for _, p := range f.certificates {
		certificates = append(certificates, p.cert.Raw)
	}
	if certificates != nil {
		data.Certificates = asn1.RawValue{FullBytes: constructed(t, asn1.ClassContextSpecific, 0, certificates...)}
	}
	return constructed(t, asn1.ClassUniversal, asn1.TagSequence,
		marshal(t, oidSignedData), constructed(t, asn1.ClassContextSpecific, 0, marshal(t, data)))
}

func (f form) signer(t *testing.T, content []byte, by pair) signerInfo {
	t.Helper()
	digest := sum(f.hash, content)
	s := signerInfo{Version: 1, Digest: pkix.AlgorithmIdentifier{Algorithm: f.hashOID}}
	if f.attributes {
		list := slices.Concat(
			attribute(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}, marshal(t, f.contentType)),
			attribute(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}, marshal(t, digest)))
		digest = sum(f.hash, constructed(t, asn1.ClassUniversal, asn1.TagSet, list))
		s.Attributes = asn1.RawValue{FullBytes: constructed(t, asn1.ClassContextSpecific, 0, list)}
	}
	s.Signer = asn1.RawValue{FullBytes: marshal(t, struct {
		Issuer asn1.RawValue
		Serial *big.Int
	}{asn1.RawValue{FullBytes: by.cert.RawIssuer}, by.cert.SerialNumber})}
	if f.keyID {
		s.Version = 3
		s.Signer = asn1.RawValue{FullBytes: marshal(t, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, Bytes: by.cert.SubjectKeyId})}
	}
	s.Algorithm = pkix.AlgorithmIdentifier{Algorithm: oidRSA, Parameters: asn1.NullRawValue}
	if _, ok := by.key.(*ecdsa.PrivateKey); ok {
		s.Algorithm = pkix.AlgorithmIdentifier{Algorithm: oidECDSA256}
	}
	if f.algorithm != nil {
		s.Algorithm.Algorithm = f.algorithm
	}
	var err error
	s.Value, err = by.key.Sign(nil, digest, f.hash)
	require.NoError(t, err)
	return s
}

func attribute(t *testing.T, kind asn1.ObjectIdentifier, value []byte) []byte {
	t.Helper()
	return constructed(t, asn1.ClassUniversal, asn1.TagSequence, marshal(t, kind), constructed(t, asn1.ClassUniversal, asn1.TagSet, value))
}

func sum(hash crypto.Hash, b []byte) []byte {
	h := hash.New()
	h.Write(b)
	return h.Sum(nil)
}

// flip changes one bit of a copy; from behind when at is negative.
func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 1
	return b
}
