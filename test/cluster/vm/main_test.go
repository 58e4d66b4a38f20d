// SPDX-License-Identifier: Apache-2.0

// Package vm is one test of everything that ships, on a real kernel: kmmd in a
// VM is a node of a real control plane, with the real kmm-watcher and a real
// registry, and a person drives all of it with kubectl. Only the kubelet is
// missing: the test writes into the Node what a kubelet would.
package vm

import (
	"os"
	"testing"

	"github.com/kmm-node/kmmd/test/cluster/lab"
)

var cluster *lab.Cluster

func TestMain(m *testing.M) {
	os.Exit(lab.Main(m, lab.Options{ControllerManager: true, Scheduler: true, Install: []string{"deploy/base"}}, &cluster))
}
