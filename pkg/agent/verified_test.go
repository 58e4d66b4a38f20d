// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

// overwrite gives all files of the store that lie there at this moment another content.
func (n *node) overwrite(content []byte) {
	n.t.Helper()
	files := 0
	err := filepath.WalkDir(n.path("images/files"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		if err := os.Chmod(path, 0o600); err != nil {
			return err
		}
		return os.WriteFile(path, content, 0o600)
	})
	require.NoError(n.t, err)
	require.NotZero(n.t, files)
}

// TestLoadsWhatWasVerified: between the comparison of a file with its digest and the kernel's reading of it nobody can put
// another one there.
func TestLoadsWhatWasVerified(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	evil := kmodtest.Build(ours("evil")["dummy.ko"])
	done := false
	n.OnCall(func(call string) {
		if strings.HasPrefix(call, "load dummy") && !done {
			done = true
			n.overwrite(evil)
		}
	})
	n.reconcile(n.swap(n.image("1", ours("1"), nil)))
	require.True(t, done)
	assert.Equal(t, "1", n.runs("dummy"))
}
