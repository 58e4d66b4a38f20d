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
	hash  crypto.Hash
	name  string                // as modinfo(8) says it
	oid   asn1.ObjectIdentifier // of the hash
	ecdsa asn1.ObjectIdentifier // ecdsa-with-SHAxxx; nil where nothing is signed here
}

type hashList []hashInfo

// hashes are those of pkcs7_sig_note_digest_algo (crypto/asymmetric_keys/pkcs7_parser.c)
// that the standard library has; SHA-3 since Linux 6.7, SHA-1 until 6.19.
var hashes = hashList{
	{crypto.SHA256, "sha256", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}},
	{crypto.SHA384, "sha384", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}},
	{crypto.SHA512, "sha512", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}},
	{crypto.SHA1, "sha1", asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}, nil},
	{crypto.SHA224, "sha224", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 4}, nil},
	{crypto.SHA3_256, "sha3-256", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 8}, nil},
	{crypto.SHA3_384, "sha3-384", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 9}, nil},
	{crypto.SHA3_512, "sha3-512", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 10}, nil},
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
	if h, ok := hashes.byName(name); ok && h.ecdsa != nil {
		return h.hash, nil
	}
	return 0, fmt.Errorf("hash %q: %w: sha256, sha384 and sha512 are", name, ErrUnsupported)
}

func digestOf(hash crypto.Hash, data []byte) []byte {
	h := hash.New()
	h.Write(data)
	return h.Sum(nil)
}
