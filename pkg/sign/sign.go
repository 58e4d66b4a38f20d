// SPDX-License-Identifier: Apache-2.0

// Package sign makes, reads, checks and removes the signatures at the end of
// kernel module files, byte for byte as scripts/sign-file of the kernel does:
//
//	ELF | CMS in DER | struct module_signature (12 bytes) | "~Module signature appended~\n"
//
// The CMS (RFC 5652) is the kind the kernel takes (crypto/asymmetric_keys): one
// signer named by issuer and serial number, no certificates, no signed
// attributes, no content. What is signed is the digest of all before it, so a
// key may live anywhere that crypto.Signer reaches.
//
// The package needs nothing but the standard library, reads and writes no file,
// and knows nothing of compressed modules.
package sign

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"debug/elf"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Conditions a caller may branch on; test with errors.Is.
var (
	// ErrNotModule: what is to be signed is no kernel module (an ELF relocatable).
	ErrNotModule = errors.New("not a kernel module")
	// ErrKeyMismatch: the certificate is for another key.
	ErrKeyMismatch = errors.New("key and certificate do not belong together")
	// ErrUnsupported: a kind of key, of encryption or of signature that is not
	// known here, or that the kernel does not take.
	ErrUnsupported = errors.New("not supported")

	// ErrUnsigned: there is no signature.
	ErrUnsigned = errors.New("unsigned")
	// ErrUnreadable: there is a signature, and it is damaged.
	ErrUnreadable = errors.New("signature can not be read")
	// ErrSigner: the signature is by another certificate.
	ErrSigner = errors.New("signed by another certificate")
	// ErrMismatch: module or signature were changed after signing.
	ErrMismatch = errors.New("signature does not match the module")
)

// Signer signs modules. It may be used by several goroutines if its key may.
type Signer struct {
	key  crypto.Signer
	cert *x509.Certificate
	hash crypto.Hash
}

// New makes a Signer of a key and its certificate; hash is SHA-256 when it is 0.
// ErrKeyMismatch when they do not belong together; ErrUnsupported for other keys
// than RSA and ECDSA (NIST P-256, P-384, P-521) and other hashes than SHA-256,
// SHA-384 and SHA-512. Whether a kernel takes the signatures is a matter of its
// configuration: RSA with SHA-256 is known to all of them.
func New(key crypto.Signer, cert *x509.Certificate, hash crypto.Hash) (*Signer, error) {
	if hash == 0 {
		hash = crypto.SHA256
	}
	if _, err := signatureAlgorithm(key.Public(), hash); err != nil {
		return nil, err
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%w: the certificate of %q is for another key", ErrKeyMismatch, nameOf(cert))
	}
	return &Signer{key: key, cert: cert, hash: hash}, nil
}

// Sign gives the module, without the signatures it had, with one by this signer.
// The result shares no memory with module. The same input gives the same bytes,
// with ECDSA as well (RFC 6979) if the key is one in memory. ErrNotModule when it
// is no module: a compressed one has to be unpacked first.
func (s *Signer) Sign(module []byte) ([]byte, error) {
	plain := Strip(module)
	if err := checkModule(plain); err != nil {
		return nil, err
	}
	algorithm, err := signatureAlgorithm(s.key.Public(), s.hash)
	if err != nil {
		return nil, err
	}
	digest := digestOf(s.hash, plain)
	value, err := s.key.Sign(nil, digest, s.hash)
	if err != nil {
		return nil, fmt.Errorf("sign with the key of %q: %w", nameOf(s.cert), err)
	}
	// A key elsewhere is driven by software of others.
	if err := verifyDigest(s.cert.PublicKey, s.hash, digest, value); err != nil {
		return nil, fmt.Errorf("check what the key of %q made: %w", nameOf(s.cert), err)
	}
	der, err := encode(s.cert, s.hash, algorithm, value)
	if err != nil {
		return nil, fmt.Errorf("encode signature: %w", err)
	}
	return slices.Concat(plain, der, trailer(len(der))), nil
}

// Signed tells whether the module is signed already: its last signature, which
// is the one the kernel looks at, names this certificate and this hash, and
// matches.
func (s *Signer) Signed(module []byte) bool {
	if Verify(module, s.cert) != nil {
		return false
	}
	signature, err := Read(bytes.NewReader(module))
	return err == nil && signature != nil && signature.Hash == hashName(s.hash)
}

// Strip gives the module without its signatures, of which it may have several
// one behind the other. The result is the head of module, all of it when there is
// no signature or the last one does not tell how long it is.
func Strip(module []byte) []byte {
	for {
		t, ok := parseTrailer(module)
		if !ok || t.total() >= len(module) {
			return module
		}
		module = module[:len(module)-t.total()]
	}
}

// checkModule requires an ELF relocatable, of any architecture.
func checkModule(b []byte) error {
	const typeOffset = 16
	if len(b) < typeOffset+2 || string(b[:len(elf.ELFMAG)]) != elf.ELFMAG {
		return fmt.Errorf("%w: no ELF file", ErrNotModule)
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if elf.Data(b[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	if typ := elf.Type(order.Uint16(b[typeOffset:])); typ != elf.ET_REL {
		return fmt.Errorf("%w: ELF type %v, want ET_REL", ErrNotModule, typ)
	}
	return nil
}

// signatureAlgorithm is how the CMS names the key's algorithm: for RSA without
// the hash, which is the only form that the kernel's parser knows (pkcs7_parser.c:
// pkcs7_sig_note_pkey_algo), for ECDSA with it.
func signatureAlgorithm(key crypto.PublicKey, hash crypto.Hash) (asn1.ObjectIdentifier, error) {
	h, ok := hashes.find(hash)
	if !ok || !h.signed {
		return nil, fmt.Errorf("sign with %v: %w: sha256, sha384 and sha512 are", hash, ErrUnsupported)
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		return oidRSA, nil
	case *ecdsa.PublicKey:
		if size := key.Curve.Params().BitSize; size < 256 {
			return nil, fmt.Errorf("sign with a key on %s: %w: P-256, P-384 and P-521 are", key.Curve.Params().Name, ErrUnsupported)
		}
		return h.ecdsa, nil
	}
	return nil, fmt.Errorf("sign with a key of type %T: %w: RSA and ECDSA are", key, ErrUnsupported)
}

// nameOf is what a person knows a certificate by.
func nameOf(cert *x509.Certificate) string {
	if name := KeyName(cert.RawSubject); name != "" {
		return name
	}
	return cert.Subject.String()
}
