// SPDX-License-Identifier: Apache-2.0

package sign

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrPassphrase: a key is encrypted, and the passphrase is missing or wrong.
var ErrPassphrase = errors.New("the key can not be decrypted with the passphrase")

// Types of PEM blocks.
const (
	blockPKCS8       = "PRIVATE KEY"
	blockPKCS1       = "RSA PRIVATE KEY"
	blockEC          = "EC PRIVATE KEY"
	blockEncrypted   = "ENCRYPTED PRIVATE KEY"
	blockCertificate = "CERTIFICATE"
)

// ReadKey reads a private key, RSA or ECDSA, out of the content of a file: the
// first one of a PEM file, which may have certificates as well, or DER. It may be
// PKCS#8, PKCS#1 or SEC 1, and encrypted as PKCS#8 with PBES2 or in the old way of
// PEM (Proc-Type); passphrase is only looked at then. ErrPassphrase,
// ErrUnsupported for other kinds of keys and of encryption.
func ReadKey(data []byte, passphrase string) (crypto.Signer, error) {
	der, encrypted, err := decryptKey(data, passphrase)
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	key, err := parseKey(der)
	switch {
	case err == nil:
		return key, nil
	case encrypted && !errors.Is(err, ErrUnsupported):
		err = ErrPassphrase // by chance it left a good padding
	}
	return nil, fmt.Errorf("read private key: %w", err)
}

// decryptKey gives the DER of the key in a file, and whether it was encrypted.
func decryptKey(data []byte, passphrase string) (der []byte, encrypted bool, err error) {
	block, err := findBlock(data, blockPKCS8, blockPKCS1, blockEC, blockEncrypted)
	switch {
	case err != nil:
		return nil, false, err
	case block == nil && !isEncryptedPKCS8(data):
		return data, false, nil
	case block == nil:
		der, err = decryptPKCS8(data, passphrase)
	case block.Type == blockEncrypted:
		der, err = decryptPKCS8(block.Bytes, passphrase)
	case x509.IsEncryptedPEMBlock(block): //nolint:staticcheck // weak, but many keys are kept so, and nothing else reads it
		der, err = decryptPEM(block, passphrase)
	default:
		return block.Bytes, false, nil
	}
	return der, true, err
}

// findBlock gives the first PEM block of one of these types, nil when data is no
// PEM.
func findBlock(data []byte, types ...string) (*pem.Block, error) {
	if !bytes.Contains(data, []byte("-----BEGIN ")) {
		return nil, nil
	}
	var seen []string
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if slices.Contains(types, block.Type) {
			return block, nil
		}
		seen = append(seen, block.Type)
	}
	if len(seen) == 0 {
		return nil, errors.New("damaged PEM")
	}
	return nil, fmt.Errorf("PEM with %s, but no %s", strings.Join(seen, ", "), types[0])
}

// decryptPEM is for what has Proc-Type in its headers.
func decryptPEM(block *pem.Block, passphrase string) ([]byte, error) {
	if passphrase == "" {
		return nil, fmt.Errorf("%w: none was given", ErrPassphrase)
	}
	der, err := x509.DecryptPEMBlock(block, []byte(passphrase)) //nolint:staticcheck // see decryptKey
	if errors.Is(err, x509.IncorrectPasswordError) {
		return nil, ErrPassphrase
	}
	return der, err
}

// parseKey reads a key in DER that is not encrypted.
func parseKey(der []byte) (crypto.Signer, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
			return k, nil
		}
		if k, err := x509.ParseECPrivateKey(der); err == nil {
			return k, nil
		}
		if _, err := x509.ParseCertificate(der); err == nil {
			return nil, errors.New("this is a certificate")
		}
		return nil, err
	}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return key, nil
	case *ecdsa.PrivateKey:
		return key, nil
	}
	return nil, fmt.Errorf("key of type %T: %w: the kernel knows RSA and ECDSA", key, ErrUnsupported)
}

// ReadCertificate reads a certificate out of the content of a file: the first one
// of a PEM file, which may have the key as well, or DER.
func ReadCertificate(data []byte) (*x509.Certificate, error) {
	block, err := findBlock(data, blockCertificate)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	der := data
	if block != nil {
		der = block.Bytes
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		if _, err := x509.ParsePKIXPublicKey(der); err == nil {
			return nil, errors.New("read certificate: this is a bare public key")
		}
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	return cert, nil
}
