// SPDX-License-Identifier: Apache-2.0

package sign

import "crypto/x509"

// Certificate is the one the signatures name.
func (s *Signer) Certificate() *x509.Certificate { return s.cert }

// HashName is the hash it signs with, as Signature.Hash has it.
func (s *Signer) HashName() string { return hashName(s.hash) }
