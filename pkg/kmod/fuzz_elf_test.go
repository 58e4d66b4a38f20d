// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"io"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

// counted is a file that knows how much was read of it.
type counted struct {
	*bytes.Reader
	bytes int
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.Reader.ReadAt(p, off)
	c.bytes += n
	return n, err
}

// allocated is how much memory the process has asked for until now.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// FuzzParseInfo has any bytes for a module file. What is read and what is
// allocated is in proportion to them, whatever sizes they claim; and what
// debug/elf can read too says the same.
func FuzzParseInfo(f *testing.F) {
	f.Add(kmodtest.Build(kmodtest.Spec{}))
	f.Add(kmodtest.Build(fullSpec()))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, before := &counted{Reader: bytes.NewReader(data)}, allocated()
		info, err := kmod.ParseInfo("x.ko", file)
		assert.LessOrEqual(t, allocated()-before, uint64(64*len(data)+8<<20))
		assert.LessOrEqual(t, file.bytes, 8*len(data)+1<<20)
		if err != nil {
			assert.Nil(t, info)
			return
		}
		assert.NotContains(t, info.Name, "-")
		_ = info.CheckParameters([]string{"level=1", "on"})
		compareWithELF(t, data, info)
	})
}

// compareWithELF compares with what the standard library finds in the file.
func compareWithELF(t *testing.T, data []byte, info *kmod.Info) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return
	}
	assert.Equal(t, elf.ET_REL, f.Type)
	var values = map[string][]string{}
	for entry := range strings.SplitSeq(sectionText(data, f, ".modinfo"), "\x00") {
		if key, value, ok := strings.Cut(entry, "="); ok {
			values[key] = append(values[key], value)
		}
	}
	last := func(key string) string {
		if list := values[key]; len(list) > 0 {
			return list[len(list)-1]
		}
		return ""
	}
	assert.Equal(t, last("vermagic"), info.Vermagic)
	assert.Equal(t, last("version"), info.Version)
	assert.Equal(t, values["alias"], info.Aliases)
	assert.Equal(t, values["firmware"], info.Firmware)
	assert.Equal(t, len(values["intree"]) > 0, info.InTree)
	if name := last("name"); name != "" {
		assert.Equal(t, strings.ReplaceAll(name, "-", "_"), info.Name)
	}
	for _, word := range values["parmtype"] {
		if name, typ, ok := strings.Cut(word, ":"); ok {
			i := slices.IndexFunc(info.Params, func(p kmod.Param) bool {
				return strings.ReplaceAll(p.Name, "-", "_") == strings.ReplaceAll(name, "-", "_")
			})
			require.GreaterOrEqual(t, i, 0, name)
			_ = typ
		}
	}
	// The note as the linker writes it: three words, "GNU\0", the build-id.
	if note := sectionText(data, f, ".note.gnu.build-id"); len(note) > 16 && strings.HasPrefix(note, "\x04\x00\x00\x00\x14\x00\x00\x00\x03\x00\x00\x00GNU\x00") && len(note) == 36 {
		assert.Equal(t, hex.EncodeToString([]byte(note[16:])), info.BuildID)
	}
}

// compressedNames is a module file that says of its names of symbols that they are compressed, to nothing at all.
func compressedNames() []byte {
	data := kmodtest.Build(kmodtest.Spec{Imports: []string{"print", strings.Repeat("x", 20)}})
	le := binary.LittleEndian
	for at := int(le.Uint64(data[40:])); at+64 <= len(data); at += 64 {
		if h := data[at:]; elf.SectionType(le.Uint32(h[4:])) == elf.SHT_STRTAB && le.Uint64(h[32:]) > 24 && h[8]&byte(elf.SHF_ALLOC) == 0 {
			le.PutUint64(h[8:], le.Uint64(h[8:])|uint64(elf.SHF_COMPRESSED))
			clear(data[le.Uint64(h[24:])+8:][:8]) // its length (Elf64_Chdr)
			break
		}
	}
	return data
}

// compareImports compares with the undefined symbols that the standard library
// finds.
func compareImports(t *testing.T, data []byte, got *kmod.Symbols) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return
	}
	symbols, err := f.Symbols()
	if err != nil || f.SectionByType(elf.SHT_SYMTAB) != f.Section(".symtab") {
		return
	}
	table := f.Section(".symtab")
	if (table.Flags|f.Sections[table.Link].Flags)&elf.SHF_COMPRESSED != 0 {
		return // unpacked there; the kernel knows no compressed sections
	}
	var want []string
	for _, s := range symbols {
		if s.Section == elf.SHN_UNDEF && s.Name != "" && s.Name != "_GLOBAL_OFFSET_TABLE_" && len(s.Name) < 512 {
			want = append(want, s.Name)
		}
	}
	var names []string
	for _, i := range got.Imports {
		if len(i.Name) < 512 {
			names = append(names, i.Name)
		}
	}
	assert.Equal(t, want, names)
}

// sectionText is a section as it is in the file, "" without one.
func sectionText(data []byte, f *elf.File, name string) string {
	s := f.Section(name)
	if s == nil || s.Type == elf.SHT_NOBITS {
		return ""
	}
	// As it lies there: the kernel knows no compressed sections.
	b, err := io.ReadAll(io.NewSectionReader(bytes.NewReader(data), int64(s.Offset), int64(s.FileSize)))
	if err != nil {
		return ""
	}
	return string(b)
}

// FuzzRewrite packs and unpacks: what is not changed comes back to the byte, what
// is changed is what is unpacked then.
func FuzzRewrite(f *testing.F) {
	for i := range 4 {
		f.Add(kmodtest.Build(kmodtest.Spec{}), uint8(i))
		f.Add([]byte{}, uint8(i))
	}
	f.Fuzz(func(t *testing.T, plain []byte, kind uint8) {
		how := []string{"", "gzip", "xz", "zstd"}[kind%4]
		packed, err := kmod.Compress(how, plain)
		require.NoError(t, err)
		if how == "" && isPacked(plain) {
			return // looks like what it is not
		}
		var seen []byte
		same, err := kmod.Rewrite(packed, func(b []byte) ([]byte, error) { seen = b; return b, nil })
		require.NoError(t, err)
		assert.True(t, bytes.Equal(plain, seen))
		assert.True(t, bytes.Equal(packed, same))
		longer, err := kmod.Rewrite(packed, func(b []byte) ([]byte, error) { return append(slices.Clone(b), "more"...), nil })
		require.NoError(t, err)
		if how == "" {
			assert.Equal(t, string(plain)+"more", string(longer))
			return
		}
		_, err = kmod.Rewrite(longer, func(b []byte) ([]byte, error) { seen = b; return b, nil })
		require.NoError(t, err)
		assert.Equal(t, string(plain)+"more", string(seen))
	})
}

func isPacked(b []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if strings.HasPrefix(string(b), magic) {
			return true
		}
	}
	return false
}
