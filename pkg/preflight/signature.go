// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/sign"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// signature predicts what module_sig_check (kernel/module/signing.c) will say. It
// is a prediction, so it never is an Error: nothing is verified, and keys may be
// added at run time.
func (c *checker) signature(m *Module) {
	s := m.File.Signature
	policy := c.policy()
	switch {
	case s != nil && s.Problem != "":
		c.add(Warning, spec.ReasonSignature, "its signature can not be read (%s): the kernel will refuse it whatever its policy", s.Problem)
	case policy == "":
	case s == nil:
		c.add(Warning, spec.ReasonSignature, "unsigned, and %s: the kernel will refuse it", policy)
	case m.IgnoreVermagic || m.IgnoreModversions:
		c.add(Warning, spec.ReasonSignature, "to be loaded by force, which makes its signature void, and %s: the kernel will refuse it", policy)
	default:
		c.key(s, policy)
	}
}

// policy is why an unsigned module is refused, "" when it is not.
func (c *checker) policy() string {
	sec := &c.kernel.Security
	switch {
	case sec.SigEnforce == kernel.Yes:
		return "module.sig_enforce is on"
	case sec.Lockdown != "" && sec.Lockdown != "none":
		return "lockdown=" + sec.Lockdown + " is on"
	case sec.Lockdown == "" && sec.SecureBoot == kernel.Yes:
		return "Secure Boot is on (whether the kernel is locked down is not known)"
	}
	return ""
}

// key tells whether the kernel has the signer's key.
func (c *checker) key(s *sign.Signature, policy string) {
	for _, t := range c.kernel.Trusted {
		if s.Serial != "" && s.Serial == t.Serial && bytes.Equal(s.RawIssuer, t.RawIssuer) || s.KeyID != "" && s.KeyID == t.KeyID {
			return // the kernel has taken modules of that key
		}
	}
	var rings, named []string
	hidden := len(c.kernel.Security.Keyrings) == 0
	for _, ring := range c.kernel.Security.Keyrings {
		rings = append(rings, ring.Name)
		hidden = hidden || !ring.Known
		for _, k := range ring.Keys {
			switch {
			case k.ID != "" && (k.ID == s.KeyID || k.ID == s.Serial):
				return
			case s.Issuer != "" && k.Subject == s.Issuer:
				named = append(named, ring.Name)
			}
		}
	}
	switch by := s.String(); {
	case c.certificate(s) != "":
		c.add(Unknown, spec.ReasonSignature, "signed by %s, a key of %s; whether this kernel takes modules by it is not known, and %s", by, c.certificate(s), policy)
	case len(named) > 0:
		c.add(Unknown, spec.ReasonSignature, "signed by %s; a key of that name is in %s, and the kernel does not show whether it is the same; %s", by, strings.Join(named, ", "), policy)
	case hidden:
		c.add(Unknown, spec.ReasonSignature, "signed by %s; the kernel's keyrings can not be read, and %s", by, policy)
	default:
		c.add(Warning, spec.ReasonSignature, "signed by %s, which is not in %s, and %s: the kernel will refuse it", by, strings.Join(rings, ", "), policy)
	}
}

// certificate says where the signer's certificate is known from outside the kernel.
func (c *checker) certificate(s *sign.Signature) string {
	for _, cert := range c.kernel.Security.Certificates {
		if s.KeyID != "" && s.KeyID == cert.KeyID || s.Serial != "" && s.Serial == cert.Serial && bytes.Equal(s.RawIssuer, cert.RawIssuer) {
			return fmt.Sprintf("%s (%s)", cert.Source, cert.Subject)
		}
	}
	return ""
}
