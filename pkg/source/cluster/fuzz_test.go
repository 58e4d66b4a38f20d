// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// FuzzOrder has anything for the last order on disk, and for an object of the API
// server. Each entry is obeyed or refused with a reason, and what was read is the
// same when it was written and read again.
func FuzzOrder(f *testing.F) {
	f.Add([]byte(`{"node":"n1","uid":"u","generation":3,"modules":[{"namespace":"ns","name":"m","revision":"r","moduleLoader":{"container":{` +
		`"modprobe":{"moduleName":"dummy"},"kernelMappings":[{"regexp":".+","containerImage":"r/i:1"}]}}}]}`))
	f.Add([]byte(`{"node":"n1","modules":[{"name":"../x","moduleLoader":{"container":{"kernelMappings":[{"regexp":"("}]}}},{}]}`))
	f.Add([]byte(`{"metadata":{"name":"n1","generation":1},"spec":{"modules":[{"namespace":"ns","name":"m"}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "cluster.json")
		require.NoError(t, os.WriteFile(path, data, 0o600))
		o, err := readState(path)
		if err == nil {
			n := o.node()
			checkNode(t, len(o.Modules), n)
			require.NoError(t, writeState(path, o))
			again, err := readState(path)
			require.NoError(t, err)
			assert.Equal(t, n, again.node())
		}
		var nmc v1beta1.NodeModulesConfig
		if json.Unmarshal(data, &nmc) == nil {
			checkNode(t, len(nmc.Spec.Modules), orderOf(&nmc, nil).node())
		}
	})
}

func checkNode(t *testing.T, entries int, n spec.Node) {
	t.Helper()
	assert.Equal(t, entries, len(n.Modules)+len(n.Refused))
	assert.Empty(t, n.Invalid, "nothing of the cluster keeps the rest from being unloaded")
	for i := range n.Modules {
		m := &n.Modules[i]
		assert.NotEmpty(t, m.Metadata.Name)
		if c, err := m.For("6.1.0-1-amd64"); err == nil {
			assert.NotEmpty(t, c.Image)
		}
	}
	for i := range n.Refused {
		assert.NotEmpty(t, n.Refused[i].Message)
	}
}
