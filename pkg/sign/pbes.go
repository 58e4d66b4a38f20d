// SPDX-License-Identifier: Apache-2.0

package sign

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"hash"
)

// maxIterations bounds the work that a key file can ask for: some seconds.
const maxIterations = 10_000_000

// The encryption of PKCS#8 keys, RFC 5208 and RFC 8018.
type (
	encryptedKey struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}
	pbes2Parameters struct {
		Derivation pkix.AlgorithmIdentifier
		Cipher     pkix.AlgorithmIdentifier
	}
	pbkdf2Parameters struct {
		Salt       []byte
		Iterations int
		KeyLength  int                      `asn1:"optional"`
		PRF        pkix.AlgorithmIdentifier `asn1:"optional"` // HMAC with SHA-1
	}
)

var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidScrypt = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}
)

// prfs are the functions of PBKDF2: HMAC with these.
var prfs = map[string]func() hash.Hash{
	"":                    sha1.New,
	"1.2.840.113549.2.7":  sha1.New,
	"1.2.840.113549.2.8":  sha256.New224,
	"1.2.840.113549.2.9":  sha256.New,
	"1.2.840.113549.2.10": sha512.New384,
	"1.2.840.113549.2.11": sha512.New,
}

type cipherInfo struct {
	keySize int
	block   func(key []byte) (cipher.Block, error)
}

// ciphers are those of PBES2, in CBC mode.
var ciphers = map[string]cipherInfo{
	"2.16.840.1.101.3.4.1.2":  {16, aes.NewCipher},
	"2.16.840.1.101.3.4.1.22": {24, aes.NewCipher},
	"2.16.840.1.101.3.4.1.42": {32, aes.NewCipher},
	"1.2.840.113549.3.7":      {24, des.NewTripleDESCipher},
}

// convert is how to make a key that can be read.
const convert = "openssl pkcs8 -topk8 -v2 aes-256-cbc makes one that can be read"

func isEncryptedPKCS8(der []byte) bool {
	var k encryptedKey
	rest, err := asn1.Unmarshal(der, &k)
	return err == nil && len(rest) == 0
}

// decryptPKCS8 gives the PrivateKeyInfo in an EncryptedPrivateKeyInfo.
func decryptPKCS8(der []byte, passphrase string) ([]byte, error) {
	var k encryptedKey
	if _, err := asn1.Unmarshal(der, &k); err != nil {
		return nil, fmt.Errorf("parse encrypted key: %w", err)
	}
	if !k.Algorithm.Algorithm.Equal(oidPBES2) {
		return nil, fmt.Errorf("key encrypted with algorithm %v: %w: %s", k.Algorithm.Algorithm, ErrUnsupported, convert)
	}
	var p pbes2Parameters
	if _, err := asn1.Unmarshal(k.Algorithm.Parameters.FullBytes, &p); err != nil {
		return nil, fmt.Errorf("parse encryption of the key: %w", err)
	}
	c, ok := ciphers[p.Cipher.Algorithm.String()]
	if !ok {
		return nil, fmt.Errorf("key encrypted with cipher %v: %w: %s", p.Cipher.Algorithm, ErrUnsupported, convert)
	}
	var iv []byte
	if _, err := asn1.Unmarshal(p.Cipher.Parameters.FullBytes, &iv); err != nil {
		return nil, fmt.Errorf("parse start value of the key's cipher: %w", err)
	}
	secret, err := p.derive(passphrase, c.keySize)
	if err != nil {
		return nil, err
	}
	return c.decrypt(secret, iv, k.Data)
}

// derive makes the key of the cipher from the passphrase.
func (p *pbes2Parameters) derive(passphrase string, size int) ([]byte, error) {
	switch {
	case p.Derivation.Algorithm.Equal(oidScrypt):
		return nil, fmt.Errorf("key encrypted by way of scrypt: %w: %s", ErrUnsupported, convert)
	case !p.Derivation.Algorithm.Equal(oidPBKDF2):
		return nil, fmt.Errorf("key encrypted by way of %v: %w: %s", p.Derivation.Algorithm, ErrUnsupported, convert)
	}
	var d pbkdf2Parameters
	if _, err := asn1.Unmarshal(p.Derivation.Parameters.FullBytes, &d); err != nil {
		return nil, fmt.Errorf("parse PBKDF2 of the key: %w", err)
	}
	prf, ok := prfs[d.PRF.Algorithm.String()]
	switch {
	case !ok:
		return nil, fmt.Errorf("key encrypted by way of PBKDF2 with %v: %w: %s", d.PRF.Algorithm, ErrUnsupported, convert)
	case d.Iterations < 1 || d.Iterations > maxIterations:
		return nil, fmt.Errorf("key encrypted with %d iterations of PBKDF2: %w: %d at most", d.Iterations, ErrUnsupported, maxIterations)
	case d.KeyLength != 0 && d.KeyLength != size:
		return nil, fmt.Errorf("key encrypted with a key of %d bytes for a cipher that has %d", d.KeyLength, size)
	case passphrase == "":
		return nil, fmt.Errorf("%w: none was given", ErrPassphrase)
	}
	return pbkdf2.Key(prf, passphrase, d.Salt, d.Iterations, size)
}

// decrypt gives the plain text of CBC with the padding of PKCS#7.
func (c cipherInfo) decrypt(secret, iv, data []byte) ([]byte, error) {
	block, err := c.block(secret)
	if err != nil {
		return nil, fmt.Errorf("decrypt key: %w", err)
	}
	size := block.BlockSize()
	if len(iv) != size || len(data) == 0 || len(data)%size != 0 {
		return nil, fmt.Errorf("decrypt key: %d bytes with a start value of %d: damaged", len(data), len(iv))
	}
	plain := make([]byte, len(data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, data)
	padding := int(plain[len(plain)-1])
	if padding < 1 || padding > size {
		return nil, ErrPassphrase
	}
	for _, b := range plain[len(plain)-padding:] {
		if int(b) != padding {
			return nil, ErrPassphrase
		}
	}
	return plain[:len(plain)-padding], nil
}
