// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/plan"
)

// FuzzLedger has anything for a ledger. What can be read is the same when it was
// written and read again; what can not is set aside, and there is an empty one.
func FuzzLedger(f *testing.F) {
	f.Add([]byte(`{"bootID":"b","modules":{"dummy":{"file":{"name":"dummy","path":"/x","buildID":"00"},"owners":["ns/a"]}},"holds":{"ns/a":["dummy"]},` +
		`"journal":{"ns/a":[{"load":{"name":"dummy"},"ours":true},{"hold":[]},{}]},"networks":{"ns/a":null},"failures":{"ns/a":{"input":"00","reason":"InitFailed"}}}`))
	f.Add([]byte(`{"bootID":"another"}`))
	f.Add([]byte(`{"bootID":"b","modules":null,"firmwarePathBefore":null}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, "ledger.json")
		require.NoError(t, os.WriteFile(path, data, 0o600))
		l, err := openLedger(dir, "b")
		require.NotNil(t, l)
		assert.Equal(t, "b", l.BootID)
		if err != nil {
			assert.FileExists(t, path+".broken")
			assert.Empty(t, l.Modules)
		}
		l.add("ns/new", plan.File{Name: "kmm_new", BuildID: "ff"})
		l.forget("ns/new", "kmm_new", false)
		_ = l.held()
		require.NoError(t, l.save())
		again, err := openLedger(dir, "b")
		require.NoError(t, err)
		assert.Equal(t, l.Modules, again.Modules)
		assert.Equal(t, l.Journal, again.Journal)
		assert.Equal(t, l.Holds, again.Holds)
		for _, steps := range again.Journal {
			for _, u := range steps {
				_ = u.empty()
			}
		}
	})
}
