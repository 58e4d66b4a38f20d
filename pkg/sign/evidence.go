// SPDX-License-Identifier: Apache-2.0

package sign

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"hash"
	"io"
)

// Evidence is what a module file holds for the kernel to check: its signature,
// and the digest of what was signed.
type Evidence struct {
	Signature *Signature // nil: unsigned

	signers  []signer
	embedded []*x509.Certificate // that come with the signature
	// odd says that one of those can not be read here.
	odd bool
	// digests of the content by the name of the hash; nil when it was not read.
	digests map[string][]byte
	// foreign says that the signature is of a kind that the kernel has no check for:
	// to it that is another kind of unsigned (module_signature.c: ENOPKG).
	foreign bool
}

// Examine reads a module file, plain and not compressed, once: its signature and, if
// there is one, the whole of it. The reader is as for Read, and so is the error.
func Examine(r io.ReaderAt) (*Evidence, error) {
	end, err := readEnding(r)
	if err != nil {
		return nil, err
	}
	if end == nil {
		return &Evidence{}, nil
	}
	e := &Evidence{Signature: end.signature()}
	content := end.size - int64(tailSize) - end.tail.length()
	if end.problem != "" {
		e.foreign = end.tail[2] != typePKCS7 && content > 0
		return e, nil
	}
	e.signers = end.message.signers
	e.parseEmbedded(end.message.certificates)
	return e, e.digest(io.NewSectionReader(r, 0, content))
}

// parseEmbedded reads certificates one behind the other.
func (e *Evidence) parseEmbedded(der []byte) {
	list, err := x509.ParseCertificates(der)
	e.embedded, e.odd = list, err != nil
}

// digest hashes the content with the hash of each signer, reading it once.
func (e *Evidence) digest(content io.Reader) error {
	e.digests = make(map[string][]byte)
	running := make(map[string]hash.Hash)
	var all []io.Writer
	for i := range e.signers {
		name := e.signers[i].Hash
		h, ok := hashes.byName(name)
		if ok && running[name] == nil {
			running[name] = h.hash.New()
			all = append(all, running[name])
		}
	}
	if _, err := io.Copy(io.MultiWriter(all...), content); err != nil {
		return fmt.Errorf("read module: %w", err)
	}
	for name, h := range running {
		e.digests[name] = h.Sum(nil)
	}
	return nil
}

// Evidence is the signature alone, of a file whose content was not read.
func (s *Signature) Evidence() *Evidence {
	e := &Evidence{Signature: s}
	if s != nil && s.Problem == "" {
		e.signers = []signer{{Signature: *s}}
		e.odd = s.Certificates
	}
	return e
}

// by finds the certificate among those that came along which a signer names.
func (e *Evidence) by(s *signer) *x509.Certificate {
	for _, c := range e.embedded {
		if s.IsBy(c) {
			return c
		}
	}
	return nil
}

// issuerOf finds the certificate among those that came along which has signed
// that one, as pkcs7_verify_sig_chain does; nil when it is not there.
func (e *Evidence) issuerOf(c *x509.Certificate) *x509.Certificate {
	for _, issuer := range e.embedded {
		if len(c.AuthorityKeyId) > 0 && bytes.Equal(issuer.SubjectKeyId, c.AuthorityKeyId) {
			return issuer
		}
	}
	return nil
}

func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, c.RawSubject) && (len(c.AuthorityKeyId) == 0 || bytes.Equal(c.AuthorityKeyId, c.SubjectKeyId))
}
