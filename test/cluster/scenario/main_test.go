// SPDX-License-Identifier: Apache-2.0

// Package scenario plays what happens in a cluster's life: a real control plane,
// the real kmm-watcher with its own rights, nodes with the real agent on a
// kernel in memory, and a person with kubectl.
package scenario

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/kmm-node/kmmd/test/cluster/lab"
)

// cluster and its watcher are shared by all tests that do not stop one of them.
var cluster *lab.Cluster

// options are those of every control plane here.
var options = lab.Options{ControllerManager: true, Scheduler: true, Install: []string{"deploy/base"}}

func TestMain(m *testing.M) {
	os.Exit(lab.Main(runner{m}, options, &cluster))
}

// runner starts the watcher before the tests.
type runner struct{ *testing.M }

func (r runner) Run() int {
	watcher, err := cluster.StartWatcher(context.Background(), "shared")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer watcher.Kill()
	return r.M.Run()
}
