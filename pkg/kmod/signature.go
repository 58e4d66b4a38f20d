// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"bytes"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
)

// Signature is what the signature of a module file says about itself. Nothing of
// it was verified.
type Signature struct {
	Hash string // "sha256", ...; the object identifier of one not known here
	// Issuer is who issued the signer's certificate, in the words the kernel has
	// for keys: organisation and common name. RawIssuer and Serial together name
	// the certificate.
	Issuer    string
	RawIssuer []byte // DER
	Serial    string // lower-case hex, no leading zeros
	KeyID     string // lower-case hex: the subject key identifier, if the signer is named by that instead
	// Problem says why the kernel could not read it, "" when it could: it is then
	// refused whatever the policy (kernel/module/signing.c).
	Problem string
}

// The end of a signed file (kernel/module_signature.c, scripts/sign-file.c):
// PKCS#7 in DER, struct module_signature, the mark.
const (
	signatureMark       = "~Module signature appended~\n"
	signatureHeaderSize = 12
	signatureTypePKCS7  = 2
	maxSignature        = 1 << 20
)

// parseSignature reads the signature at the end of the file, nil when there is none.
func parseSignature(r io.ReaderAt) (*Signature, error) {
	size, err := sizeOf(r)
	if err != nil {
		return nil, err
	}
	const tail = signatureHeaderSize + len(signatureMark)
	if size < int64(tail) {
		return nil, nil
	}
	var end [tail]byte
	if _, err := r.ReadAt(end[:], size-int64(tail)); err != nil {
		return nil, formatError("read signature", err)
	}
	if string(end[signatureHeaderSize:]) != signatureMark {
		return nil, nil
	}
	header := end[:signatureHeaderSize]
	length := int64(binary.BigEndian.Uint32(header[8:]))
	switch {
	case header[2] != signatureTypePKCS7:
		return &Signature{Problem: fmt.Sprintf("not PKCS#7 but type %d", header[2])}, nil
	case !bytes.Equal(header[:2], []byte{0, 0}) || !bytes.Equal(header[3:8], make([]byte, 5)):
		return &Signature{Problem: "PKCS#7 signature info has unexpected non-zero params"}, nil
	case length > maxSignature || length >= size-int64(tail):
		return &Signature{Problem: fmt.Sprintf("says to be %d bytes long", length)}, nil
	}
	der := make([]byte, length)
	if _, err := r.ReadAt(der, size-int64(tail)-length); err != nil {
		return nil, formatError("read signature", err)
	}
	s := &Signature{}
	if err := s.parsePKCS7(der); err != nil {
		s.Problem = err.Error()
	}
	return s, nil
}

// sizeOf is the number of bytes behind a reader of a whole file.
func sizeOf(r io.ReaderAt) (int64, error) {
	switch r := r.(type) {
	case interface{ Size() int64 }:
		return r.Size(), nil
	case interface{ Stat() (os.FileInfo, error) }:
		st, err := r.Stat()
		if err != nil {
			return 0, fmt.Errorf("read size: %w", err)
		}
		return st.Size(), nil
	}
	return 0, errors.New("read size: unknown kind of reader")
}

// parsePKCS7 walks the SignedData of RFC 2315 and RFC 5652 to its first signer:
//
//	ContentInfo { OID, [0] { SignedData { version, digests, content, [0] certificates?, [1] CRLs?, SET OF SignerInfo } } }
//	SignerInfo { version, issuerAndSerial or [0] keyIdentifier, digest, ... }
func (s *Signature) parsePKCS7(der []byte) error {
	info, err := elements(der, asn1.TagSequence)
	if err != nil || len(info) != 2 {
		return errors.New("not PKCS#7")
	}
	var oid asn1.ObjectIdentifier
	if _, err := asn1.Unmarshal(info[0].FullBytes, &oid); err != nil || !oid.Equal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}) {
		return errors.New("PKCS#7 without signed data")
	}
	data, err := elements(info[1].Bytes, asn1.TagSequence)
	if err != nil || len(data) < 4 {
		return errors.New("PKCS#7 signed data can not be read")
	}
	signers, err := elements(data[len(data)-1].FullBytes, asn1.TagSet)
	if err != nil || len(signers) == 0 {
		return errors.New("PKCS#7 without a signer")
	}
	signer, err := elements(signers[0].FullBytes, asn1.TagSequence)
	if err != nil || len(signer) < 3 {
		return errors.New("signer of PKCS#7 can not be read")
	}
	s.Hash = hashName(signer[2].FullBytes)
	return s.parseSigner(signer[1])
}

func (s *Signature) parseSigner(id asn1.RawValue) error {
	if id.Class == asn1.ClassContextSpecific && id.Tag == 0 {
		s.KeyID = hex.EncodeToString(id.Bytes)
		return nil
	}
	parts, err := elements(id.FullBytes, asn1.TagSequence)
	if err != nil || len(parts) != 2 || parts[1].Tag != asn1.TagInteger {
		return errors.New("signer of PKCS#7 has no name")
	}
	s.RawIssuer = parts[0].FullBytes
	s.Issuer = KeyName(s.RawIssuer)
	s.Serial = hex.EncodeToString(bytes.TrimLeft(parts[1].Bytes, "\x00"))
	return nil
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

func hashName(algorithm []byte) string {
	parts, err := elements(algorithm, asn1.TagSequence)
	if err != nil || len(parts) == 0 {
		return ""
	}
	var oid asn1.ObjectIdentifier
	if _, err := asn1.Unmarshal(parts[0].FullBytes, &oid); err != nil {
		return ""
	}
	switch s := oid.String(); s {
	case "1.3.14.3.2.26":
		return "sha1"
	case "2.16.840.1.101.3.4.2.1":
		return "sha256"
	case "2.16.840.1.101.3.4.2.2":
		return "sha384"
	case "2.16.840.1.101.3.4.2.3":
		return "sha512"
	default:
		return s
	}
}
