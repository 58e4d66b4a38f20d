// SPDX-License-Identifier: Apache-2.0

package node

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/spec"
	"github.com/kmm-node/kmmd/test/vm/guest"
)

// stored is what `kmmd image ls -o json` tells, as far as it is looked at.
type stored struct {
	Images []struct {
		Refs, PinnedBy []string
		Digest, Kernel string
	}
	Bytes, Quota int64
}

func (n *node) stored() (s stored) {
	n.t.Helper()
	out, all, code := n.run(binary, nil, "image", "ls", "-o", "json")
	require.Equal(n.t, 0, code, all)
	require.NoError(n.t, json.Unmarshal([]byte(out), &s), out)
	return s
}

// TestPolicyOfTheNode: the rules of kmmd.toml hold against the document, are
// named, and leave the kernel as it is.
func TestPolicyOfTheNode(t *testing.T) {
	guest.OneKernel(t)
	for _, tt := range []struct{ rule, key, words string }{
		{"never_load", `never_load = ["kmm-base"]`, "policy never_load: kmm_base"},
		{"never_remove", `never_remove = ["dummy"]`, "policy never_remove: dummy"},
		{"allowed_repositories", `allowed_repositories = ["registry.example"]`, "policy allowed_repositories"},
		{"require_digest", `require_digest = true`, "policy require_digest"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			n := newNode(t)
			n.command("modprobe", "dummy")
			n.configure("[policy]\n" + tt.key + "\n")
			ref := n.image("policy", []string{"dummy.ko", "kmm_base.ko", "kmm_dep.ko"}, nil)
			n.document("a.yaml", module("swap", ref, "dummy", "inTreeModulesToRemove: [dummy]", "modprobe.modulesLoadingOrder: [dummy, kmm_base]"))
			status, all, code := n.once()
			require.Equal(t, 1, code, all)
			assert.Equal(t, spec.ReasonPolicy, status.Modules[0].Reason, all)
			assert.Contains(t, status.Modules[0].Message, tt.words)
			n.requireInTree("dummy")
		})
	}
}

// TestImages: what runs or is wanted stays in the store when it is pruned.
func TestImages(t *testing.T) {
	guest.OneKernel(t)
	n := newNode(t)
	first := n.image("images-1", []string{"dummy.ko"}, nil)
	other := n.image("images-2", []string{"kmm_base.ko"}, nil)
	n.document("a.yaml", module("nic", first, "dummy"))
	n.requireLoaded()
	_, all, code := n.run(binary, nil, "image", "pull", "--insecure", other)
	require.Equal(t, 0, code, all)
	require.Len(t, n.stored().Images, 2, all)

	_, all, code = n.run(binary, nil, "image", "rm", first)
	assert.Equal(t, 1, code, "what runs is not removed")
	assert.Contains(t, all, "default/nic")
	_, all, code = n.run(binary, nil, "image", "prune")
	require.Equal(t, 0, code, all)
	left := n.stored()
	require.Len(t, left.Images, 1)
	assert.Equal(t, []string{"default/nic"}, left.Images[0].PinnedBy)
	assert.Positive(t, left.Bytes)

	n.command("rmmod", "dummy")
	out, all, code := n.run(binary, nil, "image", "pull")
	require.Equal(t, 0, code, all)
	assert.Contains(t, out, "default/nic: ready")
	n.requireLoaded()

	n.remove("a.yaml")
	_, all, code = n.once()
	require.Equal(t, 0, code, all)
	_, all, code = n.run(binary, nil, "image", "prune")
	require.Equal(t, 0, code, all)
	assert.Empty(t, n.stored().Images, "nothing runs, nothing is wanted")
}

// TestPrestage: an installed kernel that does not run has its images early.
func TestPrestage(t *testing.T) {
	guest.OneKernel(t)
	n := newNode(t)
	const next = "9.9.9-next"
	dir := "/lib/modules/" + next + "/kernel"
	require.NoError(t, os.MkdirAll(dir, 0o755))
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll("/lib/modules/"+next)) })
	n.configure("prestage = true\n")
	n.document("a.yaml", module("nic", n.image("prestage", []string{"dummy.ko"}, nil), "dummy"))
	status, all, code := n.once()
	require.Equal(t, 0, code, all)
	require.Len(t, status.Staged, 1, all)
	assert.Equal(t, next, status.Staged[0].Kernel)
	assert.Equal(t, spec.ReasonNoModules, status.Staged[0].Reason, "the image is for the running kernel only")
}
