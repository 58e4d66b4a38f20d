// SPDX-License-Identifier: Apache-2.0

package sign

import (
	"crypto"
	_ "crypto/sha1" // what old modules are signed with
	_ "crypto/sha256"
	_ "crypto/sha3"
	_ "crypto/sha512"
	"encoding/asn1"
	"fmt"
)

// hashInfo is a hash that the kernel knows for signatures of modules.
type hashInfo struct {
	hash   crypto.Hash
	name   string // as modinfo(8) says it
	signed bool   // by us
	oid    asn1.ObjectIdentifier
	ecdsa  asn1.ObjectIdentifier // ecdsa-with-...
}

type hashList []hashInfo

// hashes are those of pkcs7_sig_note_digest_algo and pkcs7_sig_note_pkey_algo
// (crypto/asymmetric_keys/pkcs7_parser.c) that the standard library has; SHA-3
// since Linux 6.7.
var hashes = hashList{
	{crypto.SHA256, "sha256", true, nist(2, 1), ecdsaWith(3, 2)},
	{crypto.SHA384, "sha384", true, nist(2, 2), ecdsaWith(3, 3)},
	{crypto.SHA512, "sha512", true, nist(2, 3), ecdsaWith(3, 4)},
	{crypto.SHA224, "sha224", false, nist(2, 4), ecdsaWith(3, 1)},
	{crypto.SHA1, "sha1", false, asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}, ecdsaWith(1)},
	{crypto.SHA3_256, "sha3-256", false, nist(2, 8), nist(3, 10)},
	{crypto.SHA3_384, "sha3-384", false, nist(2, 9), nist(3, 11)},
	{crypto.SHA3_512, "sha3-512", false, nist(2, 10), nist(3, 12)},
}

// nist is an identifier below nistAlgorithms: hashes are in 2, signatures in 3.
func nist(arc ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4}, arc...)
}

// ecdsaWith is one below ansi-X9-62 signatures.
func ecdsaWith(arc ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 2, 840, 10045, 4}, arc...)
}

func (l hashList) find(hash crypto.Hash) (hashInfo, bool) {
	for _, h := range l {
		if h.hash == hash {
			return h, true
		}
	}
	return hashInfo{}, false
}

// byName finds one by its name, the one that Signature.Hash has.
func (l hashList) byName(name string) (hashInfo, bool) {
	for _, h := range l {
		if h.name == name {
			return h, true
		}
	}
	return hashInfo{}, false
}

func hashName(hash crypto.Hash) string {
	h, _ := hashes.find(hash)
	return h.name
}

// ParseHash gives the hash for "sha256", "sha384" or "sha512"; ErrUnsupported for
// any other word.
func ParseHash(name string) (crypto.Hash, error) {
	if h, ok := hashes.byName(name); ok && h.signed {
		return h.hash, nil
	}
	return 0, fmt.Errorf("hash %q: %w: sha256, sha384 and sha512 are", name, ErrUnsupported)
}

func digestOf(hash crypto.Hash, data []byte) []byte {
	h := hash.New()
	h.Write(data)
	return h.Sum(nil)
}
