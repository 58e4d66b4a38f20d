// SPDX-License-Identifier: Apache-2.0

// Package cluster tests what only a real API server can show: the rules of the
// API, and who may do what.
package cluster

import (
	"os"
	"testing"

	"github.com/kmm-node/kmmd/test/cluster/lab"
)

// cluster is shared by the tests of this package; see lab.Main.
var cluster *lab.Cluster

func TestMain(m *testing.M) {
	os.Exit(lab.Main(m, lab.Options{
		Install: []string{"deploy/base"},
		// Some distributions have this plugin: an owner that waits needs a right of its own.
		APIServer: []string{"--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement"},
	}, &cluster))
}
