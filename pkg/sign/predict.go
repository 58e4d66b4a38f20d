// SPDX-License-Identifier: Apache-2.0

package sign

import (
	"crypto/x509"
	"fmt"
	"strings"
)

// Answer is what a kernel says to a module's signature.
type Answer string

// The answers.
const (
	Accepted Answer = "accepted"
	Refused  Answer = "refused"
	Unknown  Answer = "unknown" // what decides can not be known
)

// Prediction is what a kernel will say to a module's signature, and why.
type Prediction struct {
	Answer Answer
	// Tainted says that it takes the module and marks itself with E for that.
	Tainted bool
	// Certain says that nothing was assumed: all that decides was read, and verified.
	Certain bool
	Reason  string // `signed by "Acme: key" (serial 59dd), which is in neither MOK nor db`
}

// String is for a person: `signed by "Acme: key" (serial 59dd), which is in db: the kernel takes it`.
func (p Prediction) String() string {
	text := map[Answer]string{Accepted: "the kernel takes it", Refused: "the kernel refuses it", Unknown: "what the kernel says is not known"}[p.Answer]
	if p.Tainted {
		text += ", and taints itself (E)"
	}
	return p.Reason + ": " + text
}

// Predict tells what the kernel will say to a module, following module_sig_check
// (kernel/module/signing.c), mod_check_sig (kernel/module_signature.c),
// verify_pkcs7_signature (certs/system_keyring.c) and crypto/asymmetric_keys/pkcs7_*.c of Linux
// 6.1 and 6.12. forced is for one whose version magic or CRCs are to be ignored:
// that counts as unsigned.
func Predict(e *Evidence, forced bool, p *Policy) Prediction {
	if p.Checks == No {
		return Prediction{Answer: Accepted, Certain: true, Reason: "this kernel checks no signatures"}
	}
	v := e.verdict(p)
	if forced {
		v = verdict{kind: missing, certain: true, text: "to be loaded by force, which makes its signature void"}
	}
	enforced, why, sure := p.enforced()
	out := Prediction{Certain: v.certain, Reason: v.text}
	switch {
	case v.kind == good:
		out.Answer = Accepted
	case v.kind == broken:
		out.Answer = Refused
	case v.kind == unsure && enforced == Yes:
		out.Answer, out.Certain = Unknown, false
		out.Reason += "; " + why
	case v.kind == unsure:
		out.Answer, out.Certain = Accepted, false
	case enforced == Yes:
		out.Answer, out.Certain = Refused, v.certain && sure
		out.Reason += ", and " + why
	default:
		out.Answer, out.Tainted, out.Certain = Accepted, true, v.certain && sure
	}
	return out
}

// kind is how the kernel's check of a signature ends.
type kind int

// From the best to the one that counts most.
const (
	missing kind = iota // ENODATA, ENOKEY, ENOPKG: it is up to the policy
	unsure              // missing, or good; what is known does not tell
	good
	broken // any other error: refused whatever the policy
)

type verdict struct {
	kind    kind
	certain bool
	text    string
}

// verdict is what the check of the last signature comes to.
func (e *Evidence) verdict(p *Policy) verdict {
	s := e.Signature
	switch {
	case s == nil:
		return verdict{missing, true, "unsigned"}
	case e.foreign:
		return verdict{missing, true, "its signature is of a kind that no kernel checks (" + s.Problem + ")"}
	case s.Problem != "":
		return verdict{broken, true, "its signature can not be read (" + s.Problem + ")"}
	}
	for i := range e.signers {
		if v, ok := e.signers[i].form(p); !ok {
			return v
		}
	}
	// pkcs7_verify and pkcs7_validate_trust: one good signer is enough, one that is
	// wrong under a key that is there too much.
	out := verdict{kind: -1}
	for i := range e.signers {
		if v := e.signer(&e.signers[i], p); v.kind > out.kind {
			out = v
		}
	}
	return out
}

// form judges what the kernel looks at before it looks for keys; ok says that it will. What only its release tells is not
// certain: distributions take patches back.
func (s *signer) form(p *Policy) (v verdict, ok bool) {
	by := signedBy(&s.Signature, nil)
	if !s.knownAlgorithm() {
		return verdict{missing, false, fmt.Sprintf("%s with algorithm %s, which is none of those the kernel knows for modules", by, s.Algorithm)}, false
	}
	h, known := hashes.byName(s.Hash)
	sha3 := known && strings.HasPrefix(h.name, "sha3-")
	old, dated := p.before(6, 7)
	switch {
	case !known:
		return verdict{missing, false, fmt.Sprintf("%s with hash %s, which is none of those the kernel knows for modules", by, s.Hash)}, false
	case sha3 && old && dated:
		return verdict{missing, false, fmt.Sprintf("%s with hash %s, which kernels know for modules since Linux 6.7", by, s.Hash)}, false
	case s.Attached:
		return verdict{broken, true, by + " with a copy of the content inside the signature"}, false
	case s.Attributes:
		if old, dated := p.before(7, 0); old && dated {
			return verdict{broken, false, by + " with signed attributes, which kernels take since Linux 7.0"}, false
		}
		return verdict{unsure, false, by + " with signed attributes, which can not be checked here"}, false
	case p.Algorithms[s.Hash] == No:
		return verdict{missing, true, fmt.Sprintf("%s with hash %s, which this kernel does not have", by, s.Hash)}, false
	}
	return verdict{}, true
}

// knownAlgorithm tells whether it is one of pkcs7_sig_note_pkey_algo.
func (s *signer) knownAlgorithm() bool {
	return s.Algorithm == algorithmRSA || strings.HasPrefix(s.Algorithm, algorithmECDSA)
}

// signedBy names the signer by its certificate, or without one by the name in the signature, which is that of who issued
// the certificate: itself, mostly.
func signedBy(s *Signature, c *x509.Certificate) string {
	switch {
	case c != nil:
		return fmt.Sprintf("signed by %q (serial %s)", nameOf(c), serialHex(c.SerialNumber.Bytes()))
	case s.KeyID != "":
		return "signed by key id " + s.KeyID
	}
	return fmt.Sprintf("signed by %q (serial %s)", s.Issuer, s.Serial)
}
