// SPDX-License-Identifier: Apache-2.0

//go:build openshift

// Package helm has go.mod know the module of which setup takes the definition of SecurityContextConstraints.
package helm

import _ "github.com/openshift/api/security/v1"
