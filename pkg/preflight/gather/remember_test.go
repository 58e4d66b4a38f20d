// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/preflight"
)

// TestRemember: of a module that is replaced again and again, the builds that neither
// run nor are about to are forgotten.
func TestRemember(t *testing.T) {
	root := t.TempDir()
	note := filepath.Join(root, "sys/module/ours/notes/.note.gnu.build-id")
	for _, dir := range []string{filepath.Dir(note), filepath.Join(root, "proc/sys/kernel/random")} {
		require.NoError(t, os.MkdirAll(dir, 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(root, "proc/sys/kernel/osrelease"), []byte("6.1.0\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(root, "proc/sys/kernel/random/boot_id"), []byte("x\n"), 0o644))
	h, err := kernel.Open(root)
	require.NoError(t, err)
	c := New(h, "amd64", "")
	running := "01"
	for _, id := range []string{"01", "02", "03", "04"} {
		c.remember([]preflight.Module{{File: &kmod.File{Info: &kmod.Info{Name: "ours", BuildID: id}}}}, []kernel.Module{{Name: "ours"}})
		assert.Contains(t, c.files, id)
		assert.Contains(t, c.files, running)
		assert.LessOrEqual(t, len(c.files), 2, "what runs and what comes")
		text := []byte("\x04\x00\x00\x00\x01\x00\x00\x00\x03\x00\x00\x00GNU\x00" + string(id[1]-'0') + "\x00\x00\x00")
		require.NoError(t, os.WriteFile(note, text, 0o644))
		assert.NotNil(t, c.seen("ours"), "it is loaded")
		running = id
	}
}
