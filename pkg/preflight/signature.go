// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"github.com/kmm-node/kmmd/pkg/sign"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// Policy is what of the kernel decides about signatures.
func (k *Kernel) Policy() *sign.Policy {
	s := &k.Security
	p := &sign.Policy{
		Release: k.Release, Version: k.Version,
		Checks: sign.State(s.Signatures), SigEnforce: sign.State(s.SigEnforce), Lockdown: s.Lockdown, SecureBoot: sign.State(s.SecureBoot),
		Trusted: k.Trusted, Algorithms: make(map[string]sign.State),
	}
	for name, has := range k.Algorithms {
		p.Algorithms[name] = sign.State(has)
	}
	for _, c := range s.Certificates {
		p.Certificates = append(p.Certificates, sign.Certificate(c))
	}
	for _, r := range s.Keyrings {
		ring := sign.Ring{Name: r.Name, Rings: r.Rings, Known: r.Known}
		for _, key := range r.Keys {
			ring.Keys = append(ring.Keys, sign.Key(key))
		}
		p.Rings = append(p.Rings, ring)
	}
	return p
}

// Signature tells what the kernel will say to a module's signature.
func (k *Kernel) Signature(m *Module) sign.Prediction {
	evidence := m.File.Evidence
	if evidence == nil {
		evidence = m.File.Signature.Evidence()
	}
	return sign.Predict(evidence, m.IgnoreVermagic || m.IgnoreModversions, k.Policy())
}

// signature judges what module_sig_check (kernel/module/signing.c) will say. Only a
// refusal that rests on nothing but what was read and verified is an Error: a key
// that nobody sees may be there.
func (c *checker) signature(m *Module) {
	p := c.kernel.Signature(m)
	switch {
	case p.Answer == sign.Refused && p.Certain:
		c.add(Error, spec.ReasonSignature, "%s: the kernel refuses it", p.Reason)
	case p.Answer == sign.Refused:
		c.add(Warning, spec.ReasonSignature, "%s: the kernel will refuse it", p.Reason)
	case p.Answer == sign.Unknown:
		c.add(Unknown, spec.ReasonSignature, "%s", p.Reason)
	}
}
