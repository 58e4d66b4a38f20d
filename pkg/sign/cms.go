// SPDX-License-Identifier: Apache-2.0

package sign

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"math/big"
)

var (
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidRSA        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1} // rsaEncryption
)

// The CMS as sign-file makes it with OpenSSL's CMS_NOCERTS, CMS_NOATTR and
// CMS_DETACHED.
type (
	contentInfo struct {
		Type    asn1.ObjectIdentifier
		Content signedData `asn1:"explicit,tag:0"`
	}
	signedData struct {
		Version int
		Digests []pkix.AlgorithmIdentifier `asn1:"set"`
		Content contentType
		Signers []signerInfo `asn1:"set"`
	}
	contentType struct {
		Type asn1.ObjectIdentifier
	}
	signerInfo struct {
		Version   int
		Signer    issuerAndSerial
		Digest    pkix.AlgorithmIdentifier
		Algorithm pkix.AlgorithmIdentifier
		Value     []byte
	}
	issuerAndSerial struct {
		Issuer asn1.RawValue
		Serial *big.Int
	}
)

// encode makes the CMS around the value of a signature. As OpenSSL has it, the
// hash goes without parameters and rsaEncryption with NULL.
func encode(cert *x509.Certificate, hash crypto.Hash, algorithm asn1.ObjectIdentifier, value []byte) ([]byte, error) {
	h, ok := hashes.find(hash)
	if !ok {
		return nil, fmt.Errorf("hash %v: %w", hash, ErrUnsupported)
	}
	digest := pkix.AlgorithmIdentifier{Algorithm: h.oid}
	signature := pkix.AlgorithmIdentifier{Algorithm: algorithm}
	if algorithm.Equal(oidRSA) {
		signature.Parameters = asn1.NullRawValue
	}
	return asn1.Marshal(contentInfo{oidSignedData, signedData{
		Version: 1,
		Digests: []pkix.AlgorithmIdentifier{digest},
		Content: contentType{oidData},
		Signers: []signerInfo{{
			Version:   1,
			Signer:    issuerAndSerial{asn1.RawValue{FullBytes: cert.RawIssuer}, cert.SerialNumber},
			Digest:    digest,
			Algorithm: signature,
			Value:     value,
		}},
	}})
}

// The end of a signed file (include/linux/module_signature.h).
const (
	mark       = "~Module signature appended~\n"
	headerSize = 12 // struct module_signature
	tailSize   = headerSize + len(mark)
	typePKCS7  = 2 // PKEY_ID_PKCS7
)

// tail is struct module_signature: algorithm, hash, type, length of the signer's
// name, of the key's identifier, three bytes of padding, length of the signature
// (big endian). All but type and last length are 0 since Linux 4.3.
type tail [headerSize]byte

// trailer is what stands behind a CMS of that length.
func trailer(length int) []byte {
	var h tail
	h[2] = typePKCS7
	binary.BigEndian.PutUint32(h[8:], uint32(length))
	return append(h[:], mark...)
}

// parseTrailer reads it off the end of a file, or of its last bytes.
func parseTrailer(end []byte) (t tail, ok bool) {
	if len(end) < tailSize || string(end[len(end)-len(mark):]) != mark {
		return t, false
	}
	return tail(end[len(end)-tailSize:]), true
}

func (t tail) length() int64 { return int64(binary.BigEndian.Uint32(t[8:])) }

// total is how many bytes of the file are signature.
func (t tail) total() int { return int(t[3]) + int(t[4]) + int(t.length()) + tailSize }

// problem says why the kernel does not go on to read the signature
// (kernel/module_signature.c: mod_check_sig), "" when it does.
func (t tail) problem(fileSize int64) string {
	switch {
	case t.length() >= fileSize-int64(tailSize):
		return fmt.Sprintf("says to be %d bytes long", t.length())
	case t[2] != typePKCS7:
		return fmt.Sprintf("not PKCS#7 but type %d", t[2])
	case t[0] != 0 || t[1] != 0 || [5]byte(t[3:8]) != [5]byte{}:
		return "PKCS#7 signature info has unexpected non-zero params"
	case t.length() > maxCMS:
		return fmt.Sprintf("of %d bytes, the kernel reads no more than %d", t.length(), maxCMS)
	}
	return ""
}
