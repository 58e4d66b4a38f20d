// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"math"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLookUp(t *testing.T) {
	at := func(name, mac, address, port string) presentLink {
		return presentLink{linkState{Name: name, MAC: mac}, identity{Bus: "pci", Address: address, Port: port}}
	}
	save := func(l presentLink) savedLink { return savedLink{linkState: l.linkState, identity: l.identity} }
	a, b := at("a", "02:00:00:00:00:01", "0000:00:02.0", ""), at("b", "02:00:00:00:00:02", "0000:00:02.0", "1")
	c := at("c", "02:00:00:00:00:03", "0000:00:03.0", "")
	vlan := presentLink{linkState: linkState{Name: "v", Kind: "vlan"}}
	for _, l := range []struct {
		name  string
		saved []presentLink // the first is looked for
		now   []presentLink
		want  string
	}{
		{"the same", []presentLink{a, b, c}, []presentLink{c, b, a}, "a"},
		{"not there", []presentLink{a, c}, []presentLink{c}, ""},
		{"another name", []presentLink{a, b}, []presentLink{b, at("x", a.MAC, a.Address, "")}, "x"},
		{"another MAC address", []presentLink{a, b}, []presentLink{b, at("x", "02:00:00:00:00:09", a.Address, "")}, "x"},
		{"another name of the port", []presentLink{a, b}, []presentLink{b, at("x", a.MAC, a.Address, "p0")}, "x"},
		{"all of that", []presentLink{c, a}, []presentLink{a, at("x", "02:00:00:00:00:09", c.Address, "p0")}, "x"},
		{"all of that, one of two", []presentLink{a, b}, []presentLink{at("x", "02:00:00:00:00:09", a.Address, "p0")}, ""},
		{"the MAC address on another device", []presentLink{a}, []presentLink{at("a", a.MAC, c.Address, "")}, ""},
		{"without a device", []presentLink{vlan}, []presentLink{a, vlan}, "v"},
		{"without a device, another kind", []presentLink{vlan}, []presentLink{{linkState: linkState{Name: "v", Kind: "dummy"}}}, ""},
	} {
		t.Run(l.name, func(t *testing.T) {
			n := &Network{}
			for _, s := range l.saved {
				n.Links = append(n.Links, save(s))
			}
			got := n.lookUp(l.now, n.Links[0])
			if l.want == "" {
				assert.Nil(t, got)
				return
			}
			require.NotNil(t, got)
			assert.Equal(t, l.want, got.Name)
		})
	}
}

// What is given back later has less time to live.
func TestLiving(t *testing.T) {
	info := func(preferred, valid uint32) []byte {
		b := make([]byte, 16)
		native.PutUint32(b, preferred)
		native.PutUint32(b[4:], valid)
		return b
	}
	r := &restorer{Network: &Network{Saved: time.Now().Add(-100 * time.Second)}}
	for _, b := range [][]byte{info(math.MaxUint32, math.MaxUint32), info(50, 1000), info(50, 90)} {
		a := addressOf(2, []byte{10, 0, 2, 15}, 24, 0)
		a.set(syscall.IFA_CACHEINFO, b)
		r.Addresses = append(r.Addresses, item{Message: a.encode()})
	}
	list := r.living()
	require.Len(t, list, 2)
	for i, want := range [][2]uint32{{math.MaxUint32, math.MaxUint32}, {0, 900}} {
		m, err := decode(syscall.RTM_NEWADDR, list[i].Message)
		require.NoError(t, err)
		got := m.find(syscall.IFA_CACHEINFO)
		assert.InDelta(t, want[0], u32(got), 1)
		assert.InDelta(t, want[1], u32(got[4:]), 1)
	}
}

func TestTranslated(t *testing.T) {
	r := &restorer{Network: &Network{}, index: map[int]int{2: 12}}
	r.Links = []savedLink{{linkState: linkState{Index: 2}}, {linkState: linkState{Index: 3}}}
	m := routeOf(100, 16, syscall.RTPROT_STATIC, 2)
	m.set(syscall.RTA_MULTIPATH, multipath(2, 7))
	got, err := r.translated(syscall.RTM_NEWROUTE, item{Message: m.encode()})
	require.NoError(t, err)
	assert.True(t, got.on(map[int]bool{12: true}))
	assert.True(t, got.on(map[int]bool{7: true}), "of another interface, which stays what it is")
	assert.False(t, got.on(map[int]bool{2: true}))

	m = routeOf(100, 16, syscall.RTPROT_STATIC, 3)
	got, err = r.translated(syscall.RTM_NEWROUTE, item{Message: m.encode()})
	require.NoError(t, err)
	assert.Nil(t, got, "not back yet")
}

func TestSavedHops(t *testing.T) {
	hop := func(id, oif int, members ...byte) *message {
		m := &message{kind: rtmNewNextHop, head: header(rtmNewNextHop, 0)}
		m.set(nhaID, number(id))
		if oif != 0 {
			m.set(nhaOIF, number(oif))
		}
		for _, member := range members {
			m.set(nhaGroup, append(m.find(nhaGroup), member, 0, 0, 0, 0, 0, 0, 0))
		}
		return m
	}
	list := savedHops([]*message{hop(9, 0, 1, 2), hop(1, 2), hop(2, 3), hop(8, 0, 2)}, map[int]bool{2: true})
	require.Len(t, list, 2)
	assert.EqualValues(t, 1, list[0].u32(nhaID))
	assert.EqualValues(t, 9, list[1].u32(nhaID), "a group after its members")
}

func TestRenames(t *testing.T) {
	for name, wrong := range map[string][]misnamed{
		"one":           {{2, "eth0", "fast"}},
		"exchanged":     {{2, "eth0", "eth1"}, {3, "eth1", "eth0"}},
		"shifted":       {{2, "eth0", "eth1"}, {3, "eth1", "eth2"}},
		"shifted back":  {{2, "eth2", "eth1"}, {3, "eth1", "eth0"}},
		"last first":    {{3, "eth1", "eth2"}, {2, "eth0", "eth1"}},
		"in a ring":     {{2, "eth0", "eth1"}, {3, "eth1", "eth2"}, {4, "eth2", "eth0"}},
		"a ring beside": {{5, "b", "c"}, {2, "eth0", "eth1"}, {6, "c", "b"}, {3, "eth1", "a"}},
	} {
		t.Run(name, func(t *testing.T) {
			names := map[int]string{}
			for _, w := range wrong {
				names[w.index] = w.now
			}
			for _, step := range renames(wrong) {
				assert.Equal(t, names[step.index], step.now)
				for index, taken := range names {
					assert.NotEqual(t, taken, step.name, "%d has the name that %d is to get", index, step.index)
				}
				names[step.index] = step.name
			}
			for _, w := range wrong {
				assert.Equal(t, w.name, names[w.index])
			}
		})
	}
}
