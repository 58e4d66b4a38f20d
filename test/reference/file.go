// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Hold compares a page with the file of the repository, whose root is given. With
// update it writes the file instead.
func Hold(t *testing.T, root, path, text string, update bool) {
	t.Helper()
	file := filepath.Join(root, path)
	if update {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
		return
	}
	have, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, text, string(have), "%s is not what the code says: make gen", path)
}
