// SPDX-License-Identifier: Apache-2.0

package images

import (
	"github.com/kmm-node/kmmd/pkg/images/credentials"
	"github.com/kmm-node/kmmd/pkg/images/registries"
)

// Options of a store. The zero value is a store without mirrors and credentials.
type Options struct {
	// Registries say where images are asked for on this node; nil asks each
	// registry itself.
	Registries *registries.Config
	// Keyring has the node's own credentials; nil is none.
	Keyring *credentials.Keyring
}
