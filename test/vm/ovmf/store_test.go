// SPDX-License-Identifier: Apache-2.0

package ovmf_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/vm/ovmf"
)

const room = 400

// image is a firmware volume with an empty store of variables, and something behind it.
func image(t *testing.T) []byte {
	t.Helper()
	le := binary.LittleEndian
	volume := make([]byte, 72)
	copy(volume[40:], "_FVH")
	le.PutUint16(volume[48:], 72)
	mark, err := hex.DecodeString("782cf3aa7b949a43a1802e144ec37792")
	require.NoError(t, err)
	store := append(le.AppendUint32(mark, 28+room), 0x5a, 0xfe, 0, 0, 0, 0, 0, 0)
	out := append(volume, store...)
	out = append(out, bytes.Repeat([]byte{0xff}, room)...)
	return append(out, "behind it"...)
}

func TestSet(t *testing.T) {
	empty := image(t)
	s, err := ovmf.Parse(empty)
	require.NoError(t, err)
	assert.Empty(t, s.Variables)
	same, err := s.Bytes()
	require.NoError(t, err)
	assert.Equal(t, empty, same)

	odd := ovmf.Variable{Name: "db", Vendor: ovmf.SecurityDatabase(), Attributes: 0x27, Data: []byte("odd")}
	on := ovmf.Variable{Name: "SecureBootEnable", Vendor: ovmf.SecureBootEnable(), Attributes: 3, Data: []byte{1}}
	s.Set(odd)
	s.Set(on)
	on.Data = []byte{0}
	s.Set(on)
	out, err := s.Bytes()
	require.NoError(t, err)
	assert.Len(t, out, len(empty))
	assert.Equal(t, "behind it", string(out[len(out)-9:]))

	// As the firmware reads it.
	first := out[72+28:]
	assert.Equal(t, "aa553f0027000000", hex.EncodeToString(first[:8]))
	assert.Equal(t, "06000000"+"03000000"+"cbb219d73a3d9645a3bcdad00e67656f"+"640062000000"+hex.EncodeToString([]byte("odd"))+"ffffff", hex.EncodeToString(first[36:72]))
	assert.Equal(t, "aa55", hex.EncodeToString(first[72:74]), "aligned")

	again, err := ovmf.Parse(out)
	require.NoError(t, err)
	assert.Equal(t, []ovmf.Variable{odd, on}, again.Variables)

	// One that was deleted is left out, and what is behind it is not.
	first[2] = 0x3d
	again, err = ovmf.Parse(out)
	require.NoError(t, err)
	assert.Equal(t, []ovmf.Variable{on}, again.Variables)
}

func TestNoRoom(t *testing.T) {
	s, err := ovmf.Parse(image(t))
	require.NoError(t, err)
	s.Set(ovmf.Variable{Name: "db", Data: make([]byte, room)})
	_, err = s.Bytes()
	assert.ErrorContains(t, err, "there is room for 400")
}

func TestNotAStore(t *testing.T) {
	whole := image(t)
	cut := func(n int) []byte { return whole[:n] }
	other := bytes.Clone(whole)
	other[72]++
	long := bytes.Clone(whole)
	copy(long[100:], "\xaa\x55\x3f\x00")
	long[100+40], long[100+41] = 0xff, 0xff // of its data
	for name, b := range map[string][]byte{"empty": nil, "no volume": make([]byte, 100), "cut": cut(90), "cut in the store": cut(200), "plain variables": other, "long variable": long} {
		_, err := ovmf.Parse(b)
		assert.ErrorIs(t, err, ovmf.ErrFormat, name)
	}
}
