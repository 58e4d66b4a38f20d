// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const inJSON = `{"apiVersion":"kmm.sigs.x-k8s.io/v1beta1","kind":"Module","metadata":{"namespace":"ns","name":"nic"},
"spec":{"moduleLoader":{"container":{"modprobe":{"moduleName":"dummy"},"inTreeModulesToRemove":["dummy"],
"kernelMappings":[{"literal":"a","containerImage":"r/x:1"%s}]}}}}`

func TestParseJSON(t *testing.T) {
	m, err := ParseJSON("Module ns/nic (cluster)", fmt.Appendf(nil, inJSON, ""))
	require.NoError(t, err)
	assert.Equal(t, "ns/nic", m.Key())
	assert.Empty(t, m.File)
	choice, err := m.For("a")
	require.NoError(t, err)
	assert.Equal(t, []string{"dummy"}, choice.RemoveInTree)

	t.Run("an empty list is not a missing one", func(t *testing.T) {
		m, err := ParseJSON("x", fmt.Appendf(nil, inJSON, `,"inTreeModulesToRemove":[]`))
		require.NoError(t, err)
		choice, err := m.For("a")
		require.NoError(t, err)
		assert.Empty(t, choice.RemoveInTree)
	})
	for _, tt := range []struct{ name, data, message string }{
		{"a field that is wrong", fmt.Sprintf(inJSON, `,"regexp":"b"`),
			"Module ns/nic (cluster): spec.moduleLoader.container.kernelMappings[0]: has both literal and regexp: it may have only one"},
		{"a type that is wrong", fmt.Sprintf(inJSON, `,"regexp":1`), "kernelMappings[0].regexp: must be a string, is 1"},
		{"no JSON", "{", "Module ns/nic (cluster): unexpected end of JSON input"},
		{"null", "null", "Module ns/nic (cluster): kind: is missing"},
		{"too large", strings.Repeat(" ", MaxDocumentSize+1), "more than the 1048576 a document may have"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseJSON("Module ns/nic (cluster)", []byte(tt.data))
			require.ErrorIs(t, err, ErrInvalid)
			assert.ErrorContains(t, err, tt.message)
		})
	}
}
