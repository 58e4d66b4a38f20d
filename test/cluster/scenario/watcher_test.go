// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/cluster/lab"
)

// newWatcher runs a kmm-watcher for one test.
func newWatcher(t *testing.T, c *lab.Cluster, identity string, flags ...string) *lab.Program {
	t.Helper()
	p, err := c.StartWatcher(t.Context(), identity, flags...)
	require.NoError(t, err)
	t.Cleanup(p.Kill)
	return p
}
