// SPDX-License-Identifier: Apache-2.0

package sign

import (
	"bytes"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// message is a CMS that was read.
type message struct {
	signers      []signer // at least one
	certificates []byte   // DER, one behind the other
}

// signer is one of those that signed.
type signer struct {
	Signature
	value []byte
}

// parse walks the SignedData of RFC 2315 and RFC 5652, as far as the kernel does
// (crypto/asymmetric_keys/pkcs7.asn1). What it can not read, the kernel can not:
//
//	ContentInfo { OID, [0] { SignedData { version, digests, content, [0] certificates?, [1] CRLs?, SET OF SignerInfo } } }
func parse(der []byte) (*message, error) {
	info, err := elements(der, asn1.TagSequence)
	if err != nil || len(info) != 2 {
		return nil, errors.New("not PKCS#7")
	}
	if !oidOf(info[0]).Equal(oidSignedData) {
		return nil, errors.New("PKCS#7 without signed data")
	}
	data, err := elements(info[1].Bytes, asn1.TagSequence)
	if err != nil || len(data) < 4 {
		return nil, errors.New("PKCS#7 signed data can not be read")
	}
	content, err := elements(data[2].FullBytes, asn1.TagSequence)
	if err != nil || len(content) == 0 {
		return nil, errors.New("PKCS#7 content can not be read")
	}
	if oid := oidOf(content[0]); !oid.Equal(oidData) {
		return nil, fmt.Errorf("PKCS#7 of content type %v, want data", oid)
	}
	infos, err := elements(data[len(data)-1].FullBytes, asn1.TagSet)
	if err != nil || len(infos) == 0 {
		return nil, errors.New("PKCS#7 without a signer")
	}
	m := &message{}
	if isContext(data[3], 0) {
		m.certificates = data[3].Bytes
	}
	for _, i := range infos {
		s := signer{Signature: Signature{Attached: len(content) > 1, Certificates: isContext(data[3], 0)}}
		if err := s.parse(i.FullBytes, data[0]); err != nil {
			return nil, err
		}
		m.signers = append(m.signers, s)
	}
	return m, nil
}

// parse reads
//
//	SignerInfo { version, issuerAndSerial or [0] keyIdentifier, digest, [0] attributes?, algorithm, value, [1] attributes? }
//
// The version says which of both names the signer, and that of the SignedData has
// to go with it (pkcs7_parser.c: pkcs7_note_signerinfo_version).
func (s *signer) parse(der []byte, dataVersion asn1.RawValue) error {
	parts, err := elements(der, asn1.TagSequence)
	if err != nil || len(parts) < 5 {
		return errors.New("signer of PKCS#7 can not be read")
	}
	version := parts[0]
	switch {
	case bytes.Equal(version.FullBytes, []byte{asn1.TagInteger, 1, 1}) && bytes.Equal(dataVersion.FullBytes, version.FullBytes):
		err = s.parseName(parts[1])
	case bytes.Equal(version.FullBytes, []byte{asn1.TagInteger, 1, 3}) && bytes.Equal(dataVersion.FullBytes, version.FullBytes):
		err = s.parseKeyID(parts[1])
	default:
		err = fmt.Errorf("PKCS#7 of version %x with a signer of version %x", dataVersion.Bytes, version.Bytes)
	}
	if err != nil {
		return err
	}
	if s.Hash, err = algorithmName(parts[2]); err != nil {
		return err
	}
	rest := parts[3:]
	if s.Attributes = isContext(rest[0], 0); s.Attributes {
		rest = rest[1:]
	}
	if len(rest) < 2 || rest[1].Class != asn1.ClassUniversal || rest[1].Tag != asn1.TagOctetString || rest[1].IsCompound {
		return errors.New("signer of PKCS#7 can not be read")
	}
	s.value = rest[1].Bytes
	s.Algorithm, err = algorithmName(rest[0])
	return err
}

func (s *signer) parseKeyID(id asn1.RawValue) error {
	if !isContext(id, 0) || id.IsCompound {
		return errors.New("signer of PKCS#7 has no key identifier")
	}
	s.KeyID = hex.EncodeToString(id.Bytes)
	return nil
}

func (s *signer) parseName(id asn1.RawValue) error {
	parts, err := elements(id.FullBytes, asn1.TagSequence)
	if err != nil || len(parts) != 2 || parts[1].Class != asn1.ClassUniversal || parts[1].Tag != asn1.TagInteger {
		return errors.New("signer of PKCS#7 has no name")
	}
	s.RawIssuer = parts[0].FullBytes
	s.Issuer = KeyName(s.RawIssuer)
	s.Serial = serialHex(parts[1].Bytes)
	return nil
}

func serialHex(b []byte) string { return hex.EncodeToString(bytes.TrimLeft(b, "\x00")) }

func isContext(v asn1.RawValue, tag int) bool {
	return v.Class == asn1.ClassContextSpecific && v.Tag == tag
}

// elements splits a constructed value with that tag into its parts.
func elements(der []byte, tag int) ([]asn1.RawValue, error) {
	var outer asn1.RawValue
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		return nil, err
	}
	if outer.Class != asn1.ClassUniversal || outer.Tag != tag || !outer.IsCompound {
		return nil, errors.New("unexpected ASN.1 tag")
	}
	var list []asn1.RawValue
	for rest := outer.Bytes; len(rest) > 0; {
		var part asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &part); err != nil {
			return nil, err
		}
		list = append(list, part)
	}
	return list, nil
}

// oidOf is nil when it is no object identifier.
func oidOf(v asn1.RawValue) asn1.ObjectIdentifier {
	var oid asn1.ObjectIdentifier
	if _, err := asn1.Unmarshal(v.FullBytes, &oid); err != nil {
		return nil
	}
	return oid
}

// algorithmName is the word for AlgorithmIdentifier { OID, parameters? }.
func algorithmName(v asn1.RawValue) (string, error) {
	parts, err := elements(v.FullBytes, asn1.TagSequence)
	if err != nil || len(parts) == 0 || oidOf(parts[0]) == nil {
		return "", errors.New("algorithm in PKCS#7 can not be read")
	}
	oid := oidOf(parts[0])
	if oid.Equal(oidRSA) {
		return algorithmRSA, nil
	}
	for _, h := range hashes {
		switch {
		case oid.Equal(h.oid):
			return h.name, nil
		case oid.Equal(h.ecdsa):
			return algorithmECDSA + strings.ToUpper(h.name), nil
		}
	}
	return oid.String(), nil
}

// What Signature.Algorithm has for keys the kernel knows.
const (
	algorithmRSA   = "rsaEncryption"
	algorithmECDSA = "ecdsa-with-" // and the hash
)
