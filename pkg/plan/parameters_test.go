// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestNullInArray: of an array of strings the kernel shows each element, and would take "(null)" for a string.
func TestNullInArray(t *testing.T) {
	types := map[string]string{"id": "array of charp", "name": "array of charp", "enable": "array of bool", "label": "charp"}
	shown := map[string]string{"id": "(null),(null),(null)", "name": "a,(null),c", "enable": "Y,Y,Y", "label": "(null)"}
	out, unseen := currentParameters(types, shown)
	assert.Equal(t, []string{"enable=Y,Y,Y"}, out)
	assert.Empty(t, unseen)
}
