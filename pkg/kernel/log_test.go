// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// logFile has records as /dev/kmsg gives them, and a line that is none.
const logFile = `6,1,1000,-;Linux version 6.1.0
4,2,12345678,-;dummy: loading out-of-tree module taints kernel.
 SUBSYSTEM=module
3,3,13000001,-;null-blk: disk nullb0 created
12,4,13000002,-;dummy: written by user space
6,5,13000003,-;usb 1-1: new device
3,6,1400000000,-;module: x86/modules: Skipping invalid relocation target
4,7,1400000001,-;Loading of unsigned module is rejected
broken line
`

func TestModuleLog(t *testing.T) {
	root := t.TempDir()
	for path, content := range map[string]string{
		"proc/sys/kernel/osrelease": "6.1.0\n", "proc/sys/kernel/random/boot_id": "1\n", "dev/kmsg": logFile,
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, path), []byte(content), 0o644))
	}
	h, err := Open(root)
	require.NoError(t, err)
	lines, err := h.ModuleLog([]string{"null_blk"})
	require.NoError(t, err)
	assert.Equal(t, []string{
		"[   12.345678] dummy: loading out-of-tree module taints kernel.",
		"[   13.000001] null-blk: disk nullb0 created",
		"[ 1400.000000] module: x86/modules: Skipping invalid relocation target",
		"[ 1400.000001] Loading of unsigned module is rejected",
	}, lines)

	require.NoError(t, os.Remove(filepath.Join(root, "dev/kmsg")))
	_, err = h.ModuleLog(nil)
	assert.ErrorContains(t, err, "open the kernel's log "+filepath.Join(root, "dev/kmsg"))
}

func TestModuleLogKeepsTheNewest(t *testing.T) {
	var lines []string
	for range logLines {
		lines = appendLog(lines, []string{"dummy"}, []byte("4,2,1000000,-;dummy: old\n"))
	}
	lines = appendLog(lines, []string{"dummy"}, []byte("4,2,2000000,-;dummy: new\n"))
	require.Len(t, lines, logLines)
	assert.True(t, strings.HasSuffix(lines[logLines-1], "dummy: new"))
}
