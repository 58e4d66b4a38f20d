// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"bytes"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func multipath(index ...int) []byte {
	var b []byte
	for i, n := range index {
		hop := make([]byte, 8)
		native.PutUint16(hop, 8)
		hop[2], hop[3] = 1|16|onlink, byte(i)
		native.PutUint32(hop[4:], uint32(n))
		b = append(b, hop...)
	}
	return b
}

func TestMessage(t *testing.T) {
	r := routeOf(100, 16, syscall.RTPROT_STATIC, 2)
	r.set(syscall.RTA_MULTIPATH, multipath(3, 4))
	native.PutUint32(r.head[8:], 1|16|onlink)
	assert.True(t, r.on(map[int]bool{2: true}))
	assert.True(t, r.on(map[int]bool{4: true}))
	assert.False(t, r.on(map[int]bool{5: true}))
	again, err := decode(syscall.RTM_NEWROUTE, r.encode())
	require.NoError(t, err)
	assert.Equal(t, r.encode(), again.encode())
	r.clean()
	assert.EqualValues(t, onlink, u32(r.head[8:]))
	for _, hop := range hops(r.find(syscall.RTA_MULTIPATH)) {
		assert.EqualValues(t, onlink, hop[2])
	}

	// The order of attributes and of next hops does not matter, their content does.
	other := routeOf(100, 16, syscall.RTPROT_STATIC, 2)
	hop := hops(append([]byte(nil), r.find(syscall.RTA_MULTIPATH)...))
	other.attrs = append([]attribute{{syscall.RTA_MULTIPATH, bytes.Join([][]byte{hop[1], hop[0]}, nil)}}, other.attrs...)
	native.PutUint32(other.head[8:], onlink)
	assert.Equal(t, r.key(), other.key())
	other.set(syscall.RTA_PRIORITY, number(1))
	assert.NotEqual(t, r.key(), other.key())
}

func TestDecodeGarbage(t *testing.T) {
	for _, b := range [][]byte{nil, {1}, make([]byte, 11), append(make([]byte, 12), 3, 0, 1, 0), append(make([]byte, 12), 200, 0, 1, 0)} {
		_, err := decode(syscall.RTM_NEWROUTE, b)
		assert.Error(t, err, "%x", b)
	}
	_, err := decode(4711, make([]byte, 100))
	assert.Error(t, err)
	assert.Empty(t, hops([]byte{3, 0, 0, 0, 0, 0, 0, 0}))
	assert.Empty(t, hops([]byte{99, 0, 0, 0, 0, 0, 0, 0}))
}

func FuzzDecode(f *testing.F) {
	r := routeOf(100, 16, syscall.RTPROT_STATIC, 2)
	r.set(syscall.RTA_MULTIPATH, multipath(3, 4))
	f.Add(uint16(syscall.RTM_NEWROUTE), r.encode())
	f.Add(uint16(syscall.RTM_NEWADDR), addressOf(2, []byte{10, 0, 2, 15}, 24, 0).encode())
	f.Add(uint16(syscall.RTM_NEWLINK), linkMessage(1, attribute{syscall.IFLA_LINKINFO, []byte{8, 0, 1, 0, 'v', 0, 0, 0}}).encode())
	f.Fuzz(func(t *testing.T, kind uint16, b []byte) {
		m, err := decode(kind, b)
		if err != nil {
			return
		}
		again, err := decode(kind, m.encode())
		require.NoError(t, err)
		assert.Equal(t, m, again, "given back as it was")
		if kind == syscall.RTM_NEWLINK {
			parseLink(m)
			return
		}
		m.clean()
		m.key()
		if kind != rtmNewQdisc {
			m.describe(func(int) string { return "x" })
		}
	})
}

// TestDumpOfFamily: no kernel has rules, addresses or routes of NET/ROM, as one with ipv6.disable=1 has none of IPv6. It says
// EAFNOSUPPORT, or tells those of all families.
func TestDumpOfFamily(t *testing.T) {
	for _, kind := range []uint16{rtmNewRule, syscall.RTM_NEWADDR, syscall.RTM_NEWROUTE} {
		list, err := dump(kind, header(kind, syscall.AF_NETROM))
		require.NoError(t, err, "messages %d", kind)
		assert.Empty(t, list, "messages %d", kind)
	}
	list, err := dump(syscall.RTM_NEWADDR, header(syscall.RTM_NEWADDR, syscall.AF_UNSPEC))
	require.NoError(t, err)
	assert.NotEmpty(t, list, "of all families: those of lo")
}
