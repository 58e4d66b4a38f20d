// SPDX-License-Identifier: Apache-2.0

package sign

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// State is an answer that may be unknown.
type State string

// The answers.
const (
	Unclear State = ""
	Yes     State = "yes"
	No      State = "no"
)

// Policy is what of a running kernel decides about signatures. The zero value knows
// nothing.
type Policy struct {
	Release string // as of uname -r
	Version string // of /proc/version: who built it
	// Checks says whether it looks at signatures at all (CONFIG_MODULE_SIG).
	Checks State
	// SigEnforce is module.sig_enforce; Lockdown "none", "integrity", ... of
	// kernel_lockdown(7), "" unknown; SecureBoot what UEFI says.
	SigEnforce State
	Lockdown   string
	SecureBoot State
	// Rings are the keyrings that modules are checked against, nil when the kernel
	// does not show them.
	Rings []Ring
	// Certificates are those of db and MOK: where keys in the rings come from.
	Certificates []Certificate
	// Trusted are signatures of modules that it has taken without a taint.
	Trusted []Signature
	// Algorithms tells by the kernel's name which hashes and kinds of keys it has, or
	// can load: "sha512", "ecdsa-nist-p256".
	Algorithms map[string]State
}

// Ring is a keyring of the kernel.
type Ring struct {
	Name  string
	Keys  []Key
	Rings []string // keyrings that are in it
	Known bool     // Keys and Rings are all there is in it
}

// Key is a public key in a keyring, as far as the kernel shows it.
type Key struct {
	Subject string // in the words of KeyName
	ID      string // its certificate's subject key identifier, or serial number when it has none; hex
}

// Certificate is one that firmware ("db") or shim ("MOK") trusts.
type Certificate struct {
	Source string
	*x509.Certificate
}

// The keyrings (certs/system_keyring.c, security/integrity/digsig.c).
const (
	ringBuiltin   = ".builtin_trusted_keys"
	ringSecondary = ".secondary_trusted_keys"
	ringMachine   = ".machine"
	ringPlatform  = ".platform"
)

// enforced tells whether a module without a good signature is refused, and why. sure
// is false when that was concluded from less than the kernel's word.
func (p *Policy) enforced() (answer State, why string, sure bool) {
	switch {
	case p.SigEnforce == Yes:
		return Yes, "module.sig_enforce is on", true
	case p.Lockdown != "" && p.Lockdown != "none":
		return Yes, "lockdown=" + p.Lockdown + " is on", true
	case p.Lockdown == "" && p.SecureBoot == Yes:
		return Yes, "Secure Boot is on (whether the kernel is locked down is not known)", false
	case p.SigEnforce == No && p.Lockdown == "none":
		return No, "", true
	}
	return No, "", false
}

// AlgorithmNames are those that Policy.Algorithms may have.
func AlgorithmNames() []string {
	list := []string{"rsa", "ecdsa-nist-p256", "ecdsa-nist-p384", "ecdsa-nist-p521"}
	for _, h := range hashes {
		list = append(list, h.name)
	}
	return list
}

// Lines describe the policy for a person, one fact each.
func (p *Policy) Lines() []string {
	_, why, sure := p.enforced()
	var lines []string
	switch {
	case p.Checks == No:
		return []string{"this kernel checks no signatures (CONFIG_MODULE_SIG)"}
	case why != "":
		lines = append(lines, "modules without a trusted signature are refused: "+why)
	case sure:
		lines = append(lines, "modules without a trusted signature are taken, and taint the kernel (E)")
	default:
		lines = append(lines, "whether modules without a trusted signature are refused is not known (sig_enforce, lockdown)")
	}
	switch p.SecureBoot {
	case Yes:
		lines = append(lines, "Secure Boot is on")
	case No:
		lines = append(lines, "Secure Boot is off")
	}
	for _, c := range p.Certificates {
		_, name := p.place(c.Certificate)
		if name == "" {
			name = "no keyring"
		}
		lines = append(lines, fmt.Sprintf("%s has %q (serial %s), which is in %s", c.Source, nameOf(c.Certificate), serialHex(c.SerialNumber.Bytes()), name))
	}
	for _, r := range p.Rings {
		for _, k := range r.Keys {
			if p.certificateOf(k) == nil {
				lines = append(lines, fmt.Sprintf("%s has %q (key id %s)", r.Name, k.Subject, k.ID))
			}
		}
	}
	if len(p.Rings) == 0 {
		lines = append(lines, "the kernel's keyrings can not be read")
	}
	return lines
}

// is tells whether the kernel has put that certificate under that name
// (crypto/asymmetric_keys/x509_public_key.c: x509_key_preparse). Some kernels leave out
// a leading zero of a serial number.
func (k Key) is(c *x509.Certificate) bool {
	id := hex.EncodeToString(c.SubjectKeyId)
	if id == "" {
		return strings.TrimLeft(k.ID, "0") == strings.TrimLeft(hex.EncodeToString(c.SerialNumber.Bytes()), "0") && k.Subject == KeyName(c.RawSubject)
	}
	return k.ID == id
}

// certificateOf finds a key's certificate, nil when only the kernel has it.
func (p *Policy) certificateOf(k Key) *x509.Certificate {
	for _, c := range p.Certificates {
		if k.is(c.Certificate) {
			return c.Certificate
		}
	}
	return nil
}

// lacks tells whether the kernel has nothing to check signatures of that key with.
func (p *Policy) lacks(key crypto.PublicKey) bool {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return p.Algorithms["rsa"] == No
	case *ecdsa.PublicKey:
		return p.Algorithms[fmt.Sprintf("ecdsa-nist-p%d", key.Params().BitSize)] == No
	}
	return false
}

// ring finds a keyring by name.
func (p *Policy) ring(name string) (Ring, bool) {
	i := slices.IndexFunc(p.Rings, func(r Ring) bool { return r.Name == name })
	if i < 0 {
		return Ring{}, false
	}
	return p.Rings[i], true
}

// place finds the keyring with a certificate's key, "" for none, and tells whether
// modules signed by it are taken.
func (p *Policy) place(c *x509.Certificate) (trusted State, name string) {
	known := len(p.Rings) > 0
	for _, r := range p.Rings {
		if slices.ContainsFunc(r.Keys, func(k Key) bool { return k.is(c) }) {
			return p.trusts(r.Name), r.Name
		}
		known = known && r.Known
	}
	if known {
		return No, ""
	}
	return Unclear, ""
}

// trusts tells whether keys of a ring are good for modules. Those of .machine are when it
// hangs on .secondary_trusted_keys (Linux 5.18, and shim says so: MokListTrusted);
// those of .platform with a patch that distributions have.
func (p *Policy) trusts(ring string) State {
	switch ring {
	case ringBuiltin, ringSecondary:
		return Yes
	case ringMachine:
		secondary, ok := p.ring(ringSecondary)
		switch {
		case ok && slices.Contains(secondary.Rings, ringMachine):
			return Yes
		case ok && secondary.Known:
			return No
		}
	case ringPlatform:
		// "KEYS: Make use of platform keyring for module signature verify", in the
		// kernels of Debian, Ubuntu, Fedora, RHEL and Amazon Linux.
		for _, builder := range [...]string{"debian-kernel@", "Debian ", "Ubuntu", "fedoraproject.org", "redhat.com", "amazon"} {
			if strings.Contains(p.Version, builder) {
				return Yes
			}
		}
	}
	return Unclear
}

// hidden lists keys good for modules of which the certificate is not known: a
// signature names a certificate, which the kernel does not show. all is false when there
// may be others.
func (p *Policy) hidden() (keys []Key, all bool) {
	all = len(p.Rings) > 0
	explained := map[string]bool{} // by name, once each
	for _, t := range p.Trusted {
		explained[t.Issuer] = true
	}
	for _, r := range p.Rings {
		all = all && r.Known
		for _, k := range r.Keys {
			if p.certificateOf(k) != nil {
				continue
			}
			if explained[k.Subject] {
				explained[k.Subject] = false
				continue
			}
			keys = append(keys, k)
		}
	}
	return keys, all
}

// took tells whether the kernel has taken a module by the same signer.
func (p *Policy) took(s *Signature) bool {
	return slices.ContainsFunc(p.Trusted, func(t Signature) bool {
		if s.KeyID != "" {
			return s.KeyID == t.KeyID
		}
		return s.Serial != "" && s.Serial == t.Serial && bytes.Equal(s.RawIssuer, t.RawIssuer)
	})
}

// before tells whether the kernel is older than major.minor. known is false when its
// release does not tell.
func (p *Policy) before(major, minor int) (older, known bool) {
	var a, b int
	if n, err := fmt.Sscanf(p.Release, "%d.%d", &a, &b); err != nil || n != 2 {
		return false, false
	}
	return a < major || a == major && b < minor, true
}
