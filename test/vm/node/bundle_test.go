// SPDX-License-Identifier: Apache-2.0

package node

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/vm/guest"
)

// bundle runs `kmmd bundle` and gives the files of the archive.
func (n *node) bundle(name string) map[string]string {
	n.t.Helper()
	_, all, code := n.run(binary, nil, "bundle", "--to", n.path(name))
	require.Equal(n.t, 0, code, all)
	info, err := os.Stat(n.path(name))
	require.NoError(n.t, err)
	assert.Equal(n.t, os.FileMode(0o600), info.Mode())
	f, err := os.Open(n.path(name))
	require.NoError(n.t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(n.t, err)
	out := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		require.NoError(n.t, err)
		body, err := io.ReadAll(r)
		require.NoError(n.t, err)
		_, file, _ := strings.Cut(h.Name, "/")
		out[file] = string(body)
	}
}

// TestBundle: on a real kernel, with the daemon and without, and with the
// registry away.
func TestBundle(t *testing.T) {
	guest.OneKernel(t)
	n := newNode(t)
	n.command("modprobe", "dummy")
	n.document("base.yaml", module("base", n.image("bundle", []string{"kmm_base.ko"}, nil), "kmm_base"))
	n.document("bad.yaml", module("bad", n.image("bundle-bad", []string{"variants/init-fails/dummy.ko"}, nil), "dummy", "inTreeModulesToRemove: [dummy]"))
	n.document("away.yaml", module("away", "10.0.2.2:1/test/none:1", "null_blk"))
	d := n.start()
	n.eventually("tried", func() bool {
		modules := n.status().Modules
		return len(modules) == 3 && modules[1].State == "Failed" && modules[2].State == "Loaded"
	})
	up := n.bundle("up.tar.gz")
	d.stop()
	down := n.bundle("down.tar.gz")
	for _, files := range []map[string]string{up, down} {
		for name, words := range map[string]string{
			"status.txt":               "default/base: Loaded",
			"plan.txt":                 "10.0.2.2:1/test/none:1",
			"explain.txt":              "default/bad",
			"modules/kmm_base.json":    n.requireBuild("kmm_base.ko").BuildID,
			"modules/dummy.json":       n.requireInTree("dummy").BuildID,
			"kernel/log.txt":           "dummy: init fails, as it was built to",
			"kernel/facts.json":        n.release,
			"kernel/proc/modules":      "kmm_base ",
			"store.json":               "/test/bundle:1",
			"documents/away.yaml.json": "null_blk",
			"version.txt":              "kmmd ",
			"modules/kmm_base.use.txt": "kmm_base",
			"config/effective.toml":    n.path("state"),
		} {
			assert.Contains(t, files[name], words, name)
		}
	}
	assert.Contains(t, up["daemon/metrics.txt"], "kmmd_module_state")
	assert.Contains(t, up["daemon/process.txt"], "kmmd")
	assert.Contains(t, down["daemon/livez.txt.error"], "connection refused")
	for name := range up {
		if strings.HasSuffix(name, ".error") {
			t.Logf("%s: %s", name, up[name])
		}
	}
}
