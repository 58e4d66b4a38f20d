// SPDX-License-Identifier: Apache-2.0

package sign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// signer judges one signer by the keys the kernel has. With certificates in the
// signature there may be a way from the signer's to one of those (pkcs7_trust.c).
func (e *Evidence) signer(s *signer, p *Policy) verdict {
	own := e.by(s)
	by := signedBy(&s.Signature, own)
	switch {
	case e.odd:
		return verdict{unsure, false, by + ", with certificates that can not be read here"}
	case own == nil:
		return e.direct(s, p)
	case p.lacks(own.PublicKey): // the certificate can not even be read (x509_public_key.c: x509_check_for_self_signed)
		return verdict{broken, false, by + ", with a certificate of a kind of key that this kernel does not have"}
	}
	if v := e.check(s, own, verdict{good, true, ""}); v.kind != good {
		return v
	}
	seen := map[*x509.Certificate]bool{}
	for c := own; ; {
		seen[c] = true
		if held := p.held(c); held != nil {
			return p.by(by+e.through(own, c), *held)
		}
		if ring := p.shown(c.SubjectKeyId, c.AuthorityKeyId); ring != "" {
			return verdict{good, false, by + ", by way of a key of " + ring + " whose certificate the kernel does not show"}
		}
		if selfSigned(c) {
			return p.missing(s, by)
		}
		if held := p.issuer(c); held != nil {
			if held.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) != nil {
				return verdict{broken, false, fmt.Sprintf("%s, whose certificate says to be by %q and is not", by, nameOf(held.Certificate))}
			}
			return p.by(fmt.Sprintf("%s, whose certificate is by %q", by, nameOf(held.Certificate)), *held)
		}
		up := e.issuerOf(c)
		if up == nil || seen[up] {
			return e.direct(s, p)
		}
		if up.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) != nil {
			return verdict{broken, false, by + ", with certificates that do not match each other"}
		}
		c = up
	}
}

// through says by way of which certificate a signer is known.
func (e *Evidence) through(own, c *x509.Certificate) string {
	if own == c {
		return ""
	}
	return fmt.Sprintf(", by way of the certificate of %q", nameOf(c))
}

// direct judges a signer whose certificate the kernel has to have itself.
func (e *Evidence) direct(s *signer, p *Policy) verdict {
	for _, c := range p.Certificates {
		if !s.IsBy(c.Certificate) {
			continue
		}
		v := p.by(signedBy(&s.Signature, c.Certificate), c)
		if v.kind == missing {
			return v
		}
		return e.check(s, c.Certificate, v)
	}
	by := signedBy(&s.Signature, nil)
	if p.took(&s.Signature) {
		return verdict{good, false, by + ", a key this kernel has taken modules of; whether this one was changed since can not be checked here"}
	}
	for _, r := range p.Rings {
		for _, k := range r.Keys {
			if k.ID != "" && (k.ID == s.KeyID || s.KeyID == "" && strings.TrimLeft(k.ID, "0") == strings.TrimLeft(s.Serial, "0")) {
				return verdict{good, false, fmt.Sprintf("%s, a key of %s; whether the module was changed since can not be checked here", by, r.Name)}
			}
		}
	}
	return p.missing(s, by)
}

// check verifies with the public key; v is what the verdict is when that is good.
func (e *Evidence) check(s *signer, c *x509.Certificate, v verdict) verdict {
	digest := e.digests[s.Hash]
	h, _ := hashes.byName(s.Hash)
	switch {
	case digest == nil:
		v.certain = false
		return v
	case s.fits(c.PublicKey) && verifyDigest(c.PublicKey, h.hash, digest, s.value) == nil:
		return v
	case v.kind == unsure: // without the key it is as good as unsigned
		return verdict{missing, false, signedBy(&s.Signature, c) + ", and changed since: module and signature do not match"}
	}
	return verdict{broken, true, signedBy(&s.Signature, c) + ", and changed since: module and signature do not match"}
}

// fits tells whether the signature says to be of that kind of key: the kernel
// compares that first (public_key.c: public_key_verify_signature).
func (s *signer) fits(key crypto.PublicKey) bool {
	switch key.(type) {
	case *rsa.PublicKey:
		return s.Algorithm == algorithmRSA
	case *ecdsa.PublicKey:
		return strings.HasPrefix(s.Algorithm, algorithmECDSA)
	}
	return false
}

// shown finds the keyring with a key of one of these identifiers that only the kernel has the certificate of, "" for
// none.
func (p *Policy) shown(ids ...[]byte) string {
	for _, r := range p.Rings {
		for _, id := range ids {
			if len(id) > 0 && p.trusts(r.Name) != No && slices.ContainsFunc(r.Keys, func(k Key) bool {
				return k.ID == hex.EncodeToString(id) && p.certificateOf(k) == nil
			}) {
				return r.Name
			}
		}
	}
	return ""
}

// held finds the certificate among those of db and MOK.
func (p *Policy) held(c *x509.Certificate) *Certificate {
	for i := range p.Certificates {
		if p.Certificates[i].Equal(c) {
			return &p.Certificates[i]
		}
	}
	return nil
}

// issuer finds who has signed a certificate among those of db and MOK.
func (p *Policy) issuer(c *x509.Certificate) *Certificate {
	for i := range p.Certificates {
		if id := p.Certificates[i].SubjectKeyId; len(id) > 0 && string(id) == string(c.AuthorityKeyId) {
			return &p.Certificates[i]
		}
	}
	return nil
}

// by is the verdict about a good signature by a certificate of db or MOK.
func (p *Policy) by(text string, c Certificate) verdict {
	trusted, ring := p.place(c.Certificate)
	text += ", which is in " + c.Source
	switch {
	case trusted == Yes:
		return verdict{good, true, text}
	case trusted == No && ring == "":
		return verdict{missing, true, text + " but not among the kernel's keys: it could not load it, as one of a kind it does not know, or it is revoked"}
	case trusted == No:
		return verdict{missing, true, text + ", of which this kernel takes no modules (" + ring + ")"}
	case ring == "":
		return verdict{unsure, false, text + "; whether the kernel has loaded it is not known"}
	}
	return verdict{unsure, false, text + "; whether this kernel takes modules by keys of " + ring + " is not known"}
}

// missing is the verdict about a signer that nothing is known of.
func (p *Policy) missing(s *signer, by string) verdict {
	hidden, all := p.hidden()
	if !all {
		return verdict{unsure, false, by + "; the kernel's keyrings can not be read"}
	}
	for _, k := range hidden {
		if s.Issuer != "" && k.Subject == s.Issuer {
			return verdict{unsure, false, by + "; the kernel has a key of that name, and does not show whether it is the same"}
		}
	}
	text := by + ", which is in none of the kernel's keyrings"
	if len(p.Certificates) > 0 {
		text = by + ", which is in neither MOK nor db nor built into the kernel"
	}
	return verdict{missing, len(hidden) == 0, text}
}
