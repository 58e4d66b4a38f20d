// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestModules(t *testing.T) {
	list, err := openTree(t, debian61).Modules()
	require.NoError(t, err)
	require.Len(t, list, 14)
	assert.Equal(t, uint64(0xffffffffc0496000), list[13].Address)
	for i := range list {
		list[i].Address = 0
	}
	assert.Equal(t, []Module{
		{Name: "kmm_sleep", Size: 28672, Refs: 1, State: StateComing, Taint: "OE"},
		{Name: "vfio_iommu_type1", Size: 45056, State: StateLive},
		{Name: "vfio", Size: 49152, Refs: 1, UsedBy: []string{"vfio_iommu_type1"}, State: StateLive},
		{Name: "dummy", Size: 16384, State: StateLive, Taint: "OE"},
	}, list[:4])
	assert.Equal(t, Module{Name: "virtio_ring", Size: 49152, Refs: 3, UsedBy: []string{"virtio_net", "virtio_pci", "virtio"},
		State: StateLive}, list[13])
}

func TestModule(t *testing.T) {
	for _, tt := range []struct{ release, buildID string }{
		{debian61, "a06aa9ba827f7bc6a1b1521873fbec1bf4b02e88"},
		{debian612, "533ceac2f21b44a18c03944a67c9e0d83bee56db"},
	} {
		t.Run(tt.release, func(t *testing.T) {
			m, err := openTree(t, tt.release).Module("kmm_base")
			require.NoError(t, err)
			assert.Equal(t, tt.buildID, m.BuildID)
			assert.Equal(t, "454FEFEAF9767598015C2E7", m.SrcVersion)
			assert.Equal(t, "1.0", m.Version)
			assert.Equal(t, []string{"kmm_dep"}, m.UsedBy)
			assert.Equal(t, "OE", m.Taint)
			assert.Equal(t, map[string]string{
				"level": "3", "count": "2", "flag": "N", "negated": "Y", "label": "a b", "list": "", "big": "4294967296",
				"octet": "7", "small": "-3", "fixed": "fixed", "secret": "4", "bare": "0",
			}, m.Parameters)
		})
	}
	h := openTree(t, debian61)
	m, err := h.Module("kmm_sleep")
	require.NoError(t, err)
	assert.Equal(t, StateComing, m.State)
	assert.Equal(t, map[string]string{"secs": "60"}, m.Parameters)
	for _, name := range []string{"kmm-base", "kmm", "", ".", "../module/kmm_base", "firmware_class"} {
		_, err := h.Module(name)
		assert.ErrorIs(t, err, ErrNotLoaded, name)
	}
}

func TestParseModules(t *testing.T) {
	tests := []struct {
		line string
		want Module
		bad  string
	}{
		{line: "a 1 -1 - Unloading 0x0 (OE-)", want: Module{Name: "a", Size: 1, Refs: -1, State: StateGoing, Taint: "OE"}},
		{line: "a 1 2 [permanent], Live 0x0", want: Module{Name: "a", Size: 1, Refs: 2, Permanent: true, State: StateLive}},
		{line: "a 1 2 b,c,[permanent], Live 0x0 (POE)",
			want: Module{Name: "a", Size: 1, Refs: 2, UsedBy: []string{"b", "c"}, Permanent: true, State: StateLive, Taint: "POE"}},
		{line: "a 1 - - Live 0x0", want: Module{Name: "a", Size: 1, Refs: -1, State: StateLive}}, // no CONFIG_MODULE_UNLOAD
		{line: "a 1 0 -", bad: `line "a 1 0 -"`},
		{line: "a x 0 - Live 0x0", bad: "size of a"},
		{line: "a 1 x - Live 0x0", bad: "references of a"},
		{line: "a 1 0 - Sleeping 0x0", bad: `a: unknown state "Sleeping"`},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			ms, err := parseModules(tt.line)
			if tt.bad != "" {
				require.ErrorContains(t, err, tt.bad)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, []Module{tt.want}, ms)
		})
	}
	ms, err := parseModules("")
	require.NoError(t, err)
	assert.Empty(t, ms)
}

func TestBuildID(t *testing.T) {
	note := func(name string, typ uint32, desc string) string {
		b := binary.NativeEndian.AppendUint32(nil, uint32(len(name)))
		b = binary.NativeEndian.AppendUint32(b, uint32(len(desc)))
		b = binary.NativeEndian.AppendUint32(b, typ)
		pad := func(s string) string { return s + strings.Repeat("\x00", -len(s)&3) }
		return string(b) + pad(name) + pad(desc)
	}
	id := note("GNU\x00", 3, "\x01\xab")
	tests := []struct{ name, notes, want string }{
		{"plain", id, "01ab"},
		{"after others", note("Linux\x00", 256, "6.1") + note("GNU\x00", 5, "xyz") + id, "01ab"},
		{"not padded at the end", id[:len(id)-2], "01ab"},
		{"cut", id[:len(id)-3], ""},
		{"other name", note("GNX\x00", 3, "\x01"), ""},
		{"empty", "", ""},
		{"huge", "\xff\xff\xff\xff\xff\xff\xff\xff\x03\x00\x00\x00GNU\x00", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, buildID([]byte(tt.notes))) })
	}
}

func FuzzBuildID(f *testing.F) {
	b, err := os.ReadFile(filepath.Join("testdata", debian61, "sys/module/vfio/notes/.note.gnu.build-id"))
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		got := buildID(b)
		// The first note that is one, of those that are whole.
		want := ""
		for rest := b; len(rest) >= 12 && want == ""; {
			name, desc, kind := int64(binary.NativeEndian.Uint32(rest)), int64(binary.NativeEndian.Uint32(rest[4:])), binary.NativeEndian.Uint32(rest[8:])
			from := 12 + (name+3)/4*4
			if from+desc > int64(len(rest)) {
				break
			}
			if kind == 3 && string(rest[12:12+name]) == "GNU\x00" {
				want = hex.EncodeToString(rest[from : from+desc])
				break
			}
			rest = rest[min(from+(desc+3)/4*4, int64(len(rest))):]
		}
		assert.Equal(t, want, got)
	})
}

func FuzzParseModules(f *testing.F) {
	for _, release := range []string{debian61, debian612} {
		b, err := os.ReadFile(filepath.Join("testdata", release, "proc/modules"))
		require.NoError(f, err)
		f.Add(string(b))
	}
	f.Fuzz(func(t *testing.T, s string) {
		ms, err := parseModules(s)
		states := map[string]string{StateLive: "Live", StateComing: "Loading", StateGoing: "Unloading"}
		var again strings.Builder
		for _, m := range ms {
			require.NoError(t, err)
			require.NotEmpty(t, m.Name)
			users := strings.Join(m.UsedBy, ",") + ","
			if m.Permanent {
				users += "[permanent],"
			}
			if users == "," {
				users = "-"
			}
			fmt.Fprintf(&again, "%s %d %d %s %s 0x%016x (%s)\n", m.Name, m.Size, m.Refs, users, states[m.State], m.Address, m.Taint)
		}
		same, err := parseModules(again.String())
		require.NoError(t, err)
		assert.Equal(t, ms, same)
	})
}

func BenchmarkModules(b *testing.B) {
	h, err := Open(filepath.Join("testdata", debian61))
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Modules(); err != nil {
			b.Fatal(err)
		}
	}
}
