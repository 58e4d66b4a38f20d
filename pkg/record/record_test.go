// SPDX-License-Identifier: Apache-2.0

package record

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSeal(t *testing.T) {
	for _, object := range []string{`{"a":1}`, "{\n \"a\": [1, {\"sum\":\"x\"}]\n}\n", `{"a":{"b":"}"}}`} {
		t.Run(object, func(t *testing.T) {
			sealed := Seal([]byte(object))
			var have, want map[string]any
			require.NoError(t, json.Unmarshal(sealed, &have), "it is JSON still")
			require.NoError(t, json.Unmarshal([]byte(object), &want))
			delete(have, "sum")
			assert.Equal(t, want, have)

			opened, err := Open(append(sealed, '\n'))
			require.NoError(t, err)
			assert.JSONEq(t, object, string(opened))
		})
	}
}

// TestDamage: each bit counts, and each length.
func TestDamage(t *testing.T) {
	sealed := Seal([]byte(`{"owner":"default/nic","n":[1,2]}`))
	for i := range sealed {
		for bit := range 8 {
			damaged := append([]byte{}, sealed...)
			damaged[i] ^= 1 << bit
			_, err := Open(damaged)
			require.ErrorIs(t, err, ErrDamaged, "%s", damaged)
		}
		_, err := Open(sealed[:i])
		require.ErrorIs(t, err, ErrDamaged, "%s", sealed[:i])
	}
	for _, other := range []string{"", "null", "{}", "[1]", `{"a":1}`, string(make([]byte, 200))} {
		_, err := Open([]byte(other))
		require.ErrorIs(t, err, ErrDamaged, other)
	}
}
