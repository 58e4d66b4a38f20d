// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/devices"
)

// savedOf is a configuration of these interfaces with an MTU.
func savedOf(t *testing.T, mtu int, interfaces ...string) *devices.Network {
	t.Helper()
	text := ""
	for i, name := range interfaces {
		if i > 0 {
			text += ","
		}
		text += fmt.Sprintf(`{"Name":%q,"MTU":%d,"Bus":"pci","Address":"0000:00:%02d.0"}`, name, mtu, len(name))
	}
	var n devices.Network
	require.NoError(t, json.Unmarshal([]byte(`{"Links":[`+text+`]}`), &n))
	return &n
}

func TestSaved(t *testing.T) {
	first := savedOf(t, 9000, "a", "bb")
	var s saved
	s = s.and(first)
	require.Equal(t, saved{first}, s)
	second, third, other := savedOf(t, 1500, "a"), savedOf(t, 1400, "a"), savedOf(t, 1500, "bb")
	s = s.and(second)
	require.Equal(t, saved{first, second}, s, "the first one stays")
	s = s.and(third)
	require.Equal(t, saved{first, third}, s, "there is no end to tries")
	s = s.and(other)
	require.Equal(t, saved{first, third, other}, s)
	again := savedOf(t, 9000, "bb", "a")
	require.Equal(t, saved{first, again}, s.and(again))
}

func TestSavedAsJSON(t *testing.T) {
	one, other := savedOf(t, 9000, "a"), savedOf(t, 1500, "bb")
	for _, s := range []saved{{one}, {one, other}} {
		data, err := json.Marshal(map[string]saved{"ns/a": s})
		require.NoError(t, err)
		var back map[string]saved
		require.NoError(t, json.Unmarshal(data, &back))
		assert.Equal(t, s, back["ns/a"])
		if len(s) == 1 {
			var before map[string]*devices.Network // of an earlier kmmd
			require.NoError(t, json.Unmarshal(data, &before))
			assert.Equal(t, one, before["ns/a"])
		}
	}
	for _, text := range []string{"null", "[]", "[null]"} {
		var s saved
		require.NoError(t, json.Unmarshal([]byte(text), &s))
		assert.Empty(t, s)
	}
	var s saved
	require.Error(t, json.Unmarshal([]byte(`"x"`), &s))
}
