// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"bytes"
	"debug/elf"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

const vermagic = "6.1.0-56-cloud-amd64 SMP preempt mod_unload modversions "

func fullSpec() kmodtest.Spec {
	return kmodtest.Spec{
		Name: "kmm_full", Vermagic: vermagic, Version: "1.2", SrcVersion: "ABCDEF", License: "Dual MIT/GPL", InTree: true,
		Depends: []string{"kmm-base", "dummy"}, Aliases: []string{"pci:v1*", "full"}, Firmware: []string{"kmm/fw.bin"},
		Softdeps: []string{"pre: a b post: c", "gcm"}, ImportNS: []string{"KMM"},
		Params:  []kmodtest.Param{{Name: "level", Type: "int", Desc: "how: much"}, {Name: "old", Desc: "no type"}, {Name: "on", Type: "bool"}},
		BuildID: []byte{0xab, 0x01}, Imports: []string{"printk"}, Exports: []string{"kmm_sym"}, Extra: []string{"retpoline=Y"},
	}
}

func wantFull(path string) *kmod.Info {
	return &kmod.Info{
		Name: "kmm_full", Path: path, Vermagic: vermagic, Version: "1.2", SrcVersion: "ABCDEF", License: "Dual MIT/GPL", BuildID: "ab01", Arch: "amd64", InTree: true,
		Depends: []string{"kmm_base", "dummy"}, Aliases: []string{"pci:v1*", "full"}, Firmware: []string{"kmm/fw.bin"}, ImportNS: []string{"KMM"},
		Softdeps: []kmod.Softdep{{Pre: []string{"a", "b"}, Post: []string{"c"}}},
		Params:   []kmod.Param{{Name: "level", Type: "int", Desc: "how: much"}, {Name: "old", Desc: "no type"}, {Name: "on", Type: "bool"}},
	}
}

func TestBuildIsAnELFModule(t *testing.T) {
	f, err := elf.NewFile(bytes.NewReader(kmodtest.Build(fullSpec())))
	require.NoError(t, err)
	assert.Equal(t, elf.ET_REL, f.Type)
	syms, err := f.Symbols()
	require.NoError(t, err)
	assert.Len(t, syms, 5) // with the section symbols of .rodata and __ksymtab_strings
	assert.NotEqual(t, kmodtest.Build(kmodtest.Spec{Name: "a"}), kmodtest.Build(kmodtest.Spec{Name: "a", Version: "2"}))
}

func TestReadInfo(t *testing.T) {
	for _, suffix := range []string{".ko", ".ko.gz", ".ko.xz", ".ko.zst"} {
		t.Run(suffix, func(t *testing.T) {
			dir := t.TempDir()
			kmodtest.WriteTree(t, dir, map[string]kmodtest.Spec{"kernel/kmm-full" + suffix: fullSpec()})
			path := filepath.Join(dir, "kernel/kmm-full"+suffix)
			info, err := kmod.ReadInfo(path)
			require.NoError(t, err)
			assert.Equal(t, wantFull(path), info)
			assert.Equal(t, "6.1.0-56-cloud-amd64", info.Release())
		})
	}
}

func TestInfoName(t *testing.T) {
	tests := []struct {
		name string
		file string
		spec kmodtest.Spec
		want string
	}{
		{name: "modinfo wins over the file name", file: "x/other.ko", spec: kmodtest.Spec{Name: "inner"}, want: "inner"},
		{name: "file name last", file: "x/other-one.ko.xz", spec: kmodtest.Spec{}, want: "other_one"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			info, err := kmod.ParseInfo(tt.file, bytes.NewReader(kmodtest.Build(tt.spec)))
			require.NoError(t, err)
			assert.Equal(t, tt.want, info.Name)
		})
	}
}

func TestArch(t *testing.T) {
	data := kmodtest.Build(kmodtest.Spec{})
	for machine, want := range map[elf.Machine]string{elf.EM_AARCH64: "arm64", elf.EM_RISCV: "EM_RISCV"} {
		data[18] = byte(machine)
		info, err := kmod.ParseInfo("m.ko", bytes.NewReader(data))
		require.NoError(t, err)
		assert.Equal(t, want, info.Arch)
	}
}

func TestInfoNameFromStructModule(t *testing.T) {
	data := kmodtest.Build(kmodtest.Spec{Name: "inner"})
	data = bytes.Replace(data, []byte("\x00name=inner"), []byte("\x00nbme=inner"), 1)
	info, err := kmod.ParseInfo("outer.ko", bytes.NewReader(data))
	require.NoError(t, err)
	assert.Equal(t, "inner", info.Name)
}

// TestManyParameters: each is looked at once, and not once for each of the others.
func TestManyParameters(t *testing.T) {
	var spec kmodtest.Spec
	for i := range 4000 {
		spec.Params = append(spec.Params, kmodtest.Param{Name: fmt.Sprintf("a-%d", i), Type: "int", Desc: "one"})
	}
	data := kmodtest.Build(spec)
	before := allocated()
	info, err := kmod.ParseInfo("x.ko", bytes.NewReader(data))
	require.NoError(t, err)
	assert.LessOrEqual(t, allocated()-before, uint64(16*len(data)))
	assert.Len(t, info.Params, 4000)
	assert.Equal(t, kmod.Param{Name: "a-3999", Type: "int", Desc: "one"}, info.Params[3999])
	assert.NoError(t, info.CheckParameters([]string{"a_7=1"}))
}

func TestParseInfoRefuses(t *testing.T) {
	good := kmodtest.Build(fullSpec())
	patched := func(offset int, b ...byte) []byte {
		data := bytes.Clone(good)
		copy(data[offset:], b)
		return data
	}
	tests := []struct {
		name string
		data []byte
		want error
	}{
		{name: "empty", data: nil, want: kmod.ErrFormat},
		{name: "text", data: bytes.Repeat([]byte("text "), 100), want: kmod.ErrFormat},
		{name: "header only", data: good[:64], want: kmod.ErrFormat},
		{name: "cut off", data: good[:len(good)-70], want: kmod.ErrFormat},
		{name: "32 bit", data: patched(4, 1), want: kmod.ErrFormat},
		{name: "executable", data: patched(16, 2), want: kmod.ErrFormat},
		{name: "section headers far away", data: patched(40, 0, 0, 0, 0, 0, 0, 0, 0x70), want: kmod.ErrFormat},
		{name: "no section names", data: patched(62, 0xf0, 0), want: kmod.ErrFormat},
		{name: "no modinfo", data: bytes.Replace(good, []byte(".modinfo"), []byte(".modonfi"), 1), want: kmod.ErrFormat},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := kmod.ParseInfo("x.ko", bytes.NewReader(tt.data))
			require.ErrorIs(t, err, tt.want)
		})
	}
}

func TestName(t *testing.T) {
	for in, want := range map[string]string{
		"dummy": "dummy", "snd-hda-intel": "snd_hda_intel", "/lib/modules/x/kernel/a-b.ko": "a_b", "a.ko.xz": "a", "a.ko.gz": "a", "a.ko.zst": "a",
		"": "", "/": "", "aes-x86_64.ko": "aes_x86_64",
	} {
		assert.Equal(t, want, kmod.Name(in), in)
	}
}
