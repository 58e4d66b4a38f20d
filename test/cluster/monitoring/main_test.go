// SPDX-License-Identifier: Apache-2.0

// Package monitoring has a real Prometheus scrape two real kmm-watchers and a real
// kmmd, which a person gives Modules that can not work.
package monitoring

import (
	"os"
	"testing"

	"github.com/kmm-node/kmmd/test/cluster/lab"
)

var cluster *lab.Cluster

func TestMain(m *testing.M) {
	os.Exit(lab.Main(m, lab.Options{Install: []string{"deploy/base"}}, &cluster))
}
