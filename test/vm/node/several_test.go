// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/spec"
	"github.com/kmm-node/kmmd/test/vm/guest"
)

// TestTwentyModules: the broken ones do not hold up the others.
func TestTwentyModules(t *testing.T) {
	guest.OneKernel(t)
	n := newNode(t)
	good := []string{"veth", "ifb", "macvlan", "vxlan", "bonding", "tun", "nbd", "loop", "squashfs", "isofs", "overlay", "xfs", "bridge", "8021q", "null_blk"}
	content := map[string]string{}
	for _, name := range good {
		file := n.requireInTreeFile(name)
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		content["opt/lib/modules/"+n.release+"/"+filepath.Base(file)] = string(data)
	}
	ref := os.Getenv("KMMD_VM_REGISTRY") + "/test/twenty:1"
	imagestest.Push(t, ref, imagestest.Layer(t, content))
	broken := map[string]spec.Reason{}
	bad := func(name string, reason spec.Reason, document string) {
		broken[name] = reason
		n.document(name+".yaml", document)
	}
	bad("b1", spec.ReasonInitFailed, module("b1", n.image("b1", []string{"variants/init-fails/dummy.ko"}, nil), "dummy"))
	bad("b2", spec.ReasonUnknownSymbol, module("b2", n.image("b2", []string{"variants/unknown-symbol/dummy.ko"}, nil), "dummy"))
	bad("c3", spec.ReasonImageNotFound, module("c3", os.Getenv("KMMD_VM_REGISTRY")+"/test/none:1", "kmm_base"))
	bad("d4", spec.ReasonNoMapping, strings.Replace(module("d4", ref, "kmm_base"), "'^.+$'", "'^2\\.'", 1))
	bad("e5", spec.ReasonInvalidParameter, module("e5", n.image("e5", []string{"kmm_base.ko"}, nil), "kmm_base", "modprobe.parameters: [level=x]"))
	// Two that want different builds of one name exclude each other.
	broken["b1"], broken["b2"] = spec.ReasonConflict, spec.ReasonConflict
	for i, name := range good {
		n.document(fmt.Sprintf("good%d.yaml", i), module("g"+strings.ReplaceAll(name, "_", "-"), ref, name))
	}
	status, all, code := n.once()
	require.Equal(t, 1, code, all)
	require.Len(t, status.Modules, 20)
	for _, m := range status.Modules {
		if reason, isBroken := broken[m.Name]; isBroken {
			assert.Equal(t, reason, m.Reason, m.Message)
		} else {
			assert.Equal(t, spec.StateLoaded, m.State, "%s: %s", m.Name, m.Message)
		}
	}
	for _, name := range good {
		n.requireInTree(name)
	}
	entries, err := os.ReadDir(n.path("docs"))
	require.NoError(t, err)
	for _, e := range entries {
		n.remove(e.Name())
	}
	_, all, code = n.once()
	require.Equal(t, 0, code, all)
	for _, name := range good {
		n.requireAbsent(name)
	}
}
