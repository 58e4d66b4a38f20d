// SPDX-License-Identifier: Apache-2.0

package content

import (
	"github.com/kmm-node/kmmd/pkg/preflight"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// Signed asks that module files of the image are signed.
type Signed struct {
	// Match tells which, by their path in the image; nil is all that are loaded.
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
	case s != nil && s.Problem != "" && asked:
		c.blame(l, name, spec.ReasonSignature, "the signature of %s can not be read: %s", l.path, s.Problem)
	case s != nil && s.Problem != "":
		c.add(preflight.Warning, name, spec.ReasonSignature, "the signature of %s can not be read (%s): the kernel refuses it, whatever its policy", l.path, s.Problem)
	case s == nil && asked:
		c.blame(l, name, spec.ReasonSignature, "%s is not signed", l.path)
	case s == nil && want != nil:
		c.add(preflight.Warning, name, spec.ReasonSignature, "%s is not signed, and not among the files to sign: a kernel that enforces signatures refuses it", l.path)
	}
}
