// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"hash/crc32"
	"math/big"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/sign"
)

func parse(t *testing.T, s kmodtest.Spec) *kmod.File {
	t.Helper()
	f, err := kmod.ParseFile("x.ko", bytes.NewReader(kmodtest.Build(s)))
	require.NoError(t, err)
	return f
}

func TestReadSymbols(t *testing.T) {
	long := "a_symbol_whose_name_is_longer_than_the_55_bytes_of_the_old_format"
	for _, versions := range []string{"", "ext", "both"} {
		s := parse(t, kmodtest.Spec{
			Imports: []string{"printk", "kfree", "module_layout"}, Weak: []string{"kfree"},
			Exports: []string{"one", "two", "three"}, GPL: []string{"two"}, Namespaces: map[string]string{"two": "NS", "three": "OTHER"},
			CRCs: map[string]uint32{"printk": 0x92997ed8, "two": 7}, Versions: versions,
		}).Symbols
		assert.Equal(t, []kmod.Import{
			{Name: "printk", CRC: 0x92997ed8, Versioned: true},
			{Name: "kfree", Weak: true, CRC: crc32.ChecksumIEEE([]byte("kfree")), Versioned: true},
			{Name: "module_layout", CRC: crc32.ChecksumIEEE([]byte("module_layout")), Versioned: true},
		}, s.Imports, versions)
		assert.Equal(t, []kmod.Export{
			{Name: "one", CRC: crc32.ChecksumIEEE([]byte("one")), Versioned: true},
			{Name: "three", Namespace: "OTHER", CRC: crc32.ChecksumIEEE([]byte("three")), Versioned: true},
			{Name: "two", Namespace: "NS", GPL: true, CRC: 7, Versioned: true},
		}, s.Exports, versions)
		assert.Len(t, s.Versions, 3)
	}
	s := parse(t, kmodtest.Spec{Imports: []string{long}, Versions: "ext"}).Symbols
	assert.Equal(t, []kmod.Import{{Name: long, CRC: crc32.ChecksumIEEE([]byte(long)), Versioned: true}}, s.Imports)
	s = parse(t, kmodtest.Spec{Imports: []string{"printk", "_GLOBAL_OFFSET_TABLE_"}, Versions: "none"}).Symbols
	assert.Equal(t, []kmod.Import{{Name: "printk"}}, s.Imports)
	assert.Nil(t, s.Versions)
	assert.Nil(t, s.Exports)
}

func TestGPLCompatible(t *testing.T) {
	for _, l := range []string{"GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"} {
		assert.True(t, kmod.GPLCompatible(l), l)
	}
	for _, l := range []string{"", "MIT", "Proprietary", "GPLv2", "BSD", "gpl", "GPL v3"} {
		assert.False(t, kmod.GPLCompatible(l), l)
	}
}

// TestReadSignature is about where it is found; what it says is the matter of pkg/sign.
func TestReadSignature(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(0xa1b2c3), Subject: pkix.Name{Organization: []string{"Acme"}, CommonName: "module key"}}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(raw)
	require.NoError(t, err)
	s, err := sign.New(key, cert, 0)
	require.NoError(t, err)
	plain := kmodtest.Build(kmodtest.Spec{})
	signed, err := s.Sign(plain)
	require.NoError(t, err)

	spec := kmodtest.Spec{Signature: signed[len(plain):]}
	assert.Equal(t, "a1b2c3", parse(t, spec).Signature.Serial)
	assert.Nil(t, parse(t, kmodtest.Spec{}).Signature)
	dir := t.TempDir()
	kmodtest.WriteTree(t, dir, map[string]kmodtest.Spec{"a.ko": spec, "b.ko.xz": spec})
	for _, name := range []string{"a.ko", "b.ko.xz"} {
		f, err := kmod.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		assert.Equal(t, "Acme: module key", f.Signature.Issuer)
	}
}

func TestReadSymvers(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{
		"good": "0x4c9d28b0\tphys_base\tvmlinux\tEXPORT_SYMBOL\t\n0xe1efd2e5\tvfio_x\tdrivers/vfio/vfio-core\tEXPORT_SYMBOL_GPL\tVFIO\n0x00000000\told\tvmlinux\tEXPORT_SYMBOL\n",
		"bad":  "hello\n",
	})
	got, err := kmod.ReadSymvers(filepath.Join(dir, "good"))
	require.NoError(t, err)
	assert.Equal(t, map[string]kmod.Symver{
		"phys_base": {Export: kmod.Export{Name: "phys_base", CRC: 0x4c9d28b0, Versioned: true}},
		"vfio_x":    {Export: kmod.Export{Name: "vfio_x", GPL: true, Namespace: "VFIO", CRC: 0xe1efd2e5, Versioned: true}, Module: "vfio_core"},
		"old":       {Export: kmod.Export{Name: "old"}},
	}, got)
	_, err = kmod.ReadSymvers(filepath.Join(dir, "bad"))
	require.ErrorIs(t, err, kmod.ErrFormat)
}

// TestCRCs reads no more than it needs, and nothing that is not of this kernel.
func TestCRCs(t *testing.T) {
	dir := t.TempDir()
	of := func(release, symbol string, crc uint32) kmodtest.Spec {
		return kmodtest.Spec{InTree: true, Vermagic: release + " SMP ", Imports: []string{symbol}, CRCs: map[string]uint32{symbol: crc}}
	}
	kmodtest.WriteTree(t, dir, map[string]kmodtest.Spec{
		"kernel/a.ko": of("6.1", "one", 1), "kernel/b.ko.xz": of("6.1", "two", 2), "kernel/old.ko": of("6.0", "three", 3),
		"updates/foreign.ko": {Vermagic: "6.1 SMP ", Imports: []string{"four"}},
	})
	tree, err := kmod.OpenTree(dir)
	require.NoError(t, err)
	c := kmod.NewCRCs(tree, "6.1")
	assert.Equal(t, map[string]uint32{"one": 1}, c.Find([]string{"one", "two"}, []string{"a"}, 0))
	assert.Equal(t, map[string]uint32{"two": 2}, c.Find([]string{"two"}, []string{"b"}, 0))
	assert.Equal(t, map[string]uint32{"one": 1}, c.Find([]string{"one", "three", "four"}, nil, 100))
	assert.Empty(t, kmod.NewCRCs(tree, "6.1").Find([]string{"one"}, nil, 0))
}

// TestNamesOfExports: sections may lie one over the other, so a small file can have no end of them.
func TestNamesOfExports(t *testing.T) {
	require.NoError(t, kmod.NamesInSections(4, 8<<20))
	require.ErrorIs(t, kmod.NamesInSections(5, 8<<20), kmod.ErrTooLarge)
}

func FuzzParseFile(f *testing.F) {
	f.Add(kmodtest.Build(fullSpec()))
	f.Add(kmodtest.Build(kmodtest.Spec{Imports: []string{"a"}, Exports: []string{"b"}, GPL: []string{"b"}, Versions: "both", Signature: []byte("\x30\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x02~Module signature appended~\n")}))
	f.Add(compressedNames())
	f.Fuzz(func(t *testing.T, data []byte) {
		read, before := &counted{Reader: bytes.NewReader(data)}, allocated()
		file, err := kmod.ParseFile("x.ko", read)
		assert.LessOrEqual(t, allocated()-before, uint64(64*len(data)+8<<20))
		assert.LessOrEqual(t, read.bytes, 16*len(data)+1<<20)
		if err != nil {
			return
		}
		info, err := kmod.ParseInfo("x.ko", bytes.NewReader(data))
		require.NoError(t, err)
		assert.Equal(t, info, file.Info)
		compareImports(t, data, file.Symbols)
	})
}

func BenchmarkReadFile(b *testing.B) {
	for _, suffix := range []string{".ko", ".ko.xz"} {
		dir := b.TempDir()
		var imports []string
		for i := range 100 {
			imports = append(imports, fmt.Sprintf("symbol_%d", i))
		}
		kmodtest.WriteTree(b, dir, map[string]kmodtest.Spec{"a" + suffix: {Imports: imports}})
		b.Run(suffix, func(b *testing.B) {
			for b.Loop() {
				if _, err := kmod.ReadFile(filepath.Join(dir, "a"+suffix)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
