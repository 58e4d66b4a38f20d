// SPDX-License-Identifier: Apache-2.0

// Package e2e is the one test in which nothing is played: a control plane, and
// nodes with kubelets and containerd, run the images that ship as the manifests
// that ship say, and a person with kubectl installs them, uses them, updates
// them and takes them away. What runs in a node's kernel is looked at without
// kmmd's help. `make e2e` runs it.
package e2e

import (
	"fmt"
	"os"
	"testing"

	"github.com/kmm-node/kmmd/test/cluster/lab"
)

var cluster *lab.Cluster

func TestMain(m *testing.M) {
	if os.Getenv("KMMD_E2E") == "" {
		fmt.Println("skip: run it by make e2e")
		return
	}
	os.Exit(lab.Main(m, lab.Options{ControllerManager: true, Scheduler: true, Kubelets: true}, &cluster))
}
