// SPDX-License-Identifier: Apache-2.0

package content

import (
	"bytes"
	"crypto/x509"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/preflight"
	"github.com/kmm-node/kmmd/pkg/sign"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// Signed asks that module files of the image are signed.
type Signed struct {
	// Cert is whose signatures they have to be; nil takes anybody's, and verifies
	// none.
	Cert *x509.Certificate
	// Match tells which files, by their path in the image; nil is all that are
	// loaded.
	Match func(path string) bool
}

// signatures looks at those of the image's files.
func (c *check) signatures() {
	for _, l := range c.loads {
		if l.inImage {
			c.signature(l)
		}
	}
}

func (c *check) signature(l load) {
	name, s, want := l.module.File.Info.Name, l.module.File.Signature, c.want.Signed
	asked := want != nil && (want.Match == nil || want.Match(l.path))
	switch {
	case s != nil && s.Problem != "":
		// What the kernel refuses, pkg/preflight has said. One of a kind that the kernel does not check is none to it.
		if asked && !c.said(name, spec.ReasonSignature) {
			c.blame(l, name, spec.ReasonSignature, "the signature of %s can not be read (%s)", l.path, s.Problem)
		}
	case s == nil && want != nil && !asked:
		c.add(preflight.Warning, name, spec.ReasonSignature, "%s is not signed, and not among the files to sign: a kernel that enforces signatures refuses it", l.path)
	case !asked:
	case s == nil:
		c.blame(l, name, spec.ReasonSignature, "%s is not signed", l.path)
	case want.Cert != nil:
		c.verify(l, want.Cert)
	}
}

// verify compares the signature with the certificate that should have made it.
func (c *check) verify(l load, cert *x509.Certificate) {
	var plain bytes.Buffer
	err := kmod.Decompress(l.module.File.Info.Path, &plain)
	if err == nil {
		err = sign.Verify(plain.Bytes(), cert)
	}
	if err != nil {
		c.blame(l, l.module.File.Info.Name, spec.ReasonSignature, "the signature of %s is not the one that was asked for: %v", l.path, c.atImage(err))
	}
}
