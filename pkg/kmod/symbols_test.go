// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/big"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
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

// trailer is what stands at the end of a signed module.
func trailer(der []byte, change func(header []byte)) []byte {
	header := make([]byte, 12)
	header[2] = 2
	binary.BigEndian.PutUint32(header[8:], uint32(len(der)))
	if change != nil {
		change(header)
	}
	return append(append(append([]byte{}, der...), header...), "~Module signature appended~\n"...)
}

// pkcs7 is SignedData as sign-file makes it, up to what is read of it.
func pkcs7(t *testing.T, signer any) []byte {
	t.Helper()
	type digest struct{ OID asn1.ObjectIdentifier }
	type signerInfo struct {
		Version   int
		ID        any
		Digest    digest
		Signature []byte
	}
	type signedData struct {
		Version int
		Digests []digest `asn1:"set"`
		Content digest
		Signers []signerInfo `asn1:"set"`
	}
	type contentInfo struct {
		OID     asn1.ObjectIdentifier
		Content signedData `asn1:"explicit,tag:0"`
	}
	sha512 := digest{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}}
	der, err := asn1.Marshal(contentInfo{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}, signedData{
		1, []digest{sha512}, digest{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}},
		[]signerInfo{{1, signer, sha512, []byte{1, 2, 3}}},
	}})
	require.NoError(t, err)
	return der
}

func TestReadSignature(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(0xa1b2c3), Subject: pkix.Name{Organization: []string{"Acme"}, CommonName: "module key"}}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(raw)
	require.NoError(t, err)

	byName := pkcs7(t, struct {
		Issuer asn1.RawValue
		Serial *big.Int
	}{asn1.RawValue{FullBytes: cert.RawIssuer}, cert.SerialNumber})
	byKey := pkcs7(t, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, Bytes: []byte{0xab, 0xcd}})
	tests := []struct {
		name string
		tail []byte
		want *kmod.Signature
	}{
		{"none", nil, nil},
		{"by name", trailer(byName, nil), &kmod.Signature{Hash: "sha512", Issuer: "Acme: module key", RawIssuer: cert.RawIssuer, Serial: "a1b2c3"}},
		{"by key", trailer(byKey, nil), &kmod.Signature{Hash: "sha512", KeyID: "abcd"}},
		{"something behind it", append(trailer(byName, nil), 0), nil},
		{"other type", trailer(byName, func(h []byte) { h[2] = 1 }), &kmod.Signature{Problem: "not PKCS#7 but type 1"}},
		{"algorithm given", trailer(byName, func(h []byte) { h[0] = 1 }), &kmod.Signature{Problem: "PKCS#7 signature info has unexpected non-zero params"}},
		{"too long", trailer(byName, func(h []byte) { h[8] = 1 }), &kmod.Signature{Problem: fmt.Sprintf("says to be %d bytes long", 1<<24+len(byName))}},
		{"no PKCS#7", trailer([]byte("hello"), nil), &kmod.Signature{Problem: "not PKCS#7"}},
		{"cut off", trailer(byName[:len(byName)-4], nil), &kmod.Signature{Problem: "not PKCS#7"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, parse(t, kmodtest.Spec{Signature: tt.tail}).Signature)
		})
	}
	dir := t.TempDir()
	kmodtest.WriteTree(t, dir, map[string]kmodtest.Spec{"a.ko": {Signature: trailer(byKey, nil)}, "b.ko.xz": {Signature: trailer(byKey, nil)}})
	for _, name := range []string{"a.ko", "b.ko.xz"} {
		f, err := kmod.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		assert.Equal(t, "abcd", f.Signature.KeyID)
	}
}

// TestKeyName follows x509_fabricate_name.
func TestKeyName(t *testing.T) {
	tests := []struct {
		name pkix.Name
		want string
	}{
		{pkix.Name{CommonName: "Build time autogenerated kernel key"}, "Build time autogenerated kernel key"},
		{pkix.Name{Organization: []string{"Acme"}, CommonName: "key"}, "Acme: key"},
		{pkix.Name{Organization: []string{"Debian"}, CommonName: "Debian Secure Boot CA"}, "Debian Secure Boot CA"},
		{pkix.Name{Organization: []string{"Canonical Ltd."}, CommonName: "Canonical Kernel"}, "Canonical Kernel"},
		{pkix.Name{Organization: []string{"Acme"}}, "Acme"},
		{pkix.Name{Country: []string{"DE"}}, ""},
	}
	for _, tt := range tests {
		der, err := asn1.Marshal(tt.name.ToRDNSequence())
		require.NoError(t, err)
		assert.Equal(t, tt.want, kmod.KeyName(der))
	}
	assert.Empty(t, kmod.KeyName([]byte("x")))
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

func FuzzParseFile(f *testing.F) {
	f.Add(kmodtest.Build(fullSpec()))
	f.Add(kmodtest.Build(kmodtest.Spec{Imports: []string{"a"}, Exports: []string{"b"}, GPL: []string{"b"}, Versions: "both", Signature: trailer([]byte{0x30, 0}, nil)}))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := kmod.ParseFile("x.ko", bytes.NewReader(data))
		if err == nil {
			assert.NotNil(t, file.Symbols)
		}
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
