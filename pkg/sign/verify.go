// SPDX-License-Identifier: Apache-2.0

package sign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
)

// Verify checks the last signature of a module, which is the one the kernel looks
// at, against the certificate that should have made it. nil means that a kernel
// that trusts the certificate takes the module. Otherwise ErrUnsigned,
// ErrUnreadable, ErrSigner, ErrUnsupported (a form the kernel refuses or that is
// not known here) or ErrMismatch. Whether the certificate is to be trusted, or
// has expired, is not asked: the kernel does not either.
func Verify(module []byte, cert *x509.Certificate) error {
	t, ok := parseTrailer(module)
	if !ok {
		return ErrUnsigned
	}
	if problem := t.problem(int64(len(module))); problem != "" {
		return fmt.Errorf("%w: %s", ErrUnreadable, problem)
	}
	body := module[:len(module)-t.total()]
	m, err := parse(module[len(body) : len(module)-tailSize])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	for i := range m.signers {
		if s := &m.signers[i]; s.IsBy(cert) {
			return s.verify(body, cert.PublicKey)
		}
	}
	return fmt.Errorf("%w: by %s, not by %q serial %s", ErrSigner, &m.signers[0].Signature, nameOf(cert), serialHex(cert.SerialNumber.Bytes()))
}

// IsBy tells whether the signature names that certificate.
func (s *Signature) IsBy(cert *x509.Certificate) bool {
	if s.KeyID != "" {
		return s.KeyID == hex.EncodeToString(cert.SubjectKeyId)
	}
	return s.Serial == serialHex(cert.SerialNumber.Bytes()) && string(s.RawIssuer) == string(cert.RawIssuer)
}

// String names the signer: `"Acme: key" serial a1b2`, `key id abcd`.
func (s *Signature) String() string {
	if s.KeyID != "" {
		return "key id " + s.KeyID
	}
	return fmt.Sprintf("%q serial %s", s.Issuer, s.Serial)
}

func (s *signer) verify(body []byte, key crypto.PublicKey) error {
	h, ok := hashes.byName(s.Hash)
	known := false
	switch key.(type) {
	case *rsa.PublicKey:
		known = s.Algorithm == algorithmRSA
	case *ecdsa.PublicKey:
		known = strings.HasPrefix(s.Algorithm, algorithmECDSA)
	}
	switch {
	case s.Attached:
		return fmt.Errorf("a signature with its own content: %w by the kernel", ErrUnsupported)
	case s.Attributes:
		return fmt.Errorf("a signature of attributes: %w by kernels before 7.0", ErrUnsupported)
	case !ok:
		return fmt.Errorf("signature with hash %s: %w", s.Hash, ErrUnsupported)
	case !known:
		return fmt.Errorf("signature with algorithm %s by a key of type %T: %w by the kernel", s.Algorithm, key, ErrUnsupported)
	}
	return verifyDigest(key, h.hash, digestOf(h.hash, body), s.value)
}

// verifyDigest is ErrMismatch when value is no signature of the digest.
func verifyDigest(key crypto.PublicKey, hash crypto.Hash, digest, value []byte) error {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if err := rsa.VerifyPKCS1v15(key, hash, digest, value); err != nil {
			return fmt.Errorf("%w: %w", ErrMismatch, err)
		}
		return nil
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(key, digest, value) {
			return ErrMismatch
		}
		return nil
	}
	return fmt.Errorf("key of type %T: %w", key, ErrUnsupported)
}
