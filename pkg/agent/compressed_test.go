// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"bytes"
	"compress/gzip"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

// plainFile is one of ours as a file.
func plainFile(path string) []byte {
	s := ours("1")[path]
	s.Name = kmod.Name(path)
	return kmodtest.Build(s)
}

// commented is what gunzip(1) takes and the kernel does not: of a gzip header's optional parts it knows the name only
// (kernel/module/decompress.c, module_gzip_header_len).
func commented(t *testing.T, plain []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Comment = "made by hand"
	_, err := w.Write(plain)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return out.Bytes()
}

// packedImage is an image with these files, packed as their names say.
func (n *node) packedImage(files map[string][]byte) string {
	n.t.Helper()
	content := map[string]string{}
	for name, data := range files {
		content["opt/lib/modules/"+release+"/"+name] = string(data)
	}
	return n.imageOf("packed", content)
}

func TestCompressedFiles(t *testing.T) {
	helper := plainFile("helper.ko")
	for _, tt := range []struct {
		name, knows string
		file        string
		content     []byte
		calls       []string
	}{
		{"by the kernel", "xz", "helper.ko.xz", kmodtest.XZ(t, helper, xz.CRC32), []string{"load helper compressed"}},
		{"by the kernel, without a check", "xz", "helper.ko.xz", kmodtest.XZ(t, helper, xz.None), []string{"load helper compressed"}},
		{"by kmmd", "", "helper.ko.xz", kmodtest.XZ(t, helper, xz.CRC32), []string{"load helper"}},
		{"by kmmd, the kernel knows another one", "zstd", "helper.ko.xz", kmodtest.XZ(t, helper, xz.CRC32), []string{"load helper"}},
		{"by kmmd, with the check of xz(1)", "xz", "helper.ko.xz", kmodtest.XZ(t, helper, xz.CRC64), []string{"load helper"}},
		{"by kmmd, with another check", "xz", "helper.ko.xz", kmodtest.XZ(t, helper, xz.SHA256), []string{"load helper"}},
		{"by kmmd, after the kernel could not", "gzip", "helper.ko.gz", commented(t, helper), []string{"load helper compressed", "load helper"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			n.SetCompression(tt.knows)
			w := want{name: "nic", image: n.packedImage(map[string][]byte{tt.file: tt.content}), module: "helper"}
			require.True(t, n.reconcile(w).OK())
			assert.Equal(t, tt.calls, n.calls())
			left, err := os.ReadDir(n.path("run"))
			require.NoError(t, err)
			assert.Len(t, left, 1, "only the ledger: %v", left)
		})
	}
}

// TestCompressedTogether: a file that the kernel can not unpack, among those that are loaded by one call.
func TestCompressedTogether(t *testing.T) {
	n := newNode(t)
	n.SetCompression("gzip")
	k := n.together()
	w := want{name: "nic", module: "top", image: n.packedImage(map[string][]byte{
		"base.ko": plainFile("base.ko"), "middle.ko.gz": commented(t, plainFile("middle.ko")), "top.ko": plainFile("top.ko"),
	})}
	require.True(t, n.reconcile(w).OK())
	assert.Equal(t, []string{"base middle top"}, k.sets)
	assert.Equal(t, []string{"load base", "load middle compressed", "load middle", "load top"}, n.calls())
}

// TestRollbackToCompressed: the way back may be a file that somebody has packed by hand.
func TestRollbackToCompressed(t *testing.T) {
	for name, tt := range map[string]struct {
		knows, suffix string
		pack          func(*testing.T, []byte) []byte
	}{
		"before the kernel is asked": {"xz", ".xz", func(t *testing.T, plain []byte) []byte { return kmodtest.XZ(t, plain, xz.CRC64) }},
		"after the kernel could not": {"gzip", ".gz", commented},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.SetCompression(tt.knows)
			path := n.inTree("dummy")
			plain, err := os.ReadFile(path)
			require.NoError(t, err)
			n.Preload(path, "numdummies=3")
			require.NoError(t, os.WriteFile(path+tt.suffix, tt.pack(t, plain), 0o644))
			require.NoError(t, os.Remove(path))
			n.refuseFirst("dummy", func() string { return "" })

			m := one(t, n.reconcile(n.swap(n.image("1", ours("1"), nil))))
			assert.True(t, m.RolledBack, m.Message)
			assert.Equal(t, "in-tree", n.runs("dummy"))
			running, err := n.Module("dummy")
			require.NoError(t, err)
			assert.Equal(t, "3", running.Parameters["numdummies"])
			assert.NotContains(t, n.ledger(), "journal")
		})
	}
}
